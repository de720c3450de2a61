//! The state of one stream (a mailbox, a channel's history, a queue of events) as the log's records make it.
//!
//! Running and recovering apply the same headers through [`StreamState::apply`], so a restart arrives at the state the
//! process had. Everything at or below the floor, `last_offset - pending`, is done with; the floor only rises.

use smallvec::SmallVec;

use super::record::{Header, Kind, Sequence};

/// The low bits of an epoch change when the stream goes on after a loss ([`renewed`]); the rest tells its incarnations
/// apart.
const RENEWALS: u32 = 0xffff;

/// True if records with these epochs belong to one chain.
#[must_use]
pub fn is_same_incarnation(epoch: u32, other: u32) -> bool {
    epoch & !RENEWALS == other & !RENEWALS
}

/// The epoch with which a stream goes on that may have lost its newest records: what it holds stays, but no position of
/// before is one of now, since the numbers that were lost are given out again. `mark` tells the loss from others, so that
/// also the epoch of an earlier loss is another one, of which the note may have been lost as well.
#[must_use]
pub fn renewed(epoch: u32, mark: u64) -> u32 {
    let change = u32::try_from(mark & u64::from(RENEWALS)).unwrap_or(0).max(1);
    match epoch ^ change {
        0 => RENEWALS,
        epoch => epoch,
    }
}

/// What memory holds of a stream; 40 bytes of the index's 48-byte entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamState {
    /// The newest link of the chain; 0 if there is none.
    pub head: Sequence,
    /// Offset of the newest message, 0 before the first.
    pub last_offset: u64,
    /// Incarnation; a position of another epoch is no position in this stream.
    pub epoch: u32,
    /// Messages above the floor.
    pub pending: u32,
    /// Their bytes; see [`MailboxLimits::bytes`](super::settings::MailboxLimits::bytes).
    pub bytes: u32,
    /// Seconds since 1970 of the newest record.
    pub touched: u32,
    /// When the last of the pending messages expires; `u32::MAX` = never.
    pub expires_at: u32,
}

impl StreamState {
    /// Everything at or below this offset is acknowledged, dropped or expired.
    #[must_use]
    pub fn floor(&self) -> u64 {
        self.last_offset.saturating_sub(u64::from(self.pending))
    }

    /// Messages that may still be delivered at `now` (seconds since 1970): 0 once the last one has expired.
    #[must_use]
    pub fn pending_at(&self, now: u32) -> u32 {
        if self.expires_at <= now { 0 } else { self.pending }
    }

    /// A stream that begins with this record.
    #[must_use]
    pub fn beginning(header: &Header) -> Self {
        let before = match header.kind {
            Kind::Cursor if header.offset == Devices::FORGET => 0,
            kind if kind.is_numbered() => header.offset.saturating_sub(1),
            _ => header.offset.saturating_add(u64::from(header.ahead)),
        };
        Self { last_offset: before, epoch: header.epoch, ..Self::default() }
    }

    /// Takes in one record of the stream; records come in sequence order.
    pub fn apply(&mut self, header: &Header) {
        let is_same = is_same_incarnation(header.epoch, self.epoch);
        if !is_same && !header.kind.is_link() {
            return;
        }
        if !is_same {
            *self = Self::beginning(header);
        }
        match header.kind {
            Kind::Message | Kind::Publication | Kind::Event | Kind::Stub => self.apply_message(header),
            Kind::Meta => {
                self.advance(header.offset, header.kept);
                self.head = header.sequence;
            }
            Kind::Cursor if header.offset == Devices::FORGET => self.shrink(header.kept),
            // The end is known already, unless damage took the newest messages: then it comes from here.
            Kind::Cursor => self.advance(header.offset.saturating_add(u64::from(header.ahead)), header.kept),
            Kind::Watermark | Kind::Loss | Kind::Optional(_) | Kind::Unknown(_) => return,
        }
        self.epoch = header.epoch;
        self.touched = header.written_at;
    }

    /// Forgets all but the newest `kept` messages.
    pub fn shrink(&mut self, kept: u32) {
        if kept >= self.pending {
            return;
        }
        let share = u64::from(self.bytes).saturating_mul(u64::from(kept));
        let bytes = share.checked_div(u64::from(self.pending)).unwrap_or(0);
        self.bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.pending = kept;
        if kept == 0 {
            self.expires_at = 0;
        }
    }

    /// Moves the end forward, to `offset` unless it is there, with `kept` messages held then.
    fn advance(&mut self, offset: u64, kept: u32) {
        let step = u32::try_from(offset.saturating_sub(self.last_offset)).unwrap_or(u32::MAX);
        self.shrink(kept.saturating_sub(step));
        self.pending = self.pending.saturating_add(step).min(kept);
        self.last_offset = self.last_offset.max(offset);
    }

    fn apply_message(&mut self, header: &Header) {
        self.advance(header.offset, header.kept);
        self.bytes = self.bytes.saturating_add(header.length);
        self.head = header.sequence;
        if header.kind.is_message() {
            let expires_at = if header.expires_at == 0 { u32::MAX } else { header.expires_at };
            self.expires_at = self.expires_at.max(expires_at);
        }
    }
}

