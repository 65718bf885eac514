//! What each cluster is known to have, and the names made of all of them together.
//!
//! One name may span clusters: a Service of the same name and namespace has the addresses of all.

use std::sync::{Arc, Mutex, MutexGuard};

use crate::facts::{Facts, ZoneText};
use crate::zone::{self, Change, Current, Policies};

/// The clusters that are followed.
#[derive(Debug)]
pub(crate) struct Clusters {
    all: Mutex<zone::Clusters>,
    zone: Arc<Current>,
}

impl Clusters {
    /// Puts what is known of clusters already in force.
    pub(crate) fn new(all: zone::Clusters, zone: Arc<Current>) -> Self {
        zone.set_clusters(&all);
        Self { all: Mutex::new(all), zone }
    }

    /// Takes changes of the cluster of that number in, and puts them in force; whether there were
    /// any.
    pub(crate) fn apply(&self, number: usize, changes: Vec<Change>) -> bool {
        // Held until they are in force, or those of an earlier change could come last.
        let mut all = self.lock();
        let any = all.apply(number, changes);
        if any {
            self.zone.set_clusters(&all);
        }
        any
    }

    /// Puts all names in force under other policies, and with clusters at other sites.
    pub(crate) fn configure(&self, policies: Policies, sites: &[u8]) {
        let mut all = self.lock();
        if all.configure(policies, sites) {
            self.zone.set_clusters(&all);
        }
    }

    /// Keeps the text of a zone that is in force, or forgets it, for the next start.
    pub(crate) fn keep(&self, number: usize, key: &str, zone: Option<ZoneText>) {
        self.lock().keep(number, key, zone);
    }

    /// What the cluster of that number is known to have.
    pub(crate) fn facts(&self, number: usize) -> Facts {
        self.lock().facts(number).cloned().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, zone::Clusters> {
        self.all.lock().expect("no holder of the lock panics")
    }
}
