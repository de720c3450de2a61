//! Reads and removals of a history that a home keeps in memory.

use crate::base::tick::Now;
use crate::hub::home::{HomeChannel, Homes, Place, position, stream_of};
use crate::hub::mail::ReplyBody;
use crate::hub::registry::Registered;
use crate::hub::stream::{HistoryFault, HistoryQuery, Retention};
use crate::protocol::ErrorCode;

impl Homes {
    pub(crate) fn history(&mut self, place: &Place, query: &HistoryQuery<'_>, now: Now) -> ReplyBody {
        let options = &self.common.settings.channel.options[place.namespace as usize];
        let retention = Retention::of(options);
        let epoch = self.epochs.current(place.hash);
        let mut none = None;
        let stream = stream_of(&mut self.channels, place.hash, &mut none, epoch, &retention, now);
        let access = stream.access(&retention, now.tick, || self.epochs.retire_and_renew(place.hash));
        match access.read(query) {
            Ok(page) => ReplyBody::History(page.publications.cloned().collect(), position(page.top)),
            Err(HistoryFault::BadRequest) => ReplyBody::Failed(ErrorCode::BadRequest),
            Err(HistoryFault::UnrecoverablePosition) => ReplyBody::Failed(ErrorCode::UnrecoverablePosition),
        }
    }

    pub(crate) fn history_remove(&mut self, place: &Place, now: Now) {
        let options = &self.common.settings.channel.options[place.namespace as usize];
        let retention = Retention::of(options);
        if let Registered::Record(HomeChannel { stream: Some(stream), .. }) = self.channels.get(place.hash) {
            stream.access(&retention, now.tick, || self.epochs.retire_and_renew(place.hash)).remove();
        }
    }
}
