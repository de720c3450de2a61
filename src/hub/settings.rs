//! Every setting of the data plane, already valid, with its unit in the type or the name. `config` builds it.

use std::collections::HashMap;
use std::time::Duration;

use crate::hub::events::EventKinds;

/// Settings that all shards share; immutable after start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Client-facing behaviour and limits.
    pub client: ClientSettings,
    /// HTTP and WebSocket handling.
    pub http: HttpSettings,
    /// Namespaces and channel naming.
    pub channel: ChannelSettings,
    /// Who is online, away or offline; `None`: not kept, which costs nothing.
    pub user_presence: Option<UserPresenceSettings>,
    /// Messages for users who are away; `None`: not offered. Needs `client.personal_channel` and the log.
    pub mailbox: Option<MailboxSettings>,
    /// Events that some webhook wants; none: they cost nothing.
    pub events: EventKinds,
    /// Reported as `version` in the connect reply and by the server API.
    pub version: String,
    /// Node name, for the `info` API.
    pub node_name: String,
    /// Connections this process may hold (sum over shards).
    pub max_connections: u32,
}

/// Section `client`.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// Application-level ping interval; zero: never (for `heartbeat = "tcp"`).
    pub ping_interval: Duration,
    /// How long a pong may take; zero: no pong expected. Less than `ping_interval`.
    pub pong_timeout: Duration,
    /// From accept to the completed connect command (`stale_close_delay`): disconnect 3502.
    pub stale_close_delay: Duration,
    /// From accept to the end of the upgrade request.
    pub handshake_timeout: Duration,
    /// Grace after token expiry before disconnect 3005.
    pub expired_close_delay: Duration,
    /// Grace after subscription expiry before unsubscribe 2501 (or disconnect 3006 for server-side ones).
    pub expired_sub_close_delay: Duration,
    /// Subscriptions one connection may hold.
    pub channel_limit: u32,
    /// Bytes that may wait for a slow reader before disconnect 3008.
    pub queue_max_size: usize,
    /// Connections on this node, 0 = no limit beyond capacity. Beyond: HTTP 503 before the upgrade.
    pub connection_limit: u32,
    /// New connections a second on this node, 0 = no limit. Beyond: HTTP 503.
    pub connection_rate_limit: u32,
    /// Connections of one user on this node, 0 = no limit. Beyond: disconnect 3504.
    pub user_connection_limit: u32,
    /// Connections from one source address, 0 = no limit. Beyond: HTTP 503.
    pub address_connection_limit: u32,
    /// Commands one connection may send a second (token bucket with one second of burst), 0 = no limit.
    pub command_rate_limit: u32,
    /// Publications a history reply holds at most.
    pub history_max_publication_limit: u32,
    /// Publications a recovery replays at most.
    pub recovery_max_publication_limit: u32,
    /// `time` in the connect reply.
    pub connect_include_server_time: bool,
    /// Anonymous connections without a token.
    pub allow_anonymous_connect_without_token: bool,
    /// Tokens without `sub` are refused with 3507.
    pub disallow_anonymous_connection_tokens: bool,
    /// Everything is permitted; tokens are still verified if given, their expiry is ignored.
    pub insecure: bool,
    /// Every user is subscribed to a channel of its own on connect.
    pub personal_channel: Option<PersonalChannel>,
    /// Tokens of connections (and of subscriptions where `subscription_token` is `None`).
    pub token: TokenSettings,
    /// Separate verifier for subscription tokens.
    pub subscription_token: Option<TokenSettings>,
}

impl ClientSettings {
    /// Bytes of publications that one reply to a client may hold.
    #[must_use]
    pub fn reply_bytes(&self) -> usize {
        self.queue_max_size / 2
    }
}

/// Section `user_presence`.
#[derive(Clone, Debug)]
pub struct UserPresenceSettings {
    /// Namespace of the channels that tell of a user, `namespace:user`. It is configured as any other.
    pub namespace: String,
    /// A session without a command of its user for so long is away; zero: never.
    pub away_after: Duration,
    /// A session lost without goodbye counts until so long after its last sign of life. More than
    /// `ping_interval` + `pong_timeout`.
    pub offline_after: Duration,
    /// Users who are gone of whom this node remembers when they were last seen.
    pub last_seen_users: u32,
}

