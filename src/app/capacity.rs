//! How many shards, and how many connections this host lets them hold: decided before anything starts, said in words.

use std::cmp::Reverse;
use std::fmt;

use crate::app::StartError;
use crate::base::ids::ShardId;
use crate::net::tables::{KEPT_FREE, descriptors_per_table, sockets_per_shard};

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
    /// The operator chose the number of shards.
    is_fixed: bool,
}

impl Plan {
    /// `shards` 0: one per core, or as many as `connections` needs; where no number of them does, the one that holds most.
    /// `connections` 0: as many as the shards hold.
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
            0 => (least..=most)
                .find(|&shards| holds(shards) >= u64::from(connections))
                .or_else(|| (least..=most).max_by_key(|&shards| (holds(shards), Reverse(shards))))
                .unwrap_or(least),
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
            is_fixed: shards != 0,
        }
    }

    /// # Errors
    /// [`StartError::Descriptors`] where there is room for nobody.
    pub(super) fn check(&self) -> Result<(), StartError> {
        match self.connections {
            0 => Err(StartError::Descriptors {
                limit: self.descriptors,
                shards: self.shards,
                least: self.least_descriptors(),
            }),
            _ => Ok(()),
        }
    }

    /// True if the operator gets something else than was asked for, or than is good.
    pub(super) fn is_warning(&self) -> bool {
        self.lowered_from.is_some() || (self.is_fixed && usize::from(self.shards) > self.cores)
    }

    /// Descriptors that a table must hold for a single connection.
    pub(super) fn least_descriptors(&self) -> u64 {
        // Below 37 sockets nothing is left beside the room for an uneven spread.
        u64::from(self.shards) + KEPT_FREE + 37
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
        }
        if usize::from(self.shards) <= self.cores {
            return Ok(());
        }
        if self.is_fixed {
            write!(
                out,
                "; server.shards asks for more shards than there are cores: they take turns, which makes everybody \
                 wait longer; 0 runs one per core, and more only where the limit of open files demands it"
            )?;
        } else if self.lowered_from.is_none() {
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

    /// R08: wakers of ever more shards would leave no descriptor for a socket.
    #[test]
    fn a_small_limit_lowers_the_number_of_connections_not_the_room_for_them() {
        for limit in [70_u64, 128, 256, 512, 1024, 4096] {
            let sockets = |shards: u64| limit.saturating_sub(shards + KEPT_FREE);
            let plan = Plan::with(0, 100_000, 2, limit, sockets);
            if plan.lowered_from.is_some() {
                let more =
                    (2..=1024).map(|shards| Plan::with(shards, 0, 2, limit, sockets).connections).max();
                assert_eq!(Some(plan.connections), more, "{limit}");
            }
            assert!(u64::from(plan.shards) + KEPT_FREE < limit && plan.connections > 0, "{plan:?}");
            assert_eq!(plan.is_warning(), limit < 1024, "{plan}");
        }
        let none = Plan::with(0, 100_000, 2, 20, |shards| 20_u64.saturating_sub(shards + KEPT_FREE));
        assert_eq!((none.shards, none.connections, none.least_descriptors()), (2, 0, 71));
        assert_eq!(Plan::with(0, 1, 2, 71, |shards| 71 - shards - KEPT_FREE).connections, 1);
    }

    #[test]
    fn more_shards_than_cores_are_told_by_who_wants_them() {
        let asked = Plan::with(64, 1000, 2, 20_000, |_| 19_000);
        assert!(asked.is_warning() && asked.to_string().contains("server.shards asks for more"), "{asked}");
        let needed = Plan::with(0, 1_000_000, 2, 20_000, |_| 19_000);
        assert!(
            !needed.is_warning() && needed.to_string().contains("the limit of open files bounds"),
            "{needed}"
        );
    }

    #[test]
    fn what_is_too_much_is_lowered_in_words() {
        let plan = Plan::with(2, 1_000_000, 2, 20_000, |_| 19_000);
        assert_eq!((plan.connections, plan.lowered_from), (36_356, Some(1_000_000)));
        assert!(plan.to_string().contains("LimitNOFILE"), "{plan}");
    }
}
