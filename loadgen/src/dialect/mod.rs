//! What is spoken over the WebSocket: the client protocol in JSON or Protobuf, or plain frames of the user's choice.
//!
//! A dialect writes whole frames and reads whole messages; it holds no state of a connection.

pub mod json;
pub mod plain;
pub mod protobuf;

use tungstenite::protocol::frame::coding::OpCode;

use crate::marker::Marker;
use crate::ws;

/// A dialect.
#[derive(Debug, Clone)]
pub enum Dialect {
    /// The client protocol, one JSON object a line.
    Json,
    /// The client protocol, varint-delimited Protobuf messages.
    Protobuf,
    /// Frames of the user's choice, for other servers.
    Plain(Box<plain::Plain>),
}

/// A place in the history of a channel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    /// Offset of the last publication that was read.
    pub offset: u64,
    /// The epoch's characters; the rest is zero. Empty means none known.
    pub epoch: [u8; 16],
}

impl Position {
    /// A position from what a server answered. An epoch longer than the 16 bytes held is kept cut, and recovery will
    /// then fail visibly.
    #[must_use]
    pub fn new(offset: u64, epoch: &str) -> Self {
        let mut held = [0; 16];
        for (slot, byte) in held.iter_mut().zip(epoch.bytes()) {
            *slot = byte;
        }
        Self { offset, epoch: held }
    }

    /// The epoch as text.
    #[must_use]
    pub fn epoch(&self) -> &str {
        let end = self.epoch.iter().position(|&byte| byte == 0).unwrap_or(self.epoch.len());
        std::str::from_utf8(&self.epoch[..end]).unwrap_or_default()
    }
}

/// The first words of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Opening<'a> {
    /// Number of the client.
    pub number: u32,
    /// Its user name.
    pub user: &'a str,
    /// Its token, or empty.
    pub token: &'a str,
    /// Channels to subscribe in the same breath.
    pub channels: &'a [String],
    /// Where each channel was left; empty, or as long as `channels`.
    pub positions: &'a [Position],
    /// Where the personal channel was left, if it is to be recovered.
    pub personal: Option<Position>,
}

/// One command after the opening.
#[derive(Debug, Clone, Copy)]
pub enum Command<'a> {
    /// Publish data (JSON) into a channel.
    Publish {
        /// The channel.
        channel: &'a str,
        /// One JSON value.
        data: &'a [u8],
    },
    /// Subscribe to a channel.
    Subscribe {
        /// The channel.
        channel: &'a str,
    },
    /// Leave a channel.
    Unsubscribe {
        /// The channel.
        channel: &'a str,
    },
    /// Ask how many are in a channel.
    PresenceStats {
        /// The channel.
        channel: &'a str,
    },
}

/// One message of the server.
#[derive(Debug, Clone, PartialEq)]
pub enum Incoming {
    /// An application ping.
    Ping,
    /// The answer to a command.
    Reply(Reply),
    /// A publication that carries a mark of ours.
    Delivery(Marker, Option<PublicationPlace>),
    /// Somebody joined a channel.
    Join,
    /// Somebody left a channel.
    Leave,
    /// The server ended a subscription.
    Unsubscribed(u32),
    /// Something else that is well-formed.
    Other,
    /// Something that is not well-formed.
    Malformed,
}

/// Where a publication stands in its channel's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicationPlace {
    /// Its offset; 0 without history.
    pub offset: u64,
    /// The epoch, which only the first publication of a stream carries.
    pub epoch: Option<String>,
}

/// The answer to a command.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// Id of the command.
    pub id: u32,
    /// What it said.
    pub body: ReplyBody,
}

/// The body of a reply.
#[derive(Debug, Clone, PartialEq)]
pub enum ReplyBody {
    /// The command failed with this code.
    Error(u32),
    /// Connected.
    Connected(Connected),
    /// Subscribed.
    Subscribed(Subscribed),
    /// How many connections and how many users are in a channel.
    PresenceStats(u32, u32),
    /// Any other success.
    Done,
}

/// The answer to `connect`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Connected {
    /// Seconds between pings; 0 for none.
    pub ping_seconds: u32,
    /// Whether pings are to be answered.
    pub pong: bool,
    /// Server-side subscriptions.
    pub subscriptions: Vec<(String, Subscribed)>,
}

/// The answer to `subscribe`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Subscribed {
    /// The subscription can be recovered.
    pub recoverable: bool,
    /// The client had asked for recovery.
    pub was_recovering: bool,
    /// Nothing is missing.
    pub recovered: bool,
    /// Offset the client is to go on from.
    pub offset: u64,
    /// Epoch of the channel.
    pub epoch: String,
    /// Marks of the recovered publications, in order.
    pub publications: Vec<Marker>,
    /// The offset of the last recovered publication; 0 without any.
    pub last_offset: u64,
}

impl Subscribed {
    /// Where the client stands after reading this.
    #[must_use]
    pub fn position(&self) -> Position {
        Position::new(self.offset.max(self.last_offset), &self.epoch)
    }
}

impl Dialect {
    /// The subprotocol to offer in the upgrade request.
    #[must_use]
    pub fn subprotocol(&self) -> Option<&str> {
        match self {
            Self::Json => None,
            Self::Protobuf => Some("centrifuge-protobuf"),
            Self::Plain(plain) => plain.subprotocol.as_deref(),
        }
    }

    /// How many replies make the opening complete.
    #[must_use]
    pub fn replies_expected(&self, channels: usize) -> u8 {
        match self {
            Self::Json | Self::Protobuf => u8::try_from(channels + 1).unwrap_or(u8::MAX),
            Self::Plain(plain) => u8::from(plain.ready.is_some()),
        }
    }

    /// Appends the frames that open the conversation.
    pub fn write_opening(&self, opening: &Opening<'_>, mask: [u8; 4], out: &mut Vec<u8>) {
        match self {
            Self::Json => ws::write_frame(out, ws::TEXT, &json::opening(opening), mask),
            Self::Protobuf => ws::write_frame(out, ws::BINARY, &protobuf::opening(opening), mask),
            Self::Plain(plain) => plain.write_opening(opening, mask, out),
        }
    }

    /// Appends the frame of one command. A plain server knows only `Publish`.
    pub fn write_command(&self, id: u32, command: Command<'_>, mask: [u8; 4], out: &mut Vec<u8>) {
        match self {
            Self::Json => ws::write_frame(out, ws::TEXT, &json::command(id, command), mask),
            Self::Protobuf => ws::write_frame(out, ws::BINARY, &protobuf::command(id, command), mask),
            Self::Plain(plain) => plain.write_command(command, mask, out),
        }
    }

    /// Appends the answer to an application ping.
    pub fn write_pong(&self, mask: [u8; 4], out: &mut Vec<u8>) {
        match self {
            Self::Json => ws::write_frame(out, ws::TEXT, b"{}", mask),
            Self::Protobuf => ws::write_frame(out, ws::BINARY, &[0], mask),
            Self::Plain(plain) => plain.write_pong(mask, out),
        }
    }

    /// Hands every message of one WebSocket message to `take`. `places` asks for offsets of publications, which cost
    /// more to find.
    pub fn read(&self, opcode: OpCode, payload: &[u8], places: bool, take: &mut dyn FnMut(Incoming)) {
        match self {
            Self::Json if opcode == ws::TEXT => json::read(payload, places, take),
            Self::Protobuf if opcode == ws::BINARY => protobuf::read(payload, places, take),
            Self::Json | Self::Protobuf => take(Incoming::Malformed),
            Self::Plain(plain) => plain.read(payload, take),
        }
    }
}
