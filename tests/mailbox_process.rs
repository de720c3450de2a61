//! Mailboxes of the real process when the disk is full, damaged, refused or shared, and at their limits (bad-input.md
//! R19, S06, S12, S15, S25, S26): one clear reaction, nothing acknowledged is lost, live traffic goes on.
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

use std::path::Path;
use std::process::{Command, Output, Stdio};

use jsonwebtoken::{EncodingKey, Header};
use millpond::log::segment::segment_name;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

#[path = "support/client.rs"]
mod client;
#[path = "support/mount.rs"]
mod mount;
#[path = "support/server.rs"]
mod server;

use client::Client;
use mount::Mount;
use server::{Server, until};

const SECRET: &str = "the secret of this test, 32 bytes long";

fn config(storage: &Path) -> Value {
    json!({
        "client": {
            "token": { "hmac_secret_key": SECRET },
            "subscribe_to_user_personal_channel": { "enabled": true },
        },
        "storage": { "path": storage, "segment_size": "64KiB" },
        "mailbox": { "enabled": true },
    })
}

fn start(config: &Value) -> Server {
    Server::start(config.clone(), &["--shards", "2"])
}

/// Beside the build, as directories for temporary files may be in memory, where the log refuses to be.
fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn call(server: &Server, method: &str, params: &Value) -> Value {
    serde_json::from_str(&server.api(method, &params.to_string())).unwrap()
}

/// Sends `text` to `user`: the offset, or the code of the error.
fn send(server: &Server, user: &str, text: &str) -> Result<u64, u64> {
    let answer = call(server, "send", &json!({ "user": user, "data": text }));
    answer["result"]["offset"].as_u64().ok_or_else(|| answer["error"]["code"].as_u64().unwrap())
}

/// A connected client of the user, and the texts that its mailbox replayed at once.
fn connect(server: &Server, user: &str) -> (Client, Vec<Value>) {
    let claims = json!({ "sub": user, "exp": 4_000_000_000_u64 });
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let token = jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap();
    let mut client = Client::open(server.address, "", None).unwrap();
    client.send_text(&json!({ "id": 1, "connect": { "token": token } }).to_string());
    let reply = client.json();
    let replayed = reply["connect"]["subs"][format!("#{user}")]["publications"].as_array().cloned();
    (client, replayed.unwrap_or_default().iter().map(|publication| publication["data"].clone()).collect())
}

/// The namespace lets everybody subscribe, as most do; a mailbox is its user's all the same.
#[test]
fn nobody_reads_another_users_mailbox() {
    let storage = folder();
    let mut config = config(storage.path());
    config["channel"] = json!({ "without_namespace": { "allow_subscribe_for_client": true } });
    let server = start(&config);
    let (mut ann, _) = connect(&server, "ann");
    let (mut bob, _) = connect(&server, "bob");
    let subscribe = |id: u32| json!({ "id": id, "subscribe": { "channel": "#ann" } }).to_string();
    bob.send_text(&subscribe(2));
    assert_eq!(bob.json()["error"]["code"], 103);
    assert_eq!(send(&server, "ann", "for ann"), Ok(1));
    assert_eq!(ann.json()["push"]["pub"]["data"], "for ann");
    bob.send_text(&json!({ "id": 3, "presence_stats": { "channel": "bob" } }).to_string());
    assert_eq!(bob.json()["id"], 3, "nothing came before this answer");
    // One's own may be left and taken again.
    ann.send_text(&json!({ "id": 2, "unsubscribe": { "channel": "#ann" } }).to_string());
    assert_eq!(ann.json()["id"], 2);
    ann.send_text(&subscribe(3));
    assert_eq!(ann.json()["subscribe"]["recovered"], true);
    // A token says that the application wants it.
    let claims = json!({ "sub": "bob", "channel": "#ann" });
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let token = jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap();
    bob.send_text(&json!({ "id": 4, "subscribe": { "channel": "#ann", "token": token } }).to_string());
    assert!(bob.json()["subscribe"].is_object());
}

