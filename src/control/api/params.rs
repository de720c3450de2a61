//! Parameters of the server API as JSON gives them (server-api.md section 1.2). Absent and `null` mean the zero value,
//! unknown members are ignored, a member of the wrong type makes the request unparsable (HTTP 400).

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::mailbox::{
    MailboxAckParams, MailboxForgetParams, MailboxInfoParams, MailboxListParams, MailboxPurgeParams,
    SendParams,
};
use super::objects::{list, object_or_default, optional};
use crate::hub::api::{ApiError, ApiPublish, ApiSubscribe, Overrides, Position, Target};
use crate::protocol::is_json;

/// `publish` (with `channel`) and `broadcast` (with `channels`).
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct PublishParams<'a> {
    #[serde(deserialize_with = "or_default")]
    pub(super) channel: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) channels: Vec<String>,
    #[serde(borrow, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(deserialize_with = "or_default")]
    b64data: String,
    #[serde(deserialize_with = "or_default")]
    skip_history: bool,
    #[serde(deserialize_with = "or_default")]
    tags: Tags,
    #[serde(deserialize_with = "or_default")]
    idempotency_key: String,
    #[serde(deserialize_with = "or_default")]
    version: u64,
    #[serde(deserialize_with = "or_default")]
    version_epoch: String,
}

impl PublishParams<'_> {
    /// The publication for `self.channel`. Whether empty data is allowed is up to the namespace: the shard knows.
    pub(super) fn into_publish(self) -> Result<ApiPublish, ApiError> {
        Ok(ApiPublish {
            channel: self.channel,
            data: payload(self.data, &self.b64data)?.unwrap_or_default(),
            skip_history: self.skip_history,
            tags: self.tags.0,
            idempotency_key: self.idempotency_key,
            version: self.version,
            version_epoch: self.version_epoch,
        })
    }
}

/// `subscribe`.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct SubscribeParams<'a> {
    #[serde(deserialize_with = "or_default")]
    user: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) channel: String,
    #[serde(deserialize_with = "or_default")]
    client: String,
    #[serde(deserialize_with = "or_default")]
    session: String,
    #[serde(borrow, deserialize_with = "present")]
    info: Option<&'a RawValue>,
    #[serde(deserialize_with = "or_default")]
    b64info: String,
    #[serde(borrow, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(deserialize_with = "or_default")]
    b64data: String,
    #[serde(deserialize_with = "optional")]
    recover_since: Option<PositionParams>,
    #[serde(rename = "override", deserialize_with = "object_or_default")]
    overrides: OverrideParams,
    #[serde(deserialize_with = "or_default")]
    expire_at: i64,
}

impl SubscribeParams<'_> {
    pub(super) fn into_subscribe(self) -> Result<ApiSubscribe, ApiError> {
        let of = &self.overrides;
        Ok(ApiSubscribe {
            overrides: Overrides {
                presence: value(of.presence),
                join_leave: value(of.join_leave),
                force_push_join_leave: value(of.force_push_join_leave),
                force_positioning: value(of.force_positioning),
                force_recovery: value(of.force_recovery),
            },
            info: payload(self.info, &self.b64info)?,
            data: payload(self.data, &self.b64data)?,
            target: target(self.user, self.client, self.session),
            channel: self.channel,
            recover_since: self.recover_since.map(Position::from),
            expire_at: unix_seconds(self.expire_at),
        })
    }
}

/// `unsubscribe`.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct UnsubscribeParams {
    #[serde(deserialize_with = "or_default")]
    user: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) channel: String,
    #[serde(deserialize_with = "or_default")]
    client: String,
    #[serde(deserialize_with = "or_default")]
    session: String,
}

impl UnsubscribeParams {
    pub(super) fn split(self) -> (Target, String) {
        (target(self.user, self.client, self.session), self.channel)
    }
}

/// `disconnect`.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct DisconnectParams {
    #[serde(deserialize_with = "or_default")]
    user: String,
    #[serde(deserialize_with = "or_default")]
    client: String,
    #[serde(deserialize_with = "or_default")]
    session: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) whitelist: Vec<String>,
    #[serde(deserialize_with = "optional")]
    pub(super) disconnect: Option<CodeParams>,
}

