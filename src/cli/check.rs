//! `check-token` and `check-sub-token`: what the gateway would say to a token, with the reason, which clients are not told.

use std::fmt::Write as _;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Args;
use serde_json::Value;

use super::key::{KeySource, token_argument};
use super::{CliError, ConfigArgs, now_unix, print};
use crate::hub::auth::{
    Algorithm, ConnectionClaims, MAX_TOKEN_LENGTH, SubscriptionClaims, TokenFault, Verifier, ttl_seconds,
};
use crate::hub::channel_name::parse;
use crate::hub::entitlement::{self, NotEntitled};
use crate::hub::settings::{ClientSettings, Settings, TokenSettings};

#[derive(Args, Debug)]
pub(super) struct CheckArgs {
    /// The token, or - for standard input.
    token: String,
    #[command(flatten)]
    config: ConfigArgs,
    /// Secret to verify with instead of the configured keys: @FILE, or - for standard input.
    #[arg(long, value_name = "@FILE")]
    key: Option<KeySource>,
}

/// Why a token is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Verdict {
    #[error("it is longer than {MAX_TOKEN_LENGTH} bytes")]
    TooLong,
    #[error(
        "it is not a JSON Web Token: three parts in base64url with dots between, the first two JSON objects"
    )]
    Malformed,
    #[error("its algorithm {0:?} is none of HS256, HS384, HS512, RS256, RS384, RS512, ES256, ES384, ES512")]
    Algorithm(String),
    #[error("it is signed with {0}, and no key for that is configured")]
    NoKey(String),
    #[error("its signature is not by the configured key")]
    Signature,
    #[error("its header has a type (typ) other than JWT, or extensions (crit)")]
    Header,
    #[error("its audience (aud) or issuer (iss) is not the configured one")]
    Audience,
    #[error("it has a claim `channel`, so it is a subscription token")]
    IsForSubscription,
    #[error("it has no claim `channel`, so it is a connection token")]
    IsForConnection,
    #[error("one of its claims has the wrong type")]
    Claims,
    #[error("it expired {0} seconds ago")]
    Expired(u64),
    #[error("it is good only in {0} seconds (nbf)")]
    NotYet(u64),
    #[error(transparent)]
    NotEntitled(#[from] NotEntitled),
}

pub(super) fn connection(args: CheckArgs) -> Result<(), CliError> {
    let rest =
        |settings: &Settings, claims: &ConnectionClaims, now| entitlement::check(settings, claims, now);
    let choose = |client: &ClientSettings| client.token.clone();
    check(args, choose, Verifier::connection, rest, Kind::Connection, describe_connection)
}

pub(super) fn subscription(args: CheckArgs) -> Result<(), CliError> {
    let choose =
        |client: &ClientSettings| client.subscription_token.as_ref().unwrap_or(&client.token).clone();
    let rest = |settings: &Settings, claims: &SubscriptionClaims, now| {
        if claims.expire_at != 0 && ttl_seconds(claims.expire_at, now).is_none() {
            return Err(NotEntitled::Over);
        }
        parse(&settings.channel, &claims.channel)
            .map(drop)
            .map_err(|fault| NotEntitled::Channel { name: claims.channel.clone(), fault })
    };
    check(args, choose, Verifier::subscription, rest, Kind::Subscription, describe_subscription)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Connection,
    Subscription,
}

fn check<C>(
    args: CheckArgs,
    choose: impl FnOnce(&ClientSettings) -> TokenSettings,
    verify: impl Fn(&Verifier, &str, u64) -> Result<C, TokenFault>,
    rest: impl FnOnce(&Settings, &C, u64) -> Result<(), NotEntitled>,
    kind: Kind,
    describe: impl Fn(&C, u64) -> String,
) -> Result<(), CliError> {
    let all = args.config.load()?.settings;
    let mut settings = choose(&all.client);
    if let Some(source) = args.key {
        let secret = Some(source.read()?);
        settings = TokenSettings { hmac_secret_key: secret, ..without_keys(settings) };
    }
    let token = token_argument(&args.token)?;
    let now = now_unix();
    let try_with = |settings: &TokenSettings| match Verifier::new(settings) {
        Ok(verifier) => verify(&verifier, &token, now),
        Err(_) => Err(TokenFault::Invalid),
    };
    match try_with(&settings) {
        Ok(claims) => {
            rest(&all, &claims, now).map_err(|why| CliError::Refused(why.into()))?;
            Ok(print(&describe(&claims, now))?)
        }
        Err(_) => {
            let looser = |settings: &TokenSettings| try_with(settings).err();
            Err(CliError::Refused(verdict(&token, &settings, kind, now, looser)))
        }
    }
}

fn without_keys(settings: TokenSettings) -> TokenSettings {
    TokenSettings {
        hmac_secret_key: None,
        hmac_previous_secret_key: None,
        rsa_public_key: None,
        ecdsa_public_key: None,
        ..settings
    }
}

