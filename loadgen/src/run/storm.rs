//! The phase `storm`: many clients lose their connection at once and come back, and nothing is to be missing.

use std::sync::Arc;
use std::time::Duration;

use super::fanout::{drain, report_failure, report_findings, report_flow};
use super::{Conductor, RunError, latency};
use crate::behaviour::{Close, Departure, Jitter};
use crate::flow::Flow;
use crate::kernel;
use crate::progress::Progress;
use crate::publisher::{Publisher, Publishing};
use crate::report::PhaseReport;
use crate::worker::Order;

/// How long messages flow before the storm breaks.
const LEAD: Duration = Duration::from_secs(1);

/// A storm.
#[derive(Debug, Clone)]
pub struct Storm {
    /// How many clients lose their connection.
    pub clients: u32,
    /// How.
    pub close: Close,
    /// When they come back.
    pub jitter: Jitter,
    /// Within which time.
    pub within: Duration,
    /// How long to wait for the last of them.
    pub patience: Duration,
    /// What is published meanwhile.
    pub publishing: Option<Publishing>,
    /// How long no delivery may come before those still missing count as lost.
    pub drain: Duration,
}

/// Runs a storm.
///
/// # Errors
/// [`RunError`] where a worker or the publisher broke.
pub fn storm(conductor: &mut Conductor, name: &str, how: &Storm) -> Result<PhaseReport, RunError> {
    let flow = conductor.begin_flow(how.publishing.as_ref().map_or(1, |publishing| publishing.lanes))?;
    let start = conductor.mark();
    let started_ns = conductor.clock.nanos();
    let publisher = start_publisher(conductor, &flow, how.publishing.as_ref())?;
    wait(conductor, LEAD);
    let leaving_s = conductor.clock.elapsed().as_secs_f64();
    depart(conductor, how, how.clients)?;
    let broke_s = conductor.clock.elapsed().as_secs_f64();
    let back_s = await_return(conductor, name, how, broke_s);
    let published = match publisher {
        Some(publisher) => {
            wait(conductor, LEAD);
            publisher.stop();
            while !publisher.is_over() {
                conductor.look();
            }
            Some(publisher.join()?)
        }
        None => None,
    };
    drain(conductor, &flow, how.drain);
    let (finished, latencies) = conductor.finish_flow()?;
    let mut report = conductor.report(name, "storm", &start);
    report_flow(conductor, &flow, &start, started_ns, &mut report);
    report_findings(&finished.findings, &mut report);
    report_returns(conductor, how, &start.totals, back_s, &mut report);
    report.set("all_gone_s", broke_s - leaving_s);
    latency::set(&mut report, "return", &finished.returns);
    latency::set(&mut report, "latency", &latencies);
    report.curve = latency::curve(&finished.returns);
    let lateness = published.as_ref().map(|published| &published.lateness);
    latency::judge(&mut report, &finished.returns, &finished.lag, lateness);
    report_failure(published.as_ref(), &mut report);
    Ok(report)
}

/// Orders `clients` of all clients to leave and come back; they have left when this returns.
pub(super) fn depart(conductor: &mut Conductor, how: &Storm, clients: u32) -> Result<(), RunError> {
    let within_ms = u32::try_from(how.within.as_millis()).unwrap_or(u32::MAX);
    let (close, jitter) = (how.close, how.jitter);
    let plan = Arc::clone(&conductor.plan);
    conductor.fleet.order(|worker| {
        Order::Depart(Departure { clients: plan.share(clients, worker), close, jitter, within_ms })
    });
    // Orders are taken in turn: who has answered this has done the other.
    conductor.fleet.census()?;
    Ok(())
}

pub(super) fn start_publisher(
    conductor: &Conductor,
    flow: &Arc<Flow>,
    publishing: Option<&Publishing>,
) -> Result<Option<Publisher>, RunError> {
    let Some(publishing) = publishing else { return Ok(None) };
    let door = conductor.fleet.door();
    let publishing = publishing.clone();
    Ok(Some(Publisher::start(&conductor.plan, conductor.clock, door, Arc::clone(flow), publishing)?))
}

/// Samples on for a while.
pub(super) fn wait(conductor: &mut Conductor, time: Duration) {
    let end = conductor.clock.elapsed() + time;
    while conductor.clock.elapsed() < end {
        conductor.look();
    }
}

/// Waits until all are back; how many seconds that took, `None` if they are not.
fn await_return(conductor: &mut Conductor, name: &str, how: &Storm, broke_s: f64) -> Option<f64> {
    let dropped = conductor.fleet.totals().away;
    let mut progress = Progress::new(name, dropped, conductor.quiet);
    loop {
        let totals = conductor.look();
        let seconds = conductor.clock.elapsed().as_secs_f64() - broke_s;
        let away = totals.away;
        progress.show(dropped.saturating_sub(away), &format!("{}, {away} away", conductor.live(&totals)));
        if away == 0 {
            progress.done(&format!("all {dropped} back after {seconds:.1} s"));
            return Some(seconds);
        }
        if seconds > how.patience.as_secs_f64() || kernel::interrupted() {
            progress.done(&format!("{away} are not back after {seconds:.1} s"));
            return None;
        }
    }
}

fn report_returns(
    conductor: &Conductor,
    how: &Storm,
    before: &crate::counters::Totals,
    back_s: Option<f64>,
    report: &mut PhaseReport,
) {
    let now = conductor.fleet.totals();
    let new = now.since(before);
    report.set("dropped", new.dropped as f64);
    report.set("returned", new.became_ready as f64);
    report.set("recovered", new.recovered as f64);
    report.set("unrecovered", new.unrecovered as f64);
    if let Some(seconds) = back_s {
        report.set("all_back_s", seconds);
        report.set("returns_per_s", new.became_ready as f64 / seconds.max(1e-9));
    } else {
        let away = now.away;
        let patience = how.patience.as_secs_f64();
        report.broken.push(format!("{away} clients were not back after {patience} s"));
    }
}
