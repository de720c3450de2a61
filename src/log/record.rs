//! The header of a record and the names of streams.
//!
//! Layout, little-endian, 88 bytes, then the body (an rkyv archive), then zeros up to the next multiple of 8, or of
//! [`SECTOR_BYTES`] after the last record of a group:
//!
//! | at | bytes | field | |
//! |---|---|---|---|
//! | 0 | 4 | magic | `mpr1` |
//! | 4 | 4 | header CRC-32C | over bytes 8 to 87 |
//! | 8 | 4 | body CRC-32C | |
//! | 12 | 4 | length | of the body |
//! | 16 | 8 | sequence | from 1, without gaps, over the whole log |
//! | 24 | 8 | durable_through | highest sequence that a finished fdatasync covered when this was written |
//! | 32 | 4 | salt | of the segment, so that recycled bytes of older files are no records |
//! | 36 | 2 | kind | from 0x8000 on: optional, skipped by programs that do not know it |
//! | 38 | 2 | flags | bit 0: last of its group |
//! | 40 | 8 | stream | keyed hash of class and name |
//! | 48 | 8 | offset | in the stream |
//! | 56 | 8 | previous | sequence of the stream's record before this; of a cursor: keyed hash of the device |
//! | 64 | 4 | check | 24 more bits of the keyed hash, and the class |
//! | 68 | 4 | expires_at | seconds since 1970, 0 = never |
//! | 72 | 4 | epoch | incarnation of the stream |
//! | 76 | 4 | written_at | seconds since 1970 |
//! | 80 | 4 | kept | messages the stream still holds, counting this one |
//! | 84 | 4 | ahead | of a cursor: how far the end of the stream lay beyond its offset; else 0 |
//!
//! A header is believed only after its own CRC, so a torn length can not mislead. Every stream is a chain through
//! `previous`, newest first, which is what lets an index of 48 bytes serve a mailbox of any length.

use siphasher::sip128::{Hasher128, SipHasher13};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::storage::SECTOR_BYTES;

/// Place of a record in the log; 0 is before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct Sequence(pub u64);

impl std::fmt::Display for Sequence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Sequence {
    /// The one after, saturating.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The one before, saturating.
    #[must_use]
    pub fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

/// Bytes of a header.
pub const HEADER_BYTES: usize = 88;

const LAST_OF_GROUP: u16 = 1;
const OPTIONAL_KINDS: u16 = 0x8000;
const LOSS: u16 = 0x8100;
const ALIGNMENT: usize = 8;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A message in a user's mailbox.
    Message,
    /// Acknowledgement: everything up to `offset` is done with.
    Cursor,
    /// A publication of a channel with durable history.
    Publication,
    /// Position and epoch of a stream without a message.
    Meta,
    /// An event for a webhook.
    Event,
    /// Carries `durable_through` only, written when the log falls idle.
    Watermark,
    /// Streams whose newest link comes before sequence `offset` may have lost newer ones, and have new epochs from here
    /// on; `previous` tells the loss from others. For programs that do not know it an optional kind.
    Loss,
    /// What compaction leaves of a message that is not delivered any more but holds its stream's place or chain.
    Stub,
    /// Of a later version, and needless for this one.
    Optional(u16),
    /// Of a later version, and needed.
    Unknown(u16),
}

impl Kind {
    /// The number on disk.
    #[must_use]
    pub fn number(self) -> u16 {
        match self {
            Self::Message => 1,
            Self::Cursor => 2,
            Self::Publication => 3,
            Self::Meta => 4,
            Self::Event => 5,
            Self::Watermark => 6,
            Self::Stub => 7,
            Self::Loss => LOSS,
            Self::Optional(number) | Self::Unknown(number) => number,
        }
    }

