//! The upstreams that a machine's resolv.conf names.

use std::net::{IpAddr, SocketAddr};

/// glibc reads no more (resolv.conf(5)).
const MOST: usize = 3;

/// The servers of `text` in their order, without those of `own`: a server that forwards to itself
/// answers nothing.
///
/// `own` are the addresses that lead back here: the one listened on and the Service's. An
/// unspecified address there stands for every address of its port's machine that is loopback.
pub fn upstreams(text: &str, own: &[SocketAddr]) -> Vec<SocketAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let keyword = words.next()?;
        let address = words.next().filter(|_| keyword == "nameserver")?;
        // A zone such as %eth0 is no part of the address.
        let address = address.split('%').next()?;
        Some(SocketAddr::new(address.parse::<IpAddr>().ok()?, 53))
    });
    let leads_back = |server: &SocketAddr| {
        own.iter().any(|own| {
            let everywhere = own.ip().is_unspecified() && server.ip().is_loopback();
            own.port() == server.port() && (own.ip() == server.ip() || everywhere)
        })
    };
    servers.filter(|server| !leads_back(server)).take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_come_in_their_order_and_never_ourselves() {
        let text = "# home\nsearch lan\nnameserver 10.0.0.1\nnameserver fe80::1%eth0\n\
                    nameserver 127.0.0.1\nnameserver nonsense\noptions ndots:5\n";
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let all = ["10.0.0.1:53", "[fe80::1]:53", "127.0.0.1:53"].map(address);
        assert_eq!(upstreams(text, &[]), all);
        assert_eq!(upstreams(text, &[address("10.0.0.1:53"), address("0.0.0.0:53")]), [all[1]]);
        assert_eq!(upstreams(text, &[address("0.0.0.0:10053")]), all);
    }
}
