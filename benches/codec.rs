//! Cost of the wire layer beside tungstenite's own codec and beside the floor, in the same run.
//!
//! Both codecs decode one turn's worth of masked frames: the bytes are copied into a read buffer, as a read would, then
//! every message is taken out. `cargo bench --bench codec`, or with a filter: `-- decode`.
#![allow(missing_docs, reason = "criterion's macros generate public functions")]
#![allow(clippy::unwrap_used, reason = "a benchmark stops at the first surprise")]

use std::hint::black_box;
use std::io::{self, Cursor, Read, Write};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use millpond::wire::frame::{self, Opcode};
use millpond::wire::http::{HeadLimits, HeadScan, parse_head};
use millpond::wire::mask::unmask;
use millpond::wire::message::{DecoderLimits, Item, next_item};
use millpond::wire::upgrade::check_upgrade;
use millpond::wire::utf8;
use tungstenite::WebSocket;
use tungstenite::handshake::machine::TryParse;
use tungstenite::handshake::server::{Request, create_response, write_response};
use tungstenite::protocol::Role;
use tungstenite::protocol::frame::FrameHeader;

/// What a shard reads from one connection in a turn.
const TURN: usize = 65_536;
const LIMITS: DecoderLimits = DecoderLimits { message: 1 << 20 };
const KEY: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// Masked text frames of `size` bytes each, a turn full of them but one at least.
fn frames(size: usize) -> (Vec<u8>, u64) {
    let mut one = Vec::new();
    frame::write_frame(&mut one, Opcode::Text, &text(size));
    let header = frame::header_length(&one);
    one[1] |= 0x80;
    unmask(&mut one[header..], KEY);
    one.splice(header..header, KEY);
    let count = (TURN / one.len()).max(1);
    (one.repeat(count), count as u64)
}

/// JSON as clients send it, ASCII.
fn text(size: usize) -> Vec<u8> {
    br#"{"id":12,"publish":{"channel":"chat:room","data":{"text":"hello"}}}"#.iter().copied().cycle().take(size).collect()
}

/// A socket that has the same bytes again after each rewinding.
struct Replay {
    bytes: Vec<u8>,
    at: usize,
    /// Longest read.
    chunk: usize,
}

impl Read for Replay {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let rest = &self.bytes[self.at..];
        let count = rest.len().min(into.len()).min(self.chunk);
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        into[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        Ok(count)
    }
}

impl Write for Replay {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes every message out of `socket`; sums their lengths.
fn drain_millpond(socket: &mut Replay, buffer: &mut [u8]) -> usize {
    socket.at = 0;
    let (mut assembly, mut sum) = (None, 0);
    while let Ok(count) = socket.read(buffer) {
        let mut input = &mut buffer[..count];
        while let Some(item) = next_item(&mut assembly, &mut input, &LIMITS).unwrap() {
            if let Item::Text(text) = item {
                sum += text.len();
            }
        }
    }
    sum
}

fn drain_tungstenite(socket: &mut WebSocket<Replay>) -> usize {
    socket.get_mut().at = 0;
    let mut sum = 0;
    while let Ok(message) = socket.read() {
        sum += message.len();
    }
    sum
}

/// Frames of one size, read in pieces of at most `chunk` bytes.
fn decode_group(criterion: &mut Criterion, name: &str, sizes: &[usize], chunk: usize) {
    let mut group = criterion.benchmark_group(name);
    let mut buffer = vec![0; TURN + 64];
    for &size in sizes {
        let (bytes, count) = frames(size);
        let mut ours = Replay { bytes: bytes.clone(), at: 0, chunk };
        let replay = Replay { bytes, at: 0, chunk };
        let mut theirs = WebSocket::from_raw_socket(replay, Role::Server, None);
        assert_eq!(drain_millpond(&mut ours, &mut buffer), drain_tungstenite(&mut theirs));
        group.throughput(Throughput::Elements(count));
        group.bench_function(BenchmarkId::new("millpond", size), |bencher| {
            bencher.iter(|| drain_millpond(&mut ours, &mut buffer));
        });
        group.bench_function(BenchmarkId::new("tungstenite", size), |bencher| {
            bencher.iter(|| drain_tungstenite(&mut theirs));
        });
    }
    group.finish();
}

fn decode(criterion: &mut Criterion) {
    decode_group(criterion, "decode", &[16, 64, 128, 1024, 16_384, 65_000], usize::MAX);
    decode_group(criterion, "decode_in_1448_byte_reads", &[128, 16_384, 65_000], 1448);
}

fn headers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("header");
    let (bytes, _) = frames(128);
    group.bench_function("decode/millpond", |bencher| bencher.iter(|| frame::decode(black_box(&bytes))));
    group.bench_function("decode/tungstenite", |bencher| {
        bencher.iter(|| FrameHeader::parse(&mut Cursor::new(black_box(&bytes))).unwrap());
    });
    for length in [70, 2500] {
        group.bench_function(BenchmarkId::new("encode/millpond", length), |bencher| {
            bencher.iter(|| {
                let mut out = [0; 10];
                let count = frame::frame_header(&mut out, Opcode::Text, black_box(length));
                (out, count)
            });
        });
        group.bench_function(BenchmarkId::new("encode/tungstenite", length), |bencher| {
            let header = FrameHeader::default();
            bencher.iter(|| {
                let mut out = [0u8; 10];
                header.format(black_box(length as u64), &mut out.as_mut_slice()).unwrap();
                out
            });
        });
    }
    group.finish();
}

