//! From the sections to a [`Config`]: conversions into the types of the data plane, and the rules between keys.

mod channel;
mod client;
mod presence;
mod server;
mod storage;
mod webhook;

use super::problem::{Problem, Problems, Rule};
use super::reader::Reader;
use super::sections::{HttpApi, Root};
use super::tree::Tree;
use super::{ApiConfig, Config, LogConfig, Notice, ServerConfig};
use crate::hub::events::EventKinds;
use crate::hub::settings::{HttpSettings, Settings};

use server::node_name;
pub use server::{NotAnAddress, listen_address};

/// Checks the merged layers; `unserved` and `problems` hold what was found while merging them.
pub(super) fn build(
    tree: &Tree,
    demo: bool,
    unserved: Vec<String>,
    problems: Vec<Problem>,
) -> Result<Config, Problems> {
    let mut reader = Reader::new(&tree.origins);
    reader.unserved = unserved;
    reader.problems = problems;
    let root = super::sections::read_root(&mut reader, &tree.root);
    let mut checks = Checks { reader, notices: Vec::new() };
    let server = checks.server(&root);
    if demo {
        checks.demo(&server.listen);
    }
    checks.paths(&root);
    let mut settings = checks.settings(&root, demo, &server);
    let storage = checks.storage(&root);
    let webhooks = checks.webhooks(&root);
    settings.events =
        webhooks.iter().map(|webhook| webhook.queue.kinds).fold(settings.events, EventKinds::union);
    checks.api_notices(&root);
    let Checks { reader, notices } = checks;
    if !reader.problems.is_empty() {
        return Err(Problems(reader.problems));
    }
    let mut unserved = reader.unserved;
    unserved.sort_unstable();
    Ok(Config {
        settings,
        server,
        storage,
        webhooks,
        api: api(root.http_api),
        health: root.health.enabled.then_some(root.health.handler_prefix.0),
        prometheus: root.prometheus.enabled.then_some(root.prometheus.handler_prefix.0),
        log: LogConfig { level: root.log.level.0, format: root.log.format.0 },
        demo,
        unserved,
        notices,
    })
}

/// Collects broken rules and notices while it converts.
struct Checks<'t> {
    reader: Reader<'t>,
    notices: Vec<Notice>,
}

impl Checks<'_> {
    fn contradiction(&mut self, path: &str, rule: Rule) {
        let place = self.reader.place(path);
        self.reader.problems.push(Problem::Contradiction { place, rule });
    }

    /// Paths of endpoints start with a slash, do not end with one, and differ on one address.
    fn paths(&mut self, root: &Root) {
        let paths = [
            ("websocket.handler_prefix", &root.websocket.handler_prefix.0),
            ("http_api.handler_prefix", &root.http_api.handler_prefix.0),
            ("health.handler_prefix", &root.health.handler_prefix.0),
            ("prometheus.handler_prefix", &root.prometheus.handler_prefix.0),
        ];
        for (index, (key, path)) in paths.iter().enumerate() {
            let is_path = path.len() > 1
                && path.starts_with('/')
                && !path.ends_with('/')
                && path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte));
            if !is_path {
                let expected = "a path such as /connection/websocket, without a slash at the end".into();
                self.reader.wrong_value(key, expected, Some(&path.as_str().into()));
            } else if paths.iter().take(index).any(|(_, earlier)| earlier == path) {
                self.contradiction(key, Rule::SamePath);
            }
        }
    }

    fn settings(&mut self, root: &Root, demo: bool, server: &ServerConfig) -> Settings {
        let client = self.client(&root.client);
        let channel = self.channels(root);
        self.personal_channel(root, &channel);
        let user_presence = self.user_presence(&root.user_presence, &client, &channel);
        let mailbox = self.mailbox(root, &client, &channel);
        if client.connection_limit > root.server.max_connections.0 {
            self.notices.push(Notice::ConnectionLimit);
        }
        let served_by_control = demo || (root.http_api.external && !root.http_api.disabled);
        Settings {
            http: HttpSettings {
                websocket_path: root.websocket.handler_prefix.0.clone(),
                message_size_limit: bytes(root.websocket.message_size_limit.0),
                head_size_limit: bytes(root.http_server.head_size_limit.0),
                allowed_origins: self.origins(&root.client.allowed_origins.0),
                hand_over: served_by_control,
            },
            client,
            channel,
            user_presence,
            mailbox,
            events: EventKinds::default(),
            version: concat!(env!("CARGO_PKG_VERSION"), " millpond").into(),
            node_name: node_name(&root.node.name.0, server),
            max_connections: root.server.max_connections.0,
        }
    }

    fn api_notices(&mut self, root: &Root) {
        if root.http_api.insecure && !root.http_api.disabled {
            self.notices.push(Notice::OpenApi);
        }
    }
}

fn api(section: HttpApi) -> ApiConfig {
    ApiConfig {
        enabled: !section.disabled,
        external: section.external,
        key: Some(section.key.0).filter(|key| !key.is_empty()),
        insecure: section.insecure,
        error_mode: section.error_mode.0,
        prefix: section.handler_prefix.0,
    }
}

/// A size as memory is counted; the sections keep sizes far below the bound.
fn bytes(size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}
