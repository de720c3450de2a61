//! Durable history of the real process: killed with SIGKILL while publications are under way, on a disk that is full, and
//! on segments that are cut short or of a later version (bad-input.md R19, S01, S12, S14, S16).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "the bans keep clocks off the data plane; this is a client beside it"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use millpond::log::segment::segment_name;
use rustix::process::Signal;
use serde_json::{Value, json};

#[path = "support/client.rs"]
mod client;
#[path = "support/mount.rs"]
mod mount;
#[path = "support/server.rs"]
mod server;

use client::{Client, Received};
use mount::Mount;
use server::{Server, until};

/// How often the process is killed; `MILLPOND_CRASH_ROUNDS` says otherwise.
const ROUNDS: u64 = 6;
const PUBLISHERS: u64 = 8;
const CHANNEL: &str = "kept:news";

fn config(storage: &Path) -> Value {
    json!({
        "client": { "insecure": true, "recovery_max_publication_limit": 100_000, "history_max_publication_limit": 1000 },
        "channel": { "namespaces": [
            {
                "name": "kept", "history_size": 100_000, "history_ttl": "1h", "history_durable": true,
                "force_recovery": true,
            },
            { "name": "live" },
        ]},
        "storage": { "path": storage, "segment_size": "64KiB", "maintenance_interval": "1s" },
    })
}

fn start(config: &Value) -> Server {
    Server::start(config.clone(), &["--shards", "2"])
}

/// Beside the build, as directories for temporary files may be in memory, where the log refuses to be.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn call(server: &Server, method: &str, params: &Value) -> Value {
    serde_json::from_str(&server.api(method, &params.to_string())).unwrap()
}

fn publish(server: &Server, data: &str) -> Result<u64, u64> {
    let answer = call(server, "publish", &json!({ "channel": CHANNEL, "data": data }));
    answer["result"]["offset"].as_u64().ok_or_else(|| answer["error"]["code"].as_u64().unwrap())
}

/// All publications of the channel by offset, page by page, and the epoch.
fn history(server: &Server) -> (BTreeMap<u64, Value>, String) {
    let mut found = BTreeMap::new();
    let mut since = Value::Null;
    loop {
        let mut params = json!({ "channel": CHANNEL, "limit": 500 });
        if !since.is_null() {
            params["since"] = since;
        }
        let page = call(server, "history", &params)["result"].clone();
        let epoch = page["epoch"].as_str().unwrap().to_owned();
        let publications = page["publications"].as_array().cloned().unwrap_or_default();
        let Some(last) = publications.last() else { return (found, epoch) };
        since = json!({ "offset": last["offset"], "epoch": epoch });
        for publication in publications {
            let before = found.insert(publication["offset"].as_u64().unwrap(), publication["data"].clone());
            assert_eq!(before, None, "twice on two pages");
        }
    }
}

/// One who reads all the time and recovers after each crash.
#[derive(Default)]
struct Reader {
    heard: BTreeMap<u64, Value>,
    position: Option<(u64, String)>,
}

impl Reader {
    fn subscribe(&mut self, server: &Server) -> Client {
        let (mut client, _) = Client::connected(server.address);
        let mut subscribe = json!({ "channel": CHANNEL });
        if let Some((offset, epoch)) = &self.position {
            subscribe = json!({ "channel": CHANNEL, "recover": true, "offset": offset, "epoch": epoch });
        }
        client.send_text(&json!({ "id": 2, "subscribe": subscribe }).to_string());
        let reply = client.json()["subscribe"].clone();
        let epoch = reply["epoch"].as_str().unwrap().to_owned();
        if let Some((_, before)) = &self.position {
            assert_eq!((&epoch, &reply["recovered"]), (before, &json!(true)), "{reply}");
        }
        let offset = reply["offset"].as_u64().unwrap_or(0);
        self.position = Some((offset, epoch));
        for publication in reply["publications"].as_array().into_iter().flatten() {
            self.take(publication);
        }
        client
    }

    fn take(&mut self, publication: &Value) {
        let offset = publication["offset"].as_u64().unwrap();
        let (last, _) = self.position.as_mut().unwrap();
        assert_eq!(offset, *last + 1, "a gap or a repetition");
        *last = offset;
        self.heard.insert(offset, publication["data"].clone());
    }

