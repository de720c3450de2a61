//! JSON: reading commands with serde_json, judging raw values, writing strings.
//!
//! serde_json recurses only over the types of the protocol; raw and ignored values it skips with a loop. How deep those nest
//! is bounded here, by a second look at their brackets. A lone surrogate escape is a fault in a command, in its data too:
//! JSON allows to write it, but it is no text, and strict parsers of subscribers fail on it. Repeated keys and huge numbers
//! are faults in the envelope only; inside data they are valid JSON and the application's own affair.
#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use memchr::{memchr, memchr2, memchr2_iter};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::command::Malformed;
use super::schema::{Draft, Message};
use super::value::{ENTRIES, Value};

/// Levels of nesting in data of the application.
const DATA_DEPTH: usize = 128;

/// Levels of nesting in an ignored member. It lies four objects deep at most (command, connect, subs, subscription), so the
/// envelope as a whole stays within 32.
const IGNORED_DEPTH: usize = 28;

/// Decodes one command from one line.
pub(super) fn command(line: &[u8]) -> Result<Draft<'_>, Malformed> {
    let text = simdutf8::basic::from_utf8(line).map_err(|_| Malformed::Utf8)?;
    let object: Object<Draft<'_>> = serde_json::from_str(text).map_err(|_| Malformed::Json)?;
    Ok(object.0)
}

/// Whether `bytes` are one JSON value, nested at most 128 levels: fit to be sent to a JSON connection as data.
///
/// Takes time linear in the length and does not recurse.
#[must_use]
pub fn is_json(bytes: &[u8]) -> bool {
    let Ok(text) = simdutf8::basic::from_utf8(bytes) else { return false };
    serde_json::from_str::<&RawValue>(text).is_ok_and(|raw| nests_within(raw.get(), DATA_DEPTH))
}

/// Appends `text` as a JSON string, with quotes. Escapes what RFC 8259 section 7 demands and nothing else.
pub fn write_json_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|byte| needs_escape(*byte)) {
        let (plain, behind) = rest.split_at(at);
        out.extend_from_slice(plain);
        if let Some((byte, behind)) = behind.split_first() {
            write_escape(out, *byte);
            rest = behind;
        }
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

fn needs_escape(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

fn write_escape(out: &mut Vec<u8>, byte: u8) {
    let short = match byte {
        b'"' | b'\\' => byte,
        0x08 => b'b',
        0x0c => b'f',
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        _ => {
            let digit = |nibble: u8| char::from_digit(nibble.into(), 16).map_or(b'0', |digit| digit as u8);
            return out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 0xf)]);
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

/// Text or `null`; borrowed unless it holds escapes.
pub(super) struct Text<'a>(pub(super) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_option(TextVisitor).map(Self)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Cow<'de, str>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a string")
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Cow::default())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}

/// A raw value, `null` included, bounded in depth and free of lone surrogates. It holds no newline: the line had none.
pub(super) struct Payload<'a>(pub(super) &'a [u8]);

impl<'de: 'a, 'a> Deserialize<'de> for Payload<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?.get();
        if nests_within(raw, DATA_DEPTH) && !has_lone_surrogate(raw) {
            Ok(Self(raw.as_bytes()))
        } else {
            Err(D::Error::custom("data nests too deep or holds a lone surrogate"))
        }
    }
}

/// The value of an unknown member.
struct Ignored;

impl<'de> Deserialize<'de> for Ignored {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?.get();
        if nests_within(raw, IGNORED_DEPTH) { Ok(Self) } else { Err(D::Error::custom("nests too deep")) }
    }
}

/// A message from a JSON object: unknown members are ignored, a repeated one is a fault.
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Message<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData)).map(Self)
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Message<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
        let mut target = T::default();
        let mut seen = 0_u32;
        while let Some(name) = map.next_key::<Text<'de>>()? {
            let Some(number) = T::number(&name.0) else {
                map.next_value::<Ignored>()?;
                continue;
            };
            let bit = 1_u32.checked_shl(number).unwrap_or_default();
            if seen & bit != 0 {
                return Err(A::Error::custom("repeated member"));
            }
            seen |= bit;
            target.json(number, &mut map)?;
        }
        Ok(target)
    }
}

/// A map from a JSON object: a repeated key is a fault.
pub(super) struct Entries<'a, V>(pub(super) Vec<(Cow<'a, str>, V)>);

impl<'de: 'a, 'a, V: Value<'de>> Deserialize<'de> for Entries<'a, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor(PhantomData)).map(Self)
    }
}

struct EntriesVisitor<V>(PhantomData<V>);

impl<'de, V: Value<'de>> Visitor<'de> for EntriesVisitor<V> {
    type Value = Vec<(Cow<'de, str>, V)>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Text<'de>>()? {
            if entries.len() == ENTRIES {
                return Err(A::Error::custom("too many entries"));
            }
            entries.push((key.0, V::json(&mut map)?));
        }
        let mut keys: Vec<&str> = entries.iter().map(|(key, _)| key.as_ref()).collect();
        keys.sort_unstable();
        if keys.is_sorted_by(|before, after| before < after) {
            Ok(entries)
        } else {
            Err(A::Error::custom("repeated key"))
        }
    }
}

/// Whether the arrays and objects of `json`, a valid value, nest at most `limit` levels.
///
/// Nearly always there are fewer brackets in all than levels allowed, which is quick to see.
fn nests_within(json: &str, limit: usize) -> bool {
    let few = memchr2_iter(b'[', b'{', json.as_bytes()).nth(limit).is_none();
    few || deepest(json.as_bytes()) <= limit
}

