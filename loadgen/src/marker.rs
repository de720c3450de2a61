//! The mark inside every message of ours: `~mp1:0:0:12:345~` stands for run 1, channel 0, lane 0, sequence number 12,
//! due at 345 ns. It is plain text, so that it survives JSON, Protobuf and any other envelope, and a subscriber finds
//! it without taking the envelope apart.

/// A byte that messages rarely hold, so that looking for it passes over most of them at memory speed.
const OPEN: u8 = b'~';
const NAME: &[u8] = b"mp";
const FIELDS: usize = 5;

/// One mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Marker {
    /// Which phase of which run; others are ignored.
    pub run: u32,
    /// The channel's group, see [`crate::template::Template::group`].
    pub channel: u32,
    /// Publications of one lane of one channel are sent strictly one after another.
    pub lane: u32,
    /// From 1, without gaps, per lane of a channel.
    pub sequence: u32,
    /// When it was meant to be sent, in nanoseconds of the process's clock.
    pub intended_ns: u64,
}

impl Marker {
    /// Appends the data of a message, at least `size` bytes long, as a JSON object.
    pub fn write_json(&self, size: usize, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(b"{\"m\":\"");
        self.write(out);
        let padded = start + size.saturating_sub(2);
        if out.len() < padded {
            out.resize(padded, b'x');
        }
        out.extend_from_slice(b"\"}");
    }

    fn write(&self, out: &mut Vec<u8>) {
        use std::io::Write as _;
        let Self { run, channel, lane, sequence, intended_ns } = self;
        // Writing to a Vec cannot fail.
        let _ = write!(out, "~mp{run}:{channel}:{lane}:{sequence}:{intended_ns}~");
    }
}

/// Finds the first mark in `bytes`, and where it ends.
#[must_use]
pub fn find(bytes: &[u8]) -> Option<(Marker, usize)> {
    for at in memchr::memchr_iter(OPEN, bytes) {
        let Some(fields) = bytes[at + 1..].strip_prefix(NAME) else { continue };
        if let Some((marker, length)) = parse(fields) {
            return Some((marker, at + 1 + NAME.len() + length));
        }
    }
    None
}

/// All marks in `bytes`, in order.
pub fn all(bytes: &[u8]) -> impl Iterator<Item = Marker> + '_ {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (marker, end) = find(rest)?;
        rest = &rest[end..];
        Some(marker)
    })
}

fn parse(bytes: &[u8]) -> Option<(Marker, usize)> {
    let mut fields = [0_u64; FIELDS];
    let mut field = 0;
    let mut digits = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        match byte {
            b'0'..=b'9' => {
                fields[field] = fields[field].wrapping_mul(10).wrapping_add(u64::from(byte - b'0'));
                digits += 1;
            }
            b':' if field + 1 < FIELDS && digits > 0 => (field, digits) = (field + 1, 0),
            b'~' if field + 1 == FIELDS && digits > 0 => {
                let small = |index: usize| u32::try_from(fields[index]).ok();
                let (run, channel) = (small(0)?, small(1)?);
                let (lane, sequence) = (small(2)?, small(3)?);
                return Some((Marker { run, channel, lane, sequence, intended_ns: fields[4] }, at + 1));
            }
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKER: Marker =
        Marker { run: 1, channel: 2, lane: 3, sequence: 4, intended_ns: 5_000_000_000_000 };

    #[test]
    fn what_is_written_is_found_at_any_size() {
        for size in [0, 40, 70, 1_000] {
            let mut data = Vec::new();
            MARKER.write_json(size, &mut data);
            assert!(data.len() == size || size < 40, "{size}: {}", data.len());
            assert!(serde_json::from_slice::<serde_json::Value>(&data).is_ok());
            assert_eq!(find(&data).map(|(marker, _)| marker), Some(MARKER));
        }
    }

    #[test]
    fn false_openings_are_passed_over() {
        let mut data = b"~mp1:2~mpx~mp1:2:3:4:~mp::::~".to_vec();
        assert_eq!(find(&data), None);
        MARKER.write_json(0, &mut data);
        MARKER.write_json(90, &mut data);
        assert_eq!(all(&data).collect::<Vec<_>>(), [MARKER, MARKER]);
    }
}
