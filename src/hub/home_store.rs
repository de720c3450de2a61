//! The home side of stored streams: the store decides, the home knows who is subscribed and passes everything on in the
//! order in which the store said it.

use crate::hub::home::{Homes, Place};
use crate::hub::mail::{Delivery, Mail, Origin, ReplyBody, SubscribeAsk, Subscribed};
use crate::hub::post::Post;
use crate::hub::publication::deliver_stored;
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
            StoreMail::History(mail) => self.history_mail(*mail, post),
        }
    }

    fn deliver_message(&mut self, message: &StoredMessage, post: &mut Post) {
        let publication = &message.publication;
        let epoch = (publication.offset == 1).then_some(&*message.epoch_text);
        let hash = self.hasher.of(message.channel.as_bytes());
        self.deliver_made(&message.channel, hash, post, |name, hash, encodings| {
            let delivery = deliver_stored(name, hash, publication, epoch, encodings);
            // By default terms: a message that was left out for a slow reader would be acknowledged by its next pong.
            Delivery { mailbox: Some((publication.offset, message.epoch)), ..delivery }
        });
    }
}
