//! Who may do what in a channel (client-protocol.md section 8), as pure decisions over the parsed name.
//!
//! Order everywhere: a feature that is off is reported (108) before permissions are looked at (103).

use super::api::Overrides;
use super::channel_name::ParsedChannel;

/// Why a command was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The user lacks the permission.
    #[error("permission denied")]
    PermissionDenied,
    /// The namespace does not have the feature.
    #[error("not available")]
    NotAvailable,
}

impl Refusal {
    /// The error code of a reply: 103 or 108.
    #[must_use]
    pub fn code(self) -> u32 {
        match self {
            Self::PermissionDenied => 103,
            Self::NotAvailable => 108,
        }
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Actor<'a> {
    /// User id, empty for anonymous.
    pub user: &'a str,
    /// `client.insecure`: everything is permitted.
    pub insecure: bool,
    /// The connection is subscribed to the channel.
    pub subscribed: bool,
}

impl Actor<'_> {
    /// The rule that all `allow_*` options share: the option for clients or the one for subscribers, and for anonymous
    /// users the option for those besides.
    fn passes(&self, client: bool, subscriber: bool, anonymous: bool) -> bool {
        let by_role = client || (subscriber && self.subscribed);
        let by_name = anonymous || !self.user.is_empty();
        self.insecure || (by_role && by_name)
    }
}

/// May the connection subscribe? `token` says that it gave a valid subscription token for this channel, which permits
/// everything else.
///
/// # Errors
/// [`Refusal::PermissionDenied`]
pub fn may_subscribe(channel: &ParsedChannel<'_>, actor: &Actor<'_>, token: bool) -> Result<(), Refusal> {
    let options = channel.options;
    if options.foreign_subscription_type {
        return Err(Refusal::PermissionDenied);
    }
    let admitted = match &channel.users {
        Some(users) => users.contains(actor.user),
        None => {
            let named = options.allow_subscribe_for_anonymous || !actor.user.is_empty();
            options.allow_subscribe_for_client && named
        }
    };
    permit(token || actor.insecure || (admitted && !channel.private))
}

/// May the connection publish?
///
/// # Errors
/// [`Refusal::PermissionDenied`]
pub fn may_publish(channel: &ParsedChannel<'_>, actor: &Actor<'_>) -> Result<(), Refusal> {
    let options = channel.options;
    permit(actor.passes(
        options.allow_publish_for_client,
        options.allow_publish_for_subscriber,
        options.allow_publish_for_anonymous,
    ))
}

/// May the connection read presence?
///
/// # Errors
/// [`Refusal::NotAvailable`] where presence is off, else [`Refusal::PermissionDenied`].
pub fn may_presence(channel: &ParsedChannel<'_>, actor: &Actor<'_>) -> Result<(), Refusal> {
    let options = channel.options;
    if !options.presence {
        return Err(Refusal::NotAvailable);
    }
    permit(actor.passes(
        options.allow_presence_for_client,
        options.allow_presence_for_subscriber,
        options.allow_presence_for_anonymous,
    ))
}

/// May the connection read history?
///
/// # Errors
/// [`Refusal::NotAvailable`] where history is off, else [`Refusal::PermissionDenied`].
pub fn may_history(channel: &ParsedChannel<'_>, actor: &Actor<'_>) -> Result<(), Refusal> {
    let options = channel.options;
    if !options.has_history() {
        return Err(Refusal::NotAvailable);
    }
    permit(actor.passes(
        options.allow_history_for_client,
        options.allow_history_for_subscriber,
        options.allow_history_for_anonymous,
    ))
}

/// What a subscriber asks for in its `subscribe` command.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wishes {
    /// `positioned`
    pub positioned: bool,
    /// `recoverable`
    pub recoverable: bool,
    /// `join_leave`
    pub join_leave: bool,
}

/// What a subscription does, besides delivering publications.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// It is in the channel's presence.
    pub presence: bool,
    /// Its joins and leaves are announced.
    pub emits_join_leave: bool,
    /// It is told the joins and leaves of others.
    pub gets_join_leave: bool,
    /// Its place in the stream is tracked.
    pub positioned: bool,
    /// It may be resumed; implies `positioned`.
    pub recoverable: bool,
}

/// What is granted to a subscription: the options of the namespace, overridden by the token or the server API, and of
/// the wishes those that are allowed (`actor.subscribed` counts as true: the subscription is being made).
#[must_use]
pub fn features(
    channel: &ParsedChannel<'_>,
    actor: &Actor<'_>,
    wishes: Wishes,
    overrides: Overrides,
) -> Features {
    let options = channel.options;
    let actor = Actor { subscribed: true, ..*actor };
    let reads_history = may_history(channel, &actor).is_ok();
    let reads_presence = may_presence(channel, &actor).is_ok();
    let history = options.has_history();
    let recoverable = overrides.force_recovery.unwrap_or(options.force_recovery)
        || (wishes.recoverable && (options.allow_recovery || reads_history));
    let positioned = overrides.force_positioning.unwrap_or(options.force_positioning)
        || (wishes.positioned && (options.allow_positioning || reads_history));
    let emits_join_leave = overrides.join_leave.unwrap_or(options.join_leave);
    Features {
        presence: overrides.presence.unwrap_or(options.presence),
        emits_join_leave,
        gets_join_leave: overrides.force_push_join_leave.unwrap_or(options.force_push_join_leave)
            || (wishes.join_leave && emits_join_leave && reads_presence),
        positioned: history && (positioned || recoverable),
        recoverable: history && recoverable,
    }
}

fn permit(permitted: bool) -> Result<(), Refusal> {
    if permitted { Ok(()) } else { Err(Refusal::PermissionDenied) }
}
