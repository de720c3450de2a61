//! Durable history: the office numbers, keeps and hands out the publications of channels with `history_durable`.
//!
//! A publication goes to the log, and when that has it to the home of its channel, which delivers it and answers the
//! publisher. What a subscriber or reader gets ends at the last acknowledgement that the office has handled, so nothing
//! is delivered twice or left out between a recovery and what comes live behind it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use self::channels::{Channels, Verdict};
use self::trails::Trails;
use super::archive::Archive;
use super::office::{Office, Pending};
use crate::base::tick::Now;
use crate::hub::api::{ApiError, ApiPublish, Position};
use crate::hub::idempotency::Idempotency;
use crate::hub::mail::{HomeAsk, HomeOp, Origin, PublishAsk};
use crate::hub::publication::{publisher, unnumbered};
use crate::hub::settings::ChannelOptions;
use crate::hub::store::{HistoryAnswer, HistoryMail, StoreMail};
use crate::hub::stream::{JsonCheck, Publication, Publisher};
use crate::limits;
use crate::log::body;
use crate::log::body::{Body, Version};
use crate::log::error::ReadError;
use crate::log::record::Class;
use crate::log::request::{Append, Appended, epoch_text};

mod channels;
mod read;
mod trails;

/// The part of the office that durable histories have.
#[derive(Debug)]
pub(super) struct Histories {
    channels: Channels,
    /// Publications on their way by channel and idempotency key: who else waits for the result.
    keys: HashMap<(Box<str>, Box<str>), Vec<Origin>>,
    /// Where publications stand, by channel and idempotency key; `None` where they are not kept.
    idempotency: Idempotency<Option<(u64, u32)>>,
    trails: Trails,
}

/// A request about a history that the log has not acknowledged.
#[derive(Debug)]
pub(super) struct PendingHistory {
    channel: Box<str>,
    request: Request,
}

#[derive(Debug)]
enum Request {
    Publish(PendingPublication),
    /// The stream is to exist.
    Begin,
    Remove(Origin),
}

#[derive(Debug)]
struct PendingPublication {
    origin: Origin,
    /// Idempotency key, empty for none.
    key: Box<str>,
    data: Bytes,
    publisher: Option<Publisher>,
    tags: Box<[(String, String)]>,
    version: Option<Version>,
}

impl Histories {
    pub(super) fn new(secret: [u8; 16]) -> Self {
        Self {
            channels: Channels::default(),
            keys: HashMap::new(),
            idempotency: Idempotency::new(secret, limits::IDEMPOTENT_RESULTS),
            trails: Trails::default(),
        }
    }

    /// Drops at most `budget` expired results.
    pub(super) fn sweep(&mut self, now: Now, budget: usize) {
        self.idempotency.sweep(now.tick, budget);
    }
}

impl<A: Archive> Office<A> {
    /// What a home passes on.
    pub(super) fn history(&mut self, ask: HomeAsk, now: Now) {
        match &ask.op {
            HomeOp::Publish(publish) if publish.publish.skip_history => self.pass_on(ask, now),
            HomeOp::Publish(_) => self.publish(ask, now),
            HomeOp::HistoryRemove => self.depend(ask, now),
            HomeOp::Subscribe(_) | HomeOp::History { .. } => self.read(ask, now),
            // Homes know the rest themselves.
            _ => self.tell_history(ask.channel, ask.origin, HistoryAnswer::Failed(ApiError::Internal)),
        }
    }

