//! UDP flows that outlived their endpoint.
//!
//! The kernel translates a flow's later datagrams as it did the first. TCP ends by itself when an
//! endpoint goes; a resolver that keeps its socket would send to a dead pod for as long as it
//! keeps sending. So flows whose endpoint is no longer one are deleted, and the next datagram is
//! looked up anew. Done through Debian's `conntrack`; where that is missing it is said once, and
//! flows end by their own timeout (30 s unanswered, 120 s answered).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};

use super::Config;
use super::nft::{NftError, output};
use super::ruleset::{Front, Protocol, Ruleset};

/// Flows that share a fate: what the client aimed at, and who answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Flow {
    aimed: SocketAddrV4,
    endpoint: SocketAddrV4,
}

/// Deletes every UDP flow to one of our fronts whose endpoint is none according to `rules`.
pub(super) async fn forget_stale(rules: &Ruleset, config: &Config) -> Result<(), NftError> {
    let listing = output("conntrack", "conntrack", &["-L", "-p", "udp"], "").await?;
    for flow in stale(&listing, &rules.udp_flows(), config) {
        let (aimed, endpoint) = (flow.aimed, flow.endpoint);
        let arguments = [
            "-D".to_owned(),
            "-p".to_owned(),
            "udp".to_owned(),
            format!("--orig-dst={}", aimed.ip()),
            format!("--orig-port-dst={}", aimed.port()),
            format!("--reply-src={}", endpoint.ip()),
            format!("--reply-port-src={}", endpoint.port()),
        ];
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        match output("conntrack", "conntrack", &arguments, "").await {
            // Refused means that the flow ended by itself meanwhile.
            Ok(_) | Err(NftError::Refused { .. }) => {}
            Err(other) => return Err(other),
        }
        tracing::debug!(%aimed, %endpoint, "forgot the flows to an endpoint that went");
    }
    Ok(())
}

fn stale(
    listing: &str,
    fronts: &BTreeMap<Front, BTreeSet<SocketAddrV4>>,
    config: &Config,
) -> BTreeSet<Flow> {
    let is_stale = |flow: &Flow| {
        let (ip, port) = (*flow.aimed.ip(), flow.aimed.port());
        let front = fronts
            .get(&(Some(ip), Protocol::Udp, port))
            .or_else(|| fronts.get(&(None, Protocol::Udp, port)).filter(|_| redirected(flow)));
        match front {
            Some(endpoints) => !endpoints.contains(&flow.endpoint),
            None => config.service_range.contains(&ip),
        }
    };
    listing.lines().filter_map(flow).filter(is_stale).collect()
}

/// Traffic to a node port's number that is not ours (a query from that very port) has no new
/// destination.
fn redirected(flow: &Flow) -> bool {
    flow.aimed != flow.endpoint
}

/// Reads `udp 17 28 src=A dst=B sport=1 dport=2 [UNREPLIED] src=C dst=A sport=3 dport=1 ...`:
/// the first tuple as sent, the second as the answer will be.
fn flow(line: &str) -> Option<Flow> {
    let values = |key: &'static str| {
        line.split_whitespace().filter_map(move |word| word.strip_prefix(key)?.strip_prefix('='))
    };
    let aimed: Ipv4Addr = values("dst").next()?.parse().ok()?;
    let endpoint: Ipv4Addr = values("src").nth(1)?.parse().ok()?;
    Some(Flow {
        aimed: SocketAddrV4::new(aimed, values("dport").next()?.parse().ok()?),
        endpoint: SocketAddrV4::new(endpoint, values("sport").nth(1)?.parse().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_flows_of_ours_to_endpoints_that_went_are_stale() {
        let config = Config {
            instance: "berth0".into(),
            pod_range: "10.42.0.0/24".parse().unwrap(),
            service_range: "10.43.0.0/16".parse().unwrap(),
            node_address: Ipv4Addr::new(10, 42, 0, 1),
            bridge: "berth0".into(),
        };
        let endpoint = |last| SocketAddrV4::new(Ipv4Addr::new(10, 42, 0, last), 53);
        let here = BTreeSet::from([endpoint(5)]);
        let fronts = BTreeMap::from([
            ((Some(Ipv4Addr::new(10, 43, 0, 10)), Protocol::Udp, 53), here.clone()),
            ((None, Protocol::Udp, 30053), here),
        ]);
        let line = |aimed: &str, port, source: &str, source_port| {
            format!(
                "udp      17 28 src=10.42.0.9 dst={aimed} sport=4444 dport={port} [UNREPLIED] \
                 src={source} dst=10.42.0.9 sport={source_port} dport=4444 mark=0 use=1\n"
            )
        };
        let listing = [
            line("10.43.0.10", 53, "10.42.0.5", 53),      // stays
            line("10.43.0.10", 53, "10.42.0.6", 53),      // endpoint went
            line("10.43.0.10", 53, "10.43.0.10", 53),     // from before there were rules
            line("10.43.0.99", 53, "10.42.0.5", 53),      // Service went
            line("192.0.2.1", 30053, "10.42.0.5", 53),    // node port, stays
            line("192.0.2.1", 30053, "10.42.0.7", 53),    // node port, endpoint went
            line("192.0.2.1", 30053, "192.0.2.1", 30053), // somebody else's
            line("8.8.8.8", 53, "8.8.8.8", 53),           // somebody else's
            "conntrack v1.4.7 (conntrack-tools): 8 flow entries have been shown.\n".to_owned(),
        ];
        let stale = stale(&listing.concat(), &fronts, &config);
        let found: Vec<_> =
            stale.iter().map(|flow| format!("{} -> {}", flow.aimed, flow.endpoint)).collect();
        assert_eq!(
            found,
            [
                "10.43.0.10:53 -> 10.42.0.6:53",
                "10.43.0.10:53 -> 10.43.0.10:53",
                "10.43.0.99:53 -> 10.42.0.5:53",
                "192.0.2.1:30053 -> 10.42.0.7:53",
            ]
        );
    }
}
