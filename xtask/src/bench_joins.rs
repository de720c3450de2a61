//! `cargo xtask bench joins`: rooms beside one large channel that clients join and leave all the time.
//!
//! What the rooms feel of it is compared with three other times of the same round: without the large channel, with it
//! at rest, and with the same joins at another server process, where nothing but the cores is shared.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use serde_json::{Value, json};

use crate::bench;
use crate::bench_load::{self, Figures, KEY};
use crate::bench_peers;
use crate::record::{Row, append};
use crate::server::Server;
use crate::workspace::Workspace;

/// The members are there within so long.
const RAMP_DEADLINE: Duration = Duration::from_secs(10 * 60);
/// What a run of the rooms takes beside its publications: connecting, and waiting for the last delivery.
const MARGIN: Duration = Duration::from_secs(12);
/// Between the beginning of the joins and that of the rooms, and between two questions of one kind.
const LEAD: Duration = Duration::from_secs(2);
const QUESTION_PAUSE: Duration = Duration::from_millis(50);

/// The two kinds of large channel: namespace, and what the row says.
const KINDS: [(&str, &str); 2] =
    [("crowd", "presence only"), ("told", "joins and leaves pushed, `join_leave_max_rate = 10`")];

#[derive(Parser)]
#[command(name = "cargo xtask bench joins")]
struct Joins {
    /// Members of the large channel
    #[arg(long, default_value_t = 20_000)]
    members: u32,
    /// Joins and leaves a second
    #[arg(long, default_value_t = 10_000)]
    rate: u32,
    /// Seconds of each run of the rooms
    #[arg(long, default_value_t = 12)]
    seconds: u64,
    /// Rounds of which the median counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Leave out the same joins at another server process
    #[arg(long)]
    alone: bool,
    /// Only one kind of large channel: crowd or told
    #[arg(long)]
    kind: Option<String>,
}

/// Milliseconds of one kind of question, in order.
#[derive(Default)]
struct Times(Vec<f64>);

/// What was asked beside the rooms.
#[derive(Default)]
struct Asked {
    stats: Times,
    page: Times,
}

/// One round.
#[derive(Default)]
struct Round {
    alone: Figures,
    there: Figures,
    joins: Figures,
    after: Figures,
    elsewhere: Option<Figures>,
    churn: Figures,
    asked_there: Asked,
    asked_joins: Asked,
}

/// `cargo xtask bench joins`
pub(crate) fn joins(workspace: &Workspace, args: &[String]) -> Result<()> {
    let how = Joins::try_parse_from(std::iter::once("joins").chain(args.iter().map(String::as_str)))?;
    bench_load::build(workspace)?;
    for (namespace, label) in KINDS {
        if how.kind.as_deref().is_some_and(|kind| kind != namespace) {
            continue;
        }
        let rounds =
            (0..how.rounds).map(|_| round(workspace, &how, namespace)).collect::<Result<Vec<_>>>()?;
        append(
            workspace,
            "joins",
            &Row { command: bench::shown("joins", args), figures: figures(&how, label, &rounds) },
        )?;
    }
    Ok(())
}

fn figures(how: &Joins, label: &str, rounds: &[Round]) -> Vec<String> {
    let p99 = |of: &Figures| of.get("latency_p99_ms").copied();
    let median = |of: &dyn Fn(&Round) -> Option<f64>| bench_peers::median_of(rounds.iter().filter_map(of));
    let [alone, there, joins, after, elsewhere] = [
        median(&|round| p99(&round.alone)),
        median(&|round| p99(&round.there)),
        median(&|round| p99(&round.joins)),
        median(&|round| p99(&round.after)),
        median(&|round| round.elsewhere.as_ref().and_then(p99)),
    ];
    let ratio = |a: Option<f64>, b: Option<f64>| bench::round(a.zip(b).map(|(a, b)| a / b), 2);
    let windows = |round: &Round| [&round.alone, &round.there, &round.joins, &round.after].map(Clone::clone);
    let lost: f64 = rounds.iter().flat_map(windows).filter_map(|of| of.get("lost").copied()).sum();
    let wrong: f64 = rounds.iter().filter_map(|round| round.churn.get("presence_wrong").copied()).sum();
    let asked = |of: &dyn Fn(&Round) -> &Times| {
        let mut all: Vec<f64> = rounds.iter().flat_map(|round| of(round).0.iter().copied()).collect();
        all.sort_by(f64::total_cmp);
        let at = |share: f64| bench::round(all.get((all.len() as f64 * share) as usize).copied(), 2);
        format!("{}, {}", at(0.5), at(0.99))
    };
    vec![
        label.to_owned(),
        how.members.to_string(),
        bench::round(median(&|round| round.churn.get("commands_per_s").copied()), 0),
        bench::round(alone, 2),
        bench::round(there, 2),
        bench::round(joins, 2),
        bench::round(after, 2),
        bench::round(elsewhere, 2),
        ratio(joins, there),
        ratio(joins, elsewhere),
        bench::round(Some(lost), 0),
        bench::round(Some(wrong), 0),
        asked(&|round| &round.asked_there.stats),
        asked(&|round| &round.asked_joins.stats),
        asked(&|round| &round.asked_there.page),
        asked(&|round| &round.asked_joins.page),
    ]
}

