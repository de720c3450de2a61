//! Parameters that stand in an object of JSON.

use serde::Deserialize;

/// Reads parameters. `None` for anything but an object of the expected form: serde would fill a struct from an array as
/// well, by the order of its members, which nobody who writes one can mean.
pub(crate) fn object<'b, T: Deserialize<'b>>(json: &'b [u8]) -> Option<T> {
    let is_object = json.trim_ascii_start().starts_with(b"{");
    if is_object { serde_json::from_slice(json).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Params {
        offset: u64,
    }

    #[test]
    fn an_object_and_nothing_else() {
        for text in [r#"{"offset":7}"#, " \t\r\n{\"offset\":7, \"more\":[]} "] {
            assert_eq!(object(text.as_bytes()), Some(Params { offset: 7 }), "{text}");
        }
        for text in ["[7]", " [7]", "7", "", "{}", "null", r#"{"offset":7}x"#, r#"{"offset":-7}"#] {
            assert_eq!(object::<Params>(text.as_bytes()), None, "{text}");
        }
    }
}
