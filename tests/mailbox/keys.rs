//! Idempotency keys of sends across restarts.

use millpond::hub::api::{ApiCommand, ApiError, ApiSend};
use millpond::log::fake::{FakeDisk, Fate};
use millpond::log::settings::MailboxLimits;
use millpond::store::archive::Archive;

use crate::bench::{Bench, offsets, sent};
use crate::desk::log_settings;

/// The process ends at once and begins anew; the disk has what was synced.
fn restarted(bench: &Bench) -> Bench {
    let disk: FakeDisk = bench.disk.crash(bench.disk.pending_names(), |_| Fate::Lost);
    let mut after = Bench::on(disk, log_settings(MailboxLimits::default()));
    after.tick = bench.tick;
    after
}

fn send(bench: &mut Bench, users: &[&str], data: &str, key: &str) -> Vec<Result<u64, ApiError>> {
    let id = bench.send(users, data, key);
    bench.run();
    bench.mail();
    sent(&bench.answer(id))
}

#[test]
fn a_send_that_is_repeated_after_a_restart_is_stored_once() {
    let mut bench = Bench::new();
    assert_eq!(send(&mut bench, &["ann"], "0", ""), [Ok(1)]);
    assert_eq!(send(&mut bench, &["ann", "bob"], "1", "key"), [Ok(2), Ok(1)]);
    assert_eq!(send(&mut bench, &["ann"], "2", "other"), [Ok(3)]);
    // This one is stored, and nobody is told before the process ends.
    bench.send(&["ann"], "3", "late");
    bench.office.settle(bench.now());
    bench.commit();
    let mut bench = restarted(&bench);
    let epoch = bench.open("", None).position.epoch;
    assert_eq!(send(&mut bench, &["ann"], "3", "late"), [Ok(4)]);
    // A new user, one who has it, and one who has another message only.
    bench.send(&["eve"], "9", "other");
    bench.run();
    bench.answers();
    assert_eq!(send(&mut bench, &["cat", "bob", "ann", "eve"], "1", "key"), [Ok(1), Ok(1), Ok(2), Ok(2)]);
    assert_eq!(bench.open("", None).position.epoch, epoch);
    assert_eq!(send(&mut bench, &["ann"], "5", "new"), [Ok(5)]);
    assert_eq!(send(&mut bench, &["ann"], "5", "new"), [Ok(5)], "this run's keys count as ever");
}

#[test]
fn a_key_is_forgotten_after_five_minutes_whenever_the_process_began() {
    let mut bench = Bench::new();
    assert_eq!(send(&mut bench, &["ann"], "1", "key"), [Ok(1)]);
    bench.tick += 2000;
    let mut bench = restarted(&bench);
    bench.tick += 980;
    assert_eq!(send(&mut bench, &["ann"], "1", "key"), [Ok(1)]);
    bench.tick += 30;
    assert_eq!(send(&mut bench, &["ann"], "1", "key"), [Ok(2)]);
    assert_eq!(send(&mut bench, &["ann"], "1", "key"), [Ok(2)]);
}

#[test]
fn what_was_acknowledged_or_purged_counts_too() {
    let mut bench = Bench::new();
    assert_eq!(send(&mut bench, &["ann"], "1", "first"), [Ok(1)]);
    assert_eq!(send(&mut bench, &["ann"], "2", "second"), [Ok(2)]);
    bench.acknowledge("", 1, true);
    bench.run();
    bench.call(ApiCommand::MailboxPurge { user: "ann".into() });
    bench.run();
    let mut bench = restarted(&bench);
    assert_eq!(bench.cursor(""), 2);
    assert_eq!(send(&mut bench, &["ann"], "1", "first"), [Ok(1)]);
    assert_eq!(send(&mut bench, &["ann"], "2", "second"), [Ok(2)]);
    assert!(offsets(&bench.open("", None)).is_empty());
}

/// Of a user with many messages the keys are read once.
#[test]
fn a_long_way_back_is_gone_once_and_finds_the_same() {
    let mut bench = Bench::new();
    for number in 0..40 {
        assert_eq!(send(&mut bench, &["ann"], "1", &format!("key {number}")), [Ok(number + 1)]);
    }
    let mut bench = restarted(&bench);
    for number in (0..40).rev() {
        assert_eq!(send(&mut bench, &["ann"], "1", &format!("key {number}")), [Ok(number + 1)]);
    }
    assert_eq!(send(&mut bench, &["ann"], "1", "key 40"), [Ok(41)]);
    assert_eq!(send(&mut bench, &["ann"], "1", "key 40"), [Ok(41)]);
}

/// Nobody but the log sees what a key became.
#[test]
fn receivers_see_the_id_alone() {
    let mut bench = Bench::new();
    let message = ApiSend {
        users: vec!["ann".into()],
        data: "1".into(),
        idempotency_key: "a key".into(),
        ..ApiSend::default()
    };
    bench.call(ApiCommand::Send(Box::new(message)));
    bench.run();
    bench.mail();
    let granted = bench.open("", None);
    let (name, id) = &granted.publications[0].tags[0];
    assert_eq!((name.as_str(), id.len()), ("id", 16));
    let stored = bench.desk.newest("ann", 0, 10).unwrap();
    let message = &stored[0].message;
    assert_eq!((stored.len(), message.plain_id(), message.key_hash().is_some()), (1, &**id, true));
    assert!(!message.id.contains("a key"));
}
