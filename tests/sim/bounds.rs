//! What one peer may make a shard do and hold within one turn has a bound: output, copies, reads, frames under way.

use millpond::hub::api::{ApiAnswer, ApiCommand, ApiPublish};
use millpond::hub::mail::Mail;
use millpond::hub::metrics::MemoryCategory;
use millpond::hub::settings::{ChannelOptions, Settings};
use millpond::protocol::client::{self, Connect, Subscribe};
use millpond::protocol::{Body, Encoding, commands};

use crate::frames::{self, BINARY, Seen, TEXT};
use crate::hub::settings;
use crate::rows::{Peer, Stage};
use crate::world::{World, resumed};

/// A history command and its reply are about 50 bytes and 42,000.
const KEPT: usize = 40;
const KEPT_BYTES: usize = 1000;
const REPLY_BYTES: usize = 44_000;

fn publish(stage: &mut Stage, channel: &str, bytes: usize) {
    let data = format!("\"{}\"", "x".repeat(bytes));
    let publish = ApiPublish { channel: channel.into(), data: data.into(), ..ApiPublish::default() };
    let answer = stage.world.ask(0, ApiCommand::Publish(Box::new(publish)));
    assert!(matches!(answer, ApiAnswer::Published(_)), "{answer:?}");
}

/// Commands with these ids, each made by `command`, in one frame.
fn in_one_frame(
    stage: &mut Stage,
    peer: Peer,
    ids: std::ops::Range<u32>,
    command: impl Fn(u32) -> String,
) -> usize {
    let text = ids.map(command).collect::<Vec<_>>().join("\n");
    let mut frame = Vec::new();
    frames::frame(&mut frame, &mut stage.world.rng, TEXT, true, text.as_bytes());
    stage.pipe(peer).send(&frame);
    text.len()
}

/// Ids of the replies that arrived whole.
fn replies(bytes: &mut Vec<u8>) -> Vec<u32> {
    let mut ids = Vec::new();
    while let Some(seen) = frames::next(bytes, &mut false) {
        let Seen::Data(TEXT, text) = seen else { panic!("{seen:?}") };
        for line in std::str::from_utf8(&text).unwrap().lines() {
            let reply: serde_json::Value = serde_json::from_str(line).unwrap();
            ids.push(u32::try_from(reply["id"].as_u64().unwrap()).unwrap());
        }
    }
    ids
}

