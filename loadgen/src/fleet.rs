//! The workers as one: started together, ordered together, summed up.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use hdrhistogram::Histogram;
use mio::{Poll, Waker};

use crate::clock::Clock;
use crate::counters::{Counters, Reasons, Totals};
use crate::flow::Flow;
use crate::plan::Plan;
use crate::proof;
use crate::publisher::Door;
use crate::worker::{self, Census, Finished, News, Order, Seed, WAKER};

/// How long a worker may take to answer; it is busy at most with one turn of its loop, or with closing all it has.
const PATIENCE: Duration = Duration::from_secs(60);

/// All workers of a run.
pub struct Fleet {
    members: Vec<Member>,
    news: Receiver<News>,
    plan: Arc<Plan>,
    thread_ids: Vec<i32>,
    latency: Histogram<u64>,
    door: Door,
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
        let door = Door::new()?;
        let mut fleet = Self {
            members: Vec::new(),
            news,
            plan: Arc::clone(plan),
            thread_ids: Vec::new(),
            latency: proof::histogram(),
            door,
        };
        for id in 0..plan.workers {
            fleet.members.push(Member::start(id, plan, clock, to_us.clone())?);
        }
        while fleet.thread_ids.len() < fleet.members.len() {
            if let News::Running(thread) = fleet.next_news()? {
                fleet.thread_ids.push(thread);
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
    pub fn census(&mut self) -> Result<Census, FleetError> {
        self.order(|_| Order::Census);
        let mut all: Option<Census> = None;
        self.await_all(|news| match news {
            News::Census(one) => {
                all = Some(all.map_or(one, |all| all.merged(&one)));
                true
            }
            _ => false,
        })?;
        all.ok_or(FleetError::Silent)
    }

    /// Opens the books of all workers over a flow, and waits until they are open.
    ///
    /// # Errors
    /// [`FleetError`] where a worker has broken or does not answer.
    pub fn begin(&mut self, flow: &Arc<Flow>) -> Result<(), FleetError> {
        self.order(|_| Order::Begin(Arc::clone(flow)));
        self.await_all(|news| matches!(news, News::Begun))
    }

    /// Closes the books of all workers.
    ///
    /// # Errors
    /// [`FleetError`] where a worker has broken or does not answer.
    pub fn finish(&mut self) -> Result<Finished, FleetError> {
        self.order(|_| Order::Finish);
        let mut all = Finished::default();
        self.await_all(|news| match news {
            News::Finished(one) => {
                all.add(&one);
                true
            }
            _ => false,
        })?;
        Ok(all)
    }

    /// The latencies that were handed over since the last call, in microseconds.
    pub fn take_latency(&mut self) -> Histogram<u64> {
        while let Ok(news) = self.news.try_recv() {
            self.keep(&news);
        }
        std::mem::replace(&mut self.latency, proof::histogram())
    }

    /// Waits until every worker has given the answer that `is_answer` knows.
    fn await_all(&mut self, mut is_answer: impl FnMut(News) -> bool) -> Result<(), FleetError> {
        let mut answers = 0;
        while answers < self.members.len() {
            let news = self.next_news()?;
            answers += usize::from(is_answer(news));
        }
        Ok(())
    }

    fn next_news(&mut self) -> Result<News, FleetError> {
        match self.news.recv_timeout(PATIENCE) {
            Ok(News::Broken(error)) => Err(error.into()),
            Ok(news) => {
                self.keep(&news);
                Ok(news)
            }
            Err(_) => Err(FleetError::Silent),
        }
    }

    fn keep(&mut self, news: &News) {
        if let News::Latency(latency) = news {
            let _ = self.latency.add(latency);
        }
    }

    /// The door to the publisher, which workers can knock at.
    #[must_use]
    pub fn door(&self) -> &Door {
        &self.door
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
