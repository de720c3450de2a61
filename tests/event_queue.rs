//! Queues of events in the store, over the real log on the fake disk in virtual time: packed, bounded, whole, in order,
//! through crashes and full disks (issue 4).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]

#[path = "mailbox/desk.rs"]
#[allow(dead_code, reason = "each test file uses a part")]
mod desk;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use desk::{Desk, log_settings};
use millpond::base::rng::Rng;
use millpond::base::tick::{Now, Tick};
use millpond::config::{Layers, load};
use millpond::hub::admission::Admission;
use millpond::hub::auth::Verifier;
use millpond::hub::events::{Event, EventBatch, EventKind, EventKinds, EventRecord, QueueFigures};
use millpond::hub::settings::EventQueueSettings;
use millpond::hub::shard::Common;
use millpond::hub::store::{DeliveredAsk, StoreAsk};
use millpond::log::fake::FakeDisk;
use millpond::log::record::Class;
use millpond::log::settings::MailboxLimits;
use millpond::store::archive::Archive;
use millpond::store::events::record_of;
use millpond::store::office::Office;

const BIRTH_MS: u64 = 1_800_000_000_000;
const NAME: &str = "hook";

fn queue() -> EventQueueSettings {
    EventQueueSettings {
        name: NAME.into(),
        kinds: EventKinds::from_iter(EventKind::ALL),
        batch_max_events: 500,
        ttl: Duration::from_secs(3600),
        max_pending: 1000,
        ..EventQueueSettings::default()
    }
}

/// One run of a process: an office over a log.
struct Run {
    disk: FakeDisk,
    desk: Desk,
    office: Office<Desk>,
    figures: Arc<QueueFigures>,
    tick: u32,
    /// The last record that the backend has, also where the log does not know of it yet.
    after: u64,
}

/// A record as its backend gets it.
struct Read {
    offset: u64,
    record: EventRecord,
}

impl Run {
    fn new(disk: FakeDisk, tick: u32, settings: EventQueueSettings) -> Self {
        let now = Now { tick: Tick(tick), unix_ms: BIRTH_MS + u64::from(tick) * 100 };
        let desk = Desk::open(&disk, log_settings(MailboxLimits::default()), now.unix_seconds() as u32);
        let settings_of_all = load(&Layers::default()).unwrap().settings;
        let verifier = || Verifier::new(&settings_of_all.client.token).unwrap();
        let common = Arc::new(Common {
            connection_tokens: verifier(),
            subscription_tokens: verifier(),
            settings: settings_of_all.clone(),
            shards: 1,
            secret: [1; 16],
            admission: Admission::default(),
        });
        let figures = Arc::new(QueueFigures::default());
        let queues = vec![(settings, Arc::clone(&figures))];
        let office = Office::new(common, desk.clone(), desk.last(), u64::from(tick) + 1);
        let office = office.with_events(queues, now);
        Self { disk, desk, office, figures, tick, after: 0 }
    }

    fn now(&self) -> Now {
        Now { tick: Tick(self.tick), unix_ms: BIRTH_MS + u64::from(self.tick) * 100 }
    }

    /// Events of one kind; their users are their numbers from `first` on.
    fn offer(&mut self, kind: EventKind, first: u64, count: u64) {
        let event = |number: u64| Event { user: number.to_string(), ..Event::new(kind, self.now().unix_ms) };
        let batch = EventBatch { events: (first..first + count).map(event).collect(), dropped: 0 };
        self.office.ask(StoreAsk::Events(batch), self.now());
        self.office.settle(self.now());
    }

    /// The log commits what it has, and the store hears of it.
    fn commit(&mut self) {
        let now = self.now();
        while self.desk.queued() > 0 {
            self.desk.commit(usize::MAX, now.unix_seconds() as u32);
            while let Some(ack) = self.desk.next_ack() {
                self.office.acknowledged(&ack, now);
            }
            self.office.settle(now);
        }
    }

    fn pass(&mut self, ticks: u32) {
        for _ in 0..ticks {
            self.tick += 1;
            self.office.settle(self.now());
            self.commit();
        }
    }

