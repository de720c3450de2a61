//! What happens around a mailbox, one case each.

use std::time::Duration;

use millpond::hub::api::{ApiAnswer, ApiCommand, ApiSubscribe, Position, Target, UserState};
use millpond::hub::mail::Mail;
use millpond::hub::settings::UserPresenceSettings;
use millpond::hub::store::{StoreAsk, StoreMail};
use millpond::log::settings::MailboxLimits;
use millpond::protocol::{Encoding, ErrorCode};

use crate::bench::settings;
use crate::client::Client;
use crate::desk::log_settings;
use crate::town::{Pace, Town};
use crate::world::BIRTH;

fn town(shards: u16) -> Town {
    Town::new(1, shards, settings(), log_settings(MailboxLimits::default()))
}

fn cursor(town: &Town, device: &str) -> u64 {
    town.desk.mailbox("ann", device).map_or(0, |info| info.cursor)
}

fn fill(town: &mut Town, count: usize) {
    for number in 0..count {
        town.send(&["ann"], &format!("{{\"n\":{number}}}"));
    }
    town.settle();
}

fn log(town: &Town, at: usize) -> Vec<u64> {
    town.clients[at].session.as_ref().expect("a session").log.clone()
}

/// Steps until a session asks for its next page, and takes the question away.
fn until_more(town: &mut Town) -> StoreAsk {
    for _ in 0..100 {
        town.step(Pace { asks: 0, ..Pace::FAST });
        if let Some(at) = town.world.store.iter().position(|ask| matches!(ask, StoreAsk::More(_))) {
            return town.world.store.remove(at).unwrap();
        }
        town.store_turn(Pace::FAST);
    }
    panic!("nothing more is asked for");
}

#[test]
fn what_waits_comes_in_order_and_a_pong_acknowledges_it() {
    for encoding in [Encoding::Json, Encoding::Protobuf] {
        let mut town = town(3);
        let ann = town.add(Client::new("ann", "", encoding));
        fill(&mut town, 23);
        town.connect(ann, 1);
        town.settle();
        assert_eq!(log(&town, ann), (1..=23).collect::<Vec<_>>());
        assert_eq!(cursor(&town, ""), 0);
        fill(&mut town, 2);
        assert_eq!(log(&town, ann), (1..=25).collect::<Vec<_>>());
        town.pass(260);
        assert_eq!(cursor(&town, ""), 25, "a pong has come");
        town.drop(ann);
        town.settle();
        fill(&mut town, 1);
        town.connect(ann, 2);
        town.settle();
        assert_eq!(log(&town, ann), [26]);
    }
}

#[test]
fn a_pong_says_nothing_of_what_went_out_behind_its_ping() {
    let mut town = town(1);
    let ann = town.add(Client::new("ann", "", Encoding::Json));
    town.connect(ann, 0);
    town.settle();
    fill(&mut town, 1);
    town.clients[ann].awake = false;
    let socket = town.clients[ann].socket;
    while town.world.pipe(0, socket).outbound.is_empty() {
        town.world.tick += 1;
        town.step(Pace::FAST);
    }
    // The ping is in the client's kernel; what comes now stays in the shard.
    town.world.pipe(0, socket).room = 1;
    fill(&mut town, 1);
    town.clients[ann].awake = true;
    for _ in 0..10 {
        town.step(Pace::FAST);
    }
    town.drop(ann);
    town.pass(10);
    assert_eq!((town.clients[ann].received.len(), cursor(&town, "")), (1, 1));
    town.connect(ann, 0);
    town.settle();
    assert_eq!(log(&town, ann), [2]);
}

#[test]
fn of_websocket_pongs_only_the_echo_of_the_last_ping_acknowledges() {
    let mut town = town(1);
    let ann = town.add(Client { native: true, ..Client::new("ann", "", Encoding::Json) });
    town.connect(ann, 0);
    town.settle();
    for _ in 0..2 {
        fill(&mut town, 1);
        for _ in 0..6 {
            town.pass(45);
            town.pong(ann, b"alive");
        }
    }
    let pings = town.clients[ann].pings.clone();
    assert!(pings.len() >= 2 && pings.first() != pings.last(), "{pings:?}");
    for early in [pings[0].as_slice(), b"", b"unasked"] {
        town.pong(ann, early);
        town.pass(10);
        assert_eq!(cursor(&town, ""), 0, "{early:?}");
    }
    town.pong(ann, pings.last().unwrap());
    town.pass(10);
    assert_eq!(cursor(&town, ""), 2);
}

