//! Events of the real process on their way to a backend (issue 4): through a backend that is down, a kill and a stop,
//! each event at least once, in order, signed, and consistent with what the clients did.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "the bans keep clocks off the data plane; this is a client beside it"
)]

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::hmac;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use jsonwebtoken::{EncodingKey, Header};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

#[path = "support/client.rs"]
mod client;
#[path = "support/server.rs"]
mod server;

use client::Client;
use server::{Server, until};

const SECRET: &str = "whsec_of_the_tests";
const TOKEN_SECRET: &str = "0123456789abcdef0123456789abcdef";

/// What the backend has taken.
#[derive(Default)]
struct Taken {
    up: AtomicBool,
    turned_away: AtomicU64,
    bodies: Mutex<Vec<Value>>,
}

/// An axum server on a thread of its own.
struct Backend {
    address: SocketAddr,
    taken: Arc<Taken>,
}

impl Backend {
    fn start() -> Self {
        let taken = Arc::new(Taken { up: AtomicBool::new(true), ..Taken::default() });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/events", post(take)).with_state(Arc::clone(&taken));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // It ends with the test's process.
        std::thread::spawn(move || {
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                axum::serve(listener, router).await
            })
        });
        Self { address, taken }
    }

    fn set_up(&self, up: bool) {
        self.taken.up.store(up, Ordering::SeqCst);
    }

    /// Epoch and event, once each, in the order of their first arrival; anything out of order fails the test.
    fn events(&self) -> Vec<(String, Value)> {
        let mut newest: BTreeMap<String, u64> = BTreeMap::new();
        let mut events = Vec::new();
        for body in self.taken.bodies.lock().unwrap().iter() {
            let epoch = body["epoch"].as_str().unwrap();
            for event in body["events"].as_array().unwrap() {
                let id = event["id"].as_u64().unwrap();
                let last = newest.entry(epoch.to_owned()).or_insert(id - 1);
                assert!(id <= *last + 1, "{id} after {last}");
                if id > *last {
                    *last = id;
                    events.push((epoch.to_owned(), event.clone()));
                }
            }
        }
        events
    }

    fn count(&self, kind: &str) -> usize {
        self.events().iter().filter(|(_, event)| event["type"] == kind).count()
    }
}

