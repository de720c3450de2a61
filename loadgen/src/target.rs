//! From the command line to a [`Plan`]: addresses resolved, templates parsed, workers counted.

use std::net::{SocketAddr, ToSocketAddrs as _};

use tungstenite::http::Uri;

use crate::channels::Channels;
use crate::cli::{Encoding, LoadArgs, PlainArgs, PublishArgs, PublishBy};
use crate::dialect::{Dialect, plain::Plain};
use crate::kernel;
use crate::plan::{self, Plan, TokenPlan};
use crate::publisher::{By, Pace, Publishing};
use crate::selfcheck::workers_needed;
use crate::source::Routes;
use crate::template::{Template, TemplateError};

/// What cannot be planned.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Not a URL this generator can connect to.
    #[error("`{0}` is no URL of the form ws://HOST:PORT/PATH (or http:// for the API)")]
    Url(String),
    /// TLS.
    #[error("`{0}`: TLS is not spoken here; give the ws:// address behind whatever ends it")]
    Tls(String),
    /// No connections at all.
    #[error("--connections must be above 0")]
    NoConnections,
    /// A name without an address.
    #[error("`{0}` has no address: {1}")]
    Address(String, std::io::Error),
    /// A template that cannot be read.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// Neither `auto` nor a number above 0.
    #[error("--threads is `auto` or a number above 0, not `{0}`")]
    Threads(String),
    /// A header line without a colon, or with a line break.
    #[error("`{0}` is no header line")]
    Header(String),
    /// Nothing to publish into.
    #[error("there is no channel to publish into: give --channel-template or --personal")]
    NoChannel,
    /// A scenario that cannot do without.
    #[error("this scenario needs publications: --publish-by is `http` or `client`")]
    NothingPublished,
    /// A scenario that would do nothing, or something with connections that nobody brings up.
    #[error("the first phase of a scenario is a `ramp`, which brings connections up")]
    NoRamp,
    /// A rate or a number in flight of 0.
    #[error("--publish-rate and --in-flight must be above 0")]
    Pace,
}

/// Works the plan of a run out.
///
/// # Errors
/// [`PlanError`], for the user to read.
pub fn plan(args: &LoadArgs) -> Result<Plan, PlanError> {
    if args.connections == 0 {
        return Err(PlanError::NoConnections);
    }
    let urls = args.url.iter().map(|url| Url::parse(url)).collect::<Result<Vec<_>, _>>()?;
    let first = urls.first().ok_or_else(|| PlanError::Url(String::new()))?;
    let (host, target) = (first.host.clone(), first.target.clone());
    let destinations = urls.iter().map(|url| url.address).collect();
    let user = if args.user_prefix.contains('{') {
        args.user_prefix.clone()
    } else {
        format!("{}{{i}}", args.user_prefix)
    };
    let workers = workers(&args.threads, args.connections)?;
    for line in &args.headers {
        if !line.contains(':') || line.contains(['\r', '\n']) {
            return Err(PlanError::Header(line.clone()));
        }
    }
    Ok(Plan {
        routes: Routes::plan(&args.source, destinations, args.connections),
        dialect: dialect(args.encoding, &args.plain)?,
        host,
        target,
        headers: args.headers.clone(),
        channels: Channels::plan(&args.channels, &user, args.personal, args.connections)?,
        token: args.token_key.as_ref().map(|key| TokenPlan {
            secret: key.clone().into_bytes(),
            lifetime_seconds: args.token_ttl.as_secs(),
        }),
        connections: args.connections,
        workers,
        outstanding: args.outstanding.div_ceil(plan::ramping_workers(workers)).max(2),
        handshake_timeout_ms: u32::try_from(args.timeout.as_millis()).unwrap_or(u32::MAX),
        track_positions: false,
        eager: args.eager,
    })
}