fn round(workspace: &Workspace, how: &Joins, namespace: &'static str) -> Result<Round> {
    let node = Node::start(workspace, how, "joins")?;
    let mut round = Round { alone: node.rooms(workspace, how)?, ..Round::default() };
    let crowd = Crowd::start(workspace, how, namespace, &node)?;
    let questions = node.ask(namespace, how);
    round.there = node.rooms(workspace, how)?;
    round.asked_there = answers(questions)?;
    crowd.await_joins()?;
    let questions = node.ask(namespace, how);
    round.joins = node.rooms(workspace, how)?;
    round.asked_joins = answers(questions)?;
    round.churn = crowd.finish()?;
    bench::wait_until_empty(node.internal, node.server.id())?;
    round.after = node.rooms(workspace, how)?;
    if !how.alone {
        let other = Node::start(workspace, how, "joins-elsewhere")?;
        let crowd = Crowd::start(workspace, how, namespace, &other)?;
        crowd.await_joins()?;
        round.elsewhere = Some(node.rooms(workspace, how)?);
        crowd.finish()?;
        other.server.stop()?;
    }
    node.server.stop()?;
    Ok(round)
}

/// A server of the bench.
struct Node {
    server: Server,
    port: u16,
    internal: SocketAddr,
}

impl Node {
    fn start(workspace: &Workspace, how: &Joins, name: &str) -> Result<Self> {
        let config = workspace.scratch.join("bench-joins.toml");
        let crowd =
            "presence = true\nallow_subscribe_for_client = true\nallow_presence_for_subscriber = true\n";
        let text = format!(
            "[client]\nping_interval = \"25s\"\n\n[client.token]\nhmac_secret_key = \"{KEY}\"\n\n[http_api]\nkey = \"{KEY}\"\n\n\
             [channel.without_namespace]\nallow_subscribe_for_client = true\n\n\
             [[channel.namespaces]]\nname = \"crowd\"\n{crowd}\n[[channel.namespaces]]\nname = \"told\"\n{crowd}\
             join_leave = true\nforce_push_join_leave = true\njoin_leave_max_rate = 10\n"
        );
        fs::write(&config, text)?;
        let (port, internal) =
            (bench::free_port()?, SocketAddr::from((Ipv4Addr::LOCALHOST, bench::free_port()?)));
        let (config, listen) = (config.display().to_string(), format!("127.0.0.1:{port}"));
        let (inside, most) = (internal.to_string(), (how.members + 10_000).to_string());
        let args = ["--config", &config, "--listen", &listen, "--internal-listen", &inside];
        let args = args.into_iter().chain(["--max-connections", &most]).collect::<Vec<_>>();
        Ok(Self { server: Server::start(workspace, name, port, &args)?, port, internal })
    }

    /// 250 rooms of 20, 250 publications a second.
    fn rooms(&self, workspace: &Workspace, how: &Joins) -> Result<Figures> {
        let load =
            format!("connections = 5_000\ntoken-key = \"{KEY}\"\nchannel-template = [\"room{{i%250}}\"]\n");
        let phases = format!(
            "[[phase]]\nkind = \"ramp\"\n\n[[phase]]\nkind = \"fanout\"\npublish-rate = 250\nlanes = 2\nduration = \"{}s\"\n\
             api-url = \"http://{}/api/publish\"\napi-key = \"KEY\"\n",
            how.seconds, self.internal
        );
        let path = "/connection/websocket";
        let file = bench_load::scenario_file(workspace, "joins-rooms", &load, &phases, self.port, path)?;
        // With both ends on one small machine some worker always waits: the figures beside it say for how long.
        let args = ["--allow-void".to_owned(), "--quiet".to_owned()];
        let phases = bench_load::generate(workspace, "joins-rooms", &file, self.server.id(), &args)?;
        phases.get("fanout").cloned().context("the report has a phase `fanout`")
    }

