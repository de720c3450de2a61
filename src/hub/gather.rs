//! `write_delay`: output that waits a little for more, so that a burst leaves in one write.
//!
//! There is no timer per connection or channel. Every delay in use has one line here and a common moment, the next
//! multiple of the delay, at which all that stands in the line is released: connections whose output waits in their
//! outboxes, and channels whose sweep has not begun. So nothing waits longer than its delay, and channels that are
//! released together reach a subscriber of several of them in one write.
//!
//! Invariant: output that is neither in the list of dirty connections nor held by the kernel belongs to a connection in
//! a line. One that was flushed early may still stand there; its release finds nothing to do.

use std::collections::VecDeque;

use crate::hub::connection::flag;
use crate::hub::shard::Shard;
use crate::hub::sweep::Line as SweepLine;
use crate::limits;

/// All delays in use.
#[derive(Debug, Default)]
pub(crate) struct Gathering {
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Line {
    delay_ms: u8,
    due_ms: u64,
    slots: Vec<u32>,
    /// Released, and not written to yet: more than a turn may write.
    releasing: VecDeque<u32>,
    channels: Vec<u32>,
}

impl Line {
    fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.channels.is_empty()
    }
}

impl Gathering {
    /// When the next line is to be released.
    pub(crate) fn next_due_ms(&self) -> Option<u64> {
        let due = |line: &Line| match line.releasing.is_empty() {
            true => (!line.is_empty()).then_some(line.due_ms),
            false => Some(0),
        };
        self.lines.iter().filter_map(due).min()
    }

    /// Connections and channels that wait.
    pub(crate) fn len(&self) -> usize {
        self.lines.iter().map(|line| line.slots.len() + line.releasing.len() + line.channels.len()).sum()
    }

    /// Gives spare capacity back.
    pub(crate) fn shrink(&mut self) {
        self.lines.retain(|line| !line.is_empty() || !line.releasing.is_empty());
        self.lines.shrink_to_fit();
    }

    /// A connection with output that may wait.
    pub(crate) fn connection(&mut self, slot: u32, delay_ms: u8, now_ms: u64) {
        let line = self.line(delay_ms, now_ms);
        if line.slots.last() != Some(&slot) {
            line.slots.push(slot);
        }
    }

    /// A channel whose sweep may wait.
    pub(crate) fn channel(&mut self, index: u32, delay_ms: u8, now_ms: u64) {
        self.line(delay_ms, now_ms).channels.push(index);
    }

    fn line(&mut self, delay_ms: u8, now_ms: u64) -> &mut Line {
        let at = self.lines.iter().position(|line| line.delay_ms == delay_ms).unwrap_or_else(|| {
            self.lines.push(Line {
                delay_ms,
                due_ms: 0,
                slots: Vec::new(),
                releasing: VecDeque::new(),
                channels: Vec::new(),
            });
            self.lines.len() - 1
        });
        let line = &mut self.lines[at];
        if line.is_empty() {
            let delay = u64::from(delay_ms.max(1));
            line.due_ms = (now_ms / delay + 1) * delay;
        }
        line
    }
}

impl Shard {
    /// Releases what has waited long enough; of connections as many as a turn may write to, the rest in the next one.
    pub(crate) fn release_gathered(&mut self) {
        let now_ms = self.now_ms;
        let mut budget = limits::SWEEP_WRITES_PER_TURN;
        for line in &mut self.gathering.lines {
            if line.due_ms > now_ms && line.releasing.is_empty() {
                continue;
            }
            let is_due = line.due_ms <= now_ms;
            if is_due {
                line.releasing.extend(line.slots.drain(..));
            }
            let released = if is_due { line.channels.len() } else { 0 };
            for index in line.channels.drain(..released) {
                if let Some(channel) =
                    self.locals.many(index).filter(|channel| channel.line == SweepLine::Held)
                {
                    self.sweeps.line_up(index, channel, now_ms);
                }
            }
            while budget > 0
                && let Some(slot) = line.releasing.pop_front()
            {
                let Some(connection) = self.connections.0.get_mut(slot as usize) else { continue };
                let waits = self.cold.get(connection.cold).is_some_and(|cold| !cold.outbox.is_empty());
                if waits && !connection.has(flag::DIRTY) && !connection.has(flag::CORKED) {
                    connection.set(flag::DIRTY, true);
                    self.dirty.push(slot);
                    budget -= 1;
                }
            }
        }
        if budget == 0 {
            // The next turn begins with another line.
            self.gathering.lines.rotate_left(1);
        }
    }
}
