//! Results of the server API as JSON: which members are left out when zero follows server-api.md section 1.1.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

use super::mailbox::SendFault;
use crate::hub::api::{ApiError, Member, Position, StoredPublication};

/// `{}`
#[derive(serde::Serialize)]
pub(super) struct Empty {}

/// Of `publish`: both members are absent without history.
#[derive(Default, serde::Serialize)]
pub(super) struct PublishResult {
    #[serde(skip_serializing_if = "String::is_empty")]
    epoch: String,
    #[serde(skip_serializing_if = "is_zero")]
    offset: u64,
}

impl From<Option<Position>> for PublishResult {
    fn from(position: Option<Position>) -> Self {
        position.map(|at| Self { epoch: at.epoch, offset: at.offset }).unwrap_or_default()
    }
}

/// Of `broadcast`.
#[derive(serde::Serialize)]
pub(super) struct BroadcastResult {
    pub(super) responses: Vec<Response<PublishResult>>,
}

/// Result or error, as the body of an answer and as an element of a broadcast.
#[derive(serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Response<T> {
    /// It worked.
    Result(T),
    /// It did not.
    Error(ErrorBody),
}

/// An application error.
#[derive(serde::Serialize)]
pub(super) struct ErrorBody {
    code: u32,
    message: String,
}

impl From<ApiError> for ErrorBody {
    fn from(error: ApiError) -> Self {
        Self { code: error.code(), message: error.to_string() }
    }
}

impl From<SendFault> for ErrorBody {
    fn from(fault: SendFault) -> Self {
        Self { code: ApiError::BadRequest.code(), message: fault.to_string() }
    }
}

impl ErrorBody {
    pub(super) fn code(&self) -> u32 {
        self.code
    }
}

/// Of `presence`, in the order of the shard's answer.
#[derive(serde::Serialize)]
pub(super) struct PresenceResult {
    #[serde(serialize_with = "by_client")]
    pub(super) presence: Vec<Member>,
    /// For the next page; absent on the last, and where none was asked for.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) cursor: String,
}

/// Of `presence_stats`.
#[derive(serde::Serialize)]
pub(super) struct PresenceStatsResult {
    pub(super) num_clients: u32,
    pub(super) num_users: u32,
}

/// Of `history`.
#[derive(serde::Serialize)]
pub(super) struct HistoryResult {
    pub(super) publications: Vec<PublicationJson>,
    pub(super) epoch: String,
    pub(super) offset: u64,
}

/// Of `channels`; `cursor` is present where more follow.
#[derive(serde::Serialize)]
pub(super) struct ChannelsResult {
    pub(super) channels: BTreeMap<String, ChannelInfo>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) cursor: String,
}

/// One channel of `channels`.
#[derive(Default, serde::Serialize)]
pub(super) struct ChannelInfo {
    #[serde(skip_serializing_if = "is_zero_u32")]
    pub(super) num_clients: u32,
}

/// Of `info`.
#[derive(serde::Serialize)]
pub(super) struct InfoResult {
    pub(super) nodes: [NodeResult; 1],
}

/// This node.
#[derive(serde::Serialize)]
pub(super) struct NodeResult {
    pub(super) uid: String,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) num_clients: u64,
    pub(super) num_users: u64,
    pub(super) num_subs: u64,
    pub(super) num_channels: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) uptime: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) process: Option<ProcessResult>,
}

/// What the operating system says about this process.
#[derive(Clone, Copy, serde::Serialize)]
pub(super) struct ProcessResult {
    /// CPU time over wall time since the previous question, in percent of one core.
    #[serde(skip_serializing_if = "is_zero_f64")]
    pub(super) cpu: f64,
    /// Resident bytes.
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) rss: u64,
}

/// One publication of `history`.
pub(super) struct PublicationJson(pub(super) StoredPublication);

impl Serialize for PublicationJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let of = &self.0;
        let mut map = serializer.serialize_map(None)?;
        if !of.data.is_empty() {
            payload(&mut map, ("data", "b64data"), &of.data)?;
        }
        if let Some(info) = &of.info {
            map.serialize_entry("info", &MemberJson(info))?;
        }
        if of.offset > 0 {
            map.serialize_entry("offset", &of.offset)?;
        }
        if !of.tags.is_empty() {
            map.serialize_entry("tags", &Pairs(&of.tags))?;
        }
        map.end()
    }
}

struct MemberJson<'a>(&'a Member);

impl Serialize for MemberJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let of = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("user", &of.user)?;
        map.serialize_entry("client", &of.client)?;
        if let Some(info) = &of.conn_info {
            payload(&mut map, ("conn_info", "b64conn_info"), info)?;
        }
        if let Some(info) = &of.chan_info {
            payload(&mut map, ("chan_info", "b64chan_info"), info)?;
        }
        map.end()
    }
}

pub(super) struct Pairs<'a>(pub(super) &'a [(String, String)]);

impl Serialize for Pairs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

fn by_client<S: Serializer>(members: &[Member], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(members.iter().map(|member| (&member.client, MemberJson(member))))
}

/// Embeds bytes that are JSON as they are, all others as base64 under the second name.
pub(super) fn payload<M: SerializeMap>(
    map: &mut M,
    names: (&str, &str),
    bytes: &[u8],
) -> Result<(), M::Error> {
    match serde_json::from_slice::<&RawValue>(bytes) {
        Ok(json) => map.serialize_entry(names.0, json),
        Err(_) => map.serialize_entry(names.1, &STANDARD.encode(bytes)),
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero_u32(number: &u32) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero_f64(number: &f64) -> bool {
    *number == 0.0
}
