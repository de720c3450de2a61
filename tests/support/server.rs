//! A millpond process of a test's own: free ports, a configuration in a temporary folder, ended with the test.
#![allow(dead_code, reason = "each test file uses a part")]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long a step may take that takes milliseconds on an idle machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// The key of the server API in every configuration made here.
pub(crate) const API_KEY: &str = "test-api-key";

/// A running server; dropping it kills it.
pub(crate) struct Server {
    child: Child,
    /// Where clients connect.
    pub(crate) address: SocketAddr,
    /// Where backends and operators connect.
    pub(crate) internal: SocketAddr,
    folder: TempDir,
    /// Open descriptors while nobody is connected.
    idle_descriptors: usize,
}

impl Server {
    /// Starts a server whose configuration is `config` with the addresses and the API key filled in.
    pub(crate) fn start(config: Value, args: &[&str]) -> Self {
        Self::start_at(free_address(), config, args)
    }

    /// The same with another number of connections.
    pub(crate) fn start_limited(mut config: Value, max_connections: u32, args: &[&str]) -> Self {
        config["server"] = json!({ "max_connections": max_connections });
        Self::start(config, args)
    }

    /// The same at an address that the test chose.
    pub(crate) fn start_at(address: SocketAddr, config: Value, args: &[&str]) -> Self {
        Self::start_with(address, config, args, &[])
    }

