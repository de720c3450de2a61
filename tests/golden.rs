//! Replays recorded exchanges of a correct server (shared/docs/golden-traces.txt) and demands the same bytes. Ids,
//! epochs and the server's version are masked consistently: a value once learned must come back wherever it stood.
//! The boundaries of frames are not compared, since they depend on what was ready when the server wrote.
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

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

#[path = "support/client.rs"]
mod client;
#[path = "support/server.rs"]
mod server;
#[path = "support/trace.rs"]
mod trace;

use client::{Client, Received, read_varint};
use server::Server;
use trace::{Exchange, Step, Variables};

/// Exchanges that this version does not offer, by their headings.
const OUT_OF_SCOPE: &[(&str, &str)] = &[
    ("Fossil delta over JSON", "delta compression comes with a later issue"),
    ("Fossil delta over JSON: recovery from offset 0", "delta compression comes with a later issue"),
    ("Map: state -> live, publish, remove", "map subscriptions are out of scope"),
    ("http_stream + emulation", "emulated transports come with a later issue"),
    ("sse", "emulated transports come with a later issue"),
];

/// What the server API was called with, which the recording does not say; by heading, in order.
const API_CALLS: &[(&str, &str, &str)] = &[(
    "JSON: connect, pipelined subscribe in one frame",
    "publish",
    r#"{"channel":"recovery:g1","data":{"x": 1}}"#,
)];

/// Replays one exchange in a way of its own.
type ByHand = fn(&mut Replay<'_>, &Exchange) -> Result<(), String>;

/// Exchanges whose steps are not all in the recording.
const BY_HAND: &[(&str, ByHand)] = &[
    ("oversize 70k < CLOSE 1009", oversize),
    ("JSON subscriber receives a publication that is not JSON", not_json),
    ("app-level ping / no pong (JSON)", ping),
];

/// Nothing may follow an exchange; this is how long it is waited for.
const SILENCE: Duration = Duration::from_millis(50);

/// The configuration of the recording.
fn config() -> Value {
    json!({
        "client": { "insecure": true, "token": { "hmac_secret_key": "secret" } },
        "channel": {
            "without_namespace": {
                "presence": true, "history_size": 100, "history_ttl": "300s", "force_recovery": true
            },
            "namespaces": [
                { "name": "recovery", "history_size": 100, "history_ttl": "300s", "force_recovery": true },
                // Subscriptions of another kind than streams are refused.
                { "name": "streamless", "subscription_type": "map" }
            ]
        }
    })
}

#[test]
fn every_exchange_in_scope_replays_with_the_same_bytes() {
    let Some(path) = recording() else { return };
    let text = std::fs::read_to_string(path).unwrap();
    let exchanges = trace::parse(&text);
    for (name, _) in OUT_OF_SCOPE {
        assert!(exchanges.iter().any(|exchange| exchange.name == *name), "`{name}` is not in the recording");
    }
    let server = Server::start(config(), &["--shards", "2"]);
    let mut replay = Replay { server: &server, variables: Variables::of(&text) };
    let mut faults = Vec::new();
    let mut replayed = 0;
    for exchange in &exchanges {
        if OUT_OF_SCOPE.iter().any(|(name, _)| exchange.name == *name) {
            continue;
        }
        replayed += 1;
        if let Err(fault) = replay.run(exchange) {
            faults.push(format!("{}: {fault}", exchange.name));
        }
    }
    assert!(replayed >= 20, "only {replayed} exchanges were found");
    assert!(faults.is_empty(), "{} of {replayed} differ\n{}", faults.len(), faults.join("\n"));
}

/// Where the recording is. CI has it beside the repository; a lone clone may not have it, and says so.
fn recording() -> Option<PathBuf> {
    let shared = match std::env::var_os("MILLPOND_SHARED") {
        Some(folder) => Some(PathBuf::from(folder)),
        None => {
            let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().skip(1);
            above.map(|folder| folder.join("shared")).find(|folder| folder.join("docs").is_dir())
        }
    };
    let path = shared.map(|folder| folder.join("docs/golden-traces.txt")).filter(|path| path.is_file());
    assert!(path.is_some() || std::env::var_os("CI").is_none(), "CI must have shared/docs/golden-traces.txt");
    if path.is_none() {
        eprintln!("no shared folder beside the repository (or in MILLPOND_SHARED): nothing was replayed");
    }
    path
}

/// A server and what has been learned about it.
struct Replay<'a> {
    server: &'a Server,
    variables: Variables,
}

