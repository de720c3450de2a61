//! Random messages, of every kind that the gateway decodes or encodes.

use millpond::protocol::ErrorCode;
use millpond::protocol::client::{
    self, Channel, Command, Connected, Empty, Info, Member, Publication, Push, Reply, Subscribed,
};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

/// Text with everything that needs an escape.
fn text() -> impl Strategy<Value = String> + Clone {
    prop_oneof![Just(String::new()), "[a-z:#$]{1,12}", any::<String>(), "[\"\\\\\u{0}-\u{1f}/\u{7f}😀é]{1,8}"]
}

/// One JSON value on one line, as some writer might space it, or nothing.
fn data() -> impl Strategy<Value = Vec<u8>> + Clone {
    let scalar = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|value| value.to_string()),
        any::<i64>().prop_map(|value| value.to_string()),
        Just("-1.5e+300".to_owned()),
        any::<String>().prop_map(|value| serde_json::to_string(&value).unwrap()),
        Just(r#""😀\/""#.to_owned()),
    ];
    let value = scalar.prop_recursive(4, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(" , "))),
            vec(inner, 0..4).prop_map(|items| {
                let members: Vec<_> =
                    items.iter().enumerate().map(|(at, item)| format!("\"{at}\": {item}")).collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    });
    prop_oneof![1 => Just(Vec::new()), 4 => value.prop_map(String::into_bytes)]
}

/// A command that the gateway decodes whole: without ignored members, an empty tags filter if any.
pub(crate) fn command() -> impl Strategy<Value = Command> {
    let channel = || text().prop_map(|channel| Channel { channel });
    let position =
        || option::of((any::<u64>(), text()).prop_map(|(offset, epoch)| client::Position { offset, epoch }));
    let body = prop_oneof![
        Just(Command::default()),
        connect().prop_map(|connect| Command::connect(0, connect)),
        subscribe().prop_map(|subscribe| Command::subscribe(0, subscribe)),
        channel().prop_map(|channel| Command { unsubscribe: Some(channel), ..Command::default() }),
        channel().prop_map(|channel| Command { presence: Some(channel), ..Command::default() }),
        channel().prop_map(|channel| Command { presence_stats: Some(channel), ..Command::default() }),
        (text(), data(), any::<i32>(), text(), any::<bool>()).prop_map(
            |(channel, data, kind, key, removed)| {
                let publish = client::Publish { channel, data, kind, key, removed };
                Command { publish: Some(publish), ..Command::default() }
            }
        ),
        (text(), any::<i32>(), position(), any::<bool>()).prop_map(|(channel, limit, since, reverse)| {
            let history = client::History { channel, limit, since, reverse };
            Command { history: Some(history), ..Command::default() }
        }),
        Just(Command { ping: Some(Empty {}), ..Command::default() }),
        data().prop_map(|data| Command { send: Some(client::Send { data }), ..Command::default() }),
        (data(), text()).prop_map(|(data, method)| Command {
            rpc: Some(client::Rpc { data, method }),
            ..Command::default()
        }),
        text().prop_map(|token| Command { refresh: Some(client::Refresh { token }), ..Command::default() }),
        (text(), text(), any::<i32>()).prop_map(|(channel, token, kind)| {
            let refresh = client::SubRefresh { channel, token, kind, ..client::SubRefresh::default() };
            Command { sub_refresh: Some(refresh), ..Command::default() }
        }),
    ];
    (any::<u32>(), body).prop_map(|(id, body)| Command { id, ..body })
}

fn connect() -> impl Strategy<Value = client::Connect> {
    let maps = (btree_map(text(), subscribe(), 0..3), btree_map(text(), text(), 0..3));
    (text(), data(), maps, text(), text()).prop_map(|(token, data, (subs, headers), name, version)| {
        client::Connect { token, data, subs, name, version, headers, ..client::Connect::default() }
    })
}

fn subscribe() -> impl Strategy<Value = client::Subscribe> {
    let filter = option::of(Just(client::FilterNode::default()));
    let texts = (text(), text(), text(), text(), text());
    let flags = any::<[bool; 5]>();
    let numbers = (any::<u64>(), any::<i64>(), any::<[i32; 3]>());
    (texts, flags, numbers, data(), filter).prop_map(
        |(
            (channel, token, epoch, delta, cursor),
            flags,
            (offset, flag, [kind, phase, limit]),
            data,
            filter,
        )| {
            let [recover, positioned, recoverable, join_leave, asc] = flags;
            client::Subscribe {
                channel,
                token,
                recover,
                epoch,
                offset,
                data,
                positioned,
                recoverable,
                join_leave,
                delta,
                filter,
                flag,
                kind,
                phase,
                cursor,
                limit,
                asc,
            }
        },
    )
}

