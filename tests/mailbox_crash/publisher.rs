//! A backend: sends to its users one after the other, over a connection that it keeps, and notes every answer.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::ledger::Ledger;
use crate::server::{API_KEY, PATIENCE};
use crate::{Random, User, World};

/// Longest time between two sends of a publisher: some hundreds a second from each.
const PAUSE_US: u64 = 4000;

/// Sends until the world says that all is sent.
pub(crate) fn publish(world: &World, publisher: u64, seed: u64) {
    let users = world.users_of(publisher);
    let mut random = Random(seed ^ (publisher + 1) << 32);
    let mut caller = Caller::new();
    while !world.sent.load(Ordering::Acquire) {
        let Some((_, internal)) = *world.addresses.lock().unwrap() else {
            thread::sleep(Duration::from_millis(5));
            continue;
        };
        match random.below(10) {
            0 => send_to_all(&mut caller, internal, users),
            chosen => {
                let index = usize::try_from(chosen).unwrap() % users.len();
                send_to_one(&mut caller, internal, &users[index], random.below(2000));
            }
        }
        thread::sleep(Duration::from_micros(random.below(PAUSE_US)));
    }
}

fn send_to_one(caller: &mut Caller, internal: SocketAddr, user: &User, padding: u64) {
    let number = ledger(user).send();
    let data = json!({ "n": number, "padding": "x".repeat(usize::try_from(padding).unwrap()) });
    if let Ok(answer) = caller.call(internal, "send", &json!({ "user": user.name, "data": data })) {
        note(user, number, &answer);
    }
}

/// Numbers are each user's own, so the users' messages travel in one batch.
fn send_to_all(caller: &mut Caller, internal: SocketAddr, users: &[User]) {
    let numbers: Vec<_> = users.iter().map(|user| ledger(user).send()).collect();
    let commands = users.iter().zip(&numbers);
    let commands: Vec<_> = commands
        .map(|(user, number)| json!({ "send": { "users": [user.name], "data": { "n": number } } }))
        .collect();
    let Ok(answer) = caller.call(internal, "batch", &json!({ "commands": commands, "parallel": true }))
    else {
        return;
    };
    for (index, (user, number)) in users.iter().zip(&numbers).enumerate() {
        note(user, *number, &answer["replies"][index]["send"]["responses"][0]);
    }
}

/// A refusal leaves the message unanswered: while the server dies it may say anything but a wrong position.
fn note(user: &User, number: u64, answer: &Value) {
    if let (Some(offset), Some(epoch)) =
        (answer["result"]["offset"].as_u64(), answer["result"]["epoch"].as_str())
    {
        ledger(user).acknowledge(number, offset, epoch);
    }
}

fn ledger(user: &User) -> MutexGuard<'_, Ledger> {
    user.ledger.lock().unwrap()
}

/// Calls the server API over one connection as long as it holds.
pub(crate) struct Caller {
    stream: Option<(SocketAddr, BufReader<TcpStream>)>,
}

impl Caller {
    pub(crate) fn new() -> Self {
        Self { stream: None }
    }

    /// The answer's body; an error if the connection broke before it was whole.
    pub(crate) fn call(&mut self, address: SocketAddr, method: &str, params: &Value) -> Result<Value, Error> {
        let answer = self.try_call(address, method, &params.to_string());
        if answer.is_err() {
            self.stream = None;
        }
        answer
    }

    fn try_call(&mut self, address: SocketAddr, method: &str, body: &str) -> Result<Value, Error> {
        let mut stream = match self.stream.take() {
            Some((known, stream)) if known == address => stream,
            _ => {
                let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_nodelay(true)?;
                BufReader::new(stream)
            }
        };
        let request = format!(
            "POST /api/{method} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {API_KEY}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.get_mut().write_all(request.as_bytes())?;
        let mut length = 0;
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            if stream.read_line(&mut line)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().map_err(Error::other)?;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        self.stream = Some((address, stream));
        serde_json::from_slice(&body).map_err(Error::other)
    }
}
