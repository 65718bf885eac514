//! Which of a name's records are given, and in which order.
//!
//! A policy is a few numbers that were worked out when the data changed; applying it writes
//! positions into a table on the stack. Endpoints that are not ready are in no set; what a policy has
//! checked besides is asked of a flag each time.

use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use foldhash::fast::FixedState;
use serde::{Deserialize, Serialize};

use super::rrset::Set;
use crate::checks::{Check, Health, Healthy};

/// Records that a policy orders; those behind are not given.
pub(crate) const MOST: usize = 256;

/// The order of the records in an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Begins at a place that the query's id decides.
    #[default]
    Turn,
    /// As they are written.
    Fixed,
    /// Every order is as likely as another.
    Shuffle,
    /// Begins one further with each answer.
    RoundRobin,
    /// The first is drawn by weight, so is the second of the rest, and so on.
    Weighted,
    /// A client network gets the same order as long as the records stay, and when one goes only
    /// the clients that had it first change (rendezvous hashing, Thaler and Ravishankar 1998).
    Consistent,
}

/// A policy as an object or a file says it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Wanted {
    /// In which order.
    pub order: Order,
    /// At most this many; 0 for all.
    pub limit: u8,
    /// Records of the client's site first, and alone where there is one.
    pub nearest: bool,
    /// Weights of `weighted`, by address or data as text; what is not named weighs 1.
    pub weights: std::collections::BTreeMap<String, u16>,
    /// Addresses that fail this are not given, unless all do: then it is rather the check that is
    /// wrong. Not in objects of a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<Check>,
    /// Addresses that these find down are not given, unless all are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthy: Option<Healthy>,
}

/// A policy as it is applied to one set.
#[derive(Debug)]
pub(crate) struct Policy {
    order: Order,
    limit: usize,
    nearest: bool,
    /// For each record.
    weights: Vec<u16>,
    /// The same; empty where nobody is asked.
    health: Vec<Option<Health>>,
    turn: AtomicU32,
}

/// Who asks, as far as the order depends on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker {
    pub client: IpAddr,
    /// Of the client's network; 0 is none.
    pub site: u8,
    /// As good as random.
    pub seed: u32,
}

impl Policy {
    /// `weights` are those of the records, in their order.
    pub(crate) fn new(wanted: &Wanted, weights: Vec<u16>) -> Self {
        let limit = if wanted.limit == 0 { MOST } else { usize::from(wanted.limit) };
        let turn = AtomicU32::new(0);
        let (order, nearest) = (wanted.order, wanted.nearest);
        Self { order, limit, nearest, weights, health: vec![], turn }
    }

    /// With what decides whether it may be given, for each record.
    pub(crate) fn with_health(self, health: Vec<Option<Health>>) -> Self {
        Self { health, ..self }
    }

    /// The order, where neither who asks nor chance nor health decides what is given, and how many.
    pub(crate) fn plain(&self) -> Option<Order> {
        let whole = self.limit >= MOST;
        match self.order {
            _ if self.nearest || !self.health.is_empty() => None,
            Order::Fixed => Some(Order::Fixed),
            Order::Turn | Order::RoundRobin => Some(self.order).filter(|_| whole),
            Order::Shuffle | Order::Weighted | Order::Consistent => None,
        }
    }

    /// Writes the positions of the records to be given, and says how many they are.
    pub(crate) fn pick(&self, set: Set<'_>, asker: Asker, to: &mut [u16; MOST]) -> usize {
        let up = |at: usize| {
            let health = self.health.get(at).and_then(Option::as_ref);
            health.is_none_or(Health::is_up)
        };
        // If all are down, it is as if all were up.
        let all = self.health.is_empty() || !(0..set.len()).any(up);
        let near = |at: usize| {
            self.nearest && asker.site != 0 && set.site(at) == asker.site && (all || up(at))
        };
        let only_near = (0..set.len()).any(near);
        let mut count = 0;
        for at in 0..set.len().min(usize::from(u16::MAX)) {
            if count < MOST && (all || up(at)) && (!only_near || near(at)) {
                to[count] = at as u16; // bounded by the range
                count += 1;
            }
        }
        let chosen = &mut to[..count];
        let mut random = Sequence(u64::from(asker.seed) << 32 | u64::from(asker.seed));
        match self.order {
            Order::Fixed => {}
            Order::Turn => chosen.rotate_left(asker.seed as usize % count.max(1)),
            Order::RoundRobin => {
                let turn = self.turn.fetch_add(1, Ordering::Relaxed);
                chosen.rotate_left(turn as usize % count.max(1));
            }
            Order::Shuffle => {
                for left in (1..count).rev() {
                    chosen.swap(left, random.below(left as u64 + 1) as usize);
                }
            }
            Order::Weighted => self.draw(chosen, &mut random),
            Order::Consistent => {
                let mut scores = [(0u64, 0u16); MOST];
                for (score, at) in scores.iter_mut().zip(chosen.iter()) {
                    *score = (score_of(asker.client, set.record(usize::from(*at))), *at);
                }
                scores[..count].sort_unstable_by(|one, two| two.cmp(one));
                chosen.iter_mut().zip(&scores).for_each(|(to, (_, at))| *to = *at);
            }
        }
        count.min(self.limit)
    }

    fn draw(&self, chosen: &mut [u16], random: &mut Sequence) {
        let weight = |at: u16| u64::from(self.weights.get(usize::from(at)).copied().unwrap_or(1));
        for place in 0..chosen.len().min(self.limit) {
            let rest = &mut chosen[place..];
            let sum: u64 = rest.iter().map(|at| weight(*at)).sum();
            if sum == 0 {
                return; // what weighs nothing stays behind, in its order
            }
            let mut left = random.below(sum);
            let drawn = rest.iter().position(|at| match left.checked_sub(weight(*at)) {
                Some(less) => {
                    left = less;
                    false
                }
                None => true,
            });
            rest.swap(0, drawn.unwrap_or_default());
        }
    }
}

