//! Which channel's sweep goes on when: small channels first, large ones with what is left, announcements last.
//!
//! | line | who stands in it | of a turn's writes |
//! |---|---|---|
//! | small | channels with publications under way and at most [`limits::SMALL_SUBSCRIBERS`] subscribers here | all but the part of the large ones |
//! | large | the others with publications under way | at least half, in equal shares |
//! | announcing | channels in which nothing but joins, leaves and counts are under way | [`limits::ANNOUNCEMENT_WRITES_PER_TURN`] beside those, and no more than the channel's pace |
//!
//! So a channel of 20 does not wait for one of 20,000, and a rush of joins neither holds a publication up by more than a
//! few writes nor takes the core: what comes meanwhile joins the lap under way and costs no further write. A publication
//! lifts its channel out of the announcing line, with everything before it, so nothing is ever reordered.
//!
//! Invariant: a channel stands in the line its `line` names and in no other one. A channel that has gone leaves its number
//! behind; if another one has it by then and stands in the same line, that one comes round twice in it, which is harmless.

use std::collections::VecDeque;

use crate::hub::channel::Channel;
use crate::hub::deliver::{Offence, Pass};
use crate::hub::locals::many_handle;
use crate::hub::shard::Shard;
use crate::hub::sockets::Sockets;
use crate::limits;

/// Where a channel stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Line {
    /// Nowhere: nothing is under way.
    #[default]
    Nowhere,
    /// Its sweep waits for more frames (`write_delay`).
    Held,
    /// Publications to few subscribers.
    Small,
    /// Publications to many.
    Large,
    /// Joins, leaves and counts only.
    Announcing,
}

/// How fast the announcements of one channel go out on one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    writes_per_ms: u64,
    burst: u64,
}

impl Pace {
    /// The pace on each of `shards`: together about that of the process.
    pub(crate) fn of(shards: u16) -> Self {
        let shards = u64::from(shards.max(1));
        Self {
            writes_per_ms: (limits::ANNOUNCEMENT_WRITES_PER_MS / shards).max(1),
            burst: (limits::ANNOUNCEMENT_BURST / shards).max(limits::ANNOUNCEMENT_BURST_LEAST),
        }
    }

    /// Ticks in which so many subscribers are told.
    pub(crate) fn ticks_for(self, subscribers: u32) -> u32 {
        let ms = u64::from(subscribers).div_ceil(self.writes_per_ms);
        crate::base::tick::ticks_from_ms(ms)
    }
}

/// The announcements a channel has paid for: a leaky bucket in one number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spent(u64);

impl Spent {
    /// Writes that may be made now.
    fn left(&mut self, pace: Pace, now_ms: u64) -> usize {
        let floor = now_ms.saturating_mul(pace.writes_per_ms);
        self.0 = self.0.max(floor);
        usize::try_from((floor + pace.burst).saturating_sub(self.0)).unwrap_or(usize::MAX)
    }

    fn spend(&mut self, writes: usize) {
        self.0 = self.0.saturating_add(writes as u64);
    }
}

/// All sweeps under way on a shard.
#[derive(Debug)]
pub(crate) struct Sweeps {
    small: VecDeque<u32>,
    large: VecDeque<u32>,
    announcing: VecDeque<u32>,
    pace: Pace,
    /// When announcements may go on.
    announce_at_ms: u64,
}

impl Sweeps {
    pub(crate) fn new(shards: u16) -> Self {
        Self {
            small: VecDeque::new(),
            large: VecDeque::new(),
            announcing: VecDeque::new(),
            pace: Pace::of(shards),
            announce_at_ms: 0,
        }
    }

    /// True if there is something to write at `now_ms`.
    pub(crate) fn is_due(&self, now_ms: u64) -> bool {
        !self.small.is_empty()
            || !self.large.is_empty()
            || self.announcements_due_ms().is_some_and(|due| due <= now_ms)
    }

    /// When announcements that wait for their pace go on.
    pub(crate) fn announcements_due_ms(&self) -> Option<u64> {
        (!self.announcing.is_empty()).then_some(self.announce_at_ms)
    }

    /// Gives spare capacity back.
    pub(crate) fn shrink(&mut self) {
        [&mut self.small, &mut self.large, &mut self.announcing]
            .into_iter()
            .for_each(VecDeque::shrink_to_fit);
    }

