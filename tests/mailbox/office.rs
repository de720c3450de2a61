//! The office alone: what it says before and after the log has acknowledged, whatever the disk does.

use millpond::hub::api::{ApiAnswer, ApiCommand, ApiError, ApiSend, Position};
use millpond::hub::mail::{Mail, ReplyBody};
use millpond::hub::store::{PageAsk, PageKind, StoreAsk, StoreMail};
use millpond::log::error::StorageError;
use millpond::log::fake::{Fate, Fault};
use millpond::log::settings::{LogSettings, MailboxLimits, WhenFull};
use millpond::protocol::ErrorCode;

use crate::desk::log_settings;

use crate::bench::{Bench, KEY, SECONDS, offsets, owner, sent};

#[test]
fn nothing_is_answered_or_delivered_before_the_log_has_it() {
    let mut bench = Bench::new();
    let first = bench.send(&["ann", "bob", ""], "1", "");
    let second = bench.send(&["ann"], "2", "");
    bench.office.settle(bench.now());
    assert_eq!((bench.answers().len(), bench.mail().len()), (0, 0));
    bench.commit();
    assert_eq!((bench.answers().len(), bench.mail().len()), (0, 0));
    bench.hand_out();
    let answers = bench.answers();
    assert_eq!(answers.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [first, second]);
    assert_eq!(sent(&answers[0].1), [Ok(1), Ok(1), Err(ApiError::UserName)]);
    assert_eq!(sent(&answers[1].1), [Ok(2)]);
    let live: Vec<_> = bench.live();
    assert_eq!(live, [(1, "1".to_owned()), (1, "1".to_owned()), (2, "2".to_owned())]);
}

#[test]
fn bad_calls_are_refused_at_once() {
    let mut bench = Bench::new();
    let id = bench.send(&[], "1", "");
    assert!(matches!(bench.answer(id), ApiAnswer::Error(ApiError::BadRequest)));
    let long = "u".repeat(1001);
    let id = bench.send(&[&long, "tab\t"], "1", "");
    assert_eq!(sent(&bench.answer(id)), [Err(ApiError::UserName); 2]);
    let id = bench.send(&["ann"], "", "");
    assert_eq!(sent(&bench.answer(id)), [Err(ApiError::DataFormat)]);
    let id = bench.call(ApiCommand::Info);
    assert!(matches!(bench.answer(id), ApiAnswer::Error(ApiError::NotAvailable)));
    assert!(bench.office.is_idle());
}

#[test]
fn a_replay_ends_where_the_live_messages_begin() {
    let mut bench = Bench::new();
    for data in ["1", "2", "3"] {
        bench.send(&["ann"], data, "");
    }
    bench.desk.commit(2, SECONDS);
    bench.hand_out();
    assert_eq!(bench.live().len(), 2);
    // The third is durable, and its acknowledgement is still on the way: it comes live.
    bench.desk.commit(1, SECONDS);
    let granted = bench.open("", None);
    assert_eq!((offsets(&granted), granted.recovered), (vec![1, 2], true));
    assert_eq!(granted.position.offset, 2);
    assert_eq!(granted.mailbox.unwrap().next, PageKind::Last);
    bench.hand_out();
    assert_eq!(bench.live(), [(3, "3".to_owned())]);
    assert_eq!(offsets(&bench.open("", None)), [1, 2, 3]);
}

#[test]
fn what_was_acknowledged_survives_a_power_cut_and_what_was_not_may_not() {
    let mut bench = Bench::new();
    bench.send(&["ann"], "1", "");
    bench.run();
    bench.send(&["ann"], "2", "");
    bench.office.settle(bench.now());
    // The request never reached the disk.
    let cut = bench.disk.crash(bench.disk.pending_names(), |_| Fate::Lost);
    let mut after = Bench::on(cut, log_settings(MailboxLimits::default()));
    assert_eq!(offsets(&after.open("", None)), [1]);
    // It reached the disk and its acknowledgement did not reach the office: it is there, with its offset.
    bench.commit();
    let cut = bench.disk.crash(bench.disk.pending_names(), |_| Fate::Lost);
    let mut after = Bench::on(cut, log_settings(MailboxLimits::default()));
    let granted = after.open("", None);
    assert_eq!(offsets(&granted), [1, 2]);
    // A client with the position of before goes on behind it.
    after.send(&["ann"], "3", "");
    after.run();
    after.mail();
    let again = after.open("", Some(Position { offset: 2, ..granted.position }));
    assert_eq!((offsets(&again), again.recovered), (vec![3], true));
}

