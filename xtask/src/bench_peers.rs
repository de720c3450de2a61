//! End-to-end benches beside other servers: fan-out of millpond and its peers, idle connections of the load generator
//! at a server that is not millpond, and the floor that a publication to a million is held against.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::bench;
use crate::bench_load::{Figures, build, config, everybody_scenario, generate, round, scenario_file};
use crate::lint::cargo;
use crate::peer::Peer;
use crate::prepare::node_folder;
use crate::record::{Row, append};
use crate::server::Server;
use crate::workspace::Workspace;

/// Rounds of which the median counts where servers are compared.
const ROUNDS: usize = 3;

/// Subscribers where servers are compared: as many as one descriptor table of the load generator holds.
const SUBSCRIBERS: u32 = 18_000;

/// Idle connections at a server that is not millpond.
const FOREIGN: u32 = 500_000;

/// `cargo xtask bench peers`
pub(crate) fn peers(workspace: &Workspace, args: &[String]) -> Result<()> {
    build(workspace)?;
    let folder = node_folder(workspace, &workspace.root.join("benches/peers/ws"), "peer-ws")?;
    let tungstenite = example(workspace, "peer-tungstenite")?;
    let mut rounds: [Vec<[Figures; 2]>; 3] = Default::default();
    for _ in 0..ROUNDS {
        rounds[0].push(ours(workspace, args)?);
        rounds[1].push(theirs(workspace, "tokio-tungstenite", &tungstenite, &[], args)?);
        rounds[2].push(theirs(workspace, "ws", Path::new("node"), &[folder.join("server.mjs")], args)?);
    }
    for (name, rounds) in ["millpond", "tokio-tungstenite", "ws (npm)"].iter().zip(&rounds) {
        let median = |at: usize, figure: &str, digits: usize| {
            round(median_of(rounds.iter().filter_map(|of| of[at].get(figure).copied())), digits)
        };
        let row = vec![
            (*name).to_owned(),
            median(0, "deliveries_per_s", 0),
            median(0, "server_cpu_per_delivery_us", 2),
            median(0, "latency_p99_ms", 0),
            median(1, "deliveries_per_s", 0),
            median(1, "server_cpu_per_delivery_us", 2),
            median(1, "latency_p99_ms", 0),
            median(1, "lost", 0),
        ];
        append(workspace, "peers", &Row { command: bench::shown("peers", args), figures: row })?;
    }
    Ok(())
}

/// millpond with one publication, then 32, under way.
fn ours(workspace: &Workspace, args: &[String]) -> Result<[Figures; 2]> {
    let config = config(workspace)?;
    let port = bench::free_port()?;
    let (listen, most) = (format!("127.0.0.1:{port}"), (SUBSCRIBERS + 1000).to_string());
    let server = Server::start(
        workspace,
        "peers",
        port,
        &["--config", &config, "--listen", &listen, "--max-connections", &most],
    )?;
    let load = format!("connections = {SUBSCRIBERS}\nchannel-template = [\"bench\"]\n");
    let mut figures = [1, 32].into_iter().map(|in_flight| {
        let scenario = in_flight_scenario(in_flight, "api-key = \"KEY\"\n");
        let file = scenario_file(workspace, "peers", &load, &scenario, port, "/connection/websocket")?;
        fanout_figures(&generate(workspace, "peers", &file, server.id(), args)?)
    });
    let both = [figures.next().context("two runs")??, figures.next().context("two runs")??];
    drop(figures);
    server.stop()?;
    Ok(both)
}

/// The same with a peer that takes the frames of `benches/peers`.
fn theirs(
    workspace: &Workspace,
    name: &str,
    program: &Path,
    before: &[PathBuf],
    args: &[String],
) -> Result<[Figures; 2]> {
    let port = bench::free_port()?;
    let peer = Peer::start(workspace, name, program, before, port)?;
    let load = plain_load(SUBSCRIBERS, "");
    let run = |in_flight| {
        let scenario = in_flight_scenario(in_flight, BY_CLIENT);
        let file = scenario_file(workspace, "peers", &load, &scenario, port, "/")?;
        fanout_figures(&generate(workspace, "peers", &file, peer.id(), args)?)
    };
    Ok([run(1)?, run(32)?])
}

fn in_flight_scenario(in_flight: u32, publish: &str) -> String {
    format!(
        "[[phase]]\nkind = \"ramp\"\n\n[[phase]]\nkind = \"fanout\"\nin-flight = {in_flight}\nduration = \"10s\"\n{publish}"
    )
}

