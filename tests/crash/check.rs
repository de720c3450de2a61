//! Recovers from an image and compares with what must be there.

use std::collections::HashMap;

use millpond::log::body::Body;
use millpond::log::engine::Engine;
use millpond::log::error::ReadError;
use millpond::log::fake::FakeDisk;
use millpond::log::history::HistoryRead;
use millpond::log::reader::{Reader, Stored};
use millpond::log::record::{Class, HEADER_BYTES, Header, Sequence};
use millpond::log::recover::RecoveryReport;
use millpond::log::segment::{HeaderState, SegmentHeader};

use super::images::Random;
use super::workload::{Entry, Expected, LATER, NAMES, class_of, matches, settings};

/// What a test looked at.
#[derive(Debug, Default)]
pub struct Counts {
    pub images: usize,
    pub records: usize,
    pub tails: usize,
    pub damaged: usize,
    pub clean: usize,
    pub removed: usize,
}

/// Everything acknowledged is there, in order, and nothing but a prefix of what was attempted follows. Returns what is
/// there.
pub fn check(image: &FakeDisk, expected: &Expected, context: &str, counts: &mut Counts) -> Vec<Entry> {
    let (engine, report) = open(image, context);
    assert_eq!(report.damage, [], "false alarm: {context}");
    let found = usize::try_from(report.next.0 - 1).expect("few");
    let stored = expected.stored.len();
    assert!(found >= stored, "lost: {found} of {stored} records, {context}");
    let reader = engine.reader();
    let none = vec![Vec::new()];
    let attempted = if expected.attempted.is_empty() { &none } else { &expected.attempted };
    let extra = attempted.iter().filter_map(|attempted| attempted.get(..found - stored)).find(|extra| {
        let mut sequences = stored as u64 + 1..;
        extra.iter().all(|entry| {
            let record = reader.record(Sequence(sequences.next().expect("endless")));
            let through = match entry {
                Entry::Cursor { through, .. } => *through,
                _ => u64::MAX,
            };
            // Cursors of one mailbox differ in the offset only, which is never beyond what was asked for.
            record.is_ok_and(|record| matches(entry, &record.body) && record.offset <= through)
        }) && agrees(&reader, expected, extra)
    });
    let extra = extra.unwrap_or_else(|| panic!("phantoms: {found} records, {context}"));
    let entries: Vec<Entry> = expected.stored.iter().chain(extra.iter()).cloned().collect();
    let model = Model::of(&entries, &[]);
    for (entry, sequence) in entries.iter().zip(1..) {
        check_record(&reader, entry, sequence, model.is_live(sequence), context);
    }
    model.check(&reader, &model, context);
    for (name, expected) in NAMES.iter().zip(expected.epochs).filter(|(_, epoch)| epoch.is_some()) {
        let epoch = reader.info(Class::History, name, "").map(|info| info.state.epoch);
        assert_eq!(epoch, expected, "epoch of {name}: {context}");
    }
    counts.images += 1;
    counts.records += entries.len();
    counts.tails += usize::from(report.tail.is_some());
    counts.clean += usize::from(report.clean);
    counts.removed += report.removed.len();
    entries
}

/// True if the mailboxes are as these entries make them.
fn agrees(reader: &Reader, expected: &Expected, extra: &[Entry]) -> bool {
    let entries: Vec<Entry> = expected.stored.iter().chain(extra).cloned().collect();
    let model = Model::of(&entries, &[]);
    model.compare(reader, &model).is_ok()
}

/// A record that is needed is there and says what was appended; another one says that, or is gone.
fn check_record(reader: &Reader, entry: &Entry, sequence: u64, live: bool, context: &str) {
    match reader.record(Sequence(sequence)) {
        Ok(record) if matches(entry, &record.body) => {}
        Ok(record) if !live && matches!(record.body, Body::Stub(_)) => {}
        Err(ReadError::Gone(_)) if !live => {}
        other => panic!("record {sequence} is {other:?}: {context}"),
    }
}

