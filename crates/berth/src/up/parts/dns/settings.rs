//! The file of `berth dns --config`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use berth_dns::{Config, Site, Transfers, TsigKey, Wanted, ZoneFile};
use ipnet::IpNet;
use serde::Deserialize;

/// What the file may say.
#[derive(Deserialize, Debug, Default)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Settings {
    /// What clusters' names end in; replaces `--domain`.
    domains: Option<Vec<String>>,
    zones: Vec<Zone>,
    /// By name.
    policies: BTreeMap<String, Wanted>,
    /// Who says which addresses are down, beside those of `--balancer`.
    balancers: Vec<String>,
    /// Networks of clients, by site.
    sites: BTreeMap<String, Vec<IpNet>>,
    /// Unset, the cluster that this runs in; empty, none.
    clusters: Option<Vec<Followed>>,
    /// Whom to ask, by suffix; `.` replaces what resolv.conf says.
    forward: BTreeMap<String, Vec<SocketAddr>>,
    /// Answers of upstreams that each thread keeps.
    cache: Option<usize>,
    /// Seconds that they are kept at most.
    cache_seconds: Option<u32>,
    /// UDP answers a second for each client network and thread.
    rate_limit: u32,
    threads: Option<usize>,
    nsid: Option<String>,
    /// 32 hexadecimal digits, the same on servers behind one address.
    cookie_secret: Option<String>,
    control: Option<PathBuf>,
    /// Where ConfigMaps hold zones; empty for nowhere.
    zone_namespace: Option<String>,
    tls: Option<Tls>,
    /// Shared with other servers.
    keys: Vec<Key>,
    /// Who may have whole zones, and who is told of changes.
    transfer: Transfer,
    /// Zones that other servers have.
    secondaries: Vec<Secondary>,
    /// Answers in the kernel.
    xdp: Option<Xdp>,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Xdp {
    interfaces: Vec<String>,
    #[serde(default)]
    addresses: Vec<IpAddr>,
    names: Option<u32>,
    #[serde(default)]
    mode: berth_dns::Mode,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Tls {
    listen: SocketAddr,
    certificate: PathBuf,
    key: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    name: String,
    #[serde(default = "usual_algorithm")]
    algorithm: String,
    /// Base64, as other servers write it.
    secret: String,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("name", &self.name).finish_non_exhaustive()
    }
}

fn usual_algorithm() -> String {
    "hmac-sha256".to_owned()
}

