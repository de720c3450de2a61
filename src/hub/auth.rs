//! Verification of JSON Web Tokens (RFC 7519), pure: the wall clock is handed in.
//!
//! Invariants:
//! - The configured key decides which algorithms are acceptable; the `alg` of a token only chooses among those. A
//!   token can therefore neither switch verification off (`none`) nor have a public key used as a shared secret.
//! - Nothing is decoded before the length cap, nothing is parsed as claims before the signature holds.
//! - Header parameters that point elsewhere (`kid`, `jku`, `x5u`, `jwk`) are never followed.
//! - A verification allocates for what it returns only: header and payload are decoded into one buffer on the stack.

mod claims;
mod keys;

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use regex::Regex;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::hub::api::Overrides;
use crate::hub::object::object;
use crate::hub::settings::TokenSettings;

use claims::{Claims, Expiry, Text};
use keys::KeyRing;
pub use keys::{Algorithm, KeyError};

/// Longest token that is looked at, in bytes.
pub const MAX_TOKEN_LENGTH: usize = 4096;

/// Longest time to live that is granted, in seconds: 365 days.
pub const MAX_TTL_SECONDS: u64 = 365 * 24 * 60 * 60;

/// A header or payload of a token within the cap, decoded.
const MAX_DECODED: usize = MAX_TOKEN_LENGTH / 4 * 3;

/// Why a token was refused. What is wrong with it is deliberately not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// A genuine token whose time is over (`exp`) or has not come (`nbf`): error 109.
    #[error("token expired")]
    Expired,
    /// Anything else: disconnect 3500 for connections, error 103 for subscriptions.
    #[error("invalid token")]
    Invalid,
}

/// What a connection token grants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionClaims {
    /// User id, empty for anonymous.
    pub user: String,
    /// Unix seconds at which the connection expires, 0 = never. At most [`MAX_TTL_SECONDS`] ahead. A past value stems
    /// from an `expire_at` claim and means error 110.
    pub expire_at: u64,
    /// Connection info: JSON without newlines, or bytes.
    pub info: Option<Bytes>,
    /// Server-side subscriptions in the token's order, each channel once.
    pub subs: Vec<(String, ServerSub)>,
    /// JSON object that stays on the server.
    pub meta: Option<Bytes>,
}

/// A server-side subscription granted by a connection token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerSub {
    /// Channel info of the subscriber.
    pub info: Option<Bytes>,
    /// Custom data for the subscribe result.
    pub data: Option<Bytes>,
    /// Overrides of namespace options.
    pub overrides: Overrides,
}

/// What a subscription token grants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscriptionClaims {
    /// User id that the connection must have.
    pub user: String,
    /// The one channel the token is for, never empty.
    pub channel: String,
    /// Client id that the connection must have, if any.
    pub client: Option<String>,
    /// Unix seconds at which the subscription expires, 0 = never; as in [`ConnectionClaims::expire_at`].
    pub expire_at: u64,
    /// Channel info of the subscriber.
    pub info: Option<Bytes>,
    /// Custom data for the subscribe result.
    pub data: Option<Bytes>,
    /// Overrides of namespace options.
    pub overrides: Overrides,
}

impl SubscriptionClaims {
    /// True if the token is for this user, channel and client. Otherwise: disconnect 3500.
    #[must_use]
    pub fn is_for(&self, user: &str, channel: &str, client: &str) -> bool {
        self.user == user
            && self.channel == channel
            && self.client.as_deref().is_none_or(|wanted| wanted == client)
    }
}

/// Time to live to report to a client: seconds from now to `expire_at`, at most 365 days; `None` if already over.
/// `expire_at` must not be 0 (never).
#[must_use]
pub fn ttl_seconds(expire_at: u64, now_unix: u64) -> Option<u32> {
    let ttl = expire_at.checked_sub(now_unix)?.min(MAX_TTL_SECONDS);
    u32::try_from(ttl).ok().filter(|ttl| *ttl > 0)
}

/// Checks tokens against the keys and rules of one [`TokenSettings`]. Keys are prepared once; share it or build one
/// per shard.
pub struct Verifier {
    keys: KeyRing,
    audience: Wanted,
    issuer: Wanted,
    user_id_claim: Option<String>,
    leeway: u64,
    skip_signature: bool,
    ignore_expiry: bool,
}

impl Verifier {
    /// Prepares the keys.
    ///
    /// # Errors
    /// A PEM that is not a public key of its family, or one too weak to be used.
    pub fn new(settings: &TokenSettings) -> Result<Self, KeyError> {
        Ok(Self {
            keys: KeyRing::new(settings)?,
            audience: Wanted::new(settings.audience.as_ref(), settings.audience_regex.as_ref()),
            issuer: Wanted::new(settings.issuer.as_ref(), settings.issuer_regex.as_ref()),
            user_id_claim: settings.user_id_claim.clone(),
            leeway: settings.leeway.as_secs(),
            skip_signature: settings.insecure_skip_signature_verify,
            ignore_expiry: false,
        })
    }

