//! Which slot a name stands in: pure, the slots themselves are the kernel's.
//!
//! A name stands in its own slot, which its hash says, or in the first free one of those behind it.
//! The program looks on as long as a slot says that somebody went past it: so an unknown name costs
//! one slot as a rule, and a name that goes leaves no mark behind. Names never move.
//!
//! Idea: linear probing (Knuth, The Art of Computer Programming, vol. 3, §6.4), with counts of who
//! went past in place of tombstones.

/// Slots from a name's own on that it may stand in. The program looks at no more.
pub(super) const STEPS: usize = 24;

/// Which slots are taken.
#[derive(Debug)]
pub(super) struct Places {
    taken: Vec<bool>,
    /// How many names went past each, that are there still.
    past: Vec<u32>,
}

/// A slot, and others whose mark of being passed has changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub slot: u32,
    pub marks: Vec<(u32, bool)>,
}

impl Places {
    /// So many slots, of which the last [`STEPS`] are no name's own.
    pub(super) fn new(slots: u32) -> Self {
        let slots = (slots as usize).max(STEPS + 1);
        Self { taken: vec![false; slots], past: vec![0; slots] }
    }

    /// A slot for a name; `None` where all that it may stand in are taken.
    pub(super) fn take(&mut self, hash: u32) -> Option<Step> {
        let away = (0..STEPS).find(|away| !self.taken[self.at(hash, *away)])?;
        let slot = self.at(hash, away);
        self.taken[slot] = true;
        let mut marks = Vec::new();
        for step in 0..away {
            let at = self.at(hash, step);
            self.past[at] += 1;
            if self.past[at] == 1 {
                marks.push((at as u32, true));
            }
        }
        Some(Step { slot: slot as u32, marks })
    }

    /// Gives the slot of a name back.
    pub(super) fn leave(&mut self, hash: u32, slot: u32) -> Step {
        let mut marks = Vec::new();
        for step in 0..STEPS {
            let at = self.at(hash, step);
            if at as u32 == slot {
                break;
            }
            self.past[at] = self.past[at].saturating_sub(1);
            if self.past[at] == 0 {
                marks.push((at as u32, false));
            }
        }
        if let Some(taken) = self.taken.get_mut(slot as usize) {
            *taken = false;
        }
        Step { slot, marks }
    }

    /// Whether somebody went past.
    pub(super) fn is_past(&self, slot: u32) -> bool {
        self.past.get(slot as usize).is_some_and(|past| *past > 0)
    }

    fn at(&self, hash: u32, away: usize) -> usize {
        let own = self.taken.len() - STEPS;
        ((u64::from(hash) * own as u64) >> 32) as usize + away
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the program looks: where `hash` stands among `held`.
    fn look(places: &Places, held: &[(u32, u32)], hash: u32) -> Option<u32> {
        for away in 0..STEPS {
            let slot = places.at(hash, away) as u32;
            if held.contains(&(hash, slot)) {
                return Some(slot);
            }
            if !places.is_past(slot) {
                return None;
            }
        }
        None
    }

    #[test]
    fn whoever_has_a_slot_is_found_whatever_came_and_went() {
        let mut places = Places::new(128 + STEPS as u32);
        let (mut held, mut random): (Vec<(u32, u32)>, u64) = (vec![], 7);
        for _ in 0..20_000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let hash = (random >> 32) as u32;
            if held.len() > 32 || random.is_multiple_of(3) && !held.is_empty() {
                let (hash, slot) = held.swap_remove(random as usize % held.len());
                places.leave(hash, slot);
            } else if !held.iter().any(|(known, _)| *known == hash) {
                let step = places.take(hash).expect("most of them are free");
                held.push((hash, step.slot));
            }
            assert!(held.iter().all(|(hash, slot)| look(&places, &held, *hash) == Some(*slot)));
        }
        for (hash, slot) in held {
            places.leave(hash, slot);
        }
        assert!(places.past.iter().all(|past| *past == 0), "nothing is left behind");
    }

    #[test]
    fn names_of_one_hash_have_so_many_slots_and_no_more() {
        let mut places = Places::new(100 + STEPS as u32);
        const LAST: u32 = (99.5 / 100.0 * 4_294_967_296.0) as u32;
        let first = places.take(LAST).expect("all are free");
        assert_eq!(first, Step { slot: 99, marks: vec![] });
        assert_eq!(places.take(LAST).map(|step| step.marks), Some(vec![(99, true)]));
        assert_eq!(
            places.take(LAST).map(|step| (step.slot, step.marks)),
            Some((101, vec![(100, true)]))
        );
        let more = std::iter::from_fn(|| places.take(LAST)).count();
        assert_eq!(more, STEPS - 3);
        assert_eq!(places.leave(LAST, 99), Step { slot: 99, marks: vec![] });
    }
}
