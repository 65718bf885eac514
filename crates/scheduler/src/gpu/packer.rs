//! One decision after another, each at the cost of what changed since its class was last asked.

use std::collections::HashMap;

use super::{Cluster, Demand, Devices, Node, Tournament};

/// How good a node is for a demand.
pub trait Score {
    /// A key, greater is better, and the devices to take; none when it does not fit.
    /// The key is above 0 and the same for nodes of the same [`Node::state`] that both fit.
    fn score(&self, node: &Node, demand: &Demand) -> Option<(u64, Devices)>;
}

/// Where a pod went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The node's index.
    pub node: usize,
    /// Its devices.
    pub devices: Devices,
}

/// Most classes remembered; past it the one longest unasked is forgotten.
const MOST_CLASSES: usize = 512;

/// Places demands by a [`Score`].
///
/// # Guarantees
/// Same cluster, same demands, same answers. Nothing is taken twice.
#[derive(Clone, Debug)]
pub struct Packer<S> {
    cluster: Cluster,
    score: S,
    classes: HashMap<Demand, Class>,
    /// Nodes in the order they changed, from `dropped` on.
    changes: Vec<u32>,
    dropped: usize,
    /// Where in the order each node changed last.
    latest: Vec<usize>,
    /// Numbers of the states that nodes are or were in, and the number of each node's.
    states: HashMap<Node, u32>,
    state: Vec<u32>,
}

#[derive(Clone, Debug)]
struct Class {
    best: Tournament,
    /// How many changes it has seen.
    seen: usize,
}

impl<S: Score> Packer<S> {
    /// On this cluster.
    pub fn new(cluster: Cluster, score: S) -> Self {
        let latest = vec![0; cluster.nodes().len()];
        let mut packer = Self {
            cluster,
            score,
            classes: HashMap::new(),
            changes: Vec::new(),
            dropped: 0,
            latest,
            states: HashMap::new(),
            state: Vec::new(),
        };
        packer.number();
        packer
    }

    /// What is free.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The score that decides.
    pub fn score(&self) -> &S {
        &self.score
    }

    /// Decides by another score from now on: every remembered answer is forgotten.
    pub fn rescore(&mut self, score: S) {
        self.score = score;
        self.classes.clear();
    }

    /// The best node for `demand`, and takes it; none when it fits nowhere.
    pub fn place(&mut self, demand: &Demand) -> Option<Placed> {
        let node = self.best(demand)?;
        let (_, devices) = self.score.score(&self.cluster.nodes()[node], demand)?;
        if !self.cluster.take(node, demand, devices) {
            return None;
        }
        self.changed(node);
        Some(Placed { node, devices })
    }

    /// Gives back what a pod had.
    pub fn remove(&mut self, demand: &Demand, placed: Placed) {
        self.cluster.give(placed.node, demand, placed.devices);
        self.changed(placed.node);
    }

    /// Puts a pod where it already is; `false` when it does not fit there.
    pub fn put(&mut self, demand: &Demand, placed: Placed) -> bool {
        let taken = self.cluster.take(placed.node, demand, placed.devices);
        if taken {
            self.changed(placed.node);
        }
        taken
    }

    fn best(&mut self, demand: &Demand) -> Option<usize> {
        let now = self.dropped + self.changes.len();
        let nodes = self.cluster.nodes();
        let key = |node: &Node| self.score.score(node, demand).map_or(0, |(key, _)| key);
        if let Some(class) = self.classes.get_mut(demand) {
            if class.seen >= self.dropped {
                for at in class.seen..now {
                    let node = self.changes[at - self.dropped] as usize;
                    // A node that changed again later is scored once, there.
                    if self.latest[node] == at {
                        class.best.set(node, key(&nodes[node]));
                    }
                }
                class.seen = now;
                return class.best.best();
            }
        } else if self.classes.len() >= MOST_CLASSES {
            let oldest = self.classes.iter().min_by_key(|(demand, class)| (class.seen, **demand));
            if let Some(oldest) = oldest.map(|(demand, _)| *demand) {
                self.classes.remove(&oldest);
            }
        }
        // Many nodes are alike, the empty ones above all: each state is scored once.
        let mut known: Vec<Option<u64>> = vec![None; self.states.len()];
        let keys = nodes.iter().zip(&self.state).map(|(node, state)| {
            if !node.fits(demand) {
                return 0;
            }
            *known[*state as usize].get_or_insert_with(|| key(node))
        });
        let best = Tournament::new(keys.collect());
        let winner = best.best();
        self.classes.insert(*demand, Class { best, seen: now });
        winner
    }

    fn changed(&mut self, node: usize) {
        // A class that lags by more changes than there are nodes is scored afresh.
        if self.changes.len() >= self.latest.len() * 2 {
            let half = self.changes.len() / 2;
            self.changes.drain(..half);
            self.dropped += half;
        }
        self.latest[node] = self.dropped + self.changes.len();
        self.changes.push(node as u32);
        // States that no node is in any more are forgotten once they are the most.
        if self.states.len() > self.latest.len() * 2 {
            return self.number();
        }
        let next = self.states.len() as u32;
        let state = self.cluster.nodes()[node].state();
        self.state[node] = *self.states.entry(state).or_insert(next);
    }

    /// Numbers the states of all nodes from 0.
    fn number(&mut self) {
        let states = &mut self.states;
        states.clear();
        let nodes = self.cluster.nodes().iter();
        self.state = nodes
            .map(|node| {
                let next = states.len() as u32;
                *states.entry(node.state()).or_insert(next)
            })
            .collect();
    }
}
