//! Output of one connection that is not in the kernel yet.
//!
//! Messages of one loop turn are joined into one WebSocket frame (at most [`MESSAGES_PER_FRAME`]), and the frames of
//! one turn leave in one write. Frames shared by many subscribers wait as references, so a slow reader costs no copy.
//!
//! Invariant: bytes leave in the order in which they were added. `joined` holds what was added before anything stands
//! in `backlog`; while that is there (and then it is not empty), everything goes there. What stands in `joined` is never
//! left out, so publications that may be go there only to be written with the rest of this turn, and not many.

use std::sync::Arc;

use bytes::Bytes;

use crate::hub::backlog::{Backlog, Hold, LeftOut};
use crate::hub::mail::Delivery;
use crate::limits;
use crate::protocol::Encoding;
use crate::wire::frame::{Opcode, frame_header, header_length};

/// Messages joined into one frame at most (client-protocol.md 1.3).
const MESSAGES_PER_FRAME: u8 = 16;

/// Capacity that an emptied buffer keeps for its next user.
const SPARE_CAPACITY: usize = 512;

/// Room kept in front of an open frame's payload: the header of a payload up to 65,535 bytes.
const RESERVED: usize = 4;

/// A payload larger than this is queued by reference instead of being copied into a joined frame.
const COPY_LIMIT: usize = 4096;

/// Output that waits, in order.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    joined: Vec<u8>,
    sent: usize,
    open_at: usize,
    open_messages: u8,
    backlog: Option<Box<Backlog>>,
}

