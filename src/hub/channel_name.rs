//! Channel names: namespace, private prefix and user list (client-protocol.md section 8), parsed once per command.
//!
//! The whole string is the identity of a channel; what is parsed here only decides options and permissions.

use super::settings::{ChannelOptions, ChannelSettings};

/// Why a name was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameFault {
    /// The namespace is not configured.
    #[error("unknown channel")]
    UnknownChannel,
    /// Too long, empty, or made of characters that the namespace does not take.
    #[error("bad request")]
    BadRequest,
}

impl NameFault {
    /// The error code of a reply: 102 or 107.
    #[must_use]
    pub fn code(self) -> u32 {
        match self {
            Self::UnknownChannel => 102,
            Self::BadRequest => 107,
        }
    }
}

/// A channel name that some namespace takes.
#[derive(Clone, Copy, Debug)]
pub struct ParsedChannel<'a> {
    /// The full name: the identity of the channel.
    pub name: &'a str,
    /// Index into [`ChannelSettings::options`].
    pub namespace_index: u16,
    /// Options of the namespace.
    pub options: &'a ChannelOptions,
    /// Starts with the private prefix: subscribing needs a token.
    pub private: bool,
    /// The users who may subscribe, where the namespace allows such lists and the name holds one.
    pub users: Option<UserList<'a>>,
}

/// The users listed behind the user boundary.
#[derive(Clone, Copy, Debug)]
pub struct UserList<'a> {
    list: &'a str,
    separator: &'a str,
}

impl UserList<'_> {
    /// True if the user is listed. Anonymous users never are.
    #[must_use]
    pub fn contains(&self, user: &str) -> bool {
        if user.is_empty() {
            return false;
        }
        if self.separator.is_empty() {
            return self.list == user;
        }
        self.list.split(self.separator).any(|listed| listed == user)
    }
}

/// Parses a channel name that a client or the server API gave.
///
/// # Errors
/// [`NameFault::BadRequest`] for a name that is empty, longer than `max_length`, or against the characters of its
/// namespace; [`NameFault::UnknownChannel`] for an undefined namespace.
pub fn parse<'a>(settings: &'a ChannelSettings, name: &'a str) -> Result<ParsedChannel<'a>, NameFault> {
    if name.is_empty() || name.len() > settings.max_length {
        return Err(NameFault::BadRequest);
    }
    let public = strip_private(settings, name);
    let (namespace, rest) = split_namespace(settings, public.unwrap_or(name));
    let namespace_index = match namespace {
        None => 0,
        Some(namespace) => *settings.namespaces.get(namespace).ok_or(NameFault::UnknownChannel)?,
    };
    let options = settings.options.get(usize::from(namespace_index)).ok_or(NameFault::UnknownChannel)?;
    if !characters_fit(options, name, rest) {
        return Err(NameFault::BadRequest);
    }
    let users = if options.allow_user_limited_channels { listed_users(settings, rest) } else { None };
    Ok(ParsedChannel { name, namespace_index, options, private: public.is_some(), users })
}

/// The name of a user's personal channel.
#[must_use]
pub fn personal(settings: &ChannelSettings, namespace: &str, user: &str) -> String {
    let boundary = if namespace.is_empty() { "" } else { settings.namespace_boundary.as_str() };
    [namespace, boundary, settings.user_boundary.as_str(), user].concat()
}

/// The name without its private prefix, if it has one.
fn strip_private<'a>(settings: &ChannelSettings, name: &'a str) -> Option<&'a str> {
    if settings.private_prefix.is_empty() {
        None
    } else {
        name.strip_prefix(settings.private_prefix.as_str())
    }
}

/// Namespace and rest. A boundary behind the start of a user list belongs to a user id (`#tenant:42`), as no
/// namespace can hold the user boundary.
fn split_namespace<'a>(settings: &ChannelSettings, name: &'a str) -> (Option<&'a str>, &'a str) {
    if settings.namespace_boundary.is_empty() {
        return (None, name);
    }
    let in_user_list = |namespace: &str| {
        !settings.user_boundary.is_empty() && namespace.contains(settings.user_boundary.as_str())
    };
    match name.split_once(settings.namespace_boundary.as_str()) {
        Some((namespace, rest)) if !in_user_list(namespace) => (Some(namespace), rest),
        _ => (None, name),
    }
}