/// Flips one bit of the image. What is delivered is right; what is missing is what the flip hit, or what follows it in
/// a tail that nothing vouches for.
pub fn check_flip(
    image: &FakeDisk,
    random: &mut Random,
    expected: &Expected,
    context: &str,
    counts: &mut Counts,
) {
    let files: Vec<String> = names(image).into_iter().filter(|name| name.ends_with(".seg")).collect();
    if files.is_empty() {
        return;
    }
    let name = &files[random.below(files.len())];
    let before = image.killed();
    let pristine = image.contents(name).expect("exists");
    let at = random.below(pristine.len());
    let flipped = image.killed();
    flipped.flip(name, at, 1 << random.below(8));
    let hit = record_at(&pristine, at);
    let vouched = files.iter().map(|file| vouched(&image.contents(file).expect("exists"), hit)).max();
    let context = format!("{context}, {name} byte {at}, hit {hit:?}, vouched {vouched:?}");
    // With the snapshot away both are read from the records.
    for image in [&before, &flipped] {
        let _ = millpond::log::storage::Storage::remove(image, "index.snapshot");
    }
    let removed = open(&before.killed(), &context).1.removed;
    let obsolete = removed.contains(name);
    let intact = check(&before, expected, &context, &mut Counts::default());
    let (engine, report) = open(&flipped, &context);
    // Left by a group that failed: a later segment begins before it, and has the number again.
    let header = |file: &String| segment_header(&image.contents(file).expect("exists"));
    let own = header(name);
    let voided = files.iter().map(header).any(|other| {
        other.id > own.id
            && own.covers_through == Sequence(0)
            && hit.is_some_and(|hit| other.first_sequence.0 <= hit)
    });
    let fenced = hit.is_some_and(|hit| hit > intact.len() as u64) || obsolete || voided;
    let damaged = hit.filter(|hit| Some(*hit) <= vouched && !fenced);
    let cut = hit.filter(|hit| Some(*hit) > vouched && !fenced);
    let reader = engine.reader();
    let present = cut.map_or(intact.len(), |cut| cut as usize - 1);
    let missing: Vec<u64> = damaged.into_iter().collect();
    let model = Model::of(&intact[..present], &missing);
    // Without a damaged cursor's floor more is wanted, but it may have been compacted away before.
    let mut required = Model::of(&intact[..present], &[]);
    required.drop_record(damaged);
    for (entry, sequence) in intact.iter().zip(1_u64..) {
        if damaged == Some(sequence) || sequence > present as u64 {
            let record = reader.record(Sequence(sequence));
            assert!(record.is_err(), "record {sequence} is {record:?}: {context}");
        } else if required.is_live(sequence) {
            check_record(&reader, entry, sequence, true, &context);
        } else if let Ok(record) = reader.record(Sequence(sequence)) {
            assert!(
                matches(entry, &record.body) || matches!(record.body, Body::Stub(_)),
                "{record:?}: {context}"
            );
        }
    }
    let alarm = at < 1024 || damaged.is_some();
    assert_eq!(!report.damage.is_empty(), alarm, "{report:?}, {context}");
    model.check(&reader, &required, &context);
    counts.images += 1;
    counts.damaged += usize::from(alarm);
    counts.tails += usize::from(report.tail.is_some());
}

fn open(image: &FakeDisk, context: &str) -> (Engine, RecoveryReport) {
    let opened = Engine::open(Box::new(image.clone()), settings(999), LATER);
    opened.unwrap_or_else(|error| panic!("does not open: {error}, {context}"))
}

/// What the mailboxes and histories hold according to the entries.
struct Model {
    mailboxes: Vec<Mailbox>,
}

