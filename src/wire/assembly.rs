//! The state of a connection in the middle of a header, a frame or a fragmented message.

use crate::wire::frame::{self, ClientHeader, MAX_CLIENT_HEADER, Opcode};
use crate::wire::message::{DecoderLimits, Step, in_place, take};
use crate::wire::violation::Violation;
use crate::wire::{mask, utf8};

/// All state of a connection in the middle of something. A quiet connection has none.
#[derive(Debug, Default)]
pub struct Assembly {
    /// Unmasked payload: of the open message first (`message_length` bytes), then of the open control frame.
    payload: Vec<u8>,
    /// Bytes of `payload` that belong to the open message.
    message_length: usize,
    /// Bytes of an open text message that are known to be whole code points.
    valid: usize,
    /// Text or Binary while a message is open.
    message: Option<Opcode>,
    /// The frame whose payload is being received.
    frame: Option<OpenFrame>,
    /// Bytes of a header that is not whole yet, `header_length` of them.
    header: [u8; MAX_CLIENT_HEADER],
    header_length: usize,
    /// A message or control frame was handed out; the next call forgets it.
    delivered: Option<Delivered>,
}

/// The frame whose payload is being received.
#[derive(Clone, Copy, Debug)]
struct OpenFrame {
    opcode: Opcode,
    is_final: bool,
    /// Mask key, turned so that its first byte meets the next byte of payload.
    key: [u8; 4],
    /// Bytes of payload still to come.
    remaining: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delivered {
    Message,
    Control,
}

impl Assembly {
    /// Bytes this takes on the heap, itself included: what a budget is charged for. At most twice the bytes received for
    /// what is pending, plus the fixed size.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.payload.capacity().saturating_add(size_of::<Self>())
    }

