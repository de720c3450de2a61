//! Presence of users: what its namespace and the heartbeat must be.

use super::Checks;
use crate::config::problem::Rule;
use crate::config::sections::UserPresence;
use crate::hub::settings::{ChannelSettings, ClientSettings, UserPresenceSettings};

impl Checks<'_> {
    /// `None` where it is off.
    pub(super) fn user_presence(
        &mut self,
        section: &UserPresence,
        client: &ClientSettings,
        channel: &ChannelSettings,
    ) -> Option<UserPresenceSettings> {
        if !section.enabled {
            return None;
        }
        let index = channel.namespaces.get(&section.namespace.0);
        match index.and_then(|index| channel.options.get(usize::from(*index))) {
            None => self.contradiction("user_presence.namespace", Rule::UserPresenceNamespace),
            Some(options)
                if options.has_history()
                    || options.allow_publish_for_client
                    || options.allow_publish_for_subscriber =>
            {
                self.contradiction("user_presence.namespace", Rule::UserPresenceOptions);
            }
            Some(_) => {}
        }
        let (ping, pong) = (client.ping_interval, client.pong_timeout);
        if ping.is_zero() || pong.is_zero() || ping + pong >= section.offline_after.0 {
            self.contradiction("user_presence.offline_after", Rule::UserPresenceHeartbeat);
        }
        Some(UserPresenceSettings {
            namespace: section.namespace.0.clone(),
            away_after: section.away_after.0,
            offline_after: section.offline_after.0,
            last_seen_users: section.last_seen_users.0,
        })
    }
}