    /// What waits for the backend.
    fn waiting(&self) -> Vec<Read> {
        let Some(info) = self.desk.info(Class::Webhook, NAME, "") else { return Vec::new() };
        let seconds = self.now().unix_seconds() as u32;
        let after = info.cursor.max(self.after);
        let leaf = self
            .desk
            .page((Class::Webhook, NAME), after, usize::MAX, seconds, &mut usize::MAX.clone())
            .unwrap()
            .unwrap();
        let read = |stored: &millpond::log::reader::Stored| Read {
            offset: stored.offset,
            record: record_of(&stored.body).unwrap(),
        };
        leaf.messages.iter().map(read).collect()
    }

    /// The backend takes so many records.
    fn deliver(&mut self, records: usize) -> Vec<Event> {
        let taken: Vec<Read> = self.waiting().into_iter().take(records).collect();
        if let Some(last) = taken.last() {
            self.after = last.offset;
            self.done(last.offset, Some(last.record.end()));
        }
        taken.into_iter().flat_map(|read| read.record.events).collect()
    }

    fn done(&mut self, through: u64, next: Option<u64>) {
        let epoch = self.desk.info(Class::Webhook, NAME, "").unwrap().state.epoch;
        let ask = DeliveredAsk { queue: NAME.into(), epoch, through, next };
        self.office.ask(StoreAsk::Delivered(Box::new(ask)), self.now());
        self.pass(1);
    }

    fn pending(&self) -> u64 {
        self.figures.pending.load(Ordering::Relaxed)
    }

    fn dropped(&self) -> u64 {
        self.figures.dropped.load(Ordering::Relaxed)
    }

    /// SIGKILL: what the log had written is there.
    fn killed(self) -> FakeDisk {
        self.disk.killed()
    }
}

fn users(events: &[Event]) -> Vec<u64> {
    events.iter().filter(|event| !event.user.is_empty()).map(|event| event.user.parse().unwrap()).collect()
}

#[test]
fn a_storm_is_packed_and_numbered_without_gaps() {
    let mut run = Run::new(FakeDisk::default(), 10, EventQueueSettings { max_pending: 100_000, ..queue() });
    let mut rng = Rng::new(1);
    let mut offered = 0;
    while offered < 10_000 {
        let count = u64::from(rng.between(1, 90));
        run.offer(EventKind::Connected, offered, count);
        offered += count;
        if rng.below(4) == 0 {
            run.pass(1);
        }
    }
    run.pass(2);
    let waiting = run.waiting();
    assert_eq!(waiting[0].record.events[0].kind(), EventKind::Started);
    let mut next = 1;
    for read in &waiting {
        assert_eq!(read.record.first, next);
        assert!(read.record.events.len() <= 250 && read.record.run == waiting[0].record.run);
        next = read.record.end();
    }
    assert_eq!(next, offered + 2);
    assert!(waiting.len() < 150, "{} records for {offered} events", waiting.len());
    assert_eq!(run.pending(), offered + 1);
    assert_eq!(run.figures.stored.load(Ordering::Relaxed), offered + 1);
    let events = run.deliver(usize::MAX);
    assert_eq!(users(&events), (0..offered).collect::<Vec<_>>());
    assert_eq!((run.pending(), run.waiting().len(), run.dropped()), (0, 0, 0));
}

#[test]
fn a_lone_event_is_stored_within_two_ticks() {
    let mut run = Run::new(FakeDisk::default(), 10, queue());
    run.pass(3);
    run.offer(EventKind::Online, 1, 1);
    assert!(run.office.wake_at().is_some_and(|at| at.since(Tick(run.tick)) <= 1), "the thread wakes for it");
    run.pass(2);
    assert_eq!(run.waiting().len(), 2);
    assert_eq!(run.office.wake_at(), None);
    run.offer(EventKind::Online, 2, 1);
    run.office.hasten(run.now());
    run.commit();
    assert!(run.office.is_idle(), "the end waits for nothing");
    assert_eq!(run.waiting().len(), 3);
}

