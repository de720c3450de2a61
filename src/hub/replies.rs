//! Answers of homes to connections of this shard, and the lists of members that homes gather from it.

use std::sync::Arc;

use crate::base::ids::ShardId;
use crate::hub::api::{Member, Position};
use crate::hub::cold::Wait;
use crate::hub::connection::{NONE, sub};
use crate::hub::locals::ChannelRef;
use crate::hub::mail::{CollectPage, Collected, CollectedPage, HomeReply, Mail, PageOf, ReplyBody};
use crate::hub::metrics::SentKind;
use crate::hub::publication::{client_info, fits_json, is_part, member_fits_json, view, wrapped};
use crate::hub::shard::Shard;
use crate::hub::stream::Publication;
use crate::protocol::{DisconnectCode, Encoding, ErrorCode};
use crate::protocol::{
    EmptyKind, PublicationView, encode_empty, encode_history, encode_presence, encode_presence_stats,
};

impl Shard {
    /// Hands an answer to the connection that waits for it; a late one is dropped.
    pub(crate) fn home_reply(&mut self, mut reply: HomeReply) {
        let key = reply.ticket.key;
        if !self.is_current(key.slot, key.generation) {
            return;
        }
        if self.is_unfit(key.slot, &reply.body) {
            if !self.common.is_on_disk(&reply.channel) {
                return self.disconnect(key.slot, DisconnectCode::InappropriateProtocol);
            }
            wrap_unfit(&mut reply.body);
            if self.is_unfit(key.slot, &reply.body) {
                return self.disconnect(key.slot, DisconnectCode::InappropriateProtocol);
            }
        }
        let blocked = self.cold_if_any(key.slot).and_then(|cold| cold.blocked.as_ref());
        let Some(blocked) = blocked.filter(|blocked| blocked.number == reply.ticket.number) else {
            return self.unasked_reply(key.slot, &reply);
        };
        match blocked.wait {
            Wait::Connect(_) => {
                return self.connect_answer(key.slot, reply.ticket.number, reply.channel, reply.body);
            }
            Wait::Users(_) => return self.users_answer(key.slot, reply.body),
            Wait::Subscribe { id, ttl } => self.subscribe_answer(key.slot, id, ttl, &reply),
            Wait::Command { id } => self.command_answer(key.slot, id, reply.body),
            Wait::Pause | Wait::Output { .. } => return,
        }
        self.resume(key.slot);
    }

    /// True for an answer that cannot be put into the JSON of the connection.
    fn is_unfit(&self, slot: u32, body: &ReplyBody) -> bool {
        if self.connections.0.get(slot as usize).is_none_or(|of| of.encoding() != Encoding::Json) {
            return false;
        }
        match body {
            ReplyBody::Subscribed(granted) => {
                !is_part(granted.data.as_deref()) || !granted.publications.iter().all(|of| fits_json(of))
            }
            ReplyBody::History(publications, _) => !publications.iter().all(|of| fits_json(of)),
            ReplyBody::Presence(members) => !members.iter().all(member_fits_json),
            _ => false,
        }
    }

    /// Nobody waits: a subscription made by the server API, or one that was given up.
    fn unasked_reply(&mut self, slot: u32, reply: &HomeReply) {
        let pending = self.pending_subscription(slot, &reply.channel, reply.ticket.number);
        if let Some(handle) = pending {
            match &reply.body {
                ReplyBody::Subscribed(granted) => {
                    self.subscribed_by_server(slot, handle, &reply.channel, granted);
                }
                _ => self.leave(slot, handle),
            }
        }
    }

    fn subscribe_answer(&mut self, slot: u32, id: u32, ttl: Option<u32>, reply: &HomeReply) {
        let Some(handle) = self.pending_subscription(slot, &reply.channel, reply.ticket.number) else {
            return self.reply_error(slot, id, ErrorCode::Internal);
        };
        match &reply.body {
            ReplyBody::Subscribed(granted) => self.subscribed(slot, id, ttl, handle, granted),
            ReplyBody::Failed(error) => {
                self.leave(slot, handle);
                self.reply_error(slot, id, *error);
            }
            _ => self.reply_error(slot, id, ErrorCode::Internal),
        }
    }

