//! How many places each client of a server has.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts places by client, so that nobody keeps all others out. Who counts as one is the caller's
/// to say: an address, or the network of one.
#[derive(Clone, Debug, Default)]
pub struct Shares(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One place; free again when this is dropped.
#[derive(Debug)]
pub struct Share {
    of: Shares,
    client: IpAddr,
}

impl Shares {
    /// A place for `client`; `None` where it has `most` already.
    pub fn take(&self, client: IpAddr, most: usize) -> Option<Share> {
        let mut taken = self.lock();
        let count = taken.entry(client).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Share { of: self.clone(), client })
    }

    /// How many clients have a place; who left is forgotten.
    pub fn clients(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_its_share_and_gets_it_back() {
        let (shares, here, there) = (Shares::default(), [127, 0, 0, 1], [127, 0, 0, 2]);
        let taken: Vec<_> = (0..3).map_while(|_| shares.take(here.into(), 3)).collect();
        assert_eq!(taken.len(), 3);
        assert!(shares.take(here.into(), 3).is_none());
        assert!(shares.take(there.into(), 3).is_some());
        assert_eq!(shares.clients(), 1, "who is gone is forgotten");
        drop(taken);
        assert!(shares.clients() == 0 && shares.take(here.into(), 3).is_some());
    }
}
