//! Bytes both ways between two sockets, until both have ended.
//!
//! Each way reads into a buffer of the thread and writes it out at once; only what the other side
//! does not take is held, and then nothing more is read. An idle connection so holds no memory, and
//! the buffer is warm in the cache. A way that keeps filling the whole buffer goes over to
//! `splice(2)`: the pages move through a pipe and are never copied out of the kernel; one that
//! calms down comes back.
//!
//! An end of one way is passed on, and the other way goes on until its own end.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

/// One read. Longer ones fill the cache without saving calls that matter.
const BUFFER: usize = 64 * 1024;
/// Full reads in a row after which a way splices.
const BUSY: u8 = 4;
/// What a pipe holds, and what one splice moves at most.
const PIPE: usize = 256 * 1024;
/// Splices in a row that moved less than a buffer, after which a way copies again.
const CALM: u8 = 8;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER]);
}

/// Carries bytes until both ways have ended, or nothing moved for `idle`.
pub(super) async fn relay(client: TcpStream, server: TcpStream, idle: Duration) -> io::Result<()> {
    let (mut client, mut server) = (client, server);
    let (mut up, mut down) = (Way::default(), Way::default());
    let mut deadline = Instant::now() + idle;
    let mut silence = pin!(sleep_until(deadline));
    let mut moved = 0;
    poll_fn(|context| {
        let ended = up.poll(&mut client, &mut server, context)?.is_ready();
        let also = down.poll(&mut server, &mut client, context)?.is_ready();
        if ended && also {
            return Poll::Ready(Ok(()));
        }
        // The clock is asked when the timer fires, and not for every byte.
        while silence.as_mut().poll(context).is_ready() {
            if up.moved + down.moved == moved {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            moved = up.moved + down.moved;
            deadline = Instant::now() + idle;
            silence.as_mut().reset(deadline);
        }
        Poll::Pending
    })
    .await
}

/// One direction.
#[derive(Debug, Default)]
struct Way {
    /// Read and not yet taken, from `at` on.
    held: Vec<u8>,
    at: usize,
    pipe: Option<Pipe>,
    /// Full reads, or small splices, in a row.
    streak: u8,
    no_more: bool,
    done: bool,
    moved: u64,
}

#[derive(Debug)]
struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
    holds: usize,
}