    fn command_answer(&mut self, slot: u32, id: u32, body: ReplyBody) {
        match body {
            ReplyBody::Published => self.say(slot, SentKind::Publish, |out, encoding| {
                encode_empty(out, encoding, id, EmptyKind::Publish);
            }),
            ReplyBody::History(publications, position) => {
                self.history_reply(slot, id, &publications, &position);
            }
            ReplyBody::PresenceStats(clients, users) => {
                self.say(slot, SentKind::PresenceStats, |out, encoding| {
                    encode_presence_stats(out, encoding, id, clients, users);
                });
            }
            ReplyBody::Presence(members) => self.say(slot, SentKind::Presence, |out, encoding| {
                encode_presence(out, encoding, id, members.iter().map(client_info));
            }),
            ReplyBody::Failed(error) => self.reply_error(slot, id, error),
            ReplyBody::Acknowledged(through) => self.mailbox_acknowledged(slot, id, through),
            ReplyBody::Subscribed(_) | ReplyBody::Admitted(_) | ReplyBody::Users(_) => {
                self.reply_error(slot, id, ErrorCode::Internal);
            }
        }
    }

    fn history_reply(&mut self, slot: u32, id: u32, publications: &[Arc<Publication>], top: &Position) {
        let views: Vec<PublicationView<'_>> =
            publications.iter().map(|publication| view(publication)).collect();
        self.say(slot, SentKind::History, |out, encoding| {
            encode_history(out, encoding, id, &views, top.offset, &top.epoch);
        });
    }

    /// Lists this shard's members of a channel for its home.
    pub(crate) fn collect(&mut self, channel: &str, home: ShardId, gather: u32) {
        let members = self.members(channel);
        self.post.send(home, Mail::Collected(Box::new(Collected { gather, members })));
    }

    /// Lists some of them, in the order of their slots.
    pub(crate) fn collect_page(&mut self, ask: &CollectPage) {
        let handle = self.locals.find_channel(self.locals.hash(&ask.channel), &ask.channel);
        let mut slots = handle.map_or_else(Vec::new, |handle| self.lowest_members(handle, ask));
        let limit = ask.limit as usize;
        let more = slots.len() > limit;
        slots.truncate(limit);
        let members = slots.iter().map(|slot| self.member(*slot, handle)).collect();
        let part = PageOf { page: ask.page, members, next: slots.last().copied().filter(|_| more) };
        self.post.send(ask.home, Mail::CollectedPage(Box::new(CollectedPage { shard: self.id, part })));
    }

    /// The lowest slots of a page, and one more that tells whether others follow. A scan of the channel's list, which
    /// looks at a connection only if its slot is low enough.
    fn lowest_members(&self, handle: u32, ask: &CollectPage) -> Vec<u32> {
        let subscribers: Box<dyn Iterator<Item = u32>> = match self.locals.channel(handle) {
            ChannelRef::One(slot) => Box::new(std::iter::once(slot)),
            ChannelRef::Many(index) => {
                let slots = self.locals.subscribers_of(index).iter().map(|subscriber| subscriber.slot);
                Box::new(slots.filter(|slot| *slot != NONE))
            }
        };
        let wanted = ask.limit as usize + 1;
        let mut lowest = std::collections::BinaryHeap::new();
        for slot in subscribers.filter(|slot| ask.after.is_none_or(|after| *slot > after)) {
            let low = lowest.len() < wanted || lowest.peek().is_some_and(|highest| slot < *highest);
            if low && self.counts_in_presence(slot, handle) {
                lowest.push(slot);
                if lowest.len() > wanted {
                    lowest.pop();
                }
            }
        }
        lowest.into_sorted_vec()
    }

    fn counts_in_presence(&self, slot: u32, handle: u32) -> bool {
        let flags = self.subscription_flags(slot, handle);
        flags.is_some_and(|flags| flags & sub::PRESENCE != 0 && self.stands(slot, flags))
    }

    fn members(&mut self, channel: &str) -> Vec<Member> {
        let Some(handle) = self.locals.find_channel(self.locals.hash(channel), channel) else {
            return Vec::new();
        };
        let slots: Vec<u32> = match self.locals.channel(handle) {
            ChannelRef::One(slot) => vec![slot],
            ChannelRef::Many(index) => self.locals.many(index).map_or_else(Vec::new, |channel| {
                channel
                    .subscribers
                    .iter()
                    .map(|subscriber| subscriber.slot)
                    .filter(|slot| *slot != NONE)
                    .collect()
            }),
        };
        slots
            .iter()
            .filter(|slot| self.counts_in_presence(**slot, handle))
            .map(|slot| self.member(*slot, Some(handle)))
            .collect()
    }
}

/// Puts publications that are no JSON into a form that is.
fn wrap_unfit(body: &mut ReplyBody) {
    let publications = match body {
        ReplyBody::Subscribed(granted) => &mut granted.publications,
        ReplyBody::History(publications, _) => publications,
        _ => return,
    };
    for publication in publications.iter_mut().filter(|of| !fits_json(of)) {
        *publication = Arc::new(wrapped(publication));
    }
}
