//! Request heads of HTTP/1.1 (RFC 9112) within hard caps (rows H01 to H37 of the fault table).
//!
//! Two passes, each linear: [`HeadScan`] looks at every byte once as it arrives, finds the end of the head and refuses at
//! once what cannot become a request or passes a cap; then httparse takes the whole head apart in one go. A head that was
//! accepted has strict CRLF line ends, no folded lines, an acceptable Host and an unambiguous body length.

use std::borrow::Cow;
use std::mem::MaybeUninit;

use smallvec::SmallVec;

use crate::wire::reject::Reject;

pub use crate::wire::head_scan::HeadScan;

/// Most headers a head may ever have, whatever the limits say.
pub const MAX_HEADERS: usize = 64;

/// Headers that are kept without an allocation; browsers send 12 to 18.
const INLINE_HEADERS: usize = 20;

/// Caps of a request head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes of the whole head, the empty line included: beyond, 431.
    pub head: usize,
    /// Headers, at most [`MAX_HEADERS`]: beyond, 431.
    pub headers: usize,
    /// Bytes of the target: beyond, 414.
    pub target: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self { head: 8192, headers: MAX_HEADERS, target: 4096 }
    }
}

/// A whole request head, borrowed from the bytes it came in.
#[derive(Clone, Debug)]
pub struct RequestHead<'a> {
    method: &'a str,
    target: &'a str,
    minor_version: u8,
    headers: SmallVec<[httparse::Header<'a>; INLINE_HEADERS]>,
    length: usize,
}

/// Looks for a whole request head at the start of `bytes`: everything received so far, each time. `scan` remembers how far
/// an earlier call came, so that no byte is looked at twice; it starts as its default. `None`: more bytes are needed, and
/// fewer than `limits.head` have arrived.
///
/// # Errors
/// The refusal, as soon as no continuation can make the request acceptable.
pub fn parse_head<'a>(
    bytes: &'a [u8],
    scan: &mut HeadScan,
    limits: &HeadLimits,
) -> Result<Option<RequestHead<'a>>, Reject> {
    let Some(length) = scan.advance(bytes, limits)? else { return Ok(None) };
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(bytes.get(..length).unwrap_or_default(), &mut headers) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(Reject::Malformed),
        Err(httparse::Error::TooManyHeaders) => return Err(Reject::HeadTooLarge),
        Err(httparse::Error::Version) => return Err(Reject::HttpVersion),
        Err(_) => return Err(Reject::Malformed),
    }
    let method = request.method.ok_or(Reject::Malformed)?;
    let target = request.path.ok_or(Reject::Malformed)?;
    let minor_version = request.version.ok_or(Reject::Malformed)?;
    let headers = SmallVec::from_slice(request.headers);
    let head = RequestHead { method, target, minor_version, headers, length };
    head.check_host()?;
    head.check_body()?;
    head.check_target()?;
    Ok(Some(head))
}

impl<'a> RequestHead<'a> {
    /// The method, in upper case.
    #[must_use]
    pub fn method(&self) -> &'a str {
        self.method
    }

    /// 0 for HTTP/1.0, 1 for HTTP/1.1.
    #[must_use]
    pub fn minor_version(&self) -> u8 {
        self.minor_version
    }

    /// Bytes of the head, the empty line included: what follows them is the body, or the first frames.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }

    /// The path as sent, without decoding (`%2e%2e` and `//` stay what they are and match nothing).
    #[must_use]
    pub fn path(&self) -> &'a str {
        self.target.split_once('?').map_or(self.target, |(path, _)| path)
    }

    /// The query as sent, without the question mark; empty where there is none.
    #[must_use]
    pub fn query(&self) -> &'a str {
        self.target.split_once('?').map_or("", |(_, query)| query)
    }

    /// The parameters of the query in order, form-decoded.
    pub fn query_params(&self) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> {
        form_urlencoded::parse(self.query().as_bytes())
    }

    /// The first value of a query parameter, form-decoded.
    #[must_use]
    pub fn query_param(&self, name: &str) -> Option<Cow<'a, str>> {
        self.query_params().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// All headers in order, names as sent, values without the whitespace around them.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        self.headers.iter().map(|header| (header.name, header.value))
    }

    /// All values of a header, in order.
    pub fn header_values(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.headers().filter(move |(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The first value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.header_values(name).next()
    }

    /// The `Origin` of the page that asks; `None` outside of browsers. Several are as good as a foreign one: the first counts
    /// only if it is alone.
    #[must_use]
    pub fn origin(&self) -> Option<&'a [u8]> {
        let mut values = self.header_values("origin");
        let first = values.next()?;
        Some(if values.next().is_some() { b"" } else { first })
    }

    /// Host and port the client meant; empty only with HTTP/1.0.
    #[must_use]
    pub fn host(&self) -> &'a [u8] {
        self.header("host").unwrap_or_default()
    }

    /// The first address of `X-Forwarded-For`: to be believed only behind a proxy that sets it.
    #[must_use]
    pub fn forwarded_for(&self) -> Option<&'a [u8]> {
        let value = self.header("x-forwarded-for")?;
        value.split(|byte| *byte == b',').next().map(<[u8]>::trim_ascii)
    }

    /// Bytes of the body that `Content-Length` announces; `None` where it is absent.
    #[must_use]
    pub fn content_length(&self) -> Option<u64> {
        decimal(self.header("content-length")?)
    }

    /// True if a body follows the head.
    #[must_use]
    pub fn has_body(&self) -> bool {
        self.header("transfer-encoding").is_some() || self.content_length().is_some_and(|length| length > 0)
    }

    /// RFC 9112 section 3.2: exactly one Host, and HTTP/1.0 may do without.
    fn check_host(&self) -> Result<(), Reject> {
        let mut hosts = self.header_values("host");
        match (hosts.next(), hosts.next()) {
            (Some(host), None) if is_host(host) => Ok(()),
            (None, None) if self.minor_version == 0 => Ok(()),
            _ => Err(Reject::BadHost),
        }
    }

    /// RFC 9112 section 6.3, without its leniencies: two readers of one message must never disagree about its end.
    fn check_body(&self) -> Result<(), Reject> {
        let mut lengths = self.header_values("content-length");
        let length = lengths.next();
        let mut encodings = self.header_values("transfer-encoding");
        let encoding = encodings.next();
        let is_ambiguous = lengths.next().is_some() || encodings.next().is_some();
        match (length, encoding) {
            _ if is_ambiguous => Err(Reject::BadBody),
            (Some(_), Some(_)) => Err(Reject::BadBody),
            (Some(length), None) if decimal(length).is_none() => Err(Reject::BadBody),
            (None, Some(encoding))
                if self.minor_version == 0 || !encoding.eq_ignore_ascii_case(b"chunked") =>
            {
                Err(Reject::BadBody)
            }
            _ => Ok(()),
        }
    }

    /// RFC 9112 section 3.2.1: we are an origin server, so the target is a path. CONNECT has another form and is refused.
    fn check_target(&self) -> Result<(), Reject> {
        if self.target.starts_with('/') {
            return Ok(());
        }
        Err(if self.method == "CONNECT" { Reject::MethodNotAllowed } else { Reject::Malformed })
    }
}

/// `uri-host [":" port]`, roughly: the characters of RFC 3986 without userinfo and path.
fn is_host(host: &[u8]) -> bool {
    !host.is_empty()
        && host.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:[]%".contains(byte))
}

/// A number of digits and nothing else.
fn decimal(digits: &[u8]) -> Option<u64> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}
