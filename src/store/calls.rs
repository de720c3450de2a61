//! What the server API asks about mailboxes.

use super::archive::Archive;
use super::office::{Office, Pending};
use crate::base::tick::Now;
use crate::hub::api::{ApiAnswer, ApiCommand, ApiError, MailboxView, Position, StoredMessage};
use crate::hub::mail::ApiAsk;
use crate::hub::store::StoreAsk;
use crate::limits;
use crate::log::body::Body;
use crate::log::error::ReadError;
use crate::log::reader::Stored;
use crate::log::record::Class;
use crate::log::request::{Append, epoch_text};

impl<A: Archive> Office<A> {
    pub(super) fn mailbox_info(&mut self, id: u64, user: &str, device: &str, now: Now) {
        let seconds = u32::try_from(now.unix_seconds()).unwrap_or(u32::MAX);
        let view = self.archive.info(Class::Mailbox, user, device).map(|info| {
            let messages = info.state.pending_at(seconds);
            MailboxView {
                position: Position { offset: info.state.last_offset, epoch: epoch_text(info.state.epoch) },
                cursor: info.cursor,
                messages,
                bytes: if messages == 0 { 0 } else { u64::from(info.state.bytes) },
                devices: u32::try_from(info.devices.len()).unwrap_or(u32::MAX),
            }
        });
        self.answer(id, ApiAnswer::MailboxInfo(view.unwrap_or_default()));
    }

    pub(super) fn mailbox_list(&mut self, id: u64, user: String, since: u64, limit: u32, now: Now) {
        let seconds = u32::try_from(now.unix_seconds()).unwrap_or(u32::MAX);
        let limit = limit.clamp(1, limits::MAILBOX_LISTED) as usize;
        let listed = match self.listed(&user, since, limit, seconds) {
            Ok(Some(listed)) => listed,
            Ok(None) => {
                let command = ApiCommand::MailboxList { user, since, limit: limit as u32 };
                return self.reads.put_off(StoreAsk::Api(Box::new(ApiAsk { id, command })));
            }
            Err(_) => return self.answer(id, ApiAnswer::Error(ApiError::StorageUnavailable)),
        };
        let mut bytes = 0_usize;
        let fits = |message: &StoredMessage| {
            bytes += message.data.len();
            bytes <= limits::MAILBOX_LISTED_BYTES || bytes == message.data.len()
        };
        let messages = listed.into_iter().filter_map(listed_message).take_while(fits).collect();
        let position = self
            .archive
            .info(Class::Mailbox, &user, "")
            .map(|info| Position { offset: info.state.last_offset, epoch: epoch_text(info.state.epoch) });
        self.answer(id, ApiAnswer::MailboxList { messages, position: position.unwrap_or_default() });
    }

    /// The first `limit` messages behind `since`. `None` if the way to the first page takes more than is left of the turn.
    fn listed(
        &mut self,
        user: &str,
        since: u64,
        limit: usize,
        now: u32,
    ) -> Result<Option<Vec<Stored>>, ReadError> {
        let stream = (Class::Mailbox, user);
        let (mut listed, mut after) = (Vec::new(), since);
        // Pages of the log are counted from the newest message, so the first one may be short.
        while listed.len() < limit {
            // Put off at a later page, the call would begin with the first one again, and might never come to its end:
            // of a damaged mailbox no way is remembered.
            let mut all = usize::MAX;
            let budget = if listed.is_empty() { &mut self.reads.budget } else { &mut all };
            let leaf = self.archive.page(stream, after, limit, now, budget);
            self.reads.charge(usize::MAX - all);
            let Some(leaf) = leaf? else { return Ok(None) };
            after = leaf.messages.last().map_or(after, |last| last.offset);
            let is_over = leaf.is_last || leaf.messages.is_empty();
            listed.extend(leaf.messages);
            if is_over {
                break;
            }
        }
        listed.truncate(limit);
        Ok(Some(listed))
    }

    pub(super) fn mailbox_ack(&mut self, id: u64, user: String, device: String, offset: u64, now: Now) {
        if user.is_empty() || device.len() > limits::DEVICE_BYTES {
            return self.answer(id, ApiAnswer::Error(ApiError::BadRequest));
        }
        let info = self.archive.info(Class::Mailbox, &user, &device);
        if info.is_none_or(|info| info.cursor >= offset) {
            return self.answer(id, ApiAnswer::Done);
        }
        let append = Append::Acknowledge { class: Class::Mailbox, name: user, device, through: offset };
        self.append(append, Pending::Api(id), now);
    }

    pub(super) fn mailbox_forget(&mut self, id: u64, user: String, device: String, now: Now) {
        if user.is_empty() || device.is_empty() || device.len() > limits::DEVICE_BYTES {
            return self.answer(id, ApiAnswer::Error(ApiError::BadRequest));
        }
        let info = self.archive.info(Class::Mailbox, &user, &device);
        if info.is_none_or(|info| !info.known) {
            return self.answer(id, ApiAnswer::Done);
        }
        self.append(Append::ForgetDevice { user, device }, Pending::Api(id), now);
    }

    pub(super) fn mailbox_purge(&mut self, id: u64, user: String, now: Now) {
        if self.archive.info(Class::Mailbox, &user, "").is_none() {
            return self.answer(id, ApiAnswer::Done);
        }
        self.append(Append::Purge { class: Class::Mailbox, name: user }, Pending::Api(id), now);
    }
}

fn listed_message(stored: Stored) -> Option<StoredMessage> {
    let Body::Message(message) = stored.body else { return None };
    Some(StoredMessage {
        offset: stored.offset,
        id: message.plain_id().to_owned(),
        data: message.data,
        tags: message.tags,
        sent_at_ms: message.sent_at_ms,
        expires_at: stored.expires_at,
    })
}
