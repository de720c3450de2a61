//! End-to-end benches that publish: a publication to a million, a storm of reconnects, latency at half load, and
//! millpond beside peers. Each starts its servers, runs scenarios of the load generator and appends its rows to
//! `docs/BENCHMARKS.md`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::bench;
use crate::command::Run;
use crate::lint::cargo;
use crate::peer::Peer;
use crate::prepare::node_folder;
use crate::record::{Row, append};
use crate::server::Server;
use crate::workspace::Workspace;

/// A scenario takes less, even a million connections on a busy machine.
const DEADLINE: Duration = Duration::from_secs(45 * 60);

/// Signs the tokens of a bench, and opens its server API: the server lives for its length, on loopback.
pub(crate) const KEY: &str = "a key for benches, on loopback only";

/// Rounds of which the median counts where servers are compared.
const ROUNDS: usize = 3;

/// Subscribers where servers are compared: as many as one descriptor table of the load generator holds.
const SUBSCRIBERS: u32 = 18_000;

/// Figures of one phase by name.
pub(crate) type Figures = BTreeMap<String, f64>;

/// `cargo xtask bench everybody`
pub(crate) fn everybody(workspace: &Workspace, args: &[String]) -> Result<()> {
    bench::fanout(workspace, &[])?;
    let raw = bench::read_json(&bench::report_path(workspace, "fanout")?)?;
    let raw_ns = raw.get("raw_cpu_ns").and_then(Value::as_f64);
    let scenario = "[[phase]]\nkind = \"ramp\"\n\n[[phase]]\nkind = \"hold\"\nhold = \"30s\"\n\n[[phase]]\nkind = \"fanout\"\n\
                    publish-rate = 1\nduration = \"1s\"\ndrain = \"60s\"\napi-key = \"KEY\"\n";
    let load = "connections = 1_000_000\npersonal = true\nchannel-template = [\"everybody\"]\n";
    // With both ends on one small machine the generator always waits for a core here: the row says for how long.
    let args_with: Vec<String> = args.iter().cloned().chain(["--allow-void".to_owned()]).collect();
    let phases = measure(workspace, "everybody", 1_001_000, load, scenario, &args_with)?;
    let figures = phases.get("fanout").context("the report has a phase `fanout`")?;
    let of = |name: &str| figures.get(name).copied();
    let ratio = of("server_cpu_per_delivery_us").zip(raw_ns).map(|(ours, raw)| ours * 1000.0 / raw);
    let row = [
        round(of("deliveries"), 0),
        round(of("lost"), 0),
        round(of("duplicates"), 0),
        round(of("lost_connections"), 0),
        round(of("latency_p50_ms"), 0),
        round(of("latency_max_ms"), 0),
        round(of("deliveries_per_s"), 0),
        round(of("server_cpu_per_delivery_us"), 2),
        round(ratio, 2),
        round(of("worker_waited_for_core_share"), 2),
    ];
    append(workspace, "everybody", &Row { command: bench::shown("everybody", args), figures: row.into() })
}

/// `cargo xtask bench storm`
pub(crate) fn storm(workspace: &Workspace, args: &[String]) -> Result<()> {
    let scenario = "[[phase]]\nkind = \"ramp\"\n\n[[phase]]\nkind = \"storm\"\nwithin = \"20s\"\npatience = \"120s\"\n\
                    publish = { publish-rate = 50, duration = \"60s\", api-key = \"KEY\", drain = \"20s\" }\n";
    let load = "connections = 200_000\npersonal = true\nchannel-template = [\"room{i%2000}\"]\n";
    let phases = measure(workspace, "storm", 250_000, load, scenario, args)?;
    let figures = phases.get("storm").context("the report has a phase `storm`")?;
    let columns = [
        ("dropped", 0),
        ("returned", 0),
        ("all_back_s", 1),
        ("return_p99_ms", 0),
        ("recovered", 0),
        ("deliveries", 0),
        ("lost", 0),
        ("duplicates", 0),
        ("reordered", 0),
        ("generator_lag_p99_ms", 2),
        ("worker_waited_for_core_share", 3),
    ];
    let row = columns.map(|(name, digits)| round(figures.get(name).copied(), digits));
    append(workspace, "storm", &Row { command: bench::shown("storm", args), figures: row.into() })
}

/// `cargo xtask bench latency`
pub(crate) fn latency(workspace: &Workspace, args: &[String]) -> Result<()> {
    let scenario = "[[phase]]\nkind = \"ramp\"\n\n[[phase]]\nkind = \"fanout\"\npublish-rate = 1000\nduration = \"30s\"\n\
                    lanes = 4\napi-key = \"KEY\"\n";
    let load = "connections = 100_000\nchannel-template = [\"room{i%2000}\"]\n";
    let phases = measure(workspace, "latency", 101_000, load, scenario, args)?;
    let figures = phases.get("fanout").context("the report has a phase `fanout`")?;
    let columns = [
        ("deliveries_per_s", 0),
        ("lost", 0),
        ("latency_p50_ms", 2),
        ("latency_p90_ms", 2),
        ("latency_p99_ms", 2),
        ("latency_p999_ms", 2),
        ("latency_max_ms", 1),
        ("server_cores", 2),
        ("generator_lag_p99_ms", 2),
        ("worker_waited_for_core_share", 3),
    ];
    let row = columns.map(|(name, digits)| round(figures.get(name).copied(), digits));
    append(workspace, "latency", &Row { command: bench::shown("latency", args), figures: row.into() })
}

