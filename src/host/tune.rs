//! The difference between a host and a profile; [`apply`] makes it none, and back again.

pub mod apply;
pub mod backup;

use std::fmt;

use super::facts::Reading;
use super::finding::wrapped;
use super::profile::{Document, Kind, Profile, ProfileError, Scale, render, settings};

/// One setting, as it is and as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Such as `net.core.somaxconn`.
    pub name: String,
    /// File below the root.
    pub path: String,
    /// The present value, blanks made one.
    pub before: Reading<String>,
    /// The value of the profile.
    pub after: String,
    /// Why.
    pub why: String,
}

impl Change {
    /// Why, in a sentence: the first of the comment in `tuning/`.
    #[must_use]
    pub fn reason(&self) -> &str {
        self.why.split_once(". ").map_or(self.why.trim_end_matches('.'), |(first, _)| first)
    }

    /// Whether there is something to write.
    #[must_use]
    pub fn is_due(&self) -> bool {
        matches!(&self.before, Reading::Known(before) if *before != self.after)
    }
}

/// A host held against a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Every setting, also those that are right.
    pub changes: Vec<Change>,
}

impl Difference {
    /// Reads the present values with `read` (a path below the root) and finds what differs. `only` names prefixes of
    /// settings; empty: all.
    ///
    /// # Errors
    /// A mistake in `tuning/`.
    pub fn of(
        profile: Profile,
        scale: Scale,
        only: &[String],
        read: impl Fn(&str) -> Reading<String>,
    ) -> Result<Self, ProfileError> {
        let mut changes = Vec::new();
        for setting in settings(profile)? {
            if !only.is_empty() && !only.iter().any(|prefix| setting.name.starts_with(prefix)) {
                continue;
            }
            let before = present(read(&setting.path));
            let after = setting.wanted(&before, scale);
            changes.push(Change { name: setting.name, path: setting.path, before, after, why: setting.why });
        }
        Ok(Self { changes })
    }

    /// What has to be written.
    pub fn due(&self) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(|change| change.is_due())
    }
}

/// A value without the kernel's tabs and brackets.
#[must_use]
pub fn present(text: Reading<String>) -> Reading<String> {
    text.then(|text| {
        let chosen = super::parse::chosen(&text);
        Some(chosen.unwrap_or_else(|| text.split_whitespace().collect::<Vec<_>>().join(" ")))
    })
}

impl fmt::Display for Difference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for change in &self.changes {
            let name = &change.name;
            match &change.before {
                Reading::Known(before) if *before == change.after => writeln!(out, "  {name} = {before}")?,
                Reading::Known(before) => {
                    writeln!(out, "- {name} = {before}\n+ {name} = {}", change.after)?;
                    wrapped(out, "    # ", change.reason())?;
                }
                Reading::Absent => writeln!(out, "? {name}: does not exist here (host only, or not loaded)")?,
                Reading::Unreadable => writeln!(out, "? {name}: cannot be read by this user")?,
            }
        }
        Ok(())
    }
}

/// A file to be written below a folder such as `/etc`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Place below the folder.
    pub place: &'static str,
    /// What it says.
    pub text: String,
}

/// The files of a profile with scaled numbers. Settings that are right already are in them too: after a reboot they may
/// not be.
///
/// # Errors
/// A mistake in `tuning/`.
pub fn files(
    profile: Profile,
    scale: Scale,
    read: impl Fn(&str) -> Reading<String>,
) -> Result<Vec<Written>, ProfileError> {
    let current = |document: &Document, path: &str| match document.kind {
        Kind::Sysctl | Kind::Tmpfiles => present(read(path)),
        Kind::Unit | Kind::Limits | Kind::Plain => Reading::Absent,
    };
    let documents = profile.documents().into_iter();
    let written = documents.map(|document| {
        let text = render(&document, scale, |path| current(&document, path))?;
        Ok(Written { place: document.place, text })
    });
    written.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(path: &str) -> Reading<String> {
        match path {
            "proc/sys/net/core/somaxconn" => Reading::Known("4096\n".into()),
            "proc/sys/net/ipv4/tcp_syncookies" => Reading::Known("1\n".into()),
            "sys/kernel/mm/transparent_hugepage/enabled" => Reading::Known("always [madvise] never\n".into()),
            "proc/sys/fs/file-max" => Reading::Unreadable,
            _ => Reading::Absent,
        }
    }

    const SCALE: Scale = Scale { connections: 1_000_000, memory: None };

    #[test]
    fn a_difference_shows_what_changes_and_what_does_not() {
        let difference = Difference::of(Profile::Common, SCALE, &[], host).unwrap();
        let due: Vec<_> = difference.due().map(|change| change.name.as_str()).collect();
        assert_eq!(due, ["net.core.somaxconn"]);
        let shown = difference.to_string();
        for line in [
            "- net.core.somaxconn = 4096",
            "+ net.core.somaxconn = 65535",
            "    # Connections that wait to be accepted, per listener; every shard has one and asks for 65535",
            "  net.ipv4.tcp_syncookies = 1",
            "  /sys/kernel/mm/transparent_hugepage/enabled = madvise",
            "? fs.file-max: cannot be read by this user",
            "? fs.nr_open: does not exist here (host only, or not loaded)",
        ] {
            assert!(shown.lines().any(|shown| shown == line), "{line} in\n{shown}");
        }
    }

    #[test]
    fn a_difference_can_be_narrowed() {
        let only = ["net.ipv4.".to_owned(), "vm.".to_owned()];
        let difference = Difference::of(Profile::Density1m, SCALE, &only, host).unwrap();
        assert!(difference.changes.len() > 3);
        assert!(difference.changes.iter().all(|change| !change.name.starts_with("fs.")));
    }

    #[test]
    fn files_are_scaled_for_every_profile() {
        for profile in Profile::ALL {
            let files = files(profile, SCALE, host).unwrap();
            assert!(files.iter().all(|file| !file.text.contains("#:")), "{}", profile.name());
            let common = files.iter().find(|file| file.place.ends_with("common.conf")).unwrap();
            assert!(common.text.contains("\nfs.file-max = 1065536\n"), "{}", common.text);
        }
    }
}
