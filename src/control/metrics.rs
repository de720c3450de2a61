//! `/metrics`: what the shards counted, in the OpenMetrics text format.
//!
//! Names follow server-api.md section 6 with the prefix `millpond_`: a dashboard made for them needs no more than its
//! prefix changed. OpenMetrics demands the suffix `_total` of counters; the ecosystem's names have none, so those are typed `unknown`, which
//! `rate()` does not mind. Our own names are proper counters.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::answers::Answers;
use super::api_metrics::ApiMetrics;
use super::process::ProcessMeter;
use super::webhook::metrics::{WebhookCollector, WebhookFigures};
use crate::hub::metrics::{
    DISCONNECT_CODES, FIRST_ERROR_CODE, MemoryCategory, ReceivedKind, Refusal, SendRefusal, SentKind,
    ShardMetrics, UNSUBSCRIBE_CODES,
};
use crate::hub::store::StoreFigures;

/// Where the figures come from. Called on every scrape; must not block for long.
pub trait MetricsSource: Send + Sync {
    /// The latest figures of every shard, in the order of the shards.
    fn shards(&self) -> Vec<ShardMetrics>;

    /// Lines of the log that were dropped because nobody took them.
    fn log_lines_dropped(&self) -> u64 {
        0
    }

    /// The latest figures of the store; `None` without storage.
    fn store(&self) -> Option<StoreFigures> {
        None
    }

    /// What the process holds beside.
    fn process_memory(&self) -> ProcessMemory {
        ProcessMemory::default()
    }
}

/// What the process holds beside the shards' figures, in resident bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessMemory {
    /// Pages of the program, its libraries and the log's map.
    pub files: u64,
    /// Stacks of the shards.
    pub stacks: u64,
    /// What the allocator keeps and nobody uses: holes between blocks, and memory it has not given back yet.
    pub allocator: u64,
}

/// Content type of [`Metrics::render`].
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of this process.
pub(crate) struct Metrics {
    registry: Registry,
}

impl Metrics {
    pub(crate) fn new(
        source: Arc<dyn MetricsSource>,
        answers: Answers,
        version: String,
    ) -> (Self, ApiMetrics) {
        let mut registry = Registry::with_prefix("millpond");
        let api = ApiMetrics::new(&mut registry);
        registry.register_collector(Box::new(Figures {
            source,
            answers,
            version,
            process: ProcessMeter::new(),
        }));
        (Self { registry }, api)
    }

    /// Adds the figures of webhooks, if there are any.
    pub(crate) fn add_webhooks(&mut self, webhooks: Vec<WebhookFigures>) {
        if !webhooks.is_empty() {
            self.registry.register_collector(Box::new(WebhookCollector(webhooks)));
        }
    }

    /// The text of one scrape.
    pub(crate) fn render(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

struct Figures {
    source: Arc<dyn MetricsSource>,
    answers: Answers,
    version: String,
    process: ProcessMeter,
}

impl fmt::Debug for Figures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Figures")
    }
}

impl Collector for Figures {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page { encoder, shards: self.source.shards() };
        page.node(&self.version)?;
        page.sessions()?;
        page.clients()?;
        page.transport()?;
        page.shards()?;
        let store = self.source.store();
        page.memory(&self.source.process_memory(), store.as_ref().map(|store| store.index_bytes))?;
        if let Some(store) = store {
            page.mailboxes(&store)?;
            page.log(&store)?;
        }
        page.process(&self.process)?;
        page.counter(
            "log_lines_dropped",
            "Lines of the log that a stuck reader cost",
            self.source.log_lines_dropped(),
        )?;
        page.counter(
            "api_answers_dropped",
            "Answers of shards that found their queue full",
            self.answers.dropped(),
        )
    }
}

struct Page<'a> {
    encoder: DescriptorEncoder<'a>,
    shards: Vec<ShardMetrics>,
}

