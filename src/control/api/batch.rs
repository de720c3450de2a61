//! `batch`: several methods in one request, in order or side by side, answered in order.

use futures_util::stream::{self, StreamExt};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::{RawValue, to_raw_value};
use tokio::time::Instant;

use super::error_of;
use super::execute::{Executor, Failure, Outcome, PARALLEL_MAX};
use super::method::Method;
use super::params::{BatchCommand, BatchParams};
use super::results::ErrorBody;
use crate::control::api_metrics::ApiMetrics;
use crate::hub::api::ApiError;

/// One reply: the method's name and result, or the error.
pub(super) struct Reply(Result<(&'static str, Box<RawValue>), ErrorBody>);

impl Serialize for Reply {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        match &self.0 {
            Ok((method, result)) => map.serialize_entry(method, result)?,
            Err(error) => map.serialize_entry("error", error)?,
        }
        map.end()
    }
}

/// Runs the commands; the result is the rendered array of replies.
pub(super) async fn run(executor: &Executor, metrics: &ApiMetrics, params: BatchParams<'_>) -> Outcome {
    let at_a_time = if params.parallel { PARALLEL_MAX } else { 1 };
    let calls: Vec<_> =
        params.commands.into_iter().map(|command| reply(executor, metrics, command)).collect();
    let replies: Vec<Reply> = stream::iter(calls).buffered(at_a_time).collect().await;
    to_raw_value(&replies).map_err(|_| ApiError::Internal.into())
}

/// Each counts as a call of its own.
async fn reply(executor: &Executor, metrics: &ApiMetrics, command: BatchCommand<'_>) -> Reply {
    let started = Instant::now();
    let (method, outcome) = one(executor, command).await;
    metrics.observe(method, started.elapsed(), error_of(&outcome));
    Reply(outcome.map(|result| (method, result)).map_err(Failure::in_a_list))
}

async fn one(executor: &Executor, command: BatchCommand<'_>) -> (&'static str, Outcome) {
    if let Some(params) = command.publish {
        ("publish", executor.publish(*params).await)
    } else if let Some(params) = command.broadcast {
        ("broadcast", executor.broadcast(*params).await)
    } else if let Some(params) = command.subscribe {
        ("subscribe", executor.subscribe(*params).await)
    } else if let Some(params) = command.unsubscribe {
        ("unsubscribe", executor.unsubscribe(*params).await)
    } else if let Some(params) = command.disconnect {
        ("disconnect", executor.disconnect(*params).await)
    } else if let Some(params) = command.history {
        ("history", executor.history(*params).await)
    } else if let Some(params) = command.history_remove {
        ("history_remove", executor.history_remove(params).await)
    } else if let Some(params) = command.presence {
        ("presence", executor.presence(*params).await)
    } else if let Some(params) = command.presence_stats {
        ("presence_stats", executor.presence_stats(params).await)
    } else if command.info.is_some() {
        ("info", executor.info().await)
    } else if let Some(params) = command.rpc {
        ("rpc", Executor::rpc(&params))
    } else if let Some(params) = command.refresh {
        ("refresh", executor.refresh(*params).await)
    } else if let Some(params) = command.channels {
        ("channels", executor.channels(*params).await)
    } else if let Some(params) = command.user_presence {
        ("user_presence", executor.user_presence(*params).await)
    } else if let Some(params) = command.connections {
        ("connections", executor.connections(*params).await)
    } else if let Some(params) = command.send {
        ("send", executor.send(*params).await)
    } else if let Some(params) = command.mailbox_info {
        ("mailbox_info", executor.mailbox_info(params).await)
    } else if let Some(params) = command.mailbox_list {
        ("mailbox_list", executor.mailbox_list(params).await)
    } else if let Some(params) = command.mailbox_ack {
        ("mailbox_ack", executor.mailbox_ack(params).await)
    } else if let Some(params) = command.mailbox_forget {
        ("mailbox_forget", executor.mailbox_forget(params).await)
    } else if let Some(params) = command.mailbox_purge {
        ("mailbox_purge", executor.mailbox_purge(params).await)
    } else if command.not_offered.is_some() {
        (Method::NotOffered.name(), Err(ApiError::NotAvailable.into()))
    } else {
        ("unknown", Err(ApiError::NotFound.into()))
    }
}
