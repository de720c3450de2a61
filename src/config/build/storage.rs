//! The log, and the mailboxes in it: what each needs of the other and of the clients.

use std::path::PathBuf;
use std::time::Duration;

use super::Checks;
use super::channel::options_of;
use crate::config::choices::Sync;
use crate::config::problem::Rule;
use crate::config::reader::join;
use crate::config::sections::Root;
use crate::config::stored::{Mailbox, Storage};
use crate::config::{Notice, StorageConfig};
use crate::hub::channel_name;
use crate::hub::settings::{ChannelSettings, ClientSettings, MailboxSettings};
use crate::limits::MESSAGE_OVERHEAD_BYTES;
use crate::log::settings::{LogSettings, MailboxLimits, SyncPolicy};

/// `mailbox.ack_wait` where it is left to us and pongs do not take longer.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// How much later than the latest pong a message is sent again, where `mailbox.ack_wait` is left to us.
const AFTER_THE_PONG: Duration = Duration::from_secs(1);

impl Checks<'_> {
    /// `None` where nothing is stored.
    pub(super) fn storage(&mut self, root: &Root) -> Option<StorageConfig> {
        let section = &root.storage;
        if !section.segment_size.0.is_multiple_of(4096) {
            self.contradiction("storage.segment_size", Rule::SegmentSize);
        }
        if section.path.0.is_empty() {
            return None;
        }
        let log = log_settings(section, &root.mailbox);
        let allow_volatile = log.sync == SyncPolicy::Os;
        Some(StorageConfig { path: PathBuf::from(&section.path.0), log, allow_volatile })
    }

    /// `None` where mailboxes are off.
    pub(super) fn mailbox(
        &mut self,
        root: &Root,
        client: &ClientSettings,
        channel: &ChannelSettings,
    ) -> Option<MailboxSettings> {
        let section = &root.mailbox;
        if !section.enabled {
            return None;
        }
        if root.storage.path.0.is_empty() {
            self.contradiction("mailbox.enabled", Rule::MailboxNeedsStorage);
        }
        if client.personal_channel.is_none() {
            self.contradiction("mailbox.enabled", Rule::MailboxNeedsPersonal);
        }
        self.personal_history(root, channel, client);
        let dead_letter = &section.dead_letter_channel.0;
        if !dead_letter.is_empty() && channel_name::parse(channel, dead_letter).is_err() {
            self.contradiction("mailbox.dead_letter_channel", Rule::MailboxDeadLetter);
        }
        Some(MailboxSettings {
            ack_wait: self.ack_wait(section, client),
            max_deliveries: section.max_deliveries.0,
            ack_by_pong: section.ack_by_pong,
            dead_letter_channel: dead_letter.clone(),
            letter_bytes: self.letter_bytes(root, channel, client),
            ttl: section.ttl.0,
            replay_page: section.replay_page.0,
        })
    }

    /// What a dead letter may have: the log takes it, if it is to be stored, and a subscriber's queue too.
    fn letter_bytes(&mut self, root: &Root, channel: &ChannelSettings, client: &ClientSettings) -> usize {
        let queue = client.queue_max_size / 4 * 3;
        let parsed = channel_name::parse(channel, &root.mailbox.dead_letter_channel.0);
        if !parsed.is_ok_and(|of| of.options.history_durable && of.options.has_history()) {
            return queue;
        }
        let log = log_settings(&root.storage, &root.mailbox);
        let record = log.max_body_bytes().saturating_sub(MESSAGE_OVERHEAD_BYTES);
        if record < queue {
            self.notices.push(Notice::DeadLetterData { bytes: record });
        }
        record.min(queue)
    }

    fn personal_history(&mut self, root: &Root, channel: &ChannelSettings, client: &ClientSettings) {
        let namespace = client.personal_channel.as_ref().map(|personal| personal.namespace.as_str());
        if let Some((path, options)) = namespace.and_then(|name| options_of(root, channel, name))
            && options.has_history()
        {
            self.notices.push(Notice::MailboxHistory(join(&path, "history_size")));
        }
    }

    /// A pong comes at the latest `ping_interval` and `pong_timeout` after the message went out.
    fn ack_wait(&mut self, section: &Mailbox, client: &ClientSettings) -> Duration {
        let wanted = section.ack_wait.0;
        if !section.ack_by_pong {
            return if wanted.is_zero() { ACK_WAIT } else { wanted };
        }
        if client.ping_interval.is_zero() || client.pong_timeout.is_zero() {
            self.contradiction("mailbox.ack_by_pong", Rule::MailboxPong);
            return ACK_WAIT;
        }
        let latest_pong = client.ping_interval + client.pong_timeout;
        if wanted.is_zero() {
            return ACK_WAIT.max(latest_pong + AFTER_THE_PONG);
        }
        if wanted <= latest_pong {
            self.contradiction("mailbox.ack_wait", Rule::MailboxAckWait);
        }
        wanted
    }
}

fn log_settings(section: &Storage, mailbox: &Mailbox) -> LogSettings {
    let usual = LogSettings::default();
    let half = usize::try_from(section.segment_size.0 / 2).unwrap_or(usize::MAX);
    LogSettings {
        segment_bytes: section.segment_size.0,
        sync: match section.sync.0 {
            Sync::Always => SyncPolicy::Always,
            Sync::Interval => SyncPolicy::Interval(section.sync_interval.0),
            Sync::Os => SyncPolicy::Os,
        },
        commit_window: section.commit_window.0,
        batch_bytes: usual.batch_bytes.min(half),
        queue_length: usize::try_from(section.queue_length.0).unwrap_or(usize::MAX),
        mailbox: MailboxLimits {
            messages: mailbox.max_messages.0,
            bytes: u32::try_from(mailbox.max_bytes.0).unwrap_or(u32::MAX),
            when_full: mailbox.when_full.0,
            devices: u8::try_from(mailbox.max_devices.0).unwrap_or(u8::MAX),
        },
        state_ttl: section.state_ttl.0,
        compact_below_percent: u8::try_from(section.compact_below.0).unwrap_or(u8::MAX),
        maintenance_interval: section.maintenance_interval.0,
        ..usual
    }
}
