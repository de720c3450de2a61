//! The control plane as a running thread, through both of its doors, with one shard in memory.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use millpond::base::ids::ShardId;
use millpond::control::answers::{Answers, answer_queue};
use millpond::control::gateway::{ApiAsk, Full, GatewaySettings, ShardPort};
use millpond::control::handover::HandoverReceiver;
use millpond::control::metrics::MetricsSource;
use millpond::control::server::{Control, ControlHandle, ControlParts, Readiness};
use millpond::control::settings::{ApiSettings, ControlSettings, DemoSettings, HttpLimits};
use millpond::hub::api::{ApiAnswer, ApiCommand, ApiError, ShardInfo};
use millpond::hub::metrics::ShardMetrics;
use millpond::net::handover::{HandoverSender, handover_pair};

struct OneShard(Answers);

impl ShardPort for OneShard {
    fn send(&self, shard: ShardId, ask: ApiAsk) -> Result<(), Full> {
        let answer = match ask.command {
            ApiCommand::Publish(_) => ApiAnswer::Published(None),
            ApiCommand::Info => ApiAnswer::Info(ShardInfo::default()),
            _ => ApiAnswer::Error(ApiError::NotAvailable),
        };
        self.0.deliver(ask.id, shard, answer);
        Ok(())
    }
}

struct Figures;

impl MetricsSource for Figures {
    fn shards(&self) -> Vec<ShardMetrics> {
        vec![ShardMetrics { clients: 5, ..ShardMetrics::default() }]
    }
}

struct Plane {
    handle: ControlHandle,
    internal: SocketAddr,
    sender: HandoverSender,
    client_port: TcpListener,
    readiness: Readiness,
}

fn plane(limits: HttpLimits) -> Plane {
    plane_with(limits, ApiSettings { key: Some("key".to_owned()), ..ApiSettings::default() })
}

fn plane_with(limits: HttpLimits, api: ApiSettings) -> Plane {
    let (sender, receiver) = handover_pair().unwrap();
    let (answers, inbox) = answer_queue(64).unwrap();
    let readiness = Readiness::default();
    let parts = ControlParts {
        readiness: readiness.clone(),
        settings: ControlSettings {
            internal_address: Some("127.0.0.1:0".parse().unwrap()),
            api,
            demo: Some(DemoSettings {
                hmac_secret_key: "secret".to_owned(),
                websocket_path: "/connection/websocket".to_owned(),
                mailboxes: false,
            }),
            limits,
            ..ControlSettings::default()
        },
        gateway: GatewaySettings { shards: 1, timeout: Duration::from_secs(5), outstanding_max: 64 },
        port: Box::new(OneShard(answers.clone())),
        home_of: Arc::new(|_| ShardId(0)),
        answers,
        inbox,
        handovers: vec![HandoverReceiver::from(receiver)],
        metrics: Arc::new(Figures),
        webhooks: Vec::new(),
        webhook_figures: Vec::new(),
    };
    let control = Control::bind(parts).unwrap();
    let internal = control.internal_address().unwrap();
    let client_port = TcpListener::bind("127.0.0.1:0").unwrap();
    Plane { handle: control.start().unwrap(), internal, sender, client_port, readiness }
}

impl Plane {
    /// A client of the client port whose first `read` bytes of `request` the shard has read before handing over.
    fn hand_over(&self, request: &str, read: usize) -> TcpStream {
        let mut client = TcpStream::connect(self.client_port.local_addr().unwrap()).unwrap();
        let (shard_side, _) = self.client_port.accept().unwrap();
        let (first, rest) = request.as_bytes().split_at(read);
        self.sender.send(shard_side.as_fd(), first).unwrap();
        drop(shard_side);
        client.write_all(rest).unwrap();
        client
    }
}

fn post(path: &str, key: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost:8000\r\n\r\n")
}

/// Reads until the server closes.
fn answer(mut client: TcpStream) -> String {
    client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    String::from_utf8(answer).unwrap()
}

fn status(answer: &str) -> &str {
    answer.get(9..12).unwrap_or(answer)
}

