//! The demo: a chat on the client port, made of embedded files, an endpoint that hands out short-lived random users, and
//! one that sends a message to a user, who may be away.
//!
//! It is for looking at, on the loopback interface only: `app` must refuse to listen elsewhere with it, and every
//! request must name a loopback host, so that no website can reach it through a name of its own (DNS rebinding).

mod letters;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use tokio::time::timeout;

use super::gateway::Gateway;
use super::settings::{ControlSettings, DemoSettings};
use crate::hub::settings::{
    ChannelOptions, ChannelSettings, ClientSettings, DataFormat, MailboxSettings, OriginPolicy,
    PersonalChannel, Settings, UserPresenceSettings,
};

/// Namespace of the rooms; the page knows it by the same name.
pub const ROOM_NAMESPACE: &str = "room";

/// Namespace of the channels that tell of users, unless presence of users is configured; the page knows it by the
/// same name.
const PRESENCE_NAMESPACE: &str = "presence";

/// Where the page is.
pub(crate) const ROOT: &str = "/";
/// Where its files are.
pub(crate) const PREFIX: &str = "/demo";

/// Tokens live so long, and the page asks for a new one in time.
const TOKEN_LIFE: Duration = Duration::from_secs(600);
/// Longest display name in characters.
const NAME_CHARS_MAX: usize = 24;
/// Pages of this host, on any port.
const LOOPBACK_ORIGINS: [&str; 6] = [
    "http://127.0.0.1:*",
    "http://localhost:*",
    "http://[::1]:*",
    // Port 80 is never named.
    "http://127.0.0.1",
    "http://localhost",
    "http://[::1]",
];
/// Longest time for one request of the page.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// Random bytes of a signing key.
const KEY_BYTES: usize = 32;
/// Random bytes of a user id.
const USER_BYTES: usize = 6;

/// Why the demo cannot be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DemoError {
    /// The operating system gave no random bytes for the signing key.
    #[error("no random bytes for the signing key of the demo")]
    Random,
    /// More namespaces than an index can name.
    #[error("too many namespaces to add the demo's")]
    Namespaces,
}

/// Switches the demo on: adds what it needs to the settings and leaves the rest as configured.
///
/// * Tokens: signed with `client.token.hmac_secret_key`; where none is set (`app` keeps one beside
///   the log), with a random one of this start.
/// * Namespace `room` (unless configured): presence, joins and leaves pushed, the last 100 messages of a day kept and
///   recovered, JSON objects only; every demo user may subscribe, and publish where subscribed.
/// * User presence (unless configured) in the namespace `presence`, which every demo user may watch.
/// * Mailboxes (unless configured) where `message_bytes` says that there is a log for them: the personal channel, and a
///   week for every message.
/// * Origins: pages of loopback hosts are added to `allowed_origins`.
///
/// # Errors
/// [`DemoError`].
pub fn switch_on(
    settings: &mut Settings,
    control: &mut ControlSettings,
    message_bytes: Option<usize>,
) -> Result<(), DemoError> {
    let token = &mut settings.client.token;
    if token.hmac_secret_key.is_none() {
        token.hmac_secret_key = Some(random_hex::<KEY_BYTES>().ok_or(DemoError::Random)?);
    }
    let hmac_secret_key = token.hmac_secret_key.clone().unwrap_or_default();
    add_rooms(&mut settings.channel)?;
    add_user_presence(settings)?;
    if message_bytes.is_some() {
        add_mailboxes(settings);
    }
    control.api.message_bytes = message_bytes;
    add_origins(&mut settings.http.allowed_origins);
    settings.http.hand_over = true;
    control.demo = Some(DemoSettings {
        hmac_secret_key,
        websocket_path: settings.http.websocket_path.clone(),
        mailboxes: message_bytes.is_some(),
    });
    Ok(())
}

fn add_mailboxes(settings: &mut Settings) {
    let client = &mut settings.client;
    client
        .personal_channel
        .get_or_insert_with(|| PersonalChannel { namespace: String::new(), single_connection: false });
    settings.mailbox.get_or_insert_with(|| mailboxes(client));
}

