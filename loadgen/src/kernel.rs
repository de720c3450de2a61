//! The few system calls that no safe library offers. The only file of the generator with `unsafe`.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

/// `IP_BIND_ADDRESS_NO_PORT`, of `linux/in.h`.
const IP_BIND_ADDRESS_NO_PORT: libc::c_int = 24;

/// Gives the calling thread a descriptor table of its own, a copy of the present one.
///
/// Descriptors made before stay valid in both tables; those made after belong to this thread alone. `RLIMIT_NOFILE`
/// then bounds this thread, not the process.
///
/// # Errors
/// What `unshare(2)` answers: `ENOMEM`, or `EPERM` under a seccomp filter.
pub fn unshare_descriptors() -> io::Result<()> {
    // SAFETY: unshare takes no pointers. Every descriptor a worker owns is made after this call, by the same thread.
    check(unsafe { libc::unshare(libc::CLONE_FILES) })
}

/// Soft and hard limit of open descriptors per table.
#[must_use]
pub fn descriptor_limits() -> (u64, u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit that outlives the call.
    match check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }) {
        Ok(()) => (limit.rlim_cur, limit.rlim_max),
        Err(_) => (1024, 1024),
    }
}

/// Lifts the soft descriptor limit to the hard one, which any process may do, and returns it.
#[must_use]
pub fn lift_descriptor_limit() -> u64 {
    let (soft, hard) = descriptor_limits();
    let limit = libc::rlimit { rlim_cur: hard, rlim_max: hard };
    // SAFETY: `limit` is a valid rlimit that outlives the call.
    match check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }) {
        Ok(()) => hard,
        Err(_) => soft,
    }
}

/// Lets a later `bind` to port 0 leave the port open until `connect`, so that ports are unique per four-tuple and not
/// per source address.
///
/// # Errors
/// What `setsockopt(2)` answers.
pub fn bind_port_at_connect(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option value is one c_int, whose address and size are handed over; the descriptor is borrowed.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    })
}

/// CPU time that the calling thread has used.
#[must_use]
pub fn thread_cpu() -> Duration {
    cpu_clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// CPU time that the whole process has used.
#[must_use]
pub fn process_cpu() -> Duration {
    cpu_clock(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// Kernel id of the calling thread, as under `/proc/self/task`.
#[must_use]
pub fn thread_id() -> i32 {
    // SAFETY: gettid takes nothing and cannot fail.
    unsafe { libc::gettid() }
}

/// Clock ticks per second in which `/proc/PID/stat` counts CPU time.
#[must_use]
pub fn ticks_per_second() -> u64 {
    // SAFETY: sysconf takes a number and returns one.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u64::try_from(ticks).ok().filter(|&ticks| ticks > 0).unwrap_or(100)
}

/// Whether the user has asked to stop.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Lets the first interrupt or SIGTERM end the present phase early, with a report of what was; a second one ends the
/// process.
pub fn catch_interrupt() {
    extern "C" fn note(_: libc::c_int) {
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    let handler: extern "C" fn(libc::c_int) = note;
    // SAFETY: an all-zero sigaction is a valid one: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as usize;
    action.sa_flags = libc::SA_RESTART | libc::SA_RESETHAND;
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: `action` is valid and outlives the call; the handler does nothing but store to an atomic.
        let _ = check(unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) });
    }
}

/// Whether the user has asked to stop.
#[must_use]
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// A timer with the precision of the kernel's; a poller alone counts in whole milliseconds.
pub struct Timer {
    descriptor: OwnedFd,
}

impl Timer {
    /// A timer that raises events under `token`.
    ///
    /// # Errors
    /// What the kernel answers, such as a full descriptor table.
    pub fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        // SAFETY: timerfd_create takes no pointers.
        let raw =
            unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor, and nobody else owns it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(raw) };
        registry.register(&mut SourceFd(&raw), token, Interest::READABLE)?;
        Ok(Self { descriptor })
    }

    /// Lets the timer fire once, after `delay`, and not at any time set before.
    ///
    /// # Errors
    /// What `timerfd_settime(2)` answers.
    pub fn set(&self, delay: Duration) -> io::Result<()> {
        let delay = delay.max(Duration::from_nanos(1));
        let value = libc::timespec {
            tv_sec: i64::try_from(delay.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(delay.subsec_nanos()),
        };
        let once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let setting = libc::itimerspec { it_interval: once, it_value: value };
        // SAFETY: `setting` is a valid itimerspec that outlives the call, and no old value is asked for.
        check(unsafe {
            libc::timerfd_settime(self.descriptor.as_raw_fd(), 0, &raw const setting, std::ptr::null_mut())
        })
    }

    /// Takes note of having fired.
    pub fn clear(&self) {
        let mut fired = 0_u64;
        // SAFETY: eight bytes of a local are handed over, as a timer wants them. That nothing was to be read is no fault.
        let _ = unsafe { libc::read(self.descriptor.as_raw_fd(), (&raw mut fired).cast(), size_of::<u64>()) };
    }
}

fn cpu_clock(id: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec that outlives the call.
    match check(unsafe { libc::clock_gettime(id, &raw mut time) }) {
        Ok(()) => {
            Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
        }
        Err(_) => Duration::ZERO,
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
