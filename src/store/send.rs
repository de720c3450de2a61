//! `send`: one message for the mailbox of each user, answered once the log has all of them.

use std::sync::Arc;

use bytes::Bytes;

use super::archive::Archive;
use super::office::{Office, Pending};
use crate::base::tick::Now;
use crate::hub::api::{ApiAnswer, ApiError, ApiSend, Position};
use crate::hub::channel_name::{parse, personal};
use crate::hub::publication::fits_format;
use crate::hub::store::{SendRefusal, StoreMail, StoredMessage};
use crate::hub::stream::{JsonCheck, Publication};
use crate::limits;
use crate::log::body::Message;
use crate::log::request::{Append, Appended, epoch_text};

/// The tag that names a message, unless its sender has used it.
const ID_TAG: &str = "id";

/// A call in the table of calls, and one of its users.
pub(super) type Place = (usize, usize);

/// A call that has not been answered.
#[derive(Debug)]
pub(super) struct SendJob {
    id: u64,
    results: Vec<Result<Position, ApiError>>,
    missing: usize,
}

/// A message that the log has not acknowledged.
#[derive(Debug)]
pub(super) struct PendingMessage {
    /// Which call, and which of its users.
    job: Place,
    user: Box<str>,
    channel: Box<str>,
    /// Idempotency key, empty for none.
    key: Box<str>,
    data: Bytes,
    tags: Box<[(String, String)]>,
}

impl<A: Archive> Office<A> {
    pub(super) fn send(&mut self, id: u64, send: &ApiSend, now: Now) {
        if send.users.is_empty() {
            return self.answer(id, ApiAnswer::Error(ApiError::BadRequest));
        }
        if self.is_overloaded() {
            self.figures.refuse(SendRefusal::Overloaded, send.users.len() as u64);
            return self.answer(id, ApiAnswer::Error(ApiError::Overloaded));
        }
        let missing = send.users.len();
        let job = SendJob { id, results: vec![Err(ApiError::Internal); missing], missing };
        let job = self.sends.insert(job);
        let message_id = format!("{:016x}", self.rng.next_u64());
        for (index, user) in send.users.iter().enumerate() {
            self.send_one((job, index), user, send, &message_id, now);
        }
    }

    fn send_one(&mut self, job: Place, user: &str, send: &ApiSend, message_id: &str, now: Now) {
        let channel = match self.check_send(user, send) {
            Ok(channel) => channel,
            Err(error) => return self.finish_send(job, Err(error)),
        };
        let key: Box<str> = send.idempotency_key.as_str().into();
        if !key.is_empty() {
            if let Some((offset, epoch)) = self.idempotency.find(user, &key, now.tick) {
                return self.finish_send(job, Ok(Position { offset, epoch: epoch_text(epoch) }));
            }
            if let Some(others) = self.keys.get_mut(&(user.into(), key.clone())) {
                return others.push(job);
            }
            match self.sent_earlier(user, &key, now) {
                Ok(None) => {}
                Ok(Some((offset, epoch))) => {
                    return self.finish_send(job, Ok(Position { offset, epoch: epoch_text(epoch) }));
                }
                // It may be stored or not: whoever comes again is told then.
                Err(_) => return self.finish_send(job, Err(ApiError::StorageUnavailable)),
            }
            self.keys.insert((user.into(), key.clone()), Vec::new());
        }
        let message = Message {
            user: user.to_owned(),
            id: Message::marked_id(message_id, &key),
            data: send.data.clone(),
            tags: send.tags.clone(),
            sent_at_ms: now.unix_ms,
        };
        let tags = tags_of(&message);
        let pending = PendingMessage { job, user: user.into(), channel, key, data: send.data.clone(), tags };
        let expires_at = self.expires_at(send.ttl_seconds, now);
        self.append(Append::Message { message, expires_at }, Pending::Message(Box::new(pending)), now);
    }

