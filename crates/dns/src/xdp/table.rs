//! What the kernel's table holds, and the least that must be done for it to hold something else.
//!
//! A change of a cluster's names costs what that change is, whatever number of names there are: only
//! the keys of the small tables that changed are looked at again, those that lead elsewhere by an
//! alias, and what the names of a zone share. A written zone that changes is looked at as a whole.

use std::collections::{BTreeSet, HashMap};

use foldhash::fast::FixedState;

use super::kernel::XdpError;
use super::layout::Part;
use super::prepare::{Answer, Key, key, name_of, partner, prepare, shared};
use crate::query::kind;
use crate::zone::{Changed, Layers, SHARDS, shard_of};

/// Where answers are written to.
pub(super) trait Answers {
    /// Writes an answer, at its place where it has one; where it is then, `None` without room.
    /// `beside`: where the answer is that the name has for the other kind of address.
    fn put(
        &mut self,
        key: &Key,
        answer: &Answer,
        before: Option<Place>,
        beside: Option<Place>,
    ) -> Result<Option<Place>, XdpError>;

    /// Takes one out.
    fn remove(&mut self, key: &Key, place: Place) -> Result<(), XdpError>;

    /// Writes anew what the names of a zone share, which `make` says for an apex.
    fn refresh(&mut self, make: &dyn Fn(&[u8]) -> Option<Answer>) -> Result<(), XdpError>;
}

/// Where an answer stands in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub slot: u32,
    pub part: Part,
    pub body: Body,
}

/// Where its body stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// In the slot.
    Short,
    /// At a place of its own.
    Own(u32),
    /// At one that the zone of that number shares.
    Shared(usize),
}

/// An answer that is there.
#[derive(Clone, Copy, Debug)]
struct Held {
    digest: u64,
    place: Place,
}

/// The keys that are in the kernel, by the small table that their names would be in.
#[derive(Debug)]
pub(super) struct Table {
    held: Vec<HashMap<Key, Held, FixedState>>,
    /// Of those, the ones whose answers depend on other names.
    aliased: BTreeSet<Key>,
    len: usize,
    most: usize,
    /// What it is made of.
    seen: Layers,
    /// Where the next one that gives up its place is looked for.
    cursor: usize,
}

impl Table {
    /// An empty one of at most so many answers.
    pub(super) fn new(most: usize) -> Self {
        let held = vec![HashMap::default(); SHARDS];
        let seen = Layers::default();
        Self { held, aliased: BTreeSet::new(), len: 0, most, seen, cursor: 0 }
    }

