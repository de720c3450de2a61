//! Recorded hosts, and the binary run as people run it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use millpond::host::doctor::{Goal, examine};
use millpond::host::finding::Report;
use millpond::host::reader::Reader;

use super::skip::skip;

/// Folder of a recorded host.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/host/fixtures").join(name)
}

/// A recorded host judged for so many connections at 25 s pings.
pub(crate) fn examined(root: &Path, connections: u64) -> Report {
    let facts = Reader::new(root, None).facts();
    examine(&facts, Goal { connections, ping_seconds: 25 })
}

/// A copy of a recorded host that a test may change.
pub(crate) fn copy(name: &str, to: &Path) {
    copy_folder(&fixture(name), to);
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Every file below a folder.
pub(crate) fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            files_below(&entry.path(), found);
        } else {
            found.push(entry.path());
        }
    }
}

pub(crate) const MILLPOND: &str = env!("CARGO_BIN_EXE_millpond");

/// Runs a program to its end: exit code, output, what it said.
pub(crate) fn run(program: &str, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(program);
    let Output { status, stdout, stderr } = command.args(arguments).stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

/// Whether this is root, which some tests need; where it is not, the test is skipped.
pub(crate) fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        skip("it needs root (network namespaces, other users)");
    }
    is_root
}
