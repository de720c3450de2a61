//! The client protocol in JSON: one object a line (client-protocol.md section 1.3).
//!
//! Publications are the bulk of what arrives, so they are recognised by their first bytes and by our mark; everything
//! else, and one publication in [`SAMPLE`], is read by serde.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashMap;

use memchr::memmem;
use serde::{Deserialize, Serialize};

use super::{
    Command, Connected, Incoming, Opening, Position, PublicationPlace, Reply, ReplyBody, Subscribed,
};
use crate::marker;

/// One publication in this many is checked to be well-formed JSON.
const SAMPLE: u32 = 1024;
const PUSH: &[u8] = b"{\"push\":";

#[derive(Serialize, Default)]
struct Request<'a> {
    id: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect: Option<Connect<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscribe: Option<Subscribe<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unsubscribe: Option<Channel<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    presence_stats: Option<Channel<'a>>,
}

#[derive(Serialize)]
struct Connect<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    token: &'a str,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    subs: HashMap<String, Subscribe<'a>>,
    name: &'a str,
}

#[derive(Serialize)]
struct Channel<'a> {
    channel: &'a str,
}

#[derive(Serialize, Default)]
struct Subscribe<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    channel: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    recover: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    epoch: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    offset: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl<'a> Subscribe<'a> {
    fn from(channel: &'a str, position: Option<&'a Position>) -> Self {
        let (epoch, offset) = position.map_or(("", 0), |position| (position.epoch(), position.offset));
        Self { channel, recover: position.is_some(), epoch, offset }
    }
}

/// The payload of the opening frame: `connect`, and every `subscribe`, one a line.
pub(super) fn opening(opening: &Opening<'_>) -> Vec<u8> {
    let personal = opening.personal.as_ref();
    let subs = personal.map(|position| (format!("#{}", opening.user), Subscribe::from("", Some(position))));
    let connect = Connect { token: opening.token, subs: subs.into_iter().collect(), name: "millpond-load" };
    let mut out = Vec::with_capacity(256 + opening.token.len());
    write_line(&mut out, &Request { id: 1, connect: Some(connect), ..Request::default() });
    for (index, channel) in opening.channels.iter().enumerate() {
        let id = u32::try_from(index + 2).unwrap_or(u32::MAX);
        let subscribe = Subscribe::from(channel, opening.positions.get(index));
        out.push(b'\n');
        write_line(&mut out, &Request { id, subscribe: Some(subscribe), ..Request::default() });
    }
    out
}

/// The payload of one command.
pub(super) fn command(id: u32, command: Command<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    let request = Request { id, ..Request::default() };
    match command {
        Command::Publish { channel, data } => write_publish(id, channel, data, &mut out),
        Command::Subscribe { channel } => {
            let subscribe = Some(Subscribe::from(channel, None));
            write_line(&mut out, &Request { subscribe, ..request });
        }
        Command::Unsubscribe { channel } => {
            write_line(&mut out, &Request { unsubscribe: Some(Channel { channel }), ..request });
        }
        Command::PresenceStats { channel } => {
            write_line(&mut out, &Request { presence_stats: Some(Channel { channel }), ..request });
        }
    }
    out
}

/// `data` is JSON already and goes in as it is.
fn write_publish(id: u32, channel: &str, data: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{{\"id\":{id},\"publish\":{{\"channel\":").as_bytes());
    write_line(out, &channel);
    out.extend_from_slice(b",\"data\":");
    out.extend_from_slice(data);
    out.extend_from_slice(b"}}");
}

fn write_line(out: &mut Vec<u8>, value: &impl Serialize) {
    // These types have no map with odd keys and a Vec takes every write: serialising cannot fail.
    let _ = serde_json::to_writer(out, value);
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(default)]
    id: u32,
    error: Option<ErrorBody>,
    connect: Option<ConnectBody>,
    subscribe: Option<SubscribeBody>,
    presence_stats: Option<StatsBody>,
    #[serde(borrow)]
    push: Option<PushBody<'a>>,
}

#[derive(Deserialize)]
struct ErrorBody {
    code: u32,
}

#[derive(Deserialize)]
struct StatsBody {
    num_clients: u32,
    num_users: u32,
}