    /// With `client.insecure`, tokens are verified but their expiry is ignored: `expire_at` of the claims is then 0.
    #[must_use]
    pub fn ignoring_expiry(mut self, ignore: bool) -> Self {
        self.ignore_expiry = ignore;
        self
    }

    /// True if some token could pass; false means that every token is refused.
    #[must_use]
    pub fn can_accept(&self) -> bool {
        self.skip_signature || !self.keys.is_empty()
    }

    /// Verifies the token of a `connect` or `refresh` command.
    ///
    /// # Errors
    /// See [`TokenFault`]. A token with a `channel` claim is for subscriptions, hence invalid here.
    pub fn connection(&self, token: &str, now_unix: u64) -> Result<ConnectionClaims, TokenFault> {
        let mut buffer = [0; MAX_DECODED];
        let payload = self.genuine_payload(token, now_unix, &mut buffer)?;
        let claims: Claims<'_> = parse(payload)?;
        let expiry = self.check(&claims, now_unix)?;
        let user = self.user(&claims, payload)?;
        claims.grant_connection(user, &expiry)
    }

    /// Verifies the token of a `subscribe` or `sub_refresh` command. The caller compares it with the connection:
    /// [`SubscriptionClaims::is_for`].
    ///
    /// # Errors
    /// See [`TokenFault`]. A token without a `channel` claim is invalid.
    pub fn subscription(&self, token: &str, now_unix: u64) -> Result<SubscriptionClaims, TokenFault> {
        let mut buffer = [0; MAX_DECODED];
        let payload = self.genuine_payload(token, now_unix, &mut buffer)?;
        let claims: Claims<'_> = parse(payload)?;
        let expiry = self.check(&claims, now_unix)?;
        let user = self.user(&claims, payload)?;
        claims.grant_subscription(user, &expiry)
    }

    /// The decoded payload of a token whose signature holds.
    fn genuine_payload<'b>(
        &self,
        token: &str,
        now_unix: u64,
        buffer: &'b mut [u8; MAX_DECODED],
    ) -> Result<&'b [u8], TokenFault> {
        if token.len() > MAX_TOKEN_LENGTH {
            return Err(TokenFault::Invalid);
        }
        let parts = Parts::split(token).ok_or(TokenFault::Invalid)?;
        if !self.skip_signature {
            let algorithm = algorithm_of(decode(parts.header, buffer)?)?;
            if !self.keys.verify(algorithm, parts.signed, parts.signature, now_unix) {
                return Err(TokenFault::Invalid);
            }
        }
        decode(parts.payload, buffer)
    }

    /// Checks the registered claims (RFC 7519 section 4.1).
    fn check(&self, claims: &Claims<'_>, now_unix: u64) -> Result<Expiry, TokenFault> {
        let audience_holds = self.audience.is_anything() || claims.aud.any(|aud| self.audience.takes(aud));
        let issuer_holds = match &claims.iss {
            Some(issuer) => self.issuer.takes(&issuer.0),
            None => self.issuer.is_anything(),
        };
        if !audience_holds || !issuer_holds {
            return Err(TokenFault::Invalid);
        }
        let over = claims.exp.is_some_and(|exp| exp.0.saturating_add(self.leeway) < now_unix);
        let early = claims.nbf.is_some_and(|nbf| nbf.0 > now_unix.saturating_add(self.leeway));
        if (over || early) && !self.ignore_expiry {
            return Err(TokenFault::Expired);
        }
        Ok(Expiry { now_unix, ignored: self.ignore_expiry })
    }

    /// The user id: `sub`, or the claim configured in its place.
    fn user(&self, claims: &Claims<'_>, payload: &[u8]) -> Result<String, TokenFault> {
        match &self.user_id_claim {
            None => Ok(claims.sub.as_ref().map(|sub| sub.0.as_ref().to_owned()).unwrap_or_default()),
            Some(claim) => claims::text_claim(payload, claim).ok_or(TokenFault::Invalid),
        }
    }
}

/// What `aud` or `iss` must be.
struct Wanted {
    exact: Option<String>,
    pattern: Option<Regex>,
}

impl Wanted {
    fn new(exact: Option<&String>, pattern: Option<&Regex>) -> Self {
        Self { exact: exact.cloned(), pattern: pattern.cloned() }
    }

    fn is_anything(&self) -> bool {
        self.exact.is_none() && self.pattern.is_none()
    }

