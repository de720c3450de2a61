//! `serve`: reads the configuration, says what should be known, and runs the gateway.

use std::net::SocketAddr;
use std::path::Path;

use clap::Args;

use super::{CliError, ConfigArgs, now_unix, say};
use crate::config::{Config, Layers, Problems, Snapshot, listen_address, load_with_snapshot};
use crate::host::cgroup::Limit;
use crate::host::reader::Reader;
use crate::hub::settings::ClientSettings;

/// How to get the first client in.
pub(super) const NO_KEY: &str = "no key for tokens is set, so nobody gets in. Make a key and a token:
  export MILLPOND_CLIENT_TOKEN_HMAC_SECRET_KEY=$(openssl rand -hex 32)
  millpond serve &
  millpond token --user alice
A configuration holds the key as client.token.hmac_secret_key; `millpond default-config` prints all keys.
To look around without any of this: millpond serve --demo";

/// Clocks that show an earlier time, or a later one, have never been set: 2024 and 2100.
const PLAUSIBLE_CLOCK: std::ops::Range<u64> = 1_704_067_200..4_102_444_800;

#[derive(Args, Debug)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Address for clients, such as `0.0.0.0:8000`, `[::]:8000` or `:8000`; may be given several times.
    #[arg(long, value_name = "ADDR", value_parser = listen_address)]
    listen: Vec<SocketAddr>,
    /// Address for the server API, health and metrics.
    #[arg(long, value_name = "ADDR", value_parser = listen_address)]
    internal_listen: Option<SocketAddr>,
    /// Threads that serve sockets; 0: automatic.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=1024))]
    shards: Option<u16>,
    /// Connections that this process may hold.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_connections: Option<u32>,
    /// Serve a chat page that everybody on this host may use; on loopback only.
    #[arg(long)]
    demo: bool,
}

pub(super) fn serve(args: ServeArgs) -> Result<(), CliError> {
    // Before anything is read or said, as it happens twice.
    crate::app::restart::without_caches();
    let layers = Layers {
        listen: args.listen,
        internal_listen: args.internal_listen,
        shards: args.shards,
        max_connections: args.max_connections,
        demo: args.demo,
        ..args.config.layers()
    };
    let (mut config, snapshot) = load_with_snapshot(&layers)?;
    let group = Reader::new(Path::new("/"), None).cgroup().memory;
    lower(&mut config.server.memory_limit, group.as_ref());
    let client = &config.settings.client;
    // The demo has a key of its own.
    if !config.demo && !anybody_gets_in(client) {
        say(&format!("millpond: {NO_KEY}"));
    }
    let now = now_unix();
    if !client.insecure && !PLAUSIBLE_CLOCK.contains(&now) {
        return Err(CliError::Clock(now));
    }
    run(&config, &layers, &snapshot)
}

/// A control group with less memory than `server.memory_limit` would end the process before its own limit does anything.
fn lower(memory_limit: &mut u64, group: Option<&Limit>) {
    if let Some(group) = group.filter(|group| group.limit < *memory_limit) {
        say(&format!(
            "millpond: server.memory_limit is {memory_limit} bytes, but the control group allows {} ({}): that is the limit now",
            group.limit, group.file
        ));
        *memory_limit = group.limit;
    }
}

fn run(config: &Config, layers: &Layers, snapshot: &Snapshot) -> Result<(), CliError> {
    Ok(crate::app::serve(config, &|| look_again(layers, snapshot))?)
}

/// SIGHUP: says what the configuration has become (D11). Nothing of it changes while the process runs, so there is no
/// moment at which half of it holds.
fn look_again(layers: &Layers, running: &Snapshot) {
    match load_with_snapshot(layers) {
        Err(Problems(problems)) => {
            for problem in problems {
                tracing::error!("SIGHUP: {problem}");
            }
            tracing::error!("SIGHUP: the configuration is not valid; the running one stays");
        }
        Ok((_, now)) => {
            let changed = running.differences(&now);
            if changed.is_empty() {
                tracing::info!("SIGHUP: the configuration is as it was at the start");
            } else {
                let keys = changed.join(", ");
                tracing::warn!(keys, "SIGHUP: the configuration is valid; what has changed takes a restart");
            }
        }
    }
}

fn anybody_gets_in(client: &ClientSettings) -> bool {
    let token = &client.token;
    client.insecure
        || client.allow_anonymous_connect_without_token
        || token.insecure_skip_signature_verify
        || token.hmac_secret_key.is_some()
        || token.rsa_public_key.is_some()
        || token.ecdsa_public_key.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_group_lowers_the_memory_limit_and_never_sets_or_raises_one() {
        let group = Limit { limit: 4 << 30, used: 1, file: "memory.max".into() };
        for (configured, effective) in [(8 << 30, 4 << 30), (4 << 30, 4 << 30), (1 << 30, 1 << 30), (0, 0)] {
            let mut limit = configured;
            lower(&mut limit, Some(&group));
            assert_eq!(limit, effective);
        }
        let mut limit = 8 << 30;
        lower(&mut limit, None);
        assert_eq!(limit, 8 << 30);
    }
}
