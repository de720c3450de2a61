//! The office on a desk of its own, for tests that look at nothing else.

use std::sync::Arc;
use std::time::Duration;

use millpond::base::ids::{ConnKey, ShardId};
use millpond::base::tick::{Now, Tick};
use millpond::hub::admission::Admission;
use millpond::hub::api::{ApiAnswer, ApiCommand, ApiError, ApiSend, Position};
use millpond::hub::auth::Verifier;
use millpond::hub::mail::{ApiAsk, Mail, Origin, Subscribed, Ticket};
use millpond::hub::settings::{MailboxSettings, PersonalChannel, Settings};
use millpond::hub::shard::Common;
use millpond::hub::store::{AckAsk, OpenAsk, Owner, PageAsk, PageKind, StoreAsk, StoreMail};
use millpond::log::fake::FakeDisk;
use millpond::log::settings::{LogSettings, MailboxLimits};
use millpond::protocol::ErrorCode;
use millpond::store::office::Office;

use crate::desk::{Desk, log_settings};

pub(crate) const SECONDS: u32 = 1_800_000_000;
pub(crate) const KEY: ConnKey = ConnKey { shard: ShardId(0), slot: 3, generation: 4 };

/// Settings with mailboxes of the personal channels `#user`.
pub(crate) fn settings() -> Settings {
    let mut settings = crate::hub::settings();
    settings.client.personal_channel =
        Some(PersonalChannel { namespace: String::new(), single_connection: false });
    settings.mailbox = Some(MailboxSettings {
        ack_wait: Duration::from_secs(40),
        max_deliveries: 3,
        ack_by_pong: true,
        dead_letter_channel: "quiet:dead".into(),
        letter_bytes: 2000,
        ttl: Duration::ZERO,
        replay_page: 4,
    });
    settings
}

