//! The architecture as a test (docs/ARCHITECTURE.md): which layer may use which, what the lower layers may not name,
//! and where `unsafe` may stand. Each rule stands in a table with its reason; each is tried on samples that break it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

use std::collections::BTreeSet;

use proc_macro2::{TokenStream, TokenTree};

#[path = "support/names.rs"]
mod names;
#[path = "support/source.rs"]
mod source;

/// A module at the top of the library and the modules that it may use.
struct Layer {
    name: &'static str,
    may_use: &'static [&'static str],
}

/// `base ← wire ← protocol ← hub ← {net, control, backbone} ← app ← main`; `log` stands on `base` alone.
/// `limits` holds numbers for everybody and uses nobody.
const LAYERS: &[Layer] = &[
    Layer { name: "limits", may_use: &[] },
    Layer { name: "base", may_use: &["limits"] },
    Layer { name: "wire", may_use: &["limits", "base"] },
    Layer { name: "protocol", may_use: &["limits", "base", "wire"] },
    Layer { name: "hub", may_use: &["limits", "base", "wire", "protocol"] },
    Layer { name: "log", may_use: &["limits", "base"] },
    // The one thread between shards and log. It speaks the hub's mail, so it stands above the hub, and owns the log's doors,
    // so that a page fault on the map never stalls a shard.
    Layer { name: "store", may_use: &["limits", "base", "protocol", "hub", "log"] },
    Layer { name: "net", may_use: &["limits", "base", "wire", "protocol", "hub"] },
    Layer { name: "control", may_use: &["limits", "base", "wire", "protocol", "hub"] },
    Layer { name: "backbone", may_use: &["limits", "base", "wire", "protocol", "hub"] },
    // What an operator asks about a host before and beside the gateway: it shares ids and descriptor tables with the data
    // plane, so that its numbers are the gateway's, and nothing of the gateway depends on it.
    Layer { name: "host", may_use: &["limits", "base", "net"] },
    Layer {
        name: "config",
        may_use: &["limits", "base", "wire", "protocol", "hub", "log", "store", "net", "control", "backbone"],
    },
    Layer {
        name: "app",
        may_use: &[
            "limits", "base", "wire", "protocol", "hub", "log", "store", "net", "control", "backbone",
            "config",
        ],
    },
    Layer {
        name: "cli",
        may_use: &[
            "limits", "base", "wire", "protocol", "hub", "log", "store", "net", "control", "backbone",
            "host", "config", "app",
        ],
    },
];

/// Layers that run in virtual time in tests: bytes, ticks and mail come in, writes and mail go out.
const PURE: &[&str] = &["limits", "base", "wire", "protocol", "hub"];
/// Layers whose code runs on a shard's thread.
const DATA_PLANE: &[&str] = &["limits", "base", "wire", "protocol", "hub", "net"];
/// Everything in the library but the outermost shells.
const BELOW_APP: &[&str] =
    &["limits", "base", "wire", "protocol", "hub", "log", "store", "net", "control", "backbone", "host"];
/// Everything but `net`.
const NOT_NET: &[&str] = &[
    "limits", "base", "wire", "protocol", "hub", "log", "store", "control", "backbone", "host", "config",
    "app", "cli",
];

/// A name that some layers may not mention; it covers everything below it.
struct Ban {
    path: &'static str,
    layers: &'static [&'static str],
    /// Names below `path` that are harmless.
    except: &'static [&'static str],
    reason: &'static str,
}

