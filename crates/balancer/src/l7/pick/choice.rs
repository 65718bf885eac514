//! The ways to choose from one list of endpoints.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::endpoint::Endpoint;
use super::{Pick, mix};

/// Points on the ring for an endpoint of weight 1: shares differ by some 10 % (ketama has 160).
const POINTS: u32 = 100;
/// The longest turn of a weighted round; beyond, weights are rounded.
const LONGEST_TURN: usize = 4096;
/// Pairs that are drawn before the list is gone through.
const PAIRS: u32 = 3;
/// So many open requests an endpoint may have whatever the bound says: with few requests under
/// way the bound is so low that keys would move at the first coincidence.
const FREE_OF_BOUND: usize = 8;

/// A list of endpoints, prepared for one way of choosing.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) endpoints: Vec<Arc<Endpoint>>,
    how: How,
}

#[derive(Debug)]
enum How {
    LeastRequest,
    /// A turn: indexes in the order in which they are taken.
    Turn {
        order: Vec<u32>,
        next: AtomicUsize,
    },
    /// Sorted points and whose they are.
    Ring {
        points: Vec<(u64, u32)>,
        bound_percent: u32,
    },
}

impl Choice {
    pub(super) fn new(endpoints: Vec<Arc<Endpoint>>, pick: &Pick) -> Self {
        let weights = || endpoints.iter().map(|endpoint| endpoint.weight()).collect::<Vec<_>>();
        let turn = |order: Vec<u32>| How::Turn { order, next: AtomicUsize::new(0) };
        let how = match pick {
            Pick::LeastRequest => How::LeastRequest,
            Pick::RoundRobin => turn((0..).take(endpoints.len()).collect()),
            Pick::Weighted => turn(smooth(&weights())),
            Pick::Hash { bound_percent, .. } => {
                How::Ring { points: ring(&endpoints), bound_percent: *bound_percent }
            }
        };
        Self { endpoints, how }
    }

    /// One that `admits` lets through and in which `enter` takes a place.
    ///
    /// `open` is how many requests all of them have.
    pub(super) fn choose(
        &self,
        admits: impl Fn(&Endpoint) -> bool,
        enter: impl Fn(&Endpoint) -> bool,
        key: u64,
        open: usize,
        random: u64,
    ) -> Option<&Arc<Endpoint>> {
        let take = |endpoint: &&Arc<Endpoint>| admits(endpoint) && enter(endpoint);
        match &self.how {
            How::LeastRequest => {
                self.two_of(&admits, &enter, random).or_else(|| self.from(random).find(take))
            }
            How::Turn { order, next } => {
                let start = next.fetch_add(1, Ordering::Relaxed);
                let turn = order.iter().cycle().skip(start % order.len().max(1));
                turn.take(order.len()).map(|index| &self.endpoints[*index as usize]).find(take)
            }
            How::Ring { points, bound_percent } => {
                let fair = (open + 1) * *bound_percent as usize;
                let most = fair.div_ceil(100 * self.endpoints.len().max(1)).max(FREE_OF_BOUND);
                let start = points.partition_point(|(point, _)| *point < key);
                let walk = || {
                    let whole = points[start..].iter().chain(&points[..start]);
                    whole.map(|(_, index)| &self.endpoints[*index as usize])
                };
                let bound =
                    |endpoint: &&Arc<Endpoint>| *bound_percent == 0 || endpoint.open() < most;
                walk().filter(bound).find(take).or_else(|| walk().find(take))
            }
        }
    }

    /// All, beginning anywhere.
    fn from(&self, random: u64) -> impl Iterator<Item = &Arc<Endpoint>> {
        let start = random as usize % self.endpoints.len().max(1);
        self.endpoints[start..].iter().chain(&self.endpoints[..start])
    }

