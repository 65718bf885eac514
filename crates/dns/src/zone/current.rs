//! What is in force, shared by all who answer; whoever reads it waits for nobody.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::file::Static;
use super::roots::Roots;
use super::{Clusters, Found, Policies, Zone};
use crate::asked::{Asked, hash_of};

/// The names of clusters and those of zones that are written down, kept apart: an endpoint that
/// comes or goes must not cost what a million written names cost.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layers {
    clusters: Option<Arc<ClusterZone>>,
    zones: Arc<Zones>,
}

#[derive(Debug)]
struct ClusterZone {
    zone: Zone,
    roots: Arc<Roots>,
}

#[derive(Debug, Default)]
struct Zones {
    roots: Roots,
    list: Vec<(Arc<Static>, Arc<Zone>)>,
}

/// Where layers differ from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Changed {
    /// Anywhere.
    All,
    /// In these small tables of the clusters' names, and in what the clusters' zones have as a whole.
    Shards(Vec<usize>),
}

/// Which table answers for a name.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Located<'a> {
    zone: Option<&'a Zone>,
    /// Reverse names of Services stand alone, in whatever zone they are otherwise.
    reverse: Option<&'a Zone>,
}

impl<'a> Located<'a> {
    /// Whether no zone of ours can have the name.
    pub(crate) fn is_foreign(&self) -> bool {
        self.zone.is_none() && self.reverse.is_none()
    }

    /// Where the name stands first in its table: the first of two steps through memory.
    #[inline]
    pub(crate) fn touch(&self, asked: &Asked) -> u32 {
        let hash = asked.hash();
        self.zone.map_or(u32::MAX, |zone| zone.names.table(hash).touch(hash))
    }

    /// Reads what stands there: the second step.
    #[inline]
    pub(crate) fn touch_entry(&self, asked: &Asked, at: u32) -> u8 {
        self.zone.map_or(0, |zone| zone.names.table(asked.hash()).touch_entry(at))
    }

    /// What is known of the name. Allocates nothing.
    #[inline]
    pub(crate) fn find(&self, asked: &Asked, kind: u16) -> Found<'a> {
        if let Some(found) = self.reverse.and_then(|zone| zone.alone(asked, kind)) {
            return found;
        }
        self.zone.map_or(Found::Foreign, |zone| zone.find(asked, kind))
    }
}

