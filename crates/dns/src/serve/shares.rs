//! Places for connections, and how many of them one client may have.

use std::net::IpAddr;

use berth_daemon::Share;

/// Counts connections by client: an address, of IPv6 the /64 that a client commonly has whole.
#[derive(Debug)]
pub(super) struct Shares {
    taken: berth_daemon::Shares,
    most: usize,
}

impl Shares {
    /// At most `most` for each client.
    pub(super) fn new(most: usize) -> Self {
        Self { taken: berth_daemon::Shares::default(), most }
    }

    /// A place for `client`; `None` where it has its share.
    pub(super) fn take(&self, client: IpAddr) -> Option<Share> {
        self.taken.take(network(client), self.most)
    }
}

fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_its_share_and_gets_it_back() {
        let shares = Shares::new(2);
        let take = |client: &str| shares.take(client.parse().expect("an address"));
        let held = [take("192.0.2.1"), take("::ffff:192.0.2.1")];
        assert!(held.iter().all(Option::is_some));
        assert!(take("192.0.2.1").is_none());
        let theirs = [take("2001:db8::1"), take("2001:db8::2")];
        assert!(theirs.iter().all(Option::is_some));
        assert!(take("2001:db8::3").is_none() && take("2001:db8:0:1::3").is_some());
        drop((held, theirs));
        assert!(shares.taken.clients() == 0 && take("192.0.2.1").is_some());
    }
}