impl Way {
    /// Ready when the end has been passed on.
    fn poll(
        &mut self,
        from: &mut TcpStream,
        to: &mut TcpStream,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.done {
            ready!(self.flush(to, context))?;
            if self.no_more {
                self.done = true;
                // A peer that is gone altogether need not be told.
                let _ = socket2::SockRef::from(&*to).shutdown(std::net::Shutdown::Write);
                break;
            }
            if self.pipe.is_some() {
                ready!(self.splice_in(from, context))?;
            } else {
                ready!(self.copy(from, to, context))?;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what is held, in memory or in the pipe.
    fn flush(&mut self, to: &mut TcpStream, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.at < self.held.len() {
            let written = ready!(Pin::new(&mut *to).poll_write(context, &self.held[self.at..]))?;
            self.at += written;
        }
        if !self.held.is_empty() {
            (self.held, self.at) = (Vec::new(), 0);
        }
        while let Some(pipe) = self.pipe.as_mut().filter(|pipe| pipe.holds > 0) {
            ready!(to.poll_write_ready(context))?;
            let (out, holds) = (&pipe.out, pipe.holds);
            match to.try_io(Interest::WRITABLE, || spliced(out, &*to, holds)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => pipe.holds -= count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once and writes as much of it as is taken.
    fn copy(
        &mut self,
        from: &mut TcpStream,
        to: &mut TcpStream,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(from).poll_read(context, &mut buffer))?;
            let read = buffer.filled();
            self.no_more = read.is_empty();
            self.moved += read.len() as u64;
            self.streak = if read.len() == BUFFER { self.streak + 1 } else { 0 };
            let written = match Pin::new(to).poll_write(context, read) {
                _ if read.is_empty() => 0,
                Poll::Ready(written) => written?,
                Poll::Pending => 0,
            };
            self.held.extend_from_slice(&read[written..]);
            if self.streak >= BUSY {
                self.streak = 0;
                // Out of descriptors, it goes on copying.
                self.pipe = Pipe::new().ok();
            }
            Poll::Ready(Ok(()))
        })
    }

    /// Moves what is there into the empty pipe.
    fn splice_in(
        &mut self,
        from: &mut TcpStream,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(pipe) = self.pipe.as_mut() else { return Poll::Ready(Ok(())) };
        ready!(from.poll_read_ready(context))?;
        match from.try_io(Interest::READABLE, || spliced(&*from, &pipe.into, PIPE)) {
            Ok(0) => self.no_more = true,
            Ok(count) => {
                pipe.holds = count;
                self.moved += count as u64;
                self.streak = if count < BUFFER { self.streak + 1 } else { 0 };
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if self.streak >= CALM {
                    (self.pipe, self.streak) = (None, 0);
                }
            }
            Err(error) => return Poll::Ready(Err(error)),
        }
        Poll::Ready(Ok(()))
    }
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let (out, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // A user may have all the pages he may have: then it stays at its 64 KiB.
        let _ = fcntl_setpipe_size(&into, PIPE);
        Ok(Self { out, into, holds: 0 })
    }
}

fn spliced(
    from: &impl std::os::fd::AsFd,
    to: &impl std::os::fd::AsFd,
    most: usize,
) -> io::Result<usize> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    Ok(splice(from, None, to, None, most, flags)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    const SOON: Duration = Duration::from_secs(20);

    /// The two ends of a connection.
    async fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    /// The `length` bytes that `seed` stands for.
    fn bytes(seed: u8, length: usize) -> Vec<u8> {
        (0..length).map(|at| seed.wrapping_add((at / 251) as u8).wrapping_mul(at as u8)).collect()
    }

    #[tokio::test]
    async fn every_byte_arrives_both_ways_and_ends_are_passed_on() {
        for (up, down) in [(0, 0), (1, 100_000), (5, 20_000_000), (20_000_000, 20_000_000)] {
            let ((mut client, near), (far, mut server)) = (connection().await, connection().await);
            let relayed = relay(near, far, SOON);
            let asked = async {
                let (mut read, mut write) = client.split();
                let (sent, mut got) = (bytes(1, up), Vec::new());
                let writes = async {
                    write.write_all(&sent).await.unwrap();
                    write.shutdown().await.unwrap();
                };
                tokio::join!(writes, async { read.read_to_end(&mut got).await.unwrap() });
                assert!(got == bytes(2, down), "{up} {down}: {} came down", got.len());
            };
            let answered = async {
                let (mut read, mut write) = server.split();
                let mut got = Vec::new();
                let (sent, half) = (bytes(2, down), down / 2);
                let writes = async {
                    write.write_all(&sent[..half]).await.unwrap();
                    tokio::task::yield_now().await;
                    write.write_all(&sent[half..]).await.unwrap();
                    write.shutdown().await.unwrap();
                };
                tokio::join!(writes, async { read.read_to_end(&mut got).await.unwrap() });
                assert!(got == bytes(1, up), "{up} {down}: {} came up", got.len());
            };
            let all = async { tokio::join!(relayed, asked, answered).0 };
            timeout(SOON, all).await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn half_a_connection_goes_on() {
        let ((mut client, near), (far, mut server)) = (connection().await, connection().await);
        let talk = async {
            client.write_all(b"question").await.unwrap();
            client.shutdown().await.unwrap();
            let mut question = Vec::new();
            server.read_to_end(&mut question).await.unwrap();
            server.write_all(&question).await.unwrap();
            server.shutdown().await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let (relayed, answer) = tokio::join!(relay(near, far, SOON), timeout(SOON, talk));
        relayed.unwrap();
        assert_eq!(answer.unwrap(), "question");
    }

    #[tokio::test]
    async fn silence_ends_a_connection_and_talk_keeps_it() {
        let ((mut client, near), (far, mut server)) = (connection().await, connection().await);
        let idle = Duration::from_millis(200);
        let talk = async {
            for _ in 0..6 {
                tokio::time::sleep(idle / 2).await;
                client.write_all(b"x").await.unwrap();
                server.read_u8().await.unwrap();
            }
            Instant::now()
        };
        let (relayed, last) =
            timeout(SOON, async { tokio::join!(relay(near, far, idle), talk) }).await.unwrap();
        assert_eq!(relayed.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(last.elapsed() >= idle, "{:?}", last.elapsed());
    }
}
