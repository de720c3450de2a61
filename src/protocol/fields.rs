//! One layout for two encodings: a [`Record`] lists its fields once, in order, to a [`Fields`] that writes them as JSON,
//! as Protobuf, or only adds up their Protobuf length.
//!
//! Zero, empty, false and absent values are omitted by the plain methods; the `_always` methods keep them in JSON
//! (Protobuf omits them all the same, as proto3 does). Lengths of nested Protobuf messages are computed before their
//! bytes, by running the record against [`Length`]: no buffer besides `out`, no shifting of what is written.

use memchr::memchr;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use super::Encoding;
use super::json::write_json_string;

/// Number and name of a field; the name stands as JSON writes it, with quotes and colon.
#[derive(Clone, Copy)]
pub(super) struct Field {
    number: u32,
    key: &'static str,
}

impl Field {
    /// Use [`field!`]: `key` must be `"name":`.
    pub(super) const fn new(number: u32, key: &'static str) -> Self {
        Self { number, key }
    }
}

/// A [`Field`] from its number and its bare name.
macro_rules! field {
    ($number:literal, $name:literal) => {
        $crate::protocol::fields::Field::new($number, concat!("\"", $name, "\":"))
    };
}
pub(super) use field;

/// A message of the protocol: tells its fields to a writer, in the order of the wire.
pub(super) trait Record {
    fn write<F: Fields>(&self, fields: &mut F);
}

/// Key of a map entry and its value, in Protobuf.
const ENTRY_KEY: Field = field!(1, "key");
const ENTRY_VALUE: Field = field!(2, "value");

/// Takes the fields of one message.
pub(super) trait Fields: Sized {
    fn text(&mut self, field: Field, value: &str);
    fn text_always(&mut self, field: Field, value: &str);
    fn number(&mut self, field: Field, value: u64);
    fn number_always(&mut self, field: Field, value: u64);
    fn signed(&mut self, field: Field, value: i64);
    fn flag(&mut self, field: Field, value: bool);
    /// Data of the application: raw JSON there, bytes here. Nothing, or empty, is omitted.
    fn data(&mut self, field: Field, value: Option<&[u8]>);
    fn message<R: Record>(&mut self, field: Field, record: &R);
    /// Omitted when empty.
    fn list<R: Record>(&mut self, field: Field, records: &[R]);
    fn list_always<R: Record>(&mut self, field: Field, records: &[R]);
    /// Omitted when empty.
    fn texts(&mut self, field: Field, entries: &[(String, String)]);
    fn map_always<'k, R: Record>(
        &mut self,
        field: Field,
        entries: impl Iterator<Item = (&'k str, R)> + Clone,
    );
}

/// Appends one message to `out`: a JSON object without newline, or a Protobuf message behind its length.
pub(super) fn append<R: Record>(out: &mut Vec<u8>, encoding: Encoding, record: &R) {
    match encoding {
        Encoding::Json => Json { out, separate: false }.object(record),
        Encoding::Protobuf => {
            encode_varint(length_of(record), out);
            record.write(&mut Protobuf { out });
        }
    }
}

/// Writes JSON. `separate` says that a member stands before, so that a comma is due.
struct Json<'o> {
    out: &'o mut Vec<u8>,
    separate: bool,
}

impl Json<'_> {
    fn key(&mut self, field: Field) {
        if self.separate {
            self.out.push(b',');
        }
        self.separate = true;
        self.out.extend_from_slice(field.key.as_bytes());
    }

    fn object<R: Record>(&mut self, record: &R) {
        self.out.push(b'{');
        self.separate = false;
        record.write(self);
        self.separate = true;
        self.out.push(b'}');
    }

    fn integer(&mut self, value: impl itoa::Integer) {
        self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }
}

impl Fields for Json<'_> {
    fn text(&mut self, field: Field, value: &str) {
        if !value.is_empty() {
            self.text_always(field, value);
        }
    }

    fn text_always(&mut self, field: Field, value: &str) {
        self.key(field);
        write_json_string(self.out, value);
    }

    fn number(&mut self, field: Field, value: u64) {
        if value != 0 {
            self.number_always(field, value);
        }
    }

    fn number_always(&mut self, field: Field, value: u64) {
        self.key(field);
        self.integer(value);
    }

    fn signed(&mut self, field: Field, value: i64) {
        if value != 0 {
            self.key(field);
            self.integer(value);
        }
    }

    fn flag(&mut self, field: Field, value: bool) {
        if value {
            self.key(field);
            self.out.extend_from_slice(b"true");
        }
    }

    fn data(&mut self, field: Field, value: Option<&[u8]>) {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            self.key(field);
            write_without_newlines(self.out, value);
        }
    }

    fn message<R: Record>(&mut self, field: Field, record: &R) {
        self.key(field);
        self.object(record);
    }

    fn list<R: Record>(&mut self, field: Field, records: &[R]) {
        if !records.is_empty() {
            self.list_always(field, records);
        }
    }

    fn list_always<R: Record>(&mut self, field: Field, records: &[R]) {
        self.key(field);
        self.out.push(b'[');
        for (index, record) in records.iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            self.object(record);
        }
        self.out.push(b']');
    }

    fn texts(&mut self, field: Field, entries: &[(String, String)]) {
        if entries.is_empty() {
            return;
        }
        self.key(field);
        self.out.push(b'{');
        for (index, (key, value)) in entries.iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            write_json_string(self.out, key);
            self.out.push(b':');
            write_json_string(self.out, value);
        }
        self.out.push(b'}');
    }

    fn map_always<'k, R: Record>(
        &mut self,
        field: Field,
        entries: impl Iterator<Item = (&'k str, R)> + Clone,
    ) {
        self.key(field);
        self.out.push(b'{');
        for (index, (key, record)) in entries.enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            write_json_string(self.out, key);
            self.out.push(b':');
            self.object(&record);
        }
        self.out.push(b'}');
    }
}

