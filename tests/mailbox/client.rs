//! A client of one user that behaves like the stock libraries: it keeps a position, recovers from it, answers pings.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use millpond::base::rng::Rng;
use millpond::protocol::client::{self, Command, Connect, Publication, Reply, Rpc, Subscribe, Subscribed};
use millpond::protocol::{Encoding, is_json};

use serde_json::json;

use crate::desk::Desk;
use crate::frames::{self, Seen};
use crate::hub::token;
use crate::net::Pipe;

/// A client over all its connections.
pub(crate) struct Client {
    pub(crate) user: String,
    pub(crate) device: String,
    pub(crate) encoding: Encoding,
    /// Where the library would recover from.
    pub(crate) position: Option<(u64, String)>,
    /// Every offset it was ever given, with how often.
    pub(crate) received: BTreeMap<u64, u32>,
    pub(crate) session: Option<Session>,
    pub(crate) shard: usize,
    pub(crate) socket: i32,
    /// Code of the last close frame.
    pub(crate) closed: Option<u16>,
    /// Reads and answers.
    pub(crate) awake: bool,
    /// Other channels that it asks for when it connects.
    pub(crate) wishes: Vec<String>,
    /// Asks for WebSocket pings, and keeps what they carried; the test answers them.
    pub(crate) native: bool,
    pub(crate) pings: Vec<Vec<u8>>,
}

/// One connection.
#[derive(Default)]
pub(crate) struct Session {
    inbox: Vec<u8>,
    in_http: bool,
    pub(crate) subscribed: bool,
    /// The offset behind which the next publication belongs.
    pub(crate) last: u64,
    /// Publications in the order in which they came.
    pub(crate) log: Vec<u64>,
    pub(crate) recovered: bool,
    next_id: u32,
    /// `mailbox.ack` commands without an answer.
    pub(crate) asked: Vec<u32>,
    pub(crate) errors: Vec<u32>,
}

impl Client {
    pub(crate) fn new(user: &str, device: &str, encoding: Encoding) -> Self {
        Self {
            user: user.to_owned(),
            device: device.to_owned(),
            encoding,
            position: None,
            received: BTreeMap::new(),
            session: None,
            shard: 0,
            socket: -1,
            closed: None,
            awake: true,
            wishes: Vec::new(),
            native: false,
            pings: Vec::new(),
        }
    }

    pub(crate) fn channel(&self) -> String {
        format!("#{}", self.user)
    }

    /// The upgrade and the connect command, in one go.
    pub(crate) fn begin(&mut self, shard: usize, socket: i32, pipe: &mut Pipe, rng: &mut Rng) {
        (self.shard, self.socket, self.closed, self.awake) = (shard, socket, None, true);
        self.session = Some(Session { in_http: true, next_id: 1, ..Session::default() });
        let protocol = match self.encoding {
            Encoding::Json => "",
            Encoding::Protobuf => "Sec-WebSocket-Protocol: centrifuge-protobuf\r\n",
        };
        let query = if self.native { "?cf_ws_frame_ping_pong=true" } else { "" };
        pipe.send(
            format!(
                "GET /connection/websocket{query} HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{protocol}\r\n"
            )
            .as_bytes(),
        );
        let subs = self.position.clone().map(|(offset, epoch)| {
            (self.channel(), Subscribe { recover: true, offset, epoch, ..Subscribe::default() })
        });
        let wishes = self.wishes.iter().map(|channel| (channel.clone(), Subscribe::default()));
        let data = match self.device.as_str() {
            "" => Vec::new(),
            device => format!("{{\"device\":\"{device}\"}}").into_bytes(),
        };
        let connect = Connect {
            token: token(&format!("{{\"sub\":\"{}\"}}", self.user)),
            data,
            subs: subs.into_iter().chain(wishes).collect(),
            ..Connect::default()
        };
        self.send(pipe, rng, &Command::connect(1, connect));
    }

    /// `mailbox.ack`
    pub(crate) fn acknowledge(&mut self, offset: u64, pipe: &mut Pipe, rng: &mut Rng) {
        let Some(session) = &mut self.session else { return };
        session.next_id += 1;
        let id = session.next_id;
        session.asked.push(id);
        let rpc = Rpc { method: "mailbox.ack".into(), data: format!("{{\"offset\":{offset}}}").into() };
        self.send(pipe, rng, &Command { id, rpc: Some(rpc), ..Command::default() });
    }

    /// A WebSocket pong.
    pub(crate) fn pong(&self, payload: &[u8], pipe: &mut Pipe, rng: &mut Rng) {
        let mut out = Vec::new();
        frames::frame(&mut out, rng, frames::PONG, true, payload);
        pipe.send(&out);
    }

    pub(crate) fn send(&self, pipe: &mut Pipe, rng: &mut Rng, command: &Command) {
        let mut payload = Vec::new();
        command.encode(self.encoding, &mut payload).unwrap();
        let mut out = Vec::new();
        frames::frame(&mut out, rng, self.opcode(), true, &payload);
        pipe.send(&out);
    }

    fn opcode(&self) -> u8 {
        if self.encoding == Encoding::Json { frames::TEXT } else { frames::BINARY }
    }

