//! How many shards, and how many connections this host lets them hold: decided before anything starts, said in words.

use std::fmt;

use crate::base::ids::ShardId;
use crate::net::tables::{descriptors_per_table, sockets_per_shard};

/// Shards and what they can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) shards: u16,
    /// Client sockets one shard may hold.
    pub(super) sockets_per_shard: usize,
    /// Client sockets of all shards together, or what the operator asked for if that is less.
    pub(super) connections: u32,
    /// What the operator asked for, if that is more than the shards can hold.
    pub(super) lowered_from: Option<u32>,
    cores: usize,
    descriptors: u64,
}

impl Plan {
    /// `shards` 0: one per core, or as many as `connections` needs. `connections` 0: as many as the shards hold.
    pub(super) fn of(shards: u16, connections: u32) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self::with(shards, connections, cores, descriptors_per_table(), sockets_per_shard)
    }

    fn with(
        shards: u16,
        connections: u32,
        cores: usize,
        descriptors: u64,
        sockets_per_shard: impl Fn(u64) -> u64,
    ) -> Self {
        let most = ShardId::MAX_SHARDS as u16;
        let least = u16::try_from(cores).unwrap_or(most).clamp(1, most);
        let holds = |shards: u16| u64::from(shards) * spread_capacity(sockets_per_shard(u64::from(shards)));
        let chosen = match shards {
            0 => (least..=most).find(|&shards| holds(shards) >= u64::from(connections)).unwrap_or(most),
            fixed => fixed,
        };
        let possible = holds(chosen);
        let all = u32::try_from(possible).unwrap_or(u32::MAX);
        Self {
            shards: chosen,
            sockets_per_shard: usize::try_from(sockets_per_shard(u64::from(chosen))).unwrap_or(usize::MAX),
            connections: if connections == 0 { all } else { connections.min(all) },
            lowered_from: Some(connections).filter(|asked| *asked > all),
            cores,
            descriptors,
        }
    }
}

/// What a shard of this capacity can be counted on to hold. The kernel spreads connections by a hash, so the fullest
/// shard has more than the mean: six standard deviations of room make that a matter of 10^-9.
fn spread_capacity(sockets: u64) -> u64 {
    sockets.saturating_sub(6 * sockets.isqrt())
}

impl fmt::Display for Plan {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "this host can hold {} connections: {} shards on {} cores, each with a descriptor table of {}",
            self.connections, self.shards, self.cores, self.descriptors
        )?;
        if let Some(asked) = self.lowered_from {
            write!(
                out,
                "; server.max_connections asks for {asked}: raise the limit of open files (LimitNOFILE) or \
                 server.shards to get there"
            )?;
        } else if usize::from(self.shards) > self.cores {
            write!(
                out,
                "; there are more shards than cores because the limit of open files bounds each shard, \
                 raise it (LimitNOFILE) to run one shard per core"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_added_where_descriptors_run_out() {
        let sockets = |shards: u64| 20_000 - shards - 32;
        let small = Plan::with(0, 10_000, 2, 20_000, sockets);
        assert_eq!((small.shards, small.connections), (2, 10_000));
        let million = Plan::with(0, 1_000_000, 2, 20_000, sockets);
        assert_eq!(million.shards, 53);
        let all = Plan::with(2, 0, 2, 20_000, sockets);
        assert!(all.connections > 38_000 && all.connections < 40_000);
    }

    #[test]
    fn what_is_too_much_is_lowered_in_words() {
        let plan = Plan::with(2, 1_000_000, 2, 20_000, |_| 19_000);
        assert_eq!((plan.connections, plan.lowered_from), (36_356, Some(1_000_000)));
        assert!(plan.to_string().contains("LimitNOFILE"), "{plan}");
    }
}