    /// Of two taken at random, the better one that may be had.
    fn two_of(
        &self,
        admits: impl Fn(&Endpoint) -> bool,
        enter: impl Fn(&Endpoint) -> bool,
        random: u64,
    ) -> Option<&Arc<Endpoint>> {
        let count = self.endpoints.len();
        if count < 2 {
            return None;
        }
        for attempt in 0..PAIRS {
            let draw = if attempt == 0 { random } else { mix(random ^ u64::from(attempt)) };
            // The halves are independent enough to be two draws without repetition.
            let first = (draw >> 32) as usize % count;
            let second = (first + 1 + (draw & 0xffff_ffff) as usize % (count - 1)) % count;
            let (first, second) = (&self.endpoints[first], &self.endpoints[second]);
            let pair = match (admits(first), admits(second)) {
                (true, true) if costs_less(second, first) => [Some(second), Some(first)],
                (true, true) => [Some(first), Some(second)],
                (true, false) => [Some(first), None],
                (false, true) => [Some(second), None],
                (false, false) => continue,
            };
            let entered = pair.into_iter().flatten().find(|endpoint| enter(endpoint));
            if entered.is_some() {
                return entered;
            }
        }
        None
    }
}

/// By open requests times latency over weight. Latencies count in steps of a quarter: what differs
/// by less is noise, and would send everything to the one that happens to lead.
fn costs_less(a: &Endpoint, b: &Endpoint) -> bool {
    let (latency_a, latency_b) = match (a.latency_us(), b.latency_us()) {
        (Some(a), Some(b)) => (step(a), step(b)),
        // One that was not measured yet is no better and no worse.
        _ => (1, 1),
    };
    let cost = |endpoint: &Endpoint, latency: u64, other: &Endpoint| {
        (endpoint.open() as u64 + 1).saturating_mul(latency) as u128 * u128::from(other.weight())
    };
    cost(a, latency_a, b) < cost(b, latency_b, a)
}

/// Keeps the three highest bits.
fn step(latency_us: u64) -> u64 {
    let drop = (64 - latency_us.leading_zeros()).saturating_sub(3);
    latency_us >> drop << drop
}

/// Nginx's smooth weighted round: at each turn everybody gains their weight, and the richest goes
/// and pays the total. A heavy one is spread over the round and does not come in a row.
fn smooth(weights: &[u32]) -> Vec<u32> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let mut weights: Vec<i64> = weights.iter().map(|weight| i64::from(weight / divisor)).collect();
    let mut total: i64 = weights.iter().sum();
    let longest = LONGEST_TURN.max(weights.len()) as i64;
    if total > longest {
        weights.iter_mut().filter(|weight| **weight > 0).for_each(|weight| {
            *weight = (*weight * longest / total).max(1);
        });
        total = weights.iter().sum();
    }
    let mut credit = vec![0; weights.len()];
    let turns = (0..total).filter_map(|_| {
        credit.iter_mut().zip(&weights).for_each(|(credit, weight)| *credit += weight);
        // The first of the richest, so that equals keep their order.
        let richest = (0..credit.len()).rev().max_by_key(|index| credit[*index])?;
        credit[richest] -= total;
        u32::try_from(richest).ok()
    });
    turns.collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// A point depends on its endpoint's address alone: when one comes or goes, only its keys move.
