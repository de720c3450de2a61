//! Masking of client frames (RFC 6455 section 5.3), eight bytes at a time; the compiler widens it to vectors.

/// XORs `payload` with `key`, whose first byte meets the first byte of `payload`. Masks and unmasks alike.
pub fn unmask(payload: &mut [u8], key: [u8; 4]) {
    let [a, b, c, d] = key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (blocks, tail) = payload.as_chunks_mut::<8>();
    for block in blocks {
        *block = (u64::from_ne_bytes(*block) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in tail.iter_mut().zip([a, b, c, d, a, b, c]) {
        *byte ^= mask;
    }
}

/// The key for the rest of a payload of which `consumed` bytes are already unmasked.
#[must_use]
pub fn rotated(mut key: [u8; 4], consumed: usize) -> [u8; 4] {
    key.rotate_left(consumed & 3);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytewise(payload: &mut [u8], key: [u8; 4]) {
        for (index, byte) in payload.iter_mut().enumerate() {
            *byte ^= key[index % 4];
        }
    }

    #[test]
    fn every_length_and_alignment_equals_the_bytewise_definition() {
        let source: Vec<u8> = (0..200u8).collect();
        for start in 0..8 {
            for length in 0..=70 {
                let mut fast = source.clone();
                let mut slow = source.clone();
                unmask(&mut fast[start..start + length], [0x12, 0xFF, 0x00, 0x9A]);
                bytewise(&mut slow[start..start + length], [0x12, 0xFF, 0x00, 0x9A]);
                assert_eq!(fast, slow, "start {start} length {length}");
            }
        }
    }

    #[test]
    fn a_payload_in_two_pieces_equals_the_whole() {
        let key = [1, 2, 3, 4];
        for cut in 0..=33 {
            let mut whole = vec![0x55; 33];
            let mut pieces = whole.clone();
            unmask(&mut whole, key);
            let (left, right) = pieces.split_at_mut(cut);
            unmask(left, key);
            unmask(right, rotated(key, cut));
            assert_eq!(whole, pieces, "cut {cut}");
        }
    }
}
