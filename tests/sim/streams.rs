//! Histories that a home keeps in memory, through the doors of a shard: recovery, bounds, and epochs that stay.

use millpond::base::rng::Rng;
use millpond::hub::api::{ApiAnswer, ApiCommand, ApiPublish, ApiSubscribe, Position, Target};
use millpond::hub::metrics::MemoryCategory;
use serde_json::Value;

use crate::hub::{settings, token};
use crate::rows::{Peer, Stage};

fn publish(stage: &mut Stage, channel: &str, data: &str) {
    let data = data.to_owned().into();
    let publish = ApiPublish { channel: channel.into(), data, ..ApiPublish::default() };
    stage.world.ask(0, ApiCommand::Publish(Box::new(publish)));
}

fn ask(stage: &mut Stage, peer: Peer, command: &str) -> Value {
    stage.say(peer, command);
    stage.world.settle();
    let (texts, close) = stage.texts(peer);
    assert_eq!((texts.len(), close), (1, None), "{texts:?}");
    serde_json::from_str(&texts[0]).unwrap()
}

fn heard(stage: &mut Stage, peer: Peer) -> Vec<Value> {
    let (texts, close) = stage.texts(peer);
    assert_eq!(close, None);
    texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect()
}

fn offsets(messages: &[Value]) -> Vec<u64> {
    messages.iter().filter_map(|message| message["push"]["pub"]["offset"].as_u64()).collect()
}

/// The push that tells of a subscription made by the server API has no place for publications: they follow it.
#[test]
fn a_subscription_by_the_server_api_is_given_what_it_recovers() {
    for (channel, from, expected) in
        [("hist:a", 1, vec![2, 3]), ("cache:a", 1, vec![3]), ("hist:a", 3, vec![])]
    {
        let mut stage = Stage::new(settings());
        let peer = stage.live();
        for number in 1..=3 {
            publish(&mut stage, channel, &number.to_string());
        }
        let recover_since = Some(Position { offset: from, epoch: String::new() });
        let target = Target::default();
        let call = ApiSubscribe { channel: channel.into(), target, recover_since, ..ApiSubscribe::default() };
        stage.world.ask(0, ApiCommand::Subscribe(Box::new(call)));
        publish(&mut stage, channel, "4");
        let messages = heard(&mut stage, peer);
        let first = expected.first().copied().unwrap_or(4);
        assert_eq!(messages[0]["push"]["subscribe"]["offset"], first - 1, "{messages:?}");
        assert_eq!(offsets(&messages), [expected, vec![4]].concat(), "{channel} since {from}");
    }
}

