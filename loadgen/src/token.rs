//! Connection tokens, minted locally: an HS256 JWT per connection with a user and an expiry of its own.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

use crate::clock;

/// Mints the tokens of one worker.
pub struct Minter {
    key: EncodingKey,
    header: Header,
    lifetime_seconds: u64,
}

/// The claims that a server of the protocol reads (client-protocol.md section 7).
#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    exp: u64,
    iat: u64,
}

/// A token could not be signed; with HS256 this means that the library refused the key.
#[derive(Debug, thiserror::Error)]
#[error("a token could not be signed: {0}")]
pub struct MintError(#[from] jsonwebtoken::errors::Error);

impl Minter {
    /// A minter that signs with `secret`; every token lives for `lifetime_seconds`.
    #[must_use]
    pub fn new(secret: &[u8], lifetime_seconds: u64) -> Self {
        Self {
            key: EncodingKey::from_secret(secret),
            header: Header::new(Algorithm::HS256),
            lifetime_seconds,
        }
    }

    /// The token of `user`. The expiry of neighbouring connections differs, so that tokens are distinct even where
    /// users are not, and so that refreshes do not fall due together.
    ///
    /// # Errors
    /// [`MintError`] where the library cannot sign.
    pub fn mint(&self, user: &str, serial: u32) -> Result<String, MintError> {
        let now = clock::unix_seconds();
        let exp = now.saturating_add(self.lifetime_seconds).saturating_add(u64::from(serial % 600));
        Ok(jsonwebtoken::encode(&self.header, &Claims { sub: user, exp, iat: now }, &self.key)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{DecodingKey, Validation};

    #[test]
    fn a_token_verifies_with_the_same_secret_and_names_its_user() {
        #[derive(serde::Deserialize)]
        struct Read {
            sub: String,
        }
        let token = Minter::new(b"secret", 60).mint("u7", 7).unwrap();
        let validation = Validation::new(Algorithm::HS256);
        let read =
            jsonwebtoken::decode::<Read>(&token, &DecodingKey::from_secret(b"secret"), &validation).unwrap();
        assert_eq!(read.claims.sub, "u7");
        assert!(
            jsonwebtoken::decode::<Read>(&token, &DecodingKey::from_secret(b"other"), &validation).is_err()
        );
    }

    #[test]
    fn neighbours_have_different_tokens() {
        let minter = Minter::new(b"secret", 60);
        assert_ne!(minter.mint("u", 1).unwrap(), minter.mint("u", 2).unwrap());
    }
}
