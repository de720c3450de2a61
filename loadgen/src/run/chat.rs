//! The phase `chat`: clients talk in their rooms, each after a time of thinking, and everybody must hear everybody.

use std::time::Duration;

use super::fanout::{drain, report_findings, report_flow};
use super::{Conductor, RunError, latency};
use crate::behaviour::Chat;
use crate::kernel;
use crate::progress::Progress;
use crate::report::PhaseReport;
use crate::worker::Order;

/// Larger rooms would need more memory for the proof than for the clients.
const MOST_SEATS: u32 = 1_000;

/// A chat.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChatPhase {
    /// Mean time between two messages of a client.
    pub think: Duration,
    /// Bytes of data of a message.
    pub size: usize,
    /// How long they talk.
    pub duration: Duration,
    /// How long no delivery may come before those still missing count as lost.
    pub drain: Duration,
}

/// Runs a chat.
///
/// # Errors
/// [`RunError`] where a worker broke, or rooms are too large.
pub fn chat(conductor: &mut Conductor, name: &str, how: &ChatPhase) -> Result<PhaseReport, RunError> {
    let seats = conductor.plan.channels.seats(conductor.plan.connections);
    if seats > MOST_SEATS {
        return Err(RunError::RoomTooLarge { seats, most: MOST_SEATS });
    }
    let flow = conductor.begin_flow(seats)?;
    let start = conductor.mark();
    let started_ns = conductor.clock.nanos();
    let think_ms = (how.think.as_secs_f64() * 1000.0).max(1.0);
    conductor.fleet.order(|_| Order::Chat(Some(Chat { think_ms, size: how.size })));
    let mut progress = Progress::new(name, how.duration.as_secs(), conductor.quiet);
    loop {
        let totals = conductor.look();
        let seconds = conductor.clock.elapsed().as_secs_f64() - start.at_s;
        progress.show(seconds as u64, &conductor.live_flow(&totals, &flow));
        if seconds >= how.duration.as_secs_f64() || kernel::interrupted() {
            break;
        }
    }
    conductor.fleet.order(|_| Order::Chat(None));
    conductor.fleet.census()?;
    drain(conductor, &flow, how.drain);
    let (finished, latencies) = conductor.finish_flow()?;
    let mut report = conductor.report(name, "chat", &start);
    report_flow(conductor, &flow, &start, started_ns, &mut report);
    report_findings(&finished.findings, &mut report);
    latency::set(&mut report, "latency", &latencies);
    latency::set(&mut report, "publish", &finished.commands);
    let new = conductor.fleet.totals().since(&start.totals);
    report.set("publish_errors", new.errors as f64);
    report.set("unanswered", finished.unanswered as f64);
    report.curve = latency::curve(&latencies);
    latency::judge(&mut report, &latencies, &finished.lag, None);
    progress.done(&format!("{} messages, {} deliveries", flow.published(), flow.delivered()));
    Ok(report)
}
