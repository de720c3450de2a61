//! From nothing to a ready client, and back: connect, upgrade, opening, end.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Token};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use super::Worker;
use crate::client::{Client, Manner, Stage};
use crate::counters::Reason;
use crate::dialect::Opening;
use crate::kernel;

impl Worker {
    /// Begins a connection for a client that has none.
    pub(super) fn open(&mut self, local: u32) {
        self.counters.started.add(1);
        self.counters.pending.add(1);
        self.ramp.pending += 1;
        let client = &mut self.clients[local as usize];
        client.stage = Stage::Connecting;
        client.since_ms = self.now_ms;
        client.awaiting = 0;
        self.handshakes.push_back((local, self.now_ms));
        if let Err(reason) = self.try_open(local) {
            self.end(local, reason);
        }
    }

    fn try_open(&mut self, local: u32) -> Result<(), Reason> {
        let (source, to) = self.plan.routes.route(self.number(local));
        let domain = if to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), None)?;
        if let Some(source) = source {
            kernel::bind_port_at_connect(socket.as_fd())?;
            socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
        }
        match socket.connect(&SockAddr::from(to)) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error.into()),
            _ => {}
        }
        let socket = OwnedFd::from(socket);
        let fd = socket.as_raw_fd();
        self.clients[local as usize].socket = Some(socket);
        // Over loopback the connection stands already, and the request saves a turn of the loop.
        self.request_upgrade(local)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut SourceFd(&fd), Token(local as usize), interest)?;
        Ok(())
    }

    /// Sends the upgrade request, if the connection stands.
    pub(super) fn request_upgrade(&mut self, local: u32) -> Result<(), Reason> {
        let upgrade = std::rc::Rc::clone(&self.upgrade);
        let Some(socket) = &self.clients[local as usize].socket else { return Ok(()) };
        match SockRef::from(socket).send(&upgrade.request) {
            Ok(sent) => {
                self.clients[local as usize].stage = Stage::Upgrading;
                self.counters.bytes_out.add(sent as u64);
                self.queue(local, &upgrade.request[sent..]);
                if self.plan.eager { self.send_opening(local) } else { Ok(()) }
            }
            Err(error) if is_not_yet(&error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The upgrade was granted: say what comes first.
    pub(super) fn upgraded(&mut self, local: u32) -> Result<(), Reason> {
        if !self.plan.eager {
            self.send_opening(local)?;
        }
        self.clients[local as usize].stage = Stage::Joining;
        if self.clients[local as usize].awaiting == 0 {
            self.become_ready(local);
        }
        Ok(())
    }

    fn send_opening(&mut self, local: u32) -> Result<(), Reason> {
        let number = self.number(local);
        let user = self.plan.channels.user(number);
        let channels = self.plan.channels.wanted(number);
        let token = match &self.minter {
            Some(minter) => minter.mint(&user, number).map_err(|_| Reason::Token)?,
            None => String::new(),
        };
        let mut frames = std::mem::take(&mut self.scratch);
        frames.clear();
        let positions = self.known_positions(local, channels.len());
        let opening = Opening {
            number,
            user: &user,
            token: &token,
            channels: &channels,
            positions: &positions.0,
            personal: positions.1,
        };
        self.dialect.write_opening(&opening, self.random.u32(..).to_ne_bytes(), &mut frames);
        self.clients[local as usize].awaiting = self.dialect.replies_expected(channels.len());
        let outcome = self.send(local, &frames);
        self.scratch = frames;
        outcome
    }

    /// Everything the opening asked for has come.
    pub(super) fn become_ready(&mut self, local: u32) {
        self.settle(local, Stage::Ready);
        let client = &mut self.clients[local as usize];
        client.since_ms = self.now_ms;
        self.returned(local);
    }

    /// A connection ended, and not by our doing.
    pub(super) fn end(&mut self, local: u32, reason: Reason) {
        let stage = self.clients[local as usize].stage;
        if stage == Stage::Ready {
            self.counters.lost.add(1);
        } else if stage.is_pending() {
            self.counters.failed.add(1);
        } else {
            return;
        }
        self.counters.note(reason);
        self.settle(local, Stage::Away);
        self.forget(local);
        self.try_again(local);
    }

    /// Closes every connection, by reset: a million sockets in TIME_WAIT would keep their ports for a minute.
    pub(super) fn close_all(&mut self) {
        for local in 0..u32::try_from(self.clients.len()).unwrap_or(u32::MAX) {
            if let Some(socket) = &self.clients[local as usize].socket {
                let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
            }
            self.settle(local, Stage::Away);
            self.forget(local);
        }
    }

    /// Gives back what an ended connection held. Closing the descriptor takes it out of the poller.
    pub(super) fn forget(&mut self, local: u32) {
        let client: &mut Client = &mut self.clients[local as usize];
        client.socket = None;
        client.awaiting = 0;
        client.manner = Manner::Prompt;
        self.spills.release(client);
    }
}

/// Whether a write came before the connection stood.
fn is_not_yet(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected)
}
