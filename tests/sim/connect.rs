//! A connect command whose subscriptions live on different shards: what one home sends while another has yet to answer
//! belongs to the subscription, and follows the reply.

use std::time::Duration;

use millpond::hub::api::{ApiCommand, ApiPublish};
use serde_json::Value;

use crate::frames::{self, Seen, TEXT};
use crate::hub::{settings, token};
use crate::rows::UPGRADE;
use crate::world::World;

/// Shards of the test; the clients are on the last one, which is home of nothing here.
const SHARDS: u16 = 3;
const HERE: usize = 2;

struct Scene {
    world: World,
    /// A channel with history at a home that answers, and one at a home that does not.
    early: String,
    late: String,
    held_up: usize,
}

impl Scene {
    fn new() -> Self {
        let mut settings = settings();
        settings.client.stale_close_delay = Duration::from_secs(3600);
        let world = World::new(7, SHARDS, settings);
        let name_at = |home: usize| {
            (0..).map(|number| format!("hist:{number}")).find(|name| world.home(name) == home).unwrap()
        };
        let (early, late) = (name_at(0), name_at(1));
        Self { world, early, late, held_up: 1 }
    }

    fn turns(&mut self) {
        for _ in 0..6 {
            self.world.turn();
        }
    }

    /// Dials, upgrades and asks to be connected with these channels.
    fn connect(&mut self, channels: &[&str]) -> i32 {
        let socket = self.world.dial(HERE);
        self.world.turn();
        let subs: Vec<String> = channels.iter().map(|channel| format!(r#""{channel}":{{}}"#)).collect();
        let token = token(&format!(r#"{{"sub":"ann","subs":{{{}}}}}"#, subs.join(",")));
        let command = format!(r#"{{"id":1,"connect":{{"token":"{token}"}}}}"#);
        let mut out = UPGRADE.as_bytes().to_vec();
        frames::frame(&mut out, &mut self.world.rng, TEXT, true, command.as_bytes());
        self.world.pipe(HERE, socket).send(&out);
        self.turns();
        socket
    }

    fn publish(&mut self, data: String) {
        let publish = ApiPublish { channel: self.early.clone(), data: data.into(), ..ApiPublish::default() };
        self.world.call(0, ApiCommand::Publish(Box::new(publish)));
        self.turns();
    }

    /// Messages that arrived, and the code of a close.
    fn heard(&mut self, socket: i32, in_http: &mut bool) -> (Vec<Value>, Option<u16>) {
        let (mut heard, mut close) = (Vec::new(), None);
        let bytes = &mut self.world.pipe(HERE, socket).outbound;
        while let Some(seen) = frames::next(bytes, in_http) {
            match seen {
                Seen::Http(status) => assert_eq!(status, 101),
                Seen::Data(TEXT, text) => {
                    let text = String::from_utf8(text).unwrap();
                    heard.extend(text.split('\n').map(|line| serde_json::from_str::<Value>(line).unwrap()));
                }
                Seen::Close(code, _) => close = Some(code),
                other => panic!("{other:?}"),
            }
        }
        (heard, close)
    }
}

fn offsets(heard: &[Value]) -> Vec<u64> {
    heard.iter().filter_map(|message| message["push"]["pub"]["offset"].as_u64()).collect()
}

#[test]
fn what_is_published_before_every_home_has_answered_follows_the_reply() {
    for others in [0, 1, 3, 12] {
        let mut scene = Scene::new();
        let early = scene.early.clone();
        let peers: Vec<i32> = (0..others).map(|_| scene.connect(&[&early])).collect();
        scene.publish("0".into());
        scene.world.busy[scene.held_up] = u32::MAX;
        let late = scene.late.clone();
        let socket = scene.connect(&[&early, &late]);
        let mut in_http = true;
        assert_eq!(scene.heard(socket, &mut in_http), (vec![], None), "a home has yet to answer");
        for number in 1..=20 {
            scene.publish(number.to_string());
        }
        assert_eq!(scene.heard(socket, &mut in_http), (vec![], None));
        assert_eq!(scene.world.shards[HERE].figures(0, 0, 0).clients, others as u64);
        scene.world.busy[scene.held_up] = 0;
        scene.turns();
        scene.publish("21".into());
        let (heard, close) = scene.heard(socket, &mut in_http);
        assert_eq!(close, None);
        let subs = &heard[0]["connect"]["subs"];
        assert_eq!((&subs[&early]["offset"], subs.as_object().unwrap().len()), (&1.into(), 2), "{subs}");
        assert_eq!(offsets(&heard[1..]), (2..=22).collect::<Vec<_>>(), "with {others} others");
        for peer in peers {
            assert_eq!(offsets(&scene.heard(peer, &mut true).0), (1..=22).collect::<Vec<_>>());
        }
        scene.world.pipe(HERE, socket).reset();
        scene.turns();
        let figures = scene.world.shards[HERE].figures(0, 0, 0);
        assert_eq!((figures.clients, figures.subscriptions), (others as u64, others as u64));
    }
}

#[test]
fn who_waits_too_long_for_too_much_connects_again() {
    for others in [0, 12] {
        let mut scene = Scene::new();
        let (early, late) = (scene.early.clone(), scene.late.clone());
        for _ in 0..others {
            scene.connect(&[&early]);
        }
        scene.world.busy[scene.held_up] = u32::MAX;
        let socket = scene.connect(&[&early, &late]);
        let mut in_http = true;
        for _ in 0..4 {
            scene.publish(format!("\"{}\"", "x".repeat(90_000)));
        }
        assert_eq!(scene.heard(socket, &mut in_http), (vec![], Some(3010)));
        scene.world.pipe(HERE, socket).finish();
        scene.world.busy[scene.held_up] = 0;
        scene.turns();
        let figures = scene.world.shards[HERE].figures(0, 0, 0);
        assert_eq!((figures.clients, figures.subscriptions), (others, others));
    }
}

#[test]
fn a_client_that_goes_before_every_home_has_answered_leaves_nothing() {
    for others in [0, 1, 12] {
        let mut scene = Scene::new();
        let (early, late) = (scene.early.clone(), scene.late.clone());
        let peers: Vec<i32> = (0..others).map(|_| scene.connect(&[&early])).collect();
        scene.world.busy[scene.held_up] = u32::MAX;
        let socket = scene.connect(&[&early, &late]);
        scene.publish("1".into());
        for peer in peers.into_iter().chain([socket]) {
            scene.world.pipe(HERE, peer).reset();
        }
        scene.publish("2".into());
        scene.world.busy[scene.held_up] = 0;
        scene.turns();
        let figures = scene.world.shards[HERE].figures(0, 0, 0);
        assert_eq!((figures.clients, figures.subscriptions), (0, 0));
        assert!(scene.world.shards.iter().all(|shard| shard.leftovers().is_empty()));
    }
}
