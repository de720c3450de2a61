//! Client ids that need no storage: a keyed permutation turns (shard, slot, generation) into a UUID and back.
//!
//! A version 4 UUID (RFC 9562, section 5.4) has 122 free bits. They hold 80 bits of name and 42 zero bits, encrypted as
//! one block by a Feistel network of two 61-bit halves with SipHash-2-4 as round function: four rounds of a
//! pseudorandom function make a strong pseudorandom permutation (M. Luby, C. Rackoff, 1988). So ids look random, say
//! nothing about one another, never collide, and a made-up id decodes with a probability of 2^-42.

use siphasher::sip::SipHasher24;

use super::ids::{ConnKey, ShardId};

/// Bits of one half.
const HALF_BITS: u32 = 61;
/// The bits of one half.
const HALF: u64 = (1 << HALF_BITS) - 1;
/// Rounds of the network.
const ROUNDS: u8 = 4;
/// Bits of the name; those above are zero.
const NAME_BITS: u32 = 16 + 32 + 32;
/// Where the dashes of a UUID stand.
const DASHES: [usize; 4] = [8, 13, 18, 23];

/// A client id in its text form: lower-case hexadecimal with dashes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientId([u8; ClientId::LENGTH]);

impl ClientId {
    /// Bytes of the text form.
    pub const LENGTH: usize = 36;

    /// The text form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Digits and dashes only; the fallback is never reached.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The 128 bits of the UUID, never 0.
    #[must_use]
    pub fn bits(&self) -> u128 {
        let digits = self.0.iter().filter(|byte| **byte != b'-');
        digits.fold(0, |bits, digit| {
            bits << 4 | u128::from(if *digit < b'a' { digit & 0xf } else { digit - b'a' + 10 })
        })
    }

    /// The id with these bits, well-formed or not.
    #[must_use]
    pub fn from_bits(uuid: u128) -> Self {
        let mut text = [b'-'; Self::LENGTH];
        let mut shift = 128;
        for (at, byte) in text.iter_mut().enumerate() {
            if !DASHES.contains(&at) {
                shift -= 4;
                *byte = b"0123456789abcdef"[(uuid >> shift) as usize & 0xf];
            }
        }
        Self(text)
    }
}

impl std::fmt::Debug for ClientId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// The permutation under one key, which all shards of a process share and nobody else knows.
#[derive(Clone, Copy, Debug)]
pub struct ClientIds(SipHasher24);

impl ClientIds {
    /// The permutation under `key`.
    #[must_use]
    pub fn new(key: [u8; 16]) -> Self {
        Self(SipHasher24::new_with_key(&key))
    }

    /// The id of a connection.
    #[must_use]
    pub fn encode(&self, key: ConnKey) -> ClientId {
        let name = u128::from(key.shard.0) << 64 | u128::from(key.slot) << 32 | u128::from(key.generation);
        let (mut left, mut right) = ((name >> HALF_BITS) as u64, name as u64 & HALF);
        for round in 0..ROUNDS {
            (left, right) = (right, left ^ self.round(round, right));
        }
        print(u128::from(left) << HALF_BITS | u128::from(right))
    }

    /// The connection with this id, if it is one that [`ClientIds::encode`] gave out under the same key.
    #[must_use]
    pub fn decode(&self, id: &str) -> Option<ConnKey> {
        let block = parse(id.as_bytes())?;
        let (mut left, mut right) = ((block >> HALF_BITS) as u64, block as u64 & HALF);
        for round in (0..ROUNDS).rev() {
            (left, right) = (right ^ self.round(round, left), left);
        }
        let name = u128::from(left) << HALF_BITS | u128::from(right);
        let key = ConnKey {
            shard: ShardId((name >> 64) as u16),
            slot: (name >> 32) as u32,
            generation: name as u32,
        };
        (name >> NAME_BITS == 0).then_some(key)
    }

