//! Every key that is served, with its type, its default and what it means. `docs/CONFIGURATION.md` and
//! `millpond default-config` are made of this file.

use serde_json::{Map, Value};

use super::choices::{RecoveryMode, SubscriptionType};
use super::reader::{Entry, Key, Reader, Section, join, nested, section};
use super::stored::{Mailbox, Storage};
use super::value::{Count, List, OneOf, Pattern, Secret, Size, Span, Text, UnixTime};
use super::webhook::Webhook;
use super::{ErrorMode, Heartbeat, LogFormat, LogLevel};
use crate::hub::settings::{DataFormat, SlowConsumer};

pub(super) const SECOND: u64 = 1000;
pub(super) const HOUR: u64 = 3600 * SECOND;
pub(super) const DAY: u64 = 24 * HOUR;
pub(super) const YEAR: u64 = 365 * DAY;
pub(super) const KIB: u64 = 1024;
pub(super) const MIB: u64 = 1024 * KIB;
pub(super) const GIB: u64 = 1024 * MIB;

/// A number where 0 means that there is no limit.
type Limit = Count<0, { u32::MAX }>;
/// A delay that must not be zero.
type Delay = Span<{ SECOND / 10 }, DAY>;
/// A grace period, which may be zero.
type Grace = Span<0, DAY>;

section! {
    /// The whole configuration.
    Root {
        /// The process.
        server: Server = Server::default(),
        /// Where to listen.
        http_server: HttpServer = HttpServer::default(),
        /// The WebSocket endpoint.
        websocket: WebSocket = WebSocket::default(),
        /// Client connections.
        client: Client = Client::default(),
        /// Channels and their namespaces.
        channel: Channel = Channel::default(),
        /// Who is online, away or offline.
        user_presence: UserPresence = UserPresence::default(),
        /// The log on disk.
        storage: Storage = Storage::default(),
        /// Messages for users who are away.
        mailbox: Mailbox = Mailbox::default(),
        /// Where events are posted to: a list of tables with the keys below. Needs `storage.path`.
        webhook: Vec<Webhook> = Vec::new(),
        /// The server API.
        http_api: HttpApi = HttpApi::default(),
        /// Health endpoint.
        health: Health = Health::default(),
        /// Metrics endpoint.
        prometheus: Prometheus = Prometheus::default(),
        /// This node.
        node: Node = Node::default(),
        /// Logs.
        log: Log = Log::default(),
        /// Stopping.
        shutdown: Shutdown = Shutdown::default(),
    }
}

section! {
    /// Section `server`.
    Server {
        /// Threads that serve sockets; 0: one per core, or more where the descriptor limit demands it.
        shards: Count<0, 1024> = Count(0),
        /// Connections that this process may hold, over all shards.
        max_connections: Count<1, 20_000_000> = Count(100_000),
        /// Bytes of memory (RSS) that the process should stay within; 0: none. From 80 % pools shrink, from 90 % new
        /// connections get HTTP 503, from 95 % those whose readers are slowest are disconnected with 3008. A lower limit of the
        /// control group takes its place.
        memory_limit: Size<0, { u64::MAX }> = Size(0),
    }
}

section! {
    /// Section `http_server`.
    HttpServer {
        /// IP address for clients. Empty: all IPv4 addresses.
        address: Text = Text::from("127.0.0.1"),
        /// TCP port for clients; 0: any free one.
        port: Count<0, 65535> = Count(8000),
        /// Addresses with ports for clients, such as `["0.0.0.0:8000", "[::]:8000"]`, in place of `address` and `port`.
        listen: List = List::default(),
        /// IP address for the internal endpoints: server API, health, metrics.
        internal_address: Text = Text::from("127.0.0.1"),
        /// TCP port for the internal endpoints; 0: any free one.
        internal_port: Count<0, 65535> = Count(8001),
        /// Longest request head.
        head_size_limit: Size<KIB, { 64 * KIB }> = Size(8 * KIB),
    }
}

section! {
    /// Section `websocket`.
    WebSocket {
        /// Path of the endpoint.
        handler_prefix: Text = Text::from("/connection/websocket"),
        /// Longest message that a client may send; beyond it the connection is closed with 1009.
        message_size_limit: Size<64, { 64 * MIB }> = Size(64 * KIB),
    }
}

