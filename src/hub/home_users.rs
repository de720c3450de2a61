//! The home side of users: how many connections each has, and on which shards.

use crate::base::ids::{ConnKey, ShardId};
use crate::hub::home::{HomeUser, Homes, add, remove};
use crate::hub::mail::{Mail, Origin, ReplyBody, Ticket, UserAsk, UserOp};
use crate::hub::post::Post;
use crate::hub::registry::Registered;

impl Homes {
    /// A user's connection enters or leaves.
    pub(crate) fn user(&mut self, ask: UserAsk, post: &mut Post) {
        let shard = ask.key.shard;
        let UserOp::Enter { ticket, alone } = ask.op else { return self.user_leaves(ask.hash, shard) };
        let limit = self.common.settings.client.user_connection_limit;
        let count = match self.users.get(ask.hash) {
            Registered::Nothing => 0,
            Registered::Single(..) => 1,
            Registered::Record(user) => user.shards.iter().map(|(_, count)| *count).sum(),
        };
        // A refused connection still counts until it leaves: every enter has its leave.
        if count == 0 {
            self.users.insert_single(ask.hash, shard, 0);
        } else {
            let user = self.users.record(ask.hash, |single| HomeUser {
                shards: single.into_iter().map(|(shard, _)| (shard, 1)).collect(),
            });
            add(&mut user.shards, shard);
        }
        if let Some(name) = alone {
            self.close_others(ask.hash, name, ask.key, post);
        }
        if let Some(number) = ticket {
            let admitted = limit == 0 || count < limit;
            let ticket = Ticket { key: ask.key, number };
            self.reply(Origin::Connection(ticket), "".into(), ReplyBody::Admitted(admitted), post);
        }
    }

    fn user_leaves(&mut self, hash: u64, shard: ShardId) {
        let gone = match self.users.get(hash) {
            Registered::Nothing => false,
            Registered::Single(..) => true,
            Registered::Record(user) => {
                remove(&mut user.shards, shard);
                user.shards.is_empty()
            }
        };
        if gone {
            self.users.remove(hash);
        }
    }

    fn close_others(&mut self, hash: u64, name: Box<str>, keep: ConnKey, post: &mut Post) {
        if let Registered::Record(user) = self.users.get(hash) {
            for (shard, _) in &user.shards {
                post.send(*shard, Mail::CloseOthers { user: name.clone(), keep });
            }
        }
    }
}
