//! Bytes of a connection in, messages and control frames out (RFC 6455 sections 5.4 to 5.6), for the server role.
//!
//! Invariants:
//! - A frame that is whole in the input and not part of a fragmented message is unmasked and handed out where it lies:
//!   nothing is allocated, nothing copied.
//! - An [`Assembly`] exists only while something is pending (a header, a frame, a fragmented message), and its memory
//!   grows with the bytes that arrived, never with a length that was announced.
//! - A message is refused when its announced length passes the limit, text at its first bad byte.
//! - After a violation or a close frame the rest of the input is dropped: nothing behind it is parsed.

use crate::wire::assembly::{check_order, checked_payload};
use crate::wire::frame::{self, ClientHeader, Opcode};
use crate::wire::{close, mask, utf8};

pub use crate::wire::assembly::Assembly;
pub use crate::wire::violation::Violation;

/// Bounds of a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecoderLimits {
    /// Longest message in bytes, over all its fragments.
    pub message: usize,
}

/// One message or control frame, unmasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A text message; always valid UTF-8.
    Text(&'a [u8]),
    /// A binary message.
    Binary(&'a [u8]),
    /// A ping to be answered with the same payload, at most 125 bytes.
    Ping(&'a [u8]),
    /// A pong, asked for or not, at most 125 bytes.
    Pong(&'a [u8]),
    /// The peer closes, with a code that may be sent and a reason, or without both. Nothing follows.
    Close(Option<(u16, &'a str)>),
}

/// Pulls the next item out of `input`, which it shortens, and unmasks it in place. `None`: more bytes are needed, and all
/// of `input` has been taken. Call until `None` or an error; `assembly` is given up by the call after the item it held.
///
/// # Errors
/// A [`Violation`]: send its close frame, feed no more. `input` is empty then, as it is behind [`Item::Close`].
pub fn next_item<'a, 'b: 'a>(
    assembly: &'a mut Option<Box<Assembly>>,
    input: &mut &'b mut [u8],
    limits: &DecoderLimits,
) -> Result<Option<Item<'a>>, Violation> {
    let item = match step(assembly, input, limits) {
        Ok(Step::More) => Ok(None),
        Ok(Step::InPlace(opcode, payload)) => item(opcode, payload).map(Some),
        Ok(Step::Assembled(opcode)) => {
            let payload = assembly.as_deref().map(Assembly::delivery).unwrap_or_default();
            item(opcode, payload).map(Some)
        }
        Err(violation) => Err(violation),
    };
    if matches!(item, Err(_) | Ok(Some(Item::Close(_)))) {
        *input = &mut [];
    }
    item
}

/// How far the input led; borrows nothing of the assembly, so that this can be worked on in between.
pub(super) enum Step<'b> {
    /// The input is used up.
    More,
    /// A whole frame, unmasked and checked where it lies.
    InPlace(Opcode, &'b [u8]),
    /// What [`Assembly::delivery`] holds.
    Assembled(Opcode),
}

fn step<'b>(
    slot: &mut Option<Box<Assembly>>,
    input: &mut &'b mut [u8],
    limits: &DecoderLimits,
) -> Result<Step<'b>, Violation> {
    if let Some(assembly) = slot {
        assembly.forget_delivered();
        if assembly.is_pending() {
            return assembly.step(input, limits);
        }
        *slot = None;
    }
    if input.is_empty() {
        return Ok(Step::More);
    }
    let Some(header) = frame::decode(input)? else {
        return slot.insert(Box::default()).step(input, limits);
    };
    check_order(header.opcode, None)?;
    let payload = checked_payload(&header, 0, limits)?;
    take(input, header.length);
    if header.is_final && payload <= input.len() {
        return in_place(&header, take(input, payload));
    }
    let assembly = slot.insert(Box::default());
    assembly.open(&header, payload);
    assembly.step(input, limits)
}

/// Unmasks a whole frame that is a message, or a control frame, of its own.
pub(super) fn in_place<'b>(header: &ClientHeader, payload: &'b mut [u8]) -> Result<Step<'b>, Violation> {
    mask::unmask(payload, header.key);
    if header.opcode == Opcode::Text {
        utf8::check(payload)?;
    }
    Ok(Step::InPlace(header.opcode, payload))
}