/// Section `mailbox`. What the log bounds (messages, bytes, devices) is in its own settings.
#[derive(Clone, Debug)]
pub struct MailboxSettings {
    /// A message not acknowledged so long after it went out is sent again to a live session. More than `ping_interval` +
    /// `pong_timeout` where pongs acknowledge.
    pub ack_wait: Duration,
    /// Times a message is sent to live sessions before it goes to the dead-letter channel; 0: without end.
    pub max_deliveries: u32,
    /// A pong acknowledges what went out before its ping. If false only `mailbox.ack` does.
    pub ack_by_pong: bool,
    /// Channel that gets messages after `max_deliveries`; empty: they are only dropped and counted.
    pub dead_letter_channel: String,
    /// Bytes of a publication there. Of messages that take more, the data is left out.
    pub letter_bytes: usize,
    /// Time to live of a message sent without one; zero: no end.
    pub ttl: Duration,
    /// Messages replayed in one reply, and in each page after it; at least 1.
    pub replay_page: u32,
}

/// A queue of events, as the store keeps it.
#[derive(Clone, Debug, Default)]
pub struct EventQueueSettings {
    /// Its name: that of the webhook.
    pub name: String,
    /// Kinds of events.
    pub kinds: EventKinds,
    /// Patterns of channels, empty: all.
    pub channels: Vec<String>,
    /// Patterns of user ids, empty: all.
    pub users: Vec<String>,
    /// Events that are delivered together at most, and so those of one record.
    pub batch_max_events: usize,
    /// How long an event may wait.
    pub ttl: Duration,
    /// Events that may wait; see [`EventKind::is_of_connection`](crate::hub::events::EventKind::is_of_connection).
    pub max_pending: u64,
}

/// `subscribe_to_user_personal_channel`.
#[derive(Clone, Debug)]
pub struct PersonalChannel {
    /// Namespace of the personal channel, empty for none: `#user`, else `ns:#user`.
    pub namespace: String,
    /// A new connection of the user disconnects the older ones with 3504.
    pub single_connection: bool,
}

/// How tokens are verified. No key at all: every token is refused.
#[derive(Clone, Default)]
pub struct TokenSettings {
    /// Shared secret for HS256, HS384, HS512.
    pub hmac_secret_key: Option<String>,
    /// Former secret, accepted during a rotation.
    pub hmac_previous_secret_key: Option<String>,
    /// Unix seconds until which the former secret is accepted; 0 = without end.
    pub hmac_previous_secret_key_valid_until: u64,
    /// PEM for RS256, RS384, RS512.
    pub rsa_public_key: Option<String>,
    /// PEM for ES256, ES384, ES512.
    pub ecdsa_public_key: Option<String>,
    /// Exact `aud` required.
    pub audience: Option<String>,
    /// Pattern that some `aud` must match.
    pub audience_regex: Option<regex::Regex>,
    /// Exact `iss` required.
    pub issuer: Option<String>,
    /// Pattern that `iss` must match.
    pub issuer_regex: Option<regex::Regex>,
    /// Claim that holds the user id instead of `sub`.
    pub user_id_claim: Option<String>,
    /// Signature is not looked at (insecure, for development only).
    pub insecure_skip_signature_verify: bool,
    /// Tolerated clock skew for `exp` and `nbf`.
    pub leeway: Duration,
}

/// Tells which keys are set, never what they are.
impl std::fmt::Debug for TokenSettings {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("TokenSettings")
            .field("hmac_secret_key", &self.hmac_secret_key.is_some())
            .field("hmac_previous_secret_key", &self.hmac_previous_secret_key.is_some())
            .field("rsa_public_key", &self.rsa_public_key.is_some())
            .field("ecdsa_public_key", &self.ecdsa_public_key.is_some())
            .field("audience", &self.audience)
            .field("issuer", &self.issuer)
            .field("user_id_claim", &self.user_id_claim)
            .field("insecure_skip_signature_verify", &self.insecure_skip_signature_verify)
            .field("leeway", &self.leeway)
            .finish_non_exhaustive()
    }
}

/// Section `http` and `websocket`.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// Path of the WebSocket endpoint, default `/connection/websocket`.
    pub websocket_path: String,
    /// Incoming message limit in bytes.
    pub message_size_limit: usize,
    /// Request head limit in bytes.
    pub head_size_limit: usize,
    /// Origin patterns; requests without Origin always pass.
    pub allowed_origins: OriginPolicy,
    /// Requests for other paths go to the control plane.
    pub hand_over: bool,
}

/// Which browser origins may connect.
#[derive(Clone, Debug)]
pub enum OriginPolicy {
    /// `*`
    Any,
    /// Glob patterns matched case-insensitively against the whole normalised origin; empty refuses every Origin.
    Patterns(Vec<String>),
}

