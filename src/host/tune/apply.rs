//! Applies a difference and takes it back. Everything is below a root, so that it can be tried on a copy of a host.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use super::backup::{Backup, BackupError};
use super::{Difference, Written, present};
use crate::host::facts::Reading;

/// What became of each thing.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Done, in words.
    pub done: Vec<String>,
    /// Left alone on purpose, with the reason.
    pub left: Vec<String>,
    /// Failed, with the reason.
    pub failed: Vec<String>,
}

/// Writes every setting that is due. The backup is on the disk first; what fails is said and does not stop the rest.
///
/// # Errors
/// The backup cannot be read or written; nothing is changed then.
pub fn apply(root: &Path, state: &Path, difference: &Difference) -> Result<Outcome, BackupError> {
    let mut backup = Backup::load(state)?;
    for change in difference.due() {
        if let Reading::Known(before) = &change.before {
            backup.note_setting(&change.path, before, &change.after);
        }
    }
    backup.store(state)?;
    let mut outcome = Outcome::default();
    for change in difference.due() {
        let (name, wanted) = (&change.name, &change.after);
        let written = set(root, &change.path, wanted);
        let now = value(root, &change.path);
        match (written, &now) {
            (Err(error), _) => outcome.failed.push(format!("{name}: {error}{}", explained(&error))),
            (Ok(()), Some(now)) if now != wanted => {
                outcome.done.push(format!("{name} = {now} (asked for {wanted}; the kernel rounds)"));
            }
            (Ok(()), _) => outcome.done.push(format!("{name} = {wanted}")),
        }
        // The kernel may have rounded, or refused: what is there now is what a rollback must find.
        if let Some(saved) = backup.settings.iter_mut().find(|saved| saved.path == change.path)
            && let Some(now) = now
        {
            saved.after = now;
        }
    }
    backup.settings.retain(|saved| saved.before != saved.after);
    backup.store(state)?;
    Ok(outcome)
}

/// Writes the files of a profile below `folder`.
///
/// # Errors
/// The backup cannot be read or written; nothing is changed then.
pub fn persist(folder: &Path, state: &Path, files: &[Written]) -> Result<Outcome, BackupError> {
    let mut backup = Backup::load(state)?;
    let mut outcome = Outcome::default();
    let mut due = Vec::new();
    for file in files {
        let path = folder.join(file.place);
        match fs::read_to_string(&path) {
            Ok(text) if text == file.text => {
                outcome.left.push(format!("{} is as it should be", path.display()));
            }
            Ok(text) => due.push((path, Some(text), &file.text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => due.push((path, None, &file.text)),
            Err(error) => outcome.failed.push(format!("{}: {error}", path.display())),
        }
    }
    for (path, before, after) in &due {
        backup.note_file(path, before.clone(), after);
    }
    backup.store(state)?;
    for (path, _, text) in due {
        match write_file(&path, text) {
            Ok(()) => outcome.done.push(format!("{} is written", path.display())),
            Err(error) => {
                backup.files.retain(|saved| saved.path != path);
                outcome.failed.push(format!("{}: {error}", path.display()));
            }
        }
    }
    backup.store(state)?;
    Ok(outcome)
}

/// Restores what was there before, newest first. What somebody else changed since is left alone.
///
/// # Errors
/// The backup cannot be read or written.
pub fn rollback(root: &Path, state: &Path) -> Result<Outcome, BackupError> {
    let mut backup = Backup::load(state)?;
    let mut outcome = Outcome::default();
    let mut kept = Backup::default();
    for saved in backup.files.drain(..).rev() {
        let path = saved.path.display().to_string();
        let now = fs::read_to_string(&saved.path).ok();
        if now == saved.before {
            outcome.left.push(format!("{path} is as it was already"));
        } else if now.as_ref() != Some(&saved.after) {
            outcome.left.push(format!("{path} was changed since, and stays"));
        } else {
            let result = match &saved.before {
                Some(text) => fs::write(&saved.path, text),
                None => fs::remove_file(&saved.path),
            };
            match result {
                Ok(()) => outcome.done.push(format!("{path} is as it was")),
                Err(error) => {
                    outcome.failed.push(format!("{path}: {error}"));
                    kept.files.insert(0, saved);
                }
            }
        }
    }
    for saved in backup.settings.drain(..).rev() {
        let path = format!("/{}", saved.path);
        let now = value(root, &saved.path);
        if now.as_ref() == Some(&saved.before) {
            outcome.left.push(format!("{path} is as it was already"));
        } else if now.as_ref() != Some(&saved.after) {
            outcome.left.push(format!("{path} was changed since, and stays"));
        } else if let Err(error) = set(root, &saved.path, &saved.before) {
            outcome.failed.push(format!("{path}: {error}{}", explained(&error)));
            kept.settings.insert(0, saved);
        } else {
            outcome.done.push(format!("{path} = {}", saved.before));
        }
    }
    kept.store(state)?;
    Ok(outcome)
}

fn value(root: &Path, path: &str) -> Option<String> {
    let text = fs::read_to_string(root.join(path)).ok()?;
    present(Reading::Known(text)).known()
}

/// Writes a setting that exists; it is never created.
fn set(root: &Path, path: &str, value: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).truncate(true).open(root.join(path))?;
    file.write_all(value.as_bytes())
}

fn write_file(path: &Path, text: &str) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, text)
}

fn explained(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            " (it takes root of the host itself: not in a container, a user or a network namespace)"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            " (a container: set it on the host, or where the container is made: docker run --sysctl, securityContext.sysctls)"
        }
        io::ErrorKind::InvalidInput => " (this kernel does not take the value)",
        _ => "",
    }
}

#[cfg(test)]
mod tests;
