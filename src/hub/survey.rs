//! Bytes that the records of a shard hold, summed up a few records a turn.
//!
//! There may be hundreds of thousands of them, and what each holds is spread over as many cache lines: looked at all at
//! once, they would be a step of many milliseconds in everybody's latency. So a survey goes over them in turns, begun when
//! figures are asked for, and what the last one found is what is told. A shard with few records is surveyed at once.

use crate::hub::shard::Shard;
use crate::limits;

/// What a survey found, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Cold parts, but for output that waits.
    pub(crate) cold: usize,
    /// Output that waits.
    pub(crate) waiting: usize,
    /// Channels with several subscribers here.
    pub(crate) locals: usize,
    /// Channels homed here, but for their places.
    pub(crate) homes: usize,
    /// Their histories.
    pub(crate) history: usize,
}

/// A survey under way, and the last one.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    step: Step,
    cursor: usize,
    so_far: Found,
    last: Found,
}

/// What is looked at now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    #[default]
    Idle,
    Cold,
    Locals,
    Homes,
}

impl Survey {
    /// True while one is under way.
    pub(crate) fn is_under_way(&self) -> bool {
        self.step != Step::Idle
    }
}

impl Shard {
    /// Begins a survey unless one is under way, and tells what the last one found.
    pub(crate) fn surveyed(&mut self) -> Found {
        if !self.survey.is_under_way() {
            self.survey.step = Step::Cold;
        }
        self.survey_on();
        self.survey.last
    }

    /// Looks at as many records as a turn may.
    pub(crate) fn survey_on(&mut self) {
        for _ in 0..limits::SURVEYED_PER_TURN {
            let Self { survey, cold, locals, homes, .. } = self;
            let (so_far, at) = (&mut survey.so_far, survey.cursor);
            let (is_record, next) = match survey.step {
                Step::Idle => return,
                Step::Cold => (cold.survey(at, &mut so_far.cold, &mut so_far.waiting), Step::Locals),
                Step::Locals => (locals.survey(at, &mut so_far.locals), Step::Homes),
                Step::Homes => (homes.survey(at, &mut so_far.homes, &mut so_far.history), Step::Idle),
            };
            if is_record {
                survey.cursor += 1;
                self.metrics.records_surveyed += 1;
                continue;
            }
            (survey.step, survey.cursor) = (next, 0);
            if next == Step::Idle {
                survey.last = std::mem::take(&mut survey.so_far);
            }
        }
    }
}
