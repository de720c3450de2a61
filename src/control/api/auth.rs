//! Who may call the server API: whoever shows the key.

use std::net::IpAddr;

use axum::http::{HeaderMap, Uri, header};
use subtle::ConstantTimeEq;

use super::Refusal;
use crate::control::settings::ApiSettings;

/// Lets the request in, or says why not.
///
/// Where no key is asked for, a browser must not be made to call by any website that its user looks at: calls of pages
/// have an `Origin`, and those of a page whose name was rebound to this address have its domain as `Host`.
pub(super) fn admit(settings: &ApiSettings, headers: &HeaderMap, uri: &Uri) -> Result<(), Refusal> {
    if !is_allowed(settings, headers, uri) {
        return Err(Refusal::Key);
    }
    if settings.insecure && (headers.contains_key(header::ORIGIN) || !is_local_name(headers)) {
        return Err(Refusal::Website);
    }
    Ok(())
}

/// An address, or a name without a domain such as `localhost` or that of a container: nobody can register it.
fn is_local_name(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else { return true };
    let Ok(host) = host.to_str() else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    bare.parse::<IpAddr>().is_ok() || !name.contains('.')
}

/// True if the request shows the key in `X-API-Key`, in `Authorization: apikey KEY` or in `?api_key=`, or if none is
/// asked for. The first of the three that is present counts.
fn is_allowed(settings: &ApiSettings, headers: &HeaderMap, uri: &Uri) -> bool {
    if settings.insecure {
        return true;
    }
    let Some(key) = settings.key.as_deref().filter(|key| !key.is_empty()) else { return false };
    let shown = in_header(headers).map_or_else(|| in_query(uri), Some);
    shown.is_some_and(|shown| same(key.as_bytes(), &shown))
}

/// Takes as long for a near miss as for a far one; only the length of the key can be measured.
fn same(key: &[u8], shown: &[u8]) -> bool {
    key.ct_eq(shown).into()
}

fn in_header(headers: &HeaderMap) -> Option<Vec<u8>> {
    if let Some(shown) = headers.get("x-api-key") {
        return Some(shown.as_bytes().to_vec());
    }
    let (scheme, key) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("apikey").then(|| key.trim().as_bytes().to_vec())
}

fn in_query(uri: &Uri) -> Option<Vec<u8>> {
    #[derive(serde::Deserialize)]
    struct Query {
        api_key: Option<String>,
    }
    let query = axum::extract::Query::<Query>::try_from_uri(uri).ok()?;
    query.0.api_key.map(String::into_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(settings: &ApiSettings, headers: &[(&'static str, &'static str)], uri: &'static str) -> bool {
        let headers =
            headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        is_allowed(settings, &headers, &Uri::from_static(uri))
    }

    #[test]
    fn the_key_opens_in_three_places() {
        let settings = ApiSettings { key: Some("k e+y".to_owned()), ..ApiSettings::default() };
        assert!(allowed(&settings, &[("x-api-key", "k e+y")], "/api/info"));
        assert!(allowed(&settings, &[("authorization", "apikey k e+y")], "/api/info"));
        assert!(allowed(&settings, &[("authorization", "ApiKey k e+y")], "/api/info"));
        assert!(allowed(&settings, &[], "/api/info?a=1&api_key=k+e%2By"));
    }

    #[test]
    fn nothing_else_does() {
        let settings = ApiSettings { key: Some("secret".to_owned()), ..ApiSettings::default() };
        let refused: &[&[(&'static str, &'static str)]] = &[
            &[],
            &[("x-api-key", "")],
            &[("x-api-key", "secre")],
            &[("x-api-key", "secrets")],
            &[("authorization", "secret")],
            &[("authorization", "Bearer secret")],
        ];
        for headers in refused {
            assert!(!allowed(&settings, headers, "/api/info"), "{headers:?}");
        }
        assert!(!allowed(&settings, &[("x-api-key", "wrong")], "/api/info?api_key=secret"));
    }

    #[test]
    fn without_a_key_no_website_gets_in() {
        let open = ApiSettings { insecure: true, ..ApiSettings::default() };
        let locked = ApiSettings { key: Some("k".to_owned()), ..ApiSettings::default() };
        let from = |settings: &ApiSettings, headers: &[(&'static str, &'static str)]| {
            let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            admit(settings, &headers.collect(), &Uri::from_static("/api/info?api_key=k"))
        };
        for host in
            ["127.0.0.1:9000", "10.1.2.3", "[::1]:80", "[fe80::1]", "localhost:1", "millpond:8001", "gateway"]
        {
            assert_eq!(from(&open, &[("host", host)]), Ok(()), "{host}");
        }
        for host in ["evil.example", "evil.example:9000", "127.0.0.1.evil.example", "localhost.:80"] {
            assert_eq!(from(&open, &[("host", host)]), Err(Refusal::Website), "{host}");
            assert_eq!(from(&locked, &[("host", host)]), Ok(()), "whoever has the key comes from anywhere");
        }
        assert_eq!(
            from(&open, &[("host", "localhost"), ("origin", "https://evil.example")]),
            Err(Refusal::Website)
        );
    }

    #[test]
    fn without_a_key_nobody_gets_in_unless_insecure() {
        for key in [None, Some(String::new())] {
            let mut settings = ApiSettings { key, ..ApiSettings::default() };
            assert!(!allowed(&settings, &[("x-api-key", "")], "/api/info?api_key="));
            settings.insecure = true;
            assert!(allowed(&settings, &[], "/api/info"));
        }
    }
}
