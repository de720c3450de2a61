//! Proves that this host holds so many connections: opens them on loopback, both ends, and counts.
//!
//! As in the gateway, each server thread has a descriptor table of its own, a listener, and an epoll set; its clients are
//! another thread with another table. Clients have source addresses of their own (127.64.0.0/10), so that ports do not
//! bound them. Every connection costs the host its two ends, so this proves a little more than a server needs.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::coefficients::KERNEL_BYTES;
use super::facts::HostFacts;
use super::finding::{bytes, grouped};
use super::shards;
use crate::net::tables::{descriptors_per_table, take_private};

/// Connects that may be ahead of the accepts: within the smallest accept queue.
const AHEAD: usize = 64;

/// How long a connect to this same host may take.
const ANSWER: Duration = Duration::from_secs(5);

/// Local ports used of each source address: above the privileged ones.
const PORTS: std::ops::Range<u16> = 1024..65_000;

/// Stack of a thread: it keeps its sockets on the heap.
const STACK: usize = 256 * 1024;

/// The memory that both ends may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes.
    pub bytes: u64,
    /// Whose they are, to stand behind them: `is available`, or `is left to the control group (FILE)`.
    pub whose: String,
}

impl Room {
    /// What the host or the control group has left, whichever is less; none where neither says.
    #[must_use]
    pub fn of(facts: &HostFacts) -> Option<Self> {
        let host =
            facts.memory.available.known().map(|bytes| Self { bytes, whose: "is available".to_owned() });
        let group = facts.cgroup.memory.as_ref().map(|limit| Self {
            bytes: limit.left(),
            whose: format!("is left to the control group ({})", limit.file),
        });
        // At its limit the kernel kills the process.
        host.into_iter().chain(group).min_by_key(|room| room.bytes)
    }
}

/// What was held.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Held {
    /// Connections open at the same time.
    pub connections: u64,
    /// Descriptor tables on the server's side.
    pub tables: u64,
    /// Time to open them.
    pub took: Duration,
}

/// Why fewer were held.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Not tried, since the host would run out of memory.
    #[error(
        "{} connections need {} for both ends, and {} {}: try fewer, or make room",
        grouped(*.connections), bytes(*.needed), bytes(.room.bytes), .room.whose
    )]
    Memory {
        /// Wanted.
        connections: u64,
        /// Bytes of kernel memory.
        needed: u64,
        /// What there is.
        room: Room,
    },
    /// Not tried, since no number of shards suffices.
    #[error("1024 descriptor tables of {0} do not hold them: raise the limit of open files")]
    Tables(u64),
    /// A socket could not be opened.
    #[error("after {} connections: {source}; {}", grouped(*.held), advice(source))]
    Socket {
        /// Connections that were open.
        held: u64,
        /// Why not one more.
        source: io::Error,
    },
}

/// Which limit an error of a socket points at, as `doctor` names it.
fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::MFILE) => "the limit of open files of this process (doctor: descriptor-table)",
        Some(Errno::NFILE) => "the host's fs.file-max (doctor: file-max)",
        Some(Errno::NOSPC) => "fs.epoll.max_user_watches (doctor: epoll-watches)",
        Some(Errno::NOBUFS | Errno::NOMEM) => "memory of the kernel (doctor: memory, tcp-mem, cgroup-memory)",
        Some(Errno::NETUNREACH | Errno::ADDRNOTAVAIL) => "is the loopback device up (ip link set lo up)?",
        Some(Errno::INPROGRESS | Errno::TIMEDOUT) => {
            "connects are dropped: is the loopback device up (ip link set lo up)? Else see doctor: conntrack"
        }
        Some(Errno::AGAIN) => "threads (doctor: threads, cgroup-pids)",
        _ => "`millpond doctor` says more",
    }
}

/// Opens `connections` and closes them again. `room` is the memory that there is, where known.
///
/// # Errors
/// What the host could not do, and how far it came.
#[expect(clippy::disallowed_methods, reason = "how long it took is part of the answer")]
pub fn verify(connections: u64, cores: u64, room: Option<Room>) -> Result<Held, VerifyError> {
    let needed = (connections as f64 * 2.0 * KERNEL_BYTES.value) as u64;
    if let Some(room) = room
        && needed + needed / 20 > room.bytes
    {
        return Err(VerifyError::Memory { connections, needed, room });
    }
    let table = descriptors_per_table();
    let tables = shards::needed(connections, cores, table).ok_or(VerifyError::Tables(table))?;
    let start = Instant::now();
    let fleet = Fleet::open(connections, tables);
    let (held, failure) = fleet.count();
    let took = start.elapsed();
    fleet.close();
    match failure {
        None => Ok(Held { connections: held, tables, took }),
        Some(source) => Err(VerifyError::Socket { held, source }),
    }
}

/// All threads, holding what they opened until they are told to let go.
struct Fleet {
    threads: Vec<thread::JoinHandle<()>>,
    /// Dropped, it tells them.
    hold: Vec<Sender<()>>,
    reports: Receiver<Report>,
    failed_start: Option<io::Error>,
}

/// What one server thread holds, and why not more.
type Report = (u64, Option<io::Error>);

impl Fleet {
    fn open(connections: u64, tables: u64) -> Self {
        let (report, reports) = channel();
        let mut fleet = Self { threads: Vec::new(), hold: Vec::new(), reports, failed_start: None };
        for index in 0..tables {
            // The first ones take what does not divide.
            let share = connections / tables + u64::from(index < connections % tables);
            if let Err(error) = fleet.pair(index, share, &report) {
                fleet.failed_start = Some(error);
                break;
            }
        }
        fleet
    }

