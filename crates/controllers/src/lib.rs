//! Berth's controllers: they make the cluster what its objects say.
//!
//! Each is an ordinary client of the API server. [`driver`] is what they stand on; each controller
//! is a pure plan with a thin [`driver::Controller`] around it. The scheduler's driver lives here
//! too; what it decides lives in `berth_scheduler`.

pub mod account_tokens;
pub mod acme;
pub mod advice;
pub mod aggregation;
pub mod apps;
pub mod autoscale;
pub mod certificates;
pub mod disruption;
pub mod driver;
pub mod endpoints;
pub mod gc;
pub mod issue;
pub mod kinds;
pub mod namespace;
pub mod node_lifecycle;
pub mod quota;
pub mod reclaim;
pub mod releases;
pub mod scheduler;
pub mod service_accounts;
pub mod volumes;
pub mod workloads;

use std::sync::Arc;
use std::time::Duration;

use berth_daemon::Tasks;

use account_tokens::AccountTokens;
use acme::{Acme, Authority};
use aggregation::Aggregations;
use apps::Apps;
use apps::template::Domain;
use certificates::Certificates;
use disruption::Disruptions;
use gc::Garbage;
use gc::pods::LostPods;
use issue::Issue;
use namespace::Namespaces;
use node_lifecycle::NodeLifecycle;
use node_lifecycle::evict::Evictions;
use service_accounts::ServiceAccounts;

pub use driver::{Ground, Pauser, World};

/// What the controllers need to know of the cluster.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster's CA, which every namespace gets as a ConfigMap.
    pub ca_pem: String,
    /// Who makes certificates and account tokens; nobody does where the keys are elsewhere.
    pub issuer: Option<Arc<dyn Issue>>,
    /// Who signs for hosts that ask for a certificate.
    pub acme: Option<Arc<Authority>>,
    /// A node whose lease is older than this is taken for lost.
    pub node_monitor_grace: Duration,
    /// Apps answer under `NAME.` and this domain unless they say otherwise.
    pub apps_domain: String,
    /// Where the balancer listens for HTTP, as clients reach it: part of an App's URL.
    pub balancer_http_port: u16,
    /// The same for TLS.
    pub balancer_https_port: u16,
}

impl Config {
    /// Kubernetes' defaults and the standard domain.
    pub fn new(ca_pem: String) -> Self {
        Self {
            ca_pem,
            issuer: None,
            acme: None,
            node_monitor_grace: Duration::from_secs(40),
            apps_domain: "apps.berth.local".to_owned(),
            balancer_http_port: 8080,
            balancer_https_port: 8443,
        }
    }
}

/// Starts every controller in `tasks`; the world that they share is the scheduler's too.
pub fn start(client: kube::Client, config: Config, tasks: &Tasks) -> Arc<World> {
    let world = Arc::new(World::start(client, tasks));
    workloads::start(&world, tasks);
    endpoints::start(&world, tasks);
    volumes::start(&world, tasks);
    driver::run(quota::Quotas::default(), &world, tasks);
    driver::run(autoscale::Autoscalers::new(&world), &world, tasks);
    advice::start(world.client.clone(), &world, advice::Config::default(), || true, tasks);
    reclaim::start(world.client.clone(), &world, reclaim::Config::default(), || true, tasks);
    apps::define(world.client.clone(), tasks);
    let domain = Domain {
        name: config.apps_domain,
        http_port: config.balancer_http_port,
        https_port: config.balancer_https_port,
    };
    driver::run(Apps::new(domain, true, &world, tasks), &world, tasks);
    if let Some(issuer) = config.issuer {
        let ca_pem = config.ca_pem.clone();
        driver::run(AccountTokens { issuer: issuer.clone(), ca_pem }, &world, tasks);
        driver::run(Certificates { issuer }, &world, tasks);
    }
    if let Some(authority) = config.acme {
        driver::run(Acme::new(authority, &world, tasks), &world, tasks);
    }
    driver::run(ServiceAccounts { ca_pem: config.ca_pem }, &world, tasks);
    driver::run(Namespaces, &world, tasks);
    driver::run(Aggregations, &world, tasks);
    driver::run(Garbage::new(&world, tasks), &world, tasks);
    driver::run(Disruptions, &world, tasks);
    driver::run(LostPods, &world, tasks);
    driver::run(NodeLifecycle::new(config.node_monitor_grace), &world, tasks);
    // A node that lives has renewed its lease, and lost its taint, within twice the grace.
    driver::run(Evictions::new(&world, config.node_monitor_grace * 2), &world, tasks);
    world
}

/// Starts the controllers of Apps and Releases, and that of certificates where there is an
/// authority, in `tasks`, on any Kubernetes: the rest is its own.
pub fn start_apps(
    client: kube::Client,
    ground: Ground,
    domain: Domain,
    acme: Option<Arc<Authority>>,
    tasks: &Tasks,
) {
    let world = Arc::new(World::for_apps(client, ground, tasks));
    if let Some(authority) = acme {
        driver::run(Acme::new(authority, &world, tasks), &world, tasks);
    }
    // Other schedulers keep no reservations; pods that ask for ours have them all the same.
    driver::run(Apps::new(domain, false, &world, tasks), &world, tasks);
}

/// Starts the scheduler in `tasks`: it sees `world` and writes with `client`, a user of its own.
pub fn start_scheduler(client: kube::Client, world: &Arc<World>, tasks: &Tasks) {
    scheduler::start(client, world, tasks);
}
