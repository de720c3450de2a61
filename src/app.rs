//! Wiring.

use crate::config::Config;

/// Why the gateway could not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {}

/// Runs the gateway until it is told to stop.
///
/// # Errors
/// See [`StartError`].
pub fn serve(_config: Config) -> Result<(), StartError> {
    Ok(())
}
