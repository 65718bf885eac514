//! A real Kubernetes with a node on which pods run: etcd, the API server, controllers, scheduler,
//! kubelet, kube-proxy and a containerd of its own.
//!
//! ```text
//!  test ──10.228.x.y/30──▶ node0 ┐ network, processes and mounts of its own
//!    └── stdin ──▶ sh, process 1 ┘ etcd kube-* containerd kubelet pods
//! ```
//!
//! Everything runs in namespaces, whose first process reads commands from this one: however the
//! test ends, the kernel ends all of it, with its mounts, links and packet filters. So several of
//! them stand beside one another, and beside clusters of Berth's own.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::{answers, assets, write_keys};
use crate::cluster::{Ran, binary, checked, run};
use crate::oci::{self, Image};
use crate::place::Place;
use crate::ports::free_ports;
use crate::wait::until;
use crate::{can_run_clusters, root};

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
/// Nobody outside of the namespace sees these.
const PODS: &str = "10.77.0.0/24";
const SERVICES: &str = "10.78.0.0/16";
const DNS: &str = "10.78.0.10";
const PAUSE: &str = "test.local/pause:1";

/// Its processes; ended when dropped.
#[derive(Debug)]
pub struct Real {
    init: Child,
    /// The shell that is process 1 reads it; taken away, all ends.
    shell: Option<ChildStdin>,
    /// The node's address, which the machine reaches.
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
        let mut init = Command::new("unshare")
            .args(["--net", "--pid", "--mount", "--mount-proc", "--fork", "--kill-child", "sh"])
            .stdin(Stdio::piped())
            .stdout(std::fs::File::create(dir.path().join("sh.log"))?)
            .stderr(std::fs::File::create(dir.path().join("sh.err"))?)
            .spawn()
            .context("running unshare")?;
        let shell = init.stdin.take();
        let mut real = Self { init, shell, address, door: 0, dir };
        write_keys(real.dir.path(), &real.url())?;
        real.link(&format!("real{port}"), machine)?;
        real.control(&assets)?;
        real.node(&assets)?;
        Ok(Some(real))
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

    /// Brings an image to its node.
    ///
    /// # Errors
    /// When it cannot be made, or containerd does not take it.
    pub fn bring_image(&self, image: &Image<'_>) -> Result<()> {
        let tar = oci::archive(self.dir.path(), image)?;
        self.bring(&tar.display().to_string())
    }

