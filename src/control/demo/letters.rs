//! A letter: a message from one demo user to another, who gets it at once or when the tab is open again. It is `send` of
//! the server API behind a token of the demo.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::{Demo, bearer, is_guest};
use crate::hub::api::{ApiAnswer, ApiCommand, ApiError, ApiSend, STORE};

/// Longest text in characters; the page has the same bound.
const TEXT_CHARS_MAX: usize = 2000;
/// Longest key by which a letter that is sent again is known.
const KEY_BYTES_MAX: usize = 64;
/// Longest user id of a guest.
const USER_BYTES_MAX: usize = 64;

/// What the page asks for.
#[derive(serde::Deserialize)]
pub(super) struct LetterRequest {
    /// Who writes.
    token: String,
    /// To whom.
    user: String,
    text: String,
    /// The same for every attempt to send one letter.
    #[serde(default)]
    key: String,
}

/// What arrives in the mailbox.
#[derive(serde::Serialize)]
struct Letter<'a> {
    from: &'a str,
    name: &'a str,
    text: &'a str,
    /// Milliseconds since 1970.
    time: u64,
}

pub(super) async fn send(State(demo): State<Arc<Demo>>, Json(request): Json<LetterRequest>) -> Response {
    let Some(sender) = bearer(&demo.key, &request.token) else {
        return StatusCode::FORBIDDEN.into_response();
    };
    let text = request.text.trim();
    let is_good = is_guest(&request.user)
        && request.user.len() <= USER_BYTES_MAX
        && request.key.len() <= KEY_BYTES_MAX
        && !text.is_empty()
        && text.chars().count() <= TEXT_CHARS_MAX;
    let letter = Letter { from: &sender.sub, name: &sender.info.name, text, time: unix_ms() };
    let Some(data) = serde_json::to_vec(&letter).ok().filter(|_| is_good) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let send = ApiSend {
        users: vec![request.user],
        data: data.into(),
        // Keys of different senders are different keys.
        idempotency_key: if request.key.is_empty() { String::new() } else { sender.sub + &request.key },
        ..ApiSend::default()
    };
    match demo.gateway.call(STORE, ApiCommand::Send(Box::new(send))).await {
        Ok(ApiAnswer::Sent(mut results)) => {
            verdict(results.pop().map(|result| result.map(|_| ()))).into_response()
        }
        Ok(ApiAnswer::Error(error)) => verdict(Some(Err(error))).into_response(),
        Ok(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

/// The page shows the text as it is.
fn verdict(result: Option<Result<(), ApiError>>) -> (StatusCode, &'static str) {
    match result {
        Some(Ok(())) => (StatusCode::OK, "kept"),
        Some(Err(ApiError::MailboxFull)) => (StatusCode::INSUFFICIENT_STORAGE, "the mailbox is full"),
        Some(Err(ApiError::StorageUnavailable)) => {
            (StatusCode::SERVICE_UNAVAILABLE, "the disk takes nothing")
        }
        Some(Err(ApiError::NotAvailable)) => (StatusCode::NOT_FOUND, "this server keeps no letters"),
        Some(Err(_)) | None => (StatusCode::INTERNAL_SERVER_ERROR, "the server failed"),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the control plane reads the clock: the page shows when it was written"
)]
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use axum::body::Body;
    use axum::http::Request;
    use tower::ServiceExt;

    use super::*;
    use crate::base::ids::ShardId;
    use crate::control::answers::{Answers, answer_queue};
    use crate::control::demo::{TokenRequest, issue, router};
    use crate::control::gateway::{ApiAsk, Full, Gateway, GatewaySettings, ShardPort};
    use crate::control::settings::DemoSettings;
    use crate::hub::api::Position;

    const KEY: &str = "a key of the test, long enough";

    /// A store that takes everything, but for one user whose mailbox is full.
    struct Store {
        answers: Answers,
        sent: Arc<Mutex<Vec<ApiSend>>>,
    }

    impl ShardPort for Store {
        fn send(&self, shard: ShardId, ask: ApiAsk) -> Result<(), Full> {
            assert_eq!(shard, STORE);
            let ApiCommand::Send(send) = ask.command else { panic!("{ask:?}") };
            let result = match send.users[0].as_str() {
                "guest-full" => Err(ApiError::MailboxFull),
                _ => Ok(Position::default()),
            };
            self.sent.lock().unwrap().push(*send);
            self.answers.deliver(ask.id, shard, ApiAnswer::Sent(vec![result]));
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_letter_needs_a_token_a_guest_and_a_text() {
        let (answers, inbox) = answer_queue(8).unwrap();
        let sent: Arc<Mutex<Vec<ApiSend>>> = Arc::default();
        let store = Store { answers, sent: Arc::clone(&sent) };
        let bounds = GatewaySettings { shards: 1, timeout: Duration::from_secs(5), outstanding_max: 4 };
        let gateway = Gateway::new(Box::new(store), Arc::new(|_| ShardId(0)), bounds);
        tokio::spawn(gateway.clone().receive(inbox));
        let settings = DemoSettings {
            hmac_secret_key: KEY.to_owned(),
            websocket_path: "/ws".to_owned(),
            mailboxes: true,
        };
        let router = router(settings, gateway);
        let ada = issue(KEY, &TokenRequest { name: "Ada".to_owned(), token: String::new() }).unwrap();
        let foreign =
            issue("another key", &TokenRequest { name: String::new(), token: String::new() }).unwrap();
        let long = "x".repeat(TEXT_CHARS_MAX + 1);
        let cases = [
            (ada.token.as_str(), "guest-b", " hello ", 200),
            (&ada.token, "guest-full", "hello", 507),
            (&ada.token, "guest-b", " ", 400),
            (&ada.token, "guest-b", &long, 400),
            (&ada.token, "somebody", "hello", 400),
            (&foreign.token, "guest-b", "hello", 403),
            ("", "guest-b", "hello", 403),
        ];
        for (token, user, text, status) in cases {
            let body = serde_json::json!({ "token": token, "user": user, "text": text, "key": "k" });
            let request = Request::post("/demo/letter")
                .header("host", "localhost")
                .header("content-type", "application/json")
                .body(Body::from(body.to_string()))
                .unwrap();
            let response = router.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status().as_u16(), status, "{user} {text}");
        }
        let sent = sent.lock().unwrap();
        assert_eq!(sent.len(), 2);
        assert_eq!(sent[0].idempotency_key, ada.user.clone() + "k");
        let letter: serde_json::Value = serde_json::from_slice(&sent[0].data).unwrap();
        assert_eq!(
            (&letter["from"], &letter["name"], &letter["text"]),
            (&ada.user.into(), &"Ada".into(), &"hello".into())
        );
    }
}
