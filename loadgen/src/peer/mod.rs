//! A bare server of the client protocol's minimum, to calibrate the generator against.
//!
//! It does the least that a server can: upgrade, connect, subscribe, publish, recover, ping; JSON only; no tokens are
//! checked, no limits kept. What it takes is close to the floor of the kernel, so a figure of the generator against it
//! is what the generator itself can do on a host. Faults can be asked for, to prove that the generator sees them.

mod commands;
mod hub;
mod shard;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use mio::{Poll, Waker};

pub use hub::Faults;
use hub::Hub;

/// How the peer runs.
#[derive(Debug, Clone)]
pub struct PeerSettings {
    /// Where it listens; port 0 picks one.
    pub listen: SocketAddr,
    /// Threads, each with a descriptor table of its own.
    pub threads: u32,
    /// Seconds between pings.
    pub ping: Duration,
    /// What it does wrong.
    pub faults: Faults,
}

/// A running peer. It ends with the process, or when stopped.
pub struct Peer {
    hub: Arc<Hub>,
    threads: Vec<JoinHandle<()>>,
    address: SocketAddr,
}

impl Peer {
    /// Starts the threads.
    ///
    /// # Errors
    /// What the operating system answers, such as a port in use.
    pub fn start(settings: &PeerSettings) -> io::Result<Self> {
        // Holds the port, and does not listen, until the threads have it.
        let holder = shard::bind(settings.listen)?;
        let address = holder.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let mut polls = Vec::new();
        let mut doors = Vec::new();
        for _ in 0..settings.threads.max(1) {
            let poll = Poll::new()?;
            let waker = Waker::new(poll.registry(), shard::WAKER)?;
            let (mail, inbox) = std::sync::mpsc::channel();
            doors.push((mail, waker));
            polls.push((poll, inbox));
        }
        let hub = Arc::new(Hub::new(doors, settings.faults));
        let mut threads = Vec::new();
        let (started, listening) = std::sync::mpsc::channel();
        for (poll, inbox) in polls {
            let (hub, ping, started) = (Arc::clone(&hub), settings.ping, started.clone());
            threads.push(std::thread::Builder::new().name("peer".to_owned()).spawn(move || {
                if let Err(error) = shard::run(poll, address, &inbox, hub, ping, &started) {
                    eprintln!("peer: {error}");
                }
            })?);
        }
        drop(started);
        let within = Duration::from_secs(10);
        let listening = threads.iter().take_while(|_| listening.recv_timeout(within).is_ok()).count();
        drop(holder);
        if listening < threads.len() {
            Err(io::ErrorKind::AddrInUse.into())
        } else {
            Ok(Self { hub, threads, address })
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends all threads and with them all connections.
    pub fn stop(self) {
        self.hub.stop();
        for thread in self.threads {
            let _ = thread.join();
        }
    }

    /// Waits for ever.
    pub fn wait(self) {
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}
