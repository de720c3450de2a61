//! UTF-8 of text that arrives in pieces (RFC 6455 section 8.1): the first bad byte fails, a cut code point waits.

use crate::wire::message::Violation;

/// Checks a text that is complete.
///
/// # Errors
/// [`Violation::InvalidUtf8`].
pub fn check(text: &[u8]) -> Result<&str, Violation> {
    simdutf8::basic::from_utf8(text).map_err(|_| Violation::InvalidUtf8)
}

/// Checks a text of which more may follow. `valid` is what the previous call returned for a shorter prefix of the same
/// `text`, 0 at first; returns how many bytes are whole, valid code points. The bytes behind them (at most 3) begin a
/// code point that is still possible, so the cost over all calls is linear in the text.
///
/// # Errors
/// [`Violation::InvalidUtf8`] as soon as no continuation can make the text valid.
pub fn check_prefix(text: &[u8], valid: usize) -> Result<usize, Violation> {
    let fresh = text.get(valid..).unwrap_or_default();
    match simdutf8::compat::from_utf8(fresh) {
        Ok(_) => Ok(text.len()),
        Err(error) if error.error_len().is_none() => Ok(valid.saturating_add(error.valid_up_to())),
        Err(_) => Err(Violation::InvalidUtf8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `text` in steps of `step` bytes; the index of the byte that made it fail, or `None`.
    fn fails_at(text: &[u8], step: usize) -> Option<usize> {
        let mut valid = 0;
        let mut end = 0;
        while end < text.len() {
            end = (end + step).min(text.len());
            match check_prefix(&text[..end], valid) {
                Ok(now) => valid = now,
                Err(_) => return Some(end - 1),
            }
        }
        None
    }

    #[test]
    fn the_first_bad_byte_is_the_one_that_fails() {
        let cases: &[(&[u8], Option<usize>)] = &[
            (b"plain", None),
            ("κόσμε 𝄞 \u{10FFFF}".as_bytes(), None),
            (b"a\xC0\xAF", Some(1)),
            (b"a\xC1", Some(1)),
            (b"\xE0\x9F\xBF", Some(1)),
            (b"\xED\xA0\x80", Some(1)),
            (b"\xF0\x8F\xBF\xBF", Some(1)),
            (b"\xF4\x90\x80\x80", Some(1)),
            (b"\xF5", Some(0)),
            (b"\xFF", Some(0)),
            (b"ok\x80", Some(2)),
            (b"\xE2\x82z", Some(2)),
            (b"\xF0\x9D\x84A", Some(3)),
        ];
        for (text, expected) in cases {
            assert_eq!(fails_at(text, 1), *expected, "{text:02x?}");
            assert_eq!(fails_at(text, text.len()).is_some(), expected.is_some(), "{text:02x?}");
        }
    }

    #[test]
    fn every_scalar_value_may_be_cut_anywhere() {
        let mut buffer = [0; 4];
        for scalar in (0..=0x0010_FFFF).step_by(7).filter_map(char::from_u32) {
            let text = scalar.encode_utf8(&mut buffer).as_bytes();
            assert_eq!(fails_at(text, 1), None, "{scalar:?}");
        }
    }

    #[test]
    fn a_cut_code_point_is_not_yet_valid() {
        assert_eq!(check_prefix("aé".as_bytes(), 0), Ok(3));
        assert_eq!(check_prefix(b"a\xC3", 0), Ok(1));
        assert!(check(b"a\xC3").is_err());
    }
}