const fn ban(path: &'static str, layers: &'static [&'static str], reason: &'static str) -> Ban {
    Ban { path, layers, except: &[], reason }
}

const BANS: &[Ban] = &[
    ban("std::time::Instant", PURE, "time comes in as a tick, so that a shard runs in virtual time"),
    ban("std::time::SystemTime", PURE, "time comes in as a `Now`, so that a shard runs in virtual time"),
    ban("std::time::UNIX_EPOCH", PURE, "time comes in as a `Now`, so that a shard runs in virtual time"),
    Ban {
        path: "std::net",
        layers: PURE,
        except: &[
            "IpAddr",
            "Ipv4Addr",
            "Ipv6Addr",
            "SocketAddr",
            "SocketAddrV4",
            "SocketAddrV6",
            "AddrParseError",
        ],
        reason: "sockets belong to net; addresses are only values",
    },
    ban("std::os", PURE, "descriptors belong to net"),
    ban("std::fs", PURE, "files belong to the shells and the log"),
    Ban {
        path: "std::fs",
        layers: &["net"],
        // Owns a descriptor that is no file on a disk: an eventfd, the reserve for accept.
        except: &["File"],
        reason: "a file can block, and a shard never blocks",
    },
    ban("std::thread", PURE, "threads belong to app and the shells"),
    ban("std::process", DATA_PLANE, "ending the process is the business of app and main"),
    ban("std::env", BELOW_APP, "settings come in already valid from config"),
    ban("std::io::stdin", DATA_PLANE, "a terminal can block"),
    ban("std::io::stdout", DATA_PLANE, "a terminal can block"),
    ban("std::io::stderr", DATA_PLANE, "a terminal can block"),
    ban("println", BELOW_APP, "output goes through tracing, which never blocks a shard"),
    ban("eprintln", BELOW_APP, "output goes through tracing, which never blocks a shard"),
    ban("std::sync::Mutex", DATA_PLANE, "the data plane takes no lock: it talks through bounded queues"),
    ban("std::sync::RwLock", DATA_PLANE, "the data plane takes no lock: it talks through bounded queues"),
    ban("std::sync::Condvar", DATA_PLANE, "a shard waits in its poller only"),
    ban("std::sync::Barrier", DATA_PLANE, "a shard waits in its poller only"),
    ban(
        "std::sync::mpsc",
        DATA_PLANE,
        "queues between shards are the mesh's: bounded, with one coalesced wake",
    ),
    ban("std::hash::RandomState", PURE, "randomness comes in as a seeded generator"),
    ban("std::collections::hash_map::RandomState", PURE, "randomness comes in as a seeded generator"),
    ban("rand", PURE, "randomness comes in as a seeded generator"),
    ban("getrandom", PURE, "randomness comes in as a seeded generator"),
    ban("fastrand", PURE, "randomness comes in as a seeded generator"),
    ban("aws_lc_rs::rand", PURE, "randomness comes in as a seeded generator"),
    ban("mio", NOT_NET, "only the shell of a shard polls"),
    ban("socket2", PURE, "sockets belong to the shells"),
    ban("libc", PURE, "system calls belong to the shells"),
    ban("rustix", PURE, "system calls belong to the shells"),
    ban("memmap2", DATA_PLANE, "the one memory map is the log's, and a page fault on it blocks"),
    ban(
        "memmap2",
        &["store", "control", "backbone", "host", "config", "app", "cli"],
        "the one memory map is the log's",
    ),
    ban("tokio", DATA_PLANE, "tokio meets the shards at the queues of app only"),
    ban("tokio", &["host"], "what an operator asks once is read and written in order, without a runtime"),
    ban(
        "tokio",
        &["log", "store"],
        "the log is one thread that writes and syncs; nothing in it waits on a runtime",
    ),
    ban("axum", DATA_PLANE, "the server API is the control plane's"),
    ban("hyper", DATA_PLANE, "the server API is the control plane's"),
    ban("hyper_util", DATA_PLANE, "the server API is the control plane's"),
    ban("tower", DATA_PLANE, "the server API is the control plane's"),
    ban(
        "prometheus_client",
        DATA_PLANE,
        "shards count in plain integers; the control plane knows the format",
    ),
    ban("tracing", PURE, "pure code returns what happened; a shell says it"),
    ban("tracing_subscriber", BELOW_APP, "how logs are written is decided once, in app"),
    ban("tracing_appender", BELOW_APP, "how logs are written is decided once, in app"),
    ban("clap", BELOW_APP, "flags are the business of cli and config"),
    ban("toml", BELOW_APP, "files of settings are the business of config"),
    ban("serde_saphyr", BELOW_APP, "files of settings are the business of config"),
    ban("anyhow", BELOW_APP, "errors are closed enums that say who is at fault"),
];

/// The files where `unsafe` may stand, for tables of descriptors, socket options and maps.
const UNSAFE_FILES: &[(&str, &str)] = &[
    ("src/net/tables.rs", "unshare(CLONE_FILES) has no safe wrapper"),
    ("src/net/sockopt.rs", "socket options that socket2 does not know"),
    ("src/log/map.rs", "the one memory map"),
    ("loadgen/src/kernel.rs", "unshare(CLONE_FILES) and socket options of the load generator"),
    ("src/app/heap.rs", "mallopt(3), malloc_trim(3) and mallinfo2(3) have no safe wrapper"),
    ("tests/support/counting_allocator.rs", "a global allocator that counts is an unsafe trait"),
];

/// Checks one file of the library that belongs to `module`.
fn check_names(module: &[String], text: &str) -> Vec<String> {
    let file = syn::parse_file(text).unwrap();
    let layer = LAYERS.iter().find(|layer| layer.name == module[0]);
    let Some(layer) = layer else {
        return vec![format!("the module `{}` is not in the table of layers", module[0])];
    };
    let mut faults = BTreeSet::new();
    for mention in names::mentions(&file, module).iter().filter(|mention| !mention.is_bare) {
        let faults_here = [wrong_direction(layer, &mention.path), banned(layer, &mention.path)];
        for fault in faults_here.into_iter().flatten() {
            faults.insert((mention.line, fault));
        }
    }
    faults.into_iter().map(|(line, fault)| format!("line {line}: {fault}")).collect()
}

fn wrong_direction(layer: &Layer, path: &str) -> Option<String> {
    let target = path.strip_prefix("crate::").or_else(|| path.strip_prefix("millpond::"))?;
    let target = target.split("::").next()?;
    if target == layer.name || layer.may_use.contains(&target) {
        return None;
    }
    Some(format!("`{}` may not use `{path}`: {} may use {:?}", layer.name, layer.name, layer.may_use))
}

fn banned(layer: &Layer, path: &str) -> Option<String> {
    // `core` and `alloc` hold the same things under other roots.
    let path = path.strip_prefix("core::").map_or_else(|| path.to_owned(), |rest| format!("std::{rest}"));
    let hit = |ban: &&Ban| {
        let below = match path.strip_prefix(ban.path) {
            Some("") => return true,
            Some(rest) => rest.strip_prefix("::"),
            None => None,
        };
        below.is_some_and(|name| !ban.except.contains(&name.split("::").next().unwrap_or(name)))
    };
    // `use std::*` and `use std::time::*` would bring the banned names in unseen.
    let glob =
        |ban: &&Ban| path.strip_suffix("::*").is_some_and(|root| ban.path.starts_with(&format!("{root}::")));
    let ban = BANS.iter().filter(|ban| ban.layers.contains(&layer.name)).find(|ban| hit(ban) || glob(ban))?;
    Some(format!("`{}` may not name `{path}`: {}", layer.name, ban.reason))
}

/// Lines with `unsafe` code, or with a lint level that lets it in.
fn unsafe_lines(text: &str) -> Vec<usize> {
    fn walk(tokens: TokenStream, lines: &mut Vec<usize>) {
        let mut lets_in = false;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if ident == "unsafe" {
                        lines.push(ident.span().start().line);
                    }
                    lets_in = ident == "allow" || ident == "expect" || ident == "warn";
                }
                TokenTree::Group(group) => {
                    let inner = group.stream();
                    if lets_in && inner.clone().into_iter().any(|token| token.to_string() == "unsafe_code") {
                        lines.push(group.span_open().start().line);
                    }
                    lets_in = false;
                    walk(inner, lines);
                }
                _ => lets_in = false,
            }
        }
    }
    let mut lines = Vec::new();
    walk(text.parse().unwrap(), &mut lines);
    lines
}

