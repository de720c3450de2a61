//! Says with the server's encoders what a client's [`Reply`] says, and with the client's structs what the server decoded.

use std::collections::BTreeMap;

use millpond::protocol::client::{self, Command, Push, Reply};
use millpond::protocol::{
    self, Body, ClientInfo, ConnectResult, EmptyKind, Encoding, ErrorCode, PublicationView, RefreshResult,
    SubscribeResult,
};

/// Encodes `reply` as the server would.
pub(crate) fn encode(encoding: Encoding, reply: &Reply) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (out, id) = (&mut bytes, reply.id);
    if let Some(error) = &reply.error {
        let code = ErrorCode::ALL.into_iter().find(|code| code.code() == error.code).unwrap();
        protocol::encode_error(out, encoding, id, code);
    } else if let Some(push) = &reply.push {
        encode_push(out, encoding, push);
    } else if let Some(result) = &reply.connect {
        encode_connect(out, encoding, id, result);
    } else if let Some(result) = &reply.subscribe {
        subscribed(result, |view| protocol::encode_subscribe(out, encoding, id, view));
    } else if reply.unsubscribe.is_some() {
        protocol::encode_empty(out, encoding, id, EmptyKind::Unsubscribe);
    } else if reply.publish.is_some() {
        protocol::encode_empty(out, encoding, id, EmptyKind::Publish);
    } else if let Some(result) = &reply.presence {
        protocol::encode_presence(out, encoding, id, result.presence.values().map(info));
    } else if let Some(result) = &reply.presence_stats {
        protocol::encode_presence_stats(out, encoding, id, result.num_clients, result.num_users);
    } else if let Some(result) = &reply.history {
        publications(&result.publications, |views| {
            protocol::encode_history(out, encoding, id, views, result.offset, &result.epoch);
        });
    } else if let Some(result) = &reply.rpc {
        protocol::encode_rpc(out, encoding, id, Some(&result.data));
    } else if let Some(result) = &reply.refresh {
        let client::Refreshed { client, version, expires, ttl } = result;
        let view = RefreshResult { client, version, expires: *expires, ttl: *ttl };
        protocol::encode_refresh(out, encoding, id, &view);
    } else if let Some(result) = &reply.sub_refresh {
        protocol::encode_sub_refresh(out, encoding, id, result.expires, result.ttl);
    } else {
        protocol::encode_ping(out, encoding);
    }
    bytes
}

fn encode_push(out: &mut Vec<u8>, encoding: Encoding, push: &Push) {
    let channel = &push.channel;
    if let Some(publication) = &push.publication {
        publications(std::slice::from_ref(publication), |views| {
            protocol::encode_push_publication(out, encoding, channel, &views[0]);
        });
    } else if let Some(member) = &push.join {
        protocol::encode_push_join(out, encoding, channel, &info(member.info.as_ref().unwrap()));
    } else if let Some(member) = &push.leave {
        protocol::encode_push_leave(out, encoding, channel, &info(member.info.as_ref().unwrap()));
    } else if let Some(end) = &push.unsubscribe {
        protocol::encode_push_unsubscribe(out, encoding, channel, end.code, &end.reason);
    } else if let Some(note) = &push.message {
        protocol::encode_push_message(out, encoding, &note.data);
    } else if let Some(start) = &push.subscribe {
        let view = SubscribeResult {
            recoverable: start.recoverable,
            epoch: &start.epoch,
            offset: start.offset,
            positioned: start.positioned,
            data: Some(&start.data),
            ..SubscribeResult::default()
        };
        protocol::encode_push_subscribe(out, encoding, channel, &view);
    } else if let Some(end) = &push.disconnect {
        protocol::encode_push_disconnect(out, encoding, end.code.try_into().unwrap(), &end.reason);
    } else if let Some(expiry) = &push.refresh {
        protocol::encode_push_refresh(out, encoding, expiry.expires, expiry.ttl);
    } else {
        panic!("a push that says nothing: {push:?}");
    }
}

fn encode_connect(out: &mut Vec<u8>, encoding: Encoding, id: u32, result: &client::Connected) {
    let tags: Vec<_> = result.subs.values().map(|sub| tags(&sub.publications)).collect();
    let publications: Vec<_> =
        result.subs.values().zip(&tags).map(|(sub, tags)| views(&sub.publications, tags)).collect();
    let subs: Vec<_> = result
        .subs
        .iter()
        .zip(&publications)
        .map(|((channel, sub), publications)| (channel.as_str(), sub_view(sub, publications)))
        .collect();
    let view = ConnectResult {
        client: &result.client,
        version: &result.version,
        expires: result.expires,
        ttl: result.ttl,
        data: Some(&result.data),
        subs: &subs,
        ping: result.ping,
        pong: result.pong,
        session: &result.session,
        node: &result.node,
        time: result.time,
    };
    protocol::encode_connect(out, encoding, id, &view);
}

fn subscribed(result: &client::Subscribed, use_view: impl FnOnce(&SubscribeResult<'_>)) {
    publications(&result.publications, |publications| use_view(&sub_view(result, publications)));
}

fn sub_view<'a>(
    result: &'a client::Subscribed,
    publications: &'a [PublicationView<'a>],
) -> SubscribeResult<'a> {
    SubscribeResult {
        expires: result.expires,
        ttl: result.ttl,
        recoverable: result.recoverable,
        epoch: &result.epoch,
        publications,
        recovered: result.recovered,
        offset: result.offset,
        positioned: result.positioned,
        data: Some(&result.data),
        was_recovering: result.was_recovering,
        delta: result.delta,
    }
}

