//! The store's thread over a log on the disk, with shards that take no mail and with a flood of calls at its end: what
//! waits stays bounded, and every call gets exactly one answer.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "this is the shell around the store: its clock and its pauses are here"
)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use millpond::base::ids::{ConnKey, ShardId};
use millpond::base::tick::{Now, Tick};
use millpond::hub::admission::Admission;
use millpond::hub::api::{ApiAnswer, ApiCommand, ApiError, ApiSend};
use millpond::hub::auth::Verifier;
use millpond::hub::mail::{ApiAsk, Mail, Origin, Subscribed, Ticket};
use millpond::hub::settings::{MailboxSettings, PersonalChannel, Settings};
use millpond::hub::shard::Common;
use millpond::hub::store::{OpenAsk, Owner, StoreAsk, StoreFigures};
use millpond::log::Log;
use millpond::log::files::Directory;
use millpond::log::settings::{LogSettings, SyncPolicy};
use millpond::store::thread::{ALLOWANCE, Inbox, Store, StoreParts};
use tempfile::TempDir;

#[allow(dead_code, reason = "shared with other tests")]
#[path = "support/hub.rs"]
mod hub;

/// What the store said.
#[derive(Default)]
struct Heard {
    /// Answers by call.
    answers: Mutex<BTreeMap<u64, Vec<Result<(), ApiError>>>>,
    letters: AtomicU64,
    /// The shards take mail.
    takes_mail: AtomicBool,
    figures: Mutex<StoreFigures>,
    rounds: AtomicU64,
}

struct Running {
    heard: Arc<Heard>,
    inbox: Arc<Inbox>,
    store: Store,
    _folder: TempDir,
}

fn settings() -> Settings {
    let mut settings = hub::settings();
    settings.client.personal_channel =
        Some(PersonalChannel { namespace: String::new(), single_connection: false });
    settings.mailbox = Some(MailboxSettings {
        ack_wait: Duration::from_secs(40),
        max_deliveries: 3,
        ack_by_pong: true,
        dead_letter_channel: String::new(),
        letter_bytes: usize::MAX,
        ttl: Duration::ZERO,
        replay_page: 100,
    });
    settings
}

fn start(takes_mail: bool) -> Running {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let log =
        LogSettings { sync: SyncPolicy::Os, segment_bytes: 4 << 20, seed: [3; 16], ..LogSettings::default() };
    let (log, report) = Log::open(Box::new(Directory::open(folder.path(), true).unwrap()), log).unwrap();
    let settings = settings();
    let verifier = || Verifier::new(&settings.client.token).unwrap();
    let common = Arc::new(Common {
        subscription_tokens: verifier(),
        connection_tokens: verifier(),
        settings: settings.clone(),
        shards: 1,
        secret: [5; 16],
        admission: Admission::default(),
    });
    let heard = Arc::new(Heard { takes_mail: AtomicBool::new(takes_mail), ..Heard::default() });
    let inbox = Arc::new(Inbox::new(8192, ALLOWANCE));
    let (shards, control, figures) = (Arc::clone(&heard), Arc::clone(&heard), Arc::clone(&heard));
    let begun = SystemTime::now();
    let store = Store::start(StoreParts {
        common,
        log,
        last: report.next.before(),
        inbox: Arc::clone(&inbox),
        deliver: Box::new(move |_, mail| {
            if !shards.takes_mail.load(Ordering::SeqCst) {
                return Err(mail);
            }
            shards.letters.fetch_add(u64::from(matches!(mail, Mail::Store(_))), Ordering::SeqCst);
            Ok(())
        }),
        answers: Box::new(move |answer| {
            let result = match answer.answer {
                ApiAnswer::Sent(results) => results.into_iter().next().unwrap().map(drop),
                ApiAnswer::Error(error) => Err(error),
                other => panic!("{other:?}"),
            };
            control.answers.lock().unwrap().entry(answer.id).or_default().push(result);
        }),
        publish: Box::new(move |latest| {
            *figures.figures.lock().unwrap() = latest;
            figures.rounds.fetch_add(1, Ordering::SeqCst);
        }),
        clock: Box::new(move || Now {
            tick: Tick(u32::try_from(begun.elapsed().unwrap_or_default().as_millis() / 100).unwrap() + 1),
            unix_ms: u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis())
                .unwrap(),
        }),
        seed: 7,
        queues: Vec::new(),
    });
    Running { heard, inbox, store: store.unwrap(), _folder: folder }
}