#[test]
fn a_session_without_anything_unacknowledged_owns_nothing_for_its_mailbox() {
    let mut town = town(1);
    let ann = town.add(Client::new("ann", "", Encoding::Json));
    fill(&mut town, 9);
    town.connect(ann, 0);
    town.settle();
    let cold =
        |town: &Town| town.world.shards[0].leftovers().into_iter().find(|(name, _)| *name == "cold parts");
    assert_eq!(cold(&town), Some(("cold parts", 1)));
    town.pass(260);
    assert_eq!(cold(&town), None);
    fill(&mut town, 1);
    assert_eq!(cold(&town), Some(("cold parts", 1)));
    town.pass(260);
    assert_eq!(cold(&town), None);
}

#[test]
fn a_session_that_goes_while_the_store_is_asked_leaves_nothing() {
    let mut town = town(2);
    let ann = town.add(Client::new("ann", "phone", Encoding::Json));
    fill(&mut town, 12);
    for turns in 1..12 {
        town.connect(ann, 0);
        for _ in 0..turns {
            town.step(Pace { asks: 1, commits: 1, acks: 1 });
        }
        town.drop(ann);
        town.settle();
    }
    town.pass(40);
    for shard in &town.world.shards {
        assert_eq!(shard.leftovers(), []);
    }
    assert_eq!(cursor(&town, "phone"), 0);
    town.clients[ann].position = None;
    town.connect(ann, 0);
    town.settle();
    assert_eq!(log(&town, ann), (1..=12).collect::<Vec<_>>());
}

#[test]
fn a_slow_reader_catches_up_page_by_page_while_new_messages_come() {
    let mut town = town(2);
    let ann = town.add(Client::new("ann", "", Encoding::Json));
    fill(&mut town, 40);
    town.connect(ann, 0);
    let socket = town.clients[ann].socket;
    town.world.pipe(0, socket).room = 200;
    for number in 0..60 {
        town.send(&["ann"], &format!("{{\"late\":{number}}}"));
        town.step(Pace { asks: 1, commits: 1, acks: 1 });
        let pipe = town.world.pipe(0, socket);
        pipe.room = 200 + pipe.outbound.len();
    }
    town.world.pipe(0, socket).room = usize::MAX;
    town.settle();
    assert_eq!(log(&town, ann), (1..=100).collect::<Vec<_>>());
}

#[test]
fn a_purge_ends_a_replay() {
    let mut town = town(2);
    let ann = town.add(Client::new("ann", "", Encoding::Json));
    fill(&mut town, 40);
    town.connect(ann, 0);
    let socket = town.clients[ann].socket;
    town.world.pipe(0, socket).room = 100;
    for _ in 0..20 {
        town.step(Pace::FAST);
    }
    town.call(ApiCommand::MailboxPurge { user: "ann".into() });
    for _ in 0..20 {
        town.step(Pace::FAST);
    }
    town.world.pipe(0, socket).room = usize::MAX;
    town.world.pipe(0, socket).write_edge = true;
    town.settle();
    let had = log(&town, ann);
    assert!(had.len() < 40 && had.iter().zip(1..).all(|(offset, at)| *offset == at), "{had:?}");
    fill(&mut town, 2);
    assert_eq!(log(&town, ann)[had.len()..], [41, 42]);
}

