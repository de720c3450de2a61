//! What concerns client connections and their tokens.

use std::time::Duration;

use super::channel::options_of;
use super::{Checks, bytes};
use crate::config::problem::{Problem, Rule};
use crate::config::reader::join;
use crate::config::sections::{Client, Root, SubscriptionToken, Token};
use crate::config::value::{Secret, Text};
use crate::config::{Heartbeat, Notice};
use crate::hub::auth::Verifier;
use crate::hub::settings::{ChannelSettings, ClientSettings, OriginPolicy, PersonalChannel, TokenSettings};

impl Checks<'_> {
    pub(super) fn origins(&mut self, patterns: &[String]) -> OriginPolicy {
        if patterns.iter().any(|pattern| pattern == "*") {
            return OriginPolicy::Any;
        }
        for pattern in patterns.iter().filter(|pattern| !is_origin(pattern)) {
            let expected =
                "a list of origins, scheme://host[:port] without a path, such as \"https://example.com\"";
            self.reader.wrong_value(
                "client.allowed_origins",
                expected.into(),
                Some(&pattern.as_str().into()),
            );
        }
        OriginPolicy::Patterns(patterns.to_vec())
    }

    pub(super) fn client(&mut self, client: &Client) -> ClientSettings {
        let (ping, pong) = (client.ping_interval.0, client.pong_timeout.0);
        let shortest = Duration::from_secs(1);
        let tcp = client.heartbeat.0 == Heartbeat::Tcp;
        if tcp && ping < shortest {
            let expected = "1s or more where client.heartbeat is \"tcp\"".into();
            self.reader.wrong_value("client.ping_interval", expected, None);
        } else if tcp && pong < shortest {
            let expected = "1s or more where client.heartbeat is \"tcp\"".into();
            self.reader.wrong_value("client.pong_timeout", expected, None);
        } else if !ping.is_zero() && ping < shortest {
            let expected =
                "1s or more, or 0s for no pings: clients are told the interval in whole seconds".into();
            self.reader.wrong_value("client.ping_interval", expected, None);
        } else if !ping.is_zero() && pong >= ping {
            self.contradiction("client.pong_timeout", Rule::PongBeforePing);
        }
        let mut token = self.token("client.token", &client.token);
        token.insecure_skip_signature_verify = client.insecure_skip_token_signature_verify;
        let mut subscription_token = self.subscription_token(&client.subscription_token);
        if let Some(separate) = &mut subscription_token {
            separate.insecure_skip_signature_verify = client.insecure_skip_token_signature_verify;
        }
        self.client_notices(client);
        // The kernel's probes take the place of pings (`ServerConfig::keepalive`).
        let ping = if tcp { Duration::ZERO } else { ping };
        ClientSettings {
            ping_interval: ping,
            pong_timeout: if ping.is_zero() { Duration::ZERO } else { pong },
            stale_close_delay: client.stale_close_delay.0,
            handshake_timeout: client.handshake_timeout.0,
            expired_close_delay: client.expired_close_delay.0,
            expired_sub_close_delay: client.expired_sub_close_delay.0,
            channel_limit: client.channel_limit.0,
            queue_max_size: bytes(client.queue_max_size.0),
            connection_limit: client.connection_limit.0,
            connection_rate_limit: client.connection_rate_limit.0,
            user_connection_limit: client.user_connection_limit.0,
            address_connection_limit: client.address_connection_limit.0,
            command_rate_limit: client.command_rate_limit.0,
            history_max_publication_limit: client.history_max_publication_limit.0,
            recovery_max_publication_limit: client.recovery_max_publication_limit.0,
            connect_include_server_time: client.connect_include_server_time,
            allow_anonymous_connect_without_token: client.allow_anonymous_connect_without_token,
            disallow_anonymous_connection_tokens: client.disallow_anonymous_connection_tokens,
            insecure: client.insecure,
            personal_channel: client.subscribe_to_user_personal_channel.enabled.then(|| PersonalChannel {
                namespace: client.subscribe_to_user_personal_channel.personal_channel_namespace.0.clone(),
                single_connection: client.subscribe_to_user_personal_channel.single_connection,
            }),
            token,
            subscription_token,
        }
    }

    fn client_notices(&mut self, client: &Client) {
        if client.insecure {
            self.notices.push(Notice::Insecure);
        }
        if client.insecure_skip_token_signature_verify {
            self.notices.push(Notice::UnsignedTokens);
        }
        let secrets = [
            ("client.token.hmac_secret_key", &client.token.hmac_secret_key.0),
            ("client.subscription_token.hmac_secret_key", &client.subscription_token.hmac_secret_key.0),
        ];
        let short = secrets.into_iter().filter(|(_, secret)| (1..32).contains(&secret.len()));
        self.notices.extend(short.map(|(key, _)| Notice::ShortSecret(key)));
        let personal = &client.subscribe_to_user_personal_channel;
        if personal.single_connection && !personal.enabled {
            let key = "client.subscribe_to_user_personal_channel.single_connection".to_owned();
            self.notices.push(Notice::NoEffect(key, "client.subscribe_to_user_personal_channel.enabled"));
        }
    }

    pub(super) fn personal_channel(&mut self, root: &Root, channel: &ChannelSettings) {
        let personal = &root.client.subscribe_to_user_personal_channel;
        if !personal.enabled {
            return;
        }
        let Some((path, options)) = options_of(root, channel, &personal.personal_channel_namespace.0) else {
            let path = "client.subscribe_to_user_personal_channel.personal_channel_namespace";
            return self.contradiction(path, Rule::PersonalNamespace);
        };
        let is_open = options.allow_subscribe_for_client && !options.allow_user_limited_channels;
        // Mailboxes are closed to others in any case.
        if is_open && !root.mailbox.enabled {
            self.notices.push(Notice::OpenPersonal(join(&path, "allow_subscribe_for_client")));
        }
    }

    fn token(&mut self, path: &str, token: &Token) -> TokenSettings {
        let at = |name: &str| join(path, name);
        if token.hmac_secret_key.0.is_empty() && !token.hmac_previous_secret_key.0.is_empty() {
            self.contradiction(&at("hmac_previous_secret_key"), Rule::PreviousWithoutCurrent);
        }
        if token.hmac_previous_secret_key.0.is_empty() && token.hmac_previous_secret_key_valid_until.0 != 0 {
            self.contradiction(&at("hmac_previous_secret_key_valid_until"), Rule::UntilWithoutPrevious);
        }
        if !token.audience.0.is_empty() && token.audience_regex.0.is_some() {
            self.contradiction(&at("audience_regex"), Rule::ExactAndPattern);
        }
        if !token.issuer.0.is_empty() && token.issuer_regex.0.is_some() {
            self.contradiction(&at("issuer_regex"), Rule::ExactAndPattern);
        }
        let settings = token_settings(token);
        for (name, single) in single_keys(&settings) {
            if let Err(fault) = Verifier::new(&single) {
                let place = self.reader.place(&at(name));
                self.reader.problems.push(Problem::Key { place, fault });
            }
        }
        settings
    }

    fn subscription_token(&mut self, separate: &SubscriptionToken) -> Option<TokenSettings> {
        const PATH: &str = "client.subscription_token";
        let token = as_token(separate);
        let settings = token_settings(&token);
        let has_key = settings.hmac_secret_key.is_some()
            || settings.rsa_public_key.is_some()
            || settings.ecdsa_public_key.is_some();
        match (separate.enabled, has_key) {
            (false, false) => None,
            (false, true) => {
                self.contradiction(&join(PATH, "enabled"), Rule::SubscriptionTokenOff);
                None
            }
            (true, false) => {
                self.contradiction(PATH, Rule::SubscriptionTokenWithoutKey);
                None
            }
            (true, true) => Some(self.token(PATH, &token)),
        }
    }
}

