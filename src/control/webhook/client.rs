//! One request to a backend, and what its answer means.
//!
//! | answer | verdict |
//! |---|---|
//! | 2xx | delivered |
//! | 408, 429, 5xx, none in time, no connection | again, after `Retry-After` if there is one |
//! | anything else (redirects are not followed) | refused |

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client as Pool, Error as RequestError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::timeout;

use super::backoff::retry_after;
use super::clock::{now, unix_ms};
use super::settings::{WebhookSettings, endpoint};
use super::signature::sign;

/// Bytes of an answer that are read so that its connection can be used again.
const ANSWER_MAX: usize = 64 * 1024;
/// A connection is kept so long between two requests.
const IDLE: Duration = Duration::from_secs(60);

/// A backend.
pub(super) struct Client {
    pool: Connections,
    uri: Uri,
    secret: String,
    name: HeaderValue,
    agent: HeaderValue,
    timeout: Duration,
}

/// Certificates are read only where they are needed.
enum Connections {
    Plain(Pool<HttpConnector, Full<Bytes>>),
    Secure(Pool<HttpsConnector<HttpConnector>, Full<Bytes>>),
}

/// What became of a request.
#[derive(Debug)]
pub(super) enum Verdict {
    /// The backend has it.
    Delivered,
    /// It may have it next time.
    Again(Trouble, Option<Duration>),
    /// It does not want it.
    Refused(StatusCode),
}

/// Why a request is made again.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// No answer in time.
    #[error("no answer in time")]
    Timeout,
    /// No connection, or one that broke.
    #[error("{}", with_causes(.0))]
    Connection(#[from] RequestError),
    /// The backend says so.
    #[error("status {0}")]
    Status(StatusCode),
}

/// Why a backend cannot be written to at all.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is none.
    #[error("webhook {0}: the address cannot be used")]
    Address(String),
    /// Without certificates nobody can be trusted.
    #[error("webhook {name}: cannot read the certificates of this system: {source}")]
    Certificates {
        /// Of the webhook.
        name: String,
        /// Why.
        source: std::io::Error,
    },
}

impl Client {
    pub(super) fn new(settings: &WebhookSettings, version: &str) -> Result<Self, ClientError> {
        let address = || ClientError::Address(settings.name.clone());
        let uri = endpoint(&settings.url).ok_or_else(address)?;
        let name = HeaderValue::from_str(&settings.name).map_err(|_| address())?;
        let agent = HeaderValue::from_str(version).unwrap_or(HeaderValue::from_static("millpond"));
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(settings.timeout));
        tcp.enforce_http(false);
        let mut builder = Pool::builder(TokioExecutor::new());
        builder.pool_idle_timeout(IDLE).pool_max_idle_per_host(1).pool_timer(TokioTimer::new());
        let pool = if uri.scheme_str() == Some("https") {
            let tls = HttpsConnectorBuilder::new()
                .with_native_roots()
                .map_err(|source| ClientError::Certificates { name: settings.name.clone(), source })?;
            Connections::Secure(builder.build(tls.https_only().enable_http1().wrap_connector(tcp)))
        } else {
            Connections::Plain(builder.build(tcp))
        };
        Ok(Self { pool, uri, secret: settings.secret.clone(), name, agent, timeout: settings.timeout })
    }

    /// Posts a batch once.
    pub(super) async fn post(&self, id: &str, attempt: u32, body: Bytes) -> Verdict {
        let request = self.request(id, attempt, body);
        match timeout(self.timeout, self.exchange(request)).await {
            Ok(Ok(response)) => judge(&response),
            Ok(Err(error)) => Verdict::Again(error.into(), None),
            Err(_) => Verdict::Again(Trouble::Timeout, None),
        }
    }

    fn request(&self, id: &str, attempt: u32, body: Bytes) -> Request<Full<Bytes>> {
        let signature = (!self.secret.is_empty()).then(|| sign(&self.secret, unix_ms() / 1000, &body));
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, self.agent.clone());
        headers.insert("x-millpond-webhook", self.name.clone());
        headers.insert("x-millpond-attempt", HeaderValue::from(attempt));
        let texts = [("x-millpond-delivery", Some(id.to_owned())), ("x-millpond-signature", signature)];
        for (name, text) in texts {
            if let Some(value) = text.and_then(|text| HeaderValue::try_from(text).ok()) {
                headers.insert(name, value);
            }
        }
        request
    }

    /// Until the end of the answer: what a backend still sends would otherwise be cut off.
    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Response<()>, RequestError> {
        let response = match &self.pool {
            Connections::Plain(pool) => pool.request(request).await?,
            Connections::Secure(pool) => pool.request(request).await?,
        };
        let (parts, body) = response.into_parts();
        // The status has said it; a body that is too long or breaks off only costs the connection.
        let _ = Limited::new(body, ANSWER_MAX).collect().await;
        Ok(Response::from_parts(parts, ()))
    }
}

/// An error and what caused it: of a connection the first says only that there is none.
fn with_causes(error: &RequestError) -> String {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn judge(response: &Response<()>) -> Verdict {
    let status = response.status();
    if status.is_success() {
        return Verdict::Delivered;
    }
    let passes = matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
    if !passes && !status.is_server_error() {
        return Verdict::Refused(status);
    }
    let asked = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let after = asked.and_then(|value| retry_after(value, now()));
    Verdict::Again(Trouble::Status(status), after)
}
