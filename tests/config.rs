//! The configuration as operators meet it: three formats, environment, flags, and what is said about mistakes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

use std::path::Path;
use std::time::Duration;

use millpond::config::{Config, Format, Layers, Problem, Problems, default_config, keys_reference, load};
use millpond::hub::settings::OriginPolicy;
use millpond::log::settings::{SyncPolicy, WhenFull};
use tempfile::TempDir;

fn layers(folder: &TempDir, name: &str, text: &str) -> Layers {
    let file = folder.path().join(name);
    std::fs::write(&file, text).unwrap();
    Layers { file: Some(file), ..Layers::default() }
}

fn load_text(name: &str, text: &str) -> Result<Config, Problems> {
    let folder = TempDir::new().unwrap();
    load(&layers(&folder, name, text))
}

fn load_toml(text: &str) -> Result<Config, Problems> {
    load_text("millpond.toml", text)
}

fn load_variables(variables: &[(&str, &str)]) -> Result<Config, Problems> {
    let environment = variables.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect();
    load(&Layers { environment, ..Layers::default() })
}

/// What the operator reads about a configuration that is refused.
fn complaints(result: Result<Config, Problems>) -> Vec<String> {
    result.unwrap_err().0.iter().map(ToString::to_string).collect()
}

/// A configuration as text, for comparisons. The node's name holds the host's.
fn shown(config: &Config) -> String {
    format!("{config:#?}")
}

#[test]
fn defaults_are_safe() {
    let config = load(&Layers::default()).unwrap();
    let listen: Vec<_> = config.server.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["127.0.0.1:8000"]);
    assert_eq!(config.server.internal_listen.to_string(), "127.0.0.1:8001");
    assert_eq!(config.server.shutdown_timeout, Duration::from_secs(30));
    let client = &config.settings.client;
    assert_eq!(
        (client.ping_interval, client.pong_timeout),
        (Duration::from_secs(25), Duration::from_secs(8))
    );
    assert_eq!(client.queue_max_size, 1 << 20);
    assert_eq!(client.channel_limit, 128);
    assert!(client.token.hmac_secret_key.is_none());
    assert!(!client.insecure && !client.allow_anonymous_connect_without_token);
    assert!(matches!(&config.settings.http.allowed_origins, OriginPolicy::Patterns(list) if list.is_empty()));
    assert_eq!(config.settings.http.message_size_limit, 65536);
    assert_eq!(config.settings.channel.options.len(), 1);
    assert_eq!(config.settings.channel.history_meta_ttl, Duration::from_secs(720 * 3600));
    assert!(config.api.key.is_none() && !config.api.insecure);
    assert!(config.unserved.is_empty() && config.notices.is_empty());
}

#[test]
fn three_formats_say_the_same() {
    let toml = r#"
        [client]
        ping_interval = "10s"
        allowed_origins = ["https://example.com"]
        token = { hmac_secret_key = "0123456789abcdef0123456789abcdef" }
        [[channel.namespaces]]
        name = "news"
        history_size = 10
        history_ttl = "5m"
        force_recovery = true
        channel_regex = "^[a-z]+$"
    "#;
    let yaml = r#"
client:
  ping_interval: 10s
  allowed_origins: [https://example.com]
  token:
    hmac_secret_key: 0123456789abcdef0123456789abcdef
channel:
  namespaces:
    - name: news
      history_size: 10
      history_ttl: 5m
      force_recovery: true
      channel_regex: ^[a-z]+$
"#;
    let json = r#"{"client": {"ping_interval": "10s", "allowed_origins": ["https://example.com"],
        "token": {"hmac_secret_key": "0123456789abcdef0123456789abcdef"}},
        "channel": {"namespaces": [{"name": "news", "history_size": 10, "history_ttl": 300,
        "force_recovery": true, "channel_regex": "^[a-z]+$"}]}}"#;
    let config = load_toml(toml).unwrap();
    assert_eq!(config.settings.client.ping_interval, Duration::from_secs(10));
    let news = &config.settings.channel.options[1];
    assert_eq!((news.name.as_str(), news.history_size), ("news", 10));
    assert_eq!(news.history_ttl, Duration::from_secs(300));
    assert_eq!(news.history_meta_ttl, Duration::from_secs(720 * 3600), "the channel's default");
    assert_eq!(config.settings.channel.namespaces.get("news"), Some(&1));
    assert_eq!(shown(&config), shown(&load_text("m.yaml", yaml).unwrap()));
    assert_eq!(shown(&config), shown(&load_text("m.yml", yaml).unwrap()));
    assert_eq!(shown(&config), shown(&load_text("m.json", json).unwrap()));
}

