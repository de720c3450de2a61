//! Everything that can go wrong in the log, as closed enums: who is at fault, and whether it may be tried again.

use super::record::Sequence;

/// A fault of the file system, as far as the log tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    /// `ENOSPC` or `EDQUOT`: refused now, works again when space returns.
    #[error("no space left on the device")]
    DiskFull,
    /// `EROFS`, `EACCES` or `EPERM`.
    #[error("the directory is not writable")]
    ReadOnly,
    /// `ENOENT`.
    #[error("there is no such file or directory")]
    NotFound,
    /// `ENOTDIR`.
    #[error("it is not a directory, or something above it is none")]
    NotADirectory,
    /// `EEXIST`.
    #[error("the file exists already")]
    Exists,
    /// `EIO`, or a page of the memory map that cannot be read.
    #[error("the device failed to read or write")]
    Device,
    /// `EOPNOTSUPP`: the file system cannot preallocate or punch holes.
    #[error("the file system lacks an operation the log needs")]
    Unsupported,
    /// `EMFILE` or `ENFILE`.
    #[error("too many open files")]
    TooManyFiles,
    /// Bytes outside of the file were asked for.
    #[error("read beyond the end of the file")]
    OutOfBounds,
    /// Any other `errno`.
    #[error("operating system error {0}")]
    Other(i32),
}

/// Why a log cannot be opened. None of these has changed anything on the disk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Another process holds the lock (bad-input.md S15).
    #[error("the log directory is in use by another process")]
    Locked,
    /// The directory cannot hold durable data (S26).
    #[error("the log directory cannot keep data durably: {0}")]
    Unsuitable(Unsuitable),
    /// Written by a later version of millpond (S16).
    #[error("segment {segment:016x} has format version {version}, this millpond reads up to {supported}")]
    FutureVersion {
        /// Id of the segment.
        segment: u64,
        /// Its version.
        version: u32,
        /// The highest version this program reads.
        supported: u32,
    },
    /// Written with the other byte order (S16).
    #[error("segment {segment:016x} was written with the other byte order")]
    ByteOrder {
        /// Id of the segment.
        segment: u64,
    },
    /// The file belongs to another log (S14).
    #[error("segment {segment:016x} belongs to another log or to another place in this one")]
    Foreign {
        /// Id from the file name.
        segment: u64,
    },
    /// A record kind this program must understand and does not (S16).
    #[error("segment {segment:016x} holds records of the unknown kind {kind}")]
    UnknownKind {
        /// Id of the segment.
        segment: u64,
        /// The kind.
        kind: u16,
    },
    /// A setting is out of bounds.
    #[error("invalid log setting: {0}")]
    Setting(SettingFault),
    /// A tool was to look at a directory that no log was ever opened in.
    #[error("there is no log in it: neither a segment nor the file LOCK")]
    NoLog,
    /// The file system failed.
    #[error("storage: {0}")]
    Storage(#[from] StorageError),
}

/// Why a directory is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsuitable {
    /// Mounted or permitted read-only.
    #[error("it is read-only")]
    ReadOnly,
    /// A file system in memory.
    #[error("it is on a file system in memory (tmpfs or ramfs)")]
    Memory,
    /// A network file system, on which neither `flock` nor `fdatasync` keeps its promise.
    #[error("it is on a network file system")]
    Network,
    /// Mounted `noexec`: places for temporary files are mounted so, and cleared at boot.
    #[error("it is on a mount with the option noexec, as directories for temporary files are")]
    NoExec,
    /// The file system has no `fallocate`.
    #[error("its file system cannot preallocate files")]
    NoPreallocation,
}

/// Which setting is out of bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingFault {
    /// `segment_bytes`
    #[error("segment_bytes must be a multiple of 4096 between 16 KiB and 2 GiB")]
    SegmentBytes,
    /// `commit_window`
    #[error("commit_window must be at most 5 ms")]
    CommitWindow,
    /// `batch_bytes`
    #[error("batch_bytes must be at least 4 KiB and at most half of segment_bytes")]
    BatchBytes,
    /// `queue_length`
    #[error("queue_length must be at least 1")]
    QueueLength,
}

/// Why a request was not even queued. Nothing of it will ever be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefuseError {
    /// The queue or the appender's allowance of unacknowledged requests is full: slow the publisher down.
    #[error("the log's queue is full")]
    Full,
    /// The record is larger than a segment takes.
    #[error("the record is too large for the log")]
    TooLarge,
    /// The log is closed.
    #[error("the log is closed")]
    Closed,
}

/// Why a queued request was not acknowledged as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The mailbox is at its limit and the policy is to reject. Not stored.
    #[error("the mailbox is full")]
    MailboxFull,
    /// A mailbox has as many device cursors as it may have. Not stored.
    #[error("too many devices hold a cursor in this mailbox")]
    TooManyDevices,
    /// Not stored, and will never appear (bad-input.md R19, S12).
    #[error("not stored: {0}")]
    NotStored(StorageError),
    /// Writing or syncing failed and the failure could not be sealed off yet: after a crash the record may be there
    /// or not (S11). It is never appended again by the log.
    #[error("perhaps not stored: {0}")]
    Uncertain(StorageError),
    /// The log was closed before the request was written. Not stored.
    #[error("the log is closed")]
    Closed,
}

/// Why records could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The record is damaged or lies in a damaged stretch.
    #[error("record {0} is damaged")]
    Damaged(Sequence),
    /// The record was removed by retention, or never existed.
    #[error("record {0} is gone")]
    Gone(Sequence),
    /// The file system failed; other records may still be readable (bad-input.md S13).
    #[error("storage: {0}")]
    Storage(#[from] StorageError),
}

impl From<&std::io::Error> for StorageError {
    fn from(error: &std::io::Error) -> Self {
        error.raw_os_error().map_or(Self::Other(0), Self::from_errno)
    }
}

impl From<std::io::Error> for StorageError {
    fn from(error: std::io::Error) -> Self {
        Self::from(&error)
    }
}

impl From<rustix::io::Errno> for StorageError {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::from_errno(errno.raw_os_error())
    }
}

impl StorageError {
    fn from_errno(errno: i32) -> Self {
        use rustix::io::Errno;
        match Errno::from_raw_os_error(errno) {
            Errno::NOSPC | Errno::DQUOT => Self::DiskFull,
            Errno::ROFS | Errno::ACCESS | Errno::PERM => Self::ReadOnly,
            Errno::NOENT => Self::NotFound,
            Errno::EXIST => Self::Exists,
            Errno::NOTDIR => Self::NotADirectory,
            // MADV_POPULATE_READ says EFAULT where a plain read of the map would raise SIGBUS.
            Errno::IO | Errno::FAULT | Errno::HWPOISON => Self::Device,
            Errno::OPNOTSUPP => Self::Unsupported,
            Errno::MFILE | Errno::NFILE => Self::TooManyFiles,
            _ => Self::Other(errno),
        }
    }
}
