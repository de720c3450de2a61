//! Wires shards, control plane and queues; starts them in order and drains them in order.
//!
//! | step | why then |
//! |---|---|
//! | wakers, handover pair, answer queue | must have the same descriptor number in every table |
//! | internal address, probe of the client addresses | a port in use is reported before anything runs |
//! | the log, if there is storage | it may read for a while and may refuse, and then nothing has begun |
//! | shard threads: private table, poller, listeners | each owns what it opens from here on |
//! | store thread | it holds no sockets; what shards ask before waits in its queue |
//! | control plane | after every shard has its own table, or those would keep its connections open |

mod capacity;
mod demo;
mod demo_key;
mod drain;
mod heap;
mod herald;
mod logging;
mod memory;
mod refusals;
mod resident;
pub(crate) mod restart;
mod store;
mod watchdog;
mod webhooks;

use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tracing_appender::non_blocking::ErrorCounter;

use crate::base::hash::NameHash;
use crate::base::heartbeat::Heartbeats;
use crate::base::ids::ShardId;
use crate::base::mesh::Mesh;
use crate::config::{Config, ErrorMode};
use crate::control::answers::{Answers, answer_queue};
use crate::control::gateway::{ApiAsk, Full, GatewaySettings, ShardPort};
use crate::control::handover::HandoverReceiver;
use crate::control::metrics::{MetricsSource, ProcessMemory};
use crate::control::server::{Control, ControlError, ControlHandle, ControlParts, Readiness};
use crate::control::settings::{ApiSettings, ControlSettings, NodeSettings};
use crate::hub::admission::Admission;
use crate::hub::api::STORE;
use crate::hub::auth::{KeyError, Verifier};
use crate::hub::mail::{ApiAsk as ShardAsk, Mail};
use crate::hub::metrics::ShardMetrics;
use crate::hub::shard::{Common, Shard};
use crate::hub::store::StoreFigures;
use crate::net::clock::Clock;
use crate::net::handover::{HandoverSender, handover_pair};
use crate::net::listener::probe;
use crate::net::reactor::{Reactor, ReactorParts};
use crate::net::tables::take_private;
use crate::net::wakers::Wakers;
use crate::store::thread::Store;
use capacity::Plan;
use resident::Stacks;
pub use store::LogError;
use store::{OpenStore, StoreDoor};
use webhooks::Webhooks;

/// Letters that all inboxes hold together. Full, its senders keep their mail and hold back their clients.
const INBOX_LETTERS_OF_ALL: usize = 32 * 1024;

/// Bounds of one inbox.
const INBOX_LETTERS: std::ops::RangeInclusive<usize> = 512..=2048;

/// Answers to the control plane that may wait.
const ANSWERS: usize = 8192;

/// Stack of a shard's thread, in bytes.
const SHARD_STACK: usize = 512 * 1024;

/// How much of it a shard's deepest turns have been seen to use, in bytes: it is touched at the start, so that a shard
/// takes no memory for it in the middle of a peak.
const SHARD_STACK_USED: usize = 16 * 1024;

