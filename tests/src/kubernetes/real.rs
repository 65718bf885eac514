//! A real Kubernetes with nodes on which pods run: etcd, the API server, controllers, scheduler,
//! kubelets, kube-proxies and containerds of their own.
//!
//! ```text
//!  test ──10.228.x.y/30──▶ node0 ┐ network, processes and mounts of its own
//!    └── stdin ──▶ sh, process 1 ┘ etcd kube-* containerd kubelet pods
//!                          │10.79.0.1/30
//!                        node1       containerd kubelet pods
//! ```
//!
//! Everything runs in namespaces, whose first process reads commands from this one: however the
//! test ends, the kernel ends all of it, with its mounts, links and packet filters. So several of
//! them stand beside one another, and beside clusters of Berth's own.

mod node;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::{answers, assets, write_keys};
use crate::cluster::{Ran, binary, checked, run};
use crate::oci::Image;
use crate::place::Place;
use crate::ports::free_ports;
use crate::wait::until;
use crate::{can_run_clusters, root};

use node::Node;

const PATIENCE: Duration = Duration::from_secs(120);
/// The programs that Kubernetes is.
const PROGRAMS: [&str; 6] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
];
/// What they use of the machine, where Debian puts it.
const TOOLS: [&str; 5] = [
    "/usr/bin/containerd",
    "/usr/bin/ctr",
    "/usr/sbin/runc",
    "/usr/lib/cni/bridge",
    "/usr/sbin/iptables",
];
/// Nobody outside of the namespaces sees these.
const SERVICES: &str = "10.78.0.0/16";
/// The two ends of the wire between the nodes.
const WIRE: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 79, 0, 1), Ipv4Addr::new(10, 79, 0, 2)];

/// Its processes; ended when dropped.
#[derive(Debug)]
pub struct Real {
    /// The first has the control plane.
    nodes: Vec<Node>,
    assets: PathBuf,
    /// The first node's address, which the machine reaches.
    address: Ipv4Addr,
    door: u16,
    dir: tempfile::TempDir,
}

impl Real {
    /// Starts it and waits for its node; none where it is not installed or cannot be run.
    ///
    /// # Errors
    /// When it is installed and does not become ready.
    pub fn start() -> Result<Option<Self>> {
        let Some(assets) = assets() else { return Ok(None) };
        let has_all = PROGRAMS.iter().all(|name| assets.join(name).exists())
            && TOOLS.iter().all(|path| Path::new(path).exists());
        if !has_all || !can_run_clusters("a real Kubernetes") {
            return Ok(None);
        }
        let dir = tempfile::Builder::new().prefix("real-").tempdir()?;
        // A port is free for one of us alone, so the network that is made of it is too.
        let [port] = free_ports()?;
        let network = u32::from(Ipv4Addr::new(10, 228, 0, 0)) + u32::from(port - 20_000) * 4;
        let (machine, address) = (Ipv4Addr::from(network + 1), Ipv4Addr::from(network + 2));
        let node = Node::start(dir.path(), 0)?;
        let mut real = Self { nodes: vec![node], assets, address, door: 0, dir };
        write_keys(real.dir.path(), &real.url())?;
        real.link(&format!("real{port}"), machine)?;
        real.control()?;
        real.run_pods(0, address)?;
        Ok(Some(real))
    }

