//! Between a publication as it is stored and as the protocol shows it, and the shared frames made of it.

use std::sync::Arc;

use bytes::Bytes;

use crate::hub::api::{Member, StoredPublication};
use crate::hub::mail::{Delivery, Terms};
use crate::hub::metrics::SentKind;
use crate::hub::settings::DataFormat;
use crate::hub::stream::{Publication, Publisher};
use crate::protocol::{
    ClientInfo, Encoding, PublicationView, encode_push_join, encode_push_leave, encode_push_message,
    encode_push_publication, is_json,
};
use crate::wire::frame::{MAX_SERVER_HEADER, Opcode, frame_header};

/// Which encodings the subscribers of a channel use.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Encodings {
    pub(crate) json: bool,
    pub(crate) protobuf: bool,
}

/// The protocol's view of a member.
pub(crate) fn client_info(member: &Member) -> ClientInfo<'_> {
    ClientInfo {
        user: &member.user,
        client: &member.client,
        conn_info: member.conn_info.as_deref(),
        chan_info: member.chan_info.as_deref(),
    }
}

/// The protocol's view of a publication.
pub(crate) fn view(publication: &Publication) -> PublicationView<'_> {
    PublicationView {
        data: Some(&publication.data).filter(|data| !data.is_empty()).map(|data| &data[..]),
        info: publication.publisher.as_ref().map(|publisher| ClientInfo {
            user: publisher.user(),
            client: publisher.client(),
            conn_info: publisher.conn_info(),
            chan_info: publisher.chan_info(),
        }),
        offset: publication.offset,
        tags: &publication.tags,
        ..PublicationView::default()
    }
}

/// Who published, in the compact form that history keeps.
pub(crate) fn publisher(member: &Member) -> Publisher {
    Publisher::new(&member.user, &member.client, member.conn_info.as_deref(), member.chan_info.as_deref())
}

/// A publication as the server API shows it.
pub(crate) fn stored(publication: &Publication) -> StoredPublication {
    let copy = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
    StoredPublication {
        offset: publication.offset,
        data: publication.data.clone(),
        info: publication.publisher.as_ref().map(|publisher| Member {
            client: publisher.client().to_owned(),
            user: publisher.user().to_owned(),
            conn_info: publisher.conn_info().map(copy),
            chan_info: publisher.chan_info().map(copy),
        }),
        tags: publication.tags.to_vec(),
        version: publication.version,
    }
}

/// True if data may be published where `format` is asked for.
pub(crate) fn fits_format(format: DataFormat, data: &[u8]) -> bool {
    match format {
        DataFormat::Binary => true,
        DataFormat::Any => !data.is_empty(),
        DataFormat::Json => is_json(data),
        DataFormat::JsonObject => {
            data.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{') && is_json(data)
        }
    }
}

/// Frames of a publication, one per encoding in use. `epoch` is told only with the first publication of a stream.
pub(crate) fn deliver_publication(
    channel: &Arc<str>,
    hash: u64,
    publication: &Publication,
    epoch: Option<&str>,
    encodings: Encodings,
) -> Delivery {
    let view = PublicationView { epoch, ..view(publication) };
    let fits_json = publication.data.is_empty() || is_json(&publication.data);
    Delivery {
        channel: Arc::clone(channel),
        hash,
        json: (encodings.json && fits_json).then(|| {
            framed(Encoding::Json, |out| encode_push_publication(out, Encoding::Json, channel, &view))
        }),
        protobuf: encodings.protobuf.then(|| {
            framed(Encoding::Protobuf, |out| encode_push_publication(out, Encoding::Protobuf, channel, &view))
        }),
        kind: SentKind::PushPublication,
        join_leave: false,
        not_json: !fits_json,
        mailbox: None,
        terms: Terms::default(),
    }
}

/// Frames of a join (or leave) push.
pub(crate) fn deliver_membership(
    channel: &Arc<str>,
    hash: u64,
    member: &Member,
    joined: bool,
    encodings: Encodings,
) -> Delivery {
    let info = client_info(member);
    let push = if joined { encode_push_join } else { encode_push_leave };
    let frame = |encoding| framed(encoding, |out| push(out, encoding, channel, &info));
    Delivery {
        channel: Arc::clone(channel),
        hash,
        json: encodings.json.then(|| frame(Encoding::Json)),
        protobuf: encodings.protobuf.then(|| frame(Encoding::Protobuf)),
        kind: if joined { SentKind::PushJoin } else { SentKind::PushLeave },
        join_leave: true,
        not_json: false,
        mailbox: None,
        terms: Terms::default(),
    }
}

/// Frames of a message to those who get joins and leaves.
pub(crate) fn deliver_message(channel: &Arc<str>, hash: u64, data: &[u8], encodings: Encodings) -> Delivery {
    let frame = |encoding| framed(encoding, |out| encode_push_message(out, encoding, data));
    Delivery {
        channel: Arc::clone(channel),
        hash,
        json: encodings.json.then(|| frame(Encoding::Json)),
        protobuf: encodings.protobuf.then(|| frame(Encoding::Protobuf)),
        kind: SentKind::PushMessage,
        join_leave: true,
        not_json: false,
        mailbox: None,
        terms: Terms::default(),
    }
}

/// One message as a complete WebSocket frame, in one allocation.
fn framed(encoding: Encoding, encode: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut out = Vec::with_capacity(256);
    out.resize(MAX_SERVER_HEADER, 0);
    encode(&mut out);
    let opcode = if encoding == Encoding::Json { Opcode::Text } else { Opcode::Binary };
    let mut header = [0; MAX_SERVER_HEADER];
    let length = frame_header(&mut header, opcode, out.len() - MAX_SERVER_HEADER);
    let start = MAX_SERVER_HEADER - length;
    out[start..MAX_SERVER_HEADER].copy_from_slice(&header[..length]);
    Bytes::from(out).slice(start..)
}
