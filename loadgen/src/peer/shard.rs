//! One thread of the peer: its listener, its connections, its subscribers.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;
use socket2::{Domain, Socket, Type};
use tungstenite::handshake::derive_accept_key;

use super::commands::{self, Command};
use super::hub::{Hub, Mail, Publication, write_frame};
use crate::clock::Clock;
use crate::kernel;
use crate::ws::client_frame;

pub(super) const WAKER: Token = Token(usize::MAX);
const LISTENER: Token = Token(usize::MAX - 1);
/// Connections accepted in one turn.
const ACCEPTS_PER_TURN: usize = 64;
/// Longer requests are of no use to a peer.
const REQUEST_LIMIT: usize = 1 << 20;

struct Connection {
    socket: TcpStream,
    upgraded: bool,
    connected: bool,
    /// Bytes not yet taken or not yet written; empty at rest.
    input: Vec<u8>,
    output: Vec<u8>,
    channels: Vec<String>,
}

struct Shard {
    poll: Poll,
    listener: TcpListener,
    connections: Slab<Connection>,
    /// Subscribers and the offset from which each is served.
    subscribers: HashMap<String, Vec<(usize, u64)>>,
    hub: Arc<Hub>,
    buffer: Vec<u8>,
    ping: Duration,
    deliveries: u32,
    /// A delivery that was held back, to swap it with the next.
    held: HashMap<usize, Arc<Publication>>,
}

/// A socket on a port that it shares with the other threads'. It does not listen yet.
pub(super) fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// The body of a peer's thread.
pub(super) fn run(
    poll: Poll,
    address: SocketAddr,
    inbox: &Receiver<Mail>,
    hub: Arc<Hub>,
    ping: Duration,
    started: &Sender<()>,
) -> io::Result<()> {
    kernel::unshare_descriptors()?;
    // Made after unsharing: a listener that stays open in another thread's table would take connections nobody accepts.
    let listener = bind(address)?;
    listener.listen(4096)?;
    let listener = TcpListener::from_std(listener.into());
    let mut shard = Shard {
        poll,
        listener,
        connections: Slab::new(),
        subscribers: HashMap::new(),
        hub,
        buffer: vec![0; 64 * 1024],
        ping,
        deliveries: 0,
        held: HashMap::new(),
    };
    shard.poll.registry().register(&mut shard.listener, LISTENER, Interest::READABLE)?;
    let _ = started.send(());
    shard.serve(inbox)
}

impl Shard {
    fn serve(&mut self, inbox: &Receiver<Mail>) -> io::Result<()> {
        let (clock, mut events) = (Clock::start(), Events::with_capacity(1024));
        let (mut pinged, mut more) = (0, true);
        loop {
            let patience = Duration::from_millis(if more { 0 } else { 50 });
            match self.poll.poll(&mut events, Some(patience)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                match event.token() {
                    WAKER => {}
                    LISTENER => more = true,
                    Token(key) => self.on_event(key, event.is_readable() || event.is_read_closed()),
                }
            }
            if more {
                more = self.accept();
            }
            while let Ok(mail) = inbox.try_recv() {
                match mail {
                    Mail::Publication(publication) => self.deliver(&publication),
                    Mail::Stop => return Ok(()),
                }
            }
            pinged = self.ping_due(clock.elapsed(), pinged);
        }
    }

    /// Accepts a few; whether more may wait.
    fn accept(&mut self) -> bool {
        for _ in 0..ACCEPTS_PER_TURN {
            let Ok((mut socket, _)) = self.listener.accept() else { return false };
            let entry = self.connections.vacant_entry();
            let interest = Interest::READABLE | Interest::WRITABLE;
            if self.poll.registry().register(&mut socket, Token(entry.key()), interest).is_ok() {
                entry.insert(Connection {
                    socket,
                    upgraded: false,
                    connected: false,
                    input: Vec::new(),
                    output: Vec::new(),
                    channels: Vec::new(),
                });
            }
        }
        true
    }

