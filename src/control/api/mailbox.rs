//! `send` and the methods of mailboxes. Everything goes to the store, which answers once the log has it.

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

use super::execute::{Executor, Failure, Outcome, done, render, unexpected};
use super::params::{Tags, or_default, payload, present};
use super::results::{BroadcastResult, Empty, Pairs, PublishResult, Response, payload as write_payload};
use crate::base::duration::parse_ms;
use crate::hub::api::{
    ApiAnswer, ApiCommand, ApiError, ApiSend, MailboxView, Position, STORE, StoredMessage,
};
use crate::limits::{BYTES_PER_SEND, DEVICE_BYTES, MAILBOX_LISTED, USER_ID_BYTES, USERS_PER_SEND};

/// Messages of `mailbox_list` where no limit is given.
const LISTED_BY_DEFAULT: u32 = 100;

/// `send`: to one `user`, or to each of `users`.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct SendParams<'a> {
    #[serde(deserialize_with = "or_default")]
    user: String,
    #[serde(deserialize_with = "or_default")]
    users: Vec<String>,
    #[serde(borrow, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(deserialize_with = "or_default")]
    b64data: String,
    #[serde(deserialize_with = "or_default")]
    ttl: Ttl,
    #[serde(deserialize_with = "or_default")]
    idempotency_key: String,
    #[serde(deserialize_with = "or_default")]
    tags: Tags,
}

/// `mailbox_info`.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct MailboxInfoParams {
    #[serde(deserialize_with = "or_default")]
    user: String,
    #[serde(deserialize_with = "or_default")]
    device: String,
}

/// `mailbox_list`.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct MailboxListParams {
    #[serde(deserialize_with = "or_default")]
    user: String,
    #[serde(deserialize_with = "or_default")]
    since: u64,
    #[serde(deserialize_with = "or_default")]
    limit: u32,
}

/// `mailbox_ack`.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct MailboxAckParams {
    #[serde(deserialize_with = "or_default")]
    user: String,
    #[serde(deserialize_with = "or_default")]
    device: String,
    offset: Option<u64>,
}

/// `mailbox_forget`.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct MailboxForgetParams {
    #[serde(deserialize_with = "or_default")]
    user: String,
    #[serde(deserialize_with = "or_default")]
    device: String,
}

/// `mailbox_purge`.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct MailboxPurgeParams {
    #[serde(deserialize_with = "or_default")]
    user: String,
}

/// Why a request is bad: code 107, and the reason in its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SendFault {
    #[error("bad request: give either user or users")]
    Users,
    #[error("bad request: more than {USERS_PER_SEND} users")]
    TooManyUsers,
    #[error("bad request: a user id has 1 to {USER_ID_BYTES} bytes")]
    User,
    #[error("bad request: device is missing")]
    NoDevice,
    #[error("bad request: data (or b64data) is missing")]
    NoData,
    #[error("bad request: b64data is not base64 (RFC 4648 section 4, with padding)")]
    Base64,
    #[error("bad request: data nests deeper than clients may be sent")]
    Json,
    #[error("bad request: ttl is not {EXPECTED_TTL}")]
    Ttl,
    #[error("bad request: data and tags have {bytes} bytes, more than the {most} that a message may have")]
    TooLarge { bytes: usize, most: usize },
    #[error(
        "bad request: data for all these users is more than {BYTES_PER_SEND} bytes; send to fewer at a time"
    )]
    TooMuch,
    #[error("bad request: a device has 1 to {DEVICE_BYTES} bytes")]
    Device,
    #[error("bad request: offset is missing")]
    NoOffset,
}

/// A time to live in whole seconds, rounded up: a number of seconds, or text with units such as `"1h30m"`. `None` if it
/// is a number or text of another kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ttl(Option<u32>);

/// What a time to live is.
const EXPECTED_TTL: &str = "seconds, or a duration with units (ms, s, m, h, d) such as 1h30m";

impl Ttl {
    fn seconds(self) -> Result<u32, SendFault> {
        self.0.ok_or(SendFault::Ttl)
    }
}

impl Default for Ttl {
    fn default() -> Self {
        Self(Some(0))
    }
}

