//! A small file system of a test's own. Mounting takes root; without it the test says so and passes.
#![allow(dead_code, reason = "each test file uses a part")]

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A mount of the test's own; gone when dropped.
pub(crate) struct Mount {
    directory: tempfile::TempDir,
}

impl Mount {
    /// `None`, said aloud, where mounting is not permitted.
    pub(crate) fn new(arguments: &[&str]) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a directory");
        let mut command = Command::new("mount");
        let status = command.args(arguments).arg(directory.path()).stderr(Stdio::null()).status();
        if status.is_ok_and(|status| status.success()) {
            return Some(Self { directory });
        }
        println!("skipped: mounting is not permitted here");
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
