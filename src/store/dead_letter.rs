//! Messages that were sent often enough: put aside into the dead-letter channel, and the cursor moves past them.
//!
//! Where the channel has a durable history, the cursor waits until the log has the letters: whatever happens in between,
//! a message is in its mailbox or in that history, or in both. A letter that the log refuses leaves its message where it
//! is; the session's next timer, whose pauses grow, tries again. Elsewhere the letters reach who is subscribed now.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;
use slab::Slab;

use super::archive::Archive;
use super::office::{Office, Pending};
use crate::base::tick::Now;
use crate::hub::api::ApiPublish;
use crate::hub::channel_name::parse;
use crate::hub::mail::{HomeAsk, HomeOp, LetterKey, Mail, Origin, PublishAsk};
use crate::hub::store::Owner;
use crate::log::body::Message;
use crate::log::record::Class;
use crate::log::request::{Append, epoch_text};

/// Letters of one reader that a durable history does not have yet. A reader has one at most.
#[derive(Debug)]
pub(super) struct Burial {
    owner: Owner,
    /// Incarnation of the mailbox.
    epoch: u32,
    /// The last message.
    through: u64,
    /// Letters without an answer.
    missing: usize,
    /// The first message whose letter was refused.
    refused: Option<u64>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Burials {
    under_way: Slab<Burial>,
    /// Every letter has its answer.
    done: Vec<Burial>,
    /// The readers of all these, until the log has the cursor that goes past their last message.
    readers: HashMap<Owner, Buried>,
}

/// How far a reader is with its letters.
#[derive(Clone, Copy, Debug)]
struct Buried {
    /// The last message.
    through: u64,
    /// The log has the letters, and was given the cursor.
    moves: bool,
}

impl Burials {
    /// The last message of a reader whose letter is on its way.
    pub(super) fn through(&self, owner: &Owner) -> Option<u64> {
        self.readers.get(owner).map(|buried| buried.through)
    }

    /// The log has an acknowledgement of a reader, or never will.
    pub(super) fn acknowledged(&mut self, owner: &Owner, through: u64) {
        if self.readers.get(owner).is_some_and(|buried| buried.moves && buried.through <= through) {
            self.readers.remove(owner);
        }
    }

    fn begin(&mut self, burial: Burial) -> usize {
        let buried = Buried { through: burial.through, moves: false };
        self.readers.insert(burial.owner.clone(), buried);
        self.under_way.insert(burial)
    }

    /// A letter has its answer.
    fn answered(&mut self, letter: LetterKey, is_stored: bool) {
        let Some(burial) = self.under_way.get_mut(letter.burial) else { return };
        burial.missing = burial.missing.saturating_sub(1);
        if !is_stored {
            burial.refused = Some(burial.refused.map_or(letter.offset, |first| first.min(letter.offset)));
        }
        if burial.missing == 0 {
            self.done.push(self.under_way.remove(letter.burial));
        }
    }
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
    /// Bytes of the data, where that is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<usize>,
    tags: std::collections::BTreeMap<&'a str, &'a str>,
    sent_at: u64,
}

impl<A: Archive> Office<A> {
    /// Puts messages of an incarnation of a mailbox aside, in order. Returns up to where the reader's messages are done
    /// with already.
    pub(super) fn put_aside(
        &mut self,
        owner: &Owner,
        epoch: u32,
        dead: &[(u64, &Message)],
        now: Now,
    ) -> Option<u64> {
        let (through, _) = *dead.last()?;
        let settings = &self.common.settings;
        let channel = settings.mailbox.as_ref().map_or("", |of| of.dead_letter_channel.as_str()).to_owned();
        let parsed = parse(&settings.channel, &channel);
        let waits = parsed.as_ref().is_ok_and(|of| of.options.history_durable && of.options.has_history());
        let Ok(namespace) = parsed.map(|of| of.namespace_index) else {
            self.figures.dead_lettered += dead.len() as u64;
            self.move_past(owner, through, now);
            return Some(through);
        };
        let burial = waits.then(|| {
            let owner = owner.clone();
            let missing = dead.len();
            self.burials.begin(Burial { owner, epoch, through, missing, refused: None })
        });
        let text = epoch_text(epoch);
        for &(offset, message) in dead {
            let data = self.dead_letter(owner, message, offset, &text);
            let ask = HomeAsk {
                channel: channel.as_str().into(),
                hash: self.hasher.of(channel.as_bytes()),
                namespace,
                origin: burial.map_or(Origin::Nobody, |burial| Origin::Letter(LetterKey { burial, offset })),
                op: HomeOp::Publish(Box::new(PublishAsk {
                    publish: ApiPublish { channel: channel.clone(), data, ..ApiPublish::default() },
                    info: None,
                })),
            };
            if waits {
                // The order of a stored stream is made here.
                self.history(ask, now);
            } else {
                let home = self.common.home_of_channel(&self.hasher, &channel);
                self.letters.send(home, Mail::Home(Box::new(ask)));
                self.figures.dead_lettered += 1;
            }
        }
        if waits {
            return None;
        }
        self.move_past(owner, through, now);
        Some(through)
    }