/// Every file of the library with its module path, found as the compiler finds them; test modules are left out.
fn library_files(faults: &mut Vec<String>) -> Vec<(Vec<String>, source::SourceFile)> {
    let mut files = source::files(&["rs"]);
    files.retain(|file| file.path.starts_with("src/") && file.path != "src/main.rs");
    let mut found = Vec::new();
    let mut open = vec![(Vec::<String>::new(), "src/lib.rs".to_owned(), false)];
    while let Some((module, path, is_test)) = open.pop() {
        let Some(at) = files.iter().position(|file| file.path == path) else {
            faults.push(format!("{path}: declared as a module and not found"));
            continue;
        };
        let file = files.swap_remove(at);
        let folder = match path.strip_suffix("/mod.rs").or_else(|| path.strip_suffix("/lib.rs")) {
            Some(folder) => folder.to_owned(),
            None => path.trim_end_matches(".rs").to_owned(),
        };
        for child in names::children(&syn::parse_file(file.text()).unwrap()) {
            let flat = format!("{folder}/{}.rs", child.name);
            let nested = format!("{folder}/{}/mod.rs", child.name);
            let path = if files.iter().any(|file| file.path == nested) { nested } else { flat };
            open.push(([module.clone(), vec![child.name]].concat(), path, is_test || child.is_test));
        }
        if !is_test && !module.is_empty() {
            found.push((module, file));
        }
    }
    faults.extend(files.iter().map(|file| format!("{}: no module declares this file", file.path)));
    found
}

