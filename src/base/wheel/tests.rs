//! Tests of the wheel.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

struct Records(Vec<Link>);

impl Links for Records {
    fn link(&mut self, slot: u32) -> &mut Link {
        &mut self.0[slot as usize]
    }
}

fn records(count: usize) -> Records {
    Records(vec![Link::default(); count])
}

/// All slots that expire at `now`, sorted.
fn expired(wheel: &mut Wheel, records: &mut Records, now: u32) -> Vec<u32> {
    let mut slots = Vec::new();
    let expiry = wheel.expire(Tick(now), usize::MAX, records, |slot| slots.push(slot));
    assert_eq!(expiry, Expiry { expired: slots.len(), more: false });
    slots.sort_unstable();
    slots
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Arm { slot: u32, after: u32 },
    Disarm(u32),
    Advance { by: u32, budget: usize },
}

fn distance() -> impl Strategy<Value = u32> {
    prop_oneof![
        8 => 0..700_u32,
        4 => 0..40_000_u32,
        2 => 0..3_000_000_u32,
        1 => 0..400_000_000_u32,
        1 => prop::sample::select(vec![511, 512, 513, 32_767, 32_768, 2_097_151, 2_097_152, REACH - 1, REACH]),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let budget = prop_oneof![1..5_usize, Just(usize::MAX)];
    let step = prop_oneof![
        6 => (0..40_u32, distance()).prop_map(|(slot, after)| Step::Arm { slot, after }),
        1 => (0..40_u32).prop_map(Step::Disarm),
        4 => (distance(), budget).prop_map(|(by, budget)| Step::Advance { by, budget }),
    ];
    prop::collection::vec(step, 0..200)
}

/// Slot to the tick where it is due, and the same by tick.
#[derive(Default)]
struct Model {
    due: BTreeMap<u32, u32>,
    by_tick: BTreeSet<(u32, u32)>,
}

impl Model {
    fn disarm(&mut self, slot: u32) -> Option<u32> {
        let due = self.due.remove(&slot)?;
        self.by_tick.remove(&(due, slot));
        Some(due)
    }

    fn arm(&mut self, slot: u32, due: u32) {
        self.disarm(slot);
        self.due.insert(slot, due);
        self.by_tick.insert((due, slot));
    }
}

fn agrees_with_a_tree(steps: Vec<Step>, start: u32) -> Result<(), TestCaseError> {
    let mut now = start;
    let (mut wheel, mut records, mut model) = (Wheel::new(Tick(now)), records(40), Model::default());
    for step in steps {
        match step {
            Step::Arm { slot, after } => {
                let deadline = now.saturating_add(after);
                wheel.arm(&mut records, slot, Tick(deadline));
                prop_assert_eq!(records.0[slot as usize].deadline(), Tick(deadline));
                model.arm(slot, deadline.max(wheel.current + 1));
            }
            Step::Disarm(slot) => {
                wheel.disarm(&mut records, slot);
                model.disarm(slot);
            }
            Step::Advance { by, budget } => {
                now = now.saturating_add(by).min(u32::MAX - 1);
                let mut slots = Vec::new();
                let expiry = wheel.expire(Tick(now), budget, &mut records, |slot| slots.push(slot));
                prop_assert_eq!(expiry.expired, slots.len());
                prop_assert!(slots.len() <= budget);
                for slot in slots {
                    let first = model.by_tick.first().map(|(due, _)| *due);
                    prop_assert_eq!(model.disarm(slot), first, "in the order of their ticks");
                    prop_assert!(first.is_some_and(|due| due <= now), "not before its time");
                }
                let late = model.by_tick.first().is_some_and(|(due, _)| *due <= now);
                prop_assert!(expiry.more || !late, "more is due and the wheel does not say so");
                prop_assert!(budget < usize::MAX || !expiry.more);
            }
        }
        prop_assert_eq!(wheel.len(), model.due.len());
        let first = model.by_tick.first().map(|(due, _)| Tick(*due));
        let next = wheel.next_deadline();
        prop_assert_eq!(next.is_some(), first.is_some());
        prop_assert!(next <= first, "{:?} would sleep over {:?}", next, first);
        for (slot, link) in records.0.iter().enumerate() {
            prop_assert_eq!(link.is_armed(), model.due.contains_key(&(slot as u32)));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn agrees_with_a_tree_from_the_start(steps in steps()) {
        agrees_with_a_tree(steps, 0)?;
    }

    #[test]
    fn agrees_with_a_tree_from_anywhere(steps in steps(), start in 0..1_u32 << 30) {
        agrees_with_a_tree(steps, start)?;
    }
}

#[test]
fn every_distance_of_two_levels_expires_at_its_tick() {
    for start in [0, 1, 511, 512, 32_767, 40_000] {
        let (mut wheel, mut records) = (Wheel::new(Tick(start)), records(40_000));
        for slot in 1..40_000 {
            wheel.arm(&mut records, slot, Tick(start + slot));
        }
        for slot in 1..40_000 {
            assert_eq!(expired(&mut wheel, &mut records, start + slot), [slot]);
        }
        assert!(wheel.is_empty());
    }
}

#[test]
fn a_storm_is_spread_over_turns_and_skips_nobody() {
    const TIMERS: u32 = 100_000;
    let (mut wheel, mut records) = (Wheel::new(Tick(0)), records(TIMERS as usize));
    for slot in 0..TIMERS {
        wheel.arm(&mut records, slot, Tick(600));
    }
    let mut seen = vec![false; TIMERS as usize];
    let mut turns = 0;
    loop {
        let mut count = 0;
        let expiry = wheel.expire(Tick(700), 4_096, &mut records, |slot| {
            assert!(!std::mem::replace(&mut seen[slot as usize], true));
            count += 1;
        });
        assert!(count <= 4_096);
        turns += 1;
        if !expiry.more {
            break;
        }
    }
    assert!(seen.iter().all(|seen| *seen));
    assert_eq!(turns, (2 * TIMERS).div_ceil(4_096), "each is moved once and expires once");
}

#[test]
fn a_jump_of_a_year_costs_no_more_than_its_timers() {
    let (mut wheel, mut records) = (Wheel::new(Tick(0)), records(4));
    let year = 365 * 24 * 3_600 * 10;
    for (slot, deadline) in [(0, 5), (1, 3_000), (2, year), (3, 2 * year)] {
        wheel.arm(&mut records, slot, Tick(deadline));
    }
    let mut slots = Vec::new();
    // Three expiries and the moves of the far ones between levels: nothing that grows with the ticks passed.
    let expiry = wheel.expire(Tick(year), 32, &mut records, |slot| slots.push(slot));
    assert_eq!(slots, [0, 1, 2]);
    assert!(!expiry.more);
    assert_eq!(expired(&mut wheel, &mut records, 2 * year - 1), Vec::<u32>::new());
    assert_eq!(expired(&mut wheel, &mut records, 2 * year), [3]);
}

#[test]
fn a_deadline_that_has_passed_expires_in_the_next_tick() {
    let (mut wheel, mut records) = (Wheel::new(Tick(0)), records(1));
    assert_eq!(expired(&mut wheel, &mut records, 100), Vec::<u32>::new());
    wheel.arm(&mut records, 0, Tick(50));
    assert_eq!(wheel.next_deadline(), Some(Tick(101)));
    assert_eq!(expired(&mut wheel, &mut records, 100), Vec::<u32>::new());
    assert_eq!(expired(&mut wheel, &mut records, 101), [0]);
}

#[test]
fn a_handler_that_arms_for_now_does_not_starve_the_others() {
    let (mut wheel, mut records) = (Wheel::new(Tick(0)), records(3));
    for slot in 0..3 {
        wheel.arm(&mut records, slot, Tick(10));
    }
    let (mut work, mut slots) = (100, Vec::new());
    while let Some(slot) = wheel.pop(Tick(10), &mut work, &mut records) {
        wheel.arm(&mut records, slot, Tick(10));
        slots.push(slot);
    }
    slots.sort_unstable();
    assert_eq!(slots, [0, 1, 2]);
    assert_eq!(work, 97);
}
