//! Decides what a request becomes in its stream: number, link, what is kept. Pure.

use super::error::AppendError;
use super::record::{Class, Header, Sequence, StreamKey};
use super::request::{Plan, Prepared, Room};
use super::settings::{MailboxLimits, WhenFull};
use super::stream::{Devices, Stream, StreamState};

/// What all records of a group share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    /// See [`Shared`](super::shared::Shared).
    pub(super) lineage: u64,
    pub(super) salt: u32,
    pub(super) durable_through: Sequence,
    /// Seconds since 1970.
    pub(super) now: u32,
    /// Seconds that the state of a stream outlives its last record.
    pub(super) state_ttl: u32,
}

/// The header of a request that becomes record `sequence`, and its stream after it.
pub(super) fn place(
    request: &Prepared,
    stream: Option<Stream>,
    sequence: Sequence,
    stamp: &Stamp,
    limits: &MailboxLimits,
) -> Result<(Header, Stream), AppendError> {
    let fresh = stream.is_none();
    let mut stream = stream.unwrap_or_default();
    if fresh {
        stream.state.epoch = match request.key.class() {
            Some(Class::Mailbox) => mailbox_epoch(stamp.lineage, request.key, stamp.now, stamp.state_ttl),
            _ => epoch_of(stamp, sequence),
        };
    }
    let decision = decide(request, &mut stream, stamp.now, limits)?;
    let header = Header {
        body_crc: request.body_crc,
        length: u32::try_from(request.body.len()).unwrap_or(u32::MAX),
        sequence,
        durable_through: stamp.durable_through,
        salt: stamp.salt,
        kind: request.kind,
        last_of_group: false,
        key: request.key,
        offset: decision.offset,
        previous: decision.previous,
        expires_at: request.expires_at,
        epoch: decision.epoch,
        written_at: stamp.now,
        kept: decision.kept,
        ahead: decision.ahead,
    };
    if fresh {
        stream = Stream::beginning(&header);
    }
    stream.apply(&header);
    Ok((header, stream))
}

/// An epoch that no other incarnation of the stream, in this log or one before it, has had. The salt of the segment is
/// part of it, since after a loss sequences may be given out again.
fn epoch_of(stamp: &Stamp, sequence: Sequence) -> u32 {
    let log = crc32c::crc32c(&stamp.lineage.to_le_bytes());
    let segment = crc32c::crc32c_append(log, &stamp.salt.to_le_bytes());
    crc32c::crc32c_append(segment, &sequence.0.to_le_bytes()).max(1)
}

/// The epoch of a mailbox that begins at `now` (seconds since 1970). Clients are told it before there is a mailbox, so it
/// is a function of the user, of the log with what it has lost, and of a period as long as the state of a mailbox lives: a stream is forgotten that long
/// after it began at the earliest, so the next one begins in another period and has another epoch. The periods of users
/// end at different times.
pub(super) fn mailbox_epoch(lineage: u64, key: StreamKey, now: u32, state_ttl: u32) -> u32 {
    let period = u64::from(state_ttl.max(1));
    let begun = key.hash.checked_rem(period).unwrap_or(0).saturating_add(u64::from(now));
    let number = begun.checked_div(period).unwrap_or(0);
    let parts = [lineage, key.hash, u64::from(key.check), period, number];
    parts.iter().fold(0, |crc, part| crc32c::crc32c_append(crc, &part.to_le_bytes())).max(1)
}

struct Decision {
    offset: u64,
    previous: u64,
    epoch: u32,
    kept: u32,
    ahead: u32,
}

fn decide(
    request: &Prepared,
    stream: &mut Stream,
    now: u32,
    limits: &MailboxLimits,
) -> Result<Decision, AppendError> {
    let state = &mut stream.state;
    let link =
        Decision { offset: state.last_offset, previous: state.head.0, epoch: state.epoch, kept: 0, ahead: 0 };
    match request.plan {
        Plan::Next(capacity) => {
            // What has expired makes room first.
            state.shrink(state.pending_at(now));
            let offset = state.last_offset.saturating_add(1);
            let kept = match capacity {
                Room::Endless => u32::MAX,
                Room::Mailbox => room(state, request.body.len(), limits)?,
                Room::Newest(keep) => keep,
            };
            Ok(Decision { offset, kept: kept.min(state.pending.saturating_add(1)), ..link })
        }
        Plan::Loss { before, mark } => Ok(Decision { offset: before.0, previous: mark, ..link }),
        Plan::Position { keep } => Ok(Decision { kept: keep.min(state.pending), ..link }),
        Plan::Acknowledge { device, through } => {
            let through = if through == Devices::FORGET { through } else { through.min(state.last_offset) };
            let kept = acknowledged(state, &stream.devices, device, through, limits)?;
            let ahead = u32::try_from(state.last_offset.saturating_sub(through)).unwrap_or(u32::MAX);
            Ok(Decision { offset: through, previous: device, kept, ahead, ..link })
        }
    }
}

/// How many messages a mailbox keeps if it takes one more.
fn room(state: &StreamState, length: usize, limits: &MailboxLimits) -> Result<u32, AppendError> {
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    let fits = |state: &StreamState| {
        state.pending < limits.messages && state.bytes.saturating_add(length) <= limits.bytes
    };
    if fits(state) {
        return Ok(u32::MAX);
    }
    if limits.when_full == WhenFull::Reject || length > limits.bytes || limits.messages == 0 {
        return Err(AppendError::MailboxFull);
    }
    let mut left = *state;
    left.shrink(limits.messages.saturating_sub(1));
    let mut spare = left.pending;
    // Halving steps towards the most messages whose share of the bytes leaves room.
    while !fits(&left) && left.pending > 0 {
        spare = spare.saturating_sub((spare / 8).max(1));
        left.shrink(spare);
    }
    Ok(left.pending.saturating_add(1))
}

/// How many messages a mailbox keeps after an acknowledgement.
fn acknowledged(
    state: &StreamState,
    devices: &Devices,
    device: u64,
    through: u64,
    limits: &MailboxLimits,
) -> Result<u32, AppendError> {
    let mut after = devices.clone();
    after.set(device, through);
    if after.len() > devices.len() && after.len() > usize::from(limits.devices) {
        return Err(AppendError::TooManyDevices);
    }
    let floor = match after.floor() {
        Some(floor) => floor,
        None if through == Devices::FORGET => return Ok(state.pending),
        None => through,
    };
    let above = state.last_offset.saturating_sub(floor);
    Ok(state.pending.min(u32::try_from(above).unwrap_or(u32::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mailbox_that_begins_anew_after_its_state_was_forgotten_has_another_epoch() {
        const TTL: u32 = 3600;
        for hash in 0..50_u64 {
            let key = StreamKey { hash: hash.wrapping_mul(0x9e37_79b9_7f4a_7c15), check: 7 };
            let epoch = |now| mailbox_epoch(5, key, now, TTL);
            let changes = (1_000_000..1_000_000 + TTL).filter(|now| epoch(*now) != epoch(*now + 1)).count();
            assert_eq!(changes, 1, "it stays for a whole period");
            for begun in (1_000_000..1_010_000).step_by(97) {
                assert_ne!(epoch(begun), epoch(begun + TTL));
                assert_ne!(epoch(begun), epoch(begun + TTL + 1));
            }
            assert_ne!(epoch(1_000_000), mailbox_epoch(6, key, 1_000_000, TTL), "of another log");
        }
    }
}
