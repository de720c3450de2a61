//! The home side of stored streams: the store decides, the home knows who is subscribed and passes everything on in the
//! order in which the store said it.

use std::sync::Arc;

use crate::hub::home::{Homes, Place, encodings_of};
use crate::hub::home_shards::spread;
use crate::hub::mail::{Mail, Origin, ReplyBody, SubscribeAsk, Subscribed};
use crate::hub::post::Post;
use crate::hub::publication::{Encodings, deliver_publication};
use crate::hub::registry::Registered;
use crate::hub::store::{OpenAsk, Owner, StoreAsk, StoreMail, StoredMessage};

impl Homes {
    /// A registered subscriber of its own mailbox: the store knows what it gets.
    pub(crate) fn open_mailbox(
        place: Place,
        ask: SubscribeAsk,
        owner: Owner,
        origin: Origin,
        post: &mut Post,
    ) {
        let granted =
            Subscribed { positioned: true, recoverable: true, data: ask.data, ..Subscribed::default() };
        post.ask_store(StoreAsk::Open(Box::new(OpenAsk {
            origin,
            channel: place.channel,
            owner,
            since: ask.recover,
            reject_unrecovered: ask.reject_unrecovered,
            granted,
        })));
    }

    /// What the store says about a stream homed here.
    pub(crate) fn stored(&mut self, mail: StoreMail, post: &mut Post) {
        match mail {
            StoreMail::Opened { origin, channel, result } => {
                let body = result.map_or_else(ReplyBody::Failed, ReplyBody::Subscribed);
                self.reply(origin, channel, body, post);
            }
            StoreMail::Stored(message) => self.deliver_message(&message, post),
            StoreMail::Page(page) => post.send(page.key.shard, Mail::Page(page)),
        }
    }

    fn deliver_message(&mut self, message: &StoredMessage, post: &mut Post) {
        let hash = self.hasher.of(message.channel.as_bytes());
        let delivery = |name: &Arc<str>, encodings: Encodings| {
            let epoch = (message.publication.offset == 1).then_some(&*message.epoch_text);
            let mut delivery = deliver_publication(name, hash, &message.publication, epoch, encodings);
            delivery.mailbox = Some((message.publication.offset, message.epoch));
            Arc::new(delivery)
        };
        match self.channels.get(hash) {
            Registered::Nothing => {}
            Registered::Single(shard, marks) => {
                let name: Arc<str> = Arc::from(&*message.channel);
                post.send(shard, Mail::Deliver(delivery(&name, encodings_of(marks))));
            }
            Registered::Record(channel) => {
                spread(&channel.shards, &delivery(&channel.name, channel.encodings), post);
            }
        }
    }
}
