//! Tests of the arena.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Alloc(usize),
    Free(usize),
    Set(usize, usize),
    Fill(usize, u8),
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![8 => 0..40_usize, 6 => Just(1_019), 2 => 0..1_100_usize, 1 => 1_020..1_030_usize, 1 => 1_000..9_000_usize]
}

/// 1,019 bytes are the largest slot of which some hundred steps fill several chunks.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => length().prop_map(Step::Alloc),
        3 => any::<usize>().prop_map(Step::Free),
        1 => (any::<usize>(), length()).prop_map(|(at, length)| Step::Set(at, length)),
        1 => (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Step::Fill(at, byte)),
    ];
    prop::collection::vec(step, 0..700)
}

/// Content that differs from record to record.
fn content(seed: usize, length: usize) -> Vec<u8> {
    (0..length).map(|at| (seed * 31 + at * 7) as u8).collect()
}

/// True if the lists of chunks with room are linked both ways and hold each such chunk once.
fn lists_are_sound(arena: &Arena) -> bool {
    let mut listed = 0;
    for (class, head) in arena.roomy.iter().enumerate() {
        let (mut previous, mut index) = (NO_CHUNK, *head);
        while let Some(chunk) = arena.chunks.get(index as usize) {
            let at_home = usize::from(chunk.class) == class && chunk.has_room() && chunk.live > 0;
            if !at_home || chunk.previous != previous {
                return false;
            }
            listed += 1;
            (previous, index) = (index, chunk.next);
        }
    }
    listed == arena.chunks.iter().filter(|chunk| chunk.live > 0 && chunk.has_room()).count()
}

proptest! {
    #[test]
    fn agrees_with_a_vector_of_vectors(steps in steps()) {
        let mut arena = Arena::new();
        let empty = arena.memory_bytes();
        let mut model: Vec<(Handle, Vec<u8>)> = Vec::new();
        for (seed, step) in steps.into_iter().enumerate() {
            match step {
                Step::Alloc(length) => {
                    let record = content(seed, length);
                    let handle = arena.alloc(&record).unwrap();
                    prop_assert!(model.iter().all(|(other, _)| *other != handle));
                    model.push((handle, record));
                }
                Step::Free(at) if !model.is_empty() => {
                    let (handle, _) = model.swap_remove(at % model.len());
                    prop_assert!(arena.free(handle));
                    prop_assert!(!arena.free(handle), "freed twice");
                    prop_assert!(arena.get(handle).is_empty());
                }
                Step::Set(at, length) if !model.is_empty() => {
                    let at = at % model.len();
                    let record = content(seed, length);
                    let handle = arena.set(model[at].0, &record).unwrap();
                    model[at] = (handle, record);
                }
                Step::Fill(at, byte) if !model.is_empty() => {
                    let at = at % model.len();
                    arena.get_mut(model[at].0).fill(byte);
                    model[at].1.fill(byte);
                }
                _ => {}
            }
            prop_assert_eq!(arena.len(), model.len());
            prop_assert!(lists_are_sound(&arena));
        }
        for (handle, record) in &model {
            prop_assert_eq!(arena.get(*handle), record.as_slice());
        }
        for (handle, _) in &model {
            prop_assert!(arena.free(*handle));
        }
        prop_assert_eq!(arena.memory_bytes(), empty);
    }
}

#[test]
fn a_record_costs_its_length_a_header_and_rounding() {
    let mut arena = Arena::new();
    for seed in 0..50_000 {
        arena.alloc(&content(seed, 23)).unwrap();
    }
    let bytes = arena.memory_bytes() as f64 / 50_000.0;
    assert!((24.0..25.2).contains(&bytes), "{bytes}");
}

#[test]
fn a_chunk_is_given_back_while_others_live() {
    let mut arena = Arena::new();
    let handles: Vec<_> = (0..20_000).map(|seed| arena.alloc(&content(seed, 15)).unwrap()).collect();
    let full = arena.memory_bytes();
    // The first nine tenths fill whole chunks, since records of one size are laid out in order.
    for handle in &handles[..18_000] {
        assert!(arena.free(*handle));
    }
    assert!(arena.memory_bytes() < full / 4, "{} of {full}", arena.memory_bytes());
    for (seed, handle) in handles.iter().enumerate().skip(18_000) {
        assert_eq!(arena.get(*handle), content(seed, 15));
    }
}

#[test]
fn a_freed_slot_is_taken_by_the_next_record_of_its_size() {
    let mut arena = Arena::new();
    let handles: Vec<_> = (0..100).map(|seed| arena.alloc(&content(seed, 30)).unwrap()).collect();
    let full = arena.memory_bytes();
    for handle in handles.iter().step_by(2) {
        arena.free(*handle);
    }
    for seed in 0..50 {
        let handle = arena.alloc(&content(seed, 29)).unwrap();
        assert!(handles.contains(&handle));
    }
    assert_eq!(arena.memory_bytes(), full);
}

#[test]
fn chunks_with_room_are_listed_whatever_the_order_they_empty_in() {
    let mut arena = Arena::new();
    // 64 records of this length fill a chunk.
    let handles: Vec<_> = (0..64 * 6).map(|seed| arena.alloc(&content(seed, 1_019)).unwrap()).collect();
    for chunk in [3, 0, 5, 1, 4, 2] {
        arena.free(handles[64 * chunk]);
        assert!(lists_are_sound(&arena), "{chunk}");
    }
    for chunk in [4, 2, 1, 3, 0, 5] {
        for handle in &handles[64 * chunk + 1..64 * (chunk + 1)] {
            assert!(arena.free(*handle));
        }
        assert!(lists_are_sound(&arena), "{chunk}");
    }
    assert!(arena.is_empty());
}

#[test]
fn a_slot_freed_in_a_full_chunk_is_taken_before_a_new_chunk() {
    let mut arena = Arena::new();
    let handles: Vec<_> = (0..10_000).map(|seed| arena.alloc(&content(seed, 30)).unwrap()).collect();
    for handle in [handles[5], handles[4_000]] {
        arena.free(handle);
        assert_eq!(arena.alloc(&content(1, 30)), Some(handle));
    }
}

#[test]
fn handles_of_nothing_are_harmless() {
    let mut arena = Arena::new();
    // Zeros look like the headers of live slots to a handle that points into the record.
    let handle = arena.alloc(&[0; 12]).unwrap();
    for stale in
        [Handle::NONE, Handle(LONG), Handle(handle.0 + 1), Handle(1 << GRANULE_BITS), Handle(LONG - 1)]
    {
        assert!(arena.get(stale).is_empty());
        assert!(arena.get_mut(stale).is_empty());
        assert!(!arena.free(stale));
    }
    assert_eq!(arena.get(handle), [0; 12]);
}

#[test]
fn a_rare_size_does_not_cost_a_whole_chunk() {
    let mut arena = Arena::new();
    for length in 0..=SMALL_MAX {
        arena.alloc(&content(length, length)).unwrap();
    }
    assert!(arena.memory_bytes() < 3 * SMALL_MAX * SMALL_MAX / 2, "{}", arena.memory_bytes());
}