impl<'de> Deserialize<'de> for Ttl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Seconds;
        impl Visitor<'_> for Seconds {
            type Value = Ttl;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str(EXPECTED_TTL)
            }

            fn visit_u64<E: serde::de::Error>(self, seconds: u64) -> Result<Ttl, E> {
                // What is beyond 136 years is as good as never.
                Ok(Ttl(Some(u32::try_from(seconds).unwrap_or(u32::MAX))))
            }

            fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<Ttl, E> {
                Ok(Ttl(None))
            }

            fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Ttl, E> {
                Ok(Ttl(None))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Ttl, E> {
                match parse_ms(text) {
                    Some(ms) => self.visit_u64(ms.div_ceil(1000)),
                    None => Ok(Ttl(None)),
                }
            }
        }
        deserializer.deserialize_any(Seconds)
    }
}

/// To whom, and whether the answer is a list.
struct Recipients {
    users: Vec<String>,
    listed: bool,
}

impl SendParams<'_> {
    fn split(self, most: usize) -> Result<(Recipients, ApiSend), Failure> {
        let recipients = match (self.user.is_empty(), self.users.is_empty()) {
            (false, true) => Recipients { users: vec![checked_user(self.user)?], listed: false },
            (true, false) => Recipients { users: self.users, listed: true },
            (false, false) | (true, true) => return Err(SendFault::Users.into()),
        };
        if recipients.users.len() > USERS_PER_SEND {
            return Err(SendFault::TooManyUsers.into());
        }
        let fault = if self.b64data.is_empty() { SendFault::Json } else { SendFault::Base64 };
        let data = payload(self.data, &self.b64data).map_err(|_| fault)?.filter(|data| !data.is_empty());
        let data = data.ok_or(SendFault::NoData)?;
        let bytes = size(&data, &self.tags.0);
        if bytes > most {
            return Err(SendFault::TooLarge { bytes, most }.into());
        }
        if bytes.saturating_mul(recipients.users.len()) > BYTES_PER_SEND {
            return Err(SendFault::TooMuch.into());
        }
        let send = ApiSend {
            users: Vec::new(),
            data,
            tags: self.tags.0,
            ttl_seconds: self.ttl.seconds()?,
            idempotency_key: self.idempotency_key,
        };
        Ok((recipients, send))
    }
}

/// What a message takes at most, on the disk and on the wire: in JSON a letter of a tag can become `\u001f`.
fn size(data: &Bytes, tags: &[(String, String)]) -> usize {
    const ESCAPED: usize = 6;
    const AROUND_A_TAG: usize = 16;
    let tags = tags.iter().map(|(key, value)| (key.len() + value.len()) * ESCAPED + AROUND_A_TAG);
    data.len() + tags.sum::<usize>()
}

fn checked_user(user: String) -> Result<String, SendFault> {
    if user.is_empty() || user.len() > USER_ID_BYTES { Err(SendFault::User) } else { Ok(user) }
}

fn checked_device(device: String) -> Result<String, SendFault> {
    if device.len() > DEVICE_BYTES { Err(SendFault::Device) } else { Ok(device) }
}

/// Of `mailbox_info`: every member is there, also where the mailbox is empty.
#[derive(serde::Serialize)]
struct MailboxInfoResult {
    offset: u64,
    epoch: String,
    cursor: u64,
    messages: u32,
    bytes: u64,
    devices: u32,
}

impl From<MailboxView> for MailboxInfoResult {
    fn from(view: MailboxView) -> Self {
        Self {
            offset: view.position.offset,
            epoch: view.position.epoch,
            cursor: view.cursor,
            messages: view.messages,
            bytes: view.bytes,
            devices: view.devices,
        }
    }
}

/// Of `mailbox_list`.
#[derive(serde::Serialize)]
struct MailboxListResult {
    messages: Vec<MessageJson>,
    offset: u64,
    epoch: String,
}

struct MessageJson(StoredMessage);

impl Serialize for MessageJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let of = &self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("offset", &of.offset)?;
        map.serialize_entry("id", &of.id)?;
        write_payload(&mut map, ("data", "b64data"), &of.data)?;
        if !of.tags.is_empty() {
            map.serialize_entry("tags", &Pairs(&of.tags))?;
        }
        map.serialize_entry("sent_at", &of.sent_at_ms)?;
        if of.expires_at > 0 {
            map.serialize_entry("expires_at", &of.expires_at)?;
        }
        map.end()
    }
}