/// Longest wait of the control plane for a shard.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the gateway could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A client address cannot be listened on.
    #[error(
        "cannot listen on {address}: {source}; is another server running there? Choose another with --listen"
    )]
    Listen {
        /// As configured.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A token key cannot be used.
    #[error("client.token: {0}")]
    Key(#[from] KeyError),
    /// The control plane does not start.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The log cannot be opened.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The demo page could not be switched on.
    #[error("the demo cannot be served: {0}")]
    Demo(#[from] crate::control::demo::DemoError),
    /// The signing key of the demo, which outlives it, cannot be used.
    #[error("the demo cannot be served: {0}")]
    DemoKey(#[from] demo_key::DemoKeyError),
    /// The limit of open files leaves room for nobody.
    #[error(
        "cannot start: the limit of open files is {limit}, and a process with {shards} shards needs {least} for its first \
         connection: raise it (LimitNOFILE, ulimit -n){}", if *shards > 1 { " or take fewer shards (server.shards)" } else { "" }
    )]
    Descriptors {
        /// Of this process.
        limit: u64,
        /// That it would have.
        shards: u16,
        /// Descriptors.
        least: u64,
    },
    /// The operating system refused something that every start needs.
    #[error("cannot start: {0}")]
    Os(#[from] io::Error),
}

/// Everything that runs.
struct Running {
    shards: Vec<JoinHandle<io::Result<()>>>,
    store: Option<Store>,
    control: ControlHandle,
    mesh: Arc<Mesh<Mail>>,
    wakers: Arc<Wakers>,
    common: Arc<Common>,
    readiness: Readiness,
    /// Last, as the log in it must have ended.
    _scratch: Option<demo::Scratch>,
}

/// What this host, under the limits of this process, makes of the configuration, if it is not what was asked for.
///
/// # Errors
/// [`StartError::Descriptors`], as at a start.
pub fn capacity_remark(config: &Config) -> Result<Option<String>, StartError> {
    let plan = Plan::of(config.server.shards, config.settings.max_connections);
    plan.check()?;
    Ok(plan.is_warning().then(|| plan.to_string()))
}

/// Runs the gateway until it is told to stop (SIGTERM or SIGINT), then drains it. SIGHUP calls `on_hang_up`.
///
/// # Errors
/// See [`StartError`].
pub fn serve(config: &Config, on_hang_up: &dyn Fn()) -> Result<(), StartError> {
    heap::set_up();
    let (_log_writer, lines_dropped) = logging::start(&config.log);
    restart::report();
    let shutdown_timeout = config.server.shutdown_timeout;
    let signals = drain::Signals::register()?;
    let running = start(config, lines_dropped)?;
    drain::wait(&signals, running, shutdown_timeout, on_hang_up);
    Ok(())
}

fn start(config: &Config, lines_dropped: ErrorCounter) -> Result<Running, StartError> {
    let plan = Plan::of(config.server.shards, config.settings.max_connections);
    plan.check()?;
    let clock = Clock::start();
    let wakers = Arc::new(Wakers::new(plan.shards)?);
    let (handover, received) = handover_pair()?;
    let (answers, inbox) = answer_queue(ANSWERS)?;
    let mesh = Arc::new(Mesh::new(plan.shards, inbox_letters(plan.shards)));
    let mut settings = config.settings.clone();
    settings.max_connections = plan.connections;
    let mut control_settings = control_settings(config, node_uid()?);
    let (store, scratch) = match config.demo {
        true => demo::start(config, &mut settings, &mut control_settings)?,
        false => (config.storage.as_ref().map(OpenStore::open).transpose()?, None),
    };
    let common = Arc::new(common(settings, plan.shards)?);
    let door = StoreDoor::new(store.as_ref(), answers.clone());
    let webhooks = Webhooks::new(config, store.as_ref()).map_err(ControlError::from)?;
    let figures: Arc<Vec<Mutex<ShardMetrics>>> =
        Arc::new((0..plan.shards).map(|_| Mutex::default()).collect());
    let stacks = Arc::new(Stacks::default());
    let hearts = Arc::new(Heartbeats::new(plan.shards));
    let hasher = NameHash::new(common.secret);
    let home_common = Arc::clone(&common);
    let readiness = Readiness::default();
    let control = Control::bind(ControlParts {
        settings: control_settings,
        gateway: GatewaySettings { shards: plan.shards, timeout: ANSWER_TIMEOUT, outstanding_max: ANSWERS },
        port: Box::new(Port { mesh: Arc::clone(&mesh), wakers: Arc::clone(&wakers), store: door.clone() }),
        home_of: Arc::new(move |channel| home_common.home_of_channel(&hasher, channel)),
        answers: answers.clone(),
        inbox,
        handovers: vec![HandoverReceiver::from(received)],
        metrics: Arc::new(Figures {
            shards: Arc::clone(&figures),
            stacks: Arc::clone(&stacks),
            hearts: Arc::clone(&hearts),
            store: store.as_ref().map(|store| Arc::clone(&store.figures)),
            lines_dropped,
        }),
        webhooks: webhooks.couriers,
        webhook_figures: webhooks.figures,
        readiness: readiness.clone(),
    })?;
    for address in &config.server.listen {
        probe(*address).map_err(|source| StartError::Listen { address: *address, source })?;
    }
    let seed = ShardSeed {
        config,
        plan: &plan,
        common: &common,
        mesh: &mesh,
        wakers: &wakers,
        hearts: &hearts,
        store: &door,
        stacks: &stacks,
        clock,
    };
    let handover = Arc::new(handover);
    let shards = spawn_shards(&seed, &handover, &answers, &figures)?;
    let start = |store: OpenStore| store.start(&common, &mesh, &wakers, &answers, clock, webhooks.queues);
    let store = store.map(start).transpose()?;
    memory::watch(&common, config.server.memory_limit)?;
    refusals::sample(&figures, &hearts, plan.shards)?;
    let control = control.start()?;
    report(config, &plan);
    Ok(Running { shards, store, control, mesh, wakers, common, readiness, _scratch: scratch })
}

fn inbox_letters(shards: u16) -> usize {
    (INBOX_LETTERS_OF_ALL / usize::from(shards.max(1))).clamp(*INBOX_LETTERS.start(), *INBOX_LETTERS.end())
}

/// What all shards are made of.
struct ShardSeed<'a> {
    config: &'a Config,
    plan: &'a Plan,
    common: &'a Arc<Common>,
    mesh: &'a Arc<Mesh<Mail>>,
    wakers: &'a Arc<Wakers>,
    hearts: &'a Arc<Heartbeats>,
    store: &'a StoreDoor,
    stacks: &'a Arc<Stacks>,
    clock: Clock,
}

fn spawn_shards(
    seed: &ShardSeed<'_>,
    handover: &Arc<HandoverSender>,
    answers: &Answers,
    figures: &Arc<Vec<Mutex<ShardMetrics>>>,
) -> Result<Vec<JoinHandle<io::Result<()>>>, StartError> {
    let (opened, ready) = channel();
    let mut threads = Vec::with_capacity(usize::from(seed.plan.shards));
    for id in (0..seed.plan.shards).map(ShardId) {
        let parts = seed.reactor_parts(id, handover, answers.clone(), Arc::clone(figures));
        let (opened, stacks) = (opened.clone(), Arc::clone(seed.stacks));
        let thread = std::thread::Builder::new().name(format!("shard-{}", id.0)).stack_size(SHARD_STACK);
        threads.push(thread.spawn(move || {
            touch_stack();
            stacks.note_own();
            // Where the kernel or a sandbox forbids it, the shards share one table and its limit.
            let private = take_private();
            match Reactor::open(parts) {
                Ok(reactor) => {
                    let _ = opened.send(private);
                    drop(opened);
                    reactor.run()
                }
                Err(error) => {
                    let _ = opened.send(Err(error));
                    Ok(())
                }
            }
        })?);
    }
    drop(opened);
    wait_until_open(&ready, seed)?;
    Ok(threads)
}

/// Touches as much of the calling thread's stack as a shard will use.
#[inline(never)]
fn touch_stack() {
    std::hint::black_box(&mut [0_u8; SHARD_STACK_USED]);
}

fn wait_until_open(ready: &Receiver<io::Result<()>>, seed: &ShardSeed<'_>) -> Result<(), StartError> {
    for _ in 0..seed.plan.shards {
        match ready.recv() {
            Ok(Ok(())) => {}
            Ok(Err(source)) => {
                let address = seed.config.server.listen.first().copied();
                return Err(match address {
                    Some(address) => StartError::Listen { address, source },
                    None => StartError::Os(source),
                });
            }
            Err(_) => return Err(StartError::Os(io::ErrorKind::BrokenPipe.into())),
        }
    }
    Ok(())
}

impl ShardSeed<'_> {
    fn reactor_parts(
        &self,
        id: ShardId,
        handover: &Arc<HandoverSender>,
        answers: Answers,
        figures: Arc<Vec<Mutex<ShardMetrics>>>,
    ) -> ReactorParts {
        let seed = u64::from_le_bytes(self.common.secret[..8].try_into().unwrap_or_default());
        ReactorParts {
            shard: Shard::new(id, Arc::clone(self.common), seed ^ u64::from(id.0)),
            id,
            addresses: self.config.server.listen.clone(),
            keepalive: self.config.server.keepalive,
            mesh: Arc::clone(self.mesh),
            wakers: Arc::clone(self.wakers),
            hearts: Arc::clone(self.hearts),
            shards: self.plan.shards,
            capacity: self.plan.sockets_per_shard,
            answers: Box::new(move |answer| answers.deliver(answer.id, answer.shard, answer.answer)),
            store: self.store.of_shards(),
            publish_metrics: Box::new(move |shard, shell| {
                if let Some(Ok(mut place)) = figures.get(usize::from(id.0)).map(Mutex::try_lock) {
                    *place = shard.figures(shell.inbox, shell.buffer_bytes, shell.mesh_bytes);
                }
            }),
            handover: Some(Arc::clone(handover)),
            clock: self.clock.of_shard(id, self.plan.shards),
            hasher: NameHash::new(self.common.secret),
        }
    }
}