impl Page<'_> {
    fn node(&mut self, version: &str) -> fmt::Result {
        self.gauge("node_num_clients", "Connected clients", self.sum(|of| of.clients))?;
        self.gauge("node_num_users", "Distinct users", self.sum(|of| of.users))?;
        self.gauge("node_num_subscriptions", "Subscriptions", self.sum(|of| of.subscriptions))?;
        self.gauge("node_num_channels", "Channels with subscribers", self.sum(|of| of.channels))?;
        self.gauge("node_num_nodes", "Nodes of this installation", 1)?;
        let mut build = self.family("node_build", "Version of this node", MetricType::Gauge)?;
        build.encode_family(&[("version", version)])?.encode_gauge(&1)?;
        self.named(
            "node_client_connection_limit",
            "Refused by the connection limit",
            self.refused_by_limit(),
        )?;
        self.counter("publications", "Publications taken in", self.sum(|of| of.publications))?;
        self.counter(
            "publications_dropped",
            "Publications left out for slow readers",
            self.sum(|of| of.publications_dropped),
        )?;
        self.counter(
            "publications_conflated",
            "Publications replaced by newer ones while slow readers were behind",
            self.sum(|of| of.publications_conflated),
        )
    }

    fn sessions(&mut self) -> fmt::Result {
        let websocket = |count| [("websocket".to_owned(), count)];
        let (clients, replies) = (self.sum(|of| of.clients), self.array(SentKind::COUNT, |of| &of.sent));
        let accepted = replies.get(SentKind::Connect as usize).copied().unwrap_or(0);
        let name = "client_connections_accepted";
        self.labelled(name, "Clients that connected", Kind::Named, "transport", websocket(accepted))?;
        let name = "client_connections_inflight";
        self.labelled(name, "Connected clients", Kind::Gauge, "transport", websocket(clients))?;
        let accepted = self.sum(|of| of.subscriptions_accepted);
        self.named("client_subscriptions_accepted", "Subscriptions granted", accepted)?;
        self.gauge("client_subscriptions_inflight", "Subscriptions", self.sum(|of| of.subscriptions))
    }

    fn clients(&mut self) -> fmt::Result {
        self.counter("accepts", "Sockets accepted", self.sum(|of| of.accepts))?;
        let refusals = self.array(Refusal::COUNT, |of| &of.refusals);
        let labels = Refusal::ALL.iter().map(|reason| reason.label().to_owned());
        self.labelled("refusals", "Connections refused", Kind::Counter, "reason", labels.zip(refusals))?;
        let values = self.array(DISCONNECT_CODES.len() + 1, |of| &of.disconnects);
        let series = codes(&DISCONNECT_CODES).zip(values);
        self.labelled(
            "client_num_server_disconnects",
            "Disconnects by the server",
            Kind::Named,
            "code",
            series,
        )?;
        let values = self.array(UNSUBSCRIBE_CODES.len() + 1, |of| &of.unsubscribes);
        let series = codes(&UNSUBSCRIBE_CODES).zip(values);
        self.labelled(
            "client_num_server_unsubscribes",
            "Unsubscribes by the server",
            Kind::Named,
            "code",
            series,
        )?;
        let errors: Vec<u16> = (FIRST_ERROR_CODE..).take(crate::hub::metrics::ERROR_CODES).collect();
        let series = codes(&errors).zip(self.array(errors.len() + 1, |of| &of.reply_errors));
        self.labelled("client_num_reply_errors", "Error replies", Kind::Named, "code", series)?;
        let recoveries = [
            ("true".to_owned(), self.sum(|of| of.recovered)),
            ("false".to_owned(), self.sum(|of| of.not_recovered)),
        ];
        self.labelled("client_recover", "Recoveries", Kind::Named, "recovered", recoveries)?;
        self.counter("violations", "Framing violations of clients", self.sum(|of| of.violations))?;
        self.counter("commands_over_rate", "Commands beyond the rate", self.sum(|of| of.commands_over_rate))?;
        self.counter(
            "input_bytes_kept",
            "Bytes copied to wait behind a command",
            self.sum(|of| of.input_bytes_kept),
        )?;
        self.counter("pings", "Pings sent", self.sum(|of| of.pings))?;
        self.counter("pongs", "Pongs received", self.sum(|of| of.pongs))
    }

    fn transport(&mut self) -> fmt::Result {
        let sent = self.array(SentKind::COUNT, |of| &of.sent);
        let labels = SentKind::ALL.iter().map(|kind| kind.label().to_owned());
        self.labelled(
            "transport_messages_sent",
            "Messages to clients",
            Kind::Named,
            "frame_type",
            labels.zip(sent),
        )?;
        let received = self.array(ReceivedKind::COUNT, |of| &of.received);
        let series = ReceivedKind::ALL.iter().map(|kind| kind.label().to_owned()).zip(received);
        self.labelled(
            "transport_messages_received",
            "Commands of clients",
            Kind::Named,
            "frame_type",
            series,
        )?;
        self.named("transport_messages_sent_size", "Bytes written", self.sum(|of| of.bytes_sent))?;
        self.named("transport_messages_received_size", "Bytes read", self.sum(|of| of.bytes_received))?;
        self.counter("writes", "Write system calls", self.sum(|of| of.writes))?;
        let told = self.sum(|of| of.announcement_writes);
        self.counter("announcement_writes", "Those that told of joins, leaves and counts only", told)
    }

    fn shards(&mut self) -> fmt::Result {
        self.per_shard("shard_connections", "Sockets", Kind::Gauge, |of| of.connections)?;
        self.per_shard("shard_clients", "Connected clients", Kind::Gauge, |of| of.clients)?;
        self.per_shard("shard_out_queue_bytes", "Bytes for slow readers", Kind::Gauge, |of| {
            of.out_queue_bytes
        })?;
        self.per_shard("shard_mail_queue", "Mail not yet handled", Kind::Gauge, |of| of.mail_queue)?;
        self.per_shard("shard_turns", "Turns of the loop", Kind::Counter, |of| of.turns)?;
        self.per_shard("shard_mail_in", "Mail from other shards", Kind::Counter, |of| of.mail_in)?;
        self.per_shard("shard_mail_out", "Mail to other shards", Kind::Counter, |of| of.mail_out)?;
        self.per_shard("shard_mail_full", "Waits for a full queue", Kind::Counter, |of| of.mail_full)?;
        self.per_shard("shard_unauthenticated", "Sockets short of their connect", Kind::Gauge, |of| {
            of.unauthenticated
        })?;
        self.per_shard("shard_handed_over", "Requests for the control plane", Kind::Counter, |of| {
            of.handed_over
        })?;
        self.per_shard("shard_late_turns", "Gaps of two seconds between turns", Kind::Counter, |of| {
            of.stalls
        })?;
        self.per_shard("shard_stalls", "Standstills of a second with work to do", Kind::Counter, |of| {
            of.standstills
        })?;
        self.per_shard("shard_memory_bytes", "Memory accounted for", Kind::Gauge, |of| of.memory.iter().sum())
    }

    /// Bytes per connection are what the categories of the shards hold, shared over the sockets there are.
    fn memory(&mut self, process: &ProcessMemory, log_index: Option<u64>) -> fmt::Result {
        let held = self.array(MemoryCategory::COUNT, |of| &of.memory);
        let labels = MemoryCategory::ALL.iter().map(|category| category.label().to_owned());
        let held: Vec<_> = labels.zip(held).collect();
        let connections = self.sum(|of| of.connections);
        let share = |bytes: u64| bytes.checked_div(connections).unwrap_or(0);
        let each: Vec<_> = held.iter().map(|(label, bytes)| (label.clone(), share(*bytes))).collect();
        let beside = [
            ("log_index", log_index.unwrap_or(0)),
            ("stacks", process.stacks),
            ("allocator", process.allocator),
            ("files", process.files),
        ];
        let beside = beside.map(|(label, bytes)| (label.to_owned(), bytes));
        let all = held.into_iter().chain(beside);
        self.labelled("memory_bytes", "Memory by category", Kind::Gauge, "category", all)?;
        self.labelled("bytes_per_connection", "Memory over sockets", Kind::Gauge, "category", each)
    }

    fn mailboxes(&mut self, store: &StoreFigures) -> fmt::Result {
        self.counter("mailbox_sent", "Messages stored", store.sent)?;
        let reasons = SendRefusal::ALL.iter().map(|reason| reason.label().to_owned()).zip(store.refused);
        self.labelled("mailbox_refused", "Messages refused", Kind::Counter, "reason", reasons)?;
        let handed = [
            ("live".to_owned(), self.sum(|of| of.mailbox_delivered)),
            ("replay".to_owned(), self.sum(|of| of.mailbox_replayed)),
            ("again".to_owned(), self.sum(|of| of.mailbox_redelivered)),
        ];
        self.labelled("mailbox_delivered", "Messages given to sessions", Kind::Counter, "how", handed)?;
        self.counter("mailbox_acknowledgements", "Acknowledgements stored", store.acknowledged)?;
        self.counter(
            "mailbox_acknowledgement_failures",
            "Acknowledgements that the log did not take",
            store.ack_failures,
        )?;
        self.counter("mailbox_dead_letters", "Messages put aside", store.dead_lettered)?;
        self.counter(
            "mailbox_dead_letter_failures",
            "Dead letters that the log did not take",
            store.dead_letter_failures,
        )?;
        self.counter(
            "mailbox_dead_letters_cut",
            "Dead letters without their data, which was too large",
            store.dead_letters_cut,
        )?;
        self.gauge("store_queue", "Questions to the store not yet handled", store.queued)?;
        self.gauge("store_in_flight", "Requests that the log has not acknowledged", store.in_flight)?;
        self.gauge("store_waiting", "Requests that the log has no room for", store.waiting)?;
        self.gauge("store_letters", "Letters of the store to shards that lag", store.letters)?;
        self.gauge("store_late_acknowledgements", "Acknowledgements being gathered", store.late_acks)
    }

    fn log(&mut self, store: &StoreFigures) -> fmt::Result {
        self.gauge("log_streams", "Mailboxes, histories and queues", store.streams)?;
        self.gauge("log_index_bytes", "Memory of the index", store.index_bytes)?;
        self.gauge("log_faulty", "1 while the log cannot take records", u64::from(store.log_faulty))?;
        self.counter("history_stored", "Publications of durable histories", store.published)?;
        self.counter("history_not_stored", "Publications that the log did not take", store.publish_failures)?;
        self.counter("log_records", "Records appended", store.log_records)?;
        self.counter("log_bytes", "Bytes appended", store.log_bytes)?;
        self.counter("log_groups", "Groups written", store.log_groups)?;
        self.counter("log_segments_given_up", "Segments given up", store.log_segments_given_up)?;
        self.counter("log_lost_syncs", "Syncs failed after the acknowledgement", store.log_lost_syncs)?;
        self.counter("log_expired_reads", "Messages expired before they were read", store.log_expired_reads)?;
        self.counter("log_damaged_reads", "Records found damaged", store.log_damaged_reads)?;
        self.counter("log_maintenance_failures", "Maintenance failed", store.log_maintenance_failures)
    }

    fn process(&mut self, meter: &ProcessMeter) -> fmt::Result {
        let Some(look) = meter.look() else { return Ok(()) };
        self.gauge("process_resident_memory_bytes", "Resident memory", look.rss)?;
        let mut cpu = self.family("process_cpu_seconds", "CPU time", MetricType::Counter)?;
        cpu.encode_counter::<NoLabelSet, _, u64>(&look.cpu_time.as_secs_f64(), None)
    }

    fn sum(&self, figure: impl Fn(&ShardMetrics) -> u64) -> u64 {
        self.shards.iter().map(figure).sum()
    }

    fn refused_by_limit(&self) -> u64 {
        self.array(Refusal::COUNT, |of| &of.refusals)
            .get(Refusal::ConnectionLimit as usize)
            .copied()
            .unwrap_or(0)
    }

    fn array(&self, length: usize, figures: impl Fn(&ShardMetrics) -> &[u64]) -> Vec<u64> {
        let mut sums = vec![0; length];
        for shard in &self.shards {
            for (sum, figure) in sums.iter_mut().zip(figures(shard)) {
                *sum += figure;
            }
        }
        sums
    }

    fn family<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
        kind: MetricType,
    ) -> Result<MetricEncoder<'s>, fmt::Error> {
        self.encoder.encode_descriptor(name, help, None, kind)
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        put(&mut self.family(name, help, MetricType::Gauge)?, Kind::Gauge, value)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        put(&mut self.family(name, help, MetricType::Counter)?, Kind::Counter, value)
    }

    fn named(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        put(&mut self.family(name, help, MetricType::Unknown)?, Kind::Named, value)
    }

    fn per_shard(
        &mut self,
        name: &str,
        help: &str,
        kind: Kind,
        figure: impl Fn(&ShardMetrics) -> u64,
    ) -> fmt::Result {
        let values: Vec<_> = self.shards.iter().map(figure).collect();
        self.labelled(name, help, kind, "shard", (0..).map(|shard: u32| shard.to_string()).zip(values))
    }

    fn labelled(
        &mut self,
        name: &str,
        help: &str,
        kind: Kind,
        label: &str,
        series: impl IntoIterator<Item = (String, u64)>,
    ) -> fmt::Result {
        let mut family = self.family(name, help, kind.metric_type())?;
        for (member, value) in series {
            put(&mut family.encode_family(&[(label, member)])?, kind, value)?;
        }
        Ok(())
    }
}

