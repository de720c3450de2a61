//! Section A as far as tokens and origins go, and C05.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::peer::{Peer, assert_close, assert_status, text, upgrade_with};
use crate::server::Server;
use crate::table::Row;
use crate::table::Run::{Elsewhere, NotHere, Now, Slow};

/// What the server verifies with.
pub(crate) const KEY: &str = "a secret of thirty-two characters";
/// What `exp`, `nbf` may be off, in seconds.
const LEEWAY: i64 = 30;

pub(crate) const ROWS: &[Row] = &[
    Row {
        id: "A01",
        what: "no token: 3501 for a connect without, as client-protocol.md has it; 3502 for silence is in process.rs",
        run: Slow(no_credentials),
    },
    Row { id: "A02", what: "no token at all by its form", run: Now(no_tokens) },
    Row { id: "A03", what: "algorithms that are none", run: Now(algorithms) },
    Row { id: "A04", what: "HMAC over a public key", run: Elsewhere("auth_rows.rs") },
    Row { id: "A05", what: "signatures that are none", run: Now(signatures) },
    Row {
        id: "A06",
        what: "exp: error 109 for an expired one, as client-protocol.md has it",
        run: Now(expiry),
    },
    Row { id: "A08", what: "wrong audience", run: Now(audience) },
    Row { id: "A09", what: "kid, jku, x5u, jwk", run: Now(header_keys) },
    Row { id: "A11", what: "JWKS", run: NotHere("keys come from the configuration") },
    Row { id: "A12", what: "token expires on a live connection", run: Slow(expiry_while_connected) },
    Row { id: "A13", what: "kicked while connected", run: Now(kicked) },
    Row { id: "A14", what: "no Origin", run: Now(|server| drop(Peer::upgraded(server.address))) },
    Row { id: "A15", what: "Origins that are not listed", run: Now(origins) },
    Row { id: "A16", what: "cookies with a foreign Origin", run: Now(cookies) },
    Row { id: "A18", what: "token in the query", run: Now(token_in_query) },
    Row { id: "A19", what: "bad tokens without end", run: Now(bad_token_storm) },
    Row { id: "A20", what: "one-time tickets", run: NotHere("there are none") },
    Row { id: "A21", what: "metrics and API through the public port", run: Elsewhere("doors rows") },
    Row { id: "C05", what: "token issued 30 s in the future", run: Now(from_the_future) },
    Row { id: "+A1", what: "claims of the wrong kind", run: Now(claims_of_wrong_kind) },
    Row { id: "+A2", what: "a failed connect cannot be tried again", run: Now(failed_connect) },
    Row { id: "+A3", what: "subscription tokens of others", run: Now(foreign_subscription_tokens) },
];

fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

/// A token with this header and these claims, signed with `key`.
fn signed(header: &Value, claims: &Value, key: &str) -> String {
    let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let message = format!("{}.{}", encode(header), encode(claims));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()), message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// A good token with these claims, for our audience.
pub(crate) fn token(claims: &Value) -> String {
    let mut claims = claims.clone();
    if claims.get("aud").is_none() {
        claims["aud"] = json!("pond");
    }
    signed(&json!({ "alg": "HS256", "typ": "JWT" }), &claims, KEY)
}

/// The reply to a connect with this token.
fn reply(server: &Server, token: &str) -> Value {
    let mut peer = Peer::upgraded(server.address);
    peer.ask(&json!({ "id": 1, "connect": { "token": token } }).to_string())
}

fn invalid(server: &Server, token: &str) {
    let mut peer = Peer::upgraded(server.address);
    peer.send(&text(&json!({ "id": 1, "connect": { "token": token } }).to_string()));
    assert_eq!(peer.closed(), 3500, "{token:.200}");
}

fn no_tokens(server: &Server) {
    let good = token(&json!({ "sub": "a02" }));
    assert!(reply(server, &good)["connect"].is_object());
    let parts: Vec<&str> = good.split('.').collect();
    for bad in [
        "x".to_owned(),
        ".".to_owned(),
        "..".to_owned(),
        "...".to_owned(),
        parts[..2].join("."),
        format!("{good}."),
        format!("{good}.x"),
        format!(" {good}"),
        format!("{good}="),
        format!("{good}\u{e9}"),
        format!("{}.{}*.{}", parts[0], parts[1], parts[2]),
        "a".repeat(60_000),
        token(&json!({ "sub": "a02", "padding": "a".repeat(4096) })),
        URL_SAFE_NO_PAD.encode([0xFF; 40]) + "." + parts[1] + "." + parts[2],
    ] {
        invalid(server, &bad);
    }
}

