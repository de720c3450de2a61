//! The profiles of `tuning/`, embedded: the files say what to set and why, and lines `#:` say how a number scales.
//!
//! | directive | meaning |
//! |---|---|
//! | `connections N` | the numbers of this file are for `N` connections |
//! | `least`, `most`, `exact` | never lower what is there; never raise it; set it |
//! | `each A B C` | so much for each connection, field by field |
//! | `plus N` | and so much besides |
//! | `from N` | but never less than this |
//! | `memory P% pages`, `memory P% kilobytes` | the largest field is at most this share of the memory |
//!
//! A test holds that every file, scaled to its own number of connections, says what stands in it.

use super::facts::Reading;
use super::finding::grouped;

/// A set of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// What every host of long-lived sockets should have.
    Common,
    /// A million quiet connections.
    Density1m,
    /// Ten million.
    Density10m,
    /// Messages that leave at once.
    Latency,
}

/// What a file is, and so how its lines are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// sysctl.d(5): `name = value`.
    Sysctl,
    /// tmpfiles.d(5): `w path - - - - value`.
    Tmpfiles,
    /// systemd.unit(5): `Key=value`; only lines with a directive are scaled.
    Unit,
    /// Written as it stands.
    Plain,
    /// limits.conf(5): `domain type item value`; only lines with a directive are scaled.
    Limits,
}

/// A file of `tuning/`.
#[derive(Clone, Copy, Debug)]
pub struct Document {
    /// Place below `/etc`.
    pub place: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What it says.
    pub text: &'static str,
}

macro_rules! document {
    ($kind:ident, $place:literal, $file:literal) => {
        Document { place: $place, kind: Kind::$kind, text: include_str!(concat!("../../tuning/", $file)) }
    };
}

const COMMON: Document =
    document!(Sysctl, "sysctl.d/60-millpond-common.conf", "sysctl.d/60-millpond-common.conf");
const DENSITY_1M: Document =
    document!(Sysctl, "sysctl.d/61-millpond-density-1m.conf", "sysctl.d/61-millpond-density-1m.conf");
const DENSITY_10M: Document =
    document!(Sysctl, "sysctl.d/61-millpond-density-10m.conf", "sysctl.d/61-millpond-density-10m.conf");
const LATENCY: Document =
    document!(Sysctl, "sysctl.d/61-millpond-latency.conf", "sysctl.d/61-millpond-latency.conf");
const TMPFILES: Document = document!(Tmpfiles, "tmpfiles.d/millpond.conf", "tmpfiles.d/millpond.conf");
const UNIT: Document = document!(Unit, "systemd/system/millpond.service", "systemd/millpond.service");
const DROP_IN_1M: Document = document!(
    Unit,
    "systemd/system/millpond.service.d/density-1m.conf",
    "systemd/millpond.service.d/density-1m.conf"
);
const DROP_IN_10M: Document = document!(
    Unit,
    "systemd/system/millpond.service.d/density-10m.conf",
    "systemd/millpond.service.d/density-10m.conf"
);
const DROP_IN_LATENCY: Document = document!(
    Unit,
    "systemd/system/millpond.service.d/latency.conf",
    "systemd/millpond.service.d/latency.conf"
);
const LIMITS: Document = document!(Limits, "security/limits.d/60-millpond.conf", "limits.d/60-millpond.conf");
const NOTRACK: Document = document!(Plain, "millpond/notrack.nft", "nftables/millpond-notrack.nft");

impl Profile {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Common, Self::Density1m, Self::Density10m, Self::Latency];

    /// As on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Common => "common",
            Self::Density1m => "density-1m",
            Self::Density10m => "density-10m",
            Self::Latency => "latency",
        }
    }

    /// Its files; what stands later goes on top.
    #[must_use]
    pub fn documents(self) -> Vec<Document> {
        let own: &[Document] = match self {
            Self::Common => &[],
            Self::Density1m => &[DENSITY_1M, DROP_IN_1M],
            Self::Density10m => &[DENSITY_10M, DROP_IN_10M],
            Self::Latency => &[LATENCY, DROP_IN_LATENCY],
        };
        [&[COMMON, TMPFILES, UNIT, LIMITS, NOTRACK], own].concat()
    }
}

/// What the numbers are scaled to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Connections to hold.
    pub connections: u64,
    /// Bytes of memory of the host; none: unknown, so no share of it bounds anything.
    pub memory: Option<u64>,
}

/// A line that could not be read; the files are embedded, so this is a mistake in `tuning/`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tuning/{place}, line {line}: {fault}")]
pub struct ProfileError {
    /// The file.
    pub place: &'static str,
    /// Line from 1.
    pub line: usize,
    /// What is wrong.
    pub fault: ProfileFault,
}