pub(crate) struct Bench {
    pub(crate) disk: FakeDisk,
    pub(crate) desk: Desk,
    pub(crate) office: Office<Desk>,
    pub(crate) tick: u32,
    pub(crate) next_call: u64,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(log_settings(MailboxLimits::default()))
    }

    pub(crate) fn with(log: LogSettings) -> Self {
        Self::on(FakeDisk::default(), log)
    }

    pub(crate) fn on(disk: FakeDisk, log: LogSettings) -> Self {
        Self::of(&settings(), disk, log)
    }

    pub(crate) fn of(settings: &Settings, disk: FakeDisk, log: LogSettings) -> Self {
        let verifier = || Verifier::new(&settings.client.token).unwrap();
        let common = Arc::new(Common {
            subscription_tokens: verifier(),
            connection_tokens: verifier(),
            settings: settings.clone(),
            shards: 1,
            secret: [5; 16],
            admission: Admission::default(),
        });
        let desk = Desk::open(&disk, log, SECONDS);
        let office = Office::new(common, desk.clone(), desk.last(), 7);
        Self { disk, desk, office, tick: 100, next_call: 0 }
    }

    pub(crate) fn now(&self) -> Now {
        Now { tick: Tick(self.tick), unix_ms: (u64::from(SECONDS) + u64::from(self.tick) / 10) * 1000 }
    }

    pub(crate) fn call(&mut self, command: ApiCommand) -> u64 {
        self.next_call += 1;
        let ask = ApiAsk { id: self.next_call, command };
        self.office.ask(StoreAsk::Api(Box::new(ask)), self.now());
        self.next_call
    }

    pub(crate) fn send(&mut self, users: &[&str], data: &str, key: &str) -> u64 {
        self.call(ApiCommand::Send(Box::new(ApiSend {
            users: users.iter().map(|user| (*user).to_owned()).collect(),
            data: data.to_owned().into(),
            idempotency_key: key.to_owned(),
            ..ApiSend::default()
        })))
    }

    pub(crate) fn commit(&mut self) {
        let now = SECONDS + self.tick / 10;
        self.desk.commit(usize::MAX, now);
    }

    pub(crate) fn hand_out(&mut self) {
        while let Some(ack) = self.desk.next_ack() {
            self.office.acknowledged(&ack, self.now());
        }
        self.office.settle(self.now());
    }

    /// Commits and acknowledges until nothing is left to do at this tick.
    pub(crate) fn run(&mut self) {
        self.office.settle(self.now());
        while self.desk.queued() > 0 {
            self.commit();
            self.hand_out();
        }
    }

    pub(crate) fn answers(&mut self) -> Vec<(u64, ApiAnswer)> {
        self.office.take_answers().map(|answer| (answer.id, answer.answer)).collect()
    }

    /// The answer to a call, which is the only one there is.
    pub(crate) fn answer(&mut self, id: u64) -> ApiAnswer {
        let mut answers = self.answers();
        assert_eq!(answers.len(), 1, "{answers:?}");
        let (of, answer) = answers.remove(0);
        assert_eq!(of, id);
        answer
    }

    pub(crate) fn mail(&mut self) -> Vec<Mail> {
        let mut mail = Vec::new();
        self.office.drain_mail(|_, letter| {
            mail.push(letter);
            Ok(())
        });
        mail
    }

    /// Offsets and data that go out live.
    pub(crate) fn live(&mut self) -> Vec<(u64, String)> {
        let stored = self.mail().into_iter().filter_map(|mail| match mail {
            Mail::Store(mail) => match *mail {
                StoreMail::Stored(stored) => Some(stored.publication),
                _ => None,
            },
            _ => None,
        });
        stored.map(|of| (of.offset, String::from_utf8(of.data.to_vec()).unwrap())).collect()
    }

    pub(crate) fn open(&mut self, device: &str, since: Option<Position>) -> Subscribed {
        self.try_open(device, since, false).unwrap()
    }

    pub(crate) fn try_open(
        &mut self,
        device: &str,
        since: Option<Position>,
        strict: bool,
    ) -> Result<Subscribed, ErrorCode> {
        let ask = OpenAsk {
            origin: Origin::Connection(Ticket { key: KEY, number: 1 }),
            channel: "#ann".into(),
            owner: owner(device),
            since,
            reject_unrecovered: strict,
            granted: Subscribed { positioned: true, recoverable: true, ..Subscribed::default() },
        };
        self.office.ask(StoreAsk::Open(Box::new(ask)), self.now());
        for mail in self.mail() {
            if let Mail::Store(mail) = mail
                && let StoreMail::Opened { result, .. } = *mail
            {
                return result.map(|granted| *granted);
            }
        }
        panic!("no answer")
    }

    pub(crate) fn page(
        &mut self,
        ask: fn(Box<PageAsk>) -> StoreAsk,
        after: u64,
        epoch: u32,
    ) -> (PageKind, Vec<u64>) {
        let ask = ask(Box::new(PageAsk { key: KEY, channel: "#ann".into(), owner: owner(""), after, epoch }));
        self.office.ask(ask, self.now());
        let page = self.mail().into_iter().find_map(|mail| match mail {
            Mail::Store(mail) => match *mail {
                StoreMail::Page(page) => Some(page),
                _ => None,
            },
            _ => None,
        });
        let page = page.expect("a page");
        (page.kind, page.publications.iter().map(|of| of.offset).collect())
    }

    pub(crate) fn acknowledge(&mut self, device: &str, through: u64, ticket: bool) {
        let ticket = ticket.then_some(Ticket { key: KEY, number: 9 });
        let ask = AckAsk { owner: owner(device), through, epoch: None, ticket };
        self.office.ask(StoreAsk::Acknowledge(Box::new(ask)), self.now());
    }

    pub(crate) fn cursor(&self, device: &str) -> u64 {
        self.desk.mailbox("ann", device).map_or(0, |info| info.cursor)
    }
}

pub(crate) fn owner(device: &str) -> Owner {
    Owner { user: "ann".into(), device: device.into() }
}

pub(crate) fn sent(answer: &ApiAnswer) -> Vec<Result<u64, ApiError>> {
    let ApiAnswer::Sent(results) = answer else { panic!("{answer:?}") };
    results.iter().map(|result| result.as_ref().map(|at| at.offset).map_err(|error| *error)).collect()
}

pub(crate) fn offsets(granted: &Subscribed) -> Vec<u64> {
    granted.publications.iter().map(|of| of.offset).collect()
}