    /// A second node, where only the first one's is beside it.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn join(&mut self) -> Result<()> {
        let mut node = Node::start(self.dir.path(), 1)?;
        let [here, there] = WIRE;
        let (pid, pods) = (node.pid().to_owned(), node.pods());
        let first = self.nodes[0].pid();
        ip(&format!("link add node1 netns {first} type veth peer name node0 netns {pid}"))?;
        self.nodes[0].say(&format!("ip addr add {here}/30 dev node1; ip link set node1 up"))?;
        self.nodes[0].say(&format!("ip route add {pods} via {there}"))?;
        node.say(&format!("ip addr add {there}/30 dev node0; ip link set node0 up"))?;
        node.say(&format!("ip route add default via {here}"))?;
        self.nodes.push(node);
        self.run_pods(1, there)
    }

    /// Brings Berth to it: `berth install` from this very binary.
    ///
    /// # Errors
    /// What it said, or when something of it does not become ready.
    pub fn install(&mut self) -> Result<()> {
        let tar = self.at("berth.tar");
        let image = "test.local/berth:1";
        self.berth(&["install", "--save-image", &tar, "--image", image])?;
        self.bring(&tar)?;
        self.berth(&["install", "--image", image, "--balancer-service", "node-port"])?;
        let path = "jsonpath={.spec.ports[?(@.name==\"http\")].nodePort}";
        let words = ["get", "service", "-n", "berth-system", "berth-balancer", "-o", path];
        self.door = self.kubectl(&words)?.out.parse().context("a node port")?;
        Ok(())
    }

    /// Brings an image to its nodes.
    ///
    /// # Errors
    /// When it cannot be made, or containerd does not take it.
    pub fn bring_image(&self, image: &Image<'_>) -> Result<()> {
        self.nodes.iter().try_for_each(|node| node.bring_image(image))
    }

    /// Brings the image in the archive `tar` to its nodes, and removes the archive.
    ///
    /// # Errors
    /// When containerd does not take it.
    pub fn bring(&self, tar: &str) -> Result<()> {
        self.nodes.iter().try_for_each(|node| node.bring(tar))?;
        std::fs::remove_file(tar)?;
        Ok(())
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    /// Runs the binary as the user of `kubeconfig`, failures included.
    ///
    /// # Errors
    /// When the binary cannot be run.
    pub fn try_berth_as(&self, kubeconfig: &Path, words: &[&str]) -> Result<Ran> {
        let mut command = Command::new(binary());
        command.arg("--kubeconfig").arg(kubeconfig);
        run(command.args(words).stdin(Stdio::null()).current_dir(root()))
    }

    fn at(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn url(&self) -> String {
        format!("https://{}:6443", self.address)
    }

    /// The wire between the machine and the first node.
    fn link(&mut self, name: &str, machine: Ipv4Addr) -> Result<()> {
        let (address, node) = (self.address, &mut self.nodes[0]);
        ip(&format!("link add {name} type veth peer name node0 netns {}", node.pid()))?;
        ip(&format!("addr add {machine}/30 dev {name}"))?;
        ip(&format!("link set {name} up"))?;
        node.say(&format!("ip addr add {address}/30 dev node0; ip link set node0 up"))?;
        node.say(&format!("ip route add default via {machine}"))
    }

    fn run_pods(&mut self, number: usize, address: Ipv4Addr) -> Result<()> {
        let kubeconfig = self.at("kubeconfig");
        self.nodes[number].run_pods(&self.assets, &kubeconfig, address)?;
        let node = format!("node{number}");
        let ready = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
        until("the node is ready", PATIENCE, || {
            self.kubectl(&["get", "node", &node, "-o", ready]).is_ok_and(|ran| ran.out == "True")
        })
        .with_context(|| self.nodes[number].said())?;
        Ok(())
    }

    fn control(&mut self) -> Result<()> {
        let assets = self.assets.clone();
        let etcd = [format!("--data-dir={}", self.at("etcd")), "--unsafe-no-fsync".to_owned()];
        self.nodes[0].spawn(&assets.join("etcd"), &etcd)?;
        let server = [
            "--etcd-servers=http://127.0.0.1:2379".to_owned(),
            "--secure-port=6443".to_owned(),
            format!("--advertise-address={}", self.address),
            format!("--cert-dir={}", self.at("pki")),
            format!("--service-account-key-file={}", self.at("sa.pub")),
            format!("--service-account-signing-key-file={}", self.at("sa.key")),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
            format!("--service-cluster-ip-range={SERVICES}"),
            format!("--token-auth-file={}", self.at("tokens.csv")),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--allow-privileged=true".to_owned(),
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
        ];
        self.nodes[0].spawn(&assets.join("kube-apiserver"), &server)?;
        answers(&self.url())?;
        let client = format!("--kubeconfig={}", self.at("kubeconfig"));
        let alone = ["--leader-elect=false", "--port=0", "--secure-port=0"].map(str::to_owned);
        let mut words = vec![
            client.clone(),
            format!("--service-account-private-key-file={}", self.at("sa.key")),
            format!("--root-ca-file={}", self.at("pki/apiserver.crt")),
            // An autoscaler looks every 15 s otherwise.
            "--horizontal-pod-autoscaler-sync-period=1s".to_owned(),
        ];
        words.extend(alone.clone());
        self.nodes[0].spawn(&assets.join("kube-controller-manager"), &words)?;
        let mut words = vec![client];
        words.extend(alone);
        self.nodes[0].spawn(&assets.join("kube-scheduler"), &words)
    }
}

impl Place for Real {
    fn berth(&self, words: &[&str]) -> Result<Ran> {
        checked(self.try_berth_as(&self.kubeconfig(), words)?, "berth", words)
    }

    fn kubectl(&self, words: &[&str]) -> Result<Ran> {
        checked(run(self.kubectl_command().args(words))?, "kubectl", words)
    }

    fn kubectl_command(&self) -> Command {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(self.at("kubeconfig"));
        command.arg("--cache-dir").arg(self.at("kubectl-cache")).stdin(Stdio::null());
        command
    }

    fn http(&self) -> SocketAddr {
        SocketAddr::from((self.address, self.door))
    }
}

fn ip(words: &str) -> Result<()> {
    let words: Vec<&str> = words.split(' ').collect();
    checked(run(Command::new("ip").args(&words))?, "ip", &words).map(drop)
}
