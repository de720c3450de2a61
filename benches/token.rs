//! Cost of one token verification: 25,000 a second and core is the target for whole connects (figures.md), so a token
//! may take a small part of 40 µs.

use criterion::{Criterion, criterion_group, criterion_main};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use millpond::hub::auth::Verifier;
use millpond::hub::settings::TokenSettings;
use serde_json::{Value, json};

const NOW: u64 = 1_800_000_000;

fn token(algorithm: Algorithm, claims: &Value) -> String {
    let key = EncodingKey::from_secret(b"secret");
    encode(&Header::new(algorithm), claims, &key).unwrap_or_default()
}

fn verify(bench: &mut Criterion) {
    let settings = TokenSettings { hmac_secret_key: Some("secret".into()), ..TokenSettings::default() };
    let Ok(verifier) = Verifier::new(&settings) else { return };
    let plain = json!({"sub": "user-0012345", "exp": NOW + 3600, "iat": NOW});
    let full = json!({"sub": "user-0012345", "exp": NOW + 3600, "info": {"name": "Ada Lovelace"},
        "subs": {"news": {}, "chat:lobby": {"override": {"presence": {"value": true}}}}});
    let hs256 = token(Algorithm::HS256, &plain);
    let hs256_full = token(Algorithm::HS256, &full);
    let hs512 = token(Algorithm::HS512, &plain);
    for (name, token) in [("hs256", &hs256), ("hs256_subs", &hs256_full), ("hs512", &hs512)] {
        assert!(verifier.connection(token, NOW).is_ok());
        bench.bench_function(name, |bench| bench.iter(|| verifier.connection(token, NOW)));
    }
    let forged = encode(&Header::new(Algorithm::HS256), &plain, &EncodingKey::from_secret(b"guess"));
    let forged = forged.unwrap_or_default();
    assert!(verifier.connection(&forged, NOW).is_err());
    bench.bench_function("hs256_forged", |bench| bench.iter(|| verifier.connection(&forged, NOW)));

    // The same token through jsonwebtoken's own entry point, to show what preparing the keys saves.
    let key = DecodingKey::from_secret(b"secret");
    let mut rules = Validation::new(Algorithm::HS256);
    rules.validate_exp = false;
    bench.bench_function("hs256_jsonwebtoken_decode", |bench| {
        bench.iter(|| decode::<Value>(&hs256, &key, &rules));
    });
}

criterion_group!(benches, verify);
criterion_main!(benches);
