//! A client's socket that does not give more of a header than there may be of one, and sends a
//! short answer in one piece.
//!
//! Pingora reads a header of up to a mebibyte into memory. Thousands of clients that send such
//! headers slowly would take gigabytes; here each has 64 KiB. What comes in their place is no HTTP,
//! so the request is refused like any other that is malformed.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use tokio::io::{AsyncRead, AsyncWrite, BufWriter, ReadBuf};
use tokio::net::TcpStream;

/// The most that is read before a header is complete: twice the longest header that is taken, so
/// that one a little too long gets its own status, and what TLS adds has room.
const MOST: usize = 2 * crate::l7::proxy::LONGEST_HEADER;
/// An answer's header waits for so much of its body: Pingora flushes what ends, and what has no
/// length. Each piece less is a system call less here, and a packet less to the client.
const PIECE: usize = 4096;
/// Ends a request line, or a header, and is none.
const NO_HTTP: &[u8] = b"\r\n\0\r\n";

/// Whether a request's header has arrived; set by the proxy once it is read.
#[derive(Clone, Debug, Default)]
pub(in crate::l7) struct HeaderSeen(Arc<State>);

#[derive(Debug, Default)]
struct State {
    seen: AtomicBool,
    read: AtomicUsize,
}

impl HeaderSeen {
    pub(in crate::l7) fn set(&self) {
        self.0.seen.store(true, Ordering::Relaxed);
    }

    /// The next request of the connection begins.
    pub(super) fn begin(&self) {
        self.0.seen.store(false, Ordering::Relaxed);
        self.0.read.store(0, Ordering::Relaxed);
    }

    /// Resolves after `limit`, unless the header was seen by then.
    pub(super) async fn is_late(&self, limit: Duration) {
        tokio::time::sleep(limit).await;
        if self.0.seen.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }
}

#[derive(Debug)]
pub(super) struct Guarded {
    stream: BufWriter<TcpStream>,
    header: HeaderSeen,
}

impl Guarded {
    pub(super) fn new(stream: TcpStream, header: HeaderSeen) -> Self {
        Self { stream: BufWriter::with_capacity(PIECE, stream), header }
    }
}

impl From<Guarded> for Stream {
    fn from(guarded: Guarded) -> Self {
        VirtualSocketStream::new(Box::new(guarded)).into()
    }
}

impl VirtualSocket for Guarded {
    fn set_socket_option(&self, option: VirtualSockOpt) -> io::Result<()> {
        match option {
            VirtualSockOpt::NoDelay => self.stream.get_ref().set_nodelay(true),
            _ => Ok(()),
        }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let header = &self.header.0;
        if header.seen.load(Ordering::Relaxed) {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        if header.read.load(Ordering::Relaxed) > MOST {
            let length = NO_HTTP.len().min(buffer.remaining());
            buffer.put_slice(&NO_HTTP[..length]);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        let read = buffer.filled().len() - before;
        self.header.0.read.fetch_add(read, Ordering::Relaxed);
        polled
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
