//! What a host had before it was tuned, on the disk before anything is changed.
//!
//! Invariants: the first value that was found stays the one to go back to, however often a host is tuned; the file is
//! replaced as a whole, so that a crash leaves the old or the new one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Name in the state directory.
const FILE: &str = "tune-backup.json";

/// A setting that was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedSetting {
    /// File below the root.
    pub path: String,
    /// What it held before.
    pub before: String,
    /// What it was set to.
    pub after: String,
}

/// A file that was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedFile {
    /// The whole path.
    pub path: PathBuf,
    /// What it held before; none: it did not exist.
    pub before: Option<String>,
    /// What was written.
    pub after: String,
}

/// Everything that can be taken back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// Settings in the order they were written.
    pub settings: Vec<SavedSetting>,
    /// Files in the order they were written.
    pub files: Vec<SavedFile>,
}

/// The backup cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The state directory.
    #[error("{}: {source}{}", path.display(), for_root(source))]
    File {
        /// What could not be read or written.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not what was written.
    #[error("{}: {source}; nothing was changed", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

fn for_root(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; run it as root, or choose another directory with --state",
        _ => "",
    }
}

impl Backup {
    /// Reads the backup in the directory `state`; empty where there is none.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn load(state: &Path) -> Result<Self, BackupError> {
        let path = state.join(FILE);
        match fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|source| BackupError::Content { path, source })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(BackupError::File { path, source }),
        }
    }

    /// Writes it, or removes it when there is nothing left to go back to.
    ///
    /// # Errors
    /// The directory cannot be made or written.
    pub fn store(&self, state: &Path) -> Result<(), BackupError> {
        let path = state.join(FILE);
        let result = if self.is_empty() { remove(&path) } else { self.replace(state, &path) };
        result.map_err(|source| BackupError::File { path, source })
    }

    /// Whether there is nothing to take back.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.settings.is_empty() && self.files.is_empty()
    }

    /// Notes a setting that will be written.
    pub fn note_setting(&mut self, path: &str, before: &str, after: &str) {
        match self.settings.iter_mut().find(|saved| saved.path == path) {
            // Somebody else set it meanwhile: that is what to go back to.
            Some(saved) if saved.after != before => {
                *saved = SavedSetting { before: before.into(), after: after.into(), path: path.into() };
            }
            Some(saved) => after.clone_into(&mut saved.after),
            None => {
                self.settings.push(SavedSetting {
                    path: path.into(),
                    before: before.into(),
                    after: after.into(),
                });
            }
        }
    }

    /// Notes a file that will be written.
    pub fn note_file(&mut self, path: &Path, before: Option<String>, after: &str) {
        match self.files.iter_mut().find(|saved| saved.path == path) {
            Some(saved) if Some(&saved.after) == before.as_ref() => after.clone_into(&mut saved.after),
            Some(saved) => {
                saved.before = before;
                after.clone_into(&mut saved.after);
            }
            None => self.files.push(SavedFile { path: path.to_owned(), before, after: after.to_owned() }),
        }
    }

    fn replace(&self, state: &Path, path: &Path) -> io::Result<()> {
        fs::create_dir_all(state)?;
        let new = state.join(format!("{FILE}.new"));
        let mut file = File::create(&new)?;
        serde_json::to_writer_pretty(&mut file, self)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(state)?.sync_all()
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_is_the_one_to_go_back_to() {
        let mut backup = Backup::default();
        backup.note_setting("a", "1", "2");
        backup.note_setting("a", "2", "3");
        assert_eq!(
            backup.settings,
            [SavedSetting { path: "a".into(), before: "1".into(), after: "3".into() }]
        );
        backup.note_setting("a", "7", "8");
        assert_eq!(
            backup.settings,
            [SavedSetting { path: "a".into(), before: "7".into(), after: "8".into() }]
        );
    }

    #[test]
    fn it_is_stored_as_a_whole_and_removed_when_empty() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("below/state");
        assert!(Backup::load(&state).unwrap().is_empty());
        let mut backup = Backup::default();
        backup.note_file(Path::new("/etc/x"), None, "text");
        backup.store(&state).unwrap();
        assert_eq!(Backup::load(&state).unwrap(), backup);
        Backup::default().store(&state).unwrap();
        assert!(!state.join(FILE).exists());
        fs::write(state.join(FILE), "{").unwrap();
        assert!(matches!(Backup::load(&state), Err(BackupError::Content { .. })));
    }
}