#[derive(Default)]
struct Mailbox {
    /// Offset, sequence, text, of messages that have not expired and are not damaged.
    messages: Vec<(u64, u64, Vec<u8>)>,
    last: u64,
    floor: u64,
    /// A floor whose record is damaged; the next record of the mailbox makes up for it, since it says what is held.
    lost: u64,
    devices: HashMap<&'static str, u64>,
    /// Numbering is only exact while the newest record is.
    exact: bool,
}

impl Model {
    fn of(entries: &[Entry], missing: &[u64]) -> Self {
        let mut mailboxes: Vec<Mailbox> = NAMES.iter().map(|_| Mailbox::default()).collect();
        for (entry, sequence) in entries.iter().zip(1_u64..) {
            let damaged = missing.contains(&sequence);
            match entry {
                Entry::Message { user, text, expires } => {
                    let mailbox = &mut mailboxes[*user];
                    mailbox.last += 1;
                    mailbox.settle(damaged);
                    if !damaged && !expires {
                        mailbox.messages.push((mailbox.last, sequence, text.clone()));
                    }
                }
                Entry::Cursor { user, device, through } => {
                    let mailbox = &mut mailboxes[*user];
                    mailbox.acknowledge(device, *through);
                    mailbox.settle(damaged);
                }
                Entry::Publication { channel, text, expires, keep } => {
                    let history = &mut mailboxes[*channel];
                    history.last += 1;
                    history.lost = history.lost.max(history.last.saturating_sub(u64::from(*keep)));
                    history.settle(damaged);
                    if !damaged && !expires {
                        history.messages.push((history.last, sequence, text.clone()));
                    }
                }
                Entry::Position { channel, keep } => {
                    let history = &mut mailboxes[*channel];
                    if *keep == 0 {
                        history.lost = history.last;
                    }
                    history.settle(damaged);
                }
                Entry::Watermark => {}
            }
        }
        for mailbox in &mut mailboxes {
            let floor = mailbox.floor;
            mailbox.messages.retain(|(offset, ..)| *offset > floor);
        }
        Self { mailboxes }
    }

    fn is_live(&self, sequence: u64) -> bool {
        self.mailboxes.iter().flat_map(|mailbox| &mailbox.messages).any(|message| message.1 == sequence)
    }

    fn drop_record(&mut self, sequence: Option<u64>) {
        for mailbox in &mut self.mailboxes {
            mailbox.messages.retain(|message| Some(message.1) != sequence);
        }
    }

    fn check(&self, reader: &Reader, required: &Self, context: &str) {
        if let Err(difference) = self.compare(reader, required) {
            panic!("{difference}: {context}");
        }
    }

    /// Every mailbox replays the messages above its floor, each once, in order, and goes on with the next number. Those
    /// of `required` must be among them.
    fn compare(&self, reader: &Reader, required: &Self) -> Result<(), String> {
        for (number, (mailbox, required)) in self.mailboxes.iter().zip(&required.mailboxes).enumerate() {
            let user = NAMES[number];
            let (found, last) = match class_of(number) {
                Class::History => history(reader, user),
                _ => replay(reader, user),
            };
            let offsets: Vec<u64> = found.iter().map(|stored| stored.offset).collect();
            let offsets_of = |mailbox: &Mailbox| mailbox.messages.iter().map(|m| m.0).collect::<Vec<u64>>();
            let (may, must) = (offsets_of(mailbox), offsets_of(required));
            let ordered = offsets.is_sorted_by(|a, b| a < b);
            if !ordered
                || !offsets.iter().all(|o| may.contains(o))
                || !must.iter().all(|o| offsets.contains(o))
            {
                return Err(format!("{user} has {offsets:?}, must have {must:?}, may have {may:?}"));
            }
            for stored in &found {
                let text = mailbox.messages.iter().find(|m| m.0 == stored.offset).map(|m| &m.2[..]);
                let data = match &stored.body {
                    Body::Message(message) => Some(&message.data[..]),
                    Body::Publication(publication) => Some(&publication.data[..]),
                    _ => None,
                };
                let same = data.is_some() && data == text;
                if !same {
                    return Err(format!("offset {} of {user} is {stored:?}", stored.offset));
                }
            }
            if (mailbox.exact || mailbox.last == 0) && last != mailbox.last {
                return Err(format!("number of {user} is {last}, not {}", mailbox.last));
            }
        }
        Ok(())
    }
}

