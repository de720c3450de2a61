//! The courier against a queue in memory and a backend on a socket that fails in every way.

mod backend;
mod memory;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backend::{Backend, Reaction};
use memory::Memory;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::feed::{Feed, Next};
use super::metrics::DeliveryFigures;
use super::settings::WebhookSettings;
use super::task::{ClientError, Courier};
use crate::base::rng::Rng;
use crate::hub::events::QueueFigures;

const SECRET: &str = "a secret of the tests";

fn settings(url: String) -> WebhookSettings {
    WebhookSettings {
        name: "hook".into(),
        url,
        secret: SECRET.into(),
        batch_max_events: 10,
        batch_max_delay: Duration::from_millis(5),
        timeout: Duration::from_secs(20),
        retry_min: Duration::from_millis(5),
        retry_max: Duration::from_millis(40),
        refusals_max: 3,
    }
}

fn courier(settings: WebhookSettings, memory: &Memory, figures: &Arc<DeliveryFigures>) -> Courier {
    let source = Arc::new(memory.clone());
    Courier::new(settings, ("node", "millpond test"), source, (Arc::clone(figures), Arc::default()), 1)
        .unwrap()
}

fn start(settings: WebhookSettings, memory: &Memory) -> (JoinHandle<()>, Arc<DeliveryFigures>) {
    let figures = Arc::new(DeliveryFigures::default());
    (tokio::spawn(courier(settings, memory, &figures).run()), figures)
}

