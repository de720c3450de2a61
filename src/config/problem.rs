//! What can be wrong with a configuration, and what the operator can do about it.

use std::fmt;
use std::path::PathBuf;

use crate::hub::auth::KeyError;

/// Everything that is wrong with a configuration: never empty.
#[derive(Debug, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(out, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

/// One thing that is wrong.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The extension names no format.
    #[error("{}: the extension must say the format: .toml, .yaml, .yml or .json", .0.display())]
    Extension(PathBuf),
    /// The file is not in the format that its extension says.
    #[error("{}: {source}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: SyntaxError,
    },
    /// No such key.
    #[error("{place}: there is no such key{}", did_you_mean(.likely.as_deref()))]
    UnknownKey {
        /// The key.
        place: Place,
        /// The key that was probably meant.
        likely: Option<String>,
    },
    /// An environment variable with our prefix that names no key.
    #[error("environment variable {name}: there is no such key{}", did_you_mean(.likely.as_deref()))]
    UnknownVariable {
        /// The variable.
        name: String,
        /// The variable that was probably meant.
        likely: Option<String>,
    },
    /// The value has the wrong type, unit or size.
    #[error("{place}: {}must be {expected}", is_now(.got.as_deref()))]
    Value {
        /// The key.
        place: Place,
        /// What it must be.
        expected: String,
        /// What it is, unless it is a secret.
        got: Option<String>,
    },
    /// A key that would guard something is not served: going on without it would open what it closes.
    #[error("{place}: this version does not serve it, and starting without it would be unsafe; {}", .0.advice(), place = .1)]
    Guard(Guard, Place),
    /// A key for tokens cannot be used.
    #[error("{place}: {fault}")]
    Key {
        /// The key.
        place: Place,
        /// Why.
        fault: KeyError,
    },
    /// Two keys contradict each other.
    #[error("{place}: {rule}")]
    Contradiction {
        /// The key to change.
        place: Place,
        /// The rule that is broken.
        rule: Rule,
    },
}

/// Why a file could not be parsed, and where. Never with the line itself: secrets stand in it.
#[derive(Debug, thiserror::Error)]
pub enum SyntaxError {
    /// TOML
    #[error("line {line}, column {column}: {message}")]
    Toml {
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
        /// What is wrong there.
        message: String,
    },
    /// YAML
    #[error("{}", .0.without_snippet())]
    Yaml(#[from] Box<serde_saphyr::Error>),
    /// JSON
    #[error("{0}")]
    Json(#[from] serde_json::Error),
}

impl SyntaxError {
    /// An error of the TOML parser in `text`.
    pub(super) fn toml(error: &toml::de::Error, text: &str) -> Self {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        Self::Toml { line, column, message: error.message().to_owned() }
    }
}

/// Where a value came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The key, such as `channel.namespaces[1].history_ttl`.
    pub path: String,
    /// The flag, the environment variable, or the line of the file, if known.
    pub origin: Option<Origin>,
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            None => write!(out, "{}", self.path),
            Some(Origin::Line(line)) => write!(out, "{} (line {line})", self.path),
            Some(Origin::Variable(name)) => write!(out, "{} (environment variable {name})", self.path),
            Some(Origin::Flag(name)) => write!(out, "{} (flag {name})", self.path),
        }
    }
}

/// The layer that a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Line of the file, from 1.
    Line(usize),
    /// Environment variable.
    Variable(String),
    /// Command line flag.
    Flag(&'static str),
}

/// What a key that is not served would have guarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// Encryption of the transport.
    Encryption,
    /// A backend asked before something is permitted.
    Proxy,
    /// State shared with other nodes.
    Cluster,
}

impl Guard {
    fn advice(self) -> &'static str {
        match self {
            Self::Encryption => "terminate TLS in front of millpond and remove the key",
            Self::Proxy => "use tokens and the allow_* options of the namespace, and remove the key",
            Self::Cluster => "run one node with the memory engine, and remove the key",
        }
    }
}

