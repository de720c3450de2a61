//! The commands on a real host: in a network namespace that the test makes, as an unprivileged user, and on recordings.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use super::skip::skip;
use super::support::{MILLPOND, fixture, is_root, run};

/// A network namespace with its loopback device up, removed at the end.
struct Namespace {
    name: String,
}

impl Namespace {
    fn new(purpose: &str) -> Self {
        let name = format!("millpond-{purpose}-{}", std::process::id());
        assert_eq!(run("ip", &["netns", "add", &name]).0, 0, "ip netns add {name}");
        let namespace = Self { name };
        assert_eq!(namespace.run("ip", &["link", "set", "lo", "up"]).0, 0);
        namespace
    }

    fn run(&self, program: &str, arguments: &[&str]) -> (i32, String, String) {
        run("ip", &[&["netns", "exec", self.name.as_str(), program], arguments].concat())
    }

    fn sysctl(&self, name: &str) -> String {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        self.run("cat", &[&path]).1.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = run("ip", &["netns", "del", &self.name]);
    }
}

/// Only what belongs to the namespace: nothing of the host is touched.
const ONLY: [&str; 4] = ["--only", "net.ipv4.", "--only", "net.core."];

#[test]
fn a_namespace_is_tuned_and_restored() {
    if !is_root() {
        return;
    }
    let namespace = Namespace::new("tune");
    let folder = TempDir::new().unwrap();
    let state = folder.path().join("state");
    let state = state.to_str().unwrap();
    let before = [namespace.sysctl("net.core.somaxconn"), namespace.sysctl("net.ipv4.tcp_wmem")];
    assert_eq!(before[0], "4096", "the kernel's default since 5.4");
    let profile = ["tune", "--profile", "density-1m", "--connections", "20000", "--state", state];
    let shown = [&profile[..], &ONLY].concat();

    // Shown only: nothing changes, no backup is made.
    let (code, out, said) = namespace.run(MILLPOND, &shown);
    assert_eq!((code, said.as_str()), (0, ""));
    assert!(
        out.contains(
            "- net.core.somaxconn = 4096\n+ net.core.somaxconn = 65535\n    # Connections that wait"
        ),
        "{out}"
    );
    assert!(out.contains("? net.ipv4.tcp_mem: does not exist here"), "{out}");
    assert!(out.contains("nothing was changed"), "{out}");
    assert_eq!(namespace.sysctl("net.core.somaxconn"), "4096");
    assert!(!Path::new(state).exists());

    let apply = [&shown[..], &["--apply"]].concat();
    let (code, out, said) = namespace.run(MILLPOND, &apply);
    assert_eq!((code, said.as_str()), (0, ""), "{out}");
    assert_eq!(namespace.sysctl("net.core.somaxconn"), "65535");
    assert_eq!(namespace.sysctl("net.ipv4.tcp_wmem"), "4096 16384 1048576");
    let (_, out, _) = namespace.run(MILLPOND, &shown);
    assert!(out.contains(": 0 settings differ"), "{out}");

    let (code, out, said) = namespace.run(MILLPOND, &["tune", "--rollback", "--state", state]);
    assert_eq!((code, said.as_str()), (0, ""), "{out}");
    assert_eq!([namespace.sysctl("net.core.somaxconn"), namespace.sysctl("net.ipv4.tcp_wmem")], before);
    let (_, out, _) = namespace.run(MILLPOND, &["tune", "--rollback", "--state", state]);
    assert!(out.starts_with("nothing to take back: "), "the backup is gone once it was used: {out}");
}

#[test]
fn what_a_namespace_may_not_set_is_said() {
    if !is_root() {
        return;
    }
    let namespace = Namespace::new("refuse");
    if namespace.sysctl("net.netfilter.nf_conntrack_max").is_empty() {
        skip("this kernel has no connection tracking");
        return;
    }
    let folder = TempDir::new().unwrap();
    let state = folder.path().to_str().unwrap();
    let apply =
        ["tune", "--profile", "common", "--connections", "90000000", "--only", "net.netfilter.", "--apply"];
    let (code, _, said) = namespace.run(MILLPOND, &[&apply[..], &["--state", state]].concat());
    assert_eq!(code, 1);
    assert!(
        said.contains("net.netfilter.nf_conntrack_max: ")
            && said.contains("not in a container, a user or a network namespace"),
        "{said}"
    );
    assert!(!folder.path().join("tune-backup.json").exists(), "what was not changed needs no way back");
}

