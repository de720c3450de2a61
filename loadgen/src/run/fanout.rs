//! The phase `fanout`: publish, and prove what every subscriber got.

use std::sync::Arc;
use std::time::Duration;

use super::{Conductor, Mark, RunError, latency};
use crate::flow::Flow;
use crate::kernel;
use crate::progress::Progress;
use crate::proof::Findings;
use crate::publisher::{Published, Publisher, Publishing};
use crate::report::PhaseReport;

/// A fan-out.
#[derive(Debug, Clone)]
pub struct Fanout {
    /// How to publish.
    pub publishing: Publishing,
    /// How long no delivery may come before those still missing count as lost.
    pub drain: Duration,
}

/// Publishes and waits until everything has arrived, or will not.
///
/// # Errors
/// [`RunError`] where a worker or the publisher broke.
pub fn fanout(conductor: &mut Conductor, name: &str, how: &Fanout) -> Result<PhaseReport, RunError> {
    let flow = conductor.begin_flow(how.publishing.lanes)?;
    let start = conductor.mark();
    let started_ns = conductor.clock.nanos();
    let publisher = Publisher::start(
        &conductor.plan,
        conductor.clock,
        conductor.fleet.door(),
        Arc::clone(&flow),
        how.publishing.clone(),
    )?;
    let mut progress = Progress::new(name, how.publishing.duration.as_secs(), conductor.quiet);
    while !publisher.is_over() {
        let totals = conductor.look();
        let seconds = conductor.clock.elapsed().as_secs_f64() - start.at_s;
        progress.show(seconds as u64, &conductor.live_flow(&totals, &flow));
        if kernel::interrupted() {
            publisher.stop();
        }
    }
    let published = publisher.join()?;
    drain(conductor, &flow, how.drain);
    let (finished, latencies) = conductor.finish_flow()?;
    let mut report = conductor.report(name, "fanout", &start);
    report_flow(conductor, &flow, &start, started_ns, &mut report);
    report_findings(&finished.findings, &mut report);
    latency::set(&mut report, "latency", &latencies);
    latency::set(&mut report, "publish", &published.answers);
    report.set("publish_errors", published.errors as f64);
    report.set("stalls", published.stalls as f64);
    report.curve = latency::curve(&latencies);
    latency::judge(&mut report, &latencies, &finished.lag, Some(&published.lateness));
    report_failure(Some(&published), &mut report);
    progress.done(&summary(&report));
    Ok(report)
}

/// Waits until all deliveries are there, or none has come for so long.
pub(super) fn drain(conductor: &mut Conductor, flow: &Flow, patience: Duration) {
    let expected = flow.expected();
    let (mut delivered, mut end) = (flow.delivered(), conductor.clock.elapsed() + patience);
    while delivered < expected && conductor.clock.elapsed() < end && !kernel::interrupted() {
        conductor.look();
        if flow.delivered() > delivered {
            (delivered, end) = (flow.delivered(), conductor.clock.elapsed() + patience);
        }
    }
    // What is sent twice may come after the last that was awaited.
    conductor.look();
}

/// What was published, what arrived, and what it cost.
pub(super) fn report_flow(
    conductor: &Conductor,
    flow: &Flow,
    start: &Mark,
    started_ns: u64,
    report: &mut PhaseReport,
) {
    let seconds = flow.last_ns().saturating_sub(started_ns).max(1) as f64 / 1e9;
    let (published, delivered) = (flow.published() as f64, flow.delivered() as f64);
    report.set("published", published);
    report.set("published_per_s", published / seconds);
    report.set("deliveries_expected", flow.expected() as f64);
    report.set("deliveries", delivered);
    report.set("deliveries_per_s", delivered / seconds);
    let strays = conductor.fleet.totals().strays - start.totals.strays;
    report.set("strays", strays as f64);
    if delivered > 0.0 {
        let own = conductor.mark().own_cpu_s - start.own_cpu_s;
        report.set("generator_cpu_per_delivery_us", own * 1e6 / delivered);
        if let Some(cpu_s) = report.metrics.get("server_cpu_s").copied() {
            report.set("server_cpu_per_delivery_us", cpu_s * 1e6 / delivered);
        }
    }
}

/// What was lost, doubled and reordered. Any of it breaks what a channel promises.
pub(super) fn report_findings(findings: &Findings, report: &mut PhaseReport) {
    report.set("lost", findings.lost as f64);
    report.set("duplicates", findings.duplicates as f64);
    report.set("reordered", findings.reordered as f64);
    report.set("extra", findings.extra as f64);
    for (count, what) in
        [(findings.lost, "lost"), (findings.duplicates, "duplicated"), (findings.reordered, "out of order")]
    {
        if count > 0 {
            let examples = findings.examples.join("; ");
            report.broken.push(format!("{count} deliveries {what} ({examples})"));
        }
    }
}

/// That publishing ended early, if it did.
pub(super) fn report_failure(published: Option<&Published>, report: &mut PhaseReport) {
    if let Some(failure) = published.and_then(|published| published.failure.as_ref()) {
        report.broken.push(format!("publishing ended early: {failure}"));
    }
}

fn summary(report: &PhaseReport) -> String {
    let figure = |name: &str| report.metrics.get(name).copied().unwrap_or(0.0);
    format!(
        "{:.0} deliveries/s, p50 {:.2} ms, p99 {:.2} ms, {} lost, {} twice, {} out of order",
        figure("deliveries_per_s"),
        figure("latency_p50_ms"),
        figure("latency_p99_ms"),
        figure("lost"),
        figure("duplicates"),
        figure("reordered")
    )
}
