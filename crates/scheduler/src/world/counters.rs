//! How many pods of a description are on each node, kept as pods come and go.
//!
//! Pods that differ only by name are one *like*: which counters mean them is found once for all.

use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use berth_api::Selector;

use crate::selector::Labels;
use crate::snapshot::{Near, Pod};

/// Which pods are counted.
#[derive(Clone, Debug)]
pub(crate) enum Who {
    /// Those of a spread: one namespace, none that are ending.
    Spread(String, Selector),
    /// Those that every term means.
    Near(Vec<Near>),
    /// Those that carry a term, by how strongly.
    Carrying(Carried, Near),
}

/// How a pod that is there carries a term against newcomers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carried {
    /// Keeps them away.
    Away,
    /// Wants them near: required affinity.
    Near,
    /// Would like them near, or away below zero: the sum of weights.
    Wish,
}

/// Pods that nothing here tells apart.
#[derive(Clone)]
pub(crate) struct Like(pub Arc<Pod>);

impl Hash for Like {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let pod = &self.0;
        pod.namespace.hash(state);
        pod.priority.hash(state);
        pod.labels.hash(state);
        (pod.requests.cpu.0, pod.requests.memory.0).hash(state);
        pod.node_selector.hash(state);
    }
}

impl PartialEq for Like {
    fn eq(&self, other: &Self) -> bool {
        let (a, b) = (&*self.0, &*other.0);
        std::ptr::eq(a, b)
            || (a.labels == b.labels
                && a.namespace == b.namespace
                && a.priority == b.priority
                && a.requests == b.requests
                && a.weighed == b.weighed
                && a.scheduler == b.scheduler
                && a.node_selector == b.node_selector
                && a.node_affinity == b.node_affinity
                && a.node_preferences == b.node_preferences
                && a.tolerations == b.tolerations
                && a.spread == b.spread
                && a.affinity == b.affinity
                && a.anti_affinity == b.anti_affinity
                && a.near_preferences == b.near_preferences
                && a.host_ports == b.host_ports
                && a.disks == b.disks
                && a.images == b.images
                && a.volumes == b.volumes
                && a.share == b.share
                && a.gpu_models == b.gpu_models
                && a.like == b.like)
    }
}

impl Eq for Like {}

struct Kind {
    pod: Arc<Pod>,
    /// Counter and by how much one pod counts.
    counted: Vec<(usize, i64)>,
    /// How many counters were looked at.
    known: usize,
    /// Pods per node, and those of them that are ending.
    on: HashMap<u32, (i64, i64)>,
}

struct Counter {
    who: Who,
    on: Vec<i64>,
}

#[derive(Default)]
pub(crate) struct Counters {
    kinds: Vec<Kind>,
    by_like: HashMap<Like, usize>,
    counters: Vec<Counter>,
    by_who: HashMap<String, usize>,
    /// Every term that pods here carry, with its counter.
    pub carried: Vec<(Carried, Near, usize)>,
    used: usize,
}

impl Counters {
    /// How many are on the node at `at`.
    pub fn on(&self, counter: usize, at: u32) -> i64 {
        self.counters[counter].on.get(at as usize).copied().unwrap_or(0)
    }

    /// By how much one pod like `pod` counts.
    pub fn amount(&self, counter: usize, pod: &Pod, namespaces: &BTreeMap<String, Labels>) -> i64 {
        amount(&self.counters[counter].who, pod, namespaces)
    }

    /// Whether most kinds of pods that are known are gone.
    pub fn is_overgrown(&self) -> bool {
        self.kinds.len() > 4 * self.used + 4096
    }

