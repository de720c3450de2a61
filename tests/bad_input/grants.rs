//! What tokens and the server API give to a connection: bytes that are no JSON, positions, new infos, channels of
//! another kind.

use serde_json::{Value, json};

use crate::peer::{CLOSE, Peer, TEXT, text};
use crate::server::{Server, until};
use crate::table::Row;
use crate::table::Run::Now;
use crate::tokens::token;

/// Two bytes that are neither JSON nor text, as base64.
const BINARY: &str = "AP8=";

pub(crate) const ROWS: &[Row] = &[
    Row { id: "+G1", what: "connection info that is no JSON: 3506", run: Now(binary_info) },
    Row { id: "+G2", what: "joins with such an info, for those who want joins only", run: Now(binary_join) },
    Row { id: "+G3", what: "custom data of a subscription that is no JSON: 3506", run: Now(binary_data) },
    Row { id: "+G4", what: "info that nests 200 levels: 3500", run: Now(deep_info) },
    Row {
        id: "+G5",
        what: "`recover_since` of the server API: what was missed comes",
        run: Now(recover_since),
    },
    Row { id: "+G6", what: "a new token brings a new info", run: Now(new_info) },
    Row { id: "+G7", what: "server-side subscriptions to a map: refused", run: Now(maps) },
    Row { id: "+G8", what: "`skip_history`: no number is told", run: Now(no_number) },
    Row { id: "+G10", what: "every kind of message and command is counted", run: Now(counted) },
    Row { id: "+G11", what: "the server API passes `channel_limit`: 3505", run: Now(one_too_many) },
    Row { id: "+G9", what: "the id of the node is a UUID", run: Now(node_uid) },
];

/// Connected with a token of these claims.
fn connected(server: &Server, claims: &Value) -> Peer {
    Peer::connected_with(server.address, &json!({ "token": token(claims) }).to_string())
}

fn subscribe(peer: &mut Peer, channel: &str) {
    let reply = peer.ask(&json!({ "id": 2, "subscribe": { "channel": channel } }).to_string());
    assert!(reply["subscribe"].is_object(), "{reply}");
}