#[derive(Deserialize, Debug, Default)]
#[serde(default, deny_unknown_fields)]
struct Transfer {
    allow: Vec<IpNet>,
    key: Option<String>,
    notify: Vec<SocketAddr>,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Secondary {
    zone: String,
    primaries: Vec<SocketAddr>,
    key: Option<String>,
    /// Kept here for the next start.
    file: Option<PathBuf>,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Zone {
    file: PathBuf,
    origin: Option<String>,
}

/// A cluster to be followed.
#[derive(Deserialize, Debug, Clone)]
#[serde(deny_unknown_fields)]
pub struct Followed {
    pub kubeconfig: PathBuf,
    pub context: Option<String>,
    pub site: Option<String>,
    pub snapshot: Option<PathBuf>,
}

/// Reads the file.
///
/// # Errors
/// When it cannot be read, or says what nobody knows.
pub fn read(path: &Path) -> Result<Settings> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    serde_saphyr::from_str(&text).with_context(|| format!("reading {}", path.display()))
}

impl Settings {
    /// Puts what is said into `config`; returns the clusters.
    ///
    /// # Errors
    /// When a value cannot be right.
    pub fn apply(self, config: &mut Config) -> Result<Option<Vec<Followed>>> {
        if let Some(domains) = self.domains {
            config.domains = domains;
        }
        let zone = |Zone { file, origin }| ZoneFile { path: file, origin };
        config.zones = self.zones.into_iter().map(zone).collect();
        config.policies = self.policies;
        config.balancers.extend(self.balancers);
        let site = |(name, networks): (String, Vec<IpNet>)| Site {
            name,
            networks: networks.iter().map(|net| (net.network(), net.prefix_len())).collect(),
        };
        config.sites = self.sites.into_iter().map(site).collect();
        for (suffix, upstreams) in self.forward {
            ensure!(!upstreams.is_empty(), "forward: {suffix:?} names no server");
            match suffix.as_str() {
                "." => config.upstreams = upstreams,
                _ => config.forwards.push((suffix, upstreams)),
            }
        }
        config.answers = self.cache.unwrap_or(config.answers);
        config.longest = self.cache_seconds.unwrap_or(config.longest);
        config.rate = self.rate_limit;
        config.threads = self.threads;
        config.nsid = self.nsid;
        if let Some(text) = &self.cookie_secret {
            config.secret = Some(secret(text)?);
        }
        config.control = self.control.or(config.control.take());
        if let Some(namespace) = self.zone_namespace {
            config.zone_namespace = Some(namespace).filter(|namespace| !namespace.is_empty());
        }
        config.tls = self.tls.map(|Tls { listen, certificate, key }| berth_dns::Tls {
            listen,
            certificate,
            key,
        });
        let key = |Key { name, algorithm, secret }| TsigKey { name, algorithm, secret };
        config.keys = self.keys.into_iter().map(key).collect();
        let Transfer { allow, key, notify } = self.transfer;
        let allow = allow.iter().map(|net| (net.network(), net.prefix_len())).collect();
        config.transfers = Transfers { allow, key, notify };
        let secondary = |Secondary { zone, primaries, key, file }| berth_dns::Secondary {
            zone,
            primaries,
            key,
            file,
        };
        config.secondaries = self.secondaries.into_iter().map(secondary).collect();
        config.xdp = self.xdp.map(|Xdp { interfaces, addresses, names, mode }| {
            let all = berth_dns::Xdp::on(interfaces);
            berth_dns::Xdp { addresses, names: names.unwrap_or(all.names), mode, ..all }
        });
        Ok(self.clusters)
    }
}

fn secret(text: &str) -> Result<[u8; 16]> {
    berth_dns::secret(text).context("cookieSecret: 32 hexadecimal digits are one")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_documentation_shows_is_read() {
        let text = "zones:\n- {file: /etc/berth/example.org.zone}\npolicies:\n  \
                    www.example.org: {order: weighted, limit: 2, weights: {192.0.2.1: 3}}\n\
                    \x20 db.example.org: {healthy: balancer}\n\
                    balancers: ['http://10.0.0.9:10260']\n\
                    sites: {east: [10.1.0.0/16, 'fd01::/16']}\nclusters:\n\
                    - {kubeconfig: /etc/berth/east.yaml, site: east}\n\
                    forward: {corp.example: ['10.0.0.53:53']}\nrateLimit: 500\nnsid: dns-1\n\
                    xdp: {interfaces: [eth0], addresses: [10.43.0.10], mode: native}\n\
                    cookieSecret: e5e973e5a6b2a43f48e7dc849e37bfcf\n";
        let settings: Settings = serde_saphyr::from_str(text).expect("it is read");
        let here = "127.0.0.1:53".parse().expect("an address");
        let mut config = Config::new(here, here, vec![]);
        let clusters = settings.apply(&mut config).expect("it is right").expect("they are named");
        assert_eq!(clusters[0].site.as_deref(), Some("east"));
        assert_eq!(config.sites[0].networks.len(), 2);
        assert_eq!(config.policies["www.example.org"].weights["192.0.2.1"], 3);
        assert_eq!(config.policies["db.example.org"].healthy, Some(berth_dns::Healthy::Balancer));
        assert_eq!(config.balancers, ["http://10.0.0.9:10260"]);
        assert_eq!((config.rate, config.forwards.len()), (500, 1));
        let xdp = config.xdp.expect("it is read");
        assert_eq!((xdp.interfaces, xdp.names), (vec!["eth0".to_owned()], 100_000));
        assert_eq!(config.secret.expect("it is read")[..2], [0xE5, 0xE9]);
    }

    #[test]
    fn transfers_keys_and_tls_are_read() {
        let text = "tls: {listen: '10.0.0.53:853', certificate: a.pem, key: b.pem}\n\
                    keys: [{name: one, secret: c2VjcmV0}]\n\
                    transfer: {allow: [10.0.0.0/8], key: one, notify: ['10.0.0.54:53']}\n\
                    secondaries: [{zone: example.net, primaries: ['10.0.0.9:53'], key: one}]\n\
                    zoneNamespace: ''\n";
        let settings: Settings = serde_saphyr::from_str(text).expect("it is read");
        let here = "127.0.0.1:53".parse().expect("an address");
        let mut config = Config::new(here, here, vec![]);
        settings.apply(&mut config).expect("it is right");
        assert_eq!((config.keys[0].secret.as_str(), config.zone_namespace), ("c2VjcmV0", None));
        assert_eq!((config.transfers.allow.len(), config.secondaries.len()), (1, 1));
    }

    #[test]
    fn what_nobody_knows_is_refused() {
        let refused = |text: &str| serde_saphyr::from_str::<Settings>(text).is_err();
        assert!(refused("zone: []\n"));
        assert!(refused("policies: {a.b: {order: any}}\n"));
        assert!(refused("policies: {a.b: {healthy: luck}}\n"));
        assert!(secret("12").is_err() && secret(&"x".repeat(32)).is_err());
    }
}
