//! Bytes that are no JSON: tokens and the server API may give them as info and as data. A JSON connection that would be
//! told of them is closed with 3506; nobody is ever sent broken JSON, and others are not disturbed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use millpond::hub::api::{ApiCommand, ApiPublish, ApiSubscribe, Target};
use millpond::protocol::Encoding;
use millpond::protocol::client::{self, Channel, Command, Connect, History, Reply, Subscribe};

use crate::frames::{self, BINARY, Seen, TEXT};
use crate::hub::{settings, token};
use crate::net::Pipe;
use crate::rows::UPGRADE;
use crate::world::World;

/// Valid UTF-8 that would add a member to the object around it.
const INJECTED: &[u8] = br#"1},"x":{"#;

/// A connection to the only shard.
struct Peer {
    socket: i32,
    encoding: Encoding,
    next_id: u32,
    inbox: Vec<u8>,
}

struct Scene(World);

impl Scene {
    fn new() -> Self {
        Self(World::new(3, 1, settings()))
    }

    fn pipe(&mut self, peer: &Peer) -> &mut Pipe {
        self.0.pipe(0, peer.socket)
    }

    /// Connects with these claims beside the user.
    fn connect(&mut self, encoding: Encoding, claims: &str) -> Peer {
        let socket = self.0.dial(0);
        let protocol = match encoding {
            Encoding::Json => "\r\n",
            Encoding::Protobuf => "Sec-WebSocket-Protocol: centrifuge-protobuf\r\n\r\n",
        };
        let head = UPGRADE.strip_suffix("\r\n").unwrap().to_owned() + protocol;
        self.0.pipe(0, socket).send(head.as_bytes());
        self.0.settle();
        self.0.pipe(0, socket).outbound.clear();
        let mut peer = Peer { socket, encoding, next_id: 0, inbox: Vec::new() };
        let token = token(&format!(r#"{{"sub":"ann"{claims}}}"#));
        self.tell(&mut peer, |id| Command::connect(id, Connect { token, ..Connect::default() }));
        peer
    }

    fn tell(&mut self, peer: &mut Peer, command: impl FnOnce(u32) -> Command) {
        peer.next_id += 1;
        let mut payload = Vec::new();
        command(peer.next_id).encode(peer.encoding, &mut payload).unwrap();
        let mut out = Vec::new();
        let opcode = if peer.encoding == Encoding::Json { TEXT } else { BINARY };
        frames::frame(&mut out, &mut self.0.rng, opcode, true, &payload);
        self.pipe(peer).send(&out);
        self.0.settle();
    }

    fn subscribe(&mut self, peer: &mut Peer, channel: &str) {
        let subscribe = Subscribe { channel: channel.into(), ..Subscribe::default() };
        self.tell(peer, |id| Command::subscribe(id, subscribe));
    }

    /// What was told, all of it well formed, and the code of a close.
    fn heard(&mut self, peer: &mut Peer) -> (Vec<Reply>, Option<u16>) {
        let bytes = std::mem::take(&mut self.pipe(peer).outbound);
        peer.inbox.extend(bytes);
        let (mut replies, mut close) = (Vec::new(), None);
        while let Some(seen) = frames::next(&mut peer.inbox, &mut false) {
            match seen {
                Seen::Data(_, payload) => {
                    replies.extend(client::replies(peer.encoding, &payload).expect("whole messages"));
                }
                Seen::Close(code, _) => close = Some(code),
                other => panic!("{other:?}"),
            }
        }
        (replies, close)
    }

    fn is_undisturbed(&mut self, peer: &mut Peer) -> bool {
        self.heard(peer).1.is_none() && self.pipe(peer).closed.is_none()
    }
}

fn binary_info() -> String {
    format!(r#","b64info":"{}""#, STANDARD.encode(INJECTED))
}

#[test]
fn the_info_of_a_publisher_that_is_no_json_closes_json_subscribers() {
    for others in [0, 12] {
        let mut scene = Scene::new();
        let mut publisher = scene.connect(Encoding::Json, &binary_info());
        let mut reader = scene.connect(Encoding::Json, "");
        let mut binary = scene.connect(Encoding::Protobuf, "");
        let mut bystander = scene.connect(Encoding::Json, "");
        scene.subscribe(&mut reader, "hist:a");
        scene.subscribe(&mut binary, "hist:a");
        scene.subscribe(&mut bystander, "quiet:a");
        for _ in 0..others {
            let mut peer = scene.connect(Encoding::Protobuf, "");
            scene.subscribe(&mut peer, "hist:a");
        }
        scene.heard(&mut binary);
        scene.tell(&mut publisher, |id| Command::publish(id, "hist:a", b"{}"));
        let (_, close) = scene.heard(&mut reader);
        assert_eq!(close, Some(3506));
        let (replies, close) = scene.heard(&mut binary);
        let publication = replies[0].push.as_ref().unwrap().publication.as_ref().unwrap();
        assert_eq!((&publication.info.as_ref().unwrap().conn_info[..], close), (INJECTED, None));
        assert!(scene.is_undisturbed(&mut publisher) && scene.is_undisturbed(&mut bystander));
        let mut late = scene.connect(Encoding::Json, "");
        let history = History { channel: "hist:a".into(), limit: -1, ..History::default() };
        scene.tell(&mut late, |id| Command { id, history: Some(history), ..Command::default() });
        assert_eq!(scene.heard(&mut late).1, Some(3506), "history has it too");
    }
}

#[test]
fn a_member_whose_info_is_no_json_closes_json_connections_that_would_be_told() {
    for members in [1, 12] {
        let mut scene = Scene::new();
        let mut reader = scene.connect(Encoding::Json, "");
        let mut binary = scene.connect(Encoding::Protobuf, "");
        scene.subscribe(&mut binary, "room");
        for _ in 1..members {
            let mut peer = scene.connect(Encoding::Protobuf, "");
            scene.subscribe(&mut peer, "room");
        }
        scene.subscribe(&mut reader, "room");
        assert!(scene.is_undisturbed(&mut reader) && scene.is_undisturbed(&mut binary));
        let mut odd = scene.connect(Encoding::Protobuf, &binary_info());
        scene.subscribe(&mut odd, "room");
        // Joins in a channel of many are told in their own time.
        scene.0.pass(20);
        assert_eq!(scene.heard(&mut reader).1, Some(3506));
        assert!(scene.is_undisturbed(&mut binary) && scene.is_undisturbed(&mut odd));
        let mut curious = scene.connect(Encoding::Json, "");
        let presence = Some(Channel { channel: "room".into() });
        scene.tell(&mut curious, |id| Command { id, presence, ..Command::default() });
        assert_eq!(scene.heard(&mut curious).1, Some(3506));
    }
}

#[test]
fn data_of_a_subscription_that_is_no_json_closes_a_json_connection() {
    let data = STANDARD.encode(INJECTED);
    for channel in ["quiet:a", "hist:a"] {
        for (encoding, expected) in [(Encoding::Json, Some(3506)), (Encoding::Protobuf, None)] {
            let mut scene = Scene::new();
            let claims = format!(r#","subs":{{"{channel}":{{"b64data":"{data}"}}}}"#);
            let mut peer = scene.connect(encoding, &claims);
            assert_eq!(scene.heard(&mut peer).1, expected, "by the connection token");
            let mut peer = scene.connect(encoding, "");
            scene.heard(&mut peer);
            let token = token(&format!(r#"{{"sub":"ann","channel":"{channel}","b64data":"{data}"}}"#));
            let subscribe = Subscribe { channel: channel.into(), token, ..Subscribe::default() };
            scene.tell(&mut peer, |id| Command::subscribe(id, subscribe));
            assert_eq!(scene.heard(&mut peer).1, expected, "by a subscription token");
            let mut peer = scene.connect(encoding, "");
            scene.heard(&mut peer);
            let call = ApiSubscribe {
                channel: channel.into(),
                target: Target { user: "ann".into(), ..Target::default() },
                data: Some(INJECTED.into()),
                ..ApiSubscribe::default()
            };
            scene.0.ask(0, ApiCommand::Subscribe(Box::new(call)));
            assert_eq!(scene.heard(&mut peer).1, expected, "by the server API");
        }
    }
}

/// What is JSON goes as it is, whatever it looks like from outside.
#[test]
fn info_that_is_json_reaches_everybody() {
    let mut scene = Scene::new();
    let info = STANDARD.encode(br#"{"a":[1,"}"]}"#);
    let mut publisher = scene.connect(Encoding::Json, &format!(r#","b64info":"{info}""#));
    let mut reader = scene.connect(Encoding::Json, "");
    scene.subscribe(&mut reader, "room");
    scene.subscribe(&mut publisher, "room");
    scene.tell(&mut publisher, |id| Command::publish(id, "room", b"1"));
    let publish = ApiPublish { channel: "room".into(), data: "2".into(), ..ApiPublish::default() };
    scene.0.ask(0, ApiCommand::Publish(Box::new(publish)));
    let (replies, close) = scene.heard(&mut reader);
    let pushes: Vec<_> = replies.iter().filter_map(|reply| reply.push.as_ref()).collect();
    let infos = pushes.iter().filter_map(|push| push.publication.as_ref()?.info.as_ref());
    assert_eq!(infos.map(|info| &info.conn_info[..]).collect::<Vec<_>>(), [br#"{"a":[1,"}"]}"#]);
    assert_eq!((pushes.iter().filter(|push| push.join.is_some()).count(), close), (2, None));
}
