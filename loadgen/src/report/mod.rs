//! What a run found: one structure that is written as JSON, drawn as HTML, compared and asserted on.
//!
//! Every figure of a phase is a number under a name that ends in its unit (`latency_p99_ms`, `server_rss_b`), so that
//! comparing and asserting need to know no phase in particular.

pub mod assert;
pub mod compare;
pub mod html;
mod plot;
pub mod text;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::counters::Reasons;
use crate::monitor::Usage;

/// The version of the report's form.
pub const FORMAT: u32 = 1;

/// A whole run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT`] when it was written.
    pub format: u32,
    /// The command line.
    pub command: String,
    /// Start, in seconds since 1970.
    pub started_unix: u64,
    /// What the generator ran on.
    pub host: Host,
    /// What the self check said.
    pub self_check: String,
    /// The user ended it before its time.
    #[serde(default)]
    pub interrupted: bool,
    /// The phases, in order.
    pub phases: Vec<PhaseReport>,
    /// The run by the second.
    pub samples: Vec<Sample>,
}

/// A machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// Cores the generator may use.
    pub cores: usize,
    /// Memory, in bytes.
    pub memory: u64,
    /// Kernel release.
    pub kernel: String,
}

/// One phase.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PhaseReport {
    /// Its name.
    pub name: String,
    /// Its kind: ramp, hold, fanout, ...
    pub kind: String,
    /// When it began, in seconds of the run.
    pub start_s: f64,
    /// How long it took.
    pub seconds: f64,
    /// Its figures.
    pub metrics: BTreeMap<String, f64>,
    /// Why connections failed or were lost in it.
    pub reasons: BTreeMap<String, u64>,
    /// Kernel caches that have grown since the start of the run, in bytes.
    pub slab_growth: BTreeMap<String, u64>,
    /// Latency: percentile and milliseconds.
    pub curve: Vec<(f64, f64)>,
    /// Why the figures are not the server's: the generator was the bottleneck.
    pub void: Vec<String>,
    /// What was demanded of this phase and did not hold.
    pub broken: Vec<String>,
}

/// One second of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sample {
    /// Seconds of the run.
    pub at_s: f64,
    /// Clients that are ready.
    pub ready: u64,
    /// Handshakes under way.
    pub pending: u64,
    /// Connections failed or lost so far.
    pub failed: u64,
    /// Connections that became ready, per second.
    pub connects_per_s: f64,
    /// Deliveries read, per second.
    pub deliveries_per_s: f64,
    /// What the server uses.
    pub server: Option<Usage>,
    /// Cores the server used in this second.
    pub server_cores: f64,
    /// Cores the generator used in this second.
    pub generator_cores: f64,
    /// Latency of this second in milliseconds: median, 99th percentile, largest.
    pub latency_ms: Option<(f64, f64, f64)>,
    /// Kernel memory per cache, in bytes, every few seconds.
    pub slab: BTreeMap<String, u64>,
}

impl PhaseReport {
    /// Notes one figure.
    pub fn set(&mut self, name: &str, value: f64) {
        self.metrics.insert(name.to_owned(), value);
    }

    /// Notes why connections failed or were lost.
    pub fn set_reasons(&mut self, before: &Reasons, after: &Reasons) {
        for (reason, count) in after {
            let more = count - before.get(reason).copied().unwrap_or(0);
            if more > 0 {
                self.reasons.insert(reason.to_string(), more);
            }
        }
    }
}

impl Report {
    /// Whether the generator was the bottleneck anywhere.
    #[must_use]
    pub fn is_void(&self) -> bool {
        self.phases.iter().any(|phase| !phase.void.is_empty())
    }

    /// Whether every phase held what was demanded of it.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.phases.iter().all(|phase| phase.broken.is_empty())
    }

    /// Writes the report as JSON.
    ///
    /// # Errors
    /// What the file system answers.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        fs::write(path, serde_json::to_vec_pretty(self)?)
    }

    /// Reads a report.
    ///
    /// # Errors
    /// What the file system answers, or `InvalidData` for a file that is no report.
    pub fn load(path: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(path)?)?)
    }
}
