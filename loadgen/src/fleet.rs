//! The workers as one: started together, ordered together, summed up.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use mio::{Poll, Waker};

use crate::clock::Clock;
use crate::counters::{Counters, Reasons, Totals};
use crate::plan::Plan;
use crate::worker::{self, Census, News, Order, Seed, WAKER};

/// How long a worker may take to answer; it is busy at most with one turn of its loop, or with closing all it has.
const PATIENCE: Duration = Duration::from_secs(60);

/// All workers of a run.
pub struct Fleet {
    members: Vec<Member>,
    news: Receiver<News>,
    plan: Arc<Plan>,
    thread_ids: Vec<i32>,
}

struct Member {
    orders: Sender<Order>,
    waker: Waker,
    counters: Arc<Counters>,
    thread: Option<JoinHandle<()>>,
}

/// The workers could not do their work.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// A thread or a poller could not be made, or a descriptor table not unshared.
    #[error("a worker could not start: {0}")]
    Start(#[from] io::Error),
    /// A worker did not answer.
    #[error("a worker does not answer")]
    Silent,
}

impl Fleet {
    /// Starts the workers of `plan` and waits until each has its own descriptor table.
    ///
    /// # Errors
    /// [`FleetError`] where one cannot start; the others end with the fleet.
    pub fn launch(plan: &Arc<Plan>, clock: Clock) -> Result<Self, FleetError> {
        let (to_us, news) = mpsc::channel();
        let mut fleet = Self { members: Vec::new(), news, plan: Arc::clone(plan), thread_ids: Vec::new() };
        for id in 0..plan.workers {
            fleet.members.push(Member::start(id, plan, clock, to_us.clone())?);
        }
        while fleet.thread_ids.len() < fleet.members.len() {
            match fleet.news.recv_timeout(PATIENCE) {
                Ok(News::Running(thread)) => fleet.thread_ids.push(thread),
                Ok(News::Broken(error)) => return Err(error.into()),
                Ok(News::Census(_)) => {}
                Err(_) => return Err(FleetError::Silent),
            }
        }
        Ok(fleet)
    }

    /// Brings the first `connections` clients up, at `rate` a second in all (0: as fast as it goes).
    pub fn ramp(&self, connections: u32, rate: f64) {
        let each = rate / f64::from(self.plan.workers.max(1));
        self.order(|worker| Order::Ramp { clients: self.plan.share(connections, worker), rate: each });
    }

    /// Gives every worker an order.
    pub fn order(&self, order: impl Fn(u32) -> Order) {
        for (member, id) in self.members.iter().zip(0..) {
            // A worker that has ended is noticed by what it no longer counts, and by `census`.
            let _ = member.orders.send(order(id));
            let _ = member.waker.wake();
        }
    }

    /// What all workers have counted.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        self.members.iter().for_each(|member| totals.add(&member.counters));
        totals
    }

    /// Why connections failed or were lost so far.
    #[must_use]
    pub fn reasons(&self) -> Reasons {
        let mut all = Reasons::new();
        for member in &self.members {
            let Ok(reasons) = member.counters.reasons.lock() else { continue };
            for (reason, count) in reasons.iter() {
                *all.entry(*reason).or_insert(0) += count;
            }
        }
        all
    }

    /// Asks every worker how its clients fare.
    ///
    /// # Errors
    /// [`FleetError`] where a worker has broken or does not answer.
    pub fn census(&self) -> Result<Census, FleetError> {
        self.order(|_| Order::Census);
        let mut all: Option<Census> = None;
        let mut answers = 0;
        while answers < self.members.len() {
            match self.news.recv_timeout(PATIENCE) {
                Ok(News::Census(one)) => {
                    answers += 1;
                    all = Some(all.map_or(one, |all| all.merged(&one)));
                }
                Ok(News::Broken(error)) => return Err(error.into()),
                Ok(News::Running(_)) => {}
                Err(_) => return Err(FleetError::Silent),
            }
        }
        all.ok_or(FleetError::Silent)
    }

    /// Kernel ids of the workers' threads.
    #[must_use]
    pub fn thread_ids(&self) -> &[i32] {
        &self.thread_ids
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.order(|_| Order::Stop);
        for member in &mut self.members {
            // A worker that panicked has nothing left to end.
            let _ = member.thread.take().map(JoinHandle::join);
        }
    }
}

impl Member {
    /// The poller and its waker are made here, before the worker leaves this descriptor table.
    fn start(id: u32, plan: &Arc<Plan>, clock: Clock, news: Sender<News>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        let counters = Arc::<Counters>::default();
        let (orders, inbox) = mpsc::channel();
        let plan = Arc::clone(plan);
        let seed = Seed { id, plan, clock, poll, counters: Arc::clone(&counters), orders: inbox, news };
        let thread =
            std::thread::Builder::new().name(format!("worker-{id}")).spawn(move || worker::run(seed))?;
        Ok(Self { orders, waker, counters, thread: Some(thread) })
    }
}

impl Census {
    /// Two workers' figures as one.
    #[must_use]
    fn merged(self, other: &Self) -> Self {
        let fewest = match (self.ready, other.ready) {
            (0, _) => other.fewest_pings,
            (_, 0) => self.fewest_pings,
            _ => self.fewest_pings.min(other.fewest_pings),
        };
        Self {
            ready: self.ready + other.ready,
            fewest_pings: fewest,
            most_pings: self.most_pings.max(other.most_pings),
            without_ping: self.without_ping + other.without_ping,
            spilled: self.spilled + other.spilled,
            bytes_per_client: self.bytes_per_client.max(other.bytes_per_client),
        }
    }
}