    /// The log has a request about a history, or does not and never will.
    pub(super) fn history_done(
        &mut self,
        pending: PendingHistory,
        result: Result<Appended, ApiError>,
        now: Now,
    ) {
        let PendingHistory { channel, request } = pending;
        let begins = matches!(request, Request::Begin);
        let version = match &request {
            Request::Publish(publication) => publication.version.clone(),
            Request::Begin | Request::Remove(_) => None,
        };
        if let Some(known) = self.histories.channels.get(&channel) {
            known.arrives(version, result.ok().map(|appended| appended.offset));
        }
        match request {
            Request::Publish(publication) => self.published(&channel, publication, result, now),
            Request::Begin => {}
            Request::Remove(origin) => {
                let answer = result.map_or_else(HistoryAnswer::Failed, |_| HistoryAnswer::Removed);
                self.tell_history(channel.clone(), origin, answer);
            }
        }
        self.release_held(&channel, now);
        self.release_opening(&channel, result.err().filter(|_| begins), now);
    }

    /// A publication that is not kept: it has no number and waits for nothing.
    fn pass_on(&mut self, ask: HomeAsk, now: Now) {
        let HomeAsk { channel, origin, op, .. } = ask;
        let HomeOp::Publish(publish) = op else { return };
        let PublishAsk { mut publish, info } = *publish;
        let idempotency_key = std::mem::take(&mut publish.idempotency_key);
        let under_way = (channel, Box::from(idempotency_key.as_str()));
        if let Some(others) = self.histories.keys.get_mut(&under_way).filter(|_| !idempotency_key.is_empty())
        {
            return others.push(origin);
        }
        let (channel, _) = under_way;
        let known = self.known_result(&channel, &idempotency_key, now);
        let publication = known.is_none().then(|| Arc::new(unnumbered(publish, info.as_ref())));
        let position = known.unwrap_or_else(|| {
            if !idempotency_key.is_empty() {
                self.histories.idempotency.record(&channel, &idempotency_key, None, now.tick);
            }
            None
        });
        let position = position.map(position_of);
        self.tell_history(channel, origin, HistoryAnswer::Published { publication, position });
    }

    fn publish(&mut self, ask: HomeAsk, now: Now) {
        let HomeOp::Publish(publish) = &ask.op else { return };
        let key = publish.publish.idempotency_key.as_str();
        if let Some(known) = self.known_result(&ask.channel, key, now) {
            let position = known.map(position_of);
            let answer = HistoryAnswer::Published { publication: None, position };
            return self.tell_history(ask.channel, ask.origin, answer);
        }
        if self.is_overloaded() {
            let answer = HistoryAnswer::Failed(ApiError::Overloaded);
            return self.tell_history(ask.channel, ask.origin, answer);
        }
        if !key.is_empty() {
            let key = (ask.channel.clone(), Box::from(key));
            if let Some(others) = self.histories.keys.get_mut(&key) {
                return others.push(ask.origin);
            }
            self.histories.keys.insert(key, Vec::new());
        }
        self.depend(ask, now);
    }

    fn known_result(&self, channel: &str, key: &str, now: Now) -> Option<Option<(u64, u32)>> {
        if key.is_empty() { None } else { self.histories.idempotency.find(channel, key, now.tick) }
    }

    /// A publication or removal goes to the log, or waits in the queue of its channel.
    fn depend(&mut self, ask: HomeAsk, now: Now) {
        let known = self.histories.channels.get(&ask.channel).map(|known| known.is_busy());
        // A stream that was silent for long is forgotten, and its version with it.
        let is_forgotten = || self.archive.info(Class::History, &ask.channel, "").is_none();
        if known.is_none_or(|busy| !busy && is_forgotten()) {
            match self.newest_version(&ask.channel) {
                Ok(version) => self.histories.channels.add(&ask.channel, version),
                Err(error) => return self.fail(ask, error),
            }
        }
        let Some(known) = self.histories.channels.get(&ask.channel) else { return };
        if !known.held.is_empty() {
            return known.held.push_back(ask);
        }
        if let Some(ask) = self.decide(ask, now)
            && let Some(known) = self.histories.channels.get(&ask.channel)
        {
            known.held.push_back(ask);
        }
    }

