//! A client that speaks the protocol and checks all it hears.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use millpond::base::rng::Rng;
use millpond::protocol::Encoding;
use millpond::protocol::client::{self, Command, Connect, Publication, Push, Reply, Subscribe, Subscribed};

use crate::frames::{self, Seen};
use crate::ledger::{Ledger, Run, has_history};
use crate::net::Pipe;

/// What a client waits for, in the order of its commands.
#[derive(Debug)]
enum Asked {
    Connect,
    /// With the position to recover from.
    Subscribe(String, Option<(u64, String)>),
    Unsubscribe(String),
    Publish(u64),
    /// With the number of the subscription that stood.
    Presence(String, Option<u32>),
    History(String),
}

/// A subscription that stands.
#[derive(Debug)]
struct Sub {
    /// Which one of this client's.
    number: u32,
    /// Offset of the next publication, in channels with history.
    next: u64,
    epoch: String,
    run: Run,
}

/// Why a connection is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The server's close frame.
    Closed(u16),
    /// An HTTP status other than 101.
    Refused(u16),
    /// The server's FIN or RST without a close frame.
    Dropped,
    /// The client itself.
    Own(&'static str),
}

/// One client and its connection.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) shard: usize,
    pub(crate) socket: i32,
    pub(crate) user: String,
    encoding: Encoding,
    inbox: Vec<u8>,
    in_http: bool,
    asked: VecDeque<(u32, Asked)>,
    next_id: u32,
    joins: u32,
    subs: BTreeMap<String, Sub>,
    /// Subscribed or about to be, as far as the client's own commands go.
    pub(crate) wanted: BTreeSet<String>,
    /// Where a lost connection stopped in channels with history.
    positions: BTreeMap<String, (u64, String)>,
    /// Client id, once connected.
    pub(crate) id: Option<String>,
    pub(crate) end: Option<End>,
    /// Reads what arrives.
    pub(crate) reads: bool,
    /// It did not read for a while, or little.
    pub(crate) was_slow: bool,
    /// Answers pings.
    pub(crate) answers: bool,
    /// Tick of a ping that it left unanswered.
    pub(crate) pinged_at: Option<u32>,
    /// Its orders are the ones all others are compared with.
    witness: bool,
    /// Who is in the channels with joins and leaves, as the witness hears.
    pub(crate) present: BTreeMap<String, BTreeSet<String>>,
}