fn mailboxes(client: &ClientSettings) -> MailboxSettings {
    let has_pongs = !client.ping_interval.is_zero() && !client.pong_timeout.is_zero();
    let latest_pong = client.ping_interval + client.pong_timeout;
    MailboxSettings {
        ack_wait: Duration::from_secs(30).max(latest_pong + Duration::from_secs(1)),
        max_deliveries: 5,
        ack_by_pong: has_pongs,
        dead_letter_channel: String::new(),
        letter_bytes: usize::MAX,
        ttl: Duration::from_secs(7 * 24 * 3600),
        replay_page: 100,
    }
}

fn add_rooms(channel: &mut ChannelSettings) -> Result<(), DemoError> {
    add_namespace(channel, room_options(channel.history_meta_ttl))
}

fn add_namespace(channel: &mut ChannelSettings, options: ChannelOptions) -> Result<(), DemoError> {
    if !channel.namespaces.contains_key(&options.name) {
        let index = u16::try_from(channel.options.len()).map_err(|_| DemoError::Namespaces)?;
        channel.namespaces.insert(options.name.clone(), index);
        channel.options.push(options);
    }
    Ok(())
}

/// Away after two minutes, so that one can see it.
fn add_user_presence(settings: &mut Settings) -> Result<(), DemoError> {
    if settings.user_presence.is_some() || settings.channel.namespaces.contains_key(PRESENCE_NAMESPACE) {
        return Ok(());
    }
    let watched_by_all = ChannelOptions {
        name: PRESENCE_NAMESPACE.to_owned(),
        allow_subscribe_for_client: true,
        ..ChannelOptions::default()
    };
    add_namespace(&mut settings.channel, watched_by_all)?;
    settings.user_presence = Some(UserPresenceSettings {
        namespace: PRESENCE_NAMESPACE.to_owned(),
        away_after: Duration::from_secs(120),
        offline_after: Duration::from_secs(60),
        last_seen_users: 1000,
    });
    Ok(())
}

fn add_origins(allowed: &mut OriginPolicy) {
    if let OriginPolicy::Patterns(patterns) = allowed {
        patterns.extend(LOOPBACK_ORIGINS.map(str::to_owned));
    }
}

fn room_options(history_meta_ttl: Duration) -> ChannelOptions {
    ChannelOptions {
        name: ROOM_NAMESPACE.to_owned(),
        presence: true,
        join_leave: true,
        force_push_join_leave: true,
        history_size: 100,
        history_ttl: Duration::from_secs(24 * 3600),
        history_meta_ttl,
        force_positioning: true,
        force_recovery: true,
        allow_subscribe_for_client: true,
        allow_publish_for_subscriber: true,
        allow_presence_for_client: true,
        allow_history_for_subscriber: true,
        publication_data_format: DataFormat::JsonObject,
        ..ChannelOptions::default()
    }
}

/// Routes of the demo.
pub(crate) fn router(settings: DemoSettings, gateway: Gateway) -> Router {
    let mailboxes = if settings.mailboxes { "on" } else { "off" };
    let page = include_str!("demo/index.html")
        .replace("{{websocket_path}}", &escaped(&settings.websocket_path))
        .replace("{{mailboxes}}", mailboxes);
    let state = Arc::new(Demo { page, key: settings.hmac_secret_key, gateway });
    Router::new()
        .route(ROOT, get(index))
        .route("/demo/app.js", get(|| async { file("text/javascript", include_str!("demo/app.js")) }))
        .route("/demo/people.js", get(|| async { file("text/javascript", include_str!("demo/people.js")) }))
        .route("/demo/letters.js", get(|| async { file("text/javascript", include_str!("demo/letters.js")) }))
        .route(
            "/demo/identity.js",
            get(|| async { file("text/javascript", include_str!("demo/identity.js")) }),
        )
        .route("/demo/client.js", get(|| async { file("text/javascript", include_str!("demo/client.js")) }))
        .route("/demo/style.css", get(|| async { file("text/css", include_str!("demo/style.css")) }))
        .route("/demo/token", post(token))
        .route("/demo/letter", post(letters::send))
        .layer(from_fn(loopback_only))
        .with_state(state)
}

