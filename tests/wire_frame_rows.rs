//! Every row of bad-input.md section F that the wire layer decides, unsplit, byte by byte and at random splits, and the
//! promise that a whole frame costs no allocation.
//!
//! Decided elsewhere: F25 (fairness between connections), F26 (generations of slots).

mod wire_support;

use millpond::wire::message::{DecoderLimits, Item, Violation, next_item};
use wire_support::{End, KEY, LengthForm, Owned, decode, decode_chunks, frame, frame_as, header};

const LIMITS: DecoderLimits = DecoderLimits { message: 65_536 };
const MIB: usize = 1 << 20;

fn assert_broken(row: &str, bytes: &[u8], expected: Violation) {
    let (items, end) = decode(bytes, &LIMITS);
    assert_eq!(
        (items, end),
        (vec![], End::Broken(expected)),
        "{row}: {:02x?}",
        &bytes[..bytes.len().min(20)]
    );
}

fn text(payload: &[u8]) -> Owned {
    Owned::Text(payload.to_vec())
}

/// How many bytes are taken when the stream fails, one byte at a time.
fn fails_after(bytes: &[u8], limits: &DecoderLimits) -> usize {
    let mut assembly = None;
    bytes
        .iter()
        .position(|byte| {
            let (_, end) = decode_chunks([std::slice::from_ref(byte)], limits, &mut assembly);
            matches!(end, End::Broken(_))
        })
        .map_or(usize::MAX, |index| index + 1)
}

#[test]
fn f01_unmasked_frames() {
    for first in [0x81, 0x82, 0x88, 0x89, 0x8A] {
        assert_broken("F01", &frame_as(first, b"hello", LengthForm::Minimal, None), Violation::Unmasked);
        assert_broken("F01", &frame_as(first, b"", LengthForm::Minimal, None), Violation::Unmasked);
    }
}

#[test]
fn f02_every_key_alignment_and_length_is_unmasked_exactly() {
    for key in [[0; 4], KEY, [0xFF; 4]] {
        for length in 0..=70usize {
            let payload: Vec<u8> = (0..length).map(|index| index as u8 ^ 0xA5).collect();
            let bytes = frame_as(0x82, &payload, LengthForm::Minimal, Some(key));
            for alignment in 0..8 {
                let mut buffer = [vec![0xEE; alignment], bytes.clone()].concat();
                let mut input = &mut buffer[alignment..];
                let item = next_item(&mut None, &mut input, &LIMITS).map(|item| item.map(Owned::from));
                assert_eq!(item, Ok(Some(Owned::Binary(payload.clone()))), "{key:?} {length} {alignment}");
            }
            assert_eq!(decode(&bytes, &LIMITS), (vec![Owned::Binary(payload)], End::Quiet));
        }
    }
}

#[test]
fn f03_f04_f05_lengths_that_are_not_minimal() {
    let form = |length, form| [header(0x81, length, form, Some(KEY)), vec![0; 5]].concat();
    assert_broken("F03", &form(5, LengthForm::Sixteen), Violation::BadLength);
    assert_broken("F03", &form(125, LengthForm::Sixteen), Violation::BadLength);
    assert_broken("F04", &form(5, LengthForm::SixtyFour), Violation::BadLength);
    assert_broken("F04", &form(0xFFFF, LengthForm::SixtyFour), Violation::BadLength);
    assert_broken("F05", &form(1 << 63, LengthForm::SixtyFour), Violation::BadLength);
    assert_broken("F05", &form(u64::MAX, LengthForm::SixtyFour), Violation::BadLength);
}

#[test]
fn f06_huge_lengths_are_refused_before_anything_is_allocated() {
    for length in [(1 << 63) - 1, 1 << 32, (1 << 32) - 1, 65_537] {
        let bytes = header(0x82, length, LengthForm::Minimal, Some(KEY));
        assert_broken("F06", &bytes, Violation::TooBig);
        let mut assembly = None;
        let mut copy = bytes.clone();
        let mut input = copy.as_mut_slice();
        assert_eq!(next_item(&mut assembly, &mut input, &LIMITS), Err(Violation::TooBig));
        assert!(assembly.is_none());
    }
}

#[test]
fn f08_memory_follows_the_bytes_that_arrived() {
    let limits = DecoderLimits { message: 64 * MIB };
    let mut assembly = None;
    let mut bytes = header(0x81, 60 * MIB as u64, LengthForm::Minimal, Some([0; 4]));
    bytes.extend_from_slice(b"ten bytes.");
    assert_eq!(decode_chunks([bytes.as_slice()], &limits, &mut assembly), (vec![], End::Pending));
    let fixed = size_of::<millpond::wire::message::Assembly>();
    assert!(assembly.as_ref().unwrap().memory() <= fixed + 2 * 10);
    let mut received = 10;
    while received < MIB {
        decode_chunks([[b'x'; 1000].as_slice()], &limits, &mut assembly);
        received += 1000;
        assert!(assembly.as_ref().unwrap().memory() <= fixed + 2 * received, "{received}");
    }
    assert_broken("F08", &bytes, Violation::TooBig);
}