/// `cargo xtask bench peers`
pub(crate) fn peers(workspace: &Workspace, args: &[String]) -> Result<()> {
    build(workspace)?;
    cargo(&workspace.root).args(["build", "--release", "--example", "peer-tungstenite"]).succeed()?;
    let folder = node_folder(workspace, &workspace.root.join("benches/peers/ws"), "peer-ws")?;
    let tungstenite = workspace.target.join("release/examples/peer-tungstenite");
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
    let load = format!(
        "connections = {SUBSCRIBERS}\nencoding = \"plain\"\nchannel-template = [\"bench\"]\n\n[load.plain]\nfirst-frame = [\"subscribe {{channel}}\"]\n\
         ready = \"ok\"\npublish-frame = \"publish {{channel}} {{payload}}\"\n"
    );
    let run = |in_flight| {
        let scenario = in_flight_scenario(in_flight, "publish-by = \"client\"\n");
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

/// Starts millpond, runs a scenario against it and stops it.
fn measure(
    workspace: &Workspace,
    name: &str,
    most: u32,
    load: &str,
    scenario: &str,
    args: &[String],
) -> Result<BTreeMap<String, Figures>> {
    build(workspace)?;
    let config = config(workspace)?;
    let port = bench::free_port()?;
    let (listen, most) = (format!("127.0.0.1:{port}"), most.to_string());
    let server = Server::start(
        workspace,
        name,
        port,
        &["--config", &config, "--listen", &listen, "--max-connections", &most],
    )?;
    let load = format!("{load}token-key = \"{KEY}\"\n");
    let file = scenario_file(workspace, name, &load, scenario, port, "/connection/websocket")?;
    let phases = generate(workspace, name, &file, server.id(), args)?;
    server.stop()?;
    Ok(phases)
}

pub(crate) fn build(workspace: &Workspace) -> Result<()> {
    let packages = ["build", "--release", "--package", "millpond", "--package", "millpond-load"];
    cargo(&workspace.root).args(packages).succeed().map(drop)
}

/// Tokens, personal channels, history with recovery, and everything that the scenarios may do.
fn config(workspace: &Workspace) -> Result<String> {
    let path = workspace.scratch.join("bench-load.toml");
    let text = format!(
        "[client]\nping_interval = \"25s\"\nallow_anonymous_connect_without_token = true\n\n\
         [client.token]\nhmac_secret_key = \"{KEY}\"\n\n\
         [client.subscribe_to_user_personal_channel]\nenabled = true\n\n\
         [http_api]\nkey = \"{KEY}\"\nexternal = true\n\n\
         [channel.without_namespace]\npresence = true\nallow_user_limited_channels = true\n\
         allow_subscribe_for_client = true\nallow_subscribe_for_anonymous = true\n\
         history_size = 100\nhistory_ttl = \"5m\"\nforce_recovery = true\n"
    );
    fs::write(&path, text)?;
    Ok(path.display().to_string())
}

pub(crate) fn scenario_file(
    workspace: &Workspace,
    name: &str,
    load: &str,
    phases: &str,
    port: u16,
    path: &str,
) -> Result<PathBuf> {
    let file = workspace.scratch.join(format!("bench-{name}.toml"));
    let phases = phases.replace("KEY", KEY);
    fs::write(&file, format!("[load]\nurl = [\"ws://127.0.0.1:{port}{path}\"]\n{load}\n{phases}"))?;
    Ok(file)
}

/// Runs the scenario; a void run and one with a lost or doubled message is an error.
pub(crate) fn generate(
    workspace: &Workspace,
    name: &str,
    scenario: &Path,
    server: u32,
    args: &[String],
) -> Result<BTreeMap<String, Figures>> {
    let json = bench::report_path(workspace, name)?;
    let load = workspace.target.join("release/millpond-load");
    let server = server.to_string();
    let scenario = scenario.display().to_string();
    let run =
        Run::new(load, &workspace.root, DEADLINE).args(["run", &scenario, "--server-pid", &server, "--json"]);
    run.args([&json]).args(args).succeed()?;
    phases_of(&json)
}

/// The figures of each phase of a report, by its name.
pub(crate) fn phases_of(report: &Path) -> Result<BTreeMap<String, Figures>> {
    let json = report;
    let report = bench::read_json(json)?;
    let phases = report.get("phases").and_then(Value::as_array).context("a report has phases")?;
    let named = phases.iter().filter_map(|phase| {
        let metrics = phase.get("metrics")?.as_object()?;
        let metrics =
            metrics.iter().filter_map(|(name, value)| Some((name.clone(), value.as_f64()?))).collect();
        Some((phase.get("name")?.as_str()?.to_owned(), metrics))
    });
    let named: BTreeMap<String, Figures> = named.collect();
    if named.is_empty() {
        bail!("{} holds no figures", json.display());
    }
    Ok(named)
}

fn round(value: Option<f64>, digits: usize) -> String {
    bench::round(value, digits)
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
