//! Acknowledgements of sessions. Those of pongs are gathered, so that a reader costs one record in a tick at most; those
//! of commands go to the log at once and are answered from there.

use super::archive::Archive;
use super::office::{Office, Pending};
use crate::base::tick::{Now, Tick};
use crate::hub::api::ApiError;
use crate::hub::mail::{ReplyBody, Ticket};
use crate::hub::store::{AckAsk, Owner};
use crate::limits;
use crate::log::record::Class;
use crate::log::request::{Append, Appended};
use crate::protocol::ErrorCode;

/// An acknowledgement that the log did not take.
#[derive(Debug)]
pub(super) struct LostAck {
    pub(super) owner: Owner,
    pub(super) through: u64,
    /// The command that waits for it.
    pub(super) ticket: Option<Ticket>,
}

/// An acknowledgement that the log has not been asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct LateAck {
    through: u64,
    pub(super) due: Tick,
}

impl<A: Archive> Office<A> {
    pub(super) fn acknowledge(&mut self, ask: AckAsk, now: Now) {
        let AckAsk { owner, through, epoch, ticket } = ask;
        let info = self.archive.info(Class::Mailbox, &owner.user, &owner.device);
        let through = info
            .filter(|info| epoch.is_none_or(|epoch| epoch == info.state.epoch))
            .filter(|info| through > info.cursor)
            .map(|info| through.min(info.state.last_offset));
        let Some(through) = through else {
            // It is so already, or there is nothing (any more) that it could be about.
            if let Some(ticket) = ticket {
                self.reply(ticket, ReplyBody::Acknowledged(ask.through));
            }
            return;
        };
        if ticket.is_some() {
            return self.append_ack(owner, through, ticket, now);
        }
        self.gather_ack(owner, through, now.tick.after(1));
    }

    fn gather_ack(&mut self, owner: Owner, through: u64, due: Tick) {
        let late = self.late_acks.entry(owner).or_insert(LateAck { through, due });
        late.through = late.through.max(through);
        self.acks_due = Some(self.acks_due.map_or(due, |first| first.min(due)));
    }

    /// The gathered acknowledgements that are due go to the log, unless others wait for room there.
    pub(super) fn flush_acks(&mut self, now: Now) {
        if self.has_backlog() || self.acks_due.is_none_or(|due| due > now.tick) {
            return;
        }
        let due: Vec<_> = self.late_acks.extract_if(|_, late| late.due <= now.tick).collect();
        self.acks_due = self.late_acks.values().map(|late| late.due).min();
        for (owner, late) in due {
            self.append_ack(owner, late.through, None, now);
        }
        if self.late_acks.is_empty() {
            self.late_acks.shrink_to(limits::KEPT_ACKS);
        }
    }

    fn append_ack(&mut self, owner: Owner, through: u64, ticket: Option<Ticket>, now: Now) {
        let append = Append::Acknowledge {
            class: Class::Mailbox,
            name: owner.user.to_string(),
            device: owner.device.to_string(),
            through,
        };
        self.append(append, Pending::Acknowledge(Box::new(owner), through, ticket), now);
    }

    /// The log has an acknowledgement.
    pub(super) fn ack_stored(&mut self, owner: &Owner, appended: Appended, ticket: Option<Ticket>) {
        self.figures.acknowledged += 1;
        if self.redeliveries.get_mut(owner).is_some_and(|of| of.acknowledge(appended.offset)) {
            self.redeliveries.remove(owner);
        }
        if let Some(ticket) = ticket {
            self.reply(ticket, ReplyBody::Acknowledged(appended.offset));
        }
    }

    /// The log does not have it. A command may be given again; what a pong said is tried again until something newer
    /// comes, or the process ends: then the messages come again. What can never be stored (a device too many) is not
    /// tried again.
    pub(super) fn ack_failed(&mut self, acknowledge: LostAck, error: ApiError, now: Now) {
        let LostAck { owner, through, ticket } = acknowledge;
        self.figures.ack_failures += 1;
        let is_final = matches!(error, ApiError::TooManyDevices | ApiError::TooLarge);
        if let Some(ticket) = ticket {
            let error = if is_final { ErrorCode::BadRequest } else { ErrorCode::Internal };
            return self.reply(ticket, ReplyBody::Failed(error));
        }
        if is_final || self.is_ending {
            self.burials.acknowledged(&owner, through);
            return;
        }
        self.gather_ack(owner, through, now.tick.after(limits::UNREADABLE_TICKS));
    }
}
