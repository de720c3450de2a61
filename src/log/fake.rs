//! A disk in memory for tests: it keeps what the running process sees apart from what a power cut would leave, and it
//! can be told to fail.
//!
//! A write goes to the live bytes and is remembered sector by sector as pending; a sync moves the pending sectors of
//! one file to the durable bytes. Names work alike: creations, renames and removals are pending until the directory is
//! synced. [`FakeDisk::crash`] builds the disk that a power cut leaves when any subset of the pending sectors, whole or
//! torn, and any prefix of the pending names made it. A recorded [`Operation`] list can be played onto a fresh disk, so
//! one run of a workload yields the crash images at every point of it.

#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test double; its panics are findings"
)]

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::{OpenError, StorageError};
use super::storage::{SECTOR_BYTES, Storage, StorageFile, View};

/// One step of a workload as the disk saw it. Files are numbered in the order of their creation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A new file of zeros.
    Create {
        /// Its name.
        name: String,
        /// Its length.
        length: u64,
    },
    /// Bytes written.
    Write {
        /// Number of the file.
        file: usize,
        /// Where.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// A file synced.
    Sync {
        /// Number of the file.
        file: usize,
    },
    /// A sync that failed: its pending sectors will not be written by later syncs, but may have been.
    SyncFailed {
        /// Number of the file.
        file: usize,
    },
    /// A name changed.
    Rename {
        /// Old name.
        from: String,
        /// New name.
        to: String,
    },
    /// A name removed.
    Remove {
        /// The name.
        name: String,
    },
    /// The directory synced.
    SyncDirectory,
}

/// What a power cut does to one pending sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It reached the medium.
    Kept,
    /// It did not.
    Lost,
    /// Only its first bytes did.
    Torn(usize),
}

/// A fault to inject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `write_at` writes so many bytes and fails.
    Write {
        /// Bytes that get through.
        written: usize,
        /// The error.
        error: StorageError,
    },
    /// `sync_data` fails.
    Sync(StorageError),
    /// `create` fails.
    Create(StorageError),
    /// `sync_directory` fails.
    SyncDirectory(StorageError),
    /// `read_at` or a view fails.
    Read(StorageError),
}

#[derive(Clone, Debug, Default)]
struct Node {
    live: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<PendingSector>,
}

#[derive(Clone, Debug)]
struct PendingSector {
    sector: usize,
    bytes: [u8; SECTOR_BYTES],
    /// A failed sync forgot it: it may have reached the medium, but no later sync will bring it there.
    forgotten: bool,
}

#[derive(Clone, Debug)]
enum NameChange {
    Create(String, usize),
    Rename(String, String),
    Remove(String),
}

#[derive(Clone, Debug, Default)]
struct Disk {
    nodes: Vec<Node>,
    live: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
    pending_names: Vec<NameChange>,
    trace: Vec<Operation>,
    tracing: bool,
    /// Faults to come: skip so many matching calls, then fail.
    faults: Vec<(Fault, u32)>,
    capacity: Option<u64>,
    locked: bool,
}

/// The disk; clones are handles to the same one.
#[derive(Clone, Debug, Default)]
pub struct FakeDisk {
    disk: Arc<Mutex<Disk>>,
}

impl FakeDisk {
    /// An empty disk that records its operations.
    #[must_use]
    pub fn recording() -> Self {
        let disk = Self::default();
        disk.lock_disk().tracing = true;
        disk
    }

    /// How many operations have been recorded.
    #[must_use]
    pub fn recorded(&self) -> usize {
        self.lock_disk().trace.len()
    }

    /// The recorded operations.
    #[must_use]
    pub fn trace(&self) -> Vec<Operation> {
        self.lock_disk().trace.clone()
    }

    /// Records from here on, beginning with an empty list.
    pub fn record(&self) {
        let mut disk = self.lock_disk();
        disk.trace.clear();
        disk.tracing = true;
    }

