//! What is found of every address, as pages of changes for those who follow (`berth_api::found`).
//!
//! Kept by what differs: a tick that finds nothing new compares a number an endpoint, a change
//! costs what the addresses cost that it concerns. Of several endpoints with one address (its ports,
//! the routes that lead to it) the greatest finding counts. That too few are left, so that requests
//! go to all again, is no finding: who follows decides that for himself.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use berth_api::found::{Address, Finding, LONGEST_WHY, PAGE, Page};
use tokio::sync::watch;

use crate::l7::pick::{BackendSet, Endpoint};

/// Addresses that are gone are told so as long as they are among so many; who was away for longer
/// is told everything.
const MOST_GONE: usize = 4096;

/// Of one process.
#[derive(Debug)]
pub(crate) struct Findings {
    known: Mutex<Known>,
    /// The newest revision.
    newest: watch::Sender<u64>,
    /// Tells revisions of this process from those of another.
    process: u64,
}

#[derive(Debug, Default)]
struct Known {
    endpoints: HashMap<Ipv4Addr, Vec<Arc<Endpoint>>>,
    told: HashMap<Ipv4Addr, Told>,
    /// Each address once, by the revision of its last change.
    changes: BTreeMap<u64, Ipv4Addr>,
    newest: u64,
    gone: usize,
    /// Up to here it is not known any more what went.
    forgotten: u64,
}

/// What is told of an address; of one that is gone, nothing.
#[derive(Debug)]
struct Told {
    revision: u64,
    finding: Option<Finding>,
    why: Option<String>,
}

impl Default for Findings {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            newest: watch::Sender::new(0),
            process: RandomState::new().build_hasher().finish(),
        }
    }
}

impl Findings {
    /// Takes `now` in the place of `before`, which are the sets of one who checks.
    pub(super) fn follow(&self, before: &[Arc<BackendSet>], now: &[Arc<BackendSet>], now_us: u64) {
        // Most stand where they stood. A set may be there for several routes: each time counts.
        let mut differ = HashMap::<usize, (i32, &Arc<BackendSet>)>::new();
        let mut count = |set, by| {
            differ.entry(Arc::as_ptr(set) as usize).or_insert((0, set)).0 += by;
        };
        for place in 0..before.len().max(now.len()) {
            match (before.get(place), now.get(place)) {
                (Some(one), Some(other)) if Arc::ptr_eq(one, other) => {}
                (one, other) => {
                    one.into_iter().for_each(|set| count(set, -1));
                    other.into_iter().for_each(|set| count(set, 1));
                }
            }
        }
        differ.retain(|_, (by, _)| *by != 0);
        if differ.is_empty() {
            return;
        }
        let mut known = self.known.lock().expect("no holder of the lock panics");
        let mut concerned = Vec::new();
        for (by, set) in differ.values() {
            for endpoint in set.endpoints() {
                for _ in 0..by.abs() {
                    if *by > 0 { known.come(endpoint) } else { known.leave(endpoint) }
                }
                concerned.push(*endpoint.address().ip());
            }
        }
        self.tell(&mut known, concerned, now_us);
    }

    /// Takes in what became of the set's endpoints.
    pub(super) fn look_at(&self, set: &BackendSet, now_us: u64) {
        let news = set.endpoints().filter(|endpoint| endpoint.has_news(now_us));
        let concerned: Vec<_> = news.map(|endpoint| *endpoint.address().ip()).collect();
        if !concerned.is_empty() {
            let mut known = self.known.lock().expect("no holder of the lock panics");
            self.tell(&mut known, concerned, now_us);
        }
    }

    fn tell(&self, known: &mut Known, mut concerned: Vec<Ipv4Addr>, now_us: u64) {
        concerned.sort_unstable();
        concerned.dedup();
        for address in concerned {
            known.decide(address, now_us);
        }
        known.forget();
        let newest = known.newest;
        self.newest.send_if_modified(|told| std::mem::replace(told, newest) != newest);
    }

