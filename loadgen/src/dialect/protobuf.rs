//! The client protocol in Protobuf: each message behind its length (client-protocol.md sections 1.3 and 2).

use std::collections::HashMap;

use prost::Message as _;

use super::{
    Command, Connected, Incoming, Opening, Position, PublicationPlace, Reply, ReplyBody, Subscribed,
};
use crate::marker;

/// First byte of a reply that is a push: field 4, length-delimited.
const PUSH_TAG: u8 = 0x22;

#[derive(Clone, PartialEq, prost::Message)]
struct Request {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(message, optional, tag = "4")]
    connect: Option<ConnectRequest>,
    #[prost(message, optional, tag = "5")]
    subscribe: Option<SubscribeRequest>,
    #[prost(message, optional, tag = "6")]
    unsubscribe: Option<ChannelRequest>,
    #[prost(message, optional, tag = "7")]
    publish: Option<PublishRequest>,
    #[prost(message, optional, tag = "9")]
    presence_stats: Option<ChannelRequest>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ConnectRequest {
    #[prost(string, tag = "1")]
    token: String,
    #[prost(map = "string, message", tag = "3")]
    subs: HashMap<String, SubscribeRequest>,
    #[prost(string, tag = "4")]
    name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SubscribeRequest {
    #[prost(string, tag = "1")]
    channel: String,
    #[prost(bool, tag = "3")]
    recover: bool,
    #[prost(string, tag = "6")]
    epoch: String,
    #[prost(uint64, tag = "7")]
    offset: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ChannelRequest {
    #[prost(string, tag = "1")]
    channel: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PublishRequest {
    #[prost(string, tag = "1")]
    channel: String,
    #[prost(bytes = "vec", tag = "2")]
    data: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ServerReply {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(message, optional, tag = "2")]
    error: Option<ErrorBody>,
    #[prost(message, optional, tag = "4")]
    push: Option<Push>,
    #[prost(message, optional, tag = "5")]
    connect: Option<ConnectResult>,
    #[prost(message, optional, tag = "6")]
    subscribe: Option<SubscribeResult>,
    #[prost(message, optional, tag = "10")]
    presence_stats: Option<StatsResult>,
}

/// An error: what counts is the code.
#[derive(Clone, PartialEq, prost::Message)]
struct ErrorBody {
    #[prost(uint32, tag = "1")]
    code: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StatsResult {
    #[prost(uint32, tag = "1")]
    clients: u32,
    #[prost(uint32, tag = "2")]
    users: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Push {
    #[prost(message, optional, tag = "4")]
    publication: Option<Publication>,
    #[prost(message, optional, tag = "5")]
    join: Option<Empty>,
    #[prost(message, optional, tag = "6")]
    leave: Option<Empty>,
    #[prost(message, optional, tag = "7")]
    unsubscribe: Option<UnsubscribePush>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct UnsubscribePush {
    #[prost(uint32, tag = "2")]
    code: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Empty {}

#[derive(Clone, PartialEq, prost::Message)]
struct Publication {
    #[prost(bytes = "vec", tag = "4")]
    data: Vec<u8>,
    #[prost(uint64, tag = "6")]
    offset: u64,
    #[prost(string, tag = "14")]
    epoch: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ConnectResult {
    #[prost(map = "string, message", tag = "6")]
    subs: HashMap<String, SubscribeResult>,
    #[prost(uint32, tag = "7")]
    ping: u32,
    #[prost(bool, tag = "8")]
    pong: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SubscribeResult {
    #[prost(bool, tag = "3")]
    recoverable: bool,
    #[prost(string, tag = "6")]
    epoch: String,
    #[prost(message, repeated, tag = "7")]
    publications: Vec<Publication>,
    #[prost(bool, tag = "8")]
    recovered: bool,
    #[prost(uint64, tag = "9")]
    offset: u64,
    #[prost(bool, tag = "12")]
    was_recovering: bool,
}

fn subscribe(channel: &str, position: Option<&Position>) -> SubscribeRequest {
    let (epoch, offset) = position.map_or(("", 0), |position| (position.epoch(), position.offset));
    SubscribeRequest {
        channel: channel.to_owned(),
        recover: position.is_some(),
        epoch: epoch.to_owned(),
        offset,
    }
}

/// The payload of the opening frame.
pub(super) fn opening(opening: &Opening<'_>) -> Vec<u8> {
    let personal = opening.personal.as_ref();
    let subs = personal.map(|position| (format!("#{}", opening.user), subscribe("", Some(position))));
    let connect = ConnectRequest {
        token: opening.token.to_owned(),
        subs: subs.into_iter().collect(),
        name: "millpond-load".to_owned(),
    };
    let mut out =
        Request { id: 1, connect: Some(connect), ..Request::default() }.encode_length_delimited_to_vec();
    for (index, channel) in opening.channels.iter().enumerate() {
        let subscribe = subscribe(channel, opening.positions.get(index));
        let id = u32::try_from(index + 2).unwrap_or(u32::MAX);
        let request = Request { id, subscribe: Some(subscribe), ..Request::default() };
        out.extend(request.encode_length_delimited_to_vec());
    }
    out
}

/// The payload of one command.
pub(super) fn command(id: u32, command: Command<'_>) -> Vec<u8> {
    let mut request = Request { id, ..Request::default() };
    let named = |channel: &str| Some(ChannelRequest { channel: channel.to_owned() });
    match command {
        Command::Publish { channel, data } => {
            request.publish = Some(PublishRequest { channel: channel.to_owned(), data: data.to_vec() });
        }
        Command::Subscribe { channel } => request.subscribe = Some(subscribe(channel, None)),
        Command::Unsubscribe { channel } => request.unsubscribe = named(channel),
        Command::PresenceStats { channel } => request.presence_stats = named(channel),
    }
    request.encode_length_delimited_to_vec()
}

/// Hands every message of a binary frame to `take`.
pub(super) fn read(payload: &[u8], places: bool, take: &mut dyn FnMut(Incoming)) {
    let mut rest = payload;
    if rest.is_empty() {
        take(Incoming::Malformed);
    }
    while !rest.is_empty() {
        let length = prost::decode_length_delimiter(&mut rest).ok().filter(|&length| length <= rest.len());
        let Some(length) = length else { return take(Incoming::Malformed) };
        let (message, after) = rest.split_at(length);
        rest = after;
        take(read_message(message, places));
    }
}

fn read_message(message: &[u8], places: bool) -> Incoming {
    if message.is_empty() {
        return Incoming::Ping;
    }
    if !places
        && message.first() == Some(&PUSH_TAG)
        && let Some((marker, _)) = marker::find(message)
    {
        return Incoming::Delivery(marker, None);
    }
    match ServerReply::decode(message) {
        Ok(reply) => reply.interpret(),
        Err(_) => Incoming::Malformed,
    }
}

impl ServerReply {
    fn interpret(self) -> Incoming {
        if let Some(push) = self.push {
            return push.interpret();
        }
        let body = match (self.error, self.connect, self.subscribe, self.presence_stats) {
            (Some(error), ..) => ReplyBody::Error(error.code),
            (_, Some(connect), ..) => ReplyBody::Connected(connect.into()),
            (_, _, Some(subscribe), _) => ReplyBody::Subscribed(subscribe.into()),
            (_, _, _, Some(stats)) => ReplyBody::PresenceStats(stats.clients, stats.users),
            _ => ReplyBody::Done,
        };
        if self.id == 0 { Incoming::Malformed } else { Incoming::Reply(Reply { id: self.id, body }) }
    }
}

impl Push {
    fn interpret(self) -> Incoming {
        if let Some(publication) = self.publication {
            let epoch = Some(publication.epoch).filter(|epoch| !epoch.is_empty());
            let place = PublicationPlace { offset: publication.offset, epoch };
            return match marker::find(&publication.data) {
                Some((marker, _)) => Incoming::Delivery(marker, Some(place)),
                None => Incoming::Other,
            };
        }
        match (self.join, self.leave, self.unsubscribe) {
            (Some(_), ..) => Incoming::Join,
            (_, Some(_), _) => Incoming::Leave,
            (_, _, Some(unsubscribe)) => Incoming::Unsubscribed(unsubscribe.code),
            _ => Incoming::Other,
        }
    }
}

impl From<ConnectResult> for Connected {
    fn from(result: ConnectResult) -> Self {
        let subscriptions = result.subs.into_iter().map(|(channel, sub)| (channel, sub.into())).collect();
        Self { ping_seconds: result.ping, pong: result.pong, subscriptions }
    }
}

impl From<SubscribeResult> for Subscribed {
    fn from(result: SubscribeResult) -> Self {
        let marks = |one: &Publication| marker::find(&one.data).map(|(marker, _)| marker);
        Self {
            recoverable: result.recoverable,
            was_recovering: result.was_recovering,
            recovered: result.recovered,
            offset: result.offset,
            last_offset: result.publications.last().map_or(0, |one| one.offset),
            publications: result.publications.iter().filter_map(marks).collect(),
            epoch: result.epoch,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    fn incoming(payload: &[u8]) -> Vec<Incoming> {
        let mut found = Vec::new();
        read(payload, true, &mut |one| found.push(one));
        found
    }

    /// The exchange recorded in golden-traces.txt.
    #[test]
    fn recorded_bytes_are_written_and_read() {
        let subscribe = Command::Subscribe { channel: "pbtest" };
        assert_eq!(command(2, subscribe), hex("0c08022a080a06706274657374"));
        let publish = Command::Publish { channel: "pbtest", data: b"hello" };
        assert_eq!(command(3, publish), hex("1308033a0f0a06706274657374120568656c6c6f"));
        let connect = "3908012a350a2436636664356338352d663236372d346261642d393162332d3166373239376131666235621209362e392e31204f535338194001";
        let [Incoming::Reply(Reply { id: 1, body: ReplyBody::Connected(connected) })] =
            &incoming(&hex(connect))[..]
        else {
            panic!()
        };
        assert!(connected.pong && connected.ping_seconds == 25);
        let subscribed = incoming(&hex("120802320e1801320847794b634d466f735001"));
        let [Incoming::Reply(Reply { id: 2, body: ReplyBody::Subscribed(subscribed) })] = &subscribed[..]
        else {
            panic!()
        };
        assert!(subscribed.recoverable && subscribed.epoch == "GyKcMFos");
        let pushed = "4722451206706274657374223b220568656c6c6f2a26122436636664356338352d663236372d346261642d393162332d3166373239376131666235623001720847794b634d466f730408034200";
        let found = incoming(&hex(pushed));
        assert_eq!(found, [Incoming::Other, Incoming::Reply(Reply { id: 3, body: ReplyBody::Done })]);
    }

    #[test]
    fn a_zero_byte_is_a_ping_and_a_short_message_is_malformed() {
        assert_eq!(incoming(&[0]), [Incoming::Ping]);
        assert_eq!(incoming(&[5, 1]), [Incoming::Malformed]);
        assert_eq!(incoming(&[]), [Incoming::Malformed]);
    }

    #[test]
    fn an_unsubscribe_push_gives_its_code() {
        let push = Push { unsubscribe: Some(UnsubscribePush { code: 2500 }), ..Push::default() };
        let reply = ServerReply { push: Some(push), ..ServerReply::default() };
        assert_eq!(incoming(&reply.encode_length_delimited_to_vec()), [Incoming::Unsubscribed(2500)]);
    }
}
