//! What a client is at rest: a few words in a slab, no buffer, no timer, no allocation.

use std::num::NonZeroU32;
use std::os::fd::OwnedFd;

use slab::Slab;
use tungstenite::protocol::frame::coding::OpCode;

/// One client. Its number follows from its place in the slab.
#[derive(Debug, Default)]
pub struct Client {
    /// The connection, while there is one.
    pub socket: Option<OwnedFd>,
    /// Place of its unfinished bytes in the pool, while there are any.
    pub spill: Option<NonZeroU32>,
    /// When the present stage began, or the last ping was read, in milliseconds of the process's clock.
    pub since_ms: u32,
    /// Pings read.
    pub pings: u16,
    /// How far it has come.
    pub stage: Stage,
    /// Replies of the opening that are still to come.
    pub awaiting: u8,
    /// Whether pings are to be answered.
    pub pong: bool,
    /// What is special about it.
    pub manner: Manner,
}

// Two million clients must fit beside a server in 24 GB, of which the kernel takes 16 (figures.md); 128 B is the
// bound that issue 3 sets for an idle client.
const _: () = assert!(size_of::<Client>() <= 24);

/// How far a client has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[repr(u8)]
pub enum Stage {
    /// Not connected: not begun, or ended.
    #[default]
    Away,
    /// Not connected, but waiting for the moment to come back.
    Waiting,
    /// The TCP connection is under way.
    Connecting,
    /// The upgrade was requested.
    Upgrading,
    /// The opening was sent.
    Joining,
    /// Every reply to the opening has come.
    Ready,
}

impl Stage {
    /// Whether a handshake is under way.
    #[must_use]
    pub fn is_pending(self) -> bool {
        matches!(self, Self::Connecting | Self::Upgrading | Self::Joining)
    }
}

/// How a client behaves once it is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Manner {
    /// It reads all and answers at once.
    #[default]
    Prompt,
    /// It never reads.
    Stuck,
    /// Its host has gone without a word: no segment is acknowledged.
    HalfOpen,
    /// It reads one byte a second.
    DripRead,
    /// It sends a command one byte a second, and reads all.
    DripWrite,
}

/// Unfinished bytes of one client.
#[derive(Debug, Default)]
pub struct Spilled {
    /// Read, but not yet a whole frame or head.
    pub input: Vec<u8>,
    /// To be written once the socket takes more.
    pub output: Vec<u8>,
    /// The fragments of a message so far, and its opcode.
    pub message: Option<(OpCode, Vec<u8>)>,
}

impl Spilled {
    fn is_empty(&self) -> bool {
        self.input.is_empty() && self.output.is_empty() && self.message.is_none()
    }
}

/// The pool of unfinished bytes of one worker.
#[derive(Debug, Default)]
pub struct SpillPool {
    slab: Slab<Box<Spilled>>,
}

impl SpillPool {
    /// The unfinished bytes of `client`, made if it has none.
    pub fn of(&mut self, client: &mut Client) -> &mut Spilled {
        let vacant = self.slab.vacant_key();
        let fresh = client.spill.is_none_or(|place| !self.slab.contains(index(place)));
        if fresh {
            self.slab.insert(Box::default());
            client.spill = u32::try_from(vacant + 1).ok().and_then(NonZeroU32::new);
        }
        let place = client.spill.map_or(vacant, index);
        &mut self.slab[place]
    }

    /// The unfinished bytes of `client`, if it has any.
    pub fn get(&mut self, client: &Client) -> Option<&mut Spilled> {
        self.slab.get_mut(index(client.spill?)).map(|spilled| &mut **spilled)
    }

    /// Gives the place back if nothing is left in it.
    pub fn tidy(&mut self, client: &mut Client) {
        if self.get(client).is_some_and(|spilled| spilled.is_empty()) {
            self.release(client);
        }
    }

    /// Gives the place back with all that is in it.
    pub fn release(&mut self, client: &mut Client) {
        if let Some(place) = client.spill.take() {
            self.slab.try_remove(index(place));
        }
        if self.slab.is_empty() && self.slab.capacity() > 1024 {
            self.slab = Slab::new();
        }
    }

    /// How many clients have unfinished bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// Whether no client has unfinished bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }
}

fn index(place: NonZeroU32) -> usize {
    place.get() as usize - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_given_back_only_when_it_is_empty() {
        let (mut pool, mut client) = (SpillPool::default(), Client::default());
        pool.of(&mut client).input.extend(b"ab");
        pool.tidy(&mut client);
        assert_eq!(pool.get(&client).map(|spilled| spilled.input.len()), Some(2));
        pool.of(&mut client).input.clear();
        pool.tidy(&mut client);
        assert!(client.spill.is_none() && pool.is_empty());
    }
}
