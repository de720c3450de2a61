//! Channels and their namespaces.

use std::collections::HashMap;
use std::time::Duration;

use super::Checks;
use crate::config::Notice;
use crate::config::choices::{RecoveryMode, SubscriptionType};
use crate::config::problem::Rule;
use crate::config::reader::join;
use crate::config::sections::{Namespace, Options, Root};
use crate::hub::settings::{ChannelOptions, ChannelSettings};

impl Checks<'_> {
    pub(super) fn channels(&mut self, root: &Root) -> ChannelSettings {
        let channel = &root.channel;
        let default_meta_ttl = channel.history_meta_ttl.0;
        self.durable_histories(root);
        let mut options =
            vec![self.options("channel.without_namespace", "", &channel.without_namespace, default_meta_ttl)];
        let mut namespaces = HashMap::new();
        for (index, namespace) in channel.namespaces.iter().enumerate() {
            let path = format!("channel.namespaces[{index}]");
            self.namespace_name(&path, namespace);
            let Ok(place) = u16::try_from(options.len()) else {
                self.contradiction("channel.namespaces", Rule::TooManyNamespaces);
                break;
            };
            if namespaces.insert(namespace.name.clone(), place).is_some() {
                self.contradiction(&join(&path, "name"), Rule::NamespaceTwice);
            }
            options.push(self.options(&path, &namespace.name, &namespace.options, default_meta_ttl));
        }
        ChannelSettings {
            max_length: usize::try_from(channel.max_length.0).unwrap_or(usize::MAX),
            private_prefix: channel.private_prefix.0.clone(),
            namespace_boundary: channel.namespace_boundary.0.clone(),
            user_boundary: channel.user_boundary.0.clone(),
            user_separator: channel.user_separator.0.clone(),
            history_meta_ttl: default_meta_ttl,
            options,
            namespaces,
        }
    }

    fn durable_histories(&mut self, root: &Root) {
        let namespaces = root.channel.namespaces.iter().enumerate();
        let named = namespaces.map(|(index, of)| (format!("channel.namespaces[{index}]"), &of.options));
        let all = std::iter::once(("channel.without_namespace".to_owned(), &root.channel.without_namespace));
        for (path, options) in all.chain(named).filter(|(_, options)| options.history_durable) {
            let path = join(&path, "history_durable");
            if options.history_size.0 == 0 || options.history_ttl.0.is_zero() {
                self.contradiction(&path, Rule::DurableNeedsHistory);
            }
            if root.storage.path.0.is_empty() {
                self.contradiction(&path, Rule::DurableNeedsStorage);
            }
        }
    }

    fn namespace_name(&mut self, path: &str, namespace: &Namespace) {
        let name = &namespace.name;
        let takes = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        // A missing name has been reported where the file was read.
        if !name.is_empty() && (name.len() < 2 || !name.bytes().all(takes)) {
            self.contradiction(&join(path, "name"), Rule::NamespaceName);
        }
    }

    fn options(&mut self, path: &str, name: &str, options: &Options, meta_ttl: Duration) -> ChannelOptions {
        let converted = channel_options(name, options, meta_ttl);
        let needing = [
            ("force_recovery", options.force_recovery),
            ("allow_recovery", options.allow_recovery),
            ("force_positioning", options.force_positioning),
            ("allow_positioning", options.allow_positioning),
            ("auto_cache_recover", options.auto_cache_recover),
        ];
        for (key, _) in needing.into_iter().filter(|(_, on)| *on && !converted.has_history()) {
            self.contradiction(&join(path, key), Rule::NeedsHistory);
        }
        if options.force_push_join_leave && !options.join_leave {
            self.contradiction(&join(path, "force_push_join_leave"), Rule::NeedsJoinLeave);
        }
        if (options.history_size.0 > 0) == options.history_ttl.0.is_zero() {
            self.notices.push(Notice::HalfHistory(path.to_owned()));
        }
        self.anonymous_notices(path, options);
        converted
    }

    /// An option for anonymous users extends one for clients or subscribers and is nothing without it.
    fn anonymous_notices(&mut self, path: &str, options: &Options) {
        let pairs = [
            (
                "allow_subscribe_for_anonymous",
                options.allow_subscribe_for_anonymous,
                options.allow_subscribe_for_client,
                "allow_subscribe_for_client",
            ),
            (
                "allow_publish_for_anonymous",
                options.allow_publish_for_anonymous,
                options.allow_publish_for_client || options.allow_publish_for_subscriber,
                "allow_publish_for_client or allow_publish_for_subscriber",
            ),
            (
                "allow_presence_for_anonymous",
                options.allow_presence_for_anonymous,
                options.allow_presence_for_client || options.allow_presence_for_subscriber,
                "allow_presence_for_client or allow_presence_for_subscriber",
            ),
            (
                "allow_history_for_anonymous",
                options.allow_history_for_anonymous,
                options.allow_history_for_client || options.allow_history_for_subscriber,
                "allow_history_for_client or allow_history_for_subscriber",
            ),
        ];
        let idle = pairs.into_iter().filter(|(_, anonymous, named, _)| *anonymous && !named);
        self.notices.extend(idle.map(|(key, _, _, needs)| Notice::NoEffect(join(path, key), needs)));
    }
}

