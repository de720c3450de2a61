//! `user_presence` and `connections`: what the shards know of users and of a user's sessions.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::execute::{Executor, Failure, Outcome, render, require, unexpected};
use super::params::{ConnectionsParams, UserPresenceParams};
use crate::hub::api::{ApiAnswer, ApiCommand, ConnectionView, UserView};

/// Of `user_presence`: every user asked for.
#[derive(serde::Serialize)]
struct UserPresenceResult {
    users: BTreeMap<String, UserResult>,
}

#[derive(serde::Serialize)]
struct UserResult {
    state: &'static str,
    devices: u32,
    /// Unix seconds; absent while there are sessions, and where it is not known (any more).
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seen: Option<u64>,
}

impl From<UserView> for UserResult {
    fn from(view: UserView) -> Self {
        Self { state: view.state.name(), devices: view.devices, last_seen: view.last_seen }
    }
}

/// Of `connections`, by client id.
#[derive(serde::Serialize)]
struct ConnectionsResult {
    connections: BTreeMap<String, ConnectionResult>,
}

#[derive(serde::Serialize)]
struct ConnectionResult {
    transport: &'static str,
    protocol: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    since: u64,
    state: &'static str,
    channels: Vec<String>,
    queue_bytes: usize,
}

impl From<ConnectionView> for ConnectionResult {
    fn from(view: ConnectionView) -> Self {
        Self {
            transport: view.transport,
            protocol: view.protocol,
            address: view.address,
            since: view.since,
            state: if view.away { "away" } else { "online" },
            channels: view.channels,
            queue_bytes: view.queue_bytes,
        }
    }
}

impl Executor {
    /// Every shard knows the users it is home of.
    pub(super) async fn user_presence(&self, params: UserPresenceParams) -> Outcome {
        let mut users = BTreeMap::new();
        for answer in self.gateway.call_all(ApiCommand::UserPresence { users: params.users }).await? {
            let ApiAnswer::UserPresence(views) = answer else { return Err(unexpected(&answer)) };
            users.extend(views.into_iter().map(|(user, view)| (user, view.into())));
        }
        render(&UserPresenceResult { users })
    }

    /// Every shard knows its own sessions.
    pub(super) async fn connections(&self, params: ConnectionsParams) -> Outcome {
        require(&params.user).map_err(Failure::Api)?;
        let mut connections = BTreeMap::new();
        for answer in self.gateway.call_all(ApiCommand::Connections { user: params.user }).await? {
            let ApiAnswer::Connections(views) = answer else { return Err(unexpected(&answer)) };
            connections.extend(views.into_iter().map(|mut view| {
                let client = std::mem::take(&mut view.client);
                (client, view.into())
            }));
        }
        render(&ConnectionsResult { connections })
    }
}
