//! The server API over HTTP: `POST <prefix>/<method>`, JSON in, JSON out (server-api.md section 1).
//!
//! The order of refusals: 405 method, 401 key (403 a website), 404 unknown method, 503 too many at a time, 413 or 408 body, 400 JSON.
//! Application errors are HTTP 200 with an `error` member, unless the error mode asks for a status.

mod auth;
mod batch;
mod body;
mod execute;
mod mailbox;
mod method;
mod params;
mod results;
mod users;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method as HttpMethod, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::api_metrics::ApiMetrics;
use super::gateway::{Gateway, Overloaded};
use super::settings::{ApiSettings, ErrorMode, HttpLimits, NodeSettings};
use crate::hub::api::ApiError;
use body::BodyReader;
use execute::{Executor, Failure, Outcome};
use method::Method;

/// The server API of this process; both doors serve the same one.
pub(crate) struct Api {
    settings: ApiSettings,
    limits: HttpLimits,
    executor: Executor,
    requests: Semaphore,
    bodies: BodyReader,
    metrics: ApiMetrics,
}

impl Api {
    pub(crate) fn new(
        settings: ApiSettings,
        limits: HttpLimits,
        node: NodeSettings,
        gateway: Gateway,
        metrics: ApiMetrics,
    ) -> Self {
        Self {
            requests: Semaphore::new(limits.requests),
            bodies: BodyReader::new(settings.body_limit, &limits),
            executor: Executor::new(gateway, node, settings.message_bytes),
            settings,
            limits,
            metrics,
        }
    }
}

/// Routes of the API.
pub(crate) fn router(api: Arc<Api>) -> Router {
    let path = format!("{}/{{method}}", api.settings.prefix);
    Router::new().route(&path, any(serve)).with_state(api)
}

/// The name of the method counts as it was sent: the same one percent-encoded is no method (H32).
async fn serve(State(api): State<Arc<Api>>, request: Request) -> Response {
    let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    match answer(&api, &method, request).await {
        Ok(response) => response,
        Err(refusal) => {
            api.metrics.refuse(refusal.label());
            refusal.into_response()
        }
    }
}

async fn answer(api: &Api, method: &str, request: Request) -> Result<Response, Refusal> {
    if request.method() != HttpMethod::POST {
        return Err(Refusal::Method);
    }
    auth::admit(&api.settings, request.headers(), request.uri())?;
    let method = Method::named(method).ok_or(Refusal::Unknown)?;
    let _permit = api.requests.try_acquire().map_err(|_| Refusal::Busy)?;
    let mode = error_mode(&api.settings, request.headers());
    let body = api.bodies.read(request).await?;
    let started = Instant::now();
    let outcome = match timeout(api.limits.answer_timeout, run(api, method, &body.bytes)).await {
        Ok(outcome) => outcome.map_err(|error| Refusal::Json(error.line(), error.column()))?,
        Err(_) => Err(ApiError::Internal.into()),
    };
    if matches!(outcome, Err(Failure::Overloaded(Overloaded))) {
        return Err(Refusal::Busy);
    }
    api.metrics.observe(method.name(), started.elapsed(), error_of(&outcome));
    Ok(render(method, outcome, mode))
}

/// Code of the error that a caller reads.
fn error_of(outcome: &Outcome) -> Option<u32> {
    outcome.as_ref().err().map(|failure| failure.in_a_list().code())
}

/// Parses the parameters and runs the method; the outer error is unparsable JSON.
async fn run(api: &Api, method: Method, body: &[u8]) -> Result<Outcome, serde_json::Error> {
    use serde_json::from_slice as parse;
    let executor = &api.executor;
    Ok(match method {
        Method::Publish => executor.publish(parse(body)?).await,
        Method::Broadcast => executor.broadcast(parse(body)?).await,
        Method::Subscribe => executor.subscribe(parse(body)?).await,
        Method::Unsubscribe => executor.unsubscribe(parse(body)?).await,
        Method::Disconnect => executor.disconnect(parse(body)?).await,
        Method::Refresh => executor.refresh(parse(body)?).await,
        Method::Presence => executor.presence(parse(body)?).await,
        Method::PresenceStats => executor.presence_stats(parse(body)?).await,
        Method::History => executor.history(parse(body)?).await,
        Method::HistoryRemove => executor.history_remove(parse(body)?).await,
        Method::Channels => executor.channels(parse(body)?).await,
        Method::Info => {
            let params::InfoParams {} = parse(body)?;
            executor.info().await
        }
        Method::Rpc => Executor::rpc(&parse(body)?),
        Method::UserPresence => executor.user_presence(parse(body)?).await,
        Method::Connections => executor.connections(parse(body)?).await,
        Method::Send => executor.send(parse(body)?).await,
        Method::MailboxInfo => executor.mailbox_info(parse(body)?).await,
        Method::MailboxList => executor.mailbox_list(parse(body)?).await,
        Method::MailboxAck => executor.mailbox_ack(parse(body)?).await,
        Method::MailboxForget => executor.mailbox_forget(parse(body)?).await,
        Method::MailboxPurge => executor.mailbox_purge(parse(body)?).await,
        Method::Batch => batch::run(executor, &api.metrics, parse(body)?).await,
        Method::NotOffered => {
            let _: serde::de::IgnoredAny = parse(body)?;
            Err(ApiError::NotAvailable.into())
        }
    })
}