    /// Decides what becomes of a publication or removal. Gives it back if that depends on what is under way.
    fn decide(&mut self, ask: HomeAsk, now: Now) -> Option<HomeAsk> {
        let known = self.histories.channels.get(&ask.channel)?;
        let (number, epoch) = match &ask.op {
            HomeOp::Publish(publish) => (publish.publish.version, publish.publish.version_epoch.as_str()),
            _ => (0, ""),
        };
        match known.judge(number, epoch) {
            Verdict::Hold => return Some(ask),
            Verdict::Suppress => self.suppress(ask, now),
            Verdict::Append(version) => self.ask_log(ask, version, now),
        }
        None
    }

    fn suppress(&mut self, ask: HomeAsk, now: Now) {
        let HomeAsk { channel, origin, op, .. } = ask;
        let HomeOp::Publish(publish) = op else { return };
        let result = match self.page(&channel, now) {
            Ok(page) => Ok(page.map(|page| (page.top, page.epoch))),
            Err(_) => Err(ApiError::StorageUnavailable),
        };
        let key = publish.publish.idempotency_key.into();
        self.finish(&channel, origin, key, None, result, now);
    }

    fn ask_log(&mut self, ask: HomeAsk, version: Version, now: Now) {
        let HomeAsk { channel, namespace, origin, op, .. } = ask;
        let (append, request, version) = match op {
            HomeOp::Publish(publish) => {
                let options = self.common.settings.channel.options.get(usize::from(namespace));
                let (keep, expires_at) = options.map_or((0, 0), |options| retention(options, now));
                let (publication, pending) = split(&channel, *publish, origin, version, now);
                let version = pending.version.clone();
                let append = Append::Publication { publication, keep, expires_at };
                (append, Request::Publish(pending), version)
            }
            _ => {
                let append = Append::Position { channel: channel.to_string(), keep: 0, version };
                (append, Request::Remove(origin), None)
            }
        };
        self.departs(&channel, version.as_ref());
        let pending = PendingHistory { channel, request };
        self.append(append, Pending::History(Box::new(pending)), now);
    }

    /// Notes that something about a channel goes to the log.
    fn departs(&mut self, channel: &str, version: Option<&Version>) {
        let info = self.archive.info(Class::History, channel, "");
        if let Some(known) = self.histories.channels.get(channel) {
            known.departs(version, info.map_or(0, |info| info.state.last_offset));
        }
    }

    fn published(
        &mut self,
        channel: &str,
        pending: PendingPublication,
        result: Result<Appended, ApiError>,
        now: Now,
    ) {
        let PendingPublication { origin, key, data, publisher, tags, version } = pending;
        match result {
            Ok(_) => self.figures.published += 1,
            Err(_) => self.figures.publish_failures += 1,
        }
        let publication = result.ok().map(|appended| {
            let version = version.map_or(0, |version| version.number);
            Arc::new(Publication {
                offset: appended.offset,
                version,
                data,
                publisher,
                tags,
                json: JsonCheck::default(),
            })
        });
        let result = result.map(|appended| Some((appended.offset, appended.epoch)));
        self.finish(channel, origin, key, publication, result, now);
    }

    /// Answers a publisher, and those that published with the same key meanwhile.
    fn finish(
        &mut self,
        channel: &str,
        origin: Origin,
        key: Box<str>,
        publication: Option<Arc<Publication>>,
        result: Result<Option<(u64, u32)>, ApiError>,
        now: Now,
    ) {
        let others = if key.is_empty() {
            Vec::new()
        } else {
            if let Ok(result) = result {
                self.histories.idempotency.record(channel, &key, result, now.tick);
            }
            self.histories.keys.remove(&(channel.into(), key)).unwrap_or_default()
        };
        let answer = |publication| match result {
            Ok(result) => HistoryAnswer::Published { publication, position: result.map(position_of) },
            Err(error) => HistoryAnswer::Failed(error),
        };
        self.tell_history(channel.into(), origin, answer(publication));
        for other in others {
            self.tell_history(channel.into(), other, answer(None));
        }
    }

