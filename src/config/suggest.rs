//! Which key was meant by one that does not exist.

use super::reference::keys;
use super::unserved::{UNSERVED, generic};
use super::variable_name;

/// Names less alike than this are not suggested (0 to 1).
const LEAST_LIKENESS: f64 = 0.6;

/// The key that was probably meant by `path`, in the section where it stands if it fits there.
pub(super) fn key(path: &str) -> Option<String> {
    let wanted = generic(path);
    let known = keys().into_iter().flat_map(|key| with_sections(&key.path));
    let best = known
        .chain(UNSERVED.iter().map(|unserved| unserved.path.to_owned()))
        .map(|known| (likeness(&wanted, &generic(&known)), known))
        .max_by(|(left, _), (right, _)| left.total_cmp(right));
    best.filter(|(likeness, _)| *likeness >= LEAST_LIKENESS).map(|(_, known)| specific(path, &known))
}

/// The environment variable that was probably meant.
pub(super) fn variable(name: &str) -> Option<String> {
    let prefixed = |path: &str| format!("{}{}", super::VARIABLE_PREFIX, variable_name(path));
    let known = keys().into_iter().filter(|key| key.value_of_text.is_some()).map(|key| prefixed(&key.path));
    let best = known
        .map(|known| (strsim::normalized_damerau_levenshtein(name, &known), known))
        .max_by(|(left, _), (right, _)| left.total_cmp(right));
    best.filter(|(likeness, _)| *likeness >= LEAST_LIKENESS).map(|(_, known)| known)
}

/// A path and every section that it stands in.
fn with_sections(path: &str) -> Vec<String> {
    let ends = path.match_indices('.').map(|(end, _)| end).chain([path.len()]);
    ends.filter_map(|end| path.get(..end)).map(str::to_owned).collect()
}

/// How alike two paths are: the same name elsewhere, or a like name in the same section, or flat keys with the words of
/// the path (as in older versions of the ecosystem).
fn likeness(wanted: &str, known: &str) -> f64 {
    let (wanted_section, wanted_name) = wanted.rsplit_once('.').unwrap_or(("", wanted));
    let (known_section, known_name) = known.rsplit_once('.').unwrap_or(("", known));
    let names = strsim::normalized_damerau_levenshtein(&plain(wanted_name), &plain(known_name));
    let paths = strsim::normalized_damerau_levenshtein(&plain(wanted), &plain(known));
    let sections = strsim::normalized_damerau_levenshtein(wanted_section, known_section);
    let same_section = if wanted_section == known_section { names } else { 0.0 };
    let same_name = if names == 1.0 { 0.8 + 0.1 * sections } else { 0.0 };
    same_section.max(same_name).max(paths * 0.9)
}

/// Without what styles of writing differ in: case and separators.
fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// The suggested path, in the namespace that the wrong key stands in.
fn specific(path: &str, known: &str) -> String {
    let option =
        known.strip_prefix("channel.without_namespace.").or(known.strip_prefix("channel.namespaces[]."));
    match (option, path.rsplit_once('.')) {
        (Some(option), Some((section, _))) if generic(section) == "channel.options" => {
            format!("{section}.{option}")
        }
        _ => known.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likely_keys_are_found() {
        let cases = [
            ("client.ping_intervall", "client.ping_interval"),
            ("client.pingInterval", "client.ping_interval"),
            ("clients", "client"),
            ("allowed_origins", "client.allowed_origins"),
            ("token_hmac_secret_key", "client.token.hmac_secret_key"),
            ("client.hmac_secret_key", "client.token.hmac_secret_key"),
            ("channel.namespaces[3].histroy_ttl", "channel.namespaces[3].history_ttl"),
            ("channel.without_namespace.presense", "channel.without_namespace.presence"),
            ("server.max_conections", "server.max_connections"),
            ("namespaces", "channel.namespaces"),
            ("ssse", "sse"),
        ];
        for (wrong, right) in cases {
            assert_eq!(key(wrong).as_deref(), Some(right), "{wrong}");
        }
        assert_eq!(key("zzzzzzzz"), None);
    }

    #[test]
    fn likely_variables_are_found() {
        assert_eq!(
            variable("MILLPOND_CLIENT_PING_INTERVALL").as_deref(),
            Some("MILLPOND_CLIENT_PING_INTERVAL")
        );
        assert_eq!(variable("MILLPOND_Z"), None);
    }
}