fn error_mode(settings: &ApiSettings, headers: &HeaderMap) -> ErrorMode {
    match headers.get("x-centrifugo-error-mode") {
        Some(mode) if mode == "transport" => ErrorMode::Transport,
        _ => settings.error_mode,
    }
}

fn render(method: Method, outcome: Outcome, mode: ErrorMode) -> Response {
    match outcome {
        Ok(result) => json(StatusCode::OK, success(method, &result)),
        Err(Failure::Overloaded(Overloaded)) => Refusal::Busy.into_response(),
        Err(Failure::Api(error)) => refused(status_of(error, mode), error.into()),
        Err(Failure::Send(fault)) => refused(status_of(ApiError::BadRequest, mode), fault.into()),
    }
}

fn refused(status: StatusCode, error: results::ErrorBody) -> Response {
    json(status, serde_json::to_vec(&results::Response::<()>::Error(error)).unwrap_or_default())
}

/// A batch has its replies under `result` as every method does, and beside it, where existing clients look for them.
fn success(method: Method, result: &RawValue) -> Vec<u8> {
    let result = result.get();
    match method {
        Method::Batch => format!(r#"{{"result":{{"replies":{result}}},"replies":{result}}}"#),
        _ => format!(r#"{{"result":{result}}}"#),
    }
    .into_bytes()
}

fn json(status: StatusCode, body: Vec<u8>) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn status_of(error: ApiError, mode: ErrorMode) -> StatusCode {
    if mode == ErrorMode::Body {
        return StatusCode::OK;
    }
    match error {
        ApiError::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        ApiError::UnknownChannel | ApiError::NotFound => StatusCode::NOT_FOUND,
        ApiError::BadRequest
        | ApiError::UserName
        | ApiError::DataFormat
        | ApiError::TooLarge
        | ApiError::TooManyDevices
        | ApiError::NotAvailable => StatusCode::BAD_REQUEST,
        ApiError::UnrecoverablePosition => StatusCode::RANGE_NOT_SATISFIABLE,
        ApiError::Conflict => StatusCode::CONFLICT,
        ApiError::MailboxFull => StatusCode::INSUFFICIENT_STORAGE,
        ApiError::StorageUnavailable | ApiError::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// Why a request is not even an API call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("method not allowed: use POST")]
    Method,
    #[error("unauthorized")]
    Key,
    #[error(
        "forbidden: without a key (http_api.insecure) no website may call: no Origin, and no Host with a domain"
    )]
    Website,
    #[error("unknown method")]
    Unknown,
    #[error("too many requests at a time")]
    Busy,
    #[error("request body too large")]
    TooLarge,
    #[error("request body too slow")]
    TooSlow,
    #[error("request body broken off")]
    BrokenOff,
    /// Line and column, from 1. Not what stands there: a refusal echoes nothing.
    #[error("request body is not the JSON of this method: line {0}, column {1}")]
    Json(usize, usize),
}

impl Refusal {
    /// Of the counter.
    fn label(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Key => "key",
            Self::Website => "website",
            Self::Unknown => "unknown_method",
            Self::Busy => "busy",
            Self::TooLarge => "body_too_large",
            Self::TooSlow => "body_too_slow",
            Self::BrokenOff => "body_broken_off",
            Self::Json(..) => "json",
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self {
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Key => StatusCode::UNAUTHORIZED,
            Self::Website => StatusCode::FORBIDDEN,
            Self::Unknown => StatusCode::NOT_FOUND,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::BrokenOff | Self::Json(..) => StatusCode::BAD_REQUEST,
        };
        let mut response = (status, format!("{self}\n")).into_response();
        let headers = response.headers_mut();
        match self {
            Self::Method => drop(headers.insert(header::ALLOW, HeaderValue::from_static("POST"))),
            Self::Key => drop(headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("apikey"))),
            Self::Busy => drop(headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"))),
            // What is left of the body would be taken for the next request.
            Self::TooLarge | Self::TooSlow | Self::BrokenOff => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Self::Website | Self::Unknown | Self::Json(..) => {}
        }
        response
    }
}