/// Whatever comes, text is valid UTF-8 and each of its lines JSON, up to the close frame; its code.
fn clean_end(peer: &mut Peer) -> u16 {
    loop {
        match peer.frame() {
            (TEXT, payload) => {
                let text = String::from_utf8(payload).unwrap();
                assert!(text.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{text}");
            }
            (CLOSE, payload) => return u16::from_be_bytes([payload[0], payload[1]]),
            (opcode, payload) => panic!("opcode {opcode}: {}", payload.escape_ascii()),
        }
    }
}

fn binary_info(server: &Server) {
    let claims = json!({ "sub": "g1", "b64info": BINARY });
    let mut peer = connected(server, &claims);
    subscribe(&mut peer, "g1");
    peer.send(&text(r#"{"id":3,"presence":{"channel":"g1"}}"#));
    assert_eq!(clean_end(&mut peer), 3506);
    // What it publishes reaches nobody who could not read it, now or later.
    let mut publisher = connected(server, &claims);
    let mut watcher = Peer::connected(server.address);
    subscribe(&mut watcher, "g1");
    assert!(publisher.ask(r#"{"id":4,"publish":{"channel":"g1","data":1}}"#)["publish"].is_object());
    assert_eq!(clean_end(&mut watcher), 3506);
    let mut reader = Peer::connected(server.address);
    reader.send(&text(r#"{"id":5,"history":{"channel":"g1","limit":1}}"#));
    assert_eq!(clean_end(&mut reader), 3506);
    // The server API has base64 for it.
    let history: Value =
        serde_json::from_str(&server.api("history", r#"{"channel":"g1","limit":1}"#)).unwrap();
    assert_eq!(history["result"]["publications"][0]["info"]["b64conn_info"], BINARY);
}

fn binary_join(server: &Server) {
    let (mut told, mut untold) = (Peer::connected(server.address), Peer::connected(server.address));
    let wish = r#"{"id":2,"subscribe":{"channel":"told:g2","join_leave":true}}"#;
    told.send(&text(wish));
    assert!(told.lines(2)[1].contains("join"), "its own");
    subscribe(&mut untold, "told:g2");
    assert!(told.json()["push"]["join"].is_object());
    let mut binary = connected(server, &json!({ "sub": "g2", "b64info": BINARY }));
    subscribe(&mut binary, "told:g2");
    assert_eq!(clean_end(&mut told), 3506);
    server.api("publish", r#"{"channel":"told:g2","data":"still here"}"#);
    assert_eq!(untold.json()["push"]["pub"]["data"], "still here");
}

fn binary_data(server: &Server) {
    let subs = json!({ "sub": "g3", "subs": { "g3": { "b64data": BINARY } } });
    let mut peer = Peer::upgraded(server.address);
    peer.send(&text(&json!({ "id": 1, "connect": { "token": token(&subs) } }).to_string()));
    assert_eq!(clean_end(&mut peer), 3506);
    let mut peer = Peer::connected(server.address);
    let grant = token(&json!({ "channel": "g3", "b64data": BINARY }));
    let subscribe = json!({ "id": 2, "subscribe": { "channel": "g3", "token": grant } });
    peer.send(&text(&subscribe.to_string()));
    assert_eq!(clean_end(&mut peer), 3506);
    let mut peer = connected(server, &json!({ "sub": "g3" }));
    server.api("subscribe", &json!({ "user": "g3", "channel": "g3", "b64data": BINARY }).to_string());
    assert_eq!(clean_end(&mut peer), 3506);
}

fn deep_info(server: &Server) {
    let mut deep = json!(1);
    for _ in 0..200 {
        deep = json!([deep]);
    }
    let mut peer = Peer::upgraded(server.address);
    let connect = json!({ "id": 1, "connect": { "token": token(&json!({ "sub": "g4", "info": deep })) } });
    peer.send(&text(&connect.to_string()));
    assert_eq!(clean_end(&mut peer), 3500);
}

fn recover_since(server: &Server) {
    let publish = |data: i32| {
        let body = json!({ "channel": "kept:g5", "data": data }).to_string();
        serde_json::from_str::<Value>(&server.api("publish", &body)).unwrap()
    };
    let epoch = publish(1)["result"]["epoch"].clone();
    publish(2);
    publish(3);
    let mut peer = connected(server, &json!({ "sub": "g5" }));
    let since =
        json!({ "user": "g5", "channel": "kept:g5", "recover_since": { "offset": 1, "epoch": epoch } });
    server.api("subscribe", &since.to_string());
    publish(4);
    let lines: Vec<Value> = peer.lines(4).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["push"]["subscribe"]["offset"], 1);
    let offsets: Vec<_> = lines[1..].iter().map(|line| line["push"]["pub"]["offset"].clone()).collect();
    assert_eq!(offsets, [2, 3, 4]);
}

fn new_info(server: &Server) {
    let claims = |info: i32| json!({ "sub": "g6", "info": { "v": info } });
    let mut peer = connected(server, &claims(1));
    subscribe(&mut peer, "g6");
    let mut info = |info: Value| {
        let refresh = json!({ "id": 3, "refresh": { "token": token(&info) } });
        assert!(peer.ask(&refresh.to_string())["refresh"].is_object());
        let reply = peer.ask(r#"{"id":4,"presence":{"channel":"g6"}}"#);
        let members = reply["presence"]["presence"].as_object().unwrap().clone();
        members.values().next().unwrap()["conn_info"].clone()
    };
    assert_eq!(info(claims(2)), json!({ "v": 2 }));
    assert_eq!(info(json!({ "sub": "g6" })), json!({ "v": 2 }), "a token without info changes nothing");
}

fn maps(server: &Server) {
    let mut peer = Peer::upgraded(server.address);
    let granted = token(&json!({ "sub": "g7", "channels": ["mapped:a"] }));
    let reply = peer.ask(&json!({ "id": 1, "connect": { "token": granted } }).to_string());
    assert_eq!(reply["error"]["code"], 103);
    let answer = server.api("subscribe", r#"{"user":"g7","channel":"mapped:a"}"#);
    assert_eq!(answer, r#"{"error":{"code":107,"message":"bad request"}}"#);
}

fn no_number(server: &Server) {
    server.api("publish", r#"{"channel":"kept:g8","data":1}"#);
    let answer = server.api("publish", r#"{"channel":"kept:g8","data":2,"skip_history":true}"#);
    assert_eq!(answer, r#"{"result":{}}"#);
}

fn node_uid(server: &Server) {
    let uid = || {
        let info: Value = serde_json::from_str(&server.api("info", "{}")).unwrap();
        info["result"]["nodes"][0]["uid"].as_str().unwrap().to_owned()
    };
    let lengths: Vec<usize> = uid().split('-').map(str::len).collect();
    assert_eq!(lengths, [8, 4, 4, 4, 12], "{}", uid());
    assert_eq!(uid().as_bytes()[14], b'4');
    assert_eq!(uid(), uid());
}

fn counted(server: &Server) {
    let mut peer = connected(server, &json!({ "sub": "g10" }));
    let told = json!({ "channel": "told:g10", "join_leave": true });
    let refresh = token(&json!({ "sub": "g10" }));
    let sub_refresh =
        json!({ "channel": "told:g10", "token": token(&json!({ "sub": "g10", "channel": "told:g10" })) });
    for (command, body) in [
        ("subscribe", told),
        ("publish", json!({ "channel": "told:g10", "data": 1 })),
        ("presence", json!({ "channel": "told:g10" })),
        ("presence_stats", json!({ "channel": "told:g10" })),
        ("history", json!({ "channel": "told:g10" })),
        ("rpc", json!({ "method": "none" })),
        ("refresh", json!({ "token": refresh })),
        ("sub_refresh", sub_refresh),
        ("unsubscribe", json!({ "channel": "told:g10" })),
    ] {
        peer.send(&text(&json!({ "id": 2, command: body }).to_string()));
    }
    // Nine replies, a publication and a join.
    peer.lines(11);
    let named = json!({ "user": "g10", "channel": "g10" }).to_string();
    for method in ["subscribe", "unsubscribe", "refresh"] {
        server.api(method, &named);
    }
    peer.lines(3);
    peer.send(&text(r#"{"send":{"data":1}}"#));
    assert_eq!(peer.closed(), 3508);
    for (metric, labels) in [
        (
            "transport_messages_sent",
            "connect subscribe unsubscribe publish presence presence_stats history refresh sub_refresh error \
             push_publication push_join push_unsubscribe push_subscribe push_refresh",
        ),
        (
            "transport_messages_received",
            "connect subscribe unsubscribe publish presence presence_stats history rpc send refresh sub_refresh",
        ),
    ] {
        for label in labels.split_ascii_whitespace() {
            let series = format!("frame_type=\"{label}\"");
            let is_counted = || server.metric(&format!("millpond_{metric}"), &series) > 0.5;
            until(&format!("{metric} has {label}"), is_counted);
        }
    }
    for metric in ["client_connections_accepted", "client_subscriptions_accepted"] {
        until(metric, || server.metric(&format!("millpond_{metric}"), "") > 0.5);
    }
}

fn one_too_many(server: &Server) {
    let channels: Vec<String> = (0..127).map(|number| format!("g11-{number}")).collect();
    let mut peer = connected(server, &json!({ "sub": "g11", "channels": channels }));
    let one =
        |channel: &str| server.api("subscribe", &json!({ "user": "g11", "channel": channel }).to_string());
    one("g11-last");
    assert!(peer.json()["push"]["subscribe"].is_object());
    // What it has already is not one more.
    one("g11-last");
    assert!(peer.ask(r#"{"id":2,"history":{"channel":"g11-last"}}"#)["history"].is_object());
    one("g11-more");
    assert_eq!(peer.closed(), 3505);
}