#[test]
fn a_full_queue_keeps_the_order_and_a_very_full_one_refuses() {
    let mut bench = Bench::new();
    bench.desk.set_room(2);
    let many = 2 + 8192;
    for number in 0..many {
        bench.send(&["ann"], &number.to_string(), "");
    }
    assert_eq!(bench.answers().len(), 0);
    let refused = bench.send(&["ann", "bob"], "x", "");
    assert!(matches!(bench.answer(refused), ApiAnswer::Error(ApiError::Overloaded)));
    bench.run();
    let live = bench.live();
    assert_eq!(live.len(), many);
    assert!(live.iter().zip(1..).all(|((offset, data), at)| (*offset, data) == (at, &(at - 1).to_string())));
    let stored = bench.send(&["ann"], "x", "");
    bench.run();
    assert_eq!(sent(&bench.answers().pop().unwrap().1), [Ok(many as u64 + 1)], "{stored}");
    assert!(bench.office.is_idle());
}

#[test]
fn a_shard_that_lags_far_behind_stops_what_is_new_and_nothing_else() {
    let limits = MailboxLimits { messages: 100_000, ..MailboxLimits::default() };
    let mut bench = Bench::with(log_settings(limits));
    for number in 0..16_384 {
        bench.send(&["ann"], &number.to_string(), "");
        if number % 1000 == 0 {
            bench.run();
        }
    }
    bench.run();
    bench.answers();
    let refused = bench.send(&["ann"], "x", "");
    assert!(matches!(bench.answer(refused), ApiAnswer::Error(ApiError::Overloaded)));
    // The shard takes some, in order.
    let mut taken = Vec::new();
    bench.office.drain_mail(|_, mail| {
        if taken.len() == 10 {
            return Err(mail);
        }
        taken.push(mail);
        Ok(())
    });
    bench.send(&["ann"], "x", "");
    bench.run();
    let live = bench.live();
    assert_eq!((live.len(), live[0].0, live.last().unwrap().0), (16_375, 11, 16_385));
}

#[test]
fn a_full_disk_refuses_and_takes_again_once_there_is_room() {
    let mut bench = Bench::new();
    bench.send(&["ann"], "1", "");
    bench.run();
    bench.answers();
    bench.disk.set_capacity(Some(64 << 10));
    let mut refused = 0;
    let long = format!("\"{}\"", "x".repeat(9000));
    for _ in 0..20 {
        let id = bench.send(&["ann"], &long, "");
        bench.run();
        match sent(&bench.answer(id))[..] {
            [Ok(_)] => assert_eq!(refused, 0, "nothing fits any more"),
            [Err(ApiError::StorageUnavailable)] => refused += 1,
            ref other => panic!("{other:?}"),
        }
    }
    assert!(refused > 10, "{refused}");
    assert_eq!(bench.office.figures().refused.iter().sum::<u64>(), refused);
    // What a pong acknowledged meanwhile is tried again.
    bench.mail();
    bench.acknowledge("", 1, false);
    bench.tick += 1;
    bench.run();
    assert!(bench.cursor("") == 1 || !bench.office.is_idle());
    bench.disk.set_capacity(None);
    bench.tick += 60;
    bench.run();
    assert_eq!(bench.cursor(""), 1);
    let id = bench.send(&["ann"], "2", "");
    bench.run();
    assert!(sent(&bench.answer(id))[0].is_ok());
}

#[test]
fn a_failed_sync_is_told_and_the_message_never_comes() {
    let mut bench = Bench::new();
    bench.disk.inject(Fault::Sync(StorageError::Device), 0);
    let id = bench.send(&["ann"], "1", "");
    bench.run();
    assert_eq!(sent(&bench.answer(id)), [Err(ApiError::StorageUnavailable)]);
    assert_eq!(bench.live(), []);
    let id = bench.send(&["ann"], "2", "");
    bench.run();
    assert_eq!(sent(&bench.answer(id)), [Ok(1)]);
    assert_eq!(bench.live(), [(1, "2".to_owned())]);
    assert_eq!(offsets(&bench.open("", None)), [1]);
}