    /// Injects a fault into the next matching call after `skip` of them.
    pub fn inject(&self, fault: Fault, skip: u32) {
        self.lock_disk().faults.push((fault, skip));
    }

    /// Sum of all file lengths beyond which creating fails with [`StorageError::DiskFull`]; `None` for endless.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock_disk().capacity = bytes;
    }

    /// Plays one recorded operation.
    pub fn play(&self, operation: &Operation) {
        let mut disk = self.lock_disk();
        match operation {
            Operation::Create { name, length } => disk.create(name, *length),
            Operation::Write { file, offset, bytes } => disk.write(*file, *offset, bytes),
            Operation::Sync { file } => disk.sync(*file),
            Operation::SyncFailed { file } => disk.forget(*file),
            Operation::Rename { from, to } => disk.rename(from, to),
            Operation::Remove { name } => disk.remove(name),
            Operation::SyncDirectory => disk.sync_names(),
        }
    }

    /// Pending sectors of all files, in file and then write order.
    #[must_use]
    pub fn pending_sectors(&self) -> usize {
        self.lock_disk().nodes.iter().map(|node| node.pending.len()).sum()
    }

    /// Pending changes of names.
    #[must_use]
    pub fn pending_names(&self) -> usize {
        self.lock_disk().pending_names.len()
    }

    /// The disk after a power cut: `fate` is asked about every pending sector (numbered as in
    /// [`pending_sectors`](Self::pending_sectors)), and the first `names` pending changes of names survive.
    #[must_use]
    pub fn crash(&self, names: usize, mut fate: impl FnMut(usize) -> Fate) -> Self {
        let disk = self.lock_disk();
        let mut number = 0;
        let nodes = disk.nodes.iter().map(|node| {
            let mut bytes = node.durable.clone();
            for pending in &node.pending {
                let start = pending.sector * SECTOR_BYTES;
                let kept = match fate(number) {
                    Fate::Kept => SECTOR_BYTES,
                    Fate::Lost => 0,
                    Fate::Torn(bytes) => bytes.min(SECTOR_BYTES),
                };
                let end = (start + kept).min(bytes.len());
                if start < end {
                    bytes[start..end].copy_from_slice(&pending.bytes[..end - start]);
                }
                number += 1;
            }
            Node { live: bytes.clone(), durable: bytes, pending: Vec::new() }
        });
        let nodes = nodes.collect();
        let mut survived = disk.durable.clone();
        for change in disk.pending_names.iter().take(names) {
            change.apply(&mut survived);
        }
        let image = Disk { nodes, live: survived.clone(), durable: survived, ..Disk::default() };
        Self { disk: Arc::new(Mutex::new(image)) }
    }

    /// A copy of everything the process has written, as after `kill -9`.
    #[must_use]
    pub fn killed(&self) -> Self {
        let disk = self.lock_disk();
        let nodes = disk
            .nodes
            .iter()
            .map(|node| Node { live: node.live.clone(), durable: node.live.clone(), pending: Vec::new() })
            .collect();
        let image = Disk { nodes, live: disk.live.clone(), durable: disk.live.clone(), ..Disk::default() };
        Self { disk: Arc::new(Mutex::new(image)) }
    }

    /// Flips bits of a stored byte, durable and live.
    pub fn flip(&self, name: &str, offset: usize, mask: u8) {
        let mut disk = self.lock_disk();
        let node = disk.live[name];
        disk.nodes[node].live[offset] ^= mask;
        disk.nodes[node].durable[offset] ^= mask;
    }

    /// The live bytes of a file.
    #[must_use]
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let disk = self.lock_disk();
        disk.live.get(name).map(|&node| disk.nodes[node].live.clone())
    }

    /// Puts a file there, durable at once, replacing any of that name.
    pub fn put(&self, name: &str, bytes: Vec<u8>) {
        let mut disk = self.lock_disk();
        let node = disk.nodes.len();
        disk.nodes.push(Node { live: bytes.clone(), durable: bytes, pending: Vec::new() });
        disk.live.insert(name.to_owned(), node);
        disk.durable.insert(name.to_owned(), node);
    }

    fn lock_disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Create(name, node) => {
                names.insert(name.clone(), *node);
            }
            Self::Rename(from, to) => {
                if let Some(node) = names.remove(from) {
                    names.insert(to.clone(), node);
                }
            }
            Self::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