/// `scheme://host[:port]`, where host may hold wildcards; or `null`, which pages without an origin send.
fn is_origin(pattern: &str) -> bool {
    let Some((scheme, rest)) = pattern.split_once("://") else { return pattern == "null" };
    !scheme.is_empty() && !rest.is_empty() && !rest.contains(['/', '?', '#', '@', ' '])
}

fn token_settings(token: &Token) -> TokenSettings {
    let text = |text: &Text| Some(text.0.clone()).filter(|text| !text.is_empty());
    let secret = |secret: &Secret| Some(secret.0.clone()).filter(|secret| !secret.is_empty());
    TokenSettings {
        hmac_secret_key: secret(&token.hmac_secret_key),
        hmac_previous_secret_key: secret(&token.hmac_previous_secret_key),
        hmac_previous_secret_key_valid_until: token.hmac_previous_secret_key_valid_until.0,
        rsa_public_key: text(&token.rsa_public_key),
        ecdsa_public_key: text(&token.ecdsa_public_key),
        audience: text(&token.audience),
        audience_regex: token.audience_regex.0.clone(),
        issuer: text(&token.issuer),
        issuer_regex: token.issuer_regex.0.clone(),
        user_id_claim: text(&token.user_id_claim),
        insecure_skip_signature_verify: false,
        leeway: token.leeway.0,
    }
}

/// The settings with one public key each, so that a fault can be told by its key.
fn single_keys(settings: &TokenSettings) -> [(&'static str, TokenSettings); 2] {
    let rsa_public_key = settings.rsa_public_key.clone();
    let ecdsa_public_key = settings.ecdsa_public_key.clone();
    [
        ("rsa_public_key", TokenSettings { rsa_public_key, ..TokenSettings::default() }),
        ("ecdsa_public_key", TokenSettings { ecdsa_public_key, ..TokenSettings::default() }),
    ]
}

/// The section of the separate verifier without its switch.
fn as_token(separate: &SubscriptionToken) -> Token {
    Token {
        hmac_secret_key: separate.hmac_secret_key.clone(),
        hmac_previous_secret_key: separate.hmac_previous_secret_key.clone(),
        hmac_previous_secret_key_valid_until: separate.hmac_previous_secret_key_valid_until,
        rsa_public_key: separate.rsa_public_key.clone(),
        ecdsa_public_key: separate.ecdsa_public_key.clone(),
        audience: separate.audience.clone(),
        audience_regex: separate.audience_regex.clone(),
        issuer: separate.issuer.clone(),
        issuer_regex: separate.issuer_regex.clone(),
        user_id_claim: separate.user_id_claim.clone(),
        leeway: separate.leeway,
    }
}
