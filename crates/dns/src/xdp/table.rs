//! What the kernel's table holds, and the least that must be done for it to hold something else.

use std::collections::HashMap;
use std::hash::BuildHasher;

use foldhash::fast::FixedState;

use super::kernel::XdpError;
use super::prepare::{Answer, Key, key, prepare, says_no_name};
use crate::query::kind;
use crate::zone::{Layers, Zone};

/// Where answers are written to.
pub(super) trait Answers {
    fn put(&mut self, key: &Key, answer: Answer) -> Result<(), XdpError>;
    fn remove(&mut self, key: &Key) -> Result<(), XdpError>;
}

/// The keys that are in the kernel, each with a hash of its answer.
#[derive(Debug)]
pub(super) struct Table {
    held: HashMap<Key, u64, FixedState>,
    most: usize,
}

impl Table {
    /// An empty one of at most so many answers.
    pub(super) fn new(most: usize) -> Self {
        Self { held: HashMap::default(), most }
    }

    /// Makes it what `zone` says: first what is there already, then names that there is room for.
    pub(super) fn follow(&mut self, to: &mut impl Answers, zone: &Layers) -> Result<(), XdpError> {
        let mut told = Ok(());
        self.held.retain(|key, hash| {
            let done = match prepare(zone, key) {
                Some(answer) if hash_of(&answer) == *hash => return true,
                // A name that is gone leaves its place to others; asked for often, it is learned.
                Some(answer) if says_no_name(&answer) => to.remove(key).map(|()| false),
                Some(answer) => {
                    *hash = hash_of(&answer);
                    to.put(key, answer).map(|()| true)
                }
                None => to.remove(key).map(|()| false),
            };
            // What could not be written must not stay as it was: it is taken out.
            done.unwrap_or_else(|error| {
                drop(to.remove(key));
                told = Err(error);
                false
            })
        });
        told?;
        // What is there comes before what is not, where both have no room.
        for kinds in [own_kinds, missing_kinds] {
            for names in zone.tables() {
                self.fill(to, zone, names, kinds)?;
            }
        }
        Ok(())
    }

    /// Puts an answer in; where there is no room, another one goes.
    pub(super) fn take_in(
        &mut self,
        to: &mut impl Answers,
        zone: &Layers,
        key: &Key,
        beside: &[(Key, u64)],
    ) -> Result<(), XdpError> {
        if self.held.contains_key(key) {
            return Ok(());
        }
        let Some(answer) = prepare(zone, key) else { return Ok(()) };
        if self.held.len() >= self.most
            // Any but those that come with it: one that is asked for comes back within a second.
            && let Some(other) =
                self.held.keys().find(|key| beside.iter().all(|(new, _)| new != *key)).copied()
        {
            to.remove(&other)?;
            self.held.remove(&other);
        }
        self.put(to, key, answer)
    }

    fn fill(
        &mut self,
        to: &mut impl Answers,
        zone: &Layers,
        names: &Zone,
        kinds: fn(&[u16]) -> Vec<u16>,
    ) -> Result<(), XdpError> {
        for (name, own) in names.questions() {
            for kind in kinds(&own) {
                if self.held.len() >= self.most {
                    return Ok(());
                }
                if let Some(key) = key(name, kind)
                    && !self.held.contains_key(&key)
                    && let Some(answer) = prepare(zone, &key)
                {
                    self.put(to, &key, answer)?;
                }
            }
        }
        Ok(())
    }

    fn put(&mut self, to: &mut impl Answers, key: &Key, answer: Answer) -> Result<(), XdpError> {
        to.put(key, answer)?;
        self.held.insert(*key, hash_of(&answer));
        Ok(())
    }
}

/// The types that a name has.
fn own_kinds(own: &[u16]) -> Vec<u16> {
    own.to_vec()
}

/// The types that are asked for with them: who asks for one kind of address asks for the other.
fn missing_kinds(own: &[u16]) -> Vec<u16> {
    let has = |kind| own.contains(&kind);
    let addressed = has(kind::A) || has(kind::AAAA) || has(kind::CNAME);
    [kind::A, kind::AAAA].into_iter().filter(|kind| addressed && !has(*kind)).collect()
}

fn hash_of(answer: &Answer) -> u64 {
    FixedState::default().hash_one(answer)
}