    fn takes(&self, value: &str) -> bool {
        self.exact.as_ref().is_none_or(|exact| exact == value)
            && self.pattern.as_ref().is_none_or(|pattern| pattern.is_match(value))
    }
}

/// The three parts of a compact serialisation (RFC 7515 section 7.1), still encoded.
struct Parts<'t> {
    header: &'t str,
    payload: &'t str,
    signature: &'t str,
    /// Header and payload with the dot between: what the signature covers.
    signed: &'t str,
}

impl<'t> Parts<'t> {
    fn split(token: &'t str) -> Option<Self> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, payload) = signed.split_once('.')?;
        // A fourth part would leave its dot in the payload, where it is not base64.
        Some(Self { header, payload, signature, signed })
    }
}

fn decode<'b>(part: &str, buffer: &'b mut [u8; MAX_DECODED]) -> Result<&'b [u8], TokenFault> {
    let length = URL_SAFE_NO_PAD.decode_slice(part, buffer).map_err(|_| TokenFault::Invalid)?;
    buffer.get(..length).ok_or(TokenFault::Invalid)
}

/// Parses a JSON object. An array is refused here, as a derived parser would take its elements for the members.
fn parse<'b, T: Deserialize<'b>>(json: &'b [u8]) -> Result<T, TokenFault> {
    object(json).ok_or(TokenFault::Invalid)
}

/// The parts of a JOSE header that decide anything.
#[derive(Deserialize)]
struct Header<'b> {
    #[serde(borrow)]
    alg: Cow<'b, str>,
    #[serde(borrow)]
    typ: Option<Text<'b>>,
    /// Extensions that must be understood; we know none (RFC 7515 section 4.1.11).
    crit: Option<IgnoredAny>,
}

fn algorithm_of(header: &[u8]) -> Result<Algorithm, TokenFault> {
    let header: Header<'_> = parse(header)?;
    let typ_holds = header.typ.is_none_or(|typ| is_token_type(&typ.0));
    if header.crit.is_some() || !typ_holds {
        return Err(TokenFault::Invalid);
    }
    Algorithm::from_name(&header.alg).ok_or(TokenFault::Invalid)
}

