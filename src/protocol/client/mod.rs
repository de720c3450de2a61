//! The client's side of the protocol, for tests and for the load generator: commands are written, replies are read.
//!
//! Owned structs, derived for serde and prost from one definition each and independent of the server's encoders, so that a
//! test of one against the other proves something. Members are those of client-protocol.md section 2, with the names of the
//! wire but for `kind` (`type`), `filter` (`tf`) and `publication` (`pub`). Data is raw JSON on JSON connections and any
//! bytes on Protobuf ones; zero, empty, false and absent members are omitted.

mod reply;
mod request;

use prost::Message;

use super::{Encoding, Malformed};

pub use reply::{
    Connected, Disconnected, Error, HistoryPage, Info, Member, Note, PresenceMap, PresenceStats, Publication,
    Push, Refreshed, Reply, RpcAnswer, SubRefreshed, Subscribed, SubscribedPush, Unsubscribed,
};
pub use request::{
    Channel, Command, Connect, Empty, FilterNode, History, KeyedItem, Position, Publish, Refresh, Rpc, Send,
    SubRefresh, Subscribe, TrackBatch,
};

/// Data that is not JSON was to be written on a JSON connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("data is not JSON")]
pub struct NotJson;

impl Command {
    /// Asks to authenticate.
    #[must_use]
    pub fn connect(id: u32, connect: Connect) -> Self {
        Self { id, connect: Some(connect), ..Self::default() }
    }

    /// Asks to subscribe.
    #[must_use]
    pub fn subscribe(id: u32, subscribe: Subscribe) -> Self {
        Self { id, subscribe: Some(subscribe), ..Self::default() }
    }

    /// Asks to unsubscribe from `channel`.
    #[must_use]
    pub fn unsubscribe(id: u32, channel: &str) -> Self {
        Self { id, unsubscribe: Some(Channel { channel: channel.to_owned() }), ..Self::default() }
    }

    /// Asks to publish `data` into `channel`.
    #[must_use]
    pub fn publish(id: u32, channel: &str, data: &[u8]) -> Self {
        let publish = Publish { channel: channel.to_owned(), data: data.to_vec(), ..Publish::default() };
        Self { id, publish: Some(publish), ..Self::default() }
    }

    /// Appends the command to `out`. In JSON, several commands of a frame are separated by `\n`, which the caller writes.
    ///
    /// # Errors
    /// [`NotJson`] if `encoding` is JSON and some data is not; `out` is then as before.
    pub fn encode(&self, encoding: Encoding, out: &mut Vec<u8>) -> Result<(), NotJson> {
        match encoding {
            Encoding::Json => {
                let before = out.len();
                serde_json::to_writer(&mut *out, self).map_err(|_| {
                    out.truncate(before);
                    NotJson
                })
            }
            Encoding::Protobuf => {
                prost::encoding::encode_varint(self.encoded_len() as u64, out);
                self.encode_raw(out);
                Ok(())
            }
        }
    }
}

/// Appends the answer to a ping: the empty command.
pub fn encode_pong(encoding: Encoding, out: &mut Vec<u8>) {
    // A ping and a pong are the same bytes: nothing set, in a reply there and in a command here.
    super::encode_ping(out, encoding);
}

/// Decodes every reply of one transport frame.
///
/// # Errors
/// [`Malformed`] if the frame is empty or holds anything else.
pub fn replies(encoding: Encoding, frame: &[u8]) -> Result<Vec<Reply>, Malformed> {
    if frame.is_empty() {
        return Err(Malformed::Empty);
    }
    match encoding {
        Encoding::Json => json_replies(frame),
        Encoding::Protobuf => protobuf_replies(frame),
    }
}

fn json_replies(frame: &[u8]) -> Result<Vec<Reply>, Malformed> {
    let lines = frame.strip_suffix(b"\n").unwrap_or(frame);
    lines
        .split(|byte| *byte == b'\n')
        .map(|line| serde_json::from_slice(line).map_err(|_| Malformed::Json))
        .collect()
}

fn protobuf_replies(mut frame: &[u8]) -> Result<Vec<Reply>, Malformed> {
    let mut replies = Vec::new();
    while !frame.is_empty() {
        replies.push(Reply::decode_length_delimited(&mut frame).map_err(|_| Malformed::Protobuf)?);
    }
    Ok(replies)
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Data in JSON: the value as it stands, not base64.
mod raw {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, ser::Error};
    use serde_json::value::RawValue;

    pub(super) fn serialize<S: Serializer>(data: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serde_json::from_slice::<&RawValue>(data).map_err(S::Error::custom)?.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(|raw| raw.get().as_bytes().to_vec())
    }
}