fn algorithms(server: &Server) {
    let claims = json!({ "sub": "a03", "aud": "pond" });
    for algorithm in ["none", "None", "nOnE", "", "HS384", "RS256", "ES256", "EdDSA", "hs256"] {
        let bad = signed(&json!({ "alg": algorithm, "typ": "JWT" }), &claims, KEY);
        invalid(server, &bad);
        invalid(server, &bad[..=bad.rfind('.').unwrap()]);
    }
    invalid(server, &signed(&json!({ "typ": "JWT" }), &claims, KEY));
    invalid(server, &signed(&json!({ "alg": ["HS256"] }), &claims, KEY));
}

fn signatures(server: &Server) {
    let good = token(&json!({ "sub": "a05" }));
    let (message, signature) = good.rsplit_once('.').unwrap();
    for bad in ["", &signature[..42], &signature[..20], &"A".repeat(43), &signature.to_uppercase()] {
        invalid(server, &format!("{message}.{bad}"));
    }
    let header = json!({ "alg": "HS256" });
    for key in ["", "a secret of thirty-two characterz", "secret"] {
        invalid(server, &signed(&header, &json!({ "sub": "a05", "aud": "pond" }), key));
    }
}

fn expiry(server: &Server) {
    let with = |exp: Value| reply(server, &token(&json!({ "sub": "a06", "exp": exp })));
    assert_eq!(with(json!(now() - LEEWAY - 2))["error"]["code"], 109);
    assert_eq!(with(json!(1))["error"]["code"], 109);
    assert!(with(json!(now() - LEEWAY + 10))["connect"].is_object());
    let lasting = with(json!(now() + 1000));
    assert!(
        lasting["connect"]["ttl"].as_u64().is_some_and(|ttl| (900..=1000 + 30).contains(&ttl)),
        "{lasting}"
    );
    assert!(reply(server, &token(&json!({ "sub": "a06" })))["connect"]["ttl"].is_null());
}

/// A server that lets nobody in without a token, and grants an expired one two seconds.
fn strict() -> Server {
    let token = json!({ "hmac_secret_key": KEY, "audience": "pond" });
    let config = json!({ "client": { "expired_close_delay": "2s", "token": token } });
    Server::start(config, &["--shards", "1"])
}