/// What can be wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileFault {
    /// No such directive.
    #[error("`{0}` is no directive")]
    Directive(String),
    /// Neither `least` nor `most` nor `exact` before a setting.
    #[error("no directive stands before this setting")]
    Undirected,
    /// Neither a value nor a comment.
    #[error("no value can be found")]
    Valueless,
    /// Numbers for the connections and numbers in the line differ in count.
    #[error("`each` has another count of numbers than the value")]
    Count,
}

/// Whether what is there already may stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Toward {
    Least,
    Most,
    Exact,
}

/// How a value is found.
#[derive(Clone, Debug, PartialEq)]
struct Rule {
    toward: Toward,
    each: Vec<f64>,
    plus: u64,
    from: u64,
    /// Share of the memory, and bytes of the unit.
    share: Option<(f64, u64)>,
}

/// One value of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// Such as `net.core.somaxconn`, or a path for settings below `/sys`.
    pub name: String,
    /// File below the root that holds the current value.
    pub path: String,
    /// Why it is set: the comment above it.
    pub why: String,
    nominal: String,
    rule: Rule,
}

impl Setting {
    /// The value to have, given the present one.
    #[must_use]
    pub fn wanted(&self, current: &Reading<String>, scale: Scale) -> String {
        let Some(mut fields) = numbers(&self.nominal) else { return self.nominal.clone() };
        for (field, each) in fields.iter_mut().zip(&self.rule.each) {
            let scaled = (scale.connections as f64 * each).ceil() as u64 + self.rule.plus;
            *field = scaled.max(self.rule.from);
        }
        cap(&mut fields, &self.rule, scale);
        if let Reading::Known(text) = current
            && let Some(there) = numbers(text)
            && there.len() == fields.len()
        {
            for (field, there) in fields.iter_mut().zip(there) {
                *field = match self.rule.toward {
                    Toward::Least => (*field).max(there),
                    Toward::Most => (*field).min(there),
                    Toward::Exact => *field,
                };
            }
        }
        joined(&fields)
    }
}

/// Scales all fields down so that the largest keeps to its share of the memory.
fn cap(fields: &mut [u64], rule: &Rule, scale: Scale) {
    let (Some((share, unit)), Some(memory)) = (rule.share, scale.memory) else { return };
    let most = (memory as f64 * share / unit as f64) as u64;
    let largest = fields.iter().copied().max().unwrap_or(0);
    if largest > most {
        for field in fields {
            *field = (*field as f64 * most as f64 / largest as f64) as u64;
        }
    }
}

fn numbers(text: &str) -> Option<Vec<u64>> {
    text.split_whitespace().map(|word| word.parse().ok()).collect()
}

fn joined(fields: &[u64]) -> String {
    fields.iter().map(u64::to_string).collect::<Vec<_>>().join(" ")
}

/// Every setting of the profile that can be applied, later ones in place of earlier ones of the same name.
///
/// # Errors
/// A mistake in `tuning/`.
pub fn settings(profile: Profile) -> Result<Vec<Setting>, ProfileError> {
    let mut all: Vec<Setting> = Vec::new();
    for document in profile.documents() {
        if !matches!(document.kind, Kind::Sysctl | Kind::Tmpfiles) {
            continue;
        }
        for setting in read(&document)?.settings() {
            match all.iter_mut().find(|other| other.name == setting.name) {
                Some(earlier) => *earlier = setting,
                None => all.push(setting),
            }
        }
    }
    Ok(all)
}

/// The file with its numbers scaled, to be put below `/etc`; `current` tells the present value of a setting.
///
/// # Errors
/// A mistake in `tuning/`.
pub fn render(
    document: &Document,
    scale: Scale,
    current: impl Fn(&str) -> Reading<String>,
) -> Result<String, ProfileError> {
    let mut text = String::new();
    for line in read(document)?.lines {
        match line {
            Line::Verbatim(verbatim) if verbatim.starts_with("#: connections") => {
                let connections = grouped(scale.connections);
                text.push_str(&format!("# Written by `millpond tune` for {connections} connections.\n"));
            }
            // Directives and what is said about them are of no use once the numbers are scaled.
            Line::Verbatim(verbatim) if verbatim.starts_with('#') && verbatim.contains("#:") => {}
            Line::Verbatim(verbatim) => {
                text.push_str(&verbatim);
                text.push('\n');
            }
            Line::Setting { before, setting } => {
                let value = setting.wanted(&current(&setting.path), scale);
                text.push_str(&format!("{before}{value}\n"));
            }
        }
    }
    Ok(text)
}

/// A file, line by line.
struct Parsed {
    lines: Vec<Line>,
}

enum Line {
    Verbatim(String),
    /// What stands before the value, and the setting.
    Setting {
        before: String,
        setting: Setting,
    },
}