    fn read(&mut self, client: &mut Client, wait: Duration) -> bool {
        match client.next_within(wait) {
            Some(Received::Message(message)) => {
                let message: Value = serde_json::from_slice(&message).unwrap();
                if let Some(publication) = message["push"].get("pub") {
                    self.take(publication);
                }
                true
            }
            _ => false,
        }
    }
}

#[test]
fn kill_9_loses_no_acknowledged_publication_and_no_recovery_lies() {
    let rounds = std::env::var("MILLPOND_CRASH_ROUNDS").ok().and_then(|text| text.parse().ok());
    let rounds = rounds.unwrap_or(ROUNDS);
    let folder = folder();
    let config = config(&folder.path().join("log"));
    let mut reader = Reader::default();
    let mut stored: BTreeSet<String> = BTreeSet::new();
    for round in 0..rounds {
        let mut server = start(&config);
        let mut subscriber = reader.subscribe(&server);
        let mut publishers: Vec<_> = (0..PUBLISHERS).map(|_| Client::connected(server.address).0).collect();
        let name = |publisher: u64, number: u64| format!("{round}:{publisher}:{number}");
        for (client, publisher) in publishers.iter_mut().zip(0..) {
            let lines = (1..=200).map(|number| {
                let data = name(publisher, number);
                json!({ "id": number + 1, "publish": { "channel": CHANNEL, "data": data } }).to_string()
            });
            client.send_text(&lines.collect::<Vec<_>>().join("\n"));
        }
        // The kill comes while publications are under way: some are answered, some never will be.
        for _ in 0..30 + round * 20 {
            assert!(reader.read(&mut subscriber, server::PATIENCE), "publications arrive");
        }
        server.signal(Signal::KILL);
        server.wait();
        for (client, publisher) in publishers.iter_mut().zip(0..) {
            while let Received::Message(message) = client.next() {
                let message: Value = serde_json::from_slice(&message).unwrap();
                if message.get("publish").is_some() {
                    let number = message["id"].as_u64().unwrap() - 1;
                    stored.insert(name(publisher, number));
                }
            }
        }
        while reader.read(&mut subscriber, server::PATIENCE) {}
    }
    let server = start(&config);
    let mut subscriber = reader.subscribe(&server);
    assert!(publish(&server, "the last one").is_ok());
    while reader.heard.values().next_back() != Some(&json!("the last one")) {
        assert!(reader.read(&mut subscriber, server::PATIENCE));
    }
    let (found, epoch) = history(&server);
    assert_eq!(reader.position.as_ref().map(|position| &position.1), Some(&epoch));
    assert_eq!(found, reader.heard, "who was there all the time has heard all of it, once, in order");
    let texts: BTreeSet<String> = found.values().map(|data| data.as_str().unwrap().to_owned()).collect();
    assert_eq!(texts.len(), found.len(), "nothing is stored twice");
    let lost: Vec<_> = stored.difference(&texts).collect();
    assert!(lost.is_empty(), "{lost:?} acknowledged and lost");
    println!(
        "{rounds} kills: {} stored, {} of them acknowledged to their publishers",
        found.len(),
        stored.len()
    );
    assert!(stored.len() as u64 > rounds * 20 && found.len() < 1600 * rounds as usize);
}

