//! All streams in memory: 64 stripes, each a dense slab of 48-byte entries and a hash table of slots.
//!
//! The slab grows by chunks that never move, so growth costs no copy of the entries and no doubling; the table holds
//! four bytes a slot (and one of control) and grows stripe by stripe. At any number of streams that is at most
//! 48 + 5 × 16/7 = 59.5 bytes each, and at ten million mailboxes 57. Only mailboxes whose clients name devices have
//! more, in a map of their own.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use hashbrown::HashTable;

use super::record::{Header, Kind, Sequence, StreamKey, StreamMap};
use super::stream::{Devices, Stream, StreamState, renewed};

const STRIPES: usize = 64;
const STRIPE_BITS: u32 = STRIPES.trailing_zeros();
const CHUNK_ENTRIES: usize = 256;

const _: () = assert!(size_of::<Entry>() == 48);
const _: () = assert!(STRIPES.is_power_of_two() && CHUNK_ENTRIES.is_power_of_two());

/// A stream in the slab. A free entry has check 0, which no stream has, since the class is part of it.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    hash: u64,
    head: u64,
    last_offset: u64,
    check: u32,
    epoch: u32,
    pending: u32,
    bytes: u32,
    touched: u32,
    expires_at: u32,
}

/// One of the parts that are locked apart.
#[derive(Debug, Default)]
struct Stripe {
    chunks: Vec<Box<[Entry]>>,
    used: u32,
    free: Vec<u32>,
    slots: HashTable<u32>,
    devices: StreamMap<Devices>,
}

/// The index; every call locks one stripe for well under a microsecond.
#[derive(Debug)]
pub struct Index {
    stripes: Box<[RwLock<Stripe>]>,
}

impl Default for Index {
    fn default() -> Self {
        Self { stripes: (0..STRIPES).map(|_| RwLock::default()).collect() }
    }
}

impl Index {
    /// The state of a stream.
    #[must_use]
    pub fn get(&self, key: StreamKey) -> Option<StreamState> {
        self.read(key)?.get(key)
    }

    /// Sets the state of a stream.
    pub fn put(&self, key: StreamKey, state: &StreamState) {
        if let Some(mut stripe) = self.write(key) {
            stripe.put(key, state);
        }
    }

    /// The state of a stream with its devices.
    #[must_use]
    pub fn stream(&self, key: StreamKey) -> Option<Stream> {
        let stripe = self.read(key)?;
        let slot = stripe.slot(key)?;
        let state = entry(&stripe.chunks, slot).state();
        // Most logs have no devices at all.
        let devices = if stripe.devices.is_empty() { None } else { stripe.devices.get(&key).cloned() };
        Some(Stream { state, devices: devices.unwrap_or_default(), slot })
    }

    /// Sets the state of a stream and its devices.
    pub fn put_stream(&self, key: StreamKey, stream: Stream) {
        if let Some(mut stripe) = self.write(key) {
            stripe.put_at(stream.slot, key, &stream.state);
            stripe.put_devices(key, stream.devices);
        }
    }

    /// Takes in a record of the log.
    pub fn apply(&self, header: &Header) {
        if !header.kind.is_link() && header.kind != Kind::Cursor {
            return;
        }
        if let Some(mut stripe) = self.write(header.key) {
            stripe.apply(header);
        }
    }

    /// Lowers what a stream holds to its newest `kept` messages.
    pub fn shrink(&self, key: StreamKey, epoch: u32, kept: u32) {
        if let Some(mut stripe) = self.write(key)
            && let Some(mut state) = stripe.get(key).filter(|state| state.epoch == epoch)
        {
            state.shrink(kept);
            stripe.put(key, &state);
        }
    }

    /// Gives new epochs to the streams whose newest link comes before a sequence; see [`renewed`].
    pub fn renew(&self, before: Sequence, mark: u64) {
        for stripe in &self.stripes {
            let mut stripe = stripe.write().unwrap_or_else(PoisonError::into_inner);
            let entries = stripe.chunks.iter_mut().flat_map(|chunk| chunk.iter_mut());
            for entry in entries.filter(|entry| entry.check != 0 && entry.head < before.0) {
                entry.epoch = renewed(entry.epoch, mark);
            }
        }
    }

    /// Forgets a stream and its devices, if `condition` still holds for it.
    pub fn remove_if(&self, key: StreamKey, condition: impl FnOnce(&StreamState) -> bool) {
        if let Some(mut stripe) = self.write(key)
            && stripe.get(key).is_some_and(|state| condition(&state))
        {
            stripe.remove(key);
        }
    }

    /// The device cursors of a mailbox.
    #[must_use]
    pub fn devices(&self, key: StreamKey) -> Devices {
        self.read(key).and_then(|stripe| stripe.devices.get(&key).cloned()).unwrap_or_default()
    }