/// How to publish into the channels of the first template.
///
/// # Errors
/// [`PlanError`], for the user to read.
pub fn publishing(args: &PublishArgs, plan: &Plan) -> Result<Publishing, PlanError> {
    let first = plan.channels.first_count();
    let channels = 0..if args.publish_channels == 0 { first } else { args.publish_channels.min(first) };
    if channels.is_empty() {
        return Err(PlanError::NoChannel);
    }
    let by = match (args.publish_by, &args.api_url) {
        (PublishBy::Nothing, _) => return Err(PlanError::NothingPublished),
        (PublishBy::Client, _) => By::Client,
        (PublishBy::Http, Some(url)) => {
            let url = Url::parse_scheme(url, "http")?;
            By::Http { address: url.address, host: url.host, path: url.target, key: args.api_key.clone() }
        }
        (PublishBy::Http, None) => By::Http {
            address: *plan.routes.destinations().first().ok_or(PlanError::NoChannel)?,
            host: plan.host.clone(),
            path: "/api/publish".to_owned(),
            key: args.api_key.clone(),
        },
    };
    let pace = match args.in_flight {
        Some(0) => return Err(PlanError::Pace),
        Some(number) => Pace::InFlight(number),
        None if args.publish_rate > 0.0 => Pace::Rate(args.publish_rate),
        None => return Err(PlanError::Pace),
    };
    Ok(Publishing { by, pace, duration: args.duration, size: args.size, lanes: args.lanes.max(1), channels })
}

/// One destination.
struct Url {
    address: SocketAddr,
    host: String,
    target: String,
}

impl Url {
    fn parse(text: &str) -> Result<Self, PlanError> {
        Self::parse_scheme(text, "ws")
    }

    fn parse_scheme(text: &str, scheme: &str) -> Result<Self, PlanError> {
        let bad = || match text.split_once("://") {
            Some(("wss" | "https", _)) => PlanError::Tls(text.to_owned()),
            _ => PlanError::Url(text.to_owned()),
        };
        let uri: Uri = text.parse().map_err(|_| bad())?;
        let Some(authority) = uri.authority().filter(|_| uri.scheme_str() == Some(scheme)) else {
            return Err(bad());
        };
        let port = authority.port_u16().unwrap_or(80);
        let name = authority.host().trim_start_matches('[').trim_end_matches(']');
        let mut addresses =
            (name, port).to_socket_addrs().map_err(|error| PlanError::Address(name.to_owned(), error))?;
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        Ok(Self {
            address: addresses.next().ok_or_else(bad)?,
            host: authority.as_str().to_owned(),
            target: target.to_owned(),
        })
    }
}

fn workers(text: &str, connections: u32) -> Result<u32, PlanError> {
    let limit = kernel::lift_descriptor_limit();
    let needed = workers_needed(connections, limit);
    match (text, text.parse::<u32>()) {
        // A core for the server where it is on this host, and no threads for a handful of connections.
        ("auto", _) => {
            let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
            let useful = u32::try_from(cores / 2).unwrap_or(1).min(connections / 2_000);
            Ok(needed.max(useful).max(1))
        }
        (_, Ok(number)) if number > 0 => Ok(number.max(needed)),
        _ => Err(PlanError::Threads(text.to_owned())),
    }
}

fn dialect(encoding: Encoding, plain: &PlainArgs) -> Result<Dialect, TemplateError> {
    let template = |text: &String| Template::parse(text);
    Ok(match encoding {
        Encoding::Json => Dialect::Json,
        Encoding::Protobuf => Dialect::Protobuf,
        Encoding::Plain => Dialect::Plain(Box::new(Plain {
            subprotocol: plain.subprotocol.clone(),
            first_frames: plain.first_frames.iter().map(template).collect::<Result<_, _>>()?,
            ready: plain.ready.clone(),
            ping: plain.ping.clone().zip(plain.pong_frame.as_ref().map(template).transpose()?),
            publish: plain.publish_frame.as_ref().map(template).transpose()?,
            binary: plain.binary,
        })),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let url = Url::parse("ws://127.0.0.1:8000/connection/websocket?x=1").unwrap();
        assert_eq!(url.address, "127.0.0.1:8000".parse().unwrap());
        assert_eq!((url.host.as_str(), url.target.as_str()), ("127.0.0.1:8000", "/connection/websocket?x=1"));
        assert!(matches!(Url::parse("wss://127.0.0.1/"), Err(PlanError::Tls(_))));
        assert!(Url::parse("http://127.0.0.1/").is_err() && Url::parse("127.0.0.1:80").is_err());
        assert_eq!(Url::parse("ws://[::1]:9/").unwrap().address, "[::1]:9".parse().unwrap());
    }
}
