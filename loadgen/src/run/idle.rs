//! The phases `ramp` (bring connections up) and `hold` (keep them, and see what a second costs).

use std::time::Duration;

use super::{Conductor, RunError};
use crate::kernel;
use crate::progress::Progress;
use crate::report::PhaseReport;
use crate::worker::Order;

/// Brings the first `connections` clients up and waits until each is ready or has failed.
///
/// # Errors
/// [`RunError`] where a worker broke.
pub fn ramp(
    conductor: &mut Conductor,
    name: &str,
    connections: u32,
    rate: f64,
) -> Result<PhaseReport, RunError> {
    let start = conductor.mark();
    let wanted = u64::from(connections);
    let begun_before = start.totals.became_ready + start.totals.failed;
    let already = start.totals.started;
    let mut progress = Progress::new(name, wanted, conductor.quiet);
    conductor.fleet.ramp(connections, rate);
    loop {
        let totals = conductor.look();
        progress.show(totals.ready, &conductor.live(&totals));
        let settled = totals.became_ready + totals.failed - begun_before;
        if settled >= wanted.saturating_sub(already) || kernel::interrupted() {
            break;
        }
    }
    let mut report = conductor.report(name, "ramp", &start);
    let became_ready = conductor.fleet.totals().became_ready - start.totals.became_ready;
    let seconds = report.seconds;
    report.set("connects_per_s", became_ready as f64 / seconds);
    if became_ready > 0 {
        let each = |total_s: f64| total_s * 1e6 / became_ready as f64;
        report.set("generator_cpu_per_connect_us", each(conductor.mark().own_cpu_s - start.own_cpu_s));
        if let Some(cpu_s) = report.metrics.get("server_cpu_s").copied() {
            report.set("server_cpu_per_connect_us", each(cpu_s));
        }
    }
    let census = conductor.fleet.census()?;
    report.set("generator_bytes_per_client_b", census.bytes_per_client as f64);
    let failed = report.metrics.get("failed").copied().unwrap_or(0.0);
    if failed > 0.0 {
        report.broken.push(format!("{failed} connections did not come up"));
    }
    // A ramp is meant to go as fast as it can: that a worker is busy says how fast, not that it is wrong.
    report.void.clear();
    progress.done(&format!("{became_ready} ready, {:.0} a second", became_ready as f64 / seconds));
    Ok(report)
}

/// What is demanded of a hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HoldDemands {
    /// How long.
    pub duration: Duration,
    /// Every connection is to read at least one ping.
    pub require_ping: bool,
    /// None is to be lost.
    pub require_all: bool,
}

/// Keeps the connections for a while.
///
/// # Errors
/// [`RunError`] where a worker broke.
pub fn hold(conductor: &mut Conductor, name: &str, demands: &HoldDemands) -> Result<PhaseReport, RunError> {
    conductor.fleet.order(|_| Order::ResetPings);
    let start = conductor.mark();
    let mut progress = Progress::new(name, demands.duration.as_secs(), conductor.quiet);
    loop {
        let totals = conductor.look();
        let held = conductor.clock.elapsed().as_secs_f64() - start.at_s;
        let pings = totals.pings - start.totals.pings;
        progress.show(held as u64, &format!("{}, {pings} pings", conductor.live(&totals)));
        if held >= demands.duration.as_secs_f64() || kernel::interrupted() {
            break;
        }
    }
    let mut report = conductor.report(name, "hold", &start);
    let census = conductor.fleet.census()?;
    report.set("pings_fewest", f64::from(census.fewest_pings));
    report.set("pings_most", f64::from(census.most_pings));
    report.set("connections_without_ping", census.without_ping as f64);
    per_connection_second(&mut report);
    if demands.require_ping && (census.without_ping > 0 || census.ready == 0) {
        report.broken.push(format!("{} connections read no ping", census.without_ping));
    }
    let lost = report.metrics.get("lost_connections").copied().unwrap_or(0.0);
    if demands.require_all && lost > 0.0 {
        report.broken.push(format!("{lost} connections were lost"));
    }
    progress.done(&format!("{} held, {lost} lost", census.ready));
    Ok(report)
}

fn per_connection_second(report: &mut PhaseReport) {
    let ready = report.metrics.get("ready").copied().unwrap_or(0.0);
    let each = |cores: &f64| cores * 1e6 / ready.max(1.0);
    for (from, to) in [
        ("server_cores", "server_cpu_per_connection_second_us"),
        ("generator_cores", "generator_cpu_per_connection_second_us"),
    ] {
        if let Some(value) = report.metrics.get(from).map(each) {
            report.set(to, value);
        }
    }
}