#[test]
fn a_subscription_taken_back_while_it_is_pending_is_given_back() {
    let mut town = town(2);
    let ann = town.add(Client::new("ann", "", Encoding::Json));
    fill(&mut town, 9);
    town.connect(ann, 0);
    town.settle();
    let target = Target { user: "ann".into(), ..Target::default() };
    let channel = || "#ann".to_owned();
    let unsubscribe = || ApiCommand::Unsubscribe { target: target.clone(), channel: channel() };
    town.world.ask(0, unsubscribe());
    town.settle();
    fill(&mut town, 1);
    assert_eq!(log(&town, ann).len(), 9, "not subscribed");
    town.pass(400);
    assert_eq!(cursor(&town, ""), 0, "what a session without a subscription had is not acknowledged");
    // Asked for and taken back before the store has said anything.
    let subscribe = ApiSubscribe { target: target.clone(), channel: channel(), ..ApiSubscribe::default() };
    let ids =
        [town.world.call(0, ApiCommand::Subscribe(Box::new(subscribe))), town.world.call(0, unsubscribe())];
    town.settle();
    assert!(ids.into_iter().all(|id| town.world.answer(id).is_some()));
    fill(&mut town, 1);
    assert!(!log(&town, ann).contains(&11), "taken back");
    town.pass(400);
    let cold = town.world.shards[0].leftovers().into_iter().find(|(name, _)| *name == "cold parts");
    assert_eq!(cold, None);
}

#[test]
fn a_subscription_by_the_server_api_is_given_what_waits_too() {
    let mut town = town(2);
    let ann = town.add(Client::new("ann", "", Encoding::Json));
    town.connect(ann, 0);
    town.settle();
    let target = Target { user: "ann".into(), ..Target::default() };
    town.world.ask(0, ApiCommand::Unsubscribe { target: target.clone(), channel: "#ann".into() });
    fill(&mut town, 11);
    let subscribe = ApiSubscribe { target, channel: "#ann".into(), ..ApiSubscribe::default() };
    town.world.call(0, ApiCommand::Subscribe(Box::new(subscribe)));
    town.settle();
    assert_eq!(log(&town, ann), (1..=11).collect::<Vec<_>>());
    assert_eq!(town.clients[ann].position.as_ref().unwrap().0, 11);
}

#[test]
fn the_answer_to_an_older_question_is_none_to_a_newer_one() {
    let mut town = town(2);
    let ann = town.add(Client::new("ann", "", Encoding::Json));
    fill(&mut town, 30);
    town.connect(ann, 0);
    let late = until_more(&mut town);
    town.settle();
    // The session's question is late, as in a full queue, and what its home asks meanwhile overtakes it.
    let target = Target { user: "ann".into(), ..Target::default() };
    town.world.call(0, ApiCommand::Unsubscribe { target: target.clone(), channel: "#ann".into() });
    let mut subscribe = ApiSubscribe { target, channel: "#ann".into(), ..ApiSubscribe::default() };
    let position = town.clients[ann].position.clone().unwrap();
    subscribe.recover_since = Some(Position { offset: position.0 + 10, epoch: position.1 });
    town.world.call(0, ApiCommand::Subscribe(Box::new(subscribe)));
    let newer = until_more(&mut town);
    town.world.store.extend([late, newer]);
    town.settle();
    let had = log(&town, ann);
    let (before, after) = had.split_at(had.iter().position(|offset| *offset > 10).unwrap());
    assert_eq!((before.len() as u64, after), (position.0, &(position.0 + 11..=30).collect::<Vec<_>>()[..]));
}

/// A message that waits comes at every connect: one that ended the session would keep its user out for good.
#[test]
fn what_is_no_json_comes_in_a_form_that_is_and_ends_no_session() {
    for waits in [false, true] {
        let mut town = town(2);
        let ann = town.add(Client::new("ann", "", Encoding::Json));
        let other = town.add(Client::new("ann", "", Encoding::Protobuf));
        if !waits {
            town.connect(ann, 0);
            town.connect(other, 1);
            town.settle();
        }
        // On the first page, on a later one, and in between what every client reads.
        for data in ["no JSON", "1", "{\"n\":2}", "3", "\u{1}", "\u{1}\u{2}", "6"] {
            town.send(&["ann"], data);
        }
        town.settle();
        if waits {
            town.connect(ann, 0);
            town.connect(other, 1);
            town.settle();
        }
        for client in [ann, other] {
            assert_eq!((town.clients[client].closed, log(&town, client)), (None, (1..=7).collect()));
        }
        town.pass(260);
        assert_eq!((cursor(&town, ""), town.clients[ann].closed), (7, None), "a pong acknowledges it");
    }
}

