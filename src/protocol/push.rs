//! Pushes: what the server says without being asked, and its pings.

use super::Encoding;
use super::fields::{Field, Fields, Record, append, field};
use super::reply::{ClientInfo, Data, Expiry, PublicationView, SubscribeResult};

/// Appends a publication to subscribers of `channel`.
pub fn encode_push_publication(
    out: &mut Vec<u8>,
    encoding: Encoding,
    channel: &str,
    publication: &PublicationView<'_>,
) {
    append(out, encoding, &Push { channel, field: field!(4, "pub"), body: *publication });
}

/// Appends the news that a client joined `channel`.
pub fn encode_push_join(out: &mut Vec<u8>, encoding: Encoding, channel: &str, info: &ClientInfo<'_>) {
    append(out, encoding, &Push { channel, field: field!(5, "join"), body: Member(*info) });
}

/// Appends the news that a client left `channel`.
pub fn encode_push_leave(out: &mut Vec<u8>, encoding: Encoding, channel: &str, info: &ClientInfo<'_>) {
    append(out, encoding, &Push { channel, field: field!(6, "leave"), body: Member(*info) });
}

/// Appends the end of a subscription. `reason` must not be empty: SDKs read it unconditionally.
pub fn encode_push_unsubscribe(
    out: &mut Vec<u8>,
    encoding: Encoding,
    channel: &str,
    code: u32,
    reason: &str,
) {
    append(
        out,
        encoding,
        &Push { channel, field: field!(7, "unsubscribe"), body: Unsubscribe { code, reason } },
    );
}

/// Appends a message to this connection alone, outside any channel.
pub fn encode_push_message(out: &mut Vec<u8>, encoding: Encoding, data: &[u8]) {
    append(out, encoding, &Push { channel: "", field: field!(8, "message"), body: Data(Some(data)) });
}

/// Appends a server-side subscription made after connect. Of `result` only `recoverable`, `epoch`, `offset`,
/// `positioned` and `data` exist in this push.
pub fn encode_push_subscribe(
    out: &mut Vec<u8>,
    encoding: Encoding,
    channel: &str,
    result: &SubscribeResult<'_>,
) {
    append(out, encoding, &Push { channel, field: field!(9, "subscribe"), body: Subscribe(*result) });
}

/// Appends the last message of a transport without close codes. `reason` must not be empty.
pub fn encode_push_disconnect(out: &mut Vec<u8>, encoding: Encoding, code: u16, reason: &str) {
    append(
        out,
        encoding,
        &Push { channel: "", field: field!(11, "disconnect"), body: Disconnect { code, reason } },
    );
}

/// Appends a changed expiry of the connection; `ttl` in seconds.
pub fn encode_push_refresh(out: &mut Vec<u8>, encoding: Encoding, expires: bool, ttl: u32) {
    append(out, encoding, &Push { channel: "", field: field!(12, "refresh"), body: Expiry { expires, ttl } });
}

/// Appends a ping: an empty reply.
pub fn encode_ping(out: &mut Vec<u8>, encoding: Encoding) {
    out.extend_from_slice(match encoding {
        Encoding::Json => b"{}",
        Encoding::Protobuf => b"\0",
    });
}

/// A push and the reply around it.
struct Push<'a, R> {
    channel: &'a str,
    field: Field,
    body: R,
}

impl<R: Record> Record for Push<'_, R> {
    fn write<F: Fields>(&self, fields: &mut F) {
        fields.message(field!(4, "push"), &Inner(self));
    }
}

struct Inner<'p, 'a, R>(&'p Push<'a, R>);

impl<R: Record> Record for Inner<'_, '_, R> {
    fn write<F: Fields>(&self, fields: &mut F) {
        fields.text(field!(2, "channel"), self.0.channel);
        fields.message(self.0.field, &self.0.body);
    }
}

/// Body of `join` and `leave`.
struct Member<'a>(ClientInfo<'a>);

impl Record for Member<'_> {
    fn write<F: Fields>(&self, fields: &mut F) {
        fields.message(field!(1, "info"), &self.0);
    }
}

struct Unsubscribe<'a> {
    code: u32,
    reason: &'a str,
}

impl Record for Unsubscribe<'_> {
    fn write<F: Fields>(&self, fields: &mut F) {
        fields.number(field!(2, "code"), self.code.into());
        fields.text(field!(3, "reason"), self.reason);
    }
}

/// Numbered otherwise than the result of the same name.
struct Subscribe<'a>(SubscribeResult<'a>);

impl Record for Subscribe<'_> {
    fn write<F: Fields>(&self, fields: &mut F) {
        fields.flag(field!(1, "recoverable"), self.0.recoverable);
        fields.text(field!(4, "epoch"), self.0.epoch);
        fields.number(field!(5, "offset"), self.0.offset);
        fields.flag(field!(6, "positioned"), self.0.positioned);
        fields.data(field!(7, "data"), self.0.data);
    }
}

struct Disconnect<'a> {
    code: u16,
    reason: &'a str,
}

impl Record for Disconnect<'_> {
    fn write<F: Fields>(&self, fields: &mut F) {
        fields.number(field!(1, "code"), self.code.into());
        fields.text(field!(2, "reason"), self.reason);
    }
}
