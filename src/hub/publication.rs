//! Between a publication as it is stored and as the protocol shows it, and the shared frames made of it.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use crate::hub::api::{ApiPublish, Member, StoredPublication};
use crate::hub::mail::{Delivery, Terms};
use crate::hub::metrics::SentKind;
use crate::hub::settings::DataFormat;
use crate::hub::stream::{JsonCheck, Publication, Publisher};
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

/// A stored publication of which a part is no JSON, as JSON sessions get it: data as `{"b64data":"…"}`, as the server API
/// has it, and infos of its publisher left out. Stored, it would come again with every connect, so ending the session would
/// keep its user out for good.
pub(crate) fn wrapped(publication: &Publication) -> Publication {
    let data = match is_part(Some(&publication.data)) {
        true => publication.data.clone(),
        false => format!("{{\"b64data\":\"{}\"}}", STANDARD.encode(&publication.data)).into(),
    };
    let publisher = publication.publisher.as_ref().map(|of| {
        let json = |part: Option<&'_ [u8]>| part.filter(|part| is_part(Some(part))).map(<[u8]>::to_vec);
        Publisher::new(
            of.user(),
            of.client(),
            json(of.conn_info()).as_deref(),
            json(of.chan_info()).as_deref(),
        )
    });
    Publication {
        offset: publication.offset,
        version: publication.version,
        data,
        publisher,
        tags: publication.tags.clone(),
        json: JsonCheck::default(),
    }
}

/// Who published, in the compact form that history keeps.
pub(crate) fn publisher(member: &Member) -> Publisher {
    Publisher::new(&member.user, &member.client, member.conn_info.as_deref(), member.chan_info.as_deref())
}

/// A publication that nobody keeps: it has no number.
pub(crate) fn unnumbered(publish: ApiPublish, info: Option<&Member>) -> Publication {
    let ApiPublish { data, tags, version, .. } = publish;
    let (publisher, json) = (info.map(publisher), JsonCheck::default());
    Publication { offset: 0, version, data, publisher, tags: tags.into(), json }
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

/// True if all parts of a publication can be put into JSON: its data and what is told of its publisher.
pub(crate) fn fits_json(publication: &Publication) -> bool {
    publication.json.get_or_find(|| {
        let publisher = publication.publisher.as_ref();
        is_part(Some(&publication.data))
            && is_part(publisher.and_then(Publisher::conn_info))
            && is_part(publisher.and_then(Publisher::chan_info))
    })
}

/// True if what is told of a member can be put into JSON.
pub(crate) fn member_fits_json(member: &Member) -> bool {
    is_part(member.conn_info.as_deref()) && is_part(member.chan_info.as_deref())
}

/// True if what stands for itself in a message is absent or JSON.
pub(crate) fn is_part(part: Option<&[u8]>) -> bool {
    part.is_none_or(|part| part.is_empty() || is_json(part))
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
    let fits_json = fits_json(publication);
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

/// Frames of a publication that is stored: JSON subscribers get it too, whatever its data is.
pub(crate) fn deliver_stored(
    channel: &Arc<str>,
    hash: u64,
    publication: &Publication,
    epoch: Option<&str>,
    encodings: Encodings,
) -> Delivery {
    let delivery = deliver_publication(channel, hash, publication, epoch, encodings);
    if !delivery.not_json {
        return delivery;
    }
    let only_json = Encodings { protobuf: false, ..encodings };
    let json = deliver_publication(channel, hash, &wrapped(publication), epoch, only_json).json;
    Delivery { json, not_json: false, ..delivery }
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
    let fits_json = member_fits_json(member);
    Delivery {
        channel: Arc::clone(channel),
        hash,
        json: (encodings.json && fits_json).then(|| frame(Encoding::Json)),
        protobuf: encodings.protobuf.then(|| frame(Encoding::Protobuf)),
        kind: if joined { SentKind::PushJoin } else { SentKind::PushLeave },
        join_leave: true,
        not_json: !fits_json,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn publication(data: &'static [u8], info: Option<&[u8]>) -> Publication {
        Publication {
            offset: 1,
            version: 0,
            data: Bytes::from_static(data),
            publisher: Some(Publisher::new("ann", "c1", info, None)),
            tags: Box::default(),
            json: JsonCheck::default(),
        }
    }

    #[test]
    fn whether_a_publication_is_json_is_found_once() {
        let mut json = publication(b"{\"a\": [1]}", Some(b"2"));
        assert_eq!(format!("{:?}", json.json), "unknown");
        assert!(fits_json(&json));
        json.data = Bytes::from_static(b"{");
        assert!(fits_json(&json), "the data is not looked at again");
        for mut other in [publication(b"{", None), publication(b"1", Some(b"{"))] {
            assert!(!fits_json(&other));
            assert!(fits_json(&wrapped(&other)), "what is made of it is looked at anew");
            other.data = Bytes::from_static(b"1");
            assert!(!fits_json(&other));
        }
    }
}
