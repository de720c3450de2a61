//! What the peer's threads share: the histories, and the way to each other.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mio::Waker;

/// Publications remembered per channel.
const HISTORY: usize = 4096;
/// The epoch of every stream: it lives as long as the process.
pub(super) const EPOCH: &str = "peer";

/// What the peer does wrong, each once in so many deliveries; 0 for never.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// Leaves a delivery out.
    pub lose: u32,
    /// Sends a delivery twice.
    pub double: u32,
    /// Sends a delivery after the one that follows it.
    pub swap: u32,
}

/// A publication on its way to the subscribers of one thread.
#[derive(Debug, Clone)]
pub(super) enum Mail {
    Publication(Arc<Publication>),
    Stop,
}

/// A publication, framed once for all.
#[derive(Debug)]
pub(super) struct Publication {
    pub(super) channel: String,
    pub(super) offset: u64,
    pub(super) frame: Vec<u8>,
    /// The publication object, for histories.
    pub(super) object: Vec<u8>,
}

#[derive(Debug, Default)]
struct Stream {
    top: u64,
    kept: VecDeque<Arc<Publication>>,
    clients: u32,
}

pub(super) struct Hub {
    streams: Mutex<HashMap<String, Stream>>,
    doors: Vec<(Sender<Mail>, Waker)>,
    pub(super) faults: Faults,
}

/// What a subscriber gets to know.
pub(super) struct Subscription {
    pub(super) top: u64,
    pub(super) recovered: Option<Vec<Arc<Publication>>>,
}

impl Hub {
    pub(super) fn new(doors: Vec<(Sender<Mail>, Waker)>, faults: Faults) -> Self {
        Self { streams: Mutex::default(), doors, faults }
    }

    fn streams(&self) -> MutexGuard<'_, HashMap<String, Stream>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Numbers a publication and sends it to all threads, in order.
    pub(super) fn publish(&self, channel: &str, data: &str) -> u64 {
        let mut streams = self.streams();
        let stream = streams.entry(channel.to_owned()).or_default();
        stream.top += 1;
        let publication = Arc::new(Publication::new(channel, data, stream.top));
        stream.kept.push_back(Arc::clone(&publication));
        if stream.kept.len() > HISTORY {
            stream.kept.pop_front();
        }
        for (door, _) in &self.doors {
            let _ = door.send(Mail::Publication(Arc::clone(&publication)));
        }
        drop(streams);
        self.wake();
        publication.offset
    }

    /// Where a channel stands, and what was published after `since`, if all of it is still there.
    pub(super) fn subscribe(&self, channel: &str, since: Option<(u64, &str)>) -> Subscription {
        let mut streams = self.streams();
        let stream = streams.entry(channel.to_owned()).or_default();
        stream.clients += 1;
        let recovered = since.and_then(|(offset, epoch)| {
            let whole = offset + stream.kept.len() as u64 >= stream.top && offset <= stream.top;
            let missed = stream.kept.iter().filter(|kept| kept.offset > offset).cloned();
            (whole && (epoch.is_empty() || epoch == EPOCH)).then(|| missed.collect())
        });
        Subscription { top: stream.top, recovered }
    }

    pub(super) fn unsubscribe(&self, channel: &str) {
        if let Some(stream) = self.streams().get_mut(channel) {
            stream.clients = stream.clients.saturating_sub(1);
        }
    }

    pub(super) fn clients(&self, channel: &str) -> u32 {
        self.streams().get(channel).map_or(0, |stream| stream.clients)
    }

    pub(super) fn stop(&self) {
        for (door, _) in &self.doors {
            let _ = door.send(Mail::Stop);
        }
        self.wake();
    }

    fn wake(&self) {
        for (_, waker) in &self.doors {
            let _ = waker.wake();
        }
    }
}

impl Publication {
    fn new(channel: &str, data: &str, offset: u64) -> Self {
        let object = format!("{{\"data\":{data},\"offset\":{offset}}}").into_bytes();
        let mut push = format!("{{\"push\":{{\"channel\":\"{channel}\",\"pub\":").into_bytes();
        push.extend_from_slice(&object);
        push.extend_from_slice(b"}}");
        let mut frame = Vec::with_capacity(push.len() + 4);
        write_frame(&mut frame, &push);
        Self { channel: channel.to_owned(), offset, frame, object }
    }
}

/// Appends a text frame of a server.
pub(super) fn write_frame(out: &mut Vec<u8>, payload: &[u8]) {
    use tungstenite::protocol::frame::FrameHeader;
    let header = FrameHeader { opcode: crate::ws::TEXT, ..FrameHeader::default() };
    // Writing to a Vec cannot fail.
    let _ = header.format(payload.len() as u64, out);
    out.extend_from_slice(payload);
}