    /// The kind of a number on disk.
    #[must_use]
    pub fn from_number(number: u16) -> Self {
        match number {
            1 => Self::Message,
            2 => Self::Cursor,
            3 => Self::Publication,
            4 => Self::Meta,
            5 => Self::Event,
            6 => Self::Watermark,
            7 => Self::Stub,
            LOSS => Self::Loss,
            OPTIONAL_KINDS.. => Self::Optional(number),
            _ => Self::Unknown(number),
        }
    }

    /// True if the record holds something to deliver.
    #[must_use]
    pub fn is_message(self) -> bool {
        matches!(self, Self::Message | Self::Publication | Self::Event)
    }

    /// True if the record belongs to no stream.
    #[must_use]
    pub fn is_of_the_log(self) -> bool {
        matches!(self, Self::Watermark | Self::Loss)
    }

    /// True if the record takes a number of its stream.
    #[must_use]
    pub fn is_numbered(self) -> bool {
        self.is_message() || self == Self::Stub
    }

    /// True if the record is a link of its stream's chain.
    #[must_use]
    pub fn is_link(self) -> bool {
        self.is_message() || matches!(self, Self::Meta | Self::Stub)
    }
}

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The mailbox of a user.
    Mailbox,
    /// The durable history of a channel.
    History,
    /// A queue of webhook events.
    Webhook,
}

impl Class {
    /// The number on disk.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Mailbox => 1,
            Self::History => 2,
            Self::Webhook => 3,
        }
    }

    /// The class of a number on disk.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Mailbox),
            2 => Some(Self::History),
            3 => Some(Self::Webhook),
            _ => None,
        }
    }
}

/// Names a stream by 88 bits of a keyed hash: at ten million streams two share a key with a chance of 10^-13, and what
/// is read is compared with the name all the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamKey {
    /// 64 bits of the hash.
    pub hash: u64,
    /// 24 more, and in the low byte the class.
    pub check: u32,
}

impl StreamKey {
    /// The class, if it is one that this version knows.
    #[must_use]
    pub fn class(self) -> Option<Class> {
        Class::from_number(self.check.to_le_bytes()[0])
    }
}

impl std::hash::Hash for StreamKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// A map by stream. The keys are keyed hashes already, so they are not hashed again.
pub(super) type StreamMap<T> = HashMap<StreamKey, T, BuildHasherDefault<TakenHash>>;

/// Hands on the hash that a key is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TakenHash {
    hash: u64,
}

impl Hasher for TakenHash {
    fn finish(&self) -> u64 {
        self.hash
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.hash = self.hash.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.hash = hash;
    }
}

/// Hashes names with the log's secret, so that nobody can choose names that collide (bad-input.md R16).
#[derive(Clone, Copy, Debug)]
pub struct KeyHasher {
    hasher: SipHasher13,
}

impl KeyHasher {
    /// With the log's secret.
    #[must_use]
    pub fn new(secret: &[u8; 16]) -> Self {
        Self { hasher: SipHasher13::new_with_key(secret) }
    }

    /// Key of a stream.
    #[must_use]
    pub fn stream(&self, class: Class, name: &str) -> StreamKey {
        let mut hasher = self.hasher;
        hasher.write_u8(class.number());
        hasher.write(name.as_bytes());
        let hash = hasher.finish128();
        let [a, b, c, ..] = hash.h2.to_le_bytes();
        StreamKey { hash: hash.h1, check: u32::from_le_bytes([class.number(), a, b, c]) }
    }

    /// Key of a device in a mailbox; 0 for the cursor of a client that names no device, and never otherwise.
    #[must_use]
    pub fn device(&self, device: &str) -> u64 {
        if device.is_empty() {
            return 0;
        }
        let mut hasher = self.hasher;
        hasher.write_u8(0);
        hasher.write(device.as_bytes());
        hasher.finish128().h1.max(1)
    }
}