#[test]
fn layers_use_only_what_is_below_them_and_name_nothing_forbidden() {
    let mut faults = Vec::new();
    let files = library_files(&mut faults);
    assert!(files.len() > 5, "the library was not found");
    for (module, file) in files {
        faults.extend(
            check_names(&module, file.text()).into_iter().map(|fault| format!("{}, {fault}", file.path)),
        );
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn unsafe_stands_in_the_named_files_only() {
    let mut faults = Vec::new();
    for file in source::files(&["rs"]) {
        let lines = unsafe_lines(file.text());
        let reason = UNSAFE_FILES.iter().find(|(path, _)| *path == file.path);
        match (lines.as_slice(), reason) {
            ([], Some(_)) => {
                faults.push(format!("{}: named as unsafe and is not: shorten the table", file.path));
            }
            ([line, ..], None) => {
                faults.push(format!("{}, line {line}: unsafe code may not stand here", file.path));
            }
            _ => {}
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

mod checker {
    use super::*;

    fn faults(layer: &str, text: &str) -> Vec<String> {
        check_names(&[layer.to_owned(), "part".to_owned()], text)
    }

    #[test]
    fn every_ban_catches_a_use_a_path_and_a_macro_argument_in_each_of_its_layers() {
        for ban in BANS {
            for layer in ban.layers {
                let name = ban.path;
                let samples = [
                    format!("use {name};"),
                    format!("use {name}::x;"),
                    format!("fn f() {{ {name}::x(); }}"),
                    format!("fn f() {{ assert!({name}::x()); }}"),
                    format!("fn f(_: {name}::X) {{}}"),
                    format!("fn f() {{ {name}!(x); }}"),
                    format!("fn f() {{ assert!({name}!(x)); }}"),
                ];
                for sample in samples {
                    assert_eq!(faults(layer, &sample).len(), 1, "{layer}: {sample}");
                }
            }
        }
    }

    #[test]
    fn macros_and_attributes_are_names_too() {
        assert_eq!(faults("hub", "fn f() { println!(\"x\"); }").len(), 1);
        assert_eq!(faults("hub", "fn f() { tracing::info!(\"x\"); }").len(), 1);
        assert_eq!(faults("hub", "#[tracing::instrument] fn f() {}").len(), 1);
        assert_eq!(faults("hub", "#[derive(tokio::X)] struct S;").len(), 1);
    }

    #[test]
    fn names_are_followed_through_groups_renames_and_globs() {
        assert_eq!(faults("hub", "use std::{fmt, time::{Duration, Instant}};").len(), 1);
        assert_eq!(faults("hub", "use std::time;\nfn f() { time::Instant::now(); }").len(), 1);
        assert_eq!(faults("hub", "use std::time as t;\nfn f() { t::SystemTime::now(); }").len(), 1);
        assert_eq!(faults("hub", "use std::time::*;").len(), 1);
        assert_eq!(faults("hub", "use core::net::TcpStream;").len(), 1);
        assert_eq!(faults("hub", "use std::net::TcpStream as S;").len(), 1);
    }

    #[test]
    fn harmless_names_and_tests_pass() {
        let text = "use std::net::{IpAddr, SocketAddr};\nuse std::time::Duration;\nuse crate::base::tick::Tick;\n\
                    #[cfg(test)] mod tests { use std::thread; fn f() { std::fs::read(1); } }\n\
                    struct Threading; fn tokio_like(rand: u8) -> u8 { assert!(rand > 1); rand }";
        assert_eq!(faults("hub", text), Vec::<String>::new());
        assert_eq!(faults("net", "use std::time::Instant; use mio::Poll;"), Vec::<String>::new());
        assert_eq!(faults("log", "use std::fs::File; use std::thread;"), Vec::<String>::new());
    }

    #[test]
    fn code_that_is_not_only_for_tests_is_no_exception() {
        assert_eq!(faults("hub", "#[cfg(not(test))] mod m { use std::thread; }").len(), 1);
        assert_eq!(faults("hub", "#[cfg(any(test, unix))] mod m { use std::thread; }").len(), 1);
        assert_eq!(faults("hub", "#[cfg(all(test, unix))] mod m { use std::thread; }").len(), 0);
    }

    #[test]
    fn every_pair_of_layers_is_judged_by_the_table() {
        for layer in LAYERS {
            for target in LAYERS {
                let allowed = layer.name == target.name || layer.may_use.contains(&target.name);
                let samples = [
                    format!("use crate::{}::x;", target.name),
                    format!("fn f() {{ crate::{}::x(); }}", target.name),
                    format!("use super::super::{}::x;", target.name),
                    format!("mod inner {{ use super::super::super::{}::x; }}", target.name),
                ];
                for sample in samples {
                    assert_eq!(faults(layer.name, &sample).is_empty(), allowed, "{}: {sample}", layer.name);
                }
            }
        }
    }

    #[test]
    fn the_table_has_no_circle() {
        // Each layer may use only layers that stand before it in the table.
        for (index, layer) in LAYERS.iter().enumerate() {
            for used in layer.may_use {
                assert!(
                    LAYERS[..index].iter().any(|before| before.name == *used),
                    "{} uses {used}",
                    layer.name
                );
            }
        }
        assert!(!faults("elsewhere", "fn f() {}").is_empty(), "a module outside the table is a fault");
    }

    #[test]
    fn unsafe_is_found_wherever_it_hides() {
        assert_eq!(unsafe_lines("fn f() {\n    unsafe { g() }\n}"), [2]);
        assert_eq!(unsafe_lines("unsafe fn f() {}"), [1]);
        assert_eq!(unsafe_lines("\n\nunsafe impl Send for S {}"), [3]);
        assert_eq!(unsafe_lines("m! { unsafe { g() } }"), [1]);
        assert_eq!(unsafe_lines("#![allow(unsafe_code)]"), [1]);
        assert_eq!(unsafe_lines("#[expect(dead_code, unsafe_code)] fn f() {}"), [1]);
        assert_eq!(unsafe_lines("#[cfg_attr(unix, allow(unsafe_code))] fn f() {}"), [1]);
        assert_eq!(unsafe_lines("#![forbid(unsafe_code)] // unsafe\nconst S: &str = \"unsafe\";"), [0; 0]);
    }
}
