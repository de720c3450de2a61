//! How a member of each type is taken from JSON and from Protobuf.

use std::borrow::Cow;

use serde::de::MapAccess;

use super::command::Malformed;
use super::json;
use super::protobuf::Wire;
use super::schema::Message;

/// Entries of a map at most: one for each channel that a connection can have (`channel_limit` is at most 65,535). One takes
/// a few bytes on the wire and two hundred in memory. In Protobuf the empty entry takes two; a run of them is one entry.
pub(super) const ENTRIES: usize = 65_536;

/// A member's type.
pub(super) trait Value<'a>: Default {
    /// Takes the next value of a JSON object; `null` is the default.
    fn json<M: MapAccess<'a>>(map: &mut M) -> Result<Self, M::Error>;
    /// Takes a Protobuf field into `self`.
    fn protobuf(&mut self, wire: Wire<'a>) -> Result<(), Malformed>;
}

/// Scalars: serde knows their JSON form; in Protobuf each is a varint.
macro_rules! scalar {
    ($type:ty, $from_varint:expr) => {
        impl<'a> Value<'a> for $type {
            fn json<M: MapAccess<'a>>(map: &mut M) -> Result<Self, M::Error> {
                Ok(map.next_value::<Option<Self>>()?.unwrap_or_default())
            }

            fn protobuf(&mut self, wire: Wire<'a>) -> Result<(), Malformed> {
                let from_varint: fn(u64) -> Option<Self> = $from_varint;
                *self = from_varint(wire.varint()?).ok_or(Malformed::Protobuf)?;
                Ok(())
            }
        }
    };
}

scalar!(bool, |varint| Some(varint != 0));
scalar!(u32, |varint| Self::try_from(varint).ok());
scalar!(u64, Some);
scalar!(i32, |varint| Self::try_from(varint.cast_signed()).ok());
scalar!(i64, |varint| Some(varint.cast_signed()));

impl<'a> Value<'a> for Cow<'a, str> {
    fn json<M: MapAccess<'a>>(map: &mut M) -> Result<Self, M::Error> {
        map.next_value::<json::Text<'a>>().map(|text| text.0)
    }

    fn protobuf(&mut self, wire: Wire<'a>) -> Result<(), Malformed> {
        *self = Cow::Borrowed(wire.text()?);
        Ok(())
    }
}

/// Data of the application. An empty one, which only Protobuf can express, is absent.
impl<'a> Value<'a> for Option<Cow<'a, [u8]>> {
    fn json<M: MapAccess<'a>>(map: &mut M) -> Result<Self, M::Error> {
        map.next_value::<json::Payload<'a>>().map(|payload| Some(Cow::Borrowed(payload.0)))
    }

    fn protobuf(&mut self, wire: Wire<'a>) -> Result<(), Malformed> {
        *self = Some(wire.bytes()?).filter(|bytes| !bytes.is_empty()).map(Cow::Borrowed);
        Ok(())
    }
}

impl<'a, T: Message<'a>> Value<'a> for T {
    fn json<M: MapAccess<'a>>(map: &mut M) -> Result<Self, M::Error> {
        Ok(Option::<T>::json(map)?.unwrap_or_default())
    }

    fn protobuf(&mut self, wire: Wire<'a>) -> Result<(), Malformed> {
        wire.merge(self)
    }
}

impl<'a, T: Message<'a>> Value<'a> for Option<T> {
    fn json<M: MapAccess<'a>>(map: &mut M) -> Result<Self, M::Error> {
        map.next_value::<Option<json::Object<T>>>().map(|object| object.map(|object| object.0))
    }

    fn protobuf(&mut self, wire: Wire<'a>) -> Result<(), Malformed> {
        wire.merge(self.get_or_insert_default())
    }
}

/// A map with text keys, in the order of its coming. Keys do not repeat in JSON; in Protobuf the last one counts, which is
/// for the reader to see to.
impl<'a, V: Value<'a>> Value<'a> for Vec<(Cow<'a, str>, V)> {
    fn json<M: MapAccess<'a>>(map: &mut M) -> Result<Self, M::Error> {
        Ok(map.next_value::<Option<json::Entries<'a, V>>>()?.map(|entries| entries.0).unwrap_or_default())
    }

    fn protobuf(&mut self, wire: Wire<'a>) -> Result<(), Malformed> {
        let mut entry: (Cow<'a, str>, V) = Default::default();
        for field in wire.fields()? {
            match field? {
                (1, wire) => entry.0.protobuf(wire)?,
                (2, wire) => entry.1.protobuf(wire)?,
                _ => {}
            }
        }
        let is_full = self.len() == ENTRIES;
        match self.last_mut() {
            Some(last) if last.0 == entry.0 => *last = entry,
            _ if is_full => return Err(Malformed::Protobuf),
            _ => self.push(entry),
        }
        Ok(())
    }
}
