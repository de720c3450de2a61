//! The names of values that are chosen from a fixed set.

use super::value::Choice;
use super::{ErrorMode, Heartbeat, LogFormat, LogLevel};
use crate::hub::settings::{DataFormat, SlowConsumer};
use crate::log::settings::WhenFull;

/// `force_recovery_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecoveryMode {
    Stream,
    Cache,
}

impl Choice for RecoveryMode {
    const NAMES: &'static [(&'static str, Self)] =
        &[("stream", Self::Stream), ("cache", Self::Cache), ("", Self::Stream)];
}

/// `subscription_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SubscriptionType {
    Stream,
    Foreign,
}

impl Choice for SubscriptionType {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("", Self::Stream),
        ("stream", Self::Stream),
        ("map", Self::Foreign),
        ("map_clients", Self::Foreign),
        ("map_users", Self::Foreign),
        ("shared_poll", Self::Foreign),
    ];
}

impl Choice for DataFormat {
    const NAMES: &'static [(&'static str, Self)] =
        &[("", Self::Any), ("json", Self::Json), ("json_object", Self::JsonObject), ("binary", Self::Binary)];
}

impl Choice for SlowConsumer {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("disconnect", Self::Disconnect),
        ("drop_oldest", Self::DropOldest),
        ("keep_latest", Self::KeepLatest),
    ];
}

impl Choice for ErrorMode {
    const NAMES: &'static [(&'static str, Self)] = &[("reply", Self::Reply), ("transport", Self::Transport)];
}

impl Choice for Heartbeat {
    const NAMES: &'static [(&'static str, Self)] = &[("ping", Self::Ping), ("tcp", Self::Tcp)];
}

impl Choice for LogLevel {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("trace", Self::Trace),
        ("debug", Self::Debug),
        ("info", Self::Info),
        ("warn", Self::Warn),
        ("error", Self::Error),
        ("none", Self::None),
    ];
}

impl Choice for LogFormat {
    const NAMES: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

/// `storage.sync`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sync {
    Always,
    Interval,
    Os,
}

impl Choice for Sync {
    const NAMES: &'static [(&'static str, Self)] =
        &[("always", Self::Always), ("interval", Self::Interval), ("os", Self::Os)];
}

impl Choice for WhenFull {
    const NAMES: &'static [(&'static str, Self)] =
        &[("reject", Self::Reject), ("drop_oldest", Self::DropOldest)];
}
