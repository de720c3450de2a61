//! Begins the process anew with the caches of glibc's allocator switched off.
//!
//! Every thread of glibc caches up to seven freed blocks of each small size (*tcache*), and a cached block keeps its page.
//! With many shards that is what lies in the pages that stay after a mass departure: with 300,000 connections on 53
//! shards RSS stayed 35 % above that of the start, 11 % without the caches, and 100,000 connections on 6 shards took 164
//! instead of 172 bytes each (2026-11-24, docs/BENCHMARKS.md). Shards allocate rarely, so they do not miss them.
//!
//! The library reads the setting from the environment when the program starts and offers no call for it. So `serve` sets
//! the variable and executes itself once: same process id, same arguments, same descriptors, about 2 ms.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use signal_hook::consts::SIGPIPE;

/// Where glibc (2.26 and later) looks for its tunables.
const TUNABLES: &str = "GLIBC_TUNABLES";

/// No cached blocks.
const NO_CACHES: &str = "glibc.malloc.tcache_count=0";

/// Set in a process that was begun anew: the loader takes the tunables out of the environment of a privileged program.
const MARK: &str = "_MILLPOND_BEGUN_ANEW";

/// Why the caches stay, until there is a log to tell it to.
static FAILED: OnceLock<io::Error> = OnceLock::new();

/// Begins the process anew without caches, if it has them. Call it first of all: it returns where that is not needed or
/// not possible (no `/proc`, no right to execute), and then the caches stay, which [`report`] tells.
pub(crate) fn without_caches() {
    if cfg!(not(target_env = "gnu")) || env::var_os(MARK).is_some() {
        return;
    }
    let Some(tunables) = tunables(env::var_os(TUNABLES).as_deref()) else { return };
    let error = match env::current_exe() {
        Ok(program) if is_loader(&program) => io::Error::other("it was started through the loader"),
        Ok(program) => begin_anew(&program, &tunables),
        Err(error) => error,
    };
    let _ = FAILED.set(error);
}

/// Says that the caches stay, where that was not wanted. Call it once there is a log.
pub(super) fn report() {
    if let Some(error) = FAILED.get() {
        tracing::warn!(
            %error,
            "the process could not be begun anew, so its threads keep their caches of freed memory: memory is returned more slowly (set {TUNABLES}={NO_CACHES} to switch them off)"
        );
    }
}

/// Returns only where it failed, and why.
fn begin_anew(program: &Path, tunables: &OsStr) -> io::Error {
    let mut arguments = env::args_os();
    let name = arguments.next().unwrap_or_else(|| program.as_os_str().to_owned());
    let mut command = Command::new(program);
    command.arg0(name).args(arguments).env(TUNABLES, tunables).env(MARK, "1");
    let error = command.exec();
    // The attempt has reset the signal to its default, which ends the process when a client has gone during a write.
    let caught = signal_hook::flag::register(SIGPIPE, Arc::new(AtomicBool::new(false)));
    caught.err().unwrap_or(error)
}

/// A program that was started as an argument of the loader cannot be started anew by its own name.
fn is_loader(program: &Path) -> bool {
    program.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ld-"))
}

/// The tunables with the caches off; `None` where whoever started the process has decided about the caches.
fn tunables(given: Option<&OsStr>) -> Option<OsString> {
    let given = given.filter(|given| !given.is_empty());
    if given.is_some_and(|given| given.to_string_lossy().contains("glibc.malloc.tcache")) {
        return None;
    }
    let mut all = given.map(OsStr::to_owned).unwrap_or_default();
    if !all.is_empty() {
        all.push(":");
    }
    all.push(NO_CACHES);
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_tunables_are_kept_and_a_decision_about_the_caches_stands() {
        let of = |given: &str| tunables(Some(OsStr::new(given)));
        assert_eq!(tunables(None).as_deref(), Some(OsStr::new(NO_CACHES)));
        assert_eq!(of("").as_deref(), Some(OsStr::new(NO_CACHES)));
        let both = "glibc.malloc.arena_max=3:glibc.malloc.tcache_count=0";
        assert_eq!(of("glibc.malloc.arena_max=3").as_deref(), Some(OsStr::new(both)));
        assert_eq!(of(both), None);
        assert_eq!(of("glibc.malloc.tcache_count=7"), None);
    }

    #[test]
    fn a_failed_attempt_is_told_and_leaves_the_process_able_to_write_to_who_has_gone() {
        let error = begin_anew(Path::new("/nonexistent/millpond"), OsStr::new(NO_CACHES));
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let is_in = |set: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(set)).unwrap();
            u64::from_str_radix(line.trim(), 16).unwrap() & (1 << (SIGPIPE - 1)) != 0
        };
        assert!(is_in("SigIgn:") || is_in("SigCgt:"), "{status}");
    }

    #[test]
    fn the_loader_is_not_taken_for_the_program() {
        assert!(is_loader(Path::new("/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")));
        assert!(!is_loader(Path::new("/usr/local/bin/millpond")));
    }
}
