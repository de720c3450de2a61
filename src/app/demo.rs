//! Where the demo keeps its letters, and the key that says whose they are, so that they outlive a restart.

use std::path::PathBuf;

use super::store::OpenStore;
use super::{StartError, demo_key};
use crate::config::{Config, StorageConfig};
use crate::control::demo::switch_on;
use crate::control::settings::ControlSettings;
use crate::hub::events::EventKinds;
use crate::hub::settings::Settings;
use crate::log::settings::LogSettings;

/// Small: a demo has few letters, and files of the log are preallocated.
const SEGMENT_BYTES: u64 = 4 << 20;

/// A directory that goes away with the demo.
pub(super) struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "the directory of the demo could not be removed");
        }
    }
}

/// Switches the demo on and opens its log, as configured or in a directory of its own. Where that cannot be, the demo
/// runs without letters, and says so.
pub(super) fn start(
    config: &Config,
    settings: &mut Settings,
    control: &mut ControlSettings,
) -> Result<(Option<OpenStore>, Option<Scratch>), StartError> {
    let (storage, is_scratch) = match &config.storage {
        Some(storage) => (storage.clone(), false),
        None => own_storage()?,
    };
    let store = match OpenStore::open(&storage) {
        Ok(store) => Some(store),
        Err(error) => {
            tracing::warn!("the demo runs without letters to people who are away: {error}");
            settings.mailbox = None;
            settings.events = EventKinds::default();
            settings.channel.options.iter_mut().for_each(|options| options.history_durable = false);
            None
        }
    };
    let message_bytes = store.as_ref().map(|_| storage.message_bytes(&settings.client));
    let scratch = store.as_ref().filter(|_| is_scratch).map(|_| Scratch(storage.path.clone()));
    let token = &mut settings.client.token;
    if store.is_some() && !is_scratch && token.hmac_secret_key.is_none() {
        token.hmac_secret_key = demo_key::load(&demo_key::place(&storage.path))?;
    }
    switch_on(settings, control, message_bytes)?;
    Ok((store, scratch))
}

fn own_storage() -> Result<(StorageConfig, bool), StartError> {
    let log = LogSettings { segment_bytes: SEGMENT_BYTES, ..LogSettings::default() };
    let (path, is_scratch) = directory()?;
    Ok((StorageConfig { path, log, allow_volatile: false }, is_scratch))
}

/// The user's directory for state (XDG Base Directory Specification), else one of this start alone (true).
fn directory() -> Result<(PathBuf, bool), StartError> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    if let Some(state) = state {
        return Ok((state.join("millpond/demo"), false));
    }
    // The log makes it for this user alone (mode 0700); nobody can have made one with this name before.
    let mut name = [0; 8];
    getrandom::fill(&mut name).map_err(|error| StartError::Os(std::io::Error::other(error)))?;
    let name = format!("millpond-demo-{:016x}", u64::from_le_bytes(name));
    Ok((std::env::temp_dir().join(name), true))
}
