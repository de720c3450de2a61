//! Messages that a live session does not acknowledge: sent again, and after `max_deliveries` put aside.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;

use super::archive::Archive;
use super::office::{Office, Pending};
use crate::base::tick::{Now, Tick};
use crate::hub::api::ApiPublish;
use crate::hub::channel_name::parse;
use crate::hub::mail::{HomeAsk, HomeOp, Mail, Origin, PublishAsk};
use crate::hub::shard::ticks_of;
use crate::hub::store::{Owner, Page, PageAsk, PageKind};
use crate::limits;
use crate::log::body::{Body, Message};
use crate::log::record::Class;
use crate::log::request::{Append, epoch_text};

/// How often the oldest message of a reader was sent to a live session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Redelivery {
    pub(super) offset: u64,
    deliveries: u32,
    at: Tick,
}

/// What the dead-letter channel gets.
#[derive(serde::Serialize)]
struct DeadLetter<'a> {
    user: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    device: &'a str,
    offset: u64,
    epoch: &'a str,
    id: &'a str,
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    b64data: Option<String>,
    tags: std::collections::BTreeMap<&'a str, &'a str>,
    sent_at: u64,
}

impl<A: Archive> Office<A> {
    /// `ack_wait` is over for a session.
    pub(super) fn redeliver(&mut self, ask: PageAsk, now: Now) {
        let PageAsk { key, channel, owner, after, epoch } = ask;
        let page = |publications, through| Page {
            key,
            channel,
            publications,
            after,
            epoch,
            kind: PageKind::Again { through },
        };
        let info = self.archive.info(Class::Mailbox, &owner.user, &owner.device);
        let info = info.filter(|info| info.state.epoch == epoch && info.cursor < after);
        let Some(info) = info else { return self.tell_page(page(Vec::new(), after)) };
        // What cannot be read now is asked for again by the session's next timer.
        let Ok(read) = self.messages(&owner, info.cursor, now) else { return };
        let mut publications = read.publications;
        publications.retain(|publication| publication.offset <= after);
        let Some(oldest) = publications.first().map(|publication| publication.offset) else {
            // It has expired, or made room for others.
            return self.tell_page(page(Vec::new(), after));
        };
        let mut through = oldest.saturating_sub(1);
        if self.is_exhausted(&owner, oldest, now) && self.put_aside(&owner, oldest, now) {
            publications.remove(0);
            through = oldest;
        }
        self.figures.redelivered += publications.len() as u64;
        self.tell_page(page(publications, through));
    }

    /// Counts one more delivery of a reader's oldest message. True if there were enough of them.
    fn is_exhausted(&mut self, owner: &Owner, offset: u64, now: Now) -> bool {
        let Some(settings) = &self.common.settings.mailbox else { return false };
        let (most, wait) = (settings.max_deliveries, ticks_of(settings.ack_wait));
        if most == 0 {
            return false;
        }
        if self.redeliveries.len() >= limits::REDELIVERED_READERS && !self.redeliveries.contains_key(owner) {
            let fresh = now.tick.0.saturating_sub(limits::REDELIVERY_MEMORY_TICKS);
            self.redeliveries.retain(|_, of| of.at.0 > fresh);
            if self.redeliveries.len() >= limits::REDELIVERED_READERS {
                return false;
            }
        }
        let first = Redelivery { offset, deliveries: 1, at: Tick(0) };
        let of = self.redeliveries.entry(owner.clone()).or_insert(first);
        if of.offset != offset {
            *of = first;
        }
        // Several sessions of one reader ask each for itself, and count as one.
        if of.at == Tick(0) || now.tick.since(of.at) >= wait / 2 {
            of.deliveries = of.deliveries.saturating_add(1);
            of.at = now.tick;
        }
        of.deliveries > most
    }

    /// A message goes to the dead-letter channel, and the cursor moves past it. False if that cannot be now: it is sent
    /// once more then, and put aside the next time.
    fn put_aside(&mut self, owner: &Owner, offset: u64, now: Now) -> bool {
        let seconds = u32::try_from(now.unix_seconds()).unwrap_or(u32::MAX);
        let leaf = self.archive.page(Class::Mailbox, &owner.user, offset - 1, 1, seconds);
        let stored = leaf.ok().and_then(|leaf| leaf.messages.into_iter().next());
        let Some(Body::Message(message)) = stored.map(|stored| stored.body) else { return false };
        if self.is_overloaded() {
            return false;
        }
        self.figures.dead_lettered += 1;
        self.redeliveries.remove(owner);
        let info = self.archive.info(Class::Mailbox, &owner.user, &owner.device);
        let epoch = info.map(|info| epoch_text(info.state.epoch)).unwrap_or_default();
        self.publish_dead_letter(owner, &message, offset, &epoch);
        let append = Append::Acknowledge {
            class: Class::Mailbox,
            name: owner.user.to_string(),
            device: owner.device.to_string(),
            through: offset,
        };
        self.append(append, Pending::Acknowledge(Box::new(owner.clone()), offset, None), now);
        true
    }

    fn publish_dead_letter(&mut self, owner: &Owner, message: &Message, offset: u64, epoch: &str) {
        let settings = &self.common.settings;
        let channel = settings.mailbox.as_ref().map_or("", |of| of.dead_letter_channel.as_str());
        let Ok(parsed) = parse(&settings.channel, channel) else { return };
        let namespace = parsed.namespace_index;
        let json = serde_json::from_slice::<&RawValue>(&message.data).ok();
        let letter = DeadLetter {
            user: &owner.user,
            device: &owner.device,
            offset,
            epoch,
            id: &message.id,
            reason: "max_deliveries",
            data: json,
            b64data: json.is_none().then(|| STANDARD.encode(&message.data)),
            tags: message.tags.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
            sent_at: message.sent_at_ms,
        };
        let data = serde_json::to_vec(&letter).unwrap_or_default().into();
        let publish = ApiPublish { channel: channel.to_owned(), data, ..ApiPublish::default() };
        let ask = HomeAsk {
            channel: channel.into(),
            hash: self.hasher.of(channel.as_bytes()),
            namespace,
            origin: Origin::Nobody,
            op: HomeOp::Publish(Box::new(PublishAsk { publish, info: None })),
        };
        let home = self.common.home_of_channel(&self.hasher, channel);
        self.letters.send(home, Mail::Home(Box::new(ask)));
    }
}
