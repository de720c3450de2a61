//! Webhooks: what each needs of storage and presence, and that each can be told from the others.

use super::Checks;
use crate::config::problem::Rule;
use crate::config::sections::Root;
use crate::config::webhook::Webhook;
use crate::config::{Notice, WebhookConfig};
use crate::control::webhook::settings::{WebhookSettings, endpoint};
use crate::hub::events::{EventKind, EventKinds};
use crate::hub::settings::EventQueueSettings;

/// Longest name in bytes: it is part of every record.
const NAME_BYTES: usize = 64;

impl Checks<'_> {
    pub(super) fn webhooks(&mut self, root: &Root) -> Vec<WebhookConfig> {
        if !root.webhook.is_empty() && root.storage.path.0.is_empty() {
            self.contradiction("webhook", Rule::WebhookNeedsStorage);
        }
        let names: Vec<&str> = root.webhook.iter().map(|webhook| webhook.name.0.as_str()).collect();
        let list = root.webhook.iter().enumerate();
        list.map(|(index, webhook)| {
            let path = format!("webhook[{index}]");
            self.webhook_name(&path, &webhook.name.0, names.get(..index).unwrap_or_default());
            self.webhook(&path, webhook, root.user_presence.enabled)
        })
        .collect()
    }

    fn webhook_name(&mut self, path: &str, name: &str, before: &[&str]) {
        let is_name = (1..=NAME_BYTES).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if !is_name {
            let expected = format!("1 to {NAME_BYTES} letters, digits, -, _ and .");
            self.reader.wrong_value(&format!("{path}.name"), expected, Some(&name.into()));
        } else if before.contains(&name) {
            self.contradiction(&format!("{path}.name"), Rule::WebhookTwice);
        }
    }

    fn webhook(&mut self, path: &str, section: &Webhook, has_users: bool) -> WebhookConfig {
        if endpoint(&section.url.0).is_none() {
            let expected =
                "an address such as https://example.com/events, without user, password and fragment".into();
            // Not what it is: a password may stand in it.
            self.reader.wrong_value(&format!("{path}.url"), expected, None);
        }
        if section.retry_min.0 > section.retry_max.0 {
            self.contradiction(&format!("{path}.retry_max"), Rule::WebhookRetry);
        }
        if section.secret.0.is_empty() {
            self.notices.push(Notice::UnsignedWebhook(section.name.0.clone()));
        }
        let kinds = self.kinds(&format!("{path}.events"), &section.events.0);
        if kinds.has_users() && !has_users {
            self.contradiction(&format!("{path}.events"), Rule::WebhookUsers);
        }
        let batch_max_events = usize::try_from(section.batch_max_events.0).unwrap_or(usize::MAX);
        WebhookConfig {
            queue: EventQueueSettings {
                name: section.name.0.clone(),
                kinds,
                channels: section.channels.0.clone(),
                users: section.users.0.clone(),
                batch_max_events,
                ttl: section.ttl.0,
                max_pending: u64::from(section.max_pending.0),
            },
            delivery: WebhookSettings {
                name: section.name.0.clone(),
                url: section.url.0.clone(),
                secret: section.secret.0.clone(),
                batch_max_events,
                batch_max_delay: section.batch_max_delay.0,
                timeout: section.timeout.0,
                retry_min: section.retry_min.0,
                retry_max: section.retry_max.0,
                refusals_max: section.refusals_max.0,
            },
        }
    }

    fn kinds(&mut self, path: &str, names: &[String]) -> EventKinds {
        let known = |name: &String| EventKind::ALL.into_iter().find(|kind| kind.name() == name);
        let kinds: Vec<_> = names.iter().map(known).collect();
        if kinds.is_empty() || kinds.contains(&None) {
            let expected = format!("a list of {}", EventKind::ALL.map(EventKind::name).join(", "));
            self.reader.wrong_value(path, expected, Some(&names.into()));
        }
        kinds.into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::config::{Config, Layers, Problems, load};
    use crate::hub::events::EventKind;

    fn load_toml(text: &str) -> Result<Config, Problems> {
        let folder = tempfile::TempDir::new().unwrap();
        let file = folder.path().join("millpond.toml");
        std::fs::write(&file, text).unwrap();
        load(&Layers { file: Some(file), ..Layers::default() })
    }

    const HOOK: &str = "[[webhook]]\nname = \"a\"\nurl = \"http://127.0.0.1/\"\nevents = [\"connected\"]\n";

    #[test]
    fn webhooks_say_which_events_are_made() {
        assert!(!load_toml("").unwrap().settings.events.has(EventKind::Connected));
        let second = "[[webhook]]\nname = \"b\"\nurl = \"https://b.example/x\"\nsecret = \"s\"\n\
            events = [\"offline\", \"vacated\"]\nchannels = [\"chat:*\"]\nbatch_max_events = 7\nttl = \"2h\"\n";
        let text = format!(
            "storage.path = \"x\"\nuser_presence.enabled = true\n{HOOK}{second}\
            [[channel.namespaces]]\nname = \"presence\"\n"
        );
        let config = load_toml(&text).unwrap();
        let made: Vec<_> =
            EventKind::ALL.into_iter().filter(|kind| config.settings.events.has(*kind)).collect();
        assert_eq!(made, [EventKind::Connected, EventKind::Vacated, EventKind::Offline]);
        let [first, second] = &config.webhooks[..] else { panic!("two webhooks") };
        assert!(first.queue.kinds.has(EventKind::Connected) && !first.queue.kinds.has(EventKind::Vacated));
        assert_eq!((second.queue.ttl, second.queue.batch_max_events), (Duration::from_secs(7200), 7));
        assert_eq!(
            (second.queue.channels.clone(), second.delivery.batch_max_events),
            (vec!["chat:*".into()], 7)
        );
        assert_eq!((first.delivery.timeout, first.delivery.refusals_max), (Duration::from_secs(10), 10));
        let notices: Vec<_> = config.notices.iter().map(ToString::to_string).collect();
        assert_eq!(notices, ["webhook a has no secret: its backend cannot tell who posts to it"]);
    }

    #[test]
    fn mistakes_in_webhooks_are_named() {
        let storage = "storage.path = \"x\"\n";
        let cases = [
            (HOOK.to_owned(), "webhook", "set storage.path"),
            (format!("{storage}{HOOK}{HOOK}"), "webhook[1].name", "has this name already"),
            (format!("{storage}[[webhook]]\nname = \"a b\""), "webhook[0].name", "1 to 64 letters"),
            (format!("{storage}{}", HOOK.replace("http:", "ftp:")), "webhook[0].url", "https://example.com"),
            (
                format!("{storage}{}", HOOK.replace("connected", "conected")),
                "webhook[0].events",
                "connected, ",
            ),
            (format!("{storage}{}", HOOK.replace("\"connected\"", "")), "webhook[0].events", "a list of"),
            (
                format!("{storage}{}", HOOK.replace("connected", "online")),
                "webhook[0].events",
                "user_presence",
            ),
            (format!("{storage}{HOOK}retry_max = \"10ms\""), "webhook[0].retry_max", "retry_min"),
            (format!("{storage}{HOOK}secrets = \"x\""), "webhook[0].secrets", "webhook[].secret"),
            ("webhook = 5".to_owned(), "webhook", "a list of webhooks"),
            ("webhook = [5]".to_owned(), "webhook[0]", "a section"),
        ];
        for (text, path, words) in cases {
            let said: Vec<_> = load_toml(&text).unwrap_err().0.iter().map(ToString::to_string).collect();
            let found = said.iter().any(|line| line.starts_with(path) && line.contains(words));
            assert!(found, "{text}: {said:?}");
        }
    }

    #[test]
    fn a_variable_holds_the_list() {
        let value = "[{\"name\": \"a\", \"url\": \"http://b/\", \"events\": [\"connected\"]}]";
        let variables = [("MILLPOND_WEBHOOK", value), ("MILLPOND_STORAGE_PATH", "x")];
        let environment = variables.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
        let config = load(&Layers { environment, ..Layers::default() }).unwrap();
        assert_eq!(config.webhooks[0].queue.name, "a");
    }
}