async fn take(State(taken): State<Arc<Taken>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    if !taken.up.load(Ordering::SeqCst) {
        taken.turned_away.fetch_add(1, Ordering::SeqCst);
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let header = |name: &str| headers[name].to_str().unwrap();
    let (time, tag) = header("x-millpond-signature").split_once(",v1=").unwrap();
    let message = [time.strip_prefix("t=").unwrap().as_bytes(), b".", &body].concat();
    let tag: Vec<u8> =
        (0..tag.len()).step_by(2).map(|at| u8::from_str_radix(&tag[at..at + 2], 16).unwrap()).collect();
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    hmac::verify(&key, &message, &tag).expect("our signature");
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(header("x-millpond-delivery"), body["batch"].as_str().unwrap());
    taken.bodies.lock().unwrap().push(body);
    StatusCode::NO_CONTENT
}

fn config(folder: &TempDir, backend: &Backend) -> Value {
    json!({
        "client": { "token": { "hmac_secret_key": TOKEN_SECRET } },
        "channel": {
            "without_namespace": { "allow_subscribe_for_client": true },
            "namespaces": [{ "name": "presence", "allow_subscribe_for_client": true }],
        },
        "user_presence": { "enabled": true },
        "shutdown": { "timeout": "1s" },
        // What the kernel holds survives the end of the process.
        "storage": { "path": folder.path().join("log"), "sync": "os", "segment_size": "1MiB" },
        "webhook": [{
            "name": "backend",
            "url": format!("http://{}/events", backend.address),
            "secret": SECRET,
            "events": [
                "connected", "disconnected", "subscribed", "unsubscribed", "occupied", "vacated",
                "online", "away", "offline",
            ],
            "batch_max_events": 20,
            "batch_max_delay": "100ms",
            "retry_min": "20ms",
            "retry_max": "200ms",
        }],
    })
}

fn connect(address: SocketAddr, user: &str, channel: &str) -> (Client, String) {
    let key = EncodingKey::from_secret(TOKEN_SECRET.as_bytes());
    let token = jsonwebtoken::encode(&Header::default(), &json!({ "sub": user }), &key).unwrap();
    let mut client = Client::open(address, "", None).unwrap();
    client.send_text(&json!({ "id": 1, "connect": { "token": token } }).to_string());
    let id = client.json()["connect"]["client"].as_str().unwrap().to_owned();
    client.send_text(&json!({ "id": 2, "subscribe": { "channel": channel } }).to_string());
    assert_eq!(client.json()["id"], 2);
    (client, id)
}

#[test]
fn events_outlive_a_backend_that_is_down_a_kill_and_a_stop() {
    let (folder, backend) = (TempDir::new().unwrap(), Backend::start());
    let mut server = Server::start(config(&folder, &backend), &["--shards", "2"]);
    let clients: Vec<_> =
        (0..30).map(|n| connect(server.address, &format!("u{n}"), &format!("room{}", n % 5))).collect();
    until("everything is told", || backend.count("subscribed") == 30 && backend.count("online") == 30);
    let events = backend.events();
    assert_eq!((&events[0].1["type"], &events[0].1["id"]), (&json!("started"), &json!(1)));
    assert_eq!((backend.count("connected"), backend.count("occupied")), (30, 5));
    for (number, (_, id)) in clients.iter().enumerate() {
        let told = events.iter().any(|(_, event)| {
            event["type"] == "connected" && event["client"] == **id && event["user"] == format!("u{number}")
        });
        assert!(told, "{id}");
    }
    backend.set_up(false);
    drop(clients);
    let stored = || server.metric("millpond_webhook_events_stored", "backend");
    // Started; connected, subscribed, online; occupied; unsubscribed, disconnected; vacated. Nobody said goodbye.
    until("everything is stored", || stored() >= 1.0 + 90.0 + 5.0 + 60.0 + 5.0);
    until("the backend is asked", || backend.taken.turned_away.load(Ordering::SeqCst) > 3);
    assert_eq!(backend.count("disconnected"), 0);
    assert!(server.metric("millpond_webhook_retries", "backend") >= 3.0);
    assert!(server.metric("millpond_webhook_events_pending", "backend") >= 65.0);
    server.signal(Signal::KILL);
    server.wait();
    let mut server = Server::start(config(&folder, &backend), &["--shards", "3"]);
    let (stays, _) = connect(server.address, "u0", "room0");
    backend.set_up(true);
    until("the rest is told", || backend.count("disconnected") == 30 && backend.count("occupied") == 6);
    assert_eq!((backend.count("unsubscribed"), backend.count("vacated")), (30, 5));
    assert_eq!((backend.count("connected"), backend.count("started")), (31, 2));
    let events = backend.events();
    let second_start = events.iter().rposition(|(_, event)| event["type"] == "started").unwrap();
    let last_end = events.iter().rposition(|(_, event)| event["type"] == "disconnected").unwrap();
    assert!(last_end < second_start && events[0].0 != events[second_start].0);
    assert!(events.iter().all(|(_, event)| event["type"] != "missed" && event["type"] != "overflow"));
    until("nothing waits", || server.metric("millpond_webhook_events_pending", "backend") == 0.0);
    server.signal(Signal::TERM);
    assert!(server.wait().success(), "{}", server.log());
    drop(stays);
    let server = Server::start(config(&folder, &backend), &["--shards", "1"]);
    until("the stop is told", || backend.count("started") == 3 && backend.count("disconnected") == 31);
    let events = backend.events();
    let last = events.iter().rfind(|(_, event)| event["type"] == "disconnected").unwrap();
    assert_eq!((&last.1["by"], &last.1["code"]), (&json!("server"), &json!(3001)));
    assert_eq!(backend.count("offline"), 0, "nobody is offline because a server stops");
    drop(server);
}
