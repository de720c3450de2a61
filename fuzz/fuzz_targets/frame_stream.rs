//! Any bytes as frames of a client: no panic, one verdict however they are cut, memory only for what arrived.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use millpond::wire::message::{Assembly, DecoderLimits, Item, next_item};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    limit: u16,
    /// Sizes of reads, over and over.
    reads: Vec<u8>,
    bytes: &'a [u8],
}

fuzz_target!(|input: Input<'_>| {
    let limits = DecoderLimits { message: usize::from(input.limit) };
    let unsplit = decode(&mut std::iter::once(input.bytes), limits);
    let mut rest = input.bytes;
    let mut sizes = input.reads.iter().cycle();
    let mut chunks = std::iter::from_fn(|| {
        let size = sizes.next().map_or(1, |size| usize::from(*size) + 1).min(rest.len());
        let (chunk, behind) = rest.split_at(size);
        rest = behind;
        (size > 0).then_some(chunk)
    });
    assert_eq!(decode(&mut chunks, limits), unsplit);
});

/// Everything that came out, in words.
fn decode<'a>(chunks: &mut dyn Iterator<Item = &'a [u8]>, limits: DecoderLimits) -> Vec<String> {
    let (mut assembly, mut received, mut out) = (None::<Box<Assembly>>, 0, Vec::new());
    for chunk in chunks {
        received += chunk.len();
        let mut bytes = chunk.to_vec();
        let mut input = bytes.as_mut_slice();
        loop {
            match next_item(&mut assembly, &mut input, &limits) {
                Ok(None) => break,
                Ok(Some(item)) => {
                    out.push(format!("{item:?}"));
                    if let Item::Text(text) = item {
                        assert!(std::str::from_utf8(text).is_ok());
                    }
                    if matches!(item, Item::Close(_)) {
                        return out;
                    }
                }
                Err(violation) => {
                    out.push(format!("{violation:?}"));
                    return out;
                }
            }
        }
        let memory = assembly.as_ref().map_or(0, |assembly| assembly.memory());
        assert!(memory <= size_of::<Assembly>() + 2 * received + 8);
    }
    out.push(format!("pending: {}", assembly.is_some()));
    out
}
