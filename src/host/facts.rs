//! What is known of a host. A value that could not be read is a value too: absent here, or not for this user.

use super::cgroup::CgroupFacts;

/// One value as it was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reading<T> {
    /// It stands there.
    Known(T),
    /// The kernel does not have it here: another version, a module that is not loaded, a network namespace.
    #[default]
    Absent,
    /// It is there and this user may not read it, or it is not what it should be.
    Unreadable,
}

impl<T> Reading<T> {
    /// The value, if there is one.
    pub fn known(self) -> Option<T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Absent | Self::Unreadable => None,
        }
    }

    /// The value, read further; what makes no sense is unreadable.
    pub fn then<U>(self, read: impl FnOnce(T) -> Option<U>) -> Reading<U> {
        match self {
            Self::Known(value) => read(value).map_or(Reading::Unreadable, Reading::Known),
            Self::Absent => Reading::Absent,
            Self::Unreadable => Reading::Unreadable,
        }
    }
}

/// Everything that `doctor` judges.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostFacts {
    /// Major and minor version of the kernel.
    pub kernel: Reading<(u32, u32)>,
    /// CPUs that this process may run on.
    pub cpus: u64,
    /// Open files.
    pub files: FileFacts,
    /// Threads.
    pub tasks: TaskFacts,
    /// TCP and its queues.
    pub net: NetFacts,
    /// Connection tracking.
    pub conntrack: ConntrackFacts,
    /// What the kernel had to drop since it booted.
    pub drops: DropFacts,
    /// Memory.
    pub memory: MemoryFacts,
    /// Limits of the control group and those above it.
    pub cgroup: CgroupFacts,
    /// Network cards; virtual devices are left out.
    pub devices: Vec<Device>,
    /// Seconds since the host was started.
    pub uptime: Reading<u64>,
    /// Where the kernel takes the time from, such as `tsc`.
    pub clocksource: Reading<String>,
    /// Frequency governor of the first CPU, such as `performance`.
    pub governor: Reading<String>,
    /// The kind of container this is, if it is one.
    pub container: Option<&'static str>,
}

/// Limits on descriptors and files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileFacts {
    /// `RLIMIT_NOFILE`, soft: descriptors per table.
    pub soft: Reading<u64>,
    /// `RLIMIT_NOFILE`, hard: what the soft one may be raised to.
    pub hard: Reading<u64>,
    /// `fs.nr_open`: what the hard one may be raised to.
    pub nr_open: Reading<u64>,
    /// `fs.file-max`: open files of the host.
    pub file_max: Reading<u64>,
    /// Files open now.
    pub open: Reading<u64>,
    /// `fs.epoll.max_user_watches`: sockets polled, per user.
    pub epoll_watches: Reading<u64>,
    /// Whether a thread may have a descriptor table of its own (`unshare(CLONE_FILES)`), as tried.
    pub private_tables: Reading<bool>,
}

/// Limits on threads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskFacts {
    /// `RLIMIT_NPROC`, soft: threads of the user.
    pub per_user: Reading<u64>,
    /// `kernel.pid_max`.
    pub pid_max: Reading<u64>,
    /// `kernel.threads-max`.
    pub threads_max: Reading<u64>,
    /// Threads on the host now.
    pub running: Reading<u64>,
}

/// TCP settings of this network namespace; some exist in the host's only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetFacts {
    /// `net.core.somaxconn`
    pub somaxconn: Reading<u64>,
    /// `net.ipv4.tcp_max_syn_backlog`
    pub syn_backlog: Reading<u64>,
    /// `net.ipv4.tcp_syncookies`
    pub syncookies: Reading<u64>,
    /// `net.ipv4.tcp_mem` in pages of 4 KiB: low, pressure, max. The host's only.
    pub tcp_mem: Reading<[u64; 3]>,
    /// `net.ipv4.tcp_rmem` in bytes: least, first, largest.
    pub tcp_rmem: Reading<[u64; 3]>,
    /// `net.ipv4.tcp_wmem` in bytes: least, first, largest.
    pub tcp_wmem: Reading<[u64; 3]>,
    /// `net.ipv4.tcp_ehash_entries`: buckets of the table of connections. Negative: those of the host.
    pub ehash: Reading<i64>,
    /// `net.ipv4.tcp_max_orphans`. The host's only.
    pub orphans: Reading<u64>,
    /// `net.ipv4.ip_local_port_range`
    pub ports: Reading<[u64; 2]>,
    /// `net.core.rps_sock_flow_entries`. The host's only.
    pub rfs_entries: Reading<u64>,
    /// `net.core.netdev_max_backlog`. The host's only.
    pub device_backlog: Reading<u64>,
    /// TCP sockets in use now, of this namespace.
    pub in_use: Reading<u64>,
}

impl NetFacts {
    /// Whether this is a network namespace beside the host's: those have no `tcp_mem`, or share the host's table.
    #[must_use]
    pub fn is_namespace(&self) -> bool {
        let shares_table = matches!(self.ehash, Reading::Known(entries) if entries < 0);
        shares_table || (self.tcp_mem == Reading::Absent && self.somaxconn != Reading::Absent)
    }
}

/// netfilter's table of connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConntrackFacts {
    /// `nf_conntrack_max`; absent where the module is not loaded.
    pub max: Reading<u64>,
    /// Entries now, of this namespace.
    pub count: Reading<u64>,
    /// `nf_conntrack_buckets`
    pub buckets: Reading<u64>,
}

/// Counters of what went wrong already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DropFacts {
    /// Connects dropped because an accept queue was full (`ListenOverflows`).
    pub listen_overflows: Reading<u64>,
    /// Connections reset for want of TCP memory (`TCPAbortOnMemory`).
    pub memory_aborts: Reading<u64>,
    /// Packets dropped before TCP saw them (`softnet_stat`, second column).
    pub backlog_drops: Reading<u64>,
}

/// Memory of the host in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryFacts {
    /// All of it.
    pub total: Reading<u64>,
    /// What programs can still have without swapping.
    pub available: Reading<u64>,
    /// Swap space.
    pub swap: Reading<u64>,
    /// `vm.swappiness`
    pub swappiness: Reading<u64>,
    /// Transparent huge pages: `always`, `madvise` or `never`.
    pub huge_pages: Reading<String>,
    /// Their compaction: `always`, `defer`, `defer+madvise`, `madvise` or `never`.
    pub huge_page_defrag: Reading<String>,
}

/// A network card.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Such as `eth0`.
    pub name: String,
    /// Its receive queues.
    pub queues: Vec<Queue>,
    /// Interrupts of its receive queues by CPU since boot, busiest first; empty where they cannot be told apart.
    pub interrupts: Vec<u64>,
}

/// A receive queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// CPUs that RPS spreads to; 0: off.
    pub rps_cpus: u32,
    /// `rps_flow_cnt`: flows that RFS follows; 0: off.
    pub rfs_flows: u64,
}
