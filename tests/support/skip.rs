//! A test that cannot run here says so: it is counted as skipped, not as passed.
#![allow(dead_code, reason = "each test file uses a part")]

use std::fs::OpenOptions;
use std::io::Write as _;

/// The file that `cargo xtask test` reads skipped tests from, a line each.
const FILE_VARIABLE: &str = "TESTS_SKIPPED_FILE";

/// Says that the running test is skipped, and why. The test returns then.
pub(crate) fn skip(reason: &str) {
    let thread = std::thread::current();
    let line = format!("{}: {reason}\n", thread.name().unwrap_or("a test"));
    eprint!("skipped: {line}");
    if let Some(file) = std::env::var_os(FILE_VARIABLE) {
        let file = OpenOptions::new().create(true).append(true).open(file);
        let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
        assert!(written.is_ok(), "the list of skipped tests: {written:?}");
    }
}
