//! Configuration: a file, the environment and flags, laid over each other and checked as a whole.
//!
//! Invariants:
//! - A [`Config`] is valid: every value is within its bounds and no two contradict each other.
//! - Everything that is wrong is reported at once, each with its key, where it stands and what to do.
//! - A key that does not exist is never passed over. Keys of the ecosystem that are not served yet are named in
//!   [`Config::unserved`], unless they guard something: those refuse to start.
//! - Secrets come from a file or the environment, never from flags, and are never part of a message.

mod build;
mod choices;
mod problem;
mod reader;
mod reference;
mod sections;
mod stored;
mod suggest;
mod tree;
mod unserved;
mod value;
mod webhook;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::control::webhook::settings::WebhookSettings;
use crate::hub::settings::{ClientSettings, EventQueueSettings, Settings};
use crate::limits::MESSAGE_OVERHEAD_BYTES;
use crate::log::settings::LogSettings;
use crate::net::listener::Keepalive;
pub use build::{NotAnAddress, listen_address};
pub use problem::{Guard, Origin, Place, Problem, Problems, Rule, SyntaxError};
pub use reference::{default_config, keys_reference};
pub use tree::Format;
pub use value::{NotADuration, parse_duration};

use tree::Tree;

/// Environment variables of the configuration start with this.
pub const VARIABLE_PREFIX: &str = "MILLPOND_";

/// The variable that names the file, in place of the flag `--config`.
pub const FILE_VARIABLE: &str = "MILLPOND_CONFIG";

/// A valid configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Everything the data plane needs.
    pub settings: Settings,
    /// The process and its addresses.
    pub server: ServerConfig,
    /// The log on disk; `None`: nothing is stored.
    pub storage: Option<StorageConfig>,
    /// Where events are posted to. Not empty only with `storage`.
    pub webhooks: Vec<WebhookConfig>,
    /// The server API.
    pub api: ApiConfig,
    /// Path of the health endpoint on the internal address; `None`: not served.
    pub health: Option<String>,
    /// Path of the metrics endpoint on the internal address; `None`: not served.
    pub prometheus: Option<String>,
    /// Logs.
    pub log: LogConfig,
    /// Serve the demo page on the client port.
    pub demo: bool,
    /// Keys that were given but are not served yet: start-up names them.
    pub unserved: Vec<String>,
    /// What is permitted but probably not meant: start-up says so.
    pub notices: Vec<Notice>,
}

/// The process and its addresses.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Addresses for clients, at least one. Port 0: any free one.
    pub listen: Vec<SocketAddr>,
    /// Address of the internal endpoints.
    pub internal_listen: SocketAddr,
    /// Threads that serve sockets, 0 = automatic.
    pub shards: u16,
    /// From SIGTERM to the end of the process.
    pub shutdown_timeout: Duration,
    /// Bytes that the process should stay within, 0 = none.
    pub memory_limit: u64,
    /// Client sockets are probed by the kernel (`client.heartbeat = "tcp"`).
    pub keepalive: Option<Keepalive>,
}

/// The log that mailboxes and durable histories are kept in.
#[derive(Clone, Debug)]
pub struct StorageConfig {
    /// Its directory.
    pub path: PathBuf,
    /// Its settings, valid but for the seed, which is drawn when it is opened.
    pub log: LogSettings,
    /// File systems that lose everything in a power cut will do: who syncs nothing promises nothing else.
    pub allow_volatile: bool,
}

impl StorageConfig {
    /// Largest message that may be sent, in bytes of payload and tags: the log takes its record, and it leaves half of a
    /// client's queue to everything else.
    #[must_use]
    pub fn message_bytes(&self, client: &ClientSettings) -> usize {
        let record = self.log.max_body_bytes().saturating_sub(MESSAGE_OVERHEAD_BYTES);
        record.min(client.queue_max_size / 2)
    }
}

/// One webhook.
#[derive(Clone, Debug)]
pub struct WebhookConfig {
    /// What waits for it in the log.
    pub queue: EventQueueSettings,
    /// How it is delivered.
    pub delivery: WebhookSettings,
}