#[test]
fn a_full_queue_drops_connections_first_and_says_how_many() {
    let mut run = Run::new(FakeDisk::default(), 10, queue());
    run.offer(EventKind::Subscribed, 0, 5000);
    run.pass(5);
    assert_eq!((run.pending(), run.dropped()), (1000, 4001), "with the first event of the run");
    run.offer(EventKind::Online, 5000, 300);
    run.offer(EventKind::Connected, 6000, 10);
    run.pass(5);
    assert_eq!((run.pending(), run.dropped()), (1300, 4011));
    run.offer(EventKind::Vacated, 7000, 5000);
    run.pass(5);
    assert_eq!((run.pending(), run.dropped()), (2000, 8311), "the others have twice the room, not more");
    let since = run.now().unix_ms - 1500;
    let mut seen = Vec::new();
    while run.pending() > 875 {
        seen.extend(run.deliver(1));
        run.offer(EventKind::Disconnected, 9000, 1);
    }
    run.pass(3);
    run.offer(EventKind::Connected, 9999, 1);
    run.pass(3);
    seen.extend(run.deliver(usize::MAX));
    let overflows: Vec<_> = seen.iter().filter(|event| event.kind() == EventKind::Overflow).collect();
    assert_eq!(overflows.len(), 1, "one for the whole flood");
    assert_eq!((overflows[0].count, overflows[0].since_ms), (run.dropped(), since));
    assert_eq!(users(&seen).last(), Some(&9999));
    assert_eq!(
        (run.pending(), seen.len() as u64),
        (0, 1 + 999 + 300 + 700 + 1 + 1 + 1),
        "the last two after the overflow"
    );
}

#[test]
fn a_log_that_takes_nothing_costs_bounded_memory() {
    let settings = EventQueueSettings { max_pending: 100_000_000, ..queue() };
    let mut run = Run::new(FakeDisk::default(), 10, settings);
    run.desk.set_room(0);
    for round in 0..200 {
        run.offer(EventKind::Connected, round * 1000, 1000);
        run.tick += 1;
    }
    // Gathered, and one record that waits for room.
    assert!(run.pending() <= 16_384 + 256, "{} are held", run.pending());
    assert_eq!(run.pending() + run.dropped(), 200_001);
    run.desk.set_room(usize::MAX);
    run.pass(50);
    let mut seen = run.deliver(usize::MAX);
    assert_eq!(seen.iter().find(|event| event.kind() == EventKind::Overflow).unwrap().count, run.dropped());
    seen.retain(|event| event.kind() == EventKind::Connected);
    assert_eq!(users(&seen), (0..seen.len() as u64).collect::<Vec<_>>(), "the first ones, without a gap");
}

#[test]
fn what_a_shard_had_no_room_for_is_said_as_well() {
    let mut run = Run::new(FakeDisk::default(), 10, queue());
    let batch = EventBatch { events: vec![Event::new(EventKind::Connected, 1)], dropped: 17 };
    run.office.ask(StoreAsk::Events(batch), run.now());
    run.pass(3);
    let kinds: Vec<_> = run.deliver(9).iter().map(|event| (event.kind(), event.count)).collect();
    let expected = [(EventKind::Started, 0), (EventKind::Connected, 0), (EventKind::Overflow, 17)];
    assert_eq!(kinds, expected);
}

#[test]
fn a_disk_that_is_full_leaves_a_gap_that_can_be_seen_and_no_debt() {
    let disk = FakeDisk::default();
    let mut run = Run::new(disk.clone(), 10, EventQueueSettings { max_pending: 100_000, ..queue() });
    run.pass(2);
    run.deliver(9);
    disk.set_capacity(Some(0));
    for round in 0..60 {
        run.offer(EventKind::Connected, round * 100, 100);
        run.pass(2);
    }
    let lost = run.dropped();
    assert!(lost > 2000, "{lost} of 6000 did not fit");
    assert!(run.pending() <= 6000 - lost, "what is lost takes no room");
    disk.set_capacity(None);
    run.pass(20);
    run.offer(EventKind::Connected, 9_000, 3);
    run.pass(5);
    let waiting = run.waiting();
    let gap = waiting.windows(2).any(|pair| pair[1].record.first > pair[0].record.end())
        || waiting[0].record.first > 2;
    assert!(gap, "the numbers tell");
    assert_eq!(users(&run.deliver(usize::MAX)).last(), Some(&9002));
    assert_eq!(run.pending(), 0);
}

