//! Writing: straight into the socket, and into the pool what it does not take.

use std::io;

use socket2::SockRef;

use super::Worker;
use crate::client::{Manner, Stage};
use crate::counters::Reason;

impl Worker {
    /// Sends whole frames. What the socket does not take waits for it to become writable.
    pub(super) fn send(&mut self, local: u32, frames: &[u8]) -> Result<(), Reason> {
        let client = &self.clients[local as usize];
        let waiting = self.spills.get(client).is_some_and(|spilled| !spilled.output.is_empty());
        if waiting || client.manner == Manner::DripWrite {
            self.queue(local, frames);
            return Ok(());
        }
        let sent = self.write(local, frames)?;
        self.queue(local, &frames[sent..]);
        Ok(())
    }

    /// Answers an application ping.
    pub(super) fn send_pong(&mut self, local: u32) -> Result<(), Reason> {
        let pong = std::mem::take(&mut self.pong);
        let outcome = self.send(local, &pong);
        self.pong = pong;
        outcome
    }

    /// Keeps bytes for later.
    pub(super) fn queue(&mut self, local: u32, bytes: &[u8]) {
        if !bytes.is_empty() {
            let client = &mut self.clients[local as usize];
            self.spills.of(client).output.extend_from_slice(bytes);
        }
    }

    /// The socket takes bytes again, or its connection stands.
    pub(super) fn writable(&mut self, local: u32) {
        let Some(client) = self.clients.get(local as usize) else { return };
        let outcome = match (client.stage, client.spill) {
            (Stage::Connecting, _) => self.request_upgrade(local),
            _ if client.manner == Manner::DripWrite => return,
            (_, Some(_)) => self.flush(local),
            _ => return,
        };
        if let Err(reason) = outcome {
            self.end(local, reason);
        }
    }

    fn flush(&mut self, local: u32) -> Result<(), Reason> {
        let client = &mut self.clients[local as usize];
        let Some(spilled) = self.spills.get(client) else { return Ok(()) };
        let mut output = std::mem::take(&mut spilled.output);
        if !output.is_empty() {
            let sent = self.write(local, &output)?;
            output.drain(..sent);
        }
        let client = &mut self.clients[local as usize];
        if !output.is_empty() {
            self.spills.of(client).output = output;
        }
        self.spills.tidy(client);
        Ok(())
    }

    /// One write; how much the socket took.
    pub(super) fn write(&self, local: u32, bytes: &[u8]) -> Result<usize, Reason> {
        let Some(socket) = &self.clients[local as usize].socket else { return Ok(bytes.len()) };
        match SockRef::from(socket).send(bytes) {
            Ok(sent) => {
                self.counters.bytes_out.add(sent as u64);
                Ok(sent)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error.into()),
        }
    }
}
