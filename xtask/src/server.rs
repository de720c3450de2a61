//! A running millpond for the suites from outside: started on a port of its caller, stopped by its process id, and judged by
//! how it stops.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::workspace::Workspace;

/// Start-up is a matter of milliseconds; a machine under load gets more.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// `shutdown.timeout` is 30 s by default; no client is left that could need it.
const STOP_DEADLINE: Duration = Duration::from_secs(45);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A server that runs until it is stopped or dropped.
pub(crate) struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts `millpond serve ARGS` and waits until it answers HTTP on `port`. Its output goes to
    /// `target/xtask/logs/NAME.log`.
    pub(crate) fn start(workspace: &Workspace, name: &str, port: u16, args: &[&str]) -> Result<Self> {
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        // Another server would answer in ours' place, and SO_REUSEPORT would even let both start.
        TcpListener::bind(address)
            .with_context(|| format!("port {port} must be free for the {name} suite"))?;
        let logs = workspace.scratch.join("logs");
        std::fs::create_dir_all(&logs)?;
        let log = logs.join(format!("{name}.log"));
        let output = File::create(&log)?;
        let binary = workspace.release_binary()?;
        println!("$ {} serve {}   (log: {})", binary.display(), args.join(" "), log.display());
        let mut command = Command::new(binary);
        // Settings of whoever runs the suites would override the configuration.
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MILLPOND_"))
        {
            command.env_remove(name);
        }
        let child = command
            .arg("serve")
            .args(args)
            // Any free port for the internal endpoints: the suites use those on the client port.
            .env("MILLPOND_HTTP_SERVER_INTERNAL_PORT", "0")
            // The demo's log is one of ours, not of whoever runs the suites.
            .env("XDG_STATE_HOME", workspace.scratch.join("state"))
            .current_dir(&workspace.scratch)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("starting millpond")?;
        let mut server = Self { child, log };
        server.wait_until_it_answers(address)?;
        Ok(server)
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Resident bytes.
    pub(crate) fn rss(&self) -> Result<u64> {
        Self::rss_of(self.id())
    }

    /// Resident bytes of a process.
    pub(crate) fn rss_of(id: u32) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kilobytes.map(|kilobytes| kilobytes * 1024).context("the server runs and has memory")
    }

    /// Sends SIGTERM and waits; anything but exit code 0 is an error.
    pub(crate) fn stop(mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the server had ended before with {status}: see {}", self.log.display());
        }
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .context("a process id is positive")?;
        kill_process(pid, Signal::TERM)?;
        let start = Instant::now();
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => {
                    bail!("the server ended with {status} after SIGTERM: see {}", self.log.display())
                }
                None if start.elapsed() > STOP_DEADLINE => bail!("the server did not end after SIGTERM"),
                None => thread::sleep(POLL_INTERVAL),
            }
        }
    }

    fn wait_until_it_answers(&mut self, address: SocketAddrV4) -> Result<()> {
        let start = Instant::now();
        while !answers(address) {
            if let Some(status) = self.child.try_wait()? {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                bail!("the server ended with {status} at start:\n{log}");
            }
            if start.elapsed() > START_DEADLINE {
                bail!("the server does not answer on {address}: see {}", self.log.display());
            }
            thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // After `stop` the process is gone and both calls are no-ops.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether an HTTP server answers: any status line will do.
fn answers(address: SocketAddrV4) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address.into(), Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET /connection/websocket HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        let mut start = [0; 5];
        stream.read_exact(&mut start)?;
        Ok(&start == b"HTTP/")
    };
    ask().unwrap_or(false)
}
