//! The phase `presence`: clients leave and join channels all the time; in the end the server must know who is where.

use std::time::Duration;

use super::storm::wait;
use super::{Conductor, RunError, latency};
use crate::behaviour::Churn;
use crate::kernel;
use crate::progress::Progress;
use crate::report::PhaseReport;
use crate::worker::Order;

/// How long the server has to settle before it is asked.
const SETTLE: Duration = Duration::from_secs(1);
/// How long it has to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A churn of presence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PresencePhase {
    /// Joins and leaves a second, over all clients.
    pub rate: f64,
    /// For how long.
    pub duration: Duration,
}

/// Runs a churn.
///
/// # Errors
/// [`RunError`] where a worker broke.
pub fn presence(conductor: &mut Conductor, name: &str, how: &PresencePhase) -> Result<PhaseReport, RunError> {
    conductor.begin_flow(1)?;
    let start = conductor.mark();
    let each = how.rate / f64::from(conductor.plan.workers);
    conductor.fleet.order(|_| Order::Churn(Some(Churn { rate: each })));
    let mut progress = Progress::new(name, how.duration.as_secs(), conductor.quiet);
    loop {
        let totals = conductor.look();
        let seconds = conductor.clock.elapsed().as_secs_f64() - start.at_s;
        let (joins, leaves) = (totals.joins - start.totals.joins, totals.leaves - start.totals.leaves);
        let commands = totals.commands - start.totals.commands;
        progress
            .show(seconds as u64, &format!("{commands} commands, {joins} joins and {leaves} leaves heard"));
        if seconds >= how.duration.as_secs_f64() || kernel::interrupted() {
            break;
        }
    }
    conductor.fleet.order(|_| Order::Churn(None));
    let churned = conductor.mark();
    wait(conductor, SETTLE);
    conductor.fleet.order(|_| Order::AskPresence);
    await_answers(conductor)?;
    // A later phase must find everybody where the plan has them.
    conductor.fleet.order(|_| Order::Rejoin);
    await_answers(conductor)?;
    let (finished, _) = conductor.finish_flow()?;
    let mut report = conductor.report(name, "presence", &start);
    let new = churned.totals.since(&start.totals);
    let seconds = churned.at_s - start.at_s;
    report.set("commands_per_s", new.commands as f64 / seconds);
    report.set("joins_per_s", new.joins as f64 / seconds);
    report.set("leaves_per_s", new.leaves as f64 / seconds);
    report.set("command_errors", conductor.fleet.totals().since(&start.totals).errors as f64);
    report.set("presence_right", finished.presence.0 as f64);
    report.set("presence_wrong", finished.presence.1 as f64);
    report.set("unanswered", finished.unanswered as f64);
    latency::set(&mut report, "command", &finished.commands);
    report.curve = latency::curve(&finished.commands);
    if finished.presence.1 > 0 {
        report.broken.push(format!("{} channels gave a wrong presence", finished.presence.1));
    }
    progress.done(&format!("{} channels right, {} wrong", finished.presence.0, finished.presence.1));
    Ok(report)
}

/// Waits until commands are answered, or for a while.
fn await_answers(conductor: &mut Conductor) -> Result<(), RunError> {
    // Orders are taken in turn: who has answered this has sent its commands.
    conductor.fleet.census()?;
    let end = conductor.clock.elapsed() + PATIENCE;
    loop {
        let totals = conductor.look();
        if totals.replies >= totals.commands || conductor.clock.elapsed() > end {
            return Ok(());
        }
    }
}