section! {
    /// Section `client`.
    Client {
        /// Origins that browsers may connect from, such as `https://example.com` or `https://*.example.com`; `*` for
        /// all. Requests without an Origin header pass: they are not by browsers.
        allowed_origins: List = List::default(),
        /// How the server finds out that a client is gone: by pings of the client protocol, or by TCP keepalive, which
        /// costs no CPU but sees only that the client's host is gone. With `tcp`, `ping_interval` is how long a
        /// connection is quiet before the kernel probes it, and `pong_timeout` how long an answer may take.
        heartbeat: OneOf<Heartbeat> = OneOf(Heartbeat::Ping),
        /// Time between two pings of the server; 0s: none.
        ping_interval: Span<0, DAY> = Span::seconds(25),
        /// How long the answer to a ping may take; then disconnect 3012. 0s: no answer is expected.
        pong_timeout: Span<0, DAY> = Span::seconds(8),
        /// From accept to the end of the upgrade request; then the socket is closed.
        handshake_timeout: Delay = Span::seconds(5),
        /// From accept to the completed `connect` command; then disconnect 3502.
        stale_close_delay: Delay = Span::seconds(10),
        /// Grace after the expiry of a connection; then disconnect 3005.
        expired_close_delay: Grace = Span::seconds(25),
        /// Grace after the expiry of a subscription; then unsubscribe 2501.
        expired_sub_close_delay: Grace = Span::seconds(25),
        /// Subscriptions of one connection; then error 106.
        channel_limit: Count<1, 65535> = Count(128),
        /// Bytes that may wait for a slow reader; then disconnect 3008.
        queue_max_size: Size<{ 4 * KIB }, GIB> = Size(MIB),
        /// Connections on this node; then HTTP 503. 0: as many as `server.max_connections`.
        connection_limit: Limit = Count(0),
        /// New connections a second on this node; then HTTP 503. 0: no limit.
        connection_rate_limit: Limit = Count(0),
        /// Connections of one user on this node; then disconnect 3504. 0: no limit.
        user_connection_limit: Limit = Count(0),
        /// Connections from one source address; then HTTP 503. 0: no limit.
        address_connection_limit: Limit = Count(0),
        /// Commands a second of one connection; then error 111, and disconnect 3013 for those who go on. 0: no limit.
        command_rate_limit: Limit = Count(0),
        /// Publications in one reply to `history`.
        history_max_publication_limit: Count<1, 100_000> = Count(300),
        /// Publications that a recovery may replay; where more were missed, the client is told to start anew.
        recovery_max_publication_limit: Count<1, 100_000> = Count(300),
        /// Tell clients the time when they connect.
        connect_include_server_time: bool = false,
        /// Let clients without a token in, as anonymous users.
        allow_anonymous_connect_without_token: bool = false,
        /// Refuse tokens without a user id with 3507.
        disallow_anonymous_connection_tokens: bool = false,
        /// For development: no tokens are needed and everything is permitted.
        insecure: bool = false,
        /// For development: the signatures of tokens are not looked at.
        insecure_skip_token_signature_verify: bool = false,
        /// A channel of its own for every user.
        subscribe_to_user_personal_channel: PersonalChannel = PersonalChannel::default(),
        /// Verification of tokens.
        token: Token = Token::default(),
        /// Verification of subscription tokens, where it differs.
        subscription_token: SubscriptionToken = SubscriptionToken::default(),
    }
}

section! {
    /// Section `client.subscribe_to_user_personal_channel`.
    PersonalChannel {
        /// Subscribe every user to a channel of its own on connect: `#user`.
        enabled: bool = false,
        /// Namespace of these channels; they are then called `namespace:#user`.
        personal_channel_namespace: Text = Text::default(),
        /// A new connection of a user disconnects the older ones with 3504.
        single_connection: bool = false,
    }
}

