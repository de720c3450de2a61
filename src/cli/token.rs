//! `token` and `sub-token`: tokens that the configured verifier accepts, signed with HS256.

use std::time::Duration;

use clap::Args;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Map, Value};

use super::key::KeySource;
use super::{CliError, ConfigArgs, duration_flag, now_unix, print};
use crate::config::Config;
use crate::hub::settings::TokenSettings;

#[derive(Args, Debug)]
struct SignArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Key to sign with instead of the configured one: @FILE, or - for standard input.
    #[arg(long, value_name = "@FILE")]
    key: Option<KeySource>,
    /// How long the token is good for, such as 90s, 1h or 30d; 0: without end.
    #[arg(long, default_value = "1h", value_name = "DURATION", value_parser = duration_flag)]
    ttl: Duration,
}

#[derive(Args, Debug)]
pub(super) struct TokenArgs {
    /// User id; empty for an anonymous user.
    #[arg(long, value_name = "ID")]
    user: String,
    /// Channel that the user is subscribed to on connect; may be given several times.
    #[arg(long, value_name = "NAME")]
    channel: Vec<String>,
    /// Connection info as JSON, which others see in presence, joins and publications.
    #[arg(long, value_name = "JSON")]
    info: Option<String>,
    #[command(flatten)]
    sign: SignArgs,
}

#[derive(Args, Debug)]
pub(super) struct SubTokenArgs {
    /// User id of the connection; empty for an anonymous user.
    #[arg(long, value_name = "ID")]
    user: String,
    /// The channel.
    #[arg(long, value_name = "NAME")]
    channel: String,
    /// Only for this client id.
    #[arg(long, value_name = "ID")]
    client: Option<String>,
    /// Channel info as JSON.
    #[arg(long, value_name = "JSON")]
    info: Option<String>,
    #[command(flatten)]
    sign: SignArgs,
}

pub(super) fn connection(args: TokenArgs) -> Result<(), CliError> {
    let mut claims = Map::new();
    if !args.channel.is_empty() {
        claims.insert("channels".into(), args.channel.into());
    }
    insert_json(&mut claims, "info", "--info", args.info.as_deref())?;
    let choose = |config: Config| config.settings.client.token;
    print_signed(args.sign, &args.user, claims, choose)
}

pub(super) fn subscription(args: SubTokenArgs) -> Result<(), CliError> {
    let mut claims = Map::new();
    claims.insert("channel".into(), args.channel.into());
    if let Some(client) = args.client {
        claims.insert("client".into(), client.into());
    }
    insert_json(&mut claims, "info", "--info", args.info.as_deref())?;
    let choose = |config: Config| {
        let client = config.settings.client;
        client.subscription_token.unwrap_or(client.token)
    };
    print_signed(args.sign, &args.user, claims, choose)
}

fn insert_json(
    claims: &mut Map<String, Value>,
    claim: &str,
    flag: &'static str,
    text: Option<&str>,
) -> Result<(), CliError> {
    if let Some(text) = text {
        let value = serde_json::from_str(text).map_err(|source| CliError::NotJson { flag, source })?;
        claims.insert(claim.to_owned(), value);
    }
    Ok(())
}

/// Adds what the verifier of `choose` looks at, signs, and prints the token alone on a line.
fn print_signed(
    args: SignArgs,
    user: &str,
    mut claims: Map<String, Value>,
    choose: impl FnOnce(Config) -> TokenSettings,
) -> Result<(), CliError> {
    let settings = choose(args.config.load()?);
    let key = match args.key {
        Some(source) => source.read()?,
        None => configured_key(&settings)?,
    };
    let now = now_unix();
    claims.insert("iat".into(), now.into());
    if !args.ttl.is_zero() {
        // A token that is over before it is made helps nobody: at least a second.
        claims.insert("exp".into(), now.saturating_add(args.ttl.as_secs().max(1)).into());
    }
    if !user.is_empty() {
        let claim = settings.user_id_claim.as_deref().unwrap_or("sub");
        claims.insert(claim.to_owned(), user.into());
    }
    let registered = [("aud", settings.audience), ("iss", settings.issuer)];
    claims
        .extend(registered.into_iter().filter_map(|(claim, value)| Some((claim.to_owned(), value?.into()))));
    let token = encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(key.as_bytes()))?;
    Ok(print(&format!("{token}\n"))?)
}

fn configured_key(settings: &TokenSettings) -> Result<String, CliError> {
    let has_public_key = settings.rsa_public_key.is_some() || settings.ecdsa_public_key.is_some();
    match &settings.hmac_secret_key {
        Some(key) => Ok(key.clone()),
        None if has_public_key => Err(CliError::PublicKeysOnly),
        None => Err(CliError::NoKey),
    }
}