/// What a client's network gives a record; the highest is first. The data alone counts, not the
/// time to live, and no secret: every server must come to the same order.
fn score_of(client: IpAddr, record: &[u8]) -> u64 {
    let mut hasher = FixedState::with_seed(0x62_65_72_74_68).build_hasher();
    match client.to_canonical() {
        IpAddr::V4(ip) => hasher.write(&ip.octets()),
        // A host changes the lower half by itself (RFC 8981).
        IpAddr::V6(ip) => hasher.write(&ip.octets()[..8]),
    }
    hasher.write(record.get(super::rrset::FIXED..).unwrap_or_default());
    hasher.finish()
}

/// splitmix64: good enough to spread load, and nothing to allocate or to lock.
struct Sequence(u64);

impl Sequence {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (((mixed ^ (mixed >> 31)) >> 32) * limit) >> 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::kind;
    use crate::zone::RrSet;

    fn set(count: u8) -> RrSet {
        let mut set = RrSet::new(kind::A);
        (1..=count).for_each(|n| set.push_of(5, &[192, 0, 2, n], 1 + n % 2));
        set
    }

    fn asker(client: u8, seed: u32, site: u8) -> Asker {
        Asker { client: IpAddr::from([10, 0, 0, client]), site, seed }
    }

    fn picked(policy: &Policy, set: &RrSet, asker: Asker) -> Vec<u16> {
        let mut to = [0; MOST];
        let count = policy.pick(set.view(), asker, &mut to);
        to[..count].to_vec()
    }

    fn policy(order: Order, limit: u8, weights: Vec<u16>) -> Policy {
        Policy::new(&Wanted { order, limit, ..Wanted::default() }, weights)
    }

    #[test]
    fn each_order_is_what_it_says() {
        let set = set(4);
        let fixed = policy(Order::Fixed, 0, vec![]);
        assert_eq!(picked(&fixed, &set, asker(1, 7, 0)), [0, 1, 2, 3]);
        let robin = policy(Order::RoundRobin, 1, vec![]);
        let turns: Vec<_> = (0..5).map(|_| picked(&robin, &set, asker(1, 7, 0))[0]).collect();
        assert_eq!(turns, [0, 1, 2, 3, 0]);
        let shuffle = policy(Order::Shuffle, 0, vec![]);
        let mut firsts = [0u32; 4];
        (0..4000).for_each(|n| {
            let order = picked(&shuffle, &set, asker(1, n, 0));
            assert_eq!(order.iter().sum::<u16>(), 6, "each is there once");
            firsts[usize::from(order[0])] += 1;
        });
        assert!(firsts.iter().all(|count| (850..1150).contains(count)), "{firsts:?}");
    }

    #[test]
    fn weights_are_kept_and_nothing_weighs_nothing() {
        let (set, weighted) = (set(3), policy(Order::Weighted, 1, vec![3, 1, 0]));
        let mut firsts = [0u32; 3];
        (0..4000).for_each(|n| {
            firsts[usize::from(picked(&weighted, &set, asker(1, n, 0))[0])] += 1;
        });
        assert!((2850..3150).contains(&firsts[0]) && firsts[2] == 0, "{firsts:?}");
    }

    #[test]
    fn a_client_keeps_its_address_and_only_those_move_whose_address_went() {
        let consistent = policy(Order::Consistent, 1, vec![]);
        let (all, fewer) = (set(5), set(4));
        for client in 0..200 {
            let before = picked(&consistent, &all, asker(client, 1, 0))[0];
            assert_eq!(before, picked(&consistent, &all, asker(client, 99, 0))[0]);
            let after = picked(&consistent, &fewer, asker(client, 1, 0))[0];
            assert!(before == 4 || before == after, "client {client} moved for nothing");
        }
    }

    #[tokio::test]
    async fn what_is_down_is_not_given_unless_all_are() {
        // Nobody listens at the discard port of these; the other one is not checked.
        let check = Check { port: 9, path: None };
        let health = |last: u8| Some(Health::of([127, 9, 9, last].into(), Some(&check), None));
        let policy = policy(Order::Fixed, 0, vec![]).with_health((1..=2).map(health).collect());
        assert_eq!(
            (picked(&policy, &set(3), asker(1, 0, 0)), policy.plain()),
            (vec![0, 1, 2], None)
        );
        let tasks = berth_daemon::Tasks::new();
        crate::checks::run(&tasks);
        let down = async {
            while picked(&policy, &set(3), asker(1, 0, 0)) != [2] {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        let patience = std::time::Duration::from_secs(20);
        tokio::time::timeout(patience, down).await.expect("they fail their checks");
        assert_eq!(picked(&policy, &set(2), asker(1, 0, 0)), [0, 1], "all are down");
        tasks.stop(std::time::Duration::from_secs(5)).await;
    }

    #[test]
    fn the_nearest_site_is_given_alone_and_any_where_it_has_none() {
        let wanted = Wanted { order: Order::Fixed, nearest: true, ..Wanted::default() };
        let (set, policy) = (set(4), Policy::new(&wanted, vec![]));
        assert_eq!(picked(&policy, &set, asker(1, 0, 2)), [0, 2]);
        assert_eq!(picked(&policy, &set, asker(1, 0, 1)), [1, 3]);
        assert_eq!(picked(&policy, &set, asker(1, 0, 9)), [0, 1, 2, 3]);
        assert_eq!(picked(&policy, &set, asker(1, 0, 0)), [0, 1, 2, 3]);
    }
}
