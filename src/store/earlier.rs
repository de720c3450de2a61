//! Idempotency keys of sends before the last start: the log has them behind the ids of the messages.
//!
//! A backend that saw its send break off with our process sends again. For as long after the start as keys are
//! remembered, the newest messages of a user are looked through when a send with a key comes for them, many of them once only;
//! mailboxes that nothing is sent to cost nothing.

use std::collections::HashMap;

use super::archive::Archive;
use super::office::Office;
use crate::base::tick::{Now, TICK_MS, Tick};
use crate::hub::idempotency::IDEMPOTENCY_TTL_TICKS;
use crate::limits;
use crate::log::body::key_hash;
use crate::log::error::ReadError;

/// How long a key is remembered.
const MEMORY_MS: u64 = IDEMPOTENCY_TTL_TICKS as u64 * TICK_MS;

/// Messages of a user that are looked at anew rather than remembered: about 16 µs.
const SHORT: usize = 16;

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Earlier {
    /// From when on no message of before counts; `None` before the first send.
    ends: Option<Tick>,
    /// Users of whom much was looked at.
    users: HashMap<Box<str>, Vec<Sent>>,
    /// What is kept of all of them.
    count: usize,
}

/// A message that was sent with a key.
#[derive(Clone, Copy, Debug)]
struct Sent {
    key: u128,
    at_ms: u64,
    place: (u64, u32),
}

impl<A: Archive> Office<A> {
    /// Offset and epoch of a message that was sent to a user with this key, not long ago and before the start.
    pub(super) fn sent_earlier(
        &mut self,
        user: &str,
        key: &str,
        now: Now,
    ) -> Result<Option<(u64, u32)>, ReadError> {
        let ends = *self.earlier.ends.get_or_insert(now.tick.after(IDEMPOTENCY_TTL_TICKS));
        if now.tick >= ends {
            // What is in memory now is all that counts.
            (self.earlier.users, self.earlier.count) = (HashMap::new(), 0);
            return Ok(None);
        }
        let (key, begins) = (key_hash(key), now.unix_ms.saturating_sub(MEMORY_MS));
        let find = |sent: &[Sent]| {
            let mut same = sent.iter().filter(|sent| sent.key == key && sent.at_ms > begins);
            same.next().map(|sent| sent.place)
        };
        if let Some(sent) = self.earlier.users.get(user) {
            return Ok(find(sent));
        }
        let since = u32::try_from(begins / 1000).unwrap_or(u32::MAX);
        let newest = self.archive.newest(user, since, limits::LOOKED_BACK)?;
        self.reads.charge(newest.len());
        let sent = newest.iter().filter_map(|of| {
            let key = of.message.key_hash()?;
            Some(Sent { key, at_ms: of.message.sent_at_ms, place: (of.offset, of.epoch) })
        });
        let sent: Vec<_> = sent.collect();
        let found = find(&sent);
        if newest.len() > SHORT && self.earlier.count < limits::REMEMBERED_KEYS {
            self.earlier.count += sent.len() + 1;
            self.earlier.users.insert(user.into(), sent);
        }
        Ok(found)
    }
}
