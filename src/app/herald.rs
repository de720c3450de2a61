//! Tells the operator what the storage meets while it runs: a full or failing disk, and its end; damage.
//!
//! Asked once a second. Each change is told once; a disk that is full and not by turns is told at most every
//! [`PAUSE_SECONDS`], and of many segments at once some are named and the others counted.

use std::path::PathBuf;

use crate::log::error::StorageError;
use crate::log::notice::{End, Notice};
use crate::log::reader::Reader;
use crate::log::scan::Damage;

/// Between two lines about whether messages are taken.
const PAUSE_SECONDS: u32 = 10;
/// Segments named at a time.
const NAMED: usize = 8;

/// What is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Refusing {
        error: StorageError,
        end: End,
    },
    /// So often messages were refused since the last line, counting this time.
    Storing {
        times: u64,
    },
    GaveUp {
        error: StorageError,
        end: End,
    },
    Quarantined(Damage),
    LeftOut(u64),
}

/// Whether messages are taken, and what of it has been told.
#[derive(Debug, Default)]
struct Tale {
    /// Why they are refused, and where the log ended then.
    refusing: Option<(StorageError, End)>,
    told: bool,
    /// How often they have been refused since the last line.
    times: u64,
    /// Seconds until the next line.
    pause: u32,
}

/// Tells what one log met.
#[derive(Debug)]
pub(super) struct Herald {
    reader: Reader,
    path: PathBuf,
    tale: Tale,
}

impl Herald {
    pub(super) fn new(reader: Reader, path: PathBuf) -> Self {
        Self { reader, path, tale: Tale::default() }
    }

    /// Looks what happened; once a second.
    pub(super) fn look(&mut self) {
        let (notices, left_out) = self.reader.take_notices();
        for line in self.tale.look(&notices, left_out) {
            self.say(line);
        }
    }

    fn say(&self, line: Line) {
        let path = self.path.display();
        match line {
            Line::Refusing { error, end } => tracing::error!(
                %path,
                segment = %name(end.segment),
                offset = end.offset,
                "messages are not stored: {error}. What is stored is safe, everything else goes on; {}",
                remedy(error)
            ),
            Line::Storing { times } => tracing::warn!(%path, times, "messages are stored again"),
            Line::GaveUp { error, end } => tracing::error!(
                %path,
                segment = %name(end.segment),
                offset = end.offset,
                "a segment is given up: {error}. What was being written was answered with an error, and goes into a \
                 new segment from here on; look at the kernel's log and replace the disk"
            ),
            Line::Quarantined(damage) => tracing::error!(
                %path,
                segment = %name(damage.segment),
                offset = damage.offset,
                length = damage.length,
                first = damage.first.0,
                last = damage.last.0,
                "a segment is damaged and in quarantine: what is readable of it is served; keep the file for \
                 inspection, see `millpond log verify` and docs/OPERATIONS.md"
            ),
            Line::LeftOut(more) => tracing::error!(%path, more, "more segments were given up or are damaged"),
        }
    }
}

impl Tale {
    fn look(&mut self, notices: &[Notice], left_out: u64) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut more = left_out;
        for notice in notices {
            let line = match *notice {
                Notice::Refusing { error, end } => {
                    self.refusing = Some((error, end));
                    self.times = self.times.saturating_add(1);
                    continue;
                }
                Notice::Storing => {
                    self.refusing = None;
                    continue;
                }
                Notice::GaveUp { error, end } => Line::GaveUp { error, end },
                Notice::Quarantined(damage) => Line::Quarantined(damage),
            };
            if lines.len() < NAMED {
                lines.push(line);
            } else {
                more = more.saturating_add(1);
            }
        }
        if more > 0 {
            lines.push(Line::LeftOut(more));
        }
        lines.extend(self.change());
        lines
    }

    fn change(&mut self) -> Option<Line> {
        self.pause = self.pause.saturating_sub(1);
        if self.pause > 0 {
            return None;
        }
        let line = match self.refusing {
            Some((error, end)) if !self.told => Line::Refusing { error, end },
            // Also if all of it fell between two looks.
            None if self.told || self.times > 0 => Line::Storing { times: std::mem::take(&mut self.times) },
            _ => return None,
        };
        self.told = self.refusing.is_some();
        self.pause = PAUSE_SECONDS;
        Some(line)
    }
}

fn name(segment: u64) -> String {
    if segment == 0 { "none".to_owned() } else { format!("{segment:016x}") }
}

fn remedy(error: StorageError) -> &'static str {
    match error {
        StorageError::DiskFull => {
            "make room: raise the file system, remove other files, or purge mailboxes, which is still possible \
             (docs/OPERATIONS.md, \"When the disk is full\")"
        }
        StorageError::ReadOnly => "make the directory writable for this user again",
        StorageError::TooManyFiles => "raise LimitNOFILE",
        _ => "look at the kernel's log (docs/OPERATIONS.md, \"When the disk fails\")",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: End = End { segment: 3, offset: 4096 };
    const FULL: Notice = Notice::Refusing { error: StorageError::DiskFull, end: END };
    const REFUSING: Line = Line::Refusing { error: StorageError::DiskFull, end: END };

    #[test]
    fn each_change_is_told_once() {
        let mut tale = Tale::default();
        assert_eq!(tale.look(&[], 0), []);
        assert_eq!(tale.look(&[FULL], 0), [REFUSING]);
        assert!((0..100).all(|_| tale.look(&[], 0).is_empty()));
        assert_eq!(tale.look(&[Notice::Storing], 0), [Line::Storing { times: 1 }]);
        assert!((0..100).all(|_| tale.look(&[], 0).is_empty()));
    }

    #[test]
    fn a_disk_that_is_full_by_turns_is_told_now_and_then() {
        let mut tale = Tale::default();
        let lines: Vec<Line> = (0..61).flat_map(|_| tale.look(&[FULL, Notice::Storing, FULL], 0)).collect();
        assert_eq!(lines, [REFUSING], "it has not changed since");
        let lines: Vec<Line> =
            (0..60).flat_map(|_| tale.look(&[Notice::Storing, FULL, Notice::Storing], 0)).collect();
        assert_eq!(lines.len(), 6);
        assert!(
            lines.iter().all(|line| matches!(line, Line::Storing { times } if *times >= 10)),
            "{lines:?}"
        );
        assert!((0..20).flat_map(|_| tale.look(&[], 0)).count() <= 1);
    }

    #[test]
    fn many_segments_are_counted() {
        let mut tale = Tale::default();
        let gave_up = Notice::GaveUp { error: StorageError::Device, end: END };
        let lines = tale.look(&vec![gave_up; 64], 10);
        assert_eq!((lines.len(), lines[NAMED]), (NAMED + 1, Line::LeftOut(66)));
    }
}
