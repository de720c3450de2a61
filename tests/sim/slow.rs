//! Policies for slow readers, against what they promise: a reader takes what it likes when it likes, and in the end has
//! every publication, every newest one, or those that were left.

use std::collections::BTreeMap;
use std::time::Duration;

use millpond::base::rng::Rng;
use millpond::hub::api::{ApiCommand, ApiPublish, ApiSubscribe, Target};
use millpond::hub::settings::{ChannelOptions, Settings, SlowConsumer};
use serde_json::Value;

use crate::frames::{self, Seen, TEXT};
use crate::hub::settings;
use crate::rows::{Peer, Stage};

/// Bytes that may wait, and what the kernel holds of them.
const QUEUE: usize = 20_000;
const KERNEL: usize = 3000;

/// | namespace | policy | positioned |
/// |---|---|---|
/// | `oldest` | `drop_oldest` | - |
/// | `newest` | `keep_latest` | - |
/// | `linked` | `drop_oldest` | with recovery of everything |
/// | `state` | `keep_latest` | with recovery of the newest |
fn with_policies() -> Settings {
    let mut settings = settings();
    settings.client.queue_max_size = QUEUE;
    settings.client.recovery_max_publication_limit = 10_000;
    let open = settings.channel.options[usize::from(settings.channel.namespaces["quiet"])].clone();
    let kept = ChannelOptions {
        history_size: 10_000,
        history_ttl: Duration::from_secs(3600),
        history_meta_ttl: Duration::from_secs(3600),
        force_positioning: true,
        force_recovery: true,
        ..open.clone()
    };
    let (oldest, newest) = (SlowConsumer::DropOldest, SlowConsumer::KeepLatest);
    let added = [
        ChannelOptions { name: "oldest".into(), slow_consumer: oldest, ..open.clone() },
        ChannelOptions { name: "newest".into(), slow_consumer: newest, ..open },
        ChannelOptions { name: "linked".into(), slow_consumer: oldest, ..kept.clone() },
        ChannelOptions { name: "state".into(), slow_consumer: newest, recovery_mode_cache: true, ..kept },
    ];
    for options in added {
        let place = u16::try_from(settings.channel.options.len()).unwrap();
        settings.channel.namespaces.insert(options.name.clone(), place);
        settings.channel.options.push(options);
    }
    settings
}

const CHANNELS: [&str; 5] = ["oldest:a", "newest:a", "newest:b", "linked:a", "state:a"];

/// What one reader has of each channel.
struct Reader {
    peer: Peer,
    inbox: Vec<u8>,
    seen: BTreeMap<String, Vec<u64>>,
    /// Last offset and epoch in `linked:a`.
    position: (u64, String),
    /// It was told 2500.
    gaps: usize,
    next_id: u32,
}

