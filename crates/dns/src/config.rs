//! What the server needs to know, and what of it cannot be right.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::balancers::Place;
use crate::forward::Route;
use crate::name::{self, Domain};
use crate::own::{MOST_NSID, Own};
use crate::query_log::QueryLog;
use crate::serve::tls::{CertificateError, Tls};
use crate::transfer::{Rules, RulesError, Secondary, Transfers, TsigKey};
use crate::zone::file::{self, Problem};
use crate::zone::policy::Wanted;
use crate::zone::{Policies, Sites};

/// What the DNS server needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// UDP and TCP. Other processes may listen there too: the kernel spreads the queries.
    pub listen: SocketAddr,
    /// `GET /` answers 200 here once names are known, 503 before.
    pub health: SocketAddr,
    /// What clusters' names end in, such as `cluster.local`; each serves the same names.
    pub domains: Vec<String>,
    /// Servers asked for all other names, in this order.
    pub upstreams: Vec<SocketAddr>,
    /// Where what is known is kept for the next start; `None` for nowhere.
    pub snapshot: Option<PathBuf>,
    /// Threads that answer over UDP; `None` for one a core.
    pub threads: Option<usize>,
    /// Zones from master files; a file that changes is read again.
    pub zones: Vec<ZoneFile>,
    /// Where ConfigMaps hold zones ([`berth_api::zone`]); `None` for none.
    pub zone_namespace: Option<String>,
    /// Answers in the kernel as well, on named interfaces; `None` for nowhere.
    pub xdp: Option<crate::Xdp>,
    /// Order and number of addresses, by name.
    pub policies: BTreeMap<String, Wanted>,
    /// Who says which addresses are down, where a policy wants it: health addresses of balancers,
    /// `http://HOST:PORT`; of a host that is a name of ours, all its addresses.
    pub balancers: Vec<String>,
    /// Where clients are.
    pub sites: Vec<Site>,
    /// Whom to ask for names under a suffix; the longest that fits counts, before `upstreams`.
    pub forwards: Vec<(String, Vec<SocketAddr>)>,
    /// Answers of upstreams that are kept, by each thread and by all together.
    pub answers: usize,
    /// Seconds that such an answer is kept at most.
    pub longest: u32,
    /// UDP answers a second to one client network on each thread; 0 for no limit.
    pub rate: u32,
    /// DNS over TLS; `None` for none.
    pub tls: Option<Tls>,
    /// Keys shared with other servers.
    pub keys: Vec<TsigKey>,
    /// Who may have whole zones.
    pub transfers: Transfers,
    /// Zones that other servers have.
    pub secondaries: Vec<Secondary>,
    /// Where some of the queries are written; `None` for nowhere.
    pub query_log: Option<QueryLog>,
    /// A socket for `berth dns cache` and `flush`; `None` for none.
    pub control: Option<PathBuf>,
    /// What this server calls itself when asked (RFC 5001); at most 32 bytes.
    pub nsid: Option<String>,
    /// Of cookies; servers behind one address must have the same. `None` for one of its own.
    pub secret: Option<[u8; 16]>,
}

/// A zone that is written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneFile {
    /// Where.
    pub path: PathBuf,
    /// What its relative names are of, where the file does not say.
    pub origin: Option<String>,
}

/// A place with networks of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Its name.
    pub name: String,
    /// Address and prefix length of its clients' networks.
    pub networks: Vec<(IpAddr, u8)>,
}

/// A cluster that is followed.
#[derive(Clone)]
pub struct Cluster {
    /// Asks its API server.
    pub client: kube::Client,
    /// Where it is.
    pub site: Option<String>,
    /// Where what is known of it is kept for the next start.
    pub snapshot: Option<PathBuf>,
}

impl Config {
    /// The defaults: `cluster.local`, one thread a core, no snapshot, no zone files.
    pub fn new(listen: SocketAddr, health: SocketAddr, upstreams: Vec<SocketAddr>) -> Self {
        Self {
            listen,
            health,
            domains: vec!["cluster.local".to_owned()],
            upstreams,
            snapshot: None,
            threads: None,
            zones: vec![],
            zone_namespace: Some(berth_api::zone::NAMESPACE.to_owned()),
            xdp: None,
            policies: BTreeMap::new(),
            balancers: vec![],
            sites: vec![],
            forwards: vec![],
            answers: 20_000,
            // Longer would only save questions that a resolver next door answers as fast.
            longest: 30,
            rate: 0,
            tls: None,
            keys: vec![],
            transfers: Transfers::default(),
            secondaries: vec![],
            query_log: None,
            control: None,
            nsid: None,
            secret: None,
        }
    }

