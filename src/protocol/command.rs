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