section! {
    /// Section `client.token`.
    Token {
        /// Secret for tokens with HS256, HS384 or HS512.
        hmac_secret_key: Secret = Secret::default(),
        /// Former secret, still accepted while tokens signed with it are about.
        hmac_previous_secret_key: Secret = Secret::default(),
        /// Until when the former secret is accepted, in seconds since 1970; 0: without end.
        hmac_previous_secret_key_valid_until: UnixTime = UnixTime(0),
        /// Public key (PEM) for tokens with RS256, RS384 or RS512.
        rsa_public_key: Text = Text::default(),
        /// Public key (PEM) for tokens with ES256, ES384 or ES512; its curve says which.
        ecdsa_public_key: Text = Text::default(),
        /// The audience (`aud`) that tokens must be for. Empty: any.
        audience: Text = Text::default(),
        /// A pattern for the audience instead.
        audience_regex: Pattern = Pattern::default(),
        /// The issuer (`iss`) that tokens must be from. Empty: any.
        issuer: Text = Text::default(),
        /// A pattern for the issuer instead.
        issuer_regex: Pattern = Pattern::default(),
        /// The claim that holds the user id. Empty: `sub`.
        user_id_claim: Text = Text::default(),
        /// How far clocks may differ when `exp` and `nbf` are checked.
        leeway: Span<0, HOUR> = Span::seconds(0),
    }
}

section! {
    /// Section `client.subscription_token`.
    SubscriptionToken {
        /// Verify subscription tokens with the keys of this section instead of those of `client.token`.
        enabled: bool = false,
        /// As in `client.token`.
        hmac_secret_key: Secret = Secret::default(),
        /// As in `client.token`.
        hmac_previous_secret_key: Secret = Secret::default(),
        /// As in `client.token`.
        hmac_previous_secret_key_valid_until: UnixTime = UnixTime(0),
        /// As in `client.token`.
        rsa_public_key: Text = Text::default(),
        /// As in `client.token`.
        ecdsa_public_key: Text = Text::default(),
        /// As in `client.token`.
        audience: Text = Text::default(),
        /// As in `client.token`.
        audience_regex: Pattern = Pattern::default(),
        /// As in `client.token`.
        issuer: Text = Text::default(),
        /// As in `client.token`.
        issuer_regex: Pattern = Pattern::default(),
        /// As in `client.token`.
        user_id_claim: Text = Text::default(),
        /// As in `client.token`.
        leeway: Span<0, HOUR> = Span::seconds(0),
    }
}

section! {
    /// Section `channel`.
    Channel {
        /// Longest channel name in bytes.
        max_length: Count<1, 255> = Count(255),
        /// Channels that start with it need a subscription token. Empty: none do.
        private_prefix: Text = Text::from("$"),
        /// Stands between namespace and rest.
        namespace_boundary: Text = Text::from(":"),
        /// Stands before the users of a user-limited channel.
        user_boundary: Text = Text::from("#"),
        /// Stands between these users.
        user_separator: Text = Text::from(","),
        /// How long offset and epoch of a stream outlive its data, where the namespace does not say.
        history_meta_ttl: Span<SECOND, { 10 * YEAR }> = Span::seconds(720 * 3600),
        /// Options of channels without a namespace.
        without_namespace: Options = Options::default(),
        /// Options by namespace: a list of tables, each with a `name` and the options of `channel.without_namespace`.
        namespaces: Vec<Namespace> = Vec::new(),
    }
}

