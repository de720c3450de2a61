//! The conductor: runs the phases one after another, samples every second, and collects the report.

pub mod chat;
pub mod fanout;
pub mod idle;
mod latency;
pub mod presence;
pub mod slow;
pub mod soak;
pub mod storm;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::clock::{self, Clock};
use crate::counters::{Reasons, Totals};
use crate::fleet::{Fleet, FleetError};
use crate::flow::Flow;
use crate::kernel;
use crate::monitor::{self, ProcessWatch, Usage};
use crate::plan::Plan;
use crate::proof;
use crate::publisher::LaneError;
use crate::report::{PhaseReport, Sample};
use crate::worker::Finished;

/// How often the conductor looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often kernel caches are sampled: reading them is not free.
const SLAB_EVERY_S: f64 = 5.0;
/// Caches that grew by less are left out of reports.
const SLAB_FLOOR: u64 = 512 << 10;
/// A worker that runs for a larger share of the time has no slack, and its clients wait for it.
const BUSY_SHARE: f64 = 0.9;

/// A phase could not be run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A worker failed.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// The publisher failed.
    #[error(transparent)]
    Publisher(#[from] LaneError),
    /// A room has more members than the proof can follow.
    #[error(
        "a room of {seats} clients is too large for a chat; {most} is the most: use a template such as room{{i/20}}"
    )]
    RoomTooLarge {
        /// Clients in a room.
        seats: u32,
        /// The most that a room may have.
        most: u32,
    },
}

/// Runs phases on a fleet.
pub struct Conductor {
    /// The fixed part of the run.
    pub plan: Arc<Plan>,
    /// The clock of the process.
    pub clock: Clock,
    /// The workers.
    pub fleet: Fleet,
    /// No progress on the terminal.
    pub quiet: bool,
    watch: ProcessWatch,
    base: Base,
    samples: Vec<Sample>,
    last: Mark,
    last_slab_s: f64,
    /// Latencies of the present phase, in microseconds.
    phase_latency: Histogram<u64>,
    runs: u32,
}

/// How things stood before the first connection.
#[derive(Debug, Clone, Default)]
struct Base {
    server: Option<Usage>,
    own: Option<Usage>,
    slab: BTreeMap<String, u64>,
}

/// How things stand at one moment.
#[derive(Debug, Clone, Default)]
pub struct Mark {
    /// Seconds of the run.
    pub at_s: f64,
    /// What the workers have counted.
    pub totals: Totals,
    /// What the server uses.
    pub server: Option<Usage>,
    /// CPU time of the generator, in seconds.
    pub own_cpu_s: f64,
    reasons: Reasons,
    scheduling: Vec<(Duration, Duration)>,
}

impl Conductor {
    /// Starts the workers; the server is watched by `server_pids`.
    ///
    /// # Errors
    /// [`FleetError`] where workers cannot start.
    pub fn start(plan: Plan, server_pids: &[u32], quiet: bool) -> Result<Self, FleetError> {
        let (plan, clock) = (Arc::new(plan), Clock::start());
        let watch = ProcessWatch::new(server_pids);
        let fleet = Fleet::launch(&plan, clock)?;
        let base = Base { server: watch.sample(), own: own_usage(), slab: monitor::slab() };
        let mut conductor = Self {
            plan,
            clock,
            fleet,
            quiet,
            watch,
            base,
            samples: Vec::new(),
            last: Mark::default(),
            last_slab_s: f64::NEG_INFINITY,
            phase_latency: proof::histogram(),
            runs: 0,
        };
        conductor.last = conductor.mark();
        Ok(conductor)
    }