impl Executor {
    pub(super) async fn send(&self, params: SendParams<'_>) -> Outcome {
        let most = self.message_bytes.ok_or(ApiError::NotAvailable)?;
        let (Recipients { users, listed }, send) = params.split(most)?;
        if listed {
            return render(&BroadcastResult { responses: self.send_each(users, send).await? });
        }
        match self.stored(users, send).await?.pop() {
            Some(Ok(position)) => render(&PublishResult::from(Some(position))),
            Some(Err(error)) => Err(error.into()),
            None => Err(ApiError::Internal.into()),
        }
    }

    /// A user that cannot be has its error in its place, and the others get theirs.
    async fn send_each(
        &self,
        users: Vec<String>,
        send: ApiSend,
    ) -> Result<Vec<Response<PublishResult>>, Failure> {
        let checked: Vec<_> = users.into_iter().map(checked_user).collect();
        let good: Vec<_> = checked.iter().flatten().cloned().collect();
        let mut stored =
            if good.is_empty() { Vec::new() } else { self.stored(good, send).await? }.into_iter();
        let responses = checked.into_iter().map(|user| match user {
            Err(fault) => Response::Error(fault.into()),
            Ok(_) => match stored.next().unwrap_or(Err(ApiError::Internal)) {
                Ok(position) => Response::Result(Some(position).into()),
                Err(error) => Response::Error(error.into()),
            },
        });
        Ok(responses.collect())
    }

    async fn stored(
        &self,
        users: Vec<String>,
        send: ApiSend,
    ) -> Result<Vec<Result<Position, ApiError>>, Failure> {
        let send = ApiCommand::Send(Box::new(ApiSend { users, ..send }));
        match self.gateway.call(STORE, send).await? {
            ApiAnswer::Sent(results) => Ok(results),
            other => Err(unexpected(&other)),
        }
    }

    pub(super) async fn mailbox_info(&self, params: MailboxInfoParams) -> Outcome {
        let (user, device) = (checked_user(params.user)?, checked_device(params.device)?);
        match self.ask_store(ApiCommand::MailboxInfo { user, device }).await? {
            ApiAnswer::MailboxInfo(view) => render(&MailboxInfoResult::from(view)),
            other => Err(unexpected(&other)),
        }
    }

    pub(super) async fn mailbox_list(&self, params: MailboxListParams) -> Outcome {
        let limit = if params.limit == 0 { LISTED_BY_DEFAULT } else { params.limit.min(MAILBOX_LISTED) };
        let ask = ApiCommand::MailboxList { user: checked_user(params.user)?, since: params.since, limit };
        match self.ask_store(ask).await? {
            ApiAnswer::MailboxList { messages, position } => render(&MailboxListResult {
                messages: messages.into_iter().map(MessageJson).collect(),
                offset: position.offset,
                epoch: position.epoch,
            }),
            other => Err(unexpected(&other)),
        }
    }

    pub(super) async fn mailbox_ack(&self, params: MailboxAckParams) -> Outcome {
        let offset = params.offset.ok_or(SendFault::NoOffset)?;
        let (user, device) = (checked_user(params.user)?, checked_device(params.device)?);
        let ask = ApiCommand::MailboxAck { user, device, offset };
        done(&self.ask_store(ask).await?)?;
        render(&Empty {})
    }

    pub(super) async fn mailbox_forget(&self, params: MailboxForgetParams) -> Outcome {
        let (user, device) = (checked_user(params.user)?, checked_device(params.device)?);
        if device.is_empty() {
            return Err(SendFault::NoDevice.into());
        }
        done(&self.ask_store(ApiCommand::MailboxForget { user, device }).await?)?;
        render(&Empty {})
    }

    pub(super) async fn mailbox_purge(&self, params: MailboxPurgeParams) -> Outcome {
        let ask = ApiCommand::MailboxPurge { user: checked_user(params.user)? };
        done(&self.ask_store(ask).await?)?;
        render(&Empty {})
    }

    async fn ask_store(&self, command: ApiCommand) -> Result<ApiAnswer, Failure> {
        self.message_bytes.ok_or(ApiError::NotAvailable)?;
        Ok(self.gateway.call(STORE, command).await?)
    }
}
