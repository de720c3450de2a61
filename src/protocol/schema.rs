//! The layout of what clients send, once for both encodings: name and number of every member, and where it goes.
//!
//! [`Message`] finds members, [`Value`] fills them. `kind` is `type` on the wire, `filter` is `tf`.

use serde::de::MapAccess;

use super::command::{
    Body, ChannelOnly, Command, Connect, Filter, History, Malformed, Position, Publish, Refresh, Rpc,
    SendData, SubRefresh, Subscribe,
};
use super::protobuf::Wire;
use super::value::Value;

/// A message that is decoded member by member. By default it has none, and whatever comes is ignored.
pub(super) trait Message<'a>: Default {
    /// Number of the member called `name` in JSON, below 32; `None` for unknown ones, which are ignored.
    fn number(name: &str) -> Option<u32> {
        let _ = name;
        None
    }

    /// Takes the next value of a JSON object as member `number`.
    fn json<M: MapAccess<'a>>(&mut self, number: u32, map: &mut M) -> Result<(), M::Error> {
        let _ = (number, map);
        Ok(())
    }

    /// Takes a Protobuf field; unknown numbers are ignored, a repeated one replaces or extends.
    fn protobuf(&mut self, number: u32, wire: Wire<'a>) -> Result<(), Malformed> {
        let _ = (number, wire);
        Ok(())
    }
}

macro_rules! message {
    ($type:ident { $($number:literal $name:literal => $field:ident),+ $(,)? }) => {
        impl<'a> Message<'a> for $type<'a> {
            fn number(name: &str) -> Option<u32> {
                match name {
                    $($name => Some($number),)+
                    _ => None,
                }
            }

            fn json<M: MapAccess<'a>>(&mut self, number: u32, map: &mut M) -> Result<(), M::Error> {
                match number {
                    $($number => self.$field = Value::json(map)?,)+
                    _ => {}
                }
                Ok(())
            }

            fn protobuf(&mut self, number: u32, wire: Wire<'a>) -> Result<(), Malformed> {
                match number {
                    $($number => self.$field.protobuf(wire),)+
                    _ => Ok(()),
                }
            }
        }
    };
}

message!(Connect { 1 "token" => token, 2 "data" => data, 3 "subs" => subs, 4 "name" => name, 5 "version" => version,
    6 "headers" => headers });
message!(Subscribe { 1 "channel" => channel, 2 "token" => token, 3 "recover" => recover, 6 "epoch" => epoch,
    7 "offset" => offset, 8 "data" => data, 9 "positioned" => positioned, 10 "recoverable" => recoverable,
    11 "join_leave" => join_leave, 12 "delta" => delta, 13 "tf" => filter, 14 "flag" => flag, 15 "type" => kind,
    16 "phase" => phase, 17 "cursor" => cursor, 18 "limit" => limit, 19 "asc" => asc });
message!(ChannelOnly { 1 "channel" => channel });
message!(Publish { 1 "channel" => channel, 2 "data" => data, 3 "type" => kind, 4 "key" => key,
    5 "removed" => removed });
message!(History { 1 "channel" => channel, 7 "limit" => limit, 8 "since" => since, 9 "reverse" => reverse });
message!(Position { 1 "offset" => offset, 2 "epoch" => epoch });
message!(Rpc { 1 "data" => data, 2 "method" => method });
message!(SendData { 1 "data" => data });
message!(Refresh { 1 "token" => token });
message!(SubRefresh { 1 "channel" => channel, 2 "token" => token, 3 "type" => kind });

impl Message<'_> for Filter {}

/// The explicit ping.
#[derive(Default)]
struct Ping;

impl Message<'_> for Ping {}

/// A command while its members come in.
#[derive(Default)]
pub(super) struct Draft<'a> {
    id: u32,
    /// The member that counts so far: of those that came, the first in the order of dispatch.
    body: Option<Body<'a>>,
    /// Bit `n`: member number `n` came.
    seen: u32,
}

/// Numbers of the members that ask for something.
mod number {
    pub(super) const ID: u32 = 1;
    pub(super) const CONNECT: u32 = 4;
    pub(super) const SUBSCRIBE: u32 = 5;
    pub(super) const UNSUBSCRIBE: u32 = 6;
    pub(super) const PUBLISH: u32 = 7;
    pub(super) const PRESENCE: u32 = 8;
    pub(super) const PRESENCE_STATS: u32 = 9;
    pub(super) const HISTORY: u32 = 10;
    pub(super) const PING: u32 = 11;
    pub(super) const SEND: u32 = 12;
    pub(super) const RPC: u32 = 13;
    pub(super) const REFRESH: u32 = 14;
    pub(super) const SUB_REFRESH: u32 = 15;
}

