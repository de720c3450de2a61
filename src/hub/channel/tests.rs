//! The sweep against a model: every subscriber has a list of the frames it is still to get.

use proptest::prelude::*;

use super::*;
use crate::hub::mail::Terms;

#[derive(Clone, Debug)]
enum Act {
    /// A publication with a frame of so many bytes; its encodings by two bits.
    Push(u8, u8),
    /// A join or a leave.
    PushJoinLeave(u8),
    /// A frame that went out without a sweep; only where none is under way.
    Skip,
    Add,
    Remove(prop::sample::Index),
    Compact,
    Steps(u8),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (1..200_u8, 0..16_u8).prop_map(|(length, encodings)| Act::Push(length, encodings)),
        1 => (1..50_u8).prop_map(Act::PushJoinLeave),
        1 => Just(Act::Skip),
        4 => Just(Act::Add),
        3 => any::<prop::sample::Index>().prop_map(Act::Remove),
        1 => Just(Act::Compact),
        6 => (1..12_u8).prop_map(Act::Steps),
    ];
    prop::collection::vec(act, 1..200)
}

/// One subscriber as the model sees it.
struct Expecting {
    slot: u32,
    place: u32,
    frames: Vec<Arc<Delivery>>,
}

fn encoding_of(slot: u32) -> Encoding {
    if slot.is_multiple_of(2) { Encoding::Json } else { Encoding::Protobuf }
}

fn wants_join_leave(slot: u32) -> bool {
    slot.is_multiple_of(3)
}

struct Model {
    channel: Channel,
    expecting: Vec<Expecting>,
    next_slot: u32,
    pushed: u8,
}

impl Model {
    fn new(first_number: u32) -> Self {
        let mut channel = Channel::new("c", 0, 0, UnderWay::default());
        channel.next_number = first_number;
        Self { channel, expecting: Vec::new(), next_slot: 0, pushed: 0 }
    }

    fn push(&mut self, length: u8, json: bool, protobuf: bool, join_leave: bool) {
        self.pushed = self.pushed.wrapping_add(1);
        let frame = |on: bool, mark: u8| on.then(|| Bytes::from(vec![mark ^ self.pushed; length.into()]));
        let delivery = Arc::new(Delivery {
            channel: "c".into(),
            hash: 0,
            json: frame(json, 0),
            protobuf: frame(protobuf, 0x80),
            kind: if join_leave { SentKind::PushJoin } else { SentKind::PushPublication },
            join_leave,
            not_json: !json,
            mailbox: None,
            terms: Terms::default(),
        });
        for expecting in &mut self.expecting {
            expecting.frames.push(Arc::clone(&delivery));
        }
        self.channel.push(delivery);
    }

    fn add(&mut self) {
        let slot = self.next_slot;
        self.next_slot += 1;
        let place = self.channel.add(slot);
        self.expecting.push(Expecting { slot, place, frames: Vec::new() });
    }

    fn compact(&mut self) {
        let Self { channel, expecting, .. } = self;
        channel.compact(|slot, place| {
            let moved = expecting.iter_mut().find(|expecting| expecting.slot == slot);
            moved.unwrap().place = place;
        });
        assert_eq!(channel.subscribers.len(), expecting.len(), "no gaps are left");
        for expecting in expecting {
            assert_eq!(channel.subscribers[expecting.place as usize].slot, expecting.slot);
        }
    }

    /// One step. False when nothing is under way: then everybody has all.
    fn step(&mut self) -> bool {
        let Some(subscriber) = self.channel.step() else {
            let behind = self.expecting.iter().find(|expecting| !expecting.frames.is_empty());
            assert!(behind.is_none(), "subscriber {} was left behind", behind.unwrap().slot);
            assert_eq!((self.channel.backlog(), self.channel.is_sweeping()), (0, false));
            return false;
        };
        if subscriber.slot == NONE {
            return true;
        }
        let found = self.expecting.iter_mut().find(|expecting| expecting.slot == subscriber.slot).unwrap();
        let frames = std::mem::take(&mut found.frames);
        self.check(subscriber, &frames);
        true
    }

