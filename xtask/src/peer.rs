//! Another server for a bench to compare with: started, waited for and ended by its process id.

use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

/// A script has started long before.
const START_DEADLINE: Duration = Duration::from_secs(20);

/// A peer that runs until it is dropped.
pub(crate) struct Peer {
    child: Child,
}

impl Peer {
    /// Starts `program BEFORE... 127.0.0.1:PORT` and waits until it listens.
    pub(crate) fn start(
        workspace: &Workspace,
        name: &str,
        program: &Path,
        before: &[PathBuf],
        port: u16,
    ) -> Result<Self> {
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        println!("$ {} ... {address}", program.display());
        let child = Command::new(program)
            .args(before)
            .arg(address.to_string())
            .current_dir(&workspace.scratch)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("starting the peer {name}"))?;
        let mut peer = Self { child };
        let start = Instant::now();
        while TcpStream::connect(address).is_err() {
            if let Some(status) = peer.child.try_wait()? {
                bail!("the peer {name} ended with {status} at start");
            }
            if start.elapsed() > START_DEADLINE {
                bail!("the peer {name} does not listen on {address}");
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(peer)
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It has nothing to save, and is gone if these fail.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
