//! What one client may take of a process that serves many.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use berth_daemon::{Share, Shares};
use ipnet::IpNet;
use tokio::sync::Notify;

/// Requests that an HTTP/2 client may break off at once. A browser that leaves a page breaks off
/// what it still waits for, some dozens.
const RESETS: u64 = 200;
/// And so many more each second.
const RESETS_A_SECOND: u64 = 20;

/// How many connections each client has.
#[derive(Clone, Debug)]
pub(in crate::l7) struct Clients {
    open: Shares,
    most: usize,
    trusted: Arc<[IpNet]>,
}

impl Clients {
    pub(in crate::l7) fn new(most: usize, trusted: &[IpNet]) -> Self {
        Self { open: Shares::default(), most, trusted: trusted.into() }
    }

    /// A place for a connection of `client`; `None` when it has as many as it may.
    pub(super) fn enter(&self, client: IpAddr) -> Option<Share> {
        let trusted = self.trusted.iter().any(|net| net.contains(&client));
        self.open.take(client, if trusted { usize::MAX } else { self.most })
    }
}

/// Requests that HTTP/2 clients broke off ("rapid reset", CVE-2023-44487): each is quickly made
/// and costs a backend a request, and none counts as open any more.
#[derive(Clone, Debug, Default)]
pub(in crate::l7) struct Resets(Arc<Mutex<HashMap<SocketAddr, Arc<Counted>>>>);

#[derive(Debug)]
struct Counted {
    since: Instant,
    resets: AtomicU64,
    over: Notify,
}

impl Resets {
    /// Counts for the connection of `peer` until what is returned is dropped.
    pub(super) fn watch(&self, peer: SocketAddr) -> Watched {
        let counted = Arc::new(Counted {
            since: Instant::now(),
            resets: AtomicU64::new(0),
            over: Notify::new(),
        });
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(peer, counted.clone());
        Watched { all: self.clone(), peer, counted }
    }

    /// A request of `peer` was broken off by it.
    pub(in crate::l7) fn count(&self, peer: Option<SocketAddr>) {
        let Some(peer) = peer else { return };
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(counted) = all.get(&peer) else { return };
        let resets = counted.resets.fetch_add(1, Ordering::Relaxed) + 1;
        if resets > RESETS + RESETS_A_SECOND * counted.since.elapsed().as_secs() {
            counted.over.notify_one();
        }
    }
}

/// One connection's.
#[derive(Debug)]
pub(super) struct Watched {
    all: Resets,
    peer: SocketAddr,
    counted: Arc<Counted>,
}

impl Watched {
    /// Resolves when there were too many.
    pub(super) async fn too_many(&self) {
        self.counted.over.notified().await;
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.all.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_its_share_and_gets_it_back() {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let clients = Clients::new(2, &trusted);
        let (one, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let first = clients.enter(one).unwrap();
        let _second = clients.enter(one).unwrap();
        assert!(clients.enter(one).is_none());
        assert!(clients.enter(other).is_some());
        let proxy = "10.0.0.1".parse().unwrap();
        let _many: Vec<_> = (0..5).map(|_| clients.enter(proxy).unwrap()).collect();
        drop(first);
        assert!(clients.enter(one).is_some());
        assert_eq!(clients.open.clients(), 2, "who left is forgotten");
    }
}