#[derive(Deserialize)]
struct ConnectBody {
    #[serde(default)]
    ping: u32,
    #[serde(default)]
    pong: bool,
    #[serde(default)]
    subs: HashMap<String, SubscribeBody>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct SubscribeBody {
    recoverable: bool,
    was_recovering: bool,
    recovered: bool,
    offset: u64,
    epoch: String,
    publications: Vec<Place>,
}

#[derive(Deserialize)]
struct Place {
    #[serde(default)]
    offset: u64,
    data: Option<serde_json::Value>,
}

/// A publication of which only the place matters: its data has been searched for our mark already.
#[derive(Deserialize)]
struct Spot {
    #[serde(default)]
    offset: u64,
    epoch: Option<String>,
}

#[derive(Deserialize)]
struct PushBody<'a> {
    #[serde(borrow)]
    #[allow(dead_code, reason = "a push without a channel's name is malformed unless it says so")]
    channel: Option<Cow<'a, str>>,
    #[serde(rename = "pub")]
    publication: Option<Spot>,
    join: Option<serde::de::IgnoredAny>,
    leave: Option<serde::de::IgnoredAny>,
    unsubscribe: Option<ErrorBody>,
}

/// Hands every message of a text frame to `take`.
pub(super) fn read(payload: &[u8], places: bool, take: &mut dyn FnMut(Incoming)) {
    let payload = payload.strip_suffix(b"\n").unwrap_or(payload);
    let mut start = 0;
    for end in memchr::memchr_iter(b'\n', payload) {
        take(read_line(&payload[start..end], places));
        start = end + 1;
    }
    take(read_line(&payload[start..], places));
}

fn read_line(line: &[u8], places: bool) -> Incoming {
    if line == b"{}" {
        return Incoming::Ping;
    }
    if line.starts_with(PUSH)
        && !sampled()
        && let Some((marker, end)) = marker::find(line)
    {
        // Behind our mark stand no more data, only the fields that the server adds.
        match (places, place(&line[end..])) {
            (false, _) => return Incoming::Delivery(marker, None),
            (true, Some(place)) => return Incoming::Delivery(marker, Some(place)),
            (true, None) => {}
        }
    }
    match serde_json::from_slice::<Message<'_>>(line) {
        Ok(message) => message.interpret(line),
        Err(_) => Incoming::Malformed,
    }
}

/// The place of a publication by its last fields; `None` where it takes a closer look.
fn place(fields: &[u8]) -> Option<PublicationPlace> {
    if memmem::find(fields, b"\"epoch\":").is_some() {
        return None;
    }
    let digits = &fields[memmem::find(fields, b"\"offset\":")? + b"\"offset\":".len()..];
    let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    let offset = std::str::from_utf8(&digits[..end]).ok()?.parse().ok()?;
    Some(PublicationPlace { offset, epoch: None })
}

/// Whether this message is one to look at closely.
fn sampled() -> bool {
    thread_local!(static COUNT: Cell<u32> = const { Cell::new(0) });
    let count = COUNT.get().wrapping_add(1);
    COUNT.set(count);
    count.is_multiple_of(SAMPLE)
}

impl Message<'_> {
    fn interpret(self, line: &[u8]) -> Incoming {
        if let Some(push) = self.push {
            return push.interpret(line);
        }
        let body = match (self.error, self.connect, self.subscribe, self.presence_stats) {
            (Some(error), ..) => ReplyBody::Error(error.code),
            (_, Some(connect), ..) => ReplyBody::Connected(connect.into()),
            (_, _, Some(subscribe), _) => ReplyBody::Subscribed(subscribe.into()),
            (_, _, _, Some(stats)) => ReplyBody::PresenceStats(stats.num_clients, stats.num_users),
            _ => ReplyBody::Done,
        };
        if self.id == 0 { Incoming::Malformed } else { Incoming::Reply(Reply { id: self.id, body }) }
    }
}

