//! The claims as they stand in a token, and their conversion into what they grant (client-protocol.md section 7).
//!
//! Text and raw JSON are borrowed from the decoded payload; an owned copy is made only of what is granted.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{ConnectionClaims, MAX_TTL_SECONDS, ServerSub, SubscriptionClaims, TokenFault};
use crate::hub::api::Overrides;
use crate::protocol::is_json;

/// Claims of both kinds of token; those of the other kind are read for their type only.
#[derive(Deserialize)]
pub(super) struct Claims<'b> {
    #[serde(borrow, default)]
    pub(super) sub: Option<Text<'b>>,
    pub(super) exp: Option<NumericDate>,
    pub(super) nbf: Option<NumericDate>,
    #[serde(borrow, default)]
    pub(super) iss: Option<Text<'b>>,
    #[serde(borrow, default)]
    pub(super) aud: Audience<'b>,
    expire_at: Option<NumericDate>,
    #[serde(borrow)]
    info: Option<&'b RawValue>,
    #[serde(borrow, default)]
    b64info: Option<Text<'b>>,
    #[serde(borrow)]
    meta: Option<&'b RawValue>,
    #[serde(borrow, default)]
    channels: Option<Vec<Text<'b>>>,
    #[serde(borrow, default)]
    subs: Option<Subs<'b>>,
    #[serde(borrow, default)]
    channel: Option<Text<'b>>,
    #[serde(borrow, default)]
    client: Option<Text<'b>>,
    #[serde(borrow)]
    data: Option<&'b RawValue>,
    #[serde(borrow, default)]
    b64data: Option<Text<'b>>,
    #[serde(rename = "override", default)]
    overrides: Option<WireOverrides>,
}

impl Claims<'_> {
    /// What the token grants to a connection.
    pub(super) fn grant_connection(
        self,
        user: String,
        expiry: &Expiry,
    ) -> Result<ConnectionClaims, TokenFault> {
        let meta_is_object = self.meta.is_none_or(|meta| meta.get().starts_with('{'));
        if self.channel.is_some() || !meta_is_object {
            return Err(TokenFault::Invalid);
        }
        let subs = match self.subs {
            Some(subs) if !subs.0.is_empty() => server_subs(subs)?,
            _ => plain_subs(self.channels.unwrap_or_default()),
        };
        Ok(ConnectionClaims {
            user,
            expire_at: expiry.resolve(self.exp, self.expire_at),
            info: payload(self.info, self.b64info.as_ref())?,
            subs,
            meta: self.meta.map(one_line),
        })
    }

    /// What the token grants to a subscription.
    pub(super) fn grant_subscription(
        self,
        user: String,
        expiry: &Expiry,
    ) -> Result<SubscriptionClaims, TokenFault> {
        let channel = self.channel.filter(|channel| !channel.0.is_empty()).ok_or(TokenFault::Invalid)?;
        Ok(SubscriptionClaims {
            user,
            channel: channel.0.into_owned(),
            client: self.client.filter(|client| !client.0.is_empty()).map(|client| client.0.into_owned()),
            expire_at: expiry.resolve(self.exp, self.expire_at),
            info: payload(self.info, self.b64info.as_ref())?,
            data: payload(self.data, self.b64data.as_ref())?,
            overrides: self.overrides.unwrap_or_default().into(),
        })
    }
}

/// The moment of verification and what is made of expiry.
pub(super) struct Expiry {
    pub(super) now_unix: u64,
    pub(super) ignored: bool,
}

impl Expiry {
    /// `expire_at` overrides `exp` (0 = never); a grant lasts at most [`MAX_TTL_SECONDS`]. A token inside the leeway is
    /// accepted, hence lives for one more second.
    fn resolve(&self, exp: Option<NumericDate>, expire_at: Option<NumericDate>) -> u64 {
        if self.ignored {
            return 0;
        }
        let moment = match (expire_at, exp) {
            (Some(at), _) => at.0,
            (None, Some(exp)) => exp.0.max(self.now_unix.saturating_add(1)),
            (None, None) => 0,
        };
        moment.min(self.now_unix.saturating_add(MAX_TTL_SECONDS))
    }
}

/// A claim that must be text, by its configured name; `None` if it is something else, empty if it is absent.
pub(super) fn text_claim(payload: &[u8], name: &str) -> Option<String> {
    /// Finds one member of an object and skips the others.
    struct Find<'n>(&'n str);
    impl<'de> Visitor<'de> for Find<'_> {
        type Value = Option<String>;
        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("an object of claims")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut found = None;
            while let Some(key) = map.next_key::<Text<'de>>()? {
                if key.0 == self.0 {
                    found = map.next_value::<Option<String>>()?;
                } else {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            Ok(found)
        }
    }
    let mut json = serde_json::Deserializer::from_slice(payload);
    json.deserialize_map(Find(name)).ok().map(Option::unwrap_or_default)
}

/// Text that is borrowed where it holds no escapes, also inside an `Option` or a `Vec`.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct Text<'b>(#[serde(borrow)] pub(super) Cow<'b, str>);

/// Seconds since 1970 (RFC 7519 section 2). Fractions are cut off, moments before 1970 count as 1970.
#[derive(Clone, Copy)]
pub(super) struct NumericDate(pub(super) u64);

