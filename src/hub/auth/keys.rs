//! Prepared keys. The family of a key fixes what it verifies: a shared secret HS256/384/512, an RSA key RS256/384/512,
//! an elliptic-curve key the one algorithm of its curve.
//!
//! The HMAC state after the key block and the parsed public keys are kept: with `jsonwebtoken` alone either would be
//! set up anew for every token, and its prepared verifiers are not `Send`.

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, EcdsaVerificationAlgorithm,
    ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;

use crate::hub::settings::TokenSettings;

/// Signature of an RSA key of 8192 bits, the largest accepted.
const MAX_SIGNATURE: usize = 1024;

/// A signature algorithm (RFC 7518 section 3.1) that some key may verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// HMAC with SHA-256.
    Hs256,
    /// HMAC with SHA-384.
    Hs384,
    /// HMAC with SHA-512.
    Hs512,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Rs512,
    /// ECDSA with P-256 and SHA-256.
    Es256,
    /// ECDSA with P-384 and SHA-384.
    Es384,
    /// ECDSA with P-521 and SHA-512.
    Es512,
}

impl Algorithm {
    /// The algorithm of an `alg` header, compared with case. `none` is not an algorithm.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "HS256" => Self::Hs256,
            "HS384" => Self::Hs384,
            "HS512" => Self::Hs512,
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "ES512" => Self::Es512,
            _ => return None,
        })
    }
}

/// A configured key that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// `rsa_public_key`
    #[error("is not the PEM of an RSA public key of 2048 to 8192 bits")]
    Rsa,
    /// `ecdsa_public_key`
    #[error("is not the PEM of a public key on curve P-256, P-384 or P-521")]
    Ecdsa,
    /// A private key where the public one belongs.
    #[error("is a private key; put the public key here and keep the private one where tokens are made")]
    Private,
}

/// Every key that tokens may be signed with.
pub(super) struct KeyRing {
    hmac: Option<HmacKeys>,
    previous_hmac: Option<HmacKeys>,
    /// Unix seconds, 0 = without end.
    previous_valid_until: u64,
    rsa: Option<RsaKeys>,
    ecdsa: Option<EcdsaKey>,
}