impl DisconnectParams {
    pub(super) fn target(&mut self) -> Target {
        let take = std::mem::take;
        target(take(&mut self.user), take(&mut self.client), take(&mut self.session))
    }
}

/// `disconnect.disconnect`.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct CodeParams {
    #[serde(deserialize_with = "or_default")]
    pub(super) code: u32,
    #[serde(deserialize_with = "or_default")]
    pub(super) reason: String,
}

/// `refresh`.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct RefreshParams<'a> {
    #[serde(deserialize_with = "or_default")]
    user: String,
    #[serde(deserialize_with = "or_default")]
    client: String,
    #[serde(deserialize_with = "or_default")]
    session: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) expired: bool,
    #[serde(deserialize_with = "or_default")]
    expire_at: i64,
    #[serde(borrow, deserialize_with = "present")]
    info: Option<&'a RawValue>,
}

impl RefreshParams<'_> {
    pub(super) fn target(&mut self) -> Target {
        let take = std::mem::take;
        target(take(&mut self.user), take(&mut self.client), take(&mut self.session))
    }

    pub(super) fn expire_at(&self) -> u64 {
        unix_seconds(self.expire_at)
    }

    pub(super) fn info(&self) -> Result<Option<Bytes>, ApiError> {
        self.info.map(json_payload).transpose()
    }
}

/// `presence_stats`, `history_remove`.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct ChannelParams {
    #[serde(deserialize_with = "or_default")]
    pub(super) channel: String,
}

/// `presence`; `limit` and `cursor` are ours: with neither, all members in one answer.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct PresenceParams {
    #[serde(deserialize_with = "or_default")]
    pub(super) channel: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) limit: u32,
    #[serde(deserialize_with = "or_default")]
    pub(super) cursor: String,
}

/// `history`.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct HistoryParams {
    #[serde(deserialize_with = "or_default")]
    pub(super) channel: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) limit: i32,
    #[serde(deserialize_with = "optional")]
    pub(super) since: Option<PositionParams>,
    #[serde(deserialize_with = "or_default")]
    pub(super) reverse: bool,
}

/// A stream position.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct PositionParams {
    #[serde(deserialize_with = "or_default")]
    offset: u64,
    #[serde(deserialize_with = "or_default")]
    epoch: String,
}

impl From<PositionParams> for Position {
    fn from(of: PositionParams) -> Self {
        Self { offset: of.offset, epoch: of.epoch }
    }
}

/// `channels`; `limit` and `cursor` are ours.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct ChannelsParams {
    #[serde(deserialize_with = "or_default")]
    pub(super) pattern: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) limit: u32,
    #[serde(deserialize_with = "or_default")]
    pub(super) cursor: String,
}

/// `info`, and methods that are not offered.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct NoParams {}

/// `user_presence`.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct UserPresenceParams {
    #[serde(deserialize_with = "or_default")]
    pub(super) users: Vec<String>,
}

/// `connections`.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct ConnectionsParams {
    #[serde(deserialize_with = "or_default")]
    pub(super) user: String,
}

/// `rpc`.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct RpcParams {
    #[serde(deserialize_with = "or_default")]
    pub(super) method: String,
}

/// `batch`.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct BatchParams<'a> {
    #[serde(borrow, deserialize_with = "list")]
    pub(super) commands: Vec<BatchCommand<'a>>,
    #[serde(deserialize_with = "or_default")]
    pub(super) parallel: bool,
}