impl Reader {
    fn new(stage: &mut Stage) -> Self {
        let peer = stage.live();
        let (inbox, seen, position) = (Vec::new(), BTreeMap::new(), (0, String::new()));
        let mut reader = Self { peer, inbox, seen, position, gaps: 0, next_id: 1 };
        for channel in CHANNELS {
            reader.ask(stage, &format!(r#""subscribe":{{"channel":"{channel}"}}"#));
        }
        reader.read(stage, usize::MAX);
        reader
    }

    fn ask(&mut self, stage: &mut Stage, body: &str) {
        self.next_id += 1;
        stage.say(self.peer, &format!(r#"{{"id":{},{body}}}"#, self.next_id));
    }

    fn read(&mut self, stage: &mut Stage, most: usize) {
        let outbound = &mut stage.pipe(self.peer).outbound;
        let count = outbound.len().min(most);
        self.inbox.extend(outbound.drain(..count));
        while let Some(seen) = frames::next(&mut self.inbox, &mut false) {
            let Seen::Data(TEXT, text) = seen else { panic!("{seen:?}") };
            for line in String::from_utf8(text).unwrap().split('\n') {
                self.hear(stage, &serde_json::from_str(line).unwrap());
            }
        }
    }

    fn hear(&mut self, stage: &mut Stage, message: &Value) {
        let push = &message["push"];
        let channel = push["channel"].as_str().unwrap_or("linked:a").to_owned();
        if push["pub"].is_object() {
            return self.publication(&channel, &push["pub"]);
        }
        if push["unsubscribe"].is_object() {
            assert_eq!((&push["unsubscribe"]["code"], &*channel), (&2500.into(), "linked:a"));
            self.gaps += 1;
            let (offset, epoch) = self.position.clone();
            let subscribe = format!(
                r#""subscribe":{{"channel":"{channel}","recover":true,"offset":{offset},"epoch":"{epoch}"}}"#
            );
            return self.ask(stage, &subscribe);
        }
        let granted = &message["subscribe"];
        if granted["was_recovering"] == true {
            assert_eq!(granted["recovered"], true);
            for publication in granted["publications"].as_array().into_iter().flatten() {
                self.publication(&channel, publication);
            }
        } else if let (Some(epoch), 0) = (granted["epoch"].as_str(), self.position.1.len()) {
            self.position.1 = epoch.to_owned();
        }
    }

    fn publication(&mut self, channel: &str, publication: &Value) {
        let number = publication["data"]["n"].as_u64().unwrap();
        let seen = self.seen.entry(channel.to_owned()).or_default();
        assert!(seen.last().is_none_or(|last| *last < number), "{channel}: {number} behind {seen:?}");
        seen.push(number);
        if channel == "linked:a" {
            assert_eq!(publication["offset"], self.position.0 + 1, "a gap that nobody was told of");
            self.position.0 += 1;
        }
    }

    fn count(&self, channel: &str) -> usize {
        self.seen.get(channel).map_or(0, Vec::len)
    }
}

/// One slow reader, alone or among eleven that read at once.
fn run(seed: u64, others: usize) -> (usize, usize) {
    let mut stage = Stage::new(with_policies());
    let mut rng = Rng::new(seed);
    let mut slow = Reader::new(&mut stage);
    let mut fast: Vec<Reader> = (0..others).map(|_| Reader::new(&mut stage)).collect();
    stage.pipe(slow.peer).room = KERNEL;
    let mut published: BTreeMap<&str, u64> = BTreeMap::new();
    for _ in 0..1500 {
        for _ in 0..=rng.below(3) {
            let channel = CHANNELS[rng.below(5) as usize];
            let number = published.entry(channel).or_default();
            *number += 1;
            let pad = if channel == "linked:a" { 0 } else { rng.between(100, 2000) as usize };
            let data = format!(r#"{{"n":{number},"pad":"{}"}}"#, "x".repeat(pad));
            let publish = ApiPublish { channel: channel.into(), data: data.into(), ..ApiPublish::default() };
            stage.world.ask(0, ApiCommand::Publish(Box::new(publish)));
        }
        match rng.below(150) {
            0 => (0..200).for_each(|_| catch_up(&mut stage, &mut slow)),
            1..40 => {
                slow.read(&mut stage, rng.below(2500) as usize);
                stage.world.turn();
            }
            _ => {}
        }
        fast.iter_mut().for_each(|reader| reader.read(&mut stage, usize::MAX));
        let waiting = stage.world.shards[0].figures(0, 0, 0).out_queue_bytes;
        assert!(waiting < 4 * QUEUE as u64, "{waiting} bytes");
    }
    (0..500).for_each(|_| catch_up(&mut stage, &mut slow));
    let all = |channel: &str| (1..=published[channel]).collect::<Vec<u64>>();
    for (reader, channel) in fast.iter().flat_map(|reader| CHANNELS.map(|channel| (reader, channel))) {
        assert_eq!(reader.seen[channel], all(channel), "who reads misses nothing");
    }
    assert_eq!(slow.seen["linked:a"], all("linked:a"), "what is linked is whole in the end");
    for channel in CHANNELS {
        assert_eq!(slow.seen[channel].last(), Some(&published[channel]), "the newest of {channel}");
    }
    let missed = |channel| published[channel] - slow.count(channel) as u64;
    let figures = stage.world.shards[0].figures(0, 0, 0);
    let conflated: u64 = ["newest:a", "newest:b", "state:a"].into_iter().map(missed).sum();
    assert_eq!(figures.publications_conflated, conflated);
    assert!(figures.publications_dropped >= missed("oldest:a"));
    assert_eq!(figures.unsubscribes[1], slow.gaps as u64, "2500 is counted");
    assert_eq!(figures.disconnects.iter().sum::<u64>(), 0);
    (slow.gaps, missed("oldest:a") as usize)
}

fn catch_up(stage: &mut Stage, slow: &mut Reader) {
    slow.read(stage, usize::MAX);
    stage.world.turn();
}

#[test]
fn every_policy_keeps_its_promise() {
    let (mut gaps, mut dropped) = (0, 0);
    for seed in 0..12 {
        let ends = run(seed, if seed % 2 == 0 { 0 } else { 11 });
        (gaps, dropped) = (gaps + ends.0, dropped + ends.1);
    }
    assert!(gaps > 10 && dropped > 100, "{gaps} gaps, {dropped} dropped: the test is not slow enough");
}

/// Where the server made the subscription there is nobody to subscribe again: the client has to connect again.
#[test]
fn a_gap_in_a_server_side_subscription_disconnects() {
    let mut stage = Stage::new(with_policies());
    let peer = stage.live();
    let target = Target::default();
    let call = ApiSubscribe { channel: "linked:a".into(), target, ..ApiSubscribe::default() };
    stage.world.ask(0, ApiCommand::Subscribe(Box::new(call)));
    assert_eq!(stage.texts(peer).0.len(), 1);
    stage.pipe(peer).room = 0;
    for _ in 0..7 {
        let data = format!("\"{}\"", "x".repeat(10_000));
        let publish = ApiPublish { channel: "linked:a".into(), data: data.into(), ..ApiPublish::default() };
        stage.world.ask(0, ApiCommand::Publish(Box::new(publish)));
    }
    stage.pipe(peer).room = 100_000;
    stage.world.pass(1);
    assert_eq!(stage.texts(peer), (vec![], Some(3010)), "the queue went with the subscription");
}

/// Replies are never left out: where they alone are too much the reader goes, as without a policy.
#[test]
fn replies_are_not_left_out() {
    let mut stage = Stage::new(with_policies());
    let mut reader = Reader::new(&mut stage);
    stage.pipe(reader.peer).room = 0;
    let mut asked = 0;
    while stage.disconnects(3008) == 0 {
        let publish =
            ApiPublish { channel: "oldest:a".into(), data: vec![b'1'; 500].into(), ..ApiPublish::default() };
        stage.world.ask(0, ApiCommand::Publish(Box::new(publish)));
        reader.ask(&mut stage, r#""rpc":{"method":"nothing","data":{}}"#);
        asked += 1;
        assert!(asked < 2000, "endless");
    }
    assert!(asked > QUEUE / 150, "{asked} replies of about 60 bytes fill {QUEUE} bytes, publications do not");
}
