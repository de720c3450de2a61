//! End-to-end benches: each builds what it needs, runs it, and appends one row to its table in `docs/BENCHMARKS.md`.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::command::Run;
use crate::lint::cargo;
use crate::memory::{Look, Watch};
use crate::record::{Row, append};
use crate::server::Server;
use crate::workspace::Workspace;

/// Building and running together take less, even for a million connections on a busy machine.
const DEADLINE: Duration = Duration::from_secs(45 * 60);

/// After the last connection left, memory is given back within so long: the sockets linger for a second, the watch
/// waits until the number stands still, and the threads have two seconds to give back what they keep.
const AFTERMATH: Duration = Duration::from_secs(20);

/// Until the server has seen the last connection end, however busy the machine is.
const DEPARTURE: Duration = Duration::from_secs(5 * 60);

/// Signs the tokens of a bench: the server lives for its length, on loopback.
const TOKEN_KEY: &str = "a key for benches, on loopback only";

/// Connections that are opened, held and dropped.
struct Crowd {
    name: &'static str,
    connections: u32,
    hold: &'static str,
    /// The server's `ping_interval`.
    ping: &'static str,
}

/// `cargo xtask bench fanout`
pub(crate) fn fanout(workspace: &Workspace, args: &[String]) -> Result<()> {
    let json = report_path(workspace, "fanout")?;
    let command = ["bench", "--package", "millpond", "--bench", "fanout", "--", "--json"];
    let run = Run::new("cargo", &workspace.root, DEADLINE).args(command).args([&json]);
    run.args(args).succeed()?;
    let figures = read_json(&json)?;
    let figure = |name: &str, digits: usize| round(figures.get(name).and_then(Value::as_f64), digits);
    append(
        workspace,
        "fanout",
        &Row {
            command: shown("fanout", args),
            figures: vec![
                figure("subscribers", 0),
                figure("raw_cpu_ns", 0),
                figure("lone_cpu_ns", 0),
                figure("lone_to_raw_cpu", 3),
                figure("lone_to_raw_rate", 3),
                figure("flight_cpu_ns", 0),
                figure("flight_rate", 0),
            ],
        },
    )
}

/// `cargo xtask bench density`
pub(crate) fn density(workspace: &Workspace, args: &[String]) -> Result<()> {
    crowd(workspace, &Crowd { name: "density", connections: 100_000, hold: "60s", ping: "25s" }, args)
}

/// `cargo xtask bench accept`
pub(crate) fn accept(workspace: &Workspace, args: &[String]) -> Result<()> {
    crowd(workspace, &Crowd { name: "accept", connections: 100_000, hold: "1s", ping: "25s" }, args)
}

/// `cargo xtask bench million`
pub(crate) fn million(workspace: &Workspace, args: &[String]) -> Result<()> {
    crowd(workspace, &Crowd { name: "million", connections: 1_000_000, hold: "3m", ping: "25s" }, args)
}

/// `cargo xtask bench two-million`: with pings of two minutes, each connection is due one in three minutes.
pub(crate) fn two_million(workspace: &Workspace, args: &[String]) -> Result<()> {
    let two = Crowd { name: "two-million", connections: 2_000_000, hold: "3m", ping: "120s" };
    crowd(workspace, &two, args)
}