/// What a mailbox holds, and its number.
fn replay(reader: &Reader, user: &str) -> (Vec<Stored>, u64) {
    let mut found = Vec::new();
    let last = reader.info(Class::Mailbox, user, "").map_or(0, |info| info.state.last_offset);
    let Some(mut replay) = reader.replay(Class::Mailbox, user, 0, 3, LATER) else { return (found, last) };
    loop {
        let page = replay.next_page().expect("readable");
        if page.is_empty() {
            return (found, last);
        }
        found.extend(page);
    }
}

/// What a history holds, page by page, which must be what it holds from the newest on backwards; and its number.
fn history(reader: &Reader, channel: &str) -> (Vec<Stored>, u64) {
    let mut read = HistoryRead {
        channel,
        end: u64::MAX,
        after: 0,
        before: u64::MAX,
        limit: 3,
        bytes: usize::MAX,
        newest_first: false,
        now: LATER,
    };
    let (mut forward, mut backward) = (Vec::new(), Vec::new());
    while let Some(page) = reader.history(&read, None).expect("readable") {
        read.after = page.publications.last().map_or(read.after, |stored| stored.offset);
        forward.extend(page.publications);
        if !page.more {
            break;
        }
    }
    read = HistoryRead { after: 0, newest_first: true, ..read };
    let mut top = 0;
    while let Some(page) = reader.history(&read, None).expect("readable") {
        top = page.top;
        read.before = page.publications.last().map_or(0, |stored| stored.offset);
        backward.extend(page.publications);
        if !page.more {
            break;
        }
    }
    backward.reverse();
    assert_eq!(forward, backward, "{channel}");
    (forward, top)
}

impl Mailbox {
    fn acknowledge(&mut self, device: &'static str, through: u64) {
        let through = through.min(self.last);
        if device.is_empty() && self.devices.is_empty() {
            self.lost = self.lost.max(through);
            return;
        }
        let own = self.devices.entry(device).or_default();
        *own = (*own).max(through);
        self.lost = self.lost.max(self.devices.values().copied().min().unwrap_or(0));
    }

    fn settle(&mut self, damaged: bool) {
        self.exact = !damaged;
        if !damaged {
            self.floor = self.floor.max(self.lost);
        }
    }
}

fn names(image: &FakeDisk) -> Vec<String> {
    millpond::log::storage::Storage::list(image).expect("lists")
}

/// The record that a byte of a segment belongs to.
fn record_at(segment: &[u8], at: usize) -> Option<u64> {
    let mut offset = 1024;
    while let Some(header) = segment.get(offset..).and_then(Header::decode) {
        if (offset..offset + header.record_bytes()).contains(&at) {
            return Some(header.sequence.0);
        }
        offset = header.next_offset(offset as u64) as usize;
    }
    None
}

fn segment_header(segment: &[u8]) -> SegmentHeader {
    let Ok(HeaderState::Good(header)) = SegmentHeader::decode(0, segment) else {
        panic!("the image is not flipped")
    };
    header
}

/// The highest sequence that something in the segment other than the record hit says is durable.
fn vouched(segment: &[u8], hit: Option<u64>) -> u64 {
    let own = segment_header(segment);
    let mut vouched = own.durable_through.0.max(own.covers_through.0);
    // Also a header behind a hole vouches, whose body is torn.
    for offset in (1024..segment.len() - HEADER_BYTES).step_by(8) {
        if let Some(header) = Header::decode(&segment[offset..])
            && header.salt == own.salt
            && Some(header.sequence.0) != hit
        {
            vouched = vouched.max(header.durable_through.0);
        }
    }
    vouched
}