fn fanout_figures(phases: &BTreeMap<String, Figures>) -> Result<Figures> {
    phases.get("fanout").cloned().context("the report has a phase `fanout`")
}

/// `cargo xtask bench foreign`: a last publication reaches every connection, which proves that each is alive.
pub(crate) fn foreign(workspace: &Workspace, args: &[String]) -> Result<()> {
    build(workspace)?;
    let program = example(workspace, "peer-tungstenite")?;
    let port = bench::free_port()?;
    let wanted = [PathBuf::from("--connections"), PathBuf::from(FOREIGN.to_string())];
    let peer = Peer::start(workspace, "tokio-tungstenite", &program, &wanted, port)?;
    let scenario = format!(
        "[[phase]]\nkind = \"ramp\"\n\n[[phase]]\nkind = \"hold\"\nhold = \"60s\"\n\n[[phase]]\nkind = \"fanout\"\n\
         publish-rate = 1\nduration = \"1s\"\ndrain = \"60s\"\n{BY_CLIENT}"
    );
    let file = scenario_file(workspace, "foreign", &plain_load(FOREIGN, ""), &scenario, port, "/")?;
    // The publication is a proof of life: nobody asks how long it took.
    let args_with: Vec<String> = args.iter().cloned().chain(["--allow-void".to_owned()]).collect();
    let phases = generate(workspace, "foreign", &file, peer.id(), &args_with)?;
    let figure = |phase: &str, name: &str, digits: usize| {
        round(phases.get(phase).and_then(|figures| figures.get(name)).copied(), digits)
    };
    let row = vec![
        "tokio-tungstenite".to_owned(),
        figure("ramp", "ready", 0),
        figure("ramp", "failed", 0),
        figure("ramp", "connects_per_s", 0),
        figure("hold", "lost_connections", 0),
        figure("fanout", "deliveries", 0),
        figure("ramp", "generator_bytes_per_client_b", 0),
        figure("hold", "generator_rss_per_connection_b", 0),
        figure("hold", "kernel_slab_per_connection_b", 0),
        figure("hold", "server_rss_per_connection_b", 0),
    ];
    append(workspace, "foreign", &Row { command: bench::shown("foreign", args), figures: row })
}

/// One publication by the raw write loop of `benches/peers/floor.rs` to so many connections that are pinged as ours are:
/// what the generator saw, and the nanoseconds of CPU of one write in the loop.
pub(crate) fn floor(
    workspace: &Workspace,
    connections: u32,
    args: &[String],
) -> Result<(BTreeMap<String, Figures>, f64)> {
    build(workspace)?;
    let program = example(workspace, "floor")?;
    let json = bench::report_path(workspace, "floor-loop")?;
    let before = ["--connections", &connections.to_string(), "--json"].map(PathBuf::from);
    let before: Vec<_> = before.into_iter().chain([json.clone()]).collect();
    let port = bench::free_port()?;
    let peer = Peer::start(workspace, "floor", &program, &before, port)?;
    let load = plain_load(connections, "ping = \"PING\"\npong-frame = \"PONG\"\n");
    let file = scenario_file(workspace, "floor", &load, &everybody_scenario(BY_CLIENT), port, "/")?;
    let phases = generate(workspace, "floor", &file, peer.id(), args)?;
    let each = bench::read_json(&json)?.get("cpu_ns").and_then(Value::as_f64);
    Ok((phases, each.context("the loop says what a write cost")?))
}

/// Publications of the generator over a client's connection.
const BY_CLIENT: &str = "publish-by = \"client\"\n";

/// A load that the servers in `benches/peers` understand.
fn plain_load(connections: u32, plain: &str) -> String {
    format!(
        "connections = {connections}\nencoding = \"plain\"\nchannel-template = [\"bench\"]\n\n[load.plain]\n\
         first-frame = [\"subscribe {{channel}}\"]\nready = \"ok\"\npublish-frame = \"publish {{channel}} {{payload}}\"\n{plain}"
    )
}

/// Builds a server of `benches/peers`.
fn example(workspace: &Workspace, name: &str) -> Result<PathBuf> {
    cargo(&workspace.root).args(["build", "--release", "--example", name]).succeed()?;
    Ok(workspace.target.join("release/examples").join(name))
}

/// The middle one; `None` of none.
pub(crate) fn median_of(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median_of([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median_of([].into_iter()), None);
    }
}
