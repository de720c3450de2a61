//! What a record says: rkyv archives, checked by bytecheck before they are believed, copied out when read.

use bytes::Bytes;
use rkyv::api::high::{HighSerializer, to_bytes_in};
use rkyv::rancor::Error as ArchiveError;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::{Archive, Deserialize, Serialize, from_bytes};
use siphasher::sip128::{Hasher128, SipHasher13};

use super::record::{Class, Kind};

/// A message in a user's mailbox.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Whose mailbox.
    pub user: String,
    /// Id of the message, the same in every delivery of it; and behind it what its sender's key became, if it had one:
    /// [`Message::marked_id`].
    pub id: String,
    /// Payload.
    pub data: Bytes,
    /// Tags in insertion order.
    pub tags: Vec<(String, String)>,
    /// Wall clock of the send in milliseconds since 1970.
    pub sent_at_ms: u64,
}

impl Message {
    /// Between an id and what a key became.
    const MARK: char = '/';

    /// An id, and behind it what becomes of an idempotency key: 128 bits in hexadecimal digits. By that a send that is
    /// repeated after a restart is known.
    #[must_use]
    pub fn marked_id(id: &str, key: &str) -> String {
        if key.is_empty() { id.to_owned() } else { format!("{id}{}{:032x}", Self::MARK, key_hash(key)) }
    }

    /// The id as receivers see it.
    #[must_use]
    pub fn plain_id(&self) -> &str {
        self.id.split(Self::MARK).next().unwrap_or_default()
    }

    /// What the idempotency key became with which the message was sent.
    #[must_use]
    pub fn key_hash(&self) -> Option<u128> {
        let (_, key) = self.id.split_once(Self::MARK)?;
        u128::from_str_radix(key, 16).ok()
    }
}

/// What an idempotency key becomes in a record. Its hash needs no secret: who chooses keys can repeat them anyway.
#[must_use]
pub fn key_hash(key: &str) -> u128 {
    let mut hasher = SipHasher13::new();
    std::hash::Hasher::write(&mut hasher, key.as_bytes());
    hasher.finish128().as_u128()
}

/// A publication of a channel with durable history.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Publication {
    /// The channel.
    pub channel: String,
    /// Payload.
    pub data: Bytes,
    /// Who published, for client-originated ones.
    pub publisher: Option<Publisher>,
    /// Tags in insertion order.
    pub tags: Vec<(String, String)>,
    /// The newest version published in the channel, with this publication.
    pub version: Version,
    /// The version is that of this publication, which is not without one.
    pub is_versioned: bool,
    /// Wall clock of the publication in milliseconds since 1970.
    pub published_at_ms: u64,
}

/// What a publisher says of the state that it publishes. Number 0 = nothing.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// Grows with the state.
    pub number: u64,
    /// Versions of different epochs are not compared.
    pub epoch: String,
}

/// Who published.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Publisher {
    /// User id.
    pub user: String,
    /// Client id.
    pub client: String,
    /// Info from the connection.
    pub conn_info: Option<Bytes>,
    /// Info from the subscription.
    pub chan_info: Option<Bytes>,
}

/// Name of a stream, and what is known of it without a message.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// User, channel or queue.
    pub name: String,
    /// The newest version published in a channel.
    pub version: Version,
}

/// An acknowledgement.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// User, or queue of events.
    pub name: String,
    /// The device whose cursor it is, empty for a client that names none.
    pub device: String,
}

/// An event for a webhook.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// The queue.
    pub queue: String,
    /// What is to be delivered.
    pub data: Bytes,
}

/// The body of a record of any known kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Of [`Kind::Message`].
    Message(Message),
    /// Of [`Kind::Publication`].
    Publication(Publication),
    /// Of [`Kind::Meta`].
    Meta(Meta),
    /// Of [`Kind::Stub`].
    Stub(Meta),
    /// Of [`Kind::Cursor`].
    Cursor(Cursor),
    /// Of [`Kind::Event`].
    Event(Event),
    /// Of [`Kind::Watermark`].
    Watermark,
    /// Of [`Kind::Loss`].
    Loss,
    /// Of a kind that this version does not know.
    Unknown(Bytes),
}

