//! The wall clock of deliveries: signatures and expiry are about the world's time.

use std::time::SystemTime;

/// Now.
#[allow(clippy::disallowed_methods, reason = "the control plane reads the clock itself")]
pub(super) fn now() -> SystemTime {
    SystemTime::now()
}

/// Milliseconds since 1970.
#[must_use]
pub fn unix_ms() -> u64 {
    let since = now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
