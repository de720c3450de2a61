//! How many of something each shard has: what a home knows of subscribers and sessions.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::base::ids::ShardId;
use crate::hub::mail::{Delivery, Mail};
use crate::hub::post::Post;

/// Sends a delivery to every shard.
pub(crate) fn spread(shards: &[(ShardId, u32)], delivery: &Arc<Delivery>, post: &mut Post) {
    for (shard, _) in shards {
        post.send(*shard, Mail::Deliver(Arc::clone(delivery)));
    }
}

/// Counts one more on a shard.
pub(crate) fn add(shards: &mut SmallVec<[(ShardId, u32); 2]>, shard: ShardId) {
    match shards.iter_mut().find(|(other, _)| *other == shard) {
        Some((_, count)) => *count += 1,
        None => shards.push((shard, 1)),
    }
}

/// Counts one less on a shard.
pub(crate) fn remove(shards: &mut SmallVec<[(ShardId, u32); 2]>, shard: ShardId) {
    let Some(at) = shards.iter().position(|(other, _)| *other == shard) else { return };
    shards[at].1 -= 1;
    if shards[at].1 == 0 {
        shards.swap_remove(at);
        if shards.is_empty() {
            shards.shrink_to_fit();
        }
    }
}
