//! Commands of a client: their types, and the framing that cuts a transport frame into them.
//!
//! | frame | commands |
//! |---|---|
//! | JSON | one object a line, separated by one `\n`; one more `\n` may end the frame |
//! | Protobuf | messages, each behind its length as a varint |
//!
//! A frame without a command, and a blank line, are [`Malformed`]. Commands before the fault are still yielded: the
//! reference server executes them, too.

use std::borrow::Cow;

use memchr::memchr;

use super::schema::Draft;
use super::{Encoding, json, protobuf};

/// One command. `id` is 0 where absent; which commands need one is for the hub to say.
#[derive(Clone, Debug, PartialEq)]
pub struct Command<'a> {
    /// Number that the reply repeats.
    pub id: u32,
    /// What is asked.
    pub body: Body<'a>,
}

/// What a command asks. Where several are set, the first in this order counts (client-protocol.md section 3).
#[derive(Clone, Debug, PartialEq)]
pub enum Body<'a> {
    /// Authenticate.
    Connect(Box<Connect<'a>>),
    /// The `ping` member, which no SDK sends: disconnect 3501. (Answers to pings are [`Body::Pong`].)
    Ping,
    /// Subscribe to a channel.
    Subscribe(Box<Subscribe<'a>>),
    /// Unsubscribe from a channel.
    Unsubscribe(ChannelOnly<'a>),
    /// Publish into a channel.
    Publish(Publish<'a>),
    /// Who is in a channel.
    Presence(ChannelOnly<'a>),
    /// How many are in a channel.
    PresenceStats(ChannelOnly<'a>),
    /// Publications of a channel.
    History(History<'a>),
    /// Call a method.
    Rpc(Rpc<'a>),
    /// Data without a reply.
    Send(SendData<'a>),
    /// New connection token.
    Refresh(Refresh<'a>),
    /// New subscription token, or tracking of keys.
    SubRefresh(SubRefresh<'a>),
    /// The empty command: answers a ping of the server.
    Pong,
    /// An id, but nothing asked: disconnect 3501.
    None,
}

/// `connect`. `flag`, `dict` and `profile` offer features that this server does not have and are ignored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Connect<'a> {
    /// Connection JWT, empty if none.
    pub token: Cow<'a, str>,
    /// Custom data.
    pub data: Option<Cow<'a, [u8]>>,
    /// Server-side subscriptions to take up or to recover, by channel. In JSON no channel repeats.
    pub subs: Vec<(Cow<'a, str>, Subscribe<'a>)>,
    /// Name of the client software.
    pub name: Cow<'a, str>,
    /// Version of the client software.
    pub version: Cow<'a, str>,
    /// Emulated HTTP headers. In JSON no name repeats.
    pub headers: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

/// `subscribe`, and the wish for a server-side subscription in `connect`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Subscribe<'a> {
    /// The channel.
    pub channel: Cow<'a, str>,
    /// Subscription JWT, empty if none.
    pub token: Cow<'a, str>,
    /// Continue from `offset` and `epoch`.
    pub recover: bool,
    /// Epoch of the known position.
    pub epoch: Cow<'a, str>,
    /// Offset of the known position.
    pub offset: u64,
    /// Custom data.
    pub data: Option<Cow<'a, [u8]>>,
    /// Asks for positioning.
    pub positioned: bool,
    /// Asks for recovery.
    pub recoverable: bool,
    /// Asks for join and leave pushes.
    pub join_leave: bool,
    /// Asks for delta compression of this kind.
    pub delta: Cow<'a, str>,
    /// Asks for filtering by tags (`tf`).
    pub filter: Option<Filter>,
    /// Bit 0 offers channel compaction, bit 1 rejects instead of subscribing unrecovered.
    pub flag: i64,
    /// `type`: 0 stream, 1..=3 map, 4 shared poll.
    pub kind: i32,
    /// Phase of a map subscription: 2 state, 1 stream, 0 live.
    pub phase: i32,
    /// Page of a map subscription.
    pub cursor: Cow<'a, str>,
    /// Page size of a map subscription.
    pub limit: i32,
    /// Order of a map subscription.
    pub asc: bool,
}

/// A tags filter was given. Its nodes are not decoded, since this server does not filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filter;

/// `unsubscribe`, `presence`, `presence_stats`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChannelOnly<'a> {
    /// The channel.
    pub channel: Cow<'a, str>,
}

/// `publish`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Publish<'a> {
    /// The channel.
    pub channel: Cow<'a, str>,
    /// Payload; `None` if absent or empty.
    pub data: Option<Cow<'a, [u8]>>,
    /// `type`: 0 normal, 1 map.
    pub kind: i32,
    /// Key of a map entry.
    pub key: Cow<'a, str>,
    /// Removes the map entry.
    pub removed: bool,
}

/// `history`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History<'a> {
    /// The channel.
    pub channel: Cow<'a, str>,
    /// 0 = only the position, -1 = as many as there are.
    pub limit: i32,
    /// Start position, not included.
    pub since: Option<Position<'a>>,
    /// Newest first.
    pub reverse: bool,
}

/// A place in a channel's stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Position<'a> {
    /// Publications up to here are known.
    pub offset: u64,
    /// Incarnation of the stream; empty = any.
    pub epoch: Cow<'a, str>,
}

/// `rpc`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rpc<'a> {
    /// Parameters.
    pub data: Option<Cow<'a, [u8]>>,
    /// Method name.
    pub method: Cow<'a, str>,
}

/// `send`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SendData<'a> {
    /// The payload.
    pub data: Option<Cow<'a, [u8]>>,
}

/// `refresh`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Refresh<'a> {
    /// New connection JWT.
    pub token: Cow<'a, str>,
}

/// `sub_refresh`. The batches of `track` and `untrack` are not decoded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SubRefresh<'a> {
    /// The channel.
    pub channel: Cow<'a, str>,
    /// New subscription JWT.
    pub token: Cow<'a, str>,
    /// `type`: 0 token refresh, 1 track, 2 untrack.
    pub kind: i32,
}

/// A frame that is not a sequence of commands. The reaction is always disconnect 3501; the variant is for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Malformed {
    /// No command, or a blank line.
    #[error("no command")]
    Empty,
    /// Text that is not UTF-8.
    #[error("text is not UTF-8")]
    Utf8,
    /// Not a JSON object of the expected form: syntax, types, repeated members, numbers out of range, lone surrogates,
    /// nesting too deep.
    #[error("not a command in JSON")]
    Json,
    /// A Protobuf length that is not a varint or reaches beyond the frame.
    #[error("length prefix is wrong")]
    Length,
    /// Not a Protobuf message of the expected form: keys, varints, wire types, numbers out of range, repeated commands.
    #[error("not a command in Protobuf")]
    Protobuf,
}