/// A header, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// CRC-32C of the body.
    pub body_crc: u32,
    /// Length of the body in bytes.
    pub length: u32,
    /// Place in the log.
    pub sequence: Sequence,
    /// Highest sequence known to be durable when this was written.
    pub durable_through: Sequence,
    /// Salt of the segment.
    pub salt: u32,
    /// What it is.
    pub kind: Kind,
    /// The next record starts at the next sector.
    pub last_of_group: bool,
    /// The stream.
    pub key: StreamKey,
    /// Place in the stream.
    pub offset: u64,
    /// The stream's link before this one, or the device of a cursor.
    pub previous: u64,
    /// Seconds since 1970, 0 = never.
    pub expires_at: u32,
    /// Incarnation of the stream.
    pub epoch: u32,
    /// Seconds since 1970.
    pub written_at: u32,
    /// Messages the stream still holds.
    pub kept: u32,
    /// Of a cursor: how far the end of the stream lay beyond its offset; else 0.
    pub ahead: u32,
}

impl Header {
    /// First bytes of every record.
    pub const MAGIC: [u8; 4] = *b"mpr1";

    /// Appends the header's 88 bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut bytes = [0; HEADER_BYTES];
        let mut rest = bytes.as_mut_slice();
        put(&mut rest, Self::MAGIC);
        put(&mut rest, [0; 4]);
        put(&mut rest, self.body_crc.to_le_bytes());
        put(&mut rest, self.length.to_le_bytes());
        put(&mut rest, self.sequence.0.to_le_bytes());
        put(&mut rest, self.durable_through.0.to_le_bytes());
        put(&mut rest, self.salt.to_le_bytes());
        put(&mut rest, self.kind.number().to_le_bytes());
        put(&mut rest, (if self.last_of_group { LAST_OF_GROUP } else { 0 }).to_le_bytes());
        put(&mut rest, self.key.hash.to_le_bytes());
        put(&mut rest, self.offset.to_le_bytes());
        put(&mut rest, self.previous.to_le_bytes());
        put(&mut rest, self.key.check.to_le_bytes());
        put(&mut rest, self.expires_at.to_le_bytes());
        put(&mut rest, self.epoch.to_le_bytes());
        put(&mut rest, self.written_at.to_le_bytes());
        put(&mut rest, self.kept.to_le_bytes());
        put(&mut rest, self.ahead.to_le_bytes());
        let crc = bytes.get(8..).map_or(0, crc32c::crc32c);
        if let Some(field) = bytes.get_mut(4..8) {
            field.copy_from_slice(&crc.to_le_bytes());
        }
        out.extend_from_slice(&bytes);
    }

    /// Decodes a header if `bytes` starts with one whose checksum and layout hold.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.first_chunk::<HEADER_BYTES>()?;
        let mut rest = bytes.as_slice();
        if take::<4>(&mut rest)? != Self::MAGIC {
            return None;
        }
        let header_crc = u32::from_le_bytes(take(&mut rest)?);
        if header_crc != crc32c::crc32c(rest) {
            return None;
        }
        let body_crc = u32::from_le_bytes(take(&mut rest)?);
        let length = u32::from_le_bytes(take(&mut rest)?);
        let sequence = Sequence(u64::from_le_bytes(take(&mut rest)?));
        let durable_through = Sequence(u64::from_le_bytes(take(&mut rest)?));
        let salt = u32::from_le_bytes(take(&mut rest)?);
        let kind = Kind::from_number(u16::from_le_bytes(take(&mut rest)?));
        let flags = u16::from_le_bytes(take(&mut rest)?);
        let hash = u64::from_le_bytes(take(&mut rest)?);
        let offset = u64::from_le_bytes(take(&mut rest)?);
        let previous = u64::from_le_bytes(take(&mut rest)?);
        let check = u32::from_le_bytes(take(&mut rest)?);
        let expires_at = u32::from_le_bytes(take(&mut rest)?);
        let epoch = u32::from_le_bytes(take(&mut rest)?);
        let written_at = u32::from_le_bytes(take(&mut rest)?);
        let kept = u32::from_le_bytes(take(&mut rest)?);
        let ahead = u32::from_le_bytes(take(&mut rest)?);
        let last_of_group = flags & LAST_OF_GROUP != 0;
        let key = StreamKey { hash, check };
        Some(Self {
            body_crc,
            length,
            sequence,
            durable_through,
            salt,
            kind,
            last_of_group,
            key,
            offset,
            previous,
            expires_at,
            epoch,
            written_at,
            kept,
            ahead,
        })
    }

    /// Bytes of header and body.
    #[must_use]
    pub fn record_bytes(&self) -> usize {
        HEADER_BYTES.saturating_add(self.length as usize)
    }

    /// Where the next record starts if this one starts at `offset`.
    #[must_use]
    pub fn next_offset(&self, offset: u64) -> u64 {
        let alignment = if self.last_of_group { SECTOR_BYTES } else { ALIGNMENT };
        let end = offset.saturating_add(self.record_bytes() as u64);
        end.checked_next_multiple_of(alignment as u64).unwrap_or(u64::MAX)
    }

    /// True if the record has expired at `now` (seconds since 1970).
    #[must_use]
    pub fn has_expired(&self, now: u32) -> bool {
        self.expires_at != 0 && self.expires_at <= now
    }
}