/// The server API.
#[derive(Clone)]
pub struct ApiConfig {
    /// Serve it at all.
    pub enabled: bool,
    /// Serve it on the client port too.
    pub external: bool,
    /// Key that callers must give; `None`: every call is refused unless `insecure`.
    pub key: Option<String>,
    /// No key is needed.
    pub insecure: bool,
    /// How errors are told.
    pub error_mode: ErrorMode,
    /// Path before the name of a method, without a slash at the end.
    pub prefix: String,
}

impl fmt::Debug for ApiConfig {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ApiConfig")
            .field("enabled", &self.enabled)
            .field("external", &self.external)
            .field("key", &self.key.as_ref().map(|_| ".."))
            .field("insecure", &self.insecure)
            .field("error_mode", &self.error_mode)
            .field("prefix", &self.prefix)
            .finish()
    }
}

/// `http_api.error_mode`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorMode {
    /// Status 200, the error in the body.
    Reply,
    /// The error in the body and in the status.
    Transport,
}

/// `client.heartbeat`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heartbeat {
    /// Pings of the client protocol.
    Ping,
    /// TCP keepalive of the kernel.
    Tcp,
}

/// Logs.
#[derive(Clone, Copy, Debug)]
pub struct LogConfig {
    /// Least severe level that is written.
    pub level: LogLevel,
    /// How it is written.
    pub format: LogFormat,
}

/// `log.level`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Everything.
    Trace,
    /// For developers.
    Debug,
    /// What happens.
    Info,
    /// What should not happen.
    Warn,
    /// What must not happen.
    Error,
    /// Nothing.
    None,
}

/// `log.format`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines: one JSON object a line.
    Json,
}

/// Something that is permitted but probably not meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Notice {
    /// `client.insecure`
    #[error("client.insecure is on: everybody gets in without a token and may do everything")]
    Insecure,
    /// `client.insecure_skip_token_signature_verify`
    #[error("client.insecure_skip_token_signature_verify is on: anybody can make a token")]
    UnsignedTokens,
    /// `http_api.insecure`
    #[error(
        "http_api.insecure is on: everybody who reaches the internal address may call the server API; \
         on the client port it is not served, as it needs a key there"
    )]
    OpenApi,
    /// A secret that can be guessed (RFC 7518 section 3.2 wants as many bytes as the hash has).
    #[error("{0} is shorter than 32 bytes: it can be guessed from a single token")]
    ShortSecret(&'static str),
    /// Only one of the two settings of a history.
    #[error("{0}: history is off, as only one of history_size and history_ttl is set")]
    HalfHistory(String),
    /// An option that depends on another one.
    #[error("{0} has no effect: {1} is off")]
    NoEffect(String, &'static str),
    /// History of a channel that has a mailbox.
    #[error("{0}: personal channels have mailboxes, which take the place of their history")]
    MailboxHistory(String),
    /// A dead letter that does not fit into its history.
    #[error(
        "storage.segment_size: a dead letter of more than {bytes} bytes is stored without the data of its message; twice client.queue_max_size leaves none out"
    )]
    DeadLetterData {
        /// The most that the log takes.
        bytes: usize,
    },
    /// Personal channels that are not personal.
    #[error(
        "{0}: every user may subscribe to the personal channels of others; set allow_user_limited_channels beside it"
    )]
    OpenPersonal(String),
    /// A backend cannot tell whether requests are by this server.
    #[error("webhook {0} has no secret: its backend cannot tell who posts to it")]
    UnsignedWebhook(String),
    /// More connections permitted than possible.
    #[error("client.connection_limit is above server.max_connections, which holds")]
    ConnectionLimit,
}

/// Layers above the file.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// The file, if any.
    pub file: Option<PathBuf>,
    /// Environment variables; those without [`VARIABLE_PREFIX`] are ignored.
    pub environment: Vec<(String, String)>,
    /// `--listen`
    pub listen: Vec<SocketAddr>,
    /// `--internal-listen`
    pub internal_listen: Option<SocketAddr>,
    /// `--shards`
    pub shards: Option<u16>,
    /// `--max-connections`
    pub max_connections: Option<u32>,
    /// `--demo`
    pub demo: bool,
}

