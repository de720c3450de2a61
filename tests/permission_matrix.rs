//! Who may do what (client-protocol.md section 8), as tables.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

use std::collections::HashMap;
use std::time::Duration;

use millpond::hub::api::Overrides;
use millpond::hub::channel_name::{ParsedChannel, parse};
use millpond::hub::permission::{
    Actor, Features, Refusal, Wishes, features, may_history, may_presence, may_publish, may_subscribe,
};
use millpond::hub::settings::{ChannelOptions, ChannelSettings};

const DENIED: u32 = 103;
const UNAVAILABLE: u32 = 108;
const FINE: u32 = 0;

fn settings(options: ChannelOptions) -> ChannelSettings {
    ChannelSettings {
        max_length: 255,
        private_prefix: "$".into(),
        namespace_boundary: ":".into(),
        user_boundary: "#".into(),
        user_separator: ",".into(),
        history_meta_ttl: Duration::ZERO,
        options: vec![options],
        namespaces: HashMap::new(),
    }
}

fn code(result: Result<(), Refusal>) -> u32 {
    result.map_or_else(Refusal::code, |()| FINE)
}

/// Builds the options of a row, reads the channel, and asks.
fn ask(options: &ChannelOptions, name: &str, ask: impl Fn(&ParsedChannel<'_>) -> Result<(), Refusal>) -> u32 {
    let settings = settings(options.clone());
    code(ask(&parse(&settings, name).unwrap()))
}

/// Sets the options for clients, subscribers and anonymous users of one operation.
type Allow = fn(&mut ChannelOptions, bool, bool, bool);
/// The operation.
type May = fn(&ParsedChannel<'_>, &Actor<'_>) -> Result<(), Refusal>;

fn operations() -> [(&'static str, Allow, May); 3] {
    let publish: Allow = |options, client, subscriber, anonymous| {
        options.allow_publish_for_client = client;
        options.allow_publish_for_subscriber = subscriber;
        options.allow_publish_for_anonymous = anonymous;
    };
    let presence: Allow = |options, client, subscriber, anonymous| {
        options.presence = true;
        options.allow_presence_for_client = client;
        options.allow_presence_for_subscriber = subscriber;
        options.allow_presence_for_anonymous = anonymous;
    };
    let history: Allow = |options, client, subscriber, anonymous| {
        options.history_size = 10;
        options.history_ttl = Duration::from_secs(60);
        options.allow_history_for_client = client;
        options.allow_history_for_subscriber = subscriber;
        options.allow_history_for_anonymous = anonymous;
    };
    [
        ("publish", publish, may_publish),
        ("presence", presence, may_presence),
        ("history", history, may_history),
    ]
}

#[test]
fn publish_presence_and_history_follow_one_table() {
    // (for client, for subscriber, for anonymous) → (user, subscribed user, anonymous, subscribed anonymous)
    let table = [
        ((false, false, false), (DENIED, DENIED, DENIED, DENIED)),
        ((true, false, false), (FINE, FINE, DENIED, DENIED)),
        ((false, true, false), (DENIED, FINE, DENIED, DENIED)),
        ((false, false, true), (DENIED, DENIED, DENIED, DENIED)),
        ((true, true, false), (FINE, FINE, DENIED, DENIED)),
        ((true, false, true), (FINE, FINE, FINE, FINE)),
        ((false, true, true), (DENIED, FINE, DENIED, FINE)),
        ((true, true, true), (FINE, FINE, FINE, FINE)),
    ];
    for (operation, allow, may) in operations() {
        for ((client, subscriber, anonymous), expected) in table {
            let mut options = ChannelOptions::default();
            allow(&mut options, client, subscriber, anonymous);
            let by = |user, subscribed, insecure| {
                ask(&options, "x", |channel| may(channel, &Actor { user, insecure, subscribed }))
            };
            let got =
                (by("42", false, false), by("42", true, false), by("", false, false), by("", true, false));
            assert_eq!(got, expected, "{operation} {client} {subscriber} {anonymous}");
            assert_eq!((by("42", false, true), by("", false, true)), (FINE, FINE), "{operation} insecure");
        }
    }
}

#[test]
fn a_feature_that_is_off_is_told_before_permissions_are_looked_at() {
    let allowed = ChannelOptions {
        allow_presence_for_client: true,
        allow_history_for_client: true,
        ..ChannelOptions::default()
    };
    let half = ChannelOptions { history_size: 10, ..allowed.clone() };
    let other_half = ChannelOptions { history_ttl: Duration::from_secs(5), ..allowed.clone() };
    for insecure in [false, true] {
        let actor = Actor { user: "42", insecure, subscribed: true };
        for options in [&ChannelOptions::default(), &allowed, &half, &other_half] {
            assert_eq!(ask(options, "x", |channel| may_presence(channel, &actor)), UNAVAILABLE);
            assert_eq!(ask(options, "x", |channel| may_history(channel, &actor)), UNAVAILABLE);
        }
    }
}

#[test]
fn subscribing_follows_the_table() {
    let closed = ChannelOptions::default();
    let client = ChannelOptions { allow_subscribe_for_client: true, ..closed.clone() };
    let anonymous_only = ChannelOptions { allow_subscribe_for_anonymous: true, ..closed.clone() };
    let both = ChannelOptions { allow_subscribe_for_anonymous: true, ..client.clone() };
    let limited = ChannelOptions { allow_user_limited_channels: true, ..closed.clone() };
    let limited_open = ChannelOptions { allow_user_limited_channels: true, ..both.clone() };
    // (options, channel) → (user 42, anonymous) without a token; with one everything is permitted.
    let table = [
        (&closed, "x", (DENIED, DENIED)),
        (&client, "x", (FINE, DENIED)),
        (&anonymous_only, "x", (DENIED, DENIED)),
        (&both, "x", (FINE, FINE)),
        (&both, "$x", (DENIED, DENIED)),
        (&limited, "x#42", (FINE, DENIED)),
        (&limited, "x#41,42", (FINE, DENIED)),
        (&limited, "x#4", (DENIED, DENIED)),
        (&limited, "x#", (DENIED, DENIED)),
        (&limited, "#42", (FINE, DENIED)),
        (&limited, "x", (DENIED, DENIED)),
        (&limited, "$x#42", (DENIED, DENIED)),
        // The list decides alone: the option for all clients is not consulted.
        (&limited_open, "x#41", (DENIED, DENIED)),
        (&limited_open, "x#42", (FINE, DENIED)),
        (&limited_open, "x", (FINE, FINE)),
        // Without the option, # is a character like others.
        (&both, "x#41", (FINE, FINE)),
        (&closed, "x#42", (DENIED, DENIED)),
    ];
    for (options, name, expected) in table {
        let by = |user, insecure, token| {
            let actor = Actor { user, insecure, subscribed: false };
            ask(options, name, |channel| may_subscribe(channel, &actor, token))
        };
        assert_eq!((by("42", false, false), by("", false, false)), expected, "{name} {options:?}");
        assert_eq!((by("42", false, true), by("", false, true)), (FINE, FINE), "{name} with a token");
        assert_eq!((by("42", true, false), by("", true, false)), (FINE, FINE), "{name} insecure");
    }
}

#[test]
fn namespaces_of_other_subscription_types_take_no_streams() {
    let options = ChannelOptions { foreign_subscription_type: true, ..ChannelOptions::default() };
    let actor = Actor { user: "42", insecure: true, subscribed: false };
    assert_eq!(ask(&options, "x", |channel| may_subscribe(channel, &actor, true)), DENIED);
}

#[test]
fn wishes_are_granted_where_options_allow_and_else_silently_not() {
    let history = ChannelOptions {
        history_size: 10,
        history_ttl: Duration::from_secs(60),
        presence: true,
        join_leave: true,
        ..ChannelOptions::default()
    };
    let all = Wishes { positioned: true, recoverable: true, join_leave: true };
    let none = Wishes::default();
    let base = Features { presence: true, emits_join_leave: true, ..Features::default() };
    let with = |change: fn(&mut ChannelOptions)| {
        let mut options = history.clone();
        change(&mut options);
        options
    };
    let positioned = Features { positioned: true, ..base };
    let recoverable = Features { recoverable: true, ..positioned };
    let told = Features { gets_join_leave: true, ..base };
    // (options, wishes) → what a user with an id gets
    let table = [
        (history.clone(), all, base),
        (with(|options| options.allow_positioning = true), all, positioned),
        (with(|options| options.allow_positioning = true), none, base),
        (with(|options| options.allow_recovery = true), all, recoverable),
        (with(|options| options.allow_history_for_subscriber = true), all, recoverable),
        (with(|options| options.force_recovery = true), none, recoverable),
        (with(|options| options.force_positioning = true), none, positioned),
        (with(|options| options.allow_presence_for_subscriber = true), all, told),
        (with(|options| options.allow_presence_for_subscriber = true), none, base),
        (with(|options| options.force_push_join_leave = true), none, told),
        (with(|options| (options.force_recovery, options.history_size) = (true, 0)), all, base),
    ];
    for (options, wishes, expected) in table {
        let got = granted(&options, wishes, Overrides::default());
        assert_eq!(got, expected, "{wishes:?} {options:?}");
    }
    let off = Overrides {
        presence: Some(false),
        join_leave: Some(false),
        force_push_join_leave: Some(false),
        force_positioning: Some(false),
        force_recovery: Some(false),
    };
    let forced = with(|options| {
        (options.force_recovery, options.force_positioning, options.force_push_join_leave) =
            (true, true, true);
    });
    assert_eq!(granted(&forced, none, off), Features::default());
    let on =
        Overrides { force_recovery: Some(true), force_push_join_leave: Some(true), ..Overrides::default() };
    assert_eq!(granted(&history, none, on), Features { gets_join_leave: true, ..recoverable });
}

fn granted(options: &ChannelOptions, wishes: Wishes, overrides: Overrides) -> Features {
    let settings = settings(options.clone());
    let channel = parse(&settings, "x").unwrap();
    let actor = Actor { user: "42", insecure: false, subscribed: false };
    features(&channel, &actor, wishes, overrides)
}