struct Demo {
    page: String,
    key: String,
    gateway: Gateway,
}

/// The socket's address is named too, because some browsers do not count it as `'self'`.
async fn index(State(demo): State<Arc<Demo>>, headers: HeaderMap) -> Response {
    let host = host_of(&headers).unwrap_or_default();
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self' ws://{host}; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let mut response = file("text/html", demo.page.clone());
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

fn file(kind: &'static str, text: impl Into<axum::body::Body>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, format!("{kind}; charset=utf-8")),
        (header::CACHE_CONTROL, "no-cache".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (header::REFERRER_POLICY, "no-referrer".to_owned()),
    ];
    (headers, text.into()).into_response()
}

/// Whom the page wants to be.
#[derive(serde::Deserialize)]
struct TokenRequest {
    /// Shown to the others.
    name: String,
    /// A former token, to stay the same user.
    #[serde(default)]
    token: String,
}

#[derive(serde::Serialize)]
struct TokenAnswer {
    token: String,
    user: String,
    name: String,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Claims {
    sub: String,
    #[serde(default)]
    exp: u64,
    #[serde(default)]
    info: Info,
}

#[derive(Default, serde::Serialize, serde::Deserialize)]
struct Info {
    name: String,
}

async fn token(State(demo): State<Arc<Demo>>, Json(request): Json<TokenRequest>) -> Response {
    match issue(&demo.key, &request) {
        Some(answer) => ([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response(),
        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn issue(key: &str, request: &TokenRequest) -> Option<TokenAnswer> {
    let user = match former_user(key, &request.token) {
        Some(user) => user,
        None => format!("guest-{}", random_hex::<USER_BYTES>()?),
    };
    let name = display_name(&request.name);
    let claims = Claims { sub: user, exp: unix_seconds() + TOKEN_LIFE.as_secs(), info: Info { name } };
    let signing = EncodingKey::from_secret(key.as_bytes());
    let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &signing).ok()?;
    Some(TokenAnswer { token, user: claims.sub, name: claims.info.name })
}

fn former_user(key: &str, token: &str) -> Option<String> {
    bearer(key, token).map(|claims| claims.sub)
}

/// An expired token still proves who its bearer was.
fn bearer(key: &str, token: &str) -> Option<Claims> {
    let mut rules = Validation::new(Algorithm::HS256);
    rules.validate_exp = false;
    rules.required_spec_claims.clear();
    let decoded =
        jsonwebtoken::decode::<Claims>(token, &DecodingKey::from_secret(key.as_bytes()), &rules).ok()?;
    Some(decoded.claims).filter(|claims| is_guest(&claims.sub))
}

fn is_guest(user: &str) -> bool {
    user.starts_with("guest-")
}

fn display_name(wanted: &str) -> String {
    let visible = wanted.split_whitespace().collect::<Vec<_>>().join(" ");
    let name: String = visible.chars().filter(|of| !of.is_control()).take(NAME_CHARS_MAX).collect();
    if name.is_empty() { "Guest".to_owned() } else { name }
}

#[expect(clippy::disallowed_methods, reason = "the control plane reads the clock: tokens expire by it")]
fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn random_hex<const BYTES: usize>() -> Option<String> {
    let mut bytes = [0u8; BYTES];
    getrandom::fill(&mut bytes).ok()?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

async fn loopback_only(request: Request, next: Next) -> Response {
    match host_of(request.headers()) {
        Some(_) => match timeout(REQUEST_TIME, next.run(request)).await {
            Ok(response) => response,
            Err(_) => StatusCode::REQUEST_TIMEOUT.into_response(),
        },
        None => (StatusCode::FORBIDDEN, "the demo answers loopback hosts only\n").into_response(),
    }
}

/// The `Host` header if it names the loopback interface, with its port.
fn host_of(headers: &HeaderMap) -> Option<&str> {
    let host = headers.get(header::HOST)?.to_str().ok()?;
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, port),
        _ => (host, "80"),
    };
    let loopback = ["localhost", "127.0.0.1", "[::1]"].iter().any(|of| name.eq_ignore_ascii_case(of));
    (loopback && port.parse::<u16>().is_ok()).then_some(host)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "a key of the test, long enough";

    fn ask(name: &str, token: &str) -> TokenAnswer {
        issue(KEY, &TokenRequest { name: name.to_owned(), token: token.to_owned() }).unwrap()
    }

    #[test]
    fn a_former_token_keeps_the_user_and_a_foreign_one_does_not() {
        let first = ask("Ada", "");
        let again = ask("Ada Lovelace", &first.token);
        assert_eq!((again.user.as_str(), again.name.as_str()), (first.user.as_str(), "Ada Lovelace"));
        let foreign =
            issue("another key", &TokenRequest { name: String::new(), token: String::new() }).unwrap();
        assert_ne!(ask("Ada", &foreign.token).user, foreign.user);
        assert_ne!(ask("Ada", "").user, first.user);
    }

    #[test]
    fn an_expired_token_is_renewed() {
        let claims = Claims { sub: "guest-1".to_owned(), exp: 1, info: Info::default() };
        let key = EncodingKey::from_secret(KEY.as_bytes());
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap();
        assert_eq!(ask("x", &token).user, "guest-1");
    }

    #[test]
    fn names_are_cut_to_what_can_be_shown() {
        assert_eq!(display_name(" a \n\t b\u{7} "), "a b");
        assert_eq!(display_name("\u{1}"), "Guest");
        assert_eq!(display_name(&"ä".repeat(99)).chars().count(), NAME_CHARS_MAX);
    }

    fn channel_settings() -> ChannelSettings {
        ChannelSettings {
            max_length: 255,
            private_prefix: "$".to_owned(),
            namespace_boundary: ":".to_owned(),
            user_boundary: "#".to_owned(),
            user_separator: ",".to_owned(),
            history_meta_ttl: Duration::from_secs(60),
            options: vec![ChannelOptions::default()],
            namespaces: std::collections::HashMap::new(),
        }
    }

    #[test]
    fn rooms_are_added_once_and_have_all_that_the_page_uses() {
        let mut channel = channel_settings();
        add_rooms(&mut channel).unwrap();
        add_rooms(&mut channel).unwrap();
        assert_eq!((channel.options.len(), channel.namespaces[ROOM_NAMESPACE]), (2, 1));
        let room = &channel.options[1];
        assert!(room.presence && room.force_push_join_leave && room.force_recovery && room.has_history());
        assert!(room.allow_subscribe_for_client && room.allow_publish_for_subscriber);
        assert!(!room.allow_subscribe_for_anonymous && !room.allow_publish_for_client);
    }

    #[test]
    fn configured_rooms_and_origins_stay() {
        let mut channel = channel_settings();
        channel.options.push(ChannelOptions { name: ROOM_NAMESPACE.to_owned(), ..ChannelOptions::default() });
        channel.namespaces.insert(ROOM_NAMESPACE.to_owned(), 1);
        add_rooms(&mut channel).unwrap();
        assert!(!channel.options[1].presence);
        let mut origins = OriginPolicy::Patterns(vec!["https://example.org".to_owned()]);
        add_origins(&mut origins);
        assert!(
            matches!(&origins, OriginPolicy::Patterns(of) if of[0] == "https://example.org" && of.len() == 1 + LOOPBACK_ORIGINS.len())
        );
        let mut any = OriginPolicy::Any;
        add_origins(&mut any);
        assert!(matches!(any, OriginPolicy::Any));
    }

    #[test]
    fn only_loopback_hosts_are_answered() {
        let cases = [
            ("localhost:8000", true),
            ("LOCALHOST", true),
            ("127.0.0.1:80", true),
            ("[::1]:8000", true),
            ("[::1]", true),
            ("127.0.0.1.evil.example:8000", false),
            ("evil.example", false),
            ("localhost:1;x", false),
            ("localhost:", false),
            ("", false),
        ];
        for (host, good) in cases {
            let headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static(host))]);
            assert_eq!(host_of(&headers).is_some(), good, "{host}");
        }
        assert!(host_of(&HeaderMap::new()).is_none());
    }
}