#[test]
fn one_key_stores_one_message_for_five_minutes() {
    let mut bench = Bench::new();
    let first = bench.send(&["ann", "bob"], "1", "key");
    let meanwhile = bench.send(&["ann"], "other", "key");
    bench.run();
    let answers = bench.answers();
    let ids: Vec<_> = answers.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, [meanwhile, first]);
    assert_eq!((sent(&answers[0].1), sent(&answers[1].1)), (vec![Ok(1)], vec![Ok(1), Ok(1)]));
    bench.tick += 2999;
    let id = bench.send(&["ann"], "1", "key");
    assert_eq!(sent(&bench.answer(id)), [Ok(1)]);
    bench.tick += 1;
    let id = bench.send(&["ann"], "1", "key");
    bench.run();
    assert_eq!(sent(&bench.answer(id)), [Ok(2)]);
    // A failure is no result: it fails for all who wait and is forgotten.
    bench.disk.inject(Fault::Sync(StorageError::Device), 0);
    bench.send(&["ann"], "3", "new");
    bench.send(&["ann"], "3", "new");
    bench.run();
    let answers = bench.answers();
    assert!(answers.iter().all(|(_, answer)| sent(answer) == [Err(ApiError::StorageUnavailable)]));
    assert_eq!(answers.len(), 2);
    let id = bench.send(&["ann"], "3", "new");
    bench.run();
    assert_eq!(sent(&bench.answer(id)), [Ok(3)]);
}

#[test]
fn a_full_mailbox_rejects_or_drops_the_oldest() {
    let limits = |when_full| MailboxLimits { messages: 2, when_full, ..MailboxLimits::default() };
    let mut bench = Bench::with(log_settings(limits(WhenFull::Reject)));
    bench.send(&["ann"], "1", "");
    bench.send(&["ann"], "2", "");
    bench.run();
    bench.answers();
    let id = bench.send(&["ann"], "3", "");
    bench.run();
    assert_eq!(sent(&bench.answer(id)), [Err(ApiError::MailboxFull)]);
    bench.acknowledge("", 1, false);
    bench.tick += 1;
    bench.run();
    let id = bench.send(&["ann"], "3", "");
    bench.run();
    assert_eq!(sent(&bench.answer(id)), [Ok(3)]);
    let mut bench = Bench::with(log_settings(limits(WhenFull::DropOldest)));
    for data in ["1", "2", "3"] {
        bench.send(&["ann"], data, "");
    }
    bench.run();
    bench.mail();
    assert_eq!(offsets(&bench.open("", None)), [2, 3]);
}

#[test]
fn a_position_decides_where_a_replay_begins() {
    let mut bench = Bench::new();
    assert!(bench.open("", None).recovered, "nothing is missing where nothing is");
    let stranger = Position { offset: 3, epoch: "_".to_owned() };
    assert!(!bench.open("", Some(stranger)).recovered);
    for number in 0..10 {
        bench.send(&["ann"], &number.to_string(), "");
    }
    bench.run();
    bench.mail();
    bench.acknowledge("", 3, false);
    bench.tick += 1;
    bench.run();
    let fresh = bench.open("", None);
    let grant = fresh.mailbox.unwrap();
    // Pages are counted from the newest message.
    assert_eq!((offsets(&fresh), grant.next), (vec![4, 5, 6], PageKind::More));
    assert_eq!((grant.sent, grant.acknowledged), (6, 3));
    let epoch = fresh.position.epoch;
    let at = |offset, epoch: &str| Some(Position { offset, epoch: epoch.to_owned() });
    let known = bench.open("", at(8, &epoch));
    assert_eq!((offsets(&known), known.recovered, known.position.offset), (vec![9, 10], true, 10));
    // An offset without an epoch counts, none at all does not.
    let known = bench.open("", at(8, ""));
    assert_eq!((offsets(&known), known.recovered), (vec![9, 10], true));
    let unknown = bench.open("", at(0, ""));
    assert_eq!((offsets(&unknown), unknown.recovered), (vec![4, 5, 6], true));
    // The client libraries ignore publications of a reply that says that some are missing: they come behind it.
    let lost = [(1, &*epoch), (11, &epoch), (1, ""), (11, ""), (8, "ffffffff"), (0, "_")];
    for (since, after) in lost.map(|(offset, epoch)| (at(offset, epoch), 3)) {
        let granted = bench.open("", since.clone());
        let grant = granted.mailbox.unwrap();
        assert_eq!((granted.recovered, granted.was_recovering, offsets(&granted)), (false, true, vec![]));
        assert_eq!((granted.position.offset, grant.sent, grant.next), (after, after, PageKind::More));
        assert_eq!(bench.try_open("", since, true).unwrap_err(), ErrorCode::UnrecoverablePosition);
    }
    assert_eq!(bench.page(StoreAsk::More, 3, grant.epoch), (PageKind::More, vec![4, 5, 6]));
    assert_eq!(bench.page(StoreAsk::More, 6, grant.epoch), (PageKind::Last, vec![7, 8, 9, 10]));
    assert_eq!(bench.page(StoreAsk::More, 9, grant.epoch ^ 1), (PageKind::More, vec![4, 5, 6]));
}

