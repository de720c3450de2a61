//! Simulated sockets: kernel buffers that fill up, short writes, edges, FIN and RST in both directions.

use std::collections::BTreeMap;

use millpond::base::ids::Descriptor;
use millpond::hub::sockets::{Sockets, Written};

/// Room in the simulated kernel's send buffer of a socket whose peer reads.
pub(crate) const SEND_BUFFER: usize = 200_000;

/// One connection as the kernel holds it: both directions.
#[derive(Debug)]
pub(crate) struct Pipe {
    /// Slot and generation, once accepted.
    pub(crate) key: Option<(u32, u32)>,
    /// Bytes from the client that the shard has not read.
    pub(crate) inbound: Vec<u8>,
    /// The client sent FIN behind `inbound`.
    pub(crate) client_fin: bool,
    /// The client reset the connection.
    pub(crate) client_reset: bool,
    /// Something new happened on the reading side: an edge the shard has not been told.
    pub(crate) read_edge: bool,
    /// Bytes to the client that it has not read.
    pub(crate) outbound: Vec<u8>,
    /// A write was short: the shard is to be told once there is room.
    pub(crate) write_edge: bool,
    /// The shard half-closed.
    pub(crate) server_fin: bool,
    /// The shard closed; true = by RST.
    pub(crate) closed: Option<bool>,
    /// Most bytes that `outbound` holds.
    pub(crate) room: usize,
    /// Writes of the shard.
    pub(crate) writes: usize,
}

impl Pipe {
    pub(crate) fn new() -> Self {
        Self {
            key: None,
            inbound: Vec::new(),
            client_fin: false,
            client_reset: false,
            read_edge: false,
            outbound: Vec::new(),
            write_edge: false,
            server_fin: false,
            closed: None,
            room: SEND_BUFFER,
            writes: 0,
        }
    }

    /// The poller has something to tell.
    pub(crate) fn has_event(&self) -> bool {
        self.read_edge || self.client_reset || (self.write_edge && self.outbound.len() < self.room)
    }

    /// The client sends.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        if self.closed.is_none() && !self.client_fin && !self.client_reset {
            self.inbound.extend_from_slice(bytes);
            self.read_edge = true;
        }
    }

    /// The client half-closes.
    pub(crate) fn finish(&mut self) {
        self.client_fin = true;
        self.read_edge = true;
    }

    /// The client resets. What had arrived before can still be read.
    pub(crate) fn reset(&mut self) {
        self.client_reset = true;
        self.outbound.clear();
    }
}

/// The sockets of one shard.
#[derive(Debug, Default)]
pub(crate) struct Net {
    pub(crate) pipes: BTreeMap<i32, Pipe>,
    /// Sockets that went to the control plane, with what had been read.
    pub(crate) handed: Vec<(i32, Vec<u8>)>,
}

impl Net {
    pub(crate) fn pipe(&mut self, socket: i32) -> &mut Pipe {
        self.pipes.get_mut(&socket).expect("a pipe of this net")
    }

    fn open(&mut self, socket: Descriptor) -> &mut Pipe {
        let pipe = self.pipe(socket.0);
        assert_eq!(pipe.closed, None, "the shard uses socket {socket:?} after it closed it");
        pipe
    }
}

impl Sockets for Net {
    fn write(&mut self, socket: Descriptor, bytes: &[u8]) -> Written {
        assert!(!bytes.is_empty(), "an empty write");
        let pipe = self.open(socket);
        assert!(!pipe.server_fin, "a write behind FIN");
        pipe.writes += 1;
        if pipe.client_reset {
            return Written::Broken;
        }
        let taken = bytes.len().min(pipe.room.saturating_sub(pipe.outbound.len()));
        pipe.outbound.extend_from_slice(&bytes[..taken]);
        pipe.write_edge |= taken < bytes.len();
        Written::Bytes(taken)
    }

    fn close(&mut self, socket: Descriptor, reset: bool) {
        let pipe = self.open(socket);
        pipe.closed = Some(reset);
        pipe.inbound.clear();
    }

    fn shutdown_write(&mut self, socket: Descriptor) {
        self.open(socket).server_fin = true;
    }

    fn hand_over(&mut self, socket: Descriptor, already_read: &[u8]) {
        self.open(socket).closed = Some(false);
        self.handed.push((socket.0, already_read.to_vec()));
    }
}
