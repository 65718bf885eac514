//! Connections to pods for requests that switch protocols (WebSocket).
//!
//! Pingora 0.9 ends such a connection when the pod's `101` is read before the proxy has noted that
//! the request has no body (its issue 946): both wait at once, and one is taken at random. On a
//! busy machine a quick pod loses a connection in three. Here the answer is held back for a few
//! turns of the task after each write, so that the note always comes first.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use pingora::connectors::L4Connect;
use pingora::prelude::{Error, ErrorType, Result};
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The note takes one turn, two when the task has used up its share of the thread.
const TURNS: u8 = 3;

/// Connects as Pingora would, to sockets that let the request go first.
#[derive(Debug)]
pub(super) struct RequestFirst {
    pub(super) timeout: Duration,
}

#[async_trait]
impl L4Connect for RequestFirst {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        let stream = connect(address, self.timeout).await?;
        Ok(VirtualSocketStream::new(Box::new(Socket::new(stream))).into())
    }
}

/// A connection to a pod, with the errors that Pingora has for one that cannot be had.
pub(super) async fn connect(address: &SocketAddr, timeout: Duration) -> Result<TcpStream> {
    let Some(address) = address.as_inet() else {
        return Error::e_explain(ErrorType::ConnectError, "pods have IP addresses");
    };
    match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => {
            let _ = stream.set_nodelay(true);
            Ok(stream)
        }
        Ok(Err(error)) => Err(Error::because(connect_error(&error), "connect to the pod", error)),
        Err(_) => Error::e_explain(ErrorType::ConnectTimedout, "connect to the pod"),
    }
}

pub(super) fn connect_error(error: &io::Error) -> ErrorType {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            ErrorType::ConnectNoRoute
        }
        _ => ErrorType::ConnectError,
    }
}

#[derive(Debug)]
pub(super) struct Socket<S> {
    stream: S,
    /// How often a read still has to wait.
    turns: u8,
}

impl<S> Socket<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, turns: 0 }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + Sync + std::fmt::Debug> VirtualSocket
    for Socket<S>
{
    /// What matters was set when it was connected.
    fn set_socket_option(&self, _option: VirtualSockOpt) -> io::Result<()> {
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.turns > 0 {
            self.turns -= 1;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes));
        self.turns = TURNS;
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