#[test]
fn f09_a_header_may_be_cut_anywhere() {
    for (payload, length) in [(5, 6), (200, 8), (65_536, 14)] {
        let bytes = frame(0x81, &vec![b'x'; payload]);
        for cut in 1..=length {
            let (left, right) = bytes.split_at(cut);
            let expected = (vec![text(&vec![b'x'; payload])], End::Quiet);
            assert_eq!(
                decode_chunks([left, right], &LIMITS, &mut None),
                expected,
                "cut at {cut} of {payload}"
            );
        }
    }
}

#[test]
fn f10_f11_reserved_bits_and_opcodes() {
    for bits in [0x40, 0x20, 0x10, 0x70] {
        for opcode in [0x81, 0x82, 0x88, 0x89, 0x8A, 0x01] {
            assert_broken("F10", &frame(opcode | bits, b""), Violation::ReservedBits);
        }
    }
    for opcode in (3..=7).chain(11..=15) {
        assert_broken("F11", &frame(0x80 | opcode, b"x"), Violation::ReservedOpcode);
        assert_broken("F11", &frame(opcode, b"x"), Violation::ReservedOpcode);
    }
}

#[test]
fn f12_f13_control_frames_are_short_and_whole() {
    for opcode in [8, 9, 10] {
        for length in [126, 127, 65_536] {
            assert_broken("F12", &frame(0x80 | opcode, &vec![b'x'; length]), Violation::LongControl);
        }
        assert_broken("F13", &frame(opcode, b""), Violation::FragmentedControl);
    }
    let longest = frame(0x89, &[b'x'; 125]);
    assert_eq!(decode(&longest, &LIMITS), (vec![Owned::Ping(vec![b'x'; 125])], End::Quiet));
}

#[test]
fn f14_fragments_in_order() {
    for first in [0x80, 0x00] {
        assert_broken("F14", &frame(first, b"x"), Violation::UnexpectedContinuation);
    }
    for second in [0x81, 0x82, 0x01, 0x02] {
        let bytes = [frame(0x01, b"a"), frame(second, b"b")].concat();
        assert_broken("F14", &bytes, Violation::ContinuationExpected);
    }
    let after = [frame(0x01, b"a"), frame(0x80, b"b"), frame(0x80, b"c")].concat();
    assert_eq!(decode(&after, &LIMITS), (vec![text(b"ab")], End::Broken(Violation::UnexpectedContinuation)));
}

#[test]
fn f15_close_codes() {
    assert_broken("F15", &frame(0x88, b"\x03"), Violation::BadClose);
    let bad = [0u16, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535];
    for code in bad {
        assert_broken("F15", &frame(0x88, &code.to_be_bytes()), Violation::BadClose);
    }
    for code in
        [1000u16, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]
    {
        let expected = (vec![Owned::Close(Some((code, String::new())))], End::Closed);
        assert_eq!(decode(&frame(0x88, &code.to_be_bytes()), &LIMITS), expected, "{code}");
    }
    assert_eq!(decode(&frame(0x88, b""), &LIMITS), (vec![Owned::Close(None)], End::Closed));
}

#[test]
fn f16_close_reasons() {
    let close = |reason: &[u8]| frame(0x88, &[b"\x03\xE8", reason].concat());
    assert_broken("F16", &close(b"caf\xE9"), Violation::InvalidUtf8);
    assert_broken("F16", &close(&[b'x'; 124]), Violation::LongControl);
    let longest = "x".repeat(123);
    let expected = (vec![Owned::Close(Some((1000, longest.clone())))], End::Closed);
    assert_eq!(decode(&close(longest.as_bytes()), &LIMITS), expected);
}

/// Text that is bad from the byte with the given index on, and cannot be known to be earlier.
const BAD_TEXTS: [(&[u8], usize); 9] = [
    (b"ab\xC0\xAF", 2),
    (b"ab\xC1\xBF", 2),
    (b"ab\xED\xA0\x80", 3),
    (b"ab\xE0\x80\x80", 3),
    (b"ab\xF0\x80\x80\x80", 3),
    (b"ab\xF4\x90\x80\x80", 3),
    (b"ab\xF5\x80\x80\x80", 2),
    (b"ab\x80cd", 2),
    (b"ab\xE2\x82cd", 4),
];

