//! Real files: one directory, locked with `flock`, segments preallocated with `fallocate`.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FallocateFlags, StatVfsMountFlags, fallocate, fstatfs, fstatvfs};

use super::error::{OpenError, StorageError, Unsuitable};
use super::map::Map;
use super::storage::{Storage, StorageFile, View};

/// Name of the file that carries the lock.
pub(super) const LOCK_NAME: &str = "LOCK";

/// File system types that do not outlive the machine's power (linux/magic.h).
const MEMORY_FILE_SYSTEMS: [i64; 2] = [0x0102_1994, 0x8584_58f6];
/// NFS, SMB, CIFS, SMB2, Ceph, AFS, 9p and FUSE-over-network cannot be told apart from good ones by their calls.
const NETWORK_FILE_SYSTEMS: [i64; 7] =
    [0x6969, 0x517b, 0xff53_4d42, 0xfe53_4d42, 0x00c3_6400, 0x5346_414f, 0x0102_1997];

/// A directory on a real file system.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    handle: File,
    allow_volatile: bool,
    lock: Mutex<Option<File>>,
}

impl Directory {
    /// Opens `path`, creating it (mode 0700) if it is missing. With `allow_volatile` the log also accepts file systems
    /// that do not keep data durably, which is for tests and for `sync = os`.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(path: &Path, allow_volatile: bool) -> Result<Self, StorageError> {
        if path.exists() && !path.is_dir() {
            return Err(StorageError::NotADirectory);
        }
        let missing =
            path.ancestors().take_while(|ancestor| !ancestor.as_os_str().is_empty() && !ancestor.exists());
        let made: Vec<&Path> = missing.collect();
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        // A directory whose name is lost in a power cut takes everything in it along.
        for parent in made.iter().filter_map(|made| made.parent()) {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            File::open(parent)?.sync_all()?;
        }
        Self::open_existing(path, allow_volatile)
    }

    /// Opens `path`, which must exist: for tools that only look.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open_existing(path: &Path, allow_volatile: bool) -> Result<Self, StorageError> {
        let handle = File::open(path)?;
        Ok(Self { path: path.to_owned(), handle, allow_volatile, lock: Mutex::new(None) })
    }

    /// True if a process has the log open, as far as `/proc/locks` tells. Asking takes no lock, so a tool that looks
    /// never keeps a server from starting.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        let Ok(lock) = std::fs::metadata(self.path.join(LOCK_NAME)) else { return false };
        let Ok(locks) = std::fs::read_to_string("/proc/locks") else { return false };
        let inode = format!(":{}", lock.ino());
        locks.lines().any(|line| {
            let mut fields = line.split_ascii_whitespace();
            fields.any(|field| field == "FLOCK") && fields.any(|field| field.ends_with(&inode))
        })
    }

    /// Refuses what cannot keep data durably (bad-input.md S26).
    fn check_suitable(&self) -> Result<(), OpenError> {
        let mount = fstatvfs(&self.handle).map_err(StorageError::from)?;
        if mount.f_flag.contains(StatVfsMountFlags::RDONLY) {
            return Err(OpenError::Unsuitable(Unsuitable::ReadOnly));
        }
        if self.allow_volatile {
            return Ok(());
        }
        let kind = fstatfs(&self.handle).map_err(StorageError::from)?.f_type;
        if MEMORY_FILE_SYSTEMS.contains(&kind) {
            return Err(OpenError::Unsuitable(Unsuitable::Memory));
        }
        if NETWORK_FILE_SYSTEMS.contains(&kind) {
            return Err(OpenError::Unsuitable(Unsuitable::Network));
        }
        if mount.f_flag.contains(StatVfsMountFlags::NOEXEC) {
            return Err(OpenError::Unsuitable(Unsuitable::NoExec));
        }
        Ok(())
    }

    fn open_lock_file(&self) -> Result<File, OpenError> {
        let options =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).clone();
        options.open(self.path.join(LOCK_NAME)).map_err(|error| match StorageError::from(&error) {
            StorageError::ReadOnly => OpenError::Unsuitable(Unsuitable::ReadOnly),
            other => OpenError::Storage(other),
        })
    }
}

impl Storage for Directory {
    fn lock(&self) -> Result<(), OpenError> {
        self.check_suitable()?;
        let file = self.open_lock_file()?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(OpenError::Locked),
            Err(std::fs::TryLockError::Error(error)) => return Err(OpenError::Storage(error.into())),
        }
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
        Ok(())
    }

    fn unlock(&self) {
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn list(&self) -> Result<Vec<String>, StorageError> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn create(&self, name: &str, length: u64) -> Result<Arc<dyn StorageFile>, StorageError> {
        let path = self.path.join(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        if length > 0
            && let Err(errno) = fallocate(&file, FallocateFlags::empty(), 0, length)
        {
            std::fs::remove_file(&path)?;
            return Err(errno.into());
        }
        Ok(Arc::new(DiskFile { file }))
    }

    fn open(&self, name: &str) -> Result<Arc<dyn StorageFile>, StorageError> {
        let path = self.path.join(name);
        // A tool that only looks may run where it must not write.
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Err(error) if StorageError::from(&error) == StorageError::ReadOnly => File::open(&path)?,
            other => other?,
        };
        Ok(Arc::new(DiskFile { file }))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), StorageError> {
        Ok(std::fs::rename(self.path.join(from), self.path.join(to))?)
    }

    fn remove(&self, name: &str) -> Result<(), StorageError> {
        Ok(std::fs::remove_file(self.path.join(name))?)
    }

    fn sync_directory(&self) -> Result<(), StorageError> {
        Ok(self.handle.sync_all()?)
    }
}

#[derive(Debug)]
struct DiskFile {
    file: File,
}

impl StorageFile for DiskFile {
    fn length(&self) -> Result<u64, StorageError> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, StorageError> {
        let mut read = 0_usize;
        while let Some(rest) = buffer.get_mut(read..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, offset.saturating_add(read as u64)) {
                Ok(0) => break,
                Ok(count) => read = read.saturating_add(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(read)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        // `write_all_at` repeats short and interrupted writes; writing nothing means that there is no room.
        self.file.write_all_at(bytes, offset).map_err(|error| match error.kind() {
            ErrorKind::WriteZero => StorageError::DiskFull,
            _ => error.into(),
        })
    }

    fn sync_data(&self) -> Result<(), StorageError> {
        Ok(self.file.sync_data()?)
    }

    fn view(&self) -> Result<Arc<dyn View>, StorageError> {
        Map::open(&self.file)
    }
}
