//! What a session gets of its mailbox: with its subscription, and page by page behind it.

use std::sync::Arc;

use super::archive::Archive;
use super::office::{Office, Pending};
use super::send::tags_of;
use crate::base::tick::Now;
use crate::hub::api::Position;
use crate::hub::mail::Subscribed;
use crate::hub::store::{MailboxGrant, OpenAsk, Owner, Page, PageAsk, PageKind, StoreAsk, StoreMail};
use crate::hub::stream::{JsonCheck, Publication};
use crate::limits;
use crate::log::body::{Body, Message};
use crate::log::error::ReadError;
use crate::log::reader::StreamInfo;
use crate::log::record::Class;
use crate::log::request::{Append, epoch_text};
use crate::protocol::ErrorCode;

/// Messages as sessions get them.
pub(super) struct Messages {
    pub(super) publications: Vec<Arc<Publication>>,
    /// The same as the log has them.
    pub(super) stored: Vec<Message>,
    /// What follows comes live.
    pub(super) is_top: bool,
    /// Some are damaged and left out.
    damaged: bool,
}

/// Where a replay begins.
struct Start {
    after: u64,
    /// Nothing that the client may have missed is left out.
    recovered: bool,
}

impl<A: Archive> Office<A> {
    /// A subscriber of a mailbox.
    pub(super) fn open(&mut self, ask: OpenAsk, now: Now) {
        let info = self.archive.info(Class::Mailbox, &ask.owner.user, &ask.owner.device);
        let mut found = None;
        if let Some(info) = &info {
            let start = start_of(info, ask.since.as_ref());
            match self.messages(&ask.owner, start.after, now) {
                Ok(None) => return self.reads.put_off(StoreAsk::Open(Box::new(ask))),
                Ok(Some(messages)) => found = Some((info, start, Ok(messages))),
                Err(error) => found = Some((info, start, Err(error))),
            }
        }
        // While the log takes nothing, the next connect or acknowledgement introduces the device.
        if !self.has_backlog() && !ask.owner.device.is_empty() && info.as_ref().is_none_or(|info| !info.known)
        {
            self.introduce(&ask.owner, info.as_ref().map_or(0, |info| info.cursor), now);
        }
        let OpenAsk { origin, channel, owner, since, reject_unrecovered, granted } = ask;
        let granted = match found {
            Some((info, start, messages)) => grant(granted, info, &start, messages),
            None => {
                let seconds = u32::try_from(now.unix_seconds()).unwrap_or(u32::MAX);
                let epoch = self.archive.epoch_to_come(&owner.user, seconds);
                grant_nothing(granted, epoch, since.as_ref())
            }
        };
        let result = if granted.recovered || !reject_unrecovered {
            Ok(Box::new(granted))
        } else {
            Err(ErrorCode::UnrecoverablePosition)
        };
        self.tell_home(&channel.clone(), StoreMail::Opened { origin, channel, result });
    }

    /// From the first time a device is seen, messages wait for it.
    fn introduce(&mut self, owner: &Owner, through: u64, now: Now) {
        let (user, device) = (owner.user.to_string(), owner.device.to_string());
        self.append(Append::Introduce { user, device, through }, Pending::Nobody, now);
    }

    /// A session that catches up has room for the next page.
    pub(super) fn more(&mut self, ask: PageAsk, now: Now) {
        let PageAsk { key, channel, owner, after, epoch } = ask;
        let info = self.archive.info(Class::Mailbox, &owner.user, &owner.device);
        let Some(info) = info else {
            let page = Page { key, channel, publications: Vec::new(), after, epoch, kind: PageKind::Last };
            return self.tell_page(page);
        };
        let from = if info.state.epoch == epoch { after } else { info.cursor };
        let (publications, kind) = match self.messages(&owner, from, now) {
            Ok(None) => {
                let ask = PageAsk { key, channel, owner, after, epoch };
                return self.reads.put_off(StoreAsk::More(Box::new(ask)));
            }
            Ok(Some(read)) => (read.publications, if read.is_top { PageKind::Last } else { PageKind::More }),
            Err(_) => (Vec::new(), PageKind::Failed),
        };
        self.tell_page(Page { key, channel, publications, after, epoch: info.state.epoch, kind });
    }

    pub(super) fn tell_page(&mut self, page: Page) {
        let channel = page.channel.clone();
        self.tell_home(&channel, StoreMail::Page(Box::new(page)));
    }