#[test]
fn a_restart_goes_on_where_the_backend_stands() {
    let mut run = Run::new(FakeDisk::default(), 10, queue());
    run.offer(EventKind::Connected, 0, 900);
    run.pass(3);
    let before = run.waiting();
    let first = users(&run.deliver(2));
    let (tick, run_before) = (run.tick, before[0].record.run);
    let mut run = Run::new(run.killed(), tick + 50, queue());
    run.pass(2);
    assert_eq!(run.pending(), 901 - 2 * 250 + 1, "what waits still counts, with the start");
    let waiting = run.waiting();
    let last = waiting.last().unwrap();
    assert_eq!(last.record.events[0].kind(), EventKind::Started);
    assert!(last.record.run != run_before && waiting[0].record.run == run_before);
    let rest = users(&run.deliver(usize::MAX));
    assert_eq!([first, rest].concat(), (0..900).collect::<Vec<_>>());
    run.offer(EventKind::Connected, 0, 5000);
    run.pass(3);
    assert_eq!(run.pending(), 1000, "the bound holds as before");
    let tick = run.tick;
    let mut run = Run::new(run.killed(), tick + 40_000, queue());
    run.pass(2);
    assert_eq!(run.pending(), 1, "what has expired takes no room");
    assert_eq!(run.waiting().len(), 1);
    let numbers_before = 901 + 1 + 1000;
    assert_eq!(
        run.waiting()[0].record.first,
        numbers_before + 1,
        "but its numbers tell the backend what it missed"
    );
}

#[test]
fn the_end_of_a_run_tells_what_it_dropped() {
    let mut run = Run::new(FakeDisk::default(), 10, queue());
    run.offer(EventKind::Subscribed, 0, 1500);
    run.pass(3);
    let dropped = run.dropped();
    assert_eq!((run.pending(), dropped), (1000, 501));
    run.office.hasten(run.now());
    run.commit();
    assert!(run.office.is_idle());
    let events = run.deliver(usize::MAX);
    let last = events.last().unwrap();
    assert_eq!(
        (last.kind(), last.count),
        (EventKind::Overflow, dropped),
        "though there was no room for more"
    );
}

#[test]
fn what_is_said_to_be_done_is_checked() {
    let mut run = Run::new(FakeDisk::default(), 10, queue());
    run.offer(EventKind::Connected, 0, 600);
    run.pass(3);
    let epoch = run.desk.info(Class::Webhook, NAME, "").unwrap().state.epoch;
    let stray = [
        DeliveredAsk { queue: NAME.into(), epoch: epoch ^ 1, through: 2, next: Some(400) },
        DeliveredAsk { queue: "another".into(), epoch, through: 2, next: Some(400) },
    ];
    for ask in stray {
        run.office.ask(StoreAsk::Delivered(Box::new(ask)), run.now());
        run.pass(1);
        assert_eq!(run.pending(), 601);
    }
    run.done(1, None);
    assert_eq!((run.pending(), run.waiting().len()), (601, 2), "how many these were is not known");
    run.done(2, Some(501));
    assert_eq!((run.pending(), run.waiting().len()), (101, 1));
    run.done(1, Some(251));
    assert_eq!((run.pending(), run.waiting().len()), (101, 1), "a late word changes nothing");
    run.done(3, None);
    assert_eq!((run.pending(), run.waiting().len()), (0, 0), "everything is everything");
}

