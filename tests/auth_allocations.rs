//! A verification allocates for what it returns and nothing else.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use millpond::hub::auth::Verifier;
use millpond::hub::settings::TokenSettings;
use serde_json::{Value, json};

const NOW: u64 = 1_800_000_000;

fn allocations(claims: &Value) -> u64 {
    let settings = TokenSettings { hmac_secret_key: Some("secret".into()), ..TokenSettings::default() };
    let verifier = Verifier::new(&settings).unwrap();
    let token = encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(b"secret")).unwrap();
    // The library of the signature prepares itself at the first use.
    verifier.connection(&token, NOW).unwrap();
    allocation_counter::measure(|| drop(verifier.connection(&token, NOW).unwrap())).count_total
}

#[test]
fn a_token_costs_what_it_grants() {
    assert_eq!(allocations(&json!({"exp": NOW + 60, "iat": NOW, "jti": "x"})), 0, "an anonymous user");
    assert_eq!(allocations(&json!({"sub": "42", "exp": NOW + 60})), 1, "the user id");
    let info = json!({"sub": "42", "info": {"name": "Ada"}, "meta": {"plan": "gold"}, "exp": NOW + 60});
    assert!(allocations(&info) <= 3, "user id, info, meta");
}

#[test]
fn a_refused_token_costs_nothing() {
    let settings = TokenSettings { hmac_secret_key: Some("secret".into()), ..TokenSettings::default() };
    let verifier = Verifier::new(&settings).unwrap();
    let claims = json!({"sub": "42", "info": {"name": "Ada"}, "exp": NOW + 60});
    let forged =
        encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(b"guess")).unwrap();
    for token in [forged.as_str(), "a.b.c", &"x".repeat(5000)] {
        assert!(verifier.connection(token, NOW).is_err());
        let counted = allocation_counter::measure(|| {
            let _ = verifier.connection(token, NOW);
        });
        assert_eq!(counted.count_total, 0, "{token:.20}");
    }
}