/// A stream with its devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    /// The part that every stream has.
    pub state: StreamState,
    /// The part that mailboxes have whose clients name devices.
    pub devices: Devices,
    /// Where the index found it; a hint.
    pub(super) slot: u32,
}

impl Stream {
    /// A stream that begins with this record; [`apply`](Self::apply) it next.
    #[must_use]
    pub fn beginning(header: &Header) -> Self {
        Self { state: StreamState::beginning(header), ..Self::default() }
    }

    /// Takes in one record of the stream; records come in sequence order.
    pub fn apply(&mut self, header: &Header) {
        let epoch = self.state.epoch;
        self.state.apply(header);
        if !is_same_incarnation(self.state.epoch, epoch) {
            self.devices = Devices::default();
        }
        if header.kind == Kind::Cursor && is_same_incarnation(header.epoch, self.state.epoch) {
            self.devices.set(header.previous, header.offset);
        }
    }
}

/// How far one device has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceCursor {
    /// Keyed hash of the device, 0 for clients that name none.
    pub device: u64,
    /// Everything up to here is acknowledged by it.
    pub through: u64,
}

/// The device cursors of a mailbox; empty as long as no client has named a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Devices {
    cursors: SmallVec<[DeviceCursor; 2]>,
}

impl Devices {
    /// Through-offset of a cursor record that makes the log forget the device.
    pub const FORGET: u64 = u64::MAX;

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.cursors.len()
    }

    /// True if no client has named a device.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cursors.is_empty()
    }

    /// The cursor of a device.
    #[must_use]
    pub fn get(&self, device: u64) -> Option<u64> {
        self.cursors.iter().find(|cursor| cursor.device == device).map(|cursor| cursor.through)
    }

    /// All cursors.
    #[must_use]
    pub fn as_slice(&self) -> &[DeviceCursor] {
        &self.cursors
    }

    /// Moves a device's cursor forward, adds or forgets the device. Without devices a cursor of no device is the
    /// mailbox's own and is not listed.
    pub fn set(&mut self, device: u64, through: u64) {
        if through == Self::FORGET {
            self.cursors.retain(|cursor| cursor.device != device);
            return;
        }
        if self.cursors.is_empty() && device == 0 {
            return;
        }
        match self.cursors.iter_mut().find(|cursor| cursor.device == device) {
            Some(cursor) => cursor.through = cursor.through.max(through),
            None => self.cursors.push(DeviceCursor { device, through }),
        }
    }

    /// Takes a cursor over from a snapshot.
    pub(super) fn restore(&mut self, device: u64, through: u64) {
        self.cursors.push(DeviceCursor { device, through });
    }

    /// What every device has acknowledged.
    #[must_use]
    pub fn floor(&self) -> Option<u64> {
        self.cursors.iter().map(|cursor| cursor.through).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::record::StreamKey;

    fn header(kind: Kind, sequence: u64, offset: u64, kept: u32) -> Header {
        Header {
            body_crc: 0,
            length: 100,
            sequence: Sequence(sequence),
            durable_through: Sequence(0),
            salt: 0,
            kind,
            last_of_group: false,
            key: StreamKey::default(),
            offset,
            previous: 0,
            expires_at: 0,
            epoch: 5,
            written_at: 1,
            kept,
            ahead: 0,
        }
    }

    #[test]
    fn messages_raise_and_cursors_lower_what_is_pending() {
        let first = header(Kind::Message, 10, 1, 1);
        let mut state = StreamState::beginning(&first);
        state.apply(&first);
        state.apply(&header(Kind::Message, 11, 2, 2));
        state.apply(&header(Kind::Message, 12, 3, 3));
        assert_eq!((state.pending, state.bytes, state.floor(), state.head), (3, 300, 0, Sequence(12)));
        state.apply(&header(Kind::Cursor, 13, 2, 1));
        assert_eq!((state.pending, state.bytes, state.floor()), (1, 100, 2));
        // The oldest is dropped to make room.
        state.apply(&header(Kind::Message, 14, 4, 1));
        assert_eq!((state.pending, state.bytes, state.floor()), (1, 100, 3));
    }

    #[test]
    fn a_new_epoch_starts_over_and_late_cursors_of_the_old_one_are_ignored() {
        let first = header(Kind::Publication, 1, 8, 1);
        let mut state = StreamState::beginning(&first);
        state.apply(&first);
        assert_eq!((state.last_offset, state.pending), (8, 1));
        state.apply(&Header { epoch: 0x6_0005, ..header(Kind::Publication, 2, 1, 1) });
        assert_eq!((state.last_offset, state.pending, state.epoch), (1, 1, 0x6_0005));
        state.apply(&header(Kind::Cursor, 3, 8, 0));
        assert_eq!(state.pending, 1);
    }

    #[test]
    fn the_slowest_device_holds_the_floor() {
        let mut devices = Devices::default();
        devices.set(0, 9);
        assert_eq!((devices.len(), devices.floor()), (0, None));
        devices.set(1, 5);
        devices.set(2, 3);
        devices.set(0, 4);
        assert_eq!(devices.floor(), Some(3));
        devices.set(2, 1);
        assert_eq!(devices.get(2), Some(3));
        devices.set(2, Devices::FORGET);
        assert_eq!(devices.floor(), Some(4));
    }
}
