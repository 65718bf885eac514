//! Which site a client's network is of.

use std::net::IpAddr;

/// Networks and their sites; the longest prefix that fits decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sites {
    /// Longest prefix first: the first that fits is the answer.
    networks: Vec<(IpAddr, u8, u8)>,
}

impl Sites {
    /// From address, prefix length, site.
    pub(crate) fn new(mut networks: Vec<(IpAddr, u8, u8)>) -> Self {
        networks.sort_by_key(|(_, prefix, _)| std::cmp::Reverse(*prefix));
        Self { networks }
    }

    /// The site of `client`; 0 for none.
    pub(crate) fn of(&self, client: IpAddr) -> u8 {
        let client = client.to_canonical();
        let fits = |(network, prefix, _): &&(IpAddr, u8, u8)| match (network, client) {
            (IpAddr::V4(one), IpAddr::V4(two)) => {
                let differ = u32::from(*one) ^ u32::from(two);
                u32::from(*prefix) <= differ.leading_zeros()
            }
            (IpAddr::V6(one), IpAddr::V6(two)) => {
                let differ = u128::from(*one) ^ u128::from(two);
                u32::from(*prefix) <= differ.leading_zeros()
            }
            _ => false,
        };
        self.networks.iter().find(fits).map_or(0, |(_, _, site)| *site)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_decides() {
        let network = |text: &str, prefix, site| (text.parse().expect("an address"), prefix, site);
        let sites = Sites::new(vec![
            network("10.0.0.0", 8, 1),
            network("10.1.0.0", 16, 2),
            network("fd00::", 8, 3),
        ]);
        let of = |text: &str| sites.of(text.parse().expect("an address"));
        assert_eq!(of("10.2.3.4"), 1);
        assert_eq!(of("10.1.3.4"), 2);
        assert_eq!(of("::ffff:10.1.0.1"), 2);
        assert_eq!(of("fd12::1"), 3);
        assert_eq!(of("192.0.2.1"), 0);
        assert_eq!(
            Sites::new(vec![network("0.0.0.0", 0, 7)]).of("192.0.2.1".parse().expect("x")),
            7
        );
    }
}
