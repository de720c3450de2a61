//! How many shards hold so many connections where one descriptor table holds so many sockets: the arithmetic of
//! `app::capacity`, for hosts that are only described.

use crate::base::ids::ShardId;
use crate::net::tables::KEPT_FREE;

/// Connections that `shards` can be counted on to hold, each with a table of `descriptors`.
///
/// The kernel spreads connections by a hash, so the fullest shard has more than the mean; six standard deviations are
/// kept as room.
#[must_use]
pub fn capacity(shards: u64, descriptors: u64) -> u64 {
    let sockets = descriptors.saturating_sub(shards + KEPT_FREE);
    shards.saturating_mul(sockets.saturating_sub(6 * sockets.isqrt()))
}

/// Shards for `connections`: one per core, or as many more as the tables demand; none where even the most do not do.
#[must_use]
pub fn needed(connections: u64, cores: u64, descriptors: u64) -> Option<u64> {
    let most = ShardId::MAX_SHARDS as u64;
    (cores.clamp(1, most)..=most).find(|&shards| capacity(shards, descriptors) >= connections)
}

/// The most connections that any number of shards holds.
#[must_use]
pub fn most(descriptors: u64) -> u64 {
    (1..=ShardId::MAX_SHARDS as u64).map(|shards| capacity(shards, descriptors)).max().unwrap_or(0)
}

/// Descriptors that a table must hold for `connections` on `shards`, rounded up to a multiple of 1024.
#[must_use]
pub fn table_for(connections: u64, shards: u64) -> u64 {
    let each = connections.div_ceil(shards.max(1));
    // x - 6 √x >= each holds for x = each + 6 √each + 36 and above.
    let sockets = each + 6 * (each.isqrt() + 1) + 36;
    (sockets + shards + KEPT_FREE).next_multiple_of(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_gateway() {
        // app::capacity has the same case: 53 shards for a million where a table holds 20,000.
        assert_eq!(needed(1_000_000, 2, 20_000), Some(53));
        assert_eq!(needed(10_000, 2, 20_000), Some(2));
        assert_eq!(needed(1_000_000, 2, 256), None);
    }

    #[test]
    fn a_recommended_table_suffices() {
        for connections in [1, 1000, 100_000, 1_000_000, 10_000_000] {
            for shards in [1, 2, 16, 64, 1024] {
                let table = table_for(connections, shards);
                assert!(capacity(shards, table) >= connections, "{connections} on {shards}: {table}");
            }
        }
    }
}