impl Client {
    pub(crate) fn new(user: &str, encoding: Encoding, witness: bool) -> Self {
        Self {
            shard: 0,
            socket: -1,
            user: user.to_owned(),
            encoding,
            inbox: Vec::new(),
            in_http: true,
            asked: VecDeque::new(),
            next_id: 0,
            joins: 0,
            subs: BTreeMap::new(),
            wanted: BTreeSet::new(),
            positions: BTreeMap::new(),
            id: None,
            end: Some(End::Own("not dialled")),
            reads: true,
            was_slow: false,
            answers: true,
            pinged_at: None,
            witness,
            present: BTreeMap::new(),
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.end.is_none()
    }

    /// Begins on a fresh socket; what it knows of streams stays.
    pub(crate) fn begin(&mut self, shard: usize, socket: i32) {
        let (positions, user) = (std::mem::take(&mut self.positions), std::mem::take(&mut self.user));
        let fresh = Self::new(&user, self.encoding, self.witness);
        *self = Self { shard, socket, positions, end: None, ..fresh };
    }

    /// The upgrade request.
    pub(crate) fn upgrade(&self, pipe: &mut Pipe) {
        let protocol = match self.encoding {
            Encoding::Json => "",
            Encoding::Protobuf => "Sec-WebSocket-Protocol: centrifuge-protobuf\r\n",
        };
        let head = format!(
            "GET /connection/websocket HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{protocol}\r\n"
        );
        pipe.send(head.as_bytes());
    }

    /// Sends commands in one frame.
    pub(crate) fn send(&self, pipe: &mut Pipe, rng: &mut Rng, commands: &[Command]) {
        let mut payload = Vec::new();
        for (at, command) in commands.iter().enumerate() {
            if at > 0 && self.encoding == Encoding::Json {
                payload.push(b'\n');
            }
            command.encode(self.encoding, &mut payload).expect("JSON in our commands");
        }
        let opcode = if self.encoding == Encoding::Json { frames::TEXT } else { frames::BINARY };
        let mut out = Vec::new();
        frames::message(&mut out, rng, opcode, &payload);
        pipe.send(&out);
    }

    pub(crate) fn connect(&mut self, token: String) -> Command {
        Command::connect(self.ask(Asked::Connect), Connect { token, ..Connect::default() })
    }

    /// Subscribes, from the last known position if there is one.
    pub(crate) fn subscribe(&mut self, channel: &str, flag: i64) -> Command {
        self.wanted.insert(channel.to_owned());
        let known = self.positions.remove(channel);
        let id = self.ask(Asked::Subscribe(channel.to_owned(), known.clone()));
        let recover = known.is_some();
        let (offset, epoch) = known.unwrap_or_default();
        let channel = channel.to_owned();
        Command::subscribe(id, Subscribe { channel, recover, offset, epoch, flag, ..Subscribe::default() })
    }

    pub(crate) fn unsubscribe(&mut self, channel: &str) -> Command {
        self.wanted.remove(channel);
        Command::unsubscribe(self.ask(Asked::Unsubscribe(channel.to_owned())), channel)
    }

    pub(crate) fn publish(&mut self, channel: &str, number: u64, data: &[u8]) -> Command {
        Command::publish(self.ask(Asked::Publish(number)), channel, data)
    }

    pub(crate) fn presence(&mut self, channel: &str) -> Command {
        let id = self.ask(Asked::Presence(channel.to_owned(), self.sub_number(channel)));
        let presence = Some(client::Channel { channel: channel.to_owned() });
        Command { id, presence, ..Command::default() }
    }

    pub(crate) fn history(&mut self, channel: &str, limit: i32) -> Command {
        let id = self.ask(Asked::History(channel.to_owned()));
        let history = client::History { channel: channel.to_owned(), limit, ..client::History::default() };
        Command { id, history: Some(history), ..Command::default() }
    }

    /// Channels whose subscription stands.
    pub(crate) fn active(&self) -> impl Iterator<Item = &str> {
        self.subs.keys().map(String::as_str)
    }

    /// Next offset expected in a channel with history.
    pub(crate) fn next_offset(&self, channel: &str) -> Option<u64> {
        self.subs.get(channel).map(|sub| sub.next)
    }

    /// It has heard of its own join in `channel`, which all subscribers are told of.
    pub(crate) fn heard_itself(&self, channel: &str) -> bool {
        let id = self.id.as_ref().expect("a client id");
        self.present.get(channel).is_some_and(|present| present.contains(id))
    }

    fn sub_number(&self, channel: &str) -> Option<u32> {
        self.subs.get(channel).map(|sub| sub.number)
    }

    /// Nothing it asked for is unanswered.
    pub(crate) fn is_answered(&self) -> bool {
        self.asked.is_empty()
    }

    /// Takes what arrived and answers what wants an answer.
    pub(crate) fn read(&mut self, pipe: &mut Pipe, rng: &mut Rng, ledger: &mut Ledger, now: u32) {
        if self.end.is_some() || !self.reads {
            return;
        }
        let most = if rng.below(4) == 0 { rng.between(1, 300) as usize } else { usize::MAX };
        let count = pipe.outbound.len().min(most);
        self.inbox.extend(pipe.outbound.drain(..count));
        while self.end.is_none()
            && let Some(seen) = frames::next(&mut self.inbox, &mut self.in_http)
        {
            self.see(seen, pipe, rng, ledger, now);
        }
        if self.end.is_none() && pipe.outbound.is_empty() && (pipe.server_fin || pipe.closed.is_some()) {
            self.over(End::Dropped, ledger);
            pipe.finish();
        }
        if matches!(self.end, Some(End::Closed(_))) {
            assert!(self.inbox.is_empty(), "bytes behind the close frame");
        }
    }

    /// The connection is over: what it had in channels goes to the ledger.
    pub(crate) fn over(&mut self, end: End, ledger: &mut Ledger) {
        let name = match &end {
            End::Closed(code) => code.to_string(),
            End::Refused(status) => format!("HTTP {status}"),
            End::Dropped => "dropped".to_owned(),
            End::Own(reason) => (*reason).to_owned(),
        };
        ledger.end(&name);
        self.end = Some(end);
        for channel in self.active().map(str::to_owned).collect::<Vec<_>>() {
            self.leave(&channel, true, ledger);
        }
        self.asked.clear();
        self.wanted.clear();
    }

    /// The subscriptions that stand are complete to this moment.
    pub(crate) fn settle(&self, ledger: &mut Ledger) {
        for sub in self.subs.values().filter(|sub| !has_history(&sub.run.channel)) {
            let Run { channel, since, got, .. } = &sub.run;
            ledger.close_run(Run { channel: channel.clone(), since: *since, got: got.clone(), open: true });
        }
    }

    fn ask(&mut self, asked: Asked) -> u32 {
        self.next_id += 1;
        self.asked.push_back((self.next_id, asked));
        self.next_id
    }

    fn see(&mut self, seen: Seen, pipe: &mut Pipe, rng: &mut Rng, ledger: &mut Ledger, now: u32) {
        match seen {
            Seen::Http(101) | Seen::Pong(_) => {}
            Seen::Http(status) => self.over(End::Refused(status), ledger),
            Seen::Data(opcode, payload) => {
                let json = self.encoding == Encoding::Json;
                assert_eq!(opcode, if json { frames::TEXT } else { frames::BINARY });
                for reply in client::replies(self.encoding, &payload).expect("replies") {
                    self.hear(reply, pipe, rng, ledger, now);
                }
            }
            Seen::Ping(_) => panic!("a native ping that nobody asked for"),
            Seen::Close(code, reason) => {
                assert!(!reason.is_empty() || code < 3000, "{code} without a reason");
                let mut out = Vec::new();
                frames::frame(&mut out, rng, frames::CLOSE, true, &code.to_be_bytes());
                pipe.send(&out);
                pipe.finish();
                self.over(End::Closed(code), ledger);
            }
        }
    }

    fn hear(&mut self, reply: Reply, pipe: &mut Pipe, rng: &mut Rng, ledger: &mut Ledger, now: u32) {
        if let Some(push) = reply.push {
            return self.push(push, ledger);
        }
        if reply.id == 0 {
            assert_eq!(self.pinged_at, None, "two pings without a pong between them");
            if !self.answers {
                self.pinged_at = Some(now);
                return;
            }
            let mut pong = Vec::new();
            client::encode_pong(self.encoding, &mut pong);
            let opcode = if self.encoding == Encoding::Json { frames::TEXT } else { frames::BINARY };
            let mut out = Vec::new();
            frames::frame(&mut out, rng, opcode, true, &pong);
            return pipe.send(&out);
        }
        let (id, asked) = self.asked.pop_front().expect("an answer to nothing");
        assert_eq!(id, reply.id, "answers come in the order of the commands");
        self.answer(asked, reply, ledger);
    }

    fn answer(&mut self, asked: Asked, reply: Reply, ledger: &mut Ledger) {
        match asked {
            Asked::Connect => {
                let connected = reply.connect.expect("a connect reply");
                self.id = Some(connected.client);
                for (channel, subscribed) in connected.subs {
                    self.join(channel, None, subscribed, ledger);
                }
            }
            Asked::Subscribe(channel, from) => match reply.error {
                Some(error) => {
                    assert!(matches!(error.code, 105 | 112), "{channel}: {error:?}");
                    if error.code == 112 {
                        self.wanted.remove(&channel);
                    }
                }
                None => self.join(channel, from, reply.subscribe.expect("a subscribe reply"), ledger),
            },
            Asked::Unsubscribe(channel) => {
                assert!(reply.unsubscribe.is_some(), "{reply:?}");
                self.leave(&channel, false, ledger);
            }
            Asked::Publish(number) => {
                assert!(reply.publish.is_some(), "{reply:?}");
                ledger.accept(number);
            }
            Asked::Presence(channel, stood) => {
                let presence = reply.presence.expect("presence").presence;
                let sure = stood.is_some() && self.sub_number(&channel) == stood;
                let own = self.id.as_ref().is_some_and(|id| presence.contains_key(id));
                assert!(own || !sure, "{channel}: {:?} is not in its own presence", self.id);
            }
            Asked::History(channel) => {
                let page = reply.history.expect("history");
                for publication in &page.publications {
                    ledger.placed(&channel, &page.epoch, publication);
                }
            }
        }
    }

    /// A subscription stands from here on.
    fn join(&mut self, channel: String, from: Option<(u64, String)>, reply: Subscribed, ledger: &mut Ledger) {
        let mut next = reply.offset + 1;
        if has_history(&channel) {
            assert!(reply.positioned && reply.recoverable, "{channel}: {reply:?}");
            assert_eq!(reply.was_recovering, from.is_some(), "{channel}");
        }
        if let Some((offset, epoch)) = from.filter(|_| has_history(&channel)) {
            if reply.recovered {
                assert_eq!((reply.offset, &reply.epoch), (offset, &epoch), "{channel}: recovered elsewhere");
            } else {
                assert!(reply.publications.is_empty(), "{channel}: publications without recovery");
                let missed = reply.offset.saturating_sub(offset);
                let fits = || ledger.fits(&channel, &epoch, (offset, reply.offset), 150_000);
                let sure = channel.starts_with("hist:") && reply.epoch == epoch && missed <= 30 && fits();
                assert!(!sure || offset > reply.offset, "{channel}: {missed} publications are there");
            }
        }
        for publication in &reply.publications {
            assert_eq!(publication.offset, next, "{channel}: a gap in what was recovered");
            ledger.placed(&channel, &reply.epoch, publication);
            next += 1;
        }
        let run = Run { channel: channel.clone(), since: ledger.next_number(), got: Vec::new(), open: false };
        self.joins += 1;
        let sub = Sub { number: self.joins, next, epoch: reply.epoch, run };
        assert!(self.subs.insert(channel, sub).is_none(), "subscribed twice");
    }

    /// A subscription ends; `lost` if the client may come back to where it stopped.
    fn leave(&mut self, channel: &str, lost: bool, ledger: &mut Ledger) {
        let Some(sub) = self.subs.remove(channel) else { return };
        self.present.remove(channel);
        if !has_history(channel) {
            ledger.close_run(sub.run);
        } else if lost {
            self.positions.insert(channel.to_owned(), (sub.next - 1, sub.epoch));
        }
    }

    fn push(&mut self, push: Push, ledger: &mut Ledger) {
        let channel = push.channel;
        if let Some(publication) = push.publication {
            self.publication(&channel, &publication, ledger);
        } else if let Some(member) = push.join {
            let info = member.info.expect("who joined");
            assert!(self.subs.contains_key(&channel), "{channel}: a join without a subscription");
            let fresh = self.present.entry(channel.clone()).or_default().insert(info.client.clone());
            assert!(fresh || !self.witness, "{channel}: {} joined twice", info.client);
        } else if let Some(member) = push.leave {
            let info = member.info.expect("who left");
            let known = self.present.entry(channel.clone()).or_default().remove(&info.client);
            assert!(known || !self.witness, "{channel}: {} left without having joined", info.client);
        } else if let Some(pushed) = push.subscribe {
            let reply = Subscribed {
                recoverable: pushed.recoverable,
                epoch: pushed.epoch,
                offset: pushed.offset,
                positioned: pushed.positioned,
                ..Subscribed::default()
            };
            self.wanted.insert(channel.clone());
            self.join(channel, None, reply, ledger);
        } else if let Some(unsubscribed) = push.unsubscribe {
            assert_eq!(unsubscribed.code, 2000, "{channel}");
            self.wanted.remove(&channel);
            self.leave(&channel, true, ledger);
        } else {
            panic!("a push of nothing we know in {channel}");
        }
    }

    fn publication(&mut self, channel: &str, publication: &Publication, ledger: &mut Ledger) {
        let Some(sub) = self.subs.get_mut(channel) else {
            panic!("{channel}: a publication without a subscription");
        };
        if !has_history(channel) {
            let number = ledger.of_channel(channel, publication);
            sub.run.got.push(number);
            if self.witness {
                ledger.witness(channel, number);
            }
            return;
        }
        if publication.offset == 1 && !publication.epoch.is_empty() {
            sub.epoch.clone_from(&publication.epoch);
        }
        assert_eq!(publication.offset, sub.next, "{channel}: not the next publication");
        sub.next += 1;
        ledger.placed(channel, &sub.epoch, publication);
    }
}
