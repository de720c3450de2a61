//! What subscribers and readers of a durable history get.

use std::sync::Arc;

use super::{PendingHistory, Request};
use crate::base::tick::Now;
use crate::hub::api::{ApiError, Position};
use crate::hub::mail::{HomeAsk, HomeOp, Origin, SubscribeAsk, Subscribed};
use crate::hub::store::HistoryAnswer;
use crate::hub::stream::{Publication, Publisher};
use crate::limits;
use crate::log::body::{self, Body, Version};
use crate::log::error::ReadError;
use crate::log::history::{HistoryPage, HistoryRead};
use crate::log::reader::Stored;
use crate::log::request::{Append, epoch_text};
use crate::store::archive::Archive;
use crate::store::office::{Office, Pending};

/// A read of a client or of the server API.
struct Query<'a> {
    limit: i32,
    cap: u32,
    since: Option<&'a Position>,
    reverse: bool,
    bytes: usize,
}

impl<A: Archive> Office<A> {
    /// A subscriber or a reader.
    pub(super) fn read(&mut self, ask: HomeAsk, now: Now) {
        let answer = match self.page(&ask.channel, now) {
            Ok(Some(page)) => self.answer_of(&ask, &page, now),
            Ok(None) => return self.begin(ask, now),
            Err(error) => Err(error),
        };
        self.tell_history(ask.channel, ask.origin, answer.unwrap_or_else(HistoryAnswer::Failed));
    }

    /// Where a history stands.
    pub(super) fn page(&mut self, channel: &str, now: Now) -> Result<Option<HistoryPage>, ApiError> {
        let read = HistoryRead { limit: 0, ..self.everything(channel, now) };
        self.archive.history(&read, None).map_err(unavailable)
    }

    /// A page of a history whose top is known.
    fn look(&mut self, read: &HistoryRead<'_>, top: u64) -> Result<HistoryPage, ApiError> {
        let way = if read.newest_first { top.saturating_sub(read.before) } else { top - read.after.min(top) };
        let result = if way < limits::LONG_HISTORY {
            self.archive.history(read, None)
        } else {
            let mut trail = self.histories.trails.take(read.channel);
            let result = self.archive.history(read, Some(&mut trail));
            self.histories.trails.put(read.channel, trail);
            result
        };
        Ok(result.map_err(unavailable)?.unwrap_or_default())
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

    fn answer_of(&mut self, ask: &HomeAsk, page: &HistoryPage, now: Now) -> Result<HistoryAnswer, ApiError> {
        match &ask.op {
            HomeOp::Subscribe(subscribe) => {
                let granted = self.grant_history(ask, subscribe, page, now)?;
                Ok(HistoryAnswer::Opened(Box::new(granted)))
            }
            HomeOp::History { limit, cap, since, reverse } => {
                let bytes = match ask.origin {
                    Origin::Api(_) => limits::HISTORY_PAGE_BYTES,
                    _ => self.reply_bytes(),
                };
                let query =
                    Query { limit: *limit, cap: *cap, since: since.as_ref(), reverse: *reverse, bytes };
                self.read_page(ask, &query, page, now)
            }
            _ => Err(ApiError::Internal),
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
            position: Position { offset: page.top, epoch: epoch_text(page.epoch) },
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
        let everything = self.everything(&ask.channel, now);
        let read =
            HistoryRead { after: asked.offset, limit: missed, bytes: self.reply_bytes(), ..everything };
        let found = self.look(&read, page.top)?;
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
        let found = self.look(&read, page.top)?;
        Ok((!found.publications.is_empty()).then(|| publications(found)))
    }

    fn read_page(
        &mut self,
        ask: &HomeAsk,
        query: &Query<'_>,
        page: &HistoryPage,
        now: Now,
    ) -> Result<HistoryAnswer, ApiError> {
        if let Some(since) = query.since {
            if query.reverse && since.offset == 0 {
                return Err(ApiError::BadRequest);
            }
            if !since.epoch.is_empty() && since.epoch != epoch_text(page.epoch) {
                return Err(ApiError::UnrecoverablePosition);
            }
        }
        let position = Position { offset: page.top, epoch: epoch_text(page.epoch) };
        let allowed = if query.cap == 0 { usize::MAX } else { query.cap as usize };
        let limit = usize::try_from(query.limit).unwrap_or(usize::MAX).min(allowed);
        let since = query.since.map(|since| since.offset);
        let read = HistoryRead {
            after: if query.reverse { 0 } else { since.unwrap_or(0) },
            before: if query.reverse { since.unwrap_or(u64::MAX) } else { u64::MAX },
            limit,
            bytes: query.bytes,
            newest_first: query.reverse,
            ..self.everything(&ask.channel, now)
        };
        let found = if limit == 0 { HistoryPage::default() } else { self.look(&read, page.top)? };
        Ok(HistoryAnswer::Page(publications(found), position))
    }
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
    })
}