    /// Number of streams.
    #[must_use]
    pub fn len(&self) -> usize {
        self.each_stripe().map(|stripe| stripe.slots.len()).sum()
    }

    /// True without any stream.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory held, devices aside.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.each_stripe().map(|stripe| stripe.memory_bytes()).fold(0, usize::saturating_add)
    }

    /// Calls `visit` for the streams of one stripe; false if there is no such stripe.
    pub fn visit_stripe(
        &self,
        number: usize,
        mut visit: impl FnMut(StreamKey, &StreamState, Option<&Devices>),
    ) -> bool {
        let Some(stripe) = self.stripes.get(number) else { return false };
        let stripe = stripe.read().unwrap_or_else(PoisonError::into_inner);
        for entry in stripe.chunks.iter().flatten().filter(|entry| entry.check != 0) {
            visit(entry.key(), &entry.state(), stripe.devices.get(&entry.key()));
        }
        true
    }

    /// Makes room for `streams` streams, so that filling the index does not grow it step by step.
    pub fn reserve(&self, streams: usize) {
        for stripe in &self.stripes {
            let mut stripe = stripe.write().unwrap_or_else(PoisonError::into_inner);
            stripe.reserve(streams >> STRIPE_BITS);
        }
    }

    fn read(&self, key: StreamKey) -> Option<RwLockReadGuard<'_, Stripe>> {
        Some(self.stripes.get(stripe_of(key))?.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self, key: StreamKey) -> Option<RwLockWriteGuard<'_, Stripe>> {
        Some(self.stripes.get(stripe_of(key))?.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn each_stripe(&self) -> impl Iterator<Item = RwLockReadGuard<'_, Stripe>> {
        self.stripes.iter().map(|stripe| stripe.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The low bits choose the stripe; hashbrown takes the bucket from bits above and its tag from the top seven.
fn stripe_of(key: StreamKey) -> usize {
    usize::try_from(key.hash).unwrap_or(0) & (STRIPES.saturating_sub(1))
}

fn table_hash(hash: u64) -> u64 {
    hash.rotate_right(STRIPE_BITS)
}

impl Entry {
    fn key(&self) -> StreamKey {
        StreamKey { hash: self.hash, check: self.check }
    }

    fn state(&self) -> StreamState {
        StreamState {
            head: Sequence(self.head),
            last_offset: self.last_offset,
            epoch: self.epoch,
            pending: self.pending,
            bytes: self.bytes,
            touched: self.touched,
            expires_at: self.expires_at,
        }
    }

    fn new(key: StreamKey, state: &StreamState) -> Self {
        Self {
            hash: key.hash,
            head: state.head.0,
            last_offset: state.last_offset,
            check: key.check,
            epoch: state.epoch,
            pending: state.pending,
            bytes: state.bytes,
            touched: state.touched,
            expires_at: state.expires_at,
        }
    }
}

impl Stripe {
    fn slot(&self, key: StreamKey) -> Option<u32> {
        let chunks = &self.chunks;
        self.slots.find(table_hash(key.hash), |&slot| entry(chunks, slot).key() == key).copied()
    }

    fn get(&self, key: StreamKey) -> Option<StreamState> {
        self.slot(key).map(|slot| entry(&self.chunks, slot).state())
    }

    fn put(&mut self, key: StreamKey, state: &StreamState) {
        let slot = match self.slot(key) {
            Some(slot) => slot,
            None => self.insert(key),
        };
        if let Some(entry) = entry_mut(&mut self.chunks, slot) {
            *entry = Entry::new(key, state);
        }
    }

    /// As [`put`](Self::put), without a search if the stream is still where it was found.
    fn put_at(&mut self, slot: u32, key: StreamKey, state: &StreamState) {
        match entry_mut(&mut self.chunks, slot).filter(|entry| entry.key() == key) {
            Some(entry) => *entry = Entry::new(key, state),
            None => self.put(key, state),
        }
    }

    fn apply(&mut self, header: &Header) {
        let key = header.key;
        let slot = self.slot(key);
        let old = slot.map(|slot| entry(&self.chunks, slot).state());
        let mut state = old.unwrap_or_else(|| StreamState::beginning(header));
        // Most streams have no devices, and most records are no cursors of one.
        if self.devices.is_empty() && header.previous == 0
            || header.kind != Kind::Cursor && state.epoch == header.epoch
        {
            state.apply(header);
        } else {
            let devices = self.devices.get(&key).cloned().unwrap_or_default();
            let mut stream = Stream { state, devices, ..Stream::default() };
            stream.apply(header);
            state = stream.state;
            self.put_devices(key, stream.devices);
        }
        let slot = slot.unwrap_or_else(|| self.insert(key));
        if let Some(entry) = entry_mut(&mut self.chunks, slot) {
            *entry = Entry::new(key, &state);
        }
    }

    fn put_devices(&mut self, key: StreamKey, devices: Devices) {
        if !devices.is_empty() {
            self.devices.insert(key, devices);
        } else if !self.devices.is_empty() {
            self.devices.remove(&key);
        }
    }

    /// Takes a slot for a key that has none.
    fn insert(&mut self, key: StreamKey) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            let slot = self.used;
            self.used = self.used.saturating_add(1);
            slot
        });
        if entry_mut(&mut self.chunks, slot).is_none() {
            self.chunks.push(vec![Entry::default(); CHUNK_ENTRIES].into_boxed_slice());
        }
        if let Some(entry) = entry_mut(&mut self.chunks, slot) {
            *entry = Entry { hash: key.hash, check: key.check, ..Entry::default() };
        }
        let chunks = &self.chunks;
        self.slots.insert_unique(table_hash(key.hash), slot, |&slot| table_hash(entry(chunks, slot).hash));
        slot
    }

    fn remove(&mut self, key: StreamKey) {
        let chunks = &self.chunks;
        let found = self.slots.find_entry(table_hash(key.hash), |&slot| entry(chunks, slot).key() == key);
        if let Ok(occupied) = found {
            let (slot, _) = occupied.remove();
            if let Some(entry) = entry_mut(&mut self.chunks, slot) {
                *entry = Entry::default();
            }
            self.free.push(slot);
        }
        self.devices.remove(&key);
    }

    fn reserve(&mut self, entries: usize) {
        let chunks = &self.chunks;
        self.slots.reserve(entries, |&slot| table_hash(entry(chunks, slot).hash));
    }

    fn memory_bytes(&self) -> usize {
        let slab = self.chunks.len().saturating_mul(CHUNK_ENTRIES).saturating_mul(size_of::<Entry>());
        let lists =
            self.free.capacity().saturating_mul(4).saturating_add(self.chunks.capacity().saturating_mul(16));
        slab.saturating_add(lists).saturating_add(self.slots.allocation_size())
    }
}

