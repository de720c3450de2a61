//! A stream as section 4 tells it, word for word and without a thought for cost, and a test that both agree.

use super::*;

/// Every publication ever appended in this epoch, the dropped ones marked.
struct Model {
    retention: Retention,
    publications: Vec<(u64, Bytes)>,
    gone: usize,
    epoch: Epoch,
    version: Option<(u64, String)>,
    last_publication: Tick,
    last_access: Tick,
}

impl Model {
    fn advance(&mut self, now: Tick, fresh: Epoch) {
        if now.since(self.last_access) >= self.retention.meta_ttl.max(self.retention.ttl) {
            self.publications.clear();
            self.gone = 0;
            self.version = None;
            self.epoch = fresh;
        }
        if now.since(self.last_publication) >= self.retention.ttl {
            self.gone = self.publications.len();
        }
        self.last_access = now;
    }

    fn top(&self) -> u64 {
        self.publications.len() as u64
    }

    fn kept(&self) -> &[(u64, Bytes)] {
        &self.publications[self.gone..]
    }

    fn append(&mut self, now: Tick, draft: &Draft<'_>) -> Option<u64> {
        if let Some((number, epoch)) = &self.version
            && draft.version > 0
            && (draft.version_epoch.is_empty() || draft.version_epoch == epoch)
            && draft.version <= *number
        {
            return None;
        }
        if draft.version > 0 {
            self.version = Some((draft.version, draft.version_epoch.to_owned()));
        }
        self.publications.push((self.top() + 1, draft.data.clone()));
        self.last_publication = now;
        self.gone = self.gone.max(self.publications.len().saturating_sub(self.retention.size as usize));
        Some(self.top())
    }

    /// Fetch publications after the offset, up to the limit. None: recovered iff the top is the offset. Else iff the
    /// first follows the offset and the last is the top.
    fn recover(&self, since: Since<'_>, limit: usize) -> Option<Vec<u64>> {
        if !since.epoch.is_empty() && since.epoch != self.epoch.as_str() {
            return None;
        }
        let fetched: Vec<u64> = self
            .kept()
            .iter()
            .map(|(offset, _)| *offset)
            .filter(|offset| *offset > since.offset)
            .take(limit)
            .collect();
        let recovered = match (fetched.first(), fetched.last()) {
            (Some(first), Some(last)) => *first == since.offset + 1 && *last == self.top(),
            _ => self.top() == since.offset,
        };
        recovered.then_some(fetched)
    }

    fn recover_cache(&self, since: Since<'_>) -> Option<Vec<u64>> {
        let same = since.offset > 0 && since.offset == self.top() && since.epoch == self.epoch.as_str();
        let newest = self.kept().last().map(|(offset, _)| *offset);
        match newest {
            _ if same => Some(vec![]),
            Some(newest) if newest == self.top() => Some(vec![newest]),
            _ => None,
        }
    }