#[test]
fn connections_are_proven_with_small_tables() {
    if !is_root() {
        return;
    }
    let namespace = Namespace::new("verify");
    // 200 descriptors a table, 2,000 connections: only tables of their own can hold them.
    let verify = ["--nofile=200:200", MILLPOND, "tune", "--verify", "--connections", "2000"];
    let (code, out, said) = namespace.run("prlimit", &verify);
    assert_eq!(code, 0, "{said}");
    assert!(out.starts_with("verified: 2,000 connections were open at once, in "), "{out}");
    let tables: u64 = out.split_whitespace().nth(8).unwrap().parse().unwrap();
    assert!(tables * 200 >= 2000 && tables > 10, "{out}");
    let none = ["--nofile=60:60", MILLPOND, "tune", "--verify", "--connections", "1000000"];
    let (code, _, said) = namespace.run("prlimit", &none);
    assert_eq!(code, 1);
    assert!(said.contains("raise the limit of open files"), "{said}");
}

/// A memory control group of this hierarchy, of either version; none where they cannot be made here.
fn memory_group(name: &str, bytes: &str) -> Option<PathBuf> {
    let places = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
    places.iter().find_map(|(root, limit)| {
        let group = Path::new(root).join(name);
        fs::create_dir(&group).ok()?;
        let made = fs::write(group.join(limit), bytes).is_ok();
        let removed = !made && fs::remove_dir(&group).is_ok();
        (made && !removed).then_some(group)
    })
}

#[test]
fn a_proof_is_not_killed_by_its_control_group() {
    if !is_root() {
        return;
    }
    let name = format!("millpond-verify-{}", std::process::id());
    let Some(group) = memory_group(&name, "314572800") else {
        skip("no control group can be made here");
        return;
    };
    let inside = "echo $$ > \"$1/cgroup.procs\" || exit 9; shift; exec \"$@\"";
    let place = group.to_str().unwrap();
    let proof = ["-c", inside, "sh", place, MILLPOND, "tune", "--verify", "--connections", "100000"];
    let (code, _, said) = run("sh", &proof);
    let _ = fs::remove_dir(&group);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("is left to the control group"), "{said}");
}

#[test]
fn a_network_that_is_down_is_named() {
    if !is_root() {
        return;
    }
    let namespace = Namespace::new("down");
    assert_eq!(namespace.run("ip", &["link", "set", "lo", "down"]).0, 0);
    let (code, _, said) = namespace.run(MILLPOND, &["tune", "--verify", "--connections", "10"]);
    assert_eq!(code, 1);
    assert!(said.contains("is the loopback device up"), "{said}");
}

#[test]
fn a_namespace_is_diagnosed() {
    if !is_root() {
        return;
    }
    let namespace = Namespace::new("doctor");
    let (_, out, said) = namespace.run(MILLPOND, &["doctor", "--connections", "1000"]);
    assert!(out.contains("this is a network namespace"), "{out}{said}");
}

/// Runs the binary as nobody, who can read it from a folder of its own.
fn as_nobody(folder: &TempDir, arguments: &[&str]) -> (i32, String, String) {
    let binary = folder.path().join("millpond");
    fs::copy(MILLPOND, &binary).unwrap();
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(folder.path(), everybody).unwrap();
    let to_nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", binary.to_str().unwrap()];
    run("setpriv", &[&to_nobody[..], arguments].concat())
}

#[test]
fn doctor_needs_no_privileges_and_tune_says_that_it_does() {
    if !is_root() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let (code, out, said) = as_nobody(&folder, &["doctor", "--connections", "1"]);
    assert_eq!((code, said.as_str()), (0, ""), "{out}");
    for id in ["descriptor-table", "memory", "somaxconn", "swap"] {
        assert!(
            out.lines().any(|line| line.starts_with("ok") && line.contains(id)) || out.contains(id),
            "{out}"
        );
    }
    let (code, out, _) = as_nobody(&folder, &["tune", "--profile", "common"]);
    assert_eq!(code, 0, "the difference can be seen by everybody: {out}");
    // So many connections that something is due, into a place where nobody may write.
    let apply =
        ["tune", "--profile", "common", "--connections", "90000000", "--apply", "--state", "/root/none"];
    let (code, _, said) = as_nobody(&folder, &apply);
    assert_eq!(code, 1);
    assert!(said.contains("run it as root"), "{said}");
}

