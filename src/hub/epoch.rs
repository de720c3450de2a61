//! Epochs of streams: eight letters, a function of the process's secret, the channel and a generation.
//!
//! So a channel that nobody published into needs no memory for the epoch its subscribers were told. When a stream is
//! forgotten (its meta TTL is over) the generation of its bucket goes up, so its next incarnation has another epoch.

use siphasher::sip::SipHasher24;

use crate::hub::stream::Epoch;

/// Buckets of generations; the channels of a bucket share one.
const BUCKETS: usize = 1 << 12;

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

    /// The epoch of a channel that has no stream, and of the stream it gets next.
    pub(crate) fn current(&self, hash: u64) -> Epoch {
        let generation = self.generations.get(bucket(hash)).copied().unwrap_or(0);
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
        self.generations[bucket(hash)] += 1;
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
    }
}
