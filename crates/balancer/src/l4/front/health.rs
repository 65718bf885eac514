//! Whether backends take connections, asked once in a while; and that their neighbours' addresses
//! are known, without which the kernel cannot send to them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use futures::{StreamExt, stream};
use tokio::net::TcpStream;

use super::config::Service;

/// A backend that does not take a connection within this time does not take it.
const PATIENCE: Duration = Duration::from_millis(900);
/// Asked at the same time.
const AT_ONCE: usize = 128;
/// As often in a row before it counts: one lost packet is no failure, one answer no recovery.
const TO_FALL: u32 = 3;
const TO_RISE: u32 = 2;
/// Where nobody answers (RFC 863); only the way there is of interest.
const DISCARD: u16 = 9;

/// An address and port that is checked.
pub(super) type Target = (IpAddr, u16);

/// What the last checks said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Health {
    /// For each target whether it is down, and how often in a row it was otherwise.
    seen: BTreeMap<Target, (bool, u32)>,
}

impl Health {
    /// Whether it is down; what was not asked is up.
    pub(super) fn is_down(&self, target: Target) -> bool {
        self.seen.get(&target).is_some_and(|(down, _)| *down)
    }

    /// Takes what was seen; what is not asked any more is forgotten.
    fn take(&mut self, seen: impl IntoIterator<Item = (Target, bool)>) {
        let before = std::mem::take(&mut self.seen);
        for (target, took) in seen {
            let state = match before.get(&target) {
                // The first answer counts at once, the first failure too: nothing was there.
                None => (!took, 0),
                Some((down, _)) if *down != took => (*down, 0),
                Some((down, other)) => {
                    let enough = if *down { TO_RISE } else { TO_FALL };
                    if other + 1 >= enough { (!down, 0) } else { (*down, other + 1) }
                }
            };
            self.seen.insert(target, state);
        }
    }

    /// Asks every backend of `services` once.
    pub(super) async fn look(&mut self, services: &[Service]) {
        let mut targets: Vec<Target> = services
            .iter()
            .flat_map(|service| {
                let port = service.check;
                service.backends.iter().filter_map(move |one| Some((one.address, port?)))
            })
            .collect();
        targets.sort_unstable();
        targets.dedup();
        let asked = stream::iter(targets).map(|target| async move {
            let connecting = TcpStream::connect(SocketAddr::from(target));
            let took = tokio::time::timeout(PATIENCE, connecting).await;
            (target, took.is_ok_and(|took| took.is_ok()))
        });
        let seen: Vec<_> = asked.buffer_unordered(AT_ONCE).collect().await;
        self.take(seen);
        for service in services.iter().filter(|service| service.check.is_none()) {
            for backend in &service.backends {
                touch(backend.address);
            }
        }
    }
}

/// Sends an empty datagram, so that the kernel asks for the neighbour's address.
fn touch(address: IpAddr) {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let sent = UdpSocket::bind((any, 0)).and_then(|socket| socket.send_to(&[], (address, DISCARD)));
    if let Err(error) = sent {
        tracing::debug!(%address, %error, "no way to a backend");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_failures_make_it_fall_and_two_answers_rise() {
        let target = (Ipv4Addr::new(10, 0, 0, 1).into(), 80);
        let mut health = Health::default();
        let mut steps = Vec::new();
        for took in [true, false, false, true, false, false, false, true, false, true, true] {
            health.take([(target, took)]);
            steps.push(health.is_down(target));
        }
        let (up, down) = (false, true);
        assert_eq!(steps, [up, up, up, up, up, up, down, down, down, down, up]);
        health.take([]);
        assert!(!health.is_down(target), "what is not asked is up");
    }

    #[test]
    fn one_that_never_answered_is_down_at_once() {
        let target = (Ipv4Addr::new(10, 0, 0, 1).into(), 80);
        let mut health = Health::default();
        health.take([(target, false)]);
        assert!(health.is_down(target));
    }
}
