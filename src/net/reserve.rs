//! One descriptor kept back, to tell a client that there are none left instead of leaving it in the backlog.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;

use mio::net::TcpListener;

const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 5\r\n\
    Content-Type: text/plain\r\nContent-Length: 5\r\n\r\nfull\n";

/// Reads of a request that is refused: 16 KiB, twice the largest head that would be let in.
const REQUEST_READS: usize = 4;

/// The descriptor.
#[derive(Debug)]
pub struct Reserve {
    file: Option<File>,
}

impl Reserve {
    /// Takes a descriptor, if there is one.
    #[must_use]
    pub fn open() -> Self {
        Self { file: File::open("/dev/null").ok() }
    }

    /// Frees the reserve, accepts one connection with it, refuses that, and takes the reserve again.
    pub fn refuse_one(&mut self, listener: &TcpListener) {
        self.file = None;
        if let Ok((socket, _)) = listener.accept() {
            Self::refuse(&TcpStream::from(socket));
        }
        *self = Self::open();
    }

    /// Answers 503 and closes; the caller drops the socket, which does not wait. What has come is read first: closing a
    /// socket with unread bytes sends RST, and that would take the answer from the client.
    pub fn refuse(mut socket: &TcpStream) {
        let _ = socket.write(FULL);
        let _ = socket.shutdown(std::net::Shutdown::Write);
        let mut discarded = [0; 4096];
        for _ in 0..REQUEST_READS {
            match socket.read(&mut discarded) {
                Ok(count) if count > 0 => {}
                _ => return,
            }
        }
    }
}
