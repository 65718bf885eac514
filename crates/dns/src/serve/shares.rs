//! Places for connections, and how many of them one client may have.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

/// Counts connections by client: an address, of IPv6 the /64 that a client commonly has whole.
#[derive(Debug)]
pub(super) struct Shares {
    taken: Mutex<HashMap<IpAddr, usize>>,
    most: usize,
}

/// One place; free again when this is dropped.
#[derive(Debug)]
pub(super) struct Share {
    of: Arc<Shares>,
    client: IpAddr,
}

impl Shares {
    /// At most `most` for each client.
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { taken: Mutex::default(), most })
    }

    /// A place for `client`; `None` where it has its share.
    pub(super) fn take(self: &Arc<Self>, client: IpAddr) -> Option<Share> {
        let client = network(client);
        let mut taken = self.lock();
        let count = taken.entry(client).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Share { of: Arc::clone(self), client })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.taken.lock().expect("no holder of the lock panics")
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Entry::Occupied(mut entry) = self.of.lock().entry(self.client) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_its_share_and_gets_it_back() {
        let shares = Shares::new(2);
        let take = |client: &str| shares.take(client.parse().expect("an address"));
        let held = [take("192.0.2.1"), take("::ffff:192.0.2.1")];
        assert!(held.iter().all(Option::is_some));
        assert!(take("192.0.2.1").is_none());
        let theirs = [take("2001:db8::1"), take("2001:db8::2")];
        assert!(theirs.iter().all(Option::is_some));
        assert!(take("2001:db8::3").is_none() && take("2001:db8:0:1::3").is_some());
        drop((held, theirs));
        assert!(shares.lock().is_empty() && take("192.0.2.1").is_some());
    }
}
