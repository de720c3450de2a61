//! A hierarchical timing wheel whose timers are links inside the caller's own records, one per slot of its slab.
//!
//! Invariants:
//! - Level 0 has a list for each of the next 512 ticks (51 s), levels 1 to 3 have 64 lists each of 2^9, 2^15 and
//!   2^21 ticks: 155 days in all. A deadline beyond waits at the far end and is filed anew when its list comes up.
//! - A timer is filed by its distance, so one shorter than level 0 is never moved. A list of a higher level is emptied
//!   into lower ones when `current` reaches its first tick, before anything of that tick expires.
//! - `current` never passes a tick with work. Moving and expiring count as work, of which one call does a bounded
//!   amount and the next call the rest: a million timers in one tick stall nobody, and none is skipped.
//! - A timer never expires before its deadline. One armed for a tick that has already passed expires in the next one.
//!
//! Method: G. Varghese, A. Lauck, "Hashed and hierarchical timing wheels" (1987), scheme 7, with occupancy bitmaps.

use super::tick::Tick;

/// Ticks that level 0 covers.
const NEAR: u32 = 512;
/// Lists of each higher level.
const FAR: u32 = 64;
/// For each level, the bits of a tick that its lists do not tell apart.
const SHIFTS: [u32; 4] = [0, 9, 15, 21];
/// First list of each level in `heads`.
const FIRST: [u32; 4] = [0, NEAR, NEAR + FAR, NEAR + 2 * FAR];
/// Lists in all.
const HEADS: usize = (NEAR + 3 * FAR) as usize;
/// Words of the occupancy bitmap.
const WORDS: usize = HEADS / 64;
/// Words of the bitmap that belong to level 0.
const NEAR_WORDS: u32 = NEAR / 64;
/// Ticks that all levels cover.
const REACH: u32 = FAR << SHIFTS[3];
/// The end of a list, and both links of a timer that is not armed.
const NONE: u32 = u32::MAX;
/// Set in `prev` of the first timer of a list; the other bits name the list.
const HEAD: u32 = 1 << 31;

/// The timer inside a record. `Default` is one that is not armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    next: u32,
    prev: u32,
    deadline: Tick,
}

const _: () = assert!(size_of::<Link>() == 12);
const _: () = assert!(size_of::<Wheel>() + size_of::<[u32; HEADS]>() < 4096);

impl Default for Link {
    fn default() -> Self {
        Self { next: NONE, prev: NONE, deadline: Tick(0) }
    }
}

impl Link {
    /// True between arming and expiry or disarming.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        self.prev != NONE
    }

    /// What the timer was last armed for.
    #[must_use]
    pub fn deadline(&self) -> Tick {
        self.deadline
    }
}

/// The records that hold the timers.
pub trait Links {
    /// The timer of the record in `slot`. The wheel asks only for slots that were armed, which are below 2^31.
    fn link(&mut self, slot: u32) -> &mut Link;
}

/// What one call of [`Wheel::expire`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Expiry {
    /// Timers handed out.
    pub expired: usize,
    /// Due timers are left: call again in the next turn, without waiting.
    pub more: bool,
}

/// See the module documentation.
#[derive(Debug)]
pub struct Wheel {
    heads: Box<[u32; HEADS]>,
    occupied: [u64; WORDS],
    /// The tick being drained, or the last one that was.
    current: u32,
    armed: usize,
}

impl Wheel {
    /// A wheel whose time begins after `now`.
    #[must_use]
    pub fn new(now: Tick) -> Self {
        Self { heads: Box::new([NONE; HEADS]), occupied: [0; WORDS], current: now.0, armed: 0 }
    }

