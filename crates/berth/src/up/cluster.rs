//! The parts of a cluster, started in order, each on the public surface of its crate.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use berth_apiserver::{ApiServer, Pki, Sans, ServiceRange, User};
use berth_daemon::Tasks;
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::issuer::Keys;
use crate::failure::{Exit, Failure};
use crate::instance::{Instance, write_whole};

const DOMAIN: &str = "cluster.local";
const NODE_READY_WITHIN: Duration = Duration::from_secs(60);
const MOST_PODS: u32 = 110;
/// Pulls that run at the same time; they share one disk.
const PARALLEL_PULLS: usize = 4;

/// A cluster that runs in this process.
pub struct Cluster {
    client: Client,
    node: String,
    pki: Pki,
    own_image: oneshot::Receiver<Result<String>>,
}

/// What the machine must have, before anything starts.
///
/// # Errors
/// [`Exit::Machine`] with what is missing, [`Exit::InUse`] for a range in use.
pub fn preflight(instance: &Instance) -> Result<()> {
    let config = node_config(instance, (String::new(), String::new()), String::new());
    berth_node::preflight::check(&config).map_err(|error| {
        let exit = if error.is_conflict() { Exit::InUse } else { Exit::Machine };
        Failure::new(exit, error.to_string(), error.hint()).into()
    })
}

/// Starts everything of the embedded ground in `tasks`.
///
/// # Errors
/// The first part that could not start.
pub async fn start(instance: &Instance, tasks: &Tasks) -> Result<Cluster> {
    let registry = TcpListener::bind(instance.registry()).await.context("the registry's port")?;
    berth_images::registry::serve(registry, instance.dir.join("registry"), tasks)
        .context("starting the registry")?;
    let pause = berth_images::system::push_pause(instance.registry());
    let own_image = push_own_image(instance.registry(), tasks);

    let (api, pki) = start_api(instance, tasks).await?;
    let part = |name: &str, groups: &[&str]| api.client(User::new(name, groups));
    let admin = part("berth:up", &["system:masters"]);
    let controllers = part("system:kube-controller-manager", &["system:masters"]);
    let scheduler = part("system:kube-scheduler", &["system:masters"]);
    let node_user = format!("system:node:{}", instance.node_name);
    let node = part(&node_user, &["system:nodes", "system:berth:embedded-agent"]);
    let l4 = part("system:kube-proxy", &["system:masters"]);

    let issuer = Arc::new(Keys(api.issuer()));
    start_controllers(instance, &pki, issuer, controllers, scheduler, tasks)?;
    api.show_metrics(berth_controllers::scheduler::metrics);
    let l4_config = berth_balancer::l4::Config {
        instance: instance.name.clone(),
        pod_range: instance.options.pod_range,
        service_range: instance.options.service_range,
        node_address: instance.node_address(),
        bridge: instance.name.clone(),
    };
    berth_balancer::l4::start(l4, l4_config, tasks);
    pause.await.context("pushing the sandbox image")?;
    let config = node_config(instance, pki.kubelet_serving(), pki.ca_pem().to_owned());
    berth_node::start(node, config, tasks).await.context("starting the node agent")?;
    Ok(Cluster { client: admin, node: instance.node_name.clone(), pki, own_image })
}

impl Cluster {
    /// A client that may do everything.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// What certificates are made with.
    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    /// Waits until the node takes pods.
    ///
    /// # Errors
    /// After a minute.
    pub async fn wait_for_node(&self) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let ready = kube::runtime::wait::await_condition(nodes, &self.node, is_ready);
        match tokio::time::timeout(NODE_READY_WITHIN, ready).await {
            Ok(done) => Ok(done.map(drop)?),
            Err(_) => Err(anyhow!("the node {} does not become Ready", self.node)),
        }
    }

    /// The image of this binary, once it is in the registry.
    ///
    /// # Errors
    /// Why it could not be made.
    pub async fn own_image(&mut self) -> Result<String> {
        (&mut self.own_image).await.context("making an image of berth")?
    }
}

