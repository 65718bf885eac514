//! How long one has to wait after wrong passwords, by name and by address.
//!
//! Doubles from a second to five minutes, is forgotten after a quarter of an hour, and holds at
//! most so many names and addresses: the longest silent goes first. A name is slowed for the
//! address that guesses, so that nobody can lock somebody else out from elsewhere.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

const FREE: u32 = 3;
const FIRST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(300);
const FORGOTTEN: Duration = Duration::from_secs(900);
const HELD: usize = 10_000;
/// Wrong names count for the address too, which may belong to many people.
const FREE_FOR_ADDRESS: u32 = 20;

/// How long to wait before the next try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait(pub Duration);

/// Who failed, how often, when last.
#[derive(Debug, Default)]
pub struct Throttle {
    failures: Mutex<HashMap<Who, Failures>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Who {
    Address(IpAddr),
    Name(IpAddr, String),
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Throttle {
    /// Whether `name` may be tried from `address` now.
    ///
    /// # Errors
    /// How long it has to wait.
    pub fn allow(&self, name: &str, address: IpAddr, now: Instant) -> Result<(), Wait> {
        let failures = self.failures.lock().expect("nothing panics under this lock");
        let waits = whom(name, address).into_iter().filter_map(|(who, free)| {
            let failures = failures.get(&who)?;
            let until = failures.last + penalty(failures.count, free);
            until.checked_duration_since(now).filter(|wait| !wait.is_zero())
        });
        match waits.max() {
            Some(wait) => Err(Wait(wait)),
            None => Ok(()),
        }
    }

    /// A wrong password.
    pub fn failed(&self, name: &str, address: IpAddr, now: Instant) {
        let mut failures = self.failures.lock().expect("nothing panics under this lock");
        for (who, _) in whom(name, address) {
            if failures.len() >= HELD && !failures.contains_key(&who) {
                failures.retain(|_, failures| now < failures.last + FORGOTTEN);
                let oldest = failures.iter().min_by_key(|(_, failures)| failures.last);
                if failures.len() >= HELD
                    && let Some(oldest) = oldest.map(|(who, _)| who.clone())
                {
                    failures.remove(&oldest);
                }
            }
            let entry = failures.entry(who).or_insert(Failures { count: 0, last: now });
            if now >= entry.last + FORGOTTEN {
                entry.count = 0;
            }
            *entry = Failures { count: entry.count.saturating_add(1), last: now };
        }
    }

    /// The right one.
    pub fn succeeded(&self, name: &str, address: IpAddr) {
        let mut failures = self.failures.lock().expect("nothing panics under this lock");
        failures.remove(&Who::Name(address, name.to_owned()));
    }
}

fn whom(name: &str, address: IpAddr) -> [(Who, u32); 2] {
    // A name of any length is not kept.
    let name = name.chars().take(64).collect();
    [(Who::Name(address, name), FREE), (Who::Address(address), FREE_FOR_ADDRESS)]
}

fn penalty(count: u32, free: u32) -> Duration {
    match count.checked_sub(free) {
        None => Duration::ZERO,
        Some(over) => FIRST.saturating_mul(1 << over.min(16)).min(MOST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::BROADCAST);

    #[test]
    fn the_wait_doubles_and_is_for_the_name_from_there_alone() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        for _ in 0..3 {
            assert_eq!(throttle.allow("ann", HERE, start), Ok(()));
            throttle.failed("ann", HERE, start);
        }
        assert_eq!(throttle.allow("ann", HERE, start), Err(Wait(Duration::from_secs(1))));
        assert_eq!(throttle.allow("ann", THERE, start), Ok(()));
        assert_eq!(throttle.allow("ben", HERE, start), Ok(()));
        throttle.failed("ann", HERE, start);
        assert_eq!(throttle.allow("ann", HERE, start), Err(Wait(Duration::from_secs(2))));
        for _ in 0..40 {
            throttle.failed("ann", HERE, start);
        }
        assert_eq!(throttle.allow("ben", HERE, start), Err(Wait(MOST)), "the address guesses");
        assert_eq!(throttle.allow("ann", HERE, start + MOST), Ok(()));
        throttle.failed("ann", HERE, start + MOST + FORGOTTEN);
        assert_eq!(throttle.allow("ann", HERE, start + MOST + FORGOTTEN), Ok(()));
    }

    #[test]
    fn a_flood_of_names_is_held_in_bounds() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        for number in 0..2 * HELD {
            throttle.failed(&number.to_string(), HERE, start + Duration::from_nanos(number as u64));
        }
        assert!(throttle.failures.lock().unwrap().len() <= HELD + 1);
        assert!(throttle.allow("another", HERE, start).is_err());
    }
}
