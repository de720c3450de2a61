//! What a stream is made of: epochs, positions and publications in their compact form.

use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;

use crate::hub::api::{Member, Position, StoredPublication};

/// Incarnation of a stream: 8 letters a-z and A-Z, so the sentinel `_` of the client libraries matches none.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch([u8; Epoch::LENGTH]);

impl Epoch {
    /// Letters of an epoch.
    pub const LENGTH: usize = 8;

    /// An epoch of these letters, for example from [`crate::base::rng::Rng::letters`]. `None` if one is no letter.
    #[must_use]
    pub fn from_letters(letters: [u8; Epoch::LENGTH]) -> Option<Self> {
        letters.iter().all(u8::is_ascii_alphabetic).then_some(Self(letters))
    }

    /// An epoch of random letters.
    pub fn random(rng: &mut crate::base::rng::Rng) -> Self {
        Self(rng.letters())
    }

    /// The letters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Letters only; the fallback is never reached.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl std::fmt::Debug for Epoch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A place in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamPosition {
    /// Publications up to here are known.
    pub offset: u64,
    /// Incarnation of the stream.
    pub epoch: Epoch,
}

impl From<StreamPosition> for Position {
    fn from(position: StreamPosition) -> Self {
        Self { offset: position.offset, epoch: position.epoch.as_str().to_owned() }
    }
}

/// What a positioned subscriber does with a live publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It is the next one: deliver it and move on to its position.
    Deliver,
    /// It was delivered, or recovered, before.
    Skip,
    /// One is missing, or the stream began anew: unsubscribe with 2500, or disconnect with 3010.
    Insufficient,
}

/// Compares the position of a subscriber with that of a publication that has one.
#[must_use]
pub fn arrival(subscriber: StreamPosition, publication: StreamPosition) -> Arrival {
    let next = subscriber.offset.saturating_add(1);
    match publication.offset {
        _ if publication.epoch != subscriber.epoch => Arrival::Insufficient,
        offset if offset > next => Arrival::Insufficient,
        offset if offset < next => Arrival::Skip,
        _ => Arrival::Deliver,
    }
}

/// A publication as a stream keeps it, immutable and shared with the replies and frames made from it.
#[derive(Debug, PartialEq, Eq)]
pub struct Publication {
    /// Place in the stream, from 1.
    pub offset: u64,
    /// Version given by the publisher, 0 = none.
    pub version: u64,
    /// Payload.
    pub data: Bytes,
    /// Who published, for client-originated ones.
    pub publisher: Option<Publisher>,
    /// Tags.
    pub tags: Box<[(String, String)]>,
    /// Whether it can be put into JSON.
    pub json: JsonCheck,
}

/// Whether something can be put into JSON, found out by who wants to know it first: once for all replies and frames that a
/// publication is put into.
#[derive(Default)]
pub struct JsonCheck(AtomicU8);

impl JsonCheck {
    const UNKNOWN: u8 = 0;
    const YES: u8 = 1;
    const NO: u8 = 2;

    /// What is known, else what `find` finds. Who asks at the same time may find it too, and finds the same.
    pub(crate) fn get_or_find(&self, find: impl FnOnce() -> bool) -> bool {
        match self.0.load(Ordering::Relaxed) {
            Self::UNKNOWN => {
                let fits = find();
                self.0.store(if fits { Self::YES } else { Self::NO }, Ordering::Relaxed);
                fits
            }
            known => known == Self::YES,
        }
    }
}

/// What is known of a publication makes it no other one.
impl PartialEq for JsonCheck {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for JsonCheck {}

impl std::fmt::Debug for JsonCheck {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self.0.load(Ordering::Relaxed) {
            Self::UNKNOWN => "unknown",
            Self::YES => "yes",
            _ => "no",
        })
    }
}

impl Publication {
    /// About the bytes that it takes in a reply.
    #[must_use]
    pub fn reply_bytes(&self) -> usize {
        let tags: usize = self.tags.iter().map(|(name, value)| name.len() + value.len()).sum();
        REPLY_OVERHEAD + self.data.len() + tags + self.publisher.as_ref().map_or(0, |by| by.0.len())
    }

    /// Bytes on the heap, the counts of the `Arc` around it included.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let tags: usize = self.tags.iter().map(|(name, value)| name.capacity() + value.capacity()).sum();
        2 * size_of::<usize>()
            + size_of::<Self>()
            + self.data.len()
            + self.publisher.as_ref().map_or(0, |publisher| publisher.0.len())
            + size_of_val(&*self.tags)
            + tags
    }
}

impl From<&Publication> for StoredPublication {
    fn from(publication: &Publication) -> Self {
        Self {
            offset: publication.offset,
            data: publication.data.clone(),
            info: publication.publisher.as_ref().map(Publisher::to_member),
            tags: publication.tags.to_vec(),
            version: publication.version,
        }
    }
}

/// A client's user, id and infos in one allocation: the lengths of the four (u32 each), then their bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publisher(Box<[u8]>);

/// Bytes of names, offset and brackets around the content of a publication in a reply.
const REPLY_OVERHEAD: usize = 64;
/// Bytes of the lengths.
const HEADER: usize = FIELDS * size_of::<u32>();
/// Fields of a publisher.
const FIELDS: usize = 4;
/// Length of a field that is not there.
const ABSENT: u32 = u32::MAX;

impl Publisher {
    /// Packs a client. Infos of 4 GiB and more, which no limit lets through, count as absent.
    #[must_use]
    pub fn new(user: &str, client: &str, conn_info: Option<&[u8]>, chan_info: Option<&[u8]>) -> Self {
        let fields = [Some(user.as_bytes()), Some(client.as_bytes()), conn_info, chan_info].map(|field| {
            field.filter(|field| u32::try_from(field.len()).is_ok_and(|length| length < ABSENT))
        });
        let body: usize = fields.iter().flatten().map(|field| field.len()).sum();
        let mut packed = Vec::with_capacity(HEADER + body);
        for field in fields {
            packed.extend(field.map_or(ABSENT, |field| field.len() as u32).to_le_bytes());
        }
        packed.extend(fields.iter().flatten().copied().flatten());
        Self(packed.into_boxed_slice())
    }

    /// User id.
    #[must_use]
    pub fn user(&self) -> &str {
        self.text(0)
    }

    /// Client id.
    #[must_use]
    pub fn client(&self) -> &str {
        self.text(1)
    }

    /// Info of the connection.
    #[must_use]
    pub fn conn_info(&self) -> Option<&[u8]> {
        self.field(2)
    }

    /// Info of the subscription.
    #[must_use]
    pub fn chan_info(&self) -> Option<&[u8]> {
        self.field(3)
    }

    fn to_member(&self) -> Member {
        Member {
            client: self.client().to_owned(),
            user: self.user().to_owned(),
            conn_info: self.conn_info().map(Bytes::copy_from_slice),
            chan_info: self.chan_info().map(Bytes::copy_from_slice),
        }
    }

    fn text(&self, field: usize) -> &str {
        // Only `new` writes here, from a str; the fallback is never reached.
        self.field(field).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }

    fn field(&self, field: usize) -> Option<&[u8]> {
        let before: usize = (0..field).map(|field| self.length(field).unwrap_or(0)).sum();
        let start = HEADER + before;
        self.0.get(start..start + self.length(field)?)
    }

    fn length(&self, field: usize) -> Option<usize> {
        let bytes = self.0.get(field * size_of::<u32>()..)?.first_chunk()?;
        let length = u32::from_le_bytes(*bytes);
        (length != ABSENT).then_some(length as usize)
    }
}
