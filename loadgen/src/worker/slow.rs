//! Clients that misbehave: never read, read or write a byte a second, or are gone without a word.

use socket2::{SockFilter, SockRef};

use super::{Due, Worker};
use crate::behaviour::Slowness;
use crate::client::{Manner, Stage};
use crate::counters::Reason;

/// Time between two bytes of a drip.
const DRIP_MS: u32 = 1_000;
/// The receive buffer of a client that does not read, so that the server's queue fills and not the kernel's.
const STUCK_RECEIVE_BUFFER: usize = 4_096;
/// The classic BPF instruction `ret`.
const BPF_RET: u16 = 0x06;

impl Worker {
    /// Makes some clients slow, evenly picked from those that are ready; or all prompt again.
    pub(super) fn set_slowness(&mut self, slowness: &Slowness) {
        if slowness.manner == Manner::Prompt {
            return self.all_prompt();
        }
        let ready: Vec<u32> = (0..u32::try_from(self.clients.len()).unwrap_or(u32::MAX))
            .filter(|local| self.clients[*local as usize].stage == Stage::Ready)
            .collect();
        let step = ready.len() / (slowness.clients as usize).max(1);
        for local in ready.iter().step_by(step.max(1)).take(slowness.clients as usize) {
            self.slow_down(*local, slowness.manner);
        }
    }

    fn slow_down(&mut self, local: u32, manner: Manner) {
        let client = &mut self.clients[local as usize];
        client.manner = manner;
        let Some(socket) = &client.socket else { return };
        let socket = SockRef::from(socket);
        // Where the kernel refuses, the client is slow all the same, only with a larger buffer before it.
        let _ = match manner {
            Manner::Stuck | Manner::DripRead => socket.set_recv_buffer_size(STUCK_RECEIVE_BUFFER),
            // The program `ret #0`: no segment reaches the socket, so none is acknowledged, as if the host were gone.
            Manner::HalfOpen => socket.attach_filter(&[SockFilter::new(BPF_RET, 0, 0, 0)]),
            Manner::DripWrite | Manner::Prompt => Ok(()),
        };
        if matches!(manner, Manner::DripRead | Manner::DripWrite) {
            self.wheel.insert(self.now_ms + self.random.u32(0..DRIP_MS), Due::Drip(local));
        }
    }

    /// Reads what has piled up, so that it shows what the server did with each of them. Those whose host was gone come
    /// back with a new connection.
    fn all_prompt(&mut self) {
        for local in 0..u32::try_from(self.clients.len()).unwrap_or(u32::MAX) {
            match std::mem::take(&mut self.clients[local as usize].manner) {
                Manner::Prompt => {}
                Manner::HalfOpen => self.leave_and_return(local),
                Manner::Stuck | Manner::DripRead | Manner::DripWrite => {
                    self.writable(local);
                    self.readable(local, true);
                }
            }
        }
    }

    /// One byte more.
    pub(super) fn drip(&mut self, local: u32) {
        let client = &self.clients[local as usize];
        if client.stage != Stage::Ready {
            return;
        }
        let outcome = match client.manner {
            Manner::DripRead => self.drip_read(local),
            Manner::DripWrite => self.drip_write(local),
            _ => return,
        };
        match outcome {
            Ok(()) => self.wheel.insert(self.now_ms + DRIP_MS, Due::Drip(local)),
            Err(reason) => self.end(local, reason),
        }
    }

    fn drip_read(&mut self, local: u32) -> Result<(), Reason> {
        let mut byte = [0];
        match self.receive(local, &mut byte)? {
            0 => Ok(()),
            _ => self.take_bytes(local, &byte),
        }
    }

    /// Sends one byte of what waits; where nothing waits, of an application pong, which is the shortest there is to say.
    fn drip_write(&mut self, local: u32) -> Result<(), Reason> {
        let client = &mut self.clients[local as usize];
        let spilled = self.spills.of(client);
        if spilled.output.is_empty() {
            return Ok(());
        }
        let byte = [spilled.output.remove(0)];
        let sent = self.write(local, &byte)?;
        let client = &mut self.clients[local as usize];
        if sent == 0 {
            self.spills.of(client).output.insert(0, byte[0]);
        }
        self.spills.tidy(client);
        Ok(())
    }
}