impl KeyRing {
    pub(super) fn new(settings: &TokenSettings) -> Result<Self, KeyError> {
        Ok(Self {
            hmac: HmacKeys::new(settings.hmac_secret_key.as_deref()),
            previous_hmac: HmacKeys::new(settings.hmac_previous_secret_key.as_deref()),
            previous_valid_until: settings.hmac_previous_secret_key_valid_until,
            rsa: settings.rsa_public_key.as_deref().map(RsaKeys::new).transpose()?,
            ecdsa: settings.ecdsa_public_key.as_deref().map(EcdsaKey::new).transpose()?,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.hmac.is_none() && self.previous_hmac.is_none() && self.rsa.is_none() && self.ecdsa.is_none()
    }

    /// True if a key of the algorithm's family made this signature.
    pub(super) fn verify(&self, algorithm: Algorithm, signed: &str, signature: &str, now_unix: u64) -> bool {
        let mut buffer = [0; MAX_SIGNATURE];
        let Ok(length) = URL_SAFE_NO_PAD.decode_slice(signature, &mut buffer) else { return false };
        let Some(signature) = buffer.get(..length) else { return false };
        let signed = signed.as_bytes();
        match algorithm {
            Algorithm::Hs256 | Algorithm::Hs384 | Algorithm::Hs512 => {
                self.hmac_keys(now_unix).any(|keys| keys.verify(algorithm, signed, signature))
            }
            Algorithm::Rs256 | Algorithm::Rs384 | Algorithm::Rs512 => {
                self.rsa.as_ref().is_some_and(|keys| keys.verify(algorithm, signed, signature))
            }
            Algorithm::Es256 | Algorithm::Es384 | Algorithm::Es512 => {
                self.ecdsa.as_ref().is_some_and(|key| key.verify(algorithm, signed, signature))
            }
        }
    }

    /// The current secret, then the former one while it is still accepted.
    fn hmac_keys(&self, now_unix: u64) -> impl Iterator<Item = &HmacKeys> {
        let until = self.previous_valid_until;
        let former = self.previous_hmac.as_ref().filter(|_| until == 0 || now_unix <= until);
        self.hmac.iter().chain(former)
    }
}

struct HmacKeys {
    sha256: hmac::Key,
    sha384: hmac::Key,
    sha512: hmac::Key,
}

impl HmacKeys {
    /// `None` for no secret or an empty one: an empty secret would accept tokens of anybody.
    fn new(secret: Option<&str>) -> Option<Self> {
        let secret = secret.filter(|secret| !secret.is_empty())?.as_bytes();
        Some(Self {
            sha256: hmac::Key::new(hmac::HMAC_SHA256, secret),
            sha384: hmac::Key::new(hmac::HMAC_SHA384, secret),
            sha512: hmac::Key::new(hmac::HMAC_SHA512, secret),
        })
    }

    /// Compares in constant time.
    fn verify(&self, algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> bool {
        let key = match algorithm {
            Algorithm::Hs256 => &self.sha256,
            Algorithm::Hs384 => &self.sha384,
            Algorithm::Hs512 => &self.sha512,
            _ => return false,
        };
        hmac::verify(key, signed, signature).is_ok()
    }
}

struct RsaKeys {
    sha256: ParsedPublicKey,
    sha384: ParsedPublicKey,
    sha512: ParsedPublicKey,
}

impl RsaKeys {
    fn new(pem: &str) -> Result<Self, KeyError> {
        refuse_private(pem)?;
        let key = DecodingKey::from_rsa_pem(pem.as_bytes()).map_err(|_| KeyError::Rsa)?;
        let der = key.try_get_as_bytes().map_err(|_| KeyError::Rsa)?;
        let prepared = |algorithm| ParsedPublicKey::new(algorithm, der).map_err(|_| KeyError::Rsa);
        Ok(Self {
            sha256: prepared(&RSA_PKCS1_2048_8192_SHA256)?,
            sha384: prepared(&RSA_PKCS1_2048_8192_SHA384)?,
            sha512: prepared(&RSA_PKCS1_2048_8192_SHA512)?,
        })
    }

    fn verify(&self, algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> bool {
        let key = match algorithm {
            Algorithm::Rs256 => &self.sha256,
            Algorithm::Rs384 => &self.sha384,
            Algorithm::Rs512 => &self.sha512,
            _ => return false,
        };
        key.verify_sig(signed, signature).is_ok()
    }
}

struct EcdsaKey {
    algorithm: Algorithm,
    key: ParsedPublicKey,
}

impl EcdsaKey {
    fn new(pem: &str) -> Result<Self, KeyError> {
        refuse_private(pem)?;
        let key = DecodingKey::from_ec_pem(pem.as_bytes()).map_err(|_| KeyError::Ecdsa)?;
        let point = key.try_get_as_bytes().map_err(|_| KeyError::Ecdsa)?;
        let curves: [(Algorithm, &'static EcdsaVerificationAlgorithm); 3] = [
            (Algorithm::Es256, &ECDSA_P256_SHA256_FIXED),
            (Algorithm::Es384, &ECDSA_P384_SHA384_FIXED),
            (Algorithm::Es512, &ECDSA_P521_SHA512_FIXED),
        ];
        for (algorithm, curve) in curves {
            if let Ok(key) = ParsedPublicKey::new(curve, point) {
                return Ok(Self { algorithm, key });
            }
        }
        Err(KeyError::Ecdsa)
    }

    fn verify(&self, algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> bool {
        algorithm == self.algorithm && self.key.verify_sig(signed, signature).is_ok()
    }
}

fn refuse_private(pem: &str) -> Result<(), KeyError> {
    if pem.contains("PRIVATE KEY-----") { Err(KeyError::Private) } else { Ok(()) }
}
