//! Decides on a WebSocket upgrade and answers it (RFC 6455 section 4.2, client-protocol.md section 1.2).
//!
//! Encoding: Protobuf if the subprotocol `centrifuge-protobuf` is offered or the query says `format=protobuf` or
//! `cf_protocol=protobuf`, else JSON. A known subprotocol that was offered is echoed, Protobuf before JSON; if none was
//! (an empty header offers none, as centrifuge-python before 0.7 sends it), the answer names none.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::wire::http::RequestHead;
use crate::wire::reject::Reject;

/// The subprotocol of JSON clients.
pub const JSON_SUBPROTOCOL: &str = "centrifuge-json";
/// The subprotocol of Protobuf clients.
pub const PROTOBUF_SUBPROTOCOL: &str = "centrifuge-protobuf";

/// An upgrade that can be granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upgrade<'a> {
    /// `Sec-WebSocket-Key`, 16 bytes in base64.
    pub key: &'a [u8],
    /// The client speaks Protobuf, not JSON.
    pub protobuf: bool,
    /// The subprotocol to name in the answer.
    pub subprotocol: Option<&'static str>,
    /// The client wants native pings instead of those of the client protocol (`cf_ws_frame_ping_pong=true`).
    pub native_ping: bool,
    /// The client can inflate messages (RFC 7692); an offer, which the answer does not take up yet.
    pub deflate: bool,
}

/// Checks the request for a WebSocket upgrade.
///
/// # Errors
/// 405, 505, 400 or 426, each with its reason; see [`Reject`].
pub fn check_upgrade<'a>(head: &RequestHead<'a>) -> Result<Upgrade<'a>, Reject> {
    if head.method() != "GET" {
        return Err(Reject::MethodNotAllowed);
    }
    if head.minor_version() == 0 {
        return Err(Reject::HttpVersion);
    }
    if head.has_body() {
        return Err(Reject::BadBody);
    }
    check_upgrade_headers(head)?;
    if single(head, "sec-websocket-version")? != Some(b"13") {
        return Err(Reject::WebSocketVersion);
    }
    let key = single(head, "sec-websocket-key")?.filter(|key| is_key(key)).ok_or(Reject::BadKey)?;
    let subprotocol = [PROTOBUF_SUBPROTOCOL, JSON_SUBPROTOCOL]
        .into_iter()
        .find(|name| tokens(head, "sec-websocket-protocol").any(|offered| offered == name.as_bytes()));
    let query = QueryOptions::of(head);
    Ok(Upgrade {
        key,
        protobuf: subprotocol == Some(PROTOBUF_SUBPROTOCOL) || query.protobuf,
        subprotocol,
        native_ping: query.native_ping,
        deflate: offers_deflate(head),
    })
}

impl Upgrade<'_> {
    /// Appends the 101 response.
    pub fn write_response(&self, out: &mut Vec<u8>) {
        let accept = tungstenite::handshake::derive_accept_key(self.key);
        out.extend_from_slice(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
        );
        out.extend_from_slice(accept.as_bytes());
        if let Some(subprotocol) = self.subprotocol {
            out.extend_from_slice(b"\r\nSec-WebSocket-Protocol: ");
            out.extend_from_slice(subprotocol.as_bytes());
        }
        out.extend_from_slice(b"\r\n\r\n");
    }
}

/// What the query asks for; unknown parameters are ignored.
#[derive(Default)]
struct QueryOptions {
    protobuf: bool,
    native_ping: bool,
}

impl QueryOptions {
    fn of(head: &RequestHead<'_>) -> Self {
        let mut options = Self::default();
        for (name, value) in head.query_params() {
            match (&*name, &*value) {
                ("format" | "cf_protocol", "protobuf") => options.protobuf = true,
                ("cf_ws_frame_ping_pong", "true") => options.native_ping = true,
                _ => {}
            }
        }
        options
    }
}

/// `Upgrade` must be `websocket` and nothing else; `Connection` must name it, among others and in any of its lines.
fn check_upgrade_headers(head: &RequestHead<'_>) -> Result<(), Reject> {
    let is_named = |name, token: &[u8]| tokens(head, name).any(|given| given.eq_ignore_ascii_case(token));
    if !is_named("upgrade", b"websocket") || !is_named("connection", b"upgrade") {
        return Err(Reject::UpgradeRequired);
    }
    let alone = single(head, "upgrade")?.is_some_and(|value| value.eq_ignore_ascii_case(b"websocket"));
    if alone { Ok(()) } else { Err(Reject::BadUpgrade) }
}

/// The value of a header that must not be repeated.
fn single<'a>(head: &RequestHead<'a>, name: &str) -> Result<Option<&'a [u8]>, Reject> {
    let mut values = head.header_values(name);
    let first = values.next();
    if values.next().is_some() { Err(Reject::BadUpgrade) } else { Ok(first) }
}

/// The elements of a comma-separated header over all its lines; empty ones are as good as none (RFC 9110 section 5.6.1).
fn tokens<'a>(head: &RequestHead<'a>, name: &str) -> impl Iterator<Item = &'a [u8]> {
    head.header_values(name).flat_map(|value| value.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
}

/// 16 bytes in canonical base64, so 24 characters.
fn is_key(key: &[u8]) -> bool {
    let mut nonce = [0; 18];
    STANDARD.decode_slice(key, &mut nonce) == Ok(16)
}

fn offers_deflate(head: &RequestHead<'_>) -> bool {
    tokens(head, "sec-websocket-extensions").any(|offer| {
        offer.split(|byte| *byte == b';').next().map(<[u8]>::trim_ascii)
            == Some(b"permessage-deflate".as_slice())
    })
}