impl PushBody<'_> {
    fn interpret(self, line: &[u8]) -> Incoming {
        if let Some(publication) = self.publication {
            let place = PublicationPlace { offset: publication.offset, epoch: publication.epoch };
            return match marker::find(line) {
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

impl From<ConnectBody> for Connected {
    fn from(body: ConnectBody) -> Self {
        let subscriptions = body.subs.into_iter().map(|(channel, sub)| (channel, sub.into())).collect();
        Self { ping_seconds: body.ping, pong: body.pong, subscriptions }
    }
}

impl From<SubscribeBody> for Subscribed {
    fn from(body: SubscribeBody) -> Self {
        let marks = |place: &Place| place.data.as_ref().and_then(mark_of);
        Self {
            recoverable: body.recoverable,
            was_recovering: body.was_recovering,
            recovered: body.recovered,
            offset: body.offset,
            last_offset: body.publications.last().map_or(0, |place| place.offset),
            publications: body.publications.iter().filter_map(marks).collect(),
            epoch: body.epoch,
        }
    }
}

fn mark_of(data: &serde_json::Value) -> Option<marker::Marker> {
    data.get("m")
        .and_then(serde_json::Value::as_str)
        .and_then(|text| marker::find(text.as_bytes()))
        .map(|(marker, _)| marker)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::marker::Marker;

    fn incoming(text: &str, places: bool) -> Vec<Incoming> {
        let mut found = Vec::new();
        read(text.as_bytes(), places, &mut |one| found.push(one));
        found
    }

    #[test]
    fn the_opening_is_connect_and_subscribe_one_a_line() {
        let channels = ["ch7".to_owned(), "x".to_owned()];
        let positions = [Position::new(3, "abcd"), Position::default()];
        let text = opening(&Opening {
            number: 7,
            user: "u7",
            token: "t",
            channels: &channels,
            positions: &positions,
            personal: None,
        });
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "{\"id\":1,\"connect\":{\"token\":\"t\",\"name\":\"millpond-load\"}}\n\
             {\"id\":2,\"subscribe\":{\"channel\":\"ch7\",\"recover\":true,\"epoch\":\"abcd\",\"offset\":3}}\n\
             {\"id\":3,\"subscribe\":{\"channel\":\"x\",\"recover\":true}}"
        );
    }

    #[test]
    fn recorded_replies_are_understood() {
        let found = incoming(
            "{\"id\":1,\"connect\":{\"client\":\"299eeec3\",\"version\":\"6.9.1 OSS\",\"ping\":25,\"pong\":true,\
             \"subs\":{\"#u\":{\"recoverable\":true,\"epoch\":\"e\",\"offset\":4}}}}\n\
             {\"id\":2,\"error\":{\"code\":103,\"message\":\"permission denied\"}}\n{}\n",
            false,
        );
        let Incoming::Reply(Reply { id: 1, body: ReplyBody::Connected(connected) }) = &found[0] else {
            panic!("{found:?}")
        };
        assert!(connected.pong && connected.ping_seconds == 25);
        assert_eq!(connected.subscriptions[0].1.position(), Position::new(4, "e"));
        assert_eq!(found[1], Incoming::Reply(Reply { id: 2, body: ReplyBody::Error(103) }));
        assert_eq!(found[2], Incoming::Ping);
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn publications_are_found_fast_and_with_their_place() {
        let marker = Marker { run: 1, channel: 0, lane: 0, sequence: 9, intended_ns: 5 };
        let mut data = Vec::new();
        marker.write_json(70, &mut data);
        let data = String::from_utf8(data).unwrap();
        let push = format!("{{\"push\":{{\"channel\":\"c\",\"pub\":{{\"data\":{data},\"offset\":12}}}}}}");
        assert_eq!(incoming(&push, false), [Incoming::Delivery(marker, None)]);
        let place = PublicationPlace { offset: 12, epoch: None };
        assert_eq!(incoming(&push, true), [Incoming::Delivery(marker, Some(place))]);
        let first = push.replace("\"offset\":12", "\"offset\":1,\"epoch\":\"e\"");
        let place = PublicationPlace { offset: 1, epoch: Some("e".into()) };
        assert_eq!(incoming(&first, true), [Incoming::Delivery(marker, Some(place))]);
        let reply = format!(
            "{{\"id\":2,\"subscribe\":{{\"recovered\":true,\"epoch\":\"e\",\"offset\":7,\"publications\":[{{\"data\":{data},\"offset\":12}}]}}}}"
        );
        let Incoming::Reply(Reply { body: ReplyBody::Subscribed(subscribed), .. }) =
            &incoming(&reply, false)[0]
        else {
            panic!()
        };
        assert_eq!((subscribed.position().offset, subscribed.publications.as_slice()), (12, &[marker][..]));
    }

    #[test]
    fn what_is_not_json_is_malformed() {
        assert_eq!(incoming("{\"id\":", false), [Incoming::Malformed]);
        assert_eq!(incoming("{\"id\":1}\n\n{}", false)[1], Incoming::Malformed);
    }

    #[test]
    fn a_publish_command_carries_its_data_unchanged() {
        let text = command(4, Command::Publish { channel: "a\"b", data: b"{\"x\": 1}" });
        assert_eq!(text, br#"{"id":4,"publish":{"channel":"a\"b","data":{"x": 1}}}"#);
    }
}
