//! One descriptor kept back, to tell a client that there are none left instead of leaving it in the backlog.

use std::fs::File;
use std::io::Write;
use std::net::TcpStream;

use mio::net::TcpListener;

const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 5\r\n\
    Content-Type: text/plain\r\nContent-Length: 5\r\n\r\nfull\n";

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

    /// Answers 503 and closes; the caller drops the socket.
    pub fn refuse(mut socket: &TcpStream) {
        let _ = socket.write(FULL);
        let _ = socket.shutdown(std::net::Shutdown::Write);
    }
}
