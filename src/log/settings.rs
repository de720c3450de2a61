//! What the log may be told, with bounds.

use std::time::Duration;

use super::error::SettingFault;

/// Settings of the log; checked by [`LogSettings::check`] when it is opened.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// Size of a new segment in bytes, preallocated: a multiple of 4096, 16 KiB to 2 GiB.
    pub segment_bytes: u64,
    /// When a request counts as stored.
    pub sync: SyncPolicy,
    /// How long a group waits for company after its first request; at most 5 ms, zero = not at all. While one group
    /// is being synced the next gathers anyway.
    pub commit_window: Duration,
    /// Bytes after which a group is written without waiting longer.
    pub batch_bytes: usize,
    /// Requests that may wait in the queue; beyond, appenders are refused.
    pub queue_length: usize,
    /// Bounds of one mailbox.
    pub mailbox: MailboxLimits,
    /// How long position and cursors of a stream outlive its last message.
    pub state_ttl: Duration,
    /// A full segment of which less than this many percent is still needed is compacted.
    pub compact_below_percent: u8,
    /// How often segments are looked through for what is not needed any more; zero = only when asked.
    pub maintenance_interval: Duration,
    /// Fresh random bytes: identity and hash key of a new log, and the salts of new segments.
    pub seed: [u8; 16],
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            sync: SyncPolicy::Always,
            commit_window: Duration::from_millis(1),
            batch_bytes: 1 << 20,
            queue_length: 16_384,
            mailbox: MailboxLimits::default(),
            state_ttl: Duration::from_secs(30 * 24 * 3600),
            compact_below_percent: 50,
            maintenance_interval: Duration::from_secs(60),
            seed: [0; 16],
        }
    }
}

impl LogSettings {
    /// Upper bound of [`commit_window`](Self::commit_window).
    pub const MAX_COMMIT_WINDOW: Duration = Duration::from_millis(5);

    /// Refuses what is out of bounds.
    ///
    /// # Errors
    /// The first setting that is out of bounds.
    pub fn check(&self) -> Result<(), SettingFault> {
        if !(16 << 10..=2 << 30).contains(&self.segment_bytes) || !self.segment_bytes.is_multiple_of(4096) {
            return Err(SettingFault::SegmentBytes);
        }
        if self.commit_window > Self::MAX_COMMIT_WINDOW {
            return Err(SettingFault::CommitWindow);
        }
        if self.batch_bytes < 4096 || self.batch_bytes as u64 > self.segment_bytes / 2 {
            return Err(SettingFault::BatchBytes);
        }
        if self.queue_length == 0 {
            return Err(SettingFault::QueueLength);
        }
        Ok(())
    }

    /// Longest record body in bytes: a record and its header fit into half a segment.
    #[must_use]
    pub fn max_body_bytes(&self) -> usize {
        usize::try_from(self.segment_bytes / 2).unwrap_or(usize::MAX).saturating_sub(4096)
    }
}

/// `storage.sync`: when a request is acknowledged, and so what a power cut may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncPolicy {
    /// After `fdatasync` of its group.
    Always,
    /// After the write; `fdatasync` follows within the interval.
    Interval(Duration),
    /// After the write; the operating system writes back when it likes.
    Os,
}

impl SyncPolicy {
    /// The promise in one sentence, for start-up and `millpond log stats`.
    #[must_use]
    pub fn in_words(self) -> String {
        match self {
            Self::Always => {
                "an acknowledged record survives a crash of the process and a power cut".to_owned()
            }
            Self::Interval(interval) => format!(
                "an acknowledged record survives a crash of the process; a power cut may take those of the last {} ms",
                interval.as_millis()
            ),
            Self::Os => {
                "an acknowledged record survives a crash of the process; a power cut may take those that the \
                         operating system has not written back yet (usually the last 30 s)"
                    .to_owned()
            }
        }
    }
}

/// Bounds of one mailbox. Messages that are neither acknowledged nor expired count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MailboxLimits {
    /// Messages.
    pub messages: u32,
    /// Bytes of their records (body with user, id and tags). Exact as long as a mailbox is acknowledged as a whole;
    /// after a partial acknowledgement the rest counts with the average size.
    pub bytes: u32,
    /// What happens to a message that would pass them.
    pub when_full: WhenFull,
    /// Devices with a cursor of their own.
    pub devices: u8,
}

impl Default for MailboxLimits {
    fn default() -> Self {
        Self { messages: 10_000, bytes: 16 << 20, when_full: WhenFull::Reject, devices: 16 }
    }
}

/// What a full mailbox does with one more message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// The new message is refused.
    Reject,
    /// The oldest messages make room.
    DropOldest,
}
