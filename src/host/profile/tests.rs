//! The embedded files read, scaled, and held against themselves.

use super::*;

fn document(kind: Kind, text: &'static str) -> Document {
    Document { place: "sample", kind, text }
}

fn known(text: &str) -> Reading<String> {
    Reading::Known(text.to_owned())
}

const SCALE: Scale = Scale { connections: 1_000_000, memory: Some(16 << 30) };

fn only(text: &'static str) -> Setting {
    read(&document(Kind::Sysctl, text)).unwrap().settings().next().unwrap()
}

#[test]
fn every_profile_is_read() {
    for profile in Profile::ALL {
        let settings = settings(profile).unwrap();
        assert!(settings.len() >= 10, "{}", profile.name());
        for setting in settings {
            assert!(setting.why.contains("Source: "), "{}: no source", setting.name);
        }
    }
}

#[test]
fn files_say_for_their_own_connections_what_the_rules_say() {
    let mut scaled = 0;
    for document in Profile::ALL.into_iter().flat_map(Profile::documents) {
        let nominal = document.text.lines().find_map(|line| nominal_connections(line.strip_prefix("#: ")?));
        for setting in read(&document).unwrap().settings() {
            if setting.rule.each.is_empty() {
                continue;
            }
            let scale = Scale { connections: nominal.unwrap(), memory: None };
            assert_eq!(
                setting.wanted(&Reading::Absent, scale),
                setting.nominal,
                "{}: {}",
                document.place,
                setting.name
            );
            scaled += 1;
        }
    }
    assert!(scaled > 10);
}

#[test]
fn least_never_lowers_and_most_never_raises() {
    let least = only("#: least; each 1; plus 5\na.b = 1\n");
    assert_eq!(least.path, "proc/sys/a/b");
    assert_eq!(least.wanted(&known("10\n"), SCALE), "1000005");
    assert_eq!(least.wanted(&known("2000000\n"), SCALE), "2000000");
    let most = only("#: most\na.b = 4096 16384 1048576\n");
    assert_eq!(most.wanted(&known("4096\t16384\t4194304\n"), SCALE), "4096 16384 1048576");
    assert_eq!(most.wanted(&known("4096\t16384\t65536\n"), SCALE), "4096 16384 65536");
    let exact = only("#: exact\na.b = 0\n");
    assert_eq!(exact.wanted(&known("1\n"), SCALE), "0");
}

#[test]
fn a_share_of_the_memory_keeps_the_proportions() {
    let pages = only("#: least; each 0.5 0.75 1; memory 10% pages\na.b = 1 2 3\n");
    let small = Scale { connections: 1_000_000, memory: Some(4096 * 1000) };
    assert_eq!(pages.wanted(&Reading::Absent, small), "50 75 100");
    assert_eq!(pages.wanted(&Reading::Absent, Scale { memory: None, ..small }), "500000 750000 1000000");
}

#[test]
fn mistakes_are_found_with_their_line() {
    let fault = |kind, text| read(&document(kind, text)).err().unwrap();
    let undirected = fault(Kind::Sysctl, "# why\na = 1\n");
    assert_eq!((undirected.line, undirected.fault), (2, ProfileFault::Undirected));
    assert!(matches!(fault(Kind::Sysctl, "#: some\na = 1\n").fault, ProfileFault::Directive(_)));
    assert!(matches!(fault(Kind::Sysctl, "#: least; every 1\na = 1\n").fault, ProfileFault::Directive(_)));
    assert_eq!(fault(Kind::Sysctl, "#: least\na\n").fault, ProfileFault::Valueless);
    assert_eq!(fault(Kind::Sysctl, "#: least; each 1 2\na = 1\n").fault, ProfileFault::Count);
}

#[test]
fn words_stay_words() {
    let parsed = read(&document(Kind::Tmpfiles, "#: exact\nw /sys/a - - - - madvise\n")).unwrap();
    let setting = parsed.settings().next().unwrap();
    assert_eq!((setting.name.as_str(), setting.path.as_str()), ("/sys/a", "sys/a"));
    assert_eq!(setting.wanted(&known("always"), SCALE), "madvise");
}

#[test]
fn rendered_files_hold_scaled_values_and_no_directives() {
    let unit =
        document(Kind::Unit, "#: connections 10\n# why\n#: least; each 1.1\nLimitNOFILE=11\nNice=-10\n");
    let text = render(&unit, SCALE, |_| Reading::Absent).unwrap();
    assert_eq!(
        text,
        "# Written by `millpond tune` for 1,000,000 connections.\n# why\nLimitNOFILE=1100000\nNice=-10\n"
    );
    let limits = document(Kind::Limits, "#: least; each 2\nm  hard  nofile  3\n");
    assert_eq!(render(&limits, SCALE, |_| Reading::Absent).unwrap(), "m  hard  nofile  2000000\n");
    let sysctl = document(Kind::Sysctl, "#: least\na.b = 5\n");
    assert_eq!(render(&sysctl, SCALE, |_| known("9")).unwrap(), "a.b = 9\n");
}