impl Replay<'_> {
    fn run(&mut self, exchange: &Exchange) -> Result<(), String> {
        if let Some((_, by_hand)) = BY_HAND.iter().find(|(name, _)| exchange.name == *name) {
            return by_hand(self, exchange);
        }
        let query = if exchange.name == "frame ping pong mode" { "?cf_ws_frame_ping_pong=true" } else { "" };
        let offered = exchange.is_protobuf().then_some("centrifuge-protobuf");
        let mut client =
            Client::open(self.server.address, query, offered).map_err(|error| error.to_string())?;
        if client.subprotocol.as_deref() != offered {
            return Err(format!("the subprotocol {:?} was negotiated", client.subprotocol));
        }
        for step in &exchange.steps {
            self.step(&mut client, exchange, step)?;
        }
        match client.next_within(SILENCE) {
            None | Some(Received::End) => Ok(()),
            Some(more) => Err(format!("there came more than was recorded: {more:?}")),
        }
    }

    fn step(&mut self, client: &mut Client, exchange: &Exchange, step: &Step) -> Result<(), String> {
        match step {
            Step::Send(frame) => {
                let frame = self.variables.translate(frame);
                if exchange.is_protobuf() {
                    client.send_binary(&frame);
                } else {
                    client.send_text(std::str::from_utf8(&frame).unwrap());
                }
                Ok(())
            }
            Step::Receive(recorded) => {
                let Received::Message(actual) = client.next() else {
                    return Err("no message came".to_owned());
                };
                if !exchange.is_protobuf() {
                    return self.variables.matches(recorded, &actual);
                }
                // A frame in hexadecimal starts with the length that the client has taken off.
                let (length, recorded) = read_varint(recorded);
                assert!(usize::try_from(length).unwrap() <= recorded.len(), "a torn recording");
                self.matches_delimited(recorded, usize::try_from(length).unwrap(), &actual, client)
            }
            Step::Close(code, reason) => match client.next() {
                Received::Close(now, why) if now == *code && why == *reason => Ok(()),
                other => Err(format!("expected a close with {code} `{reason}`, there came {other:?}")),
            },
            Step::Api(answer) => self.call_api(exchange, answer),
        }
    }

    /// Compares a recorded binary frame, which may hold several messages, with as many messages as it holds.
    fn matches_delimited(
        &mut self,
        recorded: &[u8],
        length: usize,
        actual: &[u8],
        client: &mut Client,
    ) -> Result<(), String> {
        let (message, rest) = recorded.split_at(length);
        self.variables.matches(&mask_version(message), &mask_version(actual))?;
        if rest.is_empty() {
            return Ok(());
        }
        let (length, rest) = read_varint(rest);
        let Received::Message(actual) = client.next() else { return Err("no message came".to_owned()) };
        self.matches_delimited(rest, usize::try_from(length).unwrap(), &actual, client)
    }

    fn call_api(&mut self, exchange: &Exchange, answer: &str) -> Result<(), String> {
        let (_, method, body) =
            API_CALLS.iter().find(|(name, ..)| exchange.name == *name).expect("a call is named");
        let actual: Value = serde_json::from_str(&self.server.api(method, body)).unwrap();
        let recorded: Value = serde_json::from_str(answer).unwrap();
        // The order of members is not part of the server API; it is the same after parsing.
        self.variables.matches(recorded.to_string().as_bytes(), actual.to_string().as_bytes())
    }
}

/// Takes the server's version out of a Protobuf connect reply, with the lengths that belong to it; any other message
/// comes back as it is.
fn mask_version(message: &[u8]) -> Vec<u8> {
    const CONNECT: u64 = 5 << 3 | 2;
    const VERSION: u64 = 2 << 3 | 2;
    let mut fields = read_fields(message);
    for (tag, value) in &mut fields {
        if *tag == CONNECT {
            let mut inner = read_fields(value);
            for (tag, value) in &mut inner {
                if *tag == VERSION {
                    *value = b"-".to_vec();
                }
            }
            *value = write_fields(&inner);
        }
    }
    write_fields(&fields)
}