    /// What was held may go on now.
    fn release_held(&mut self, channel: &str, now: Now) {
        let Some(known) = self.histories.channels.get(channel) else { return };
        let mut held = std::mem::take(&mut known.held);
        while let Some(ask) = held.pop_front() {
            if let Some(ask) = self.decide(ask, now) {
                held.push_front(ask);
                break;
            }
        }
        self.put_back(channel, held);
    }

    fn put_back(&mut self, channel: &str, held: VecDeque<HomeAsk>) {
        if !held.is_empty()
            && let Some(known) = self.histories.channels.get(channel)
        {
            known.held = held;
        }
    }

    /// The newest version published in a channel, as the log has it.
    fn newest_version(&self, channel: &str) -> Result<Version, ApiError> {
        match self.archive.head(Class::History, channel) {
            Ok(Some(Body::Publication(publication))) => Ok(publication.version),
            Ok(Some(Body::Meta(meta) | Body::Stub(meta))) => Ok(meta.version),
            // What is damaged is reported by the log; nothing can be compared with it.
            Ok(_) | Err(ReadError::Damaged(_) | ReadError::Gone(_)) => Ok(Version::default()),
            Err(ReadError::Storage(_)) => Err(ApiError::StorageUnavailable),
        }
    }

    /// Refuses an ask that has not been decided.
    fn fail(&mut self, ask: HomeAsk, error: ApiError) {
        let HomeAsk { channel, origin, op, .. } = ask;
        let key = match op {
            HomeOp::Publish(publish) => publish.publish.idempotency_key.into(),
            _ => Box::default(),
        };
        let key = (channel, key);
        let others = self.histories.keys.remove(&key).unwrap_or_default();
        for origin in others.into_iter().chain([origin]) {
            self.tell_history(key.0.clone(), origin, HistoryAnswer::Failed(error));
        }
    }

    fn tell_history(&mut self, channel: Box<str>, origin: Origin, answer: HistoryAnswer) {
        if let Origin::Letter(letter) = origin {
            self.letter_done(letter, matches!(answer, HistoryAnswer::Published { .. }));
        }
        let name = channel.clone();
        self.tell_home(&name, StoreMail::History(Box::new(HistoryMail { channel, origin, answer })));
    }
}

/// A publication as the log keeps it, and what is needed of it once the log has it.
fn split(
    channel: &str,
    ask: PublishAsk,
    origin: Origin,
    version: Version,
    now: Now,
) -> (body::Publication, PendingPublication) {
    let PublishAsk { publish: ApiPublish { data, tags, version: own, idempotency_key, .. }, info } = ask;
    let is_versioned = own > 0;
    let publication = body::Publication {
        channel: channel.to_owned(),
        data: data.clone(),
        publisher: info.as_ref().map(|member| body::Publisher {
            user: member.user.clone(),
            client: member.client.clone(),
            conn_info: member.conn_info.clone(),
            chan_info: member.chan_info.clone(),
        }),
        tags: tags.clone(),
        version: version.clone(),
        is_versioned,
        published_at_ms: now.unix_ms,
    };
    let pending = PendingPublication {
        origin,
        key: idempotency_key.into(),
        data,
        publisher: info.as_ref().map(publisher),
        tags: tags.into(),
        version: is_versioned.then_some(version),
    };
    (publication, pending)
}

/// How many publications a channel keeps, and when one of now expires (seconds since 1970).
fn retention(options: &ChannelOptions, now: Now) -> (u32, u32) {
    let ttl = options.history_ttl.saturating_add(Duration::from_millis(999)).as_secs();
    let expires_at = u32::try_from(now.unix_seconds().saturating_add(ttl)).unwrap_or(u32::MAX);
    (options.history_size, expires_at)
}

fn position_of((offset, epoch): (u64, u32)) -> Position {
    Position { offset, epoch: epoch_text(epoch) }
}
