//! Finds the end of a request head while it arrives, looking at each byte once.

use crate::wire::http::{HeadLimits, MAX_HEADERS};
use crate::wire::reject::Reject;

/// How far the search for the end of a head has come. Belongs to the bytes of one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeadScan {
    /// Bytes looked at.
    scanned: u32,
    /// Bytes of the current token, later the number of header lines.
    count: u16,
    phase: Phase,
}

/// Where in the head the next byte stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Method,
    Target,
    Version,
    LineStart,
    Line,
    /// Behind the CR of a line.
    LineEnd,
    /// Behind the CR of the empty line.
    HeadEnd,
    Done,
}

/// Longest method in bytes; the longest that is registered has 17.
const MAX_METHOD: u16 = 20;
/// First byte of a TLS record that carries a handshake.
const TLS_HANDSHAKE: u8 = 0x16;

impl HeadScan {
    /// Goes on over `bytes`, all that have arrived; the length of the head once it is whole.
    pub(super) fn advance(&mut self, bytes: &[u8], limits: &HeadLimits) -> Result<Option<usize>, Reject> {
        let allowed = bytes.get(..limits.head).unwrap_or(bytes);
        let mut fresh = allowed.get(self.scanned as usize..).unwrap_or_default();
        while self.phase != Phase::Done {
            let inside = self.skip_inside(fresh, limits)?;
            self.scanned = self.scanned.saturating_add(u32::try_from(inside).unwrap_or(u32::MAX));
            let Some((byte, rest)) = fresh.get(inside..).and_then(<[u8]>::split_first) else { break };
            self.scanned = self.scanned.saturating_add(1);
            self.step(*byte, limits)?;
            fresh = rest;
        }
        let scanned = self.scanned as usize;
        match self.phase {
            Phase::Done => Ok(Some(scanned)),
            _ if scanned < limits.head => Ok(None),
            Phase::Target => Err(Reject::TargetTooLong),
            _ => Err(Reject::HeadTooLarge),
        }
    }

    /// How many of `fresh` are the inside of the target or of a line, which is most of a head: only their ends need a step.
    /// What stands inside a line is left to httparse.
    fn skip_inside(&mut self, fresh: &[u8], limits: &HeadLimits) -> Result<usize, Reject> {
        match self.phase {
            Phase::Line => Ok(memchr::memchr2(b'\r', b'\n', fresh).unwrap_or(fresh.len())),
            Phase::Target => {
                let inside = fresh.iter().position(|byte| !byte.is_ascii_graphic()).unwrap_or(fresh.len());
                self.count = self.count.saturating_add(u16::try_from(inside).unwrap_or(u16::MAX));
                if usize::from(self.count) > limits.target { Err(Reject::TargetTooLong) } else { Ok(inside) }
            }
            _ => Ok(0),
        }
    }

    fn step(&mut self, byte: u8, limits: &HeadLimits) -> Result<(), Reject> {
        match self.phase {
            Phase::Method => self.method(byte),
            Phase::Target => self.target_end(byte),
            Phase::Version => self.version(byte),
            Phase::LineStart => self.line_start(byte, limits),
            Phase::Line => self.expect(byte, b'\r', Phase::LineEnd),
            Phase::LineEnd => self.expect(byte, b'\n', Phase::LineStart),
            Phase::HeadEnd => self.expect(byte, b'\n', Phase::Done),
            Phase::Done => Ok(()),
        }
    }

    fn enter(&mut self, phase: Phase) -> Result<(), Reject> {
        self.phase = phase;
        self.count = 0;
        Ok(())
    }

    fn counted(&mut self) -> Result<(), Reject> {
        self.count = self.count.saturating_add(1);
        Ok(())
    }

    /// Upper case only, so that a TLS, SSH or SMTP peer is told at its first bytes.
    fn method(&mut self, byte: u8) -> Result<(), Reject> {
        match byte {
            b' ' if self.count > 0 => self.enter(Phase::Target),
            b'A'..=b'Z' if self.count < MAX_METHOD => self.counted(),
            TLS_HANDSHAKE if self.count == 0 => Err(Reject::NotHttp),
            _ => Err(Reject::Malformed),
        }
    }

    fn target_end(&mut self, byte: u8) -> Result<(), Reject> {
        if byte == b' ' && self.count > 0 { self.enter(Phase::Version) } else { Err(Reject::Malformed) }
    }

    /// `HTTP/1.0` or `HTTP/1.1`, and the line end.
    fn version(&mut self, byte: u8) -> Result<(), Reject> {
        let is_expected = match self.count {
            0..5 => b"HTTP/".get(usize::from(self.count)) == Some(&byte),
            6 => byte == b'.',
            8 => byte == b'\r',
            9 => byte == b'\n',
            5 | 7 if !byte.is_ascii_digit() => false,
            5 if byte != b'1' => return Err(Reject::HttpVersion),
            7 if byte > b'1' => return Err(Reject::HttpVersion),
            _ => true,
        };
        match (is_expected, self.count) {
            (false, _) => Err(Reject::Malformed),
            (true, 9) => self.enter(Phase::LineStart),
            (true, _) => self.counted(),
        }
    }

    /// A header's first byte, or the empty line; whitespace would fold the line before (RFC 9112 section 5.2).
    fn line_start(&mut self, byte: u8, limits: &HeadLimits) -> Result<(), Reject> {
        match byte {
            b'\r' => self.phase = Phase::HeadEnd,
            _ if usize::from(self.count) >= limits.headers.min(MAX_HEADERS) => {
                return Err(Reject::HeadTooLarge);
            }
            b'!'..=b'9' | b';'..=b'~' => {
                self.phase = Phase::Line;
                return self.counted();
            }
            _ => return Err(Reject::Malformed),
        }
        Ok(())
    }

    /// The next byte of a line end: a bare CR or LF is neither.
    fn expect(&mut self, byte: u8, expected: u8, next: Phase) -> Result<(), Reject> {
        if byte != expected {
            return Err(Reject::Malformed);
        }
        self.phase = next;
        Ok(())
    }
}