/// Rules between keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rule {
    /// Ping and pong.
    #[error(
        "a pong must be due before the next ping: make it less than client.ping_interval, or 0s to expect none"
    )]
    PongBeforePing,
    /// Recovery without history.
    #[error(
        "recovery and positioning need a history: set both history_size and history_ttl, or switch this off"
    )]
    NeedsHistory,
    /// Join and leave pushes without join and leave messages.
    #[error("there are no join and leave messages to push: set join_leave = true as well")]
    NeedsJoinLeave,
    /// Malformed namespace name.
    #[error("a namespace has a name of two or more letters, digits, - and _")]
    NamespaceName,
    /// Twice the same namespace.
    #[error("another namespace has this name already")]
    NamespaceTwice,
    /// More namespaces than there are indices.
    #[error("there are more than 65535 namespaces")]
    TooManyNamespaces,
    /// The personal channel is in no namespace.
    #[error("no namespace has this name: add it to channel.namespaces, or leave the key empty")]
    PersonalNamespace,
    /// User presence is in no namespace.
    #[error(
        "no namespace has this name: add it to channel.namespaces, with allow_subscribe_for_client for those who may watch users"
    )]
    UserPresenceNamespace,
    /// A history, or publications of clients, among the states of users.
    #[error("channels that tell of users have no history and no publications of clients: switch both off")]
    UserPresenceOptions,
    /// A lost session could outlast the grace period unnoticed.
    #[error(
        "it must be more than client.ping_interval and client.pong_timeout together, and neither may be 0s: a lost session is noticed by its pong"
    )]
    UserPresenceHeartbeat,
    /// A durable history without a log.
    #[error("a durable history is kept on disk: set storage.path to a directory of its own")]
    DurableNeedsStorage,
    /// A durable history that holds nothing.
    #[error("a durable history needs its bounds: set both history_size and history_ttl")]
    DurableNeedsHistory,
    /// Mailboxes without a log.
    #[error("mailboxes are kept on disk: set storage.path to a directory of its own")]
    MailboxNeedsStorage,
    /// Mailboxes without a way to their users.
    #[error(
        "mailboxes are delivered through the personal channel: set client.subscribe_to_user_personal_channel.enabled = true"
    )]
    MailboxNeedsPersonal,
    /// A message would be sent again before a pong could acknowledge it.
    #[error(
        "it must be more than client.ping_interval and client.pong_timeout together, or messages are sent again before a pong could acknowledge them; 0s chooses it"
    )]
    MailboxAckWait,
    /// Nobody sends pongs.
    #[error(
        "without pings there are no pongs: set client.heartbeat = \"ping\", client.ping_interval and client.pong_timeout, or ack_by_pong = false and let clients call mailbox.ack"
    )]
    MailboxPong,
    /// The dead-letter channel is no channel.
    #[error("it is not the name of a channel, or its namespace is not in channel.namespaces")]
    MailboxDeadLetter,
    /// Webhooks without a log.
    #[error("events wait for their backends on disk: set storage.path to a directory of its own")]
    WebhookNeedsStorage,
    /// Two webhooks of one name.
    #[error("another webhook has this name already")]
    WebhookTwice,
    /// Events about users that nobody makes.
    #[error("online, away and offline need user_presence.enabled = true")]
    WebhookUsers,
    /// The longest pause is shorter than the first.
    #[error("it must not be less than retry_min")]
    WebhookRetry,
    /// A segment that is not made of whole pages.
    #[error("it must be a multiple of 4096")]
    SegmentSize,
    /// Former secret without a current one.
    #[error("a former secret needs a current one: set hmac_secret_key beside it")]
    PreviousWithoutCurrent,
    /// End of a former secret that is not there.
    #[error("it limits a former secret that is not set: set hmac_previous_secret_key, or remove it")]
    UntilWithoutPrevious,
    /// Two ways to say which audience or issuer.
    #[error("it is given both exactly and as a pattern: remove one of the two")]
    ExactAndPattern,
    /// Keys of the separate verifier, which is off.
    #[error("subscription tokens have keys of their own only with client.subscription_token.enabled = true")]
    SubscriptionTokenOff,
    /// The separate verifier has no key.
    #[error(
        "subscription tokens are verified separately but have no key: set one in client.subscription_token"
    )]
    SubscriptionTokenWithoutKey,
    /// Two ways to say where to listen.
    #[error("give either http_server.listen or http_server.address and http_server.port, not both")]
    ListenTwice,
    /// Clients and operators on one address.
    #[error("clients and the internal endpoints need different addresses: change one of the two ports")]
    InternalIsPublic,
    /// The demo is open to everybody who reaches it.
    #[error("the demo lets everybody in, so it listens on loopback only: use 127.0.0.1")]
    DemoBeyondLoopback,
    /// Paths of two endpoints.
    #[error("it must differ from the paths of the other endpoints")]
    SamePath,
}

fn did_you_mean(key: Option<&str>) -> String {
    key.map(|key| format!("; did you mean {key}?")).unwrap_or_default()
}

fn is_now(value: Option<&str>) -> String {
    value.map(|value| format!("is {value}, ")).unwrap_or_default()
}
