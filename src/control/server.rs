//! The control plane as a thread: two doors, one router.
//!
//! | door | who comes | what is served |
//! |---|---|---|
//! | internal address | backends, operators | server API, `/health`, `/metrics` |
//! | sockets handed over by shards | anybody | server API (never without a key), `/health`, the demo page if switched on |
//!
//! A handed-over connection serves one request and is closed: its next one may be for a shard.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};

use super::answers::{AnswerInbox, Answers};
use super::api::{self, Api};
use super::api_metrics::ApiMetrics;
use super::demo;
use super::gateway::{Gateway, GatewaySettings, HomeOf, ShardPort};
use super::handover::{HandoverReceiver, Handovers};
use super::metrics::{self, Metrics, MetricsSource};
use super::settings::{ControlSettings, HttpLimits};
use super::stream::GuardedStream;
use super::webhook::metrics::WebhookFigures;
use super::webhook::task::{ClientError, Courier};

/// What `app` hands in. Everything that holds descriptors is made before the shards take their private tables.
pub struct ControlParts {
    /// As configured.
    pub settings: ControlSettings,
    /// Bounds of the seam to the shards.
    pub gateway: GatewaySettings,
    /// The way into the shards.
    pub port: Box<dyn ShardPort>,
    /// Which shard is a channel's home.
    pub home_of: HomeOf,
    /// The sending end of `inbox`, for its figures.
    pub answers: Answers,
    /// The way back from the shards.
    pub inbox: AnswerInbox,
    /// One for each shard.
    pub handovers: Vec<HandoverReceiver>,
    /// Figures of the shards.
    pub metrics: Arc<dyn MetricsSource>,
    /// Deliver events to backends.
    pub webhooks: Vec<Courier>,
    /// Their figures.
    pub webhook_figures: Vec<WebhookFigures>,
    /// Whether newcomers are welcome.
    pub readiness: Readiness,
}

