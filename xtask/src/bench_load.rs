//! End-to-end benches that publish: a publication to a million, a storm of reconnects, latency at half load. Each
//! starts its servers, runs scenarios of the load generator and appends its rows to
//! `docs/BENCHMARKS.md`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::bench;
use crate::bench_peers;
use crate::command::Run;
use crate::lint::cargo;
use crate::record::{Row, append};
use crate::server::Server;
use crate::workspace::Workspace;

/// A scenario takes less, even a million connections on a busy machine.
const DEADLINE: Duration = Duration::from_secs(45 * 60);

/// Signs the tokens of a bench, and opens its server API: the server lives for its length, on loopback.
pub(crate) const KEY: &str = "a key for benches, on loopback only";

/// Connections that one publication reaches.
const EVERYBODY: u32 = 1_000_000;

/// Figures of one phase by name.
pub(crate) type Figures = BTreeMap<String, f64>;

/// `cargo xtask bench everybody`
pub(crate) fn everybody(workspace: &Workspace, args: &[String]) -> Result<()> {
    // With both ends on one small machine the generator always waits for a core here: the row says for how long.
    let args_with: Vec<String> = args.iter().cloned().chain(["--allow-void".to_owned()]).collect();
    let (floor, raw_write_ns) = bench_peers::floor(workspace, EVERYBODY, &args_with)?;
    let load = format!("connections = {EVERYBODY}\npersonal = true\nchannel-template = [\"everybody\"]\n");
    let scenario = everybody_scenario("api-key = \"KEY\"\n");
    let phases = measure(workspace, "everybody", EVERYBODY + 1000, &load, &scenario, &args_with)?;
    let figures = phases.get("fanout").context("the report has a phase `fanout`")?;
    let of = |name: &str| figures.get(name).copied();
    let (ours, raw) = (cpu_without_pings(&phases), cpu_without_pings(&floor));
    let floor = floor.get("fanout").context("the report has a phase `fanout`")?;
    let row = [
        round(of("deliveries"), 0),
        round(of("lost"), 0),
        round(of("duplicates"), 0),
        round(of("lost_connections"), 0),
        round(of("latency_p50_ms"), 0),
        round(of("latency_max_ms"), 0),
        round(floor.get("latency_max_ms").copied(), 0),
        round(of("deliveries_per_s"), 0),
        round(of("server_cpu_per_delivery_us"), 2),
        round(ours, 2),
        round(raw, 2),
        round(ours.zip(raw).map(|(ours, raw)| ours / raw), 2),
        round(Some(raw_write_ns / 1000.0), 2),
        round(of("worker_waited_for_core_share"), 2),
    ];
    append(workspace, "everybody", &Row { command: bench::shown("everybody", args), figures: row.into() })
}

/// Microseconds of the server's CPU for a delivery, less what the pings of that time took: a ping costs what it cost in
/// the hold before.
fn cpu_without_pings(phases: &BTreeMap<String, Figures>) -> Option<f64> {
    let of = |phase: &str, name: &str| phases.get(phase)?.get(name).copied();
    let ping_s = of("hold", "server_cpu_s")? / of("hold", "pings")?;
    let rest_s = of("fanout", "server_cpu_s")? - of("fanout", "pings")? * ping_s;
    Some(rest_s * 1e6 / of("fanout", "deliveries")?)
}

/// Half a minute of rest, then one publication to all.
pub(crate) fn everybody_scenario(publish: &str) -> String {
    format!(
        "[[phase]]\nkind = \"ramp\"\n\n[[phase]]\nkind = \"hold\"\nhold = \"30s\"\n\n[[phase]]\nkind = \"fanout\"\n\
         publish-rate = 1\nduration = \"1s\"\ndrain = \"60s\"\n{publish}"
    )
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
pub(crate) fn config(workspace: &Workspace) -> Result<String> {
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

pub(crate) fn round(value: Option<f64>, digits: usize) -> String {
    bench::round(value, digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_are_taken_out_at_what_they_cost_in_the_hold() {
        let phase = |figures: &[(&str, f64)]| -> Figures {
            figures.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
        };
        let hold = phase(&[("server_cpu_s", 2.0), ("pings", 200_000.0)]);
        let fanout = phase(&[("server_cpu_s", 5.0), ("pings", 100_000.0), ("deliveries", 1_000_000.0)]);
        let phases = BTreeMap::from([("hold".to_owned(), hold), ("fanout".to_owned(), fanout)]);
        assert!((cpu_without_pings(&phases).unwrap() - 4.0).abs() < 1e-9);
        assert_eq!(cpu_without_pings(&BTreeMap::new()), None);
    }
}