#[test]
fn a_full_disk_refuses_sends_and_nothing_else() {
    let Some(mount) = Mount::tmpfs("size=512k") else { return };
    let ballast = mount.path().join("ballast");
    std::fs::write(&ballast, vec![1; 256 << 10]).unwrap();
    let mut config = config(&mount.path().join("log"));
    // A file system in memory stands for a small disk.
    config["storage"]["sync"] = json!("os");
    let mut server = start(&config);
    let (mut client, _) = connect(&server, "ann");
    let text = "x".repeat(2000);
    let mut stored = 0;
    let refused = loop {
        match send(&server, "bob", &text) {
            Ok(offset) => stored = offset,
            Err(code) => break code,
        }
        assert!(stored < 1000, "the disk of 512 KiB is never full");
    };
    assert_eq!(refused, 121);
    assert!(stored > 20, "only {stored} messages fit");
    call(&server, "publish", &json!({ "channel": "#ann", "data": "live" }));
    assert_eq!(client.json()["push"]["pub"]["data"], "live", "live traffic goes on");
    let (_, replayed) = connect(&server, "bob");
    assert!(!replayed.is_empty(), "what is stored is delivered");
    std::fs::remove_file(&ballast).unwrap();
    until("sends are taken again", || send(&server, "bob", "after").is_ok());
    let info = call(&server, "mailbox_info", &json!({ "user": "bob" }));
    assert_eq!(info["result"]["messages"], stored + 1, "nothing was lost and nothing half stored");
    server.signal(Signal::KILL);
    server.wait();
    let server = start(&config);
    let listed = call(&server, "mailbox_list", &json!({ "user": "bob", "limit": 1000 }));
    assert_eq!(listed["result"]["messages"].as_array().map(Vec::len), usize::try_from(stored + 1).ok());
    assert_eq!(listed["result"]["messages"][usize::try_from(stored).unwrap()]["data"], "after");
}

#[test]
fn damage_costs_the_damaged_message_and_is_reported() {
    let folder = folder();
    let log = folder.path().join("log");
    let config = config(&log);
    let mut server = start(&config);
    for number in 1..=5 {
        assert_eq!(send(&server, "ann", &format!("text {number}")), Ok(number));
    }
    assert_eq!(send(&server, "bob", "text of bob"), Ok(1));
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
    assert_eq!(verify(&log).status.code(), Some(0), "a clean stop leaves a good log");

    let segment = log.join(segment_name(1));
    let mut bytes = std::fs::read(&segment).unwrap();
    let at = bytes.windows(6).position(|window| window == b"text 3").expect("the payload is in the segment");
    bytes[at] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    // An index that is in step with the log would keep the start from reading it.
    std::fs::remove_file(log.join("index.snapshot")).unwrap();
    assert_eq!(verify(&log).status.code(), Some(1), "verify tells by its exit code");

    let server = start(&config);
    assert!(server.log().contains("the log is damaged"), "{}", server.log());
    assert!(log.join(segment_name(1) + ".quarantined").exists(), "kept for inspection");
    let (_, replayed) = connect(&server, "bob");
    assert_eq!(replayed, ["text of bob"], "others are not concerned");
    let (mut client, replayed) = connect(&server, "ann");
    assert_eq!(send(&server, "ann", "text 6"), Ok(6), "offsets go on");
    let mut arrived = replayed;
    while arrived.last() != Some(&json!("text 6")) {
        arrived.push(client.json()["push"]["pub"]["data"].clone());
    }
    assert_eq!(
        arrived,
        ["text 1", "text 2", "text 4", "text 5", "text 6"],
        "in order, without the damaged one"
    );
}