    /// A server and its clients.
    fn pair(&mut self, index: u64, share: u64, report: &Sender<Report>) -> io::Result<()> {
        let (address, addressed) = channel();
        let (connected, to_accept) = sync_channel(AHEAD);
        let (hold_server, held_server) = channel();
        let (hold_clients, held_clients) = channel();
        let report = report.clone();
        let server = spawn(move || {
            let mut sockets = Vec::new();
            let result = serve(&address, &to_accept, &mut sockets);
            // Nobody waits for an accept that will not come.
            drop(to_accept);
            let _ = report.send((sockets.len() as u64, result.err()));
            drop(report);
            wait(&held_server);
        })?;
        self.threads.push(server);
        self.hold.push(hold_server);
        let clients = spawn(move || {
            let mut sockets = Vec::new();
            if let Ok(address) = addressed.recv() {
                connect_all(index, share, address, &connected, &mut sockets);
            }
            drop(connected);
            wait(&held_clients);
        })?;
        self.threads.push(clients);
        self.hold.push(hold_clients);
        Ok(())
    }

    /// Waits until every server has what it will have.
    fn count(&self) -> (u64, Option<io::Error>) {
        let mut held = 0;
        let mut failure = None;
        for _ in 0..self.threads.len() / 2 {
            let Ok((count, error)) = self.reports.recv() else { break };
            held += count;
            failure = failure.or(error);
        }
        let failed_start = self.failed_start.as_ref().map(|error| io::Error::from(error.kind()));
        (held, failed_start.or(failure))
    }

    fn close(self) {
        drop(self.hold);
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

fn spawn(body: impl FnOnce() + Send + 'static) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name("verify".into()).stack_size(STACK).spawn(body)
}

/// Until the other end is dropped.
fn wait(held: &Receiver<()>) {
    let _ = held.recv();
}

/// What a client thread says: one more is connected, or why not.
type Connected = Result<(), io::Error>;

fn serve(
    address: &Sender<SocketAddr>,
    to_accept: &Receiver<Connected>,
    sockets: &mut Vec<(TcpStream, Option<OwnedFd>)>,
) -> io::Result<()> {
    // Where it is refused, all share one table, as the gateway's shards would.
    let _ = take_private();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let polled = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let _ = address.send(listener.local_addr()?);
    let result = accept_all(&listener, &polled, to_accept, sockets);
    if let Some(last) = sockets.last_mut() {
        // The set lives as long as its sockets.
        last.1 = Some(polled);
    }
    result
}

fn accept_all(
    listener: &TcpListener,
    polled: &OwnedFd,
    to_accept: &Receiver<Connected>,
    sockets: &mut Vec<(TcpStream, Option<OwnedFd>)>,
) -> io::Result<()> {
    while let Ok(connected) = to_accept.recv() {
        connected?;
        let (socket, _) = listener.accept()?;
        let events = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(polled, &socket, epoll::EventData::new_u64(0), events)?;
        sockets.push((socket, None));
    }
    Ok(())
}

fn connect_all(
    index: u64,
    share: u64,
    address: SocketAddr,
    connected: &SyncSender<Connected>,
    sockets: &mut Vec<Socket>,
) {
    let _ = take_private();
    let mut sources = sources(index);
    while (sockets.len() as u64) < share {
        let Some(source) = sources.next() else { break };
        let result = match connect(source, address) {
            // Somebody else has the port, or listens on it at all addresses.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => continue,
            Err(error) => Err(error),
            Ok(socket) => {
                sockets.push(socket);
                Ok(())
            }
        };
        let is_over = result.is_err();
        if connected.send(result).is_err() || is_over {
            break;
        }
    }
}

/// Addresses and ports of the clients of one table: a /20 of 127.64.0.0/10 each, which holds 4096 × 63,976.
fn sources(index: u64) -> impl Iterator<Item = SocketAddrV4> {
    let base = u32::from(Ipv4Addr::new(127, 64, 0, 0)) + ((index as u32) << 12);
    (1..4096)
        .flat_map(move |host| PORTS.map(move |port| SocketAddrV4::new(Ipv4Addr::from(base + host), port)))
}

fn connect(source: SocketAddrV4, address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // Closed by reset, so that no port stays behind in TIME_WAIT.
    socket.set_linger(Some(Duration::ZERO))?;
    // Bounds connect(2) as well (socket(7), SO_SNDTIMEO), which would try for two minutes.
    socket.set_write_timeout(Some(ANSWER))?;
    socket.bind(&source.into())?;
    socket.connect(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_opened_and_counted() {
        let held = verify(300, 2, None).unwrap();
        assert_eq!((held.connections, held.tables), (300, 2));
    }

    #[test]
    fn what_cannot_fit_is_not_tried() {
        let error = verify(1_000_000, 2, Some(Room { bytes: 1 << 30, whose: "is here".into() })).unwrap_err();
        assert!(matches!(error, VerifyError::Memory { .. }), "{error}");
        assert!(error.to_string().contains("need 8.1 GB for both ends, and 1.1 GB is here"), "{error}");
    }

    #[test]
    fn tables_have_clients_at_different_addresses() {
        let first = |index| sources(index).next().unwrap().ip().to_string();
        assert_eq!([first(0), first(1), first(1023)], ["127.64.0.1", "127.64.16.1", "127.127.240.1"]);
    }

    #[test]
    fn errors_point_at_their_limit() {
        let of = |errno: Errno| advice(&io::Error::from_raw_os_error(errno.raw_os_error()));
        assert!(of(Errno::MFILE).contains("descriptor-table"));
        assert!(of(Errno::NFILE).contains("file-max"));
        assert!(of(Errno::NOSPC).contains("epoll-watches"));
    }
}