    /// Makes it what `zone` says: first what is there already, then names that there is room for.
    pub(super) fn follow(&mut self, to: &mut impl Answers, zone: &Layers) -> Result<(), XdpError> {
        let changed = zone.changed_since(&self.seen);
        self.seen = zone.clone();
        let shards: Vec<usize> = match &changed {
            Changed::All => (0..SHARDS).collect(),
            Changed::Shards(shards) => shards.clone(),
        };
        // One that could not be written is told of once the others are.
        let mut told = Ok(());
        let keys = shards.iter().flat_map(|shard| self.held[*shard].keys());
        let keys: Vec<Key> = keys.chain(&self.aliased).copied().collect();
        for key in keys {
            told = self.look(to, zone, &key).and(told);
        }
        told = to.refresh(&|apex| shared(zone, apex)).and(told);
        told?;
        // What is there comes before what is not, where both have no room.
        for kinds in [own_kinds, missing_kinds] {
            match &changed {
                Changed::All => {
                    for (name, own) in zone.tables().flat_map(|names| names.questions()) {
                        self.fill(to, zone, name, kinds(&own))?;
                    }
                }
                Changed::Shards(shards) => {
                    for (name, own) in zone.questions_in(shards) {
                        self.fill(to, zone, name, kinds(&own))?;
                    }
                }
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
        if self.held[shard_of(name_of(key))].contains_key(key) {
            return Ok(());
        }
        let Some(answer) = prepare(zone, key) else { return Ok(()) };
        // Any but those that come with it: one that is asked for comes back within a second.
        if self.len >= self.most
            && let Some(other) = self.other_than(beside)
        {
            self.remove(to, &other)?;
        }
        if self.len < self.most {
            self.put(to, key, &answer)?;
        }
        Ok(())
    }

    /// Looks at a key that is held.
    fn look(&mut self, to: &mut impl Answers, zone: &Layers, key: &Key) -> Result<(), XdpError> {
        let Some(held) = self.held[shard_of(name_of(key))].get(key) else { return Ok(()) };
        let done = match prepare(zone, key) {
            Some(answer) if answer.digest() == held.digest => return Ok(()),
            // A name that is gone leaves its place to others; asked for often, it is learned.
            Some(answer) if !answer.says_no_name() => self.put(to, key, &answer),
            _ => self.remove(to, key),
        };
        // What could not be written must not stay as it was: it is taken out.
        if done.is_err() {
            drop(self.remove(to, key));
        }
        done
    }

    fn fill(
        &mut self,
        to: &mut impl Answers,
        zone: &Layers,
        name: &[u8],
        kinds: Vec<u16>,
    ) -> Result<(), XdpError> {
        for kind in kinds {
            if self.len < self.most
                && let Some(key) = key(name, kind)
                && !self.held[shard_of(name)].contains_key(&key)
                && let Some(answer) = prepare(zone, &key)
            {
                self.put(to, &key, &answer)?;
            }
        }
        Ok(())
    }

    /// Some key that is held and not among `beside`.
    fn other_than(&mut self, beside: &[(Key, u64)]) -> Option<Key> {
        for step in 0..SHARDS {
            let shard = (self.cursor + step) % SHARDS;
            let mut keys = self.held[shard].keys();
            let other = keys.find(|key| beside.iter().all(|(new, _)| new != *key)).copied();
            if other.is_some() {
                self.cursor = shard + 1;
                return other;
            }
        }
        None
    }

    fn put(&mut self, to: &mut impl Answers, key: &Key, answer: &Answer) -> Result<(), XdpError> {
        let held = &mut self.held[shard_of(name_of(key))];
        let before = held.get(key).map(|held| held.place);
        let beside = partner(key).and_then(|other| held.get(&other)).map(|held| held.place);
        match to.put(key, answer, before, beside)? {
            Some(place) => {
                held.insert(*key, Held { digest: answer.digest(), place });
                self.len += usize::from(before.is_none());
                match answer.aliased {
                    true => self.aliased.insert(*key),
                    false => self.aliased.remove(key),
                };
            }
            None => self.forget(key),
        }
        Ok(())
    }

    fn remove(&mut self, to: &mut impl Answers, key: &Key) -> Result<(), XdpError> {
        let held = self.held[shard_of(name_of(key))].get(key).copied();
        self.forget(key);
        held.map_or(Ok(()), |held| to.remove(key, held.place))
    }

    fn forget(&mut self, key: &Key) {
        self.aliased.remove(key);
        let was = self.held[shard_of(name_of(key))].remove(key);
        self.len -= usize::from(was.is_some());
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::facts::{Addressing, EndpointFacts, Facts, ServiceFacts, SliceFacts};
    use crate::name::{Domain, encode};
    use crate::zone::{Change, Clusters, Policies, file};

    /// Remembers what it was told, and how often.
    #[derive(Default)]
    struct Counting {
        held: BTreeMap<Key, Answer>,
        puts: usize,
        refreshed: usize,
    }

    impl Answers for Counting {
        fn put(
            &mut self,
            key: &Key,
            answer: &Answer,
            before: Option<Place>,
            _: Option<Place>,
        ) -> Result<Option<Place>, XdpError> {
            let known = self.held.insert(*key, answer.clone()).is_some();
            assert_eq!(known, before.is_some());
            self.puts += 1;
            Ok(Some(Place { slot: 0, part: Part::Own, body: Body::Short }))
        }

        fn remove(&mut self, key: &Key, _: Place) -> Result<(), XdpError> {
            assert!(self.held.remove(key).is_some(), "only what is there goes");
            Ok(())
        }

        fn refresh(&mut self, make: &dyn Fn(&[u8]) -> Option<Answer>) -> Result<(), XdpError> {
            for answer in self.held.values_mut() {
                let Some(after) = answer.apex().and_then(make) else { continue };
                answer.body = after.body;
                self.refreshed += 1;
            }
            Ok(())
        }
    }

    impl Counting {
        fn check(&self, zone: &Layers) {
            for (key, answer) in &self.held {
                assert_eq!(Some(answer), prepare(zone, key).as_ref());
            }
        }
    }

    fn key_of(name: &str, kind: u16) -> Key {
        key(&encode(name).expect("a name"), kind).expect("short")
    }

    fn service(number: u32, kind: Addressing) -> Change {
        let facts = ServiceFacts {
            namespace: "default".into(),
            name: format!("s{number}"),
            kind,
            ports: vec![],
            policy: None,
        };
        Change::Service(format!("default/s{number}"), Some(facts))
    }

    fn slice(number: u32, last: u8) -> Change {
        let [_, a, b, c] = number.to_be_bytes();
        let endpoint = |ip: [u8; 4]| EndpointFacts { addresses: vec![ip.into()], hostname: None };
        let facts = SliceFacts {
            namespace: "default".into(),
            service: format!("s{number}"),
            ports: vec![],
            endpoints: vec![endpoint([10, a, b, c]), endpoint([11, a, b, last])],
        };
        Change::Slice(format!("default/s{number}-1"), Some(facts))
    }

    fn clusters(services: u32) -> Clusters {
        let domains = vec![Domain::parse("cluster.local").expect("a domain")];
        let mut all = Clusters::new(domains, Policies::new(), vec![(Facts::default(), 0)]);
        let services = (0..services).flat_map(|n| [service(n, Addressing::Headless), slice(n, 1)]);
        all.apply(0, services.collect());
        all
    }

    #[test]
    fn an_endpoint_that_changes_costs_its_own_answers() {
        let mut written = Vec::new();
        for services in [100, 4000] {
            let mut clusters = clusters(services);
            let (mut table, mut kernel) = (Table::new(1_000_000), Counting::default());
            let before = Layers::default().with_clusters(&clusters);
            table.follow(&mut kernel, &before).expect("written");
            assert!(kernel.held.len() as u32 > 6 * services);
            kernel.puts = 0;
            clusters.apply(0, vec![slice(7, 2)]);
            let after = before.with_clusters(&clusters);
            table.follow(&mut kernel, &after).expect("written");
            kernel.check(&after);
            let answer = &kernel.held[&key_of("s7.default.svc.cluster.local", kind::A)];
            assert!(answer.body.ends_with(&[11, 0, 0, 2]));
            written.push(kernel.puts);
        }
        assert_eq!(written[0], written[1], "whatever number of Services there are");
        assert!(written[0] < 12, "{written:?}");
    }

    #[test]
    fn who_leads_elsewhere_is_looked_at_when_that_changes() {
        let mut clusters = clusters(50);
        clusters.apply(
            0,
            vec![service(77, Addressing::External("s3.default.svc.cluster.local".into()))],
        );
        let (mut table, mut kernel) = (Table::new(1000), Counting::default());
        let before = Layers::default().with_clusters(&clusters);
        table.follow(&mut kernel, &before).expect("written");
        let key = key_of("s77.default.svc.cluster.local", kind::A);
        table.take_in(&mut kernel, &before, &key, &[]).expect("written");
        assert_eq!(kernel.held[&key].counts[0], 3, "the alias and two addresses");
        clusters.apply(0, vec![slice(3, 9)]);
        let after = before.with_clusters(&clusters);
        table.follow(&mut kernel, &after).expect("written");
        kernel.check(&after);
        assert!(kernel.held[&key].body.windows(4).any(|ip| ip == [11, 0, 0, 9]));
    }

    #[test]
    fn a_full_table_stays_within_its_bounds() {
        let text = "$ORIGIN example.org.\n$TTL 300\n@ SOA ns admin 1 7200 1800 86400 60\n@ NS ns\n\
            ns A 192.0.2.53\n*.wild A 10.1.1.1\none A 192.0.2.1\ntwo A 192.0.2.2\n";
        let (read, _) = file::read(text.as_bytes(), None).expect("a zone");
        let zone = Layers::default().with_written(&[Arc::new(read)], &Policies::new());
        let (mut table, mut kernel) = (Table::new(5), Counting::default());
        table.follow(&mut kernel, &zone).expect("written");
        assert_eq!(kernel.held.len(), 5);
        let new = key_of("new.wild.example.org", kind::A);
        assert!(prepare(&zone, &new).is_some());
        table.take_in(&mut kernel, &zone, &new, &[]).expect("written");
        assert!(kernel.held.len() == 5 && kernel.held.contains_key(&new));
    }
}
