//! Limits of control groups, version 2 and 1: the tightest of the process's own group and all above it.

/// One limit that holds here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What the group may use.
    pub limit: u64,
    /// What it uses now, page cache that could be dropped not included.
    pub used: u64,
    /// The file that says so.
    pub file: String,
}

impl Limit {
    /// What is left.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }
}

/// The tightest limits; none: not limited.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CgroupFacts {
    /// 2, 1, or 0 where there are no control groups to be seen.
    pub version: u8,
    /// Bytes, socket buffers and kernel memory of sockets included.
    pub memory: Option<Limit>,
    /// Threads.
    pub tasks: Option<Limit>,
    /// CPUs' worth of time in each period.
    pub cpus: Option<f64>,
    /// Whether this group may swap: false where `memory.swap.max` is 0.
    pub may_swap: bool,
}

/// Where the process's group is, from `/proc/self/cgroup`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Path in the unified hierarchy (`0::/path`).
    pub unified: Option<String>,
    /// Controller and path in the old hierarchies.
    pub old: Vec<(String, String)>,
}

impl Membership {
    /// Reads lines `ID:CONTROLLERS:PATH` (cgroups(7)).
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            let mut fields = line.splitn(3, ':');
            let (Some(id), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            if id == "0" && controllers.is_empty() {
                found.unified = Some(path.to_owned());
            }
            let named = controllers.split(',').filter(|name| !name.is_empty());
            found.old.extend(named.map(|name| (name.to_owned(), path.to_owned())));
        }
        found
    }

    /// Path in the old hierarchy of `controller`.
    #[must_use]
    pub fn of(&self, controller: &str) -> Option<&str> {
        self.old.iter().find(|(name, _)| name == controller).map(|(_, path)| path.as_str())
    }
}

/// The group and all above it, innermost first, without a slash at the end: `/a/b` gives `/a/b`, `/a` and the root, ``.
#[must_use]
pub fn ancestry(path: &str) -> Vec<String> {
    let mut groups = vec![path.trim_end_matches('/').to_owned()];
    while let Some(at) = groups.last().and_then(|group| group.rfind('/')) {
        let above = groups.last().map(|group| group[..at].to_owned()).unwrap_or_default();
        groups.push(above);
    }
    groups
}

/// A limit as the files spell it: a number, `max` (version 2), or a number so large that it is none (version 1).
#[must_use]
pub fn parse_limit(text: &str) -> Option<u64> {
    // Version 1 writes the largest multiple of a page, just below 2^63.
    text.trim().parse().ok().filter(|&limit| limit < 1 << 60)
}

/// `cpu.max`: `QUOTA PERIOD` in microseconds, or `max PERIOD`.
#[must_use]
pub fn parse_cpu_max(text: &str) -> Option<f64> {
    let mut fields = text.split_whitespace().map(str::parse::<f64>);
    let (quota, period) = (fields.next()?.ok()?, fields.next()?.ok()?);
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

/// The tighter of two.
#[must_use]
pub fn tighter(one: Option<Limit>, other: Option<Limit>) -> Option<Limit> {
    match (one, other) {
        (Some(one), Some(other)) => Some(if other.left() < one.left() { other } else { one }),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memberships_of_both_versions_are_read() {
        let both = Membership::parse("4:memory:/a/b\n3:cpu,cpuacct:/c\n0::/\n");
        assert_eq!(both.unified.as_deref(), Some("/"));
        assert_eq!(
            (both.of("memory"), both.of("cpuacct"), both.of("pids")),
            (Some("/a/b"), Some("/c"), None)
        );
        assert_eq!(Membership::parse("nonsense"), Membership::default());
    }

    #[test]
    fn all_groups_above_count() {
        assert_eq!(ancestry("/a/b"), ["/a/b", "/a", ""]);
        assert_eq!(ancestry("/"), [""]);
    }

    #[test]
    fn what_is_no_limit_is_none() {
        assert_eq!(parse_limit("max\n"), None);
        assert_eq!(parse_limit("9223372036854771712\n"), None);
        assert_eq!(parse_limit("1073741824\n"), Some(1 << 30));
        assert_eq!(parse_cpu_max("150000 100000\n"), Some(1.5));
        assert_eq!(parse_cpu_max("max 100000\n"), None);
        assert_eq!(parse_cpu_max("-1 100000"), None);
    }

    #[test]
    fn the_tighter_limit_is_the_one_with_less_left() {
        let limit = |limit, used| Some(Limit { limit, used, file: String::new() });
        assert_eq!(tighter(limit(100, 90), limit(50, 0)), limit(100, 90));
        assert_eq!(tighter(None, limit(5, 0)), limit(5, 0));
    }
}