    fn read(&self, query: &HistoryQuery<'_>) -> Result<Vec<u64>, HistoryFault> {
        if query.reverse && query.since.is_some_and(|since| since.offset == 0) {
            return Err(HistoryFault::BadRequest);
        }
        if query.since.is_some_and(|since| !since.epoch.is_empty() && since.epoch != self.epoch.as_str()) {
            return Err(HistoryFault::UnrecoverablePosition);
        }
        let mut offsets: Vec<u64> = self.kept().iter().map(|(offset, _)| *offset).collect();
        if query.reverse {
            offsets.reverse();
            offsets.retain(|offset| query.since.is_none_or(|since| *offset < since.offset));
        } else {
            offsets.retain(|offset| query.since.is_none_or(|since| *offset > since.offset));
        }
        if query.limit >= 0 {
            offsets.truncate(query.limit as usize);
        }
        if query.max > 0 {
            offsets.truncate(query.max as usize);
        }
        Ok(offsets)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Wait(u32),
    Expire,
    Remove,
    Append { version: u64, version_epoch: &'static str },
    Recover { behind: i64, epoch: Asked, cache: bool, limit: u32 },
    Read { behind: Option<i64>, epoch: Asked, limit: i32, reverse: bool, max: u32 },
}

/// Which epoch a client names.
#[derive(Clone, Copy, Debug)]
enum Asked {
    Own,
    None,
    Sentinel,
    Former,
}

fn asked() -> impl Strategy<Value = Asked> {
    prop_oneof![4 => Just(Asked::Own), 2 => Just(Asked::None), 1 => Just(Asked::Sentinel), 1 => Just(Asked::Former)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..4_u64, prop::sample::select(vec!["", "a", "b"]))
            .prop_map(|(version, version_epoch)| Step::Append { version, version_epoch }),
        8 => Just(Step::Append { version: 0, version_epoch: "" }),
        3 => prop_oneof![4 => 0..60_u32, 2 => 60..300_u32, 1 => 300..1_500_u32].prop_map(Step::Wait),
        1 => Just(Step::Expire),
        1 => Just(Step::Remove),
        6 => (-2..10_i64, asked(), any::<bool>(), 0..8_u32)
            .prop_map(|(behind, epoch, cache, limit)| Step::Recover { behind, epoch, cache, limit }),
        6 => (prop::option::of(-2..10_i64), asked(), -1..8_i32, any::<bool>(), 0..8_u32).prop_map(
            |(behind, epoch, limit, reverse, max)| Step::Read { behind, epoch, limit, reverse, max }
        ),
    ]
}

/// The offset of a client that is so many publications behind, or ahead.
fn offset_behind(top: u64, behind: i64) -> u64 {
    top.saturating_add_signed(-behind)
}

/// The stream and its model, side by side in time.
struct Pair {
    retention: Retention,
    now: Tick,
    rng: Rng,
    stream: Stream,
    model: Model,
    /// The epoch before the model's.
    former: Epoch,
}

impl Pair {
    fn new(size: u32) -> Self {
        let (retention, now) = (Retention { size, ..RETENTION }, Tick(0));
        let mut rng = Rng::new(1);
        let (former, epoch) = (Epoch::random(&mut rng), Epoch::random(&mut rng));
        let model = Model {
            retention,
            publications: Vec::new(),
            gone: 0,
            epoch,
            version: None,
            last_publication: now,
            last_access: now,
        };
        Self { retention, now, rng, stream: Stream::new(epoch, &retention, now), model, former }
    }

    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Wait(ticks) => self.now = self.now.after(*ticks),
            Step::Expire => {
                self.stream.expire(self.now);
            }
            _ => self.access(step)?,
        }
        Ok(())
    }

    fn access(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let (fresh, before) = (Epoch::random(&mut self.rng), self.model.epoch);
        self.model.advance(self.now, fresh);
        if self.model.epoch != before {
            self.former = before;
        }
        let model = &mut self.model;
        let mut access = self.stream.access(&self.retention, self.now, || fresh);
        prop_assert_eq!(access.position(), StreamPosition { offset: model.top(), epoch: model.epoch });
        match *step {
            Step::Append { version, version_epoch } => {
                let draft = Draft { version, version_epoch, ..draft(model.top()) };
                let expected = model.append(self.now, &draft);
                let actual = match access.append(draft) {
                    Appended::Published(publication) => Some(publication.offset),
                    Appended::Suppressed => None,
                };
                prop_assert_eq!(actual, expected);
            }
            Step::Remove => {
                access.remove();
                model.gone = model.publications.len();
            }
            Step::Recover { behind, epoch, cache, limit } => {
                let since = client_at(model, self.former, behind, epoch);
                let mode = if cache { RecoveryMode::Cache } else { RecoveryMode::Stream };
                recoveries_agree(model, access.recover(since.as_since(), mode, limit), &since, mode, limit)?;
            }
            Step::Read { behind, epoch, limit, reverse, max } => {
                let since = behind.map(|behind| client_at(model, self.former, behind, epoch));
                let since = since.as_ref().map(Client::as_since);
                let query = HistoryQuery { limit, since, reverse, max };
                let actual = access.read(&query).map(|page| offsets(page.publications));
                prop_assert_eq!(actual, model.read(&query));
            }
            Step::Wait(_) | Step::Expire => {}
        }
        let kept: Vec<_> = self.stream.kept.iter().map(|kept| (kept.offset, kept.data.clone())).collect();
        prop_assert_eq!(kept.as_slice(), self.model.kept());
        Ok(())
    }
}

/// A client's idea of where it is.
struct Client {
    offset: u64,
    epoch: String,
}

impl Client {
    fn as_since(&self) -> Since<'_> {
        Since { offset: self.offset, epoch: &self.epoch }
    }
}

fn client_at(model: &Model, former: Epoch, behind: i64, epoch: Asked) -> Client {
    let epoch = match epoch {
        Asked::Own => model.epoch.as_str(),
        Asked::None => "",
        Asked::Sentinel => "_",
        Asked::Former => former.as_str(),
    };
    Client { offset: offset_behind(model.top(), behind), epoch: epoch.to_owned() }
}

fn recoveries_agree(
    model: &Model,
    recovery: Recovery<'_>,
    client: &Client,
    mode: RecoveryMode,
    limit: u32,
) -> Result<(), TestCaseError> {
    let expected = match mode {
        RecoveryMode::Cache => model.recover_cache(client.as_since()),
        RecoveryMode::Stream if limit == 0 => model.recover(client.as_since(), usize::MAX),
        RecoveryMode::Stream => model.recover(client.as_since(), limit as usize),
    };
    prop_assert_eq!(recovery.recovered, expected.is_some());
    let reply = if expected.is_some() { client.offset } else { model.top() };
    prop_assert_eq!(recovery.offset, reply);
    prop_assert_eq!(recovery.top, StreamPosition { offset: model.top(), epoch: model.epoch });
    prop_assert_eq!(offsets(recovery.publications), expected.unwrap_or_default());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn agrees_with_section_4_word_for_word(size in 1..7_u32, steps in prop::collection::vec(step(), 0..80)) {
        let mut pair = Pair::new(size);
        for step in &steps {
            pair.step(step)?;
        }
    }
}