/// Recovery and pages of history must fit into the queue of a slow reader, who would otherwise be disconnected (3008)
/// and ask for the same again.
#[test]
fn what_is_recovered_or_read_fits_into_half_a_queue() {
    let mut settings = settings();
    settings.client.recovery_max_publication_limit = 0;
    let half = settings.client.queue_max_size / 2;
    let mut stage = Stage::new(settings);
    let peer = stage.live();
    stage.pipe(peer).room = usize::MAX;
    let data = format!("\"{}\"", "x".repeat(9_998));
    let epoch = |stage: &mut Stage| {
        let reply = ask(stage, peer, r#"{"id":2,"history":{"channel":"hist:a","limit":0}}"#);
        reply["history"]["epoch"].as_str().unwrap().to_owned()
    };
    for _ in 0..20 {
        publish(&mut stage, "hist:a", &data);
    }
    let epoch = epoch(&mut stage);
    for (since, fits) in [(10, true), (6, true), (5, false), (0, false)] {
        let command = format!(
            r#"{{"id":3,"subscribe":{{"channel":"hist:a","recover":true,"offset":{since},"epoch":"{epoch}"}}}}"#
        );
        let reply = ask(&mut stage, peer, &command);
        let granted = &reply["subscribe"];
        assert_eq!(granted["was_recovering"], true);
        assert_eq!(granted["recovered"].as_bool().unwrap_or(false), fits, "since {since}");
        let count = granted["publications"].as_array().map_or(0, Vec::len);
        assert_eq!(count, if fits { 20 - since } else { 0 });
        assert_eq!(granted["offset"], if fits { since } else { 20 });
        ask(&mut stage, peer, r#"{"id":4,"unsubscribe":{"channel":"hist:a"}}"#);
    }
    for reverse in [false, true] {
        let command =
            format!(r#"{{"id":5,"history":{{"channel":"hist:a","limit":-1,"reverse":{reverse}}}}}"#);
        let reply = ask(&mut stage, peer, &command);
        let page = reply["history"]["publications"].as_array().unwrap();
        assert_eq!(page.len(), half / 10_064, "a page ends where the next one does not fit");
        assert_eq!(page[0]["offset"], if reverse { 20 } else { 1 });
        assert_eq!(reply["history"]["offset"], 20);
    }
    let long = format!("\"{}\"", "x".repeat(2 * half));
    publish(&mut stage, "hist:b", &long);
    let reply = ask(&mut stage, peer, r#"{"id":6,"history":{"channel":"hist:b","limit":-1}}"#);
    assert_eq!(reply["history"]["publications"].as_array().map(Vec::len), Some(1), "a page has at least one");
    let all = ApiCommand::History { channel: "hist:a".into(), limit: -1, since: None, reverse: false };
    let ApiAnswer::History { publications, .. } = stage.world.ask(0, all) else { panic!("a history") };
    assert_eq!(publications.len(), 20, "the server API has no queue");
}

/// The bound is that of a reply: what a connect command recovers in several channels counts together.
#[test]
fn what_a_connect_command_recovers_fits_into_half_a_queue() {
    let mut stage = Stage::new(settings());
    let data = format!("\"{}\"", "x".repeat(9_998));
    for channel in ["hist:a", "hist:b", "hist:c"] {
        for _ in 0..7 {
            publish(&mut stage, channel, &data);
        }
    }
    let peer = stage.upgraded();
    let sub = r#"{"recover":true,"offset":0}"#;
    let command =
        format!(r#"{{"id":1,"connect":{{"subs":{{"hist:a":{sub},"hist:b":{sub},"hist:c":{sub}}}}}}}"#);
    let reply = ask(&mut stage, peer, &command);
    let subs = reply["connect"]["subs"].as_object().unwrap();
    let recovered = |of: &&Value| of["recovered"] == true;
    assert_eq!(
        (subs.len(), subs.values().filter(recovered).count()),
        (3, 2),
        "150,000 bytes take two of 70,000"
    );
    for sub in subs.values() {
        let count = sub["publications"].as_array().map_or(0, Vec::len);
        let offset = sub["offset"].as_u64().unwrap_or(0);
        assert_eq!((count, offset), if recovered(&sub) { (7, 0) } else { (0, 7) });
    }
    publish(&mut stage, "hist:a", "1");
    assert_eq!(offsets(&heard(&mut stage, peer)), [8]);
}

/// Subscribers know the epoch of a stream, so it does not begin anew under them, whoever touches it.
#[test]
fn a_stream_with_subscribers_outlives_the_removal_of_its_history() {
    let mut stage = Stage::new(settings());
    let peer = stage.live();
    ask(&mut stage, peer, r#"{"id":2,"subscribe":{"channel":"short:a"}}"#);
    publish(&mut stage, "short:a", "1");
    stage.world.pass(100);
    stage.world.ask(0, ApiCommand::HistoryRemove { channel: "short:a".into() });
    publish(&mut stage, "short:a", "2");
    assert_eq!(offsets(&heard(&mut stage, peer)), [1, 2]);
}

/// Channels of one bucket of epochs: personal ones, of which a home keeps an entry only, and others.
fn neighbours(stage: &Stage) -> Vec<(String, String)> {
    let bucket = |name: &str| (stage.world.hasher.of(name.as_bytes()) >> 20) & 4095;
    let personal = (0..).map(|n| (format!("u{n}"), format!("short:#u{n}")));
    let common = (0..).map(|n| ("ann".to_owned(), format!("short:{n}")));
    let mine = |(_, channel): &(String, String)| bucket(channel) == 7;
    personal.filter(mine).take(3).chain(common.filter(mine).take(3)).collect()
}

/// One connection for each of them, of the user who may subscribe.
fn subscribers_of(stage: &mut Stage, channels: &[(String, String)]) -> Vec<Peer> {
    let connect = |(user, _): &(String, String)| {
        let peer = stage.upgraded();
        let token = token(&format!(r#"{{"sub":"{user}"}}"#));
        ask(stage, peer, &format!(r#"{{"id":1,"connect":{{"token":"{token}"}}}}"#));
        peer
    };
    channels.iter().map(connect).collect()
}

/// One channel as its subscriber, who comes and goes, knows it.
#[derive(Default)]
struct Known {
    subscribed: bool,
    epoch: String,
    offset: u64,
    /// Epochs under which something was published.
    used: Vec<String>,
}

/// The epoch that subscribers were told stays while they are there, also that of a channel that nobody published into
/// yet and whatever else is forgotten meanwhile; and no two incarnations of a stream share one.
#[test]
fn an_epoch_stays_as_long_as_there_are_subscribers() {
    let mut forgotten = 0;
    for seed in 0..40 {
        let mut stage = Stage::new(settings());
        let mut rng = Rng::new(seed);
        let channels = neighbours(&stage);
        let mut known: Vec<Known> = channels.iter().map(|_| Known::default()).collect();
        let peers = subscribers_of(&mut stage, &channels);
        for id in 2..150 {
            let at = rng.below(6) as usize;
            let (peer, channel, of) = (peers[at], &channels[at].1, &mut known[at]);
            match rng.below(5) {
                0 if of.subscribed => {
                    ask(
                        &mut stage,
                        peer,
                        &format!(r#"{{"id":{id},"unsubscribe":{{"channel":"{channel}"}}}}"#),
                    );
                    of.subscribed = false;
                }
                0 => {
                    let command = format!(r#"{{"id":{id},"subscribe":{{"channel":"{channel}"}}}}"#);
                    let granted = &ask(&mut stage, peer, &command)["subscribe"];
                    let epoch = granted["epoch"].as_str().unwrap().to_owned();
                    let offset = granted["offset"].as_u64().unwrap_or(0);
                    assert!(
                        offset > 0 || !of.used.contains(&epoch),
                        "{channel}: an epoch for the second time"
                    );
                    forgotten += usize::from(offset == 0 && !of.used.is_empty());
                    (of.subscribed, of.epoch, of.offset) = (true, epoch, offset);
                }
                1 => {
                    publish(&mut stage, channel, &id.to_string());
                    let messages = heard(&mut stage, peer);
                    if of.subscribed {
                        let publication = &messages[0]["push"]["pub"];
                        assert_eq!(publication["offset"], of.offset + 1, "{channel}: the stream began anew");
                        let epoch = publication["epoch"].as_str().unwrap_or(&of.epoch);
                        assert_eq!(epoch, of.epoch, "{channel}: another epoch than was told");
                        of.offset += 1;
                        of.used.push(of.epoch.clone());
                    } else {
                        let command =
                            format!(r#"{{"id":{id},"history":{{"channel":"{channel}","limit":0}}}}"#);
                        let page = &ask(&mut stage, peer, &command)["history"];
                        of.used.push(page["epoch"].as_str().unwrap().to_owned());
                    }
                }
                2 => {
                    let command = format!(r#"{{"id":{id},"history":{{"channel":"{channel}","limit":0}}}}"#);
                    let page = &ask(&mut stage, peer, &command)["history"];
                    if of.subscribed {
                        let offset = page["offset"].as_u64().unwrap_or(0);
                        assert_eq!((page["epoch"].as_str(), offset), (Some(&*of.epoch), of.offset));
                    }
                }
                _ => {
                    for _ in 0..rng.below(4) {
                        stage.world.pass(50);
                        peers.iter().for_each(|peer| assert!(heard(&mut stage, *peer).is_empty()));
                    }
                }
            }
        }
    }
    assert!(forgotten > 50, "only {forgotten} streams were forgotten");
}

/// What has expired is given back within a minute or two, however few turns an idle shard has.
#[test]
fn expired_histories_are_given_back_on_an_idle_shard() {
    let mut stage = Stage::new(settings());
    for number in 0..6000 {
        let channel = format!("short:{number}");
        let publish = ApiPublish { channel, data: "1".into(), ..ApiPublish::default() };
        stage.world.call(0, ApiCommand::Publish(Box::new(publish)));
    }
    stage.world.settle();
    // Asking for figures begins a survey of the records; the next answer has what it found.
    let history = |stage: &mut Stage| {
        let look = |stage: &mut Stage| {
            stage.world.shards[0].figures(0, 0, 0).memory[MemoryCategory::History as usize]
        };
        look(stage);
        (0..12).for_each(|_| stage.world.turn());
        look(stage)
    };
    let full = history(&mut stage);
    assert!(full > 6000 * 64, "{full} bytes");
    stage.world.pass(100 + 700);
    let left = history(&mut stage);
    assert!(left * 20 < full, "{left} of {full} bytes after 80 turns");
}
