//! The commands that the peer understands, and its answers.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::hub::{EPOCH, Subscription};

/// One command of a client.
#[derive(Debug, Deserialize)]
pub(super) struct Command<'a> {
    #[serde(default)]
    pub(super) id: u32,
    pub(super) connect: Option<Connect>,
    pub(super) subscribe: Option<Subscribe>,
    pub(super) unsubscribe: Option<Channel>,
    pub(super) presence_stats: Option<Channel>,
    #[serde(borrow)]
    pub(super) publish: Option<Publish<'a>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Connect {
    #[serde(default)]
    pub(super) token: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Channel {
    pub(super) channel: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Publish<'a> {
    pub(super) channel: String,
    #[serde(borrow)]
    pub(super) data: &'a RawValue,
}

#[derive(Debug, Deserialize)]
pub(super) struct Subscribe {
    pub(super) channel: String,
    #[serde(default)]
    recover: bool,
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    epoch: String,
}

impl Subscribe {
    pub(super) fn since(&self) -> Option<(u64, &str)> {
        self.recover.then_some((self.offset, self.epoch.as_str()))
    }
}

impl Connect {
    /// The `sub` claim of the token, whose signature is not looked at.
    pub(super) fn user(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Claims {
            sub: String,
        }
        jsonwebtoken::dangerous::insecure_decode::<Claims>(&self.token).ok().map(|token| token.claims.sub)
    }
}

/// The answer to `connect`.
pub(super) fn connected(id: u32, user: Option<&str>, ping_seconds: u64) -> String {
    let personal =
        user.map(|user| format!(",\"subs\":{{\"#{user}\":{{\"recoverable\":true,\"epoch\":\"{EPOCH}\"}}}}"));
    let personal = personal.unwrap_or_default();
    format!(
        "{{\"id\":{id},\"connect\":{{\"client\":\"peer\",\"version\":\"peer\",\"ping\":{ping_seconds},\"pong\":true{personal}}}}}"
    )
}

/// The answer to `subscribe`.
pub(super) fn subscribed(id: u32, subscribe: &Subscribe, subscription: &Subscription) -> String {
    let mut body = format!("{{\"id\":{id},\"subscribe\":{{\"recoverable\":true,\"epoch\":\"{EPOCH}\"");
    let mut offset = subscription.top;
    if let Some(missed) = &subscription.recovered {
        let objects: Vec<_> = missed.iter().map(|one| String::from_utf8_lossy(&one.object)).collect();
        body.push_str(&format!(",\"publications\":[{}],\"recovered\":true", objects.join(",")));
        offset = subscribe.offset;
    }
    let was_recovering = subscribe.recover;
    body.push_str(&format!(
        ",\"offset\":{offset},\"positioned\":true,\"was_recovering\":{was_recovering}}}}}"
    ));
    body
}
