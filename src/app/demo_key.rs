//! The signing key of the demo, kept beside its log, so that who comes back after a restart is still who the letters are for.
//!
//! The log is locked by this process while the key is read or made, so there is one writer.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Random bytes of a key.
const BYTES: usize = 32;

/// Why the key cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DemoKeyError {
    /// It is there and cannot be read.
    #[error("its signing key {} cannot be read: {source}; mend that, or remove it: everybody is somebody else then", path.display())]
    Unreadable {
        /// Where it is.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no key.
    #[error("{} is no signing key (64 hexadecimal digits); remove it: everybody is somebody else then", .0.display())]
    Malformed(PathBuf),
    /// Others may read it.
    #[error("other users may read its signing key {path}: remove it, or chmod 600 {path}", path = .0.display())]
    Open(PathBuf),
}

/// Where the key of a demo with its log at `log` is.
pub(super) fn place(log: &Path) -> PathBuf {
    let mut name = log.file_name().unwrap_or_default().to_owned();
    name.push(".key");
    log.with_file_name(name)
}

/// The key at `path`, made there if there is none. `None` if it cannot be kept there, which is said.
///
/// # Errors
/// [`DemoKeyError`] if something else is there.
pub(super) fn load(path: &Path) -> Result<Option<String>, DemoKeyError> {
    let unreadable = |source| DemoKeyError::Unreadable { path: path.to_owned(), source };
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path);
    match file {
        Ok(file) => read(file, path).map(Some),
        Err(error) if error.kind() == ErrorKind::NotFound => match make(path) {
            Ok(key) => Ok(Some(key)),
            Err(error) => {
                tracing::warn!(
                    path = %path.display(), %error,
                    "the demo's signing key cannot be kept: after a restart everybody is somebody else"
                );
                Ok(None)
            }
        },
        Err(error) => Err(unreadable(error)),
    }
}

fn read(file: File, path: &Path) -> Result<String, DemoKeyError> {
    let unreadable = |source| DemoKeyError::Unreadable { path: path.to_owned(), source };
    let about = file.metadata().map_err(unreadable)?;
    if !about.is_file() {
        return Err(DemoKeyError::Malformed(path.to_owned()));
    }
    if about.mode() & 0o077 != 0 {
        return Err(DemoKeyError::Open(path.to_owned()));
    }
    let mut bytes = Vec::new();
    file.take(BYTES as u64 * 2 + 2).read_to_end(&mut bytes).map_err(unreadable)?;
    let key = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    if key.len() != BYTES * 2 || !key.iter().all(u8::is_ascii_hexdigit) {
        return Err(DemoKeyError::Malformed(path.to_owned()));
    }
    Ok(String::from_utf8_lossy(key).into_owned())
}

/// The file appears with the whole key in it, or not at all.
fn make(path: &Path) -> io::Result<String> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    let key: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    // Of a start that was killed.
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let written = file
        .write_all(format!("{key}\n").as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::rename(&new, path));
    if let Err(error) = written {
        let _ = std::fs::remove_file(&new);
        return Err(error);
    }
    if let Some(folder) = path.parent() {
        // Without it a power cut may take the key, and those who have tokens of it are somebody else.
        File::open(folder)?.sync_all()?;
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_made_once_for_this_user_alone() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = place(&folder.path().join("demo"));
        assert_eq!(path, folder.path().join("demo.key"));
        std::fs::write(folder.path().join("demo.key.new"), "half a k").unwrap();
        let key = load(&path).unwrap().unwrap();
        assert!(key.len() == 64 && key.bytes().all(|of| of.is_ascii_hexdigit()));
        assert_eq!(load(&path).unwrap().unwrap(), key);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
        std::fs::remove_file(&path).unwrap();
        assert_ne!(load(&path).unwrap().unwrap(), key);
    }

    #[test]
    fn what_is_no_key_is_refused_and_left_alone() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("demo.key");
        let key = "0123456789abcdef".repeat(4);
        let private = std::fs::Permissions::from_mode(0o600);
        for text in ["", "\n", &key[1..], &format!("{key}0"), &format!("{key}\n\n"), &key.replace('0', "g")] {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, private.clone()).unwrap();
            assert!(matches!(load(&path), Err(DemoKeyError::Malformed(_))), "{text:?}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), *text);
        }
        std::fs::write(&path, &key).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(load(&path).unwrap_err().to_string().contains("chmod 600"));
        std::fs::set_permissions(&path, private).unwrap();
        assert_eq!(load(&path).unwrap(), Some(key));
        let link = folder.path().join("link.key");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(
            matches!(load(&link), Err(DemoKeyError::Unreadable { .. })),
            "where it leads is not ours to say"
        );
        assert!(load(folder.path()).is_err(), "a directory");
        assert_eq!(load(&folder.path().join("nowhere/demo.key")).unwrap(), None, "it runs without");
    }
}