    fn check(&self, subscriber: Subscriber, frames: &[Arc<Delivery>]) {
        let (encoding, join_leave) = (encoding_of(subscriber.slot), wants_join_leave(subscriber.slot));
        let Some(portion) = self.channel.portion(subscriber, encoding, join_leave) else {
            assert!(frames.is_empty(), "{} frames are missing", frames.len());
            return;
        };
        let wanted: Vec<&Bytes> = frames
            .iter()
            .filter(|delivery| join_leave || !delivery.join_leave)
            .filter_map(|delivery| frame(delivery, encoding))
            .collect();
        assert_eq!(portion.frames().map(|(_, frame)| frame).collect::<Vec<_>>(), wanted);
        if !portion.run.is_empty() {
            assert_eq!(portion.run, wanted.iter().flat_map(|frame| &frame[..]).copied().collect::<Vec<_>>());
        }
        let mut counted = [0_usize; 2];
        portion.count(|kind, count| counted[usize::from(kind == SentKind::PushJoin)] += count as usize);
        let joins =
            wanted.len() - frames.iter().filter(|of| !of.join_leave && frame(of, encoding).is_some()).count();
        if frames.iter().all(|of| frame(of, encoding).is_some()) {
            assert_eq!(counted, [wanted.len() - joins, joins]);
        }
        let unfit = encoding == Encoding::Json && frames.iter().any(|delivery| delivery.not_json);
        assert_eq!(portion.unfit(), unfit);
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Push(length, encodings) => {
                self.push(length, encodings != 1, encodings != 2, false);
            }
            Act::PushJoinLeave(length) => self.push(length, true, true, true),
            Act::Skip if self.channel.is_sweeping() => {}
            Act::Skip => self.channel.skip(),
            Act::Add => self.add(),
            Act::Remove(_) if self.expecting.is_empty() => {}
            Act::Remove(ref which) => {
                let gone = self.expecting.swap_remove(which.index(self.expecting.len()));
                if let Some(moved) = self.channel.remove(gone.place) {
                    let mut others = self.expecting.iter_mut();
                    others.find(|expecting| expecting.slot == moved).unwrap().place = gone.place;
                }
                assert_eq!(self.channel.active(), self.expecting.len());
            }
            Act::Compact => self.compact(),
            Act::Steps(count) => (0..count).for_each(|_| {
                self.step();
            }),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_subscriber_gets_every_frame_once_and_in_order(
        acts in acts(),
        first_number in prop_oneof![Just(0), Just(AGE_ROUND - 20), Just(u32::MAX - 20)],
    ) {
        let mut model = Model::new(first_number);
        for act in acts {
            model.act(&act);
            prop_assert_eq!(model.channel.under_way.bytes(), model.channel.backlog());
        }
        let most = 3 * (model.channel.subscribers.len() + 1);
        let steps = (0..=most).take_while(|_| model.step()).count();
        prop_assert!(steps <= most, "the sweep does not end");
        model.push(7, true, true, false);
        let under_way = model.channel.under_way.clone();
        prop_assert_eq!(under_way.bytes(), 14);
        drop(model);
        prop_assert_eq!(under_way.bytes(), 0, "what a channel had under way goes with it");
    }
}

/// A subscriber that joined before the numbers went round does not seem to join in the future.
#[test]
fn old_subscribers_get_frames_in_every_round_of_the_numbers() {
    let mut model = Model::new(0);
    model.add();
    for round in 1..16_u32 {
        model.channel.next_number = (AGE_ROUND / 2).wrapping_mul(round).wrapping_sub(2);
        for _ in 0..4 {
            model.push(1, true, true, false);
            while model.step() {}
        }
    }
}

/// While nothing is under way nobody has to be moved but the last, and no place stays empty.
#[test]
fn a_quiet_channel_has_no_gaps() {
    let mut model = Model::new(0);
    (0..1000).for_each(|_| model.add());
    for left in (0..1000).rev() {
        let at = left / 2;
        let gone = model.expecting.swap_remove(at);
        if let Some(moved) = model.channel.remove(gone.place) {
            model.expecting.iter_mut().find(|other| other.slot == moved).unwrap().place = gone.place;
        }
        assert_eq!((model.channel.subscribers.len(), model.channel.wants_compaction()), (left, false));
    }
    assert!(model.channel.subscribers.capacity() <= 64, "its memory goes with its subscribers");
}
