//! Reading a stream: recovery decisions and pages of history. Works on a stream from which expired data is gone.

use std::collections::vec_deque;
use std::sync::Arc;

use super::{Publication, Stream, StreamPosition};

/// A position as a client names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Since<'a> {
    /// Publications up to here are known.
    pub offset: u64,
    /// Empty: not compared.
    pub epoch: &'a str,
}

/// What a recovering subscriber wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveryMode {
    /// Everything it missed, without a gap.
    Stream,
    /// The newest publication.
    Cache,
}

/// The outcome of a recovery.
#[derive(Clone, Debug)]
pub struct Recovery<'a> {
    /// The subscriber's state is complete once it has taken `publications`.
    pub recovered: bool,
    /// For the reply: the offset asked for if recovered (the client moves on as it takes publications), else the top.
    pub offset: u64,
    /// Where the subscriber stands after `publications`.
    pub top: StreamPosition,
    /// What was missed, oldest first; empty if not recovered.
    pub publications: Publications<'a>,
}

/// Parameters of a history read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistoryQuery<'a> {
    /// 0 = position only, negative = all.
    pub limit: i32,
    /// Where to start, exclusive.
    pub since: Option<Since<'a>>,
    /// Newest first.
    pub reverse: bool,
    /// `history_max_publication_limit`; 0 = none, as in the server API.
    pub max: u32,
}

/// Why a history read is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistoryFault {
    /// 107
    #[error("bad request")]
    BadRequest,
    /// 112
    #[error("unrecoverable position")]
    UnrecoverablePosition,
}

/// A page of history.
#[derive(Clone, Debug)]
pub struct HistoryPage<'a> {
    /// The top of the stream, whatever the page holds.
    pub top: StreamPosition,
    /// In the order asked for.
    pub publications: Publications<'a>,
}

/// A run of kept publications.
#[derive(Clone, Debug)]
pub struct Publications<'a> {
    run: vec_deque::Iter<'a, Arc<Publication>>,
    newest_first: bool,
}

impl<'a> Iterator for Publications<'a> {
    type Item = &'a Arc<Publication>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.newest_first { self.run.next_back() } else { self.run.next() }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.run.size_hint()
    }
}

impl ExactSizeIterator for Publications<'_> {}

/// The decision lines of client-protocol.md section 4.
pub(super) fn recover<'a>(
    stream: &'a Stream,
    since: Since<'_>,
    mode: RecoveryMode,
    limit: u32,
) -> Recovery<'a> {
    let missed = match mode {
        RecoveryMode::Stream => missed_in_stream(stream, since, limit),
        RecoveryMode::Cache => missed_in_cache(stream, since),
    };
    let count = missed.unwrap_or(0);
    Recovery {
        recovered: missed.is_some(),
        offset: if missed.is_some() { since.offset } else { stream.top },
        top: stream.position(),
        publications: newest(stream, count),
    }
}

/// How many of the newest publications the client must be given; `None` if that leaves a gap.
fn missed_in_stream(stream: &Stream, since: Since<'_>, limit: u32) -> Option<usize> {
    if !since.epoch.is_empty() && since.epoch != stream.epoch.as_str() {
        return None;
    }
    // An offset beyond the top was never given out: the client knows another stream.
    let missed = usize::try_from(stream.top.checked_sub(since.offset)?).ok()?;
    let allowed = if limit == 0 { usize::MAX } else { limit as usize };
    (missed <= stream.kept.len() && missed <= allowed).then_some(missed)
}

/// A client whose state is the top needs nothing, any other the newest publication, which must still be kept.
fn missed_in_cache(stream: &Stream, since: Since<'_>) -> Option<usize> {
    let up_to_date = since.offset > 0 && since.offset == stream.top && since.epoch == stream.epoch.as_str();
    if up_to_date {
        return Some(0);
    }
    (!stream.kept.is_empty()).then_some(1)
}

pub(super) fn history<'a>(
    stream: &'a Stream,
    query: &HistoryQuery<'_>,
) -> Result<HistoryPage<'a>, HistoryFault> {
    if let Some(since) = query.since {
        if query.reverse && since.offset == 0 {
            return Err(HistoryFault::BadRequest);
        }
        if !since.epoch.is_empty() && since.epoch != stream.epoch.as_str() {
            return Err(HistoryFault::UnrecoverablePosition);
        }
    }
    let publications = if query.reverse { backward(stream, query) } else { forward(stream, query) };
    Ok(HistoryPage { top: stream.position(), publications })
}

fn forward<'a>(stream: &'a Stream, query: &HistoryQuery<'_>) -> Publications<'a> {
    let start = query.since.map_or(0, |since| index_after(stream, since.offset));
    let count = count(query).min(stream.kept.len() - start);
    Publications { run: stream.kept.range(start..start + count), newest_first: false }
}

fn backward<'a>(stream: &'a Stream, query: &HistoryQuery<'_>) -> Publications<'a> {
    let end = query.since.map_or(stream.kept.len(), |since| index_after(stream, since.offset - 1));
    let count = count(query).min(end);
    Publications { run: stream.kept.range(end - count..end), newest_first: true }
}

fn newest(stream: &Stream, count: usize) -> Publications<'_> {
    Publications { run: stream.kept.range(stream.kept.len() - count..), newest_first: false }
}

/// Index in `kept` of the first publication after `offset`.
fn index_after(stream: &Stream, offset: u64) -> usize {
    let dropped = stream.top - stream.kept.len() as u64;
    let index = usize::try_from(offset.saturating_sub(dropped)).unwrap_or(usize::MAX);
    index.min(stream.kept.len())
}

/// Publications asked for.
fn count(query: &HistoryQuery<'_>) -> usize {
    let asked = usize::try_from(query.limit).unwrap_or(usize::MAX);
    let allowed = if query.max == 0 { usize::MAX } else { query.max as usize };
    asked.min(allowed)
}