    fn on_event(&mut self, key: usize, readable: bool) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let output = std::mem::take(&mut connection.output);
        let flushed = output.is_empty() || connection.write(&output);
        if !flushed || (readable && !self.read(key)) {
            self.close(key);
        }
    }

    fn close(&mut self, key: usize) {
        if let Some(connection) = self.connections.try_remove(key) {
            for channel in connection.channels {
                self.leave(key, &channel);
            }
        }
        self.held.remove(&key);
    }

    fn leave(&mut self, key: usize, channel: &str) {
        self.hub.unsubscribe(channel);
        if let Some(subscribers) = self.subscribers.get_mut(channel) {
            subscribers.retain(|(subscriber, _)| *subscriber != key);
        }
    }

    /// Reads all there is; false ends the connection.
    fn read(&mut self, key: usize) -> bool {
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut alive = true;
        while alive {
            let Some(connection) = self.connections.get_mut(key) else { break };
            match connection.socket.read(&mut buffer) {
                Ok(0) => alive = false,
                Ok(read) => {
                    connection.input.extend_from_slice(&buffer[..read]);
                    alive = self.take(key);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => alive = false,
            }
        }
        self.buffer = buffer;
        alive
    }

    /// Takes the whole requests and frames of a connection's input.
    fn take(&mut self, key: usize) -> bool {
        let mut input = std::mem::take(&mut self.connections[key].input);
        let mut used = 0;
        let mut alive = true;
        while alive {
            let step = if self.connections[key].upgraded {
                self.frame(key, &mut input[used..])
            } else {
                self.request(key, &input[used..])
            };
            match step {
                Some(0) => break,
                Some(length) => used += length,
                None => alive = false,
            }
        }
        input.drain(..used);
        if input.is_empty() {
            input = Vec::new();
        }
        self.connections[key].input = input;
        alive
    }

    /// One HTTP request: an upgrade, or a publication. How long it was; `None` ends the connection.
    fn request(&mut self, key: usize, input: &[u8]) -> Option<usize> {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut request = httparse::Request::new(&mut headers);
        let head = match request.parse(input).ok()? {
            httparse::Status::Complete(head) => head,
            httparse::Status::Partial => return (input.len() < REQUEST_LIMIT).then_some(0),
        };
        let header = |name: &str| {
            request
                .headers
                .iter()
                .find(|header| header.name.eq_ignore_ascii_case(name))
                .map(|header| header.value)
        };
        if let Some(websocket_key) = header("sec-websocket-key") {
            let accept = derive_accept_key(websocket_key);
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
            );
            self.connections[key].upgraded = true;
            return self.connections[key].write(answer.as_bytes()).then_some(head);
        }
        let length: usize = std::str::from_utf8(header("content-length")?).ok()?.parse().ok()?;
        let body = match input.get(head..head.checked_add(length)?) {
            Some(body) => body,
            None => return (length < REQUEST_LIMIT).then_some(0),
        };
        let publish: commands::Publish<'_> = serde_json::from_slice(body).ok()?;
        let offset = self.hub.publish(&publish.channel, publish.data.get());
        let body = format!("{{\"result\":{{\"offset\":{offset},\"epoch\":\"peer\"}}}}");
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        self.connections[key].write(answer.as_bytes()).then_some(head + length)
    }

    /// One frame of a client.
    fn frame(&mut self, key: usize, input: &mut [u8]) -> Option<usize> {
        let Some((text, length)) = client_frame(input)? else { return Some(0) };
        let mut answer = String::new();
        for line in text.split(|&byte| byte == b'\n').filter(|line| *line != b"{}") {
            let command: Command<'_> = serde_json::from_slice(line).ok()?;
            let reply = self.command(key, &command)?;
            if !answer.is_empty() {
                answer.push('\n');
            }
            answer.push_str(&reply);
        }
        if !answer.is_empty() {
            let mut frame = Vec::new();
            write_frame(&mut frame, answer.as_bytes());
            self.connections[key].write(&frame).then_some(())?;
        }
        Some(length)
    }

    fn command(&mut self, key: usize, command: &Command<'_>) -> Option<String> {
        let id = command.id;
        if let Some(connect) = &command.connect {
            let user = connect.user();
            self.connections[key].connected = true;
            if let Some(user) = &user {
                self.join(key, &format!("#{user}"), 0);
            }
            return Some(commands::connected(id, user.as_deref(), self.ping.as_secs()));
        }
        if let Some(subscribe) = &command.subscribe {
            let subscription = self.hub.subscribe(&subscribe.channel, subscribe.since());
            self.join(key, &subscribe.channel, subscription.top);
            return Some(commands::subscribed(id, subscribe, &subscription));
        }
        if let Some(unsubscribe) = &command.unsubscribe {
            self.connections[key].channels.retain(|channel| *channel != unsubscribe.channel);
            self.leave(key, &unsubscribe.channel);
            return Some(format!("{{\"id\":{id},\"unsubscribe\":{{}}}}"));
        }
        if let Some(stats) = &command.presence_stats {
            let clients = self.hub.clients(&stats.channel);
            return Some(format!(
                "{{\"id\":{id},\"presence_stats\":{{\"num_clients\":{clients},\"num_users\":{clients}}}}}"
            ));
        }
        let publish = command.publish.as_ref()?;
        self.hub.publish(&publish.channel, publish.data.get());
        Some(format!("{{\"id\":{id},\"publish\":{{}}}}"))
    }

    fn join(&mut self, key: usize, channel: &str, from: u64) {
        self.connections[key].channels.push(channel.to_owned());
        self.subscribers.entry(channel.to_owned()).or_default().push((key, from));
    }

    fn deliver(&mut self, publication: &Arc<Publication>) {
        let subscribers = self.subscribers.get(&publication.channel).cloned().unwrap_or_default();
        for (key, from) in subscribers {
            if publication.offset > from && !self.deliver_to(key, publication) {
                self.close(key);
            }
        }
    }

    /// One delivery, with the faults that were asked for.
    fn deliver_to(&mut self, key: usize, publication: &Arc<Publication>) -> bool {
        self.deliveries = self.deliveries.wrapping_add(1);
        let due = |every: u32| every > 0 && self.deliveries.is_multiple_of(every);
        let (lose, double, swap) =
            (due(self.hub.faults.lose), due(self.hub.faults.double), due(self.hub.faults.swap));
        if lose {
            return true;
        }
        if swap && !self.held.contains_key(&key) {
            self.held.insert(key, Arc::clone(publication));
            return true;
        }
        let Some(connection) = self.connections.get_mut(key) else { return true };
        let mut alive = connection.write(&publication.frame);
        if double {
            alive &= connection.write(&publication.frame);
        }
        match self.held.remove(&key) {
            Some(held) => alive && connection.write(&held.frame),
            None => alive,
        }
    }

    /// Pings the connections whose turn it is, spread evenly over the interval; how many turns there have been.
    fn ping_due(&mut self, now: Duration, pinged: u64) -> u64 {
        const TURNS: u64 = 256;
        let due = now.as_micros() as u64 * TURNS / (self.ping.as_micros() as u64).max(1);
        let mut ping = Vec::new();
        write_frame(&mut ping, b"{}");
        let end = self.connections.capacity();
        for turn in (pinged..due).take(TURNS as usize) {
            for key in ((turn % TURNS) as usize..end).step_by(TURNS as usize) {
                let connection = self.connections.get_mut(key).filter(|connection| connection.connected);
                if connection.is_some_and(|connection| !connection.write(&ping)) {
                    self.close(key);
                }
            }
        }
        due
    }
}

impl Connection {
    /// Writes what the socket takes and keeps the rest; false if the connection is broken.
    fn write(&mut self, bytes: &[u8]) -> bool {
        if !self.output.is_empty() {
            self.output.extend_from_slice(bytes);
            return true;
        }
        let sent = match self.socket.write(bytes) {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => return false,
        };
        if sent < bytes.len() {
            self.output = bytes[sent..].to_vec();
        }
        true
    }
}
