//! What a balancer of ours finds of addresses, and how it tells that.
//!
//! `GET /addresses?since=REVISION&wait=SECONDS` on a balancer's health address is answered with a
//! [`Page`]: what changed since that revision, or everything where it knows none. With nothing to
//! say it waits for so long first. So a change costs what it is, whatever the number of endpoints.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Where it is told.
pub const PATH: &str = "/addresses";
/// Addresses on a page; what is more comes on the next.
pub const PAGE: usize = 2048;
/// No page is longer, bytes.
pub const LONGEST: usize = 1 << 20;
/// Of a reason so much is told, characters of printable ASCII.
pub const LONGEST_WHY: usize = 80;
/// No balancer waits longer than this before it answers, seconds.
pub const LONGEST_WAIT: u64 = 30;

/// What is found of an address.
///
/// Of several findings about one address (its ports, the routes that lead to it, several balancers)
/// the greatest counts. A check that succeeded is proof that it lives, whoever made it; a check that
/// failed outweighs those who do not check; what requests met by one route does not outweigh that
/// others go on sending theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Finding {
    /// Passed over, since requests failed there.
    Ejected,
    /// Nobody checks it, and nothing is held against it.
    Unchecked,
    /// A check failed.
    Ill,
    /// A check succeeded, and requests do not fail.
    Well,
}

impl Finding {
    /// Whether nothing should be sent there.
    pub fn is_down(self) -> bool {
        matches!(self, Self::Ejected | Self::Ill)
    }
}

/// One address, and what is found of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// Of a pod, or of whatever stands behind a Service.
    pub address: IpAddr,
    /// None: the balancer does not know it any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finding: Option<Finding>,
    /// What is held against it, with its port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// What to ask on from; good for this process of the balancer alone.
    pub revision: String,
    /// What was told before does not count any more.
    pub whole: bool,
    /// There is another page already.
    pub more: bool,
    /// The oldest change first.
    pub addresses: Vec<Address>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greatest_of_several_findings_counts() {
        use Finding::{Ejected, Ill, Unchecked, Well};
        for (findings, down) in [
            (vec![Well], false),
            (vec![Unchecked], false),
            (vec![Ill], true),
            (vec![Ejected], true),
            (vec![Ill, Well], false),
            (vec![Ejected, Well], false),
            (vec![Ill, Unchecked], true),
            (vec![Ejected, Unchecked], false),
            (vec![Ejected, Ill], true),
            (vec![Ejected, Ill, Unchecked], true),
            (vec![Ejected, Ill, Unchecked, Well], false),
        ] {
            let counts = findings.iter().max().copied();
            assert_eq!(counts.is_some_and(Finding::is_down), down, "{findings:?}");
        }
    }

    #[test]
    fn the_fullest_page_is_within_what_is_read() {
        let longest = Address {
            address: IpAddr::from([0xffff_u16; 8]),
            finding: Some(Finding::Unchecked),
            // Each is written as two characters.
            why: Some("\"".repeat(LONGEST_WHY)),
        };
        let page = Page {
            revision: "f".repeat(64),
            whole: true,
            more: true,
            addresses: vec![longest; PAGE],
        };
        let text = serde_json::to_string(&page).unwrap();
        assert!(text.len() <= LONGEST, "{}", text.len());
    }
}
