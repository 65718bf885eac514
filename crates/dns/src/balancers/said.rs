//! What each balancer said, and the flag of each address that somebody wants to know of.
//!
//! One table for the process: it is about addresses, whoever serves them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, Weak};

use berth_api::found::{Finding, Page};
use foldhash::fast::RandomState;
use tokio::sync::watch;

use super::wire::AskError;

/// Addresses of one balancer that are kept at most.
const MOST: usize = 500_000;

/// One address, and whether balancers find it down.
#[derive(Debug)]
pub(crate) struct Found {
    down: AtomicBool,
}

#[derive(Debug, Default)]
struct All {
    flags: HashMap<IpAddr, Weak<Found>, RandomState>,
    /// By who listened.
    said: HashMap<u64, Findings>,
}

type Findings = HashMap<IpAddr, Finding, RandomState>;

static ALL: LazyLock<Mutex<All>> = LazyLock::new(Mutex::default);
/// Whether there are flags.
static WANTED: LazyLock<watch::Sender<bool>> = LazyLock::new(watch::Sender::default);

fn all() -> MutexGuard<'static, All> {
    ALL.lock().expect("no holder of the lock panics")
}

impl Found {
    /// The one of that address.
    pub(crate) fn of(ip: IpAddr) -> Arc<Self> {
        let mut all = all();
        if let Some(known) = all.flags.get(&ip).and_then(Weak::upgrade) {
            return known;
        }
        let new = Arc::new(Self { down: AtomicBool::new(all.is_down(ip)) });
        all.flags.insert(ip, Arc::downgrade(&new));
        // Under the lock, as when it is taken down.
        WANTED.send_if_modified(|wanted| !std::mem::replace(wanted, true));
        new
    }

    /// Whether it may be given.
    pub(crate) fn is_up(&self) -> bool {
        !self.down.load(Ordering::Relaxed)
    }
}

impl All {
    fn is_down(&self, ip: IpAddr) -> bool {
        let said = self.said.values().filter_map(|findings| findings.get(&ip));
        said.max().is_some_and(|finding| finding.is_down())
    }

    /// Sets the flags of these anew.
    fn decide(&self, ips: impl Iterator<Item = IpAddr>) {
        for ip in ips {
            let Some(flag) = self.flags.get(&ip).and_then(Weak::upgrade) else { continue };
            let down = self.is_down(ip);
            if flag.down.swap(down, Ordering::Relaxed) != down {
                match down {
                    true => tracing::info!(%ip, "balancers find it down, not given any more"),
                    false => tracing::info!(%ip, "balancers do not find it down any more"),
                }
            }
        }
    }
}

/// Whether somebody wants to know; flags that nobody has any more are dropped.
pub(super) fn is_wanted() -> bool {
    let mut all = all();
    all.flags.retain(|_, flag| flag.strong_count() > 0);
    let wanted = !all.flags.is_empty();
    WANTED.send_if_modified(|before| std::mem::replace(before, wanted) != wanted);
    wanted
}

/// Resolves when somebody wants to know.
pub(super) async fn wanted() {
    // The sender is never dropped, so waiting cannot fail.
    let _ = WANTED.subscribe().wait_for(|wanted| *wanted).await;
}

/// Balancers that said something, and addresses that are not given for it.
pub(crate) fn counts() -> (u64, u64) {
    let all = all();
    let flags = all.flags.values().filter_map(Weak::upgrade);
    (all.said.len() as u64, flags.filter(|flag| !flag.is_up()).count() as u64)
}

/// What one balancer said, which counts until this is dropped.
#[derive(Debug)]
pub(super) struct Said(u64);

impl Default for Said {
    fn default() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl Said {
    /// Takes in what changed; what to ask on from.
    pub(super) fn take(&self, page: Page) -> Result<String, AskError> {
        let mut all = all();
        let mut concerned: Vec<IpAddr> = page.addresses.iter().map(|one| one.address).collect();
        let said = all.said.entry(self.0).or_default();
        if page.whole {
            concerned.extend(said.drain().map(|(ip, _)| ip));
        }
        for one in page.addresses {
            match one.finding {
                Some(finding) => said.insert(one.address, finding),
                None => said.remove(&one.address),
            };
        }
        let too_many = said.len() > MOST;
        all.decide(concerned.into_iter());
        if too_many { Err(AskError::TooMany) } else { Ok(page.revision) }
    }

    /// It does not count any more.
    pub(super) fn forget(&self) {
        let mut all = all();
        let said = all.said.remove(&self.0).unwrap_or_default();
        all.decide(said.into_keys());
    }
}

impl Drop for Said {
    fn drop(&mut self) {
        self.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_api::found::Address;

    fn page(whole: bool, addresses: &[(IpAddr, Option<Finding>)]) -> Page {
        let one = |(address, finding): &(IpAddr, Option<Finding>)| Address {
            address: *address,
            finding: *finding,
            why: None,
        };
        let addresses = addresses.iter().map(one).collect();
        Page { revision: "1".into(), whole, more: false, addresses }
    }

    #[test]
    fn an_address_is_down_when_all_that_know_it_say_so() {
        use Finding::{Ejected, Ill, Unchecked, Well};
        let ip = IpAddr::from([192, 0, 2, 101]);
        let (one, other, flag) = (Said::default(), Said::default(), Found::of(ip));
        assert!(Arc::ptr_eq(&flag, &Found::of(ip)));
        // What each says of it now; none is that it does not know it.
        for (first, second, up) in [
            (None, None, true),
            (Some(Ill), None, false),
            (None, Some(Ejected), false),
            (Some(Ill), Some(Ill), false),
            (Some(Ill), Some(Ejected), false),
            (Some(Ill), Some(Unchecked), false),
            (Some(Ejected), Some(Unchecked), true),
            (Some(Ill), Some(Well), true),
            (Some(Well), Some(Ejected), true),
            (Some(Unchecked), Some(Unchecked), true),
        ] {
            one.take(page(false, &[(ip, first)])).expect("it is taken");
            other.take(page(false, &[(ip, second)])).expect("it is taken");
            assert_eq!(flag.is_up(), up, "{first:?} {second:?}");
        }
        one.take(page(false, &[(ip, Some(Ill))])).expect("it is taken");
        other.take(page(true, &[])).expect("it is taken");
        assert!(!flag.is_up(), "the other one began anew and does not know it");
        assert!(!Found::of(ip).is_up());
        one.forget();
        assert!(flag.is_up(), "nobody says anything of it");
        one.take(page(true, &[(ip, Some(Ill))])).expect("it is taken");
        drop(flag);
        let flag = Found::of(ip);
        assert!(!flag.is_up(), "a flag of a set that comes later");
        drop(one);
        assert!(flag.is_up());
    }
}
