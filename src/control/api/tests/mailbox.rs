//! `send` and the methods of mailboxes, against a store in memory.

use super::*;
use crate::hub::api::{ApiSend, MailboxView, StoredMessage};
use crate::limits::{USER_ID_BYTES, USERS_PER_SEND};

/// Users with names of their own have mailboxes of their own kind; all others have place.
pub(super) fn answer(command: ApiCommand) -> ApiAnswer {
    let position = Position { offset: 3, epoch: "0000000a".to_owned() };
    match command {
        ApiCommand::Send(send) => match send.users.first().map(String::as_str) {
            Some("nodisk") => ApiAnswer::Error(ApiError::StorageUnavailable),
            _ => ApiAnswer::Sent(send.users.iter().map(|user| sent(user)).collect()),
        },
        ApiCommand::MailboxInfo { user, .. } if user == "nobody" => {
            ApiAnswer::MailboxInfo(MailboxView::default())
        }
        ApiCommand::MailboxInfo { .. } => {
            ApiAnswer::MailboxInfo(MailboxView { position, cursor: 1, messages: 2, bytes: 300, devices: 1 })
        }
        ApiCommand::MailboxList { .. } => {
            let json = StoredMessage {
                offset: 2,
                id: "a-b".to_owned(),
                data: Bytes::from_static(b"{\"x\": 1}"),
                tags: vec![("z".to_owned(), "1".to_owned()), ("a".to_owned(), "2".to_owned())],
                sent_at_ms: 1_790_000_000_123,
                expires_at: 1_790_000_060,
            };
            let binary = StoredMessage {
                offset: 3,
                data: Bytes::from_static(b"\0"),
                tags: Vec::new(),
                expires_at: 0,
                ..json.clone()
            };
            ApiAnswer::MailboxList { messages: vec![json, binary], position }
        }
        _ => ApiAnswer::Done,
    }
}

fn sent(user: &str) -> Result<Position, ApiError> {
    match user {
        "full" => Err(ApiError::MailboxFull),
        user => Ok(Position { offset: user.len() as u64, epoch: "0000000a".to_owned() }),
    }
}

/// With mailboxes whose messages have at most 100 bytes.
fn with_mailboxes() -> Fixture {
    fixture(|api, _| api.message_bytes = Some(100))
}

