//! A small file system of a test's own. Mounting takes root; without it the test is skipped.
#![allow(dead_code, reason = "each test file uses a part")]

#[path = "skip.rs"]
mod skip;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use skip::skip;

/// A mount of the test's own; gone when dropped.
pub(crate) struct Mount {
    directory: tempfile::TempDir,
}

impl Mount {
    /// `None`, and the test skipped, where mounting is not permitted.
    pub(crate) fn new(arguments: &[&str]) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a directory");
        let mut command = Command::new("mount");
        let status = command.args(arguments).arg(directory.path()).stderr(Stdio::null()).status();
        if status.is_ok_and(|status| status.success()) {
            return Some(Self { directory });
        }
        skip("mounting is not permitted here");
        None
    }

    pub(crate) fn tmpfs(options: &str) -> Option<Self> {
        Self::new(&["-t", "tmpfs", "-o", options, "tmpfs"])
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    pub(crate) fn remount(&self, options: &str) -> bool {
        let mut command = Command::new("mount");
        command.args(["-o", options]).arg(self.directory.path()).status().is_ok_and(|status| status.success())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.directory.path()).status();
    }
}