/// Copies raw JSON, whose newlines can only stand between tokens, without them: they separate messages.
fn write_without_newlines(out: &mut Vec<u8>, mut data: &[u8]) {
    while let Some(at) = memchr(b'\n', data) {
        let (line, rest) = data.split_at(at);
        out.extend_from_slice(line);
        data = rest.get(1..).unwrap_or_default();
    }
    out.extend_from_slice(data);
}

/// What a Protobuf writer does with the pieces of a message; [`Fields`] is built on it once for both of its uses.
trait Pieces {
    fn varint(&mut self, field: Field, value: u64);
    fn bytes(&mut self, field: Field, value: &[u8]);
    fn nested<R: Record>(&mut self, field: Field, record: &R);
}

/// Writes Protobuf.
struct Protobuf<'o> {
    out: &'o mut Vec<u8>,
}

impl Pieces for Protobuf<'_> {
    fn varint(&mut self, field: Field, value: u64) {
        encode_key(field.number, WireType::Varint, self.out);
        encode_varint(value, self.out);
    }

    fn bytes(&mut self, field: Field, value: &[u8]) {
        encode_key(field.number, WireType::LengthDelimited, self.out);
        encode_varint(value.len() as u64, self.out);
        self.out.extend_from_slice(value);
    }

    fn nested<R: Record>(&mut self, field: Field, record: &R) {
        encode_key(field.number, WireType::LengthDelimited, self.out);
        encode_varint(length_of(record), self.out);
        record.write(self);
    }
}

/// Adds up the Protobuf length of a message, in bytes, without its own length prefix.
struct Length(u64);

fn length_of<R: Record>(record: &R) -> u64 {
    let mut length = Length(0);
    record.write(&mut length);
    length.0
}

impl Length {
    fn add(&mut self, field: Field, value: usize) {
        self.0 += (key_len(field.number) + value) as u64;
    }
}

impl Pieces for Length {
    fn varint(&mut self, field: Field, value: u64) {
        self.add(field, encoded_len_varint(value));
    }

    fn bytes(&mut self, field: Field, value: &[u8]) {
        self.add(field, encoded_len_varint(value.len() as u64) + value.len());
    }

    fn nested<R: Record>(&mut self, field: Field, record: &R) {
        let length = length_of(record);
        self.add(field, encoded_len_varint(length));
        self.0 += length;
    }
}

/// Entry of a map from text to text.
struct TextEntry<'a>(&'a str, &'a str);

impl Record for TextEntry<'_> {
    fn write<F: Fields>(&self, fields: &mut F) {
        fields.text(ENTRY_KEY, self.0);
        fields.text(ENTRY_VALUE, self.1);
    }
}

/// Entry of a map from text to messages.
struct Entry<'a, R>(&'a str, R);

impl<R: Record> Record for Entry<'_, R> {
    fn write<F: Fields>(&self, fields: &mut F) {
        fields.text(ENTRY_KEY, self.0);
        fields.message(ENTRY_VALUE, &self.1);
    }
}

impl<P: Pieces> Fields for P {
    fn text(&mut self, field: Field, value: &str) {
        if !value.is_empty() {
            self.bytes(field, value.as_bytes());
        }
    }

    fn text_always(&mut self, field: Field, value: &str) {
        self.text(field, value);
    }

    fn number(&mut self, field: Field, value: u64) {
        if value != 0 {
            self.varint(field, value);
        }
    }

    fn number_always(&mut self, field: Field, value: u64) {
        self.number(field, value);
    }

    fn signed(&mut self, field: Field, value: i64) {
        // int64 travels as its two's complement (Protobuf encoding guide, "More Integer Types").
        self.number(field, value.cast_unsigned());
    }

    fn flag(&mut self, field: Field, value: bool) {
        self.number(field, u64::from(value));
    }

    fn data(&mut self, field: Field, value: Option<&[u8]>) {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            self.bytes(field, value);
        }
    }

    fn message<R: Record>(&mut self, field: Field, record: &R) {
        self.nested(field, record);
    }

    fn list<R: Record>(&mut self, field: Field, records: &[R]) {
        for record in records {
            self.nested(field, record);
        }
    }

    fn list_always<R: Record>(&mut self, field: Field, records: &[R]) {
        self.list(field, records);
    }

    fn texts(&mut self, field: Field, entries: &[(String, String)]) {
        for (key, value) in entries {
            self.nested(field, &TextEntry(key, value));
        }
    }

    fn map_always<'k, R: Record>(
        &mut self,
        field: Field,
        entries: impl Iterator<Item = (&'k str, R)> + Clone,
    ) {
        for (key, record) in entries {
            self.nested(field, &Entry(key, record));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newlines_between_tokens_are_dropped_and_nothing_else() {
        for (data, expected) in [
            ("{\"a\":1}", "{\"a\":1}"),
            ("\n{\n \"a\": 1,\r\n\t\"b\":2\n}\n", "{ \"a\": 1,\r\t\"b\":2}"),
            ("\n\n\n", ""),
        ] {
            let mut out = Vec::new();
            write_without_newlines(&mut out, data.as_bytes());
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
