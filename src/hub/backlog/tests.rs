//! The backlog against a plain list that is searched from the front for everything.

use super::*;
use crate::base::rng::Rng;
use crate::hub::metrics::SentKind;

/// A frame in the list. Channels 0 and 1 drop the oldest, 2 and 3 keep the newest, 4 and 5 are positioned.
struct Entry {
    bytes: Vec<u8>,
    channel: Option<u64>,
    hold: Hold,
}

#[derive(Default)]
struct List {
    entries: Vec<Entry>,
    begun: bool,
}

impl List {
    fn len(&self) -> usize {
        self.entries.iter().map(|entry| entry.bytes.len()).sum()
    }

    fn push(&mut self, bytes: Vec<u8>, channel: Option<u64>, hold: Hold) -> bool {
        let same = |entry: &&mut Entry| entry.hold == Hold::Newest && entry.channel == channel;
        if hold == Hold::Newest
            && let Some(entry) = self.entries.iter_mut().find(same)
        {
            entry.bytes = bytes;
            return true;
        }
        self.entries.push(Entry { bytes, channel, hold });
        false
    }

    fn advance(&mut self, mut count: usize) {
        while count > 0 {
            let first = &mut self.entries[0];
            self.begun = count < first.bytes.len();
            if self.begun {
                first.bytes.drain(..count);
                (first.hold, first.channel) = (Hold::Firm, None);
                return;
            }
            count -= first.bytes.len();
            self.entries.remove(0);
        }
    }

    /// How many went, and the channels that miss something.
    fn make_room(&mut self, limit: usize) -> (u64, Vec<u64>) {
        let (mut count, mut gaps) = (0, Vec::new());
        while self.len() > limit {
            let may_go = |entry: &Entry| matches!(entry.hold, Hold::Loose | Hold::Chained);
            let Some(at) = self.entries.iter().position(may_go) else { break };
            if self.entries[at].hold == Hold::Loose {
                self.entries.remove(at);
                count += 1;
                continue;
            }
            let channel = self.entries[at].channel;
            let before = self.entries.len();
            self.entries.retain(|entry| entry.hold != Hold::Chained || entry.channel != channel);
            count += (before - self.entries.len()) as u64;
            gaps.extend(channel);
        }
        (count, gaps)
    }

    fn end_line(&mut self, channel: u64) {
        for entry in self.entries.iter_mut().filter(|entry| entry.channel == Some(channel)) {
            entry.hold = match entry.hold {
                Hold::Newest => Hold::Firm,
                Hold::Chained => Hold::Loose,
                other => other,
            };
        }
    }
}

fn delivery(channel: u64) -> Arc<Delivery> {
    Arc::new(Delivery {
        channel: channel.to_string().into(),
        hash: channel,
        json: None,
        protobuf: None,
        kind: SentKind::PushPublication,
        join_leave: false,
        not_json: false,
        mailbox: None,
        terms: Terms::default(),
    })
}

fn hold_of(channel: u64) -> Hold {
    [Hold::Loose, Hold::Newest, Hold::Chained][channel as usize / 2]
}

fn run(seed: u64) {
    let mut rng = Rng::new(seed);
    let (mut backlog, mut list) = (Backlog::default(), List::default());
    let mut number = 0_u8;
    for step in 0..2000 {
        number = number.wrapping_add(1);
        let length = if rng.below(20) == 0 { rng.between(4000, 20_000) } else { rng.between(1, 300) };
        let bytes = vec![number; length as usize];
        match rng.below(12) {
            0 | 1 => {
                backlog.push(bytes.clone().into());
                list.push(bytes, None, Hold::Firm);
            }
            2..8 => {
                let channel = u64::from(rng.below(6));
                let hold = hold_of(channel);
                let conflated = backlog.push_publication(bytes.clone().into(), &delivery(channel), hold);
                assert_eq!(conflated, list.push(bytes, Some(channel), hold));
            }
            8 | 9 => advance(&mut backlog, &mut list, &mut rng),
            10 => {
                let limit = rng.below(20_000) as usize;
                let left_out = backlog.make_room(limit);
                let gaps: Vec<u64> = left_out.gaps.iter().map(|source| source.hash).collect();
                assert_eq!((left_out.count, gaps.clone()), list.make_room(limit));
                // The hub ends these subscriptions; nothing of them is left.
                gaps.iter().for_each(|gap| backlog.end_line(*gap));
            }
            _ => {
                let channel = u64::from(rng.below(6));
                backlog.end_line(channel);
                list.end_line(channel);
            }
        }
        assert_eq!(backlog.len(), list.len(), "step {step}");
        assert_eq!(backlog.is_empty(), list.entries.is_empty());
    }
    let rest = list.entries.first().filter(|_| list.begun).map(|first| Bytes::from(first.bytes.clone()));
    assert_eq!(backlog.into_begun(), rest);
}

/// A write takes a part of what is offered.
fn advance(backlog: &mut Backlog, list: &mut List, rng: &mut Rng) {
    let mut scratch = Vec::new();
    let front = backlog.front(&mut scratch);
    let first = list.entries.first().map_or(0, |first| first.bytes.len());
    assert!(front.len() >= first && front.len() <= first.max(limits::GATHER_BYTES));
    let all: Vec<u8> = list.entries.iter().flat_map(|entry| entry.bytes.iter().copied()).collect();
    assert!(all.starts_with(front));
    let second = list.entries.get(1).map_or(usize::MAX, |entry| first + entry.bytes.len());
    assert!(front.len() > first || second > limits::GATHER_BYTES, "what fits leaves with it");
    let count = if front.is_empty() { 0 } else { rng.below(front.len() as u32 + 1) as usize };
    backlog.advance(count);
    list.advance(count);
}

#[test]
fn it_agrees_with_a_plain_list() {
    (0..60).for_each(run);
}

#[test]
fn what_is_left_out_leaves_no_memory_behind() {
    let mut backlog = Backlog::default();
    backlog.push(vec![0; 50].into());
    for number in 0..100_000_u32 {
        let channel = u64::from(number % 6);
        backlog.push_publication(vec![1; 100].into(), &delivery(channel), hold_of(channel));
        backlog.make_room(2000);
    }
    assert!(backlog.memory_bytes() < 12_000, "{} bytes", backlog.memory_bytes());
}

#[test]
fn policies_mean_what_the_table_says() {
    let terms = |slow_consumer, newest_only| Terms { slow_consumer, newest_only, write_delay_ms: 0 };
    let table = [
        (SlowConsumer::Disconnect, false, false, Hold::Firm),
        (SlowConsumer::Disconnect, true, true, Hold::Firm),
        (SlowConsumer::DropOldest, false, false, Hold::Loose),
        (SlowConsumer::DropOldest, false, true, Hold::Chained),
        (SlowConsumer::DropOldest, true, true, Hold::Chained),
        (SlowConsumer::KeepLatest, false, false, Hold::Newest),
        (SlowConsumer::KeepLatest, false, true, Hold::Chained),
        (SlowConsumer::KeepLatest, true, true, Hold::Newest),
    ];
    for (policy, newest_only, positioned, hold) in table {
        assert_eq!(Hold::of(terms(policy, newest_only), positioned), hold, "{policy:?} {positioned}");
    }
}