#[test]
fn what_is_no_json_is_sent_again_like_everything_else() {
    let mut of = settings();
    of.mailbox.as_mut().unwrap().ack_by_pong = false;
    let mut town = Town::new(1, 2, of, log_settings(MailboxLimits::default()));
    let ann = town.add(Client::new("ann", "", Encoding::Json));
    town.send(&["ann"], "no JSON");
    town.settle();
    town.connect(ann, 1);
    town.pass(450);
    assert_eq!(log(&town, ann), [1, 1]);
    town.acknowledge(ann, 1);
    town.pass(2000);
    assert_eq!((log(&town, ann), town.clients[ann].closed), (vec![1, 1], None));
}

#[test]
fn mailbox_ack_is_answered_once_the_log_has_it() {
    let mut of = settings();
    of.mailbox.as_mut().unwrap().ack_by_pong = false;
    let mut town = Town::new(1, 2, of, log_settings(MailboxLimits::default()));
    let ann = town.add(Client::new("ann", "", Encoding::Json));
    fill(&mut town, 3);
    town.connect(ann, 1);
    town.settle();
    town.pass(260);
    assert_eq!(cursor(&town, ""), 0, "pongs count for nothing here");
    town.acknowledge(ann, 2);
    for _ in 0..20 {
        town.step(Pace { commits: 0, ..Pace::FAST });
    }
    assert_eq!(town.clients[ann].session.as_ref().unwrap().asked.len(), 1);
    town.settle();
    assert_eq!(town.clients[ann].session.as_ref().unwrap().asked.len(), 0);
    assert_eq!(cursor(&town, ""), 2);
    // The third comes again, with growing pauses, to the same session.
    town.pass(450);
    assert_eq!(log(&town, ann), [1, 2, 3, 3]);
    town.pass(700);
    assert_eq!(log(&town, ann), [1, 2, 3, 3]);
    town.pass(300);
    assert_eq!(log(&town, ann), [1, 2, 3, 3, 3]);
    // Delivered three times: it is put aside, and nothing comes any more.
    town.pass(2500);
    assert_eq!(log(&town, ann), [1, 2, 3, 3, 3]);
    assert_eq!((cursor(&town, ""), town.office.figures().dead_lettered), (3, 1));
}

#[test]
fn a_failing_disk_does_not_keep_anybody_out_and_is_asked_again() {
    let mut town = town(2);
    let ann = town.add(Client::new("ann", "", Encoding::Json));
    fill(&mut town, 9);
    town.desk.set_unreadable(true);
    town.connect(ann, 0);
    town.settle();
    let session = town.clients[ann].session.as_ref().unwrap();
    assert!(session.subscribed && !session.recovered && session.log.is_empty());
    fill(&mut town, 1);
    town.pass(300);
    assert_eq!((log(&town, ann).len(), cursor(&town, "")), (0, 0), "nothing is acknowledged unread");
    town.desk.set_unreadable(false);
    town.pass(110);
    assert_eq!(log(&town, ann), (1..=10).collect::<Vec<_>>());
}

#[test]
fn a_mailbox_that_was_forgotten_begins_anew_under_another_epoch() {
    let mut log_settings = log_settings(MailboxLimits::default());
    log_settings.state_ttl = Duration::from_secs(1000);
    let mut town = Town::new(1, 1, settings(), log_settings);
    let ann = town.add(Client::new("ann", "", Encoding::Json));
    let idle = town.add(Client::new("ann", "", Encoding::Json));
    fill(&mut town, 3);
    town.connect(ann, 0);
    town.connect(idle, 0);
    town.settle();
    town.pass(300);
    town.drop(ann);
    assert_eq!(cursor(&town, ""), 3);
    town.pass(11_000);
    // Her records stand in the oldest segments once the log goes on in others.
    let long = format!("\"{}\"", "x".repeat(20_000));
    for _ in 0..12 {
        town.send(&["bob"], &long);
        town.settle();
    }
    town.call(ApiCommand::MailboxPurge { user: "bob".into() });
    town.settle();
    town.desk.maintain((BIRTH + u64::from(town.world.tick) / 10) as u32);
    assert!(town.desk.mailbox("ann", "").is_none());
    fill(&mut town, 2);
    assert_eq!(log(&town, idle), [1, 2, 3, 1, 2]);
    town.connect(ann, 0);
    town.settle();
    let session = town.clients[ann].session.as_ref().unwrap();
    assert_eq!((session.recovered, &session.log[..]), (false, &[1, 2][..]));
}

