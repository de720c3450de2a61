//! What the delivery of a webhook is told, already valid.

use std::fmt;
use std::time::Duration;

use axum::http::Uri;
use axum::http::uri::Scheme;

/// Delivery of one webhook; see `[[webhook]]` in `docs/CONFIGURATION.md`.
#[derive(Clone)]
pub struct WebhookSettings {
    /// Name of its queue.
    pub name: String,
    /// Where to; [`endpoint`] accepts it.
    pub url: String,
    /// Key of the signature, empty: none.
    pub secret: String,
    /// Events in one request at most.
    pub batch_max_events: usize,
    /// How long events wait for others.
    pub batch_max_delay: Duration,
    /// From the connection to the end of the answer.
    pub timeout: Duration,
    /// First pause after a failure.
    pub retry_min: Duration,
    /// Longest pause, but for one that the backend asks for.
    pub retry_max: Duration,
    /// Times a batch is sent that is refused each time.
    pub refusals_max: u32,
}

impl fmt::Debug for WebhookSettings {
    /// Without secret and address: an address can hold a secret as well.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("WebhookSettings")
            .field("name", &self.name)
            .field("signed", &!self.secret.is_empty())
            .field("batch_max_events", &self.batch_max_events)
            .field("batch_max_delay", &self.batch_max_delay)
            .field("timeout", &self.timeout)
            .field("retry_min", &self.retry_min)
            .field("retry_max", &self.retry_max)
            .field("refusals_max", &self.refusals_max)
            .finish_non_exhaustive()
    }
}

/// The address, if events can be posted there.
#[must_use]
pub fn endpoint(url: &str) -> Option<Uri> {
    let uri: Uri = url.parse().ok().filter(|_| !url.contains('#'))?;
    let is_known = [Some(&Scheme::HTTP), Some(&Scheme::HTTPS)].contains(&uri.scheme());
    let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
    let has_port = authority.as_str().len() > authority.host().len();
    let is_port = !has_port || authority.port_u16().is_some();
    (is_known && is_port && !authority.host().is_empty()).then_some(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_looked_at_once() {
        for good in ["http://127.0.0.1:9100/x", "https://example.com", "https://[::1]:8443/a?b=c"] {
            assert!(endpoint(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "/events",
            "example.com",
            "example.com/events",
            "ftp://example.com/",
            "https://user:pass@example.com/",
            "https://example.com/#top",
            "https:///events",
            "https://exa mple.com/",
            "http://example.com:99999999/",
        ] {
            assert!(endpoint(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn neither_secret_nor_address_is_shown() {
        let settings = WebhookSettings {
            name: "hook".into(),
            url: "https://example.com/?key=hush".into(),
            secret: "hush".into(),
            batch_max_events: 1,
            batch_max_delay: Duration::ZERO,
            timeout: Duration::ZERO,
            retry_min: Duration::ZERO,
            retry_max: Duration::ZERO,
            refusals_max: 1,
        };
        let shown = format!("{settings:?}");
        assert!(!shown.contains("hush") && shown.contains("signed: true"), "{shown}");
    }
}
