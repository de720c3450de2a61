//! Settings of the control plane, already valid; `config` builds them. The bounds have their reasons beside them.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// Everything the control plane is told at start.
#[derive(Clone, Debug)]
pub struct ControlSettings {
    /// Where server API, health and metrics listen without going through a shard; `None`: nowhere.
    pub internal_address: Option<SocketAddr>,
    /// Path of the health endpoint at both doors; `None`: not served.
    pub health: Option<String>,
    /// Path of the metrics, at the internal address only; `None`: not served.
    pub prometheus: Option<String>,
    /// The server API.
    pub api: ApiSettings,
    /// The demo page on the client port; `None`: not served.
    pub demo: Option<DemoSettings>,
    /// Who this node is, for `info`.
    pub node: NodeSettings,
    /// Bounds of both doors.
    pub limits: HttpLimits,
}

/// Section `http_api`.
#[derive(Clone)]
pub struct ApiSettings {
    /// Served at all.
    pub enabled: bool,
    /// Served on the client port too, unless `insecure`.
    pub external: bool,
    /// The key a caller must show; `None` and not `insecure`: every call is answered 401.
    pub key: Option<String>,
    /// No key is asked for (development only), and the API is not served on the client port.
    pub insecure: bool,
    /// How application errors are shown.
    pub error_mode: ErrorMode,
    /// Path prefix without trailing slash, default `/api`.
    pub prefix: String,
    /// Largest request body in bytes, default 16 MiB; beyond: 413.
    pub body_limit: usize,
    /// Largest message of `send` in bytes, so that log and clients can take it; `None`: there are no mailboxes.
    pub message_bytes: Option<usize>,
}

/// `http_api.error_mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ErrorMode {
    /// HTTP 200 with an `error` member.
    #[default]
    Body,
    /// The same body, and a matching HTTP status.
    Transport,
}

/// What `info` says about this node.
#[derive(Clone, Debug, Default)]
pub struct NodeSettings {
    /// Unique per process start.
    pub uid: String,
    /// Host name and port, or as configured.
    pub name: String,
    /// Of the program.
    pub version: String,
}

/// The demo page.
#[derive(Clone)]
pub struct DemoSettings {
    /// Signs the short-lived tokens of demo users; the shards verify with the same.
    pub hmac_secret_key: String,
    /// Path of the WebSocket endpoint.
    pub websocket_path: String,
    /// Users may write to others who are away.
    pub mailboxes: bool,
}

/// Bounds of the two doors.
#[derive(Clone, Copy, Debug)]
pub struct HttpLimits {
    /// Connections of the internal address at a time.
    pub internal_connections: usize,
    /// Connections handed over by the shards at a time; beyond: 503. Strangers can reach this door, but without a key
    /// none of them can hold a place for longer than its close lingers.
    pub handed_over_connections: usize,
    /// API requests under way at a time; beyond: 503. With `body_limit` this bounds the memory of request bodies.
    pub requests: usize,
    /// Bytes of request bodies held at a time; beyond: 503.
    pub body_bytes: usize,
    /// From the first byte (or the end of the last answer) to the end of a request head.
    pub head_timeout: Duration,
    /// From the head to the end of the body; beyond: 408.
    pub body_timeout: Duration,
    /// From the body to the answer; beyond: error 100.
    pub answer_timeout: Duration,
    /// How long a peer may read nothing of an answer before the connection is dropped.
    pub write_stall: Duration,
}

impl Default for ControlSettings {
    fn default() -> Self {
        Self {
            internal_address: None,
            health: Some("/health".to_owned()),
            prometheus: Some("/metrics".to_owned()),
            api: ApiSettings::default(),
            demo: None,
            node: NodeSettings::default(),
            limits: HttpLimits::default(),
        }
    }
}

impl ApiSettings {
    /// True if the client port serves the API too: there it needs a key, which `insecure` does away with (A21).
    #[must_use]
    pub fn is_external(&self) -> bool {
        self.enabled && self.external && !self.insecure
    }
}

impl fmt::Debug for ApiSettings {
    /// Without the key: it would end in a log.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ApiSettings")
            .field("enabled", &self.enabled)
            .field("external", &self.external)
            .field("key", &self.key.as_ref().map(|_| ".."))
            .field("insecure", &self.insecure)
            .field("error_mode", &self.error_mode)
            .field("prefix", &self.prefix)
            .field("body_limit", &self.body_limit)
            .field("message_bytes", &self.message_bytes)
            .finish()
    }
}

impl fmt::Debug for DemoSettings {
    /// Without the key.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("DemoSettings")
            .field("websocket_path", &self.websocket_path)
            .finish_non_exhaustive()
    }
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            external: true,
            key: None,
            insecure: false,
            error_mode: ErrorMode::Body,
            prefix: "/api".to_owned(),
            body_limit: 16 * 1024 * 1024,
            message_bytes: None,
        }
    }
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            internal_connections: 1024,
            handed_over_connections: 2048,
            requests: 1024,
            body_bytes: 256 * 1024 * 1024,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            answer_timeout: Duration::from_secs(60),
            write_stall: Duration::from_secs(30),
        }
    }
}
