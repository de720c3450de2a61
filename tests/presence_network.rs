//! User presence over real sockets whose network is pulled: a namespace of its own, with one cable for the users and
//! one for the watcher (issue 4, acceptance 6). Needs root, `ip` and two minutes, so it runs only where asked for:
//!
//!   cargo test --test presence_network -- --ignored --nocapture
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

#[path = "support/client.rs"]
mod client;
#[path = "support/server.rs"]
mod server;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use client::{Client, Received};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

const SECRET: &str = "the secret of the network test, long enough";
const SPACE: &str = "millpond-presence";
const USERS: usize = 50;

fn ip(arguments: &str) -> bool {
    Command::new("ip").args(arguments.split(' ')).status().is_ok_and(|status| status.success())
}

/// A namespace with two cables to here: `.1.` for users, `.2.` for the watcher. Undone with the value.
struct Space {
    server: Child,
    _folder: tempfile::TempDir,
}

impl Space {
    fn new() -> Self {
        let _ = ip(&format!("netns del {SPACE}"));
        assert!(ip(&format!("netns add {SPACE}")), "this test needs root and ip");
        for cable in [1, 2] {
            let set_up = [
                format!("link add mp-out{cable} type veth peer name mp-in{cable} netns {SPACE}"),
                format!("addr add 10.213.{cable}.1/24 dev mp-out{cable}"),
                format!("link set mp-out{cable} up"),
                format!("-n {SPACE} addr add 10.213.{cable}.2/24 dev mp-in{cable}"),
                format!("-n {SPACE} link set mp-in{cable} up"),
            ];
            assert!(set_up.iter().all(|step| ip(step)));
        }
        assert!(ip(&format!("-n {SPACE} link set lo up")));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("millpond.toml");
        let config = format!(
            "client.token.hmac_secret_key = \"{SECRET}\"\nuser_presence.enabled = true\n\
             [[channel.namespaces]]\nname = \"presence\"\nallow_subscribe_for_client = true\n"
        );
        std::fs::write(&file, config).unwrap();
        let server = Command::new("ip")
            .args(["netns", "exec", SPACE, env!("CARGO_BIN_EXE_millpond"), "serve", "--config"])
            .arg(&file)
            .args(["--listen", "0.0.0.0:8000", "--shards", "2"])
            .spawn()
            .unwrap();
        Self { server, _folder: folder }
    }

    fn plug(up: bool) {
        assert!(ip(&format!("link set mp-out1 {}", if up { "up" } else { "down" })));
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = ip(&format!("netns del {SPACE}"));
    }
}

/// One attempt to connect.
fn connect(cable: u8, user: &str) -> Option<Client> {
    let address = SocketAddr::from(([10, 213, cable, 2], 8000));
    let claims = json!({ "sub": user });
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap();
    let mut client = Client::open(address, "", None).ok()?;
    client.send_text(&json!({ "id": 1, "connect": { "token": token } }).to_string());
    message(&mut client, Duration::from_secs(5))?["connect"]["client"].is_string().then_some(client)
}

fn connect_at_last(cable: u8, user: &str) -> Client {
    loop {
        match connect(cable, user) {
            Some(client) => return client,
            None => std::thread::sleep(Duration::from_millis(500)),
        }
    }
}

/// Does on a thread what client libraries do: answers pings, and connects again after a close or 35 s of silence.
fn live(user: String) {
    let mut client = connect_at_last(1, &user);
    std::thread::spawn(move || {
        loop {
            match message(&mut client, Duration::from_secs(35)) {
                Some(ping) if ping == json!({}) => client.send_text("{}"),
                Some(_) => {}
                None => client = connect_at_last(1, &user),
            }
        }
    });
}

/// The next message, or `None` if none came or the connection is over.
fn message(client: &mut Client, within: Duration) -> Option<Value> {
    match client.next_within(within)? {
        Received::Message(bytes) => Some(serde_json::from_slice(&bytes).unwrap()),
        Received::Close(..) | Received::End => None,
    }
}

/// What the watcher is told within `span`, by user.
fn watch(watcher: &mut Client, span: Duration) -> HashMap<String, Vec<String>> {
    let start = Instant::now();
    let mut told: HashMap<String, Vec<String>> = HashMap::new();
    while start.elapsed() < span {
        let Some(message) = message(watcher, Duration::from_millis(500)) else { continue };
        if message == json!({}) {
            watcher.send_text("{}");
        }
        let data = &message["push"]["pub"]["data"];
        if let (Some(user), Some(state)) = (data["user"].as_str(), data["state"].as_str()) {
            told.entry(user.to_owned()).or_default().push(state.to_owned());
        }
    }
    told
}

#[test]
#[ignore = "needs root and two minutes"]
fn a_pulled_cable_shows_nobody_offline_for_20_s_and_everybody_once_for_90_s() {
    let _space = Space::new();
    for user in 0..USERS {
        live(format!("u{user}"));
    }
    let mut watcher = connect_at_last(2, "watcher");
    for user in 0..USERS {
        let channel = format!("presence:u{user}");
        watcher.send_text(&json!({ "id": user + 2, "subscribe": { "channel": channel } }).to_string());
        let state = &watcher.json()["subscribe"]["publications"][0]["data"]["state"];
        assert_eq!(state, "online");
    }
    Space::plug(false);
    std::thread::sleep(Duration::from_secs(20));
    Space::plug(true);
    let told = watch(&mut watcher, Duration::from_secs(70));
    println!("20 s without network, then 70 s with: {told:?}");
    assert!(told.is_empty());
    Space::plug(false);
    let told = watch(&mut watcher, Duration::from_secs(90));
    println!("90 s without network: {} users were told offline", told.len());
    assert_eq!(told.len(), USERS);
    assert!(told.values().all(|states| states == &["offline"]), "{told:?}");
}
