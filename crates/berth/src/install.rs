//! `berth install`: Berth on any Kubernetes, by server-side apply; `berth uninstall` takes it back.
//!
//! ```text
//!  manifests (pure) ──▶ render: YAML, a kustomization
//!        │
//!        └──▶ server: version, rights, what is there ──▶ apply ──▶ wait until it is ready
//! ```
//!
//! Everything is written by one field manager and carries one label. So an upgrade is the same
//! command: fields and objects that the new version does not have go, and what people added to our
//! objects stays theirs.
//!
//! Refuses a Kubernetes before 1.20, a cluster of `berth up` (it has all of this), and to begin
//! without the rights to end.

mod apply;
mod manifests;
mod objects;
mod render;
mod server;
pub mod uninstall;
mod wait;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use k8s_openapi::api::core::v1::Service;
use kube::{Api, Client};
use serde_json::json;

use crate::cli::Global;
use crate::console::oidc::Provider;
use crate::failure::{Exit, Failure};
use crate::progress::Steps;
use manifests::{Door, Manifest, Part, Storage, Wanted};

/// The field manager of all that is installed.
const MANAGER: &str = "berth-install";

/// `berth install`.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// Berth's image, as the cluster's nodes pull it or have it
    #[arg(long, default_value = concat!("berth:", env!("CARGO_PKG_VERSION")))]
    image: String,
    /// A part to leave out, or to take away again; repeatable
    #[arg(long = "without", value_enum, value_name = "PART")]
    without: Vec<Part>,
    /// What the apps' names end in
    #[arg(long, default_value = "apps.berth.local")]
    apps_domain: String,
    /// What the cluster's own names end in
    #[arg(long, default_value = "cluster.local")]
    cluster_domain: String,
    /// How the balancer is reached from outside
    #[arg(long, value_enum, default_value_t)]
    balancer_service: Door,
    /// What the status of an Ingress says of where it answers
    #[arg(long)]
    address: Option<String>,
    /// Ingresses without a class are the balancer's too
    #[arg(long)]
    default_ingress_class: bool,
    /// The address of our DNS [default: the tenth of the services, which pods ask, where nobody
    /// has it; else any]
    #[arg(long)]
    dns_address: Option<Ipv4Addr>,
    /// Where the console's accounts are, unless the Secret berth-console-database names a database
    #[arg(long, value_enum, default_value_t)]
    console_storage: Storage,
    /// A file that says which OpenID Connect provider names people too (docs/CONSOLE.md); what it
    /// names becomes the Secret berth-console-oidc, which is not rendered
    #[arg(long, value_name = "FILE")]
    console_oidc: Option<PathBuf>,
    /// Where nodes keep what Apps wrote into their log directories
    #[arg(long, value_name = "DIR", default_value = "/var/lib/berth-collector")]
    collector_dir: String,
    /// Print the manifests, and end
    #[arg(long, conflicts_with = "render_to")]
    render: bool,
    /// Write the manifests and a kustomization into this directory, and end
    #[arg(long, value_name = "DIR")]
    render_to: Option<PathBuf>,
    /// The image that the console offers to who wants a container to look into a pod; one with
    /// strace, lsof, ss and tcpdump: berth images tools --save
    #[arg(long, value_name = "IMAGE")]
    debug_image: Option<String>,
    /// Write the image of this very program, named as --image says, as an OCI archive, and end
    #[arg(long, value_name = "FILE", conflicts_with_all = ["render", "render_to"])]
    save_image: Option<PathBuf>,
    /// Do not wait until it is ready
    #[arg(long)]
    no_wait: bool,
    /// How long to wait, in seconds
    #[arg(long, default_value_t = 300)]
    timeout: u64,
}

impl Options {
    fn wanted(&self) -> Result<Wanted> {
        let provider = self.console_oidc.as_deref().map(Provider::read).transpose()?;
        let mut parts = Part::value_variants().to_vec();
        parts.retain(|part| !self.without.contains(part));
        Ok(Wanted {
            image: self.image.clone(),
            parts,
            apps_domain: self.apps_domain.clone(),
            cluster_domain: self.cluster_domain.clone(),
            door: self.balancer_service,
            ports: (80, 443),
            address: self.address.clone(),
            default_class: self.default_ingress_class,
            dns_address: self.dns_address,
            debug_image: self.debug_image.clone(),
            claim: self.console_storage != Storage::Ephemeral,
            collector_dir: self.collector_dir.clone(),
            provider: provider.map(|one| one.files()).transpose()?,
        })
    }
}

/// Does what the command line says.
///
/// # Errors
/// See the module; and a part that does not become ready, with the reason of its pod.
pub async fn run(global: &Global, options: Options) -> Result<()> {
    if let Some(path) = &options.save_image {
        berth_images::system::save_own(&options.image, path).await?;
        eprintln!("{} is in {}", options.image, path.display());
        return Ok(());
    }
    let wanted = options.wanted()?;
    if options.render || options.render_to.is_some() {
        let mut all = manifests::all(&wanted)?;
        // What is rendered is kept where many can read it.
        all.retain(|one| one.kind() != "Secret");
        match &options.render_to {
            Some(dir) => return render::directory(&all, &wanted.image, dir),
            None => print!("{}", render::stream(&all)?),
        }
        return Ok(());
    }
    let server = server::connect(global).await?;
    let mut steps = Steps::new();
    install(&server, &options, wanted, &mut steps, global).await
}

