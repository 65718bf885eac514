//! What must be written for the kernel to do what is wanted: pure.
//!
//! Backends keep their places as long as they are wanted, since connections refer to places. A
//! place that another backend gets has another generation: connections of the one before are not
//! the new one's.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use super::config::{Backend, MOST_BACKENDS, MOST_SERVICES, Protocol, Service, Way};
use super::maglev::{Share, table};

/// A service as the kernel looks it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub address: IpAddr,
    pub port: u16,
    pub protocol: Protocol,
}

/// What the kernel does with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Of its table.
    pub number: u32,
    pub way: Way,
    pub by_address: bool,
}

/// A place for a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub address: IpAddr,
    /// Where it serves.
    pub port: u16,
    pub generation: u32,
    /// Connections may go there.
    pub there: bool,
    /// Whose table names it.
    pub service: u32,
}

impl Place {
    /// Nobody's, and never anybody's.
    pub(super) const EMPTY: Self = Self {
        address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        port: 0,
        generation: 0,
        there: false,
        service: u32::MAX,
    };
}

/// What is in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub services: BTreeMap<Key, Entry>,
    pub places: Vec<Place>,
    /// As it was written last; unknown after a start.
    pub tables: BTreeMap<u32, Vec<u16>>,
}

/// What is to be written, in this order: a packet in between finds either what was or what is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub come: Vec<(u32, Place)>,
    pub tables: Vec<(u32, Vec<u16>)>,
    pub services: Vec<(Key, Entry)>,
    pub withdrawn: Vec<Key>,
    pub gone: Vec<(u32, Place)>,
}

/// What leads from `held` to `wanted`, where backends that are `down` get nothing.
pub(super) fn plan(
    held: &Held,
    wanted: &[Service],
    is_down: impl Fn(&Service, &Backend) -> bool,
) -> Plan {
    let mut plan = Plan::default();
    let mut places = held.places.clone();
    let mut keep = vec![false; places.len()];
    let keys: Vec<Key> = wanted.iter().map(key).collect();
    // For each number how much it is missed: not at all, by a service that goes, by one that stays.
    let mut numbers = vec![0u8; MOST_SERVICES];
    for (key, entry) in &held.services {
        if let Some(missed) = numbers.get_mut(entry.number as usize) {
            *missed = if keys.contains(key) { 2 } else { 1 };
        }
    }
    for (service, key) in wanted.iter().zip(&keys) {
        let before = held.services.get(key);
        let number = match before {
            Some(entry) => entry.number,
            None => {
                let free = (0..MOST_SERVICES).min_by_key(|number| numbers[*number]);
                let free = free.expect("there are numbers");
                numbers[free] = 2;
                free as u32 // below MOST_SERVICES
            }
        };
        // Where all seem down, it is rather the check that is wrong than every backend.
        let none_up = service.backends.iter().all(|one| one.drain || is_down(service, one));
        let mut shares = Vec::new();
        for backend in &service.backends {
            let there = none_up || backend.drain || !is_down(service, backend);
            let own = (backend.address, backend.port.unwrap_or(service.port));
            let Some(at) = take(&mut places, &mut keep, number, own) else { continue };
            places[at].there = there;
            if there && !backend.drain {
                let identity = identity(backend);
                shares.push(Share { identity, weight: backend.weight, number: at as u16 });
            }
        }
        let table = table(&shares);
        if held.tables.get(&number) != Some(&table) {
            plan.tables.push((number, table));
        }
        let entry = Entry { number, way: service.way, by_address: service.by_address };
        if before != Some(&entry) {
            plan.services.push((*key, entry));
        }
    }
    for (at, place) in places.iter_mut().enumerate() {
        if !keep.get(at).copied().unwrap_or(false) {
            place.there = false;
            // Free for another one, whose generation is then the next.
            place.service = u32::MAX;
        }
        let before = held.places.get(at).copied().unwrap_or(Place::EMPTY);
        if before != *place {
            let to = if place.there { &mut plan.come } else { &mut plan.gone };
            to.push((at as u32, *place));
        }
    }
    plan.withdrawn = held.services.keys().filter(|key| !keys.contains(key)).copied().collect();
    plan
}