section! {
    /// Options of the channels of a namespace.
    Options {
        /// Keep who is in the channel.
        presence: bool = false,
        /// Announce who joins and leaves.
        join_leave: bool = false,
        /// How long a member that was lost without goodbye stays in presence. Where its user returns in time, the join
        /// comes before the leave.
        presence_grace: Span<0, HOUR> = Span::seconds(0),
        /// Joins and leaves pushed in a second and channel; beyond, subscribers are told the counts once a second, in a
        /// `message` push. 0: no limit.
        join_leave_max_rate: Limit = Count(0),
        /// Tell every subscriber who joins and leaves, also those who did not ask.
        force_push_join_leave: bool = false,
        /// Publications kept; 0: no history.
        history_size: Count<0, 1_000_000> = Count(0),
        /// How long publications are kept; 0s: no history.
        history_ttl: Span<0, YEAR> = Span::seconds(0),
        /// Keep history in the log (`storage.path`): it outlives a restart, and a publication is delivered and answered
        /// once it is stored. Needs `history_size` and `history_ttl`.
        history_durable: bool = false,
        /// How long offset and epoch outlive the data; 0s: as `channel.history_meta_ttl`. Those of a durable history go by
        /// `storage.state_ttl`.
        history_meta_ttl: Span<0, { 10 * YEAR }> = Span::seconds(0),
        /// Make every subscription positioned: a lost publication is noticed.
        force_positioning: bool = false,
        /// Let clients ask for positioning.
        allow_positioning: bool = false,
        /// Make every subscription recoverable: what was missed is replayed.
        force_recovery: bool = false,
        /// Let clients ask for recovery.
        allow_recovery: bool = false,
        /// What is replayed: all that was missed, or only the newest publication.
        force_recovery_mode: OneOf<RecoveryMode> = OneOf(RecoveryMode::Stream),
        /// Deliver the newest publication on every subscribe, also unasked.
        auto_cache_recover: bool = false,
        /// Users with an id may subscribe.
        allow_subscribe_for_client: bool = false,
        /// Anonymous users may do so as well.
        allow_subscribe_for_anonymous: bool = false,
        /// Users with an id may publish.
        allow_publish_for_client: bool = false,
        /// Subscribers with an id may publish.
        allow_publish_for_subscriber: bool = false,
        /// Anonymous users may do so as well.
        allow_publish_for_anonymous: bool = false,
        /// Users with an id may ask who is present.
        allow_presence_for_client: bool = false,
        /// Subscribers with an id may ask who is present.
        allow_presence_for_subscriber: bool = false,
        /// Anonymous users may do so as well.
        allow_presence_for_anonymous: bool = false,
        /// Users with an id may read history.
        allow_history_for_client: bool = false,
        /// Subscribers with an id may read history.
        allow_history_for_subscriber: bool = false,
        /// Anonymous users may do so as well.
        allow_history_for_anonymous: bool = false,
        /// Only the users listed after `#` in the name of a channel may subscribe to it.
        allow_user_limited_channels: bool = false,
        /// What the part of the name after the namespace must match; lifts the restriction to ASCII.
        channel_regex: Pattern = Pattern::default(),
        /// What the data of publications must be. Empty: anything but nothing.
        publication_data_format: OneOf<DataFormat> = OneOf(DataFormat::Any),
        /// What becomes of publications for a reader who is behind, when the kernel takes no more for it: `disconnect`
        /// with 3008 once `client.queue_max_size` is waiting, `drop_oldest` from there on, or `keep_latest`, where only
        /// the newest publication of each channel waits. Replies and other pushes are never left out. Where the
        /// subscription is positioned, a gap ends it with 2500 and client libraries recover.
        slow_consumer: OneOf<SlowConsumer> = OneOf(SlowConsumer::Disconnect),
        /// How long publications, joins and leaves may wait for others, so that a burst leaves in one write; 0s: not at
        /// all. Replies do not wait, and take along what does.
        write_delay: Span<0, 100> = Span::seconds(0),
        /// Kind of subscriptions; only streams are served, others are refused with error 103.
        subscription_type: OneOf<SubscriptionType> = OneOf(SubscriptionType::Stream),
    }
}

section! {
    /// Section `user_presence`. The heartbeat is `client.ping_interval`.
    UserPresence {
        /// Keep who is online, away or offline. Signs of life are the user's commands and the answers to pings, so
        /// `client.ping_interval` is the heartbeat.
        enabled: bool = false,
        /// Namespace of the channels that tell of a user: `namespace:user`. It must exist; its options say who may
        /// subscribe.
        namespace: Text = Text::from("presence"),
        /// A session whose user sent no command for so long is away; 0s: never.
        away_after: Span<0, { 30 * DAY }> = Span::seconds(300),
        /// A session lost without goodbye counts until so long after its last sign of life. More than
        /// `client.ping_interval` and `client.pong_timeout` together.
        offline_after: Span<SECOND, DAY> = Span::seconds(60),
        /// Offline users of whom is remembered when they were last seen (about 32 bytes each); of more, those unheard
        /// of for longest are forgotten.
        last_seen_users: Count<0, 100_000_000> = Count(100_000),
    }
}

