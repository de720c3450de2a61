//! Recoveries, reads and removals of a history that a home keeps in memory.

use std::sync::Arc;

use crate::base::tick::Now;
use crate::hub::api::Position;
use crate::hub::home::{HomeChannel, Homes, Place, epoch_of, position, stream_of};
use crate::hub::mail::{ReplyBody, SubscribeAsk, Subscribed};
use crate::hub::registry::Registered;
use crate::hub::stream::{HistoryFault, HistoryQuery, Publication, RecoveryMode, Retention, Since};
use crate::protocol::ErrorCode;

impl Homes {
    /// Position and recovery for a new subscriber.
    pub(crate) fn grant(
        &mut self,
        place: &Place,
        ask: &SubscribeAsk,
        now: Now,
    ) -> Result<Subscribed, ErrorCode> {
        let mut granted = Subscribed {
            positioned: ask.positioned,
            recoverable: ask.recoverable,
            data: ask.data.clone(),
            ..Subscribed::default()
        };
        if !ask.positioned {
            return Ok(granted);
        }
        let options = &self.common.settings.channel.options[place.namespace as usize];
        let limit = self.common.settings.client.recovery_max_publication_limit;
        let mode = if options.recovery_mode_cache { RecoveryMode::Cache } else { RecoveryMode::Stream };
        let unasked = ask.recoverable && mode == RecoveryMode::Cache && options.auto_cache_recover;
        let asked = ask.recover.clone().or_else(|| unasked.then(Position::default));
        let retention = Retention::of(options);
        let epoch = epoch_of(&mut self.channels, &self.epochs, place.hash);
        let mut none = None;
        let stream = stream_of(&mut self.channels, place.hash, &mut none, epoch, &retention, now);
        let access = stream.access(&retention, now.tick, || self.epochs.retire_and_renew(place.hash));
        granted.position = position(access.position());
        let Some(asked) = asked else { return Ok(granted) };
        granted.was_recovering = true;
        let recovery = access.recover(Since { offset: asked.offset, epoch: &asked.epoch }, mode, limit);
        granted.recovered = recovery.recovered;
        granted.position.offset = recovery.offset;
        granted.publications = recovery.publications.cloned().collect();
        if granted.reply_bytes() > self.common.settings.client.reply_bytes() {
            granted.give_up_recovery();
        }
        if granted.recovered {
            self.recovered += 1;
        } else {
            self.not_recovered += 1;
        }
        if !granted.recovered && ask.reject_unrecovered {
            return Err(ErrorCode::UnrecoverablePosition);
        }
        Ok(granted)
    }

    /// A page of history of at most so many `bytes`, but at least one publication.
    pub(crate) fn history(
        &mut self,
        place: &Place,
        query: &HistoryQuery<'_>,
        bytes: usize,
        now: Now,
    ) -> ReplyBody {
        let options = &self.common.settings.channel.options[place.namespace as usize];
        let retention = Retention::of(options);
        let epoch = epoch_of(&mut self.channels, &self.epochs, place.hash);
        let mut none = None;
        let stream = stream_of(&mut self.channels, place.hash, &mut none, epoch, &retention, now);
        let access = stream.access(&retention, now.tick, || self.epochs.retire_and_renew(place.hash));
        match access.read(query) {
            Ok(page) => {
                let mut total = 0;
                let fits = |publication: &&Arc<Publication>| {
                    let is_first = total == 0;
                    total += publication.reply_bytes();
                    is_first || total <= bytes
                };
                let publications = page.publications.take_while(fits).cloned().collect();
                ReplyBody::History(publications, position(page.top))
            }
            Err(HistoryFault::BadRequest) => ReplyBody::Failed(ErrorCode::BadRequest),
            Err(HistoryFault::UnrecoverablePosition) => ReplyBody::Failed(ErrorCode::UnrecoverablePosition),
        }
    }

    pub(crate) fn history_remove(&mut self, place: &Place, now: Now) {
        let options = &self.common.settings.channel.options[place.namespace as usize];
        let retention = Retention::of(options);
        if let Registered::Record(HomeChannel { stream: Some(stream), shards, .. }) =
            self.channels.get(place.hash)
        {
            if !shards.is_empty() {
                stream.hold(&retention, now.tick);
            }
            stream.access(&retention, now.tick, || self.epochs.retire_and_renew(place.hash)).remove();
        }
    }
}
