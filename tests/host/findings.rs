//! Every finding of `doctor` on recorded hosts: where it is fine, where it is not, and what it says then.

use std::collections::BTreeSet;
use std::fs;

use millpond::host::finding::Verdict::{self, Bound, Cost, Fine, Unknown};
use millpond::host::reader::Reader;
use millpond::host::verify::{Room, verify};
use tempfile::TempDir;

use super::support::{copy, examined, files_below, fixture};

/// Host, connections wanted, finding, verdict, connections it lets through, words of what was found or of the fix.
type Row = (&'static str, u64, &'static str, Verdict, Option<u64>, &'static str);

const MILLION: u64 = 1_000_000;

#[rustfmt::skip]
const ROWS: &[Row] = &[
    // A limit of 20,000 descriptors: 53 shards, as the gateway itself would run.
    ("this-machine", MILLION, "descriptor-table", Cost, Some(18_556_928), "53 shards on 2 cores"),
    ("debian", MILLION, "descriptor-table", Fine, Some(1_066_375_168), "4 shards on 4 cores"),
    ("old", 10_000_000, "descriptor-table", Bound, Some(2_775_040), "LimitNOFILE="),
    ("container", 2 * MILLION, "descriptor-table", Bound, Some(1_042_405), "let the shards have their own tables"),
    ("this-machine", MILLION, "private-tables", Fine, None, "may have its own"),
    ("container", MILLION, "private-tables", Cost, None, "seccomp"),
    ("tuned", MILLION, "nr-open", Fine, Some(10_223_685_632), "10,004,096"),
    ("this-machine", 10_000_000, "nr-open", Cost, Some(1_066_375_168), "fs.nr_open=5013504"),
    ("this-machine", MILLION, "file-max", Fine, Some(9_058_290), "10,000,000"),
    ("debian", MILLION, "file-max", Fine, None, "does not bound"),
    ("old", MILLION, "file-max", Bound, Some(592_800), "sysctl -w fs.file-max=1072736"),
    ("debian", MILLION, "epoll-watches", Bound, Some(868_352), "fs.epoll.max_user_watches=1065536"),
    ("tuned", MILLION, "epoll-watches", Fine, Some(14_614_528), "14,614,528"),
    ("debian", MILLION, "threads", Fine, None, "20 threads wanted"),
    ("old", MILLION, "threads", Bound, Some(14_728), "server.shards = 4"),
    ("tuned", MILLION, "cgroup-pids", Fine, None, "4,069 left"),
    ("container", 2 * MILLION, "cgroup-pids", Bound, Some(1_042_405), "TasksMax=88"),
    ("tuned", MILLION, "conntrack", Fine, None, "not tracked"),
    ("debian", MILLION, "conntrack", Bound, Some(65_324), "millpond-notrack.nft"),
    ("this-machine", MILLION, "conntrack", Cost, None, "no rule seems to ask"),
    ("container", MILLION, "conntrack", Bound, Some(262_141), "on the host (read-only here)"),
    ("this-machine", MILLION, "tcp-mem", Fine, None, "1.6 GB of buffers"),
    ("debian", MILLION, "tcp-mem", Cost, None, "223,187 connections"),
    ("old", MILLION, "tcp-mem", Bound, Some(757_980), "one for each connection"),
    ("namespace", MILLION, "tcp-mem", Fine, None, "cannot be seen"),
    ("tuned", MILLION, "socket-buffers", Fine, None, "262.1 kB"),
    ("this-machine", MILLION, "socket-buffers", Cost, None, "tcp_wmem=\"4096 16384 1048576\""),
    ("tuned", 10_000_000, "ehash", Fine, None, "16,777,216 buckets"),
    ("debian", MILLION, "ehash", Cost, None, "thash_entries=1048576"),
    ("namespace", MILLION, "ehash", Cost, None, "(the host's)"),
    ("old", MILLION, "ehash", Fine, None, "dmesg"),
    ("tuned", 10_000_000, "orphans", Fine, None, "1,250,000"),
    ("debian", MILLION, "orphans", Cost, None, "tcp_max_orphans=250000"),
    ("namespace", MILLION, "orphans", Fine, None, "cannot be seen"),
    ("debian", MILLION, "port-range", Fine, None, "28,232 connections"),
    ("this-machine", MILLION, "network-namespace", Fine, None, "the host's network namespace"),
    ("namespace", MILLION, "network-namespace", Fine, None, "this is a network namespace"),
    ("container", MILLION, "network-namespace", Fine, None, "this is a network namespace"),
    ("debian", MILLION, "sockets-in-use", Fine, None, "249,871 TCP sockets are open here now"),
    ("container", MILLION, "sockets-in-use", Fine, None, "not to be seen"),
    ("this-machine", MILLION, "somaxconn", Fine, None, "65,535"),
    ("old", MILLION, "somaxconn", Cost, None, "128 may wait"),
    ("debian", MILLION, "syn-backlog", Fine, None, "cookies are on"),
    ("old", MILLION, "syn-backlog", Cost, None, "tcp_syncookies=1"),
    ("debian", MILLION, "dropped-connects", Fine, None, "0 so far"),
    ("old", MILLION, "dropped-connects", Cost, None, "1,200 so far"),
    ("debian", MILLION, "dropped-packets", Fine, None, "none so far"),
    ("old", MILLION, "dropped-packets", Cost, None, "4,711 in 60 days; the queue holds 1,000 sysctl -w net.core.netdev_max_backlog=16384"),
    ("tuned", MILLION, "receive-queues", Fine, None, "a queue per CPU"),
    ("debian", MILLION, "receive-queues", Cost, None, "echo f > $q/rps_cpus"),
    ("container", MILLION, "receive-queues", Fine, None, "no network card"),
    ("tuned", MILLION, "interrupts", Fine, None, "spread"),
    ("old", MILLION, "interrupts", Cost, None, "100 % of the interrupts of 8 queues"),
    ("tuned", 10_000_000, "memory", Fine, Some(14_559_532), "64.6 GB"),
    ("debian", MILLION, "memory", Bound, Some(820_462), "more memory"),
    ("tuned", 10_000_000, "cgroup-memory", Fine, Some(13_498_550), "memory.max"),
    ("container", MILLION, "cgroup-memory", Bound, Some(100_218), "resources.limits.memory"),
    ("old", MILLION, "cgroup-memory", Bound, Some(892_973), "memory.limit_in_bytes"),
    ("this-machine", MILLION, "swap", Fine, None, "none"),
    ("tuned", MILLION, "swap", Fine, None, "not for this control group"),
    ("debian", MILLION, "swap", Cost, None, "MemorySwapMax=0"),
    ("tuned", MILLION, "huge-pages", Fine, None, "madvise"),
    ("debian", MILLION, "huge-pages", Cost, None, "echo madvise"),
    ("old", MILLION, "huge-pages", Cost, None, "compacts memory"),
    ("debian", MILLION, "memory-aborts", Fine, None, "0 so far"),
    ("old", MILLION, "memory-aborts", Cost, None, "7 so far"),
    ("tuned", MILLION, "cpu-at-rest", Fine, Some(35_398_230), "0.45 of 16.0 cores"),
    ("container", 2 * MILLION, "cpu-at-rest", Cost, Some(3_318_584), "ping_interval = \"31s\""),
    ("old", 10_000_000, "cpu-at-rest", Bound, Some(4_424_778), "quota 2.0 of 8 CPUs"),
    ("this-machine", MILLION, "clocksource", Fine, None, "tsc"),
    ("old", MILLION, "clocksource", Cost, None, "hpet"),
    ("tuned", MILLION, "cpu-frequency", Fine, None, "performance"),
    ("old", MILLION, "cpu-frequency", Cost, None, "powersave"),
    ("this-machine", MILLION, "kernel", Fine, None, "Linux 6.18"),
    ("old", MILLION, "kernel", Cost, None, "Linux 3.10"),
    ("container", MILLION, "container", Fine, None, "Docker container with 8 CPUs"),
    ("tuned", MILLION, "container", Fine, None, "none to be seen"),
];

/// Findings that inform and have nothing to fix.
const INFORM: &[&str] = &["port-range", "network-namespace", "sockets-in-use", "container"];

#[test]
fn findings_are_drawn_from_recorded_hosts() {
    let mut faults = Vec::new();
    for (host, wanted, id, verdict, connections, words) in ROWS {
        let report = examined(&fixture(host), *wanted);
        let Some(finding) = report.get(id) else { panic!("no finding {id}") };
        let said = format!("{} {}", finding.found, finding.fix.clone().unwrap_or_default());
        if (finding.verdict, finding.connections) != (*verdict, *connections) || !said.contains(words) {
            faults.push(format!(
                "{host} {wanted} {id}: expected {verdict:?} {connections:?} {words:?}: {finding:?}"
            ));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_finding_has_rows_for_both_outcomes() {
    let report = examined(&fixture("this-machine"), MILLION);
    for finding in &report.findings {
        let verdicts: Vec<_> = ROWS.iter().filter(|row| row.2 == finding.id).map(|row| row.3).collect();
        assert!(verdicts.contains(&Fine), "{}: no row where it is fine", finding.id);
        let is_bad = verdicts.iter().any(|verdict| matches!(verdict, Bound | Cost));
        assert!(is_bad || INFORM.contains(&finding.id), "{}: no row where it is not fine", finding.id);
    }
    let known: BTreeSet<_> = report.findings.iter().map(|finding| finding.id).collect();
    assert_eq!(known.len(), report.findings.len(), "two findings have one name");
}

#[test]
fn what_is_wrong_comes_with_a_fix_and_a_reason() {
    for host in ["this-machine", "namespace", "debian", "tuned", "container", "old"] {
        for finding in examined(&fixture(host), 10_000_000).findings {
            let needs_fix = matches!(finding.verdict, Bound | Cost);
            assert_eq!(finding.fix.is_some(), needs_fix, "{host}: {finding:?}");
            assert!(finding.why.len() > 40, "{host}: {finding:?}");
        }
    }
}

#[test]
fn a_tuned_host_is_enough_and_an_untuned_one_is_not() {
    let tuned = examined(&fixture("tuned"), 10_000_000);
    assert!(tuned.suffices() && tuned.findings.iter().all(|finding| finding.verdict == Fine), "{tuned}");
    let debian = examined(&fixture("debian"), MILLION);
    assert_eq!((debian.suffices(), debian.possible, debian.bounded_by), (false, 65_324, Some("conntrack")));
    let container = examined(&fixture("container"), MILLION);
    assert_eq!((container.possible, container.bounded_by), (100_218, Some("cgroup-memory")));
}

#[test]
fn what_cannot_be_read_is_said_and_not_fatal() {
    let folder = TempDir::new().unwrap();
    copy("this-machine", folder.path());
    let mut files = Vec::new();
    files_below(folder.path(), &mut files);
    for file in &files {
        // Root may read everything, so what cannot be read is a folder here.
        fs::remove_file(file).unwrap();
        fs::create_dir(file).unwrap();
    }
    let report = examined(folder.path(), MILLION);
    let unknown: BTreeSet<_> = report
        .findings
        .iter()
        .filter(|finding| finding.verdict == Unknown)
        .map(|finding| finding.id)
        .collect();
    for id in [
        "descriptor-table",
        "private-tables",
        "nr-open",
        "file-max",
        "epoll-watches",
        "threads",
        "conntrack",
        "tcp-mem",
        "socket-buffers",
        "ehash",
        "orphans",
        "somaxconn",
        "syn-backlog",
        "dropped-connects",
        "dropped-packets",
        "memory",
        "swap",
        "huge-pages",
        "memory-aborts",
        "sockets-in-use",
        "clocksource",
        "kernel",
    ] {
        assert!(unknown.contains(id), "{id} is not unknown: {report}");
    }
    assert!(report.findings.iter().all(|finding| !matches!(finding.verdict, Bound)), "{report}");
}

/// The fix of a finding on a host that was recorded, and then changed.
fn fix_after(host: &str, id: &str, changes: &[(&str, &str)]) -> String {
    let folder = TempDir::new().unwrap();
    copy(host, folder.path());
    for (path, text) in changes {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    examined(folder.path(), MILLION).get(id).unwrap().fix.clone().unwrap_or_default()
}

#[test]
fn fixes_fit_the_container() {
    const POD: (&str, &str) = ("var/run/secrets/kubernetes.io/serviceaccount/namespace", "");
    const PODMAN: (&str, &str) = ("run/.containerenv", "");
    const SHORT: (&str, &str) = ("proc/sys/net/core/somaxconn", "128\n");
    for (id, changes, words) in [
        ("descriptor-table", &[][..], "docker run --ulimit nofile=504832:504832"),
        ("descriptor-table", &[PODMAN], "podman run --ulimit"),
        ("descriptor-table", &[POD], "container runtime on the node"),
        ("somaxconn", &[SHORT], "docker run --sysctl net.core.somaxconn=65535"),
        ("somaxconn", &[SHORT, POD], "securityContext.sysctls"),
    ] {
        let fix = fix_after("this-machine", id, changes);
        assert!(fix.contains(words), "{id}: {fix}");
    }
    assert!(
        !fix_after("old", "descriptor-table", &[]).contains("run --"),
        "no container, no container's command"
    );
}

#[test]
fn what_was_raised_already_is_not_advised_again() {
    let raised =
        [("proc/sys/net/core/netdev_max_backlog", "16384\n"), ("proc/sys/net/core/somaxconn", "65535\n")];
    assert!(fix_after("old", "dropped-packets", &raised).contains("raised already"));
    assert!(fix_after("old", "dropped-connects", &raised).contains("add cores"));
    assert!(fix_after("old", "dropped-connects", &[]).contains("raise net.core.somaxconn"));
}

#[test]
fn a_proof_keeps_to_the_memory_of_its_control_group() {
    let room = |host| Room::of(&Reader::new(&fixture(host), None).facts()).unwrap();
    let group = room("container");
    assert!(group.whose.contains("/sys/fs/cgroup/memory.max"), "{group:?}");
    let error = verify(1_000_000, 2, Some(group)).unwrap_err().to_string();
    assert!(error.contains("is left to the control group (/sys/fs/cgroup/memory.max): try fewer"), "{error}");
    assert_eq!(room("this-machine").whose, "is available");
}

#[test]
fn an_empty_host_and_one_of_nonsense_are_survived() {
    let empty = TempDir::new().unwrap();
    assert!(!examined(empty.path(), MILLION).findings.is_empty());
    let nonsense = TempDir::new().unwrap();
    copy("tuned", nonsense.path());
    let mut files = Vec::new();
    files_below(nonsense.path(), &mut files);
    for text in [
        "",
        "\n",
        "-1",
        "18446744073709551615",
        "a b c\n:::\n[",
        "18446744073709551615 18446744073709551615 1\n",
    ] {
        for file in &files {
            fs::write(file, text).unwrap();
        }
        assert!(!examined(nonsense.path(), MILLION).to_string().is_empty());
    }
}