/// Splits the first `count` bytes (or all there are) off the input.
pub(super) fn take<'b>(input: &mut &'b mut [u8], count: usize) -> &'b mut [u8] {
    let count = count.min(input.len());
    input.split_off_mut(..count).unwrap_or_default()
}

/// Makes an item of a payload that is whole, unmasked and, where it is text, checked.
fn item(opcode: Opcode, payload: &[u8]) -> Result<Item<'_>, Violation> {
    Ok(match opcode {
        Opcode::Text => Item::Text(payload),
        Opcode::Binary | Opcode::Continuation => Item::Binary(payload),
        Opcode::Ping => Item::Ping(payload),
        Opcode::Pong => Item::Pong(payload),
        Opcode::Close => Item::Close(close::parse(payload)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: DecoderLimits = DecoderLimits { message: 64 };

    /// A masked client frame.
    fn client_frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let key = [0xA1, 0x00, 0x37, 0xFF];
        let mut bytes = vec![first, 0x80 | u8::try_from(payload.len()).unwrap()];
        bytes.extend_from_slice(&key);
        bytes.extend_from_slice(payload);
        mask::unmask(&mut bytes[6..], key);
        bytes
    }

    /// Every item of the chunks, and whether anything was pending at the end of each.
    fn decode(chunks: &[Vec<u8>]) -> (Vec<String>, Vec<bool>) {
        let mut assembly = None;
        let (mut items, mut pending) = (Vec::new(), Vec::new());
        for chunk in chunks {
            let mut bytes = chunk.clone();
            let mut input = bytes.as_mut_slice();
            while let Some(item) = next_item(&mut assembly, &mut input, &LIMITS).unwrap() {
                items.push(format!("{item:?}"));
            }
            pending.push(assembly.is_some());
        }
        (items, pending)
    }

    #[test]
    fn whole_frames_need_no_assembly() {
        let chunk = [client_frame(0x81, b"one"), client_frame(0x82, b""), client_frame(0x89, b"p")].concat();
        let (items, pending) = decode(&[chunk]);
        assert_eq!(items, ["Text([111, 110, 101])", "Binary([])", "Ping([112])"]);
        assert_eq!(pending, [false]);
    }

    #[test]
    fn an_assembly_lives_from_the_first_cut_to_the_last_piece() {
        let frame = client_frame(0x81, b"one");
        for cut in 1..frame.len() {
            let (left, right) = frame.split_at(cut);
            let (items, pending) = decode(&[left.to_vec(), right.to_vec()]);
            assert_eq!(items, ["Text([111, 110, 101])"]);
            assert_eq!(pending, [true, false], "cut {cut}");
        }
    }

    #[test]
    fn fragments_are_joined_around_control_frames() {
        let chunks = [
            client_frame(0x01, b"on"),
            client_frame(0x89, b"cut")[..7].to_vec(),
            client_frame(0x89, b"cut")[7..].to_vec(),
            client_frame(0x80, b"e"),
        ];
        let (items, pending) = decode(&chunks);
        assert_eq!(items, ["Ping([99, 117, 116])", "Text([111, 110, 101])"]);
        assert_eq!(pending, [true, true, true, false]);
    }

    #[test]
    fn nothing_behind_a_close_or_a_violation_is_parsed() {
        for bad in [client_frame(0x88, b"\x03\xE8"), client_frame(0x83, b"")] {
            let mut bytes = [bad, client_frame(0x81, b"late")].concat();
            let mut input = bytes.as_mut_slice();
            let mut assembly = None;
            let first = next_item(&mut assembly, &mut input, &LIMITS);
            assert!(matches!(
                first,
                Ok(Some(Item::Close(Some((1000, ""))))) | Err(Violation::ReservedOpcode)
            ));
            assert!(input.is_empty());
            assert_eq!(next_item(&mut assembly, &mut input, &LIMITS), Ok(None));
        }
    }
}