#[test]
fn a_drain_in_the_middle_of_a_replay_leaves_the_rest_for_the_next_time() {
    let mut town = town(2);
    let ann = town.add(Client::new("ann", "", Encoding::Json));
    fill(&mut town, 40);
    town.connect(ann, 0);
    let socket = town.clients[ann].socket;
    town.world.pipe(0, socket).room = 100;
    for _ in 0..20 {
        town.step(Pace::FAST);
    }
    for shard in 0..2 {
        town.world.tell(shard, Mail::Drain { window_ticks: 0 });
    }
    town.world.pipe(0, socket).room = usize::MAX;
    town.world.pipe(0, socket).write_edge = true;
    town.pass(30);
    assert_eq!(town.clients[ann].closed, Some(3001));
    assert!(town.world.shards.iter_mut().all(|shard| shard.is_drained()));
    let had = town.clients[ann].received.len();
    assert!(had < 40);
    town.crash();
    town.connect(ann, 0);
    town.settle();
    assert_eq!(log(&town, ann).first(), Some(&(had as u64 + 1)));
    assert_eq!(town.clients[ann].received.len(), 40);
}

#[test]
fn one_connection_a_user_may_have_does_not_disturb_its_mailbox() {
    let mut of = settings();
    of.client.personal_channel.as_mut().unwrap().single_connection = true;
    let mut town = Town::new(1, 3, of, log_settings(MailboxLimits::default()));
    let first = town.add(Client::new("ann", "", Encoding::Json));
    let second = town.add(Client::new("ann", "", Encoding::Protobuf));
    fill(&mut town, 10);
    town.connect(first, 0);
    for _ in 0..3 {
        town.step(Pace { asks: 1, commits: 1, acks: 1 });
    }
    town.connect(second, 1);
    town.settle();
    assert_eq!(town.clients[first].closed, Some(3504));
    fill(&mut town, 1);
    assert_eq!(log(&town, second), (1..=11).collect::<Vec<_>>());
}

/// A disk that hangs answers nobody. Who waits is not read meanwhile, and must not hold its socket for ever: it is given
/// up a minute after it would have been.
#[test]
fn a_store_that_hangs_holds_connections_for_a_minute_only() {
    const HANGS: Pace = Pace { asks: 0, commits: 0, acks: 0 };
    let mut town = town(2);
    let (live, late) =
        (town.add(Client::new("ann", "", Encoding::Json)), town.add(Client::new("ann", "", Encoding::Json)));
    town.connect(live, 0);
    town.settle();
    fill(&mut town, 3);
    town.connect(late, 1);
    town.acknowledge(live, 1);
    let mut closed = [None; 2];
    for tick in 0..1300 {
        town.world.tick += 1;
        town.step(HANGS);
        for (at, client) in closed.iter_mut().zip([live, late]) {
            *at = at.or_else(|| town.clients[client].closed.map(|code| (code, tick)));
        }
    }
    let [live_end, late_end] = closed;
    // `stale_close_delay` is 10 s; pings come every 25 s and are answered within 8 s.
    assert!(late_end.is_some_and(|(code, at)| code == 3502 && (700..=720).contains(&at)), "{late_end:?}");
    assert!(live_end.is_some_and(|(code, at)| code == 3012 && (680..=950).contains(&at)), "{live_end:?}");
    town.settle();
    for shard in &town.world.shards {
        assert_eq!(shard.leftovers(), [], "the store's late answers find nobody");
    }
    town.clients[late].position = None;
    town.connect(late, 1);
    town.settle();
    assert_eq!(log(&town, late), [2, 3]);
}