#[test]
fn a_handed_over_socket_is_served_wherever_the_shard_stopped_reading() {
    let plane = plane(HttpLimits::default());
    let request = post("/api/publish", "key", r#"{"channel":"c","data":{}}"#);
    for read in [request.len(), 1, 4, request.find("\r\n\r\n").unwrap() + 2, request.len() - 1] {
        let answer = answer(plane.hand_over(&request, read));
        assert_eq!(status(&answer), "200", "{read}: {answer}");
        assert!(
            answer.to_ascii_lowercase().contains("connection: close\r\n"),
            "one request a connection: {answer}"
        );
        assert!(answer.ends_with("\r\n\r\n{\"result\":{}}"), "{answer}");
    }
    plane.handle.stop();
}

#[test]
fn the_client_port_shows_nothing_internal() {
    let plane = plane(HttpLimits::default());
    for (request, expected) in [
        (post("/api/info", "wrong", "{}"), "401"),
        (post("/api/info", "key", "{}"), "200"),
        (get("/health"), "200"),
        (get("/metrics"), "404"),
        (get("/connection/websocket"), "404"),
        (get("/"), "200"),
        (get("/demo/app.js"), "200"),
        (get("/").replace("localhost", "evil.example"), "403"),
        ("\u{0}\u{1}\r\n\r\n".to_owned(), "400"),
    ] {
        let answer = answer(plane.hand_over(&request, request.len()));
        assert_eq!(status(&answer), expected, "{request}{answer}");
    }
    plane.handle.stop();
}

/// Without a key the API is for who reaches the internal address (A21).
#[test]
fn the_client_port_has_no_api_that_needs_no_key() {
    for key in [None, Some("key".to_owned())] {
        let plane =
            plane_with(HttpLimits::default(), ApiSettings { key, insecure: true, ..ApiSettings::default() });
        let request = post("/api/info", "key", "{}");
        let outside = answer(plane.hand_over(&request, request.len()));
        assert!(status(&outside) == "404" && outside.ends_with("not found\n"), "{outside}");
        let mut inside = TcpStream::connect(plane.internal).unwrap();
        inside.write_all(request.as_bytes()).unwrap();
        inside.shutdown(Shutdown::Write).unwrap();
        let inside = answer(inside);
        assert_eq!(status(&inside), "200", "{inside}");
        let health = answer(plane.hand_over(&get("/health"), 5));
        assert_eq!(status(&health), "200", "{health}");
        plane.handle.stop();
    }
}

#[test]
fn the_internal_address_serves_api_health_and_metrics_and_keeps_alive() {
    let plane = plane(HttpLimits::default());
    let mut client = TcpStream::connect(plane.internal).unwrap();
    let requests = [post("/api/info", "key", "{}"), get("/health"), get("/"), get("/metrics")].concat();
    client.write_all(requests.as_bytes()).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let answers = answer(client);
    let statuses: Vec<_> = answers.split("HTTP/1.1 ").skip(1).map(|of| of.get(..3).unwrap()).collect();
    assert_eq!(statuses, ["200", "200", "404", "200"], "{answers}");
    assert!(answers.contains("\nmillpond_node_num_clients 5\n"), "{answers}");
    plane.handle.stop();
}

#[test]
fn health_says_that_the_end_has_begun() {
    let plane = plane(HttpLimits::default());
    let ask = || answer(plane.hand_over(&get("/health"), 5));
    assert_eq!(status(&ask()), "200");
    plane.readiness.end();
    let said = ask();
    assert!(status(&said) == "503" && said.ends_with("\r\n\r\nshutting down\n"), "{said}");
    plane.handle.stop();
}

#[test]
fn slow_senders_are_cut_off() {
    let short = Duration::from_millis(50);
    let plane = plane(HttpLimits { head_timeout: short, body_timeout: short, ..HttpLimits::default() });
    let request = post("/api/info", "key", "{}");
    let head = request.len() - 2;
    let unfinished_body = answer(plane.hand_over(&request[..head], head));
    assert_eq!(status(&unfinished_body), "408", "{unfinished_body}");
    let unfinished_head = answer(plane.hand_over(&request[..20], 20));
    assert!(!unfinished_head.contains(" 200 "), "{unfinished_head}");
    plane.handle.stop();
}

#[test]
fn more_handed_over_connections_than_allowed_are_turned_away() {
    let plane = plane(HttpLimits { handed_over_connections: 1, ..HttpLimits::default() });
    let request = post("/api/info", "key", "{}");
    let mut first = plane.hand_over(&request[..20], 20);
    let second = answer(plane.hand_over(&request, request.len()));
    assert_eq!(status(&second), "503", "{second}");
    assert!(
        second.ends_with("Content-Length: 21\r\nConnection: close\r\n\r\ntoo many connections\n"),
        "{second}"
    );
    first.write_all(&request.as_bytes()[20..]).unwrap();
    let first = answer(first);
    assert_eq!(status(&first), "200", "{first}");
    plane.handle.stop();
}

#[test]
fn a_refused_body_does_not_lose_the_answer_to_a_reset() {
    let plane = plane(HttpLimits::default());
    let length = 17 * 1024 * 1024;
    let head = format!(
        "POST /api/publish HTTP/1.1\r\nHost: h\r\nX-API-Key: key\r\nContent-Length: {length}\r\n\r\n"
    );
    let client = plane.hand_over(&head, head.len());
    let mut writer = client.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        // Goes on sending regardless; the server may close on it once it has waited long enough.
        let _ = writer.write_all(&vec![b' '; length]);
    });
    let mut start = [0; 12];
    (&client).read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 413");
    drop(client);
    sender.join().unwrap();
    plane.handle.stop();
}

#[test]
fn the_demo_hands_out_a_user_of_its_own() {
    let plane = plane(HttpLimits::default());
    let body = r#"{"name":"Ada"}"#;
    let request =
        post("/demo/token", "", body).replace("X-API-Key", "Content-Type: application/json\r\nX-Unused");
    let answer = answer(plane.hand_over(&request, request.len()));
    assert_eq!(status(&answer), "200", "{answer}");
    assert!(answer.contains(r#""user":"guest-"#) && answer.contains(r#""name":"Ada""#), "{answer}");
    plane.handle.stop();
}
