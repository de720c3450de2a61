//! Epochs of streams: eight letters, a function of the process's secret, the channel and a generation.
//!
//! So a channel that nobody published into needs no memory for the epoch its subscribers were told. When a stream is
//! forgotten (its meta TTL is over) the generation of its bucket goes up, so its next incarnation has another epoch.
//! The other channels of the bucket must not change theirs under their subscribers: a home notes the generation of a
//! channel when it gets its first subscriber.

use siphasher::sip::SipHasher24;

use crate::hub::stream::Epoch;

/// Buckets of generations; the channels of a bucket share one.
const BUCKETS: usize = 1 << 12;

/// Bits of a generation that a home notes for a channel with a single subscriber.
const NOTED_BITS: u32 = 14;

/// Source of epochs of one shard.
#[derive(Debug)]
pub(crate) struct Epochs {
    key: SipHasher24,
    generations: Vec<u32>,
}

impl Epochs {
    pub(crate) fn new(secret: [u8; 16]) -> Self {
        Self { key: SipHasher24::new_with_key(&secret), generations: Vec::new() }
    }

    /// The epoch of a channel that has neither stream nor subscribers, and of what it gets next.
    pub(crate) fn current(&self, hash: u64) -> Epoch {
        self.of(hash, self.generation(hash))
    }

    /// The present generation of a channel's bucket.
    pub(crate) fn generation(&self, hash: u64) -> u32 {
        self.generations.get(bucket(hash)).copied().unwrap_or(0)
    }

    /// The generation, not long ago, of which these are the last [`NOTED_BITS`]. Of one that is longer ago it gives
    /// another: the subscriber of a quiet channel is told to load anew, which is needless and does no harm.
    pub(crate) fn generation_of(&self, hash: u64, noted: u16) -> u32 {
        let current = self.generation(hash);
        let passed = current.wrapping_sub(u32::from(noted)) & ((1 << NOTED_BITS) - 1);
        current.wrapping_sub(passed)
    }

    /// The epoch of a channel in this generation.
    pub(crate) fn of(&self, hash: u64, generation: u32) -> Epoch {
        let mut input = [0; 13];
        input[0] = b'e';
        input[1..9].copy_from_slice(&hash.to_le_bytes());
        input[9..].copy_from_slice(&generation.to_le_bytes());
        let mut random = self.key.hash(&input);
        let letters = [(); 8].map(|()| {
            let letter = (random % 52) as u8;
            random /= 52;
            if letter < 26 { b'a' + letter } else { b'A' + letter - 26 }
        });
        Epoch::from_letters(letters).unwrap_or_else(|| unreachable!("eight letters"))
    }

    /// The stream of this channel was forgotten and begins anew.
    pub(crate) fn retire_and_renew(&mut self, hash: u64) -> Epoch {
        self.retire(hash);
        self.current(hash)
    }

    /// The stream of this channel was forgotten.
    pub(crate) fn retire(&mut self, hash: u64) {
        if self.generations.is_empty() {
            self.generations = vec![0; BUCKETS];
        }
        let generation = &mut self.generations[bucket(hash)];
        *generation = generation.wrapping_add(1);
    }
}

fn bucket(hash: u64) -> usize {
    (hash >> 20) as usize & (BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_change_with_the_generation() {
        let mut epochs = Epochs::new([7; 16]);
        let first = epochs.current(42);
        assert!(first.as_str().chars().all(|c| c.is_ascii_alphabetic()));
        assert_eq!(first, epochs.current(42));
        assert_ne!(first, epochs.current(43));
        epochs.retire(42);
        assert_ne!(first, epochs.current(42));
        assert_eq!(first, epochs.of(42, 0));
    }

    #[test]
    fn a_noted_generation_is_found_again() {
        let mut epochs = Epochs::new([7; 16]);
        for generation in 0..(1 << NOTED_BITS) + 5 {
            assert_eq!(epochs.generation(42), generation);
            for ago in [0, 1, 7, (1 << NOTED_BITS) - 1] {
                let noted = ((generation - ago.min(generation)) << 2) as u16 >> 2;
                assert_eq!(epochs.generation_of(42, noted), generation - ago.min(generation));
            }
            epochs.retire(42);
        }
    }
}
