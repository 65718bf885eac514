//! The cluster as the scheduler keeps it, and the decisions that are asked of it.
//!
//! Changes go in as they are seen; a decision costs what changed since the last one for a pod of
//! the same kind, not what there is.
//!
//! # Guarantees
//! Same changes in the same order and same seed, same answers. A decision changes nothing: what it
//! says counts once [`Cluster::place`] is called.
//!
//! Refuses clocks, I/O and randomness.

use std::collections::HashMap;
use std::sync::Arc;

use berth_api::Selector;

use crate::class::{Class, Tallies};
use crate::decision::{Explanation, Placement, Rated, Unschedulable};
use crate::gpu::Node as Room;
use crate::profile::{Profile, Score};
use crate::reservation::Reservation;
use crate::selector::Labels;
use crate::snapshot::{Node, Pod};
use crate::world::{Like, Load, Who, World};

/// How many classes of pods are remembered; each costs some 50 bytes a node.
const CLASSES: usize = 128;
/// For how many kinds of pods the class is remembered.
const KINDS: usize = 8192;
/// How many nodes an explanation shows.
const SHOWN: usize = 5;

/// See the module.
pub struct Cluster {
    pub(crate) world: World,
    profiles: Vec<Arc<Profile>>,
    classes: HashMap<Shape, usize>,
    slots: Vec<Option<Class>>,
    kinds: HashMap<Like, Kind>,
    /// What all of these were made in.
    epoch: u64,
    decisions: u64,
}

/// What a class is made of: pods whose labels no one tells apart share one.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Shape {
    /// Without labels and namespace.
    like: Like,
    /// Who is counted for it, and what is reserved for it.
    signature: String,
}

/// The class of a kind of pods.
struct Kind {
    slot: usize,
    /// How many terms that pods carry were looked at.
    carried: usize,
}

impl Cluster {
    /// An empty cluster. Pods are scheduled by the profile they name, or by the first.
    pub fn new(profiles: Vec<Profile>) -> Self {
        let profiles: Vec<_> = if profiles.is_empty() {
            vec![Arc::new(Profile::standard(0))]
        } else {
            profiles.into_iter().map(Arc::new).collect()
        };
        let seed = profiles[0].seed;
        let mut world = World::new(seed);
        world.market.set_policy(profiles[0].device_policy);
        Self {
            world,
            profiles,
            classes: HashMap::new(),
            slots: Vec::new(),
            kinds: HashMap::new(),
            epoch: 0,
            decisions: 0,
        }
    }

    /// Decides by these profiles from now on; whether they are others than before.
    pub fn set_profiles(&mut self, profiles: Vec<Profile>) -> bool {
        let same = self.profiles.iter().map(|profile| &**profile).eq(&profiles);
        if same || profiles.is_empty() {
            return false;
        }
        self.profiles = profiles.into_iter().map(Arc::new).collect();
        self.world.market.set_policy(self.profiles[0].device_policy);
        // Every class was made for the profile that its pods named.
        self.classes.clear();
        self.slots.clear();
        self.kinds.clear();
        true
    }

    /// A node came or changed; whether that can matter to anyone.
    pub fn set_node(&mut self, node: Node) -> bool {
        self.world.set_node(node)
    }

    /// A node is gone, and the pods on it with it.
    pub fn remove_node(&mut self, name: &str) -> bool {
        self.world.remove_node(name)
    }

    /// Whether there is such a node.
    pub fn has_node(&self, name: &str) -> bool {
        self.world.by_name.contains_key(name)
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.world.nodes.iter().filter(|place| place.alive).map(|place| &place.node)
    }

    /// The pods on a node.
    pub fn pods_on(&self, node: &str) -> &[Arc<Pod>] {
        self.world.by_name.get(node).map_or(&[], |at| &self.world.nodes[*at as usize].pods)
    }

    /// A namespace came, changed, or went; whether that can matter to anyone.
    pub fn set_namespace(&mut self, name: String, labels: Option<Labels>) -> bool {
        self.world.set_namespace(name, labels)
    }

    /// What a node is measured to use, or that nothing is known.
    pub fn set_load(&mut self, node: &str, load: Option<Load>) {
        if let Some(&at) = self.world.by_name.get(node)
            && self.world.nodes[at as usize].load != load
        {
            self.world.nodes[at as usize].load = load;
            self.world.touch(at);
        }
    }

    /// Counts `pod` on `node` from now on, and nowhere else; whether there is such a node.
    pub fn place(&mut self, pod: Arc<Pod>, node: &str) -> bool {
        self.world.place(pod, node)
    }