/// Whatever happens, a backend gets what was offered in order, and what it did not get is counted.
#[test]
fn nothing_is_lost_or_out_of_order_without_being_counted() {
    let mut total = 0;
    for seed in 0..60 {
        let mut rng = Rng::new(seed);
        let settings = EventQueueSettings { max_pending: u64::from(rng.between(100, 3000)), ..queue() };
        let mut run = Run::new(FakeDisk::default(), 10, settings.clone());
        let (mut offered, mut seen, mut kills, mut dropped) = (0_u64, Vec::new(), 0, 0);
        for _ in 0..400 {
            match rng.below(12) {
                0..=4 => {
                    let kind = EventKind::ALL[rng.below(9) as usize];
                    let count = u64::from(rng.between(1, 200));
                    run.offer(kind, offered, count);
                    offered += count;
                }
                5..=7 => run.pass(rng.between(1, 3)),
                8..=9 => seen.extend(run.deliver(rng.between(1, 6) as usize)),
                10 => run.desk.set_room(if rng.below(2) == 0 { 0 } else { 3000 }),
                _ if rng.below(8) == 0 => {
                    // Stopped in an orderly way but for the log's close: then nothing is lost.
                    run.desk.set_room(3000);
                    run.office.hasten(run.now());
                    run.commit();
                    run.pass(30);
                    dropped += run.dropped();
                    let tick = run.tick;
                    run = Run::new(run.killed(), tick + 10, settings.clone());
                    kills += 1;
                }
                _ => {}
            }
            assert!(run.pending() <= settings.max_pending * 2 + 2, "seed {seed}");
        }
        run.desk.set_room(3000);
        for _ in 0..200 {
            run.pass(2);
            seen.extend(run.deliver(10));
        }
        dropped += run.dropped();
        assert_eq!(run.pending(), 0, "seed {seed}");
        let users = users(&seen);
        assert!(users.windows(2).all(|pair| pair[0] < pair[1]), "seed {seed}: once and in order");
        assert_eq!(users.len() as u64 + dropped, offered, "seed {seed}: what is not there is counted");
        let said: u64 = seen.iter().map(|event| event.count).sum();
        assert!(kills > 0 || said == dropped, "seed {seed}: {said} said, {dropped} dropped");
        let starts = seen.iter().filter(|event| event.kind() == EventKind::Started).count();
        assert_eq!(starts, kills + 1, "seed {seed}");
        total += users.len();
    }
    assert!(total > 100_000, "only {total} events");
}

/// What a million clients that reconnect cost the log and the store, by the size of records.
#[test]
#[ignore = "prints figures, asserts none"]
#[allow(clippy::disallowed_methods, reason = "it measures")]
fn figures_of_a_storm() {
    for (what, batch_max_events) in [("up to 250 events a record", 500), ("one event a record", 1)] {
        let clients: u64 = if batch_max_events == 1 { 100_000 } else { 1_000_000 };
        let settings = EventQueueSettings { max_pending: 100_000_000, batch_max_events, ..queue() };
        let mut run = Run::new(FakeDisk::default(), 10, settings);
        let mut store = Duration::ZERO;
        for first in (0..clients).step_by(500) {
            for kind in [EventKind::Disconnected, EventKind::Connected] {
                let event = |number: u64| Event {
                    user: format!("user-{number:07}"),
                    client_high: number.wrapping_mul(0x9e37_79b9_7f4a_7c15),
                    client_low: number.wrapping_mul(0xbf58_476d_1ce4_e5b9),
                    code: if kind == EventKind::Disconnected { 1006 } else { 0 },
                    by: if kind == EventKind::Disconnected { 3 } else { 0 },
                    ..Event::new(kind, run.now().unix_ms)
                };
                let batch = EventBatch { events: (first..first + 500).map(event).collect(), dropped: 0 };
                let start = std::time::Instant::now();
                run.office.ask(StoreAsk::Events(batch), run.now());
                run.office.settle(run.now());
                store += start.elapsed();
            }
            run.tick += 1;
            run.commit();
        }
        run.pass(20);
        let (events, (records, bytes)) = (2 * clients, run.desk.written());
        println!(
            "{what}: {events} events, {records} records, {:.1} bytes of the log each, {:.0} ns of the store each",
            bytes as f64 / events as f64,
            store.as_nanos() as f64 / events as f64
        );
    }
}
