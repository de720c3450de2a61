//! Connections whose output waits for mail: a subscription was granted on the spot, and its home is to hear of it before
//! the client does, or a publication that the client causes could come to a home that knows of no subscriber.
//!
//! Letters leave in the order they were posted in ([`Post::number`]), so of each home only the first one is looked at:
//! holding and releasing cost O(1) each, however many wait, and a turn costs O(shards) while somebody does.

use std::collections::{HashMap, VecDeque};

use crate::base::ids::ShardId;
use crate::hub::post::Post;

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Held {
    /// Of each home: number of the letter that must have left, and the slot that waits for it.
    homes: Vec<VecDeque<(u64, u32)>>,
    /// Letters that a slot waits for.
    slots: HashMap<u32, u32>,
}

impl Held {
    pub(crate) fn new(shards: usize) -> Self {
        Self { homes: (0..shards).map(|_| VecDeque::new()).collect(), slots: HashMap::new() }
    }

    /// The slot waits until the letter with this number has left for this home.
    pub(crate) fn hold(&mut self, slot: u32, home: ShardId, number: u64) {
        self.homes[home.0 as usize].push_back((number, slot));
        *self.slots.entry(slot).or_insert(0) += 1;
    }

    /// True while the slot waits.
    pub(crate) fn holds(&self, slot: u32) -> bool {
        !self.slots.is_empty() && self.slots.contains_key(&slot)
    }

    /// True if [`Self::release`] would find somebody.
    pub(crate) fn is_due(&self, post: &Post) -> bool {
        !self.slots.is_empty()
            && self.homes.iter().enumerate().any(|(home, waiting)| {
                waiting.front().is_some_and(|(number, _)| post.has_left(ShardId(home as u16), *number))
            })
    }

    /// Lets those go whose letters have all left, and tells who they are.
    pub(crate) fn release(&mut self, post: &Post, mut free: impl FnMut(u32)) {
        if self.slots.is_empty() {
            return;
        }
        for (home, waiting) in self.homes.iter_mut().enumerate() {
            while let Some((_, slot)) =
                waiting.pop_front_if(|(number, _)| post.has_left(ShardId(home as u16), *number))
            {
                if let Some(letters) = self.slots.get_mut(&slot) {
                    *letters -= 1;
                    if *letters == 0 {
                        self.slots.remove(&slot);
                        free(slot);
                    }
                }
            }
        }
        if self.slots.is_empty() {
            self.shrink();
        }
    }

    /// Gives spare capacity back.
    pub(crate) fn shrink(&mut self) {
        self.homes.iter_mut().for_each(VecDeque::shrink_to_fit);
        self.slots.shrink_to_fit();
    }

    /// Bytes of memory held.
    pub(crate) fn memory_bytes(&self) -> usize {
        let places: usize = self.homes.iter().map(VecDeque::capacity).sum();
        self.homes.capacity() * size_of::<VecDeque<(u64, u32)>>()
            + places * size_of::<(u64, u32)>()
            + self.slots.capacity() * (size_of::<(u32, u32)>() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::mail::Mail;

    fn letter(post: &mut Post, to: ShardId) -> u64 {
        post.send(to, Mail::Drain { window_ticks: 0 });
        post.number(to)
    }

    fn released(held: &mut Held, post: &Post) -> Vec<u32> {
        let mut free = Vec::new();
        assert!(!held.is_due(post) || !held.slots.is_empty());
        held.release(post, |slot| free.push(slot));
        assert!(!held.is_due(post));
        free
    }

    #[test]
    fn a_slot_goes_once_all_its_letters_have_left() {
        let (mut post, mut held) = (Post::new(3), Held::new(3));
        let (near, far) = (ShardId(0), ShardId(2));
        for (slot, home) in [(7, near), (8, near), (7, far)] {
            let number = letter(&mut post, home);
            held.hold(slot, home, number);
        }
        assert!(released(&mut held, &post).is_empty());
        // One letter at a time, as a full inbox takes them; later ones of others do not matter.
        let mut room = 1;
        post.drain_to(near, |mail| {
            if room > 0 {
                room -= 1;
                Ok(())
            } else {
                Err(mail)
            }
        });
        letter(&mut post, near);
        assert!(released(&mut held, &post).is_empty());
        assert!(held.holds(7) && held.holds(8));
        post.drain_to(far, |_| Ok(()));
        assert_eq!(released(&mut held, &post), vec![7]);
        post.drain_to(near, |_| Ok(()));
        assert!(held.is_due(&post));
        assert_eq!(released(&mut held, &post), vec![8]);
        assert!(!held.holds(8) && held.slots.capacity() == 0);
    }

    #[test]
    fn mail_to_itself_counts_when_it_is_taken() {
        let (mut post, mut held) = (Post::new(1), Held::new(1));
        let number = letter(&mut post, ShardId(0));
        held.hold(1, ShardId(0), number);
        assert!(released(&mut held, &post).is_empty());
        assert!(post.pop_own(ShardId(0)).is_some());
        assert_eq!(released(&mut held, &post), vec![1]);
    }
}
