//! Channel presence page by page: the home asks one shard after the other, in order, until the page is full.
//!
//! Members are in the order of (shard, slot), which a connection keeps as long as it lives. So whoever is there from the
//! first page to the last is listed exactly once, and the cursor is that pair. Lost members who may come back have no place on
//! a shard: they stand behind all others, in the order in which they were lost. A page costs its shards a scan of their
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

/// After which member a page begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cursor {
    /// All before the shard, and on it up to this slot.
    Live(u16, Option<u32>),
    /// All that are not lost, and lost ones up to this number.
    Kept(u64),
}

impl Cursor {
    /// The beginning for an empty text; `None` for one that no page ended with.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::Live(0, None));
        }
        let (shard, slot) = text.split_once('.')?;
        if shard == "lost" {
            return Some(Self::Kept(slot.parse().ok()?));
        }
        let slot = if slot.is_empty() { None } else { Some(slot.parse().ok()?) };
        Some(Self::Live(shard.parse().ok()?, slot))
    }

    fn text(self) -> String {
        match self {
            Self::Live(shard, None) => format!("{shard}."),
            Self::Live(shard, Some(slot)) => format!("{shard}.{slot}"),
            Self::Kept(number) => format!("lost.{number}"),
        }
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
                self.end(part.page, Some(Cursor::Live(shard.0, Some(slot))), post);
            }
            _ => self.ask_next(part.page, Cursor::Live(shard.0 + 1, None), post),
        }
    }

    fn ask_next(&mut self, page: u32, from: Cursor, post: &mut Post) {
        let (from, slot) = match from {
            Cursor::Live(shard, slot) => (shard, slot),
            Cursor::Kept(number) => return self.end_with_kept(page, number, post),
        };
        let Some(channel) = self.pages.0.get(page as usize).map(|pending| pending.channel.clone()) else {
            return;
        };
        let shards = self.shards_of(self.hasher.of(channel.as_bytes()));
        let Some(pending) = self.pages.0.get(page as usize) else { return };
        let Some(next) = shards.into_iter().filter(|shard| shard.0 >= from).min() else {
            return self.end_with_kept(page, 0, post);
        };
        let after = slot.filter(|_| next.0 == from);
        let left = pending.limit - pending.members.len() as u32;
        if left == 0 {
            // Full to the brim, and others follow: they begin the next page.
            return self.end(page, Some(Cursor::Live(next.0, None)), post);
        }
        let ask = CollectPage { channel, home: self.shard, page, after, limit: left };
        post.send(next, Mail::CollectPage(Box::new(ask)));
    }

    /// All live members behind the beginning of the page are in it: lost ones fill it up.
    fn end_with_kept(&mut self, page: u32, after: u64, post: &mut Post) {
        let Some(pending) = self.pages.0.get_mut(page as usize) else { return };
        let hash = self.hasher.of(pending.channel.as_bytes());
        let (mut last, mut cursor) = (after, None);
        for (number, member) in self.announcements.kept_after(hash, after) {
            if pending.members.len() >= pending.limit as usize {
                cursor = Some(Cursor::Kept(last));
                break;
            }
            pending.members.push(member);
            last = number;
        }
        self.end(page, cursor, post);
    }

    fn end(&mut self, page: u32, cursor: Option<Cursor>, post: &mut Post) {
        let Pending { api, members, .. } = self.pages.0.remove(page as usize);
        let cursor = cursor.map(Cursor::text).unwrap_or_default();
        let answer = ApiAnswer::PresencePage { members, cursor };
        post.answer(Answer { id: api, shard: self.shard, answer });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_read_as_they_are_written() {
        for cursor in
            [Cursor::Live(7, Some(123)), Cursor::Live(7, None), Cursor::Kept(0), Cursor::Kept(u64::MAX)]
        {
            assert_eq!(Cursor::parse(&cursor.text()), Some(cursor));
        }
        assert_eq!(Cursor::parse(""), Some(Cursor::Live(0, None)));
        for wrong in ["7", ".", "a.1", "1.b", "70000.1", "1.2.3", "-1.2", "lost.", "lost.x", "lost.-1"] {
            assert_eq!(Cursor::parse(wrong), None, "{wrong}");
        }
    }
}
