//! A node of a [`Real`](super::Real): a network, processes and mounts of its own, containerd, kubelet
//! and kube-proxy.

use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cluster::{Ran, checked, run};
use crate::oci::{self, Image};
use crate::wait::until;

const PATIENCE: Duration = Duration::from_secs(120);
/// All pods of a cluster.
const PODS: &str = "10.77.0.0/16";
const DNS: &str = "10.78.0.10";
const PAUSE: &str = "test.local/pause:1";

/// Its processes; ended when dropped.
#[derive(Debug)]
pub(super) struct Node {
    init: Child,
    /// The shell that is process 1 reads it; taken away, all ends.
    shell: Option<ChildStdin>,
    /// The shell's number on the machine.
    pid: String,
    name: String,
    number: u8,
    dir: PathBuf,
}

impl Node {
    /// Makes `nodeNUMBER`, which keeps all in `dir`; nothing but its shell runs there yet.
    pub fn start(dir: &Path, number: u8) -> Result<Self> {
        let name = format!("node{number}");
        let dir = dir.join(&name);
        std::fs::create_dir(&dir)?;
        let mut init = Command::new("unshare")
            .args(["--net", "--pid", "--mount", "--mount-proc", "--fork", "--kill-child", "sh"])
            .stdin(Stdio::piped())
            .stdout(std::fs::File::create(dir.join("sh.log"))?)
            .stderr(std::fs::File::create(dir.join("sh.err"))?)
            .spawn()
            .context("running unshare")?;
        let shell = init.stdin.take();
        let mut node = Self { init, shell, pid: String::new(), name, number, dir };
        node.pid = node.first()?;
        node.say("mount --make-rshared /")?;
        // What the kubelet, runc and CNI leave there is nobody else's.
        node.say("for at in /run /var/log; do mount -t tmpfs tmpfs $at; done; mkdir -p /run/lock")?;
        node.say("ip link set lo up; echo 1 >/proc/sys/net/ipv4/ip_forward")?;
        Ok(node)
    }

    fn first(&self) -> Result<String> {
        let unshare = self.init.id();
        let children = format!("/proc/{unshare}/task/{unshare}/children");
        let mut shell = String::new();
        until("the namespaces are there", PATIENCE, || {
            shell = std::fs::read_to_string(&children).unwrap_or_default().trim().to_owned();
            let network = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/net")).ok();
            !shell.is_empty() && network(&shell).is_some_and(|its| Some(its) != network("self"))
        })?;
        Ok(shell)
    }

    /// The shell's number on the machine: its namespaces are the node's.
    pub fn pid(&self) -> &str {
        &self.pid
    }

    /// Where it keeps `name`.
    pub fn at(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// The addresses of its pods.
    pub fn pods(&self) -> String {
        format!("10.77.{}.0/24", self.number)
    }

    /// Has process 1 do it.
    pub fn say(&mut self, line: &str) -> Result<()> {
        let shell = self.shell.as_mut().context("it has ended")?;
        writeln!(shell, "{line}").context("telling process 1")
    }

    /// Has process 1 start it and go on.
    pub fn spawn(&mut self, program: &Path, words: &[String]) -> Result<()> {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        let log = self.at(&format!("{name}.log"));
        let words: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let program = program.display();
        self.say(&format!("{program} {} </dev/null >'{log}' 2>&1 &", words.join(" ")))
    }

    /// Brings an image to it.
    pub fn bring_image(&self, image: &Image<'_>) -> Result<()> {
        let tar = oci::archive(&self.dir, image)?;
        self.bring(&tar.display().to_string())?;
        Ok(std::fs::remove_file(tar)?)
    }

    /// Brings the image in the archive `tar` to it.
    pub fn bring(&self, tar: &str) -> Result<()> {
        self.ctr(&["images", "import", tar]).map(drop)
    }

    fn ctr(&self, words: &[&str]) -> Result<Ran> {
        let socket = self.at("containerd.sock");
        let words = [&["-a", socket.as_str(), "-n", "k8s.io"], words].concat();
        checked(run(Command::new("ctr").args(&words))?, "ctr", &words)
    }

    /// Starts what runs pods, at `address`.
    pub fn run_pods(&mut self, assets: &Path, kubeconfig: &str, address: Ipv4Addr) -> Result<()> {
        let (dir, name) = (self.dir.display().to_string(), self.name.clone());
        std::fs::create_dir_all(self.dir.join("cni"))?;
        std::fs::write(self.at("cni/10-bridge.conflist"), network(&dir, &self.pods()))?;
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
            format!("--kubeconfig={kubeconfig}"),
            format!("--root-dir={dir}/kubelet"),
            format!("--cert-dir={dir}/kubelet-pki"),
            format!("--volume-plugin-dir={dir}/plugins"),
            "--container-runtime=remote".to_owned(),
            format!("--container-runtime-endpoint=unix://{dir}/containerd.sock"),
            format!("--hostname-override={name}"),
            format!("--node-ip={address}"),
        ];
        self.spawn(&assets.join("kubelet"), &kubelet)?;
        let proxy = [
            format!("--kubeconfig={kubeconfig}"),
            "--proxy-mode=iptables".to_owned(),
            format!("--cluster-cidr={PODS}"),
            format!("--hostname-override={name}"),
            "--conntrack-max-per-core=0".to_owned(),
            // Its own is lower, which takes a right that roots in containers do not have.
            "--oom-score-adj=0".to_owned(),
        ];
        self.spawn(&assets.join("kube-proxy"), &proxy)
    }

    /// What the kubelet said.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.at("kubelet.log")).unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let tasks = self.dir.join("containerd/state/io.containerd.runtime.v2.task/k8s.io");
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

fn network(dir: &str, pods: &str) -> String {
    format!(
        r#"{{ "cniVersion": "0.4.0", "name": "pods", "plugins": [{{
            "type": "bridge", "bridge": "pods0", "isGateway": true, "ipMasq": true,
            "hairpinMode": true,
            "ipam": {{ "type": "host-local", "dataDir": "{dir}/ipam",
                "ranges": [[{{ "subnet": "{pods}" }}]], "routes": [{{ "dst": "0.0.0.0/0" }}] }}
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