    /// How things stand.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark {
            at_s: self.clock.elapsed().as_secs_f64(),
            totals: self.fleet.totals(),
            server: self.watch.sample(),
            own_cpu_s: kernel::process_cpu().as_secs_f64(),
            reasons: self.fleet.reasons(),
            scheduling: monitor::scheduling(self.fleet.thread_ids()),
        }
    }

    /// Rests for a moment, and samples when a second has gone by. Returns what the workers have counted.
    pub fn look(&mut self) -> Totals {
        clock::rest(LOOK_EVERY);
        if self.clock.elapsed().as_secs_f64() - self.last.at_s >= 1.0 {
            let now = self.mark();
            let latency = self.fleet.take_latency();
            self.sample(&now, &latency);
            self.phase_latency.add(&latency).unwrap_or_default();
            self.last = now;
        }
        self.fleet.totals()
    }

    fn sample(&mut self, now: &Mark, latency: &Histogram<u64>) {
        let seconds = now.at_s - self.last.at_s;
        let new = now.totals.since(&self.last.totals);
        let cpu = |mark: &Mark| mark.server.map_or(0.0, |usage| usage.cpu_s);
        let mut sample = Sample {
            at_s: now.at_s,
            ready: now.totals.ready,
            pending: now.totals.pending,
            failed: now.totals.failed + now.totals.lost,
            connects_per_s: new.became_ready as f64 / seconds,
            deliveries_per_s: new.deliveries as f64 / seconds,
            server: now.server,
            server_cores: (cpu(now) - cpu(&self.last)) / seconds,
            generator_cores: (now.own_cpu_s - self.last.own_cpu_s) / seconds,
            latency_ms: latency::of_second(latency),
            ..Sample::default()
        };
        if now.at_s - self.last_slab_s >= SLAB_EVERY_S {
            self.last_slab_s = now.at_s;
            sample.slab = monitor::growth(&self.base.slab, &monitor::slab(), SLAB_FLOOR);
        }
        self.samples.push(sample);
    }

    /// Opens the books over a new flow with `lanes` sequences per channel.
    ///
    /// # Errors
    /// [`FleetError`] where a worker broke.
    pub fn begin_flow(&mut self, lanes: u32) -> Result<Arc<Flow>, FleetError> {
        self.runs += 1;
        let waker = Arc::clone(&self.fleet.door().waker);
        let flow = Arc::new(Flow::new(self.runs, self.plan.channels.count(), lanes, Some(waker)));
        let _ = self.fleet.take_latency();
        self.phase_latency = proof::histogram();
        self.fleet.begin(&flow)?;
        Ok(flow)
    }

    /// Closes the books: what they came to, and all latencies of the phase.
    ///
    /// # Errors
    /// [`FleetError`] where a worker broke.
    pub fn finish_flow(&mut self) -> Result<(Finished, Histogram<u64>), FleetError> {
        let finished = self.fleet.finish()?;
        let mut latency = std::mem::replace(&mut self.phase_latency, proof::histogram());
        latency.add(self.fleet.take_latency()).unwrap_or_default();
        Ok((finished, latency))
    }

    /// The live figures of the last second, for the progress bar.
    #[must_use]
    pub fn live(&self, totals: &Totals) -> String {
        let sample = self.samples.last().cloned().unwrap_or_default();
        let rate = sample.connects_per_s;
        let failed = totals.failed + totals.lost;
        let mut line = format!("{} ready, {failed} failed, {rate:.0}/s", totals.ready);
        if let Some(server) = sample.server {
            let (megabytes, percent) = (server.rss >> 20, sample.server_cores * 100.0);
            line.push_str(&format!(", server {megabytes} MiB {percent:.0} % CPU"));
        }
        line.push_str(&format!(", generator {:.0} % CPU", sample.generator_cores * 100.0));
        line
    }

    /// The live figures of a flow.
    #[must_use]
    pub fn live_flow(&self, totals: &Totals, flow: &Flow) -> String {
        let sample = self.samples.last().cloned().unwrap_or_default();
        let (p50, p99, _) = sample.latency_ms.unwrap_or_default();
        let missing = flow.expected().saturating_sub(flow.delivered());
        let rate = sample.deliveries_per_s;
        format!(
            "{rate:.0} deliveries/s, p50 {p50:.2} ms, p99 {p99:.2} ms, {missing} under way, {} ready, server {:.0} % CPU",
            totals.ready,
            sample.server_cores * 100.0
        )
    }

    /// What all phases have in common, from the mark at their start.
    #[must_use]
    pub fn report(&self, name: &str, kind: &str, start: &Mark) -> PhaseReport {
        let end = self.mark();
        let seconds = (end.at_s - start.at_s).max(1e-9);
        let new = end.totals.since(&start.totals);
        let mut report = PhaseReport {
            name: name.to_owned(),
            kind: kind.to_owned(),
            start_s: start.at_s,
            seconds,
            ..PhaseReport::default()
        };
        report.set("ready", end.totals.ready as f64);
        report.set("failed", new.failed as f64);
        report.set("lost_connections", new.lost as f64);
        report.set("pings", new.pings as f64);
        report.set("malformed", new.malformed as f64);
        if let (Some(base), Some(own)) = (self.base.own, own_usage()) {
            report.set("generator_rss_b", own.rss as f64);
            if end.totals.ready > 0 {
                let growth = own.rss as f64 - base.rss as f64;
                report.set("generator_rss_per_connection_b", growth / end.totals.ready as f64);
            }
        }
        report.set("generator_cores", (end.own_cpu_s - start.own_cpu_s) / seconds);
        report.set_reasons(&start.reasons, &end.reasons);
        report.slab_growth = monitor::growth(&self.base.slab, &monitor::slab(), SLAB_FLOOR);
        self.report_server(start, &end, &mut report);
        report_workers(start, &end, &mut report);
        report
    }

    fn report_server(&self, start: &Mark, end: &Mark, report: &mut PhaseReport) {
        let (Some(before), Some(base), Some(now)) = (start.server, self.base.server, end.server) else {
            return;
        };
        let seconds = report.seconds;
        let cpu_s = now.cpu_s - before.cpu_s;
        report.set("server_rss_b", now.rss as f64);
        report.set("server_cores", cpu_s / seconds);
        report.set("server_cpu_s", cpu_s);
        let ready = end.totals.ready;
        if ready > 0 {
            let each = |after: u64, before: u64| (after as f64 - before as f64) / ready as f64;
            report.set("server_rss_per_connection_b", each(now.rss, base.rss));
            report.set("server_anon_per_connection_b", each(now.rss_anon, base.rss_anon));
            report.set(
                "kernel_slab_per_connection_b",
                report.slab_growth.values().sum::<u64>() as f64 / ready as f64,
            );
        }
    }

    /// The samples so far.
    #[must_use]
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// Ends the run: closes all connections and hands over the samples.
    #[must_use]
    pub fn finish(self) -> Vec<Sample> {
        self.samples
    }
}

/// What the generator itself uses.
fn own_usage() -> Option<Usage> {
    ProcessWatch::new(&[std::process::id()]).sample()
}

fn report_workers(start: &Mark, end: &Mark, report: &mut PhaseReport) {
    let share = |time: Duration| time.as_secs_f64() / report.seconds;
    let spans = start.scheduling.iter().zip(&end.scheduling);
    let used: Vec<_> = spans
        .map(|(before, after)| {
            (share(after.0.saturating_sub(before.0)), share(after.1.saturating_sub(before.1)))
        })
        .collect();
    let busiest = used.iter().map(|(ran, _)| *ran).fold(0.0, f64::max);
    let waited = used.iter().map(|(_, waited)| *waited).fold(0.0, f64::max);
    report.set("worker_busiest_share", busiest);
    report.set("worker_waited_for_core_share", waited);
    if busiest > BUSY_SHARE {
        let percent = busiest * 100.0;
        report.void.push(format!("a worker of the generator was busy {percent:.0} % of the time"));
    }
}
