//! The rows A02 to A09 of bad-input.md against the verifier of tokens. Where a row and the client protocol differ
//! (A06), the client protocol holds: an expired token is `Expired` (error 109), and one without `exp` is fine.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair, RSA_PKCS1_SHA256,
    RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RsaEncoding, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use millpond::hub::auth::{KeyError, MAX_TOKEN_LENGTH, TokenFault, Verifier};
use millpond::hub::settings::TokenSettings;
use serde_json::{Value, json};

const NOW: u64 = 1_800_000_000;

fn message(header: &[u8], payload: &[u8]) -> String {
    format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload))
}

fn joined(message: &str, signature: &[u8]) -> String {
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn hs(algorithm: hmac::Algorithm, secret: &[u8], message: &str) -> String {
    let tag = hmac::sign(&hmac::Key::new(algorithm, secret), message.as_bytes());
    joined(message, tag.as_ref())
}

fn hs256_raw(header: &[u8], payload: &[u8]) -> String {
    hs(hmac::HMAC_SHA256, b"secret", &message(header, payload))
}

fn hs256(header: &Value, payload: &Value) -> String {
    hs256_raw(header.to_string().as_bytes(), payload.to_string().as_bytes())
}

fn token(payload: &Value) -> String {
    hs256(&json!({"alg": "HS256", "typ": "JWT"}), payload)
}

fn secret_settings() -> TokenSettings {
    TokenSettings { hmac_secret_key: Some("secret".into()), ..TokenSettings::default() }
}

fn verifier() -> Verifier {
    Verifier::new(&secret_settings()).unwrap()
}

fn verdict(verifier: &Verifier, token: &str) -> Result<(), TokenFault> {
    verifier.connection(token, NOW).map(|_| ())
}

const INVALID: Result<(), TokenFault> = Err(TokenFault::Invalid);
const EXPIRED: Result<(), TokenFault> = Err(TokenFault::Expired);

fn pem(der: &[u8]) -> String {
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der))
}

/// A key pair made for this run.
struct Rsa(RsaKeyPair);

