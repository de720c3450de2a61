//! The home side of durable history: what is asked of such a channel goes on to the store as it is, and what the store
//! says comes back here, in the order of the stream. So a subscriber that is registered before its question leaves gets
//! every publication either in the answer or live behind it.

use std::sync::Arc;

use crate::hub::api::{ApiAnswer, ApiError};
use crate::hub::channel_name::parse;
use crate::hub::home::{Homes, Place, encodings_of};
use crate::hub::home_shards::spread;
use crate::hub::mail::{Answer, Delivery, HomeAsk, HomeOp, Mail, Origin, ReplyBody, Terms};
use crate::hub::post::Post;
use crate::hub::publication::{Encodings, deliver_stored};
use crate::hub::registry::Registered;
use crate::hub::shard::Common;
use crate::hub::store::{HistoryAnswer, HistoryMail, StoreAsk};
use crate::hub::stream::Publication;
use crate::protocol::ErrorCode;

impl Common {
    /// True for channels whose publications are on disk: they come again to whoever has not had them.
    pub(crate) fn is_on_disk(&self, channel: &str) -> bool {
        let parsed = parse(&self.settings.channel, channel);
        self.mailbox_user(channel).is_some()
            || parsed.is_ok_and(|of| of.options.history_durable && of.options.has_history())
    }
}

impl Homes {
    /// True for what only the store can answer. A mailbox has its own ways, and the channels that tell of a user have no
    /// history worth keeping.
    pub(crate) fn is_stored(&self, ask: &HomeAsk) -> bool {
        let options = self.common.settings.channel.options.get(usize::from(ask.namespace));
        let is_durable = options.is_some_and(|options| options.history_durable && options.has_history());
        let concerns_history = match &ask.op {
            HomeOp::Subscribe(ask) => ask.positioned && ask.mailbox.is_none(),
            HomeOp::Publish(_) | HomeOp::History { .. } | HomeOp::HistoryRemove => true,
            _ => false,
        };
        is_durable
            && concerns_history
            && self.common.mailbox_user(&ask.channel).is_none()
            && self.common.watched_user(&ask.channel).is_none()
    }

    /// Passes a question on to the store. A subscriber is registered first.
    pub(crate) fn pass_to_store(&mut self, ask: HomeAsk, post: &mut Post) {
        let HomeAsk { channel, hash, namespace, origin, op } = ask;
        let place = Place { channel, hash, namespace };
        if let HomeOp::Subscribe(subscribe) = &op {
            if subscribe.presence {
                self.announcements.returns(hash, subscribe.user_hash);
            }
            self.register(&place, subscribe);
        }
        let ask = HomeAsk { channel: place.channel, hash, namespace, origin, op };
        post.ask_store(StoreAsk::History(Box::new(ask)));
    }

    /// What the store says about a history homed here.
    pub(crate) fn history_mail(&mut self, mail: HistoryMail, post: &mut Post) {
        let HistoryMail { channel, origin, answer } = mail;
        let body = match answer {
            HistoryAnswer::Published { publication, position } => {
                if let Some(publication) = publication {
                    self.publications += 1;
                    let epoch = position.as_ref().map(|position| position.epoch.as_str());
                    self.deliver_stored(&channel, &publication, epoch, post);
                }
                if let Origin::Api(id) = origin {
                    let answer = ApiAnswer::Published(position);
                    return post.answer(Answer { id, shard: self.shard, answer });
                }
                ReplyBody::Published
            }
            HistoryAnswer::Opened(granted) => {
                self.recovered += u64::from(granted.was_recovering && granted.recovered);
                self.not_recovered += u64::from(granted.was_recovering && !granted.recovered);
                ReplyBody::Subscribed(granted)
            }
            HistoryAnswer::Page(publications, position) => ReplyBody::History(publications, position),
            HistoryAnswer::Removed => ReplyBody::Published,
            HistoryAnswer::Failed(error) => {
                if let Origin::Api(id) = origin {
                    let answer = ApiAnswer::Error(error);
                    return post.answer(Answer { id, shard: self.shard, answer });
                }
                ReplyBody::Failed(client_error(error))
            }
        };
        self.reply(origin, channel, body, post);
    }

    fn deliver_stored(
        &mut self,
        channel: &str,
        publication: &Publication,
        epoch: Option<&str>,
        post: &mut Post,
    ) {
        // The epoch is told only with the first publication of a stream.
        let epoch = epoch.filter(|_| publication.offset == 1);
        let hash = self.hasher.of(channel.as_bytes());
        let parsed = parse(&self.common.settings.channel, channel);
        let terms = parsed.map_or_else(|_| Terms::default(), |parsed| Terms::of(parsed.options));
        self.deliver_made(channel, hash, post, |name, hash, encodings| Delivery {
            terms,
            ..deliver_stored(name, hash, publication, epoch, encodings)
        });
    }

    /// Makes a delivery for whoever is subscribed, and sends it off.
    pub(crate) fn deliver_made(
        &mut self,
        channel: &str,
        hash: u64,
        post: &mut Post,
        make: impl FnOnce(&Arc<str>, u64, Encodings) -> Delivery,
    ) {
        match self.channels.get(hash) {
            Registered::Nothing => {}
            Registered::Single(shard, marks) => {
                let delivery = make(&Arc::from(channel), hash, encodings_of(marks));
                post.send(shard, Mail::Deliver(Arc::new(delivery)));
            }
            Registered::Record(record) => {
                let delivery = make(&record.name, hash, record.encodings);
                spread(&record.shards, &Arc::new(delivery), post);
            }
        }
    }
}

/// What a client is told where the server API is told more.
fn client_error(error: ApiError) -> ErrorCode {
    match error {
        ApiError::BadRequest | ApiError::TooLarge => ErrorCode::BadRequest,
        ApiError::UnrecoverablePosition => ErrorCode::UnrecoverablePosition,
        ApiError::Overloaded => ErrorCode::TooManyRequests,
        // Temporary: the client tries again.
        _ => ErrorCode::Internal,
    }
}
