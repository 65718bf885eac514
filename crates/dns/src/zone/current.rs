//! What is in force, shared by all who answer and exchanged as a whole.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use super::{Found, Zone};

/// The names of clusters and those of zone files, built apart: an endpoint that comes or goes must
/// not cost what a million written names cost.
#[derive(Clone, Debug)]
pub(crate) struct Layers {
    pub clusters: Arc<Zone>,
    pub files: Arc<Zone>,
}

impl Layers {
    /// Without any name.
    pub(crate) fn empty() -> Self {
        let none = Arc::new(Zone::build(super::Sources::default()));
        Self { clusters: Arc::clone(&none), files: none }
    }

    /// [`Zone::find`], the clusters first: no zone of a file lies below a cluster's domain.
    pub(crate) fn find(&self, name: &[u8], kind: u16) -> Found<'_> {
        match self.clusters.find(name, kind) {
            Found::Foreign => self.files.find(name, kind),
            found => found,
        }
    }

    /// How many names there are.
    pub(crate) fn len(&self) -> usize {
        self.clusters.len() + self.files.len()
    }
}

/// The layers in force.
#[derive(Debug)]
pub(crate) struct Current {
    layers: RwLock<Arc<Layers>>,
    version: AtomicU64,
}

impl Current {
    pub(crate) fn new(layers: Layers) -> Self {
        Self { layers: RwLock::new(Arc::new(layers)), version: AtomicU64::new(1) }
    }

    /// Puts new names of clusters in force.
    pub(crate) fn set_clusters(&self, zone: Zone) {
        self.change(|layers| layers.clusters = Arc::new(zone));
    }

    /// Puts new names of zone files in force.
    pub(crate) fn set_files(&self, zone: Zone) {
        self.change(|layers| layers.files = Arc::new(zone));
    }

    fn change(&self, change: impl FnOnce(&mut Layers)) {
        let before = {
            let mut held = self.layers.write().expect("no holder of the lock panics");
            let mut layers = (**held).clone();
            change(&mut layers);
            std::mem::replace(&mut *held, Arc::new(layers))
        };
        self.version.fetch_add(1, Ordering::Release);
        // Not under the lock: to free a million names takes a while.
        drop(before);
    }

    /// What is in force.
    pub(crate) fn get(&self) -> Arc<Layers> {
        Arc::clone(&self.layers.read().expect("no holder of the lock panics"))
    }

    /// What is in force, if `seen` is older; one atomic read where nothing changed.
    pub(crate) fn newer_than(&self, seen: &mut u64) -> Option<Arc<Layers>> {
        let version = self.version.load(Ordering::Acquire);
        if *seen == version {
            return None;
        }
        *seen = version;
        Some(self.get())
    }
}
