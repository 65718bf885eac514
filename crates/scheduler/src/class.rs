//! All that is remembered for pods that are alike: for each node whether it will do and how well.
//!
//! ```text
//!  node ──ask──▶ refused, or a local score and a bucket
//!  bucket = nodes that other nodes' pods treat alike: same wishes met, same domains
//!           └─ heap by local score: the best of a bucket costs O(log n)
//!  decide = best of each bucket, plus what the bucket as a whole is worth
//! ```
//!
//! A class reads the world's log and looks again only at nodes that changed. What depends on a
//! whole domain (spread, affinity between pods) is summed per domain and asked once for a bucket.
//!
//! Source: equivalence classes and score caches of Borg (EuroSys '15, §3.4).

mod ask;
mod domains;
mod pick;

use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use crate::profile::Profile;
use crate::snapshot::Pod;
use crate::world::{NONE, World};

pub(crate) use ask::{Ask, Refusal, clash, selects};
pub(crate) use domains::{Tallies, Tally};

/// In a bucket's key: the node lacks the label.
pub(crate) const UNLABELLED: i64 = i64::MIN;

/// See the module.
pub(crate) struct Class {
    pub ask: Ask,
    pub tallies: Vec<Tally>,
    /// Whether the pod is one of those it must be near.
    pub near_itself: bool,
    /// Whether nodes without all labels of soft spreads count for nothing.
    pub require_all: bool,
    states: Vec<State>,
    pub buckets: Vec<Bucket>,
    by_key: HashMap<Box<[i64]>, u32>,
    pub refused: HashMap<Refusal, u32>,
    read: u64,
    /// By which prices of devices nodes were scored.
    priced: u64,
    pub last_used: u64,
    scratch: Vec<i64>,
}

#[derive(Clone)]
struct State {
    bucket: u32,
    stamp: u32,
    score: i64,
    refusal: Option<Refusal>,
}

/// Nodes that are alike but for their local scores.
pub(crate) struct Bucket {
    /// Taints not liked, wishes met, then for each tally the domain or, if that is one node, its sum;
    /// last the node plus one where pods are awaited that some tally counts, else 0.
    pub key: Box<[i64]>,
    /// What those pods would add to each tally; empty where none are awaited.
    awaited: Vec<i64>,
    pub len: u32,
    heap: BinaryHeap<(i64, u64, u32, u32)>,
}

impl Class {
    pub fn new(pod: &Arc<Pod>, profile: &Arc<Profile>, found: Tallies, world: &World) -> Self {
        let Tallies { all: tallies, require_all, near_itself } = found;
        let unset = State { bucket: NONE, stamp: 0, score: 0, refusal: None };
        let mut class = Self {
            ask: Ask::new(pod, profile, world),
            tallies,
            near_itself,
            require_all,
            states: vec![unset; world.nodes.len()],
            buckets: Vec::new(),
            by_key: HashMap::new(),
            refused: HashMap::new(),
            read: world.log_end(),
            priced: world.market.version,
            last_used: 0,
            scratch: Vec::new(),
        };
        // Sums of domains come first: a bucket of single nodes is keyed by them.
        class.look_at_all(world);
        class
    }

    fn look_at_all(&mut self, world: &World) {
        for at in 0..world.nodes.len() as u32 {
            self.look(world, at);
        }
        (self.read, self.priced) = (world.log_end(), world.market.version);
    }

    /// Catches up with the world.
    pub fn follow(&mut self, world: &World) {
        match world.since(self.read) {
            Some(changed) if self.priced == world.market.version => {
                for at in changed {
                    self.look(world, *at);
                }
                self.read = world.log_end();
            }
            _ => self.look_at_all(world),
        }
    }

    fn look(&mut self, world: &World, at: u32) {
        for tally in &mut self.tallies {
            tally.look(world, at, &self.ask.pod);
        }
        let place = &world.nodes[at as usize];
        if !place.alive {
            return self.settle(at, Err(None), 0);
        }
        if let Some(refusal) = self.ask.refuses(world, at, place) {
            return self.settle(at, Err(Some(refusal)), 0);
        }
        let mut key = std::mem::take(&mut self.scratch);
        key.clear();
        key.extend(self.ask.wishes(place));
        key.extend(self.tallies.iter().map(|tally| tally.key(at)));
        let awaited = self.awaited(world, at);
        key.push(if awaited.is_empty() { 0 } else { i64::from(at) + 1 });
        let bucket = match self.by_key.get(&key[..]) {
            Some(bucket) => *bucket,
            None => {
                let bucket = self.buckets.len() as u32;
                let key: Box<[i64]> = key[..].into();
                self.by_key.insert(key.clone(), bucket);
                let heap = BinaryHeap::new();
                self.buckets.push(Bucket { key, awaited: Vec::new(), len: 0, heap });
                bucket
            }
        };
        self.scratch = key;
        self.buckets[bucket as usize].awaited = awaited;
        let score = self.ask.score(world, at, place);
        self.settle(at, Ok((bucket, score)), place.rank);
    }

    fn settle(&mut self, at: u32, found: Result<(u32, i64), Option<Refusal>>, rank: u64) {
        let state = &mut self.states[at as usize];
        if let Ok((bucket, score)) = found
            && (state.bucket, state.score) == (bucket, score)
        {
            return;
        }
        if state.bucket != NONE {
            self.buckets[state.bucket as usize].len -= 1;
        } else if let Some(refusal) = &state.refusal
            && let Some(count) = self.refused.get_mut(refusal)
        {
            *count -= 1;
            if *count == 0 {
                self.refused.remove(refusal);
            }
        }
        state.stamp = state.stamp.wrapping_add(1);
        match found {
            Err(refusal) => {
                state.bucket = NONE;
                state.refusal = refusal;
                if let Some(refusal) = refusal {
                    *self.refused.entry(refusal).or_default() += 1;
                }
            }
            Ok((bucket, score)) => {
                (state.bucket, state.score, state.refusal) = (bucket, score, None);
                let stamp = state.stamp;
                let bucket_at = bucket;
                let bucket = &mut self.buckets[bucket as usize];
                bucket.len += 1;
                bucket.heap.push((score, rank, at, stamp));
                if bucket.heap.len() > 2 * bucket.len as usize + 64 {
                    let states = &self.states;
                    bucket.heap.retain(|(_, _, node, stamp)| {
                        let state = &states[*node as usize];
                        state.stamp == *stamp && state.bucket == bucket_at
                    });
                }
            }
        }
    }

    /// The best node of a bucket: its local score, its rank and its index.
    pub fn best_of(&mut self, bucket: usize) -> Option<(i64, u64, u32)> {
        let heap = &mut self.buckets[bucket].heap;
        while let Some((score, rank, node, stamp)) = heap.peek() {
            let state = &self.states[*node as usize];
            if state.stamp == *stamp && state.bucket == bucket as u32 {
                return Some((*score, *rank, *node));
            }
            heap.pop();
        }
        None
    }

    /// A node's bucket and local score, or what it refuses for of its own.
    pub fn state(&self, at: u32) -> Result<(usize, i64), Option<Refusal>> {
        let state = &self.states[at as usize];
        if state.bucket == NONE {
            Err(state.refusal)
        } else {
            Ok((state.bucket as usize, state.score))
        }
    }
}