    pub(crate) fn read(&self) -> Result<Valid, StartError> {
        let domain = |text: &String| {
            Domain::parse(text).ok_or_else(|| StartError::Domain { domain: text.clone() })
        };
        let domains = self.domains.iter().map(domain).collect::<Result<_, _>>()?;
        let mut policies = Policies::new();
        for (text, wanted) in &self.policies {
            let name = name::encode(text)
                .ok_or_else(|| StartError::Name { key: "policy", name: text.clone() })?;
            if let Some(path) = wanted.check.as_ref().and_then(|check| check.path.as_ref())
                && !(path.starts_with('/') && path.chars().all(|c| c.is_ascii_graphic()))
            {
                return Err(StartError::Check { name: text.clone(), path: path.clone() });
            }
            policies.insert(name, wanted.clone());
        }
        let mut sites = BTreeMap::new();
        let mut networks = Vec::new();
        for (site, number) in self.sites.iter().zip(1u16..) {
            let number = u8::try_from(number).map_err(|_| StartError::Site {
                site: site.name.clone(),
                what: "255 sites are the most",
            })?;
            sites.insert(site.name.clone(), number);
            networks.extend(site.networks.iter().map(|(ip, prefix)| (*ip, *prefix, number)));
        }
        let nsid = self.nsid.as_deref().unwrap_or_default().as_bytes();
        let own = Own {
            nsid: nsid[..nsid.len().min(MOST_NSID)].to_vec(),
            secret: self.secret.unwrap_or_else(rand::random),
            sites: Sites::new(networks),
        };
        let mut routes = vec![Route::new(vec![0], self.upstreams.clone())];
        for (suffix, upstreams) in &self.forwards {
            let name = name::encode(suffix)
                .ok_or_else(|| StartError::Name { key: "forward", name: suffix.clone() })?;
            routes.push(Route::new(name, upstreams.clone()));
        }
        let rules = Rules::new(&self.keys, &self.transfers, &self.secondaries)?;
        let place = |text: &String| {
            Place::parse(text).ok_or_else(|| StartError::Balancer { balancer: text.clone() })
        };
        let balancers = self.balancers.iter().map(place).collect::<Result<_, _>>()?;
        Ok(Valid { domains, policies, own, sites, routes, rules, balancers })
    }
}

/// A configuration that can be right.
pub(crate) struct Valid {
    pub domains: Vec<Domain>,
    pub policies: Policies,
    pub own: Own,
    pub sites: BTreeMap<String, u8>,
    pub routes: Vec<Route>,
    pub rules: Rules,
    pub balancers: Vec<Place>,
}

impl Valid {
    /// The numbers of the sites of clusters.
    pub(crate) fn sites_of(&self, clusters: &[Option<String>]) -> Result<Vec<u8>, StartError> {
        let number = |site: &Option<String>| match site {
            Some(site) => self.sites.get(site).copied().ok_or_else(|| StartError::Site {
                site: site.clone(),
                what: "a cluster is there, and no networks are said to be",
            }),
            None => Ok(0),
        };
        clusters.iter().map(number).collect()
    }
}

/// What is wrong with a zone file; harmless problems too. Empty for a zone in order.
///
/// # Errors
/// When the file cannot be read.
pub fn check(path: &Path, origin: Option<&str>) -> std::io::Result<Vec<Problem>> {
    let text = std::fs::read(path)?;
    Ok(match file::read(&text, origin) {
        Ok((_, problems)) | Err(problems) => problems,
    })
}

/// What can keep the server from starting.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The domain is no domain name.
    #[error("domain {domain:?} is no domain name; such as cluster.local is one")]
    Domain {
        /// As given.
        domain: String,
    },
    /// A name in the configuration is none.
    #[error("{key} {name:?} is no domain name")]
    Name {
        /// What it is for.
        key: &'static str,
        /// As given.
        name: String,
    },
    /// What is to be asked of addresses cannot be asked.
    #[error("policy {name:?}: path {path:?} of its check is none; such as /healthz is one")]
    Check {
        /// Of the policy.
        name: String,
        /// As given.
        path: String,
    },
    /// A balancer that cannot be asked.
    #[error("balancer {balancer:?} is none; such as http://127.0.0.1:10260 is one")]
    Balancer {
        /// As given.
        balancer: String,
    },
    /// Too many sites, or a site that nobody described.
    #[error("site {site:?}: {what}")]
    Site {
        /// Its name.
        site: String,
        /// What is wrong.
        what: &'static str,
    },
    /// A port could not be opened.
    #[error("listen on {address} ({protocol})")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// `UDP`, `TCP` or `health`.
        protocol: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The control socket could not be opened.
    #[error("open the control socket {}", path.display())]
    Control {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The kernel does not take what answers in it.
    #[error(transparent)]
    Xdp(#[from] crate::XdpError),
    /// Keys, transfers or secondaries cannot be right.
    #[error("transfers of zones")]
    Rules(#[from] RulesError),
    /// The certificate of DNS over TLS cannot be used.
    #[error("DNS over TLS")]
    Certificate(#[from] CertificateError),
    /// The query log cannot be written.
    #[error("query log {}", path.display())]
    QueryLog {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A thread could not be started.
    #[error("start a thread")]
    Thread(#[source] std::io::Error),
}
