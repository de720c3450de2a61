//! The crash matrix (bad-input.md S01 to S12, S19): a workload runs once on a recording fake disk; then for every
//! operation of it the disk is rebuilt as a power cut would leave it, with the pending sectors kept, lost and torn in
//! many ways and with flipped bits, and the log is recovered from each image and compared with what was acknowledged.
//!
//! A violation prints the seed, the operation and the fate of the sectors. `CRASH_SEEDS=a..b` runs other seeds.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests stop at a surprise"
)]

mod crash {
    pub mod check;
    pub mod images;
    pub mod workload;
}

use crash::check::{Counts, check, check_flip};
use crash::images::{Random, for_each_image};
use crash::workload::{Run, run};

/// Seeds of one run of the test suite.
fn seeds() -> std::ops::Range<u64> {
    let Ok(range) = std::env::var("CRASH_SEEDS") else { return 0..20 };
    let (from, to) = range.split_once("..").expect("CRASH_SEEDS=from..to");
    from.parse().expect("a number")..to.parse().expect("a number")
}

#[test]
fn no_crash_loses_invents_or_reorders_anything() {
    let mut counts = Counts::default();
    for seed in seeds() {
        let run = run(seed);
        for_each_image(&run, seed, |image, point, label| {
            let context = format!("seed {seed}, operation {point} of {}, {label}", run.operations.len());
            check(&image, run.at(point), &context, &mut counts);
        });
    }
    println!("crash images: {counts:?}");
    assert!(counts.images >= 100_000, "only {} images", counts.images);
    assert!(counts.tails > 0 && counts.records > counts.images);
}

#[test]
fn a_flipped_bit_anywhere_is_damage_or_tail_and_never_a_wrong_byte() {
    let mut counts = Counts::default();
    for seed in seeds() {
        let run = run(seed);
        let mut random = Random::new(seed);
        for point in (0..=run.operations.len()).step_by(3) {
            let disk = run.disk_at(point);
            for _ in 0..40 {
                let names = random.below(disk.pending_names() + 1);
                let image = disk.crash(names, |_| random.fate());
                check_flip(
                    &image,
                    &mut random,
                    run.at(point),
                    &format!("seed {seed}, operation {point}"),
                    &mut counts,
                );
            }
        }
    }
    println!("flipped images: {counts:?}");
    assert!(counts.damaged > 0 && counts.tails > 0);
}

/// Recovery is killed at each of its own operations, and again, and something is appended in between (S19).
#[test]
fn recovery_killed_at_any_point_converges_and_appends_survive_the_next_crash() {
    let mut counts = Counts::default();
    for seed in seeds().step_by(3) {
        let run = run(seed);
        let mut random = Random::new(seed ^ 0x5eed);
        for point in 0..=run.operations.len() {
            let disk = run.disk_at(point);
            let names = random.below(disk.pending_names() + 1);
            let image = disk.crash(names, |_| random.fate());
            let context = format!("seed {seed}, operation {point}");
            let expected = check(&image.killed(), run.at(point), &context, &mut counts);
            let again = Run::resumed(image, expected, seed);
            for_each_image(&again, seed, |image, inner, label| {
                let context = format!("{context}, then operation {inner}, {label}");
                check(&image, again.at(inner), &context, &mut counts);
            });
        }
    }
    println!("twice crashed images: {counts:?}");
}