    /// Takes what arrived, and checks it.
    pub(crate) fn read(&mut self, pipe: &mut Pipe, rng: &mut Rng, desk: &Desk) {
        if !self.awake || self.session.is_none() {
            return;
        }
        let most = if rng.below(4) == 0 { rng.between(1, 300) as usize } else { usize::MAX };
        let count = pipe.outbound.len().min(most);
        let bytes: Vec<u8> = pipe.outbound.drain(..count).collect();
        let Some(session) = &mut self.session else { return };
        session.inbox.extend(bytes);
        while let Some(session) = &mut self.session
            && let Some(seen) = frames::next(&mut session.inbox, &mut session.in_http)
        {
            match seen {
                Seen::Http(status) => assert_eq!(status, 101),
                Seen::Data(_, payload) => {
                    for reply in client::replies(self.encoding, &payload).unwrap() {
                        self.hear(reply, pipe, rng, desk);
                    }
                }
                Seen::Close(code, _) => {
                    self.closed = Some(code);
                    self.session = None;
                    pipe.finish();
                }
                Seen::Ping(payload) => self.pings.push(payload),
                Seen::Pong(_) => {}
            }
        }
        if self.session.is_some() && pipe.outbound.is_empty() && (pipe.server_fin || pipe.closed.is_some()) {
            self.session = None;
            pipe.finish();
        }
    }

    fn hear(&mut self, reply: Reply, pipe: &mut Pipe, rng: &mut Rng, desk: &Desk) {
        if let Some(push) = reply.push {
            if let Some(publication) = push.publication {
                assert_eq!(push.channel, self.channel());
                if publication.offset > 0 {
                    self.publication(&publication, desk);
                }
            } else if let Some(pushed) = push.subscribe {
                assert!(pushed.positioned && pushed.recoverable, "{pushed:?}");
                let session = self.session.as_mut().expect("a session");
                (session.subscribed, session.last) = (true, pushed.offset);
                self.position = Some((pushed.offset, pushed.epoch));
            } else if push.unsubscribe.is_some() {
                self.session.as_mut().expect("a session").subscribed = false;
            }
            return;
        }
        if reply.id == 0 {
            let mut pong = Vec::new();
            client::encode_pong(self.encoding, &mut pong);
            let mut out = Vec::new();
            frames::frame(&mut out, rng, self.opcode(), true, &pong);
            return pipe.send(&out);
        }
        let Some(session) = &mut self.session else { return };
        if let Some(connected) = reply.connect {
            let subscribed = connected.subs.get(&self.channel()).expect("the personal channel").clone();
            return self.subscribed(subscribed, desk);
        }
        if let Some(error) = reply.error {
            session.errors.push(error.code);
        } else {
            assert_eq!(reply.rpc.expect("an answer to mailbox.ack").data, b"{}");
        }
        assert_eq!(session.asked.remove(0), reply.id);
    }

    fn subscribed(&mut self, reply: Subscribed, desk: &Desk) {
        assert!(reply.positioned && reply.recoverable && reply.was_recovering, "{reply:?}");
        assert!(
            reply.recovered || reply.publications.is_empty(),
            "a library would not show these: {reply:?}"
        );
        let before = reply.publications.first().map_or(reply.offset, |first| first.offset - 1);
        let Some(session) = &mut self.session else { return };
        (session.subscribed, session.last, session.recovered) = (true, before, reply.recovered);
        if let Some((offset, epoch)) = &self.position
            && reply.recovered
            && *epoch == reply.epoch
            && !epoch.is_empty()
        {
            session.last = *offset;
        }
        self.position = Some((before, reply.epoch));
        for publication in &reply.publications {
            self.publication(publication, desk);
        }
        assert_eq!(self.position.as_ref().unwrap().0, reply.offset, "the position is that of the last one");
    }

    /// What a message looks like in the encoding of this client.
    fn shown(&self, data: &[u8]) -> Vec<u8> {
        if self.encoding == Encoding::Protobuf || is_json(data) {
            return data.to_vec();
        }
        json!({ "b64data": STANDARD.encode(data) }).to_string().into_bytes()
    }

    fn publication(&mut self, publication: &Publication, desk: &Desk) {
        let offset = publication.offset;
        let message = desk.durable(&self.user, offset).expect("delivered before it was durable");
        assert_eq!(self.shown(&message.data), publication.data, "{} {offset}", self.user);
        assert_eq!(publication.tags["id"], message.plain_id());
        let session = self.session.as_mut().expect("a session");
        assert!(session.subscribed, "a publication before the reply");
        session.log.push(offset);
        let cursor = desk.mailbox(&self.user, &self.device).map_or(0, |info| info.cursor);
        if offset <= session.last {
            // Sent again, also what an earlier session of this client was given; or it was purged on its way.
            let known = self.received.contains_key(&offset) || cursor >= offset;
            assert!(known, "{}: {offset} comes late", self.user);
        } else {
            // What lies between was acknowledged by others for this reader, or dropped.
            let gap = offset > session.last + 1;
            assert!(!gap || cursor >= offset - 1, "{}: a gap from {} to {offset}", self.user, session.last);
            session.last = offset;
        }
        *self.received.entry(offset).or_insert(0) += 1;
        let position = self.position.as_mut().expect("a position");
        position.0 = offset;
        if offset == 1 && !publication.epoch.is_empty() {
            position.1.clone_from(&publication.epoch);
        }
    }
}
