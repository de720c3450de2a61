//! A user's client: connects whenever the server is there, notes what arrives, and acknowledges as its kind does.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use jsonwebtoken::{EncodingKey, Header};
use millpond::protocol::Encoding;
use millpond::protocol::client::{Command, Connect, Publication, Reply, Rpc, Subscribe, replies};
use serde_json::{Value, json};

use crate::client::{Client, Received};
use crate::ledger::{Ledger, Session};
use crate::{SECRET, User, World};

/// What a client does about what it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Answers pings, as every client library does, and comes back without a position.
    Pong,
    /// Acknowledges with `mailbox.ack` every few messages, and answers no ping.
    Call,
    /// Acknowledges nothing and comes back with its position.
    Resume,
    /// Acknowledges nothing, comes back without a position, and so gets everything again.
    Silent,
    /// Comes when everything has been sent, and acknowledges nothing.
    Late,
}

/// How long a quiet connection is waited for before the world is looked at again.
const QUIET: Duration = Duration::from_millis(100);
/// Messages that [`Kind::Call`] acknowledges at a time.
const CALL_EVERY: u64 = 7;

/// One session after the other until the world is done.
pub(crate) fn read(world: &World, index: usize) {
    let user = &world.users[index];
    while !world.done.load(Ordering::Acquire) {
        let address = world.addresses.lock().unwrap().map(|(address, _)| address);
        let comes = user.kind != Kind::Late || world.finale.load(Ordering::Acquire);
        let client = address.filter(|_| comes).and_then(open);
        match client {
            Some(client) => {
                world.sessions.fetch_add(1, Ordering::Relaxed);
                Visit { user, client, session: Session::after(None), since_call: 0, next_id: 2 }.run(world);
            }
            None => thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn open(address: SocketAddr) -> Option<Client> {
    Client::open(address, "", None).ok()
}

/// One session.
struct Visit<'w> {
    user: &'w User,
    client: Client,
    session: Session,
    since_call: u64,
    next_id: u32,
}

impl Visit<'_> {
    fn run(&mut self, world: &World) {
        let hello = self.hello(world.finale.load(Ordering::Acquire));
        if !self.send(&Command::connect(1, hello)) {
            return;
        }
        while !world.done.load(Ordering::Acquire) {
            match self.client.next_within(QUIET) {
                None => {}
                Some(Received::Message(line)) => {
                    for reply in replies(Encoding::Json, &line).unwrap() {
                        self.take(reply);
                    }
                }
                Some(Received::Close(..) | Received::End) => return,
            }
        }
    }

    /// In the finale everybody goes on from its position: who answers no ping is disconnected before a long mailbox has
    /// been replayed from its start.
    fn hello(&mut self, is_finale: bool) -> Connect {
        let claims = json!({ "sub": self.user.name, "exp": 4_000_000_000_u64 });
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let token = jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap();
        let mut subs = BTreeMap::new();
        let goes_on = is_finale || self.user.kind == Kind::Resume;
        let position = self.ledger().position().filter(|_| goes_on);
        if let Some((offset, epoch)) = position {
            self.session = Session::after(Some(offset));
            subs.insert(self.channel(), Subscribe { recover: true, offset, epoch, ..Subscribe::default() });
        }
        Connect { token, subs, ..Connect::default() }
    }

    fn channel(&self) -> String {
        format!("#{}", self.user.name)
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.user.ledger.lock().unwrap()
    }

    fn take(&mut self, reply: Reply) {
        let channel = self.channel();
        if reply == Reply::default() {
            return self.pinged();
        }
        assert!(reply.error.is_none(), "{}: {reply:?}", self.user.name);
        if let Some(connected) = reply.connect {
            let subscribed = connected.subs.get(&channel).expect("the personal channel is subscribed");
            assert!(subscribed.recovered, "{}: {subscribed:?}", self.user.name);
            self.ledger().note_epoch(&subscribed.epoch);
            for publication in &subscribed.publications {
                self.arrived(publication);
            }
        } else if let Some(push) = reply.push.filter(|push| push.channel == channel)
            && let Some(publication) = push.publication
        {
            self.arrived(&publication);
        }
    }

    fn arrived(&mut self, publication: &Publication) {
        let data: Value = serde_json::from_slice(&publication.data).unwrap();
        let number = data["n"].as_u64().unwrap();
        let id = publication.tags.get("id").map_or("", String::as_str);
        let mut ledger = self.user.ledger.lock().unwrap();
        ledger.arrive(&mut self.session, publication.offset, number, id);
        self.since_call += 1;
        if self.user.kind == Kind::Call && self.since_call >= CALL_EVERY {
            self.since_call = 0;
            ledger.acknowledging();
            let offset = ledger.may_be_acknowledged();
            drop(ledger);
            self.call(offset);
        }
    }

    fn call(&mut self, offset: u64) {
        let data = json!({ "offset": offset }).to_string().into_bytes();
        let rpc = Rpc { method: "mailbox.ack".to_owned(), data };
        let id = self.next_id;
        self.next_id += 1;
        self.send(&Command { id, rpc: Some(rpc), ..Command::default() });
    }

    /// Only [`Kind::Pong`] answers; the others are disconnected for it, which is one more way to come back.
    fn pinged(&mut self) {
        if self.user.kind == Kind::Pong {
            self.ledger().acknowledging();
            self.send_text("{}");
        }
    }

    fn send(&mut self, command: &Command) -> bool {
        let mut out = Vec::new();
        command.encode(Encoding::Json, &mut out).unwrap();
        self.send_text(std::str::from_utf8(&out).unwrap())
    }

    fn send_text(&mut self, text: &str) -> bool {
        self.client.try_send_text(text).is_ok()
    }
}
