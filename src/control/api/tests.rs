//! The router against shards in memory: every method, every refusal.

mod mailbox;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use axum::body::Body;
use axum::http::request::Builder;
use bytes::Bytes;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::base::ids::ShardId;
use crate::control::answers::{Answers, answer_queue};
use crate::control::gateway::{ApiAsk, Full, GatewaySettings, ShardPort};
use crate::hub::api::{
    ApiAnswer, ApiCommand, ConnectionView, Member, Position, STORE, ShardInfo, StoredPublication, Target,
    UserState, UserView,
};
use crate::limits::{CHANNELS_ASKED, CHANNELS_PAGE};

/// Two shards: channels whose name begins with `b` live on shard 1, all others on shard 0.
struct FakeShards {
    answers: Answers,
    log: Arc<Mutex<Vec<(u16, String)>>>,
    offsets: Mutex<BTreeMap<String, u64>>,
}

impl ShardPort for FakeShards {
    fn send(&self, shard: ShardId, ask: ApiAsk) -> Result<(), Full> {
        lock(&self.log).push((shard.0, format!("{:?}", ask.command)));
        if let Some(answer) = self.answer(shard, ask.command) {
            self.answers.deliver(ask.id, shard, answer);
        }
        Ok(())
    }
}

impl FakeShards {
    fn answer(&self, shard: ShardId, command: ApiCommand) -> Option<ApiAnswer> {
        Some(match command {
            ApiCommand::Publish(of) if of.channel.starts_with("nowhere:") => {
                ApiAnswer::Error(ApiError::UnknownChannel)
            }
            ApiCommand::Publish(of) if of.data.is_empty() => ApiAnswer::Error(ApiError::BadRequest),
            ApiCommand::Publish(of) if of.channel == "silent" => return None,
            ApiCommand::Publish(of) if of.channel == "forgetful" => ApiAnswer::Published(None),
            ApiCommand::Publish(of) => {
                let mut offsets = lock(&self.offsets);
                let offset = offsets.entry(of.channel).or_default();
                *offset += 1;
                ApiAnswer::Published(Some(Position { offset: *offset, epoch: "xyzw".to_owned() }))
            }
            ApiCommand::Subscribe(of) if of.channel.starts_with("nowhere:") => {
                ApiAnswer::Error(ApiError::UnknownChannel)
            }
            ApiCommand::Subscribe(_)
            | ApiCommand::Unsubscribe { .. }
            | ApiCommand::Disconnect { .. }
            | ApiCommand::Refresh { .. }
            | ApiCommand::HistoryRemove { .. } => ApiAnswer::Done,
            ApiCommand::Presence { channel } if channel == "empty" => ApiAnswer::Presence(Vec::new()),
            ApiCommand::Presence { .. } => ApiAnswer::Presence(vec![member()]),
            ApiCommand::PresencePage { limit, cursor, .. } => {
                ApiAnswer::PresencePage { members: vec![member()], cursor: format!("{limit}{cursor}") }
            }
            ApiCommand::PresenceStats { .. } => ApiAnswer::PresenceStats { num_clients: 0, num_users: 0 },
            ApiCommand::History { since: Some(since), .. } if since.epoch == "old" => {
                ApiAnswer::Error(ApiError::UnrecoverablePosition)
            }
            ApiCommand::History { limit, .. } => history(limit),
            ApiCommand::Channels { limit, after, .. } => channels(shard, limit, &after),
            ApiCommand::UserPresence { users } => ApiAnswer::UserPresence(homed(shard, users)),
            ApiCommand::Send(_)
            | ApiCommand::MailboxInfo { .. }
            | ApiCommand::MailboxList { .. }
            | ApiCommand::MailboxAck { .. }
            | ApiCommand::MailboxForget { .. }
            | ApiCommand::MailboxPurge { .. } => {
                assert_eq!(shard, STORE, "mailboxes are the store's");
                mailbox::answer(command)
            }
            ApiCommand::Connections { .. } => ApiAnswer::Connections(vec![session(shard)]),
            ApiCommand::Info => {
                ApiAnswer::Info(ShardInfo { num_clients: 2, num_users: 1, num_subs: 3, num_channels: 0 })
            }
        })
    }
}

fn member() -> Member {
    Member {
        client: "c1".to_owned(),
        user: String::new(),
        conn_info: Some(Bytes::from_static(b"{\"a\": 1}")),
        chan_info: Some(Bytes::from_static(b"\xff")),
    }
}