    /// `pod` with the devices that it is to take on `node`: what is placed and bound there. A pod that
    /// asks for none is as it was.
    pub fn with_devices(&self, pod: &Arc<Pod>, node: &str) -> Arc<Pod> {
        self.world.with_devices(pod, node)
    }

    /// Thousandths free on each device of a node; nothing where it has none that are told apart.
    pub fn devices_on(&self, node: &str) -> &[u16] {
        let place = self.world.by_name.get(node).map(|at| &self.world.nodes[*at as usize]);
        place.and_then(|place| place.devices.as_ref()).map_or(&[], Room::free)
    }

    /// Forgets where the pod of this UID is.
    pub fn remove(&mut self, uid: &str) -> Option<Arc<Pod>> {
        self.world.remove(uid)
    }

    /// Where the pod of this UID is.
    pub fn node_of(&self, uid: &str) -> Option<&str> {
        let (_, at) = self.world.find(uid)?;
        Some(&self.world.nodes[at as usize].node.name)
    }

    /// Room on `node` is being made for `pod`; `None` takes the mark away.
    pub fn nominate(&mut self, pod: &Arc<Pod>, node: Option<&str>) {
        self.world.nominate(pod, node);
    }

    /// The node on which room is being made for the pod of this UID.
    pub fn kept_for(&self, uid: &str) -> Option<&str> {
        let at = self.world.nominated(uid)?;
        Some(&self.world.nodes[at as usize].node.name)
    }

    /// Replaces all reservations; see [`crate::reservation`].
    pub fn set_reservations(&mut self, reservations: Vec<Reservation>) {
        self.world.set_reservations(reservations);
    }

    /// How many pods of a selector, none of them ending, are on a node.
    pub fn count(&mut self, namespace: &str, selector: &Selector, node: &str) -> i64 {
        let counter = self.world.counter(Who::Spread(namespace.to_owned(), selector.clone()));
        self.world.by_name.get(node).map_or(0, |at| self.world.counters.on(counter, *at))
    }

    /// Picks a node for `pod`.
    ///
    /// # Errors
    /// [`Unschedulable`] counts the nodes that each filter refused, and why.
    /// # Source
    /// KEP-624.
    pub fn decide(&mut self, pod: &Arc<Pod>) -> Result<Placement, Unschedulable> {
        let nominated = self.world.nominated(&pod.uid);
        if let Some(at) = nominated {
            // Room was made for it there; its own mark must not stand in its way.
            let name = self.world.nodes[at as usize].node.name.clone();
            self.world.nominate(pod, None);
            if self.check(pod, &name).is_ok() {
                self.world.nominate(pod, Some(&name));
                return Ok(Placement { node: name, candidates: 1, score: 0 });
            }
            let found = self.decide_freely(pod);
            self.world.nominate(pod, Some(&name));
            return found;
        }
        self.decide_freely(pod)
    }

    fn decide_freely(&mut self, pod: &Arc<Pod>) -> Result<Placement, Unschedulable> {
        if let Some(refused) = self.claimed(pod) {
            return Err(refused);
        }
        let decided = self.with_class(pod, |class, world| match class.pick() {
            Some(picked) => Ok(Placement {
                node: world.nodes[picked.node as usize].node.name.clone(),
                candidates: picked.candidates as usize,
                score: picked.score,
            }),
            None => Err(Unschedulable::of(class, world)),
        });
        if decided.is_err() {
            self.world.market.saw(pod);
        }
        decided
    }

