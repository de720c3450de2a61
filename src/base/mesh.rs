//! The only way between threads: one bounded lock-free queue per shard, and a flag that coalesces wake-ups.
//!
//! A sender pushes any number of letters and then calls [`Mesh::needs_wake`] once; only the first sender since the
//! shard last looked gets `true` and pays the system call. The shard calls [`Mesh::begin`] *before* it takes letters,
//! so a letter that comes after it stopped looking wakes it again: no wake-up is lost.
//!
//! A letter that can wait needs no wake-up where its reader looks soon anyway. Before a shard sleeps it says until when
//! ([`Mesh::sleep_until`]) and looks once more; a sender that pushed such a letter asks [`Mesh::looks_by`]. The two do
//! "write, fence, read" crosswise: either the sender sees the new time, or the shard sees the letter and stays awake.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};

use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;

use super::ids::ShardId;
use super::tick::Tick;

/// Inboxes of all shards.
#[derive(Debug)]
pub struct Mesh<T> {
    inboxes: Vec<CachePadded<Inbox<T>>>,
}

#[derive(Debug)]
struct Inbox<T> {
    letters: ArrayQueue<T>,
    notified: AtomicBool,
    /// Tick by which the shard looks again, unless woken before.
    looks_at: AtomicU32,
}

impl<T> Mesh<T> {
    /// Inboxes for `shards` shards of `capacity` letters each.
    #[must_use]
    pub fn new(shards: u16, capacity: usize) -> Self {
        let inbox = || {
            CachePadded::new(Inbox {
                letters: ArrayQueue::new(capacity),
                notified: AtomicBool::new(false),
                looks_at: AtomicU32::new(u32::MAX),
            })
        };
        Self { inboxes: (0..shards).map(|_| inbox()).collect() }
    }

    /// Puts a letter into a shard's inbox, behind all letters of the same sender.
    ///
    /// # Errors
    /// The letter, if the inbox is full: the sender keeps it and tries again in its next turn.
    pub fn push(&self, to: ShardId, letter: T) -> Result<(), T> {
        match self.inboxes.get(to.0 as usize) {
            Some(inbox) => inbox.letters.push(letter),
            None => Err(letter),
        }
    }

    /// True if the caller must wake the shard for what it pushed.
    #[must_use]
    pub fn needs_wake(&self, to: ShardId) -> bool {
        self.inboxes.get(to.0 as usize).is_some_and(|inbox| !inbox.notified.swap(true, Ordering::AcqRel))
    }

    /// The shard is about to look into its inbox.
    pub fn begin(&self, own: ShardId) {
        if let Some(inbox) = self.inboxes.get(own.0 as usize) {
            inbox.notified.swap(false, Ordering::AcqRel);
        }
    }

    /// The shard will look again by this tick at the latest. False if a letter came in the meantime: look now.
    #[must_use]
    pub fn sleep_until(&self, own: ShardId, tick: Tick) -> bool {
        let Some(inbox) = self.inboxes.get(own.0 as usize) else { return true };
        inbox.looks_at.store(tick.0, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        inbox.letters.is_empty()
    }

    /// True if a letter that was pushed before this call will be read by `tick` without a wake-up.
    #[must_use]
    pub fn looks_by(&self, to: ShardId, tick: Tick) -> bool {
        fence(Ordering::SeqCst);
        self.inboxes.get(to.0 as usize).is_some_and(|inbox| inbox.looks_at.load(Ordering::Relaxed) <= tick.0)
    }

    /// The next letter.
    #[must_use]
    pub fn pop(&self, own: ShardId) -> Option<T> {
        self.inboxes.get(own.0 as usize).and_then(|inbox| inbox.letters.pop())
    }

    /// Letters in a shard's inbox.
    #[must_use]
    pub fn len(&self, shard: ShardId) -> usize {
        self.inboxes.get(shard.0 as usize).map_or(0, |inbox| inbox.letters.len())
    }

    /// Bytes of all queues: places for `capacity` letters each, allocated at once.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let place = size_of::<T>() + size_of::<usize>();
        self.inboxes.iter().map(|inbox| inbox.letters.capacity() * place + 256).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wake_per_batch_and_none_lost() {
        let mesh = Mesh::new(2, 2);
        let to = ShardId(1);
        assert_eq!(mesh.push(to, 1), Ok(()));
        assert_eq!(mesh.push(to, 2), Ok(()));
        assert_eq!(mesh.push(to, 3), Err(3));
        assert!(mesh.needs_wake(to));
        assert!(!mesh.needs_wake(to));
        mesh.begin(to);
        assert_eq!((mesh.pop(to), mesh.pop(to), mesh.pop(to)), (Some(1), Some(2), None));
        assert!(mesh.needs_wake(to));
    }

    #[test]
    fn a_letter_that_can_wait_is_seen_by_its_reader_or_wakes_it() {
        let (mesh, to) = (Mesh::new(1, 4), ShardId(0));
        assert!(!mesh.looks_by(to, Tick(1_000_000)), "a shard that has not slept yet promises nothing");
        assert!(mesh.sleep_until(to, Tick(5)));
        assert!(mesh.looks_by(to, Tick(5)) && mesh.looks_by(to, Tick(6)) && !mesh.looks_by(to, Tick(4)));
        assert_eq!(mesh.push(to, ()), Ok(()));
        assert!(!mesh.sleep_until(to, Tick(500)), "the letter keeps it awake");
    }

    /// The reader promises to look late, the sender relies on an early promise: one of them must notice the other.
    #[test]
    fn no_letter_sleeps_beyond_its_tick() {
        let (late, soon) = (Tick(1000), Tick(1));
        for _ in 0..2000 {
            let (mesh, to) = (Mesh::new(1, 4), ShardId(0));
            assert!(mesh.sleep_until(to, soon));
            let (asleep, relied) = std::thread::scope(|scope| {
                let reader = scope.spawn(|| mesh.sleep_until(to, late));
                let sender = scope.spawn(|| mesh.push(to, ()).is_ok() && mesh.looks_by(to, soon));
                (reader.join().unwrap(), sender.join().unwrap())
            });
            assert!(!(asleep && relied), "the letter lies until tick 1000");
        }
    }

    #[test]
    fn threads_lose_nothing_and_keep_the_order_of_each_sender() {
        let mesh = std::sync::Arc::new(Mesh::new(1, 64));
        let senders: Vec<_> = (0..3_u32)
            .map(|sender| {
                let mesh = std::sync::Arc::clone(&mesh);
                std::thread::spawn(move || {
                    for number in 0..1000_u32 {
                        let mut letter = (sender, number);
                        while let Err(back) = mesh.push(ShardId(0), letter) {
                            letter = back;
                            std::thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let mut next = [0; 3];
        while next.iter().sum::<u32>() < 3000 {
            if let Some((sender, number)) = mesh.pop(ShardId(0)) {
                assert_eq!(number, next[sender as usize]);
                next[sender as usize] += 1;
            }
        }
        senders.into_iter().for_each(|sender| sender.join().unwrap());
    }
}
