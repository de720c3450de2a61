//! Applied and taken back on a copy of a host: a folder with the files that the settings live in.

use super::*;
use crate::host::profile::{Profile, Scale};
use crate::host::tune::{Change, files};
use tempfile::TempDir;

const SOMAXCONN: &str = "proc/sys/net/core/somaxconn";
const HUGE: &str = "sys/kernel/mm/transparent_hugepage/enabled";
const SCALE: Scale = Scale { connections: 1_000_000, memory: None };

struct Host {
    folder: TempDir,
}

impl Host {
    fn new() -> Self {
        let host = Self { folder: TempDir::new().unwrap() };
        host.put(SOMAXCONN, "4096\n");
        host.put(HUGE, "always\n");
        host
    }

    fn root(&self) -> &Path {
        self.folder.path()
    }

    fn state(&self) -> std::path::PathBuf {
        self.root().join("state")
    }

    fn put(&self, path: &str, text: &str) {
        write_file(&self.root().join(path), text).unwrap();
    }

    fn get(&self, path: &str) -> String {
        fs::read_to_string(self.root().join(path)).unwrap().trim().to_owned()
    }

    fn difference(&self) -> Difference {
        let read = |path: &str| match fs::read_to_string(self.root().join(path)) {
            Ok(text) => Reading::Known(text),
            Err(_) => Reading::Absent,
        };
        Difference::of(Profile::Common, SCALE, &[], read).unwrap()
    }
}

#[test]
fn what_is_applied_is_taken_back() {
    let host = Host::new();
    let outcome = apply(host.root(), &host.state(), &host.difference()).unwrap();
    assert_eq!((outcome.done.len(), outcome.failed.len()), (2, 0), "{outcome:?}");
    assert_eq!((host.get(SOMAXCONN), host.get(HUGE)), ("65535".into(), "madvise".into()));
    assert_eq!(host.difference().due().count(), 0);
    // A second time there is nothing to do, and the way back is not lost.
    assert!(apply(host.root(), &host.state(), &host.difference()).unwrap().done.is_empty());
    let outcome = rollback(host.root(), &host.state()).unwrap();
    assert_eq!((outcome.done.len(), outcome.left.len(), outcome.failed.len()), (2, 0, 0), "{outcome:?}");
    assert_eq!((host.get(SOMAXCONN), host.get(HUGE)), ("4096".into(), "always".into()));
    assert!(Backup::load(&host.state()).unwrap().is_empty());
}

#[test]
fn what_others_changed_since_stays() {
    let host = Host::new();
    apply(host.root(), &host.state(), &host.difference()).unwrap();
    host.put(SOMAXCONN, "9000\n");
    let outcome = rollback(host.root(), &host.state()).unwrap();
    assert_eq!(outcome.left, ["/proc/sys/net/core/somaxconn was changed since, and stays"]);
    assert_eq!((host.get(SOMAXCONN), host.get(HUGE)), ("9000".into(), "always".into()));
}

#[test]
fn a_setting_that_fails_does_not_stop_the_rest() {
    let host = Host::new();
    let mut difference = host.difference();
    let gone = Change {
        name: "net.gone".into(),
        path: "proc/sys/net/gone".into(),
        before: Reading::Known("1".into()),
        after: "2".into(),
        why: String::new(),
    };
    difference.changes.insert(0, gone);
    let outcome = apply(host.root(), &host.state(), &difference).unwrap();
    assert_eq!((outcome.done.len(), outcome.failed.len()), (2, 1), "{outcome:?}");
    assert!(!host.root().join("proc/sys/net/gone").exists(), "a setting is never created");
}

#[test]
fn nothing_is_changed_without_a_backup() {
    let host = Host::new();
    host.put("state", "a file where the directory should be");
    assert!(apply(host.root(), &host.state(), &host.difference()).is_err());
    assert_eq!(host.get(SOMAXCONN), "4096");
}

#[test]
fn files_are_written_and_taken_back() {
    let host = Host::new();
    let etc = host.root().join("etc");
    host.put("etc/tmpfiles.d/millpond.conf", "mine\n");
    let files = files(Profile::Density1m, SCALE, |_| Reading::Absent).unwrap();
    let outcome = persist(&etc, &host.state(), &files).unwrap();
    assert_eq!((outcome.done.len(), outcome.failed.len()), (files.len(), 0), "{outcome:?}");
    assert!(
        host.get("etc/sysctl.d/61-millpond-density-1m.conf")
            .contains("net.ipv4.tcp_mem = 500000 750000 1000000")
    );
    let again = persist(&etc, &host.state(), &files).unwrap();
    assert_eq!((again.done.len(), again.left.len()), (0, files.len()));
    let outcome = rollback(host.root(), &host.state()).unwrap();
    assert_eq!(outcome.done.len(), files.len(), "{outcome:?}");
    assert!(!etc.join("sysctl.d/61-millpond-density-1m.conf").exists());
    assert_eq!(host.get("etc/tmpfiles.d/millpond.conf"), "mine");
}
