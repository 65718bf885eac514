//! Sums over domains of nodes: how many pods that spread or affinity asks for are in each.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::class::UNLABELLED;
use crate::class::ask::{selects, untolerated};
use crate::profile::{Filter, Profile, Score};
use crate::snapshot::{Pod, Spread};
use crate::world::{Carried, NONE, Topology, Who, World};

/// What a sum is for.
#[derive(Clone, Debug)]
pub(crate) enum Duty {
    /// No domain may hold too many more than the emptiest.
    Hard { skew: i64, least_domains: i64, own: i64 },
    /// The emptier the better.
    Soft { skew: i64 },
    /// None may be there.
    Away,
    /// None that keep this pod away may be there.
    Repelled,
    /// One must be there.
    Near,
    /// Each counts so much.
    Wish(i64),
}

impl Duty {
    /// Whether it can refuse a node; else it only weighs.
    pub fn refuses(&self) -> bool {
        !matches!(self, Self::Soft { .. } | Self::Wish(_))
    }
}

/// One sum per domain.
pub(crate) struct Tally {
    pub duty: Duty,
    pub counter: usize,
    pub topology: Arc<Topology>,
    spread: Option<Spread>,
    /// Labels that a node must have to count at all.
    together: Vec<Arc<Topology>>,
    inside: Vec<bool>,
    seen: Vec<i64>,
    members: Vec<u32>,
    sums: Vec<i64>,
    /// How many domains hold how many; kept for hard spreads.
    heights: BTreeMap<i64, u32>,
    /// How many domains count.
    pub domains: i64,
    /// All domains together.
    pub total: i64,
}

/// Everything that a pod must know of domains.
pub(crate) struct Tallies {
    pub all: Vec<Tally>,
    /// Whether soft spreads need all their labels.
    pub require_all: bool,
    /// Whether the pod is one of those it must be near.
    pub near_itself: bool,
}

impl Tallies {
    pub fn of(pod: &Pod, profile: &Profile, world: &mut World) -> Self {
        let all = tallies(pod, profile, world);
        let near_itself = !pod.affinity.is_empty()
            && pod.affinity.iter().all(|term| term.means(pod, &world.namespaces));
        Self { all, require_all: !pod.spread.is_empty(), near_itself }
    }

    /// Pods that are alike but for labels and namespace, and have the same of these, are one class.
    pub fn signature(&self) -> impl std::fmt::Debug {
        let all: Vec<(Duty, usize)> =
            self.all.iter().map(|tally| (tally.duty.clone(), tally.counter)).collect();
        (all, self.near_itself)
    }
}

fn tallies(pod: &Pod, profile: &Profile, world: &mut World) -> Vec<Tally> {
    let mut all = Vec::new();
    spreads(pod, profile, world, &mut all);
    if profile.asks(Filter::InterPodAffinity) {
        if !pod.affinity.is_empty() {
            let counter = world.counter(Who::Near(pod.affinity.clone()));
            for term in &pod.affinity {
                let topology = world.topology(&term.topology_key);
                all.push(Tally::new(Duty::Near, counter, topology));
            }
        }
        for term in &pod.anti_affinity {
            let counter = world.counter(Who::Near(vec![term.clone()]));
            let topology = world.topology(&term.topology_key);
            all.push(Tally::new(Duty::Away, counter, topology));
        }
    }
    let scored = profile.weight(Score::InterPodAffinity) > 0;
    if scored {
        for (weight, term) in &pod.near_preferences {
            let counter = world.counter(Who::Near(vec![term.clone()]));
            let topology = world.topology(&term.topology_key);
            all.push(Tally::new(Duty::Wish(*weight), counter, topology));
        }
    }
    let carried = world.counters.carried.clone();
    for (how, term, counter) in carried {
        if !term.means(pod, &world.namespaces) {
            continue;
        }
        let duty = match how {
            Carried::Away if profile.asks(Filter::InterPodAffinity) => Duty::Repelled,
            Carried::Near if scored && profile.hard_pod_affinity_weight > 0 => {
                Duty::Wish(profile.hard_pod_affinity_weight)
            }
            Carried::Wish if scored => Duty::Wish(1),
            _ => continue,
        };
        let topology = world.topology(&term.topology_key);
        all.push(Tally::new(duty, counter, topology));
    }
    all
}