/// A reply or push that the gateway can encode.
pub(crate) fn reply() -> impl Strategy<Value = Reply> {
    let expiry = || (any::<bool>(), any::<u32>());
    let sub_refreshed = move || {
        expiry().prop_map(|(expires, ttl)| client::SubRefreshed { expires, ttl, ..Default::default() })
    };
    let page = (vec(publication(), 0..4), text(), any::<u64>());
    let body = prop_oneof![
        prop::sample::select(ErrorCode::ALL.to_vec()).prop_map(|code| Reply {
            error: Some(client::Error {
                code: code.code(),
                message: code.message().to_owned(),
                temporary: code.temporary()
            }),
            ..Reply::default()
        }),
        connected().prop_map(|result| Reply { connect: Some(result), ..Reply::default() }),
        subscribed().prop_map(|result| Reply { subscribe: Some(result), ..Reply::default() }),
        Just(Reply { unsubscribe: Some(Empty {}), ..Reply::default() }),
        Just(Reply { publish: Some(Empty {}), ..Reply::default() }),
        vec(info(), 0..4).prop_map(|infos| {
            let presence = infos.into_iter().map(|info| (info.client.clone(), info)).collect();
            Reply { presence: Some(client::PresenceMap { presence }), ..Reply::default() }
        }),
        any::<[u32; 2]>().prop_map(|[num_clients, num_users]| Reply {
            presence_stats: Some(client::PresenceStats { num_clients, num_users }),
            ..Reply::default()
        }),
        page.prop_map(|(publications, epoch, offset)| Reply {
            history: Some(client::HistoryPage { publications, epoch, offset }),
            ..Reply::default()
        }),
        data().prop_map(|data| Reply { rpc: Some(client::RpcAnswer { data }), ..Reply::default() }),
        (text(), text(), expiry()).prop_map(|(client, version, (expires, ttl))| Reply {
            refresh: Some(client::Refreshed { client, version, expires, ttl }),
            ..Reply::default()
        }),
        sub_refreshed().prop_map(|result| Reply { sub_refresh: Some(result), ..Reply::default() }),
    ];
    let push = push(sub_refreshed()).prop_map(|push| Reply { push: Some(push), ..Reply::default() });
    prop_oneof![
        1 => Just(Reply::default()),
        4 => push,
        8 => (any::<u32>(), body).prop_map(|(id, body)| Reply { id, ..body }),
    ]
}

fn push(expiry: impl Strategy<Value = client::SubRefreshed>) -> impl Strategy<Value = Push> {
    let member = || info().prop_map(|info| Some(Member { info: Some(info) }));
    let of_channel = prop_oneof![
        publication().prop_map(|publication| Push { publication: Some(publication), ..Push::default() }),
        member().prop_map(|join| Push { join, ..Push::default() }),
        member().prop_map(|leave| Push { leave, ..Push::default() }),
        (any::<u32>(), text()).prop_map(|(code, reason)| Push {
            unsubscribe: Some(client::Unsubscribed { code, reason }),
            ..Push::default()
        }),
        (any::<[bool; 2]>(), text(), any::<u64>(), data()).prop_map(
            |([recoverable, positioned], epoch, offset, data)| Push {
                subscribe: Some(client::SubscribedPush { recoverable, epoch, offset, positioned, data }),
                ..Push::default()
            }
        ),
    ];
    prop_oneof![
        5 => (text(), of_channel).prop_map(|(channel, push)| Push { channel, ..push }),
        1 => data().prop_map(|data| Push { message: Some(client::Note { data }), ..Push::default() }),
        1 => (any::<u16>(), text()).prop_map(|(code, reason)| Push {
            disconnect: Some(client::Disconnected { code: code.into(), reason, reconnect: false }),
            ..Push::default()
        }),
        1 => expiry.prop_map(|expiry| Push { refresh: Some(expiry), ..Push::default() }),
    ]
}

fn info() -> impl Strategy<Value = Info> + Clone {
    (text(), text(), data(), data()).prop_map(|(user, client, conn_info, chan_info)| Info {
        user,
        client,
        conn_info,
        chan_info,
    })
}

fn publication() -> impl Strategy<Value = Publication> + Clone {
    let tags = btree_map(text(), text(), 0..3);
    (data(), option::of(info()), any::<u64>(), tags, any::<bool>(), any::<i64>(), text()).prop_map(
        |(data, info, offset, tags, delta, time, epoch)| Publication {
            data,
            info,
            offset,
            tags,
            delta,
            time,
            epoch,
            ..Publication::default()
        },
    )
}

fn subscribed() -> impl Strategy<Value = Subscribed> {
    let publications = vec(publication(), 0..3);
    (any::<[bool; 6]>(), any::<u32>(), text(), publications, any::<u64>(), data()).prop_map(
        |(flags, ttl, epoch, publications, offset, data)| {
            let [expires, recoverable, recovered, positioned, was_recovering, delta] = flags;
            Subscribed {
                expires,
                ttl,
                recoverable,
                epoch,
                publications,
                recovered,
                offset,
                positioned,
                data,
                was_recovering,
                delta,
                ..Subscribed::default()
            }
        },
    )
}

fn connected() -> impl Strategy<Value = Connected> {
    let subs = btree_map(text(), subscribed(), 0..3);
    let texts = (text(), text(), text(), text());
    (texts, any::<[bool; 2]>(), any::<[u32; 2]>(), data(), subs, any::<i64>()).prop_map(
        |((client, version, session, node), [expires, pong], [ttl, ping], data, subs, time)| Connected {
            client,
            version,
            expires,
            ttl,
            data,
            subs,
            ping,
            pong,
            session,
            node,
            time,
            flag: 0,
        },
    )
}
