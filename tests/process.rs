//! The real process under real faults (bad-input.md, rows H19, R03 to R06, R12, D01, S01): every peer ends as it
//! should, and nothing leaks. Deadlines are checked from below exactly and from above with patience, since the machine
//! may be busy.
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

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

#[path = "support/client.rs"]
mod client;
#[path = "support/server.rs"]
mod server;

use client::{Client, Received};
use server::{PATIENCE, Server, until};

/// Anybody may do anything: these tests are about the process, not about permission.
fn open_config() -> Value {
    json!({
        "client": { "insecure": true },
        "channel": { "without_namespace": { "presence": true, "history_size": 10, "history_ttl": "60s" } }
    })
}

fn upgrade_request(address: SocketAddr) -> String {
    format!(
        "GET /connection/websocket HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// A masked text frame with a mask of zeros.
fn text_frame(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).ok().filter(|length| *length < 126).expect("a short frame");
    [&[0x81, 0x80 | length, 0, 0, 0, 0][..], text.as_bytes()].concat()
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Everything until the peer ends the connection, in order or by a reset.
fn read_to_the_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => bytes,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => bytes,
        Err(error) => panic!("the connection was not ended: {error}"),
    }
}

/// R02: 200 slots, 200 connections without a byte, and as many clients as the silent ones leave room for.
#[test]
fn silent_connections_keep_no_client_out() {
    let server = Server::start_limited(open_config(), 200, &["--shards", "2"]);
    let mut silent: Vec<_> = (0..200).map(|_| connect(server.address)).collect();
    // The kernel spreads them over the shards as it likes: half of what is left is room enough for all of these.
    let clients: Vec<_> = (0..90).map(|_| Client::connected(server.address).0).collect();
    let refused = |reason: &str| server.metric("millpond_refusals", &format!("reason=\"{reason}\""));
    until("the silent ones are gone", || refused("silent") >= 150.0);
    assert_eq!(refused("connection_limit"), 0.0);
    for stream in &mut silent {
        assert_eq!(read_to_the_end(stream), b"");
    }
    drop(clients);
    drop(silent);
    server.wait_until_empty();
}

#[test]
fn kill_9_ends_every_connection_and_the_address_can_be_used_at_once() {
    let mut server = Server::start(open_config(), &["--shards", "2"]);
    let mut clients: Vec<_> = (0..20).map(|_| Client::connected(server.address).0).collect();
    server.signal(Signal::KILL);
    server.wait();
    for client in &mut clients {
        assert_eq!(client.next(), Received::End);
    }
    let second = Server::start_at(server.address, open_config(), &["--shards", "2"]);
    Client::connected(second.address);
}

#[test]
fn the_log_names_what_is_open_or_has_no_effect_and_is_plain_text() {
    let mut config = open_config();
    config["sse"] = json!({ "enabled": true });
    let server = Server::start(config, &[]);
    until("the log is written", || server.log().contains("sse"));
    let log = server.log();
    assert!(log.contains("client.insecure is on: everybody"), "{log}");
    assert!(log.contains("sse is not served by this version and has no effect"), "{log}");
    assert!(!log.contains('\u{1b}'), "no colours in a file: {log:?}");
}

