//! Who holds how many connections, and which of them are idle.
//!
//! A connection costs its opener nothing, so a client without any rights could hold all there are
//! and lock everybody else out. One address gets half at most, and what is idle is ended.
//!
//! # Source
//! The idle time is that of Kubernetes' API server.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::respond::{Body, BodyError};

const ALL: usize = 4096;
const OF_ONE_ADDRESS: usize = ALL / 2;
/// After which an idle connection ends.
pub(super) const IDLE: Duration = Duration::from_secs(90);

/// The places for connections.
#[derive(Clone)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    held: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Default for Places {
    fn default() -> Self {
        Self { free: Arc::new(Semaphore::new(ALL)), held: Arc::default() }
    }
}

/// One of them, given back when dropped.
pub(super) struct Place {
    places: Places,
    address: IpAddr,
    _permit: OwnedSemaphorePermit,
}

impl Places {
    /// Waits until there is one at all.
    pub(super) async fn any(&self) -> Option<OwnedSemaphorePermit> {
        self.free.clone().acquire_owned().await.ok()
    }

    /// A place for this address; none when it holds its share already.
    pub(super) fn take(&self, address: IpAddr, permit: OwnedSemaphorePermit) -> Option<Place> {
        let mut held = self.held.lock().expect("nothing panics while holding it");
        let own = held.entry(address).or_default();
        if *own >= OF_ONE_ADDRESS {
            return None;
        }
        *own += 1;
        Some(Place { places: self.clone(), address, _permit: permit })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.places.held.lock().expect("nothing panics while holding it");
        if let Some(own) = held.get_mut(&self.address) {
            *own -= 1;
            if *own == 0 {
                held.remove(&self.address);
            }
        }
    }
}

/// The requests of a connection.
#[derive(Clone, Default)]
pub(super) struct Activity {
    begun: Arc<AtomicU64>,
    open: Arc<()>,
}

impl Activity {
    /// A request begins; it is open until its answer's body is dropped.
    pub(super) fn begin(&self) -> Arc<()> {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.open.clone()
    }

    /// Waits until nothing was asked for `time` and nothing is being answered. `copies` is how
    /// many of this one there are.
    pub(super) async fn idle(&self, time: Duration, copies: usize) {
        let mut before = None;
        loop {
            let now = self.begun.load(Ordering::Relaxed);
            if before == Some(now) && Arc::strong_count(&self.open) <= copies {
                return;
            }
            before = Some(now);
            tokio::time::sleep(time).await;
        }
    }
}

/// An answer's body that keeps its request open.
pub(super) struct Answer {
    pub(super) body: Body,
    pub(super) _open: Arc<()>,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[tokio::test]
    async fn one_address_gets_half_and_gives_it_back() {
        let places = Places::default();
        let (greedy, other) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from([10, 0, 0, 1]));
        let mut held = Vec::new();
        for _ in 0..OF_ONE_ADDRESS {
            let permit = places.any().await.unwrap();
            held.push(places.take(greedy, permit).unwrap());
        }
        let permit = places.any().await.unwrap();
        assert!(places.take(greedy, permit).is_none());
        let permit = places.any().await.unwrap();
        assert!(places.take(other, permit).is_some());
        held.pop();
        let permit = places.any().await.unwrap();
        assert!(places.take(greedy, permit).is_some());
    }

    #[tokio::test]
    async fn a_connection_is_idle_when_nothing_is_asked_or_answered() {
        let (activity, time) = (Activity::default(), Duration::from_millis(5));
        let copy = activity.clone();
        let watch = activity.begin();
        assert!(tokio::time::timeout(time * 20, activity.idle(time, 2)).await.is_err());
        drop(watch);
        tokio::time::timeout(Duration::from_secs(10), activity.idle(time, 2)).await.unwrap();
        drop(copy);
    }
}
