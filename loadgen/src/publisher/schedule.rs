//! When the next message is due. Pure: time comes in, intentions come out.

use std::collections::VecDeque;

/// How messages are spaced.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// So many a second, whatever the server does (the open model).
    Rate(f64),
    /// So many not yet delivered to everybody (the closed model).
    InFlight(u32),
}

/// The intentions of one phase.
#[derive(Debug)]
pub(super) struct Schedule {
    pace: Pace,
    start_ns: u64,
    end_ns: u64,
    /// Messages begun.
    begun: u64,
    /// Deliveries that each message under way brings the total to.
    marks: VecDeque<u64>,
    promised: u64,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Send one, that was meant for this time.
    Send(u64),
    /// Nothing before this time.
    Until(u64),
    /// Nothing before this many deliveries.
    Delivered(u64),
    /// Nothing any more.
    Over,
}

impl Schedule {
    pub(super) fn new(pace: Pace, start_ns: u64, end_ns: u64) -> Self {
        Self { pace, start_ns, end_ns, begun: 0, marks: VecDeque::new(), promised: 0 }
    }

    /// What to do at `now_ns`, when `delivered` have arrived.
    pub(super) fn step(&mut self, now_ns: u64, delivered: u64) -> Step {
        match self.pace {
            Pace::Rate(rate) => {
                let intended = self.start_ns + (self.begun as f64 * 1e9 / rate) as u64;
                match (intended >= self.end_ns, intended > now_ns) {
                    (true, _) => Step::Over,
                    (_, true) => Step::Until(intended),
                    _ => Step::Send(intended),
                }
            }
            Pace::InFlight(limit) => {
                while self.marks.front().is_some_and(|mark| *mark <= delivered) {
                    self.marks.pop_front();
                }
                match self.marks.front() {
                    _ if now_ns >= self.end_ns => Step::Over,
                    Some(mark) if self.marks.len() >= limit as usize => Step::Delivered(*mark),
                    _ => Step::Send(now_ns),
                }
            }
        }
    }

    /// A message was begun that is to reach `subscribers`.
    pub(super) fn sent(&mut self, subscribers: u32) {
        self.begun += 1;
        if matches!(self.pace, Pace::InFlight(_)) {
            self.promised += u64::from(subscribers);
            self.marks.push_back(self.promised);
        }
    }

    /// Gives up waiting for what is under way: deliveries were lost. What comes later counts from `delivered`.
    pub(super) fn give_up(&mut self, delivered: u64) {
        self.marks.clear();
        self.promised = delivered;
    }

    /// Ends it at `now_ns`, if not before.
    pub(super) fn end(&mut self, now_ns: u64) {
        self.end_ns = self.end_ns.min(now_ns);
    }

    /// When the last message is due at the latest.
    pub(super) fn end_ns(&self) -> u64 {
        self.end_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_open_model_keeps_its_intentions_when_it_is_late() {
        let mut schedule = Schedule::new(Pace::Rate(1000.0), 0, 10_000_000);
        assert_eq!(schedule.step(0, 0), Step::Send(0));
        schedule.sent(1);
        assert_eq!(schedule.step(0, 0), Step::Until(1_000_000));
        let mut intended = Vec::new();
        while let Step::Send(at) = schedule.step(50_000_000, 0) {
            intended.push(at / 1_000_000);
            schedule.sent(1);
        }
        assert_eq!(intended, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    }

    #[test]
    fn the_closed_model_waits_for_every_subscriber() {
        let mut schedule = Schedule::new(Pace::InFlight(2), 0, 100);
        (0..2).for_each(|_| {
            assert_eq!(schedule.step(1, 0), Step::Send(1));
            schedule.sent(10);
        });
        assert_eq!(schedule.step(2, 9), Step::Delivered(10));
        assert_eq!(schedule.step(3, 10), Step::Send(3));
        schedule.sent(10);
        assert_eq!(schedule.step(4, 19), Step::Delivered(20));
        schedule.give_up(19);
        assert_eq!(schedule.step(4, 19), Step::Send(4));
        schedule.end(200);
        assert_eq!(schedule.step(99, 19), Step::Send(99));
        assert_eq!(schedule.step(100, 19), Step::Over);
    }
}
