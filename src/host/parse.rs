//! The formats of /proc and /sys (proc(5), sysfs(5)), each a pure function; none where a text is not in its format.

/// Which of the two numbers of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What holds now.
    Soft,
    /// What the soft one may be raised to.
    Hard,
}

/// Major and minor number of a kernel release such as `6.18.44-fc-v669`.
#[must_use]
pub fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim().split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Exactly `N` numbers between blanks.
#[must_use]
pub fn numbers<const N: usize>(text: &str) -> Option<[u64; N]> {
    let numbers: Option<Vec<u64>> = text.split_whitespace().map(|word| word.parse().ok()).collect();
    numbers?.try_into().ok()
}

/// The rest of the line that starts with `name`.
#[must_use]
pub fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let rest = line.strip_prefix(name)?;
        // `inactive_file` must not find `inactive_file_more`.
        (name.ends_with(':') || rest.starts_with(' ')).then_some(rest)
    })
}

/// A line `Name:  N kB` of `/proc/meminfo`, in bytes.
#[must_use]
pub fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let number: u64 = field(text, name)?.split_whitespace().next()?.parse().ok()?;
    number.checked_mul(1024)
}

/// A line of `/proc/self/limits`, where `unlimited` is the largest number.
#[must_use]
pub fn limit(text: &str, name: &str, side: Side) -> Option<u64> {
    let mut words = field(text, name)?.split_whitespace();
    let word = match side {
        Side::Soft => words.next()?,
        Side::Hard => words.nth(1)?,
    };
    if word == "unlimited" { Some(u64::MAX) } else { word.parse().ok() }
}

/// How many numbers a list such as `0-3,8` names.
#[must_use]
pub fn list_length(text: &str) -> Option<u64> {
    let mut count = 0_u64;
    for range in text.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        count = last.checked_sub(first)?.checked_add(1)?.checked_add(count)?;
    }
    Some(count)
}

/// Bits set in a mask of CPUs such as `ff,00000003`.
#[must_use]
pub fn mask_length(text: &str) -> u32 {
    text.chars().filter_map(|character| character.to_digit(16)).map(u32::count_ones).sum()
}

/// The word in brackets: `always [madvise] never`.
#[must_use]
pub fn chosen(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

/// The threads of `/proc/loadavg`: `0.00 0.01 0.05 1/192 4711`.
#[must_use]
pub fn threads_running(text: &str) -> Option<u64> {
    text.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()
}

/// A counter of `/proc/net/netstat`, where a line of names is followed by a line of numbers.
#[must_use]
pub fn netstat(text: &str, group: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.split(' ').next() == Some(group));
    let (names, values) = (lines.next()?, lines.next()?);
    let at = names.split(' ').position(|found| found == name)?;
    values.split(' ').nth(at)?.parse().ok()
}

/// TCP sockets in use of `/proc/net/sockstat`: `TCP: inuse 5 orphan 0 tw 0 alloc 6 mem 1`.
#[must_use]
pub fn sockets_in_use(text: &str) -> Option<u64> {
    let mut words = field(text, "TCP:")?.split_whitespace();
    words.find(|word| *word == "inuse")?;
    words.next()?.parse().ok()
}

/// Packets dropped by all CPUs: the second column of `/proc/net/softnet_stat`, in hexadecimal.
#[must_use]
pub fn softnet_drops(text: &str) -> Option<u64> {
    let drops = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok();
    text.lines().try_fold(0, |sum: u64, line| Some(sum.saturating_add(drops(line)?)))
}

/// Interrupts of a card's receive queues by CPU, busiest first. Drivers name them after the interface (`eth0-rx-0`,
/// `eth0-TxRx-3`), or, with virtio, after the bus device (`virtio2-input.0`).
#[must_use]
pub fn interrupts(text: &str, interface: &str, is_virtio: bool) -> Vec<u64> {
    let cpus = text.lines().next().map_or(0, |head| head.split_whitespace().count());
    let mut sums = vec![0_u64; cpus];
    for line in text.lines().skip(1) {
        let name = line.split_whitespace().next_back().unwrap_or_default();
        let of_card =
            name.strip_prefix(interface).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
        let of_virtio = is_virtio && name.starts_with("virtio") && name.contains("-input.");
        if !(of_card || of_virtio) || name.to_ascii_lowercase().contains("-tx-") {
            continue;
        }
        let counts = line.split_whitespace().skip(1).take(cpus);
        for (sum, count) in sums.iter_mut().zip(counts) {
            *sum = sum.saturating_add(count.parse::<u64>().unwrap_or(0));
        }
    }
    if sums.iter().all(|&sum| sum == 0) {
        return Vec::new();
    }
    sums.sort_unstable_by_key(|&sum| std::cmp::Reverse(sum));
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_read_and_nonsense_is_not() {
        assert_eq!(version("6.18.44-fc-v669\n"), Some((6, 18)));
        assert_eq!(version("six"), None);
        assert_eq!(numbers("1\t2 3\n"), Some([1, 2, 3]));
        assert_eq!(numbers::<3>("1 2"), None);
        assert_eq!([list_length("0-3,8\n"), list_length("7"), list_length("3-1")], [Some(5), Some(1), None]);
        assert_eq!([mask_length("ff,00000003\n"), mask_length("0\n")], [10, 0]);
        assert_eq!(chosen("always [madvise] never\n").as_deref(), Some("madvise"));
        assert_eq!(threads_running("0.00 0.01 0.05 1/192 4711\n"), Some(192));
        assert_eq!(kilobytes("MemTotal:  16 kB\n", "MemTotal:"), Some(16_384));
        assert_eq!(field("inactive_file_more 1\ninactive_file 2\n", "inactive_file"), Some(" 2"));
    }

    #[test]
    fn limits_have_two_sides() {
        let text = "Limit Soft Hard Units\nMax open files            1024   unlimited   files\n";
        assert_eq!(limit(text, "Max open files", Side::Soft), Some(1024));
        assert_eq!(limit(text, "Max open files", Side::Hard), Some(u64::MAX));
        assert_eq!(limit(text, "Max processes", Side::Soft), None);
    }

    #[test]
    fn counters_are_found_by_name() {
        let text = "TcpExt: A ListenOverflows\nTcpExt: 1 77\nIpExt: ListenOverflows\nIpExt: 5\n";
        assert_eq!(netstat(text, "TcpExt:", "ListenOverflows"), Some(77));
        assert_eq!(netstat(text, "TcpExt:", "B"), None);
        assert_eq!(softnet_drops("016e 00000001 2\n01b9 0000017e 9\n"), Some(0x17f));
        assert_eq!(softnet_drops("one two\n"), None);
        let sockets = "sockets: used 9\nTCP: inuse 5 orphan 0 tw 3 alloc 6 mem 1\nTCP6: inuse 7\n";
        assert_eq!([sockets_in_use(sockets), sockets_in_use("TCP: orphan 0\n")], [Some(5), None]);
    }

    #[test]
    fn interrupts_are_summed_by_card() {
        let text = "     CPU0  CPU1\n 1: 5 6 PCI eth0-rx-0\n 2: 7 0 PCI eth0-tx-0\n 3: 1 2 PCI virtio2-input.0\n\
                    4: 9 9 PCI eth01-rx-0\nNMI: 0 0 Non-maskable interrupts\n";
        assert_eq!(interrupts(text, "eth0", false), [6, 5]);
        assert_eq!(interrupts(text, "eth0", true), [8, 6]);
        assert_eq!(interrupts(text, "wlan0", false), [0; 0]);
    }
}
