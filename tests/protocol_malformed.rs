//! Rows P08 and P09 of the table of bad input: what is not a command is malformed, in linear time and without recursion.

use millpond::protocol::{Command, Encoding, Malformed, commands, is_json};

/// Everything that a frame yields.
fn all(encoding: Encoding, frame: &[u8]) -> Vec<Result<Command<'_>, Malformed>> {
    commands(encoding, frame).collect()
}

fn json(line: &str) -> Vec<Result<Command<'_>, Malformed>> {
    all(Encoding::Json, line.as_bytes())
}

#[test]
fn what_is_not_a_command_in_json_is_malformed() {
    let lines = include_str!("protocol_malformed.txt").lines().filter(|line| !line.starts_with('#'));
    let mut count = 0;
    for line in lines {
        assert_eq!(json(line), [Err(Malformed::Json)], "{line}");
        count += 1;
    }
    assert!(count > 60, "{count} cases");
    for control in ["\t", "\r", "\u{0}", "\u{1f}"] {
        for member in ["data", "method"] {
            let line = format!(r#"{{"id":1,"rpc":{{"{member}":"{control}"}}}}"#);
            assert_eq!(json(&line), [Err(Malformed::Json)], "{line:?}");
        }
    }
    assert_eq!(all(Encoding::Json, b"{\"id\":1,\"rpc\":{\"method\":\"\xc3\"}}"), [Err(Malformed::Utf8)]);
    assert_eq!(all(Encoding::Json, b"{\"\xff\":1}"), [Err(Malformed::Utf8)]);
    assert_eq!(all(Encoding::Json, b"{\"id\":1\0}"), [Err(Malformed::Json)]);
}

/// Each is 1 MiB deep, decoded on a stack of 128 KiB: whatever recursed over it would overflow.
#[test]
fn depth_bombs_end_without_recursion() {
    let open = "[".repeat(1 << 20);
    let objects = r#"{"a":"#.repeat(1 << 18);
    let closed = ["[".repeat(1 << 19), "]".repeat(1 << 19)].concat();
    let groups = vec![0x0b; 1 << 20];
    let bomb = move || {
        for value in [&open, &objects, &closed] {
            for line in [
                value.clone(),
                format!(r#"{{"id":{value}"#),
                format!(r#"{{"id":1,"publish":{{"data":{value}}}}}"#),
                format!(r#"{{"id":1,"new":{value}}}"#),
                format!(r#"{{"id":1,"subscribe":{{"tf":{{"nodes":{value}}}}}}}"#),
            ] {
                assert_eq!(json(&line), [Err(Malformed::Json)]);
            }
            assert!(!is_json(value.as_bytes()));
        }
        let frame = [&[0x80, 0x80, 0x40][..], &groups].concat();
        assert_eq!(all(Encoding::Protobuf, &frame), [Err(Malformed::Protobuf)]);
    };
    std::thread::Builder::new().stack_size(128 << 10).spawn(bomb).unwrap().join().unwrap();
}

#[test]
fn a_repeated_channel_is_found_among_very_many() {
    let subs = |last: &str| {
        let channels: Vec<_> = (0..50_000).map(|number| format!(r#""channel-{number}":{{}}"#)).collect();
        format!(r#"{{"id":1,"connect":{{"subs":{{{},"{last}":{{}}}}}}}}"#, channels.join(","))
    };
    assert!(json(&subs("channel-50000"))[0].is_ok());
    assert_eq!(json(&subs("channel-0")), [Err(Malformed::Json)]);
}