#[test]
fn a_page_has_a_bound_in_bytes_and_an_unreadable_one_is_asked_for_again() {
    let log = log_settings(MailboxLimits::default());
    let mut bench = Bench::with(LogSettings { segment_bytes: 1 << 20, ..log });
    let long = format!("\"{}\"", "x".repeat(30_000));
    for _ in 0..3 {
        bench.send(&["ann"], &long, "");
    }
    bench.run();
    bench.mail();
    let granted = bench.open("", None);
    assert_eq!(offsets(&granted), [1, 2], "a quarter of a queue of 300,000 bytes");
    let epoch = granted.mailbox.unwrap().epoch;
    bench.desk.set_unreadable(true);
    let granted = bench.open("", None);
    assert_eq!((granted.recovered, granted.mailbox.unwrap().next), (false, PageKind::Failed));
    assert_eq!((granted.position.offset, granted.mailbox.unwrap().sent), (0, 0), "no pong may acknowledge");
    assert_eq!(bench.page(StoreAsk::More, 0, epoch), (PageKind::Failed, vec![]));
    bench.desk.set_unreadable(false);
    assert_eq!(bench.page(StoreAsk::More, 2, epoch), (PageKind::Last, vec![3]));
}

#[test]
fn pongs_cost_one_record_a_tick_and_commands_wait_for_theirs() {
    let mut bench = Bench::new();
    for number in 0..10 {
        bench.send(&["ann"], &number.to_string(), "");
    }
    bench.run();
    bench.mail();
    for through in [3, 7, 5, 2] {
        bench.acknowledge("", through, false);
    }
    bench.office.settle(bench.now());
    assert_eq!(bench.desk.queued(), 0, "within the tick");
    bench.tick += 1;
    bench.office.settle(bench.now());
    assert_eq!(bench.desk.queued(), 1);
    bench.run();
    assert_eq!(bench.cursor(""), 7);
    let replies = |bench: &mut Bench| -> Vec<u64> {
        let mail = bench.mail().into_iter().filter_map(|mail| match mail {
            Mail::Reply(reply) => match reply.body {
                ReplyBody::Acknowledged(through) => Some(through),
                _ => None,
            },
            _ => None,
        });
        mail.collect()
    };
    bench.acknowledge("", 99, true);
    assert_eq!(replies(&mut bench), [] as [u64; 0], "before the log has it");
    bench.run();
    assert_eq!((replies(&mut bench), bench.cursor("")), (vec![10], 10), "beyond the end is the end");
    bench.acknowledge("", 4, true);
    assert_eq!((replies(&mut bench), bench.desk.queued()), (vec![4], 0), "it is so already");
}

#[test]
fn messages_wait_for_every_device_from_the_first_time_it_is_seen() {
    let mut bench = Bench::new();
    bench.send(&["ann"], "1", "");
    bench.run();
    bench.mail();
    assert_eq!(offsets(&bench.open("phone", None)), [1]);
    assert_eq!(offsets(&bench.open("tablet", None)), [1]);
    bench.run();
    bench.acknowledge("phone", 1, false);
    bench.tick += 1;
    bench.run();
    bench.mail();
    assert_eq!((bench.cursor("phone"), bench.cursor("tablet")), (1, 0));
    assert_eq!(offsets(&bench.open("phone", None)), [] as [u64; 0]);
    assert_eq!(offsets(&bench.open("tablet", None)), [1]);
    assert_eq!(bench.desk.queued(), 0, "both are known");
}