fn homed(shard: ShardId, users: Vec<String>) -> Vec<(String, UserView)> {
    let here = users.into_iter().filter(|user| user.starts_with('b') == (shard.0 == 1));
    let view = |user: &str| match user {
        "ann" => UserView { state: UserState::Online, devices: 2, last_seen: None },
        "bob" => UserView { state: UserState::Away, devices: 0, last_seen: Some(5) },
        _ => UserView::default(),
    };
    here.map(|user| (user.clone(), view(&user))).collect()
}

fn session(shard: ShardId) -> ConnectionView {
    ConnectionView {
        client: format!("c{}", shard.0),
        transport: "websocket",
        protocol: "json",
        address: Some([127, 0, 0, 1].into()).filter(|_| shard.0 == 0),
        since: 7,
        away: shard.0 == 1,
        channels: vec!["a".to_owned()],
        queue_bytes: 3,
    }
}

fn history(limit: i32) -> ApiAnswer {
    let position = Position { offset: 2, epoch: "xyzw".to_owned() };
    let tags = vec![("z".to_owned(), "1".to_owned()), ("a".to_owned(), "2".to_owned())];
    let publications = if limit == 0 {
        Vec::new()
    } else {
        vec![
            StoredPublication {
                offset: 1,
                data: Bytes::from_static(b"{\"x\": 1}"),
                tags,
                ..Default::default()
            },
            StoredPublication {
                offset: 2,
                data: Bytes::from_static(b"\x00"),
                info: Some(member()),
                ..Default::default()
            },
        ]
    };
    ApiAnswer::History { publications, position }
}

fn channels(shard: ShardId, limit: u32, after: &str) -> ApiAnswer {
    if after == "many" {
        let limit = limit.clamp(1, CHANNELS_ASKED);
        let names = (0..limit).map(|number| (format!("n{number:05}{}", shard.0), 1));
        return ApiAnswer::Channels(names.collect());
    }
    let names: &[&str] = if shard.0 == 0 { &["a", "c", "e"] } else { &["b", "d"] };
    let named = names.iter().filter(|name| **name > after).take(limit as usize);
    ApiAnswer::Channels(named.map(|name| ((*name).to_owned(), 7)).collect())
}

struct Fixture {
    router: Router,
    log: Arc<Mutex<Vec<(u16, String)>>>,
}

fn fixture(change: impl FnOnce(&mut ApiSettings, &mut HttpLimits)) -> Fixture {
    let (answers, inbox) = answer_queue(64).unwrap();
    let log = Arc::default();
    let shards = FakeShards { answers, log: Arc::clone(&log), offsets: Mutex::default() };
    let settings = GatewaySettings { shards: 2, timeout: Duration::from_secs(5), outstanding_max: 4 };
    let home = |channel: &str| ShardId(u16::from(channel.starts_with('b')));
    let gateway = Gateway::new(Box::new(shards), Arc::new(home), settings);
    tokio::spawn(gateway.clone().receive(inbox));
    let mut api = ApiSettings { key: Some("key".to_owned()), ..ApiSettings::default() };
    let mut limits = HttpLimits::default();
    change(&mut api, &mut limits);
    let node = NodeSettings { uid: "uid".to_owned(), name: "node".to_owned(), version: "1".to_owned() };
    let metrics = ApiMetrics::new(&mut prometheus_client::registry::Registry::default());
    Fixture { router: router(Arc::new(Api::new(api, limits, node, gateway, metrics))), log }
}