    /// The same with variables of its environment.
    pub(crate) fn start_with(
        address: SocketAddr,
        mut config: Value,
        args: &[&str],
        environment: &[(&str, &std::path::Path)],
    ) -> Self {
        let internal = free_address();
        config["http_server"] =
            json!({ "internal_address": internal.ip(), "internal_port": internal.port() });
        config["http_api"] = json!({ "key": API_KEY });
        // Fits every descriptor limit, so that a test may choose its number of shards.
        if config["server"].is_null() {
            config["server"] = json!({ "max_connections": 5000 });
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        std::fs::write(&file, config.to_string()).unwrap();
        let log = File::create(folder.path().join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
        // Settings of whoever runs the tests would override the configuration.
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MILLPOND_"))
        {
            command.env_remove(name);
        }
        let child = command
            .arg("serve")
            .args(["--config".as_ref(), file.as_os_str()])
            .args(["--listen", &address.to_string()])
            .args(args)
            .envs(environment.iter().copied())
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut server = Self { child, address, internal, folder, idle_descriptors: usize::MAX };
        server.wait_until_it_answers();
        until("the server holds no connection", || server.connections() == 0);
        server.idle_descriptors = server.descriptors();
        server
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// From now on the process opens no descriptor with a number of `limit` or above.
    pub(crate) fn limit_descriptors(&self, limit: u64) {
        let maximum = getrlimit(Resource::Nofile).maximum;
        let limit = Rlimit { current: Some(limit), maximum };
        prlimit(Some(Pid::from_child(&self.child)), Resource::Nofile, limit).unwrap();
    }

    /// Waits for the end of the process.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut ended = None;
        until("the process ends", || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        ended.unwrap()
    }

    /// Whether the process is still there.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Calls the server API; answers the body.
    pub(crate) fn api(&self, method: &str, body: &str) -> String {
        let request = format!(
            "POST /api/{method} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {API_KEY}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let (head, body) = exchange(self.internal, &request).unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "/api/{method}: {head}\n{body}");
        body
    }

    /// The sum of all series of a metric whose labels contain `label`; 0 if there is none.
    pub(crate) fn metric(&self, name: &str, label: &str) -> f64 {
        let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let (head, body) = exchange(self.internal, request).unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "/metrics: {head}\n{body}");
        sum_of_metric(&body, name, label)
    }

    /// Sockets that the shards hold, from the server's own figures.
    pub(crate) fn connections(&self) -> u64 {
        whole(self.metric("millpond_shard_connections", ""))
    }

    /// Waits until no socket of a client is left: as the kernel sees it, and by the server's own figures, which may be
    /// a second old.
    pub(crate) fn wait_until_empty(&self) {
        until("all descriptors are closed", || self.descriptors() <= self.idle_descriptors);
        until("the server counts no connection", || self.connections() == 0);
    }

    /// Resident memory in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    /// Resident memory in bytes that belongs to no file.
    pub(crate) fn anonymous_bytes(&self) -> u64 {
        self.status_bytes("RssAnon:")
    }

    fn status_bytes(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(self.proc("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// The environment the process was started with, each variable as `NAME=value`.
    pub(crate) fn environment(&self) -> Vec<String> {
        let text = std::fs::read(self.proc("environ")).unwrap();
        let variables = text.split(|byte| *byte == 0).filter(|variable| !variable.is_empty());
        variables.map(|variable| String::from_utf8_lossy(variable).into_owned()).collect()
    }

    /// The name under which the process is listed.
    pub(crate) fn listed_as(&self) -> String {
        std::fs::read_to_string(self.proc("comm")).unwrap().trim().to_owned()
    }

    /// Processor time used so far, user and system.
    pub(crate) fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(self.proc("stat")).unwrap();
        // Fields 14 and 15, counted after the name in brackets, in ticks of 10 ms.
        let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }

    /// Open descriptors, over the private tables of all threads.
    fn descriptors(&self) -> usize {
        let threads =
            std::fs::read_dir(self.proc("task")).unwrap().map(|thread| thread.unwrap().path().join("fd"));
        threads.filter_map(|table| Some(std::fs::read_dir(table).ok()?.count())).sum()
    }

    /// What the server has written so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn proc(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.child.id()))
    }

    fn wait_until_it_answers(&mut self) {
        let start = Instant::now();
        let request = "GET /nowhere HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        while exchange(self.address, request).is_err() || exchange(self.internal, request).is_err() {
            let status = self.child.try_wait().unwrap();
            assert!(status.is_none(), "the server ended at start with {status:?}:\n{}", self.log());
            assert!(start.elapsed() < PATIENCE, "the server does not answer:\n{}", self.log());
            thread::sleep(POLL_INTERVAL);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- log of the server\n{}", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address on which nobody listens at the moment.
pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

/// Waits until `condition` holds.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "this did not come: {what}");
        thread::sleep(POLL_INTERVAL);
    }
}

/// One HTTP exchange on a connection of its own; answers head and body.
fn exchange(address: SocketAddr, request: &str) -> std::io::Result<(String, String)> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if is_chunked { join_chunks(body) } else { body.to_owned() };
    Ok((head.to_owned(), body))
}

fn join_chunks(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        whole.push_str(&rest[..length]);
        body = rest[length..].trim_start_matches("\r\n");
    }
    whole
}

fn sum_of_metric(page: &str, name: &str, label: &str) -> f64 {
    let series = page.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (found, labels) = series.split_once('{').unwrap_or((series, ""));
        // Counters carry the suffix of the OpenMetrics format.
        (found.trim_end_matches("_total") == name && labels.contains(label))
            .then(|| value.parse::<f64>().unwrap())
    });
    series.sum()
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a gauge of sockets is a small whole number"
)]
fn whole(value: f64) -> u64 {
    value.round() as u64
}

mod checker {
    use super::*;

    #[test]
    fn metrics_are_summed_over_series_by_name_and_label() {
        let page = "# HELP a_x text\na_x{s=\"0\"} 3\na_x{s=\"1\"} 4\na_xy 9\na_c_total{code=\"3008\"} 2\n";
        assert_eq!(whole(sum_of_metric(page, "a_x", "")), 7);
        assert_eq!(whole(sum_of_metric(page, "a_x", "s=\"1\"")), 4);
        assert_eq!(whole(sum_of_metric(page, "a_c", "3008")), 2);
        assert_eq!(whole(sum_of_metric(page, "nothing", "")), 0);
    }

    #[test]
    fn chunks_are_joined() {
        assert_eq!(join_chunks("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"), "abcde");
    }
}
