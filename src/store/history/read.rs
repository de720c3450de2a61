//! What subscribers and readers of a durable history get.

use std::sync::Arc;

use super::{PendingHistory, Request};
use crate::base::tick::Now;
use crate::hub::api::{ApiError, Position};
use crate::hub::mail::{HomeAsk, HomeOp, Origin, SubscribeAsk, Subscribed};
use crate::hub::store::HistoryAnswer;
use crate::hub::stream::{JsonCheck, Publication, Publisher};
use crate::limits;
use crate::log::body::{self, Body, Version};
use crate::log::error::ReadError;
use crate::log::history::{HistoryPage, HistoryRead};
use crate::log::reader::Stored;
use crate::log::record::HEADER_BYTES;
use crate::log::request::{Append, epoch_text};
use crate::store::archive::Archive;
use crate::store::office::{Office, Pending};
use crate::store::reads::Walk;

impl<A: Archive> Office<A> {
    /// A subscriber or a reader. A long history waits behind those that wait already.
    pub(in crate::store) fn read(&mut self, ask: HomeAsk, now: Now) {
        let has_room = self.reads.has_room_for_newcomer();
        self.read_if_room(ask, has_room, now);
    }

    /// The same; a long history is begun if there is room, which is for the caller to say, else it waits.
    pub(in crate::store) fn read_if_room(&mut self, ask: HomeAsk, has_room: bool, now: Now) {
        let page = match self.page(&ask.channel, now) {
            Ok(Some(page)) => page,
            Ok(None) => return self.begin(ask, now),
            Err(error) => return self.tell_history(ask.channel, ask.origin, HistoryAnswer::Failed(error)),
        };
        let answer = match &ask.op {
            HomeOp::Subscribe(subscribe) => {
                let granted = self.grant_history(&ask, subscribe, &page, now);
                granted.map(|granted| HistoryAnswer::Opened(Box::new(granted)))
            }
            HomeOp::History { .. } => match self.query(&ask, &page, now) {
                Ok(read) if read.limit == 0 => Ok(HistoryAnswer::Page(Vec::new(), position_of(&page))),
                Ok(read) if !has_room && is_long(&read, &page) => return self.reads.queue(ask),
                Ok(read) => return self.set_out(&ask, &read, &page),
                Err(error) => Err(error),
            },
            _ => Err(ApiError::Internal),
        };
        self.tell_history(ask.channel, ask.origin, answer.unwrap_or_else(HistoryAnswer::Failed));
    }

    /// Where a history stands.
    pub(super) fn page(&mut self, channel: &str, now: Now) -> Result<Option<HistoryPage>, ApiError> {
        let read = HistoryRead { limit: 0, ..self.everything(channel, now) };
        self.at_once(&read)
    }

    /// A page that is near the top, or is bounded by what fits into one reply.
    fn at_once(&mut self, read: &HistoryRead<'_>) -> Result<Option<HistoryPage>, ApiError> {
        let Some(mut way) = self.archive.history(read, None) else { return Ok(None) };
        let mut budget = usize::MAX;
        let page = way.go_on(&mut budget, None).map_err(unavailable)?;
        self.reads.charge(usize::MAX - budget);
        Ok(page)
    }

    /// Begins to read for a reader.
    fn set_out(&mut self, ask: &HomeAsk, read: &HistoryRead<'_>, page: &HistoryPage) {
        let is_long = is_long(read, page);
        let mut trail = is_long.then(|| self.histories.trails.take(read.channel));
        let way = self.archive.history(read, trail.as_mut());
        if let Some(trail) = trail {
            self.histories.trails.put(read.channel, trail);
        }
        let (channel, origin, position) = (ask.channel.clone(), ask.origin, position_of(page));
        match way {
            Some(way) => self.walk(Walk { channel, origin, position, is_long, way }),
            None => self.tell_history(channel, origin, HistoryAnswer::Page(Vec::new(), position)),
        }
    }

    /// Goes on with a read as far as the turn's share reaches.
    pub(in crate::store) fn walk(&mut self, mut walk: Walk) {
        let done = if walk.is_long {
            let mut trail = self.histories.trails.take(&walk.channel);
            let done = walk.way.go_on(&mut self.reads.budget, Some(&mut trail));
            self.histories.trails.put(&walk.channel, trail);
            done
        } else {
            let mut budget = usize::MAX;
            let done = walk.way.go_on(&mut budget, None);
            self.reads.charge(usize::MAX - budget);
            done
        };
        let answer = match done {
            Ok(None) => return self.reads.walk_on(walk),
            Ok(Some(page)) => HistoryAnswer::Page(publications(page), walk.position),
            Err(error) => HistoryAnswer::Failed(unavailable(error)),
        };
        self.tell_history(walk.channel, walk.origin, answer);
    }