impl<'a> Draft<'a> {
    /// The command, now that every member came.
    pub(super) fn finish(self) -> Command<'a> {
        let body = self.body.unwrap_or(if self.id == 0 { Body::Pong } else { Body::None });
        Command { id: self.id, body }
    }

    /// Keeps `body` if it goes before what came so far. `None` stands for a JSON `null`.
    fn offer(&mut self, body: Option<Body<'a>>) {
        let before = self.body.as_ref().map_or(u32::MAX, dispatch_order);
        if body.as_ref().is_some_and(|body| dispatch_order(body) < before) {
            self.body = body;
        }
    }
}

/// Smaller is dispatched first.
fn dispatch_order(body: &Body<'_>) -> u32 {
    match body {
        Body::Connect(_) => 0,
        Body::Ping => 1,
        Body::Subscribe(_) => 2,
        Body::Unsubscribe(_) => 3,
        Body::Publish(_) => 4,
        Body::Presence(_) => 5,
        Body::PresenceStats(_) => 6,
        Body::History(_) => 7,
        Body::Rpc(_) => 8,
        Body::Send(_) => 9,
        Body::Refresh(_) => 10,
        Body::SubRefresh(_) => 11,
        Body::Pong | Body::None => u32::MAX,
    }
}

impl<'a> Message<'a> for Draft<'a> {
    fn number(name: &str) -> Option<u32> {
        Some(match name {
            "id" => number::ID,
            "connect" => number::CONNECT,
            "subscribe" => number::SUBSCRIBE,
            "unsubscribe" => number::UNSUBSCRIBE,
            "publish" => number::PUBLISH,
            "presence" => number::PRESENCE,
            "presence_stats" => number::PRESENCE_STATS,
            "history" => number::HISTORY,
            "ping" => number::PING,
            "send" => number::SEND,
            "rpc" => number::RPC,
            "refresh" => number::REFRESH,
            "sub_refresh" => number::SUB_REFRESH,
            _ => return None,
        })
    }

    fn json<M: MapAccess<'a>>(&mut self, number: u32, map: &mut M) -> Result<(), M::Error> {
        let body = match number {
            number::ID => {
                self.id = Value::json(map)?;
                None
            }
            number::CONNECT => Option::json(map)?.map(|body| Body::Connect(Box::new(body))),
            number::SUBSCRIBE => Option::json(map)?.map(|body| Body::Subscribe(Box::new(body))),
            number::UNSUBSCRIBE => Option::json(map)?.map(Body::Unsubscribe),
            number::PUBLISH => Option::json(map)?.map(Body::Publish),
            number::PRESENCE => Option::json(map)?.map(Body::Presence),
            number::PRESENCE_STATS => Option::json(map)?.map(Body::PresenceStats),
            number::HISTORY => Option::json(map)?.map(Body::History),
            number::PING => Option::json(map)?.map(|Ping| Body::Ping),
            number::SEND => Option::json(map)?.map(Body::Send),
            number::RPC => Option::json(map)?.map(Body::Rpc),
            number::REFRESH => Option::json(map)?.map(Body::Refresh),
            number::SUB_REFRESH => Option::json(map)?.map(Body::SubRefresh),
            _ => None,
        };
        self.offer(body);
        Ok(())
    }

    fn protobuf(&mut self, number: u32, wire: Wire<'a>) -> Result<(), Malformed> {
        if number == number::ID {
            return self.id.protobuf(wire);
        }
        let body = match number {
            number::CONNECT => Body::Connect(Box::new(wire.message()?)),
            number::SUBSCRIBE => Body::Subscribe(Box::new(wire.message()?)),
            number::UNSUBSCRIBE => Body::Unsubscribe(wire.message()?),
            number::PUBLISH => Body::Publish(wire.message()?),
            number::PRESENCE => Body::Presence(wire.message()?),
            number::PRESENCE_STATS => Body::PresenceStats(wire.message()?),
            number::HISTORY => Body::History(wire.message()?),
            number::PING => wire.message().map(|Ping| Body::Ping)?,
            number::SEND => Body::Send(wire.message()?),
            number::RPC => Body::Rpc(wire.message()?),
            number::REFRESH => Body::Refresh(wire.message()?),
            number::SUB_REFRESH => Body::SubRefresh(wire.message()?),
            _ => return Ok(()),
        };
        // Protobuf would merge a repeated message. No encoder writes one, and JSON refuses it as well.
        let bit = 1 << number;
        if self.seen & bit != 0 {
            return Err(Malformed::Protobuf);
        }
        self.seen |= bit;
        self.offer(Some(body));
        Ok(())
    }
}