/// How a figure is typed.
#[derive(Clone, Copy)]
enum Kind {
    Gauge,
    Counter,
    /// A counter whose name the ecosystem has fixed.
    Named,
}

impl Kind {
    fn metric_type(self) -> MetricType {
        match self {
            Self::Gauge => MetricType::Gauge,
            Self::Counter => MetricType::Counter,
            Self::Named => MetricType::Unknown,
        }
    }
}

fn put(encoder: &mut MetricEncoder<'_>, kind: Kind, value: u64) -> fmt::Result {
    match kind {
        Kind::Counter => encoder.encode_counter::<NoLabelSet, _, u64>(&value, None),
        Kind::Gauge | Kind::Named => encoder.encode_gauge(&value),
    }
}

fn codes(known: &[u16]) -> impl Iterator<Item = String> {
    known.iter().map(ToString::to_string).chain(["other".to_owned()])
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Two;

    impl MetricsSource for Two {
        fn shards(&self) -> Vec<ShardMetrics> {
            let mut first = ShardMetrics { connections: 3, clients: 2, turns: 9, ..ShardMetrics::default() };
            first.disconnect(3012);
            first.disconnect(4000);
            first.memory[MemoryCategory::Users as usize] = 400;
            let second = ShardMetrics { connections: 1, clients: 1, ..ShardMetrics::default() };
            vec![first, second]
        }

        fn store(&self) -> Option<StoreFigures> {
            let mut figures =
                StoreFigures { sent: 7, published: 5, log_faulty: true, ..StoreFigures::default() };
            figures.refuse(SendRefusal::MailboxFull, 3);
            Some(figures)
        }
    }

    #[test]
    fn figures_carry_the_names_of_the_ecosystem() {
        let (answers, _inbox) = crate::control::answers::answer_queue(1).unwrap();
        let (metrics, api) = Metrics::new(Arc::new(Two), answers, "0.1".to_owned());
        api.observe("publish", std::time::Duration::from_millis(1), Some(107));
        let text = metrics.render().unwrap();
        let lines = [
            "millpond_mailbox_sent_total 7",
            "millpond_mailbox_refused_total{reason=\"mailbox_full\"} 3",
            "millpond_mailbox_delivered_total{how=\"live\"} 0",
            "millpond_history_stored_total 5",
            "millpond_log_faulty 1",
            "millpond_node_num_clients 3",
            "millpond_node_build{version=\"0.1\"} 1",
            "millpond_client_num_server_disconnects{code=\"3012\"} 1",
            "millpond_client_num_server_disconnects{code=\"other\"} 1",
            "millpond_shard_turns_total{shard=\"0\"} 9",
            "millpond_shard_connections{shard=\"1\"} 1",
            "millpond_memory_bytes{category=\"users\"} 400",
            "millpond_bytes_per_connection{category=\"users\"} 100",
            "millpond_transport_messages_sent{frame_type=\"push_join\"} 0",
            "millpond_api_command_errors_total{protocol=\"http\",method=\"publish\",error=\"107\"} 1",
            "millpond_api_command_duration_seconds_histogram_count{protocol=\"http\",method=\"publish\"} 1",
        ];
        for line in lines {
            assert!(text.lines().any(|of| of == line), "{line} is missing in:\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