    /// Brings the image in the archive `tar` to its node, and removes the archive.
    ///
    /// # Errors
    /// When containerd does not take it.
    pub fn bring(&self, tar: &str) -> Result<()> {
        self.ctr(&["images", "import", tar])?;
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

    fn ctr(&self, words: &[&str]) -> Result<Ran> {
        let socket = self.at("containerd.sock");
        let words = [&["-a", socket.as_str(), "-n", "k8s.io"], words].concat();
        checked(run(Command::new("ctr").args(&words))?, "ctr", &words)
    }

    fn at(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn url(&self) -> String {
        format!("https://{}:6443", self.address)
    }

    /// Has process 1 do it.
    fn say(&mut self, line: &str) -> Result<()> {
        let shell = self.shell.as_mut().context("it has ended")?;
        writeln!(shell, "{line}").context("telling process 1")
    }

    /// Has process 1 start it and go on.
    fn spawn(&mut self, program: &Path, words: &[String]) -> Result<()> {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        let log = self.at(&format!("{name}.log"));
        let words: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let program = program.display();
        self.say(&format!("{program} {} </dev/null >'{log}' 2>&1 &", words.join(" ")))
    }

    /// The wire between the machine and the node.
    fn link(&mut self, name: &str, machine: Ipv4Addr) -> Result<()> {
        let unshare = self.init.id();
        let children = format!("/proc/{unshare}/task/{unshare}/children");
        let mut shell = String::new();
        until("the namespaces are there", PATIENCE, || {
            shell = std::fs::read_to_string(&children).unwrap_or_default().trim().to_owned();
            let network = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/net")).ok();
            !shell.is_empty() && network(&shell).is_some_and(|its| Some(its) != network("self"))
        })?;
        let ip = |words: &str| -> Result<()> {
            let words: Vec<&str> = words.split(' ').collect();
            checked(run(Command::new("ip").args(&words))?, "ip", &words).map(drop)
        };
        ip(&format!("link add {name} type veth peer name node0 netns {shell}"))?;
        ip(&format!("addr add {machine}/30 dev {name}"))?;
        ip(&format!("link set {name} up"))?;
        self.say("mount --make-rshared /")?;
        // What the kubelet, runc and CNI leave there is nobody else's.
        self.say("for at in /run /var/log; do mount -t tmpfs tmpfs $at; done; mkdir -p /run/lock")?;
        self.say("ip link set lo up; ip link set node0 up")?;
        self.say(&format!("ip addr add {}/30 dev node0", self.address))?;
        self.say(&format!("ip route add default via {machine}"))?;
        self.say("echo 1 >/proc/sys/net/ipv4/ip_forward")
    }

    fn control(&mut self, assets: &Path) -> Result<()> {
        let etcd = [format!("--data-dir={}", self.at("etcd")), "--unsafe-no-fsync".to_owned()];
        self.spawn(&assets.join("etcd"), &etcd)?;
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
        self.spawn(&assets.join("kube-apiserver"), &server)?;
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
        self.spawn(&assets.join("kube-controller-manager"), &words)?;
        let mut words = vec![client];
        words.extend(alone);
        self.spawn(&assets.join("kube-scheduler"), &words)
    }

    fn node(&mut self, assets: &Path) -> Result<()> {
        let (dir, address) = (self.dir.path().display().to_string(), self.address);
        std::fs::create_dir_all(self.dir.path().join("cni"))?;
        std::fs::write(self.at("cni/10-bridge.conflist"), network(&dir))?;
        std::fs::write(self.at("containerd.toml"), containerd(&dir))?;
        std::fs::write(self.at("kubelet.yaml"), KUBELET.replace("DNS", DNS))?;
        let words = [format!("--config={dir}/containerd.toml")];
        self.spawn(Path::new("containerd"), &words)?;
        until("containerd answers", PATIENCE, || self.ctr(&["version"]).is_ok())?;
        self.bring_image(&Image {
            name: PAUSE,
            files: &[(Path::new("/bin/busybox"), "bin/busybox")],
            entrypoint: &["/bin/busybox", "sleep", "2147483647"],
            env: &[],
        })?;
        let kubelet = [
            format!("--config={dir}/kubelet.yaml"),
            format!("--kubeconfig={dir}/kubeconfig"),
            format!("--root-dir={dir}/kubelet"),
            format!("--cert-dir={dir}/kubelet-pki"),
            format!("--volume-plugin-dir={dir}/plugins"),
            "--container-runtime=remote".to_owned(),
            format!("--container-runtime-endpoint=unix://{dir}/containerd.sock"),
            "--hostname-override=node0".to_owned(),
            format!("--node-ip={address}"),
        ];
        self.spawn(&assets.join("kubelet"), &kubelet)?;
        let proxy = [
            format!("--kubeconfig={dir}/kubeconfig"),
            "--proxy-mode=iptables".to_owned(),
            format!("--cluster-cidr={PODS}"),
            "--hostname-override=node0".to_owned(),
            "--conntrack-max-per-core=0".to_owned(),
            // Its own is lower, which takes a right that roots in containers do not have.
            "--oom-score-adj=0".to_owned(),
        ];
        self.spawn(&assets.join("kube-proxy"), &proxy)?;
        let ready = "jsonpath={.items[0].status.conditions[?(@.type==\"Ready\")].status}";
        until("the node is ready", PATIENCE, || {
            self.kubectl(&["get", "nodes", "-o", ready]).is_ok_and(|ran| ran.out == "True")
        })
        .with_context(|| std::fs::read_to_string(self.at("kubelet.log")).unwrap_or_default())?;
        Ok(())
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

impl Drop for Real {
    fn drop(&mut self) {
        let tasks = self.dir.path().join("containerd/state/io.containerd.runtime.v2.task/k8s.io");
        let tasks: Vec<PathBuf> =
            std::fs::read_dir(tasks).into_iter().flatten().flatten().map(|e| e.path()).collect();
        drop(self.shell.take());
        drop(self.init.wait());
        // Control groups know no namespaces here, and stay.
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        for hierarchy in hierarchies {
            for name in tasks.iter().filter_map(|task| task.file_name()) {
                drop(std::fs::remove_dir(hierarchy.path().join("k8s.io").join(name)));
            }
        }
    }
}

fn network(dir: &str) -> String {
    format!(
        r#"{{ "cniVersion": "0.4.0", "name": "pods", "plugins": [{{
            "type": "bridge", "bridge": "pods0", "isGateway": true, "ipMasq": true,
            "hairpinMode": true,
            "ipam": {{ "type": "host-local", "dataDir": "{dir}/ipam",
                "ranges": [[{{ "subnet": "{PODS}" }}]], "routes": [{{ "dst": "0.0.0.0/0" }}] }}
        }}] }}"#
    )
}

fn containerd(dir: &str) -> String {
    format!(
        r#"version = 2
root = "{dir}/containerd/root"
state = "{dir}/containerd/state"
[grpc]
address = "{dir}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "{dir}/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
restrict_oom_score_adj = true
sandbox_image = "{PAUSE}"
stream_server_address = "127.0.0.1"
stream_server_port = "0"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{dir}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"#
    )
}

/// A node that does not care how full the machine's disk is, and looks again at pods that go every
/// two seconds: it looks every minute otherwise, and lets go of a name as late.
const KUBELET: &str = "apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
evictionHard: {memory.available: 10Mi}
imageGCHighThresholdPercent: 100
syncFrequency: 2s
failSwapOn: false
oomScoreAdj: 0
readOnlyPort: 0
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
clusterDomain: cluster.local
clusterDNS: [DNS]
";