    /// Asks for counts and for pages of a hundred members, again and again, until the rooms are done.
    fn ask(&self, namespace: &'static str, how: &Joins) -> JoinHandle<Result<Asked>> {
        let (address, end) = (self.internal, Instant::now() + Duration::from_secs(how.seconds));
        thread::spawn(move || {
            let (mut door, mut asked) = (Door::open(address)?, Asked::default());
            let channel = format!("{namespace}:all");
            while Instant::now() < end {
                asked.stats.0.push(door.time("presence_stats", &json!({ "channel": channel }))?);
                thread::sleep(QUESTION_PAUSE);
                asked.page.0.push(door.time("presence", &json!({ "channel": channel, "limit": 100 }))?);
                thread::sleep(QUESTION_PAUSE);
            }
            Ok(asked)
        })
    }
}

fn answers(questions: JoinHandle<Result<Asked>>) -> Result<Asked> {
    match questions.join() {
        Ok(asked) => asked,
        Err(_) => bail!("whoever asks for presence has panicked"),
    }
}

/// Members of a large channel, who rest first and then come and go.
struct Crowd {
    generator: Child,
    report: PathBuf,
    joins_at: Instant,
}

impl Crowd {
    /// Returns when everybody is there.
    fn start(workspace: &Workspace, how: &Joins, namespace: &str, node: &Node) -> Result<Self> {
        let load = format!(
            "connections = {}\ntoken-key = \"{KEY}\"\nuser-prefix = \"m\"\nchannel-template = [\"{namespace}:all\"]\n",
            how.members
        );
        let window = (Duration::from_secs(how.seconds) + MARGIN).as_secs();
        let phases = format!(
            "[[phase]]\nkind = \"ramp\"\n\n[[phase]]\nkind = \"hold\"\nhold = \"{window}s\"\n\n\
             [[phase]]\nkind = \"presence\"\nchurn-rate = {}.0\nduration = \"{}s\"\n",
            how.rate,
            window + LEAD.as_secs()
        );
        let path = "/connection/websocket";
        let file = bench_load::scenario_file(workspace, "joins-crowd", &load, &phases, node.port, path)?;
        let report = bench::report_path(workspace, "joins-crowd")?;
        let log = fs::File::create(workspace.scratch.join("logs/joins-crowd.log"))?;
        let generator = Command::new(workspace.target.join("release/millpond-load"))
            .arg("run")
            .args([&file, &PathBuf::from("--json"), &report])
            .args(["--allow-void", "--quiet"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting millpond-load")?;
        let mut crowd = Self { generator, report, joins_at: Instant::now() };
        let (mut door, began) = (Door::open(node.internal)?, Instant::now());
        let channel = format!("{namespace}:all");
        while door.ask("presence_stats", &json!({ "channel": channel }))?["result"]["num_clients"]
            != how.members
        {
            if crowd.generator.try_wait()?.is_some() || began.elapsed() > RAMP_DEADLINE {
                bail!("the members did not come: see target/xtask/logs/joins-crowd.log");
            }
            thread::sleep(Duration::from_millis(200));
        }
        // The phase of rest begins about now.
        crowd.joins_at = Instant::now() + Duration::from_secs(window) + LEAD;
        Ok(crowd)
    }

    fn await_joins(&self) -> Result<()> {
        let wait = self.joins_at.checked_duration_since(Instant::now());
        thread::sleep(wait.context("the rooms took longer than the members rested")?);
        Ok(())
    }

    /// What the phase of joins came to.
    fn finish(mut self) -> Result<Figures> {
        let status = self.generator.wait()?;
        if !status.success() {
            bail!("the members' generator ended with {status}: see target/xtask/logs/joins-crowd.log");
        }
        let phases = bench_load::phases_of(&self.report)?;
        phases.get("presence").cloned().context("the report has a phase `presence`")
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        // After `finish` the process is gone and both calls are no-ops.
        let _ = self.generator.kill();
        let _ = self.generator.wait();
    }
}

/// One kept-alive connection to the server API.
struct Door {
    stream: BufReader<TcpStream>,
}

impl Door {
    fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).context("reaching the server API")?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Milliseconds from the request to the whole answer.
    fn time(&mut self, method: &str, params: &Value) -> Result<f64> {
        let began = Instant::now();
        let answer = self.ask(method, params)?;
        let took = began.elapsed().as_secs_f64() * 1000.0;
        if answer.get("result").is_none() {
            bail!("{method} answered {answer}");
        }
        Ok(took)
    }

    fn ask(&mut self, method: &str, params: &Value) -> Result<Value> {
        let body = params.to_string();
        let request = format!(
            "POST /api/{method} HTTP/1.1\r\nHost: bench\r\nX-API-Key: {KEY}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                bail!("the server API has hung up");
            }
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            } else if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok(serde_json::from_slice(&body)?)
    }
}