fn fault(words: &str) -> String {
    format!(r#"{{"error":{{"code":107,"message":"bad request: {words}"}}}}"#)
}

#[tokio::test]
async fn mailbox_methods_answer_byte_for_byte() {
    let fixture = with_mailboxes();
    let list = r#"{"result":{"messages":[{"offset":2,"id":"a-b","data":{"x": 1},"tags":{"z":"1","a":"2"},"sent_at":1790000000123,"expires_at":1790000060},{"offset":3,"id":"a-b","b64data":"AA==","sent_at":1790000000123}],"offset":3,"epoch":"0000000a"}}"#;
    let cases = [
        ("send", r#"{"user":"ann","data":{"x": 1}}"#, r#"{"result":{"epoch":"0000000a","offset":3}}"#),
        (
            "send",
            r#"{"user":"ann","users":null,"b64data":"AA=="}"#,
            r#"{"result":{"epoch":"0000000a","offset":3}}"#,
        ),
        ("send", r#"{"user":"full","data":1}"#, r#"{"error":{"code":120,"message":"mailbox full"}}"#),
        (
            "send",
            r#"{"user":"nodisk","data":1}"#,
            r#"{"error":{"code":121,"message":"storage unavailable"}}"#,
        ),
        (
            "send",
            r#"{"users":["nodisk","ann"],"data":1}"#,
            r#"{"error":{"code":121,"message":"storage unavailable"}}"#,
        ),
        ("mailbox_list", r#"{"user":"ann"}"#, list),
        (
            "mailbox_info",
            r#"{"user":"ann"}"#,
            r#"{"result":{"offset":3,"epoch":"0000000a","cursor":1,"messages":2,"bytes":300,"devices":1}}"#,
        ),
        (
            "mailbox_info",
            r#"{"user":"nobody"}"#,
            r#"{"result":{"offset":0,"epoch":"","cursor":0,"messages":0,"bytes":0,"devices":0}}"#,
        ),
        ("mailbox_ack", r#"{"user":"ann","offset":2,"device":"phone"}"#, DONE),
        ("mailbox_forget", r#"{"user":"ann","device":"phone"}"#, DONE),
        ("mailbox_purge", r#"{"user":"ann"}"#, DONE),
    ];
    for (method, body, answer) in cases {
        assert_eq!(fixture.ok(method, body).await, answer, "{method} {body}");
    }
}

#[tokio::test]
async fn a_bad_send_is_told_what_is_wrong_and_reaches_no_log() {
    let fixture = with_mailboxes();
    let long = "u".repeat(USER_ID_BYTES + 1);
    let many = vec!["u"; USERS_PER_SEND + 1];
    let data = "d".repeat(99);
    let ttl = "ttl is not seconds, or a duration with units (ms, s, m, h, d) such as 1h30m";
    let cases = [
        ("send", json!({"data": 1}), "give either user or users"),
        ("send", json!({"user": "", "users": [], "data": 1}), "give either user or users"),
        ("send", json!({"user": "a", "users": ["b"], "data": 1}), "give either user or users"),
        ("send", json!({"users": many, "data": 1}), "more than 1000 users"),
        ("send", json!({"user": long, "data": 1}), "a user id has 1 to 1000 bytes"),
        ("send", json!({"user": "a"}), "data (or b64data) is missing"),
        (
            "send",
            json!({"user": "a", "b64data": "%"}),
            "b64data is not base64 (RFC 4648 section 4, with padding)",
        ),
        ("send", json!({"user": "a", "data": 1, "ttl": -1}), ttl),
        ("send", json!({"user": "a", "data": 1, "ttl": 1.5}), ttl),
        ("send", json!({"user": "a", "data": 1, "ttl": "soon"}), ttl),
        (
            "send",
            json!({"user": "a", "data": data}),
            "data and tags have 101 bytes, more than the 100 that a message may have",
        ),
        (
            "send",
            json!({"user": "a", "data": 1, "tags": {"kkkkkkk": "vvvvvvv"}}),
            "data and tags have 101 bytes, more than the 100 that a message may have",
        ),
        ("mailbox_info", json!({}), "a user id has 1 to 1000 bytes"),
        ("mailbox_info", json!({"user": "a", "device": "d".repeat(65)}), "a device has 1 to 64 bytes"),
        ("mailbox_list", json!({}), "a user id has 1 to 1000 bytes"),
        ("mailbox_ack", json!({"user": "a"}), "offset is missing"),
        ("mailbox_forget", json!({"user": "ann"}), "device is missing"),
        ("mailbox_purge", json!({}), "a user id has 1 to 1000 bytes"),
    ];
    for (method, body, words) in cases {
        assert_eq!(fixture.ok(method, &body.to_string()).await, fault(words), "{method}");
    }
    for body in [r#"{"user":1}"#, r#"{"user":"a","data":1,"ttl":[]}"#] {
        assert_eq!(fixture.call("send", body).await.0, StatusCode::BAD_REQUEST, "{body}");
    }
    assert!(fixture.asked().is_empty());
}

#[tokio::test]
async fn what_one_send_stores_over_all_users_is_bounded() {
    let fixture = fixture(|api, _| api.message_bytes = Some(1 << 20));
    let body =
        |users: usize| json!({"users": vec!["u"; users], "data": "d".repeat((1 << 20) - 2)}).to_string();
    let words = "data for all these users is more than 67108864 bytes; send to fewer at a time";
    assert_eq!(fixture.ok("send", &body(65)).await, fault(words));
    assert_eq!(fixture.ok("send", &body(64)).await.matches(r#""offset":1"#).count(), 64);
}

#[tokio::test]
async fn users_are_answered_in_order_each_with_its_own_fate() {
    let fixture = with_mailboxes();
    let answer = fixture.ok("send", r#"{"users":["bob","","full","andy"],"data":1}"#).await;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let expected = json!({"result": {"responses": [
        {"result": {"offset": 3, "epoch": "0000000a"}},
        {"error": {"code": 107, "message": "bad request: a user id has 1 to 1000 bytes"}},
        {"error": {"code": 120, "message": "mailbox full"}},
        {"result": {"offset": 4, "epoch": "0000000a"}},
    ]}});
    assert_eq!(answer, expected);
    assert_eq!(fixture.asked().len(), 1, "one question for all");
    let answer = fixture.ok("send", r#"{"users":[""],"data":1}"#).await;
    assert!(answer.contains(r#""responses":[{"error""#), "a list is answered with a list: {answer}");
    assert!(fixture.asked().is_empty());
}

#[tokio::test]
async fn parameters_reach_the_store() {
    let fixture = with_mailboxes();
    let ttls = [
        ("7", 7),
        ("0", 0),
        (r#""1h30m""#, 5400),
        (r#""1500ms""#, 2),
        ("99999999999", u32::MAX),
        ("null", 0),
    ];
    for (ttl, ttl_seconds) in ttls {
        let body = format!(
            r#"{{"user":"ann","data":{{ "k" :1}},"ttl":{ttl},"idempotency_key":"i","tags":{{"t":"v"}}}}"#
        );
        fixture.ok("send", &body).await;
        let send = ApiSend {
            users: vec!["ann".to_owned()],
            data: Bytes::from_static(b"{ \"k\" :1}"),
            tags: vec![("t".to_owned(), "v".to_owned())],
            ttl_seconds,
            idempotency_key: "i".to_owned(),
        };
        assert_eq!(fixture.asked(), [(STORE.0, format!("{:?}", ApiCommand::Send(Box::new(send))))], "{ttl}");
    }
    fixture.ok("mailbox_list", r#"{"user":"ann","since":4,"limit":5000}"#).await;
    assert!(fixture.asked()[0].1.contains("since: 4, limit: 1000"));
    fixture.ok("mailbox_list", r#"{"user":"ann"}"#).await;
    assert!(fixture.asked()[0].1.contains("since: 0, limit: 100"));
    fixture.ok("mailbox_ack", r#"{"user":"ann","offset":9,"device":"phone"}"#).await;
    assert!(fixture.asked()[0].1.contains(r#"user: "ann", device: "phone", offset: 9"#));
}

#[tokio::test]
async fn without_mailboxes_their_methods_are_not_available() {
    let fixture = fixture(|_, _| {});
    for method in ["send", "mailbox_info", "mailbox_list", "mailbox_ack", "mailbox_forget", "mailbox_purge"] {
        assert_eq!(
            fixture.ok(method, r#"{"user":"a","data":1,"offset":1,"device":"d"}"#).await,
            E108,
            "{method}"
        );
    }
    assert!(fixture.asked().is_empty());
}

#[tokio::test]
async fn a_batch_sends_in_order() {
    let fixture = with_mailboxes();
    let commands = r#"{"commands":[{"send":{"user":"ann","data":1}},{"send":{"user":"a","users":["b"],"data":1}},
        {"send":{"users":["full"],"data":1}},{"mailbox_ack":{"user":"ann","offset":1}},{"mailbox_purge":{"user":"ann"}},
        {"mailbox_info":{"user":"nobody"}},{"mailbox_list":{"user":"ann"}}]}"#;
    let answer: Value = serde_json::from_str(&fixture.ok("batch", commands).await).unwrap();
    let replies = answer["replies"].as_array().unwrap();
    assert_eq!(replies.len(), 7);
    assert_eq!(replies[0], json!({"send": {"offset": 3, "epoch": "0000000a"}}));
    assert_eq!(replies[1]["error"]["message"], "bad request: give either user or users");
    assert_eq!(replies[2]["send"]["responses"][0]["error"]["code"], 120);
    assert_eq!((&replies[3], &replies[4]), (&json!({"mailbox_ack": {}}), &json!({"mailbox_purge": {}})));
    assert_eq!(replies[5]["mailbox_info"]["offset"], 0);
    assert_eq!(replies[6]["mailbox_list"]["messages"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn errors_of_the_store_show_in_the_status_where_asked() {
    let fixture = fixture(|api, _| {
        api.message_bytes = Some(100);
        api.error_mode = ErrorMode::Transport;
    });
    for (user, status) in [
        ("full", StatusCode::INSUFFICIENT_STORAGE),
        ("nodisk", StatusCode::SERVICE_UNAVAILABLE),
        ("", StatusCode::BAD_REQUEST),
    ] {
        let body = json!({"user": user, "data": 1}).to_string();
        assert_eq!(fixture.call("send", &body).await.0, status, "{user}");
    }
}