fn ring(endpoints: &[Arc<Endpoint>]) -> Vec<(u64, u32)> {
    let mut points = Vec::new();
    for (index, endpoint) in (0..).zip(endpoints) {
        let address = endpoint.address();
        let seed = u64::from(address.ip().to_bits()) << 16 | u64::from(address.port());
        let count = POINTS * endpoint.weight().min(100);
        points.extend((0..count).map(|point| (mix(mix(seed) ^ u64::from(point)), index)));
    }
    points.sort_unstable();
    points
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::net::{Ipv4Addr, SocketAddrV4};

    fn endpoints(weights: &[u32]) -> Vec<Arc<Endpoint>> {
        let with_weight = |(last, weight): (u8, &u32)| {
            let endpoint = Endpoint::new(SocketAddrV4::new(Ipv4Addr::new(10, 42, 0, last), 80), 0);
            endpoint.place(*weight, false);
            Arc::new(endpoint)
        };
        (1..).zip(weights).map(with_weight).collect()
    }

    fn hash(bound_percent: u32) -> Pick {
        Pick::Hash { on: super::super::HashOn::Client, bound_percent }
    }

    fn index(choice: &Choice, key: u64, open: usize, random: u64) -> usize {
        let picked = choice.choose(|_| true, |_| true, key, open, random).unwrap();
        choice.endpoints.iter().position(|endpoint| Arc::ptr_eq(endpoint, picked)).unwrap()
    }

    #[test]
    fn a_weighted_round_is_smooth() {
        for (weights, expected) in [
            (&[5, 1, 1][..], &[0, 0, 1, 0, 2, 0, 0][..]),
            (&[1, 1, 1], &[0, 1, 2]),
            (&[4, 2], &[0, 1, 0]),
            (&[0, 3], &[1]),
            (&[0, 0], &[]),
            (&[], &[]),
        ] {
            assert_eq!(smooth(weights), expected, "{weights:?}");
        }
        assert!(smooth(&[1_000_000, 1, 999_999]).len() <= LONGEST_TURN + 1);
    }

    #[test]
    fn the_faster_and_the_idler_of_two_is_taken() {
        let choice = Choice::new(endpoints(&[1, 1]), &Pick::LeastRequest);
        let [first, second] = &choice.endpoints[..] else { unreachable!("two were made") };
        first.measured(1000, 1);
        // Unmeasured: neither better nor worse.
        let share = (0..1000).filter(|n| index(&choice, 0, 0, mix(*n)) == 0).count();
        assert!((400..600).contains(&share), "{share}");
        second.measured(10_000, 1);
        assert!((0..100).all(|n| index(&choice, 0, 0, mix(n)) == 0));
        // Ten times as fast, but with twenty requests waiting.
        first.open.store(20, Ordering::Relaxed);
        assert!((0..100).all(|n| index(&choice, 0, 0, mix(n)) == 1));
    }

    #[test]
    fn keys_stay_when_an_endpoint_goes_and_shares_are_even() {
        let all = Choice::new(endpoints(&[1; 10]), &hash(125));
        let nine = Choice::new(endpoints(&[1; 9]), &hash(125));
        let mut counts = [0_u32; 10];
        for key in (0..10_000).map(mix) {
            let before = index(&all, key, 0, 0);
            counts[before] += 1;
            if before != 9 {
                assert_eq!(index(&nine, key, 0, 0), before);
            }
        }
        assert!(counts.iter().all(|count| (600..1500).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_hot_key_spills_over_at_the_bound() {
        let choice = Choice::new(endpoints(&[1; 4]), &hash(125));
        let home = index(&choice, 42, 0, 0);
        choice.endpoints[home].open.store(50, Ordering::Relaxed);
        // 1.25 times the fair share of 160 open requests is 51; of 100 it is 32.
        assert_eq!(index(&choice, 42, 160, 0), home);
        assert_ne!(index(&choice, 42, 100, 0), home);
        let unbounded = Choice::new(choice.endpoints.clone(), &hash(0));
        assert_eq!(index(&unbounded, 42, 100, 0), home);
    }

    proptest! {
        #[test]
        fn a_weighted_round_gives_each_its_weight(
            weights in prop::collection::vec(0_u32..50, 1..8)
        ) {
            let divisor = weights.iter().copied().fold(0, gcd).max(1);
            let mut counts: HashMap<u32, u32> = HashMap::new();
            smooth(&weights).into_iter().for_each(|index| *counts.entry(index).or_default() += 1);
            for (index, weight) in (0..).zip(&weights) {
                prop_assert_eq!(counts.get(&index).copied().unwrap_or(0), weight / divisor);
            }
        }

        #[test]
        fn who_may_be_had_is_found_and_nobody_else(
            may in prop::collection::vec(any::<bool>(), 0..12),
            how in 0..4_u8,
            random: u64,
        ) {
            let pick = match how {
                0 => Pick::LeastRequest,
                1 => Pick::RoundRobin,
                2 => Pick::Weighted,
                _ => hash(125),
            };
            let choice = Choice::new(endpoints(&vec![2; may.len()]), &pick);
            let admits = |endpoint: &Endpoint| may[usize::from(endpoint.address().ip().octets()[3]) - 1];
            for round in 0..4 {
                let picked = choice.choose(admits, |_| true, random, 3, mix(random ^ round));
                prop_assert_eq!(picked.is_some(), may.contains(&true));
                prop_assert!(picked.is_none_or(|endpoint| admits(endpoint)));
            }
        }
    }
}
