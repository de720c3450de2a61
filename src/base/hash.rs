//! Keyed hashes of names. The key is random per process, so that no client can choose names that collide.

use siphasher::sip::SipHasher13;

use super::ids::ShardId;

/// SipHash-1-3 (J.-P. Aumasson, D. J. Bernstein, 2012) under one key.
#[derive(Clone, Copy, Debug)]
pub struct NameHash(SipHasher13);

impl NameHash {
    /// All shards of a process share one key: it decides where a name is at home.
    #[must_use]
    pub fn new(key: [u8; 16]) -> Self {
        Self(SipHasher13::new_with_key(&key))
    }

    /// The hash of a channel name or user id.
    #[must_use]
    pub fn of(&self, name: &[u8]) -> u64 {
        self.0.hash(name)
    }
}

/// The home shard of a name with this hash. It looks at bits 8 to 39 only, so that the names of one shard still
/// spread over a whole [`super::table::Table`], which looks at the low byte and at the high bits.
#[must_use]
pub fn home_of(hash: u64, shards: u16) -> ShardId {
    let spread = (hash >> 8) & u64::from(u32::MAX);
    ShardId(((spread * u64::from(shards)) >> 32) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::table::Table;

    #[test]
    fn depends_on_key_and_name() {
        let hash = NameHash::new([0; 16]);
        assert_eq!(hash.of(b"chat:42"), NameHash::new([0; 16]).of(b"chat:42"));
        assert_ne!(hash.of(b"chat:42"), hash.of(b"chat:43"));
        assert_ne!(hash.of(b"chat:42"), NameHash::new([1; 16]).of(b"chat:42"));
    }

    #[test]
    fn homes_are_even_and_leave_the_table_its_bits() {
        let hash = NameHash::new([7; 16]);
        let mut counts = [0_u32; 5];
        let (mut hashes, mut table) = (Vec::new(), Table::new());
        for number in 0..100_000_u32 {
            let hash = hash.of(&number.to_le_bytes());
            let home = usize::from(home_of(hash, 5).0);
            counts[home] += 1;
            if home == 3 {
                hashes.push(hash);
                table.insert(hash, hashes.len() as u32 - 1, |handle| hashes[handle as usize]);
            }
        }
        assert!(counts.iter().all(|count| (19_000..21_000).contains(count)), "{counts:?}");
        let bytes = table.memory_bytes() as f64 / table.len() as f64;
        assert!(bytes < 6.7, "{bytes} bytes an entry: the table lost its spread");
    }
}