fn deepest(mut rest: &[u8]) -> usize {
    let mut depth = 0_usize;
    let mut deepest = 0;
    while let Some((byte, behind)) = rest.split_first() {
        rest = behind;
        match byte {
            b'[' | b'{' => {
                depth = depth.saturating_add(1);
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => rest = behind_string(rest),
            _ => {}
        }
    }
    deepest
}

/// What follows a string whose opening quote is already read.
fn behind_string(mut rest: &[u8]) -> &[u8] {
    while let Some((_, behind)) = memchr2(b'"', b'\\', rest).and_then(|at| rest.split_at_checked(at)) {
        match behind {
            [b'\\', _, behind @ ..] => rest = behind,
            [b'"', behind @ ..] => return behind,
            _ => break,
        }
    }
    &[]
}

/// Whether `json`, a valid value, escapes half of a surrogate pair without the other half.
fn has_lone_surrogate(json: &str) -> bool {
    let mut rest = json.as_bytes();
    while let Some((_, behind)) = memchr(b'\\', rest).and_then(|at| rest.split_at_checked(at)) {
        rest = match behind {
            [b'\\', b'u', first, second, tail @ ..] if is_surrogate(*first, *second) => match tail {
                [_, _, b'\\', b'u', low @ ..] if is_high(*second) && starts_low(low) => low,
                _ => return true,
            },
            [_, _, behind @ ..] => behind,
            _ => return false,
        };
    }
    false
}

/// Whether an escape that starts with these two hexadecimal digits stands for U+D800 to U+DFFF.
fn is_surrogate(first: u8, second: u8) -> bool {
    first.eq_ignore_ascii_case(&b'd') && matches!(second, b'8' | b'9' | b'a'..=b'f' | b'A'..=b'F')
}

/// Whether a surrogate with this second digit is the first half of a pair.
fn is_high(second: u8) -> bool {
    matches!(second, b'8' | b'9' | b'a' | b'b' | b'A' | b'B')
}

/// Whether hexadecimal digits start the second half of a pair.
fn starts_low(digits: &[u8]) -> bool {
    matches!(digits, [first, second, ..] if is_surrogate(*first, *second) && !is_high(*second))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> String {
        let mut out = Vec::new();
        write_json_string(&mut out, text);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn strings_are_escaped_as_serde_json_does() {
        let every_byte: String = (0..=0x7f_u8).map(char::from).collect();
        for text in
            ["", "plain", "\"", "\\", "\\\"", "a\"b", "é\u{2028}😀\u{fffd}", "\u{0}", &every_byte, "<&>/"]
        {
            assert_eq!(written(text), serde_json::to_string(text).unwrap());
        }
    }

    #[test]
    fn one_json_value_and_nothing_else_is_json() {
        for json in
            ["null", " 1 ", "-0.5e+7", "\"\"", "[]", "{\"a\":[1,{}]}", "{\n}\n", "1e999", r#""\ud800""#]
        {
            assert!(is_json(json.as_bytes()), "{json}");
        }
        for not in
            ["", " ", "hello", "{", "[1,]", "1 2", "{\"a\":1}x", "'a'", "NaN", "01", "\u{feff}1", "\"\n\""]
        {
            assert!(!is_json(not.as_bytes()), "{not}");
        }
        assert!(!is_json(b"\"\xff\""));
        assert!(!is_json(b"\xff"));
    }

    fn nested(levels: usize) -> String {
        ["[".repeat(levels), "]".repeat(levels)].concat()
    }

    #[test]
    fn json_nests_128_levels_at_most() {
        assert!(is_json(nested(128).as_bytes()));
        assert!(!is_json(nested(129).as_bytes()));
        let wide = format!("[{}1]", "[\"]\\\"}\", {\"[\": 1}],".repeat(1000));
        assert!(is_json(wide.as_bytes()), "brackets in strings and side by side do not nest");
    }

    #[test]
    fn depth_is_that_of_brackets_outside_strings() {
        for (json, depth) in [
            ("1", 0),
            ("[]", 1),
            ("[{},[]]", 2),
            (r#"["[[[[", "\"[[", "\\", [1]]"#, 2),
            (r#"{"[{": "\\\"{{{"}"#, 1),
            ("[[[]],[[[1]]]]", 4),
        ] {
            assert_eq!(deepest(json.as_bytes()), depth, "{json}");
            assert!(nests_within(json, depth));
            assert!(depth == 0 || !nests_within(json, depth - 1), "{json}");
        }
    }

    #[test]
    fn surrogates_come_in_pairs() {
        for paired in
            ["\"\"", r#""\ud83d\ude00""#, r#""\uD83D\uDE00x\u0041""#, r#""\\ud800""#, r#""\ud7ff\ue000""#]
        {
            assert!(!has_lone_surrogate(paired), "{paired}");
        }
        for lone in [
            r#""\ud800""#,
            r#""\uDFFF""#,
            r#""\ud83dx""#,
            r#""\ud83d\n""#,
            r#""\ud83d\u0041""#,
            r#""\ud83d\ud83d\ude00""#,
            r#""\ude00\ud83d""#,
            r#""\\\ud800""#,
            r#"["\ud800", "\udc00"]"#,
        ] {
            assert!(has_lone_surrogate(lone), "{lone}");
        }
    }
}
