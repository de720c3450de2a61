//! What a client does with the messages it reads.

use std::rc::Rc;

use tungstenite::protocol::frame::coding::OpCode;

use super::Worker;
use crate::client::Stage;
use crate::counters::Reason;
use crate::dialect::{
    Connected, Dialect, Incoming, Position, PublicationPlace, Reply, ReplyBody, Subscribed,
};
use crate::marker::Marker;

impl Worker {
    /// Takes one WebSocket message.
    pub(super) fn message(&mut self, local: u32, opcode: OpCode, payload: &[u8]) -> Result<(), Reason> {
        let dialect = Rc::clone(&self.dialect);
        let mut outcome = Ok(());
        dialect.read(opcode, payload, self.plan.track_positions, &mut |incoming| {
            if outcome.is_ok() {
                outcome = self.incoming(local, incoming);
            }
        });
        outcome
    }

    fn incoming(&mut self, local: u32, incoming: Incoming) -> Result<(), Reason> {
        match incoming {
            Incoming::Delivery(marker, place) => self.delivery(local, &marker, place.as_ref()),
            Incoming::Ping => return self.ping(local),
            Incoming::Reply(reply) => return self.reply(local, reply),
            Incoming::Join => self.counters.joins.add(1),
            Incoming::Leave => self.counters.leaves.add(1),
            Incoming::Unsubscribed(_) => self.counters.unsubscribed.add(1),
            Incoming::Other => {}
            Incoming::Malformed => {
                self.counters.malformed.add(1);
                return Err(Reason::Malformed);
            }
        }
        Ok(())
    }

    fn ping(&mut self, local: u32) -> Result<(), Reason> {
        self.count_ping(local);
        if self.clients[local as usize].pong || matches!(*self.dialect, Dialect::Plain(_)) {
            self.send_pong(local)
        } else {
            Ok(())
        }
    }

    pub(super) fn count_ping(&mut self, local: u32) {
        self.counters.pings.add(1);
        let client = &mut self.clients[local as usize];
        client.pings = client.pings.saturating_add(1);
    }

    fn reply(&mut self, local: u32, reply: Reply) -> Result<(), Reason> {
        if self.clients[local as usize].stage == Stage::Joining {
            return self.opening_reply(local, reply);
        }
        self.answered(local, &reply);
        Ok(())
    }

    fn opening_reply(&mut self, local: u32, reply: Reply) -> Result<(), Reason> {
        match reply.body {
            ReplyBody::Error(code) => return Err(Reason::ErrorReply(code)),
            ReplyBody::Connected(connected) => self.connected(local, &connected)?,
            ReplyBody::Subscribed(subscribed) => {
                // Subscriptions are asked for in order, with ids from 2.
                self.subscribed(local, reply.id.saturating_sub(2) as usize, &subscribed);
            }
            _ => {}
        }
        let client = &mut self.clients[local as usize];
        client.awaiting = client.awaiting.saturating_sub(1);
        if client.awaiting == 0 {
            self.become_ready(local);
        }
        Ok(())
    }

    fn connected(&mut self, local: u32, connected: &Connected) -> Result<(), Reason> {
        self.clients[local as usize].pong = connected.pong;
        if self.plan.channels.personal() {
            let personal = format!("#{}", self.plan.channels.user(self.number(local)));
            let found = connected.subscriptions.iter().find(|(channel, _)| channel.ends_with(&personal));
            let Some((_, subscribed)) = found else { return Err(Reason::NoPersonalChannel) };
            self.subscribed(local, self.plan.channels.wanted_per_client(), subscribed);
        }
        Ok(())
    }

    /// The `index`th channel of a client is subscribed.
    fn subscribed(&mut self, local: u32, index: usize, subscribed: &Subscribed) {
        if subscribed.was_recovering {
            let counter =
                if subscribed.recovered { &self.counters.recovered } else { &self.counters.unrecovered };
            counter.add(1);
        }
        for marker in &subscribed.publications {
            self.delivery(local, marker, None);
        }
        if let Some(position) = self.position(local, index) {
            *position = subscribed.position();
        }
    }

    pub(super) fn delivery(&mut self, local: u32, marker: &Marker, place: Option<&PublicationPlace>) {
        let number = self.number(local);
        let Some(index) = self.plan.channels.index_of(number, marker.channel) else {
            return self.counters.strays.add(1);
        };
        if self.books.take(local, index, marker) {
            self.counters.deliveries.add(1);
        } else {
            self.counters.strays.add(1);
        }
        let Some(place) = place else { return };
        if let Some(position) = self.position(local, index) {
            position.offset = place.offset;
            if let Some(epoch) = &place.epoch {
                *position = Position::new(place.offset, epoch);
            }
        }
    }

    fn position(&mut self, local: u32, index: usize) -> Option<&mut Position> {
        let at = local as usize * self.plan.channels.per_client() + index;
        self.positions.get_mut(at)
    }

    /// Where a client left its channels, if it has been there: those it subscribes, and its personal one.
    pub(super) fn known_positions(&self, local: u32, wanted: usize) -> (Vec<Position>, Option<Position>) {
        let start = local as usize * self.plan.channels.per_client();
        let known = self.positions.get(start..start + self.plan.channels.per_client()).unwrap_or_default();
        if known.iter().all(|position| position.epoch().is_empty()) {
            return (Vec::new(), None);
        }
        (known[..wanted].to_vec(), known.get(wanted).copied())
    }
}
