//! What a worker counts while it runs, for others to look at, and why connections failed.
//!
//! Every counter has one writer, its worker, so that counting is a plain load and store.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::ws::FrameFault;

/// One number with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `more`. Only the owning worker may call this.
    pub fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    /// Takes `less` off. Only the owning worker may call this.
    pub fn sub(&self, less: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(less), Ordering::Relaxed);
    }

    /// The present value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// The counters of one worker, on cache lines of their own.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct Counters {
            $($(#[$doc])* pub $name: Counter,)*
            /// Why connections failed or were lost.
            pub reasons: Mutex<Reasons>,
        }

        /// The sum of all workers' counters at one moment.
        #[derive(Debug, Default, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[serde(default)]
        pub struct Totals {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Totals {
            /// Adds what one worker has counted.
            pub fn add(&mut self, counters: &Counters) {
                $(self.$name = self.$name.wrapping_add(counters.$name.get());)*
            }

            /// What has been counted since `earlier`. Gauges may come out as differences too.
            #[must_use]
            pub fn since(&self, earlier: &Self) -> Self {
                Self { $($name: self.$name.wrapping_sub(earlier.$name),)* }
            }
        }
    };
}

counters! {
    /// Connections begun.
    started,
    /// Connections in the middle of their handshake (a gauge).
    pending,
    /// Connections that are ready (a gauge).
    ready,
    /// Connections that became ready, ever.
    became_ready,
    /// Connections that ended before they were ready.
    failed,
    /// Connections that ended after they were ready, and not by our doing.
    lost,
    /// Connections that we closed on purpose.
    dropped,
    /// Connections that we closed on purpose and that are not back yet (a gauge).
    away,
    /// Pings read.
    pings,
    /// Deliveries read that carry a mark of this run.
    deliveries,
    /// Deliveries of another run, or of a channel the client is not in.
    strays,
    /// Messages that were not well-formed.
    malformed,
    /// Joins read.
    joins,
    /// Leaves read.
    leaves,
    /// Subscriptions that the server ended.
    unsubscribed,
    /// Error replies to commands after the opening.
    errors,
    /// Replies to commands after the opening.
    replies,
    /// Commands that clients sent after the opening.
    commands,
    /// Subscriptions that came back with everything recovered.
    recovered,
    /// Subscriptions that asked for recovery and did not get it.
    unrecovered,
    /// Bytes read.
    bytes_in,
    /// Bytes written.
    bytes_out,
}

/// How often each reason occurred.
pub type Reasons = BTreeMap<Reason, u64>;

impl Counters {
    /// Notes a reason.
    pub fn note(&self, reason: Reason) {
        if let Ok(mut reasons) = self.reasons.lock() {
            *reasons.entry(reason).or_insert(0) += 1;
        }
    }
}

/// Why a connection failed or was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Nobody listens.
    Refused,
    /// No port is left for this source and destination.
    NoPort,
    /// The descriptor table of the worker is full.
    NoDescriptor,
    /// No route, or no such source address here.
    Unreachable,
    /// The handshake was not done in time.
    TimedOut,
    /// The peer reset the connection.
    Reset,
    /// The peer closed without a goodbye.
    Eof,
    /// Another error of the operating system.
    System(i32),
    /// The upgrade was answered with this status.
    Status(u16),
    /// The upgrade was answered with something else than HTTP, or the wrong key or subprotocol.
    BadUpgrade,
    /// The server broke the framing rules.
    Frame(FrameFault),
    /// A message was not well-formed.
    Malformed,
    /// A command of the opening was answered with this error code.
    ErrorReply(u32),
    /// The server closed with this code; 1005 if it gave none.
    Closed(u16),
    /// The connect reply names no personal channel.
    NoPersonalChannel,
    /// A token could not be signed.
    Token,
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => out.write_str("connection refused"),
            Self::NoPort => out.write_str("no free port for this source and destination"),
            Self::NoDescriptor => out.write_str("descriptor table of the generator full"),
            Self::Unreachable => out.write_str("address not available or unreachable"),
            Self::TimedOut => out.write_str("handshake timed out"),
            Self::Reset => out.write_str("connection reset"),
            Self::Eof => out.write_str("closed without a close frame"),
            Self::System(code) => write!(out, "{}", io::Error::from_raw_os_error(*code)),
            Self::Status(status) => write!(out, "HTTP status {status}"),
            Self::BadUpgrade => out.write_str("upgrade answered wrongly"),
            Self::Frame(fault) => write!(out, "{fault}"),
            Self::Malformed => out.write_str("malformed message"),
            Self::ErrorReply(code) => write!(out, "error reply {code}"),
            Self::Closed(code) => write!(out, "close code {code}"),
            Self::NoPersonalChannel => out.write_str("no personal subscription in the connect reply"),
            Self::Token => out.write_str("token could not be signed"),
        }
    }
}

impl From<FrameFault> for Reason {
    fn from(fault: FrameFault) -> Self {
        Self::Frame(fault)
    }
}

impl From<io::Error> for Reason {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => return Self::Refused,
            io::ErrorKind::TimedOut => return Self::TimedOut,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => return Self::Reset,
            io::ErrorKind::AddrInUse => return Self::NoPort,
            _ => {}
        }
        match error.raw_os_error() {
            Some(libc::EADDRNOTAVAIL) => Self::NoPort,
            Some(libc::EMFILE | libc::ENFILE) => Self::NoDescriptor,
            Some(libc::ENETUNREACH | libc::EHOSTUNREACH) => Self::Unreachable,
            Some(code) => Self::System(code),
            None => Self::Eof,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_add_up_and_differ() {
        let counters = Counters::default();
        counters.started.add(3);
        counters.ready.add(2);
        counters.ready.sub(1);
        let mut totals = Totals::default();
        totals.add(&counters);
        totals.add(&counters);
        assert_eq!((totals.started, totals.ready), (6, 2));
        assert_eq!(totals.since(&Totals { started: 1, ..Totals::default() }).started, 5);
    }

    #[test]
    fn errors_of_the_system_have_names() {
        let reason = |code| Reason::from(io::Error::from_raw_os_error(code));
        assert_eq!(reason(libc::EMFILE), Reason::NoDescriptor);
        assert_eq!(reason(libc::EADDRNOTAVAIL), Reason::NoPort);
        assert_eq!(reason(libc::ECONNREFUSED), Reason::Refused);
        assert_eq!(reason(libc::ENOMEM), Reason::System(libc::ENOMEM));
    }
}