#[test]
fn sigterm_says_3001_to_everybody_and_exits_with_0() {
    let mut config = open_config();
    config["shutdown"] = json!({ "timeout": "2s" });
    let mut server = Server::start(config, &["--shards", "2"]);
    let mut clients: Vec<_> = (0..20).map(|_| Client::connected(server.address).0).collect();
    server.signal(Signal::TERM);
    for client in &mut clients {
        assert_eq!(client.next(), Received::Close(3001, "shutdown".to_owned()));
    }
    drop(clients);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn sigterm_without_clients_does_not_wait_for_the_shutdown_timeout() {
    let mut config = open_config();
    config["shutdown"] = json!({ "timeout": "300s" });
    let mut server = Server::start(config, &[]);
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_shutdown_ends_on_time_with_clients_that_never_read_or_answer() {
    let mut config = open_config();
    config["shutdown"] = json!({ "timeout": "1s" });
    let mut server = Server::start(config, &["--shards", "1"]);
    let silent: Vec<_> = (0..5).map(|_| Client::connected(server.address).0).collect();
    let half_open = connect(server.address);
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
    drop((silent, half_open));
}

#[test]
fn out_of_descriptors_is_survived_without_spinning_and_accepting_resumes() {
    let server = Server::start(open_config(), &["--shards", "1"]);
    server.limit_descriptors(64);
    let mut clients = Vec::new();
    while let Some(client) = open_soon(server.address) {
        clients.push(client);
        assert!(clients.len() < 100, "the limit of 64 descriptors has no effect");
    }
    assert!(clients.len() >= 10, "only {} connections fit into 64 descriptors", clients.len());

    // This one either waits in the backlog or is refused with the reserve descriptor.
    let mut waiting = connect(server.address);
    waiting.write_all(upgrade_request(server.address).as_bytes()).unwrap();
    let before = server.cpu_time();
    thread::sleep(Duration::from_secs(1));
    let used = server.cpu_time() - before;
    assert!(used < Duration::from_millis(500), "{used:?} of processor time in one second of waiting");
    let is_refused = has_ended(&mut waiting);

    clients.truncate(clients.len() / 2);
    if !is_refused {
        // Nobody else connects meanwhile: an edge-triggered listener gets no second event for this one.
        let mut status = [0; 12];
        waiting.read_exact(&mut status).unwrap();
        assert_eq!(&status, b"HTTP/1.1 101");
    }
    until("accepting resumes", || open_soon(server.address).is_some());
    for client in &mut clients {
        client.send_text(r#"{"id":2,"presence":{"channel":"x"}}"#);
        assert_eq!(client.json()["id"], 2, "connections that were there go on");
    }
}

/// A connected client, or `None` if the server does not let it in within a second.
fn open_soon(address: SocketAddr) -> Option<Client> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    let mut client = Client::upgrade(stream, address, "", None).ok()?;
    client.send_text(r#"{"id":1,"connect":{}}"#);
    matches!(client.next_within(PATIENCE), Some(Received::Message(_))).then_some(client)
}

/// Whether the peer has answered or ended; does not wait.
fn has_ended(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let outcome = stream.peek(&mut [0; 1]);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    !matches!(outcome, Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

#[test]
fn a_handshake_has_five_seconds_from_accept_however_it_dawdles() {
    let server = Server::start(open_config(), &["--shards", "1"]);
    let address = server.address;
    let pauses = [Duration::from_millis(50), Duration::from_secs(1), Duration::from_secs(3600)];
    let threads = pauses.map(|pause| thread::spawn(move || time_until_dropped(address, pause)));
    for thread in threads {
        let elapsed = thread.join().unwrap();
        assert!(elapsed > Duration::from_millis(4500), "dropped after {elapsed:?}, which is too early");
        assert!(elapsed < Duration::from_secs(15), "dropped after {elapsed:?} only");
    }
    server.wait_until_empty();
}

/// Sends an endless request head, one byte after each pause, until the server ends the connection.
fn time_until_dropped(address: SocketAddr, pause: Duration) -> Duration {
    let start = Instant::now();
    let mut stream = connect(address);
    stream.set_read_timeout(Some(pause.min(PATIENCE))).unwrap();
    let request = upgrade_request(address);
    let endless = request.trim_end().bytes().chain("\r\nX-A: ".bytes()).chain(std::iter::repeat(b'a'));
    for byte in endless {
        if stream.write_all(&[byte]).is_err() {
            break;
        }
        match stream.read(&mut [0; 512]) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            // A refusal (408) may come before the end.
            Ok(length) if length > 0 => {}
            _ => break,
        }
        assert!(start.elapsed() < PATIENCE, "the connection was not dropped");
    }
    start.elapsed()
}

#[test]
fn who_does_not_connect_in_time_is_stale_also_at_a_byte_a_second() {
    let mut config = open_config();
    config["client"]["stale_close_delay"] = json!("2s");
    let server = Server::start(config, &["--shards", "1"]);
    let mut quiet = Client::open(server.address, "", None).unwrap();
    let mut slow = Client::open(server.address, "", None).unwrap();
    for byte in text_frame(r#"{"id":1,"connect":{}}"#).into_iter().take(20) {
        if slow.stream().write_all(&[byte]).is_err() {
            break;
        }
        thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(quiet.next(), Received::Close(3502, "stale".to_owned()));
    assert_eq!(slow.next(), Received::Close(3502, "stale".to_owned()));
    drop((quiet, slow));
    server.wait_until_empty();
}

#[test]
fn a_frame_has_thirty_seconds_to_be_whole() {
    let server = Server::start(open_config(), &["--shards", "1"]);
    let (mut client, _) = Client::connected(server.address);
    let start = Instant::now();
    // A frame of 1,000 bytes, begun and then continued with a byte a second.
    client.stream().write_all(&[0x81, 0x80 | 126, 0x03, 0xE8, 0, 0, 0, 0]).unwrap();
    let ending = loop {
        // The write fails once the server has ended the connection; its close frame is still there to be read.
        let _ = client.stream().write_all(b"x");
        match client.next_within(Duration::from_secs(1)) {
            // Pings go on meanwhile; this client answers in the middle of a frame no more than a real one would.
            None | Some(Received::Message(_)) => {}
            Some(ending) => break ending,
        }
        assert!(start.elapsed() < Duration::from_secs(60), "the frame was waited for without end");
    };
    assert!(start.elapsed() > Duration::from_secs(20), "ended too early with {ending:?}");
    assert!(matches!(ending, Received::Close(1008 | 3012, _)), "ended with {ending:?}");
    drop(client);
    server.wait_until_empty();
}

#[test]
fn who_never_reads_ends_with_3008_and_disturbs_nobody() {
    let server = Server::start(open_config(), &["--shards", "1"]);
    let (mut stuck, _) = Client::connected(server.address);
    let (mut reader, _) = Client::connected(server.address);
    for client in [&mut stuck, &mut reader] {
        client.send_text(r#"{"id":2,"subscribe":{"channel":"flood"}}"#);
        assert_eq!(client.json()["id"], 2);
    }
    let body = format!(r#"{{"channel":"flood","data":"{}"}}"#, "x".repeat(256 * 1024));
    // Socket buffers take some megabytes first; the rest would have to wait in the server.
    for _ in 0..200 {
        server.api("publish", &body);
        let publication = reader.json();
        assert!(publication["push"]["pub"]["data"].as_str().is_some_and(|data| data.len() == 256 * 1024));
    }
    // Shards hand out their figures about once a second.
    let slow_disconnects = || server.metric("millpond_client_num_server_disconnects", r#"code="3008""#);
    until("a disconnect with 3008 is counted", || slow_disconnects() > 0.5);
    until("only the reader is left", || server.connections() == 1);
    match stuck.read_to_the_end() {
        None | Some((3008, _)) => {}
        other => panic!("the stuck client was told {other:?}"),
    }
    drop(reader);
    server.wait_until_empty();
}

#[test]
fn who_reads_late_gets_the_newest_where_the_newest_is_kept() {
    let mut config = open_config();
    config["channel"]["namespaces"] = json!([{ "name": "state", "slow_consumer": "keep_latest" }]);
    let server = Server::start(config, &["--shards", "1"]);
    let (mut late, _) = Client::connected(server.address);
    late.send_text(r#"{"id":2,"subscribe":{"channel":"state:a"}}"#);
    assert_eq!(late.json()["id"], 2);
    let pad = "x".repeat(256 * 1024);
    let last = 100;
    // Socket buffers take some megabytes; of the rest one publication waits.
    for number in 0..=last {
        server.api("publish", &format!(r#"{{"channel":"state:a","data":{{"n":{number},"pad":"{pad}"}}}}"#));
    }
    until("publications are conflated", || server.metric("millpond_publications_conflated", "") > 0.5);
    let mut numbers = Vec::new();
    while numbers.last() != Some(&last) {
        let message = late.json();
        if message != json!({}) {
            numbers.push(message["push"]["pub"]["data"]["n"].as_u64().unwrap());
        }
    }
    assert!(numbers.is_sorted() && numbers.len() < 100, "{numbers:?}");
    until("all are counted", || {
        let counted = server.metric("millpond_publications_conflated", "");
        (counted + numbers.len() as f64 - (last + 1) as f64).abs() < 0.5
    });
    assert!(server.metric("millpond_client_num_server_disconnects", r#"code="3008""#) < 0.5);
}

#[test]
fn the_connection_limit_is_told_before_the_upgrade() {
    let mut config = open_config();
    config["client"]["connection_limit"] = json!(3);
    let server = Server::start(config, &["--shards", "1"]);
    let mut clients: Vec<_> = (0..3).map(|_| Client::connected(server.address).0).collect();
    let mut refused = connect(server.address);
    refused.write_all(upgrade_request(server.address).as_bytes()).unwrap();
    let answer = read_to_the_end(&mut refused);
    assert!(answer.starts_with(b"HTTP/1.1 503"), "{}", answer.escape_ascii());
    clients.pop();
    until("there is room again", || open_soon(server.address).is_some());
}

#[test]
fn nothing_is_left_of_clients_that_came_and_went() {
    let server = Server::start(open_config(), &["--shards", "2"]);
    for round in 0..50 {
        let mut clients: Vec<_> = (0..10).map(|_| Client::connected(server.address).0).collect();
        for (index, client) in clients.iter_mut().enumerate() {
            client.send_text(&format!(r#"{{"id":2,"subscribe":{{"channel":"room{round}"}}}}"#));
            assert_eq!(client.json()["id"], 2);
            if index % 2 == 0 {
                client.send_text(r#"{"id":3,"rpc":{"method":"x","data":{}}}"#);
            }
        }
    }
    server.wait_until_empty();
    for gauge in ["node_num_clients", "node_num_users", "node_num_subscriptions", "node_num_channels"] {
        let name = format!("millpond_{gauge}");
        until(&format!("{gauge} is 0"), || server.metric(&name, "") == 0.0);
    }
}

/// How many streams of bytes, and how many before memory is measured for the first time.
const STREAMS: u64 = 10_000;
const WARM_UP: u64 = 1_000;
/// What memory may differ by afterwards: allocators keep some pages.
const MEMORY_SLACK_BYTES: u64 = 16 * 1024 * 1024;

#[test]
fn ten_thousand_random_streams_of_bytes_leave_nothing_behind() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_124);
    println!("SEED={seed}");
    let mut server = Server::start(open_config(), &["--shards", "2"]);
    send_streams(server.address, seed, 0..WARM_UP);
    server.wait_until_empty();
    let memory_before = server.resident_bytes();

    send_streams(server.address, seed, WARM_UP..WARM_UP + STREAMS);
    assert!(server.is_alive(), "the process ended:\n{}", server.log());
    server.wait_until_empty();
    let memory_after = server.resident_bytes();
    assert!(
        memory_after < memory_before + MEMORY_SLACK_BYTES,
        "resident memory went from {memory_before} to {memory_after} bytes"
    );
    Client::connected(server.address);
}

fn send_streams(address: SocketAddr, seed: u64, numbers: std::ops::Range<u64>) {
    let next = AtomicU64::new(numbers.start);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= numbers.end {
                        break;
                    }
                    send_stream(address, &mut Random(seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
                }
            });
        }
    });
}

/// One connection that sends something strange and ends in one of three ways.
fn send_stream(address: SocketAddr, random: &mut Random) {
    let bytes = strange_bytes(address, random);
    let mut stream = connect(address);
    // The server may refuse in the middle of it.
    let _ = stream.write_all(&bytes);
    match random.below(3) {
        0 => drop(stream),
        1 => {
            let _ = stream.shutdown(Shutdown::Write);
            stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        }
        _ => {
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            drop(stream);
        }
    }
}

/// Noise at every depth: instead of a request, inside it, after the upgrade, after a good connect command.
fn strange_bytes(address: SocketAddr, random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    let depth = random.below(5);
    if depth > 0 {
        bytes.extend(upgrade_request(address).bytes());
    }
    if depth == 1 {
        for _ in 0..=random.below(3) {
            let at = random.below(bytes.len());
            bytes[at] = random.byte();
        }
    }
    if depth > 2 {
        bytes.extend(text_frame(r#"{"id":1,"connect":{}}"#));
    }
    if depth == 4 {
        let command = format!(r#"{{"id":2,"subscribe":{{"channel":"noise{}"}}}}"#, random.below(100));
        bytes.extend(text_frame(&command));
        // Frames whose headers are right and whose content is noise.
        for _ in 0..random.below(5) {
            let length = random.below(126);
            let opcode = [0x81, 0x82, 0x89, 0x8A, 0x88, 0x01, 0x00][random.below(7)];
            bytes.extend([opcode, 0x80 | u8::try_from(length).unwrap()]);
            bytes.extend((0..length + 4).map(|_| random.byte()));
        }
    }
    let noise = random.below(2000);
    bytes.extend((0..noise).map(|_| random.byte()));
    bytes
}

/// splitmix64: enough to be strange, and the same for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    /// A number below `bound`, which is not 0.
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }
}
