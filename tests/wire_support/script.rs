//! A model of what a client sends: messages in fragments with control frames between them, and at most one fault at the end.
//! It knows the bytes, and what must come out of them.

use millpond::wire::message::Violation;
use proptest::prelude::*;

use super::{End, KEY, LengthForm, Owned, frame_as, header};

/// The message limit that scripts are written for.
pub(crate) const LIMIT: usize = 500;

/// One message, cut into fragments, with control frames before them.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) payload: Vec<u8>,
    pub(crate) is_text: bool,
    /// Where fragments end, in any order.
    pub(crate) cuts: Vec<usize>,
    /// Before the fragment of this index: a ping or a pong.
    pub(crate) controls: Vec<(usize, bool, Vec<u8>)>,
}

/// What comes behind the messages.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    None,
    /// No fault: a close frame, with code and reason or without.
    Close(Option<(u16, String)>),
    Unmasked(u8),
    ReservedBits(u8),
    ReservedOpcode(u8),
    NotMinimal(LengthForm),
    TopBit,
    LongControl(u8),
    FragmentedControl(u8),
    StrayContinuation,
    NestedMessage(u8),
    CloseOfOneByte,
    CloseCode(u16),
    CloseReason,
    /// Bad from its end on, after valid text, in one frame or in the second of two.
    Text(&'static [u8], bool),
    TooBig(usize),
    TooBigTogether,
}

/// A whole stream.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) messages: Vec<Message>,
    pub(crate) fault: Fault,
    /// Of the mask keys.
    pub(crate) seed: u64,
}

impl Script {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut keys = self.seed;
        let mut key = move || {
            keys = keys.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            Some(((keys >> 32) as u32).to_le_bytes())
        };
        let mut bytes = Vec::new();
        for message in &self.messages {
            for (first, payload) in message.frames() {
                bytes.extend(frame_as(first, &payload, LengthForm::Minimal, key()));
            }
        }
        bytes.extend(self.fault.bytes());
        bytes
    }

    /// Everything that must come out, and the end.
    pub(crate) fn outcome(&self) -> (Vec<Owned>, End) {
        let mut items: Vec<Owned> = self.messages.iter().flat_map(Message::items).collect();
        let end = match &self.fault {
            Fault::None => End::Quiet,
            Fault::Close(close) => {
                items.push(Owned::Close(close.clone()));
                End::Closed
            }
            fault => fault.violation().map_or(End::Quiet, End::Broken),
        };
        (items, end)
    }
}

impl Message {
    fn fragments(&self) -> Vec<&[u8]> {
        let mut cuts: Vec<usize> = self.cuts.iter().map(|cut| (*cut).min(self.payload.len())).collect();
        cuts.sort_unstable();
        let mut start = 0;
        let mut fragments = Vec::new();
        for end in cuts.into_iter().chain([self.payload.len()]) {
            fragments.push(&self.payload[start..end]);
            start = end;
        }
        fragments
    }

    fn controls_before(&self, index: usize) -> impl Iterator<Item = (bool, &Vec<u8>)> {
        self.controls
            .iter()
            .filter(move |(at, ..)| *at == index)
            .map(|(_, is_ping, payload)| (*is_ping, payload))
    }

    /// First byte and payload of each frame.
    fn frames(&self) -> Vec<(u8, Vec<u8>)> {
        let fragments = self.fragments();
        let mut frames = Vec::new();
        for (index, fragment) in fragments.iter().enumerate() {
            for (is_ping, payload) in self.controls_before(index) {
                frames.push((if is_ping { 0x89 } else { 0x8A }, payload.clone()));
            }
            let opcode = match (index, self.is_text) {
                (0, true) => 1,
                (0, false) => 2,
                _ => 0,
            };
            let fin = if index + 1 == fragments.len() { 0x80 } else { 0 };
            frames.push((opcode | fin, fragment.to_vec()));
        }
        frames
    }

    fn items(&self) -> Vec<Owned> {
        let mut items = Vec::new();
        for index in 0..self.fragments().len() {
            for (is_ping, payload) in self.controls_before(index) {
                items.push(if is_ping { Owned::Ping(payload.clone()) } else { Owned::Pong(payload.clone()) });
            }
        }
        let payload = self.payload.clone();
        items.push(if self.is_text { Owned::Text(payload) } else { Owned::Binary(payload) });
        items
    }
}

