//! A backend that does what it is told to: fails, stalls, breaks off.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

/// What to do with a request.
#[derive(Clone, Debug)]
pub(super) enum Reaction {
    /// A status with further header lines.
    Status(u16, &'static str),
    /// No answer, ever.
    Stall,
    /// The connection is closed without an answer.
    Die,
}

#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Vec<u8>,
    pub(super) at: Instant,
}

impl Seen {
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Numbers of the events.
    pub(super) fn ids(&self) -> Vec<u64> {
        self.json()["events"].as_array().unwrap().iter().map(|event| event["id"].as_u64().unwrap()).collect()
    }
}

#[derive(Default)]
struct State {
    script: Mutex<VecDeque<Reaction>>,
    seen: Mutex<Vec<Seen>>,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
}

/// Answers 200 once its script is over.
#[derive(Clone)]
pub(super) struct Backend {
    pub(super) address: SocketAddr,
    state: Arc<State>,
}

impl Backend {
    pub(super) async fn start(script: impl IntoIterator<Item = Reaction>) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), script)
    }

    pub(super) fn on(listener: TcpListener, script: impl IntoIterator<Item = Reaction>) -> Self {
        let state = Arc::new(State { script: Mutex::new(script.into_iter().collect()), ..State::default() });
        let address = listener.local_addr().unwrap();
        let serving = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, Arc::clone(&serving)));
            }
        });
        Self { address, state }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/events?from=test", self.address)
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    pub(super) fn most_under_way(&self) -> usize {
        self.state.most_under_way.load(Ordering::SeqCst)
    }
}

async fn serve(mut socket: TcpStream, state: Arc<State>) {
    let mut bytes = Vec::new();
    while let Some(seen) = request(&mut socket, &mut bytes).await {
        let under_way = state.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        state.most_under_way.fetch_max(under_way, Ordering::SeqCst);
        state.seen.lock().unwrap().push(seen);
        let reaction = state.script.lock().unwrap().pop_front().unwrap_or(Reaction::Status(200, ""));
        tokio::task::yield_now().await;
        state.under_way.fetch_sub(1, Ordering::SeqCst);
        match reaction {
            Reaction::Status(status, headers) => {
                let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: 2\r\n{headers}\r\nok");
                if socket.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
            Reaction::Stall => std::future::pending().await,
            Reaction::Die => return,
        }
    }
}

/// The next request of a connection.
async fn request(socket: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<Seen> {
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break String::from_utf8(bytes.drain(..end + 4).collect()).unwrap();
        }
        (socket.read_buf(bytes).await.ok()? > 0).then_some(())?;
    };
    let (line, rest) = head.split_once("\r\n").unwrap();
    assert_eq!(line, "POST /events?from=test HTTP/1.1");
    let pairs = rest.lines().filter_map(|line| line.split_once(": "));
    let headers: BTreeMap<_, _> =
        pairs.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    let length: usize = headers["content-length"].parse().unwrap();
    while bytes.len() < length {
        (socket.read_buf(bytes).await.ok()? > 0).then_some(())?;
    }
    Some(Seen { headers, body: bytes.drain(..length).collect(), at: Instant::now() })
}
