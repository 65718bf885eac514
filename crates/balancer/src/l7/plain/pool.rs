//! Connections to pods that wait for the next request.

use std::collections::HashMap;
use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

/// How long one waits at most.
const KEEP: Duration = Duration::from_secs(60);
/// How often those are looked for that waited too long or were closed.
const SWEEP: Duration = Duration::from_secs(5);
/// All together.
const MOST: usize = 1024;

#[derive(Debug, Default)]
pub(in crate::l7) struct Pool {
    idle: Mutex<HashMap<SocketAddrV4, Vec<Idle>>>,
    count: AtomicUsize,
}

#[derive(Debug)]
struct Idle {
    stream: TcpStream,
    since: Instant,
}

impl Idle {
    /// Nobody has said anything since: bytes would be an answer to nothing.
    fn is_quiet(&self) -> bool {
        self.stream.poll_read_ready(&mut Context::from_waker(Waker::noop())).is_pending()
    }
}

impl Pool {
    /// The connection to `address` that was used last.
    pub(super) fn take(&self, address: SocketAddrV4) -> Option<TcpStream> {
        let mut all = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = all.get_mut(&address)?;
        while let Some(last) = idle.pop() {
            self.count.fetch_sub(1, Ordering::Relaxed);
            if last.is_quiet() && last.since.elapsed() < KEEP {
                return Some(last.stream);
            }
        }
        None
    }

    /// Keeps `stream` for the next request to `address`, if there is room.
    pub(super) fn put(&self, address: SocketAddrV4, stream: TcpStream) {
        let idle = Idle { stream, since: Instant::now() };
        if self.count.load(Ordering::Relaxed) < MOST {
            let mut all = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry(address).or_default().push(idle);
            self.count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Closes what nobody will use, for ever.
    pub(in crate::l7) async fn keep_swept(&self) {
        let mut turn = tokio::time::interval(SWEEP);
        loop {
            turn.tick().await;
            self.sweep(KEEP);
        }
    }

    fn sweep(&self, keep: Duration) {
        let mut all = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, idle| {
            let before = idle.len();
            idle.retain(|one| one.since.elapsed() < keep && one.is_quiet());
            self.count.fetch_sub(before - idle.len(), Ordering::Relaxed);
            !idle.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    async fn pair() -> (SocketAddrV4, TcpStream, TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let SocketAddr::V4(address) = listener.local_addr().unwrap() else { unreachable!() };
        let stream = TcpStream::connect(address).await.unwrap();
        (address, stream, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn a_closed_connection_is_not_given_out() {
        let pool = Pool::default();
        let (address, stream, other) = pair().await;
        assert!(pool.take(address).is_none());
        pool.put(address, stream);
        let stream = pool.take(address).unwrap();
        drop(other);
        // The runtime has seen it.
        stream.readable().await.unwrap();
        pool.put(address, stream);
        assert!(pool.take(address).is_none());
        assert_eq!(pool.count.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn what_waited_too_long_is_closed() {
        let pool = Pool::default();
        let (address, stream, _other) = pair().await;
        pool.put(address, stream);
        pool.sweep(KEEP);
        assert_eq!(pool.count.load(Ordering::Relaxed), 1);
        pool.sweep(Duration::ZERO);
        assert_eq!(pool.count.load(Ordering::Relaxed), 0);
        assert!(pool.idle.lock().unwrap().is_empty());
    }
}
