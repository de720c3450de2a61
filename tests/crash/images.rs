//! Which images a crash can leave: prefixes, single losses, single survivors, torn sectors, random subsets.

use millpond::log::fake::{FakeDisk, Fate};

use super::workload::Run;

/// Not on the medium.
pub const LOST: Fate = Fate::Lost;

/// A small generator; the seed is all there is to reproduce.
pub struct Random {
    state: u64,
}

impl Random {
    pub fn new(seed: u64) -> Self {
        Self { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1 }
    }

    pub fn next(&mut self) -> u64 {
        // SplitMix64 (Steele, Lea, Flood 2014).
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    pub fn fate(&mut self) -> Fate {
        match self.below(8) {
            0..4 => Fate::Kept,
            4..7 => Fate::Lost,
            _ => Fate::Torn(self.below(512)),
        }
    }
}

/// Calls `visit` with every image of every operation: the image, the number of operations before the crash, a label.
pub fn for_each_image(run: &Run, seed: u64, mut visit: impl FnMut(FakeDisk, usize, &str)) {
    let mut random = Random::new(seed ^ 0xc4a5);
    let disk = run.base.killed();
    for point in 0..=run.operations.len() {
        if let Some(operation) = point.checked_sub(1).map(|before| &run.operations[before]) {
            disk.play(operation);
        }
        images_at(&disk, &mut random, |image, label| visit(image, point, label));
    }
}

fn images_at(disk: &FakeDisk, random: &mut Random, mut visit: impl FnMut(FakeDisk, &str)) {
    let sectors = disk.pending_sectors();
    let names = disk.pending_names();
    visit(disk.killed(), "killed");
    for kept_names in 0..=names {
        visit(disk.crash(kept_names, |_| LOST), "all sectors lost");
        visit(disk.crash(kept_names, |_| Fate::Kept), "all sectors kept");
    }
    let mut one = |fate: &mut dyn FnMut(usize) -> Fate, label: &str, random: &mut Random| {
        let kept_names = random.below(names + 1);
        visit(disk.crash(kept_names, fate), label);
    };
    for at in 0..sectors {
        let kept_if = |keep: bool| if keep { Fate::Kept } else { LOST };
        one(&mut |n| kept_if(n < at), &format!("first {at} sectors"), random);
        one(&mut |n| kept_if(n != at), &format!("all but sector {at}"), random);
        one(&mut |n| kept_if(n == at), &format!("only sector {at}"), random);
        for cut in [1, 8, 88, 256, 511, random.below(512)] {
            let torn = |n: usize, rest: bool| if n == at { Fate::Torn(cut) } else { kept_if(rest) };
            one(&mut |n| torn(n, true), &format!("sector {at} torn at {cut}"), random);
            one(&mut |n| torn(n, n < at), &format!("up to sector {at}, torn at {cut}"), random);
        }
    }
    if sectors > 1 {
        for number in 0..24 {
            let mut own = Random::new(random.next());
            one(&mut |_| own.fate(), &format!("random subset {number}"), random);
        }
    }
}