/// Waits for what must happen, however slow the machine is.
async fn until(what: impl Fn() -> bool) {
    for _ in 0..20_000 {
        if what() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    panic!("it does not happen");
}

fn of(figure: &AtomicU64) -> u64 {
    figure.load(Ordering::Relaxed)
}

fn unix_seconds() -> u32 {
    (super::clock::unix_ms() / 1000) as u32
}

#[tokio::test]
async fn a_flood_goes_out_in_order_one_batch_after_the_other() {
    let (memory, backend) = (Memory::default(), Backend::start([]).await);
    let mut rng = Rng::new(4);
    let mut total = 0;
    for _ in 0..400 {
        let events = rng.between(1, 10) as usize;
        memory.add(events, 0);
        total += events as u64;
    }
    let patient = WebhookSettings { batch_max_delay: Duration::from_secs(3600), ..settings(backend.url()) };
    let (task, figures) = start(patient, &memory);
    until(|| memory.is_done()).await;
    task.abort();
    let seen = backend.seen();
    let ids: Vec<u64> = seen.iter().flat_map(backend::Seen::ids).collect();
    assert_eq!(ids, (1..=total).collect::<Vec<_>>());
    assert!(seen.iter().all(|request| request.ids().len() <= 10));
    assert!(seen.len() as u64 <= total / 5, "{} requests for {total} events", seen.len());
    assert_eq!(backend.most_under_way(), 1);
    assert_eq!((of(&figures.delivered), of(&figures.batches)), (total, seen.len() as u64));
    assert_eq!((of(&figures.retries), of(&figures.refused), of(&figures.expired)), (0, 0, 0));
    assert_eq!(memory.0.lock().unwrap().acknowledged.1, Some(total + 1));
}

#[tokio::test]
async fn a_request_says_what_it_is_and_that_it_is_ours() {
    let (memory, backend) = (Memory::default(), Backend::start([]).await);
    memory.add(2, 0);
    let (task, _) = start(settings(backend.url()), &memory);
    until(|| memory.is_done()).await;
    task.abort();
    let request = backend.seen().remove(0);
    let header = |name: &str| request.headers[name].as_str();
    assert_eq!(header("content-type"), "application/json");
    assert_eq!(header("user-agent"), "millpond test");
    assert_eq!((header("x-millpond-webhook"), header("x-millpond-attempt")), ("hook", "1"));
    assert_eq!(header("x-millpond-delivery"), "0000000000000007-1-2");
    let signed = header("x-millpond-signature");
    let time: u64 = signed.split([',', '=']).nth(1).unwrap().parse().unwrap();
    assert_eq!(signed, super::signature::sign(SECRET, time, &request.body));
    assert!(u64::from(unix_seconds()).abs_diff(time) < 3600);
    let json = request.json();
    assert_eq!(
        (&json["batch"], &json["epoch"]),
        (&"0000000000000007-1-2".into(), &"0000000000000007".into())
    );
    assert_eq!((&json["webhook"], &json["node"]), (&"hook".into(), &"node".into()));
    let unsigned = WebhookSettings { secret: String::new(), ..settings(backend.url()) };
    memory.add(1, 0);
    let (task, _) = start(unsigned, &memory);
    until(|| memory.is_done()).await;
    task.abort();
    assert!(!backend.seen()[1].headers.contains_key("x-millpond-signature"));
}

#[tokio::test]
async fn what_fails_is_sent_again_the_same() {
    use Reaction::{Die, Stall, Status};
    let script = [
        Status(500, ""),
        Status(503, "retry-after: 1\r\n"),
        Status(429, "retry-after: 1\r\n"),
        Status(408, ""),
        Die,
        Stall,
        Status(599, ""),
    ];
    let (memory, backend) = (Memory::default(), Backend::start(script).await);
    memory.add(3, 0);
    let settings = WebhookSettings { timeout: Duration::from_millis(300), ..settings(backend.url()) };
    let (task, figures) = start(settings, &memory);
    until(|| backend.seen().len() >= 2).await;
    assert_eq!(memory.acknowledged(), 0, "nothing is done with that the backend did not take");
    memory.add(1, 0);
    until(|| memory.is_done()).await;
    task.abort();
    let seen = backend.seen();
    let mut ids: Vec<_> = seen.iter().map(backend::Seen::ids).collect();
    assert_eq!(ids.pop(), Some(vec![4]), "the next batch waits");
    // A slow machine may run into the timeout more often than the script says.
    assert!(ids.len() >= 8 && ids.iter().all(|ids| *ids == [1, 2, 3]), "{ids:?}");
    for (attempt, request) in (1..=ids.len()).zip(&seen) {
        assert_eq!(request.headers["x-millpond-attempt"], attempt.to_string());
        assert_eq!(request.headers["x-millpond-delivery"], "0000000000000007-1-3");
        assert_eq!(request.body, seen[0].body);
    }
    for asked in [1, 2] {
        assert!(seen[asked + 1].at - seen[asked].at >= Duration::from_secs(1), "Retry-After is honoured");
    }
    assert_eq!(of(&figures.retries), ids.len() as u64 - 1);
    assert_eq!(of(&figures.delivered), 4);
}

#[tokio::test]
async fn a_batch_that_is_always_refused_does_not_stop_the_others() {
    let script = [400, 301, 404].map(|status| Reaction::Status(status, "location: /elsewhere\r\n"));
    let (memory, backend) = (Memory::default(), Backend::start(script).await);
    memory.add(10, 0);
    memory.add(4, 0);
    let (task, figures) = start(settings(backend.url()), &memory);
    until(|| memory.is_done()).await;
    task.abort();
    let seen = backend.seen();
    let ids: Vec<_> = seen.iter().map(backend::Seen::ids).collect();
    let first: Vec<u64> = (1..=10).collect();
    assert_eq!(ids, [first.clone(), first.clone(), first, vec![10, 11, 12, 13, 14]]);
    let missed = &seen[3].json()["events"][0];
    assert_eq!((&missed["type"], &missed["count"]), (&"missed".into(), &10.into()));
    assert_eq!((of(&figures.refused), of(&figures.delivered), of(&figures.retries)), (10, 4, 2));
}

#[tokio::test]
async fn what_grows_too_old_is_dropped_and_said() {
    let down = std::iter::repeat_n(Reaction::Status(500, ""), 1_000_000);
    let (memory, backend) = (Memory::default(), Backend::start(down).await);
    memory.add(5, unix_seconds() + 2);
    memory.add(6, 0);
    let (task, figures) = start(settings(backend.url()), &memory);
    until(|| memory.acknowledged() == 1).await;
    task.abort();
    assert_eq!((of(&figures.expired), of(&figures.delivered)), (5, 0));
    assert!(of(&figures.retries) > 1, "until then it is tried");
    let up = Backend::start([]).await;
    let old = Memory::default();
    old.add(2, 0);
    old.add(9, 1);
    old.add(3, 1);
    old.add(4, 0);
    let (task, figures) = start(settings(up.url()), &old);
    until(|| old.is_done()).await;
    task.abort();
    let ids: Vec<_> = up.seen().iter().map(backend::Seen::ids).collect();
    assert_eq!(ids, [vec![1, 2], vec![14, 15, 16, 17, 18]]);
    assert_eq!(up.seen()[1].json()["events"][0]["count"], 12);
    assert_eq!((of(&figures.expired), of(&figures.delivered)), (12, 6));
    // What the log itself leaves out, as it expired while the process was down.
    let up = Backend::start([]).await;
    let gone = Memory::default();
    gone.add(40, 1);
    gone.add(2, 0);
    gone.0.lock().unwrap().hidden = 1;
    let (task, figures) = start(settings(up.url()), &gone);
    until(|| gone.is_done()).await;
    task.abort();
    assert_eq!((of(&figures.expired), of(&figures.delivered)), (40, 2));
    let missed = &up.seen()[0].json()["events"][0];
    assert_eq!(
        (&missed["type"], &missed["id"], &missed["count"]),
        (&"missed".into(), &40.into(), &40.into())
    );
}

#[tokio::test]
async fn a_queue_of_which_all_has_expired_is_done_with() {
    let (memory, backend) = (Memory::default(), Backend::start([]).await);
    memory.add(1, 0);
    memory.add(1, 0);
    memory.0.lock().unwrap().hidden = 2;
    memory.0.lock().unwrap().full = 3;
    let (task, figures) = start(settings(backend.url()), &memory);
    until(|| memory.is_done()).await;
    assert_eq!(memory.0.lock().unwrap().acknowledged, (2, Some(3)));
    assert_eq!(of(&figures.expired), 2);
    memory.0.lock().unwrap().unreadable = 2;
    memory.add(1, 0);
    until(|| memory.is_done()).await;
    task.abort();
    assert_eq!(backend.seen().len(), 1);
    assert_eq!(backend.seen()[0].ids(), [2, 3]);
    let missed = &backend.seen()[0].json()["events"][0];
    assert_eq!((&missed["type"], &missed["count"]), (&"missed".into(), &2.into()));
    assert_eq!((of(&figures.expired), of(&figures.delivered)), (2, 1), "each counts once");
}

#[tokio::test]
async fn every_event_is_delivered_refused_expired_or_dropped_and_counted_once() {
    for seed in 0..30 {
        let mut rng = Rng::new(seed);
        let reactions: Vec<_> =
            (0..200).map(|_| Reaction::Status([200, 200, 500, 400][rng.below(4) as usize], "")).collect();
        let (memory, backend) = (Memory::default(), Backend::start(reactions).await);
        let (queue, mut stored, mut lost) = (Arc::new(QueueFigures::default()), 0, 0);
        queue.begin.store(1, Ordering::Relaxed);
        let figures = Arc::new(DeliveryFigures::default());
        let source = Arc::new(memory.clone());
        let both = (Arc::clone(&figures), Arc::clone(&queue));
        let strict = WebhookSettings { refusals_max: 1, ..settings(backend.url()) };
        let mut task = None;
        let empty_at_start = rng.below(2) == 0;
        for round in 0..12 {
            if round == if empty_at_start { 0 } else { 4 } {
                let courier = Courier::new(
                    strict.clone(),
                    ("node", "test"),
                    Arc::<Memory>::clone(&source),
                    both.clone(),
                    seed,
                );
                task = Some(tokio::spawn(courier.unwrap().run()));
            }
            let (kind, events) = (rng.below(4), 1 + u64::from(rng.below(9)));
            if kind == 0 && (empty_at_start || round > 0) {
                // The log did not take them.
                memory.skip(events);
                queue.unstored.fetch_add(events, Ordering::Relaxed);
                lost += events;
            } else {
                memory.add(events as usize, u32::from(kind == 1));
                stored += events;
            }
            if kind == 2 {
                let mut inside = memory.0.lock().unwrap();
                inside.hidden = inside.records.len() as u64;
            }
            if rng.below(2) == 0 && round > 4 {
                until(|| memory.is_done()).await;
            }
        }
        memory.add(1, 0);
        until(|| memory.is_done()).await;
        task.unwrap().abort();
        let told = of(&figures.delivered) + of(&figures.refused) + of(&figures.expired);
        assert_eq!((told, of(&queue.unstored)), (stored + 1, 0), "seed {seed}, {lost} lost");
    }
}

#[tokio::test]
async fn a_backend_that_is_not_there_yet_is_waited_for() {
    let place = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = place.local_addr().unwrap();
    drop(place);
    let memory = Memory::default();
    memory.add(1, 0);
    let (task, figures) = start(settings(format!("http://{address}/events?from=test")), &memory);
    until(|| of(&figures.retries) > 2).await;
    let client = super::client::Client::new(&settings(format!("http://{address}/")), "v").unwrap();
    let super::client::Verdict::Again(trouble, None) = client.post("x", 1, "{}".into()).await else {
        panic!("nobody is there");
    };
    assert!(trouble.to_string().contains("refused"), "the log says why: {trouble}");
    let backend = Backend::on(TcpListener::bind(address).await.unwrap(), []);
    until(|| memory.is_done()).await;
    task.abort();
    assert_eq!(backend.seen().len(), 1);
}

/// However often the courier and the backend fail, the backend has seen every event at least once, in order.
#[tokio::test]
async fn nothing_is_lost_or_out_of_order_whoever_dies() {
    for seed in 0..6 {
        let mut rng = Rng::new(seed);
        let mut reaction = || match rng.below(6) {
            0 => Reaction::Status(502, ""),
            1 => Reaction::Die,
            2 => Reaction::Stall,
            _ => Reaction::Status(204, "x-nothing: 1\r\n"),
        };
        let script: Vec<_> = (0..60).map(|_| reaction()).collect();
        let (memory, backend) = (Memory::default(), Backend::start(script).await);
        let settings = WebhookSettings { timeout: Duration::from_millis(200), ..settings(backend.url()) };
        let mut records = 0;
        while records < 120 || !memory.is_done() {
            for _ in 0..rng.below(12) {
                if records < 120 {
                    memory.add(rng.between(1, 7) as usize, 0);
                    records += 1;
                }
            }
            let (task, _) = start(settings.clone(), &memory);
            let wanted = backend.seen().len() + rng.below(5) as usize;
            until(|| memory.is_done() || backend.seen().len() > wanted).await;
            task.abort();
            let _ = task.await;
        }
        let mut newest = 0;
        for request in backend.seen() {
            let ids = request.ids();
            assert!(ids.windows(2).all(|pair| pair[1] == pair[0] + 1), "seed {seed}: {ids:?}");
            assert!(ids[0] <= newest + 1, "seed {seed}: {} after {newest}", ids[0]);
            newest = newest.max(ids[ids.len() - 1]);
            assert!(request.json()["events"][0]["type"] == "connected", "nothing is missed");
        }
        let total: usize = memory.0.lock().unwrap().records.iter().map(|of| of.record.events.len()).sum();
        assert_eq!(newest, total as u64, "seed {seed}");
    }
}

#[test]
fn an_address_that_is_none_is_refused_at_once() {
    let source = Arc::new(Memory::default());
    let result = Courier::new(settings("ftp://x/".into()), ("n", "v"), source, Default::default(), 1);
    assert!(matches!(result, Err(ClientError::Address(name)) if name == "hook"));
}

/// The disk fails when a batch has been read in part: that part goes out, and what follows comes once it can be read.
#[test]
fn a_fault_in_the_middle_of_a_batch_loses_none_of_it() {
    let memory = Memory::default();
    (0..5).for_each(|_| memory.add(1, 0));
    {
        let mut queue = memory.0.lock().unwrap();
        (queue.readable, queue.unreadable) = (1, 3);
    }
    let mut feed = Feed::new(Arc::new(memory), "hook".into(), 100);
    let mut ids = Vec::new();
    let mut faults = 0;
    for _ in 0..10 {
        match feed.next() {
            Ok(Next::Batch(batch, _)) => ids.push((batch.first(), batch.end())),
            Ok(other) => assert_eq!(other, Next::Nothing),
            Err(_) => faults += 1,
        }
    }
    assert_eq!((ids, faults), (vec![(1, 4), (4, 6)], 2), "one fault was hidden by the batch that it ended");
}