fn verify(log: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
    command.args(["log", "verify"]).arg(log).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn a_directory_that_cannot_keep_data_refuses_the_start_and_says_which() {
    let folder = folder();
    let shared = folder.path().join("log");
    let server = start(&config(&shared));
    let said = refused(&folder, &config(&shared));
    assert!(said.contains("in use by another process") && said.contains("storage.path"), "{said}");
    assert_eq!(send(&server, "ann", "hello"), Ok(1), "the first goes on");
    let Some(mount) = Mount::tmpfs("size=512k") else { return };
    let said = refused(&folder, &config(&mount.path()));
    assert!(
        said.contains("file system in memory") && said.contains(&mount.path().display().to_string()),
        "{said}"
    );
    assert!(mount.remount("remount,ro"));
    let said = refused(&folder, &config(&mount.path()));
    assert!(said.contains("read-only"), "{said}");
}

/// What a start with this configuration says before it ends with 1.
fn refused(folder: &TempDir, config: &Value) -> String {
    let mut config = config.clone();
    config["http_server"] = json!({ "internal_port": 0 });
    config["server"] = json!({ "max_connections": 1000 });
    let file = folder.path().join("refused.json");
    std::fs::write(&file, config.to_string()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
    let address = server::free_address().to_string();
    let output = command
        .args(["serve", "--shards", "1", "--listen", &address, "--config"])
        .arg(&file)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    said
}

#[test]
fn a_full_mailbox_refuses_or_drops_its_oldest_as_configured() {
    let folder = folder();
    let mut config = config(&folder.path().join("log"));
    config["mailbox"]["max_messages"] = json!(3);
    let mut server = start(&config);
    for offset in 1..=3 {
        assert_eq!(send(&server, "ann", &format!("text {offset}")), Ok(offset));
    }
    assert_eq!(send(&server, "ann", "too much"), Err(120));
    assert_eq!(send(&server, "bob", "another's"), Ok(1), "a mailbox is one user's");
    call(&server, "mailbox_ack", &json!({ "user": "ann", "offset": 1 }));
    assert_eq!(send(&server, "ann", "text 4"), Ok(4), "an acknowledged message has made room");
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));

    config["mailbox"]["when_full"] = json!("drop_oldest");
    let server = start(&config);
    assert_eq!(send(&server, "ann", "text 5"), Ok(5));
    let (_, replayed) = connect(&server, "ann");
    assert_eq!(replayed, ["text 3", "text 4", "text 5"]);
    let too_long = call(&server, "send", &json!({ "user": "ann", "data": "x".repeat(40_000) }));
    let message = too_long["error"]["message"].as_str().unwrap();
    assert!(
        message.starts_with("bad request: data and tags have 40002 bytes, more than the 24"),
        "{message}"
    );
    assert_eq!(send(&server, "ann", &"x".repeat(24_000)), Ok(6), "the longest that is allowed is taken");
}

/// A mailbox is its owner's, also where clients may subscribe to what they know the name of.
#[test]
fn nobody_listens_at_the_mailbox_of_somebody_else() {
    let folder = folder();
    let mut config = config(&folder.path().join("log"));
    config["channel"] = json!({ "without_namespace": { "allow_subscribe_for_client": true } });
    let server = start(&config);
    let token = |claims: &Value| {
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        jsonwebtoken::encode(&Header::default(), claims, &key).unwrap()
    };
    let mut bob = Client::open(server.address, "", None).unwrap();
    let wished = json!({ "#ann": {}, "room": {} });
    bob.send_text(
        &json!({ "id": 1, "connect": { "token": token(&json!({ "sub": "bob" })), "subs": wished } })
            .to_string(),
    );
    let reply = bob.json();
    let subs: Vec<_> = reply["connect"]["subs"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(subs, ["#bob", "room"]);
    bob.send_text(&json!({ "id": 2, "subscribe": { "channel": "#ann" } }).to_string());
    assert_eq!(bob.json()["error"]["code"], 103);
    assert_eq!(send(&server, "ann", "private"), Ok(1));
    assert_eq!(send(&server, "bob", "to bob"), Ok(1));
    assert_eq!(bob.json()["push"]["pub"]["data"], "to bob", "and nothing else");
    // The backend may let him.
    let token = token(&json!({ "sub": "bob", "channel": "#ann" }));
    bob.send_text(&json!({ "id": 3, "subscribe": { "channel": "#ann", "token": token } }).to_string());
    assert_eq!(bob.json()["subscribe"], json!({}), "without what waits there: that is ann's");
    assert_eq!(send(&server, "ann", "told"), Ok(2));
    assert_eq!(bob.json()["push"]["pub"]["data"], "told");
}
