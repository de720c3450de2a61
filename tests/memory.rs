//! Memory from outside: what the server says it holds is what the kernel says it has, and it gives it back.
//!
//! What is compared is growth, of all categories with all resident memory. The categories of the shards are compared with
//! anonymous memory as well, so that none of the process's own (holes in the allocator, pages of files) stands in for
//! something that a shard forgot to count; there a few hundred kilobytes are a tenth of it all at this number of
//! connections. At 100,000 and at a million `cargo xtask bench` records the ratio of the first kind.
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

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use jsonwebtoken::{EncodingKey, Header, encode};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

#[path = "support/server.rs"]
mod server;

use server::{PATIENCE, Server, until};

const KEY: &str = "a key of this test, thirty-two bytes";
/// As many as one descriptor table of this machine's kind (20,000) lets the client hold.
const CONNECTIONS: u64 = 16_000;
/// Expiry of the tokens: 2100.
const EXPIRY: u64 = 4_102_444_800;

/// A connection as real ones are: own token with expiry, own user, personal channel, presence.
fn connection(address: SocketAddr, number: u64) -> TcpStream {
    let claims = json!({ "sub": format!("user-{number}"), "exp": EXPIRY });
    let token = encode(&Header::default(), &claims, &EncodingKey::from_secret(KEY.as_bytes())).unwrap();
    let command = json!({ "id": 1, "connect": { "token": token } }).to_string();
    let length = u16::try_from(command.len()).unwrap().to_be_bytes();
    let mut request = format!(
        "GET /connection/websocket HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .into_bytes();
    request.extend_from_slice(&[0x81, 0x80 | 126, length[0], length[1], 0, 0, 0, 0]);
    request.extend_from_slice(command.as_bytes());
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&request).unwrap();
    stream
}

/// Reads the 101 and the connect reply.
fn answered(stream: &mut TcpStream) {
    let mut answer = Vec::new();
    let mut buffer = [0; 2048];
    while !answer.windows(9).any(|part| part == b"\"connect\"") {
        let count = stream.read(&mut buffer).unwrap();
        assert!(count > 0, "closed after {}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&buffer[..count]);
    }
}

fn crowd(address: SocketAddr, connections: u64) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    for first in (0..connections).step_by(64) {
        let mut some: Vec<_> =
            (first..connections.min(first + 64)).map(|number| connection(address, number)).collect();
        some.iter_mut().for_each(answered);
        streams.extend(some);
    }
    streams
}

/// Descriptors for the connections of the client, as far as the hard limit goes.
fn raise_descriptor_limit() -> u64 {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    CONNECTIONS.min(maximum.unwrap_or(u64::MAX).saturating_sub(500))
}

#[test]
fn what_is_accounted_for_is_what_is_resident_and_it_is_given_back() {
    let connections = raise_descriptor_limit();
    let config = json!({
        "client": {
            "token": { "hmac_secret_key": KEY },
            "subscribe_to_user_personal_channel": { "enabled": true }
        },
        "channel": { "without_namespace": { "presence": true } }
    });
    let server = Server::start(config, &["--shards", "2", "--max-connections", "20000"]);
    let accounted = || server.metric("millpond_memory_bytes", "");
    let of_shards = || server.metric("millpond_shard_memory_bytes", "");
    // The first page of figures touches what it takes to make one.
    accounted();
    let (rss, anonymous) = (server.resident_bytes() as f64, server.anonymous_bytes() as f64);
    let (accounted_at_start, of_shards_at_start) = (accounted(), of_shards());

    let streams = crowd(server.address, connections);
    until("the figures show everybody", || {
        server.metric("millpond_node_num_clients", "") >= connections as f64
            && server.metric("millpond_node_num_users", "") >= connections as f64
    });
    // What is counted and what is resident are looked at one after the other: both must have come to rest.
    until("all that is resident is accounted for", || {
        let (grown, explained) = (server.resident_bytes() as f64 - rss, accounted() - accounted_at_start);
        (0.95..1.05).contains(&(explained / grown))
    });
    let grown = server.anonymous_bytes() as f64 - anonymous;
    let explained = of_shards() - of_shards_at_start;
    let ratio = explained / grown;
    assert!((0.8..1.02).contains(&ratio), "the shards account for {explained} of {grown}: {ratio:.3}");

    drop(streams);
    server.wait_until_empty();
    until("what was grown is given back", || server.resident_bytes() as f64 - rss <= 0.1 * rss);
    assert!(of_shards() - of_shards_at_start < 0.02 * explained, "nothing is left to account for");
}

/// Blocks that threads cache keep their pages; the setting against it is read from the environment at the start only.
#[test]
#[cfg(target_env = "gnu")]
fn the_process_begins_anew_without_caches_and_stays_what_it_was() {
    let server = Server::start(json!({ "client": { "insecure": true } }), &["--shards", "1"]);
    let environment = server.environment();
    let tunables = environment.iter().find_map(|variable| variable.strip_prefix("GLIBC_TUNABLES="));
    assert!(tunables.is_some_and(|all| all.contains("glibc.malloc.tcache")), "{environment:?}");
    assert_eq!(server.listed_as(), "millpond");
}