/// The place of a backend: its own, or a free one. The last resort is one more.
fn take(
    places: &mut Vec<Place>,
    keep: &mut Vec<bool>,
    service: u32,
    (address, port): (IpAddr, u16),
) -> Option<usize> {
    let own = places
        .iter()
        .position(|place| (place.service, place.address, place.port) == (service, address, port))
        .filter(|at| !keep[*at]);
    let at = match own {
        Some(at) => at,
        None => {
            // Places of services that are kept are not free before all of theirs are seen.
            let free = (0..places.len()).find(|at| !keep[*at] && places[*at].service == u32::MAX);
            let at = match free {
                Some(at) => at,
                None if places.len() < MOST_BACKENDS => {
                    places.push(Place::EMPTY);
                    keep.push(false);
                    places.len() - 1
                }
                None => return None,
            };
            let generation = places[at].generation.wrapping_add(1);
            places[at] = Place { address, port, generation, there: true, service };
            at
        }
    };
    keep[at] = true;
    Some(at)
}

/// What a backend is known by on every machine.
fn identity(backend: &Backend) -> u64 {
    let address = match backend.address {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            // Networks differ in the upper half, machines in the lower one.
            (bits >> 64) as u64 ^ (bits as u64).rotate_left(32)
        }
    };
    address ^ u64::from(backend.port.unwrap_or(0)) << 32
}

fn key(service: &Service) -> Key {
    Key { address: service.address, port: service.port, protocol: service.protocol }
}