/// Fields as tag and content: the bytes of a length-delimited field, the bytes of a varint.
fn read_fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let (tag, rest) = read_varint(bytes);
        let (value, rest) = read_varint(rest);
        let length = if tag & 7 == 2 { usize::try_from(value).unwrap() } else { 0 };
        let content = if tag & 7 == 2 { rest[..length].to_vec() } else { varint(value) };
        fields.push((tag, content));
        bytes = &rest[length..];
    }
    fields
}

fn write_fields(fields: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (tag, content) in fields {
        bytes.extend(varint(*tag));
        if tag & 7 == 2 {
            bytes.extend(varint(content.len() as u64));
        }
        bytes.extend(content);
    }
    bytes
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    bytes.push(value.to_le_bytes()[0]);
    bytes
}

/// A message of 70,000 bytes is closed with the code of RFC 6455.
fn oversize(replay: &mut Replay<'_>, _: &Exchange) -> Result<(), String> {
    let (mut client, _) = Client::connected(replay.server.address);
    client.send_text(&format!("{{\"id\":2,\"rpc\":{{\"data\":\"{}\"}}}}", "x".repeat(70_000)));
    match client.read_to_the_end() {
        Some((1009, _)) => Ok(()),
        other => Err(format!("expected a close with 1009, there came {other:?}")),
    }
}

/// The recording shows the subscriber's side only; a Protobuf client publishes.
fn not_json(replay: &mut Replay<'_>, exchange: &Exchange) -> Result<(), String> {
    let [Step::Receive(subscribed), Step::Close(code, reason)] = exchange.steps.as_slice() else {
        return Err("the recording is not as expected".to_owned());
    };
    let (mut subscriber, _) = Client::connected(replay.server.address);
    subscriber.send_text(r#"{"id":2,"subscribe":{"channel":"notjson"}}"#);
    let Received::Message(reply) = subscriber.next() else { return Err("no reply came".to_owned()) };
    replay.variables.matches(subscribed, &reply)?;

    let mut publisher = Client::open(replay.server.address, "", Some("centrifuge-protobuf")).unwrap();
    // id 1, connect; id 2, publish "hello" to "notjson".
    publisher.send_binary(b"\x04\x08\x01\x22\x00\x14\x08\x02\x3a\x10\x0a\x07notjson\x12\x05hello");
    match subscriber.next() {
        Received::Close(now, why) if now == *code && why == *reason => Ok(()),
        other => Err(format!("expected a close with {code} `{reason}`, there came {other:?}")),
    }
}

/// Pings in seconds instead of half minutes: the same frames, answered once and then no more.
fn ping(_: &mut Replay<'_>, _: &Exchange) -> Result<(), String> {
    let mut quick = config();
    quick["client"]["ping_interval"] = json!("2s");
    quick["client"]["pong_timeout"] = json!("1s");
    let server = Server::start(quick, &["--shards", "1"]);
    let mut client = Client::open(server.address, "", None).unwrap();
    client.send_text(r#"{"id":1,"connect":{}}"#);
    let reply = client.json();
    if reply["connect"]["ping"] != 2 || reply["connect"]["pong"] != true {
        return Err(format!("ping and pong are not announced: {reply}"));
    }
    let expected = Received::Message(b"{}".to_vec());
    for _ in 0..2 {
        let ping = client.next();
        if ping != expected {
            return Err(format!("expected a ping, there came {ping:?}"));
        }
        client.send_text("{}");
    }
    let ping = client.next();
    let close = client.next();
    if ping == expected && close == Received::Close(3012, "no pong".to_owned()) {
        return Ok(());
    }
    Err(format!("expected a ping and a close with 3012, there came {ping:?} and {close:?}"))
}

mod checker {
    use super::*;

    #[test]
    fn a_version_is_masked_with_the_lengths_around_it() {
        let ours = [&[8, 1, 0x2a, 9][..], b"\x0a\x02id\x12\x030.1"].concat();
        let masked = [&[8, 1, 0x2a, 7][..], b"\x0a\x02id\x12\x01-"].concat();
        assert_eq!(mask_version(&ours), masked);
        let other = [8, 3, 0x42, 0, 0x18, 0x96, 0x01];
        assert_eq!(mask_version(&other), other);
    }
}
