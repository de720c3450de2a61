//! Where the key that signs tokens comes from.

use std::io::Read;
use std::path::PathBuf;
use std::str::FromStr;

use super::CliError;

/// `--key`: a file or standard input, never the key itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KeySource {
    File(PathBuf),
    Input,
}

/// A key was put on the command line.
#[derive(Debug, thiserror::Error)]
#[error(
    "a key on the command line can be read by every user of this host; give @FILE, or - for standard input, \
     or leave --key out and use the configuration or MILLPOND_CLIENT_TOKEN_HMAC_SECRET_KEY"
)]
pub(super) struct KeyInTheOpen;

impl FromStr for KeySource {
    type Err = KeyInTheOpen;

    fn from_str(text: &str) -> Result<Self, KeyInTheOpen> {
        match (text, text.strip_prefix('@')) {
            ("-", _) => Ok(Self::Input),
            (_, Some(file)) if !file.is_empty() => Ok(Self::File(file.into())),
            _ => Err(KeyInTheOpen),
        }
    }
}

impl KeySource {
    /// The key without the newline that editors and `echo` put behind it.
    pub(super) fn read(&self) -> Result<String, CliError> {
        let mut key = match self {
            Self::File(path) => std::fs::read_to_string(path)
                .map_err(|source| CliError::KeyFile { path: path.clone(), source })?,
            Self::Input => {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text)?;
                text
            }
        };
        key.truncate(key.trim_end_matches(['\n', '\r']).len());
        if key.is_empty() { Err(CliError::EmptyKey) } else { Ok(key) }
    }
}

/// A token as an argument, or `-` for standard input.
pub(super) fn token_argument(argument: &str) -> Result<String, CliError> {
    if argument != "-" {
        return Ok(argument.to_owned());
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    Ok(text.trim().to_owned())
}