fn crowd(workspace: &Workspace, crowd: &Crowd, args: &[String]) -> Result<()> {
    let build = ["build", "--release", "--package", "millpond", "--package", "millpond-load"];
    cargo(&workspace.root).args(build).succeed()?;
    let json = report_path(workspace, crowd.name)?;
    let port = free_port()?;
    let internal = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
    let server = start_server(workspace, crowd, port, internal)?;
    // Figures are a second old at most.
    thread::sleep(Duration::from_secs(2));
    let (rss_at_start, at_start) = (server.rss()?, Look::at(internal, server.id())?);
    let url = format!("ws://127.0.0.1:{port}/connection/websocket");
    let (pid, connections) = (server.id().to_string(), crowd.connections.to_string());
    let mut command =
        vec!["idle", "--url", &url, "--token-key", TOKEN_KEY, "--personal", "--server-pid", &pid];
    // What the user gives stands in place of the usual.
    for (name, usual) in [("--connections", connections.as_str()), ("--hold", crowd.hold)] {
        if !args.iter().any(|arg| arg.starts_with(name)) {
            command.extend([name, usual]);
        }
    }
    command.push("--json");
    let load = workspace.target.join("release/millpond-load");
    let run = Run::new(load, &workspace.root, DEADLINE).args(&command).args([&json]).args(args);
    let watch = Watch::start(internal, server.id());
    run.succeed()?;
    let accounted = watch.stop()?.ratio(&at_start);
    wait_until_empty(internal, server.id())?;
    thread::sleep(AFTERMATH);
    let rss_after = server.rss()?;
    server.stop()?;
    let figures = metrics(&read_json(&json)?);
    let figure = |name: &str, digits: usize| round(figures.get(name).copied(), digits);
    let growth = 100.0 * (rss_after as f64 / rss_at_start as f64 - 1.0);
    append(
        workspace,
        crowd.name,
        &Row {
            command: shown(crowd.name, args),
            figures: vec![
                figure("ready", 0),
                figure("failed", 0),
                figure("connects_per_s", 0),
                figure("server_cpu_per_connect_us", 1),
                figure("server_rss_per_connection_b", 0),
                figure("lost_connections", 0),
                figure("connections_without_ping", 0),
                figure("server_cpu_per_connection_second_us", 2),
                format!("{growth:+.1} %"),
                format!("{accounted:.3}"),
            ],
        },
    )
}

/// The generator is gone, but the ends of two million sockets take the kernel and the server their time.
pub(crate) fn wait_until_empty(internal: SocketAddr, id: u32) -> Result<()> {
    let start = Instant::now();
    while Look::at(internal, id)?.connections > 0 {
        if start.elapsed() > DEPARTURE {
            bail!("connections are still there {} s after their clients ended", DEPARTURE.as_secs());
        }
        thread::sleep(Duration::from_secs(1));
    }
    Ok(())
}

/// Every connection has a token, a user, presence, a personal channel and pings: nothing that a real one has is off.
fn start_server(workspace: &Workspace, crowd: &Crowd, port: u16, internal: SocketAddr) -> Result<Server> {
    let config = workspace.scratch.join("bench.toml");
    let text = format!(
        "[client]\nping_interval = \"{}\"\n\n[client.token]\nhmac_secret_key = \"{TOKEN_KEY}\"\n\n\
         [client.subscribe_to_user_personal_channel]\nenabled = true\n\n\
         [channel.without_namespace]\npresence = true\nallow_user_limited_channels = true\n",
        crowd.ping
    );
    fs::write(&config, text)?;
    let config = config.display().to_string();
    let (listen, most) = (format!("127.0.0.1:{port}"), (crowd.connections + 1000).to_string());
    let internal = internal.to_string();
    let args = [
        "--config",
        &config,
        "--listen",
        &listen,
        "--internal-listen",
        &internal,
        "--max-connections",
        &most,
    ];
    Server::start(workspace, crowd.name, port, &args)
}

pub(crate) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("looking for a free port")?;
    Ok(listener.local_addr()?.port())
}

pub(crate) fn report_path(workspace: &Workspace, name: &str) -> Result<std::path::PathBuf> {
    let folder = workspace.scratch.join("bench");
    fs::create_dir_all(&folder)?;
    Ok(folder.join(format!("{name}.json")))
}

pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no JSON", path.display()))
}

/// The figures of all phases; where two phases have one of the same name, the later one's.
fn metrics(report: &Value) -> BTreeMap<String, f64> {
    let phases = report.get("phases").and_then(Value::as_array).into_iter().flatten();
    let metrics = phases.filter_map(|phase| phase.get("metrics")?.as_object()).flatten();
    metrics.filter_map(|(name, value)| Some((name.clone(), value.as_f64()?))).collect()
}

pub(crate) fn round(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

pub(crate) fn shown(name: &str, args: &[String]) -> String {
    let words = ["cargo", "xtask", "bench", name].into_iter().chain(args.iter().map(String::as_str));
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_of_all_phases_are_one_list() {
        let report = serde_json::json!({"phases": [
            {"name": "ramp", "metrics": {"connects_per_s": 20_000.4, "ready": 1.0}},
            {"name": "hold", "metrics": {"ready": 2.0, "note": "no number"}},
        ]});
        let figures = metrics(&report);
        assert_eq!(figures.len(), 2);
        assert_eq!(round(figures.get("connects_per_s").copied(), 0), "20000");
        assert_eq!(round(figures.get("ready").copied(), 1), "2.0");
        assert_eq!(round(None, 1), "-");
    }
}