fn common(settings: crate::hub::settings::Settings, shards: u16) -> Result<Common, StartError> {
    let mut secret = [0; 16];
    getrandom::fill(&mut secret).map_err(|error| StartError::Os(io::Error::other(error)))?;
    let client = &settings.client;
    let verifier = |token| Ok::<_, KeyError>(Verifier::new(token)?.ignoring_expiry(client.insecure));
    let connection_tokens = verifier(&client.token)?;
    let subscription_tokens = verifier(client.subscription_token.as_ref().unwrap_or(&client.token))?;
    Ok(Common {
        shards,
        secret,
        admission: Admission::default(),
        connection_tokens,
        subscription_tokens,
        settings,
    })
}

/// A version 4 UUID (RFC 9562 section 5.4): process ids repeat, in containers nearly always.
fn node_uid() -> Result<String, StartError> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| StartError::Os(io::Error::other(error)))?;
    let bits = u128::from_be_bytes(random) & !(0xF << 76 | 0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let field = |from: u32, digits: usize| format!("{:0digits$x}", bits >> from & ((1 << (digits * 4)) - 1));
    Ok([field(96, 8), field(80, 4), field(64, 4), field(48, 4), field(0, 12)].join("-"))
}

fn control_settings(config: &Config, uid: String) -> ControlSettings {
    let api = ApiSettings {
        key: config.api.key.clone(),
        insecure: config.api.insecure,
        error_mode: match config.api.error_mode {
            ErrorMode::Reply => crate::control::settings::ErrorMode::Body,
            ErrorMode::Transport => crate::control::settings::ErrorMode::Transport,
        },
        prefix: config.api.prefix.clone(),
        enabled: config.api.enabled,
        external: config.api.external,
        message_bytes: message_bytes(config),
        ..ApiSettings::default()
    };
    let node = NodeSettings {
        uid,
        name: config.settings.node_name.clone(),
        version: config.settings.version.clone(),
    };
    ControlSettings {
        internal_address: Some(config.server.internal_listen),
        api,
        node,
        health: config.health.clone(),
        prometheus: config.prometheus.clone(),
        ..ControlSettings::default()
    }
}