#[test]
fn a_device_too_many_is_refused_once_and_leaves_nothing_behind() {
    let limits = MailboxLimits { devices: 2, ..MailboxLimits::default() };
    let mut bench = Bench::with(log_settings(limits));
    bench.send(&["ann"], "1", "");
    bench.run();
    for device in ["phone", "tablet", "watch"] {
        assert_eq!(offsets(&bench.open(device, None)), [1]);
        bench.run();
    }
    bench.acknowledge("watch", 1, false);
    bench.acknowledge("watch", 1, true);
    bench.tick += 1;
    bench.run();
    assert_eq!(bench.cursor("watch"), 0);
    assert_eq!((bench.office.figures().late_acks, bench.office.is_idle()), (0, true));
    let refused = bench.mail().into_iter().any(|mail| match mail {
        Mail::Reply(reply) => matches!(reply.body, ReplyBody::Failed(ErrorCode::BadRequest)),
        _ => false,
    });
    assert!(refused, "the command is told that it is of no use to repeat it");
    bench.call(ApiCommand::MailboxForget { user: "ann".into(), device: "tablet".into() });
    bench.run();
    bench.acknowledge("watch", 1, false);
    bench.tick += 1;
    bench.run();
    assert_eq!(bench.cursor("watch"), 1);
}

