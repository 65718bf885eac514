//! The best of many keys under single changes: a tournament tree.

/// Keys by index; the greatest wins, the lowest index among equals. 0 never wins.
#[derive(Clone, Debug, Default)]
pub struct Tournament {
    keys: Vec<u64>,
    /// `winners[1]` is the root; the children of `i` are `2i` and `2i + 1`.
    winners: Vec<u32>,
    base: usize,
}

impl Tournament {
    /// Over these keys.
    pub fn new(keys: Vec<u64>) -> Self {
        let base = keys.len().next_power_of_two().max(2) / 2;
        let mut all = Self { keys, winners: vec![0; base * 2], base };
        for place in (1..base * 2).rev() {
            all.winners[place] = all.better(place);
        }
        all
    }

    /// Changes one key.
    pub fn set(&mut self, index: usize, key: u64) {
        if self.keys[index] == key {
            return;
        }
        self.keys[index] = key;
        let mut place = self.base + index / 2;
        while place > 0 {
            let winner = self.better(place);
            let unmoved = self.winners[place] == winner && winner as usize != index;
            self.winners[place] = winner;
            if unmoved {
                return;
            }
            place /= 2;
        }
    }

    /// The index of the best key; none when all are 0.
    pub fn best(&self) -> Option<usize> {
        let winner = self.winners.get(1).copied()? as usize;
        (self.keys.get(winner).copied()? > 0).then_some(winner)
    }

    fn better(&self, place: usize) -> u32 {
        let (left, right) = if place >= self.base {
            let first = (place - self.base) * 2;
            (first as u32, first as u32 + 1)
        } else {
            (self.winners[place * 2], self.winners[place * 2 + 1])
        };
        let key = |index: u32| self.keys.get(index as usize).copied().unwrap_or(0);
        if key(right) > key(left) { right } else { left }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greatest_key_wins_after_any_change() {
        for count in 1..40_usize {
            let mut keys = vec![0_u64; count];
            let mut tree = Tournament::new(keys.clone());
            assert_eq!(tree.best(), None);
            let mut seed = count as u64;
            for _ in 0..300 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let (index, key) = ((seed >> 33) as usize % count, (seed >> 20) % 5);
                keys[index] = key;
                tree.set(index, key);
                let most = keys.iter().copied().max().unwrap();
                let first = keys.iter().position(|key| *key == most);
                assert_eq!(tree.best(), first.filter(|_| most > 0));
            }
        }
    }
}