fn mask(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("unmask");
    for size in [20, 128, 1024, 16_384] {
        let mut bytes = text(size);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("millpond", size), |bencher| {
            bencher.iter(|| unmask(black_box(&mut bytes), black_box(KEY)));
        });
        group.bench_function(BenchmarkId::new("bytewise", size), |bencher| {
            bencher.iter(|| {
                let key = black_box(KEY);
                for (index, byte) in black_box(&mut bytes).iter_mut().enumerate() {
                    *byte ^= key[index & 3];
                }
            });
        });
    }
    group.finish();
}

fn utf8_checks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("utf8");
    let mixed: Vec<u8> = "Zürich, Ελλάδα, 東京, 🦀 ".bytes().cycle().take(16_380).collect();
    for (kind, text) in [("ascii_64", text(64)), ("ascii", text(16_384)), ("mixed", mixed)] {
        let whole = String::from_utf8_lossy(&text).trim_end_matches('\u{FFFD}').to_owned().into_bytes();
        group.throughput(Throughput::Bytes(whole.len() as u64));
        group.bench_function(BenchmarkId::new("check", kind), |bencher| {
            bencher.iter(|| utf8::check(black_box(&whole)).is_ok());
        });
        group.bench_function(BenchmarkId::new("check_prefix", kind), |bencher| {
            bencher.iter(|| utf8::check_prefix(black_box(&whole), 0));
        });
        group.bench_function(BenchmarkId::new("std", kind), |bencher| {
            bencher.iter(|| std::str::from_utf8(black_box(&whole)).is_ok());
        });
    }
    group.finish();
}

/// What a browser sends.
const REQUEST: &[u8] = b"GET /connection/websocket?cf_protocol_version=v2 HTTP/1.1\r\nHost: gateway.example:8000\r\n\
    Connection: Upgrade\r\nPragma: no-cache\r\nCache-Control: no-cache\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) \
    AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\nUpgrade: websocket\r\nOrigin: \
    https://app.example\r\nSec-WebSocket-Version: 13\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: \
    en-US,en;q=0.9\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: permessage-deflate; \
    client_max_window_bits\r\n\r\n";

fn head(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("handshake");
    let limits = HeadLimits::default();
    let mut out = Vec::with_capacity(512);
    group.bench_function("parse_head/millpond", |bencher| {
        bencher.iter(|| {
            parse_head(black_box(REQUEST), &mut HeadScan::default(), &limits).unwrap().unwrap().length()
        });
    });
    group.bench_function("parse_head/httparse", |bencher| {
        bencher.iter(|| {
            let mut headers = [httparse::EMPTY_HEADER; 64];
            httparse::Request::new(&mut headers).parse(black_box(REQUEST)).unwrap().unwrap()
        });
    });
    group.bench_function("request_to_101/millpond", |bencher| {
        bencher.iter(|| {
            out.clear();
            let head = parse_head(black_box(REQUEST), &mut HeadScan::default(), &limits).unwrap().unwrap();
            check_upgrade(&head).unwrap().write_response(&mut out);
            out.len()
        });
    });
    group.bench_function("request_to_101/tungstenite", |bencher| {
        bencher.iter(|| {
            out.clear();
            let (_, request) = Request::try_parse(black_box(REQUEST)).unwrap().unwrap();
            write_response(&mut out, &create_response(&request).unwrap()).unwrap();
            out.len()
        });
    });
    group.bench_function("parse_head_byte_by_byte/millpond", |bencher| {
        bencher.iter(|| {
            let mut scan = HeadScan::default();
            (1..REQUEST.len())
                .all(|end| parse_head(black_box(&REQUEST[..end]), &mut scan, &limits).unwrap().is_none())
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(50);
    targets = decode, headers, mask, utf8_checks, head
}
criterion_main!(benches);