impl Body {
    /// The kind that goes into the header.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Message(_) => Kind::Message,
            Self::Publication(_) => Kind::Publication,
            Self::Meta(_) => Kind::Meta,
            Self::Stub(_) => Kind::Stub,
            Self::Cursor(_) => Kind::Cursor,
            Self::Event(_) => Kind::Event,
            Self::Watermark => Kind::Watermark,
            Self::Loss => Kind::Loss,
            Self::Unknown(_) => Kind::Optional(u16::MAX),
        }
    }

    /// The name of the stream.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Message(message) => &message.user,
            Self::Publication(publication) => &publication.channel,
            Self::Meta(meta) | Self::Stub(meta) => &meta.name,
            Self::Cursor(cursor) => &cursor.name,
            Self::Event(event) => &event.queue,
            Self::Watermark | Self::Loss | Self::Unknown(_) => "",
        }
    }

    /// What remains to be said once the message itself is not delivered any more.
    #[must_use]
    pub fn into_stub(self) -> Self {
        let name = self.name().to_owned();
        let version = match self {
            Self::Publication(publication) => publication.version,
            Self::Meta(meta) | Self::Stub(meta) => meta.version,
            _ => Version::default(),
        };
        Self::Stub(Meta { name, version })
    }

    /// The archive. An allocation that fails aborts, as everywhere; nothing else can go wrong.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.size_hint());
        let result = match self {
            Self::Message(body) => archive(body, &mut out),
            Self::Publication(body) => archive(body, &mut out),
            Self::Meta(body) | Self::Stub(body) => archive(body, &mut out),
            Self::Cursor(body) => archive(body, &mut out),
            Self::Event(body) => archive(body, &mut out),
            Self::Watermark | Self::Loss => Ok(()),
            Self::Unknown(bytes) => {
                out.extend_from_slice(bytes);
                Ok(())
            }
        };
        debug_assert!(result.is_ok(), "serialising into a Vec cannot fail");
        out
    }

    /// About as many bytes as the archive has, so that it is seldom moved.
    fn size_hint(&self) -> usize {
        let (fixed, data, tags) = match self {
            Self::Message(body) => (body.id.len(), body.data.len(), body.tags.len()),
            Self::Publication(body) => (body.version.epoch.len(), body.data.len(), body.tags.len()),
            Self::Event(body) => (0, body.data.len(), 0),
            Self::Meta(body) | Self::Stub(body) => (body.version.epoch.len(), 0, 0),
            Self::Cursor(body) => (body.device.len(), 0, 0),
            Self::Watermark | Self::Loss => return 0,
            Self::Unknown(bytes) => return bytes.len(),
        };
        let sizes = [fixed, data, self.name().len(), tags.saturating_mul(64), 96];
        sizes.into_iter().fold(0, usize::saturating_add)
    }

    /// Reads an archive of the kind that the header names; `None` if it is not one.
    #[must_use]
    pub fn decode(kind: Kind, bytes: &[u8]) -> Option<Self> {
        Some(match kind {
            Kind::Message => Self::Message(from_bytes::<Message, ArchiveError>(bytes).ok()?),
            Kind::Publication => Self::Publication(from_bytes::<Publication, ArchiveError>(bytes).ok()?),
            Kind::Meta => Self::Meta(from_bytes::<Meta, ArchiveError>(bytes).ok()?),
            Kind::Stub => Self::Stub(from_bytes::<Meta, ArchiveError>(bytes).ok()?),
            Kind::Cursor => Self::Cursor(from_bytes::<Cursor, ArchiveError>(bytes).ok()?),
            Kind::Event => Self::Event(from_bytes::<Event, ArchiveError>(bytes).ok()?),
            Kind::Watermark => Self::Watermark,
            Kind::Loss => Self::Loss,
            Kind::Optional(_) | Kind::Unknown(_) => Self::Unknown(Bytes::copy_from_slice(bytes)),
        })
    }
}

type Archiver<'a, 'b> = HighSerializer<&'b mut Vec<u8>, ArenaHandle<'a>, ArchiveError>;

fn archive<'b>(
    body: &impl for<'a> Serialize<Archiver<'a, 'b>>,
    out: &'b mut Vec<u8>,
) -> Result<(), ArchiveError> {
    to_bytes_in(body, out).map(|_| ())
}

/// Class of the streams that records of this kind belong to; cursors and meta records serve several.
#[must_use]
pub fn class_of(kind: Kind) -> Option<Class> {
    match kind {
        Kind::Message => Some(Class::Mailbox),
        Kind::Publication => Some(Class::History),
        Kind::Event => Some(Class::Webhook),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bodies() -> Vec<Body> {
        let tags = vec![("a".to_owned(), "b".to_owned()), (String::new(), "a longer tag value".to_owned())];
        let publisher = Publisher {
            user: "u".to_owned(),
            client: "c".to_owned(),
            conn_info: Some(Bytes::from_static(b"{}")),
            chan_info: None,
        };
        let version = Version { number: 3, epoch: "xyzw".to_owned() };
        vec![
            Body::Message(Message {
                user: "alice".to_owned(),
                id: "0123456789abcdef".to_owned(),
                data: Bytes::from(vec![7; 300]),
                tags: tags.clone(),
                sent_at_ms: 5,
            }),
            Body::Publication(Publication {
                channel: "news".to_owned(),
                data: Bytes::new(),
                publisher: Some(publisher),
                tags,
                version: version.clone(),
                is_versioned: true,
                published_at_ms: u64::MAX,
            }),
            Body::Meta(Meta { name: "n".to_owned(), version }),
            Body::Stub(Meta::default()),
            Body::Cursor(Cursor { name: "n".to_owned(), device: "phone".to_owned() }),
            Body::Event(Event { queue: "q".to_owned(), data: Bytes::from_static(b"{\"a\":1}") }),
            Body::Watermark,
        ]
    }

    #[test]
    fn bodies_survive_at_every_alignment() {
        for body in bodies() {
            for shift in 0..8 {
                let mut bytes = vec![0; shift];
                bytes.extend(body.encode());
                assert_eq!(Body::decode(body.kind(), &bytes[shift..]).as_ref(), Some(&body));
            }
        }
    }

    #[test]
    fn cut_or_flipped_archives_never_panic() {
        for body in bodies() {
            let bytes = body.encode();
            for at in 0..bytes.len() {
                let _ = Body::decode(body.kind(), &bytes[..at]);
                for bit in 0..8 {
                    let mut damaged = bytes.clone();
                    damaged[at] ^= 1 << bit;
                    let _ = Body::decode(body.kind(), &damaged);
                }
            }
        }
    }
}