/// Printable ASCII, or with a regex whatever that takes; never a control character.
fn characters_fit(options: &ChannelOptions, name: &str, rest: &str) -> bool {
    match &options.channel_regex {
        None => name.bytes().all(|byte| matches!(byte, b' '..=b'~')),
        Some(regex) => !name.contains(char::is_control) && regex.is_match(rest),
    }
}

/// What stands behind the last user boundary.
fn listed_users<'a>(settings: &'a ChannelSettings, rest: &'a str) -> Option<UserList<'a>> {
    if settings.user_boundary.is_empty() {
        return None;
    }
    let (_, list) = rest.rsplit_once(settings.user_boundary.as_str())?;
    Some(UserList { list, separator: &settings.user_separator })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::time::Duration;

    fn settings() -> ChannelSettings {
        let users = ChannelOptions {
            name: "users".into(),
            allow_user_limited_channels: true,
            ..ChannelOptions::default()
        };
        let digits = ChannelOptions {
            name: "digits".into(),
            channel_regex: Some(regex::Regex::new("^[0-9é]+$").unwrap()),
            ..ChannelOptions::default()
        };
        ChannelSettings {
            max_length: 20,
            private_prefix: "$".into(),
            namespace_boundary: ":".into(),
            user_boundary: "#".into(),
            user_separator: ",".into(),
            history_meta_ttl: Duration::ZERO,
            options: vec![ChannelOptions::default(), users, digits],
            namespaces: HashMap::from([("users".into(), 1), ("digits".into(), 2)]),
        }
    }

    #[test]
    fn names_are_taken_apart_as_the_table_says() {
        use NameFault::{BadRequest, UnknownChannel};
        let settings = settings();
        // (name, namespace index and privacy, or the fault)
        let cases = [
            ("news", Ok((0, false))),
            ("$news", Ok((0, true))),
            ("$$news", Ok((0, true))),
            ("users:a", Ok((1, false))),
            ("$users:a", Ok((1, true))),
            ("users:a:b", Ok((1, false))),
            ("users:", Ok((1, false))),
            ("users", Ok((0, false))),
            ("nobody:a", Err(UnknownChannel)),
            ("USERS:a", Err(UnknownChannel)),
            (":a", Err(UnknownChannel)),
            ("$:a", Err(UnknownChannel)),
            ("#tenant:42", Ok((0, false))),
            ("digits:12", Ok((2, false))),
            ("digits:é", Ok((2, false))),
            ("digits:12a", Err(BadRequest)),
            ("digits:", Err(BadRequest)),
            ("", Err(BadRequest)),
            ("exactly twenty chars", Ok((0, false))),
            ("it is twenty-one long", Err(BadRequest)),
            ("café", Err(BadRequest)),
            ("nul\0", Err(BadRequest)),
            ("tab\t", Err(BadRequest)),
            ("line\n", Err(BadRequest)),
            ("del\x7f", Err(BadRequest)),
        ];
        for (name, expected) in cases {
            let got = parse(&settings, name).map(|parsed| (parsed.namespace_index, parsed.private));
            assert_eq!(got, expected, "{name:?}");
        }
    }

    #[test]
    fn users_stand_behind_the_last_boundary() {
        let settings = settings();
        let listed =
            |name: &str, user: &str| parse(&settings, name).unwrap().users.map(|users| users.contains(user));
        assert_eq!(listed("users:chat#1,2", "1"), Some(true));
        assert_eq!(listed("users:chat#1,2", "2"), Some(true));
        assert_eq!(listed("users:chat#1,2", "12"), Some(false));
        assert_eq!(listed("users:chat#1,2", ""), Some(false));
        assert_eq!(listed("users:chat#", ""), Some(false));
        assert_eq!(listed("users:chat#1,", ""), Some(false));
        assert_eq!(listed("users:a#1#2", "1"), Some(false));
        assert_eq!(listed("users:a#1#2", "2"), Some(true));
        assert_eq!(listed("users:chat", "1"), None);
        assert_eq!(listed("chat#1", "1"), None, "the namespace does not allow lists");
    }

    #[test]
    fn personal_channels_parse_into_their_namespace() {
        let settings = settings();
        assert_eq!(personal(&settings, "", "42"), "#42");
        let name = personal(&settings, "users", "a:b");
        assert_eq!(name, "users:#a:b");
        let parsed = parse(&settings, &name).unwrap();
        assert_eq!(parsed.namespace_index, 1);
        assert!(parsed.users.unwrap().contains("a:b"));
    }
}