/// One command of a batch: the first present member counts.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct BatchCommand<'a> {
    #[serde(borrow, deserialize_with = "optional")]
    pub(super) publish: Option<Box<PublishParams<'a>>>,
    #[serde(borrow, deserialize_with = "optional")]
    pub(super) broadcast: Option<Box<PublishParams<'a>>>,
    #[serde(borrow, deserialize_with = "optional")]
    pub(super) subscribe: Option<Box<SubscribeParams<'a>>>,
    #[serde(deserialize_with = "optional")]
    pub(super) unsubscribe: Option<Box<UnsubscribeParams>>,
    #[serde(deserialize_with = "optional")]
    pub(super) disconnect: Option<Box<DisconnectParams>>,
    #[serde(deserialize_with = "optional")]
    pub(super) presence: Option<Box<PresenceParams>>,
    #[serde(deserialize_with = "optional")]
    pub(super) presence_stats: Option<ChannelParams>,
    #[serde(deserialize_with = "optional")]
    pub(super) history: Option<Box<HistoryParams>>,
    #[serde(deserialize_with = "optional")]
    pub(super) history_remove: Option<ChannelParams>,
    #[serde(deserialize_with = "optional")]
    pub(super) info: Option<NoParams>,
    #[serde(deserialize_with = "optional")]
    pub(super) rpc: Option<RpcParams>,
    #[serde(borrow, deserialize_with = "optional")]
    pub(super) refresh: Option<Box<RefreshParams<'a>>>,
    #[serde(deserialize_with = "optional")]
    pub(super) channels: Option<Box<ChannelsParams>>,
    #[serde(deserialize_with = "optional")]
    pub(super) user_presence: Option<Box<UserPresenceParams>>,
    #[serde(deserialize_with = "optional")]
    pub(super) connections: Option<Box<ConnectionsParams>>,
    #[serde(borrow, deserialize_with = "optional")]
    pub(super) send: Option<Box<SendParams<'a>>>,
    #[serde(deserialize_with = "optional")]
    pub(super) mailbox_info: Option<MailboxInfoParams>,
    #[serde(deserialize_with = "optional")]
    pub(super) mailbox_list: Option<MailboxListParams>,
    #[serde(deserialize_with = "optional")]
    pub(super) mailbox_ack: Option<MailboxAckParams>,
    #[serde(deserialize_with = "optional")]
    pub(super) mailbox_forget: Option<MailboxForgetParams>,
    #[serde(deserialize_with = "optional")]
    pub(super) mailbox_purge: Option<MailboxPurgeParams>,
    /// Methods that this program does not offer.
    #[serde(
        rename = "map_publish",
        alias = "map_remove",
        alias = "map_read_state",
        alias = "map_read_stream",
        alias = "map_stats",
        alias = "map_clear",
        alias = "shared_poll_publish",
        deserialize_with = "optional"
    )]
    pub(super) not_offered: Option<NoParams>,
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct OverrideParams {
    #[serde(deserialize_with = "optional")]
    presence: Option<BoolValue>,
    #[serde(deserialize_with = "optional")]
    join_leave: Option<BoolValue>,
    #[serde(deserialize_with = "optional")]
    force_push_join_leave: Option<BoolValue>,
    #[serde(deserialize_with = "optional")]
    force_positioning: Option<BoolValue>,
    #[serde(deserialize_with = "optional")]
    force_recovery: Option<BoolValue>,
}

#[derive(Clone, Copy, Default, serde::Deserialize)]
#[serde(default)]
struct BoolValue {
    #[serde(deserialize_with = "or_default")]
    value: bool,
}

/// Tags in the order given; of equal keys the last value counts.
#[derive(Default)]
pub(super) struct Tags(pub(super) Vec<(String, String)>);