fn is_ready(node: Option<&Node>) -> bool {
    let conditions = node.and_then(|node| node.status.as_ref()?.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
}

/// DNS and balancer run from an image of this very binary; making it must not delay the node.
fn push_own_image(registry: SocketAddr, tasks: &Tasks) -> oneshot::Receiver<Result<String>> {
    let (done, made) = oneshot::channel();
    tasks.spawn_until_stop("own-image", async move {
        let pushed = berth_images::system::push_own(registry).await;
        // Nobody waits when the start has failed meanwhile.
        drop(done.send(pushed.context("pushing the image of berth")));
    });
    made
}

async fn start_api(instance: &Instance, tasks: &Tasks) -> Result<(ApiServer, Pki)> {
    let options = &instance.options;
    let store = crate::store::open(instance, Some(tasks)).await?;
    super::backups::start(instance, store.clone(), tasks)?;
    let node = IpAddr::from(instance.node_address());
    let ips = vec![node, IpAddr::from(instance.api_address())];
    let sans = Sans { ips, dns: vec![instance.node_name.clone()] };
    let pki = Pki::load_or_create(&instance.dir.join("pki"), &sans, &instance.node_name)?;
    let server = format!("https://127.0.0.1:{}", options.api_port);
    write_whole(&instance.kubeconfig(), &pki.kubeconfig(&server))?;
    let config = berth_apiserver::Config {
        advertise: SocketAddr::from((node, options.api_port)),
        service_range: ServiceRange::new(options.service_range)
            .expect("the instance has checked its ranges"),
        node_ports: options.node_ports.0.clone(),
        pki: pki.clone(),
        cluster_domain: DOMAIN.to_owned(),
    };
    let api = ApiServer::open(config, store, tasks).await?;
    api.audit(audit_log(instance), tasks).context("opening the audit log")?;
    let listener = TcpListener::bind(("0.0.0.0", options.api_port)).await?;
    api.serve(listener, tasks);
    Ok((api, pki))
}

fn start_controllers(
    instance: &Instance,
    pki: &Pki,
    issuer: Arc<Keys>,
    controllers: Client,
    scheduler: Client,
    tasks: &Tasks,
) -> Result<()> {
    let mut config = berth_controllers::Config::new(pki.ca_pem().to_owned());
    config.issuer = Some(issuer);
    config.apps_domain.clone_from(&instance.options.apps_domain);
    config.balancer_http_port = instance.options.http_port;
    config.acme = instance.options.acme().authority()?;
    let world = berth_controllers::start(controllers, config, tasks);
    berth_controllers::start_scheduler(scheduler, &world, tasks);
    Ok(())
}

fn node_config(
    instance: &Instance,
    serving: (String, String),
    client_ca_pem: String,
) -> berth_node::Config {
    berth_node::Config {
        name: instance.node_name.clone(),
        address: instance.node_address(),
        data_dir: instance.dir.clone(),
        instance: instance.name.clone(),
        pod_range: instance.options.pod_range,
        cluster_dns: instance.dns_address(),
        cluster_domain: DOMAIN.to_owned(),
        sandbox_image: berth_images::system::pause_reference(instance.registry()),
        kubelet_port: instance.options.kubelet_port,
        serving,
        client_ca_pem,
        registry: instance.registry(),
        max_pods: MOST_PODS,
        parallel_pulls: PARALLEL_PULLS,
    }
}

/// Where audit lines go, and how many of them stay.
fn audit_log(instance: &Instance) -> berth_apiserver::audit::Options {
    let mut log = berth_apiserver::audit::Options::new(instance.dir.join("logs/audit.log"));
    if let Some(mib) = instance.options.audit_log_max_size {
        log.max_bytes = u64::from(mib) << 20;
    }
    if let Some(kept) = instance.options.audit_log_max_backups {
        log.kept = kept as usize;
    }
    log
}