    /// All that was handed out to subscribers.
    fn everything<'a>(&mut self, channel: &'a str, now: Now) -> HistoryRead<'a> {
        HistoryRead {
            channel,
            end: self.histories.channels.get(channel).map_or(u64::MAX, |known| known.end()),
            after: 0,
            before: u64::MAX,
            limit: usize::MAX,
            bytes: limits::HISTORY_PAGE_BYTES,
            newest_first: false,
            now: u32::try_from(now.unix_seconds()).unwrap_or(u32::MAX),
        }
    }

    /// Nobody has published there, so there is no epoch to tell: the stream begins with the first who asks.
    fn begin(&mut self, ask: HomeAsk, now: Now) {
        let channel = ask.channel.clone();
        if self.histories.channels.get(&channel).is_none() {
            self.histories.channels.add(&channel, Version::default());
        }
        let Some(known) = self.histories.channels.get(&channel) else { return };
        known.opening.push(ask);
        if !known.is_quiet() || known.opening.len() > 1 {
            return;
        }
        self.departs(&channel, None);
        let append =
            Append::Position { channel: channel.to_string(), keep: u32::MAX, version: Version::default() };
        let pending = PendingHistory { channel, request: Request::Begin };
        self.append(append, Pending::History(Box::new(pending)), now);
    }

    /// Something about the channel was decided: who waits for its stream may find it now.
    pub(super) fn release_opening(&mut self, channel: &str, error: Option<ApiError>, now: Now) {
        let Some(known) = self.histories.channels.get(channel) else { return };
        for ask in std::mem::take(&mut known.opening) {
            match error {
                Some(error) => self.tell_history(ask.channel, ask.origin, HistoryAnswer::Failed(error)),
                None => self.read(ask, now),
            }
        }
    }

    /// What fits into one reply to a client.
    fn reply_bytes(&self) -> usize {
        self.common.settings.client.reply_bytes()
    }

    /// Position and recovery for a new subscriber: client-protocol.md section 4.
    fn grant_history(
        &mut self,
        ask: &HomeAsk,
        subscribe: &SubscribeAsk,
        page: &HistoryPage,
        now: Now,
    ) -> Result<Subscribed, ApiError> {
        let options = self.common.settings.channel.options.get(usize::from(ask.namespace));
        let cache = options.is_some_and(|options| options.recovery_mode_cache);
        let unasked =
            subscribe.recoverable && cache && options.is_some_and(|options| options.auto_cache_recover);
        let mut granted = Subscribed {
            positioned: subscribe.positioned,
            recoverable: subscribe.recoverable,
            position: position_of(page),
            data: subscribe.data.clone(),
            ..Subscribed::default()
        };
        let asked = subscribe.recover.clone().or_else(|| unasked.then(Position::default));
        let Some(asked) = asked else { return Ok(granted) };
        granted.was_recovering = true;
        let missed = if cache {
            self.missed_in_cache(ask, &asked, page, now)?
        } else {
            self.missed_in_stream(ask, &asked, page, now)?
        };
        if let Some(publications) = missed {
            granted.recovered = true;
            granted.position.offset = asked.offset;
            granted.publications = publications;
        } else if subscribe.reject_unrecovered {
            return Err(ApiError::UnrecoverablePosition);
        }
        Ok(granted)
    }

    /// Everything behind the position asked for; `None` if something of it is missing, or it is too much for one reply.
    fn missed_in_stream(
        &mut self,
        ask: &HomeAsk,
        asked: &Position,
        page: &HistoryPage,
        now: Now,
    ) -> Result<Option<Vec<Arc<Publication>>>, ApiError> {
        let limit = self.common.settings.client.recovery_max_publication_limit as usize;
        let allowed = if limit == 0 { usize::MAX } else { limit };
        // An offset beyond the top was never given out: the client knows another stream.
        let missed = page.top.checked_sub(asked.offset).and_then(|missed| usize::try_from(missed).ok());
        let same = asked.epoch.is_empty() || asked.epoch == epoch_text(page.epoch);
        let Some(missed) = missed.filter(|missed| same && *missed <= allowed && asked.offset >= page.floor)
        else {
            return Ok(None);
        };
        if missed == 0 {
            return Ok(Some(Vec::new()));
        }
        if missed > self.reply_bytes() / HEADER_BYTES {
            return Ok(None);
        }
        let everything = self.everything(&ask.channel, now);
        let read =
            HistoryRead { after: asked.offset, limit: missed, bytes: self.reply_bytes(), ..everything };
        let found = self.at_once(&read)?.unwrap_or_default();
        let complete = found.publications.len() == missed && found.epoch == page.epoch;
        Ok(complete.then(|| publications(found)))
    }

    /// A client whose state is the top needs nothing, any other the newest publication, which must still be kept.
    fn missed_in_cache(
        &mut self,
        ask: &HomeAsk,
        asked: &Position,
        page: &HistoryPage,
        now: Now,
    ) -> Result<Option<Vec<Arc<Publication>>>, ApiError> {
        if asked.offset > 0 && asked.offset == page.top && asked.epoch == epoch_text(page.epoch) {
            return Ok(Some(Vec::new()));
        }
        let read = HistoryRead { limit: 1, newest_first: true, ..self.everything(&ask.channel, now) };
        let found = self.at_once(&read)?.unwrap_or_default();
        Ok((!found.publications.is_empty()).then(|| publications(found)))
    }

    /// What a reader wants of a history.
    fn query<'a>(
        &mut self,
        ask: &'a HomeAsk,
        page: &HistoryPage,
        now: Now,
    ) -> Result<HistoryRead<'a>, ApiError> {
        let HomeOp::History { limit, cap, since, reverse } = &ask.op else { return Err(ApiError::Internal) };
        if let Some(since) = since {
            if *reverse && since.offset == 0 {
                return Err(ApiError::BadRequest);
            }
            if !since.epoch.is_empty() && since.epoch != epoch_text(page.epoch) {
                return Err(ApiError::UnrecoverablePosition);
            }
        }
        let allowed = if *cap == 0 { usize::MAX } else { *cap as usize };
        let since = since.as_ref().map(|since| since.offset);
        Ok(HistoryRead {
            after: if *reverse { 0 } else { since.unwrap_or(0) },
            before: if *reverse { since.unwrap_or(u64::MAX) } else { u64::MAX },
            limit: usize::try_from(*limit).unwrap_or(usize::MAX).min(allowed),
            bytes: match ask.origin {
                Origin::Api(_) => limits::HISTORY_PAGE_BYTES,
                _ => self.reply_bytes(),
            },
            newest_first: *reverse,
            ..self.everything(&ask.channel, now)
        })
    }
}