impl Outbox {
    /// Bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.joined_len() + self.backlog.as_ref().map_or(0, |backlog| backlog.len())
    }

    /// True if nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory held.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.joined.capacity() + self.backlog.as_ref().map_or(0, |backlog| backlog.memory_bytes())
    }

    /// Adds one message written by `encode`, joined with its neighbours of this turn.
    pub(crate) fn message(&mut self, encoding: Encoding, encode: impl FnOnce(&mut Vec<u8>)) {
        if self.backlog.is_some() {
            let mut alone = Self::default();
            alone.message(encoding, encode);
            alone.close_frame(encoding);
            return self.frame(Bytes::from(alone.joined));
        }
        self.open(encoding);
        encode(&mut self.joined);
        self.open_messages += 1;
        if self.open_messages == MESSAGES_PER_FRAME || self.joined.len() - self.open_at > COPY_LIMIT {
            self.close_frame(encoding);
        }
    }

    /// Adds a message that stands in a complete, shared frame; small ones are joined, large ones referenced.
    pub(crate) fn shared_message(&mut self, encoding: Encoding, frame: &Bytes) {
        let payload = header_length(frame);
        if self.backlog.is_none() && frame.len() - payload <= COPY_LIMIT {
            return self.message(encoding, |out| out.extend_from_slice(&frame[payload..]));
        }
        self.close_frame(encoding);
        self.frame(frame.clone());
    }

    /// Adds a complete frame by reference.
    pub(crate) fn frame(&mut self, frame: Bytes) {
        if frame.is_empty() {
            return;
        }
        self.backlog.get_or_insert_default().push(frame);
    }

    /// Adds a publication, which waits as `hold` says. `corked`: the kernel takes nothing now. True if it took the place
    /// of an older one of its channel.
    pub(crate) fn publication(
        &mut self,
        encoding: Encoding,
        frame: &Bytes,
        source: &Arc<Delivery>,
        hold: Hold,
        corked: bool,
    ) -> bool {
        let leaves_soon = !corked && self.joined_len() < limits::GATHER_BYTES && frame.len() <= COPY_LIMIT;
        if hold == Hold::Firm || (leaves_soon && self.backlog.is_none()) {
            self.shared_message(encoding, frame);
            return false;
        }
        self.close_frame(encoding);
        self.backlog.get_or_insert_default().push_publication(frame.clone(), source, hold)
    }

    /// Leaves publications out, the oldest first, until at most `limit` bytes wait or none may go.
    pub(crate) fn make_room(&mut self, limit: usize) -> LeftOut {
        let limit = limit.saturating_sub(self.joined_len());
        let left_out = self.backlog.as_mut().map(|backlog| backlog.make_room(limit)).unwrap_or_default();
        self.drop_empty_backlog();
        left_out
    }

    /// The subscription to a channel is over.
    pub(crate) fn end_line(&mut self, hash: u64) {
        if let Some(backlog) = &mut self.backlog {
            backlog.end_line(hash);
        }
    }

    /// Adds the rest of a frame of which the first part was written past this queue, which must be empty.
    pub(crate) fn rest_of_frame(&mut self, rest: Bytes) {
        self.backlog.get_or_insert_default().push_begun(rest);
    }

    /// Adds complete frames that were written for this connection alone (control frames, HTTP responses).
    pub(crate) fn raw(&mut self, encoding: Encoding, bytes: &[u8]) {
        self.close_frame(encoding);
        if self.backlog.is_none() {
            self.joined.extend_from_slice(bytes);
            self.open_at = self.joined.len();
        } else {
            self.frame(Bytes::copy_from_slice(bytes));
        }
    }

    /// The next contiguous bytes to write; complete frames only, gathered in `scratch` where they stand apart.
    pub(crate) fn front<'a>(&'a mut self, encoding: Encoding, scratch: &'a mut Vec<u8>) -> &'a [u8] {
        self.close_frame(encoding);
        if self.sent < self.joined.len() {
            return &self.joined[self.sent..];
        }
        self.backlog.as_ref().map_or(&[], |backlog| backlog.front(scratch))
    }

    /// Forgets `count` bytes of what [`Self::front`] returned.
    pub(crate) fn advance(&mut self, count: usize) {
        if self.sent < self.joined.len() {
            self.sent += count;
            if self.sent == self.joined.len() {
                self.joined.clear();
                (self.sent, self.open_at) = (0, 0);
            } else if self.sent > COPY_LIMIT && self.sent > self.joined.len() / 2 {
                self.trim();
            }
            return;
        }
        if let Some(backlog) = &mut self.backlog {
            backlog.advance(count);
        }
        self.drop_empty_backlog();
    }

    /// Drops everything that waits but the rest of a frame of which a part is in the kernel: a frame begun cannot be
    /// taken back.
    pub(crate) fn clear_unsent(&mut self) {
        let begun = if self.sent < self.joined.len() {
            let end = frame_end(&self.joined, self.sent);
            Some(Bytes::copy_from_slice(&self.joined[self.sent..end]))
        } else {
            self.backlog.take().and_then(|backlog| backlog.into_begun())
        };
        self.clear();
        if let Some(rest) = begun.filter(|rest| !rest.is_empty()) {
            self.rest_of_frame(rest);
        }
    }

    /// Drops everything that waits.
    pub(crate) fn clear(&mut self) {
        *self = Self { joined: std::mem::take(&mut self.joined), ..Self::default() };
        self.joined.clear();
        self.joined.shrink_to(SPARE_CAPACITY);
    }

    /// Gives the room of what has left back, where it was much.
    pub(crate) fn give_back(&mut self) {
        if self.is_empty() && self.joined.capacity() > SPARE_CAPACITY {
            self.joined = Vec::new();
        }
    }

    /// Gives back the frames that are out, so that a reader who is never quite up to date does not let the queue grow.
    fn trim(&mut self) {
        let start = frame_start(&self.joined, self.sent);
        self.joined.drain(..start);
        self.sent -= start;
        self.open_at = self.joined.len();
    }

    fn joined_len(&self) -> usize {
        self.joined.len() - self.sent
    }

    fn drop_empty_backlog(&mut self) {
        if self.backlog.as_ref().is_some_and(|backlog| backlog.is_empty()) {
            self.backlog = None;
        }
    }

    fn open(&mut self, encoding: Encoding) {
        if self.open_messages == 0 {
            self.open_at = self.joined.len();
            self.joined.extend_from_slice(&[0; RESERVED]);
        } else if encoding == Encoding::Json {
            self.joined.push(b'\n');
        }
    }

    /// Writes the header of the open frame in front of its payload, moving the payload where the header is not
    /// [`RESERVED`] bytes long (tiny payloads: cheap; more than 64 KiB: rare).
    fn close_frame(&mut self, encoding: Encoding) {
        if self.open_messages == 0 {
            return;
        }
        self.open_messages = 0;
        let start = self.open_at + RESERVED;
        let opcode = if encoding == Encoding::Json { Opcode::Text } else { Opcode::Binary };
        let mut header = [0; 10];
        let header_len = frame_header(&mut header, opcode, self.joined.len() - start);
        self.joined.splice(self.open_at..start, header[..header_len].iter().copied());
        self.open_at = self.joined.len();
    }
}

/// Where the frame ends in which `sent` lies; `sent` itself if it lies between two frames.
fn frame_end(frames: &[u8], sent: usize) -> usize {
    let start = frame_start(frames, sent);
    if start == sent {
        return sent;
    }
    let length = frames.get(start..).and_then(frame_length).unwrap_or(frames.len());
    (start + length).min(frames.len())
}