impl<'de> Deserialize<'de> for Tags {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Tags;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tags, A::Error> {
                let mut places: HashMap<String, usize> = HashMap::new();
                let mut tags: Vec<(String, String)> = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    match places.get(&key).and_then(|place| tags.get_mut(*place)) {
                        Some(tag) => tag.1 = value,
                        None => {
                            places.insert(key.clone(), tags.len());
                            tags.push((key, value));
                        }
                    }
                }
                Ok(Tags(tags))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// `null` is the zero value.
pub(super) fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A raw member, where `null` is a payload like any other.
pub(super) fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

fn value(of: Option<BoolValue>) -> Option<bool> {
    of.map(|of| of.value)
}

fn target(user: String, client: String, session: String) -> Target {
    let narrow = |id: String| Some(id).filter(|id| !id.is_empty());
    Target { user, client: narrow(client), session: narrow(session) }
}

/// Times before 1970 are as good as "never set".
fn unix_seconds(time: i64) -> u64 {
    u64::try_from(time).unwrap_or(0)
}

/// The binary alternative wins where both are given.
pub(super) fn payload(json: Option<&RawValue>, base64: &str) -> Result<Option<Bytes>, ApiError> {
    if base64.is_empty() {
        return json.map(json_payload).transpose();
    }
    STANDARD.decode(base64).map(|bytes| Some(Bytes::from(bytes))).map_err(|_| ApiError::BadRequest)
}

/// The JSON as it came, but on one line: line feeds separate messages on the wire to clients, and in valid JSON they
/// can only stand between tokens. What nests deeper than clients may send themselves is refused here: delivered, it would
/// cost every JSON subscriber the connection (3506).
fn json_payload(json: &RawValue) -> Result<Bytes, ApiError> {
    let text = json.get().as_bytes();
    if !is_json(text) {
        return Err(ApiError::BadRequest);
    }
    Ok(if text.contains(&b'\n') {
        text.iter().copied().filter(|byte| *byte != b'\n').collect()
    } else {
        Bytes::copy_from_slice(text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(json: &str) -> Result<ApiPublish, ApiError> {
        serde_json::from_str::<PublishParams<'_>>(json).unwrap().into_publish()
    }

    #[test]
    fn data_is_kept_verbatim_but_for_line_feeds() {
        let cases = [
            (r#"{"data":{"x": 1,  "y":1e400, "z":"\u00e9\n"}}"#, r#"{"x": 1,  "y":1e400, "z":"\u00e9\n"}"#),
            ("{\"data\":{\n \"x\":\r\n1}}", "{ \"x\":\r1}"),
            (r#"{"data":null}"#, "null"),
            (r#"{"data":"null","b64data":""}"#, r#""null""#),
            (r#"{"data":1,"b64data":"AAEC"}"#, "\0\u{1}\u{2}"),
            ("{}", ""),
        ];
        for (json, data) in cases {
            assert_eq!(publish(json).unwrap().data, data.as_bytes(), "{json}");
        }
        let deep = format!(r#"{{"data":{}{}}}"#, "[".repeat(129), "]".repeat(129));
        assert_eq!(publish(&deep).unwrap_err(), ApiError::BadRequest);
        assert_eq!(publish(r#"{"b64data":"?"}"#).unwrap_err(), ApiError::BadRequest);
    }

    #[test]
    fn null_and_unknown_members_are_nothing() {
        let all =
            r#"{"channel":null,"tags":null,"version":null,"skip_history":null,"delta":true,"new":[{}]}"#;
        let publish = publish(all).unwrap();
        assert_eq!((publish.channel.as_str(), publish.version, publish.tags.len()), ("", 0, 0));
    }

    #[test]
    fn tags_keep_their_order_and_the_last_value() {
        let publish = publish(r#"{"tags":{"z":"1","a":"2","z":"3"}}"#).unwrap();
        assert_eq!(publish.tags, [("z".to_owned(), "3".to_owned()), ("a".to_owned(), "2".to_owned())]);
    }

    #[test]
    fn wrong_types_are_unparsable() {
        for json in
            [r#"{"channel":1}"#, r#"{"version":-1}"#, r#"{"tags":{"a":1}}"#, r#"{"data":}"#, "[]x", ""]
        {
            assert!(serde_json::from_str::<PublishParams<'_>>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn overrides_tell_absent_from_false() {
        let json = r#"{"channel":"c","override":{"presence":{},"force_recovery":{"value":true},"join_leave":null},
                       "client":"","session":"s","expire_at":-5,"recover_since":{"offset":3}}"#;
        let subscribe = serde_json::from_str::<SubscribeParams<'_>>(json).unwrap().into_subscribe().unwrap();
        let overrides =
            Overrides { presence: Some(false), force_recovery: Some(true), ..Overrides::default() };
        assert_eq!(subscribe.overrides, overrides);
        assert_eq!((subscribe.target.client, subscribe.target.session), (None, Some("s".to_owned())));
        assert_eq!((subscribe.expire_at, subscribe.recover_since.unwrap().offset), (0, 3));
    }
}