    /// What changed since a revision; none where nothing did.
    pub(super) fn page(&self, since: &str) -> Option<Page> {
        let known = self.known.lock().expect("no holder of the lock panics");
        let since = self.read(since).filter(|(since, heard)| {
            *since <= known.newest && (*since).max(*heard) >= known.forgotten
        });
        let whole = since.is_none();
        let (since, heard) = since.unwrap_or((0, known.newest));
        let changed = known.changes.range(since + 1..).filter_map(|(revision, address)| {
            let told = known.told.get(address)?;
            // Who knows nothing need not hear what is gone.
            (!whole || told.finding.is_some()).then_some((*revision, *address, told))
        });
        let (mut last, mut more, mut addresses) = (since, false, Vec::new());
        for (revision, address, told) in changed {
            more = addresses.len() == PAGE;
            if more {
                break;
            }
            last = revision;
            let (finding, why) = (told.finding, told.why.clone());
            addresses.push(Address { address: address.into(), finding, why });
        }
        let last = if more { last } else { known.newest };
        let revision = self.written(last, heard.max(since));
        (whole || !addresses.is_empty()).then_some(Page { revision, whole, more, addresses })
    }

    /// Waits until there is something to tell.
    pub(super) async fn next(&self, since: &str) -> Page {
        let mut newest = self.newest.subscribe();
        loop {
            newest.mark_unchanged();
            if let Some(page) = self.page(since) {
                return page;
            }
            if newest.changed().await.is_err() {
                // It is in this very struct.
                std::future::pending::<()>().await;
            }
        }
    }

    /// That nothing changed since a revision.
    pub(super) fn nothing(&self, since: &str) -> Page {
        Page { revision: since.to_owned(), whole: false, more: false, addresses: Vec::new() }
    }

    /// A revision: told up to the first number. Up to the second it is not needed to be told what
    /// is gone: then, at a first page, nothing of it was told yet.
    fn written(&self, since: u64, heard: u64) -> String {
        format!("{:016x}.{since}.{heard}", self.process)
    }

    fn read(&self, text: &str) -> Option<(u64, u64)> {
        let mut parts = text.split('.');
        let process = u64::from_str_radix(parts.next()?, 16).ok()?;
        let (since, heard) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        (process == self.process && parts.next().is_none()).then_some((since, heard))
    }
}

impl Known {
    fn come(&mut self, endpoint: &Arc<Endpoint>) {
        self.endpoints.entry(*endpoint.address().ip()).or_default().push(endpoint.clone());
    }

    fn leave(&mut self, endpoint: &Arc<Endpoint>) {
        let address = endpoint.address();
        let Some(there) = self.endpoints.get_mut(address.ip()) else { return };
        // It may stand in a later set too, as the very same: once is taken away.
        if let Some(at) = there.iter().position(|known| Arc::ptr_eq(known, endpoint)) {
            there.swap_remove(at);
        }
        if there.is_empty() {
            self.endpoints.remove(address.ip());
        }
    }

    /// Says anew what is found of an address, if that is another thing.
    fn decide(&mut self, address: Ipv4Addr, now_us: u64) {
        let found = self.endpoints.get(&address).into_iter().flatten();
        let found = found.map(|endpoint| endpoint.finding(now_us));
        let found = found.max_by_key(|(finding, _)| *finding);
        let (finding, why) = found.map_or((None, None), |(finding, why)| (Some(finding), why));
        let before = self.told.get(&address);
        if before.and_then(|told| told.finding) == finding {
            return;
        }
        if let Some(before) = before {
            self.changes.remove(&before.revision);
            self.gone -= usize::from(before.finding.is_none());
        }
        self.newest += 1;
        self.gone += usize::from(finding.is_none());
        let why = why.map(|why| {
            let printed = why.chars().filter(|c| matches!(c, ' '..='~'));
            printed.take(LONGEST_WHY).collect()
        });
        self.told.insert(address, Told { revision: self.newest, finding, why });
        self.changes.insert(self.newest, address);
    }

    /// Drops the oldest that are gone while they are too many.
    fn forget(&mut self) {
        if self.gone <= MOST_GONE {
            return;
        }
        let gone = |(_, address): &(&u64, &Ipv4Addr)| {
            self.told.get(*address).is_some_and(|told| told.finding.is_none())
        };
        // Half of them, so that the next ones do not bring this about again at once.
        let oldest = self.changes.iter().filter(gone).take(MOST_GONE / 2);
        let oldest: Vec<_> = oldest.map(|(revision, address)| (*revision, *address)).collect();
        for (revision, address) in oldest {
            self.changes.remove(&revision);
            self.told.remove(&address);
            self.gone -= 1;
            self.forgotten = revision;
        }
    }
}

#[cfg(test)]
mod tests;