impl Fixture {
    async fn send(&self, request: Builder, body: impl Into<Body>) -> (StatusCode, HeaderMap, String) {
        let response = self.router.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status, parts.headers, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn call(&self, method: &str, body: &str) -> (StatusCode, String) {
        let (status, _, body) = self.send(post(method), body.to_owned()).await;
        (status, body)
    }

    async fn ok(&self, method: &str, body: &str) -> String {
        let (status, answer) = self.call(method, body).await;
        assert_eq!(status, StatusCode::OK, "{method} {body}: {answer}");
        answer
    }

    fn asked(&self) -> Vec<(u16, String)> {
        std::mem::take(&mut *lock(&self.log))
    }
}

fn post(method: &str) -> Builder {
    Request::builder().method("POST").uri(format!("/api/{method}")).header("x-api-key", "key")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

const E107: &str = r#"{"error":{"code":107,"message":"bad request"}}"#;
const E102: &str = r#"{"error":{"code":102,"message":"unknown channel"}}"#;
const E108: &str = r#"{"error":{"code":108,"message":"not available"}}"#;
const DONE: &str = r#"{"result":{}}"#;

#[tokio::test]
async fn every_method_answers_byte_for_byte() {
    let fixture = fixture(|_, _| {});
    let history = r#"{"result":{"publications":[{"data":{"x": 1},"offset":1,"tags":{"z":"1","a":"2"}},{"b64data":"AA==","info":{"user":"","client":"c1","conn_info":{"a": 1},"b64chan_info":"/w=="},"offset":2}],"epoch":"xyzw","offset":2}}"#;
    let presence = r#"{"result":{"presence":{"c1":{"user":"","client":"c1","conn_info":{"a": 1},"b64chan_info":"/w=="}}}}"#;
    let cases = [
        ("publish", r#"{"channel":"a","data":{"x": 1}}"#, r#"{"result":{"epoch":"xyzw","offset":1}}"#),
        ("publish", r#"{"channel":"forgetful","data":1}"#, DONE),
        ("publish", r#"{"channel":"a"}"#, E107),
        ("publish", r#"{"data":1}"#, E107),
        ("publish", r#"{"channel":"a","b64data":"%"}"#, E107),
        ("publish", r#"{"channel":"nowhere:a","data":1}"#, E102),
        ("broadcast", r#"{"channels":[],"data":1}"#, E107),
        ("subscribe", r#"{"user":"u","channel":"a"}"#, DONE),
        ("subscribe", r#"{"user":"u"}"#, E107),
        ("subscribe", r#"{"user":"u","channel":"nowhere:a"}"#, E102),
        ("unsubscribe", r#"{"user":"u","channel":"a"}"#, DONE),
        ("unsubscribe", r#"{"user":"u"}"#, E107),
        ("disconnect", r#"{"user":"u"}"#, DONE),
        ("disconnect", r#"{"user":"u","disconnect":{"code":2999}}"#, E107),
        ("disconnect", r#"{"user":"u","disconnect":{"code":3000}}"#, E107),
        ("disconnect", r#"{"user":"u","disconnect":{"code":4500,"reason":"null"}}"#, E107),
        ("disconnect", r#"{"user":"u","disconnect":{"code":4500,"reason":"{\"a\":1}"}}"#, E107),
        ("disconnect", r#"{"user":"u","disconnect":{"code":70000}}"#, E107),
        ("refresh", r#"{"user":"u","expired":true}"#, DONE),
        ("presence", r#"{"channel":"a"}"#, presence),
        ("presence", r#"{"channel":"empty"}"#, r#"{"result":{"presence":{}}}"#),
        ("presence", "{}", E107),
        ("presence_stats", r#"{"channel":"a"}"#, r#"{"result":{"num_clients":0,"num_users":0}}"#),
        ("history", r#"{"channel":"a"}"#, r#"{"result":{"publications":[],"epoch":"xyzw","offset":2}}"#),
        ("history", r#"{"channel":"a","limit":-1}"#, history),
        (
            "history",
            r#"{"channel":"a","since":{"offset":1,"epoch":"old"}}"#,
            r#"{"error":{"code":112,"message":"unrecoverable position"}}"#,
        ),
        ("history_remove", r#"{"channel":"a"}"#, DONE),
        ("rpc", r#"{"method":"m","params":{}}"#, E108),
        ("rpc", "{}", E107),
        ("map_publish", r#"{"channel":"a","key":"k","data":1}"#, E108),
        ("batch", "{}", r#"{"result":{"replies":[]},"replies":[]}"#),
    ];
    for (method, body, answer) in cases {
        assert_eq!(fixture.ok(method, body).await, answer, "{method} {body}");
    }
}

#[tokio::test]
async fn channel_methods_go_home_and_user_methods_go_everywhere() {
    let fixture = fixture(|_, _| {});
    let home = ["publish", "presence", "presence_stats", "history", "history_remove"];
    for method in home {
        for (channel, shard) in [("a", 0), ("b", 1)] {
            fixture.ok(method, &json!({"channel": channel, "data": 1}).to_string()).await;
            let asked = fixture.asked();
            assert_eq!(asked.iter().map(|of| of.0).collect::<Vec<_>>(), [shard], "{method} {channel}");
        }
    }
    for method in ["subscribe", "unsubscribe", "disconnect", "refresh", "channels", "info"] {
        fixture.ok(method, r#"{"channel":"b","user":"u"}"#).await;
        let asked = fixture.asked();
        assert_eq!(asked.iter().map(|of| of.0).collect::<Vec<_>>(), [0, 1], "{method}");
    }
}

#[tokio::test]
async fn parameters_reach_the_shard() {
    let fixture = fixture(|_, _| {});
    let publish = r#"{"channel":"a","data":{ "k" :1},"skip_history":true,"tags":{"t":"v"},"idempotency_key":"i","version":7,"version_epoch":"e"}"#;
    fixture.ok("publish", publish).await;
    let expected = r#"data: b"{ \"k\" :1}", skip_history: true, tags: [("t", "v")], idempotency_key: "i", version: 7, version_epoch: "e""#;
    assert!(fixture.asked()[0].1.contains(expected));

    fixture
        .ok(
            "disconnect",
            r#"{"user":"u","client":"c","whitelist":["w"],"disconnect":{"code":4001,"reason":"go"}}"#,
        )
        .await;
    let target =
        format!("{:?}", Target { user: "u".to_owned(), client: Some("c".to_owned()), session: None });
    let expected = format!(r#"target: {target}, whitelist: ["w"], code: 4001, reason: "go""#);
    assert!(fixture.asked()[0].1.contains(&expected));

    fixture.ok("disconnect", r#"{"user":"u","disconnect":{"code":3500,"reason":""}}"#).await;
    assert!(fixture.asked()[0].1.contains(r#"code: 3500, reason: "force disconnect""#));

    fixture.ok("refresh", r#"{"user":"u","session":"s","expire_at":99,"info":{"n":1}}"#).await;
    assert!(fixture.asked()[0].1.contains(r#"expired: false, expire_at: 99, info: Some(b"{\"n\":1}")"#));

    fixture
        .ok("history", r#"{"channel":"a","limit":5,"since":{"offset":3,"epoch":"q"},"reverse":true}"#)
        .await;
    let expected = r#"limit: 5, since: Some(Position { offset: 3, epoch: "q" }), reverse: true"#;
    assert!(fixture.asked()[0].1.contains(expected));
}

#[tokio::test]
async fn a_broadcast_answers_in_order_and_does_not_stop_at_errors() {
    let fixture = fixture(|_, _| {});
    let answer = fixture.ok("broadcast", r#"{"channels":["b","nowhere:x","a","","b"],"data":{"x":1}}"#).await;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let expected = json!({"result": {"responses": [
        {"result": {"offset": 1, "epoch": "xyzw"}},
        {"error": {"code": 102, "message": "unknown channel"}},
        {"result": {"offset": 1, "epoch": "xyzw"}},
        {"error": {"code": 107, "message": "bad request"}},
        {"result": {"offset": 2, "epoch": "xyzw"}},
    ]}});
    assert_eq!(answer, expected);
}

#[tokio::test]
async fn a_broadcast_wider_than_the_seam_is_slowed_not_refused() {
    let fixture = fixture(|_, _| {});
    let channels: Vec<String> = (0..3000).map(|n| format!("a{n}")).collect();
    let answer = fixture.ok("broadcast", &json!({"channels": channels, "data": 1}).to_string()).await;
    assert_eq!(answer.matches(r#""offset":1"#).count(), 3000);
}

#[tokio::test]
async fn a_batch_answers_in_order_under_both_names() {
    let commands = r#"{"commands":[{"publish":{"channel":"a","data":1}},{"history":{"channel":"a"}},{},
        {"publish":{"channel":"a"}},{"presence_stats":{"channel":"a"}},{"info":null},{"rpc":{"method":"m"}},
        {"unsubscribe":{"channel":"a"}},{"publish":{"channel":"a","data":2}}],"parallel":PARALLEL}"#;
    for parallel in ["false", "true"] {
        let fixture = fixture(|_, _| {});
        let answer = fixture.ok("batch", &commands.replace("PARALLEL", parallel)).await;
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let replies = json!([
            {"publish": {"offset": 1, "epoch": "xyzw"}},
            {"history": {"publications": [], "epoch": "xyzw", "offset": 2}},
            {"error": {"code": 104, "message": "not found"}},
            {"error": {"code": 107, "message": "bad request"}},
            {"presence_stats": {"num_clients": 0, "num_users": 0}},
            {"error": {"code": 104, "message": "not found"}},
            {"error": {"code": 108, "message": "not available"}},
            {"unsubscribe": {}},
            {"publish": {"offset": 2, "epoch": "xyzw"}},
        ]);
        assert_eq!(answer, json!({"result": {"replies": replies}, "replies": replies}));
    }
}

#[tokio::test]
async fn more_channels_than_a_page_holds_are_announced() {
    let fixture = fixture(|_, _| {});
    let answer = fixture.ok("channels", r#"{"cursor":"many"}"#).await;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let names = answer["result"]["channels"].as_object().unwrap();
    assert_eq!(names.len(), CHANNELS_PAGE as usize);
    assert_eq!(answer["result"]["cursor"].as_str(), names.keys().max().map(String::as_str));
}

#[tokio::test]
async fn channels_are_merged_sorted_and_paged() {
    let fixture = fixture(|_, _| {});
    let all = r#"{"result":{"channels":{"a":{"num_clients":7},"b":{"num_clients":7},"c":{"num_clients":7},"d":{"num_clients":7},"e":{"num_clients":7}}}}"#;
    assert_eq!(fixture.ok("channels", "{}").await, all);
    assert_eq!(fixture.ok("channels", r#"{"limit":5}"#).await, all);
    let (mut cursor, mut pages) = (String::new(), Vec::new());
    loop {
        let answer = fixture.ok("channels", &json!({"limit": 2, "cursor": cursor}).to_string()).await;
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let names = answer["result"]["channels"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        pages.push(names.join(""));
        match answer["result"]["cursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(pages, ["ab", "cd", "e"]);
}

#[tokio::test]
async fn users_and_their_sessions_are_gathered_from_all_shards() {
    let fixture = fixture(|_, _| {});
    assert_eq!(
        fixture.ok("user_presence", r#"{"users":["bob","ann","cid"]}"#).await,
        r#"{"result":{"users":{"ann":{"state":"online","devices":2},"bob":{"state":"away","devices":0,"last_seen":5},"cid":{"state":"offline","devices":0}}}}"#
    );
    assert_eq!(
        fixture.ok("connections", r#"{"user":"u"}"#).await,
        r#"{"result":{"connections":{"c0":{"transport":"websocket","protocol":"json","address":"127.0.0.1","since":7,"state":"online","channels":["a"],"queue_bytes":3},"c1":{"transport":"websocket","protocol":"json","since":7,"state":"away","channels":["a"],"queue_bytes":3}}}}"#
    );
    assert!(fixture.ok("connections", "{}").await.contains(r#""code":107"#));
}

#[tokio::test]
async fn presence_comes_in_pages_where_asked_for() {
    let fixture = fixture(|_, _| {});
    for (params, cursor) in [("", ""), (r#","limit":5"#, "5"), (r#","cursor":"x","limit":7"#, "7x")] {
        let answer = fixture.ok("presence", &format!(r#"{{"channel":"a"{params}}}"#)).await;
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["result"]["presence"].as_object().unwrap().len(), 1);
        assert_eq!(answer["result"]["cursor"].as_str().unwrap_or_default(), cursor);
    }
}

#[tokio::test]
async fn info_sums_the_shards() {
    let fixture = fixture(|_, _| {});
    let answer: Value = serde_json::from_str(&fixture.ok("info", "{}").await).unwrap();
    let node = &answer["result"]["nodes"][0];
    for (name, value) in [("num_clients", 4), ("num_users", 2), ("num_subs", 6), ("num_channels", 0)] {
        assert_eq!(node[name], value, "{name}");
    }
    assert_eq!((&node["uid"], &node["name"], &node["version"]), (&json!("uid"), &json!("node"), &json!("1")));
    assert!(node["process"]["rss"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn refusals_have_their_status() {
    let fixture = fixture(|api, _| api.body_limit = 100);
    let (status, headers, _) =
        fixture.send(Request::builder().uri("/api/info").header("x-api-key", "key"), "").await;
    assert_eq!(
        (status, &headers["allow"]),
        (StatusCode::METHOD_NOT_ALLOWED, &HeaderValue::from_static("POST"))
    );
    let (status, ..) = fixture.send(Request::builder().method("POST").uri("/api/info"), "{}").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let (status, ..) =
        fixture.send(Request::builder().method("POST").uri("/api/info?api_key=key"), "{}").await;
    assert_eq!(status, StatusCode::OK);
    for (method, body, status) in [
        ("nothing", "{}".to_owned(), StatusCode::NOT_FOUND),
        ("publish", String::new(), StatusCode::BAD_REQUEST),
        ("publish", "{".to_owned(), StatusCode::BAD_REQUEST),
        ("publish", r#"{"channel":"a","data":1} x"#.to_owned(), StatusCode::BAD_REQUEST),
        ("publish", r#"{"channel":["a"]}"#.to_owned(), StatusCode::BAD_REQUEST),
        ("info", "no".to_owned(), StatusCode::BAD_REQUEST),
        ("map_publish", "no".to_owned(), StatusCode::BAD_REQUEST),
        ("batch", r#"{"commands":[{"publish":{"channel":1}}]}"#.to_owned(), StatusCode::BAD_REQUEST),
        (
            "publish",
            format!(r#"{{"channel":"a","data":"{}"}}"#, "x".repeat(100)),
            StatusCode::PAYLOAD_TOO_LARGE,
        ),
    ] {
        assert_eq!(fixture.call(method, &body).await.0, status, "{method} {body}");
    }
    assert!(fixture.asked().iter().all(|(_, command)| command == "Info"));
}

#[tokio::test]
async fn a_body_of_unknown_length_is_cut_at_the_limit() {
    let fixture = fixture(|api, _| api.body_limit = 100);
    let chunks = (0..11).map(|_| Ok::<_, std::io::Error>(Bytes::from_static(b"          ")));
    let (status, headers, _) =
        fixture.send(post("info"), Body::from_stream(futures_util::stream::iter(chunks))).await;
    assert_eq!(
        (status, &headers["connection"]),
        (StatusCode::PAYLOAD_TOO_LARGE, &HeaderValue::from_static("close"))
    );
    let broken = futures_util::stream::iter([Err::<Bytes, _>(std::io::Error::other("gone"))]);
    assert_eq!(fixture.send(post("info"), Body::from_stream(broken)).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test(start_paused = true)]
async fn a_slow_body_and_a_silent_shard_end_in_time() {
    let fixture = fixture(|_, _| {});
    let never = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
    assert_eq!(fixture.send(post("info"), Body::from_stream(never)).await.0, StatusCode::REQUEST_TIMEOUT);
    let internal = r#"{"error":{"code":100,"message":"internal server error"}}"#;
    assert_eq!(fixture.ok("publish", r#"{"channel":"silent","data":1}"#).await, internal);
}

#[tokio::test(start_paused = true)]
async fn more_requests_than_allowed_are_503() {
    let fixture = fixture(|_, limits| limits.requests = 1);
    let silent = r#"{"channel":"silent","data":1}"#;
    let (first, (status, headers, _)) =
        tokio::join!(fixture.call("publish", silent), fixture.send(post("publish"), silent));
    assert_eq!(first.0, StatusCode::OK);
    assert_eq!(
        (status, &headers["retry-after"]),
        (StatusCode::SERVICE_UNAVAILABLE, &HeaderValue::from_static("1"))
    );
}

#[tokio::test]
async fn the_error_mode_shows_in_the_status() {
    let with_header = |method| post(method).header("x-centrifugo-error-mode", "transport");
    let by_setting = fixture(|api, _| api.error_mode = ErrorMode::Transport);
    let by_header = fixture(|_, _| {});
    for (method, body, expected) in [
        ("publish", r#"{"channel":"a","data":1}"#, StatusCode::OK),
        ("publish", r#"{"channel":"a"}"#, StatusCode::BAD_REQUEST),
        ("publish", r#"{"channel":"nowhere:a","data":1}"#, StatusCode::NOT_FOUND),
        ("rpc", r#"{"method":"m"}"#, StatusCode::BAD_REQUEST),
        ("history", r#"{"channel":"a","since":{"epoch":"old"}}"#, StatusCode::RANGE_NOT_SATISFIABLE),
    ] {
        let (status, answer) = by_setting.call(method, body).await;
        assert_eq!(status, expected, "{method} {body}");
        let (status, _, same) = by_header.send(with_header(method), body).await;
        assert_eq!((status, same), (expected, answer), "{method} {body}");
        assert_eq!(by_header.call(method, body).await.0, StatusCode::OK);
    }
}
