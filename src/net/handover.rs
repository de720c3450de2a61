//! Passing a client's socket to the control plane: the sending half, used by a shard.
//!
//! Shards have private descriptor tables, so a descriptor number means nothing on another thread. The socket itself
//! travels over a Unix `SOCK_SEQPACKET` pair as `SCM_RIGHTS`, in one datagram with the bytes the shard has read from
//! it. Invariants:
//! * The pair is made before any shard takes its private table, so that its numbers are valid in every table.
//! * Sending never blocks. Where the kernel's buffer is full the shard refuses the request itself.
//! * The shard still owns its own descriptor afterwards. It must take it out of its poller **before** closing it: the
//!   control plane holds the same open file, so the poller would go on reporting it.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg,
    socketpair, sockopt,
};

/// Most bytes that may accompany a socket: a request head (8 KiB) and as much of the body as one read of the shard
/// can have brought. Below the default bound of a socket buffer (212,992 B), which holds the whole datagram.
pub const ALREADY_READ_MAX: usize = 128 * 1024;

/// Kernel buffer asked for; the kernel clips it to `net.core.wmem_max`.
const SEND_BUFFER_BYTES: usize = 1024 * 1024;

/// The shard's end of the pair.
#[derive(Debug)]
pub struct HandoverSender {
    socket: OwnedFd,
}

/// Makes a pair; the second half is for `control::handover::HandoverReceiver`.
///
/// # Errors
/// Those of `socketpair(2)`, mostly too many descriptors.
pub fn handover_pair() -> io::Result<(HandoverSender, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (sender, receiver) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    sockopt::set_socket_send_buffer_size(&sender, SEND_BUFFER_BYTES)?;
    Ok((HandoverSender { socket: sender }, receiver))
}

impl HandoverSender {
    /// Sends `socket` with the bytes already read from it. The caller keeps (and closes) its own descriptor.
    ///
    /// # Errors
    /// `WouldBlock` when the control plane is behind (answer 503), `InvalidInput` for more than [`ALREADY_READ_MAX`]
    /// bytes (answer 413), `BrokenPipe` when the control plane is gone.
    pub fn send(&self, socket: BorrowedFd<'_>, already_read: &[u8]) -> io::Result<()> {
        if already_read.len() > ALREADY_READ_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let rights = [socket];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&rights)) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        sendmsg(self.socket.as_fd(), &[IoSlice::new(already_read)], &mut control, flags)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_more_bytes_than_a_datagram_holds() {
        let (sender, receiver) = handover_pair().unwrap();
        let error = sender.send(receiver.as_fd(), &vec![0; ALREADY_READ_MAX + 1]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        sender.send(receiver.as_fd(), &vec![0; ALREADY_READ_MAX]).unwrap();
    }

    #[test]
    fn a_full_queue_is_would_block_and_never_waits() {
        let (sender, receiver) = handover_pair().unwrap();
        let error = (0..100_000).find_map(|_| sender.send(receiver.as_fd(), b"GET / HTTP/1.1\r\n\r\n").err());
        assert_eq!(error.unwrap().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_missing_control_plane_is_an_error() {
        let (sender, receiver) = handover_pair().unwrap();
        drop(receiver);
        let error = sender.send(sender.socket.as_fd(), b"x").unwrap_err();
        assert!(
            matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset),
            "{error:?}"
        );
    }
}