/// Section `channel`.
#[derive(Clone, Debug)]
pub struct ChannelSettings {
    /// Longest channel name in bytes.
    pub max_length: usize,
    /// Prefix of channels that need a subscription token, default `$`.
    pub private_prefix: String,
    /// Separates namespace and rest, default `:`.
    pub namespace_boundary: String,
    /// Starts the list of allowed users, default `#`.
    pub user_boundary: String,
    /// Separates users in that list, default `,`.
    pub user_separator: String,
    /// Default for `history_meta_ttl`.
    pub history_meta_ttl: Duration,
    /// Options; index 0 is "without namespace".
    pub options: Vec<ChannelOptions>,
    /// Namespace name → index into `options`.
    pub namespaces: HashMap<String, u16>,
}

/// Options of one namespace (server-api.md section 2.2).
#[derive(Clone, Debug, Default)]
pub struct ChannelOptions {
    /// Namespace name, empty for "without namespace".
    pub name: String,
    /// Presence is kept and served.
    pub presence: bool,
    /// Join and leave messages exist.
    pub join_leave: bool,
    /// How long a member that was lost without goodbye stays in presence; zero: not at all, as the protocol expects.
    pub presence_grace: Duration,
    /// Joins and leaves pushed in a second and channel; beyond, counts are pushed instead. 0 = no limit.
    pub join_leave_max_rate: u32,
    /// Every subscriber gets join and leave pushes.
    pub force_push_join_leave: bool,
    /// Publications kept; 0 = no history.
    pub history_size: u32,
    /// How long they are kept; zero = no history.
    pub history_ttl: Duration,
    /// How long offset and epoch outlive the data.
    pub history_meta_ttl: Duration,
    /// History lives in the log and outlives a restart; a publication is delivered and answered once it is stored.
    pub history_durable: bool,
    /// Every subscription is positioned.
    pub force_positioning: bool,
    /// Clients may ask for positioning.
    pub allow_positioning: bool,
    /// Every subscription is recoverable.
    pub force_recovery: bool,
    /// Clients may ask for recovery.
    pub allow_recovery: bool,
    /// Recovery delivers the newest publication only.
    pub recovery_mode_cache: bool,
    /// Cache recovery without being asked.
    pub auto_cache_recover: bool,
    /// Any authenticated client may subscribe.
    pub allow_subscribe_for_client: bool,
    /// ... and anonymous ones too.
    pub allow_subscribe_for_anonymous: bool,
    /// Any authenticated client may publish.
    pub allow_publish_for_client: bool,
    /// Subscribers may publish.
    pub allow_publish_for_subscriber: bool,
    /// ... and anonymous ones too.
    pub allow_publish_for_anonymous: bool,
    /// Any authenticated client may read presence.
    pub allow_presence_for_client: bool,
    /// Subscribers may read presence.
    pub allow_presence_for_subscriber: bool,
    /// ... and anonymous ones too.
    pub allow_presence_for_anonymous: bool,
    /// Any authenticated client may read history.
    pub allow_history_for_client: bool,
    /// Subscribers may read history.
    pub allow_history_for_subscriber: bool,
    /// ... and anonymous ones too.
    pub allow_history_for_anonymous: bool,
    /// `#` in a channel lists the users who may subscribe.
    pub allow_user_limited_channels: bool,
    /// The part after the namespace must match.
    pub channel_regex: Option<regex::Regex>,
    /// What publication data must be.
    pub publication_data_format: DataFormat,
    /// What becomes of publications for a reader who is behind.
    pub slow_consumer: SlowConsumer,
    /// How long publications may wait for others, so that they leave in one write; at most 100 ms.
    pub write_delay: Duration,
    /// The namespace is for subscription types this server does not offer: stream subscriptions get error 103.
    pub foreign_subscription_type: bool,
}

impl ChannelOptions {
    /// True if publications are numbered and kept (both size and TTL set).
    #[must_use]
    pub fn has_history(&self) -> bool {
        self.history_size > 0 && !self.history_ttl.is_zero()
    }
}

/// `slow_consumer`: what becomes of publications for a reader who is behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SlowConsumer {
    /// They wait; with more than `queue_max_size` waiting the reader is disconnected with 3008.
    #[default]
    Disconnect,
    /// They wait; with more than `queue_max_size` waiting the oldest are left out.
    DropOldest,
    /// Only the newest publication of each channel waits.
    KeepLatest,
}

/// `publication_data_format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DataFormat {
    /// Anything non-empty.
    #[default]
    Any,
    /// Valid JSON.
    Json,
    /// A JSON object.
    JsonObject,
    /// Anything, also empty.
    Binary,
}