    /// Bytes of the lines.
    pub(crate) fn memory_bytes(&self) -> usize {
        (self.small.capacity() + self.large.capacity() + self.announcing.capacity()) * size_of::<u32>()
    }

    /// Puts a channel with frames under way where it belongs now.
    pub(crate) fn line_up(&mut self, index: u32, channel: &mut Channel, now_ms: u64) {
        let wanted = line_of(channel);
        match (channel.line, wanted) {
            (Line::Small | Line::Large, _) | (Line::Announcing, Line::Announcing) => return,
            (Line::Announcing, _) => self.announcing.retain(|standing| *standing != index),
            _ => {}
        }
        self.join(index, channel, wanted, now_ms);
    }

    fn join(&mut self, index: u32, channel: &mut Channel, line: Line, now_ms: u64) {
        channel.line = line;
        match line {
            Line::Small => self.small.push_back(index),
            Line::Large => self.large.push_back(index),
            Line::Announcing => {
                self.announcing.push_back(index);
                self.announce_at_ms = self.announce_at_ms.min(now_ms);
            }
            Line::Nowhere | Line::Held => {}
        }
    }
}

/// The line for what is under way in a channel.
fn line_of(channel: &Channel) -> Line {
    if channel.only_announces() && channel.backlog() < limits::ANNOUNCEMENT_BACKLOG_BYTES {
        Line::Announcing
    } else {
        line_of_crowd(channel)
    }
}

/// The line of a channel with more than announcements.
fn line_of_crowd(channel: &Channel) -> Line {
    if channel.subscribers.len() <= limits::SMALL_SUBSCRIBERS { Line::Small } else { Line::Large }
}

/// What one channel's sweep may do in one turn.
#[derive(Clone, Copy)]
struct Share {
    writes: usize,
    /// Subscribers looked at; those for whom nothing is under way cost no write.
    steps: usize,
}

impl Share {
    fn of(writes: usize) -> Self {
        Self { writes, steps: writes }
    }
}

impl Shard {
    /// Goes on with every sweep under way, within the turn's writes.
    pub(crate) fn sweep(&mut self, io: &mut impl Sockets) {
        if self.is_saturated() {
            self.hasten_announcements();
        }
        let waiting = self.sweeps.small.len() + self.sweeps.large.len();
        if waiting > 0 {
            let for_large = if self.sweeps.large.is_empty() { 0 } else { limits::SWEEP_WRITES_PER_TURN / 2 };
            let left = self.sweep_small(limits::SWEEP_WRITES_PER_TURN - for_large, waiting > 1, io);
            self.sweep_large(left + for_large, waiting > 1, io);
        }
        self.announce_on(io);
    }

    /// Frames under way take so much memory that letters wait: then announcements are part of the crowd, or everybody
    /// would wait for their pace.
    fn hasten_announcements(&mut self) {
        for index in std::mem::take(&mut self.sweeps.announcing) {
            if let Some(channel) = self.locals.many(index).filter(|of| of.line == Line::Announcing) {
                let line = line_of_crowd(channel);
                self.sweeps.join(index, channel, line, self.now_ms);
            }
        }
    }

    /// Small channels, each a whole lap if it can. Returns what is left of the writes.
    fn sweep_small(&mut self, mut left: usize, is_one_of_many: bool, io: &mut impl Sockets) -> usize {
        for _ in 0..self.sweeps.small.len() {
            if left == 0 {
                break;
            }
            let Some(index) = self.sweeps.small.pop_front() else { break };
            left = left.saturating_sub(self.sweep_channel(
                (index, Line::Small),
                Share::of(left),
                is_one_of_many,
                io,
            ));
        }
        left
    }

    fn sweep_large(&mut self, writes: usize, is_one_of_many: bool, io: &mut impl Sockets) {
        let channels = self.sweeps.large.len();
        let Some(share) = writes.checked_div(channels) else { return };
        for _ in 0..channels.min(writes) {
            let Some(index) = self.sweeps.large.pop_front() else { return };
            self.sweep_channel((index, Line::Large), Share::of(share.max(1)), is_one_of_many, io);
        }
    }