impl Disk {
    fn change_name(&mut self, change: NameChange) {
        change.apply(&mut self.live);
        self.pending_names.push(change);
    }

    fn trace(&mut self, operation: impl FnOnce() -> Operation) {
        if self.tracing {
            self.trace.push(operation());
        }
    }

    /// The fault due for a call that `matches` it.
    fn fault(&mut self, matches: impl Fn(&Fault) -> bool) -> Option<Fault> {
        let index = self.faults.iter().position(|(fault, _)| matches(fault))?;
        let (fault, skip) = self.faults[index];
        if skip == 0 {
            self.faults.remove(index);
            return Some(fault);
        }
        self.faults[index].1 -= 1;
        None
    }

    fn create(&mut self, name: &str, length: u64) {
        self.trace(|| Operation::Create { name: name.to_owned(), length });
        let node = self.nodes.len();
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        // The blocks count as allocated at once; a file whose name survives without its sync is zeros.
        self.nodes.push(Node { live: vec![0; length], durable: vec![0; length], pending: Vec::new() });
        self.change_name(NameChange::Create(name.to_owned(), node));
    }

    fn write(&mut self, file: usize, offset: u64, bytes: &[u8]) {
        self.trace(|| Operation::Write { file, offset, bytes: bytes.to_vec() });
        let node = &mut self.nodes[file];
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start + bytes.len();
        if node.live.len() < end {
            let length = end.next_multiple_of(SECTOR_BYTES);
            node.live.resize(length, 0);
            node.durable.resize(length, 0);
        }
        node.live[start..end].copy_from_slice(bytes);
        for sector in start / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            let mut content = [0; SECTOR_BYTES];
            let from = sector * SECTOR_BYTES;
            let to = (from + SECTOR_BYTES).min(node.live.len());
            content[..to - from].copy_from_slice(&node.live[from..to]);
            node.pending.push(PendingSector { sector, bytes: content, forgotten: false });
        }
    }

    fn sync(&mut self, file: usize) {
        self.trace(|| Operation::Sync { file });
        let node = &mut self.nodes[file];
        let mut kept = Vec::new();
        for pending in node.pending.drain(..) {
            if pending.forgotten {
                kept.push(pending);
                continue;
            }
            kept.retain(|older: &PendingSector| older.sector != pending.sector);
            let start = pending.sector * SECTOR_BYTES;
            let end = (start + SECTOR_BYTES).min(node.durable.len());
            node.durable[start..end].copy_from_slice(&pending.bytes[..end - start]);
        }
        node.pending = kept;
    }

    fn forget(&mut self, file: usize) {
        self.trace(|| Operation::SyncFailed { file });
        for pending in &mut self.nodes[file].pending {
            pending.forgotten = true;
        }
    }

    fn rename(&mut self, from: &str, to: &str) {
        self.trace(|| Operation::Rename { from: from.to_owned(), to: to.to_owned() });
        self.change_name(NameChange::Rename(from.to_owned(), to.to_owned()));
    }

    fn remove(&mut self, name: &str) {
        self.trace(|| Operation::Remove { name: name.to_owned() });
        self.change_name(NameChange::Remove(name.to_owned()));
    }

    fn sync_names(&mut self) {
        self.trace(|| Operation::SyncDirectory);
        self.durable = self.live.clone();
        self.pending_names.clear();
    }

    fn used(&self) -> u64 {
        self.live.values().map(|&node| self.nodes[node].live.len() as u64).sum()
    }

    fn read_fault(&mut self) -> Result<(), StorageError> {
        match self.fault(|fault| matches!(fault, Fault::Read(_))) {
            Some(Fault::Read(error)) => Err(error),
            _ => Ok(()),
        }
    }
}