fn publications(owned: &[client::Publication], use_views: impl FnOnce(&[PublicationView<'_>])) {
    use_views(&views(owned, &tags(owned)));
}

type Tags = Vec<(String, String)>;

fn tags(owned: &[client::Publication]) -> Vec<Tags> {
    owned.iter().map(|publication| publication.tags.clone().into_iter().collect()).collect()
}

fn views<'a>(owned: &'a [client::Publication], tags: &'a [Tags]) -> Vec<PublicationView<'a>> {
    let view = |(publication, tags): (&'a client::Publication, &'a Tags)| PublicationView {
        data: Some(&publication.data),
        info: publication.info.as_ref().map(info),
        offset: publication.offset,
        tags,
        delta: publication.delta,
        time: publication.time,
        epoch: Some(&publication.epoch),
    };
    owned.iter().zip(tags).map(view).collect()
}

fn info(owned: &client::Info) -> ClientInfo<'_> {
    ClientInfo {
        user: &owned.user,
        client: &owned.client,
        conn_info: Some(&owned.conn_info),
        chan_info: Some(&owned.chan_info),
    }
}

/// What the server decoded, as the client would have written it (without what the server does not decode).
pub(crate) fn decoded(command: &protocol::Command<'_>) -> Command {
    let mut mirror = Command { id: command.id, ..Command::default() };
    let channel =
        |only: &protocol::ChannelOnly<'_>| Some(client::Channel { channel: only.channel.to_string() });
    match &command.body {
        Body::Connect(connect) => mirror.connect = Some(decoded_connect(connect)),
        Body::Ping => mirror.ping = Some(client::Empty {}),
        Body::Subscribe(subscribe) => mirror.subscribe = Some(decoded_subscribe(subscribe)),
        Body::Unsubscribe(only) => mirror.unsubscribe = channel(only),
        Body::Publish(publish) => {
            mirror.publish = Some(client::Publish {
                channel: publish.channel.to_string(),
                data: data(&publish.data),
                kind: publish.kind,
                key: publish.key.to_string(),
                removed: publish.removed,
            });
        }
        Body::Presence(only) => mirror.presence = channel(only),
        Body::PresenceStats(only) => mirror.presence_stats = channel(only),
        Body::History(history) => {
            let position = |since: &protocol::Position<'_>| client::Position {
                offset: since.offset,
                epoch: since.epoch.to_string(),
            };
            mirror.history = Some(client::History {
                channel: history.channel.to_string(),
                limit: history.limit,
                since: history.since.as_ref().map(position),
                reverse: history.reverse,
            });
        }
        Body::Rpc(rpc) => {
            mirror.rpc = Some(client::Rpc { data: data(&rpc.data), method: rpc.method.to_string() });
        }
        Body::Send(send) => mirror.send = Some(client::Send { data: data(&send.data) }),
        Body::Refresh(refresh) => {
            mirror.refresh = Some(client::Refresh { token: refresh.token.to_string() });
        }
        Body::SubRefresh(refresh) => {
            mirror.sub_refresh = Some(client::SubRefresh {
                channel: refresh.channel.to_string(),
                token: refresh.token.to_string(),
                kind: refresh.kind,
                ..client::SubRefresh::default()
            });
        }
        Body::Pong | Body::None => {}
    }
    mirror
}

fn decoded_connect(connect: &protocol::Connect<'_>) -> client::Connect {
    let text = |(key, value): &(std::borrow::Cow<'_, str>, _)| (key.to_string(), ToString::to_string(value));
    client::Connect {
        token: connect.token.to_string(),
        data: data(&connect.data),
        subs: connect.subs.iter().map(|(key, sub)| (key.to_string(), decoded_subscribe(sub))).collect(),
        name: connect.name.to_string(),
        version: connect.version.to_string(),
        headers: connect.headers.iter().map(text).collect::<BTreeMap<_, _>>(),
        ..client::Connect::default()
    }
}

fn decoded_subscribe(subscribe: &protocol::Subscribe<'_>) -> client::Subscribe {
    client::Subscribe {
        channel: subscribe.channel.to_string(),
        token: subscribe.token.to_string(),
        recover: subscribe.recover,
        epoch: subscribe.epoch.to_string(),
        offset: subscribe.offset,
        data: data(&subscribe.data),
        positioned: subscribe.positioned,
        recoverable: subscribe.recoverable,
        join_leave: subscribe.join_leave,
        delta: subscribe.delta.to_string(),
        filter: subscribe.filter.map(|_| client::FilterNode::default()),
        flag: subscribe.flag,
        kind: subscribe.kind,
        phase: subscribe.phase,
        cursor: subscribe.cursor.to_string(),
        limit: subscribe.limit,
        asc: subscribe.asc,
    }
}

fn data(data: &Option<std::borrow::Cow<'_, [u8]>>) -> Vec<u8> {
    data.as_deref().unwrap_or_default().to_vec()
}