    /// True while a header, a frame or a fragmented message waits for more (the assembly deadline runs).
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.message.is_some() || self.frame.is_some() || self.header_length > 0
    }

    /// What the last step assembled.
    pub(super) fn delivery(&self) -> &[u8] {
        match self.delivered {
            Some(Delivered::Message) => self.payload.get(..self.message_length).unwrap_or_default(),
            Some(Delivered::Control) => self.payload.get(self.message_length..).unwrap_or_default(),
            None => &[],
        }
    }

    /// Drops a control frame that was handed out and seen by now. Behind a message nothing is pending, so that the whole
    /// assembly goes.
    pub(super) fn forget_delivered(&mut self) {
        if self.delivered.take() == Some(Delivered::Control) {
            self.payload.truncate(self.message_length);
        }
    }

    /// Works through `input` up to the next item.
    pub(super) fn step<'b>(
        &mut self,
        input: &mut &'b mut [u8],
        limits: &DecoderLimits,
    ) -> Result<Step<'b>, Violation> {
        loop {
            if self.frame.is_none() {
                let Some(header) = self.take_header(input)? else { return Ok(Step::More) };
                check_order(header.opcode, self.message)?;
                let payload = checked_payload(&header, self.message_length, limits)?;
                let is_whole = header.is_final && header.opcode != Opcode::Continuation;
                if is_whole && payload <= input.len() {
                    return in_place(&header, take(input, payload));
                }
                self.open(&header, payload);
            }
            if let Some(opcode) = self.receive(input)? {
                return Ok(Step::Assembled(opcode));
            }
            if self.frame.is_some() {
                return Ok(Step::More);
            }
        }
    }

    /// Begins to receive a frame whose header was checked.
    pub(super) fn open(&mut self, header: &ClientHeader, payload: usize) {
        if matches!(header.opcode, Opcode::Text | Opcode::Binary) {
            self.message = Some(header.opcode);
        }
        self.frame = Some(OpenFrame {
            opcode: header.opcode,
            is_final: header.is_final,
            key: header.key,
            remaining: payload,
        });
    }

    /// Takes a header off the input, of which earlier calls may have kept the beginning.
    fn take_header(&mut self, input: &mut &mut [u8]) -> Result<Option<ClientHeader>, Violation> {
        if self.header_length == 0
            && let Some(header) = frame::decode(input)?
        {
            take(input, header.length);
            return Ok(Some(header));
        }
        let kept = self.header_length;
        let free = self.header.get_mut(kept..).unwrap_or_default();
        let copied = free.len().min(input.len());
        for (to, from) in free.iter_mut().zip(input.iter()) {
            *to = *from;
        }
        let there = kept.saturating_add(copied);
        let header = frame::decode(self.header.get(..there).unwrap_or_default())?;
        let used = header.map_or(copied, |header| header.length.saturating_sub(kept));
        take(input, used);
        self.header_length = if header.is_some() { 0 } else { there };
        Ok(header)
    }

    /// Takes payload of the open frame off the input; the opcode of what is whole now, if anything is.
    fn receive(&mut self, input: &mut &mut [u8]) -> Result<Option<Opcode>, Violation> {
        let Some(mut frame) = self.frame.take() else { return Ok(None) };
        let bytes = take(input, frame.remaining);
        mask::unmask(bytes, frame.key);
        self.append(bytes, &frame)?;
        frame.key = mask::rotated(frame.key, bytes.len());
        frame.remaining = frame.remaining.saturating_sub(bytes.len());
        let is_whole = frame.remaining == 0;
        if !is_whole {
            self.frame = Some(frame);
        }
        if frame.opcode.is_control() {
            self.delivered = is_whole.then_some(Delivered::Control);
            return Ok(is_whole.then_some(frame.opcode));
        }
        self.message_length = self.payload.len();
        self.check_text(is_whole && frame.is_final)?;
        if !(is_whole && frame.is_final) {
            return Ok(None);
        }
        self.delivered = Some(Delivered::Message);
        Ok(self.message.take())
    }

    /// Appends payload, growing by doubling but never past what the message can still need.
    fn append(&mut self, bytes: &[u8], frame: &OpenFrame) -> Result<(), Violation> {
        let length = self.payload.len();
        let needed = length.saturating_add(bytes.len());
        let capacity = self.payload.capacity();
        if needed > capacity {
            let mut wanted = needed.max(capacity.saturating_mul(2));
            if frame.is_final {
                wanted = wanted.min(length.saturating_add(frame.remaining));
            }
            let additional = wanted.saturating_sub(length);
            self.payload.try_reserve_exact(additional).map_err(|_| Violation::OutOfMemory)?;
        }
        self.payload.extend_from_slice(bytes);
        Ok(())
    }

    /// Checks what has arrived of a text message.
    fn check_text(&mut self, is_last: bool) -> Result<(), Violation> {
        if self.message != Some(Opcode::Text) {
            return Ok(());
        }
        self.valid = utf8::check_prefix(&self.payload, self.valid)?;
        if is_last && self.valid != self.message_length {
            return Err(Violation::InvalidUtf8);
        }
        Ok(())
    }
}

/// Checks that the frame may follow what is open (RFC 6455 section 5.4).
pub(super) fn check_order(opcode: Opcode, message: Option<Opcode>) -> Result<(), Violation> {
    match (opcode, message) {
        (Opcode::Continuation, None) => Err(Violation::UnexpectedContinuation),
        (Opcode::Text | Opcode::Binary, Some(_)) => Err(Violation::ContinuationExpected),
        _ => Ok(()),
    }
}

/// The frame's length, if the message of which `received` bytes are there stays within the limit.
pub(super) fn checked_payload(
    header: &ClientHeader,
    received: usize,
    limits: &DecoderLimits,
) -> Result<usize, Violation> {
    let payload = usize::try_from(header.payload).map_err(|_| Violation::TooBig)?;
    if header.opcode.is_control() {
        return Ok(payload);
    }
    let room = limits.message.saturating_sub(received);
    if payload > room { Err(Violation::TooBig) } else { Ok(payload) }
}