/// Hundreds of large replies are asked for at once: no turn writes more than what may run ahead and one reply, all are
/// answered in order, and whoever reads is not taken for slow, however little its kernel takes at a time.
#[test]
fn a_pipeline_of_large_replies_waits_for_the_kernel() {
    for room in [usize::MAX, 200_000, 9_000] {
        let mut stage = Stage::new(settings());
        (0..KEPT).for_each(|_| publish(&mut stage, "hist:a", KEPT_BYTES));
        let peer = stage.live();
        stage.pipe(peer).room = room;
        in_one_frame(&mut stage, peer, 2..302, |id| {
            format!(r#"{{"id":{id},"history":{{"channel":"hist:a","limit":{KEPT}}}}}"#)
        });
        in_one_frame(&mut stage, peer, 302..303, |id| {
            format!(r#"{{"id":{id},"unsubscribe":{{"channel":"x"}}}}"#)
        });
        let (mut bytes, mut ids) = (Vec::new(), Vec::new());
        for turn in 0..10_000 {
            stage.world.turn();
            let written = std::mem::take(&mut stage.pipe(peer).outbound);
            assert!(written.len() < 64 * 1024 + REPLY_BYTES, "{} bytes in turn {turn}", written.len());
            bytes.extend(written);
            ids.extend(replies(&mut bytes));
            if ids.len() == 301 {
                break;
            }
        }
        assert_eq!(ids, (2..303).collect::<Vec<_>>());
        stage.world.pass(1);
        assert_eq!(stage.world.shards[0].figures(0, 0, 0).out_queue_bytes, 0);
        stage.pipe(peer).finish();
        stage.world.pass(1);
        assert_eq!(stage.pipe(peer).closed, Some(false), "its end is read as well");
        assert!(stage.is_clean());
    }
}

/// A peer that asks and never reads holds what may run ahead and a reply, and goes with its pong.
#[test]
fn who_pipelines_and_never_reads_holds_one_reply() {
    let mut stage = Stage::new(settings());
    (0..KEPT).for_each(|_| publish(&mut stage, "hist:a", KEPT_BYTES));
    let peer = stage.live();
    stage.pipe(peer).room = 1000;
    in_one_frame(&mut stage, peer, 2..502, |id| {
        format!(r#"{{"id":{id},"history":{{"channel":"hist:a","limit":{KEPT}}}}}"#)
    });
    for _ in 0..1200 {
        stage.world.pass(1);
        let queued = stage.world.shards[0].figures(0, 0, 0).out_queue_bytes;
        assert!(queued < 4 * (64 * 1024 + REPLY_BYTES as u64), "{queued} bytes wait");
        if stage.pipe(peer).closed.is_some() {
            break;
        }
    }
    assert_eq!((stage.disconnects(3012), stage.pipe(peer).closed), (1, Some(true)));
    assert!(stage.is_clean());
}

/// What a slow reader says is read while its backlog waits, also with the very event that says that the kernel has room.
#[test]
fn a_slow_reader_is_heard_before_its_backlog_has_left() {
    let mut of = settings();
    of.client.queue_max_size = 1 << 20;
    let mut stage = Stage::new(of);
    let peer = stage.live();
    in_one_frame(&mut stage, peer, 2..3, |id| {
        format!(r#"{{"id":{id},"subscribe":{{"channel":"quiet:a"}}}}"#)
    });
    stage.world.settle();
    stage.pipe(peer).outbound.clear();
    stage.pipe(peer).room = 1000;
    (0..300).for_each(|_| publish(&mut stage, "quiet:a", 1000));
    assert_eq!(stage.world.shards[0].figures(0, 0, 0).subscriptions, 1);
    stage.pipe(peer).outbound.clear();
    in_one_frame(&mut stage, peer, 3..4, |id| {
        format!(r#"{{"id":{id},"unsubscribe":{{"channel":"quiet:a"}}}}"#)
    });
    stage.world.turn();
    let figures = stage.world.shards[0].figures(0, 0, 0);
    assert_eq!(figures.subscriptions, 0, "the backlog has not left");
}

/// Thousands of commands wait one behind the other for a home elsewhere: what stands behind is copied once out of the
/// read buffer and once out of its frame, not again for each of them.
#[test]
fn what_waits_behind_a_command_is_not_copied_for_each() {
    let mut stage = Stage { world: World::new(1, 2, settings()) };
    let channel = (0..).map(|at| format!("hist:{at}")).find(|name| stage.world.home(name) == 1).unwrap();
    let peer = stage.live();
    let command = |id| format!(r#"{{"id":{id},"presence_stats":{{"channel":"{channel}"}}}}"#);
    let mut sent = 0;
    for first in [2, 302, 602] {
        sent += in_one_frame(&mut stage, peer, first..first + 300, command);
    }
    (902..1202).for_each(|id| sent += in_one_frame(&mut stage, peer, id..id + 1, command));
    let (mut bytes, mut ids) = (Vec::new(), Vec::new());
    for _ in 0..10_000 {
        stage.world.turn();
        bytes.extend(std::mem::take(&mut stage.pipe(peer).outbound));
        ids.extend(replies(&mut bytes));
        if ids.len() == 1200 {
            break;
        }
    }
    assert_eq!(ids, (2..1202).collect::<Vec<_>>());
    let copied = stage.world.shards[0].figures(0, 0, 0).input_bytes_kept;
    assert!(copied > 0 && copied < 3 * sent as u64, "{copied} bytes were copied of {sent}");
}

/// However many commands of a peer were answered in a turn, it is read once in the next (F25).
#[test]
fn whoever_was_answered_often_is_read_once() {
    let mut stage = Stage::new(settings());
    let peers: Vec<Peer> = (0..3).map(|_| stage.live()).collect();
    for peer in &peers {
        for id in 2..52 {
            in_one_frame(&mut stage, *peer, id..id + 1, |id| {
                format!(r#"{{"id":{id},"presence_stats":{{"channel":"a"}}}}"#)
            });
        }
    }
    stage.world.turn();
    let mut resumed = resumed(&mut stage.world.shards[0]);
    let count = resumed.len();
    resumed.sort_unstable();
    resumed.dedup();
    assert_eq!((count, resumed.len()), (3, 3));
}

/// As many channels as `settings` lets a peer have, held back by `write_delay`.
fn delayed() -> Settings {
    let mut settings = settings();
    settings.client.channel_limit = 1000;
    settings.client.queue_max_size = 64 * 1024 * 1024;
    let open = settings.channel.options[usize::from(settings.channel.namespaces["quiet"])].clone();
    let write_delay = std::time::Duration::from_millis(50);
    let place = u16::try_from(settings.channel.options.len()).unwrap();
    settings.channel.namespaces.insert("held".to_owned(), place);
    settings.channel.options.push(ChannelOptions { name: "held".into(), write_delay, ..open });
    settings
}

/// Frames that wait for their delay count as frames under way: beyond the bound mail stays in its queue, and once they
/// have left, or their channels, it does not.
#[test]
fn frames_held_back_count_as_frames_under_way() {
    let mut stage = Stage::new(delayed());
    let peers: Vec<Peer> = (0..10).map(|_| stage.live()).collect();
    for peer in &peers {
        stage.pipe(*peer).room = usize::MAX;
        in_one_frame(&mut stage, *peer, 2..602, |id| {
            format!(r#"{{"id":{id},"subscribe":{{"channel":"held:{id}"}}}}"#)
        });
    }
    (0..30).for_each(|_| stage.world.turn());
    let fill = |stage: &mut Stage| {
        let mut published = 0;
        for id in 2..602 {
            if stage.world.shards[0].is_saturated() {
                break;
            }
            publish(stage, &format!("held:{id}"), 16_000);
            published += 1;
        }
        published
    };
    let filled = fill(&mut stage);
    assert!((515..=524).contains(&filled), "{filled} such frames are 8 MiB");
    stage.world.pass(1);
    (0..100).for_each(|_| stage.world.turn());
    assert!(!stage.world.shards[0].is_saturated(), "all is out");
    assert_eq!(fill(&mut stage), filled, "nothing of it is counted any more");
    for peer in &peers {
        stage.pipe(*peer).reset();
        stage.world.turn();
    }
    stage.world.pass(1);
    assert!(!stage.world.shards[0].is_saturated(), "the channels are gone");
    assert!(stage.is_clean());
}

/// What thousands of records hold is summed up over several turns, and told once it is.
#[test]
fn gauges_look_at_a_bounded_number_of_records_a_turn() {
    let mut stage = Stage::new(settings());
    let data = "x".repeat(500);
    for at in 0..5000 {
        let publish = ApiPublish {
            channel: format!("hist:{at}"),
            data: format!("\"{data}\"").into(),
            ..ApiPublish::default()
        };
        stage.world.call(0, ApiCommand::Publish(Box::new(publish)));
    }
    stage.world.settle();
    let history = MemoryCategory::History as usize;
    let first = stage.world.shards[0].figures(0, 0, 0);
    assert!(first.records_surveyed <= 1024 && first.memory[history] < 500_000, "not yet");
    let mut before = first.records_surveyed;
    for _ in 0..6 {
        stage.world.turn();
        let after = stage.world.shards[0].figures(0, 0, 0).records_surveyed;
        assert!(after - before <= 2 * 1024, "{} in a turn", after - before);
        before = after;
    }
    let told = stage.world.shards[0].figures(0, 0, 0).memory[history];
    assert!((2_500_000..6_000_000).contains(&told), "{told} bytes of history");
}

const UPGRADE_PROTOBUF: &str = "GET /connection/websocket?format=protobuf HTTP/1.1\r\nHost: a\r\n\
    Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A connect command of these parts, as Protobuf adds them up.
fn connect_in_protobuf(stage: &mut Stage, parts: &[Connect]) -> Peer {
    let peer = stage.dial();
    stage.pipe(peer).send(UPGRADE_PROTOBUF.as_bytes());
    stage.world.turn();
    assert!(std::mem::take(&mut stage.pipe(peer).outbound).starts_with(b"HTTP/1.1 101 "));
    let connect: Vec<u8> = parts.iter().flat_map(prost::Message::encode_to_vec).collect();
    let mut command = vec![0x08, 0x01, 0x22];
    prost::encode_length_delimiter(connect.len(), &mut command).unwrap();
    command.extend(connect);
    let mut payload = Vec::new();
    prost::encode_length_delimiter(command.len(), &mut payload).unwrap();
    payload.extend(command);
    stage.frame(peer, BINARY, true, &payload);
    peer
}

fn wishing(channels: impl IntoIterator<Item = String>, wish: &Subscribe) -> Connect {
    let subs = channels.into_iter().map(|channel| (channel, wish.clone())).collect();
    Connect { subs, ..Connect::default() }
}

/// Where Protobuf names a channel twice in a connect command, the last wish counts.
#[test]
fn the_last_of_two_wishes_counts() {
    for recovers_last in [true, false] {
        let mut stage = Stage::new(settings());
        publish(&mut stage, "hist:a", 10);
        let (plain, recovering) = (Subscribe::default(), Subscribe { recover: true, ..Subscribe::default() });
        let wishes = if recovers_last { [&plain, &recovering] } else { [&recovering, &plain] };
        let parts = wishes.map(|wish| wishing(["hist:a".to_owned()], wish));
        let peer = connect_in_protobuf(&mut stage, &parts);
        let [Seen::Data(BINARY, reply)] = &stage.seen(peer)[..] else { panic!("one reply") };
        let replies = client::replies(Encoding::Protobuf, reply).unwrap();
        let connected = replies[0].connect.as_ref().unwrap();
        assert_eq!(connected.subs.len(), 1);
        assert_eq!(connected.subs["hist:a"].was_recovering, recovers_last);
    }
}

/// A connect command may wish for as many channels as there may be, and names no more than a map may have.
#[test]
fn a_connect_command_that_names_very_many_channels_is_refused() {
    let mut stage = Stage::new(settings());
    let names = |count: u32| (0..count).map(|at| at.to_string());
    for (count, code) in [(128, None), (129, Some(3505)), (6000, Some(3505))] {
        let peer = connect_in_protobuf(&mut stage, &[wishing(names(count), &Subscribe::default())]);
        let code_seen = stage.seen(peer).into_iter().find_map(|seen| match seen {
            Seen::Close(code, _) => Some(code),
            _ => None,
        });
        assert_eq!(code_seen, code, "{count} channels");
    }
    let subs_of = |connect: &[u8]| {
        let mut command = vec![0x08, 0x01, 0x22];
        prost::encode_length_delimiter(connect.len(), &mut command).unwrap();
        command.extend(connect);
        let mut frame = Vec::new();
        prost::encode_length_delimiter(command.len(), &mut frame).unwrap();
        frame.extend(command);
        commands(Encoding::Protobuf, &frame).next().unwrap().ok().map(|command| match command.body {
            Body::Connect(connect) => connect.subs.len(),
            other => panic!("{other:?}"),
        })
    };
    assert_eq!(subs_of(&[0x1A, 0x00].repeat(100_000)), Some(1), "the same channel, again and again");
    for (count, decoded) in [(65_536, Some(65_536)), (65_537, None)] {
        let connect = prost::Message::encode_to_vec(&wishing(names(count), &Subscribe::default()));
        assert_eq!(subs_of(&connect), decoded);
    }
    let json = |entries: u32| {
        let subs = names(entries).map(|name| format!(r#""{name}":{{}}"#)).collect::<Vec<_>>().join(",");
        format!(r#"{{"id":1,"connect":{{"subs":{{{subs}}}}}}}"#)
    };
    for (entries, is_ok) in [(65_536, true), (65_537, false)] {
        assert_eq!(commands(Encoding::Json, json(entries).as_bytes()).next().unwrap().is_ok(), is_ok);
    }
}

/// Whoever leaves a channel in a crowd, and of whom nobody is told, rides along in the letter of the one before: 64 a letter,
/// whatever letters about users stand between them. Somebody who comes in between keeps the order.
#[test]
fn a_crowd_that_leaves_takes_few_letters() {
    let mut stage = Stage { world: World::new(1, 2, settings()) };
    let channel = (0..).map(|at| format!("hist:{at}")).find(|name| stage.world.home(name) == 1).unwrap();
    let command = format!(r#"{{"id":2,"subscribe":{{"channel":"{channel}"}}}}"#);
    let peers: Vec<Peer> = (0..201).map(|_| stage.live()).collect();
    let (late, crowd) = peers.split_last().unwrap();
    for peer in crowd {
        stage.say(*peer, &command);
    }
    stage.world.settle();
    stage.world.busy[1] = u32::MAX;
    crowd[..100].iter().for_each(|peer| stage.pipe(*peer).finish());
    stage.world.turn();
    stage.say(*late, &command);
    crowd[100..].iter().for_each(|peer| stage.pipe(*peer).finish());
    stage.world.turn();
    let weights: Vec<usize> = stage.world.inboxes[1]
        .iter()
        .filter(|mail| matches!(mail, Mail::Home(_)))
        .map(Mail::weight)
        .collect();
    assert_eq!(weights, [64, 36, 1, 64, 36]);
    stage.world.busy[1] = 0;
    stage.world.settle();
    let stats = stage.world.ask(0, ApiCommand::PresenceStats { channel });
    assert!(matches!(stats, ApiAnswer::PresenceStats { num_clients: 1, num_users: 1 }), "{stats:?}");
}

/// Of those whose silence would end them the shell reads a turn's worth, and the others in the turns after.
#[test]
fn whoever_is_overdue_waits_for_a_turn_with_room() {
    let mut stage = Stage::new(settings());
    let peers: Vec<Peer> = (0..10).map(|_| stage.upgraded()).collect();
    stage.world.tick += 150;
    let now = stage.world.now();
    stage.world.shards[0].begin(now);
    stage.world.shards[0].settle();
    let shard = &mut stage.world.shards[0];
    let counts: Vec<usize> = (0..4).map(|_| shard.take_overdue(4).count()).collect();
    assert_eq!(counts, [4, 4, 2, 0]);
    shard.settle();
    stage.world.turn();
    for peer in peers {
        assert!(matches!(stage.seen(peer)[..], [Seen::Close(3502, _)]));
    }
}