/// The entry of a slot; slots in the table always have one.
fn entry(chunks: &[Box<[Entry]>], slot: u32) -> Entry {
    let slot = slot as usize;
    chunks
        .get(slot / CHUNK_ENTRIES)
        .and_then(|chunk| chunk.get(slot % CHUNK_ENTRIES))
        .copied()
        .unwrap_or_default()
}

fn entry_mut(chunks: &mut [Box<[Entry]>], slot: u32) -> Option<&mut Entry> {
    let slot = slot as usize;
    chunks.get_mut(slot / CHUNK_ENTRIES)?.get_mut(slot % CHUNK_ENTRIES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::record::{Class, KeyHasher};
    use std::collections::HashMap;

    #[test]
    fn behaves_as_a_map_under_random_calls() {
        let hasher = KeyHasher::new(&[1; 16]);
        let index = Index::default();
        let mut model: HashMap<StreamKey, StreamState> = HashMap::new();
        let mut random = 12345_u64;
        for step in 0..30_000_u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let key = hasher.stream(Class::Mailbox, &format!("user{}", (random >> 33) % 3000));
            let state =
                StreamState { last_offset: step, head: Sequence(step), pending: 3, ..StreamState::default() };
            match random >> 61 {
                0 => {
                    index.remove_if(key, |_| true);
                    model.remove(&key);
                }
                1 => {
                    index.shrink(key, 0, 1);
                    if let Some(state) = model.get_mut(&key) {
                        state.shrink(1);
                    }
                }
                _ => {
                    index.put(key, &state);
                    model.insert(key, state);
                }
            }
            assert_eq!(index.get(key), model.get(&key).copied());
        }
        assert_eq!(index.len(), model.len());
        let mut visited = 0;
        for stripe in 0.. {
            let more = index.visit_stripe(stripe, |key, state, _| {
                assert_eq!(model.get(&key), Some(state));
                visited += 1;
            });
            if !more {
                break;
            }
        }
        assert_eq!(visited, model.len());
    }

    #[test]
    fn a_mailbox_costs_at_most_64_bytes_at_every_size() {
        let index = Index::default();
        let state = StreamState::default();
        for number in 0..400_000_u64 {
            let hash = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            index.put(StreamKey { hash, check: 1 }, &state);
            // Below that, the last chunk of each stripe weighs too much.
            if number > 150_000 && number % 1000 == 0 {
                let each = index.memory_bytes() as f64 / index.len() as f64;
                assert!(each <= 64.0, "{each} bytes at {number}");
            }
        }
    }
}
