//! What a server accounts for, beside what the kernel says it has, while a bench is under way.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::server::Server;

/// Pause between two looks, well below every hold.
const LOOK: Duration = Duration::from_millis(500);

/// One look.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Look {
    connections: u64,
    accounted: u64,
    rss: u64,
}

impl Look {
    /// Looks now.
    pub(crate) fn at(internal: SocketAddr, id: u32) -> Result<Self> {
        let mut stream = TcpStream::connect(internal).context("reaching the metrics")?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        Ok(Self {
            connections: sum(&page, "millpond_node_num_clients"),
            accounted: sum(&page, "millpond_memory_bytes"),
            rss: Server::rss_of(id)?,
        })
    }

    /// True if no client is counted.
    pub(crate) fn is_empty(&self) -> bool {
        self.connections == 0
    }

    /// Growth accounted for ÷ growth of RSS, since `start`.
    pub(crate) fn ratio(&self, start: &Self) -> f64 {
        (self.accounted as f64 - start.accounted as f64) / (self.rss as f64 - start.rss as f64)
    }
}

/// Looks until it is told to stop.
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Look>>,
}

impl Watch {
    /// Starts looking.
    pub(crate) fn start(internal: SocketAddr, id: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut looks = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                looks.extend(Look::at(internal, id));
                thread::sleep(LOOK);
            }
            looks
        });
        Self { stop, thread }
    }

    /// The look in the middle of those with the most connections: neither the end of the ramp nor the departure.
    pub(crate) fn stop(self) -> Result<Look> {
        self.stop.store(true, Ordering::Relaxed);
        let Ok(looks) = self.thread.join() else { bail!("the watch of memory has panicked") };
        middle_of_fullest(&looks).context("the metrics could not be read once")
    }
}

fn middle_of_fullest(looks: &[Look]) -> Option<Look> {
    let most = looks.iter().map(|look| look.connections).max()?;
    let full: Vec<_> = looks.iter().filter(|look| look.connections == most).collect();
    full.get(full.len() / 2).map(|look| **look)
}

/// Sum of all series of a metric.
fn sum(page: &str, name: &str) -> u64 {
    let series =
        page.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
    series.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_a_metric_are_summed() {
        let page = "# TYPE m gauge\nm{category=\"a\"} 3\nm{category=\"b\"} 4\nm_total 9\nn 5\n";
        assert_eq!((sum(page, "m"), sum(page, "n"), sum(page, "o")), (7, 5, 0));
    }

    #[test]
    fn the_middle_of_the_hold_counts() {
        let look = |connections, rss| Look { connections, accounted: 0, rss };
        let looks = [look(1, 1), look(9, 2), look(9, 3), look(9, 4), look(2, 5)];
        assert_eq!(middle_of_fullest(&looks).map(|look| look.rss), Some(3));
        assert!(middle_of_fullest(&[]).is_none());
    }

    #[test]
    fn the_ratio_is_one_of_growth() {
        let start = Look { connections: 0, accounted: 10, rss: 100 };
        let full = Look { connections: 1, accounted: 105, rss: 200 };
        assert!((full.ratio(&start) - 0.95).abs() < 1e-9);
    }
}