/// True for a read that may look at so many publications that others should not wait for it.
fn is_long(read: &HistoryRead<'_>, page: &HistoryPage) -> bool {
    let kept = page.top.saturating_sub(page.floor);
    let way = if read.newest_first {
        let limit = u64::try_from(read.limit).unwrap_or(u64::MAX);
        page.top.saturating_sub(read.before).saturating_add(limit)
    } else {
        page.top.saturating_sub(read.after)
    };
    way.min(kept) >= limits::LONG_HISTORY
}

fn position_of(page: &HistoryPage) -> Position {
    Position { offset: page.top, epoch: epoch_text(page.epoch) }
}

fn unavailable(_: ReadError) -> ApiError {
    // The log counts what it cannot read and says why.
    ApiError::StorageUnavailable
}

fn publications(page: HistoryPage) -> Vec<Arc<Publication>> {
    page.publications.into_iter().filter_map(publication_of).map(Arc::new).collect()
}

/// A publication of the log as the hub has it.
fn publication_of(stored: Stored) -> Option<Publication> {
    let Body::Publication(body) = stored.body else { return None };
    let body::Publication { data, publisher, tags, version, is_versioned, .. } = body;
    let publisher = publisher
        .map(|of| Publisher::new(&of.user, &of.client, of.conn_info.as_deref(), of.chan_info.as_deref()));
    Some(Publication {
        offset: stored.offset,
        version: if is_versioned { version.number } else { 0 },
        data,
        publisher,
        tags: tags.into(),
        json: JsonCheck::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What counts is what is kept, not what was ever published.
    #[test]
    fn a_way_is_as_long_as_what_is_kept_of_it() {
        let page = |top, floor| HistoryPage { top, floor, ..HistoryPage::default() };
        let read = |after, before, limit, newest_first| HistoryRead {
            channel: "x",
            end: u64::MAX,
            after,
            before,
            limit,
            bytes: usize::MAX,
            newest_first,
            now: 0,
        };
        let cases = [
            (read(0, u64::MAX, 10, false), page(2_048, 0), true),
            (read(0, u64::MAX, 10, false), page(1_000_000, 999_990), false),
            (read(999_995, u64::MAX, 10, false), page(1_000_000, 0), false),
            (read(0, u64::MAX, 10, false), page(1_000_000, 997_952), true),
            (read(0, u64::MAX, 10, true), page(1_000_000, 0), false),
            (read(0, u64::MAX, usize::MAX, true), page(1_000_000, 0), true),
            (read(0, u64::MAX, usize::MAX, true), page(1_000_000, 999_990), false),
            (read(0, 5, 10, true), page(1_000_000, 0), true),
            (read(0, 5, 10, true), page(1_000_000, 999_990), false),
        ];
        for (at, (read, page, expected)) in cases.into_iter().enumerate() {
            assert_eq!(is_long(&read, &page), expected, "case {at}");
        }
    }
}