#[test]
fn the_printed_defaults_are_the_defaults() {
    let expected = shown(&load(&Layers::default()).unwrap());
    // `listen` and `address` are two ways to say one thing; printed are both, so the list must stay unused.
    for (name, format) in [("d.toml", Format::Toml), ("d.yaml", Format::Yaml), ("d.json", Format::Json)] {
        let printed = default_config(format);
        let config = load_text(name, &printed).unwrap_or_else(|problems| panic!("{problems}\n{printed}"));
        assert_eq!(shown(&config), expected, "{name}");
    }
}

#[test]
fn the_environment_overrides_the_file_and_flags_override_both() {
    let folder = TempDir::new().unwrap();
    let text = "[client]\nping_interval = \"10s\"\npong_timeout = \"3s\"\n[server]\nshards = 2\n[http_server]\nport = 9000\n";
    let mut layers = layers(&folder, "m.toml", text);
    let set = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    layers.environment = vec![
        set("MILLPOND_CLIENT_PING_INTERVAL", "20s"),
        set("MILLPOND_SERVER_SHARDS", "3"),
        set("MILLPOND_CLIENT_TOKEN_HMAC_SECRET_KEY", "12345"),
        set("MILLPOND_CLIENT_ALLOWED_ORIGINS", r#"["https://a.example", "https://b.example"]"#),
        set("MILLPOND_CLIENT_CONNECT_INCLUDE_SERVER_TIME", "true"),
        set("MILLPOND_CHANNEL_NAMESPACES", r#"[{"name": "news", "presence": true}]"#),
        set("MILLPOND_CONFIG", "elsewhere.toml"),
        set("MILLPOND_PORT_8000_TCP_ADDR", "10.0.0.1"),
        set("MILLPOND_SERVICE_HOST", "10.0.0.1"),
        set("MILLPOND_PORT", "tcp://10.0.0.1:8000"),
        set("MILLPOND_INTERNAL_SERVICE_HOST", "10.0.0.2"),
        set("MILLPOND_INTERNAL_SERVICE_PORT_API", "8001"),
        set("MILLPOND_INTERNAL_PORT_8001_TCP_PROTO", "tcp"),
        set("MILLPOND_HTTP_SERVER_PORT", "tcp://10.0.0.3:80"),
        set("PATH", "/bin"),
    ];
    layers.shards = Some(4);
    layers.max_connections = Some(5000);
    layers.listen = vec!["0.0.0.0:9100".parse().unwrap(), "[::1]:9100".parse().unwrap()];
    let config = load(&layers).unwrap();
    assert_eq!(config.settings.client.ping_interval, Duration::from_secs(20));
    assert_eq!(config.settings.client.pong_timeout, Duration::from_secs(3));
    assert_eq!(config.settings.client.token.hmac_secret_key.as_deref(), Some("12345"));
    assert!(config.settings.client.connect_include_server_time);
    assert!(matches!(&config.settings.http.allowed_origins, OriginPolicy::Patterns(list) if list.len() == 2));
    assert!(config.settings.channel.options[1].presence);
    assert_eq!((config.server.shards, config.settings.max_connections), (4, 5000));
    let listen: Vec<_> = config.server.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["0.0.0.0:9100", "[::1]:9100"]);
}

#[test]
fn lists_in_variables_may_be_words() {
    let config =
        load_variables(&[("MILLPOND_CLIENT_ALLOWED_ORIGINS", "https://a.example https://b.example")]);
    let origins = config.unwrap().settings.http.allowed_origins;
    assert!(matches!(&origins, OriginPolicy::Patterns(list) if list[1] == "https://b.example"));
}

#[test]
fn unknown_keys_are_refused_with_the_likely_one() {
    let cases = [
        (
            "[client]\nping_intervall = \"5s\"",
            "client.ping_intervall (line 2): there is no such key; did you mean client.ping_interval?",
        ),
        ("[clients]\n", "clients (line 1): there is no such key; did you mean client?"),
        (
            "[client]\nhmac_secret_key = \"x\"",
            "client.hmac_secret_key (line 2): there is no such key; did you mean client.token.hmac_secret_key?",
        ),
        (
            "[[channel.namespaces]]\nname = \"ab\"\nhistory_sise = 3",
            "channel.namespaces[0].history_sise (line 3): there is no such key; did you mean channel.namespaces[0].history_size?",
        ),
        ("zzzzzzzzzz = 1", "zzzzzzzzzz (line 1): there is no such key"),
    ];
    for (text, expected) in cases {
        assert_eq!(complaints(load_toml(text)), [expected], "{text}");
    }
    let wrong = load_variables(&[("MILLPOND_CLIENT_PING_INTERVALL", "5s")]);
    let expected = "environment variable MILLPOND_CLIENT_PING_INTERVALL: there is no such key; \
                    did you mean MILLPOND_CLIENT_PING_INTERVAL?";
    assert_eq!(complaints(wrong), [expected]);
}

#[test]
fn wrong_values_are_refused_with_what_is_expected() {
    let cases = [
        (
            "[client]\nping_interval = \"5 parsecs\"",
            "client.ping_interval (line 2): is \"5 parsecs\", must be a duration from 0s to 24h with units (ms, s, m, h, d), such as \"1m30s\"; a bare number is seconds",
        ),
        (
            "[client]\nping_interval = \"500ms\"",
            "client.ping_interval (line 2): must be 1s or more, or 0s for no pings: clients are told the interval in whole seconds",
        ),
        (
            "[client]\nchannel_limit = -1",
            "client.channel_limit (line 2): is -1, must be a whole number from 1 to 65535",
        ),
        ("[client]\ninsecure = \"yes\"", "client.insecure (line 2): is \"yes\", must be true or false"),
        (
            "[client.token]\nhmac_secret_key = 12345",
            "client.token.hmac_secret_key (line 2): must be text (in quotes where it looks like a number)",
        ),
        ("client = 5", "client (line 1): is 5, must be a section with keys of its own"),
        (
            "[log]\nlevel = \"loud\"",
            "log.level (line 2): is \"loud\", must be one of \"trace\", \"debug\", \"info\", \"warn\", \"error\", \"none\"",
        ),
        (
            "[server]\nmemory_limit = \"lots\"",
            "server.memory_limit (line 2): is \"lots\", must be a size from 0 to 18446744073709551615 bytes, as a number or with a unit, such as \"64KiB\"",
        ),
        (
            "[http_server]\naddress = \"example.com\"",
            "http_server.address (line 2): is \"example.com\", must be an IP address, localhost, or empty for all addresses",
        ),
        (
            "[client]\nallowed_origins = [\"https://a.example/\"]",
            "client.allowed_origins (line 2): is \"https://a.example/\", must be a list of origins, scheme://host[:port] without a path, such as \"https://example.com\"",
        ),
        (
            "[websocket]\nhandler_prefix = \"ws\"",
            "websocket.handler_prefix (line 2): is \"ws\", must be a path such as /connection/websocket, without a slash at the end",
        ),
        (
            "[client.token]\nrsa_public_key = \"abc\"",
            "client.token.rsa_public_key (line 2): is not the PEM of an RSA public key of 2048 to 8192 bits",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(complaints(load_toml(text)), [expected], "{text}");
    }
    let wrong = load_variables(&[("MILLPOND_CLIENT_CHANNEL_LIMIT", "many")]);
    let expected = "client.channel_limit (environment variable MILLPOND_CLIENT_CHANNEL_LIMIT): \
                    is \"many\", must be a whole number from 1 to 65535";
    assert_eq!(complaints(wrong), [expected]);
}

#[test]
fn contradictions_are_refused() {
    // (file, key that is named, words of the rule)
    let cases = [
        ("[client]\npong_timeout = \"25s\"", "client.pong_timeout", "before the next ping"),
        (
            "[channel.without_namespace]\nforce_recovery = true",
            "channel.without_namespace.force_recovery",
            "need a history",
        ),
        (
            "[channel.without_namespace]\nallow_recovery = true\nhistory_size = 5",
            "channel.without_namespace.allow_recovery",
            "need a history",
        ),
        (
            "[channel.without_namespace]\nforce_push_join_leave = true",
            "channel.without_namespace.force_push_join_leave",
            "join_leave = true",
        ),
        ("[[channel.namespaces]]\nname = \"a\"", "channel.namespaces[0].name", "two or more letters"),
        ("[[channel.namespaces]]\nname = \"a:b\"", "channel.namespaces[0].name", "two or more letters"),
        (
            "[[channel.namespaces]]\nname = \"ab\"\n[[channel.namespaces]]\nname = \"ab\"",
            "channel.namespaces[1].name",
            "has this name already",
        ),
        (
            "[[channel.namespaces]]\npresence = true",
            "channel.namespaces[0].name",
            "the name of the namespace",
        ),
        (
            "[client.subscribe_to_user_personal_channel]\nenabled = true\npersonal_channel_namespace = \"me\"",
            "personal_channel_namespace",
            "no namespace has this name",
        ),
        (
            "[client.token]\nhmac_previous_secret_key = \"x\"",
            "hmac_previous_secret_key",
            "needs a current one",
        ),
        (
            "[client.token]\nhmac_previous_secret_key_valid_until = 5",
            "hmac_previous_secret_key_valid_until",
            "not set",
        ),
        (
            "[client.token]\naudience = \"a\"\naudience_regex = \"b\"",
            "client.token.audience_regex",
            "remove one",
        ),
        ("[client.token]\nissuer = \"a\"\nissuer_regex = \"b\"", "client.token.issuer_regex", "remove one"),
        (
            "[client.subscription_token]\nhmac_secret_key = \"x\"",
            "client.subscription_token.enabled",
            "enabled = true",
        ),
        ("[client.subscription_token]\nenabled = true", "client.subscription_token", "no key"),
        ("[http_server]\nport = 9000\nlisten = [\":9000\"]", "http_server.listen", "not both"),
        ("[http_server]\ninternal_port = 8000", "http_server.internal_port", "different addresses"),
        ("[http_server]\naddress = \"\"\nport = 8001", "http_server.internal_port", "different addresses"),
        ("[http_api]\nhandler_prefix = \"/health\"", "health.handler_prefix", "differ"),
    ];
    for (text, key, words) in cases {
        let complaints = complaints(load_toml(text));
        assert_eq!(complaints.len(), 1, "{text}: {complaints:?}");
        assert!(complaints[0].contains(key) && complaints[0].contains(words), "{text}: {complaints:?}");
    }
}

#[test]
fn user_presence_needs_its_namespace_and_a_heartbeat() {
    let config = |presence: &str, namespace: &str| {
        let file = format!(
            "[user_presence]\nenabled = true\n{presence}\n[[channel.namespaces]]\nname = \"presence\"\n{namespace}"
        );
        load_toml(&file)
    };
    let settings = config("", "").unwrap().settings.user_presence.unwrap();
    assert_eq!(
        (settings.namespace.as_str(), settings.away_after, settings.offline_after, settings.last_seen_users),
        ("presence", Duration::from_secs(300), Duration::from_secs(60), 100_000)
    );
    assert!(load(&Layers::default()).unwrap().settings.user_presence.is_none());
    let cases = [
        ("namespace = \"who\"", "", "user_presence.namespace", "no namespace has this name"),
        ("", "allow_publish_for_client = true", "user_presence.namespace", "no publications of clients"),
        ("", "history_size = 1\nhistory_ttl = \"1m\"", "user_presence.namespace", "no history"),
        ("offline_after = \"33s\"", "", "user_presence.offline_after", "client.pong_timeout"),
    ];
    for (presence, namespace, key, words) in cases {
        let complaints = complaints(config(presence, namespace));
        assert_eq!(complaints.len(), 1, "{complaints:?}");
        assert!(complaints[0].contains(key) && complaints[0].contains(words), "{complaints:?}");
    }
}

const PERSONAL: &str = "[client.subscribe_to_user_personal_channel]\nenabled = true\n";

#[test]
fn storage_and_mailboxes_are_off_unless_asked_for() {
    let config = load(&Layers::default()).unwrap();
    assert!(config.storage.is_none() && config.settings.mailbox.is_none());
    let text = "[storage]\npath = \"/var/lib/millpond\"\nsegment_size = \"1MiB\"\nsync = \"interval\"\nsync_interval = \"50ms\"\n\
                commit_window = \"2ms\"\ncompact_below = 25\n";
    let config = load_toml(text).unwrap();
    let storage = config.storage.unwrap();
    assert_eq!(storage.path, Path::new("/var/lib/millpond"));
    let log = &storage.log;
    assert!(log.check().is_ok(), "what the configuration lets through, the log takes");
    assert_eq!((log.segment_bytes, log.commit_window), (1 << 20, Duration::from_millis(2)));
    assert_eq!(log.sync, SyncPolicy::Interval(Duration::from_millis(50)));
    assert_eq!(log.compact_below_percent, 25);
    assert!(!storage.allow_volatile);
    assert!(config.settings.mailbox.is_none(), "a log alone makes no mailboxes");
    let smallest = load_toml("[storage]\npath = \"x\"\nsegment_size = \"64KiB\"\nsync = \"os\"").unwrap();
    let storage = smallest.storage.unwrap();
    assert!(storage.log.check().is_ok() && storage.allow_volatile);
}

#[test]
fn mailboxes_take_their_limits_to_the_log() {
    let text = format!(
        "{PERSONAL}[storage]\npath = \"x\"\n[mailbox]\nenabled = true\nmax_messages = 7\nmax_bytes = \"8KiB\"\n\
         when_full = \"drop_oldest\"\nmax_devices = 3\nttl = \"1h\"\nreplay_page = 50\ndead_letter_channel = \"dead\"\n"
    );
    let config = load_toml(&text).unwrap();
    let limits = config.storage.unwrap().log.mailbox;
    assert_eq!((limits.messages, limits.bytes, limits.devices), (7, 8192, 3));
    assert_eq!(limits.when_full, WhenFull::DropOldest);
    let mailbox = config.settings.mailbox.unwrap();
    assert_eq!((mailbox.ttl, mailbox.replay_page), (Duration::from_secs(3600), 50));
    assert_eq!((mailbox.dead_letter_channel.as_str(), mailbox.max_deliveries), ("dead", 5));
    assert!(mailbox.ack_by_pong);
}

#[test]
fn a_message_is_not_sent_again_before_its_pong_can_come() {
    let wait = |client: &str, mailbox: &str| {
        let text = format!(
            "[client]\n{client}\n{PERSONAL}[storage]\npath = \"x\"\n[mailbox]\nenabled = true\n{mailbox}"
        );
        load_toml(&text).map(|config| config.settings.mailbox.unwrap().ack_wait.as_secs())
    };
    assert_eq!(wait("", "").unwrap(), 34, "a pong may take 25 s and 8 s");
    assert_eq!(wait("ping_interval = \"5s\"\npong_timeout = \"3s\"", "").unwrap(), 30);
    assert_eq!(wait("ping_interval = \"5s\"\npong_timeout = \"3s\"", "ack_wait = \"9s\"").unwrap(), 9);
    assert_eq!(wait("", "ack_by_pong = false").unwrap(), 30);
    assert_eq!(wait("ping_interval = \"0s\"", "ack_by_pong = false\nack_wait = \"2s\"").unwrap(), 2);
    let cases = [
        ("", "ack_wait = \"33s\"", "mailbox.ack_wait", "0s chooses it"),
        ("ping_interval = \"0s\"", "", "mailbox.ack_by_pong", "without pings"),
        ("pong_timeout = \"0s\"", "", "mailbox.ack_by_pong", "client.pong_timeout"),
        ("heartbeat = \"tcp\"", "", "mailbox.ack_by_pong", "client.heartbeat = \"ping\""),
    ];
    for (client, mailbox, key, words) in cases {
        let complaints: Vec<_> =
            wait(client, mailbox).unwrap_err().0.iter().map(ToString::to_string).collect();
        assert_eq!(complaints.len(), 1, "{complaints:?}");
        assert!(complaints[0].contains(key) && complaints[0].contains(words), "{complaints:?}");
    }
}

#[test]
fn what_is_stored_needs_a_place_and_bounds() {
    let storage = "[storage]\npath = \"x\"\n";
    let durable = "[[channel.namespaces]]\nname = \"news\"\nhistory_durable = true\n";
    let cases = [
        (format!("{PERSONAL}[mailbox]\nenabled = true"), "mailbox.enabled", "set storage.path"),
        (
            format!("{storage}[mailbox]\nenabled = true"),
            "mailbox.enabled",
            "subscribe_to_user_personal_channel.enabled = true",
        ),
        (
            format!("{storage}{PERSONAL}[mailbox]\nenabled = true\ndead_letter_channel = \"nowhere:x\""),
            "mailbox.dead_letter_channel",
            "channel.namespaces",
        ),
        (
            format!("{storage}{durable}"),
            "channel.namespaces[0].history_durable",
            "history_size and history_ttl",
        ),
        (
            format!("{durable}history_size = 5\nhistory_ttl = \"1h\""),
            "channel.namespaces[0].history_durable",
            "set storage.path",
        ),
        (
            "[storage]\npath = \"x\"\nsegment_size = 70000".to_owned(),
            "storage.segment_size",
            "multiple of 4096",
        ),
        ("[storage]\ncommit_window = \"6ms\"".to_owned(), "storage.commit_window", "from 0s to 5ms"),
        ("[storage]\nsync = \"never\"".to_owned(), "storage.sync", "\"always\", \"interval\", \"os\""),
        ("[mailbox]\nwhen_full = \"drop\"".to_owned(), "mailbox.when_full", "\"drop_oldest\""),
    ];
    for (text, key, words) in cases {
        let complaints = complaints(load_toml(&text));
        assert_eq!(complaints.len(), 1, "{text}: {complaints:?}");
        assert!(complaints[0].contains(key) && complaints[0].contains(words), "{text}: {complaints:?}");
    }
    let config = load_toml(&format!("{storage}{durable}history_size = 5\nhistory_ttl = \"1h\"")).unwrap();
    assert!(config.settings.channel.options[1].history_durable);
    let text = format!(
        "{storage}{PERSONAL}[mailbox]\nenabled = true\n[channel.without_namespace]\nhistory_size = 5\nhistory_ttl = \"1h\""
    );
    let notices: Vec<_> = load_toml(&text).unwrap().notices.iter().map(ToString::to_string).collect();
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert!(
        notices[0].starts_with("channel.without_namespace.history_size: personal channels"),
        "{notices:?}"
    );
}

#[test]
fn everything_wrong_is_told_at_once() {
    let text = "[client]\npin_interval = \"5s\"\nchannel_limit = 0\n[channel.without_namespace]\nforce_recovery = true\n";
    assert_eq!(complaints(load_toml(text)).len(), 3);
}

#[test]
fn syntax_errors_name_the_line_and_keys_stand_once() {
    let cases = [
        ("a.toml", "[client]\nping_interval =\n", "2"),
        ("a.json", "{\"client\":\n{\"insecure\": tru}}", "line 2"),
        ("a.yaml", "client:\n  insecure: [\n", ""),
        ("a.toml", "[client]\ninsecure = true\ninsecure = false\n", "duplicate"),
        ("a.json", "{\"client\": {\"insecure\": true,\n\"insecure\": false}}", "twice"),
        ("a.yaml", "client:\n  insecure: true\n  insecure: false\n", "duplicate"),
        ("a.ini", "", ".toml"),
        ("a.json", "[]", "table"),
    ];
    for (name, text, words) in cases {
        let complaints = complaints(load_text(name, text));
        assert_eq!(complaints.len(), 1, "{complaints:?}");
        assert!(complaints[0].contains(words), "{text}: {complaints:?}");
    }
    let deep = format!("{{\"client\":{}1{}}}", "{\"a\":".repeat(90), "}".repeat(90));
    assert!(complaints(load_text("a.json", &deep))[0].contains("too deep"));
    let missing = load(&Layers { file: Some("/no/such/file.toml".into()), ..Layers::default() });
    assert!(matches!(missing.unwrap_err().0[..], [Problem::Unreadable { .. }]));
    for empty in ["a.toml", "a.yaml"] {
        assert!(load_text(empty, "").is_ok());
    }
}

#[test]
fn keys_not_served_yet_are_named_and_guards_refuse() {
    let text = "[sse]\nenabled = true\n[http_stream]\nenabled = false\n[client]\nconcurrency = 8\n[engine]\ntype = \"memory\"\n";
    assert_eq!(load_toml(text).unwrap().unserved, ["client.concurrency", "sse"]);
    let by_variable =
        load_variables(&[("MILLPOND_SSE_ENABLED", "true"), ("MILLPOND_HTTP_STREAM_ENABLED", "false")]);
    assert_eq!(by_variable.unwrap().unserved, ["MILLPOND_SSE_ENABLED"]);
    for text in [
        "[http_server.tls]\nenabled = true",
        "[engine]\ntype = \"redis\"",
        "[channel.without_namespace]\npublish_proxy_enabled = true",
    ] {
        assert!(matches!(load_toml(text).unwrap_err().0[..], [Problem::Guard(..)]), "{text}");
    }
    let by_variable = load_variables(&[("MILLPOND_ENGINE_TYPE", "redis")]);
    assert!(matches!(by_variable.unwrap_err().0[..], [Problem::Guard(..)]));
}

#[test]
fn what_is_probably_not_meant_is_said() {
    let text = "[client]\ninsecure = true\n[client.token]\nhmac_secret_key = \"short\"\n[http_api]\ninsecure = true\n\
                [channel.without_namespace]\nhistory_size = 5\nallow_publish_for_anonymous = true\n";
    let notices: Vec<_> = load_toml(text).unwrap().notices.iter().map(ToString::to_string).collect();
    assert_eq!(notices.len(), 5, "{notices:?}");
    assert!(notices.iter().any(|notice| notice.starts_with("client.insecure is on")));
    assert!(notices.iter().any(|notice| notice.contains("history is off")));
    assert!(
        notices.iter().any(|notice| notice.contains("on the client port it is not served")),
        "{notices:?}"
    );
}

#[test]
fn personal_channels_open_to_others_are_named() {
    let open = "allow_subscribe_for_client = true";
    let limited = "allow_subscribe_for_client = true\nallow_user_limited_channels = true";
    let mailbox = "[storage]\npath = \"/var/lib/millpond\"\n[mailbox]\nenabled = true";
    for (options, more, count) in [(open, "", 1), (limited, "", 0), ("", "", 0), (open, mailbox, 0)] {
        let text = format!(
            "[client.subscribe_to_user_personal_channel]\nenabled = true\n[channel.without_namespace]\n{options}\n{more}"
        );
        let notices: Vec<_> = load_toml(&text).unwrap().notices.iter().map(ToString::to_string).collect();
        let named = "channel.without_namespace.allow_subscribe_for_client: every user may";
        let told = notices.iter().filter(|notice| notice.starts_with(named)).count();
        assert_eq!(told, count, "{text}: {notices:?}");
    }
}

#[test]
fn the_demo_works_on_loopback_only() {
    let demo = |listen: &str| {
        load(&Layers { demo: true, listen: vec![listen.parse().unwrap()], ..Layers::default() })
    };
    let config = demo("127.0.0.1:9000").unwrap();
    assert!(config.demo && config.settings.http.hand_over);
    assert!(!config.settings.client.allow_anonymous_connect_without_token, "the demo makes tokens");
    let complaints = complaints(demo("0.0.0.0:9000"));
    assert!(
        complaints[0].contains("(flag --listen)") && complaints[0].contains("loopback"),
        "{complaints:?}"
    );
}

#[test]
fn a_port_alone_is_a_mistake() {
    let said = load_variables(&[("MILLPOND_PORT", "8000")]).unwrap_err().to_string();
    assert!(said.starts_with("environment variable MILLPOND_PORT: there is no such key"), "{said}");
}

#[test]
fn the_documentation_is_in_step() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/CONFIGURATION.md");
    let written = std::fs::read_to_string(page).unwrap();
    assert!(
        written == keys_reference(),
        "run `cargo run -- default-config --format markdown > docs/CONFIGURATION.md`"
    );
}