#[test]
fn messages_are_sent_again_until_there_were_enough_deliveries() {
    let mut bench = Bench::new();
    bench.send(&["ann"], "{\"n\":1}", "");
    bench.send(&["ann"], "2", "");
    bench.run();
    bench.mail();
    let epoch = bench.open("", None).mailbox.unwrap().epoch;
    let again = |through| PageKind::Again { through };
    assert_eq!(bench.page(StoreAsk::Redeliver, 2, epoch), (again(0), vec![1, 2]));
    // Another session of the same user asks for itself.
    bench.tick += 10;
    assert_eq!(bench.page(StoreAsk::Redeliver, 2, epoch), (again(0), vec![1, 2]));
    bench.tick += 800;
    assert_eq!(bench.page(StoreAsk::Redeliver, 2, epoch), (again(0), vec![1, 2]));
    // One that comes later is counted by itself.
    bench.send(&["ann"], "3", "");
    bench.run();
    bench.mail();
    bench.tick += 1600;
    // Delivered once, and again twice: the third time is one too many.
    let ask = PageAsk { key: KEY, channel: "#ann".into(), owner: owner(""), after: 3, epoch };
    bench.office.ask(StoreAsk::Redeliver(Box::new(ask)), bench.now());
    let mail = bench.mail();
    let letter = |mail: &Mail| match mail {
        Mail::Home(ask) => {
            assert_eq!(&*ask.channel, "quiet:dead");
            let millpond::hub::mail::HomeOp::Publish(publish) = &ask.op else { panic!("{ask:?}") };
            Some(serde_json::from_slice::<serde_json::Value>(&publish.publish.data).unwrap())
        }
        _ => None,
    };
    let dead: Vec<_> = mail.iter().filter_map(letter).collect();
    assert_eq!(dead.iter().map(|dead| dead["offset"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2]);
    let dead = &dead[0];
    assert_eq!((&dead["user"], &dead["data"]["n"]), (&"ann".into(), &1.into()));
    assert_eq!(dead["reason"], "max_deliveries");
    assert!(dead["id"].as_str().is_some_and(|id| id.len() == 16) && dead["sent_at"].as_u64() > Some(0));
    bench.run();
    assert_eq!(bench.cursor(""), 2);
    assert_eq!(bench.office.figures().dead_lettered, 2);
    // The other one has been sent again once, and has its second time now; an acknowledgement ends it.
    bench.tick += 3200;
    assert_eq!(bench.page(StoreAsk::Redeliver, 3, epoch), (again(2), vec![3]));
    bench.acknowledge("", 3, false);
    bench.tick += 1;
    bench.run();
    assert_eq!(bench.page(StoreAsk::Redeliver, 3, epoch), (again(3), vec![]));
}

#[test]
fn the_server_api_lists_acknowledges_and_purges() {
    let mut bench = Bench::new();
    let call = |bench: &mut Bench, command| {
        let id = bench.call(command);
        bench.run();
        bench.answer(id)
    };
    let user = || "ann".to_owned();
    let info = ApiCommand::MailboxInfo { user: user(), device: String::new() };
    let ApiAnswer::MailboxInfo(view) = call(&mut bench, info.clone()) else { panic!() };
    assert_eq!(view, Default::default());
    let purge = ApiCommand::MailboxPurge { user: user() };
    assert!(matches!(call(&mut bench, purge.clone()), ApiAnswer::Done));
    assert!(bench.desk.mailbox("ann", "").is_none(), "a question makes no mailbox");
    for number in 0..5 {
        bench.send(&["ann"], &number.to_string(), "");
    }
    bench.run();
    bench.answers();
    let list = ApiCommand::MailboxList { user: user(), since: 1, limit: 2 };
    let ApiAnswer::MailboxList { messages, position } = call(&mut bench, list) else { panic!() };
    assert_eq!(messages.iter().map(|of| of.offset).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(position.offset, 5);
    // Every page but the last one is full, wherever it begins.
    let mut listed = Vec::new();
    for since in [0, 2, 4, 5] {
        let list = ApiCommand::MailboxList { user: user(), since, limit: 2 };
        let ApiAnswer::MailboxList { messages, .. } = call(&mut bench, list) else { panic!() };
        listed.push(messages.iter().map(|of| of.offset).collect::<Vec<_>>());
    }
    assert_eq!(listed, [vec![1, 2], vec![3, 4], vec![5], vec![]]);
    let ack = ApiCommand::MailboxAck { user: user(), device: String::new(), offset: 2 };
    assert!(matches!(call(&mut bench, ack), ApiAnswer::Done));
    let ApiAnswer::MailboxInfo(view) = call(&mut bench, info.clone()) else { panic!() };
    assert_eq!((view.cursor, view.messages, view.position.offset), (2, 3, 5));
    assert!(view.bytes > 0);
    assert!(matches!(call(&mut bench, purge), ApiAnswer::Done));
    let ApiAnswer::MailboxInfo(view) = call(&mut bench, info) else { panic!() };
    assert_eq!((view.cursor, view.messages, view.bytes, view.position.offset), (5, 0, 0, 5));
    bench.mail();
    assert_eq!(offsets(&bench.open("", None)), [] as [u64; 0]);
}

#[test]
fn a_message_that_has_expired_is_not_delivered() {
    let mut bench = Bench::new();
    let send = |ttl_seconds| {
        ApiCommand::Send(Box::new(ApiSend {
            users: vec!["ann".to_owned()],
            data: "1".into(),
            ttl_seconds,
            ..ApiSend::default()
        }))
    };
    bench.call(send(0));
    bench.call(send(60));
    bench.call(send(0));
    bench.run();
    bench.mail();
    assert_eq!(offsets(&bench.open("", None)), [1, 2, 3]);
    bench.tick += 601;
    let granted = bench.open("", None);
    assert_eq!((offsets(&granted), granted.recovered), (vec![1, 3], true));
}

/// The dead-letter channel is told through a shard's mail: while that is far behind, the message is sent once more
/// instead, and nothing moves past it.
#[test]
fn a_dead_letter_waits_for_a_shard_that_lags_far_behind() {
    let limits = MailboxLimits { messages: 100_000, ..MailboxLimits::default() };
    let mut bench = Bench::with(log_settings(limits));
    bench.send(&["ann"], "1", "");
    bench.run();
    bench.mail();
    let epoch = bench.open("", None).mailbox.unwrap().epoch;
    for _ in 0..2 {
        assert_eq!(bench.page(StoreAsk::Redeliver, 1, epoch).1, [1]);
        bench.tick += 1600;
    }
    for number in 0..16_384 {
        bench.send(&["bob"], &number.to_string(), "");
        if number % 1000 == 0 {
            bench.run();
        }
    }
    bench.run();
    let pages = |bench: &mut Bench| -> Vec<(PageKind, usize)> {
        let page = |mail| match mail {
            Mail::Store(mail) => match *mail {
                StoreMail::Page(page) => Some((page.kind, page.publications.len())),
                _ => None,
            },
            _ => None,
        };
        bench.mail().into_iter().filter_map(page).collect()
    };
    let ask = || {
        let ask = PageAsk { key: KEY, channel: "#ann".into(), owner: owner(""), after: 1, epoch };
        StoreAsk::Redeliver(Box::new(ask))
    };
    bench.office.ask(ask(), bench.now());
    bench.run();
    assert_eq!((bench.office.figures().dead_lettered, bench.cursor("")), (0, 0));
    assert_eq!(pages(&mut bench), [(PageKind::Again { through: 0 }, 1)]);
    bench.tick += 1600;
    bench.office.ask(ask(), bench.now());
    bench.run();
    assert_eq!((bench.office.figures().dead_lettered, bench.cursor("")), (1, 1));
    assert_eq!(pages(&mut bench), [(PageKind::Again { through: 1 }, 0)]);
}