#[test]
fn recordings_are_judged_like_hosts() {
    let tuned = fixture("tuned");
    let of_tuned = ["doctor", "--recorded", tuned.to_str().unwrap(), "--connections", "10000000"];
    let (code, out, said) = run(MILLPOND, &of_tuned);
    assert_eq!((code, said.as_str()), (0, ""));
    assert!(
        out.starts_with("This host can hold 13,498,550 connections, bounded by cgroup-memory.\n"),
        "{out}"
    );
    let debian = fixture("debian");
    let (code, out, said) = run(
        MILLPOND,
        &["doctor", "--recorded", debian.to_str().unwrap(), "--connections", "1000000", "--json"],
    );
    assert_eq!(code, 1, "too small is a failure, so that scripts can ask");
    assert!(said.contains("65,324 of the 1,000,000"), "{said}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&report["possible"], &report["bounded_by"]), (&65_324.into(), &"conntrack".into()));
    assert_eq!(report["findings"][0]["verdict"], "bound");
}

#[test]
fn a_host_can_be_recorded_and_judged_elsewhere() {
    let folder = TempDir::new().unwrap();
    let place = folder.path().to_str().unwrap();
    let (_, here, _) = run(MILLPOND, &["doctor", "--connections", "1", "--record", place, "--json"]);
    let (_, there, _) = run(MILLPOND, &["doctor", "--connections", "1", "--recorded", place, "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&here).unwrap(), serde_json::from_str::<Value>(&there).unwrap());
}

#[test]
fn a_running_process_is_judged_by_its_own_limits() {
    let pid = std::process::id().to_string();
    let (code, out, _) =
        run("prlimit", &["--nofile=100:100", MILLPOND, "doctor", "--connections", "1", "--json"]);
    assert_eq!(code, 0);
    assert!(out.contains("a table of 100\""), "{out}");
    let (_, out, _) = run(
        "prlimit",
        &["--nofile=100:100", MILLPOND, "doctor", "--connections", "1", "--json", "--pid", &pid],
    );
    assert!(!out.contains("a table of 100\""), "{out}");
    let (code, _, said) = run(MILLPOND, &["doctor", "--pid", "4294967295"]);
    assert_eq!(code, 1);
    assert!(said.contains("there is no process"), "{said}");
}

#[test]
fn files_are_persisted_and_taken_back() {
    let folder = TempDir::new().unwrap();
    let (etc, state) = (folder.path().join("etc"), folder.path().join("state"));
    let (etc_name, state_name) = (etc.to_str().unwrap(), state.to_str().unwrap());
    let persist = ["tune", "--profile", "density-10m", "--connections", "3000000", "--persist", etc_name];
    let (code, out, said) = run(MILLPOND, &[&persist[..], &["--state", state_name]].concat());
    assert_eq!((code, said.as_str()), (0, ""), "{out}");
    let drop_in = etc.join("systemd/system/millpond.service.d/density-10m.conf");
    let text = fs::read_to_string(&drop_in).unwrap();
    assert!(text.contains("\nLimitNOFILE=1200000\n") && text.contains("for 3,000,000 connections"), "{text}");
    assert_eq!(run(MILLPOND, &["tune", "--rollback", "--state", state_name]).0, 0);
    assert!(!drop_in.exists());
}

#[test]
fn units_are_understood_by_systemd() {
    let folder = TempDir::new().unwrap();
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning/systemd/millpond.service");
    let text = fs::read_to_string(unit).unwrap().replace("/usr/local/bin/millpond", MILLPOND);
    let place = folder.path().join("millpond.service");
    fs::write(&place, text).unwrap();
    if run("which", &["systemd-analyze"]).0 != 0 {
        skip("there is no systemd-analyze");
        return;
    }
    let (_, out, said) = run("systemd-analyze", &["verify", "--man=no", place.to_str().unwrap()]);
    let said = format!("{out}{said}");
    let about_us: Vec<_> = said.lines().filter(|line| line.contains("millpond.service")).collect();
    assert!(about_us.is_empty(), "{said}");
}

#[test]
fn plans_are_made_and_wrong_use_is_refused() {
    let (code, out, _) = run(MILLPOND, &["plan", "--connections", "1000000", "--rate", "0"]);
    assert_eq!(code, 0);
    assert!(out.contains("memory     4.3 GB = 4.0 GB kernel + 172.0 MB user"), "{out}");
    let many = ["plan", "--connections", "1000", "--rate", "5", "--fanout", "100000", "--json"];
    let plan: Value = serde_json::from_str(&run(MILLPOND, &many).1).unwrap();
    assert_eq!(plan["load"]["fanout"], 1000.0, "a publication reaches no more than there are");
    assert_eq!(plan["coefficients"][0]["basis"], "measured");
    for wrong in [
        &["plan", "--connections", "1000"][..],
        &["plan", "--connections", "1000", "--rate", "-1"],
        &["plan", "--connections", "0", "--rate", "1"],
        &["doctor", "--connections", "many"],
        &["tune"],
        &["tune", "--apply"],
        &["tune", "--profile", "speed"],
        &["tune", "--rollback", "--profile", "common"],
    ] {
        assert_eq!(run(MILLPOND, wrong).0, 2, "{wrong:?}");
    }
}