async fn install(
    server: &server::Server,
    options: &Options,
    mut wanted: Wanted,
    steps: &mut Steps,
    global: &Global,
) -> Result<()> {
    let client = &server.client;
    steps.begin("what is there");
    server.refuse_own_ground().await?;
    if wanted.dns_address.is_none() && wanted.has(Part::Dns) {
        wanted.dns_address = server.free_dns_address().await?;
    }
    if options.console_storage == Storage::Auto && wanted.has(Part::Console) {
        wanted.claim = server.keeps_claims().await?;
        if !wanted.claim {
            steps.note("no default StorageClass: the console's accounts go with its pod");
        }
    }
    let mut all = manifests::all(&wanted)?;
    let kept = server.foreign_definitions(&mut all).await?;
    for name in kept {
        steps.note(&format!("{name} is there already and stays as it is"));
    }
    server.rights(&all).await?;
    let mut apply = apply::Apply::begin(client.clone()).await?;
    let before = apply.version();
    steps.begin("namespace and definitions");
    apply.all(all.iter().filter(|one| one.rank() <= manifests::DEFINITIONS)).await?;
    apply.established(&all).await?;
    steps.begin("accounts, rights and services");
    let middle =
        |one: &&Manifest| one.rank() > manifests::DEFINITIONS && one.rank() < manifests::WORKLOADS;
    apply.all(all.iter().filter(middle)).await?;
    if wanted.has(Part::Console) {
        apply.console_certificate().await?;
    }
    if wanted.door == Door::NodePort && wanted.has(Part::Balancer) {
        wanted.ports = node_ports(client).await?;
        all = manifests::all(&wanted)?;
    }
    steps.begin("pods");
    apply.all(all.iter().filter(|one| one.rank() >= manifests::WORKLOADS)).await?;
    let gone = apply.prune(&all).await?;
    if !options.no_wait {
        let workloads = all.iter().filter_map(Manifest::workload).collect::<Vec<_>>();
        let patience = Duration::from_secs(options.timeout);
        wait::ready(client, &workloads, &wanted.image, patience, steps).await?;
    }
    steps.done();
    let count = apply.count();
    let said = json!({
        "version": env!("CARGO_PKG_VERSION"), "before": before, "kubernetes": server.version,
        "created": count.created, "changed": count.changed, "unchanged": count.unchanged,
        "removed": gone, "dnsAddress": wanted.dns_address,
    });
    let how = where_it_is(client, &wanted, server).await?;
    global.output.print(&said, || {
        let version = env!("CARGO_PKG_VERSION");
        let line = match &before {
            Some(before) if before != version => format!("berth {before} is now {version}"),
            Some(_) => format!("berth {version} is as it should be"),
            None => format!("berth {version} is installed"),
        };
        let mut text = format!(
            "{line} on {}: {} objects made, {} changed, {} as they were",
            server.version, count.created, count.changed, count.unchanged
        );
        for one in &gone {
            text.push_str(&format!(", {one} gone"));
        }
        format!("{text}\n{how}")
    })
}

/// The ports that Kubernetes gave the balancer on every node.
async fn node_ports(client: &Client) -> Result<(u16, u16)> {
    let api: Api<Service> = Api::namespaced(client.clone(), manifests::NAMESPACE);
    let service = api.get("berth-balancer").await.context("reading the balancer's ports")?;
    let port = |name: &str| {
        let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
        let found = ports.into_iter().flatten().find(|port| port.name.as_deref() == Some(name));
        found.and_then(|port| u16::try_from(port.node_port?).ok())
    };
    port("http").zip(port("https")).context("the balancer's Service has no node ports")
}

/// What people do next.
async fn where_it_is(client: &Client, wanted: &Wanted, server: &server::Server) -> Result<String> {
    let mut text = String::new();
    if wanted.has(Part::Balancer) {
        let (http, https) = wanted.ports;
        let line = match wanted.door {
            Door::LoadBalancer => match server.door_address().await? {
                Some(address) => format!("apps answer at {address}"),
                None => {
                    let (http, https) = node_ports(client).await?;
                    format!(
                        "nothing gives the balancer's Service an address yet; it answers on every \
                         node at ports {http} and {https}"
                    )
                }
            },
            Door::NodePort => format!("apps answer on every node at ports {http} and {https}"),
            Door::ClusterIp => "apps answer at berth-balancer.berth-system, inside".to_owned(),
        };
        text.push_str(&format!("\n  {line}"));
    }
    if let Some(address) = wanted.dns_address.filter(|_| wanted.has(Part::Dns)) {
        text.push_str(&format!("\n  DNS answers at {address}"));
    }
    if wanted.has(Part::Console) {
        text.push_str(
            "\n  the console: kubectl -n berth-system port-forward svc/berth-console 8444:443, \
             its first account:\n  kubectl -n berth-system exec -it deploy/berth-console -- /berth \
             console account add admin --group berth:admins",
        );
    }
    text.push_str("\n  berth app new hello > hello.yaml && berth app apply -f hello.yaml\n");
    Ok(text)
}

/// What cannot be undone here and now.
fn refused(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    Failure::new(Exit::Failed, message, hint).into()
}
