//! Which records are still needed. Pure: a record, the state of its stream, the time.
//!
//! What must hold is that the records that remain rebuild the same state. Every record of a stream carries what the
//! stream held after it (`kept`), so the newest one that remains sets the floor right, and the rules are:
//! * a message above the floor stays; once it has expired, a stub keeps its place in the chain;
//! * at or below the floor only the head is needed, as a stub: it carries the number the stream has reached;
//! * a cursor is needed while it is newer than the head and none with a higher floor followed;
//! * a stream that has been silent for the state's TTL may go as a whole, but only where no older record of it is left
//!   that could come back to life: in the oldest segments of the log.

use super::record::{Header, Kind};
use super::stream::{Devices, Stream, is_same_incarnation};

/// What compaction does with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Keep it as it is.
    Whole,
    /// Keep number, chain and state, drop what it says.
    Stub,
    /// Drop it.
    Nothing,
}

/// Where and when the question is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// Seconds since 1970.
    pub(super) now: u32,
    /// Seconds that a stream's state outlives its last record.
    pub(super) state_ttl: u32,
    /// No older record of any stream exists outside of what is being compacted.
    pub(super) oldest: bool,
}

impl Moment {
    /// True if nothing of the stream is needed any more.
    pub(super) fn has_ended(&self, stream: &Stream) -> bool {
        let silent = stream.state.touched.saturating_add(self.state_ttl) < self.now;
        silent && stream.state.pending_at(self.now) == 0
    }

    /// What is needed of a record; `stream` is `None` if the log has forgotten it.
    pub(super) fn need(&self, header: &Header, stream: Option<&Stream>) -> Need {
        match header.kind {
            Kind::Watermark => return Need::Nothing,
            // Not ours to judge; and of losses there are few.
            Kind::Loss | Kind::Optional(_) | Kind::Unknown(_) => return Need::Whole,
            _ => {}
        }
        let Some(stream) = stream.filter(|stream| is_same_incarnation(stream.state.epoch, header.epoch))
        else {
            return Need::Nothing;
        };
        if self.oldest && self.has_ended(stream) {
            return Need::Nothing;
        }
        if header.kind == Kind::Cursor { cursor(header, stream) } else { self.link(header, stream) }
    }

    fn link(&self, header: &Header, stream: &Stream) -> Need {
        let state = &stream.state;
        let is_head = header.sequence == state.head;
        let waiting = header.offset > state.floor() && state.pending_at(self.now) > 0;
        match header.kind {
            // It holds a version, and the way to what lies before it.
            Kind::Meta if is_head || waiting => Need::Whole,
            Kind::Stub if is_head || waiting => Need::Whole,
            _ if waiting && !header.has_expired(self.now) => Need::Whole,
            _ if waiting || is_head => Need::Stub,
            _ => Need::Nothing,
        }
    }
}

fn cursor(header: &Header, stream: &Stream) -> Need {
    let state = &stream.state;
    let devices = &stream.devices;
    // Of no device while some are known: it may be the one that made the mailbox have a cursor of its own.
    let of_device = header.previous != 0 || !devices.is_empty();
    let current = devices.get(header.previous) == Some(header.offset) || header.offset == Devices::FORGET;
    if of_device && current {
        return Need::Whole;
    }
    // `kept` counts from the offset that the stream had reached, which for a cursor newer than the head is today's.
    let floor = state.last_offset.saturating_sub(u64::from(header.kept));
    if header.sequence > state.head && floor >= state.floor() { Need::Whole } else { Need::Nothing }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::record::{Sequence, StreamKey};
    use crate::log::stream::StreamState;

    const MOMENT: Moment = Moment { now: 1000, state_ttl: 100, oldest: false };

    fn header(kind: Kind, sequence: u64, offset: u64, kept: u32) -> Header {
        Header {
            body_crc: 0,
            length: 10,
            sequence: Sequence(sequence),
            durable_through: Sequence(0),
            salt: 0,
            kind,
            last_of_group: false,
            key: StreamKey::default(),
            offset,
            previous: 0,
            expires_at: 0,
            epoch: 1,
            written_at: 950,
            kept,
            ahead: 0,
        }
    }

    fn stream(last_offset: u64, pending: u32, head: u64) -> Stream {
        let state = StreamState {
            head: Sequence(head),
            last_offset,
            epoch: 1,
            pending,
            bytes: 0,
            touched: 950,
            expires_at: if pending > 0 { u32::MAX } else { 0 },
        };
        Stream { state, ..Stream::default() }
    }

    #[test]
    fn messages_above_the_floor_stay_and_the_head_keeps_the_number() {
        let stream = stream(5, 2, 50);
        let need = |offset, sequence| MOMENT.need(&header(Kind::Message, sequence, offset, 1), Some(&stream));
        assert_eq!((need(3, 30), need(4, 40), need(5, 50)), (Need::Nothing, Need::Whole, Need::Whole));
        let acknowledged = self::stream(5, 0, 50);
        let need =
            |offset, sequence| MOMENT.need(&header(Kind::Message, sequence, offset, 1), Some(&acknowledged));
        assert_eq!((need(4, 40), need(5, 50)), (Need::Nothing, Need::Stub));
        let expired = Header { expires_at: 999, ..header(Kind::Message, 40, 4, 1) };
        assert_eq!(MOMENT.need(&expired, Some(&stream)), Need::Stub);
        assert_eq!(MOMENT.need(&header(Kind::Message, 40, 4, 1), None), Need::Nothing);
        let other_epoch = Header { epoch: 0x2_0001, ..header(Kind::Message, 50, 5, 1) };
        assert_eq!(MOMENT.need(&other_epoch, Some(&stream)), Need::Nothing);
    }

    #[test]
    fn the_last_cursor_stays_until_a_message_follows() {
        let after_head = stream(5, 2, 50);
        let need = |sequence, kept| MOMENT.need(&header(Kind::Cursor, sequence, 3, kept), Some(&after_head));
        assert_eq!((need(60, 2), need(55, 4), need(45, 2)), (Need::Whole, Need::Nothing, Need::Nothing));
    }

    #[test]
    fn a_silent_stream_goes_only_from_the_oldest_segments() {
        let mut silent = stream(5, 0, 50);
        silent.state.touched = 899;
        let head = header(Kind::Message, 50, 5, 1);
        assert_eq!(MOMENT.need(&head, Some(&silent)), Need::Stub);
        let oldest = Moment { oldest: true, ..MOMENT };
        assert_eq!(oldest.need(&head, Some(&silent)), Need::Nothing);
        silent.state.touched = 900;
        assert_eq!(oldest.need(&head, Some(&silent)), Need::Stub);
    }
}
