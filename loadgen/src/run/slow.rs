//! The phase `slow`: some readers are stuck, half-open or drip, and the others must not notice.

use std::sync::Arc;
use std::time::Duration;

use super::fanout::{Fanout, fanout};
use super::idle::{HoldDemands, hold};
use super::{Conductor, RunError};
use crate::behaviour::Slowness;
use crate::client::Manner;
use crate::report::PhaseReport;
use crate::worker::Order;

/// How long the slow ones read up afterwards, to learn what the server did with them.
const READ_UP: Duration = Duration::from_secs(3);

/// A fan-out with slow readers.
#[derive(Debug, Clone)]
pub struct Slow {
    /// How many clients are slow.
    pub clients: u32,
    /// In which way.
    pub manner: Manner,
    /// What is published meanwhile. The proof covers the prompt clients only.
    pub fanout: Fanout,
}

/// Runs a fan-out with slow readers, then lets them read up. Two reports.
///
/// # Errors
/// [`RunError`] where a worker or the publisher broke.
pub fn slow(conductor: &mut Conductor, name: &str, how: &Slow) -> Result<[PhaseReport; 2], RunError> {
    let plan = Arc::clone(&conductor.plan);
    conductor.fleet.order(|worker| {
        Order::Slow(Slowness { clients: plan.share(how.clients, worker), manner: how.manner })
    });
    let before = conductor.fleet.totals();
    let mut during = fanout(conductor, name, &how.fanout)?;
    during.kind = "slow".to_owned();
    during.set("slow_clients", f64::from(how.clients));
    conductor.fleet.order(|_| Order::Slow(Slowness { clients: 0, manner: Manner::Prompt }));
    let demands = HoldDemands { duration: READ_UP, require_ping: false, require_all: false };
    let mut after = hold(conductor, &format!("{name}-read-up"), &demands)?;
    let ended = conductor.fleet.totals().lost - before.lost;
    after.set("slow_ended_by_server", ended as f64);
    if ended > u64::from(how.clients) {
        let more = ended - u64::from(how.clients);
        after.broken.push(format!("{more} clients were lost although they were not slow"));
    }
    Ok([during, after])
}
