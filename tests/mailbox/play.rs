//! The play: users with several sessions and devices, senders, drops, silence, purges, crashes, all drawn from a seed,
//! and a model that says what must have arrived.

use std::collections::{BTreeMap, BTreeSet};

use millpond::base::rng::Rng;
use millpond::hub::api::{ApiAnswer, ApiCommand};
use millpond::log::settings::MailboxLimits;
use millpond::protocol::Encoding;

use crate::bench::settings;
use crate::client::Client;
use crate::desk::log_settings;
use crate::town::{Pace, Town};

const USERS: &[&str] = &["ann", "bob", "cat"];
const DEVICES: &[&str] = &["", "", "phone", "tablet"];

/// What must be so.
#[derive(Default)]
struct Model {
    /// Sends under way: users and data.
    calls: BTreeMap<u64, (Vec<&'static str>, String)>,
    /// Purges under way.
    purges: BTreeMap<u64, &'static str>,
    /// Messages that nobody need get any more, by user: up to this offset.
    purged: BTreeMap<&'static str, u64>,
    /// Up to where the floor of a mailbox was checked.
    checked: BTreeMap<&'static str, u64>,
    /// The floor of the mailbox when a device became known.
    introduced: BTreeMap<(&'static str, &'static str), u64>,
    /// Acknowledged sends.
    sent: u64,
    refused: u64,
    crashes: u64,
}

#[derive(Default)]
struct Totals {
    sent: u64,
    refused: u64,
    received: u64,
    again: u64,
    crashes: u64,
    acknowledged: u64,
}

#[test]
fn seeds() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let first = number("SEED").unwrap_or(0);
    let count = number("SEEDS").unwrap_or(if number("SEED").is_some() { 1 } else { 1000 });
    let mut totals = Totals::default();
    for seed in first..first + count {
        match std::panic::catch_unwind(|| play(seed)) {
            Ok(of) => {
                totals.sent += of.sent;
                totals.refused += of.refused;
                totals.received += of.received;
                totals.again += of.again;
                totals.crashes += of.crashes;
                totals.acknowledged += of.acknowledged;
            }
            Err(panic) => {
                eprintln!("SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    let Totals { sent, refused, received, again, crashes, acknowledged } = totals;
    println!(
        "{count} seeds from {first} on: {sent} sent, {refused} refused, {received} received, {again} of them again, \
         {acknowledged} acknowledgements stored, {crashes} crashes"
    );
    assert!(sent > count * 20 && received > sent && acknowledged > count && (count < 50 || crashes > 0));
}

fn play(seed: u64) -> Totals {
    let mut rng = Rng::new(seed);
    let mut of = settings();
    let shards = rng.between(1, 8) as u16;
    {
        let mailbox = of.mailbox.as_mut().unwrap();
        mailbox.ack_by_pong = rng.below(4) > 0;
        mailbox.max_deliveries = 0;
        mailbox.replay_page = rng.between(1, 8);
    }
    let limits =
        MailboxLimits { messages: if rng.below(4) == 0 { 20 } else { 10_000 }, ..MailboxLimits::default() };
    let mut town = Town::new(seed, shards, of, log_settings(limits));
    town.world.lag = rng.below(3);
    town.world.room = if rng.below(3) == 0 { rng.between(2, 20) as usize } else { 1000 };
    if rng.below(4) == 0 {
        town.desk.set_room(rng.between(1, 5) as usize);
    }
    if rng.below(2) == 0 {
        town.set_share(rng.between(1, 20) as usize);
    }
    for _ in 0..rng.between(2, 7) {
        let user = USERS[rng.below(USERS.len() as u32) as usize];
        let device = DEVICES[rng.below(DEVICES.len() as u32) as usize];
        let encoding = if rng.below(2) == 0 { Encoding::Json } else { Encoding::Protobuf };
        town.add(Client::new(user, device, encoding));
    }
    let mut model = Model::default();
    for _ in 0..rng.between(50, 250) {
        act(&mut town, &mut model, &mut rng);
        let pace =
            Pace { asks: rng.below(4) as usize, commits: rng.below(4) as usize, acks: rng.below(4) as usize };
        for _ in 0..rng.below(4) {
            town.step(pace);
            model.look(&mut town);
        }
    }
    end(&mut town, &mut model);
    let received = town.clients.iter().flat_map(|client| client.received.values());
    let (received, again) =
        received.fold((0, 0), |(all, again), times| (all + u64::from(*times), again + u64::from(*times - 1)));
    let acknowledged = town.office.figures().acknowledged;
    let Model { sent, refused, crashes, .. } = model;
    Totals { sent, refused, received, again, crashes, acknowledged }
}

fn act(town: &mut Town, model: &mut Model, rng: &mut Rng) {
    let at = rng.below(town.clients.len() as u32) as usize;
    match rng.below(100) {
        0..40 => {
            let first = rng.below(USERS.len() as u32) as usize;
            let users: Vec<_> = USERS[first..].iter().copied().take(rng.between(1, 2) as usize).collect();
            let data = format!("{{\"n\":{}}}", rng.next_u64());
            let id = town.send(&users, &data);
            model.calls.insert(id, (users, data));
        }
        40..60 if town.clients[at].session.is_none() => {
            let shard = rng.below(town.world.shards.len() as u32) as usize;
            if rng.below(5) == 0 {
                town.clients[at].position = None;
            }
            town.connect(at, shard);
            if rng.below(3) == 0 {
                let socket = town.clients[at].socket;
                town.world.pipe(shard, socket).room = rng.between(50, 500) as usize;
            }
        }
        60..70 => town.drop(at),
        70..75 => town.clients[at].awake = rng.below(3) > 0,
        75..83 => {
            let last = town.clients[at].session.as_ref().filter(|of| of.subscribed).map_or(0, |of| of.last);
            if last > 0 && town.clients[at].awake {
                town.acknowledge(at, last);
            }
        }
        83..84 => {
            let user = USERS[rng.below(USERS.len() as u32) as usize];
            let id = town.call(ApiCommand::MailboxPurge { user: user.into() });
            model.purges.insert(id, user);
        }
        84..99 => town.world.tick += rng.between(1, 100),
        99 if rng.below(4) == 0 => {
            town.crash();
            model.crashes += 1;
            // Whether these were stored is not known.
            model.calls.clear();
            for user in std::mem::take(&mut model.purges).into_values() {
                model.forgive(town, user);
            }
        }
        _ => {}
    }
}

impl Model {
    /// Looks at what was answered and acknowledged.
    fn look(&mut self, town: &mut Town) {
        for (id, answer) in std::mem::take(&mut town.answers) {
            if let Some(user) = self.purges.remove(&id) {
                assert!(matches!(answer, ApiAnswer::Done), "{answer:?}");
                self.forgive(town, user);
                continue;
            }
            let Some((users, data)) = self.calls.remove(&id) else { continue };
            let ApiAnswer::Sent(results) = answer else { panic!("{answer:?}") };
            for (user, result) in users.into_iter().zip(results) {
                match result {
                    Ok(position) => {
                        let stored =
                            town.desk.durable(user, position.offset).expect("answered before it is stored");
                        assert_eq!(stored.data, data.as_bytes());
                        self.sent += 1;
                    }
                    Err(error) => {
                        assert_eq!(error, millpond::hub::api::ApiError::MailboxFull);
                        self.refused += 1;
                    }
                }
            }
        }
        for user in USERS {
            self.look_at(town, user);
        }
    }

    /// Everything that is dropped from a mailbox was read by somebody, or purged.
    fn look_at(&mut self, town: &Town, user: &'static str) {
        let Some(info) = town.desk.mailbox(user, "") else { return };
        let floor = info.state.floor();
        let pending: Vec<_> = self.purges.values().collect();
        let purged =
            if pending.contains(&&user) { u64::MAX } else { self.purged.get(user).copied().unwrap_or(0) };
        let checked = self.checked.entry(user).or_insert(0);
        for offset in *checked + 1..=floor {
            let read = received(town, user).contains(&offset);
            assert!(read || offset <= purged, "{user}: {offset} is acknowledged and was never read");
        }
        *checked = floor.max(*checked);
        for device in ["phone", "tablet"] {
            if town.desk.mailbox(user, device).is_some_and(|info| info.known) {
                self.introduced.entry((user, device)).or_insert(floor);
            }
        }
    }

    fn forgive(&mut self, town: &Town, user: &'static str) {
        let last = town.desk.mailbox(user, "").map_or(0, |info| info.state.last_offset);
        let purged = self.purged.entry(user).or_insert(0);
        *purged = (*purged).max(last);
    }
}

fn received(town: &Town, user: &str) -> BTreeSet<u64> {
    let clients = town.clients.iter().filter(|client| client.user == user);
    clients.flat_map(|client| client.received.keys().copied()).collect()
}

/// Everybody comes back and stays: whatever waits must arrive.
fn end(town: &mut Town, model: &mut Model) {
    (town.world.lag, town.world.room) = (0, 1000);
    town.desk.set_room(usize::MAX);
    for at in 0..town.clients.len() {
        town.drop(at);
    }
    town.settle();
    model.look(town);
    for user in USERS {
        town.add(Client::new(user, "", Encoding::Json));
    }
    for at in 0..town.clients.len() {
        let shard = at % town.world.shards.len();
        town.connect(at, shard);
        town.settle();
    }
    model.look(town);
    town.pass(700);
    model.look(town);
    assert_eq!(model.calls.len(), 0, "every call is answered");
    for (user, offset) in town.desk.all_durable().keys() {
        let purged = model.purged.get(user.as_str()).copied().unwrap_or(0);
        assert!(*offset <= purged || received(town, user).contains(offset), "{user}: {offset} never arrived");
        for client in town.clients.iter().filter(|client| client.user == *user && !client.device.is_empty()) {
            let of = |(other, device): &(&str, &str)| *other == *user && *device == client.device;
            let base = model.introduced.iter().find(|(key, _)| of(key)).map_or(u64::MAX, |(_, floor)| *floor);
            let devices = town.clients.iter().filter(|of| of.user == *user && of.device == client.device);
            let got = devices.clone().any(|of| of.received.contains_key(offset));
            assert!(
                *offset <= base || *offset <= purged || got,
                "{user} {}: {offset} never arrived",
                client.device
            );
        }
    }
    for client in &town.clients {
        assert!(
            client.session.is_some(),
            "{} {} is not connected: {:?}",
            client.user,
            client.device,
            client.closed
        );
    }
    for at in 0..town.clients.len() {
        town.drop(at);
    }
    town.settle();
    town.pass(40);
    for shard in &town.world.shards {
        assert_eq!(shard.leftovers(), []);
    }
}