    /// The channel of the user's mailbox, if a message like this may stand in it.
    fn check_send(&self, user: &str, send: &ApiSend) -> Result<Box<str>, ApiError> {
        let settings = &self.common.settings;
        let namespace = &settings.client.personal_channel.as_ref().ok_or(ApiError::NotAvailable)?.namespace;
        if user.is_empty() || user.len() > limits::USER_ID_BYTES {
            return Err(ApiError::UserName);
        }
        let channel = personal(&settings.channel, namespace, user);
        // Of a name with the marks of channel names in it, others would be the readers.
        if self.common.mailbox_user(&channel) != Some(user) {
            return Err(ApiError::UserName);
        }
        let parsed = parse(&settings.channel, &channel).map_err(|_| ApiError::UserName)?;
        let fits = fits_format(parsed.options.publication_data_format, &send.data);
        fits.then(|| channel.as_str().into()).ok_or(ApiError::DataFormat)
    }

    /// Seconds since 1970 from which on a message is not delivered any more, 0 = never.
    fn expires_at(&self, ttl_seconds: u32, now: Now) -> u32 {
        let default = self.common.settings.mailbox.as_ref().map_or(0, |settings| settings.ttl.as_secs());
        let ttl = if ttl_seconds == 0 { default } else { u64::from(ttl_seconds) };
        let at = u32::try_from(now.unix_seconds().saturating_add(ttl)).unwrap_or(u32::MAX);
        if ttl == 0 { 0 } else { at }
    }

    /// The log has a message: tell the sender and whoever is subscribed.
    pub(super) fn stored(&mut self, message: PendingMessage, appended: Appended, now: Now) {
        self.figures.sent += 1;
        let PendingMessage { job, user, channel, key, data, tags } = message;
        let Appended { offset, epoch, .. } = appended;
        let text = epoch_text(epoch);
        if !key.is_empty() {
            self.idempotency.record(&user, &key, (offset, epoch), now.tick);
        }
        self.finish_all(job, user, key, &Ok(Position { offset, epoch: text.clone() }));
        let publication =
            Publication { offset, version: 0, data, publisher: None, tags, json: JsonCheck::default() };
        let stored = StoredMessage {
            channel: channel.clone(),
            publication: Arc::new(publication),
            epoch,
            epoch_text: text.into(),
        };
        self.tell_home(&channel, StoreMail::Stored(Box::new(stored)));
    }

    /// The log does not have a message, and never will.
    pub(super) fn not_stored(&mut self, message: PendingMessage, error: ApiError) {
        let reason = match error {
            ApiError::MailboxFull => SendRefusal::MailboxFull,
            ApiError::TooLarge => SendRefusal::TooLarge,
            _ => SendRefusal::Storage,
        };
        self.figures.refuse(reason, 1);
        self.finish_all(message.job, message.user, message.key, &Err(error));
    }

    /// Finishes a send, and those that came with the same key meanwhile.
    fn finish_all(&mut self, job: Place, user: Box<str>, key: Box<str>, result: &Result<Position, ApiError>) {
        let others = if key.is_empty() { None } else { self.keys.remove(&(user, key)) };
        for job in others.into_iter().flatten().chain([job]) {
            self.finish_send(job, result.clone());
        }
    }

    fn finish_send(&mut self, (job, index): Place, result: Result<Position, ApiError>) {
        let Some(of) = self.sends.get_mut(job) else { return };
        if let Some(place) = of.results.get_mut(index) {
            *place = result;
        }
        of.missing -= 1;
        if of.missing == 0 {
            let SendJob { id, results, .. } = self.sends.remove(job);
            self.answer(id, ApiAnswer::Sent(results));
        }
    }
}

/// The tags of a message as its receivers see them.
pub(super) fn tags_of(message: &Message) -> Box<[(String, String)]> {
    let mut tags = message.tags.clone();
    if !tags.iter().any(|(name, _)| name == ID_TAG) {
        tags.push((ID_TAG.to_owned(), message.plain_id().to_owned()));
    }
    tags.into()
}