    /// Bytes of the wheel itself; the timers stand in the records.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + size_of::<[u32; HEADS]>()
    }

    /// Number of armed timers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.armed
    }

    /// True if no timer is armed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.armed == 0
    }

    /// Arms the timer of `slot`, or arms it anew.
    pub fn arm(&mut self, links: &mut impl Links, slot: u32, deadline: Tick) {
        debug_assert!(slot < HEAD, "slot {slot} does not leave room for the mark of a list");
        self.disarm(links, slot);
        links.link(slot).deadline = deadline;
        self.file(links, slot, self.current.saturating_add(1));
        self.armed += 1;
    }

    /// Disarms the timer of `slot`; no effect if it is not armed.
    pub fn disarm(&mut self, links: &mut impl Links, slot: u32) {
        if links.link(slot).is_armed() {
            self.unlink(links, slot);
            self.armed -= 1;
        }
    }

    /// Hands out the timers that are due at `now`, in the order of their ticks, at most `budget` of them. They are no
    /// longer armed. Moving timers between levels uses up the budget too.
    pub fn expire(
        &mut self,
        now: Tick,
        budget: usize,
        links: &mut impl Links,
        mut each: impl FnMut(u32),
    ) -> Expiry {
        let mut work = budget;
        let mut expired = 0;
        while let Some(slot) = self.pop(now, &mut work, links) {
            each(slot);
            expired += 1;
        }
        Expiry { expired, more: self.next_deadline().is_some_and(|deadline| deadline <= now) }
    }

    /// The next timer that is due at `now`, for a caller that arms timers between two of them. Takes 1 from `work` for
    /// it and for each timer it moves on the way; `None` means that nothing is due, or that `work` is used up.
    pub fn pop(&mut self, now: Tick, work: &mut usize, links: &mut impl Links) -> Option<u32> {
        while *work > 0 {
            if let Some(slot) = self.to_move() {
                self.unlink(links, slot);
                self.file(links, slot, self.current);
                *work -= 1;
                continue;
            }
            let first = self.heads[(self.current % NEAR) as usize];
            if first != NONE {
                self.unlink(links, first);
                self.armed -= 1;
                *work -= 1;
                return Some(first);
            }
            match self.next_event() {
                Some(event) if event <= now.0 => self.current = event,
                _ => {
                    self.current = self.current.max(now.0);
                    return None;
                }
            }
        }
        None
    }

    /// When to call [`Wheel::expire`] next: at the earliest deadline if that is within level 0, else at the tick where
    /// timers must be moved down, which is never later. `None` without timers.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Tick> {
        let first = self.heads[(self.current % NEAR) as usize];
        if first != NONE || self.to_move().is_some() {
            return Some(Tick(self.current));
        }
        self.next_event().map(Tick)
    }

    /// A timer of a higher level whose list begins at `current`.
    fn to_move(&self) -> Option<u32> {
        (1..SHIFTS.len())
            .take_while(|level| is_boundary(self.current, *level))
            .map(|level| self.heads[list_of(level, self.current)])
            .find(|first| *first != NONE)
    }

    /// The next tick after `current` that has timers or begins a list of a higher level.
    fn next_event(&self) -> Option<u32> {
        let near = self.near_distance().map(|distance| u64::from(self.current) + u64::from(distance));
        let far = (1..SHIFTS.len()).filter_map(|level| self.far_event(level));
        near.into_iter().chain(far).min().and_then(|event| u32::try_from(event).ok())
    }

    /// Ticks from `current` to the next list of level 0 with timers.
    fn near_distance(&self) -> Option<u32> {
        let start = (self.current + 1) % NEAR;
        let (word, bit) = (start / 64, start % 64);
        (0..=NEAR_WORDS).find_map(|step| {
            let index = (word + step) % NEAR_WORDS;
            // The first word is looked at twice: from the starting bit on, and at the end below it.
            let mask = match step {
                0 => u64::MAX << bit,
                NEAR_WORDS => !(u64::MAX << bit),
                _ => u64::MAX,
            };
            let found = self.occupied[index as usize] & mask;
            let tick = index * 64 + found.trailing_zeros();
            (found != 0).then(|| (tick + NEAR - start) % NEAR + 1)
        })
    }

    /// The tick at which the next list of a higher level must be moved down.
    fn far_event(&self, level: usize) -> Option<u64> {
        let position = self.current >> SHIFTS[level];
        let word = self.occupied[(FIRST[level] / 64) as usize];
        // Bit 0 becomes the list after the current one, bit 63 the current one, a whole round ahead.
        let ahead = word.rotate_right((position + 1) % FAR);
        let distance = u64::from(ahead.trailing_zeros()) + 1;
        (ahead != 0).then(|| (u64::from(position) + distance) << SHIFTS[level])
    }

    /// Puts an unlinked timer into the list that its deadline, but at least `earliest`, calls for.
    fn file(&mut self, links: &mut impl Links, slot: u32, earliest: u32) {
        let due = links.link(slot).deadline.0.max(earliest);
        let distance = due - self.current;
        let level = (1..SHIFTS.len()).rev().find(|level| distance >> SHIFTS[*level] != 0).unwrap_or(0);
        let far_end = self.current.wrapping_add(REACH - (1 << SHIFTS[3]));
        let list = list_of(level, if distance < REACH { due } else { far_end });
        self.push(links, slot, list);
    }

    fn push(&mut self, links: &mut impl Links, slot: u32, list: usize) {
        let next = std::mem::replace(&mut self.heads[list], slot);
        if next != NONE {
            links.link(next).prev = slot;
        }
        let link = links.link(slot);
        link.next = next;
        link.prev = HEAD | list as u32;
        self.occupied[list / 64] |= 1 << (list % 64);
    }

    fn unlink(&mut self, links: &mut impl Links, slot: u32) {
        let link = links.link(slot);
        let (next, prev) = (link.next, link.prev);
        link.next = NONE;
        link.prev = NONE;
        if next != NONE {
            links.link(next).prev = prev;
        }
        if prev & HEAD == 0 {
            links.link(prev).next = next;
            return;
        }
        let list = (prev & !HEAD) as usize;
        self.heads[list] = next;
        if next == NONE {
            self.occupied[list / 64] &= !(1 << (list % 64));
        }
    }
}

/// True if a list of this level begins at `tick`.
fn is_boundary(tick: u32, level: usize) -> bool {
    tick.trailing_zeros() >= SHIFTS[level]
}

/// The list of a level that holds deadlines of `tick`.
fn list_of(level: usize, tick: u32) -> usize {
    let lists = if level == 0 { NEAR } else { FAR };
    (FIRST[level] + (tick >> SHIFTS[level]) % lists) as usize
}

#[cfg(test)]
mod tests;