    fn round(&self, round: u8, half: u64) -> u64 {
        let mut block = [round; 9];
        block[..8].copy_from_slice(&half.to_le_bytes());
        self.0.hash(&block) & HALF
    }
}

/// Sets version and variant around the 122 bits and writes the text form.
fn print(block: u128) -> ClientId {
    let high = (block >> 74) << 16 | 4 << 12 | (block >> 62) & 0xfff;
    let uuid = high << 64 | 0b10 << 62 | block & ((1 << 62) - 1);
    ClientId::from_bits(uuid)
}

/// The 122 bits of a text form exactly as [`print()`] writes it.
fn parse(text: &[u8]) -> Option<u128> {
    if text.len() != ClientId::LENGTH {
        return None;
    }
    let mut uuid = 0_u128;
    for (at, byte) in text.iter().enumerate() {
        match byte {
            b'-' if DASHES.contains(&at) => {}
            _ if DASHES.contains(&at) => return None,
            b'0'..=b'9' => uuid = uuid << 4 | u128::from(byte - b'0'),
            b'a'..=b'f' => uuid = uuid << 4 | u128::from(byte - b'a' + 10),
            _ => return None,
        }
    }
    let well_formed = (uuid >> 76) & 0xf == 4 && (uuid >> 62) & 0b11 == 0b10;
    let block = (uuid >> 80) << 74 | ((uuid >> 64) & 0xfff) << 62 | uuid & ((1 << 62) - 1);
    well_formed.then_some(block)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn key(shard: u16, slot: u32, generation: u32) -> ConnKey {
        ConnKey { shard: ShardId(shard), slot, generation }
    }

    proptest! {
        #[test]
        fn decodes_what_it_encoded(shard: u16, slot: u32, generation: u32, secret: [u8; 16]) {
            let ids = ClientIds::new(secret);
            let id = ids.encode(key(shard, slot, generation));
            prop_assert_eq!(ids.decode(id.as_str()), Some(key(shard, slot, generation)));
            let well_formed = id.as_str().chars().enumerate().all(|(at, letter)| match at {
                8 | 13 | 18 | 23 => letter == '-',
                14 => letter == '4',
                19 => "89ab".contains(letter),
                _ => "0123456789abcdef".contains(letter),
            });
            prop_assert!(well_formed, "{:?}", id);
        }

        #[test]
        fn refuses_what_it_did_not_encode(text in "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}") {
            prop_assert_eq!(ClientIds::new([3; 16]).decode(&text), None);
        }

        #[test]
        fn refuses_an_id_with_one_letter_changed(at in 0..36_usize, letter in "[0-9a-zA-Z-]") {
            let ids = ClientIds::new([3; 16]);
            let id = ids.encode(key(1, 2, 3));
            let mut text = id.as_str().to_owned();
            text.replace_range(at..=at, &letter);
            prop_assert_eq!(ids.decode(&text), (text == id.as_str()).then_some(key(1, 2, 3)));
        }
    }

    #[test]
    fn refuses_texts_of_other_forms() {
        let ids = ClientIds::new([0; 16]);
        let id = ids.encode(key(0, 0, 0));
        let upper = id.as_str().to_uppercase();
        let joined = id.as_str().replace('-', "");
        let longer = format!("{}0", id.as_str());
        for text in ["", "-", &upper, &joined, &longer, "------------------------------------"] {
            assert_eq!(ids.decode(text), None, "{text}");
        }
        assert_eq!(ClientIds::new([1; 16]).decode(id.as_str()), None, "another key");
    }

    #[test]
    fn ids_of_neighbours_are_distinct_and_share_no_more_than_chance() {
        let ids = ClientIds::new([5; 16]);
        let mut seen = HashSet::new();
        let mut prefixes = HashSet::new();
        for slot in 0..10_000 {
            let id = ids.encode(key(0, slot, 1));
            prefixes.insert(id.as_str()[..8].to_owned());
            assert!(seen.insert(id));
        }
        assert!(prefixes.len() > 9_980, "{} of 10,000 32-bit prefixes", prefixes.len());
    }
}