/// What `/health` says; clones share it. Ready at first.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// From now on `/health` answers 503, so that no load balancer sends anybody here any more.
    pub fn end(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn has_ended(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Why the control plane does not start.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The internal address cannot be listened on.
    #[error("cannot listen on the internal address {address}: {source}")]
    Bind {
        /// As configured.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A configured path is none, or two of them are the same.
    #[error(
        "{0:?} cannot be served: a path begins with '/', ends without one and belongs to one endpoint only; \
         / and /demo belong to the demo page"
    )]
    Path(String),
    /// A webhook cannot be delivered to.
    #[error(transparent)]
    Webhook(#[from] ClientError),
    /// The runtime or its thread cannot be made.
    #[error("cannot start the control plane: {0}")]
    Start(#[from] io::Error),
}

/// The control plane before it runs.
pub struct Control {
    parts: ControlParts,
    listener: Option<TcpListener>,
}

/// The running control plane.
pub struct ControlHandle {
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

impl Control {
    /// Takes the internal address. Call it before the shards start, so that a port in use is known at once.
    ///
    /// # Errors
    /// [`ControlError::Bind`], [`ControlError::Path`].
    pub fn bind(parts: ControlParts) -> Result<Self, ControlError> {
        check_paths(&parts.settings)?;
        let listener = parts.settings.internal_address.map(listen).transpose()?;
        Ok(Self { parts, listener })
    }

    /// Where the internal door really is, for a configured port 0.
    #[must_use]
    pub fn internal_address(&self) -> Option<SocketAddr> {
        self.listener.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Starts the thread. Call it after every shard has taken its private descriptor table: a table taken later would
    /// hold copies of the control plane's connections, which then would never close.
    ///
    /// # Errors
    /// [`ControlError::Start`].
    pub fn start(self) -> Result<ControlHandle, ControlError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = watch::channel(false);
        let stopped = Stopped(stopped);
        let thread = std::thread::Builder::new().name("control".to_owned()).spawn(move || {
            if let Err(error) = runtime.block_on(run(self, stopped)) {
                tracing::error!(%error, "the control plane has failed");
            }
            // What is still under way after the grace period is cut off.
            runtime.shutdown_background();
        })?;
        Ok(ControlHandle { stop, thread })
    }
}

impl ControlHandle {
    /// Stops accepting, lets requests under way end for at most [`STOP_GRACE`], and waits for the thread.
    pub fn stop(self) {
        self.stop.send_replace(true);
        if self.thread.join().is_err() {
            tracing::error!("the control thread has panicked");
        }
    }
}

/// How long requests under way may take after the stop.
pub const STOP_GRACE: Duration = Duration::from_secs(5);

/// Pause after a failed accept, for want of descriptors mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Headers of a request.
const HEADERS_MAX: usize = 64;
/// Read buffer of a connection, and so the bound of a request head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Said to who comes when all places are taken.
const UNAVAILABLE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Retry-After: 1\r\nContent-Length: 21\r\nConnection: close\r\n\r\ntoo many connections\n";

/// A router panics on paths that it cannot tell apart, so they are looked at before.
fn check_paths(settings: &ControlSettings) -> Result<(), ControlError> {
    let prefix = Some(&settings.api.prefix).filter(|_| settings.api.enabled);
    let demo = settings.demo.is_some();
    let mut seen = if demo { vec![demo::ROOT, demo::PREFIX] } else { Vec::new() };
    for path in [prefix, settings.health.as_ref(), settings.prometheus.as_ref()].into_iter().flatten() {
        let is_path =
            path.starts_with('/') && !path.ends_with('/') && !path.contains(['{', '}', '*', ':', '?', '#']);
        let is_taken = seen.contains(&path.as_str()) || (demo && path.starts_with("/demo/"));
        if !is_path || is_taken {
            return Err(ControlError::Path(path.clone()));
        }
        seen.push(path);
    }
    Ok(())
}

fn listen(address: SocketAddr) -> Result<TcpListener, ControlError> {
    let listener = TcpListener::bind(address).map_err(|source| ControlError::Bind { address, source })?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

async fn run(control: Control, mut stopped: Stopped) -> io::Result<()> {
    let ControlParts { settings, gateway, port, home_of, answers, inbox, handovers, metrics, .. } =
        control.parts;
    let (webhooks, webhook_figures) = (control.parts.webhooks, control.parts.webhook_figures);
    let (limits, readiness) = (settings.limits, control.parts.readiness);
    let gateway = Gateway::new(port, home_of, gateway);
    let (mut metrics, api_metrics) = Metrics::new(metrics, answers, settings.node.version.clone());
    let api = Arc::new(Api::new(
        settings.api.clone(),
        limits,
        settings.node.clone(),
        gateway.clone(),
        api_metrics.clone(),
    ));
    metrics.add_webhooks(webhook_figures);
    tokio::spawn(gateway.clone().receive(inbox));
    for courier in webhooks {
        tokio::spawn(deliver(courier, stopped.clone()));
    }

    let internal = internal_router(&settings, &readiness, Arc::clone(&api), metrics);
    let client = client_router(&settings, &readiness, api, gateway);
    let internal = Door::new(internal, true, limits, stopped.clone(), api_metrics.clone());
    let client = Door::new(client, false, limits, stopped.clone(), api_metrics);
    for receiver in handovers {
        tokio::spawn(client.clone().take_over(receiver.register()?));
    }
    if let Some(listener) = control.listener {
        tokio::spawn(internal.clone().accept(tokio::net::TcpListener::from_std(listener)?));
    }
    stopped.wait().await;
    let _ = timeout(STOP_GRACE, async {
        internal.drained().await;
        client.drained().await;
    })
    .await;
    Ok(())
}

/// What is under way at the stop is delivered again after the next start.
async fn deliver(courier: Courier, mut stopped: Stopped) {
    tokio::select! {
        () = courier.run() => {}
        () = stopped.wait() => {}
    }
}

fn internal_router(
    settings: &ControlSettings,
    readiness: &Readiness,
    api: Arc<Api>,
    metrics: Metrics,
) -> Router {
    let mut router = common_router(settings, readiness, api, settings.api.enabled);
    if let Some(path) = &settings.prometheus {
        router = router.merge(Router::new().route(path, get(scrape)).with_state(Arc::new(metrics)));
    }
    with_refusals(router)
}

fn client_router(
    settings: &ControlSettings,
    readiness: &Readiness,
    api: Arc<Api>,
    gateway: Gateway,
) -> Router {
    let router = common_router(settings, readiness, api, settings.api.is_external());
    with_refusals(match settings.demo.clone() {
        Some(settings) => router.merge(demo::router(settings, gateway)),
        None => router,
    })
}

/// A refusal says in words what it is, also to who typed the address.
fn with_refusals(router: Router) -> Router {
    router
        .method_not_allowed_fallback(async || (StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n"))
        .fallback(async || (StatusCode::NOT_FOUND, "not found\n"))
}

fn common_router(settings: &ControlSettings, readiness: &Readiness, api: Arc<Api>, with_api: bool) -> Router {
    let mut router = if with_api { api::router(api) } else { Router::new() };
    if let Some(path) = &settings.health {
        router = router.merge(Router::new().route(path, get(health)).with_state(readiness.clone()));
    }
    router
}

async fn health(State(readiness): State<Readiness>) -> Response {
    if readiness.has_ended() {
        return (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n").into_response();
    }
    ([(header::CONTENT_TYPE, "application/json")], "{}").into_response()
}

async fn scrape(State(metrics): State<Arc<Metrics>>) -> Response {
    match metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// A way in, with its routes and its bound.
#[derive(Clone)]
struct Door {
    router: Router,
    keep_alive: bool,
    limits: HttpLimits,
    places: Arc<Semaphore>,
    places_max: usize,
    stopped: Stopped,
    metrics: ApiMetrics,
}

/// The signal to stop.
#[derive(Clone)]
struct Stopped(watch::Receiver<bool>);

impl Stopped {
    async fn wait(&mut self) {
        // An error means that the handle is gone, which is a stop as well.
        drop(self.0.wait_for(|stopped| *stopped).await);
    }
}

impl Door {
    fn new(
        router: Router,
        keep_alive: bool,
        limits: HttpLimits,
        stopped: Stopped,
        metrics: ApiMetrics,
    ) -> Self {
        let places_max =
            if keep_alive { limits.internal_connections } else { limits.handed_over_connections };
        let places = Arc::new(Semaphore::new(places_max));
        Self { router, keep_alive, limits, places, places_max, stopped, metrics }
    }

    async fn accept(mut self, listener: tokio::net::TcpListener) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stopped.wait() => return,
            };
            match accepted {
                Ok((socket, _)) => self.admit(socket, Bytes::new()),
                Err(error) => {
                    tracing::warn!(%error, "the internal address cannot accept");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn take_over(mut self, mut handovers: Handovers) {
        loop {
            let next = tokio::select! {
                next = handovers.next() => next,
                () = self.stopped.wait() => return,
            };
            match next.and_then(|next| {
                next.map(|of| Ok((TcpStream::from_std(of.socket)?, of.already_read))).transpose()
            }) {
                Ok(Some((socket, already_read))) => self.admit(socket, already_read),
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be taken over");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit(&self, socket: TcpStream, already_read: Bytes) {
        // Answers are written whole; waiting to fill a segment would only delay the next one on the connection.
        let _ = socket.set_nodelay(true);
        match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => drop(tokio::spawn(self.clone().serve(socket, already_read, place))),
            Err(_) => {
                self.metrics.refuse("no_place");
                turn_away(socket);
            }
        }
    }

    async fn serve(mut self, socket: TcpStream, already_read: Bytes, _place: OwnedSemaphorePermit) {
        let stream = TokioIo::new(GuardedStream::new(socket, already_read, self.limits.write_stall));
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(self.limits.head_timeout)
            .keep_alive(self.keep_alive)
            .half_close(true)
            .max_headers(HEADERS_MAX)
            .max_buf_size(HEAD_BYTES_MAX);
        let mut connection =
            std::pin::pin!(http.serve_connection(stream, TowerToHyperService::new(self.router)));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.stopped.wait() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection to the control plane broke");
        }
    }

    /// Once nobody is being served.
    async fn drained(&self) {
        let all = u32::try_from(self.places_max).unwrap_or(u32::MAX);
        let _ = self.places.acquire_many(all).await;
    }
}

/// A refusal costs one write; whoever cannot take it learns from the close.
fn turn_away(socket: TcpStream) {
    if let Ok(mut socket) = socket.into_std() {
        let _ = socket.write(UNAVAILABLE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::settings::DemoSettings;

    #[test]
    fn paths_that_a_router_cannot_hold_are_refused() {
        let check = |with_demo: bool, prefix: &str, health: &str, prometheus: &str| {
            let mut settings =
                ControlSettings { health: Some(health.to_owned()), ..ControlSettings::default() };
            settings.prometheus = Some(prometheus.to_owned());
            settings.api.prefix = prefix.to_owned();
            settings.demo = with_demo.then(|| DemoSettings {
                hmac_secret_key: String::new(),
                websocket_path: String::new(),
                mailboxes: false,
            });
            check_paths(&settings).is_ok()
        };
        let with = |prefix: &str, health: &str, prometheus: &str| check(true, prefix, health, prometheus);
        assert!(with("/api", "/health", "/metrics"));
        assert!(with("/a/b", "/a/b/health", "/m"));
        assert!(check(false, "/api", "/demo/health", "/demo"), "nothing else is there");
        for (prefix, health, prometheus) in [
            ("", "/health", "/metrics"),
            ("api", "/health", "/metrics"),
            ("/api/", "/health", "/metrics"),
            ("/api/{x}", "/health", "/metrics"),
            ("/api", "/same", "/same"),
            ("/api", "/", "/metrics"),
            ("/api", "/demo/app.js", "/metrics"),
        ] {
            assert!(!with(prefix, health, prometheus), "{prefix} {health} {prometheus}");
        }
    }
}