/// Bytes that a record with such a body takes inside a group.
#[must_use]
pub fn padded_bytes(body: usize) -> usize {
    let bytes = HEADER_BYTES.saturating_add(body);
    bytes.checked_next_multiple_of(ALIGNMENT).unwrap_or(usize::MAX)
}

/// Splits the next `N` bytes off.
pub(super) fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (bytes, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*bytes)
}

/// Fills the next `N` bytes.
pub(super) fn put<const N: usize>(rest: &mut &mut [u8], bytes: [u8; N]) {
    if let Some((field, after)) = std::mem::take(rest).split_first_chunk_mut::<N>() {
        *field = bytes;
        *rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> Header {
        Header {
            body_crc: 7,
            length: 100,
            sequence: Sequence(1 << 40),
            durable_through: Sequence(9),
            salt: 0xdead_beef,
            kind: Kind::Message,
            last_of_group: true,
            key: StreamKey { hash: 1, check: 0x0102_0301 },
            offset: 5,
            previous: 4,
            expires_at: 6,
            epoch: 8,
            written_at: 10,
            kept: 11,
            ahead: 12,
        }
    }

    #[test]
    fn header_survives_and_no_flipped_byte_does() {
        let mut bytes = Vec::new();
        header().encode(&mut bytes);
        assert_eq!(bytes.len(), HEADER_BYTES);
        assert_eq!(Header::decode(&bytes), Some(header()));
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert_eq!(Header::decode(&damaged), None, "byte {at} bit {bit}");
            }
        }
    }

    #[test]
    fn next_record_starts_aligned() {
        assert_eq!(header().next_offset(1024), 1536);
        let inner = Header { last_of_group: false, length: 1, ..header() };
        assert_eq!(inner.next_offset(1024), 1120);
        assert_eq!(padded_bytes(1), 96);
    }

    #[test]
    fn kinds_and_classes_keep_their_numbers() {
        for number in 0..=u16::MAX {
            assert_eq!(Kind::from_number(number).number(), number);
        }
        let hasher = KeyHasher::new(&[3; 16]);
        let mailbox = hasher.stream(Class::Mailbox, "a");
        assert_eq!(mailbox.class(), Some(Class::Mailbox));
        assert_ne!(mailbox.hash, hasher.stream(Class::History, "a").hash);
        assert_ne!(mailbox.hash, KeyHasher::new(&[4; 16]).stream(Class::Mailbox, "a").hash);
        assert_eq!(hasher.device(""), 0);
        assert_ne!(hasher.device("phone"), 0);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(Header::decode(&bytes), None);
        }
    }
}