/// Where the frame begins in which `sent` lies; `sent` itself if it lies between two frames.
fn frame_start(frames: &[u8], sent: usize) -> usize {
    let mut start = 0;
    while let Some(length) = frames.get(start..).and_then(frame_length)
        && start + length <= sent
    {
        start += length;
    }
    start
}

/// Length of the frame of ours that begins here, or of the HTTP response before all frames.
fn frame_length(frame: &[u8]) -> Option<usize> {
    if *frame.first()? < 0x80 {
        return memchr::memmem::find(frame, b"\r\n\r\n").map(|end| end + 4);
    }
    let payload = match frame.get(1)? {
        126 => usize::from(u16::from_be_bytes(frame.get(2..4)?.try_into().ok()?)),
        127 => usize::try_from(u64::from_be_bytes(frame.get(2..10)?.try_into().ok()?)).ok()?,
        short => usize::from(*short),
    };
    Some(header_length(frame) + payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(outbox: &mut Outbox, encoding: Encoding) -> Vec<u8> {
        let mut out = Vec::new();
        while !outbox.is_empty() {
            let front = outbox.front(encoding, &mut Vec::new()).to_vec();
            outbox.advance(front.len());
            out.extend(front);
        }
        out
    }

    #[test]
    fn messages_of_one_turn_share_a_frame() {
        let mut outbox = Outbox::default();
        outbox.message(Encoding::Json, |out| out.extend_from_slice(b"{}"));
        outbox.message(Encoding::Json, |out| out.extend_from_slice(b"{\"id\":1}"));
        assert_eq!(drain(&mut outbox, Encoding::Json), b"\x81\x0b{}\n{\"id\":1}");
        assert!(outbox.is_empty());
    }

    #[test]
    fn order_survives_shared_frames_and_long_payloads() {
        let mut outbox = Outbox::default();
        let long = vec![b'x'; 70_000];
        outbox.message(Encoding::Json, |out| out.push(b'1'));
        outbox.shared_message(Encoding::Json, &Bytes::from_static(b"\x81\x01a"));
        outbox.frame(Bytes::from_static(b"\x81\x012"));
        outbox.shared_message(Encoding::Json, &Bytes::from_static(b"\x81\x013"));
        outbox.message(Encoding::Json, |out| out.extend_from_slice(&long));
        let mut expected = b"\x81\x031\na\x81\x012\x81\x013\x81\x7f".to_vec();
        expected.extend(70_000_u64.to_be_bytes());
        expected.extend(&long);
        assert_eq!(outbox.len() + 6, expected.len() + 6);
        assert_eq!(drain(&mut outbox, Encoding::Json), expected);
    }

    #[test]
    fn what_is_out_is_given_back_at_the_borders_of_frames() {
        let (mut outbox, mut sent, mut expected) = (Outbox::default(), Vec::new(), Vec::new());
        outbox.raw(Encoding::Json, b"HTTP/1.1 101 Switching Protocols\r\n\r\n");
        expected.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\n\r\n");
        for round in 0..2000_usize {
            let payload = vec![b'a' + (round % 26) as u8; round % 300];
            outbox.message(Encoding::Json, |out| out.extend_from_slice(&payload));
            let mut header = [0; 10];
            let length = frame_header(&mut header, Opcode::Text, payload.len());
            expected.extend_from_slice(&header[..length]);
            expected.extend(&payload);
            let mut scratch = Vec::new();
            let front = outbox.front(Encoding::Json, &mut scratch);
            let count = if round < 20 { 1 } else { front.len().saturating_sub(1 + round % 2500).max(1) };
            sent.extend_from_slice(&front[..count]);
            outbox.advance(count);
            assert!(outbox.memory_bytes() < 40_000, "{} bytes for {}", outbox.memory_bytes(), outbox.len());
        }
        let cut = expected[..sent.len()].to_vec();
        assert_eq!(sent, cut);
        outbox.clear_unsent();
        sent.extend(drain(&mut outbox, Encoding::Json));
        assert!(expected.starts_with(&sent) && sent.len() - cut.len() < 304);
        assert_eq!(frame_start(&sent, sent.len()), sent.len(), "the last frame is whole");
    }

    #[test]
    fn seventeen_messages_make_two_frames() {
        let mut outbox = Outbox::default();
        for _ in 0..17 {
            outbox.message(Encoding::Protobuf, |out| out.push(0));
        }
        let bytes = drain(&mut outbox, Encoding::Protobuf);
        assert_eq!(bytes.len(), 17 + 4);
        assert_eq!(&bytes[..2], b"\x82\x10");
        assert_eq!(&bytes[18..], b"\x82\x01\x00");
    }
}