/// `None` where there are no mailboxes.
fn message_bytes(config: &Config) -> Option<usize> {
    config.settings.mailbox.as_ref()?;
    config.storage.as_ref().map(|storage| storage.message_bytes(&config.settings.client))
}

fn report(config: &Config, plan: &Plan) {
    tracing::info!(
        version = config.settings.version,
        shards = plan.shards,
        connections = plan.connections,
        listen = ?config.server.listen,
        internal = %config.server.internal_listen,
        "ready"
    );
    if plan.is_warning() {
        tracing::warn!("{plan}");
    } else {
        tracing::info!("{plan}");
    }
    for notice in &config.notices {
        tracing::warn!("{notice}");
    }
    for key in &config.unserved {
        tracing::warn!("{key} is not served by this version and has no effect");
    }
    if config.demo {
        for address in &config.server.listen {
            tracing::info!("the demo is at http://{address}/ (this machine only)");
        }
    }
}

/// The control plane's way into the shards and to the store.
struct Port {
    mesh: Arc<Mesh<Mail>>,
    wakers: Arc<Wakers>,
    store: StoreDoor,
}

impl ShardPort for Port {
    fn send(&self, shard: ShardId, ask: ApiAsk) -> Result<(), Full> {
        let ask = ShardAsk { id: ask.id, command: ask.command };
        if shard == STORE {
            let full = |back: Box<ShardAsk>| Full(Box::new(ApiAsk { id: back.id, command: back.command }));
            return self.store.call(ask).map_err(full);
        }
        let mail = Mail::Api(Box::new(ask));
        let pushed = self.mesh.push(shard, mail);
        if self.mesh.needs_wake(shard) {
            self.wakers.wake(shard);
        }
        match pushed {
            Err(Mail::Api(back)) => Err(Full(Box::new(ApiAsk { id: back.id, command: back.command }))),
            _ => Ok(()),
        }
    }
}

/// The latest figures of every shard, of the store and of the process.
struct Figures {
    shards: Arc<Vec<Mutex<ShardMetrics>>>,
    stacks: Arc<Stacks>,
    hearts: Arc<Heartbeats>,
    store: Option<Arc<Mutex<Option<StoreFigures>>>>,
    lines_dropped: ErrorCounter,
}

impl MetricsSource for Figures {
    fn shards(&self) -> Vec<ShardMetrics> {
        let latest =
            self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).clone());
        (0..)
            .zip(latest)
            .map(|(id, of)| ShardMetrics { standstills: self.hearts.stalls(ShardId(id)), ..of })
            .collect()
    }

    fn log_lines_dropped(&self) -> u64 {
        self.lines_dropped.dropped_lines() as u64
    }

    fn store(&self) -> Option<StoreFigures> {
        *self.store.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn process_memory(&self) -> ProcessMemory {
        resident::look(&self.stacks)
    }
}
