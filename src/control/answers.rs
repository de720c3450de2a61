//! The way back from the shards: a bounded queue of answers and one bell.
//!
//! A shard must neither block nor touch tokio (whose wakers hold descriptors that a shard's private table may not
//! know), so an answer is pushed to a lock-free queue and the bell, one byte through a socket pair, is rung once per
//! batch. The queue is made before any shard takes its private table, so that the bell has the same number in all of
//! them.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;
use tokio::io::AsyncReadExt;

use crate::base::ids::ShardId;
use crate::hub::api::ApiAnswer;

/// Where shards put their answers; cheap to clone, usable from any thread.
#[derive(Clone)]
pub struct Answers {
    shared: Arc<Shared>,
}

/// One answer on its way.
pub(crate) struct Delivered {
    pub(crate) id: u64,
    pub(crate) shard: ShardId,
    pub(crate) answer: ApiAnswer,
}

/// The control plane's end.
pub struct AnswerInbox {
    shared: Arc<Shared>,
    bell: UnixStream,
}

struct Shared {
    queue: ArrayQueue<Delivered>,
    rung: AtomicBool,
    bell: UnixStream,
    dropped: AtomicU64,
}

/// Makes the queue for at most `capacity` answers that wait at a time.
///
/// # Errors
/// Those of `socketpair(2)`: too many descriptors.
pub fn answer_queue(capacity: usize) -> io::Result<(Answers, AnswerInbox)> {
    let (bell, ear) = UnixStream::pair()?;
    bell.set_nonblocking(true)?;
    ear.set_nonblocking(true)?;
    let queue = ArrayQueue::new(capacity.max(1));
    let shared = Arc::new(Shared { queue, rung: AtomicBool::new(false), bell, dropped: AtomicU64::new(0) });
    Ok((Answers { shared: Arc::clone(&shared) }, AnswerInbox { shared, bell: ear }))
}

impl Answers {
    /// Hands over the answer of `shard` to the ask `id`. Never blocks: where the queue is full the answer is dropped
    /// and counted, and the ask ends in its timeout.
    pub fn deliver(&self, id: u64, shard: ShardId, answer: ApiAnswer) {
        if self.shared.queue.push(Delivered { id, shard, answer }).is_err() {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
        if !self.shared.rung.swap(true, Ordering::AcqRel) {
            // One byte per batch never fills the buffer; the only error is that the control plane has gone.
            let _ = (&self.shared.bell).write(&[1]);
        }
    }

    /// Answers that found the queue full since start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }
}

impl AnswerInbox {
    /// Gives every answer to `take`, for ever.
    ///
    /// # Errors
    /// If the bell cannot be registered with the runtime.
    pub(crate) async fn run(self, mut take: impl FnMut(Delivered)) -> io::Result<()> {
        let mut bell = tokio::net::UnixStream::from_std(self.bell)?;
        let mut rings = [0u8; 64];
        while bell.read(&mut rings).await? > 0 {
            // Pairs with the swap in `deliver`: whoever found the bell rung has its answer seen below.
            self.shared.rung.swap(false, Ordering::AcqRel);
            while let Some(delivered) = self.shared.queue.pop() {
                take(delivered);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_drops_and_counts() {
        let (answers, _inbox) = answer_queue(2).unwrap();
        for id in 0..5 {
            answers.deliver(id, ShardId(0), ApiAnswer::Done);
        }
        assert_eq!(answers.dropped(), 3);
    }

    #[tokio::test]
    async fn every_answer_of_many_threads_arrives() {
        let (answers, inbox) = answer_queue(4096).unwrap();
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        let task = tokio::spawn(inbox.run(move |delivered| sender.send(delivered.id).unwrap()));
        let threads: Vec<_> = (0..4u64)
            .map(|thread| {
                let answers = answers.clone();
                std::thread::spawn(move || {
                    (0..1000).for_each(|n| answers.deliver(thread * 1000 + n, ShardId(0), ApiAnswer::Done));
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let mut seen = std::collections::HashSet::new();
        while seen.len() < 4000 {
            assert!(seen.insert(receiver.recv().await.unwrap()));
        }
        task.abort();
    }
}