section! {
    /// Section `http_api`.
    HttpApi {
        /// Do not serve the API at all.
        disabled: bool = false,
        /// Key that callers give as `X-API-Key`. Empty: every call is refused with 401.
        key: Secret = Secret::default(),
        /// For development: no key is needed, and the API is served on the internal address only. So that no website can make its reader's browser call, a call with an
        /// `Origin` header, or whose `Host` is neither an address nor a name without a dot (`localhost`), gets 403.
        insecure: bool = false,
        /// How errors are told: in the body of a 200 answer, or by the status as well.
        error_mode: OneOf<ErrorMode> = OneOf(ErrorMode::Reply),
        /// Path before the name of a method.
        handler_prefix: Text = Text::from("/api"),
        /// Serve the API on the client port too; needs a key: with `insecure` it is not served there.
        external: bool = true,
    }
}

section! {
    /// Section `health`.
    Health {
        /// Serve it on the internal address.
        enabled: bool = true,
        /// Its path.
        handler_prefix: Text = Text::from("/health"),
    }
}

section! {
    /// Section `prometheus`.
    Prometheus {
        /// Serve it on the internal address.
        enabled: bool = true,
        /// Its path.
        handler_prefix: Text = Text::from("/metrics"),
    }
}

section! {
    /// Section `node`.
    Node {
        /// Name in the answers of the server API. Empty: host name and port.
        name: Text = Text::default(),
    }
}

section! {
    /// Section `log`.
    Log {
        /// Least severe level that is written.
        level: OneOf<LogLevel> = OneOf(LogLevel::Info),
        /// Text for people or JSON for machines.
        format: OneOf<LogFormat> = OneOf(LogFormat::Text),
    }
}

section! {
    /// Section `shutdown`.
    Shutdown {
        /// How long clients are disconnected, spread evenly, before the process ends.
        timeout: Span<0, HOUR> = Span::seconds(30),
    }
}

nested!(
    Server,
    HttpServer,
    WebSocket,
    Client,
    PersonalChannel,
    Token,
    SubscriptionToken,
    Channel,
    Options,
    UserPresence,
    Storage,
    Mailbox,
    HttpApi,
    Health,
    Prometheus,
    Node,
    Log,
    Shutdown
);

/// An element of `channel.namespaces`.
#[derive(Clone, Debug)]
pub(super) struct Namespace {
    pub(super) name: String,
    pub(super) options: Options,
}

impl Entry for Vec<Namespace> {
    fn read(reader: &mut Reader<'_>, path: &str, value: Option<&Value>, default: Self) -> Self {
        match value {
            None | Some(Value::Null) => default,
            Some(Value::Array(list)) => {
                let elements = list.iter().enumerate();
                elements
                    .map(|(index, value)| Namespace::read(reader, &format!("{path}[{index}]"), value))
                    .collect()
            }
            Some(other) => {
                reader.wrong_value(path, "a list of namespaces".into(), Some(other));
                default
            }
        }
    }

    fn describe(path: &str, doc: &str, _: &Self, keys: &mut Vec<Key>) {
        keys.push(Key {
            path: path.to_owned(),
            expected: "a list of namespaces".into(),
            default: Value::Array(Vec::new()),
            doc: doc.to_owned(),
            value_of_text: Some(|text| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text))),
        });
        keys.push(Key {
            path: format!("{path}[].name"),
            expected: Namespace::EXPECTED_NAME.into(),
            default: Value::Null,
            doc: "Name of the namespace; each once.".into(),
            value_of_text: None,
        });
    }
}

impl Namespace {
    const EXPECTED_NAME: &'static str = "the name of the namespace as text";

    fn read(reader: &mut Reader<'_>, path: &str, value: &Value) -> Self {
        let name = value.get("name").and_then(Value::as_str);
        if name.is_none() && value.is_object() {
            reader.wrong_value(&join(path, "name"), Self::EXPECTED_NAME.into(), value.get("name"));
        }
        let options = reader.section(path, Some(value), Options::default(), &["name"]);
        Self { name: name.unwrap_or_default().to_owned(), options }
    }
}

/// Sections describe themselves from the root.
pub(super) fn describe_root(keys: &mut Vec<Key>) {
    Root::describe_fields("", &Root::default(), keys);
}

/// Reads the merged tree.
pub(super) fn read_root(reader: &mut Reader<'_>, root: &Map<String, Value>) -> Root {
    reader.section("", Some(&Value::Object(root.clone())), Root::default(), &[])
}
