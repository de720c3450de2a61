//! The seam between the log and the disk: real files in [`super::files`], a fake disk for tests in [`super::fake`].
//!
//! Names are plain file names inside one flat directory. Nothing here buffers: a write is in the page cache when it
//! returns, on the medium when a later [`StorageFile::sync_data`] returns, and a name is on the medium when a later
//! [`Storage::sync_directory`] returns.

use std::borrow::Cow;
use std::fmt::Debug;
use std::sync::Arc;

use super::error::{OpenError, StorageError};

/// Unit in which a disk writes: a sector is old or new, a range of them any mixture.
pub const SECTOR_BYTES: usize = 512;

/// A directory of files.
pub trait Storage: Send + Sync + Debug {
    /// Takes the directory for this process, until [`unlock`](Self::unlock) or the end of the process.
    ///
    /// # Errors
    /// [`OpenError::Locked`] if another process has it, or why the directory cannot hold a log.
    fn lock(&self) -> Result<(), OpenError>;

    /// Gives the directory back. Readers may go on with what they have open.
    fn unlock(&self);

    /// Names of all plain files, in any order.
    ///
    /// # Errors
    /// What the file system says.
    fn list(&self) -> Result<Vec<String>, StorageError>;

    /// Creates a file that must not exist, with `length` bytes of zeros and the blocks for them.
    ///
    /// # Errors
    /// What the file system says; then no file is left behind.
    fn create(&self, name: &str, length: u64) -> Result<Arc<dyn StorageFile>, StorageError>;

    /// Opens an existing file.
    ///
    /// # Errors
    /// What the file system says.
    fn open(&self, name: &str) -> Result<Arc<dyn StorageFile>, StorageError>;

    /// Renames a file, replacing `to` if it exists, atomically.
    ///
    /// # Errors
    /// What the file system says.
    fn rename(&self, from: &str, to: &str) -> Result<(), StorageError>;

    /// Removes a name; the bytes live on while a handle or a view is open.
    ///
    /// # Errors
    /// What the file system says.
    fn remove(&self, name: &str) -> Result<(), StorageError>;

    /// Makes names durable.
    ///
    /// # Errors
    /// What the file system says.
    fn sync_directory(&self) -> Result<(), StorageError>;
}

/// An open file.
pub trait StorageFile: Send + Sync + Debug {
    /// Length in bytes.
    ///
    /// # Errors
    /// What the file system says.
    fn length(&self) -> Result<u64, StorageError>;

    /// Reads into `buffer`; fewer bytes than it holds only at the end of the file.
    ///
    /// # Errors
    /// What the file system says.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, StorageError>;

    /// Writes all bytes. After an error any part of them may have been written.
    ///
    /// # Errors
    /// What the file system says.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), StorageError>;

    /// Makes contents and length durable (`fdatasync`). After an error it is unknown which bytes are, and trying
    /// again tells nothing.
    ///
    /// # Errors
    /// What the file system says.
    fn sync_data(&self) -> Result<(), StorageError>;

    /// A view for reading.
    ///
    /// # Errors
    /// What the file system says.
    fn view(&self) -> Result<Arc<dyn View>, StorageError>;
}

/// A file as bytes in memory.
pub trait View: Send + Sync + Debug {
    /// `length` bytes from `offset`, which the caller knows to be written and never written again.
    ///
    /// # Errors
    /// [`StorageError::OutOfBounds`] beyond the end; [`StorageError::Device`] where the medium fails.
    fn bytes(&self, offset: u64, length: usize) -> Result<Cow<'_, [u8]>, StorageError>;
}