/// Reads and checks all layers.
///
/// # Errors
/// Everything that is wrong.
pub fn load(layers: &Layers) -> Result<Config, Problems> {
    let mut tree = match &layers.file {
        Some(path) => Tree::from_file(path)?,
        None => Tree::default(),
    };
    let mut unserved = Vec::new();
    let mut problems = Vec::new();
    for (name, text) in &layers.environment {
        overlay_variable(&mut tree, name, text, &mut unserved, &mut problems);
    }
    overlay_flags(&mut tree, layers);
    build::build(&tree, layers.demo, unserved, problems)
}

/// The part of a variable's name after the prefix.
fn variable_name(path: &str) -> String {
    path.replace('.', "_").to_ascii_uppercase()
}

fn overlay_variable(
    tree: &mut Tree,
    name: &str,
    text: &str,
    unserved: &mut Vec<String>,
    problems: &mut Vec<Problem>,
) {
    let Some(variable) = name.strip_prefix(VARIABLE_PREFIX) else { return };
    if name == FILE_VARIABLE || is_of_kubernetes(variable, text) {
        return;
    }
    let origin = Origin::Variable(name.to_owned());
    for key in reference::keys() {
        let Some(value_of_text) = key.value_of_text else { continue };
        if variable_name(&key.path) == variable {
            tree.set(&key.path, value_of_text(text), origin);
            return;
        }
    }
    match unserved::find_variable(variable) {
        Some(found) => match found.guard {
            _ if !unserved::is_on(&Value::from(text)) || text == "false" => {}
            None => unserved.push(name.to_owned()),
            Some(guard) => {
                let place = Place { path: found.path.to_owned(), origin: Some(origin) };
                problems.push(Problem::Guard(guard, place));
            }
        },
        None => {
            let likely = suggest::variable(name);
            problems.push(Problem::UnknownVariable { name: name.to_owned(), likely });
        }
    }
}

/// Kubernetes sets these in every container, for each service of the namespace. Those of a service called `millpond` or
/// `millpond-something` begin as our variables do and are no keys of ours.
fn is_of_kubernetes(variable: &str, text: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // A service called `millpond` has no name of its own here.
    let variable = format!("_{variable}");
    // `PORT_8000_TCP`, `PORT_8000_TCP_ADDR`, `PORT_8000_TCP_PORT`, `PORT_8000_TCP_PROTO`
    let of_port = variable.split("_PORT_").skip(1).any(|rest| {
        let mut words = rest.split('_');
        words.next().is_some_and(is_number) && matches!(words.next(), Some("TCP" | "UDP" | "SCTP"))
    });
    let is_address = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| text.starts_with(scheme));
    let of_host = variable.ends_with("_SERVICE_HOST") || variable.contains("_SERVICE_PORT");
    of_host || of_port || (variable.ends_with("_PORT") && is_address)
}

fn overlay_flags(tree: &mut Tree, layers: &Layers) {
    if !layers.listen.is_empty() {
        // The flag replaces whatever the file says about addresses for clients.
        tree.remove("http_server.address");
        tree.remove("http_server.port");
        let texts: Vec<String> = layers.listen.iter().map(ToString::to_string).collect();
        tree.set("http_server.listen", Value::from(texts), Origin::Flag("--listen"));
    }
    if let Some(address) = layers.internal_listen {
        let origin = Origin::Flag("--internal-listen");
        tree.set("http_server.internal_address", Value::from(address.ip().to_string()), origin.clone());
        tree.set("http_server.internal_port", Value::from(address.port()), origin);
    }
    if let Some(shards) = layers.shards {
        tree.set("server.shards", Value::from(shards), Origin::Flag("--shards"));
    }
    if let Some(max_connections) = layers.max_connections {
        let origin = Origin::Flag("--max-connections");
        tree.set("server.max_connections", Value::from(max_connections), origin);
    }
}