fn no_credentials(_: &Server) {
    let server = strict();
    for connect in ["{}", r#"{"token":""}"#, r#"{"data":{"token":"x"}}"#] {
        let mut peer = Peer::upgraded(server.address);
        peer.send(&text(&format!(r#"{{"id":1,"connect":{connect}}}"#)));
        assert_eq!(peer.closed(), 3501, "{connect}");
    }
    server.wait_until_empty();
}

fn expiry_while_connected(_: &Server) {
    let server = strict();
    let start = Instant::now();
    let until = |seconds: i64| token(&json!({ "sub": "a12", "exp": now() + seconds }));
    let connect = json!({ "token": until(2) }).to_string();
    let [mut expiring, mut refreshed, mut wrong] =
        [(); 3].map(|()| Peer::connected_with(server.address, &connect));
    let refresh = |token: &str| json!({ "id": 2, "refresh": { "token": token } }).to_string();
    assert_eq!(refreshed.ask(&refresh(&until(600)))["refresh"]["expires"], true);
    wrong.send(&text(&refresh(&token(&json!({ "sub": "another" })))));
    assert_eq!(wrong.closed(), 3500);
    assert_eq!(expiring.closed(), 3005);
    assert!(start.elapsed() > Duration::from_millis(2500), "{:?}", start.elapsed());
    assert_eq!(refreshed.ask(r#"{"id":3,"unsubscribe":{"channel":"x"}}"#)["id"], 3);
    drop(refreshed);
    server.wait_until_empty();
}

fn audience(server: &Server) {
    for aud in [json!("other"), json!(["other"]), json!(""), json!([]), json!("PON"), json!(null)] {
        invalid(server, &signed(&json!({ "alg": "HS256" }), &json!({ "sub": "a08", "aud": aud }), KEY));
    }
    invalid(server, &signed(&json!({ "alg": "HS256" }), &json!({ "sub": "a08" }), KEY));
    assert!(reply(server, &token(&json!({ "sub": "a08", "aud": ["other", "pond"] })))["connect"].is_object());
}

fn header_keys(server: &Server) {
    let claims = json!({ "sub": "a09", "aud": "pond" });
    for kid in ["../../etc/passwd", "http://localhost/", "' OR 1=1 --"] {
        let header =
            json!({ "alg": "HS256", "kid": kid, "jku": "http://localhost:1/", "x5u": "http://localhost:1/" });
        assert!(reply(server, &signed(&header, &claims, KEY))["connect"].is_object(), "{kid}");
        invalid(server, &signed(&header, &claims, "other"));
    }
    let jwk = json!({ "kty": "oct", "k": URL_SAFE_NO_PAD.encode("attacker") });
    invalid(server, &signed(&json!({ "alg": "HS256", "jwk": jwk }), &claims, "attacker"));
    invalid(server, &signed(&json!({ "alg": "HS256", "kid": "k".repeat(40_000) }), &claims, KEY));
}

fn kicked(server: &Server) {
    let connect = json!({ "token": token(&json!({ "sub": "a13" })) }).to_string();
    let mut peers: Vec<_> = (0..3).map(|_| Peer::connected_with(server.address, &connect)).collect();
    server.api("disconnect", r#"{"user":"a13"}"#);
    for peer in &mut peers {
        assert_eq!(peer.closed(), 3503);
    }
}

fn origins(server: &Server) {
    let with = |origin: &str| upgrade_with("Origin", &[&format!("Origin: {origin}")]);
    for origin in [
        "https://good.example.evil.com",
        "null",
        "https://good.example.",
        "https://user@good.example",
        "https://good.example:8443",
        "http://good.example",
        "https://good.example/",
        "https://g\u{f6}od.example",
        "https://evil.com#.good.example:8080",
        "http://evil.com/.good.example:8080",
        "",
        "*",
    ] {
        assert_status(server.address, &with(origin), 403);
    }
    let both = ["Origin: https://good.example", "Origin: https://evil.example"];
    assert_status(server.address, &upgrade_with("Origin", &both), 403);
    for origin in ["https://good.example", "HTTPS://GOOD.example:443", "http://a.good.example:8080"] {
        let mut peer = Peer::sending(server.address, &with(origin));
        peer.finish();
        assert!(peer.ending().bytes.starts_with(b"HTTP/1.1 101 "), "{origin}");
    }
}

fn cookies(server: &Server) {
    let lines = ["Origin: https://evil.example", "Cookie: session=1", "Authorization: Bearer x"];
    assert_status(server.address, &upgrade_with("Origin", &lines), 403);
}

/// It is not read there, and never written to the log.
fn token_in_query(server: &Server) {
    let line = format!("GET /connection/websocket?token={} HTTP/1.1", token(&json!({ "sub": "a18-user" })));
    let mut peer = Peer::sending(server.address, &crate::peer::request(&line, &crate::peer::GOOD));
    peer.finish();
    assert!(peer.ending().bytes.starts_with(b"HTTP/1.1 101 "));
    assert!(!server.log().contains("token=ey"));
}

fn bad_token_storm(server: &Server) {
    let bad = token(&json!({ "sub": "a19", "aud": "other" }));
    (0..500).for_each(|_| {
        let mut peer = Peer::upgraded(server.address);
        peer.send(&text(&json!({ "id": 1, "connect": { "token": bad } }).to_string()));
    });
    invalid(server, &bad);
    assert!(!server.log().contains(&bad));
}

fn from_the_future(server: &Server) {
    let with = |name: &str, at: i64| reply(server, &token(&json!({ "sub": "c05", name: at })));
    assert!(with("iat", now() + 30)["connect"].is_object());
    assert!(with("nbf", now() + LEEWAY - 2)["connect"].is_object());
    assert_eq!(with("nbf", now() + LEEWAY + 60)["error"]["code"], 109);
}

fn claims_of_wrong_kind(server: &Server) {
    for claims in [
        json!({ "sub": 1 }),
        json!({ "sub": "u", "exp": "tomorrow" }),
        json!({ "sub": "u", "nbf": [1] }),
        json!({ "sub": "u", "channel": "x" }),
        json!({ "sub": "u", "channels": "x" }),
        json!({ "sub": "u".repeat(1001) }),
    ] {
        invalid(server, &token(&claims));
    }
    let unknown = token(&json!({ "sub": "u", "channels": ["nowhere:x"] }));
    assert_eq!(reply(server, &unknown)["error"]["code"], 102);
}

fn failed_connect(server: &Server) {
    let mut peer = Peer::upgraded(server.address);
    let expired = token(&json!({ "sub": "u", "exp": 1 }));
    assert_eq!(
        peer.ask(&json!({ "id": 1, "connect": { "token": expired } }).to_string())["error"]["code"],
        109
    );
    peer.send(&text(r#"{"id":2,"connect":{}}"#));
    assert_eq!(peer.closed(), 3501);
}

fn foreign_subscription_tokens(server: &Server) {
    let subscribe =
        |claims: &Value| json!({ "id": 2, "subscribe": { "channel": "$a", "token": token(claims) } });
    for claims in [
        json!({ "channel": "$b" }),
        json!({ "channel": "$a", "sub": "other" }),
        json!({ "channel": "$a", "client": "other" }),
    ] {
        assert_close(server.address, &text(&subscribe(&claims).to_string()), 3500);
    }
    let mut peer = Peer::connected(server.address);
    let expired = subscribe(&json!({ "channel": "$a", "exp": 1 }));
    assert_eq!(peer.ask(&expired.to_string())["error"]["code"], 109);
    let unsigned = r#"{"id":2,"subscribe":{"channel":"$a","token":"x.y.z"}}"#;
    assert_eq!(peer.ask(unsigned)["error"]["code"], 103);
    assert!(peer.ask(&subscribe(&json!({ "channel": "$a" })).to_string())["subscribe"].is_object());
}