impl Rsa {
    fn new() -> Self {
        Self(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    fn public_der(&self) -> Vec<u8> {
        let der: PublicKeyX509Der = self.0.public_key().as_der().unwrap();
        der.as_ref().to_vec()
    }

    fn settings(&self) -> TokenSettings {
        TokenSettings { rsa_public_key: Some(pem(&self.public_der())), ..TokenSettings::default() }
    }

    fn token(&self, name: &str, encoding: &'static dyn RsaEncoding) -> String {
        let message = message(json!({"alg": name}).to_string().as_bytes(), b"{\"sub\":\"1\"}");
        let mut signature = vec![0; self.0.public_modulus_len()];
        self.0.sign(encoding, &SystemRandom::new(), message.as_bytes(), &mut signature).unwrap();
        joined(&message, &signature)
    }
}

struct Ec {
    pair: EcdsaKeyPair,
    name: &'static str,
}

impl Ec {
    fn new(algorithm: &'static EcdsaSigningAlgorithm, name: &'static str) -> Self {
        Self { pair: EcdsaKeyPair::generate(algorithm).unwrap(), name }
    }

    fn public_der(&self) -> Vec<u8> {
        let der: PublicKeyX509Der = self.pair.public_key().as_der().unwrap();
        der.as_ref().to_vec()
    }

    fn settings(&self) -> TokenSettings {
        TokenSettings { ecdsa_public_key: Some(pem(&self.public_der())), ..TokenSettings::default() }
    }

    fn message(&self) -> String {
        message(json!({"alg": self.name}).to_string().as_bytes(), b"{\"sub\":\"1\"}")
    }

    fn token(&self) -> String {
        let message = self.message();
        let signature = self.pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        joined(&message, signature.as_ref())
    }
}

#[test]
fn every_family_verifies_what_its_key_signed() {
    let hmac_message = |name: &str| message(json!({"alg": name}).to_string().as_bytes(), b"{}");
    for (name, algorithm) in
        [("HS256", hmac::HMAC_SHA256), ("HS384", hmac::HMAC_SHA384), ("HS512", hmac::HMAC_SHA512)]
    {
        assert_eq!(verdict(&verifier(), &hs(algorithm, b"secret", &hmac_message(name))), Ok(()), "{name}");
    }
    let rsa = Rsa::new();
    let by_rsa = Verifier::new(&rsa.settings()).unwrap();
    let encodings: [(&str, &'static dyn RsaEncoding); 3] =
        [("RS256", &RSA_PKCS1_SHA256), ("RS384", &RSA_PKCS1_SHA384), ("RS512", &RSA_PKCS1_SHA512)];
    for (name, encoding) in encodings {
        assert_eq!(verdict(&by_rsa, &rsa.token(name, encoding)), Ok(()), "{name}");
    }
    assert_eq!(verdict(&by_rsa, &rsa.token("RS256", &RSA_PKCS1_SHA384)), INVALID, "another hash");
    assert_eq!(verdict(&by_rsa, &rsa.token("PS256", &RSA_PSS_SHA256)), INVALID, "not offered");
    assert_eq!(verdict(&by_rsa, &Rsa::new().token("RS256", &RSA_PKCS1_SHA256)), INVALID, "another key");
    let p256 = Ec::new(&ECDSA_P256_SHA256_FIXED_SIGNING, "ES256");
    let p384 = Ec::new(&ECDSA_P384_SHA384_FIXED_SIGNING, "ES384");
    let p521 = Ec::new(&ECDSA_P521_SHA512_FIXED_SIGNING, "ES512");
    for key in [&p256, &p384, &p521] {
        let by_ec = Verifier::new(&key.settings()).unwrap();
        assert_eq!(verdict(&by_ec, &key.token()), Ok(()), "{}", key.name);
        for other in [p256.token(), p384.token(), p521.token()] {
            assert_eq!(
                verdict(&by_ec, &other).is_ok(),
                other.split('.').next() == key.token().split('.').next()
            );
        }
    }
}

#[test]
fn keys_that_cannot_verify_are_refused_at_start() {
    let rsa = |key: &str| TokenSettings { rsa_public_key: Some(key.into()), ..TokenSettings::default() };
    let ec = |key: &str| TokenSettings { ecdsa_public_key: Some(key.into()), ..TokenSettings::default() };
    let rsa_pem = pem(&Rsa::new().public_der());
    let ec_pem = pem(&Ec::new(&ECDSA_P256_SHA256_FIXED_SIGNING, "ES256").public_der());
    let private = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let fault = |settings: TokenSettings| Verifier::new(&settings).err();
    assert_eq!(fault(rsa(&ec_pem)), Some(KeyError::Rsa));
    assert_eq!(fault(ec(&rsa_pem)), Some(KeyError::Ecdsa));
    assert_eq!(fault(rsa("")), Some(KeyError::Rsa));
    assert_eq!(fault(ec("no PEM")), Some(KeyError::Ecdsa));
    assert_eq!(fault(rsa(private)), Some(KeyError::Private));
    assert_eq!(fault(ec(private)), Some(KeyError::Private));
    assert_eq!(fault(rsa(&rsa_pem)), None);
}

#[test]
fn no_key_and_an_empty_secret_accept_nothing() {
    let none = Verifier::new(&TokenSettings::default()).unwrap();
    let empty = TokenSettings { hmac_secret_key: Some(String::new()), ..TokenSettings::default() };
    let empty = Verifier::new(&empty).unwrap();
    let by_empty = hs(hmac::HMAC_SHA256, b"", &message(b"{\"alg\":\"HS256\"}", b"{}"));
    for verifier in [none, empty] {
        assert!(!verifier.can_accept());
        assert_eq!(verdict(&verifier, &by_empty), INVALID);
        assert_eq!(verdict(&verifier, &token(&json!({}))), INVALID);
    }
}

#[test]
fn a_former_secret_is_accepted_until_its_time() {
    let with = |until: u64| {
        let settings = TokenSettings {
            hmac_secret_key: Some("new".into()),
            hmac_previous_secret_key: Some("secret".into()),
            hmac_previous_secret_key_valid_until: until,
            ..TokenSettings::default()
        };
        Verifier::new(&settings).unwrap()
    };
    let former = token(&json!({}));
    let current = hs(hmac::HMAC_SHA256, b"new", &message(b"{\"alg\":\"HS256\"}", b"{}"));
    for (until, expected) in [(0, Ok(())), (NOW, Ok(())), (NOW - 1, INVALID)] {
        assert_eq!(verdict(&with(until), &former), expected, "{until}");
        assert_eq!(verdict(&with(until), &current), Ok(()), "{until}");
    }
}

#[test]
fn a02_what_is_no_token_is_refused() {
    let good = token(&json!({"sub": "1"}));
    let parts: Vec<&str> = good.split('.').collect();
    let (header, payload, signature) = (parts[0], parts[1], parts[2]);
    let cases = [
        String::new(),
        ".".into(),
        "..".into(),
        "...".into(),
        "abc".into(),
        header.into(),
        format!("{header}.{payload}"),
        format!("{header}{payload}{signature}"),
        format!("{good}."),
        format!(".{good}"),
        format!("{good}.{signature}"),
        format!("{header}..{payload}.{signature}"),
        format!(" {good}"),
        format!("{good}\n"),
        format!("{header}=.{payload}.{signature}"),
        format!("{header}.{payload}.{signature}="),
        format!("{}.{payload}.{signature}", header.replace('J', "+")),
        format!("{header}.{payload}.é{signature}"),
        "a".repeat(1 << 20),
        ".".repeat(1 << 20),
        format!("{good}{}", "A".repeat(1 << 20)),
    ];
    for case in cases {
        let shown: String = case.chars().take(80).collect();
        assert_eq!(verdict(&verifier(), &case), INVALID, "{shown}");
        assert_eq!(verifier().subscription(&case, NOW).map(|_| ()), INVALID, "{shown}");
    }
    assert_eq!(verdict(&verifier(), &good), Ok(()));
}

#[test]
fn a02_the_length_cap_is_exact() {
    let padded = |length: usize| token(&json!({"sub": "1", "pad": "x".repeat(length)}));
    let fits = (0..MAX_TOKEN_LENGTH).rev().map(padded).find(|token| token.len() <= MAX_TOKEN_LENGTH).unwrap();
    assert!(fits.len() > MAX_TOKEN_LENGTH - 4);
    assert_eq!(verdict(&verifier(), &fits), Ok(()));
    let beyond = (0..MAX_TOKEN_LENGTH).map(padded).find(|token| token.len() > MAX_TOKEN_LENGTH).unwrap();
    assert_eq!(verdict(&verifier(), &beyond), INVALID);
}

#[test]
fn a02_signed_rubbish_is_refused() {
    let header = b"{\"alg\":\"HS256\"}";
    let members = format!("[{}null]", "null,".repeat(15));
    let payloads: [&[u8]; 17] = [
        members.as_bytes(),
        b"",
        b"null",
        b"[]",
        b"42",
        b"\"sub\"",
        b"{",
        b"{}x",
        b"{\"sub\":1}",
        b"{\"sub\":\"1\",\"sub\":\"2\"}",
        b"{\"sub\":\"\xff\"}",
        b"{\"\xff\":1}",
        b"{\"info\":\"\xff\"}",
        b"{\"sub\":\"\\ud800\"}",
        b"{\"exp\":{}}",
        b"{\"channels\":\"news\"}",
        b"{\"subs\":[]}",
    ];
    for payload in payloads {
        let shown = String::from_utf8_lossy(payload);
        assert_eq!(verdict(&verifier(), &hs256_raw(header, payload)), INVALID, "{shown}");
    }
    // Kept as text: nothing descends into it, so there is no depth that could exhaust a stack.
    let deep = |name: &str| format!("{{\"{name}\":{}{}}}", "[".repeat(1400), "]".repeat(1400));
    assert_eq!(verdict(&verifier(), &hs256_raw(header, deep("x").as_bytes())), Ok(()));
    // What clients would be sent nests no deeper than what they may send.
    assert_eq!(verdict(&verifier(), &hs256_raw(header, deep("info").as_bytes())), INVALID);
    for header in [
        &b""[..],
        b"null",
        b"[]",
        b"[\"HS256\",null,null]",
        b"{}",
        b"{\"alg\":256}",
        b"{\"alg\":\"HS256\"",
        b"\xff",
    ] {
        assert_eq!(verdict(&verifier(), &hs256_raw(header, b"{}")), INVALID, "{header:?}");
    }
}

#[test]
fn a02_claims_of_the_wrong_type_are_refused() {
    let cases = [
        json!({"channel": "x"}),
        json!({"channel": ""}),
        json!({"meta": "text"}),
        json!({"meta": []}),
        json!({"b64info": "not base64!"}),
        json!({"subs": {"a": {"b64data": "*"}}}),
        json!({"subs": {"a": {"override": {"presence": true}}}}),
        json!({"nbf": "soon"}),
        json!({"aud": 5}),
    ];
    for claims in cases {
        assert_eq!(verdict(&verifier(), &token(&claims)), INVALID, "{claims}");
    }
    let twice = b"{\"subs\":{\"a\":{},\"a\":{}}}";
    assert_eq!(verdict(&verifier(), &hs256_raw(b"{\"alg\":\"HS256\"}", twice)), INVALID);
    for fine in [json!({"info": null, "meta": null, "subs": null, "channel": null}), json!({"unknown": [1]})]
    {
        assert_eq!(verdict(&verifier(), &token(&fine)), Ok(()), "{fine}");
    }
}

#[test]
fn a03_the_key_decides_the_algorithm() {
    let payload = json!({"sub": "1"});
    for algorithm in ["none", "None", "nOnE", "NONE", "", "hs256", "HS256 ", "HS257", "EdDSA", "dir"] {
        let header = json!({"alg": algorithm});
        assert_eq!(verdict(&verifier(), &hs256(&header, &payload)), INVALID, "{algorithm:?}");
        let unsigned = format!("{}.", message(header.to_string().as_bytes(), payload.to_string().as_bytes()));
        assert_eq!(verdict(&verifier(), &unsigned), INVALID, "{algorithm:?}");
    }
    for header in [json!({}), json!({"alg": null}), json!({"alg": ["HS256"]})] {
        assert_eq!(verdict(&verifier(), &hs256(&header, &payload)), INVALID, "{header}");
    }
}

#[test]
fn a04_a_public_key_is_no_shared_secret() {
    let rsa = Rsa::new();
    let ec = Ec::new(&ECDSA_P256_SHA256_FIXED_SIGNING, "ES256");
    for (der, settings) in [(rsa.public_der(), rsa.settings()), (ec.public_der(), ec.settings())] {
        let with_secret = TokenSettings { hmac_secret_key: Some("other".into()), ..settings.clone() };
        for secret in [pem(&der).into_bytes(), pem(&der).trim_end().as_bytes().to_vec(), der.clone()] {
            let forged = hs(hmac::HMAC_SHA256, &secret, &message(b"{\"alg\":\"HS256\"}", b"{}"));
            for settings in [&settings, &with_secret] {
                assert_eq!(verdict(&Verifier::new(settings).unwrap(), &forged), INVALID);
            }
        }
    }
}

#[test]
fn a05_every_changed_byte_breaks_the_token() {
    let good = token(&json!({"sub": "1", "exp": NOW + 60}));
    for at in 0..good.len() {
        for replacement in [b'A', b'_', b'-', b'0', b'.', b'='] {
            let mut changed = good.clone().into_bytes();
            if changed[at] == replacement {
                continue;
            }
            changed[at] = replacement;
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(verdict(&verifier(), &changed), INVALID, "byte {at}: {changed}");
        }
        let shorter = format!("{}{}", &good[..at], &good[at + 1..]);
        assert_eq!(verdict(&verifier(), &shorter), INVALID, "without byte {at}");
    }
}

#[test]
fn a05_signatures_must_be_whole() {
    let message = message(b"{\"alg\":\"HS256\"}", b"{}");
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, b"secret"), message.as_bytes());
    let tag = tag.as_ref();
    assert_eq!(verdict(&verifier(), &joined(&message, tag)), Ok(()));
    for length in 0..tag.len() {
        assert_eq!(verdict(&verifier(), &joined(&message, &tag[..length])), INVALID, "{length} bytes");
    }
    assert_eq!(verdict(&verifier(), &joined(&message, &[tag, &[0]].concat())), INVALID);
    for bit in 0..tag.len() * 8 {
        let mut flipped = tag.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(verdict(&verifier(), &joined(&message, &flipped)), INVALID, "bit {bit}");
    }
    assert_eq!(verdict(&verifier(), &joined(&message, &[0; 2000])), INVALID, "longer than any signature");
}

#[test]
fn a05_degenerate_ecdsa_signatures_are_refused() {
    let key = Ec::new(&ECDSA_P256_SHA256_FIXED_SIGNING, "ES256");
    let verifier = Verifier::new(&key.settings()).unwrap();
    let message = key.message();
    let one = [vec![0; 31], vec![1]].concat();
    let zero = vec![0; 32];
    for (r, s) in [(&zero, &zero), (&zero, &one), (&one, &zero), (&one, &one)] {
        assert_eq!(verdict(&verifier, &joined(&message, &[r.as_slice(), s].concat())), INVALID);
    }
    assert_eq!(verdict(&verifier, &joined(&message, &[0xff; 64])), INVALID);
    assert_eq!(verdict(&verifier, &format!("{message}.")), INVALID);
    // The signature is r and s side by side (RFC 7518 section 3.4), not the ASN.1 of X.509.
    let other = Ec::new(&ECDSA_P256_SHA256_ASN1_SIGNING, "ES256");
    let by_other = Verifier::new(&other.settings()).unwrap();
    assert_eq!(verdict(&by_other, &other.token()), INVALID);
}

#[test]
fn a06_expiry_follows_the_client_protocol() {
    let leeway = TokenSettings { leeway: std::time::Duration::from_secs(5), ..secret_settings() };
    let leeway = Verifier::new(&leeway).unwrap();
    for (claims, expected) in [
        (json!({"exp": NOW - 6}), EXPIRED),
        (json!({"exp": NOW - 5}), Ok(())),
        (json!({"exp": NOW + 400 * 86400}), Ok(())),
        (json!({}), Ok(())),
        (json!({"nbf": NOW + 6}), EXPIRED),
        (json!({"nbf": NOW + 5}), Ok(())),
    ] {
        assert_eq!(verdict(&leeway, &token(&claims)), expected, "{claims}");
    }
    // A forged token does not tell that it would have expired.
    let forged = hs(hmac::HMAC_SHA256, b"guess", &message(b"{\"alg\":\"HS256\"}", b"{\"exp\":5}"));
    assert_eq!(verdict(&leeway, &forged), INVALID);
}

#[test]
fn a08_audience_issuer_and_type_must_be_ours() {
    let settings = TokenSettings {
        audience: Some("chat".into()),
        issuer: Some("https://id.example".into()),
        ..secret_settings()
    };
    let exact = Verifier::new(&settings).unwrap();
    let pattern = |text: &str| Some(regex::Regex::new(text).unwrap());
    let settings = TokenSettings {
        audience_regex: pattern("^chat(-eu)?$"),
        issuer_regex: pattern(r"^https://[a-z]+\.example$"),
        ..secret_settings()
    };
    let by_pattern = Verifier::new(&settings).unwrap();
    let ours = "https://id.example";
    for (claims, expected) in [
        (json!({"aud": "chat", "iss": ours}), Ok(())),
        (json!({"aud": ["other", "chat"], "iss": ours}), Ok(())),
        (json!({"aud": ["other"], "iss": ours}), INVALID),
        (json!({"aud": [], "iss": ours}), INVALID),
        (json!({"aud": "Chat", "iss": ours}), INVALID),
        (json!({"aud": "chatter", "iss": ours}), INVALID),
        (json!({"aud": null, "iss": ours}), INVALID),
        (json!({"iss": ours}), INVALID),
        (json!({"aud": "chat", "iss": "https://id.example.evil.com"}), INVALID),
        (json!({"aud": "chat"}), INVALID),
        (json!({"aud": "other", "iss": ours, "exp": 5}), INVALID),
    ] {
        assert_eq!(verdict(&exact, &token(&claims)), expected, "{claims}");
        assert_eq!(verdict(&by_pattern, &token(&claims)), expected, "{claims} by pattern");
    }
    assert_eq!(verdict(&by_pattern, &token(&json!({"aud": "chat-eu", "iss": "https://eu.example"}))), Ok(()));
    for (typ, expected) in [
        (json!("JWT"), Ok(())),
        (json!("jwt"), Ok(())),
        (json!("application/jwt"), Ok(())),
        (json!("at+jwt"), Ok(())),
        (json!(null), Ok(())),
        (json!("JWE"), INVALID),
        (json!("dpop+jwt"), INVALID),
        (json!(""), INVALID),
        (json!(1), INVALID),
    ] {
        let header = json!({"alg": "HS256", "typ": typ});
        assert_eq!(verdict(&verifier(), &hs256(&header, &json!({}))), expected, "{header}");
    }
}

#[test]
fn a09_header_keys_are_not_followed() {
    let rsa = Rsa::new();
    let ignored = [
        ("kid", json!("unknown")),
        ("kid", json!("../../etc/passwd")),
        ("kid", json!("http://127.0.0.1/key")),
        ("kid", json!("' OR 1=1 --")),
        ("kid", json!({"a": 1})),
        ("jku", json!("http://127.0.0.1/keys")),
        ("x5u", json!("http://127.0.0.1/chain")),
        ("jwk", json!({"kty": "oct", "k": "c2VjcmV0"})),
        ("x5c", json!(["AAAA"])),
    ];
    for (name, value) in &ignored {
        let mut header = json!({"alg": "HS256"});
        header[*name] = value.clone();
        assert_eq!(verdict(&verifier(), &hs256(&header, &json!({}))), Ok(()), "{header}");
        // The key that the header offers signs nothing, even where no key is configured.
        let none = Verifier::new(&rsa.settings()).unwrap();
        assert_eq!(verdict(&none, &hs256(&header, &json!({}))), INVALID, "{header}");
    }
    let huge = json!({"alg": "HS256", "kid": "k".repeat(65536)});
    assert_eq!(verdict(&verifier(), &hs256(&huge, &json!({}))), INVALID);
    let critical = json!({"alg": "HS256", "crit": ["exp"]});
    assert_eq!(verdict(&verifier(), &hs256(&critical, &json!({}))), INVALID);
}

#[test]
fn skipping_signatures_skips_nothing_else() {
    let settings = TokenSettings { insecure_skip_signature_verify: true, ..TokenSettings::default() };
    let verifier = Verifier::new(&settings).unwrap();
    assert!(verifier.can_accept());
    let unsigned =
        |claims: &Value| format!("{}.", message(b"{\"alg\":\"none\"}", claims.to_string().as_bytes()));
    assert_eq!(verifier.connection(&unsigned(&json!({"sub": "1"})), NOW).unwrap().user, "1");
    assert_eq!(verdict(&verifier, &unsigned(&json!({"exp": 5}))), EXPIRED);
    assert_eq!(verdict(&verifier, &unsigned(&json!({"channel": "x"}))), INVALID);
    assert_eq!(verdict(&verifier, "a.b"), INVALID);
    assert_eq!(verdict(&verifier, &"a".repeat(5000)), INVALID);
}