#[test]
fn f17_text_fails_at_its_first_bad_byte() {
    for (bad, index) in BAD_TEXTS {
        assert_broken("F17", &frame(0x81, bad), Violation::InvalidUtf8);
        assert_eq!(fails_after(&frame(0x81, bad), &LIMITS), 6 + index + 1, "{bad:02x?}");
        // Also inside a frame that announces far more, and across fragments.
        let long = [header(0x81, 60_000, LengthForm::Minimal, Some([0; 4])), bad.to_vec()].concat();
        assert_eq!(fails_after(&long, &LIMITS), 8 + index + 1, "{bad:02x?}");
        for cut in 0..=bad.len() {
            let fragments = [frame(0x01, &bad[..cut]), frame(0x80, &bad[cut..])].concat();
            assert_broken("F17", &fragments, Violation::InvalidUtf8);
            let header = if cut > index { 6 } else { 12 };
            assert_eq!(fails_after(&fragments, &LIMITS), header + index + 1, "{bad:02x?} cut at {cut}");
        }
    }
    let unfinished = frame(0x81, b"ab\xE2\x82");
    assert_broken("F17", &unfinished, Violation::InvalidUtf8);
    assert_eq!(fails_after(&unfinished, &LIMITS), unfinished.len());
    let binary = frame(0x82, b"\xFF\xC0\x80");
    assert_eq!(decode(&binary, &LIMITS), (vec![Owned::Binary(b"\xFF\xC0\x80".to_vec())], End::Quiet));
}

#[test]
fn f18_code_points_may_be_cut_by_fragments() {
    let all = "aé€𝄞\u{7FF}\u{FFFF}\u{10FFFF}z".as_bytes();
    for first in 0..=all.len() {
        for second in first..=all.len() {
            let bytes =
                [frame(0x01, &all[..first]), frame(0x00, &all[first..second]), frame(0x80, &all[second..])];
            assert_eq!(decode(&bytes.concat(), &LIMITS), (vec![text(all)], End::Quiet), "{first} {second}");
        }
    }
}

#[test]
fn f19_f23_the_limit_holds_over_all_fragments() {
    let limits = DecoderLimits { message: 1000 };
    for (pieces, last, expected) in [(9, 100, true), (9, 101, false), (10, 0, true), (10, 1, false)] {
        let mut bytes = frame(0x02, b"");
        for _ in 0..pieces {
            bytes.extend(frame(0x00, &[7; 100]));
        }
        bytes.extend(frame(0x80, &vec![7; last]));
        let verdict = decode(&bytes, &limits);
        if expected {
            assert_eq!(verdict, (vec![Owned::Binary(vec![7; 1000])], End::Quiet));
        } else {
            assert_eq!(verdict, (vec![], End::Broken(Violation::TooBig)));
        }
    }
    assert_eq!(decode(&frame(0x82, &[7; 1000]), &limits), (vec![Owned::Binary(vec![7; 1000])], End::Quiet));
    assert_eq!(decode(&frame(0x82, &[7; 1001]), &limits), (vec![], End::Broken(Violation::TooBig)));
}

#[test]
fn f20_fragments_of_one_byte_take_at_most_twice_the_memory_of_what_arrived() {
    let limits = DecoderLimits { message: MIB };
    let fixed = size_of::<millpond::wire::message::Assembly>();
    let mut assembly = None;
    decode_chunks([frame(0x01, b"a").as_slice()], &limits, &mut assembly);
    let fragment = frame(0x00, b"b");
    for received in 2..=200_000usize {
        let end = decode_chunks([fragment.as_slice()], &limits, &mut assembly).1;
        assert_eq!(end, End::Pending);
        assert!(assembly.as_ref().unwrap().memory() <= fixed + (2 * received).max(8), "{received}");
    }
    let endless = [frame(0x01, b""), fragment.repeat(65_537)].concat();
    let expected = endless.len() - 1;
    assert_eq!(fails_after(&endless, &LIMITS), expected, "at the header of the byte that is too many");
}

#[test]
fn f22_control_frames_between_fragments_come_at_once() {
    let bytes = [
        frame(0x01, b"on\xC3"),
        frame(0x89, b"ping"),
        frame(0x00, b"\xA9"),
        frame(0x8A, b""),
        frame(0x80, b"e"),
        frame(0x81, b"next"),
    ]
    .concat();
    let expected =
        vec![Owned::Ping(b"ping".to_vec()), Owned::Pong(vec![]), text("onée".as_bytes()), text(b"next")];
    assert_eq!(decode(&bytes, &LIMITS), (expected, End::Quiet));
    let closed = [frame(0x01, b"half"), frame(0x88, b"\x03\xE8"), frame(0x80, b"late")].concat();
    assert_eq!(decode(&closed, &LIMITS), (vec![Owned::Close(Some((1000, String::new())))], End::Closed));
}

#[test]
fn whole_frames_are_decoded_without_an_allocation() {
    let long = "long enough to leave the small cases behind".repeat(30);
    let mut bytes: Vec<u8> = Vec::new();
    for _ in 0..10 {
        bytes.extend(frame(0x81, long.as_bytes()));
        bytes.extend(frame(0x82, &[0xFF; 200]));
        bytes.extend(frame(0x89, b"ping"));
        bytes.extend(frame(0x81, b"{}"));
    }
    let mut count = 0;
    let allocations = allocation_counter::measure(|| {
        let mut assembly = None;
        let mut input = bytes.as_mut_slice();
        while let Ok(Some(item)) = next_item(&mut assembly, &mut input, &LIMITS) {
            count += usize::from(!matches!(item, Item::Close(_)));
        }
    });
    assert_eq!((count, allocations.count_total), (40, 0));
}