/// `JWT`, or the access token type of RFC 9068, each with or without `application/`, in any case.
fn is_token_type(typ: &str) -> bool {
    let name = match typ.split_at_checked("application/".len()) {
        Some((prefix, rest)) if prefix.eq_ignore_ascii_case("application/") => rest,
        _ => typ,
    };
    name.eq_ignore_ascii_case("jwt") || name.eq_ignore_ascii_case("at+jwt")
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::hmac;
    use serde_json::{Value, json};

    const NOW: u64 = 1_800_000_000;

    fn signed(header: &Value, claims: &Value, secret: &str) -> String {
        let head = URL_SAFE_NO_PAD.encode(header.to_string());
        let message = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
    }

    fn token(claims: &Value) -> String {
        signed(&json!({"alg": "HS256", "typ": "JWT"}), claims, "secret")
    }

    fn settings() -> TokenSettings {
        TokenSettings { hmac_secret_key: Some("secret".into()), ..TokenSettings::default() }
    }

    fn verifier() -> Verifier {
        Verifier::new(&settings()).unwrap()
    }

    #[test]
    fn a_connection_token_grants_what_its_claims_say() {
        let token = token(&json!({
            "sub": "42", "exp": NOW + 600, "info": {"name": "Ada"}, "meta": {"plan": "gold"},
            "channels": ["ignored"],
            "subs": {"news": {"data": {"a": 1}, "override": {"presence": {"value": true}}}, "b": {}},
        }));
        let claims = verifier().connection(&token, NOW).unwrap();
        assert_eq!(claims.user, "42");
        assert_eq!(claims.expire_at, NOW + 600);
        assert_eq!(claims.info.as_deref(), Some(br#"{"name":"Ada"}"#.as_slice()));
        assert_eq!(claims.meta.as_deref(), Some(br#"{"plan":"gold"}"#.as_slice()));
        let mut channels: Vec<_> = claims.subs.iter().map(|(channel, _)| channel.as_str()).collect();
        channels.sort_unstable();
        assert_eq!(channels, ["b", "news"]);
        let news = claims.subs.iter().find(|(channel, _)| channel == "news").unwrap();
        assert_eq!(news.1.overrides.presence, Some(true));
        assert_eq!(news.1.overrides.join_leave, None);
        assert_eq!(news.1.data.as_deref(), Some(br#"{"a":1}"#.as_slice()));
    }

    #[test]
    fn channels_are_granted_once_and_in_order() {
        let claims = verifier().connection(&token(&json!({"channels": ["b", "a", "b"]})), NOW).unwrap();
        let channels: Vec<_> = claims.subs.iter().map(|(channel, _)| channel.as_str()).collect();
        assert_eq!(channels, ["b", "a"]);
        assert_eq!(claims.user, "");
        assert_eq!(claims.expire_at, 0);
    }

    #[test]
    fn a_subscription_token_is_for_one_user_channel_and_client() {
        let claims = json!({"sub": "42", "channel": "$a", "client": "c1", "b64info": "AP8=", "expire_at": 0});
        let claims = verifier().subscription(&token(&claims), NOW).unwrap();
        assert_eq!(claims.info.as_deref(), Some([0, 255].as_slice()));
        assert!(claims.is_for("42", "$a", "c1"));
        assert!(!claims.is_for("43", "$a", "c1"));
        assert!(!claims.is_for("42", "$b", "c1"));
        assert!(!claims.is_for("42", "$a", "c2"));
        let any_client = verifier().subscription(&token(&json!({"channel": "x"})), NOW).unwrap();
        assert!(any_client.is_for("", "x", "whatever"));
        assert_eq!(verifier().subscription(&token(&json!({"sub": "42"})), NOW), Err(TokenFault::Invalid));
    }

    #[test]
    fn times_decide_as_the_table_says() {
        let leeway =
            Verifier::new(&TokenSettings { leeway: std::time::Duration::from_secs(10), ..settings() });
        let leeway = leeway.unwrap();
        let year = NOW + MAX_TTL_SECONDS;
        let cases = [
            (json!({}), Ok(0)),
            (json!({"exp": NOW + 60}), Ok(NOW + 60)),
            (json!({"exp": NOW as f64 + 60.5}), Ok(NOW + 60)),
            (json!({"exp": NOW}), Ok(NOW + 1)),
            (json!({"exp": NOW - 10}), Ok(NOW + 1)),
            (json!({"exp": NOW - 11}), Err(TokenFault::Expired)),
            (json!({"exp": -5}), Err(TokenFault::Expired)),
            (json!({"exp": null}), Ok(0)),
            (json!({"exp": "2100"}), Err(TokenFault::Invalid)),
            (json!({"exp": u64::MAX}), Ok(year)),
            (json!({"exp": 1e300}), Ok(year)),
            (json!({"exp": NOW + 60, "expire_at": 0}), Ok(0)),
            (json!({"exp": NOW + 60, "expire_at": NOW + 5}), Ok(NOW + 5)),
            (json!({"expire_at": NOW - 5}), Ok(NOW - 5)),
            (json!({"nbf": NOW + 10}), Ok(0)),
            (json!({"nbf": NOW + 11}), Err(TokenFault::Expired)),
            (json!({"iat": NOW + 30}), Ok(0)),
        ];
        for (claims, expected) in cases {
            let got = leeway.connection(&token(&claims), NOW).map(|claims| claims.expire_at);
            assert_eq!(got, expected, "{claims}");
        }
    }

    #[test]
    fn insecure_mode_ignores_expiry_but_not_signatures() {
        let insecure = verifier().ignoring_expiry(true);
        let old = json!({"sub": "1", "exp": 5});
        assert_eq!(insecure.connection(&token(&old), NOW).unwrap().expire_at, 0);
        let forged = signed(&json!({"alg": "HS256"}), &old, "guess");
        assert_eq!(insecure.connection(&forged, NOW), Err(TokenFault::Invalid));
    }

    #[test]
    fn json_is_kept_on_one_line() {
        let head = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
        let message = format!("{head}.{}", URL_SAFE_NO_PAD.encode("{\"info\":{\n \"a\":\r\n1}}"));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, b"secret"), message.as_bytes());
        let claims =
            verifier().connection(&format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag)), NOW).unwrap();
        assert_eq!(claims.info.as_deref(), Some(br#"{ "a":1}"#.as_slice()));
    }

    #[test]
    fn the_user_may_stand_in_another_claim() {
        let settings = TokenSettings { user_id_claim: Some("uid".into()), ..settings() };
        let verifier = Verifier::new(&settings).unwrap();
        let user = |claims: Value| verifier.connection(&token(&claims), NOW).map(|claims| claims.user);
        assert_eq!(user(json!({"sub": "1", "uid": "2"})), Ok("2".to_owned()));
        assert_eq!(user(json!({"sub": "1"})), Ok(String::new()));
        assert_eq!(user(json!({"uid": 2})), Err(TokenFault::Invalid));
    }

    #[test]
    fn a_ttl_is_positive_and_at_most_a_year() {
        assert_eq!(ttl_seconds(NOW + 5, NOW), Some(5));
        assert_eq!(ttl_seconds(NOW, NOW), None);
        assert_eq!(ttl_seconds(1, NOW), None);
        assert_eq!(ttl_seconds(u64::MAX, NOW), Some(31_536_000));
    }
}