    /// The messages behind `after`, up to a page of them and up to the last record that the office knows of. `None` if
    /// the way there takes more than is left of the turn.
    pub(super) fn messages(
        &mut self,
        owner: &Owner,
        after: u64,
        now: Now,
    ) -> Result<Option<Messages>, ReadError> {
        let limit = self.common.settings.mailbox.as_ref().map_or(1, |settings| settings.replay_page);
        let (stream, limit) = ((Class::Mailbox, &*owner.user), limit.max(1) as usize);
        let seconds = u32::try_from(now.unix_seconds()).unwrap_or(u32::MAX);
        let leaf = self.archive.page(stream, after, limit, seconds, &mut self.reads.budget)?;
        let Some(leaf) = leaf else { return Ok(None) };
        let (mut publications, mut bytes) = (Vec::with_capacity(leaf.messages.len()), 0_usize);
        let (mut is_top, mut messages) = (leaf.is_last, Vec::with_capacity(leaf.messages.len()));
        for stored in leaf.messages {
            if stored.sequence > self.processed {
                is_top = true;
                break;
            }
            let Body::Message(message) = stored.body else { continue };
            let publication = publication_of(stored.offset, &message);
            bytes += publication.memory_bytes();
            if bytes > self.page_bytes() && !publications.is_empty() {
                is_top = false;
                break;
            }
            messages.push(message);
            publications.push(Arc::new(publication));
        }
        Ok(Some(Messages { publications, stored: messages, is_top, damaged: leaf.damaged > 0 }))
    }

    /// A page must leave room in the queue of a client that reads slowly.
    fn page_bytes(&self) -> usize {
        (self.common.settings.client.queue_max_size / 4).min(limits::MAILBOX_PAGE_BYTES)
    }
}

/// Where a client goes on that says where it stopped. Who knows nothing gets what is not acknowledged.
fn start_of(info: &StreamInfo, since: Option<&Position>) -> Start {
    let floor = info.state.floor();
    let Some(since) = since.filter(|since| !is_nowhere(since)) else {
        return Start { after: info.cursor, recovered: true };
    };
    if is_of(since, info.state.epoch) && since.offset <= info.state.last_offset {
        Start { after: since.offset.max(floor), recovered: since.offset >= floor }
    } else {
        Start { after: info.cursor, recovered: false }
    }
}

/// True for the position of a client that was told none.
fn is_nowhere(since: &Position) -> bool {
    since.offset == 0 && since.epoch.is_empty()
}

/// An offset without an epoch is taken for one of this incarnation (client-protocol.md section 4).
fn is_of(since: &Position, epoch: u32) -> bool {
    since.epoch.is_empty() || since.epoch == epoch_text(epoch)
}

/// There is no mailbox yet, or not any more: the client is told the epoch that it will have. It takes no memory.
fn grant_nothing(granted: Subscribed, epoch: u32, since: Option<&Position>) -> Subscribed {
    let next = PageKind::Last;
    Subscribed {
        position: Position { offset: 0, epoch: epoch_text(epoch) },
        was_recovering: true,
        recovered: since.is_none_or(|since| since.offset == 0 && is_of(since, epoch)),
        mailbox: Some(MailboxGrant { sent: 0, acknowledged: 0, epoch, next }),
        ..granted
    }
}

/// What a subscriber gets of a mailbox that was read from `start` on.
fn grant(
    granted: Subscribed,
    info: &StreamInfo,
    start: &Start,
    read: Result<Messages, ReadError>,
) -> Subscribed {
    let epoch = info.state.epoch;
    // A client that is told that something is missing ignores the publications of the reply: then they follow it.
    let (publications, next, recovered) = match read {
        Ok(read) if start.recovered && !read.damaged => {
            (read.publications, if read.is_top { PageKind::Last } else { PageKind::More }, true)
        }
        Ok(read) if read.publications.is_empty() && read.is_top => (Vec::new(), PageKind::Last, false),
        Ok(_) => (Vec::new(), PageKind::More, false),
        Err(_) => (Vec::new(), PageKind::Failed, false),
    };
    let sent = publications.last().map_or(start.after, |last| last.offset);
    Subscribed {
        position: Position { offset: sent, epoch: epoch_text(epoch) },
        was_recovering: true,
        recovered,
        publications,
        mailbox: Some(MailboxGrant { sent, acknowledged: info.cursor, epoch, next }),
        ..granted
    }
}

/// A message of a mailbox as a publication of its channel.
fn publication_of(offset: u64, message: &Message) -> Publication {
    let tags = tags_of(message);
    Publication {
        offset,
        version: 0,
        data: message.data.clone(),
        publisher: None,
        tags,
        json: JsonCheck::default(),
    }
}
