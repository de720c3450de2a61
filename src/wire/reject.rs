//! The refusals of HTTP requests: a closed list, each with its status, its headers, its counter and nothing of the input.

/// Why a request is refused. Every variant is one counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Reject {
    /// Not HTTP at all (a TLS ClientHello on the plain port): closed without a word.
    #[error("not HTTP")]
    NotHttp,
    /// The head breaks the grammar of RFC 9112.
    #[error("malformed request")]
    Malformed,
    /// No Host, several, or one that is no host.
    #[error("bad Host")]
    BadHost,
    /// Content-Length and Transfer-Encoding that contradict each other or themselves, or a body where none may be.
    #[error("bad body framing")]
    BadBody,
    /// An upgrade to WebSocket and something else, or one of its headers twice.
    #[error("bad upgrade")]
    BadUpgrade,
    /// `Sec-WebSocket-Key` is not 16 bytes in base64.
    #[error("bad key")]
    BadKey,
    /// No or bad credentials.
    #[error("unauthorized")]
    Unauthorized,
    /// An Origin that is not allowed.
    #[error("forbidden")]
    Forbidden,
    /// No such path.
    #[error("not found")]
    NotFound,
    /// Another method than GET.
    #[error("method not allowed")]
    MethodNotAllowed,
    /// The head did not arrive in time.
    #[error("request timeout")]
    Timeout,
    /// The target is over its limit.
    #[error("target too long")]
    TargetTooLong,
    /// No upgrade to WebSocket was asked for.
    #[error("upgrade required")]
    UpgradeRequired,
    /// Another version of the protocol than 13.
    #[error("unsupported WebSocket version")]
    WebSocketVersion,
    /// The head, or the number of its headers, is over its limit.
    #[error("head too large")]
    HeadTooLarge,
    /// No room, or draining; clients may come back after so many seconds.
    #[error("unavailable")]
    Unavailable {
        /// Seconds.
        retry_after: u16,
    },
    /// Another version of HTTP than 1.1.
    #[error("HTTP version not supported")]
    HttpVersion,
}

impl Reject {
    /// The status code; 400 for [`Self::NotHttp`], which is not answered.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::NotHttp
            | Self::Malformed
            | Self::BadHost
            | Self::BadBody
            | Self::BadUpgrade
            | Self::BadKey => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::Timeout => 408,
            Self::TargetTooLong => 414,
            Self::UpgradeRequired | Self::WebSocketVersion => 426,
            Self::HeadTooLarge => 431,
            Self::Unavailable { .. } => 503,
            Self::HttpVersion => 505,
        }
    }

    /// The value of the metric label `reason`.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::NotHttp => "not_http",
            Self::Malformed => "malformed",
            Self::BadHost => "bad_host",
            Self::BadBody => "bad_body",
            Self::BadUpgrade => "bad_upgrade",
            Self::BadKey => "bad_key",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::Timeout => "timeout",
            Self::TargetTooLong => "target_too_long",
            Self::UpgradeRequired => "upgrade_required",
            Self::WebSocketVersion => "websocket_version",
            Self::HeadTooLarge => "head_too_large",
            Self::Unavailable { .. } => "unavailable",
            Self::HttpVersion => "http_version",
        }
    }

    /// Appends the whole response, `Connection: close` included; nothing for [`Self::NotHttp`].
    pub fn write(self, out: &mut Vec<u8>) {
        if self == Self::NotHttp {
            return;
        }
        let phrase = self.phrase();
        out.extend_from_slice(b"HTTP/1.1 ");
        write_decimal(out, self.status());
        for part in [" ", phrase, "\r\nConnection: close\r\nContent-Type: text/plain\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
        self.write_headers(out);
        out.extend_from_slice(b"Content-Length: ");
        write_decimal(out, u16::try_from(phrase.len()).unwrap_or_default().saturating_add(1));
        for part in ["\r\n\r\n", phrase, "\n"] {
            out.extend_from_slice(part.as_bytes());
        }
    }

    /// Status phrase and body.
    fn phrase(self) -> &'static str {
        match self.status() {
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            408 => "Request Timeout",
            414 => "URI Too Long",
            426 => "Upgrade Required",
            431 => "Request Header Fields Too Large",
            503 => "Service Unavailable",
            505 => "HTTP Version Not Supported",
            _ => "Bad Request",
        }
    }

    /// Headers that only this refusal has.
    fn write_headers(self, out: &mut Vec<u8>) {
        match self {
            Self::Unauthorized => out.extend_from_slice(b"WWW-Authenticate: Bearer\r\n"),
            Self::MethodNotAllowed => out.extend_from_slice(b"Allow: GET\r\n"),
            Self::UpgradeRequired => out.extend_from_slice(b"Upgrade: websocket\r\n"),
            Self::WebSocketVersion => {
                out.extend_from_slice(b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n");
            }
            Self::Unavailable { retry_after } => {
                out.extend_from_slice(b"Retry-After: ");
                write_decimal(out, retry_after);
                out.extend_from_slice(b"\r\n");
            }
            _ => {}
        }
    }
}

/// Appends a number in decimal, without a heap detour.
fn write_decimal(out: &mut Vec<u8>, number: u16) {
    // Writing to a Vec cannot fail.
    let _ = std::io::Write::write_fmt(out, format_args!("{number}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Reject; 17] = [
        Reject::NotHttp,
        Reject::Malformed,
        Reject::BadHost,
        Reject::BadBody,
        Reject::BadUpgrade,
        Reject::BadKey,
        Reject::Unauthorized,
        Reject::Forbidden,
        Reject::NotFound,
        Reject::MethodNotAllowed,
        Reject::Timeout,
        Reject::TargetTooLong,
        Reject::UpgradeRequired,
        Reject::WebSocketVersion,
        Reject::HeadTooLarge,
        Reject::Unavailable { retry_after: 7 },
        Reject::HttpVersion,
    ];

    #[test]
    fn every_refusal_is_a_whole_response_of_its_status() {
        for reject in ALL.into_iter().filter(|reject| *reject != Reject::NotHttp) {
            let mut out = Vec::new();
            reject.write(&mut out);
            let mut headers = [httparse::EMPTY_HEADER; 16];
            let mut response = httparse::Response::new(&mut headers);
            let head = response.parse(&out).unwrap().unwrap();
            assert_eq!(response.code, Some(reject.status()), "{reject:?}");
            let find = |name| {
                let mut all = response.headers.iter().filter(|header| header.name == name);
                let value = all.next().map(|header| std::str::from_utf8(header.value).unwrap());
                assert!(all.next().is_none(), "{name} twice in {reject:?}");
                value
            };
            assert_eq!(find("Connection"), Some("close"));
            assert_eq!(find("Content-Length").unwrap().parse(), Ok(out.len() - head));
            assert_eq!(find("Retry-After"), (reject.status() == 503).then_some("7"));
            assert_eq!(find("Allow"), (reject.status() == 405).then_some("GET"));
            assert_eq!(find("Upgrade"), (reject.status() == 426).then_some("websocket"));
            let version = (reject == Reject::WebSocketVersion).then_some("13");
            assert_eq!(find("Sec-WebSocket-Version"), version);
        }
    }

    #[test]
    fn what_is_not_http_gets_no_http() {
        let mut out = Vec::new();
        Reject::NotHttp.write(&mut out);
        assert!(out.is_empty());
    }

    #[test]
    fn labels_are_distinct() {
        let labels: std::collections::HashSet<_> = ALL.iter().map(|reject| reject.label()).collect();
        assert_eq!(labels.len(), ALL.len());
    }
}