    /// Announcements: a few writes a turn, and of each channel no more than its pace.
    fn announce_on(&mut self, io: &mut impl Sockets) {
        let (now_ms, pace) = (self.now_ms, self.sweeps.pace);
        if self.sweeps.announcing.is_empty() || self.sweeps.announce_at_ms > now_ms {
            return;
        }
        let mut left = limits::ANNOUNCEMENT_WRITES_PER_TURN;
        let waiting = self.sweeps.announcing.len();
        self.sweeps.announce_at_ms = now_ms + 1;
        for _ in 0..waiting.min(limits::ANNOUNCING_PER_TURN) {
            let Some(index) = self.sweeps.announcing.pop_front() else { return };
            let Some(channel) = self.locals.many(index).filter(|channel| channel.line == Line::Announcing)
            else {
                continue;
            };
            let allowed = channel.spent.left(pace, now_ms);
            let share = Share { writes: left.min(allowed), steps: limits::ANNOUNCEMENT_STEPS_PER_TURN };
            if allowed == 0 {
                self.sweeps.announcing.push_back(index);
                continue;
            }
            left -= self.sweep_channel((index, Line::Announcing), share, waiting > 1, io).min(left);
            if left == 0 {
                break;
            }
        }
        // Those that were not looked at go on at once, unless nobody may write any more in this millisecond.
        let has_written = left < limits::ANNOUNCEMENT_WRITES_PER_TURN;
        if left == 0 || (has_written && waiting > limits::ANNOUNCING_PER_TURN) {
            self.sweeps.announce_at_ms = now_ms;
        }
    }

    /// Serves subscribers of a channel that was taken out of `line`, and puts it back where it belongs. Returns the
    /// writes it took.
    fn sweep_channel(
        &mut self,
        (index, line): (u32, Line),
        share: Share,
        is_one_of_many: bool,
        io: &mut impl Sockets,
    ) -> usize {
        let Self { locals, connections, cold, dirty, metrics, common, .. } = self;
        // A channel that has gone left its number behind, maybe to another one.
        let Some(channel) = locals.many(index).filter(|channel| channel.line == line) else { return 0 };
        let mut pass = Pass {
            handle: many_handle(index),
            queue_max: common.settings.client.queue_max_size,
            gathers: channel.delayed && is_one_of_many,
            connections: &mut connections.0,
            cold,
            dirty,
            metrics,
        };
        let (mut writes, mut offences) = (0, Vec::new());
        for _ in 0..share.steps {
            if writes == share.writes {
                break;
            }
            let Some(subscriber) = channel.step() else { break };
            match pass.serve(channel, subscriber, io) {
                Ok(has_written) => writes += usize::from(has_written),
                Err(offence) => {
                    writes += 1;
                    offences.push((subscriber.slot, offence));
                }
            }
        }
        if line == Line::Announcing {
            channel.spent.spend(writes);
            metrics.announcement_writes += writes as u64;
        }
        for (slot, offence) in offences {
            match offence {
                Offence::Gone => self.broken(slot),
                Offence::Overfull => self.relieve_queue(slot),
                Offence::Disconnect(code) => self.disconnect(slot, code),
            }
        }
        if let Some(channel) = self.locals.many(index).filter(|channel| channel.line == line) {
            channel.line = Line::Nowhere;
            if channel.is_sweeping() {
                let next = line_of(channel);
                self.sweeps.join(index, channel, next, self.now_ms);
            }
        }
        writes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_may_burst_and_then_keeps_its_pace() {
        let pace = Pace::of(1);
        let mut spent = Spent::default();
        let mut take = |now_ms| {
            let left = spent.left(pace, now_ms);
            spent.spend(left);
            left
        };
        assert_eq!(take(1000), limits::ANNOUNCEMENT_BURST as usize);
        assert_eq!((take(1000), take(1001), take(1002)), (0, 20, 20));
        assert_eq!((take(1012), take(1_000_000)), (200, limits::ANNOUNCEMENT_BURST as usize));
    }

    #[test]
    fn shards_share_a_pace_and_each_has_one() {
        assert_eq!(Pace::of(4), Pace { writes_per_ms: 5, burst: 128 });
        assert_eq!(Pace::of(53), Pace { writes_per_ms: 1, burst: limits::ANNOUNCEMENT_BURST_LEAST });
        assert_eq!((Pace::of(1).ticks_for(20_000), Pace::of(53).ticks_for(19_000)), (10, 190));
        assert_eq!((Pace::of(1).ticks_for(0), Pace::of(1).ticks_for(1)), (0, 1));
    }
}
