//! What the office knows of channels with durable history beyond the log: what is under way, and which version is the
//! newest.
//!
//! A publication is suppressed if its version is not above the newest one, so what is under way must be decided before
//! anything that depends on it: that waits in the channel's queue. Publications of growing versions do not depend on
//! one another and go to the log at once.

use std::collections::{HashMap, VecDeque};

use crate::hub::mail::HomeAsk;
use crate::log::body::Version;

/// Channels of one generation: an idle one is forgotten after two, since the log can be asked again.
const GENERATION: usize = 32_768;

/// See the module documentation.
#[derive(Debug, Default)]
pub(in crate::store) struct Channels {
    young: HashMap<Box<str>, Channel>,
    old: HashMap<Box<str>, Channel>,
}

/// One channel.
#[derive(Debug, Default)]
pub(super) struct Channel {
    /// The newest version that the log has been asked for.
    latest: Version,
    /// The newest version that the log has.
    stored: Version,
    /// Requests under way.
    in_flight: usize,
    /// While there are any: the newest publication that was handed out. The log may show more already.
    top: u64,
    /// Those of them that have a version.
    versioned: usize,
    /// Publications and removals that depend on what is under way, in order.
    pub(super) held: VecDeque<HomeAsk>,
    /// Questions that wait for the stream to exist.
    pub(super) opening: Vec<HomeAsk>,
}

/// What to do with a publication.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes to the log, and the newest version is then this.
    Append(Version),
    /// Its version is not above the newest one.
    Suppress,
    /// It depends on what is under way.
    Hold,
}

impl Channels {
    /// A channel that is known.
    pub(super) fn get(&mut self, name: &str) -> Option<&mut Channel> {
        if !self.young.contains_key(name)
            && let Some((name, channel)) = self.old.remove_entry(name)
        {
            self.insert(name, channel);
        }
        self.young.get_mut(name)
    }

    /// Adds a channel of which the log says that `version` is the newest one.
    pub(super) fn add(&mut self, name: &str, version: Version) {
        self.insert(name.into(), Channel { latest: version.clone(), stored: version, ..Channel::default() });
    }

    fn insert(&mut self, name: Box<str>, channel: Channel) {
        if self.young.len() >= GENERATION {
            let old = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
            self.young.extend(old.into_iter().filter(|(_, channel)| channel.is_busy()));
        }
        self.young.insert(name, channel);
    }
}

impl Channel {
    /// True while something is under way or waits for that.
    pub(super) fn is_busy(&self) -> bool {
        self.in_flight > 0 || !self.held.is_empty() || !self.opening.is_empty()
    }

    /// True if nothing is under way.
    pub(super) fn is_quiet(&self) -> bool {
        self.in_flight == 0
    }

    /// What to do with a publication of this version (0 = none) that nothing in the queue comes before.
    pub(super) fn judge(&self, number: u64, epoch: &str) -> Verdict {
        let after = || Version { number, epoch: epoch.to_owned() };
        if self.versioned == 0 {
            let compared = epoch.is_empty() || epoch == self.stored.epoch;
            return match number {
                0 => Verdict::Append(self.stored.clone()),
                _ if compared && number <= self.stored.number => Verdict::Suppress,
                _ => Verdict::Append(after()),
            };
        }
        let grows = number > self.latest.number && epoch == self.latest.epoch;
        if grows { Verdict::Append(after()) } else { Verdict::Hold }
    }

    /// Where the stream ends for subscribers and readers.
    pub(super) fn end(&self) -> u64 {
        if self.in_flight == 0 { u64::MAX } else { self.top }
    }

    /// A request goes to the log, which knows publications up to `top`. `version` is that of a publication that has one.
    pub(super) fn departs(&mut self, version: Option<&Version>, top: u64) {
        if self.in_flight == 0 {
            self.top = top;
        }
        self.in_flight += 1;
        if let Some(version) = version {
            self.versioned += 1;
            self.latest = version.clone();
        }
    }

    /// A request came back; the log has it at an offset, or does not.
    pub(super) fn arrives(&mut self, version: Option<Version>, offset: Option<u64>) {
        self.top = offset.unwrap_or(self.top);
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(version) = version {
            self.versioned = self.versioned.saturating_sub(1);
            if offset.is_some() {
                self.stored = version;
            }
        }
        if self.versioned == 0 {
            self.latest = self.stored.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: u64, epoch: &str) -> Version {
        Version { number, epoch: epoch.to_owned() }
    }

    #[test]
    fn versions_are_compared_with_what_the_log_has() {
        let channel = Channel { stored: version(5, "a"), ..Channel::default() };
        assert_eq!(channel.judge(5, "a"), Verdict::Suppress);
        assert_eq!(channel.judge(4, ""), Verdict::Suppress);
        assert_eq!(channel.judge(6, "a"), Verdict::Append(version(6, "a")));
        assert_eq!(channel.judge(1, "b"), Verdict::Append(version(1, "b")));
        assert_eq!(channel.judge(0, ""), Verdict::Append(version(5, "a")));
    }

    #[test]
    fn what_depends_on_something_under_way_waits_and_growing_versions_do_not() {
        let mut channel = Channel::default();
        channel.departs(Some(&version(5, "a")), 7);
        assert_eq!(channel.judge(5, "a"), Verdict::Hold);
        assert_eq!(channel.judge(0, ""), Verdict::Hold);
        assert_eq!(channel.judge(6, "b"), Verdict::Hold);
        assert_eq!(channel.judge(6, "a"), Verdict::Append(version(6, "a")));
        channel.departs(Some(&version(6, "a")), 8);
        channel.arrives(Some(version(5, "a")), Some(8));
        assert_eq!((channel.judge(6, "a"), channel.end()), (Verdict::Hold, 8));
        // It was not stored, so it may come again.
        channel.arrives(Some(version(6, "a")), None);
        assert_eq!(channel.end(), u64::MAX);
        assert_eq!(channel.judge(6, "a"), Verdict::Append(version(6, "a")));
        assert_eq!(channel.judge(5, "a"), Verdict::Suppress);
    }

    #[test]
    fn idle_channels_are_forgotten_and_busy_ones_are_not() {
        let mut channels = Channels::default();
        channels.add("busy", Version::default());
        channels.get("busy").unwrap().departs(None, 0);
        channels.add("idle", Version::default());
        for number in 0..4 * GENERATION {
            channels.add(&number.to_string(), Version::default());
        }
        assert!(channels.get("busy").is_some_and(|channel| !channel.is_quiet()));
        assert!(channels.get("idle").is_none());
        assert!(channels.young.len() + channels.old.len() <= 2 * GENERATION + 1);
    }
}
