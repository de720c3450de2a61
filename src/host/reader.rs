//! Reads a host below a root folder: `/`, or a folder with recorded files of `/proc` and `/sys` in the same places.
//!
//! Invariants: nothing is written; nothing that cannot be read ends the reading; every file that was read is noted, so
//! that [`Reader::record`] can copy exactly what the findings were drawn from.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use super::cgroup::{CgroupFacts, Limit, Membership, ancestry, parse_cpu_max, parse_limit, tighter};
use super::facts::{
    ConntrackFacts, Device, DropFacts, FileFacts, HostFacts, MemoryFacts, NetFacts, Queue, Reading, TaskFacts,
};
use super::parse;
use crate::net::tables::take_private;

/// Where a recording keeps what is not in a file: whether a thread could have a descriptor table of its own.
const PRIVATE_TABLES: &str = "probe/private-tables";

/// Marks of containers below the root, and what they mean.
const CONTAINER_MARKS: &[(&str, &str)] = &[
    ("var/run/secrets/kubernetes.io/serviceaccount/namespace", "Kubernetes pod"),
    ("run/.containerenv", "Podman container"),
    (".dockerenv", "Docker container"),
    ("run/systemd/container", "systemd container"),
];

/// Reads one host.
#[derive(Debug)]
pub struct Reader {
    root: PathBuf,
    /// Folder below `/proc` whose limits and groups count.
    process: String,
    seen: RefCell<BTreeMap<String, String>>,
}

impl Reader {
    /// The host below `root`, as the process `pid` sees it, or as this process does.
    #[must_use]
    pub fn new(root: &Path, pid: Option<u32>) -> Self {
        let process = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
        Self { root: root.to_owned(), process, seen: RefCell::default() }
    }

