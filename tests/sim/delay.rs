//! `write_delay`: a burst leaves in one write, nothing waits longer than it may, and what must not wait does not.

use std::time::Duration;

use millpond::hub::api::{ApiCommand, ApiPublish};
use millpond::hub::settings::{ChannelOptions, Settings};

use crate::frames::{Seen, TEXT};
use crate::hub::settings;
use crate::rows::{Peer, Stage};

/// `ten` waits 10 ms at most, `fifty` 50 ms, the others not at all.
fn with_delays() -> Settings {
    let mut settings = settings();
    let open = settings.channel.options[usize::from(settings.channel.namespaces["quiet"])].clone();
    for (name, delay) in [("ten", 10), ("fifty", 50)] {
        let write_delay = Duration::from_millis(delay);
        let place = u16::try_from(settings.channel.options.len()).unwrap();
        settings.channel.namespaces.insert(name.to_owned(), place);
        settings.channel.options.push(ChannelOptions { name: name.into(), write_delay, ..open.clone() });
    }
    settings
}

/// As many subscribers of these channels, with nothing written to them yet.
fn stage_with(count: usize, channels: &[&str]) -> (Stage, Vec<Peer>) {
    let mut stage = Stage::new(with_delays());
    let peers: Vec<Peer> = (0..count).map(|_| stage.live()).collect();
    for peer in &peers {
        for channel in channels {
            stage.say(*peer, &format!(r#"{{"id":2,"subscribe":{{"channel":"{channel}"}}}}"#));
        }
        stage.texts(*peer);
        stage.pipe(*peer).writes = 0;
    }
    (stage, peers)
}

fn publish(stage: &mut Stage, channel: &str, bytes: usize) {
    let data = format!("\"{}\"", "x".repeat(bytes));
    let publish = ApiPublish { channel: channel.into(), data: data.into(), ..ApiPublish::default() };
    stage.world.ask(0, ApiCommand::Publish(Box::new(publish)));
}

/// A turn at this millisecond of the tick.
fn turn_at(stage: &mut Stage, ms: u64) {
    stage.world.fine_ms = ms;
    stage.world.turn();
}

/// Messages that arrived at a peer since, and in how many writes.
fn arrived(stage: &mut Stage, peer: Peer) -> (usize, usize) {
    let writes = std::mem::take(&mut stage.pipe(peer).writes);
    (stage.texts(peer).0.len(), writes)
}

/// One subscriber, a few, and as many as a sweep takes.
#[test]
fn a_burst_leaves_in_one_write_when_its_time_has_come() {
    for subscribers in [1, 5, 20] {
        let (mut stage, peers) = stage_with(subscribers, &["ten:a"]);
        for ms in [1, 3, 3, 7, 9] {
            stage.world.fine_ms = ms;
            publish(&mut stage, "ten:a", 50);
        }
        for peer in &peers {
            assert_eq!(arrived(&mut stage, *peer), (0, 0), "{subscribers} subscribers, before");
        }
        turn_at(&mut stage, 10);
        for peer in &peers {
            assert_eq!(arrived(&mut stage, *peer), (5, 1), "{subscribers} subscribers, after");
        }
        stage.world.fine_ms = 11;
        publish(&mut stage, "ten:a", 50);
        turn_at(&mut stage, 19);
        assert_eq!(arrived(&mut stage, peers[0]).0, 0, "the next one waits anew");
        turn_at(&mut stage, 20);
        assert_eq!(arrived(&mut stage, peers[0]), (1, 1));
    }
}

/// A subscriber of several channels with many subscribers gets the bursts of all of them in one write.
#[test]
fn channels_that_are_released_together_share_the_write() {
    let channels = ["ten:a", "ten:b", "ten:c", "ten:d"];
    let (mut stage, peers) = stage_with(12, &channels);
    for channel in channels.iter().cycle().take(12) {
        publish(&mut stage, channel, 50);
    }
    turn_at(&mut stage, 10);
    for peer in peers {
        assert_eq!(arrived(&mut stage, peer), (12, 1));
    }
}

/// The shorter delay counts, and what does not wait takes along what does.
#[test]
fn who_may_wait_longer_leaves_with_who_may_not() {
    let (mut stage, peers) = stage_with(1, &["fifty:a", "ten:a", "quiet:a"]);
    publish(&mut stage, "fifty:a", 50);
    turn_at(&mut stage, 20);
    assert_eq!(arrived(&mut stage, peers[0]), (0, 0));
    publish(&mut stage, "ten:a", 50);
    turn_at(&mut stage, 30);
    assert_eq!(arrived(&mut stage, peers[0]), (2, 1));

    publish(&mut stage, "ten:a", 50);
    publish(&mut stage, "quiet:a", 50);
    assert_eq!(arrived(&mut stage, peers[0]), (2, 1), "a channel without a delay");
    publish(&mut stage, "ten:a", 50);
    stage.say(peers[0], r#"{"id":9,"presence_stats":{"channel":"quiet:a"}}"#);
    let seen = stage.seen(peers[0]);
    assert!(matches!(&seen[..], [Seen::Data(TEXT, both)] if both.contains(&b'\n')), "a reply: {seen:?}");
    turn_at(&mut stage, 40);
    assert_eq!(stage.seen(peers[0]), []);
}

/// Beyond 16 KiB there is nothing to gain by waiting.
#[test]
fn much_output_does_not_wait() {
    for subscribers in [1, 20] {
        let (mut stage, peers) = stage_with(subscribers, &["fifty:a"]);
        for _ in 0..5 {
            publish(&mut stage, "fifty:a", 3000);
        }
        assert_eq!(arrived(&mut stage, peers[0]).0, 0);
        publish(&mut stage, "fifty:a", 3000);
        for peer in &peers {
            assert_eq!(arrived(&mut stage, *peer), (6, 1), "{subscribers} subscribers");
        }
    }
}

/// Who leaves, subscribes or is stuck meanwhile changes nothing for the others, and nothing stays behind.
#[test]
fn what_happens_meanwhile() {
    for subscribers in [3, 20] {
        let (mut stage, peers) = stage_with(subscribers, &["fifty:a"]);
        publish(&mut stage, "fifty:a", 50);
        stage.pipe(peers[0]).finish();
        stage.say(peers[1], r#"{"id":3,"unsubscribe":{"channel":"fifty:a"}}"#);
        let late = stage.live();
        stage.say(late, r#"{"id":2,"subscribe":{"channel":"fifty:a"}}"#);
        stage.texts(late);
        turn_at(&mut stage, 50);
        assert_eq!(arrived(&mut stage, peers[2]).0, 1);
        assert_eq!(arrived(&mut stage, late).0, 0, "it subscribed after the publication");
        for peer in peers[1..].iter().chain([&late]) {
            stage.pipe(*peer).finish();
        }
        stage.world.fine_ms = 0;
        stage.world.pass(20);
        assert!(stage.is_clean(), "{:?}", stage.world.shards[0].leftovers());
    }
}

/// More connections than a turn writes to: those that waited longest leave first, and who has something new waits behind
/// those who have not had their turn.
#[test]
fn delayed_output_leaves_in_the_order_in_which_it_came() {
    const PEERS: usize = 300;
    const PER_TURN: usize = 256;
    let mut stage = Stage::new(with_delays());
    let peers: Vec<Peer> = (0..PEERS).map(|_| stage.live()).collect();
    for (at, peer) in peers.iter().enumerate() {
        stage.say(*peer, &format!(r#"{{"id":2,"subscribe":{{"channel":"ten:{at}"}}}}"#));
        stage.texts(*peer);
    }
    stage.world.fine_ms = 1;
    for at in 0..PEERS {
        publish(&mut stage, &format!("ten:{at}"), 50);
    }
    turn_at(&mut stage, 10);
    let had: Vec<usize> = (0..PEERS).filter(|at| arrived(&mut stage, peers[*at]).0 > 0).collect();
    assert_eq!(had, (0..PER_TURN).collect::<Vec<_>>());
    // New output for the first ones; the others are due and leave in the turns that it takes to publish that.
    stage.world.fine_ms = 11;
    for at in 0..20 {
        publish(&mut stage, &format!("ten:{at}"), 50);
    }
    let had: Vec<usize> = (0..PEERS).filter(|at| arrived(&mut stage, peers[*at]).0 > 0).collect();
    assert_eq!(had, (PER_TURN..PEERS).collect::<Vec<_>>());
    turn_at(&mut stage, 20);
    let had: Vec<usize> = (0..PEERS).filter(|at| arrived(&mut stage, peers[*at]).0 > 0).collect();
    assert_eq!(had, (0..20).collect::<Vec<_>>());
}
