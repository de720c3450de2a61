//! `X-Millpond-Signature`: that a request is by this server, not older than its backend accepts, and unchanged.

use std::fmt::Write as _;

use aws_lc_rs::hmac;

/// `t=…,v1=…`: Unix seconds, and the HMAC-SHA-256 over them, a dot and the body, in hexadecimal. The time is part of what
/// is signed, so that a backend can refuse what is sent again later by somebody else.
pub(super) fn sign(secret: &str, unix_seconds: u64, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let mut context = hmac::Context::with_key(&key);
    context.update(unix_seconds.to_string().as_bytes());
    context.update(b".");
    context.update(body);
    let mut header = format!("t={unix_seconds},v1=");
    for byte in context.sign().as_ref() {
        // Writing to a string cannot fail.
        let _ = write!(header, "{byte:02x}");
    }
    header
}

#[cfg(test)]
mod tests {
    use super::sign;

    #[test]
    fn the_signature_is_what_other_tools_compute() {
        // printf '1700000000.{"events":[]}' | openssl dgst -sha256 -hmac whsec_0123456789
        assert_eq!(
            sign("whsec_0123456789", 1_700_000_000, br#"{"events":[]}"#),
            "t=1700000000,v1=52c135cd6738303fa2dad83c8356cea52a12cf3e3ea8a0a2a659c85aa93ecb25"
        );
    }
}