fn send(id: u64) -> StoreAsk {
    let send = ApiSend { users: vec!["ann".into()], data: "1".into(), ..ApiSend::default() };
    StoreAsk::Api(Box::new(ApiAsk { id, command: ApiCommand::Send(Box::new(send)) }))
}

fn open(number: u32) -> StoreAsk {
    let key = ConnKey { shard: ShardId(0), slot: number, generation: 1 };
    StoreAsk::Open(Box::new(OpenAsk {
        origin: Origin::Connection(Ticket { key, number: 1 }),
        channel: "#ann".into(),
        owner: Owner { user: "ann".into(), device: "".into() },
        since: None,
        reject_unrecovered: false,
        granted: Subscribed::default(),
    }))
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..12_000 {
        if holds() {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("this did not come: {what}");
}

/// Each of these answers may hold a page of messages, so while the shards are stuck the questions wait where they are
/// bounded, and go on when the shards do.
#[test]
fn answers_do_not_pile_up_while_the_shards_take_none() {
    const QUESTIONS: u32 = 6000;
    const MESSAGES: u64 = 150;
    // A turn's worth above the 1,024 letters that may wait.
    const MOST: u64 = 1024 + 256;
    let Running { heard, inbox, store, _folder } = start(true);
    // A page of each answer is full, so that a turn reads only some of them and the others wait in the store.
    for id in 0..MESSAGES {
        inbox.ask(send(id)).unwrap();
    }
    until("messages are stored", || heard.letters.load(Ordering::SeqCst) == MESSAGES);
    heard.takes_mail.store(false, Ordering::SeqCst);
    for number in 0..QUESTIONS {
        inbox.ask(open(number)).unwrap();
    }
    until("letters wait", || heard.figures.lock().unwrap().letters >= 1024);
    // Figures are told once a second: a whole second later it has had the time to read more.
    let round = heard.rounds.load(Ordering::SeqCst);
    until("figures come", || heard.rounds.load(Ordering::SeqCst) >= round + 3);
    let letters = heard.figures.lock().unwrap().letters;
    assert!(letters <= MOST, "{letters} letters");
    heard.takes_mail.store(true, Ordering::SeqCst);
    until("all are answered", || heard.letters.load(Ordering::SeqCst) == MESSAGES + u64::from(QUESTIONS));
    store.stop().unwrap();
}

/// The end comes while calls pour in and the shards have ended: it comes all the same, each call has exactly one answer,
/// and what was answered with success is in the log.
#[test]
fn an_end_under_load_answers_every_call_once() {
    let Running { heard, inbox, store, _folder } = start(false);
    let ended = AtomicBool::new(false);
    let asked = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                // As the control plane does: until the store is closed, and one look behind each question.
                while !ended.load(Ordering::SeqCst) && !inbox.is_closed() {
                    let id = asked.fetch_add(1, Ordering::SeqCst);
                    let mut ask = send(id);
                    while let Err(back) = inbox.ask(ask) {
                        ask = back;
                        if inbox.is_closed() {
                            break;
                        }
                        thread::yield_now();
                    }
                }
            });
        }
        // No test hangs: whatever becomes of the wait, the threads end.
        let some = (0..4000).any(|_| {
            thread::sleep(Duration::from_millis(5));
            heard.answers.lock().unwrap().len() > 300
        });
        let stopped = store.stop();
        ended.store(true, Ordering::SeqCst);
        assert!(some && stopped.is_ok(), "{stopped:?}");
    });
    for late in inbox.leftover_calls() {
        heard.answers.lock().unwrap().entry(late.id).or_default().push(Err(ApiError::StorageUnavailable));
    }
    let answers = heard.answers.lock().unwrap();
    let refused = answers.values().filter(|of| of[..] == [Err(ApiError::StorageUnavailable)]).count();
    assert!(answers.values().all(|of| of.len() == 1), "one answer to each");
    // At most the question that each thread gave up when it found the store closed has none.
    assert!(asked.load(Ordering::SeqCst) - answers.len() as u64 <= 3);
    let stored = answers.values().filter(|of| of[0].is_ok()).count();
    println!("{stored} stored, {refused} refused at the end, {} in all", answers.len());
    let log = LogSettings { sync: SyncPolicy::Os, segment_bytes: 4 << 20, ..LogSettings::default() };
    let directory = Directory::open(_folder.path(), true).unwrap();
    let (log, report) = Log::open(Box::new(directory), log).unwrap();
    assert!(report.clean, "the log was closed in an orderly way");
    let info = log.reader().info(millpond::log::record::Class::Mailbox, "ann", "").unwrap();
    assert!(info.state.last_offset >= stored as u64, "{} of {stored}", info.state.last_offset);
    log.close().unwrap();
}
