//! Messages that a live session does not acknowledge: sent again, and after `max_deliveries` put aside.

use super::archive::Archive;
use super::office::Office;
use crate::base::tick::{Now, Tick};
use crate::hub::shard::ticks_of;
use crate::hub::store::{Owner, Page, PageAsk, PageKind, StoreAsk};
use crate::limits;
use crate::log::record::Class;

/// How often messages of a reader were sent to a live session.
#[derive(Debug, Default)]
pub(super) struct Redelivery {
    /// In order. What came together is sent again together: a wave for each round at most, and one ends with its last.
    waves: Vec<Wave>,
    /// When they were counted last.
    at: Tick,
}

/// Messages above the wave before and up to an offset.
#[derive(Clone, Copy, Debug)]
struct Wave {
    through: u64,
    deliveries: u32,
}

impl Redelivery {
    /// Everything up to here is done with. True if nothing is left to be counted.
    pub(super) fn acknowledge(&mut self, through: u64) -> bool {
        self.waves.retain(|wave| wave.through > through);
        self.waves.is_empty()
    }

    /// Messages up to `last` are sent once more. Returns the last one that was sent more than `most` times with that.
    /// Several sessions of one reader ask each for itself, and count as one.
    fn count(&mut self, last: u64, most: u32, pause: u32, now: Tick) -> Option<u64> {
        if self.at == Tick(0) || now.since(self.at) >= pause {
            self.at = now;
            self.waves.iter_mut().for_each(|wave| wave.deliveries = wave.deliveries.saturating_add(1));
            if self.waves.last().is_none_or(|wave| wave.through < last) {
                // Once before, when they were new.
                self.waves.push(Wave { through: last, deliveries: 2 });
            }
        }
        self.waves.iter().rfind(|wave| wave.deliveries > most).map(|wave| wave.through)
    }
}

impl<A: Archive> Office<A> {
    /// `ack_wait` is over for a session.
    pub(super) fn redeliver(&mut self, ask: PageAsk, now: Now) {
        let PageAsk { key, channel, owner, after, epoch } = ask;
        let info = self.archive.info(Class::Mailbox, &owner.user, &owner.device);
        let info = info.filter(|info| info.state.epoch == epoch && info.cursor < after);
        let read = info.as_ref().map(|info| self.messages(&owner, info.cursor, now));
        let read = match read {
            Some(Ok(None)) => {
                let ask = PageAsk { key, channel, owner, after, epoch };
                return self.reads.put_off(StoreAsk::Redeliver(Box::new(ask)));
            }
            // What cannot be read now is asked for again by the session's next timer.
            Some(Err(_)) => return,
            Some(Ok(read)) => read,
            None => None,
        };
        let page = |publications, through| Page {
            key,
            channel,
            publications,
            after,
            epoch,
            kind: PageKind::Again { through },
        };
        let Some(read) = read else { return self.tell_page(page(Vec::new(), after)) };
        let mut publications = read.publications;
        publications.retain(|publication| publication.offset <= after);
        let Some(oldest) = publications.first().map(|publication| publication.offset) else {
            // It has expired, or made room for others.
            return self.tell_page(page(Vec::new(), after));
        };
        let mut through = oldest.saturating_sub(1);
        // What is being put aside is not sent again.
        let buried = self.burials.through(&owner);
        let skipped = publications.partition_point(|of| buried.is_some_and(|last| of.offset <= last));
        publications.drain(..skipped);
        let Some(last) = publications.last().map(|publication| publication.offset) else {
            return self.tell_page(page(Vec::new(), through));
        };
        if let Some(exhausted) = self.exhausted(&owner, info.map_or(0, |info| info.cursor), last, now)
            && buried.is_none()
            && !self.is_overloaded()
        {
            let count = publications.partition_point(|publication| publication.offset <= exhausted);
            let offsets = publications.drain(..count).map(|publication| publication.offset);
            let dead: Vec<_> = offsets.zip(&read.stored).collect();
            through = self.put_aside(&owner, epoch, &dead, now).unwrap_or(through);
        }
        self.figures.redelivered += publications.len() as u64;
        self.tell_page(page(publications, through));
    }

    /// Counts one more delivery of a reader's messages behind its cursor and up to `last`. Returns the last one of which
    /// there were enough.
    fn exhausted(&mut self, owner: &Owner, cursor: u64, last: u64, now: Now) -> Option<u64> {
        let settings = self.common.settings.mailbox.as_ref()?;
        let (most, wait) = (settings.max_deliveries, ticks_of(settings.ack_wait));
        if most == 0 {
            return None;
        }
        if self.redeliveries.len() >= limits::REDELIVERED_READERS && !self.redeliveries.contains_key(owner) {
            let fresh = now.tick.0.saturating_sub(limits::REDELIVERY_MEMORY_TICKS);
            self.redeliveries.retain(|_, of| of.at.0 > fresh);
            if self.redeliveries.len() >= limits::REDELIVERED_READERS {
                return None;
            }
        }
        let of = self.redeliveries.entry(owner.clone()).or_default();
        of.acknowledge(cursor);
        of.count(last, most, wait / 2, now.tick)
    }
}
