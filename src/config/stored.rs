//! The sections of what is stored: the log, and the mailboxes in it.

use super::choices::Sync;
use super::reader::section;
use super::sections::{DAY, GIB, HOUR, KIB, MIB, SECOND, YEAR};
use super::value::{Count, OneOf, Size, Span, Text};
use crate::log::settings::WhenFull;

section! {
    /// Section `storage`.
    Storage {
        /// Directory of the log, made if it is missing. On a local disk: file systems in memory, on the network or mounted
        /// `noexec` are refused. Empty: nothing is stored, so no mailboxes and no durable history.
        path: Text = Text::default(),
        /// When something counts as stored: after `fdatasync` (`always`), after the write with `fdatasync` within
        /// `sync_interval` (`interval`), or after the write (`os`). With the last two a power cut may take what was
        /// acknowledged; a crash of the process never does.
        sync: OneOf<Sync> = OneOf(Sync::Always),
        /// With `sync = "interval"`: longest time from a write to its `fdatasync`.
        sync_interval: Span<1, { 60 * SECOND }> = Span::seconds(1),
        /// Size of one file of the log, preallocated: a multiple of 4096. A message takes at most half of it. One and a
        /// quarter of it are held back for a full disk.
        segment_size: Size<{ 64 * KIB }, { 2 * GIB }> = Size(64 * MIB),
        /// How long a group of appends waits for company before it is synced; while one is synced the next gathers anyway.
        commit_window: Span<0, 5> = Span::seconds(0),
        /// Appends that may wait for the disk; beyond, publishers are slowed down.
        queue_length: Count<16, 1_000_000> = Count(8192),
        /// How long position and cursors of a mailbox, and position and epoch of a durable history, outlive the last message.
        state_ttl: Span<HOUR, { 10 * YEAR }> = Span::seconds(720 * 3600),
        /// A full file of which less than this share (percent) is still needed is compacted; 0: files are only deleted
        /// once nothing in them is needed. On a full disk it is at least 90.
        compact_below: Count<0, 95> = Count(50),
        /// How often files are looked through for what is not needed any more.
        maintenance_interval: Span<SECOND, DAY> = Span::seconds(60),
    }
}

section! {
    /// Section `mailbox`.
    Mailbox {
        /// Keep messages for users who are away: `send` of the server API. Needs `storage.path` and
        /// `client.subscribe_to_user_personal_channel.enabled`.
        enabled: bool = false,
        /// A message that is not acknowledged so long after it went out is sent again to a live session. 0s: 30s, or where
        /// pongs acknowledge and come later than that, `client.ping_interval` and `client.pong_timeout` and a second.
        ack_wait: Span<0, DAY> = Span::seconds(0),
        /// Times a message is sent to live sessions before it goes to the dead-letter channel; 0: without end.
        max_deliveries: Count<0, 1000> = Count(5),
        /// A pong acknowledges what was sent before its ping, so that clients need no code for it. Where it is off, only
        /// the call `mailbox.ack` acknowledges.
        ack_by_pong: bool = true,
        /// Channel that is told of messages that were sent `max_deliveries` times in vain. Empty: they are only counted.
        dead_letter_channel: Text = Text::default(),
        /// How long a message waits when its sender does not say; 0s: without end.
        ttl: Span<0, { 10 * YEAR }> = Span::seconds(720 * 3600),
        /// Messages that may wait for one user.
        max_messages: Count<1, 10_000_000> = Count(10_000),
        /// Bytes of the log that may wait for one user.
        max_bytes: Size<{ 4 * KIB }, { u32::MAX as u64 }> = Size(16 * MIB),
        /// What happens to a message that would pass these limits: it is refused with error 120, or the oldest make room.
        when_full: OneOf<WhenFull> = OneOf(WhenFull::Reject),
        /// Devices of one user that may have cursors of their own.
        max_devices: Count<1, 255> = Count(16),
        /// Messages replayed in one reply, and in each frame after it.
        replay_page: Count<1, 10_000> = Count(200),
    }
}
