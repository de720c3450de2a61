//! What a connection token entitles to, beside the rest of the configuration. A token that is good by itself may still be
//! refused; `connect` and the command `check-token` ask here.

use crate::hub::auth::{ConnectionClaims, ttl_seconds};
use crate::hub::channel_name::{NameFault, ParsedChannel, parse, personal};
use crate::hub::settings::{ChannelSettings, ClientSettings, Settings};
use crate::limits;
use crate::protocol::{DisconnectCode, ErrorCode};

/// Why a token that is good by itself is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotEntitled {
    /// Disconnect 3500.
    #[error("its user id has more than {} bytes", limits::USER_ID_BYTES)]
    UserTooLong,
    /// Disconnect 3507.
    #[error("it is for an anonymous user, and client.disallow_anonymous_connection_tokens is on")]
    Anonymous,
    /// Error 110.
    #[error("its claim expire_at is over")]
    Over,
    /// Disconnect 3505.
    #[error(
        "it subscribes to {count} channels, the personal one included, and client.channel_limit is {limit}"
    )]
    TooManyChannels {
        /// Those of the token, and the personal one.
        count: usize,
        /// `client.channel_limit`.
        limit: usize,
    },
    /// Error 102 or 107.
    #[error("channel {name:?}: {}", match fault {
        NameFault::UnknownChannel => "its namespace is not configured",
        NameFault::BadRequest => "no channel can be called so",
    })]
    Channel {
        /// Its name.
        name: String,
        /// Why.
        fault: NameFault,
    },
    /// Error 103.
    #[error("channel {0:?}: its namespace asks for another way to subscribe")]
    Foreign(String),
}

impl NotEntitled {
    /// What the client is told.
    pub(crate) fn refusal(&self) -> Result<ErrorCode, DisconnectCode> {
        match self {
            Self::UserTooLong => Err(DisconnectCode::InvalidToken),
            Self::Anonymous => Err(DisconnectCode::PermissionDenied),
            Self::TooManyChannels { .. } => Err(DisconnectCode::ChannelLimit),
            Self::Over => Ok(ErrorCode::Expired),
            Self::Channel { fault: NameFault::UnknownChannel, .. } => Ok(ErrorCode::UnknownChannel),
            Self::Channel { fault: NameFault::BadRequest, .. } => Ok(ErrorCode::BadRequest),
            Self::Foreign(_) => Ok(ErrorCode::PermissionDenied),
        }
    }
}

/// May the user of a token connect?
///
/// # Errors
/// [`NotEntitled::UserTooLong`] or [`NotEntitled::Anonymous`]
pub(crate) fn user(client: &ClientSettings, claims: &ConnectionClaims) -> Result<(), NotEntitled> {
    if claims.user.len() > limits::USER_ID_BYTES {
        Err(NotEntitled::UserTooLong)
    } else if claims.user.is_empty() && client.disallow_anonymous_connection_tokens {
        Err(NotEntitled::Anonymous)
    } else {
        Ok(())
    }
}

/// Can the server subscribe anybody to this channel?
///
/// # Errors
/// [`NotEntitled::Channel`] or [`NotEntitled::Foreign`]
pub(crate) fn channel<'a>(
    settings: &'a ChannelSettings,
    name: &'a str,
) -> Result<ParsedChannel<'a>, NotEntitled> {
    let parsed =
        parse(settings, name).map_err(|fault| NotEntitled::Channel { name: name.to_owned(), fault })?;
    if parsed.options.foreign_subscription_type {
        return Err(NotEntitled::Foreign(name.to_owned()));
    }
    Ok(parsed)
}

/// Are so many server-side subscriptions allowed?
///
/// # Errors
/// [`NotEntitled::TooManyChannels`]
pub(crate) fn count(client: &ClientSettings, count: usize) -> Result<(), NotEntitled> {
    let limit = client.channel_limit as usize;
    if count > limit { Err(NotEntitled::TooManyChannels { count, limit }) } else { Ok(()) }
}

/// Everything that is known of a token before its client connects; `now` in Unix seconds.
///
/// # Errors
/// [`NotEntitled`]
pub fn check(settings: &Settings, claims: &ConnectionClaims, now: u64) -> Result<(), NotEntitled> {
    user(&settings.client, claims)?;
    if claims.expire_at != 0 && ttl_seconds(claims.expire_at, now).is_none() {
        return Err(NotEntitled::Over);
    }
    let own = settings.client.personal_channel.as_ref().filter(|_| !claims.user.is_empty());
    let own = own.map(|of| personal(&settings.channel, &of.namespace, &claims.user));
    let own = own.filter(|own| claims.subs.iter().all(|(channel, _)| channel != own));
    count(&settings.client, claims.subs.len() + usize::from(own.is_some()))?;
    let mut channels = claims.subs.iter().map(|(channel, _)| channel).chain(&own);
    channels.try_for_each(|name| channel(&settings.channel, name).map(drop))
}