impl Layers {
    /// Which table answers for a name: that of the longest apex that it is under.
    #[inline]
    pub(crate) fn locate(&self, asked: &Asked) -> Located<'_> {
        let clusters = self.clusters.as_deref();
        let last = asked.labels();
        let reverse = match clusters {
            Some(clusters) if last > 0 && asked.hash_above(last - 1) == arpa() => {
                Some(&clusters.zone)
            }
            _ => None,
        };
        for labels in 0..=last {
            if let Some(clusters) = clusters
                && clusters.roots.at(asked, labels).is_some()
            {
                return Located { zone: Some(&clusters.zone), reverse };
            }
            if let Some(number) = self.zones.roots.at(asked, labels) {
                let zone = self.zones.list.get(number as usize).map(|(_, zone)| &**zone);
                return Located { zone, reverse };
            }
        }
        Located { zone: None, reverse }
    }

    /// What is known of a name. Allocates nothing.
    pub(crate) fn find(&self, asked: &Asked, kind: u16) -> Found<'_> {
        self.locate(asked).find(asked, kind)
    }

    /// All tables of names, the clusters' first.
    pub(crate) fn tables(&self) -> impl Iterator<Item = &Zone> {
        let clusters = self.clusters.iter().map(|clusters| &clusters.zone);
        clusters.chain(self.zones.list.iter().map(|(_, zone)| &**zone))
    }

    /// Where they differ from `before`.
    pub(crate) fn changed_since(&self, before: &Self) -> Changed {
        let same = Arc::ptr_eq(&self.zones, &before.zones);
        match (&self.clusters, &before.clusters) {
            (None, None) if same => Changed::Shards(vec![]),
            (Some(now), Some(before)) if same && Arc::ptr_eq(&now.roots, &before.roots) => {
                now.zone.names.changed_since(&before.zone.names)
            }
            _ => Changed::All,
        }
    }

    /// The clusters' names in the small tables of these numbers, each with the types that it has.
    pub(crate) fn questions_in(&self, shards: &[usize]) -> impl Iterator<Item = (&[u8], Vec<u16>)> {
        self.clusters.iter().flat_map(|clusters| clusters.zone.questions_in(shards))
    }

    /// How many names there are.
    pub(crate) fn len(&self) -> usize {
        let written: usize = self.zones.list.iter().map(|(_, zone)| zone.len()).sum();
        self.clusters.as_ref().map_or(0, |clusters| clusters.zone.len()) + written
    }

    /// The written zone whose apex is `apex`.
    pub(crate) fn written(&self, apex: &[u8]) -> Option<&Arc<Static>> {
        self.zones.list.iter().map(|(file, _)| file).find(|file| file.apex == apex)
    }

    /// All written zones.
    pub(crate) fn all_written(&self) -> impl Iterator<Item = &Static> {
        self.zones.list.iter().map(|(file, _)| &**file)
    }

    /// With the names of `clusters` as they are now.
    pub(crate) fn with_clusters(self, clusters: &Clusters) -> Self {
        let clusters = clusters
            .zone()
            .map(|(zone, roots)| Arc::new(ClusterZone { zone, roots: Arc::clone(roots) }));
        Self { clusters, ..self }
    }

    /// With these written zones; those that were there before are not prepared again.
    pub(crate) fn with_written(self, files: &[Arc<Static>], policies: &Policies) -> Self {
        let mut roots = Roots::default();
        let mut list = Vec::with_capacity(files.len());
        for (file, number) in files.iter().zip(0u32..) {
            roots.add(&file.apex, number);
            let before = self.zones.list.iter().find(|(known, _)| Arc::ptr_eq(known, file));
            let zone = match before {
                Some((_, zone)) => Arc::clone(zone),
                None => Arc::new(Zone::written(file, policies)),
            };
            list.push((Arc::clone(file), zone));
        }
        Self { zones: Arc::new(Zones { roots, list }), ..self }
    }
}

fn arpa() -> u64 {
    static ARPA: std::sync::LazyLock<u64> = std::sync::LazyLock::new(|| hash_of(b"\x04arpa\0"));
    *ARPA
}

/// The layers in force.
#[derive(Debug)]
pub(crate) struct Current {
    layers: ArcSwap<Layers>,
    version: AtomicU64,
    /// One at a time: of two changes neither may be lost.
    changing: Mutex<()>,
    changes: watch::Sender<u64>,
}

impl Default for Current {
    fn default() -> Self {
        Self {
            layers: ArcSwap::default(),
            version: AtomicU64::new(1),
            changing: Mutex::new(()),
            changes: watch::Sender::new(1),
        }
    }
}

impl Current {
    /// Puts new names of clusters in force.
    pub(crate) fn set_clusters(&self, clusters: &Clusters) {
        self.change(|layers| layers.with_clusters(clusters));
    }

    /// Puts these written zones in force; `anew`, those that were there before are prepared again.
    pub(crate) fn set_written(&self, files: &[Arc<Static>], policies: &Policies, anew: bool) {
        self.change(|layers| {
            let zones = if anew { Arc::default() } else { Arc::clone(&layers.zones) };
            Layers { zones, ..layers }.with_written(files, policies)
        });
    }

    fn change(&self, change: impl FnOnce(Layers) -> Layers) {
        let held = self.changing.lock().expect("no holder of the lock panics");
        let after = change(Layers::clone(&self.layers.load()));
        let before = self.layers.swap(Arc::new(after));
        let version = self.version.fetch_add(1, Ordering::Release) + 1;
        self.changes.send_replace(version);
        drop(held);
        // Not under the lock: to free a million names takes a while.
        drop(before);
    }

    /// What is in force.
    pub(crate) fn get(&self) -> Arc<Layers> {
        self.layers.load_full()
    }

    /// Tells of every change.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
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
