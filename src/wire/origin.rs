//! The browser's `Origin` (RFC 6454), normalised and matched with patterns (rows A14 to A16 of the fault table).
//!
//! An origin is `scheme://host` with an optional port and nothing else; what has userinfo, a path or a character no host
//! can have is refused before any pattern is looked at, so that no pattern can be fooled by it.

/// Which origins may connect.
#[derive(Clone, Copy, Debug)]
pub enum OriginRule<'a> {
    /// All of them, malformed ones too.
    Any,
    /// Those that one of the patterns matches; see [`matches()`].
    Patterns(&'a [String]),
}

/// True if a request with this `Origin` header may go on. One without it comes from no browser page and always may.
#[must_use]
pub fn origin_allowed(origin: Option<&[u8]>, rule: OriginRule<'_>) -> bool {
    let (Some(origin), OriginRule::Patterns(patterns)) = (origin, rule) else { return true };
    patterns.iter().any(|pattern| matches(pattern, origin))
}

/// True if `pattern` matches the whole origin, ignoring case and the scheme's default port on both sides. `*` stands for any
/// run of characters, `?` for one; the pattern `*` matches everything, an opaque origin (`null`) otherwise only `null`.
#[must_use]
pub fn matches(pattern: &str, origin: &[u8]) -> bool {
    if pattern == "*" {
        return true;
    }
    if origin == b"null" {
        return pattern == "null";
    }
    is_origin(origin) && glob(without_default_port(pattern.as_bytes()), without_default_port(origin))
}

/// True for `scheme://host` or `scheme://host:port`.
fn is_origin(origin: &[u8]) -> bool {
    let Some((scheme, authority)) = split_scheme(origin) else { return false };
    let Some((host, port)) = split_port(authority) else { return false };
    scheme.first().is_some_and(u8::is_ascii_alphabetic)
        && scheme.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte))
        && is_host(host)
        && port.is_none_or(|port| (1..=5).contains(&port.len()) && port.iter().all(u8::is_ascii_digit))
}

/// A registered name, an IPv4 address or an IPv6 address in brackets. A page's host is ASCII: browsers send IDN encoded.
fn is_host(host: &[u8]) -> bool {
    if let [b'[', address @ .., b']'] = host {
        return !address.is_empty()
            && address.iter().all(|byte| byte.is_ascii_hexdigit() || b":.".contains(byte));
    }
    !host.is_empty() && host.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(byte))
}

fn split_scheme(origin: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = origin.iter().position(|byte| *byte == b':')?;
    let (scheme, rest) = origin.split_at_checked(colon)?;
    Some((scheme, rest.strip_prefix(b"://")?))
}

/// Host and port; `None` where a colon stands alone.
fn split_port(authority: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let host_end = if authority.first() == Some(&b'[') {
        authority.iter().position(|byte| *byte == b']')?.checked_add(1)?
    } else {
        authority.iter().position(|byte| *byte == b':').unwrap_or(authority.len())
    };
    match authority.split_at_checked(host_end)? {
        (host, []) => Some((host, None)),
        (host, [b':', port @ ..]) => Some((host, Some(port))),
        _ => None,
    }
}

fn without_default_port(origin: &[u8]) -> &[u8] {
    let Some((scheme, _)) = split_scheme(origin) else { return origin };
    let suffix: &[u8] = match scheme {
        scheme if scheme.eq_ignore_ascii_case(b"http") => b":80",
        scheme if scheme.eq_ignore_ascii_case(b"https") => b":443",
        _ => return origin,
    };
    origin.strip_suffix(suffix).unwrap_or(origin)
}

/// Matches the whole text. Where a run of `*` fails, only the last one grows: at most pattern × text steps.
fn glob(mut pattern: &[u8], mut text: &[u8]) -> bool {
    let mut star: Option<(&[u8], &[u8])> = None;
    while let [character, text_rest @ ..] = text {
        match pattern {
            [b'*', rest @ ..] => {
                star = Some((rest, text));
                pattern = rest;
            }
            [expected, rest @ ..] if *expected == b'?' || expected.eq_ignore_ascii_case(character) => {
                pattern = rest;
                text = text_rest;
            }
            _ => {
                let Some((after_star, [_, next @ ..])) = star else { return false };
                star = Some((after_star, next));
                pattern = after_star;
                text = next;
            }
        }
    }
    pattern.iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a15_only_the_same_scheme_host_and_port_match() {
        let cases = [
            ("https://good.example", true),
            ("HTTPS://Good.Example", true),
            ("https://good.example:443", true),
            ("https://good.example:8443", false),
            ("http://good.example", false),
            ("https://good.example.evil.com", false),
            ("https://good.example.", false),
            ("https://user@good.example", false),
            ("https://good.example@evil.com", false),
            ("https://good.example/", false),
            ("https://good.examplé", false),
            ("https://good.example:", false),
            ("https:/good.example", false),
            ("null", false),
            ("", false),
        ];
        let rule = [String::from("https://good.example")];
        for (origin, expected) in cases {
            assert_eq!(
                origin_allowed(Some(origin.as_bytes()), OriginRule::Patterns(&rule)),
                expected,
                "{origin}"
            );
        }
    }

    #[test]
    fn globs_cannot_be_fooled() {
        let cases = [
            ("https://*.good.example", "https://a.good.example", true),
            ("https://*.good.example", "https://a.b.good.example", true),
            ("https://*.good.example", "https://good.example", false),
            ("https://*.good.example", "https://evil.com/.good.example", false),
            ("https://*.good.example", "https://evil.com#.good.example", false),
            ("https://*.good.example", "https://evil.com:1@.good.example", false),
            ("http://localhost:*", "http://localhost:3000", true),
            ("http://localhost:*", "http://localhost:3000.evil.com", false),
            ("*good*ex?mple", "https://a.good.b.example", true),
            ("*good*ex?mple", "https://a.good.b.exmple", false),
            ("http://[::1]:3000", "http://[::1]:3000", true),
            ("http://[::1]", "http://[::1]:80", true),
            ("http://[*]", "http://[]", false),
            ("null", "null", true),
            ("nul*", "null", false),
            ("*", "null", true),
        ];
        for (pattern, origin, expected) in cases {
            assert_eq!(matches(pattern, origin.as_bytes()), expected, "{pattern} {origin}");
        }
    }

    #[test]
    fn a14_no_origin_passes_and_an_empty_list_refuses_every_origin() {
        assert!(origin_allowed(None, OriginRule::Patterns(&[])));
        assert!(!origin_allowed(Some(b"https://good.example"), OriginRule::Patterns(&[])));
        assert!(origin_allowed(Some(b"anything at all"), OriginRule::Any));
    }
}
