//! Replies to commands. Results borrow everything; each encoder appends one message.
//!
//! The caller answers for data: what goes to a JSON connection must be JSON (see `is_json`), except that newlines are
//! dropped here.

use super::Encoding;
use super::codes::ErrorCode;
use super::fields::{Field, Fields, Record, append, field};

/// Who a connection is, as other clients see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientInfo<'a> {
    /// User id, empty = anonymous.
    pub user: &'a str,
    /// Client id (UUID of the connection).
    pub client: &'a str,
    /// Info of the connection, from its token.
    pub conn_info: Option<&'a [u8]>,
    /// Info of the subscription, from its token.
    pub chan_info: Option<&'a [u8]>,
}

impl Record for ClientInfo<'_> {
    fn write<F: Fields>(&self, fields: &mut F) {
        fields.text_always(field!(1, "user"), self.user);
        fields.text_always(field!(2, "client"), self.client);
        fields.data(field!(3, "conn_info"), self.conn_info);
        fields.data(field!(4, "chan_info"), self.chan_info);
    }
}

/// A publication, in a push, a recovery or a history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublicationView<'a> {
    /// The payload; absent data is omitted.
    pub data: Option<&'a [u8]>,
    /// Who published; only for publications of clients.
    pub info: Option<ClientInfo<'a>>,
    /// Place in the stream, from 1; 0 without history.
    pub offset: u64,
    /// Tags in the order of the publisher.
    pub tags: &'a [(String, String)],
    /// `data` is a patch against the publication before.
    pub delta: bool,
    /// Unix milliseconds; 0 = not sent.
    pub time: i64,
    /// Epoch of the stream: only in the push of offset 1.
    pub epoch: Option<&'a str>,
}

impl Record for PublicationView<'_> {
    fn write<F: Fields>(&self, fields: &mut F) {
        fields.data(field!(4, "data"), self.data);
        if let Some(info) = &self.info {
            fields.message(field!(5, "info"), info);
        }
        fields.number(field!(6, "offset"), self.offset);
        fields.texts(field!(7, "tags"), self.tags);
        fields.flag(field!(8, "delta"), self.delta);
        fields.signed(field!(9, "time"), self.time);
        fields.text(field!(14, "epoch"), self.epoch.unwrap_or_default());
    }
}

/// Answer to `connect`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectResult<'a> {
    /// Client id (UUID of the connection).
    pub client: &'a str,
    /// Version of the server.
    pub version: &'a str,
    /// The client is expected to refresh its token within `ttl`.
    pub expires: bool,
    /// Seconds until expiry.
    pub ttl: u32,
    /// Custom data.
    pub data: Option<&'a [u8]>,
    /// Server-side subscriptions by channel; names must not repeat.
    pub subs: &'a [(&'a str, SubscribeResult<'a>)],
    /// Seconds between pings of the server; 0 = it never pings.
    pub ping: u32,
    /// The server wants its pings answered.
    pub pong: bool,
    /// Session id of emulated and unidirectional transports.
    pub session: &'a str,
    /// Node id for emulated transports.
    pub node: &'a str,
    /// Server time in Unix milliseconds; 0 = not sent.
    pub time: i64,
}

impl Record for ConnectResult<'_> {
    fn write<F: Fields>(&self, fields: &mut F) {
        fields.text(field!(1, "client"), self.client);
        fields.text(field!(2, "version"), self.version);
        fields.flag(field!(3, "expires"), self.expires);
        fields.number(field!(4, "ttl"), self.ttl.into());
        fields.data(field!(5, "data"), self.data);
        if !self.subs.is_empty() {
            fields
                .map_always(field!(6, "subs"), self.subs.iter().map(|(channel, result)| (*channel, *result)));
        }
        fields.number(field!(7, "ping"), self.ping.into());
        fields.flag(field!(8, "pong"), self.pong);
        fields.text(field!(9, "session"), self.session);
        fields.text(field!(10, "node"), self.node);
        fields.signed(field!(11, "time"), self.time);
    }
}