impl Held {
    /// What is in the kernel once `plan` has been written.
    pub(super) fn after(mut self, plan: &Plan) -> Self {
        for (at, place) in plan.come.iter().chain(&plan.gone) {
            let at = *at as usize;
            if self.places.len() <= at {
                self.places.resize(at + 1, Place::EMPTY);
            }
            self.places[at] = *place;
        }
        self.tables.extend(plan.tables.iter().cloned());
        self.services.extend(plan.services.iter().copied());
        for key in &plan.withdrawn {
            if let Some(entry) = self.services.remove(key) {
                self.tables.remove(&entry.number);
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(port: u16, backends: &[u8]) -> Service {
        let backend = |last: &u8| Backend {
            address: Ipv4Addr::new(10, 0, 0, *last).into(),
            port: None,
            weight: 1,
            drain: false,
        };
        Service {
            address: Ipv4Addr::new(192, 0, 2, 10).into(),
            port,
            protocol: Protocol::Tcp,
            way: Way::Routed,
            by_address: false,
            check: None,
            backends: backends.iter().map(backend).collect(),
        }
    }

    fn step(held: Held, wanted: &[Service]) -> (Plan, Held) {
        let plan = plan(&held, wanted, |_, _| false);
        let after = held.after(&plan);
        (plan, after)
    }

    fn last(address: IpAddr) -> u8 {
        let IpAddr::V4(address) = address else { unreachable!("they are all IPv4") };
        address.octets()[3]
    }

    fn lasts(held: &Held) -> Vec<(u8, bool, u32)> {
        let of = |place: &Place| (last(place.address), place.there, place.generation);
        held.places.iter().map(of).collect()
    }

    #[test]
    fn what_is_there_already_is_not_written_again() {
        let wanted = [service(80, &[1, 2]), service(81, &[1])];
        let (first, held) = step(Held::default(), &wanted);
        assert_eq!((first.come.len(), first.tables.len(), first.services.len()), (3, 2, 2));
        let (second, same) = step(held.clone(), &wanted);
        assert_eq!((second, same), (Plan::default(), held));
    }

    #[test]
    fn a_place_is_kept_and_one_given_to_another_is_of_another_generation() {
        let (_, held) = step(Held::default(), &[service(80, &[1, 2, 3])]);
        let (plan, held) = step(held, &[service(80, &[1, 3])]);
        assert_eq!(plan.gone.len(), 1);
        assert_eq!(lasts(&held), [(1, true, 1), (2, false, 1), (3, true, 1)]);
        let (plan, held) = step(held, &[service(80, &[4, 3, 1])]);
        assert!(plan.gone.is_empty());
        assert_eq!(lasts(&held), [(1, true, 1), (4, true, 2), (3, true, 1)]);
        assert!(held.tables[&0].iter().all(|slot| *slot < 3));
    }

    #[test]
    fn two_ports_of_one_address_are_two_backends() {
        let mut wanted = [service(80, &[1, 1])];
        wanted[0].way = Way::Translated;
        wanted[0].backends[1].port = Some(8080);
        let (_, held) = step(Held::default(), &wanted);
        let ports: Vec<_> = held.places.iter().map(|place| place.port).collect();
        assert_eq!(ports, [80, 8080]);
        assert!([0, 1].iter().all(|at| held.tables[&0].contains(at)));
        wanted[0].backends.remove(0);
        let (plan, _) = step(held, &wanted);
        assert_eq!((plan.gone.len(), plan.come.len()), (1, 0), "the other one stays");
    }

    #[test]
    fn services_keep_their_numbers_and_leave_them_to_others() {
        let (_, held) = step(Held::default(), &[service(80, &[1]), service(81, &[2])]);
        let (plan, held) = step(held, &[service(81, &[2])]);
        assert_eq!(plan.withdrawn.len(), 1);
        assert_eq!(held.services.values().map(|entry| entry.number).collect::<Vec<_>>(), [1]);
        let (_, held) = step(held, &[service(82, &[3]), service(81, &[2])]);
        let numbers: Vec<_> = held.services.values().map(|entry| entry.number).collect();
        assert_eq!(numbers, [1, 0]);
        // The place of the service that went is used again.
        assert_eq!(lasts(&held), [(3, true, 2), (2, true, 1)]);
    }

    #[test]
    fn one_that_drains_keeps_its_connections_and_gets_no_new_ones() {
        let mut wanted = [service(80, &[1, 2])];
        let (_, held) = step(Held::default(), &wanted);
        wanted[0].backends[0].drain = true;
        let (plan, held) = step(held, &wanted);
        assert_eq!((plan.come.len(), plan.gone.len(), plan.tables.len()), (0, 0, 1));
        assert!(held.places[0].there && held.tables[&0].iter().all(|slot| *slot == 1));
    }

    #[test]
    fn one_that_is_down_gets_nothing_unless_all_are() {
        let wanted = [service(80, &[1, 2])];
        let (_, held) = step(Held::default(), &wanted);
        let down = |lasts: &'static [u8]| {
            move |_: &Service, one: &Backend| lasts.contains(&last(one.address))
        };
        let one = plan(&held, &wanted, down(&[1]));
        let after = held.clone().after(&one);
        assert!(!after.places[0].there && after.tables[&0].iter().all(|slot| *slot == 1));
        let again = plan(&after, &wanted, down(&[]));
        assert_eq!(after.after(&again), held, "with its place and its generation");
        assert_eq!(plan(&held, &wanted, down(&[1, 2])), Plan::default());
    }

    #[test]
    fn after_a_start_the_places_are_those_that_the_kernel_holds() {
        let wanted = [service(80, &[1, 2, 3])];
        let (_, held) = step(Held::default(), &wanted);
        let read = Held { tables: BTreeMap::new(), ..held.clone() };
        let (plan, after) = step(read, &[service(80, &[3, 2, 1])]);
        assert!(plan.come.is_empty() && plan.gone.is_empty() && plan.services.is_empty());
        assert_eq!(after, held);
    }
}
