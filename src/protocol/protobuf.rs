//! Reading Protobuf without copies, on prost's keys and varints.
//!
//! Stricter than Protobuf demands, since no encoder of this protocol does otherwise: a known field with another wire type,
//! a number beyond its type, text that is not UTF-8 and a group are faults, not surprises to be read in some way. Nothing
//! recurses but over the types of the protocol: what is unknown is skipped by its length.
#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

use prost::encoding::{WireType, decode_key, decode_varint};

use super::command::Malformed;
use super::schema::{Draft, Message};

/// Decodes one command, without its length prefix.
pub(super) fn command(message: &[u8]) -> Result<Draft<'_>, Malformed> {
    Wire::Bytes(message).message()
}

/// Cuts a length and so many bytes off `rest`; `None` if they are not there.
pub(super) fn delimited<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = decode_varint(rest).ok()?;
    cut(rest, usize::try_from(length).ok()?)
}

fn cut<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (bytes, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some(bytes)
}

/// The content of a field.
#[derive(Clone, Copy)]
pub(super) enum Wire<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// Four or eight bytes: no field of the protocol is of this type.
    Fixed,
}

impl<'a> Wire<'a> {
    pub(super) fn varint(self) -> Result<u64, Malformed> {
        match self {
            Self::Varint(value) => Ok(value),
            Self::Bytes(_) | Self::Fixed => Err(Malformed::Protobuf),
        }
    }

    pub(super) fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Varint(_) | Self::Fixed => Err(Malformed::Protobuf),
        }
    }

    pub(super) fn text(self) -> Result<&'a str, Malformed> {
        simdutf8::basic::from_utf8(self.bytes()?).map_err(|_| Malformed::Utf8)
    }

    pub(super) fn fields(self) -> Result<FieldsIn<'a>, Malformed> {
        self.bytes().map(|rest| FieldsIn { rest })
    }

    /// Reads the field as a message into `target`.
    pub(super) fn merge<T: Message<'a>>(self, target: &mut T) -> Result<(), Malformed> {
        for field in self.fields()? {
            let (number, wire) = field?;
            target.protobuf(number, wire)?;
        }
        Ok(())
    }

    /// Reads the field as a message.
    pub(super) fn message<T: Message<'a>>(self) -> Result<T, Malformed> {
        let mut target = T::default();
        self.merge(&mut target)?;
        Ok(target)
    }
}

/// The fields of a message: number and content. Meant to be left at the first fault.
pub(super) struct FieldsIn<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for FieldsIn<'a> {
    type Item = Result<(u32, Wire<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        (!self.rest.is_empty()).then(|| self.field().ok_or(Malformed::Protobuf))
    }
}

impl<'a> FieldsIn<'a> {
    fn field(&mut self) -> Option<(u32, Wire<'a>)> {
        let (number, wire_type) = decode_key(&mut self.rest).ok()?;
        let wire = match wire_type {
            WireType::Varint => Wire::Varint(decode_varint(&mut self.rest).ok()?),
            WireType::LengthDelimited => Wire::Bytes(delimited(&mut self.rest)?),
            WireType::ThirtyTwoBit => cut(&mut self.rest, 4).map(|_| Wire::Fixed)?,
            WireType::SixtyFourBit => cut(&mut self.rest, 8).map(|_| Wire::Fixed)?,
            WireType::StartGroup | WireType::EndGroup => return None,
        };
        Some((number, wire))
    }
}