#[test]
fn a_full_disk_refuses_publications_and_nothing_else() {
    let Some(mount) = Mount::tmpfs("size=512k") else { return };
    let ballast = mount.path().join("ballast");
    std::fs::write(&ballast, vec![1; 256 << 10]).unwrap();
    let mut config = config(&mount.path().join("log"));
    // A file system in memory stands for a small disk.
    config["storage"]["sync"] = json!("os");
    let mut server = start(&config);
    let (mut client, _) = Client::connected(server.address);
    client.send_text(r#"{"id":2,"subscribe":{"channel":"live:x"}}"#);
    assert_eq!(client.json()["id"], 2);
    let text = "x".repeat(2000);
    let mut stored = 0;
    let refused = loop {
        match publish(&server, &text) {
            Ok(offset) => stored = offset,
            Err(code) => break code,
        }
        assert!(stored < 1000, "the disk of 512 KiB is never full");
    };
    assert_eq!(refused, 121);
    assert!(stored > 20, "only {stored} publications fit");
    client.send_text(&json!({ "id": 3, "publish": { "channel": CHANNEL, "data": text } }).to_string());
    let reply = client.json();
    assert_eq!(
        (&reply["id"], &reply["error"]["code"], &reply["error"]["temporary"]),
        (&json!(3), &json!(100), &json!(true))
    );
    call(&server, "publish", &json!({ "channel": "live:x", "data": "live" }));
    assert_eq!(client.json()["push"]["pub"]["data"], "live", "live traffic goes on");
    assert_eq!(history(&server).0.len() as u64, stored, "what is stored is served");
    std::fs::remove_file(&ballast).unwrap();
    until("publications are taken again", || publish(&server, "after").is_ok());
    server.signal(Signal::KILL);
    server.wait();
    let (found, _) = history(&start(&config));
    assert_eq!(found.len() as u64, stored + 1, "no gap, nothing half stored");
    assert_eq!(found[&(stored + 1)], "after");
}

#[test]
fn a_segment_cut_short_costs_what_is_missing_and_no_recovery_hides_it() {
    let folder = folder();
    let log = folder.path().join("log");
    let config = config(&log);
    let mut server = start(&config);
    for number in 1..=100 {
        assert_eq!(publish(&server, &format!("{number} {}", "x".repeat(2000))), Ok(number));
    }
    let (_, epoch) = history(&server);
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
    let file = std::fs::OpenOptions::new().write(true).open(log.join(segment_name(2))).unwrap();
    file.set_len(32 << 10).unwrap();

    let server = start(&config);
    assert!(server.log().contains("the log is damaged"), "{}", server.log());
    let (found, after) = history(&server);
    assert_eq!(after, epoch);
    let missing: Vec<u64> = (1..=100).filter(|offset| !found.contains_key(offset)).collect();
    let (first, last) = (missing[0], *missing.last().unwrap());
    assert_eq!(missing, (first..=last).collect::<Vec<_>>(), "one hole");
    assert!(found.contains_key(&1) && found.contains_key(&100) && missing.len() < 40, "{missing:?}");
    for (offset, recovered) in [(first - 2, false), (last - 1, false), (last, true)] {
        let (mut client, _) = Client::connected(server.address);
        let subscribe = json!({ "channel": CHANNEL, "recover": true, "offset": offset, "epoch": epoch });
        client.send_text(&json!({ "id": 2, "subscribe": subscribe }).to_string());
        let reply = client.json()["subscribe"].clone();
        assert_eq!(reply["recovered"] == true, recovered, "from {offset}: {}", reply["offset"]);
    }
    assert_eq!(publish(&server, "next"), Ok(101), "numbers go on");
}

#[test]
fn a_log_of_a_later_version_refuses_the_start_and_is_left_alone() {
    let folder = folder();
    let log = folder.path().join("log");
    let mut config = config(&log);
    let mut server = start(&config);
    assert_eq!(publish(&server, "text"), Ok(1));
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
    let segment = log.join(segment_name(1));
    let original = std::fs::read(&segment).unwrap();
    let mut later = original.clone();
    for copy in [0, 512] {
        later[copy + 12] = 9;
        let crc = crc32c::crc32c(&later[copy + 20..copy + 512]);
        later[copy + 16..copy + 20].copy_from_slice(&crc.to_le_bytes());
    }
    std::fs::write(&segment, &later).unwrap();

    config["http_server"] = json!({ "internal_port": 0 });
    config["server"] = json!({ "max_connections": 1000 });
    let file = folder.path().join("later.json");
    std::fs::write(&file, config.to_string()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
    let address = server::free_address().to_string();
    command.args(["serve", "--shards", "1", "--listen", &address, "--config"]).arg(&file);
    let output = command.env_clear().stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("version 9") && said.contains("Start the version of millpond that wrote it"),
        "{said}"
    );
    assert_eq!(std::fs::read(&segment).unwrap(), later, "left alone");

    std::fs::write(&segment, &original).unwrap();
    config.as_object_mut().unwrap().remove("http_server");
    let (found, _) = history(&start(&config));
    assert_eq!(found, BTreeMap::from([(1, json!("text"))]));
}
