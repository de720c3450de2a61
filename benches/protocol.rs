//! What the protocol costs a shard: decoding the commands of clients and encoding publications, in both encodings.
//!
//! `floor` is the memory copy of the same payload, the least that an encoder can do.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use millpond::protocol::client::{self, Command};
use millpond::protocol::{
    ClientInfo, ConnectResult, Encoding, PublicationView, SubscribeResult, commands, encode_connect,
    encode_push_publication, encode_subscribe,
};

const ENCODINGS: [(&str, Encoding); 2] = [("json", Encoding::Json), ("protobuf", Encoding::Protobuf)];
const CLIENT: &str = "299eeec3-30e1-41a1-872c-df91c4a6e679";

/// A chat message of so many bytes, as JSON.
fn payload(length: usize) -> Vec<u8> {
    let (open, close) = (r#"{"room": 7, "text": ""#, r#""}"#);
    format!("{open}{}{close}", "x".repeat(length - open.len() - close.len())).into_bytes()
}

fn decode(criterion: &mut Criterion) {
    let token = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9".repeat(5);
    let connect = client::Connect { token, name: "js".to_owned(), ..client::Connect::default() };
    let subscribe =
        client::Subscribe { channel: "chat:room-17".to_owned(), flag: 1, ..client::Subscribe::default() };
    let cases = [
        ("pong", vec![Command::default()]),
        ("connect", vec![Command::connect(1, connect.clone())]),
        ("subscribe", vec![Command::subscribe(2, subscribe.clone())]),
        ("connect_subscribe", vec![Command::connect(1, connect), Command::subscribe(2, subscribe)]),
        ("publish_70", vec![Command::publish(3, "chat:room-17", &payload(70))]),
        ("publish_10k", vec![Command::publish(3, "chat:room-17", &payload(10_000))]),
    ];
    for (kind, encoding) in ENCODINGS {
        let mut group = criterion.benchmark_group(format!("decode/{kind}"));
        for (name, batch) in &cases {
            let frame = frame(encoding, batch);
            group.throughput(Throughput::Bytes(frame.len() as u64));
            group.bench_with_input(BenchmarkId::from_parameter(name), &frame, |bencher, frame| {
                bencher.iter(|| {
                    for command in commands(encoding, black_box(frame)) {
                        black_box(command).ok();
                    }
                });
            });
        }
    }
}

fn frame(encoding: Encoding, batch: &[Command]) -> Vec<u8> {
    let mut frame = Vec::new();
    for (index, command) in batch.iter().enumerate() {
        if index > 0 && encoding == Encoding::Json {
            frame.push(b'\n');
        }
        assert_eq!(command.encode(encoding, &mut frame), Ok(()));
    }
    frame
}

fn encode(criterion: &mut Criterion) {
    let info = ClientInfo { user: "user-4711", client: CLIENT, ..ClientInfo::default() };
    let connect =
        ConnectResult { client: CLIENT, version: "0.1.0", ping: 25, pong: true, ..Default::default() };
    let subscribe =
        SubscribeResult { recoverable: true, epoch: "IRkxzhdT", positioned: true, ..Default::default() };
    for (kind, encoding) in ENCODINGS {
        let mut group = criterion.benchmark_group(format!("encode/{kind}"));
        let mut out = Vec::with_capacity(1 << 16);
        for length in [70, 10_000] {
            let data = payload(length);
            let publication = PublicationView {
                data: Some(&data),
                info: Some(info),
                offset: 123_456,
                ..Default::default()
            };
            group.bench_function(BenchmarkId::new("publication", length), |bencher| {
                bencher.iter(|| {
                    out.clear();
                    encode_push_publication(&mut out, encoding, "chat:room-17", black_box(&publication));
                    black_box(&out);
                });
            });
            group.bench_function(BenchmarkId::new("floor", length), |bencher| {
                bencher.iter(|| {
                    out.clear();
                    out.extend_from_slice(black_box(&data));
                    black_box(&out);
                });
            });
        }
        group.bench_function("connect_reply", |bencher| {
            bencher.iter(|| {
                out.clear();
                encode_connect(&mut out, encoding, 1, black_box(&connect));
                black_box(&out);
            });
        });
        group.bench_function("subscribe_reply", |bencher| {
            bencher.iter(|| {
                out.clear();
                encode_subscribe(&mut out, encoding, 2, black_box(&subscribe));
                black_box(&out);
            });
        });
    }
}

criterion_group!(benches, decode, encode);
criterion_main!(benches);
