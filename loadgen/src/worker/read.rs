//! Reading: bytes of a socket to frames, frames to messages. Whole frames are taken where they lie; only an
//! unfinished rest moves to the pool.

use std::io::{self, Read};
use std::rc::Rc;

use socket2::SockRef;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::Worker;
use crate::client::{Manner, Stage};
use crate::counters::Reason;
use crate::ws::{self, Frame, FrameFault, Upgraded};

/// The most that fragments of one message may add up to.
const MESSAGE_LIMIT: usize = 64 << 20;

impl Worker {
    /// The socket has bytes, or has ended.
    pub(super) fn readable(&mut self, local: u32, to_the_end: bool) {
        let Some(client) = self.clients.get(local as usize) else { return };
        let reads = matches!(client.manner, Manner::Prompt | Manner::DripWrite);
        if client.socket.is_none() || !reads {
            return;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let outcome = self.drain(local, to_the_end, &mut buffer);
        self.buffer = buffer;
        if let Err(reason) = outcome {
            self.end(local, reason);
        }
    }

    /// Reads until nothing is left. A read that does not fill the buffer has emptied the socket, and bytes that come
    /// later raise a new event; only an end of the stream that was already announced is still to be read.
    fn drain(&mut self, local: u32, to_the_end: bool, buffer: &mut [u8]) -> Result<(), Reason> {
        loop {
            let read = self.receive(local, buffer)?;
            if read == 0 {
                return Ok(());
            }
            self.take_bytes(local, &buffer[..read])?;
            if read < buffer.len() && !to_the_end {
                return Ok(());
            }
        }
    }

    /// One read: how much came, 0 for nothing now.
    pub(super) fn receive(&mut self, local: u32, buffer: &mut [u8]) -> Result<usize, Reason> {
        let Some(socket) = &self.clients[local as usize].socket else { return Ok(0) };
        match (&*SockRef::from(socket)).read(buffer) {
            Ok(0) => Err(Reason::Eof),
            Ok(read) => {
                self.counters.bytes_in.add(read as u64);
                self.books.reading(self.clock);
                Ok(read)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            // An event may come before the connection stands; `writable` goes on from there.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes what was read, together with what was left the last time.
    pub(super) fn take_bytes(&mut self, local: u32, bytes: &[u8]) -> Result<(), Reason> {
        let client = &self.clients[local as usize];
        let held = self.spills.get(client).map(|spilled| std::mem::take(&mut spilled.input));
        let Some(mut held) = held.filter(|held| !held.is_empty()) else {
            let used = self.consume(local, bytes)?;
            self.keep(local, bytes[used..].to_vec());
            return Ok(());
        };
        held.extend_from_slice(bytes);
        let used = self.consume(local, &held)?;
        held.drain(..used);
        self.keep(local, held);
        Ok(())
    }

    fn keep(&mut self, local: u32, rest: Vec<u8>) {
        let client = &mut self.clients[local as usize];
        if !rest.is_empty() && client.socket.is_some() {
            self.spills.of(client).input = rest;
        } else {
            self.spills.tidy(client);
        }
    }

    /// Takes whole heads and frames; how many bytes they were.
    fn consume(&mut self, local: u32, bytes: &[u8]) -> Result<usize, Reason> {
        let mut used = 0;
        if self.clients[local as usize].stage == Stage::Upgrading {
            let upgrade = Rc::clone(&self.upgrade);
            match upgrade.check(bytes) {
                Upgraded::Partial => return Ok(0),
                Upgraded::Done(length) => used = length,
                Upgraded::Status(status) => return Err(Reason::Status(status)),
                Upgraded::Bad => return Err(Reason::BadUpgrade),
            }
            self.upgraded(local)?;
        }
        while let Some((frame, length)) = ws::next_frame(&bytes[used..])? {
            self.frame(local, frame)?;
            used += length;
        }
        Ok(used)
    }

    fn frame(&mut self, local: u32, frame: Frame<'_>) -> Result<(), Reason> {
        match frame.opcode {
            OpCode::Control(Control::Ping) => {
                self.count_ping(local);
                let mut answer = Vec::new();
                ws::write_frame(&mut answer, ws::PONG, frame.payload, self.random.u32(..).to_ne_bytes());
                self.send(local, &answer)
            }
            OpCode::Control(Control::Close) => Err(Reason::Closed(ws::close_code(frame.payload))),
            OpCode::Control(_) => Ok(()),
            OpCode::Data(data) => self.data(local, data, frame),
        }
    }

    fn data(&mut self, local: u32, data: Data, frame: Frame<'_>) -> Result<(), Reason> {
        let client = &self.clients[local as usize];
        let begun = self.spills.get(client).and_then(|spilled| spilled.message.take());
        match (begun, data, frame.last) {
            (None, Data::Text | Data::Binary, true) => self.message(local, frame.opcode, frame.payload),
            (None, Data::Text | Data::Binary, false) => {
                self.hold_message(local, frame.opcode, frame.payload.to_vec());
                Ok(())
            }
            (Some((opcode, mut message)), Data::Continue, last) => {
                if message.len() + frame.payload.len() > MESSAGE_LIMIT {
                    return Err(FrameFault::TooLong.into());
                }
                message.extend_from_slice(frame.payload);
                if last {
                    return self.message(local, opcode, &message);
                }
                self.hold_message(local, opcode, message);
                Ok(())
            }
            _ => Err(FrameFault::Fragmentation.into()),
        }
    }

    fn hold_message(&mut self, local: u32, opcode: OpCode, message: Vec<u8>) {
        let client = &mut self.clients[local as usize];
        self.spills.of(client).message = Some((opcode, message));
    }
}