impl Parsed {
    fn settings(self) -> impl Iterator<Item = Setting> {
        self.lines.into_iter().filter_map(|line| match line {
            Line::Setting { setting, .. } => Some(setting),
            Line::Verbatim(_) => None,
        })
    }
}

fn read(document: &Document) -> Result<Parsed, ProfileError> {
    let mut lines = Vec::new();
    let (mut why, mut rule) = (String::new(), None);
    for (at, line) in document.text.lines().enumerate() {
        let wrong = |fault| ProfileError { place: document.place, line: at + 1, fault };
        if let Some(directive) = line.strip_prefix("#:") {
            rule = read_rule(directive.trim()).map_err(wrong)?.or(rule);
        } else if let Some(comment) = line.strip_prefix('#') {
            let blank = if why.is_empty() { "" } else { " " };
            why = format!("{why}{blank}{}", comment.trim());
        } else if line.trim().is_empty() {
            why.clear();
        } else if let Some(rule) = rule.take() {
            lines.push(read_setting(document.kind, line, rule, why.clone()).map_err(wrong)?);
            continue;
        } else if matches!(document.kind, Kind::Sysctl | Kind::Tmpfiles) {
            return Err(wrong(ProfileFault::Undirected));
        }
        lines.push(Line::Verbatim(line.to_owned()));
    }
    Ok(Parsed { lines })
}

fn read_setting(kind: Kind, line: &str, rule: Rule, why: String) -> Result<Line, ProfileFault> {
    let at = match kind {
        Kind::Sysctl | Kind::Unit | Kind::Plain => line.find('=').map(|at| at + 1),
        Kind::Tmpfiles | Kind::Limits => line.rfind(' ').map(|at| at + 1),
    };
    let (before, value) =
        line.split_at_checked(at.ok_or(ProfileFault::Valueless)?).ok_or(ProfileFault::Valueless)?;
    let nominal = value.trim().to_owned();
    if nominal.is_empty() {
        return Err(ProfileFault::Valueless);
    }
    if !rule.each.is_empty() && numbers(&nominal).is_none_or(|fields| fields.len() != rule.each.len()) {
        return Err(ProfileFault::Count);
    }
    let (name, path) = match kind {
        Kind::Sysctl => {
            let name = before.trim_end_matches('=').trim().to_owned();
            let path = format!("proc/sys/{}", name.replace('.', "/"));
            (name, path)
        }
        Kind::Tmpfiles => {
            let name = before.split_whitespace().nth(1).unwrap_or_default().to_owned();
            let path = name.trim_start_matches('/').to_owned();
            (name, path)
        }
        // Nothing on the host holds these; they are written, not applied.
        Kind::Unit | Kind::Limits | Kind::Plain => {
            (before.trim_end_matches('=').trim().to_owned(), String::new())
        }
    };
    let blank = if value.starts_with(' ') { " " } else { "" };
    Ok(Line::Setting {
        before: format!("{before}{blank}"),
        setting: Setting { name, path, why, nominal, rule },
    })
}

/// None for `connections N`, which is for people and tests.
fn read_rule(text: &str) -> Result<Option<Rule>, ProfileFault> {
    let unknown = || ProfileFault::Directive(text.to_owned());
    let mut parts = text.split(';').map(str::trim);
    let toward = match parts.next() {
        Some("least") => Toward::Least,
        Some("most") => Toward::Most,
        Some("exact") => Toward::Exact,
        Some(part) if nominal_connections(part).is_some() => return Ok(None),
        _ => return Err(unknown()),
    };
    let mut rule = Rule { toward, each: Vec::new(), plus: 0, from: 0, share: None };
    for part in parts {
        let (name, rest) = part.split_once(' ').ok_or_else(unknown)?;
        match name {
            "each" => {
                let each: Result<_, _> = rest.split(' ').map(str::parse).collect();
                rule.each = each.map_err(|_| unknown())?;
            }
            "plus" => rule.plus = rest.parse().map_err(|_| unknown())?,
            "from" => rule.from = rest.parse().map_err(|_| unknown())?,
            "memory" => {
                let (share, unit) = rest.split_once("% ").ok_or_else(unknown)?;
                let unit = match unit {
                    "pages" => 4096,
                    "kilobytes" => 1024,
                    _ => return Err(unknown()),
                };
                rule.share = Some((share.parse::<f64>().map_err(|_| unknown())? / 100.0, unit));
            }
            _ => return Err(unknown()),
        }
    }
    Ok(Some(rule))
}

fn nominal_connections(directive: &str) -> Option<u64> {
    directive.strip_prefix("connections ")?.parse().ok()
}

#[cfg(test)]
mod tests;
