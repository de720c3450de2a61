//! Fan-out to many sockets beside the floor of the same machine: the raw `write` loop over the same sockets.
//!
//! One process, loopback, real sockets. A shard is driven as its thread would drive it; the other ends are read by a
//! thread with a descriptor table of its own, which proves that every subscriber got every byte, once and in order.
//! Three ways of sending take turns, so that whatever else the machine does hits all of them:
//!
//! | way | what happens |
//! |---|---|
//! | raw | one `write` of one frame to each socket, round after round: what no server can avoid |
//! | lone | one publication at a time through the shard |
//! | flight | 32 publications under way at any time: each subscriber gets the frames it missed in one write |
//!
//! The cost of a delivery is CPU time of the sending thread, which on loopback includes the receiver's share of TCP.
//! Raw and lone rounds alternate one by one, and their rate is that of the fastest round: on a machine with other work a
//! round's time says mostly how often the thread had to wait for a core.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    reason = "a bench reads clocks, waits, and has nothing to go on with after a failure"
)]

mod stage;
mod subscribers;

use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;

use stage::{Frames, Stage};
use subscribers::Subscribers;

/// Publications under way in the third way of sending.
const IN_FLIGHT: u64 = 32;

/// Payload of one frame in bytes (figures.md).
const MESSAGE_BYTES: usize = 70;

#[derive(Parser)]
#[command(about = "CPU per delivery of a publication beside the raw write loop")]
struct Options {
    /// Subscribers; fewer where the descriptor limit says so
    #[arg(long, default_value_t = 18_000)]
    subscribers: usize,
    /// Publications per sample of the first two ways
    #[arg(long, default_value_t = 10)]
    rounds: u64,
    /// Publications per sample of the third way
    #[arg(long, default_value_t = 192)]
    flight_rounds: u64,
    /// Samples of each way; medians are reported
    #[arg(long, default_value_t = 5)]
    repeats: usize,
    /// Only this way of sending (for profiles)
    #[arg(long)]
    only: Option<String>,
    /// Writes the medians to this file
    #[arg(long)]
    json: Option<std::path::PathBuf>,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// One measurement: all rounds together, but for the rate.
#[derive(Clone, Copy, Default)]
struct Sample {
    cpu: Duration,
    deliveries: u64,
    /// Deliveries a second of the fastest round.
    rate: f64,
}

impl Sample {
    fn add(&mut self, round: Self) {
        self.cpu += round.cpu;
        self.deliveries += round.deliveries;
        self.rate = self.rate.max(round.rate);
    }

    fn cpu_nanos(&self) -> f64 {
        self.cpu.as_nanos() as f64 / self.deliveries as f64
    }

    fn rate(&self) -> f64 {
        self.rate
    }
}

/// The three ways of sending in one repeat.
struct Repeat {
    raw: Sample,
    lone: Sample,
    flight: Sample,
}

struct Bench {
    stage: Stage,
    subscribers: Subscribers,
    frames: Frames,
}

impl Bench {
    /// Sends `count` publications in one way, waits until they are read, and has them checked.
    fn sample(&mut self, count: u64, way: impl FnOnce(&mut Stage, &[(Bytes, Bytes)])) -> Sample {
        let batch = self.frames.batch(count);
        let (cpu, wall) = (thread_cpu(), Instant::now());
        way(&mut self.stage, &batch);
        let (cpu, wall) = (thread_cpu().saturating_sub(cpu), wall.elapsed());
        self.subscribers.expect(batch.iter().map(|(_, frame)| frame));
        let deliveries = count * self.subscribers.count() as u64;
        Sample { cpu, deliveries, rate: deliveries as f64 / wall.as_secs_f64() }
    }

    fn raw(&mut self, count: u64) -> Sample {
        self.sample(count, |stage, batch| batch.iter().for_each(|(_, frame)| stage.write_to_all(frame)))
    }

    fn lone(&mut self, count: u64) -> Sample {
        self.sample(count, |stage, batch| {
            for (data, _) in batch {
                stage.publish(data.clone());
                stage.run();
            }
        })
    }

