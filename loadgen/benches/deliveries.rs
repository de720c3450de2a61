//! What one delivery costs the generator itself, beside the kernel: reading, proving, recording. A server that delivers
//! more in a second than this allows on one core cannot be measured with one worker.
#![allow(missing_docs, reason = "criterion's macros write functions without documentation")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use millpond_load::dialect::{Dialect, Incoming};
use millpond_load::flow::Flow;
use millpond_load::marker::Marker;
use millpond_load::proof::{self, Proof};
use millpond_load::ws;

/// Messages in one frame, as a server sends them that coalesces.
const BATCH: u32 = 32;
/// Bytes of data of a message, as in figures.md.
const SIZE: usize = 70;

fn frame(first: u32) -> Vec<u8> {
    let mut lines = Vec::new();
    for sequence in first..first + BATCH {
        let mut data = Vec::new();
        Marker { run: 1, channel: 0, lane: 0, sequence, intended_ns: 1_234_567_890 }
            .write_json(SIZE, &mut data);
        let data = String::from_utf8_lossy(&data).into_owned();
        lines.push(format!(
            "{{\"push\":{{\"channel\":\"all\",\"pub\":{{\"data\":{data},\"offset\":{sequence}}}}}}}"
        ));
    }
    lines.join("\n").into_bytes()
}

fn deliveries(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("deliveries");
    group.throughput(Throughput::Elements(u64::from(BATCH)));
    let frame = frame(1);
    for (name, places) in [("json", false), ("json with offsets", true)] {
        group.bench_function(name, |bencher| {
            let mut proof = Proof::new(Arc::new(Flow::new(1, 1, 1, None)), 1, 1);
            proof.join(0, std::iter::once(0));
            bencher.iter(|| {
                Dialect::Json.read(ws::TEXT, black_box(&frame), places, &mut |incoming| {
                    if let Incoming::Delivery(marker, _) = incoming {
                        black_box(proof.take(0, 0, marker.lane, marker.sequence));
                        proof::record(&mut proof.latency, marker.intended_ns / 1000);
                        proof::record(&mut proof.lag, 3);
                    }
                });
            });
        });
    }
    group.finish();
}

criterion_group!(benches, deliveries);
criterion_main!(benches);