/// Finds the reason by asking again with one rule after the other taken away; `fault` is the answer to settings.
fn verdict(
    token: &str,
    settings: &TokenSettings,
    kind: Kind,
    now: u64,
    fault: impl Fn(&TokenSettings) -> Option<TokenFault>,
) -> Verdict {
    if token.len() > MAX_TOKEN_LENGTH {
        return Verdict::TooLong;
    }
    let Some((header, payload)) = parts(token) else { return Verdict::Malformed };
    if fault(settings) == Some(TokenFault::Expired) {
        return time_verdict(&payload, now);
    }
    let unsigned = TokenSettings { insecure_skip_signature_verify: true, ..settings.clone() };
    if fault(&unsigned) != Some(TokenFault::Invalid) {
        return signature_verdict(&header, settings);
    }
    let anybody =
        TokenSettings { audience: None, audience_regex: None, issuer: None, issuer_regex: None, ..unsigned };
    match (kind, payload.get("channel").is_some_and(|channel| !channel.is_null())) {
        _ if fault(&anybody) != Some(TokenFault::Invalid) => Verdict::Audience,
        (Kind::Connection, true) => Verdict::IsForSubscription,
        (Kind::Subscription, false) => Verdict::IsForConnection,
        _ => Verdict::Claims,
    }
}

/// Header and payload, unverified.
fn parts(token: &str) -> Option<(Value, Value)> {
    let mut parts = token.split('.');
    let mut object = || {
        let bytes = URL_SAFE_NO_PAD.decode(parts.next()?).ok()?;
        serde_json::from_slice::<Value>(&bytes).ok().filter(Value::is_object)
    };
    let (header, payload) = (object()?, object()?);
    URL_SAFE_NO_PAD.decode(parts.next()?).ok()?;
    parts.next().is_none().then_some((header, payload))
}

fn time_verdict(payload: &Value, now: u64) -> Verdict {
    let seconds = |claim: &str| payload.get(claim).and_then(Value::as_f64).map(|seconds| seconds as u64);
    match (seconds("exp"), seconds("nbf")) {
        (Some(exp), _) if exp < now => Verdict::Expired(now - exp),
        (_, Some(nbf)) => Verdict::NotYet(nbf.saturating_sub(now)),
        _ => Verdict::Claims,
    }
}

fn signature_verdict(header: &Value, settings: &TokenSettings) -> Verdict {
    let name = header.get("alg").and_then(Value::as_str).unwrap_or_default().to_owned();
    let has_key = match Algorithm::from_name(&name) {
        None => return Verdict::Algorithm(name),
        Some(Algorithm::Hs256 | Algorithm::Hs384 | Algorithm::Hs512) => settings.hmac_secret_key.is_some(),
        Some(Algorithm::Rs256 | Algorithm::Rs384 | Algorithm::Rs512) => settings.rsa_public_key.is_some(),
        Some(Algorithm::Es256 | Algorithm::Es384 | Algorithm::Es512) => settings.ecdsa_public_key.is_some(),
    };
    let is_plain_type = header.get("typ").is_none_or(|typ| {
        typ.as_str().is_some_and(|typ| typ.eq_ignore_ascii_case("jwt") || typ.eq_ignore_ascii_case("at+jwt"))
    });
    match (has_key, is_plain_type && header.get("crit").is_none()) {
        (_, false) => Verdict::Header,
        (false, _) => Verdict::NoKey(name),
        (true, _) => Verdict::Signature,
    }
}

fn describe_connection(claims: &ConnectionClaims, now: u64) -> String {
    let mut out = format!("valid for {}\n{}", user_name(&claims.user), expiry(claims.expire_at, now));
    for (channel, _) in &claims.subs {
        let _ = writeln!(out, "subscribes to {channel}");
    }
    describe_bytes(&mut out, "info", claims.info.as_deref());
    describe_bytes(&mut out, "meta", claims.meta.as_deref());
    out
}

fn describe_subscription(claims: &SubscriptionClaims, now: u64) -> String {
    let user = user_name(&claims.user);
    let mut out = format!("valid for {user} in {}\n{}", claims.channel, expiry(claims.expire_at, now));
    if let Some(client) = &claims.client {
        let _ = writeln!(out, "for client {client} only");
    }
    describe_bytes(&mut out, "info", claims.info.as_deref());
    describe_bytes(&mut out, "data", claims.data.as_deref());
    out
}

fn user_name(user: &str) -> String {
    if user.is_empty() { "an anonymous user".into() } else { format!("user {user}") }
}

fn expiry(expire_at: u64, now: u64) -> String {
    match expire_at {
        0 => "does not expire\n".into(),
        at => format!("expires in {} seconds\n", at.saturating_sub(now)),
    }
}

fn describe_bytes(out: &mut String, name: &str, bytes: Option<&[u8]>) {
    match bytes.map(std::str::from_utf8) {
        None => {}
        Some(Ok(text)) => {
            let _ = writeln!(out, "{name}: {text}");
        }
        Some(Err(_)) => {
            let _ = writeln!(out, "{name}: {} bytes", bytes.map_or(0, <[u8]>::len));
        }
    }
}
