//! The methods of the server API: parameters in, questions to the shards, one result out. No HTTP.
//!
//! Whoever knows a thing decides it: the shard knows namespaces, formats and history; here only what needs no state is
//! refused (a missing channel, bad base64, a close code that no client understands).

use std::collections::BTreeMap;

use futures_util::stream::{self, StreamExt};
use serde_json::value::{RawValue, to_raw_value};
use tokio::time::Instant;

use super::mailbox::SendFault;
use super::params::{
    ChannelParams, ChannelsParams, DisconnectParams, HistoryParams, PresenceParams, PublishParams,
    RefreshParams, RpcParams, SubscribeParams, UnsubscribeParams,
};
use super::results::{
    BroadcastResult, ChannelInfo, ChannelsResult, Empty, ErrorBody, HistoryResult, InfoResult, NodeResult,
    PresenceResult, PresenceStatsResult, ProcessResult, PublicationJson, PublishResult, Response,
};
use crate::control::gateway::{Gateway, Overloaded};
use crate::control::process::ProcessMeter;
use crate::control::settings::NodeSettings;
use crate::hub::api::{ApiAnswer, ApiCommand, ApiError, ApiPublish, Position, ShardInfo};
use crate::limits::CHANNELS_PAGE;
use crate::protocol::is_json;

/// Questions of one broadcast, or commands of one parallel batch, under way at a time.
pub(super) const PARALLEL_MAX: usize = 1024;
/// Close reasons share a control frame of 125 B with the code.
const REASON_BYTES_MAX: usize = 123;
/// Close code and reason where `disconnect` names none: the client shall not come back.
const FORCE_DISCONNECT: (u16, &str) = (3503, "force disconnect");

