//! Where the key that signs tokens comes from.

use std::io::Read;
use std::path::PathBuf;

use super::CliError;

/// `--key`: a file or standard input, never the key itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KeySource {
    File(PathBuf),
    Input,
    /// Something else, which may well be a key: it is refused without being shown.
    InTheOpen,
}

impl From<&str> for KeySource {
    fn from(text: &str) -> Self {
        match (text, text.strip_prefix('@')) {
            ("-", _) => Self::Input,
            (_, Some(file)) if !file.is_empty() => Self::File(file.into()),
            _ => Self::InTheOpen,
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
            Self::InTheOpen => return Err(CliError::KeyInTheOpen),
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