/// The commands of one transport frame. After a fault the iterator ends.
pub fn commands(encoding: Encoding, frame: &[u8]) -> Commands<'_> {
    Commands { encoding, rest: Some(frame) }
}

/// Iterator over the commands of one frame.
#[derive(Clone, Debug)]
pub struct Commands<'a> {
    encoding: Encoding,
    /// What is still to decode; `None` at the end and after a fault.
    rest: Option<&'a [u8]>,
}

impl<'a> Iterator for Commands<'a> {
    type Item = Result<Command<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.rest.take()?;
        let command = match self.encoding {
            Encoding::Json => self.json(rest),
            Encoding::Protobuf => self.protobuf(rest),
        };
        if command.is_err() {
            self.rest = None;
        }
        Some(command)
    }
}

impl std::iter::FusedIterator for Commands<'_> {}

impl<'a> Commands<'a> {
    /// What has not been decoded yet: whole commands, empty at the end and after a fault.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest.unwrap_or_default()
    }

    fn json(&mut self, rest: &'a [u8]) -> Result<Command<'a>, Malformed> {
        let line = match memchr(b'\n', rest).and_then(|at| rest.split_at_checked(at)) {
            Some((line, separated)) => {
                self.rest = separated.get(1..).filter(|rest| !rest.is_empty());
                line
            }
            None => rest,
        };
        match line {
            b"" => Err(Malformed::Empty),
            b"{}" => Ok(Command { id: 0, body: Body::Pong }),
            _ => json::command(line).map(Draft::finish),
        }
    }

    fn protobuf(&mut self, mut rest: &'a [u8]) -> Result<Command<'a>, Malformed> {
        if rest.is_empty() {
            return Err(Malformed::Empty);
        }
        let message = protobuf::delimited(&mut rest).ok_or(Malformed::Length)?;
        self.rest = Some(rest).filter(|rest| !rest.is_empty());
        protobuf::command(message).map(Draft::finish)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that a frame yields.
    fn all(encoding: Encoding, frame: &[u8]) -> Vec<Result<Command<'_>, Malformed>> {
        commands(encoding, frame).collect()
    }

    fn json(line: &str) -> Result<Command<'_>, Malformed> {
        let mut all = all(Encoding::Json, line.as_bytes());
        assert_eq!(all.len(), 1, "{line}");
        all.remove(0)
    }

    /// The only command of a Protobuf message, which gets its length prefix here.
    fn protobuf(message: &[u8]) -> Result<Command<'static>, Malformed> {
        let frame = [&[u8::try_from(message.len()).unwrap()], message].concat();
        let mut all = all(Encoding::Protobuf, frame.leak());
        assert_eq!(all.len(), 1, "{message:x?}");
        all.remove(0)
    }

    const PONG: Result<Command<'_>, Malformed> = Ok(Command { id: 0, body: Body::Pong });

    #[test]
    fn json_frames_are_cut_at_newlines() {
        let empty = Err(Malformed::Empty);
        for (frame, expected) in [
            ("", vec![empty.clone()]),
            ("\n", vec![empty.clone()]),
            ("\n{}", vec![empty.clone()]),
            ("{}", vec![PONG]),
            ("{}\n", vec![PONG]),
            ("{}\n{}", vec![PONG, PONG]),
            ("{}\r\n{}\r\n", vec![PONG, PONG]),
            ("{}\n\n", vec![PONG, empty.clone()]),
            ("{}\n\n{}", vec![PONG, empty.clone()]),
            ("{}\n{", vec![PONG, Err(Malformed::Json)]),
            ("{}\n \n{}", vec![PONG, Err(Malformed::Json)]),
        ] {
            assert_eq!(all(Encoding::Json, frame.as_bytes()), expected, "{frame:?}");
        }
    }

    #[test]
    fn protobuf_frames_are_cut_by_lengths() {
        let wrong = Err(Malformed::Length);
        let none = Ok(Command { id: 3, body: Body::None });
        for (frame, expected) in [
            (&[][..], vec![Err(Malformed::Empty)]),
            (&[0], vec![PONG]),
            (&[0, 0], vec![PONG, PONG]),
            (&[2, 8, 3, 0], vec![none.clone(), PONG]),
            (&[0x82, 0, 8, 3], vec![none.clone()]),
            (&[0x80], vec![wrong.clone()]),
            (&[1], vec![wrong.clone()]),
            (&[3, 8, 3], vec![wrong.clone()]),
            (&[2, 8, 3, 5, 8], vec![none, wrong.clone()]),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0], vec![wrong.clone()]),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0], vec![wrong.clone()]),
            (&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0], vec![wrong]),
        ] {
            assert_eq!(all(Encoding::Protobuf, frame), expected, "{frame:x?}");
        }
    }

    #[test]
    fn nothing_asked_is_a_pong_without_an_id() {
        for pong in ["{}", "{ }", r#"{"id":0}"#, r#"{"id":null,"connect":null}"#, r#"{"new":{"a":[1]}}"#] {
            assert_eq!(json(pong), PONG, "{pong}");
        }
        assert_eq!(json(r#"{"id":4294967295}"#), Ok(Command { id: u32::MAX, body: Body::None }));
        assert_eq!(protobuf(&[8, 0]), PONG);
        assert_eq!(
            protobuf(&[8, 0xff, 0xff, 0xff, 0xff, 15]),
            Ok(Command { id: u32::MAX, body: Body::None })
        );
        assert_eq!(json(r#"{"id":1,"ping":{}}"#), Ok(Command { id: 1, body: Body::Ping }));
        assert_eq!(protobuf(&[8, 1, 0x5a, 0]), Ok(Command { id: 1, body: Body::Ping }));
    }

    #[test]
    fn of_several_requests_the_first_in_dispatch_order_counts() {
        let channel = |channel| ChannelOnly { channel: Cow::Borrowed(channel) };
        let expected = Ok(Command { id: 1, body: Body::Unsubscribe(channel("a")) });
        assert_eq!(json(r#"{"presence":{"channel":"b"},"unsubscribe":{"channel":"a"},"id":1}"#), expected);
        assert_eq!(json(r#"{"unsubscribe":{"channel":"a"},"id":1,"sub_refresh":{},"rpc":{}}"#), expected);
        assert_eq!(protobuf(b"\x42\x03\x0a\x01b\x32\x03\x0a\x01a\x08\x01\x7a\x00"), expected);
        let late = json(r#"{"sub_refresh":{},"refresh":{},"send":{},"rpc":{},"history":{},"ping":{}}"#);
        assert_eq!(late, Ok(Command { id: 0, body: Body::Ping }));
    }

    #[test]
    fn text_and_data_borrow_from_the_frame() {
        let Ok(Command { body: Body::Publish(publish), .. }) =
            json(r#"{"id":1,"publish":{"channel":"a","data":  {"x": [1, 2]} }}"#)
        else {
            panic!("publish")
        };
        assert!(matches!(publish.channel, Cow::Borrowed("a")));
        assert!(matches!(publish.data, Some(Cow::Borrowed(b"{\"x\": [1, 2]}"))), "verbatim");
        let Ok(Command { body: Body::Rpc(rpc), .. }) =
            json(r#"{"id":1,"rpc":{"method":"\u0061\n😀","data":null}}"#)
        else {
            panic!("rpc")
        };
        assert_eq!(rpc, Rpc { method: "a\n😀".into(), data: Some(b"null".into()) });
        let Ok(Command { body: Body::Publish(publish), .. }) = protobuf(b"\x3a\x05\x0a\x01a\x12\x00") else {
            panic!("publish")
        };
        assert_eq!(publish, Publish { channel: "a".into(), ..Publish::default() }, "empty data is absent");
    }

    #[test]
    fn unknown_members_are_ignored() {
        let line =
            r#"{"x":[{"y":"}"}],"id":1,"subscribe":{"channel":"a","new":{"id":"7"},"flag":3},"z":1e999}"#;
        let expected = Subscribe { channel: "a".into(), flag: 3, ..Subscribe::default() };
        assert_eq!(json(line), Ok(Command { id: 1, body: Body::Subscribe(Box::new(expected)) }));
        // A varint, eight bytes, text and four bytes with numbers that do not exist, on both levels.
        let unknown = b"\xa0\x06\x80\x01\xa1\x06\0\0\0\0\0\0\0\0\xa2\x06\x02hi\xa5\x06\0\0\0\0";
        let presence = [&b"\x0a\x01a"[..], unknown].concat();
        let message = [unknown, &b"\x08\x01\x42"[..], &[presence.len() as u8], &presence].concat();
        let expected = Body::Presence(ChannelOnly { channel: "a".into() });
        assert_eq!(protobuf(&message), Ok(Command { id: 1, body: expected }));
    }

    #[test]
    fn a_tags_filter_is_noticed_but_not_decoded() {
        for (line, filter) in [
            (r#"{"subscribe":{"tf":{"op":"and","nodes":[{"key":"a"},{"cmp":5}]}}}"#, Some(Filter)),
            (r#"{"subscribe":{"tf":{}}}"#, Some(Filter)),
            (r#"{"subscribe":{"tf":null}}"#, None),
        ] {
            let expected = Body::Subscribe(Box::new(Subscribe { filter, ..Subscribe::default() }));
            assert_eq!(json(line), Ok(Command { id: 0, body: expected }), "{line}");
        }
        let expected = Body::Subscribe(Box::new(Subscribe { filter: Some(Filter), ..Subscribe::default() }));
        assert_eq!(protobuf(b"\x2a\x05\x6a\x03\x0a\x01x"), Ok(Command { id: 0, body: expected }));
    }

    #[test]
    fn what_is_not_a_command_in_protobuf_is_malformed() {
        let cases: [(&str, &[u8]); 23] = [
            ("key alone", b"\x08"),
            ("varint without end", b"\x08\x80"),
            ("varint of 11 bytes", b"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00"),
            ("varint beyond 64 bits", b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"),
            ("id beyond 32 bits", b"\x08\x80\x80\x80\x80\x10"),
            ("id as text", b"\x0a\x011"),
            ("id in four bytes", b"\x0d\x01\0\0\0"),
            ("field 0", b"\x00\x01"),
            ("key beyond 32 bits", b"\x80\x80\x80\x80\x10\x01"),
            ("wire type 6", b"\x0e\x01"),
            ("wire type 7", b"\x0f\x01"),
            ("group", b"\xa3\x06\xa4\x06"),
            ("end of no group", b"\xa4\x06"),
            ("four bytes cut", b"\xa5\x06\0\0\0"),
            ("eight bytes cut", b"\xa1\x06\0\0\0\0\0\0\0"),
            ("unknown field longer than the message", b"\xa2\x06\x02x"),
            ("connect as number", b"\x20\x01"),
            ("connect longer than the message", b"\x22\x05\x0a"),
            ("channel longer than the request", b"\x2a\x03\x0a\x05a"),
            ("channel as number", b"\x2a\x02\x08\x01"),
            ("limit beyond 32 bits", b"\x52\x06\x38\x80\x80\x80\x80\x08"),
            ("request twice", b"\x42\x00\x42\x00"),
            ("length of 2^64 - 1", b"\x22\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
        ];
        for (name, message) in cases {
            assert_eq!(protobuf(message), Err(Malformed::Protobuf), "{name}");
        }
        assert_eq!(protobuf(b"\x2a\x03\x0a\x01\xff"), Err(Malformed::Utf8), "channel");
        assert_eq!(protobuf(b"\x22\x05\x1a\x03\x0a\x01\xc3"), Err(Malformed::Utf8), "key of a map");
    }

    #[test]
    fn a_negative_limit_is_a_varint_of_ten_bytes() {
        let message = b"\x52\x0b\x38\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
        let expected = Body::History(History { limit: -1, ..History::default() });
        assert_eq!(protobuf(message), Ok(Command { id: 0, body: expected }));
    }

    #[test]
    fn data_nests_128_levels_and_the_envelope_32() {
        let nested = |levels: usize| ["[".repeat(levels), "]".repeat(levels)].concat();
        for (data, ignored, fits) in [(128, 0, true), (129, 0, false), (0, 28, true), (0, 32, false)] {
            let (data, ignored) = (nested(data), nested(ignored));
            let (data, ignored) =
                (if data.is_empty() { "1" } else { &data }, if ignored.is_empty() { "1" } else { &ignored });
            for line in [
                format!(r#"{{"id":1,"publish":{{"data":{data},"new":{ignored}}}}}"#),
                format!(r#"{{"id":1,"publish":{{"data":{data}}},"new":{ignored}}}"#),
                format!(
                    r#"{{"id":1,"connect":{{"subs":{{"a":{{"data":{data},"tf":{{"nodes":{ignored}}}}}}}}}}}"#
                ),
            ] {
                assert_eq!(json(&line).is_ok(), fits, "{line}");
            }
        }
    }
}