/// Why a method has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// An application error.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// A bad request that says what is wrong with it.
    #[error(transparent)]
    Send(#[from] SendFault),
    /// HTTP 503.
    #[error(transparent)]
    Overloaded(#[from] Overloaded),
}

/// The result object of a method, rendered.
pub(super) type Outcome = Result<Box<RawValue>, Failure>;

/// Runs the methods.
pub(super) struct Executor {
    pub(super) gateway: Gateway,
    /// Largest message of `send` in bytes; `None`: there are no mailboxes.
    pub(super) message_bytes: Option<usize>,
    node: NodeSettings,
    started: Instant,
    process: ProcessMeter,
}

impl Executor {
    pub(super) fn new(gateway: Gateway, node: NodeSettings, message_bytes: Option<usize>) -> Self {
        Self { gateway, message_bytes, node, started: Instant::now(), process: ProcessMeter::new() }
    }

    pub(super) async fn publish(&self, params: PublishParams<'_>) -> Outcome {
        render(&self.publish_one(params.into_publish()?).await?)
    }

    /// Channels are served side by side, the answers come in the order of the channels.
    pub(super) async fn broadcast(&self, mut params: PublishParams<'_>) -> Outcome {
        let channels = std::mem::take(&mut params.channels);
        if channels.is_empty() {
            return Err(ApiError::BadRequest.into());
        }
        let publication = params.into_publish()?;
        let responses = stream::iter(channels)
            .map(|channel| self.publish_one(ApiPublish { channel, ..publication.clone() }))
            .buffered(PARALLEL_MAX)
            .map(|outcome| match outcome {
                Ok(result) => Response::Result(result),
                Err(failure) => Response::Error(failure.in_a_list()),
            })
            .collect()
            .await;
        render(&BroadcastResult { responses })
    }

    async fn publish_one(&self, publication: ApiPublish) -> Result<PublishResult, Failure> {
        let home = self.gateway.home_of(require(&publication.channel)?);
        match self.gateway.call(home, ApiCommand::Publish(Box::new(publication))).await? {
            ApiAnswer::Published(position) => Ok(position.into()),
            other => Err(unexpected(&other)),
        }
    }

    pub(super) async fn subscribe(&self, params: SubscribeParams<'_>) -> Outcome {
        require(&params.channel)?;
        self.everywhere(ApiCommand::Subscribe(Box::new(params.into_subscribe()?))).await
    }

    pub(super) async fn unsubscribe(&self, params: UnsubscribeParams) -> Outcome {
        require(&params.channel)?;
        let (target, channel) = params.split();
        self.everywhere(ApiCommand::Unsubscribe { target, channel }).await
    }

    pub(super) async fn disconnect(&self, mut params: DisconnectParams) -> Outcome {
        let target = params.target();
        let (code, reason) = match params.disconnect {
            None => (FORCE_DISCONNECT.0, FORCE_DISCONNECT.1.to_owned()),
            Some(of) => close_of(of.code, of.reason)?,
        };
        self.everywhere(ApiCommand::Disconnect { target, whitelist: params.whitelist, code, reason }).await
    }

    pub(super) async fn refresh(&self, mut params: RefreshParams<'_>) -> Outcome {
        let (expired, expire_at, info) = (params.expired, params.expire_at(), params.info()?);
        self.everywhere(ApiCommand::Refresh { target: params.target(), expired, expire_at, info }).await
    }

    pub(super) async fn presence(&self, params: PresenceParams) -> Outcome {
        let PresenceParams { channel, limit, cursor } = params;
        let paged = limit > 0 || !cursor.is_empty();
        let ask = |channel| match paged {
            true => {
                ApiCommand::PresencePage { channel, limit: if limit == 0 { u32::MAX } else { limit }, cursor }
            }
            false => ApiCommand::Presence { channel },
        };
        match self.at_home(ChannelParams { channel }, ask).await? {
            ApiAnswer::Presence(presence) => render(&PresenceResult { presence, cursor: String::new() }),
            ApiAnswer::PresencePage { members, cursor } => {
                render(&PresenceResult { presence: members, cursor })
            }
            other => Err(unexpected(&other)),
        }
    }

    pub(super) async fn presence_stats(&self, params: ChannelParams) -> Outcome {
        match self.at_home(params, |channel| ApiCommand::PresenceStats { channel }).await? {
            ApiAnswer::PresenceStats { num_clients, num_users } => {
                render(&PresenceStatsResult { num_clients, num_users })
            }
            other => Err(unexpected(&other)),
        }
    }

    pub(super) async fn history(&self, params: HistoryParams) -> Outcome {
        let HistoryParams { channel, limit, since, reverse } = params;
        let since = since.map(Position::from);
        let ask = |channel| ApiCommand::History { channel, limit, since, reverse };
        match self.at_home(ChannelParams { channel }, ask).await? {
            ApiAnswer::History { publications, position } => render(&HistoryResult {
                publications: publications.into_iter().map(PublicationJson).collect(),
                epoch: position.epoch,
                offset: position.offset,
            }),
            other => Err(unexpected(&other)),
        }
    }

    pub(super) async fn history_remove(&self, params: ChannelParams) -> Outcome {
        done(&self.at_home(params, |channel| ApiCommand::HistoryRemove { channel }).await?)?;
        render(&Empty {})
    }

    /// Every shard knows the channels it is home of; one more than asked tells whether more follow under the `cursor`.
    pub(super) async fn channels(&self, params: ChannelsParams) -> Outcome {
        let limit = if params.limit == 0 { CHANNELS_PAGE } else { params.limit.min(CHANNELS_PAGE) };
        let ask = ApiCommand::Channels { pattern: params.pattern, limit: limit + 1, after: params.cursor };
        let mut channels: BTreeMap<String, ChannelInfo> = BTreeMap::new();
        for answer in self.gateway.call_all(ask).await? {
            let ApiAnswer::Channels(of) = answer else { return Err(unexpected(&answer)) };
            for (name, clients) in of {
                channels.entry(name).or_default().num_clients += clients;
            }
        }
        render(&page(channels, limit as usize))
    }

    pub(super) async fn info(&self) -> Outcome {
        let mut sum = ShardInfo::default();
        for answer in self.gateway.call_all(ApiCommand::Info).await? {
            let ApiAnswer::Info(of) = answer else { return Err(unexpected(&answer)) };
            sum.num_clients += of.num_clients;
            sum.num_users += of.num_users;
            sum.num_subs += of.num_subs;
            sum.num_channels += of.num_channels;
        }
        let process = self.process.look().map(|of| ProcessResult { cpu: of.cpu_percent, rss: of.rss });
        let node = NodeResult {
            uid: self.node.uid.clone(),
            name: self.node.name.clone(),
            version: self.node.version.clone(),
            num_clients: sum.num_clients,
            num_users: sum.num_users,
            num_subs: sum.num_subs,
            num_channels: sum.num_channels,
            uptime: self.started.elapsed().as_secs(),
            process,
        };
        render(&InfoResult { nodes: [node] })
    }

    /// No handler for custom methods exists in this program, as client-protocol.md section 4 says it of clients.
    pub(super) fn rpc(params: &RpcParams) -> Outcome {
        require(&params.method)?;
        Err(ApiError::NotAvailable.into())
    }

    async fn at_home(
        &self,
        params: ChannelParams,
        ask: impl FnOnce(String) -> ApiCommand,
    ) -> Result<ApiAnswer, Failure> {
        let home = self.gateway.home_of(require(&params.channel)?);
        Ok(self.gateway.call(home, ask(params.channel)).await?)
    }

    /// Asks all shards; the first error stands for all.
    async fn everywhere(&self, command: ApiCommand) -> Outcome {
        for answer in self.gateway.call_all(command).await? {
            done(&answer)?;
        }
        render(&Empty {})
    }
}

impl Failure {
    /// In a list there is no HTTP status of its own.
    pub(super) fn in_a_list(self) -> ErrorBody {
        match self {
            Self::Api(error) => error.into(),
            Self::Send(fault) => fault.into(),
            Self::Overloaded(_) => ApiError::Internal.into(),
        }
    }
}

pub(super) fn require(name: &str) -> Result<&str, ApiError> {
    if name.is_empty() { Err(ApiError::BadRequest) } else { Ok(name) }
}

pub(super) fn done(answer: &ApiAnswer) -> Result<(), Failure> {
    match answer {
        ApiAnswer::Done => Ok(()),
        other => Err(unexpected(other)),
    }
}

/// An error of the shard, or an answer that does not belong to the question.
pub(super) fn unexpected(answer: &ApiAnswer) -> Failure {
    match answer {
        ApiAnswer::Error(error) => Failure::Api(*error),
        _ => Failure::Api(ApiError::Internal),
    }
}

pub(super) fn render<T: serde::Serialize>(result: &T) -> Outcome {
    to_raw_value(result).map_err(|_| Failure::Api(ApiError::Internal))
}

/// Codes outside 3001..=4999 mean something else to clients: 3000 is what a client closes with. An empty reason makes
/// JavaScript clients reconnect, and one that is JSON they read as an object.
fn close_of(code: u32, reason: String) -> Result<(u16, String), ApiError> {
    let code = u16::try_from(code).map_err(|_| ApiError::BadRequest)?;
    let code = if code == 0 { FORCE_DISCONNECT.0 } else { code };
    if !(3001..5000).contains(&code) || reason.len() > REASON_BYTES_MAX || is_json(reason.as_bytes()) {
        return Err(ApiError::BadRequest);
    }
    Ok((code, if reason.is_empty() { FORCE_DISCONNECT.1.to_owned() } else { reason }))
}

fn page(mut channels: BTreeMap<String, ChannelInfo>, limit: usize) -> ChannelsResult {
    let mut more = false;
    while channels.len() > limit {
        channels.pop_last();
        more = true;
    }
    let cursor = channels.last_key_value().filter(|_| more).map(|(name, _)| name.clone()).unwrap_or_default();
    ChannelsResult { channels, cursor }
}