/// What is stored behind the grant of a mailbox while the connect command still waits for another home goes out behind
/// the reply: skipped, it would be acknowledged by the pong to the next message.
#[test]
fn nothing_is_skipped_while_another_home_has_yet_to_answer() {
    for sessions in [1, 3] {
        let mut town = town(3);
        let home = town.world.home("#ann");
        let (held_up, here) = ((home + 1) % 3, (home + 2) % 3);
        let late = (0..).map(|n| format!("hist:{n}")).find(|name| town.world.home(name) == held_up).unwrap();
        let others: Vec<usize> =
            (1..sessions).map(|_| town.add(Client::new("ann", "", Encoding::Json))).collect();
        let ann = town.add(Client { wishes: vec![late], ..Client::new("ann", "", Encoding::Json) });
        fill(&mut town, 2);
        for other in &others {
            town.connect(*other, here);
        }
        town.settle();
        town.world.busy[held_up] = u32::MAX;
        town.connect(ann, here);
        for number in 0..40 {
            if number >= 20 {
                town.send(&["ann"], "{}");
            }
            town.step(Pace::FAST);
        }
        (0..10).for_each(|_| town.step(Pace::FAST));
        assert!(log(&town, ann).is_empty(), "no reply yet");
        town.world.busy[held_up] = 0;
        town.settle();
        assert_eq!(log(&town, ann), (1..=22).collect::<Vec<_>>());
        fill(&mut town, 1);
        town.pass(260);
        assert_eq!((log(&town, ann).len(), cursor(&town, "")), (23, 23));
        assert!(others.iter().all(|other| log(&town, *other).len() == 23));
    }
}

/// A live message that does not follow on the last one leads to a look into the store.
#[test]
fn a_gap_between_live_messages_is_filled_and_never_acknowledged() {
    let mut town = town(2);
    let home = town.world.home("#ann");
    let ann = town.add(Client::new("ann", "phone", Encoding::Json));
    fill(&mut town, 1);
    town.connect(ann, 1 - home);
    town.settle();
    town.send(&["ann"], "{}");
    let delivery = |mail: &Mail| matches!(mail, Mail::Deliver(_));
    while !town.world.inboxes[1 - home].iter().any(delivery) {
        town.world.busy[1 - home] = 1;
        town.step(Pace::FAST);
    }
    town.world.inboxes[1 - home].retain(|mail| !delivery(mail));
    town.world.busy[1 - home] = 0;
    fill(&mut town, 2);
    assert_eq!(log(&town, ann), [1, 2, 3, 4]);
    town.pass(260);
    assert_eq!(cursor(&town, "phone"), 4);
}

/// A user in the grace period who cannot be connected for a fault of ours does not go offline for having tried.
#[test]
fn a_connect_command_that_fails_does_not_end_the_grace_period() {
    let state = |town: &mut Town| {
        let users = ApiCommand::UserPresence { users: vec!["ann".into()] };
        match town.world.ask(0, users) {
            ApiAnswer::UserPresence(views) => views[0].1.state,
            other => panic!("{other:?}"),
        }
    };
    let mut of = settings();
    of.user_presence = Some(UserPresenceSettings {
        namespace: "quiet".into(),
        away_after: Duration::ZERO,
        offline_after: Duration::from_secs(40),
        last_seen_users: 10,
    });
    let mut town = Town::new(1, 1, of, log_settings(MailboxLimits::default()));
    let ann = town.add(Client::new("ann", "", Encoding::Json));
    town.connect(ann, 0);
    town.settle();
    town.drop(ann);
    town.pass(50);
    town.connect(ann, 0);
    town.clients[ann].awake = false;
    let open = loop {
        town.world.turn();
        if let Some(StoreAsk::Open(open)) = town.world.store.pop_front() {
            break open;
        }
    };
    let result = Err(ErrorCode::Internal);
    let answer = StoreMail::Opened { origin: open.origin, channel: open.channel, result };
    town.world.tell(0, Mail::Store(Box::new(answer)));
    town.settle();
    town.drop(ann);
    town.settle();
    assert_eq!(state(&mut town), UserState::Away, "seen just now");
    town.pass(390);
    assert_eq!(state(&mut town), UserState::Away, "the attempt was a sign of life");
    town.pass(20);
    assert_eq!(state(&mut town), UserState::Offline);
}