impl Fault {
    fn bytes(&self) -> Vec<u8> {
        let frame = |first, payload: &[u8]| super::frame(first, payload);
        match self {
            Self::None => vec![],
            Self::Close(None) => frame(0x88, b""),
            Self::Close(Some((code, reason))) => {
                frame(0x88, &[&code.to_be_bytes(), reason.as_bytes()].concat())
            }
            Self::Unmasked(opcode) => frame_as(0x80 | opcode, b"plain", LengthForm::Minimal, None),
            Self::ReservedBits(bits) => frame(0x81 | (bits << 4), b"x"),
            Self::ReservedOpcode(opcode) => frame(0x80 | opcode, b"x"),
            Self::NotMinimal(form) => frame_as(0x82, &[7; 5], *form, Some(KEY)),
            Self::TopBit => header(0x82, 1 << 63, LengthForm::SixtyFour, Some(KEY)),
            Self::LongControl(opcode) => frame(0x80 | opcode, &[b'x'; 126]),
            Self::FragmentedControl(opcode) => frame(*opcode, b"x"),
            Self::StrayContinuation => frame(0x80, b"x"),
            Self::NestedMessage(opcode) => [frame(0x02, b"x"), frame(0x80 | opcode, b"y")].concat(),
            Self::CloseOfOneByte => frame(0x88, b"\x03"),
            Self::CloseCode(code) => frame(0x88, &code.to_be_bytes()),
            Self::CloseReason => frame(0x88, b"\x03\xE8caf\xE9"),
            Self::Text(bad, false) => frame(0x81, &[b"valid ", *bad].concat()),
            Self::Text(bad, true) => [frame(0x01, &bad[..1]), frame(0x80, &bad[1..])].concat(),
            Self::TooBig(over) => frame(0x82, &vec![0; LIMIT + over]),
            Self::TooBigTogether => [frame(0x02, &[0; LIMIT]), frame(0x00, b""), frame(0x80, b"x")].concat(),
        }
    }

    /// What it must be called.
    pub(crate) fn violation(&self) -> Option<Violation> {
        Some(match self {
            Self::None | Self::Close(_) => return None,
            Self::Unmasked(_) => Violation::Unmasked,
            Self::ReservedBits(_) => Violation::ReservedBits,
            Self::ReservedOpcode(_) => Violation::ReservedOpcode,
            Self::NotMinimal(_) | Self::TopBit => Violation::BadLength,
            Self::LongControl(_) => Violation::LongControl,
            Self::FragmentedControl(_) => Violation::FragmentedControl,
            Self::StrayContinuation => Violation::UnexpectedContinuation,
            Self::NestedMessage(_) => Violation::ContinuationExpected,
            Self::CloseOfOneByte | Self::CloseCode(_) => Violation::BadClose,
            Self::CloseReason | Self::Text(..) => Violation::InvalidUtf8,
            Self::TooBig(_) | Self::TooBigTogether => Violation::TooBig,
        })
    }

    /// One of each.
    pub(crate) fn samples() -> Vec<Self> {
        let mut all = vec![Self::None, Self::Close(None), Self::Close(Some((3500, "bye".into())))];
        all.extend([1, 2, 8, 9, 10].map(Self::Unmasked));
        all.extend([1, 2, 4, 7].map(Self::ReservedBits));
        all.extend([3, 7, 11, 15].map(Self::ReservedOpcode));
        all.extend([
            Self::NotMinimal(LengthForm::Sixteen),
            Self::NotMinimal(LengthForm::SixtyFour),
            Self::TopBit,
        ]);
        all.extend([8, 9, 10].map(Self::LongControl));
        all.extend([8, 9, 10].map(Self::FragmentedControl));
        all.extend([
            Self::StrayContinuation,
            Self::NestedMessage(1),
            Self::NestedMessage(2),
            Self::CloseOfOneByte,
        ]);
        all.extend([0, 999, 1004, 1005, 1006, 1015, 2999, 5000].map(Self::CloseCode));
        all.push(Self::CloseReason);
        for bad in [b"\xC0\xAF".as_slice(), b"\xED\xA0\x80", b"\xF4\x90\x80\x80", b"\xE2\x82", b"\xE2\x82A"] {
            all.extend([Self::Text(bad, false), Self::Text(bad, true)]);
        }
        all.extend([Self::TooBig(1), Self::TooBig(70_000), Self::TooBigTogether]);
        all
    }
}

fn message() -> impl Strategy<Value = Message> {
    let payload = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..=LIMIT).prop_map(|payload| (payload, false)),
        prop::collection::vec(any::<char>(), 0..=LIMIT / 4)
            .prop_map(|text| (text.into_iter().collect::<String>().into_bytes(), true)),
        "[ -~]{0,200}".prop_map(|text| (text.into_bytes(), true)),
    ];
    let cuts = prop_oneof![2 => Just(vec![]), 1 => prop::collection::vec(0..LIMIT, 1..5)];
    let control = (0usize..5, any::<bool>(), prop::collection::vec(any::<u8>(), 0..=125));
    (payload, cuts, prop::collection::vec(control, 0..3))
        .prop_map(|((payload, is_text), cuts, controls)| Message { payload, is_text, cuts, controls })
}

/// Any stream with at most one fault.
pub(crate) fn script() -> impl Strategy<Value = Script> {
    let close = (prop::sample::select(vec![1000u16, 1001, 1012, 3000, 4999]), "[ -~]{0,123}")
        .prop_map(|close| Fault::Close(Some(close)));
    let fault = prop_oneof![1 => Just(Fault::None), 1 => close, 4 => prop::sample::select(Fault::samples())];
    (prop::collection::vec(message(), 0..4), fault, any::<u64>()).prop_map(|(messages, fault, seed)| Script {
        messages,
        fault,
        seed,
    })
}