impl<'de> Deserialize<'de> for NumericDate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = NumericDate;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a number of seconds")
            }
            fn visit_u64<E>(self, value: u64) -> Result<NumericDate, E> {
                Ok(NumericDate(value))
            }
            fn visit_i64<E>(self, value: i64) -> Result<NumericDate, E> {
                Ok(NumericDate(u64::try_from(value).unwrap_or(0)))
            }
            fn visit_f64<E>(self, value: f64) -> Result<NumericDate, E> {
                // The cast saturates at both ends.
                Ok(NumericDate(value as u64))
            }
        }
        deserializer.deserialize_any(Number)
    }
}

/// `aud`: one string or an array of them.
#[derive(Default)]
pub(super) struct Audience<'b>(Vec<Text<'b>>);

impl Audience<'_> {
    pub(super) fn any(&self, holds: impl Fn(&str) -> bool) -> bool {
        self.0.iter().any(|audience| holds(&audience.0))
    }
}

impl<'de: 'b, 'b> Deserialize<'de> for Audience<'b> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum OneOrMany<'b> {
            One(#[serde(borrow)] Text<'b>),
            Many(#[serde(borrow)] Vec<Text<'b>>),
            Null(()),
        }
        Ok(Self(match OneOrMany::deserialize(deserializer)? {
            OneOrMany::One(audience) => vec![audience],
            OneOrMany::Many(audiences) => audiences,
            OneOrMany::Null(()) => Vec::new(),
        }))
    }
}

/// `subs` in the order of the token.
struct Subs<'b>(Vec<(Text<'b>, WireSub<'b>)>);

impl<'de: 'b, 'b> Deserialize<'de> for Subs<'b> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Subs<'de>;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object of subscriptions")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Subs<'de>, A::Error> {
                let mut subs = Vec::new();
                while let Some((channel, sub)) = map.next_entry::<Text<'de>, Option<WireSub<'de>>>()? {
                    subs.push((channel, sub.unwrap_or_default()));
                }
                Ok(Subs(subs))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[derive(Default, Deserialize)]
struct WireSub<'b> {
    #[serde(borrow)]
    info: Option<&'b RawValue>,
    #[serde(borrow, default)]
    b64info: Option<Text<'b>>,
    #[serde(borrow)]
    data: Option<&'b RawValue>,
    #[serde(borrow, default)]
    b64data: Option<Text<'b>>,
    #[serde(rename = "override", default)]
    overrides: Option<WireOverrides>,
}

#[derive(Default, Deserialize)]
struct WireOverrides {
    presence: Option<Switch>,
    join_leave: Option<Switch>,
    force_push_join_leave: Option<Switch>,
    force_positioning: Option<Switch>,
    force_recovery: Option<Switch>,
}

/// `{"value": true}`; an empty object means false.
#[derive(Deserialize)]
struct Switch {
    #[serde(default)]
    value: bool,
}

impl From<WireOverrides> for Overrides {
    fn from(wire: WireOverrides) -> Self {
        let value = |switch: Option<Switch>| switch.map(|switch| switch.value);
        Self {
            presence: value(wire.presence),
            join_leave: value(wire.join_leave),
            force_push_join_leave: value(wire.force_push_join_leave),
            force_positioning: value(wire.force_positioning),
            force_recovery: value(wire.force_recovery),
        }
    }
}

fn server_subs(subs: Subs<'_>) -> Result<Vec<(String, ServerSub)>, TokenFault> {
    let mut seen = HashSet::with_capacity(subs.0.len());
    let mut granted = Vec::with_capacity(subs.0.len());
    for (channel, sub) in subs.0 {
        if !seen.insert(channel.0.clone()) {
            return Err(TokenFault::Invalid);
        }
        let sub = ServerSub {
            info: payload(sub.info, sub.b64info.as_ref())?,
            data: payload(sub.data, sub.b64data.as_ref())?,
            overrides: sub.overrides.unwrap_or_default().into(),
        };
        granted.push((channel.0.into_owned(), sub));
    }
    Ok(granted)
}

fn plain_subs(channels: Vec<Text<'_>>) -> Vec<(String, ServerSub)> {
    let mut seen = HashSet::with_capacity(channels.len());
    let mut granted = Vec::with_capacity(channels.len());
    for Text(channel) in channels {
        if seen.insert(channel.clone()) {
            granted.push((channel.into_owned(), ServerSub::default()));
        }
    }
    granted
}

/// The bytes of a claim that comes as JSON or as base64 (which wins). JSON that nests too deep for clients is refused.
fn payload(json: Option<&RawValue>, base64: Option<&Text<'_>>) -> Result<Option<Bytes>, TokenFault> {
    match base64.filter(|text| !text.0.is_empty()) {
        Some(text) => {
            let bytes = STANDARD.decode(text.0.as_bytes()).map_err(|_| TokenFault::Invalid)?;
            Ok(Some(Bytes::from(bytes)))
        }
        None => match json {
            Some(json) if !is_json(json.get().as_bytes()) => Err(TokenFault::Invalid),
            json => Ok(json.map(one_line)),
        },
    }
}

/// Raw JSON as it may stand in a message: messages are separated by newlines, so none may be inside. In valid JSON a
/// literal newline is white space between values.
fn one_line(json: &RawValue) -> Bytes {
    let text = json.get();
    if text.contains(['\n', '\r']) {
        Bytes::from(text.replace(['\n', '\r'], ""))
    } else {
        Bytes::copy_from_slice(text.as_bytes())
    }
}
