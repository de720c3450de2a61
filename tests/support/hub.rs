//! Settings for tests that run a shard without a process around it, and tokens for them.

use std::collections::HashMap;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use millpond::hub::events::EventKinds;
use millpond::hub::settings::{
    ChannelOptions, ChannelSettings, ClientSettings, DataFormat, HttpSettings, OriginPolicy, Settings,
    TokenSettings,
};

const KEY: &str = "a secret of the tests";

/// A token with these claims (JSON), HS256.
pub(crate) fn token(claims: &str) -> String {
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let message = format!("{}.{}", encode(r#"{"alg":"HS256","typ":"JWT"}"#), encode(claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, KEY.as_bytes()), message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))
}

/// Everybody may do everything; the namespaces differ in what they keep.
///
/// | namespace | history | presence | joins and leaves |
/// |---|---|---|---|
/// | (none) | - | yes | pushed to all |
/// | `hist` | 40, for an hour | yes | - |
/// | `short` | 5, for 3 s, position for 8 s | - | - |
/// | `quiet` | - | - | - |
/// | `cache` | newest only | - | - |
pub(crate) fn settings() -> Settings {
    let all = all_allowed();
    let options = vec![
        ChannelOptions { presence: true, join_leave: true, force_push_join_leave: true, ..all.clone() },
        ChannelOptions { name: "hist".into(), presence: true, ..kept(40, 3600, 7200) },
        ChannelOptions { name: "short".into(), ..kept(5, 3, 8) },
        ChannelOptions { name: "quiet".into(), ..all },
        ChannelOptions {
            name: "cache".into(),
            recovery_mode_cache: true,
            auto_cache_recover: true,
            ..kept(1, 3600, 7200)
        },
    ];
    let names = options.iter().enumerate().skip(1);
    let namespaces: HashMap<String, u16> = names.map(|(at, o)| (o.name.clone(), at as u16)).collect();
    Settings {
        client: client(),
        http: HttpSettings {
            websocket_path: "/connection/websocket".into(),
            message_size_limit: 65_536,
            head_size_limit: 8192,
            allowed_origins: OriginPolicy::Any,
            hand_over: true,
        },
        channel: ChannelSettings {
            max_length: 255,
            private_prefix: "$".into(),
            namespace_boundary: ":".into(),
            user_boundary: "#".into(),
            user_separator: ",".into(),
            history_meta_ttl: Duration::from_secs(7200),
            options,
            namespaces,
        },
        version: "test".into(),
        node_name: "test".into(),
        max_connections: 1_000_000,
        user_presence: None,
        mailbox: None,
        events: EventKinds::default(),
    }
}

fn kept(size: u32, ttl: u64, meta_ttl: u64) -> ChannelOptions {
    ChannelOptions {
        history_size: size,
        history_ttl: Duration::from_secs(ttl),
        history_meta_ttl: Duration::from_secs(meta_ttl),
        force_positioning: true,
        force_recovery: true,
        ..all_allowed()
    }
}

fn all_allowed() -> ChannelOptions {
    ChannelOptions {
        allow_positioning: true,
        allow_recovery: true,
        allow_subscribe_for_client: true,
        allow_subscribe_for_anonymous: true,
        allow_publish_for_client: true,
        allow_publish_for_anonymous: true,
        allow_presence_for_client: true,
        allow_presence_for_anonymous: true,
        allow_history_for_client: true,
        allow_history_for_anonymous: true,
        allow_user_limited_channels: true,
        publication_data_format: DataFormat::Any,
        ..ChannelOptions::default()
    }
}

fn client() -> ClientSettings {
    ClientSettings {
        ping_interval: Duration::from_secs(25),
        pong_timeout: Duration::from_secs(8),
        stale_close_delay: Duration::from_secs(10),
        handshake_timeout: Duration::from_secs(5),
        expired_close_delay: Duration::from_secs(25),
        expired_sub_close_delay: Duration::from_secs(25),
        channel_limit: 128,
        queue_max_size: 300_000,
        connection_limit: 0,
        connection_rate_limit: 0,
        user_connection_limit: 0,
        address_connection_limit: 0,
        command_rate_limit: 0,
        history_max_publication_limit: 300,
        recovery_max_publication_limit: 30,
        connect_include_server_time: false,
        allow_anonymous_connect_without_token: true,
        disallow_anonymous_connection_tokens: false,
        insecure: false,
        personal_channel: None,
        token: TokenSettings { hmac_secret_key: Some(KEY.into()), ..TokenSettings::default() },
        subscription_token: None,
    }
}
