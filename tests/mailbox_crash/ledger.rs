//! What was sent to one user, what the server said about it, and what arrived. Every arrival is judged at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Add;

/// The ledger of one user.
#[derive(Default)]
pub(crate) struct Ledger {
    /// Messages are numbered from 0 as they are sent.
    next: u64,
    /// Number to offset, of those that the server said are stored.
    acknowledged: BTreeMap<u64, u64>,
    /// Sent, and not answered: they may arrive or not.
    unanswered: BTreeSet<u64>,
    /// Offset to what arrived there.
    arrived: BTreeMap<u64, Arrival>,
    epoch: String,
    deliveries: u64,
    /// The client has acknowledged, or may have, everything up to here.
    may_be_acknowledged: u64,
}

struct Arrival {
    number: u64,
    id: String,
}

/// Where a session stands: within it offsets have no gap, and nothing arrives for the first time out of order.
pub(crate) struct Session {
    highest: Option<u64>,
}

impl Session {
    /// A session that goes on from `position`.
    pub(crate) fn after(position: Option<u64>) -> Self {
        Self { highest: position }
    }
}

impl Ledger {
    /// A number for the next message.
    pub(crate) fn send(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        self.unanswered.insert(number);
        number
    }

    /// The server says that the message is stored.
    pub(crate) fn acknowledge(&mut self, number: u64, offset: u64, epoch: &str) {
        assert!(self.unanswered.remove(&number), "answered twice: {number}");
        self.note_epoch(epoch);
        if let Some((last, before)) = self.acknowledged.last_key_value() {
            assert!(
                *before < offset,
                "message {number} has offset {offset}, and {last} before it has {before}"
            );
        }
        if let Some(arrival) = self.arrived.get(&offset) {
            assert_eq!(arrival.number, number, "another message arrived with offset {offset}");
        }
        self.acknowledged.insert(number, offset);
    }

    /// A delivery.
    pub(crate) fn arrive(&mut self, session: &mut Session, offset: u64, number: u64, id: &str) {
        self.deliveries += 1;
        assert!(number < self.next, "message {number} was never sent");
        assert!(!id.is_empty(), "message {number} has no id");
        if let Some(stored) = self.acknowledged.get(&number) {
            assert_eq!(
                *stored, offset,
                "message {number} arrived with another offset than it was stored with"
            );
        }
        let is_new = session.highest.is_none_or(|highest| offset > highest);
        if let Some(highest) = session.highest.filter(|_| is_new) {
            assert_eq!(offset, highest + 1, "a gap in a session: {highest} and then {offset}");
        }
        session.highest = session.highest.max(Some(offset));
        if let Some(before) = self.arrived.get(&offset) {
            assert_eq!(
                (before.number, before.id.as_str()),
                (number, id),
                "two messages with offset {offset}"
            );
            return;
        }
        assert!(is_new, "offset {offset} arrived for the first time behind a later one");
        if let Some((_, before)) = self.arrived.range(..offset).next_back() {
            assert!(before.number < number, "message {number} at {offset} comes after {}", before.number);
        }
        if let Some((_, after)) = self.arrived.range(offset..).next() {
            assert!(after.number > number, "message {number} at {offset} comes before {}", after.number);
        }
        self.arrived.insert(offset, Arrival { number, id: id.to_owned() });
    }

    pub(crate) fn note_epoch(&mut self, epoch: &str) {
        if self.epoch.is_empty() {
            epoch.clone_into(&mut self.epoch);
        }
        assert_eq!(self.epoch, epoch, "a crash must not change the epoch");
    }

    /// The highest offset that arrived, for a client that goes on from there, with its epoch.
    pub(crate) fn position(&self) -> Option<(u64, String)> {
        let (offset, _) = self.arrived.last_key_value()?;
        (!self.epoch.is_empty()).then(|| (*offset, self.epoch.clone()))
    }

    /// The client is about to acknowledge what has arrived.
    pub(crate) fn acknowledging(&mut self) {
        self.may_be_acknowledged = self.arrived.last_key_value().map_or(0, |(offset, _)| *offset);
    }

    pub(crate) fn may_be_acknowledged(&self) -> u64 {
        self.may_be_acknowledged
    }

    /// Messages that the server said are stored and that did not arrive.
    pub(crate) fn missing(&self) -> Vec<u64> {
        let missing = self.acknowledged.iter().filter(|(_, offset)| !self.arrived.contains_key(offset));
        missing.map(|(number, _)| *number).collect()
    }

    pub(crate) fn misses_some(&self) -> bool {
        self.acknowledged.values().any(|offset| !self.arrived.contains_key(offset))
    }

    /// Different messages that arrived.
    pub(crate) fn delivered(&self) -> u64 {
        self.arrived.len() as u64
    }

    pub(crate) fn totals(&self) -> Totals {
        let stored = self.arrived.values().filter(|arrival| self.unanswered.contains(&arrival.number));
        Totals {
            sent: self.next,
            acknowledged: self.acknowledged.len() as u64,
            unanswered: self.unanswered.len() as u64,
            unanswered_and_stored: stored.count() as u64,
            delivered: self.delivered(),
            again: self.deliveries - self.delivered(),
        }
    }
}

/// Counts over users.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) sent: u64,
    pub(crate) acknowledged: u64,
    pub(crate) unanswered: u64,
    pub(crate) unanswered_and_stored: u64,
    pub(crate) delivered: u64,
    pub(crate) again: u64,
}

impl Add for Totals {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            sent: self.sent + other.sent,
            acknowledged: self.acknowledged + other.acknowledged,
            unanswered: self.unanswered + other.unanswered,
            unanswered_and_stored: self.unanswered_and_stored + other.unanswered_and_stored,
            delivered: self.delivered + other.delivered,
            again: self.again + other.again,
        }
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{} sent, {} acknowledged, {} unanswered ({} of them stored); {} delivered, {} more deliveries of the same",
            self.sent,
            self.acknowledged,
            self.unanswered,
            self.unanswered_and_stored,
            self.delivered,
            self.again
        )
    }
}

mod checker {
    use super::*;

    /// A ledger to which three messages were sent and acknowledged.
    fn three() -> Ledger {
        let mut ledger = Ledger::default();
        for offset in 1..=3 {
            let number = ledger.send();
            ledger.acknowledge(number, offset, "e");
        }
        ledger
    }

    fn arrive(arrivals: &[(u64, u64)]) -> Ledger {
        let (mut ledger, mut session) = (three(), Session::after(None));
        for (offset, number) in arrivals {
            ledger.arrive(&mut session, *offset, *number, "id");
        }
        ledger
    }

    #[test]
    fn a_missing_message_is_found() {
        assert_eq!(arrive(&[(1, 0), (2, 1)]).missing(), [2]);
        assert!(!arrive(&[(1, 0), (2, 1), (2, 1), (3, 2)]).misses_some());
    }

    #[test]
    #[should_panic(expected = "a gap in a session")]
    fn a_gap_is_found() {
        arrive(&[(1, 0), (3, 2)]);
    }

    #[test]
    #[should_panic(expected = "behind a later one")]
    fn an_early_message_that_comes_late_is_found() {
        arrive(&[(2, 1), (1, 0)]);
    }

    #[test]
    #[should_panic(expected = "another offset")]
    fn a_wrong_message_is_found() {
        arrive(&[(1, 1)]);
    }

    #[test]
    #[should_panic(expected = "was never sent")]
    fn a_message_out_of_nowhere_is_found() {
        arrive(&[(4, 3)]);
    }
}