    /// Everything.
    #[must_use]
    pub fn facts(&self) -> HostFacts {
        HostFacts {
            kernel: self.text("proc/sys/kernel/osrelease").then(|text| parse::version(&text)),
            cpus: self.cpus(),
            files: self.files(),
            tasks: self.tasks(),
            net: self.net(),
            conntrack: ConntrackFacts {
                max: self.sysctl("net/netfilter/nf_conntrack_max"),
                count: self.sysctl("net/netfilter/nf_conntrack_count"),
                buckets: self.sysctl("net/netfilter/nf_conntrack_buckets"),
            },
            drops: self.drops(),
            memory: self.memory(),
            cgroup: self.cgroup(),
            devices: self.devices(),
            uptime: self.word("proc/uptime").then(|word| Some(word.parse::<f64>().ok()? as u64)),
            clocksource: self.word("sys/devices/system/clocksource/clocksource0/current_clocksource"),
            governor: self.word("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            container: self.container(),
        }
    }

    /// The current value of a file below the root, as it is.
    pub fn text(&self, path: &str) -> Reading<String> {
        match fs::read_to_string(self.root.join(path)) {
            Ok(text) => {
                self.note(path, &text);
                Reading::Known(text)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Reading::Absent,
            Err(_) => Reading::Unreadable,
        }
    }

    /// Copies every file that was read into `folder`, which can be the root of a reader then.
    ///
    /// # Errors
    /// Those of making folders and writing files there.
    pub fn record(&self, folder: &Path) -> io::Result<usize> {
        let seen = self.seen.borrow();
        for (path, text) in seen.iter() {
            let target = folder.join(path);
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(target, text)?;
        }
        Ok(seen.len())
    }

    fn note(&self, path: &str, text: &str) {
        let place = path.replacen(&format!("proc/{}/", self.process), "proc/self/", 1);
        self.seen.borrow_mut().insert(place, text.to_owned());
    }

    fn process_text(&self, file: &str) -> Reading<String> {
        self.text(&format!("proc/{}/{file}", self.process))
    }

    fn word(&self, path: &str) -> Reading<String> {
        self.text(path).then(|text| text.split_whitespace().next().map(str::to_owned))
    }

    fn number(&self, path: &str) -> Reading<u64> {
        self.text(path).then(|text| text.trim().parse().ok())
    }

    fn sysctl(&self, name: &str) -> Reading<u64> {
        self.number(&format!("proc/sys/{name}"))
    }

    fn sysctls<const N: usize>(&self, name: &str) -> Reading<[u64; N]> {
        self.text(&format!("proc/sys/{name}")).then(|text| parse::numbers(&text))
    }

    /// CPUs of the process's affinity, which includes what its control group allows; else those that are on.
    fn cpus(&self) -> u64 {
        let allowed = self
            .process_text("status")
            .then(|text| parse::field(&text, "Cpus_allowed_list:").and_then(parse::list_length));
        let online = self.text("sys/devices/system/cpu/online").then(|text| parse::list_length(&text));
        allowed.known().or(online.known()).unwrap_or(1).max(1)
    }

    fn files(&self) -> FileFacts {
        let limits = self.process_text("limits");
        let of = |side| limits.clone().then(|text| parse::limit(&text, "Max open files", side));
        FileFacts {
            soft: of(parse::Side::Soft),
            hard: of(parse::Side::Hard),
            nr_open: self.sysctl("fs/nr_open"),
            file_max: self.sysctl("fs/file-max"),
            open: self.sysctls::<3>("fs/file-nr").then(|[open, ..]| Some(open)),
            epoll_watches: self.sysctl("fs/epoll/max_user_watches"),
            private_tables: self.private_tables(),
        }
    }

    /// Tried on a thread that ends at once; on a recorded host, what was recorded.
    fn private_tables(&self) -> Reading<bool> {
        if self.root != Path::new("/") {
            return self.word(PRIVATE_TABLES).then(|word| Some(word == "yes"));
        }
        let Ok(may) = thread::spawn(|| take_private().is_ok()).join() else { return Reading::Unreadable };
        self.note(PRIVATE_TABLES, if may { "yes\n" } else { "no\n" });
        Reading::Known(may)
    }

    fn tasks(&self) -> TaskFacts {
        let limits = self.process_text("limits");
        TaskFacts {
            per_user: limits.then(|text| parse::limit(&text, "Max processes", parse::Side::Soft)),
            pid_max: self.sysctl("kernel/pid_max"),
            threads_max: self.sysctl("kernel/threads-max"),
            running: self.text("proc/loadavg").then(|text| parse::threads_running(&text)),
        }
    }

    fn net(&self) -> NetFacts {
        NetFacts {
            somaxconn: self.sysctl("net/core/somaxconn"),
            syn_backlog: self.sysctl("net/ipv4/tcp_max_syn_backlog"),
            syncookies: self.sysctl("net/ipv4/tcp_syncookies"),
            tcp_mem: self.sysctls("net/ipv4/tcp_mem"),
            tcp_rmem: self.sysctls("net/ipv4/tcp_rmem"),
            tcp_wmem: self.sysctls("net/ipv4/tcp_wmem"),
            ehash: self.text("proc/sys/net/ipv4/tcp_ehash_entries").then(|text| text.trim().parse().ok()),
            orphans: self.sysctl("net/ipv4/tcp_max_orphans"),
            ports: self.sysctls("net/ipv4/ip_local_port_range"),
            rfs_entries: self.sysctl("net/core/rps_sock_flow_entries"),
            device_backlog: self.sysctl("net/core/netdev_max_backlog"),
            in_use: self.text("proc/net/sockstat").then(|text| parse::sockets_in_use(&text)),
        }
    }

    fn drops(&self) -> DropFacts {
        let netstat = self.text("proc/net/netstat");
        let counter = |name| netstat.clone().then(|text| parse::netstat(&text, "TcpExt:", name));
        DropFacts {
            listen_overflows: counter("ListenOverflows"),
            memory_aborts: counter("TCPAbortOnMemory"),
            backlog_drops: self.text("proc/net/softnet_stat").then(|text| parse::softnet_drops(&text)),
        }
    }

    fn memory(&self) -> MemoryFacts {
        let meminfo = self.text("proc/meminfo");
        let of = |name| meminfo.clone().then(|text| parse::kilobytes(&text, name));
        let pages = "sys/kernel/mm/transparent_hugepage";
        MemoryFacts {
            total: of("MemTotal:"),
            available: of("MemAvailable:"),
            swap: of("SwapTotal:"),
            swappiness: self.sysctl("vm/swappiness"),
            huge_pages: self.text(&format!("{pages}/enabled")).then(|text| parse::chosen(&text)),
            huge_page_defrag: self.text(&format!("{pages}/defrag")).then(|text| parse::chosen(&text)),
        }
    }

    /// The control group alone.
    #[must_use]
    pub fn cgroup(&self) -> CgroupFacts {
        let Reading::Known(text) = self.process_text("cgroup") else { return CgroupFacts::default() };
        let member = Membership::parse(&text);
        match (self.text("sys/fs/cgroup/cgroup.controllers"), &member.unified) {
            (Reading::Known(_), Some(path)) => self.unified_group(path),
            _ if member.old.is_empty() => CgroupFacts::default(),
            _ => self.old_groups(&member),
        }
    }

    fn unified_group(&self, path: &str) -> CgroupFacts {
        let mut facts = CgroupFacts { version: 2, may_swap: true, ..CgroupFacts::default() };
        for group in ancestry(path) {
            let folder = format!("sys/fs/cgroup{group}");
            let memory = self.limit(&folder, "memory.max", "memory.current");
            let memory = memory.map(|limit| self.without_cache(&folder, "inactive_file", limit));
            facts.memory = tighter(facts.memory, memory);
            facts.tasks = tighter(facts.tasks, self.limit(&folder, "pids.max", "pids.current"));
            let cpus = self.text(&format!("{folder}/cpu.max")).then(|text| parse_cpu_max(&text)).known();
            facts.cpus = less(facts.cpus, cpus);
            if self.number(&format!("{folder}/memory.swap.max")) == Reading::Known(0) {
                facts.may_swap = false;
            }
        }
        facts
    }

    fn old_groups(&self, member: &Membership) -> CgroupFacts {
        let mut facts = CgroupFacts { version: 1, may_swap: true, ..CgroupFacts::default() };
        let folders = |controller: &str| {
            let groups = ancestry(member.of(controller).unwrap_or_default());
            let mount = format!("sys/fs/cgroup/{controller}");
            groups.into_iter().map(move |group| format!("{mount}{group}")).collect::<Vec<_>>()
        };
        for folder in folders("memory") {
            let memory = self.limit(&folder, "memory.limit_in_bytes", "memory.usage_in_bytes");
            let memory = memory.map(|limit| self.without_cache(&folder, "total_inactive_file", limit));
            facts.memory = tighter(facts.memory, memory);
        }
        for folder in folders("pids") {
            facts.tasks = tighter(facts.tasks, self.limit(&folder, "pids.max", "pids.current"));
        }
        for folder in folders("cpu") {
            let of = |name| self.text(&format!("{folder}/{name}")).known().unwrap_or_default();
            let both = format!("{} {}", of("cpu.cfs_quota_us").trim(), of("cpu.cfs_period_us").trim());
            facts.cpus = less(facts.cpus, parse_cpu_max(&both));
        }
        facts
    }

    fn limit(&self, folder: &str, limit: &str, used: &str) -> Option<Limit> {
        let file = format!("{folder}/{limit}");
        let limit = self.text(&file).known().and_then(|text| parse_limit(&text))?;
        let used = self.number(&format!("{folder}/{used}")).known().unwrap_or(0);
        Some(Limit { limit, used, file: format!("/{file}") })
    }

    /// Page cache counts as used, and is given up before anything fails.
    fn without_cache(&self, folder: &str, field: &str, limit: Limit) -> Limit {
        let stat = self.text(&format!("{folder}/memory.stat"));
        let cache = stat.then(|text| parse::field(&text, field)?.trim().parse().ok()).known().unwrap_or(0);
        Limit { used: limit.used.saturating_sub(cache), ..limit }
    }

    /// Network cards: devices that are backed by hardware, which virtual ones are not.
    fn devices(&self) -> Vec<Device> {
        let interrupts = self.text("proc/interrupts").known().unwrap_or_default();
        let names = self.entries("sys/class/net");
        let cards = names.into_iter().filter(|name| {
            matches!(self.text(&format!("sys/class/net/{name}/device/uevent")), Reading::Known(_))
        });
        cards.map(|name| self.device(name, &interrupts)).collect()
    }

    fn device(&self, name: String, interrupts: &str) -> Device {
        let folder = format!("sys/class/net/{name}/queues");
        let queues = self.entries(&folder).into_iter().filter(|queue| queue.starts_with("rx-"));
        let queues = queues.map(|queue| {
            let mask = self.text(&format!("{folder}/{queue}/rps_cpus"));
            let flows = self.number(&format!("{folder}/{queue}/rps_flow_cnt"));
            Queue {
                rps_cpus: mask.then(|text| Some(parse::mask_length(&text))).known().unwrap_or(0),
                rfs_flows: flows.known().unwrap_or(0),
            }
        });
        let queues = queues.collect();
        // Interrupts of virtio carry the name of the bus device, not of the interface.
        let uevent = self.text(&format!("sys/class/net/{name}/device/uevent")).known().unwrap_or_default();
        let virtio = uevent.contains("DRIVER=virtio_net");
        let interrupts = parse::interrupts(interrupts, &name, virtio);
        Device { name, queues, interrupts }
    }

    fn entries(&self, folder: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.root.join(folder)) else { return Vec::new() };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    fn container(&self) -> Option<&'static str> {
        let marked = CONTAINER_MARKS.iter().find(|(path, _)| {
            let exists = self.root.join(path).exists();
            if exists {
                self.note(path, "");
            }
            exists
        });
        marked.map(|(_, kind)| *kind)
    }
}

fn less(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