/// Answer to `subscribe`, and what a connect reply says about each server-side subscription.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscribeResult<'a> {
    /// The client is expected to refresh the subscription within `ttl`.
    pub expires: bool,
    /// Seconds until expiry.
    pub ttl: u32,
    /// The stream can be recovered after a reconnect.
    pub recoverable: bool,
    /// Epoch of the stream.
    pub epoch: &'a str,
    /// Missed publications in ascending order of their offsets.
    pub publications: &'a [PublicationView<'a>],
    /// Recovery succeeded.
    pub recovered: bool,
    /// Top of the stream; on a successful recovery the offset that the client asked for.
    pub offset: u64,
    /// The server watches the position of this subscription.
    pub positioned: bool,
    /// Custom data.
    pub data: Option<&'a [u8]>,
    /// The client asked for recovery.
    pub was_recovering: bool,
    /// Delta compression is granted.
    pub delta: bool,
}

impl Record for SubscribeResult<'_> {
    fn write<F: Fields>(&self, fields: &mut F) {
        fields.flag(field!(1, "expires"), self.expires);
        fields.number(field!(2, "ttl"), self.ttl.into());
        fields.flag(field!(3, "recoverable"), self.recoverable);
        fields.text(field!(6, "epoch"), self.epoch);
        fields.list(field!(7, "publications"), self.publications);
        fields.flag(field!(8, "recovered"), self.recovered);
        fields.number(field!(9, "offset"), self.offset);
        fields.flag(field!(10, "positioned"), self.positioned);
        fields.data(field!(11, "data"), self.data);
        fields.flag(field!(12, "was_recovering"), self.was_recovering);
        fields.flag(field!(13, "delta"), self.delta);
    }
}

/// Answer to `refresh`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RefreshResult<'a> {
    /// Client id (UUID of the connection).
    pub client: &'a str,
    /// Version of the server.
    pub version: &'a str,
    /// The new credentials expire too.
    pub expires: bool,
    /// Seconds until they do.
    pub ttl: u32,
}

impl Record for RefreshResult<'_> {
    fn write<F: Fields>(&self, fields: &mut F) {
        fields.text(field!(1, "client"), self.client);
        fields.text(field!(2, "version"), self.version);
        fields.flag(field!(3, "expires"), self.expires);
        fields.number(field!(4, "ttl"), self.ttl.into());
    }
}

/// Commands whose success has nothing to say but itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmptyKind {
    /// `"unsubscribe":{}`
    Unsubscribe,
    /// `"publish":{}`
    Publish,
}

/// Appends the error reply to command `id`.
pub fn encode_error(out: &mut Vec<u8>, encoding: Encoding, id: u32, error: ErrorCode) {
    append(out, encoding, &Reply { id, field: field!(2, "error"), result: error });
}

/// Appends the reply to `connect`.
pub fn encode_connect(out: &mut Vec<u8>, encoding: Encoding, id: u32, result: &ConnectResult<'_>) {
    append(out, encoding, &Reply { id, field: field!(5, "connect"), result: *result });
}

/// Appends the reply to `subscribe`.
pub fn encode_subscribe(out: &mut Vec<u8>, encoding: Encoding, id: u32, result: &SubscribeResult<'_>) {
    append(out, encoding, &Reply { id, field: field!(6, "subscribe"), result: *result });
}

/// Appends an empty result: present in both encodings, since SDKs read members of it.
pub fn encode_empty(out: &mut Vec<u8>, encoding: Encoding, id: u32, kind: EmptyKind) {
    let field = match kind {
        EmptyKind::Unsubscribe => field!(7, "unsubscribe"),
        EmptyKind::Publish => field!(8, "publish"),
    };
    append(out, encoding, &Reply { id, field, result: Empty });
}

/// Appends the reply to `presence`: every member under its client id, which must not repeat.
///
/// `members` is walked several times, since Protobuf wants lengths before contents.
pub fn encode_presence<'a>(
    out: &mut Vec<u8>,
    encoding: Encoding,
    id: u32,
    members: impl Iterator<Item = ClientInfo<'a>> + Clone,
) {
    append(out, encoding, &Reply { id, field: field!(9, "presence"), result: Presence(members) });
}

