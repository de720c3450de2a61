//! `[[webhook]]`: a list of tables.

use serde_json::Value;

use super::reader::{Entry, Key, Reader, Section, section};
use super::sections::{DAY, HOUR, SECOND};
use super::value::{Count, List, Secret, Span, Text};

section! {
    /// An element of `webhook`. The list needs `storage.path`.
    Webhook {
        /// Name of the webhook, each once. Events wait under this name: under another one a webhook begins anew.
        name: Text = Text::default(),
        /// Where events are posted to, as `http://` or `https://`.
        url: Text = Text::default(),
        /// Kinds of events: `connected`, `disconnected`, `subscribed`, `unsubscribed`, `occupied`, `vacated`, and with
        /// `user_presence.enabled` `online`, `away`, `offline`. At least one.
        events: List = List::default(),
        /// Of events about channels only those whose names match one of these patterns, such as `chat:*`. Empty: all.
        channels: List = List::default(),
        /// Of events about connections and users only those whose user ids match one of these patterns. Empty: all.
        users: List = List::default(),
        /// Key of the signature in `X-Millpond-Signature`. Empty: requests are not signed.
        secret: Secret = Secret::default(),
        /// Events in one request at most.
        batch_max_events: Count<1, 10_000> = Count(500),
        /// How long events wait for others before they are sent.
        batch_max_delay: Span<100, { 60 * SECOND }> = Span::seconds(1),
        /// From the connection to the end of the answer.
        timeout: Span<100, { 300 * SECOND }> = Span::seconds(10),
        /// First pause before a batch that failed is sent again; each further one is twice as long, with jitter.
        retry_min: Span<10, { 60 * SECOND }> = Span::seconds(1),
        /// Longest of these pauses.
        retry_max: Span<10, HOUR> = Span::seconds(60),
        /// Times a batch is sent that the backend refuses (3xx, or 4xx but for 408 and 429) before it is skipped, so that
        /// one bad batch does not stop the others. After anything else it is sent again until `ttl` is over.
        refusals_max: Count<1, 1000> = Count(10),
        /// Events that could not be delivered for so long are dropped.
        ttl: Span<SECOND, { 365 * DAY }> = Span::seconds(24 * 3600),
        /// Events that may wait. Beyond, events about connections and subscriptions are dropped, and beyond twice as many
        /// the others too; an `overflow` event says how many.
        max_pending: Count<1000, 100_000_000> = Count(1_000_000),
    }
}

impl Entry for Vec<Webhook> {
    fn read(reader: &mut Reader<'_>, path: &str, value: Option<&Value>, default: Self) -> Self {
        match value {
            None | Some(Value::Null) => default,
            Some(Value::Array(list)) => {
                let element = |(index, value)| {
                    reader.section(&format!("{path}[{index}]"), Some(value), Webhook::default(), &[])
                };
                list.iter().enumerate().map(element).collect()
            }
            Some(_) => {
                // Not what it is: their secrets stand in it.
                reader.wrong_value(path, "a list of webhooks".into(), None);
                default
            }
        }
    }

    fn describe(path: &str, doc: &str, _: &Self, keys: &mut Vec<Key>) {
        keys.push(Key {
            path: path.to_owned(),
            expected: "a list of webhooks".into(),
            default: Value::Array(Vec::new()),
            doc: doc.to_owned(),
            value_of_text: Some(|text| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text))),
        });
        let first = keys.len();
        Webhook::describe_fields(&format!("{path}[]"), &Webhook::default(), keys);
        for key in keys.iter_mut().skip(first) {
            key.value_of_text = None;
            if ["name", "url", "events"].iter().any(|name| key.path.ends_with(&format!("].{name}"))) {
                key.default = Value::Null;
            }
        }
    }
}