fn channel_options(name: &str, options: &Options, meta_ttl: Duration) -> ChannelOptions {
    let own_meta_ttl = options.history_meta_ttl.0;
    ChannelOptions {
        name: name.to_owned(),
        presence: options.presence,
        join_leave: options.join_leave,
        presence_grace: options.presence_grace.0,
        join_leave_max_rate: options.join_leave_max_rate.0,
        force_push_join_leave: options.force_push_join_leave,
        history_size: options.history_size.0,
        history_ttl: options.history_ttl.0,
        history_durable: options.history_durable,
        history_meta_ttl: if own_meta_ttl.is_zero() { meta_ttl } else { own_meta_ttl },
        force_positioning: options.force_positioning,
        allow_positioning: options.allow_positioning,
        force_recovery: options.force_recovery,
        allow_recovery: options.allow_recovery,
        recovery_mode_cache: options.force_recovery_mode.0 == RecoveryMode::Cache,
        auto_cache_recover: options.auto_cache_recover,
        allow_subscribe_for_client: options.allow_subscribe_for_client,
        allow_subscribe_for_anonymous: options.allow_subscribe_for_anonymous,
        allow_publish_for_client: options.allow_publish_for_client,
        allow_publish_for_subscriber: options.allow_publish_for_subscriber,
        allow_publish_for_anonymous: options.allow_publish_for_anonymous,
        allow_presence_for_client: options.allow_presence_for_client,
        allow_presence_for_subscriber: options.allow_presence_for_subscriber,
        allow_presence_for_anonymous: options.allow_presence_for_anonymous,
        allow_history_for_client: options.allow_history_for_client,
        allow_history_for_subscriber: options.allow_history_for_subscriber,
        allow_history_for_anonymous: options.allow_history_for_anonymous,
        allow_user_limited_channels: options.allow_user_limited_channels,
        channel_regex: options.channel_regex.0.clone(),
        publication_data_format: options.publication_data_format.0,
        slow_consumer: options.slow_consumer.0,
        write_delay: options.write_delay.0,
        foreign_subscription_type: options.subscription_type.0 == SubscriptionType::Foreign,
    }
}

/// Path and options of a namespace, of the channels without one for an empty name; `None` where it does not exist.
pub(super) fn options_of<'a>(
    root: &Root,
    channel: &'a ChannelSettings,
    name: &str,
) -> Option<(String, &'a ChannelOptions)> {
    if name.is_empty() {
        return Some(("channel.without_namespace".to_owned(), channel.options.first()?));
    }
    let place = root.channel.namespaces.iter().position(|namespace| namespace.name == name)?;
    let index = usize::from(*channel.namespaces.get(name)?);
    Some((format!("channel.namespaces[{place}]"), channel.options.get(index)?))
}