    /// The log has a letter, or does not and never will.
    pub(super) fn letter_done(&mut self, letter: LetterKey, is_stored: bool) {
        if is_stored {
            self.figures.dead_lettered += 1;
        } else {
            self.figures.dead_letter_failures += 1;
        }
        self.burials.answered(letter, is_stored);
    }

    /// Moves cursors past messages of which the log has the letters.
    pub(super) fn end_burials(&mut self, now: Now) {
        for burial in std::mem::take(&mut self.burials.done) {
            let Burial { owner, epoch, through, refused, .. } = burial;
            let through = refused.map_or(through, |first| first.saturating_sub(1));
            let info = self.archive.info(Class::Mailbox, &owner.user, &owner.device);
            if info.is_some_and(|info| info.state.epoch == epoch && info.cursor < through) {
                self.burials.readers.insert(owner.clone(), Buried { through, moves: true });
                self.move_past(&owner, through, now);
            } else {
                self.burials.readers.remove(&owner);
            }
        }
    }

    /// Moves the cursor of a reader past messages that were put aside.
    fn move_past(&mut self, owner: &Owner, through: u64, now: Now) {
        if self.redeliveries.get_mut(owner).is_some_and(|of| of.acknowledge(through)) {
            self.redeliveries.remove(owner);
        }
        let append = Append::Acknowledge {
            class: Class::Mailbox,
            name: owner.user.to_string(),
            device: owner.device.to_string(),
            through,
        };
        self.append(append, Pending::Acknowledge(Box::new(owner.clone()), through, None), now);
    }

    /// What is told of a message: everything, or as much as the channel takes.
    fn dead_letter(&mut self, owner: &Owner, message: &Message, offset: u64, epoch: &str) -> bytes::Bytes {
        let most = self.common.settings.mailbox.as_ref().map_or(usize::MAX, |of| of.letter_bytes);
        let json = serde_json::from_slice::<&RawValue>(&message.data).ok();
        let mut letter = DeadLetter {
            user: &owner.user,
            device: &owner.device,
            offset,
            epoch,
            id: message.plain_id(),
            reason: "max_deliveries",
            data: json,
            b64data: json.is_none().then(|| STANDARD.encode(&message.data)),
            size: None,
            tags: message.tags.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
            sent_at: message.sent_at_ms,
        };
        let encoded = encode(&letter);
        if encoded.len() <= most {
            return encoded.into();
        }
        self.figures.dead_letters_cut += 1;
        letter = DeadLetter { data: None, b64data: None, size: Some(message.data.len()), ..letter };
        let encoded = encode(&letter);
        if encoded.len() <= most {
            return encoded.into();
        }
        letter.tags.clear();
        encode(&letter).into()
    }
}

/// Text and numbers only: nothing can go wrong.
fn encode(letter: &DeadLetter<'_>) -> Vec<u8> {
    serde_json::to_vec(letter).unwrap_or_default()
}
