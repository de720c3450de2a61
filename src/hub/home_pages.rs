//! Channel presence page by page: the home asks one shard after the other, in order, until the page is full.
//!
//! Members are in the order of (shard, slot), which a connection keeps as long as it lives. So whoever is there from the
//! first page to the last is listed exactly once, and the cursor is that pair. A page costs its shards a scan of their
//! subscribers and memory for the page only.

use slab::Slab;

use crate::base::ids::ShardId;
use crate::hub::api::{ApiAnswer, ApiError, Member};
use crate::hub::home::Homes;
use crate::hub::mail::{Answer, CollectPage, Mail, PageOf};
use crate::hub::post::Post;
use crate::limits;

/// Pages under way.
#[derive(Debug, Default)]
pub(crate) struct Pages(Slab<Pending>);

#[derive(Debug)]
struct Pending {
    api: u64,
    channel: Box<str>,
    limit: u32,
    members: Vec<Member>,
}

/// After which member a page begins: all before `shard`, and on it up to this slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) shard: u16,
    pub(crate) slot: Option<u32>,
}

impl Cursor {
    /// The beginning for an empty text; `None` for one that no page ended with.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self { shard: 0, slot: None });
        }
        let (shard, slot) = text.split_once('.')?;
        let slot = if slot.is_empty() { None } else { Some(slot.parse().ok()?) };
        Some(Self { shard: shard.parse().ok()?, slot })
    }

    fn text(shard: ShardId, slot: u32) -> String {
        format!("{}.{slot}", shard.0)
    }
}

impl Homes {
    /// Begins a page of the members of a channel.
    pub(crate) fn page(&mut self, api: u64, channel: &str, limit: u32, from: Cursor, post: &mut Post) {
        if self.pages.0.len() >= limits::GATHERS {
            let answer = ApiAnswer::Error(ApiError::Internal);
            return post.answer(Answer { id: api, shard: self.shard, answer });
        }
        let pending = Pending { api, channel: channel.into(), limit, members: Vec::new() };
        let page = self.pages.0.insert(pending) as u32;
        self.ask_next(page, from, post);
    }

    /// One shard's part of a page.
    pub(crate) fn page_part(&mut self, shard: ShardId, part: PageOf, post: &mut Post) {
        let Some(pending) = self.pages.0.get_mut(part.page as usize) else { return };
        pending.members.extend(part.members);
        match part.next {
            Some(slot) if pending.members.len() >= pending.limit as usize => {
                self.end(part.page, Cursor::text(shard, slot), post);
            }
            _ => self.ask_next(part.page, Cursor { shard: shard.0 + 1, slot: None }, post),
        }
    }

    fn ask_next(&mut self, page: u32, from: Cursor, post: &mut Post) {
        let Some(channel) = self.pages.0.get(page as usize).map(|pending| pending.channel.clone()) else {
            return;
        };
        let shards = self.shards_of(self.hasher.of(channel.as_bytes()));
        let Some(pending) = self.pages.0.get(page as usize) else { return };
        let Some(next) = shards.into_iter().filter(|shard| shard.0 >= from.shard).min() else {
            return self.end(page, String::new(), post);
        };
        let after = from.slot.filter(|_| next.0 == from.shard);
        let left = pending.limit - pending.members.len() as u32;
        if left == 0 {
            // Full to the brim, and others follow: they begin the next page.
            let cursor = format!("{}.", next.0);
            return self.end(page, cursor, post);
        }
        let ask = CollectPage { channel, home: self.shard, page, after, limit: left };
        post.send(next, Mail::CollectPage(Box::new(ask)));
    }

    fn end(&mut self, page: u32, cursor: String, post: &mut Post) {
        let Pending { api, channel, mut members, .. } = self.pages.0.remove(page as usize);
        if cursor.is_empty() {
            // Lost members who may come back have no place on a shard: they stand at the end.
            let kept = self.announcements.kept_members(self.hasher.of(channel.as_bytes()));
            members.extend(kept.take(limits::PRESENCE_PAGE as usize));
        }
        let answer = ApiAnswer::PresencePage { members, cursor };
        post.answer(Answer { id: api, shard: self.shard, answer });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_read_as_they_are_written() {
        let end = Cursor::text(ShardId(7), 123);
        assert_eq!(Cursor::parse(&end), Some(Cursor { shard: 7, slot: Some(123) }));
        assert_eq!(Cursor::parse("7."), Some(Cursor { shard: 7, slot: None }));
        assert_eq!(Cursor::parse(""), Some(Cursor { shard: 0, slot: None }));
        for wrong in ["7", ".", "a.1", "1.b", "70000.1", "1.2.3", "-1.2"] {
            assert_eq!(Cursor::parse(wrong), None, "{wrong}");
        }
    }
}
