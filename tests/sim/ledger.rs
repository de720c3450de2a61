//! What must hold, kept beside the shards: every publication, its place, and who must have had it.
//!
//! Publications carry their own number in the data, so no two are alike. Channels with history are checked by offset
//! against the order that any subscriber saw first. Channels without are checked against one witness that is
//! subscribed all along: what any other subscriber got, from its subscription on, is a contiguous run of what the
//! witness got.

use std::collections::{BTreeMap, BTreeSet};

use millpond::protocol::client::Publication;

/// A publication somebody sent.
#[derive(Debug)]
struct Sent {
    channel: String,
    bytes: usize,
    /// The publisher was told that it succeeded.
    accepted: bool,
}

/// What one subscription of a channel without history got.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) channel: String,
    /// Publications with this number or a greater one were sent after the subscription stood.
    pub(crate) since: u64,
    pub(crate) got: Vec<u64>,
    /// The subscription stands: it must have everything to the end.
    pub(crate) open: bool,
}

/// The model.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    sent: Vec<Sent>,
    /// Channel and epoch → number of the publication at each offset.
    streams: BTreeMap<(String, String), BTreeMap<u64, u64>>,
    /// Channel → numbers in the order in which the witness got them.
    witnessed: BTreeMap<String, Vec<u64>>,
    runs: Vec<Run>,
    /// How connections ended, with how many.
    pub(crate) ends: BTreeMap<String, u32>,
}

/// True if the channel's namespace keeps history.
pub(crate) fn has_history(channel: &str) -> bool {
    channel.starts_with("hist:") || channel.starts_with("short:")
}

/// Number that a publication carries.
pub(crate) fn number_of(publication: &Publication) -> u64 {
    let text = std::str::from_utf8(&publication.data).expect("data in UTF-8");
    let digits = text.strip_prefix(r#"{"n":"#).expect("our data");
    let end = digits.find(|c: char| !c.is_ascii_digit()).expect("an end");
    digits[..end].parse().expect("a number")
}

impl Ledger {
    /// A new publication on its way into `channel`: its number and data, with `padding` bytes of filling.
    pub(crate) fn publish(&mut self, channel: &str, padding: usize) -> (u64, Vec<u8>) {
        let number = self.sent.len() as u64;
        let filling = "x".repeat(padding);
        let data = format!(r#"{{"n":{number},"filling":"{filling}"}}"#).into_bytes();
        self.sent.push(Sent { channel: channel.to_owned(), bytes: data.len(), accepted: false });
        (number, data)
    }

    /// Number of the next publication.
    pub(crate) fn next_number(&self) -> u64 {
        self.sent.len() as u64
    }

    pub(crate) fn accept(&mut self, number: u64) {
        self.sent[number as usize].accepted = true;
    }

    /// Somebody got a publication of a channel with history.
    pub(crate) fn placed(&mut self, channel: &str, epoch: &str, publication: &Publication) {
        let number = self.of_channel(channel, publication);
        assert!(publication.offset > 0, "{channel}: a publication without offset");
        let stream = self.streams.entry((channel.to_owned(), epoch.to_owned())).or_default();
        let known = *stream.entry(publication.offset).or_insert(number);
        assert_eq!(known, number, "{channel} {epoch}: two publications at offset {}", publication.offset);
    }

    /// True if everything between two offsets of a stream was seen and takes no more than `bytes`, with what stands
    /// around it.
    pub(crate) fn fits(&self, channel: &str, epoch: &str, between: (u64, u64), bytes: usize) -> bool {
        let stream = self.streams.get(&(channel.to_owned(), epoch.to_owned()));
        let bytes_at = |offset| Some(self.sent[*stream?.get(&offset)? as usize].bytes + 300);
        let sum: Option<usize> = (between.0 + 1..=between.1).map(bytes_at).sum();
        sum.is_some_and(|sum| sum <= bytes)
    }

    /// Number of a publication that came through `channel`.
    pub(crate) fn of_channel(&self, channel: &str, publication: &Publication) -> u64 {
        let number = number_of(publication);
        assert_eq!(self.sent[number as usize].channel, channel, "publication {number} in a wrong channel");
        number
    }

    /// The witness got a publication.
    pub(crate) fn witness(&mut self, channel: &str, number: u64) {
        self.witnessed.entry(channel.to_owned()).or_default().push(number);
    }

    pub(crate) fn close_run(&mut self, run: Run) {
        self.runs.push(run);
    }

    pub(crate) fn end(&mut self, reason: &str) {
        *self.ends.entry(reason.to_owned()).or_default() += 1;
    }

    /// Everything is delivered that ever will be: nothing is lost, doubled or out of order.
    pub(crate) fn audit(&mut self) {
        self.audit_places();
        for run in std::mem::take(&mut self.runs) {
            let order = self.witnessed.get(&run.channel).map(Vec::as_slice).unwrap_or_default();
            audit_run(&run, order);
        }
    }

    fn audit_places(&self) {
        let mut seen: BTreeMap<u64, u32> = BTreeMap::new();
        let in_streams = self.streams.values().flat_map(BTreeMap::values);
        for number in in_streams.chain(self.witnessed.values().flatten()) {
            *seen.entry(*number).or_default() += 1;
        }
        for (number, sent) in self.sent.iter().enumerate() {
            let times = seen.get(&(number as u64)).copied().unwrap_or(0);
            assert!(times <= 1, "publication {number} in {} has {times} places", sent.channel);
            assert!(!sent.accepted || times == 1, "publication {number} in {} is lost", sent.channel);
        }
        for ((channel, epoch), stream) in &self.streams {
            let offsets: BTreeSet<u64> = stream.keys().copied().collect();
            let whole = offsets.iter().copied().eq(1..=offsets.len() as u64);
            assert!(whole, "{channel} {epoch}: a gap in {offsets:?}");
        }
    }
}

fn audit_run(run: &Run, order: &[u64]) {
    let Run { channel, got, .. } = run;
    // What came before the subscription and was still under way may arrive, or not; from the first publication behind
    // it on, nothing may be missing.
    let due = order.iter().position(|number| *number >= run.since).unwrap_or(order.len());
    let place = |number: &u64| {
        let place = order.iter().position(|known| known == number);
        place.unwrap_or_else(|| panic!("{channel}: the witness has not got {number}"))
    };
    let places: Vec<usize> = got.iter().map(place).collect();
    assert!(places.is_sorted_by(|a, b| a < b), "{channel}: another order, or doubled: {got:?}");
    let behind: Vec<usize> = places.into_iter().filter(|place| *place >= due).collect();
    let whole = behind.iter().copied().eq(due..due + behind.len());
    assert!(whole, "{channel}: a gap in {behind:?} from {due} on");
    let end = due + behind.len();
    assert!(!run.open || end == order.len(), "{channel}: the end is missing: {:?}", &order[end..]);
}