/// Appends the reply to `presence_stats`: connections and distinct users in the channel.
pub fn encode_presence_stats(
    out: &mut Vec<u8>,
    encoding: Encoding,
    id: u32,
    num_clients: u32,
    num_users: u32,
) {
    let result = PresenceStats { num_clients, num_users };
    append(out, encoding, &Reply { id, field: field!(10, "presence_stats"), result });
}

/// Appends the reply to `history`: publications in the asked order and the top of the stream.
pub fn encode_history(
    out: &mut Vec<u8>,
    encoding: Encoding,
    id: u32,
    publications: &[PublicationView<'_>],
    offset: u64,
    epoch: &str,
) {
    let result = HistoryResult { publications, offset, epoch };
    append(out, encoding, &Reply { id, field: field!(11, "history"), result });
}

/// Appends the reply to `rpc`.
pub fn encode_rpc(out: &mut Vec<u8>, encoding: Encoding, id: u32, data: Option<&[u8]>) {
    append(out, encoding, &Reply { id, field: field!(13, "rpc"), result: Data(data) });
}

/// Appends the reply to `refresh`.
pub fn encode_refresh(out: &mut Vec<u8>, encoding: Encoding, id: u32, result: &RefreshResult<'_>) {
    append(out, encoding, &Reply { id, field: field!(14, "refresh"), result: *result });
}

/// Appends the reply to `sub_refresh`; `ttl` in seconds.
pub fn encode_sub_refresh(out: &mut Vec<u8>, encoding: Encoding, id: u32, expires: bool, ttl: u32) {
    append(out, encoding, &Reply { id, field: field!(15, "sub_refresh"), result: Expiry { expires, ttl } });
}

/// Envelope of a result.
struct Reply<R> {
    id: u32,
    field: Field,
    result: R,
}

impl<R: Record> Record for Reply<R> {
    fn write<F: Fields>(&self, fields: &mut F) {
        fields.number(field!(1, "id"), self.id.into());
        fields.message(self.field, &self.result);
    }
}

impl Record for ErrorCode {
    fn write<F: Fields>(&self, fields: &mut F) {
        fields.number(field!(1, "code"), self.code().into());
        fields.text(field!(2, "message"), self.message());
        fields.flag(field!(3, "temporary"), self.temporary());
    }
}

struct Empty;

impl Record for Empty {
    fn write<F: Fields>(&self, _: &mut F) {}
}

struct Presence<I>(I);

impl<'a, I: Iterator<Item = ClientInfo<'a>> + Clone> Record for Presence<I> {
    fn write<F: Fields>(&self, fields: &mut F) {
        fields.map_always(field!(1, "presence"), self.0.clone().map(|info| (info.client, info)));
    }
}

struct PresenceStats {
    num_clients: u32,
    num_users: u32,
}

impl Record for PresenceStats {
    fn write<F: Fields>(&self, fields: &mut F) {
        fields.number_always(field!(1, "num_clients"), self.num_clients.into());
        fields.number_always(field!(2, "num_users"), self.num_users.into());
    }
}

struct HistoryResult<'a> {
    publications: &'a [PublicationView<'a>],
    offset: u64,
    epoch: &'a str,
}

impl Record for HistoryResult<'_> {
    fn write<F: Fields>(&self, fields: &mut F) {
        fields.list_always(field!(1, "publications"), self.publications);
        fields.text_always(field!(2, "epoch"), self.epoch);
        fields.number_always(field!(3, "offset"), self.offset);
    }
}

/// A message that is nothing but data: the result of an RPC, the `message` push.
pub(super) struct Data<'a>(pub(super) Option<&'a [u8]>);

impl Record for Data<'_> {
    fn write<F: Fields>(&self, fields: &mut F) {
        fields.data(field!(1, "data"), self.0);
    }
}

/// Expiry and seconds until it: the result of a subscription refresh, the `refresh` push.
pub(super) struct Expiry {
    pub(super) expires: bool,
    pub(super) ttl: u32,
}

impl Record for Expiry {
    fn write<F: Fields>(&self, fields: &mut F) {
        fields.flag(field!(1, "expires"), self.expires);
        fields.number(field!(2, "ttl"), self.ttl.into());
    }
}