    pub fn count(
        &mut self,
        pod: &Arc<Pod>,
        at: u32,
        by: i64,
        namespaces: &BTreeMap<String, Labels>,
    ) {
        let kind = match self.by_like.get(&Like(Arc::clone(pod))) {
            Some(kind) => *kind,
            None => self.add_kind(pod, namespaces),
        };
        self.learn(kind, namespaces);
        let Self { kinds, counters, used, .. } = self;
        let kind = &mut kinds[kind];
        if kind.on.is_empty() {
            *used += 1;
        }
        let (all, ending) = kind.on.entry(at).or_default();
        *all += by;
        *ending += if pod.terminating { by } else { 0 };
        if *all == 0 {
            kind.on.remove(&at);
            if kind.on.is_empty() {
                *used -= 1;
            }
        }
        for (counter, amount) in &kind.counted {
            let counter = &mut counters[*counter];
            if !(pod.terminating && matches!(counter.who, Who::Spread(..))) {
                counter.add(at, by * amount);
            }
        }
    }

    /// Takes note of the terms that `pod` carries, without counting it anywhere.
    pub fn know(&mut self, pod: &Arc<Pod>, namespaces: &BTreeMap<String, Labels>) {
        if !self.by_like.contains_key(&Like(Arc::clone(pod))) {
            self.add_kind(pod, namespaces);
        }
    }

    pub fn ensure(&mut self, who: Who, namespaces: &BTreeMap<String, Labels>) -> usize {
        let name = format!("{who:?}");
        if let Some(known) = self.by_who.get(&name) {
            return *known;
        }
        let at = self.counters.len();
        self.counters.push(Counter { who, on: Vec::new() });
        self.by_who.insert(name, at);
        for kind in 0..self.kinds.len() {
            self.learn(kind, namespaces);
        }
        at
    }

    fn add_kind(&mut self, pod: &Arc<Pod>, namespaces: &BTreeMap<String, Labels>) -> usize {
        let terms = pod
            .anti_affinity
            .iter()
            .map(|term| (Carried::Away, term))
            .chain(pod.affinity.iter().map(|term| (Carried::Near, term)))
            .chain(pod.near_preferences.iter().map(|(_, term)| (Carried::Wish, term)));
        for (how, term) in terms {
            let counter = self.ensure(Who::Carrying(how, term.clone()), namespaces);
            if !self.carried.iter().any(|(_, _, known)| *known == counter) {
                self.carried.push((how, term.clone(), counter));
            }
        }
        let at = self.kinds.len();
        self.kinds.push(Kind {
            pod: Arc::clone(pod),
            counted: Vec::new(),
            known: 0,
            on: HashMap::new(),
        });
        self.by_like.insert(Like(Arc::clone(pod)), at);
        at
    }

    /// Looks at counters that came since, and counts the kind's pods in them.
    fn learn(&mut self, kind: usize, namespaces: &BTreeMap<String, Labels>) {
        let kind = &mut self.kinds[kind];
        for at in kind.known..self.counters.len() {
            let counter = &mut self.counters[at];
            let amount = amount(&counter.who, &kind.pod, namespaces);
            if amount == 0 {
                continue;
            }
            kind.counted.push((at, amount));
            for (node, (all, ending)) in &kind.on {
                let skipped = if matches!(counter.who, Who::Spread(..)) { *ending } else { 0 };
                counter.add(*node, (all - skipped) * amount);
            }
        }
        kind.known = self.counters.len();
    }
}

impl Counter {
    fn add(&mut self, at: u32, amount: i64) {
        let at = at as usize;
        if at >= self.on.len() {
            self.on.resize(at + 1, 0);
        }
        self.on[at] += amount;
    }
}

fn amount(who: &Who, pod: &Pod, namespaces: &BTreeMap<String, Labels>) -> i64 {
    match who {
        Who::Spread(namespace, selector) => {
            i64::from(pod.namespace == *namespace && selector.matches(&pod.labels))
        }
        Who::Near(terms) => {
            i64::from(!terms.is_empty() && terms.iter().all(|term| term.means(pod, namespaces)))
        }
        Who::Carrying(how, term) => match how {
            Carried::Away => pod.anti_affinity.iter().filter(|own| *own == term).count() as i64,
            Carried::Near => pod.affinity.iter().filter(|own| *own == term).count() as i64,
            Carried::Wish => {
                let own = pod.near_preferences.iter().filter(|(_, own)| own == term);
                own.map(|(weight, _)| weight).sum()
            }
        },
    }
}
