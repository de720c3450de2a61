//! The rows of bad-input.md against the real process, over plain sockets: one server meets them all, and nothing is left
//! of them. Where a row and client-protocol.md differ for a stock client, the client protocol is expected, and the row
//! says so.
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

#[path = "support/server.rs"]
mod server;

#[path = "bad_input/doors.rs"]
mod doors;
#[path = "bad_input/drain.rs"]
mod drain;
#[path = "bad_input/framing.rs"]
mod framing;
#[path = "bad_input/grants.rs"]
mod grants;
#[path = "bad_input/handshake.rs"]
mod handshake;
#[path = "bad_input/peer.rs"]
mod peer;
#[path = "bad_input/pressure.rs"]
mod pressure;
#[path = "bad_input/session.rs"]
mod session;
#[path = "bad_input/table.rs"]
mod table;
#[path = "bad_input/tokens.rs"]
mod tokens;

use serde_json::{Value, json};

use peer::Peer;
use server::{Server, until};

/// What memory may differ by afterwards: pages that the allocator keeps, histories of the rows.
const MEMORY_SLACK_BYTES: u64 = 24 * 1024 * 1024;

fn config() -> Value {
    let everything = json!({
        "presence": true, "history_size": 10, "history_ttl": "60s",
        "allow_subscribe_for_client": true, "allow_subscribe_for_anonymous": true,
        "allow_publish_for_client": true, "allow_publish_for_anonymous": true,
        "allow_history_for_client": true, "allow_history_for_anonymous": true,
        "allow_presence_for_client": true, "allow_presence_for_anonymous": true
    });
    let mut fleeting = everything.clone();
    fleeting["name"] = json!("fleeting");
    fleeting["history_size"] = json!(0);
    let mut told = everything.clone();
    (told["name"], told["join_leave"]) = (json!("told"), json!(true));
    let mut kept = everything.clone();
    (kept["name"], kept["force_recovery"]) = (json!("kept"), json!(true));
    json!({
        "client": {
            "allow_anonymous_connect_without_token": true,
            "allowed_origins": ["https://good.example", "http://*.good.example:8080"],
            "user_connection_limit": 3,
            "stale_close_delay": "6s",
            "token": { "hmac_secret_key": tokens::KEY, "audience": "pond", "leeway": "30s" }
        },
        "channel": {
            "without_namespace": everything,
            "namespaces": [fleeting, told, kept, { "name": "closed" }, { "name": "mapped", "subscription_type": "map" }]
        }
    })
}

#[test]
fn every_row_has_its_one_reaction_and_leaves_nothing_behind() {
    // A tenth of the slots for who says nothing (R02): the rows that are silent, 2,200 connections at a time, shall meet
    // their own deadlines.
    let mut server = Server::start_limited(config(), 30_000, &["--shards", "2"]);
    drop(Peer::connected(server.address));
    let memory_before = server.resident_bytes();
    table::run(
        &server,
        &[
            handshake::ROWS,
            framing::ROWS,
            session::ROWS,
            tokens::ROWS,
            grants::ROWS,
            pressure::ROWS,
            doors::ROWS,
            drain::ROWS,
        ],
    );
    assert!(server.is_alive(), "the process ended");
    server.wait_until_empty();
    for gauge in ["node_num_clients", "node_num_users", "node_num_subscriptions"] {
        until(&format!("{gauge} is 0"), || server.metric(&format!("millpond_{gauge}"), "") == 0.0);
    }
    let memory_after = server.resident_bytes();
    assert!(
        memory_after < memory_before + MEMORY_SLACK_BYTES,
        "resident memory went from {memory_before} to {memory_after} bytes"
    );
}
