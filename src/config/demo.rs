//! What `--demo` changes: a chat that works on a laptop without any configuration.

use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::sections::{Namespace, Options, Root};
use super::value::{Count, Secret, Span};

/// Namespace of the rooms of the demo page.
pub(super) const NAMESPACE: &str = "chat";

/// Lets anonymous users in, from pages of this server, and gives them chat rooms with presence and history. What the
/// operator has set for a namespace of this name stays.
pub(super) fn apply(root: &mut Root, listen: &[SocketAddr]) {
    root.client.allow_anonymous_connect_without_token = true;
    if root.client.token.hmac_secret_key.0.is_empty() {
        root.client.token.hmac_secret_key = passing_secret();
    }
    for address in listen {
        let port = address.port();
        let hosts = [address.to_string(), format!("localhost:{port}"), format!("127.0.0.1:{port}")];
        for origin in hosts.map(|host| format!("http://{host}")) {
            if !root.client.allowed_origins.0.contains(&origin) {
                root.client.allowed_origins.0.push(origin);
            }
        }
    }
    if root.channel.namespaces.iter().all(|namespace| namespace.name != NAMESPACE) {
        root.channel.namespaces.push(Namespace { name: NAMESPACE.into(), options: rooms() });
    }
}

/// A secret for this run only, so that the demo can make tokens with the names of its users. Without random numbers
/// there is none: then tokens are refused.
fn passing_secret() -> Secret {
    let mut bytes = [0; 32];
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => Secret(URL_SAFE_NO_PAD.encode(bytes)),
        Err(_) => Secret::default(),
    }
}

fn rooms() -> Options {
    Options {
        presence: true,
        join_leave: true,
        force_push_join_leave: true,
        history_size: Count(100),
        history_ttl: Span::seconds(24 * 3600),
        force_recovery: true,
        allow_subscribe_for_client: true,
        allow_subscribe_for_anonymous: true,
        allow_publish_for_subscriber: true,
        allow_publish_for_anonymous: true,
        allow_presence_for_subscriber: true,
        allow_presence_for_anonymous: true,
        allow_history_for_subscriber: true,
        allow_history_for_anonymous: true,
        ..Options::default()
    }
}
