//! The phase `soak`: a long run of messages with clients that come and go, to see what grows and what is lost.

use std::time::Duration;

use super::fanout::{drain, report_failure, report_findings, report_flow};
use super::storm::{Storm, depart, start_publisher};
use super::{Conductor, RunError, latency};
use crate::kernel;
use crate::progress::Progress;
use crate::report::{PhaseReport, Sample};

/// The first part of a soak is warming up, and does not count for growth.
const WARM_UP_SHARE: f64 = 0.3;

/// A soak.
#[derive(Debug, Clone)]
pub struct Soak {
    /// For how long.
    pub duration: Duration,
    /// Clients that lose their connection and come back, a second.
    pub churn: f64,
    /// How they do, and what is published.
    pub storm: Storm,
}

/// Runs a soak.
///
/// # Errors
/// [`RunError`] where a worker or the publisher broke.
pub fn soak(conductor: &mut Conductor, name: &str, how: &Soak) -> Result<PhaseReport, RunError> {
    let flow =
        conductor.begin_flow(how.storm.publishing.as_ref().map_or(1, |publishing| publishing.lanes))?;
    let start = conductor.mark();
    let started_ns = conductor.clock.nanos();
    let publisher = start_publisher(conductor, &flow, how.storm.publishing.as_ref())?;
    let mut progress = Progress::new(name, how.duration.as_secs(), conductor.quiet);
    let mut churned = 0_u64;
    loop {
        let totals = conductor.look();
        let seconds = conductor.clock.elapsed().as_secs_f64() - start.at_s;
        progress
            .show(seconds as u64, &format!("{}, {} away", conductor.live_flow(&totals, &flow), totals.away));
        if seconds >= how.duration.as_secs_f64() || kernel::interrupted() {
            break;
        }
        let due = (how.churn * seconds) as u64;
        if due > churned {
            depart(conductor, &how.storm, u32::try_from(due - churned).unwrap_or(u32::MAX))?;
            churned = due;
        }
    }
    let published = match publisher {
        Some(publisher) => {
            publisher.stop();
            Some(publisher.join()?)
        }
        None => None,
    };
    drain(conductor, &flow, how.storm.drain);
    let (finished, latencies) = conductor.finish_flow()?;
    let mut report = conductor.report(name, "soak", &start);
    report_flow(conductor, &flow, &start, started_ns, &mut report);
    report_findings(&finished.findings, &mut report);
    let new = conductor.fleet.totals().since(&start.totals);
    report.set("dropped", new.dropped as f64);
    report.set("returned", new.became_ready as f64);
    report.set("recovered", new.recovered as f64);
    report.set("unrecovered", new.unrecovered as f64);
    latency::set(&mut report, "latency", &latencies);
    latency::set(&mut report, "return", &finished.returns);
    report.curve = latency::curve(&latencies);
    latency::judge(
        &mut report,
        &latencies,
        &finished.lag,
        published.as_ref().map(|published| &published.lateness),
    );
    report_failure(published.as_ref(), &mut report);
    let warm_s = start.at_s + how.duration.as_secs_f64() * WARM_UP_SHARE;
    if let Some(growth) = growth_per_hour(conductor.samples(), warm_s) {
        report.set("server_rss_growth_per_hour_b", growth);
    }
    progress.done(&format!("{} deliveries, {} came back", flow.delivered(), new.became_ready));
    Ok(report)
}

/// The slope of the server's resident memory from `from_s` on, in bytes an hour, by least squares.
fn growth_per_hour(samples: &[Sample], from_s: f64) -> Option<f64> {
    let points: Vec<(f64, f64)> = samples
        .iter()
        .filter(|sample| sample.at_s >= from_s)
        .filter_map(|sample| Some((sample.at_s, sample.server?.rss as f64)))
        .collect();
    let count = points.len() as f64;
    if points.len() < 3 {
        return None;
    }
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (mean_s, mean_b) = (mean(|point| point.0), mean(|point| point.1));
    let covariance: f64 = points.iter().map(|(at, rss)| (at - mean_s) * (rss - mean_b)).sum();
    let variance: f64 = points.iter().map(|(at, _)| (at - mean_s).powi(2)).sum();
    (variance > 0.0).then(|| covariance / variance * 3600.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::Usage;

    #[test]
    fn a_steady_leak_has_its_slope() {
        let sample = |at: u64| {
            let server = Some(Usage { rss: 1_000_000 + at * 10, ..Usage::default() });
            Sample { at_s: at as f64, server, ..Sample::default() }
        };
        let samples: Vec<_> = (0..100).map(sample).collect();
        let growth = growth_per_hour(&samples, 20.0).unwrap();
        assert!((growth - 36_000.0).abs() < 1.0, "{growth}");
        assert_eq!(growth_per_hour(&samples, 98.5), None);
    }
}
