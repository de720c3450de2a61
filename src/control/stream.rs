//! A client's socket as the control plane serves it: the bytes a shard has already read come first, a peer that reads
//! nothing is given up, and a close waits for the peer's, so that the answer is not lost to a reset.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

/// How long a closed connection may go on sending what nobody wants any more.
const LINGER: Duration = Duration::from_secs(2);
/// Bytes thrown away at a time.
const DISCARD_BYTES: usize = 16 * 1024;

/// The stream.
pub(crate) struct GuardedStream {
    socket: TcpStream,
    already_read: Bytes,
    write_stall: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    closing: bool,
}

impl GuardedStream {
    pub(crate) fn new(socket: TcpStream, already_read: Bytes, write_stall: Duration) -> Self {
        Self { socket, already_read, write_stall, timer: None, closing: false }
    }

    /// Passes a finished write on; a pending one runs against the timer.
    fn watch<T>(&mut self, context: &mut Context<'_>, write: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if write.is_ready() {
            self.timer = None;
            return write;
        }
        let stall = self.write_stall;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(stall)));
        ready!(timer.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for GuardedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.already_read.is_empty() {
            return Pin::new(&mut self.socket).poll_read(context, into);
        }
        let length = self.already_read.len().min(into.remaining());
        into.put_slice(&self.already_read[..length]);
        self.already_read.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for GuardedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.watch(context, write)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.socket).poll_write_vectored(context, slices);
        self.watch(context, write)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flush = Pin::new(&mut self.socket).poll_flush(context);
        self.watch(context, flush)
    }

    /// Half-closes, then discards what still comes, until the peer closes too or its time is up.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closing {
            ready!(Pin::new(&mut self.socket).poll_shutdown(context))?;
            self.closing = true;
            self.timer = Some(Box::pin(sleep(LINGER)));
        }
        if self.timer.as_mut().is_some_and(|timer| timer.as_mut().poll(context).is_ready()) {
            return Poll::Ready(Ok(()));
        }
        let mut waste = [0; DISCARD_BYTES];
        loop {
            let mut into = ReadBuf::new(&mut waste);
            ready!(Pin::new(&mut self.socket).poll_read(context, &mut into))?;
            if into.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}