impl Storage for FakeDisk {
    fn lock(&self) -> Result<(), OpenError> {
        let mut disk = self.lock_disk();
        if std::mem::replace(&mut disk.locked, true) {
            return Err(OpenError::Locked);
        }
        Ok(())
    }

    fn unlock(&self) {
        self.lock_disk().locked = false;
    }

    fn list(&self) -> Result<Vec<String>, StorageError> {
        Ok(self.lock_disk().live.keys().cloned().collect())
    }

    fn create(&self, name: &str, length: u64) -> Result<Arc<dyn StorageFile>, StorageError> {
        let mut disk = self.lock_disk();
        if let Some(Fault::Create(error)) = disk.fault(|fault| matches!(fault, Fault::Create(_))) {
            return Err(error);
        }
        if disk.live.contains_key(name) {
            return Err(StorageError::Exists);
        }
        if disk.capacity.is_some_and(|capacity| disk.used() + length > capacity) {
            return Err(StorageError::DiskFull);
        }
        disk.create(name, length);
        let node = disk.nodes.len() - 1;
        Ok(Arc::new(FakeFile { disk: self.clone(), node }))
    }

    fn open(&self, name: &str) -> Result<Arc<dyn StorageFile>, StorageError> {
        let node = *self.lock_disk().live.get(name).ok_or(StorageError::NotFound)?;
        Ok(Arc::new(FakeFile { disk: self.clone(), node }))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), StorageError> {
        let mut disk = self.lock_disk();
        if !disk.live.contains_key(from) {
            return Err(StorageError::NotFound);
        }
        disk.rename(from, to);
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<(), StorageError> {
        let mut disk = self.lock_disk();
        if !disk.live.contains_key(name) {
            return Err(StorageError::NotFound);
        }
        disk.remove(name);
        Ok(())
    }

    fn sync_directory(&self) -> Result<(), StorageError> {
        let mut disk = self.lock_disk();
        match disk.fault(|fault| matches!(fault, Fault::SyncDirectory(_))) {
            Some(Fault::SyncDirectory(error)) => return Err(error),
            _ => disk.sync_names(),
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
struct FakeFile {
    disk: FakeDisk,
    node: usize,
}

impl StorageFile for FakeFile {
    fn length(&self) -> Result<u64, StorageError> {
        Ok(self.disk.lock_disk().nodes[self.node].live.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, StorageError> {
        let mut disk = self.disk.lock_disk();
        disk.read_fault()?;
        let live = &disk.nodes[self.node].live;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(live.len());
        let end = start.saturating_add(buffer.len()).min(live.len());
        buffer[..end - start].copy_from_slice(&live[start..end]);
        Ok(end - start)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        let mut disk = self.disk.lock_disk();
        if let Some(Fault::Write { written, error }) =
            disk.fault(|fault| matches!(fault, Fault::Write { .. }))
        {
            disk.write(self.node, offset, &bytes[..written.min(bytes.len())]);
            return Err(error);
        }
        disk.write(self.node, offset, bytes);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), StorageError> {
        let mut disk = self.disk.lock_disk();
        if let Some(Fault::Sync(error)) = disk.fault(|fault| matches!(fault, Fault::Sync(_))) {
            disk.forget(self.node);
            return Err(error);
        }
        disk.sync(self.node);
        Ok(())
    }

    fn view(&self) -> Result<Arc<dyn View>, StorageError> {
        Ok(Arc::new(self.clone()))
    }
}

impl View for FakeFile {
    fn bytes(&self, offset: u64, length: usize) -> Result<Cow<'_, [u8]>, StorageError> {
        let mut bytes = vec![0; length];
        if self.read_at(offset, &mut bytes)? < length {
            return Err(StorageError::OutOfBounds);
        }
        Ok(Cow::Owned(bytes))
    }
}