    /// Whether `pod` may go to the node `name`, as things are.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&mut self, pod: &Arc<Pod>, name: &str) -> Result<(), Vec<String>> {
        if let Some(refused) = self.claimed(pod) {
            return Err(refused.reasons.into_keys().collect());
        }
        let Some(&at) = self.world.by_name.get(name) else {
            return Err(vec![format!("node {name} not found")]);
        };
        self.with_class(pod, |class, world| {
            let place = &world.nodes[at as usize];
            let refusal =
                class.ask.refuses(world, at, place).or_else(|| class.node_refuses(world, at, &[]));
            refusal.map_or(Ok(()), |why| Err(class.ask.words(why, Some(&place.node))))
        })
    }

    /// A claim that one pod alone may use is used: no node will do.
    fn claimed(&self, pod: &Pod) -> Option<Unschedulable> {
        let own = &pod.volumes.exclusive;
        if own.is_empty() {
            return None;
        }
        let mut pods = self.world.nodes.iter().flat_map(|place| &place.pods);
        pods.any(|other| other.volumes.exclusive.iter().any(|claim| own.contains(claim)))
            .then(|| Unschedulable::claimed(self.world.alive))
    }

    /// Says how the decision for `pod` comes about.
    pub fn explain(&mut self, pod: &Arc<Pod>) -> Explanation {
        let outcome = self.decide(pod);
        self.with_class(pod, |class, world| {
            let open = class.open();
            let norms = class.norms(&open);
            let mut nodes: Vec<(i64, u64, u32, usize)> = Vec::new();
            for at in 0..world.nodes.len() as u32 {
                if let Ok((bucket, score)) = class.state(at)
                    && open.contains(&bucket)
                {
                    let worth: i64 = class.worth(bucket, &norms).iter().map(|(_, v)| v).sum();
                    nodes.push((score + worth, world.nodes[at as usize].rank, at, bucket));
                }
            }
            nodes.sort_unstable_by(|one, other| other.cmp(one));
            nodes.truncate(SHOWN);
            let best = nodes
                .into_iter()
                .map(|(total, _, at, bucket)| {
                    let place = &world.nodes[at as usize];
                    let local = class.ask.profile.scores.iter().filter_map(|(score, weight)| {
                        Some((score.name(), class.ask.rate(*score, world, place)? * weight))
                    });
                    let shared = class.worth(bucket, &norms);
                    let mut scores: Vec<_> = local
                        .chain(shared.iter().map(|(score, value)| (Score::name(*score), *value)))
                        .collect();
                    scores.sort_unstable();
                    Rated { node: place.node.name.clone(), total, scores }
                })
                .collect();
            Explanation { outcome, refused: Unschedulable::of(class, world), best }
        })
    }

    pub(crate) fn with_class<T>(
        &mut self,
        pod: &Arc<Pod>,
        run: impl FnOnce(&mut Class, &World) -> T,
    ) -> T {
        self.decisions += 1;
        self.world.market.follow(&self.world.nodes);
        let slot = self.slot_for(pod);
        let mut class = self.slots[slot].take().expect("a slot is empty only while its class runs");
        class.follow(&self.world);
        class.last_used = self.decisions;
        let answer = run(&mut class, &self.world);
        self.slots[slot] = Some(class);
        answer
    }

    /// The slot of the pod's class, which is made if there is none.
    fn slot_for(&mut self, pod: &Arc<Pod>) -> usize {
        if self.epoch != self.world.epoch {
            self.classes.clear();
            self.slots.clear();
            self.kinds.clear();
            self.epoch = self.world.epoch;
        }
        let like = Like(Arc::clone(pod));
        if let Some(kind) = self.kinds.get_mut(&like) {
            let carried = &self.world.counters.carried;
            let namespaces = &self.world.namespaces;
            let concerned =
                carried[kind.carried..].iter().any(|(_, term, _)| term.means(pod, namespaces));
            let stale = |class: &Class| class.ask.images_changed(&self.world);
            if !concerned && self.slots[kind.slot].as_ref().is_some_and(|class| !stale(class)) {
                kind.carried = carried.len();
                return kind.slot;
            }
        }
        let slot = self.find_class(pod);
        if self.kinds.len() >= KINDS {
            self.kinds.clear();
        }
        self.kinds.insert(like, Kind { slot, carried: self.world.counters.carried.len() });
        slot
    }

    fn find_class(&mut self, pod: &Arc<Pod>) -> usize {
        let named = self.profiles.iter().find(|each| each.scheduler_name == pod.scheduler);
        let profile = Arc::clone(named.unwrap_or(&self.profiles[0]));
        let found = Tallies::of(pod, &profile, &mut self.world);
        let reserved = self.world.reservations.iter().map(|each| each.is_for(pod));
        let reserved: Vec<bool> = reserved.collect();
        let bare = Pod { labels: Labels::new(), namespace: String::new(), ..Pod::clone(pod) };
        let shape = Shape {
            like: Like(Arc::new(bare)),
            signature: format!("{:?} {reserved:?}", found.signature()),
        };
        if let Some(&slot) = self.classes.get(&shape) {
            let known = self.slots[slot].as_ref();
            if known.is_some_and(|class| !class.ask.images_changed(&self.world)) {
                return slot;
            }
            self.slots[slot] = Some(Class::new(pod, &profile, found, &self.world));
            return slot;
        }
        let class = Class::new(pod, &profile, found, &self.world);
        let slot = if self.slots.len() < CLASSES {
            self.slots.push(None);
            self.slots.len() - 1
        } else {
            let used = |slot: &Option<Class>| slot.as_ref().map_or(0, |class| class.last_used);
            let oldest = (0..CLASSES).min_by_key(|at| used(&self.slots[*at])).unwrap_or(0);
            self.classes.retain(|_, slot| *slot != oldest);
            self.kinds.retain(|_, kind| kind.slot != oldest);
            oldest
        };
        self.slots[slot] = Some(class);
        self.classes.insert(shape, slot);
        slot
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
