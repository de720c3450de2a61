//! A small seeded generator for jitter and for the letters of an epoch. Not for secrets.
//!
//! SplitMix64 (G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom number generators", 2014): 8 bytes of state,
//! period 2^64, every 64-bit value once.

/// See the module documentation.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator that gives the same numbers for the same seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number of the sequence.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, 0 if `bound` is 0. Its bias is under 2^-32.
    pub fn below(&mut self, bound: u32) -> u32 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u32
    }

    /// A number from `low` to `high`, both included; `low` if they are the wrong way round.
    pub fn between(&mut self, low: u32, high: u32) -> u32 {
        let span = u64::from(high.saturating_sub(low)) + 1;
        let above = ((u128::from(self.next_u64()) * u128::from(span)) >> 64) as u32;
        low + above
    }

    /// Letters from a-z and A-Z.
    pub fn letters<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| {
            let letter = self.below(52) as u8;
            if letter < 26 { b'a' + letter } else { b'A' + letter - 26 }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Outputs for seed 1234567 as Rosetta Code lists them for SplitMix64.
    #[test]
    fn gives_the_published_sequence() {
        let mut rng = Rng::new(1_234_567);
        let numbers = [(); 5].map(|()| rng.next_u64());
        assert_eq!(
            numbers,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423,
                4_593_380_528_125_082_431,
                16_408_922_859_458_223_821,
            ]
        );
    }

    #[test]
    fn numbers_stay_in_their_bounds_and_reach_them() {
        let mut rng = Rng::new(1);
        let mut counts = [0_u32; 7];
        for _ in 0..70_000 {
            counts[rng.below(7) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
        assert_eq!(rng.below(0), 0);
        assert_eq!(rng.below(1), 0);
        let drawn: Vec<_> = (0..1_000).map(|_| rng.between(125, 130)).collect();
        assert_eq!(drawn.iter().min(), Some(&125));
        assert_eq!(drawn.iter().max(), Some(&130));
        assert_eq!(rng.between(9, 9), 9);
        assert_eq!(rng.between(9, 3), 9);
        let wide = (0..100).map(|_| rng.between(0, u32::MAX)).max();
        assert!(wide > Some(u32::MAX / 2));
    }

    #[test]
    fn letters_are_letters_of_both_cases() {
        let letters: [u8; 2_000] = Rng::new(9).letters();
        assert!(letters.iter().all(u8::is_ascii_alphabetic));
        for letter in (b'a'..=b'z').chain(b'A'..=b'Z') {
            assert!(letters.contains(&letter), "{}", char::from(letter));
        }
    }
}