    fn flight(&mut self, count: u64) -> Sample {
        self.sample(count, |stage, batch| {
            let bytes_each = batch.first().map_or(1, |(_, frame)| frame.len() as u64) * stage.count() as u64;
            let start = stage.bytes_written();
            let mut waiting = batch.iter();
            let mut published = 0;
            loop {
                let completed = (stage.bytes_written() - start) / bytes_each;
                for (data, _) in waiting.by_ref().take((IN_FLIGHT + completed - published) as usize) {
                    stage.publish(data.clone());
                    published += 1;
                }
                if completed == count {
                    return;
                }
                stage.turn();
            }
        })
    }
}

fn main() {
    let options = Options::parse();
    let count = options.subscribers.min(stage::sockets_at_most());
    let (stage, subscribers) = stage::open(count);
    let mut bench = Bench { stage, subscribers, frames: Frames::new(MESSAGE_BYTES) };
    println!("{count} subscribers, {MESSAGE_BYTES} B a message, {IN_FLIGHT} frames in flight");
    if let Some(only) = &options.only {
        return profile(&mut bench, only, &options);
    }
    bench.raw(2);
    bench.lone(2);
    let repeats: Vec<Repeat> = (0..options.repeats).map(|_| repeat(&mut bench, &options)).collect();
    summary(&repeats, count, &options);
}

/// One way of sending, again and again, for a profiler.
fn profile(bench: &mut Bench, only: &str, options: &Options) {
    for _ in 0..options.repeats {
        let sample = match only {
            "raw" => bench.raw(options.rounds),
            "lone" => bench.lone(options.rounds),
            "flight" => bench.flight(options.flight_rounds),
            other => panic!("`{other}` is none of raw, lone, flight"),
        };
        println!("{only}: {:.0} ns CPU, {:.0} deliveries/s", sample.cpu_nanos(), sample.rate());
    }
}

fn repeat(bench: &mut Bench, options: &Options) -> Repeat {
    let (mut raw, mut lone) = (Sample::default(), Sample::default());
    for _ in 0..options.rounds {
        raw.add(bench.raw(1));
        lone.add(bench.lone(1));
    }
    let repeat = Repeat { raw, lone, flight: bench.flight(options.flight_rounds) };
    for (name, sample) in [("raw", &repeat.raw), ("lone", &repeat.lone), ("flight", &repeat.flight)] {
        let (cpu, rate) = (sample.cpu_nanos(), sample.rate());
        print!("{name:>8} {cpu:6.0} ns CPU {rate:9.0}/s");
    }
    println!("   lone/raw {:.3} CPU, {:.3} rate", repeat.lone_cpu(), repeat.lone_rate());
    repeat
}

impl Repeat {
    fn lone_cpu(&self) -> f64 {
        self.lone.cpu_nanos() / self.raw.cpu_nanos()
    }

    fn lone_rate(&self) -> f64 {
        self.lone.rate() / self.raw.rate()
    }
}

fn summary(repeats: &[Repeat], count: usize, options: &Options) {
    let median = |figure: &dyn Fn(&Repeat) -> f64| median(repeats.iter().map(figure).collect());
    let rows = [
        ("raw_cpu_ns", median(&|repeat| repeat.raw.cpu_nanos())),
        ("raw_rate", median(&|repeat| repeat.raw.rate())),
        ("lone_cpu_ns", median(&|repeat| repeat.lone.cpu_nanos())),
        ("lone_rate", median(&|repeat| repeat.lone.rate())),
        ("flight_cpu_ns", median(&|repeat| repeat.flight.cpu_nanos())),
        ("flight_rate", median(&|repeat| repeat.flight.rate())),
        ("lone_to_raw_cpu", median(&Repeat::lone_cpu)),
        ("lone_to_raw_rate", median(&Repeat::lone_rate)),
        ("flight_to_raw_rate", median(&|repeat| repeat.flight.rate() / repeat.raw.rate())),
    ];
    println!("medians of {}:", repeats.len());
    for (name, value) in rows {
        println!("{name:>20} {value:.3}");
    }
    if let Some(path) = &options.json {
        let mut figures = json!({ "subscribers": count, "message_bytes": MESSAGE_BYTES });
        for (name, value) in rows {
            figures[name] = value.into();
        }
        std::fs::write(path, figures.to_string()).expect("the file for the figures can be written");
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