fn spreads(pod: &Pod, profile: &Profile, world: &mut World, all: &mut Vec<Tally>) {
    let defaults: Vec<Spread> = match (&pod.like, pod.spread.is_empty()) {
        (Some(like), true) => profile
            .default_constraints
            .iter()
            .map(|each| Spread {
                selector: like.clone(),
                topology_key: each.topology_key.clone(),
                max_skew: each.max_skew,
                min_domains: 1,
                required: each.required,
                honour_affinity: true,
                honour_taints: false,
            })
            .collect(),
        _ => Vec::new(),
    };
    let constraints = if defaults.is_empty() { &pod.spread } else { &defaults };
    for required in [true, false] {
        let wanted = if required {
            profile.asks(Filter::PodTopologySpread)
        } else {
            profile.weight(Score::PodTopologySpread) > 0
        };
        let own: Vec<&Spread> =
            constraints.iter().filter(|each| wanted && each.required == required).collect();
        let together: Vec<_> = own.iter().map(|each| world.topology(&each.topology_key)).collect();
        for spread in own {
            let who = Who::Spread(pod.namespace.clone(), spread.selector.clone());
            let counter = world.counter(who);
            let duty = if required {
                Duty::Hard {
                    skew: spread.max_skew,
                    least_domains: spread.min_domains,
                    own: i64::from(spread.selector.matches(&pod.labels)),
                }
            } else {
                Duty::Soft { skew: spread.max_skew }
            };
            let mut tally = Tally::new(duty, counter, world.topology(&spread.topology_key));
            tally.spread = Some(spread.clone());
            if required || !pod.spread.is_empty() {
                tally.together.clone_from(&together);
            }
            all.push(tally);
        }
    }
}

impl Tally {
    fn new(duty: Duty, counter: usize, topology: Arc<Topology>) -> Self {
        let (nodes, domains) = (topology.of.len(), topology.domains);
        Self {
            duty,
            counter,
            topology,
            spread: None,
            together: Vec::new(),
            inside: vec![false; nodes],
            seen: vec![0; nodes],
            members: vec![0; domains],
            sums: vec![0; domains],
            heights: BTreeMap::new(),
            domains: 0,
            total: 0,
        }
    }

    /// Takes in what changed on a node.
    pub fn look(&mut self, world: &World, at: u32, pod: &Pod) {
        let index = at as usize;
        let domain = self.topology.of[index];
        if domain == NONE {
            return;
        }
        let place = &world.nodes[index];
        let inside = place.alive
            && self.together.iter().all(|each| each.of[index] != NONE)
            && self.spread.as_ref().is_none_or(|spread| {
                (!spread.honour_affinity || selects(pod, &place.node))
                    && (!spread.honour_taints || untolerated(pod, &place.node).is_none())
            });
        let now = if inside { world.counters.on(self.counter, at) } else { 0 };
        let (was_inside, was) = (self.inside[index], self.seen[index]);
        if (was_inside, was) == (inside, now) {
            return;
        }
        let domain = domain as usize;
        let hard = matches!(self.duty, Duty::Hard { .. });
        if hard && self.members[domain] > 0 {
            self.lower(self.sums[domain]);
        }
        match (was_inside, inside) {
            (false, true) => self.members[domain] += 1,
            (true, false) => self.members[domain] -= 1,
            _ => {}
        }
        self.sums[domain] += now - was;
        self.total += now - was;
        if hard && self.members[domain] > 0 {
            *self.heights.entry(self.sums[domain]).or_default() += 1;
            self.domains += 1;
        }
        (self.inside[index], self.seen[index]) = (inside, now);
    }

    fn lower(&mut self, height: i64) {
        self.domains -= 1;
        if let Some(count) = self.heights.get_mut(&height) {
            *count -= 1;
            if *count == 0 {
                self.heights.remove(&height);
            }
        }
    }

    /// What a bucket's key holds of a node.
    pub fn key(&self, at: u32) -> i64 {
        let domain = self.topology.of[at as usize];
        if domain == NONE {
            return UNLABELLED;
        }
        if !self.topology.single {
            return i64::from(domain);
        }
        let sum = self.sums[domain as usize];
        match self.duty {
            Duty::Away | Duty::Repelled | Duty::Near => sum.min(1),
            _ => sum,
        }
    }

    /// The sum that a bucket's key stands for; `None` without the label.
    pub fn value(&self, key: i64) -> Option<i64> {
        match key {
            UNLABELLED => None,
            sum if self.topology.single => Some(sum),
            domain => Some(self.sums[domain as usize]),
        }
    }

    /// The sum of the domain that a node is in.
    pub fn at(&self, at: u32) -> Option<i64> {
        let domain = self.topology.of[at as usize];
        (domain != NONE).then(|| self.sums[domain as usize])
    }

    /// How many the emptiest domain holds.
    pub fn fewest(&self, least_domains: i64) -> i64 {
        if self.domains < least_domains {
            return 0;
        }
        self.heights.keys().next().copied().unwrap_or(0)
    }

    /// The same if a domain that holds `from` held `to`.
    pub fn fewest_if(&self, from: i64, to: i64, least_domains: i64) -> i64 {
        if self.domains < least_domains {
            return 0;
        }
        let alone = |height: i64, count: u32| height == from && count == 1;
        let others = self.heights.iter().find(|(height, count)| !alone(**height, **count));
        others.map_or(to, |(height, _)| to.min(*height))
    }

    /// Whether pods on this node count.
    pub fn counts(&self, at: u32) -> bool {
        self.inside[at as usize]
    }
}
