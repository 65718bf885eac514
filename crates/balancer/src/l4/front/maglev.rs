//! A table that says which backend a hash belongs to: even, and little changed by a change.
//!
//! Each backend has an order of its own in which it would like the slots; they take turns, by
//! weight, until all slots are taken. The same backends give the same table, on every machine and
//! in whatever order they are named.
//!
//! Source: Eisenbud and others, "Maglev: A Fast and Reliable Software Network Load Balancer"
//! (NSDI 2016) §3.4; the weights as Envoy takes them.

/// How many slots there are: a prime, a hundred times more than backends that a service has.
pub const SLOTS: usize = 16_381;
/// No backend.
pub const NONE: u16 = u16::MAX;

/// What has a part of the slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share {
    /// What it is known by to every machine.
    pub identity: u64,
    /// Its part; 0 for none.
    pub weight: u16,
    /// What stands in its slots.
    pub number: u16,
}

/// The table of these shares; all [`NONE`] where nobody has any weight.
pub fn table(shares: &[Share]) -> Vec<u16> {
    let mut slots = vec![NONE; SLOTS];
    let mut shares: Vec<Share> = shares.iter().copied().filter(|share| share.weight > 0).collect();
    shares.sort_unstable();
    let Some(most) = shares.iter().map(|share| u64::from(share.weight)).max() else { return slots };
    let mut takers: Vec<Taker> = shares.iter().map(Taker::new).collect();
    let mut taken = 0;
    for round in 1u64.. {
        for (taker, share) in takers.iter_mut().zip(&shares) {
            // The heaviest takes one slot a round, another one as often as its weight is to that.
            if round * u64::from(share.weight) < taker.due {
                continue;
            }
            taker.due += most;
            let Some(slot) = taker.next(&slots) else { return slots };
            slots[slot] = share.number;
            taken += 1;
            if taken == SLOTS {
                return slots;
            }
        }
    }
    slots
}

/// Walks through the slots in an order of its own.
struct Taker {
    at: usize,
    skip: usize,
    due: u64,
}

impl Taker {
    fn new(share: &Share) -> Self {
        let (one, two) = (mixed(share.identity), mixed(share.identity ^ 0x6265_7274_6866_726F));
        let at = (one % SLOTS as u64) as usize;
        // From 1 to SLOTS - 1: with a prime number of slots each step comes to all of them.
        let skip = (two % (SLOTS as u64 - 1)) as usize + 1;
        Self { at, skip, due: 1 }
    }

    fn next(&mut self, slots: &[u16]) -> Option<usize> {
        for _ in 0..SLOTS {
            let slot = self.at;
            self.at = (self.at + self.skip) % SLOTS;
            if slots[slot] == NONE {
                return Some(slot);
            }
        }
        None
    }
}

/// splitmix64's last steps: neighbouring addresses begin far from each other.
fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(count: u16) -> Vec<Share> {
        let share = |number| Share { identity: 0x0A00_0000 + u64::from(number), weight: 1, number };
        (0..count).map(share).collect()
    }

    fn parts(table: &[u16], count: u16) -> Vec<usize> {
        let of = |number| table.iter().filter(|slot| **slot == number).count();
        (0..count).map(of).collect()
    }

    #[test]
    fn parts_are_even() {
        for count in [1, 2, 3, 10, 100] {
            let parts = parts(&table(&shares(count)), count);
            let (least, most) = (parts.iter().min(), parts.iter().max());
            let spread = most.expect("one") - least.expect("one");
            assert!(spread <= 1, "{count} backends: {spread}");
            assert_eq!(parts.iter().sum::<usize>(), SLOTS);
        }
    }

    #[test]
    fn one_that_goes_moves_its_own_and_few_others() {
        for count in [3u16, 10, 50] {
            let all = shares(count);
            let before = table(&all);
            let fewer: Vec<_> = all.iter().copied().filter(|share| share.number != 1).collect();
            let after = table(&fewer);
            let kept = before.iter().zip(&after).filter(|(before, _)| **before != 1);
            let moved = kept.filter(|(before, after)| before != after).count();
            // The paper's figure 12: a few of a hundred with as many slots as here.
            let share = moved as f64 / SLOTS as f64;
            assert!(share < 0.06, "{count} backends: {share} moved besides");
            assert!(after.iter().all(|slot| *slot != 1));
        }
    }

    #[test]
    fn one_that_comes_takes_its_part_and_little_else_moves() {
        for count in [3u16, 10, 50] {
            let (before, after) = (table(&shares(count)), table(&shares(count + 1)));
            let moved = before.iter().zip(&after).filter(|(one, two)| one != two).count();
            let part = SLOTS / usize::from(count + 1);
            assert!(moved >= part && moved < part + SLOTS / 16, "{count}: {moved}, {part}");
        }
    }

    #[test]
    fn weights_are_kept_and_nothing_weighs_nothing() {
        let mut all = shares(4);
        (all[0].weight, all[1].weight, all[2].weight, all[3].weight) = (4, 2, 1, 0);
        let parts = parts(&table(&all), 4);
        let of = |index: usize| parts[index] as f64 / SLOTS as f64 * 7.0;
        assert!((of(0) - 4.0).abs() < 0.01 && (of(1) - 2.0).abs() < 0.01, "{parts:?}");
        assert_eq!(parts[3], 0);
        assert!(table(&[]).iter().all(|slot| *slot == NONE));
        assert!(table(&all[3..]).iter().all(|slot| *slot == NONE));
    }

    #[test]
    fn the_order_of_naming_does_not_matter() {
        let mut other = shares(7);
        other.reverse();
        assert_eq!(table(&shares(7)), table(&other));
    }
}
