//! The machine's side with real parts: containerd, runc, bridge, cgroups, and the kubelet API over
//! TLS. One test, because a containerd takes its time and its steps build on each other.

mod client;
mod image;
mod meters;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use berth_daemon::Tasks;
use futures::FutureExt;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::containerd::{Containerd, running_pid};
use crate::cri::{Cri, v1};
use crate::meters::Meters;
use crate::pod::{ContainerEntry, ContainerRef, PodEntry, PodTable, labels};
use crate::{Config, cgroups, mounts, network, preflight, server, teardown};

use client::Caller;

/// Below the ports that the kernel gives to clients.
const HOST_PORT: u16 = 18_731;
const V4: &str = "v4.channel.k8s.io";
const V5: &str = "v5.channel.k8s.io";
const UID: &str = "11111111-2222-3333-4444-555555555555";

/// Whether this machine can run the test. Says why not; CI always can.
fn can_run(config: &Config) -> bool {
    match preflight::check(config) {
        Ok(()) => true,
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "CI has all it needs: {error}");
            eprintln!("skipped: {error}");
            false
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_runs_a_pod_serves_its_streams_and_is_taken_away_whole() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = crate::sample::config(dir.path());
    if !can_run(&config) {
        return;
    }
    let callers = client::certificates(&mut config);
    let tasks = Tasks::new();
    let steps = AssertUnwindSafe(run(&config, &callers, &tasks)).catch_unwind();
    let outcome = tokio::time::timeout(Duration::from_secs(120), steps).await;
    tasks.stop(Duration::from_secs(5)).await;
    // Whatever happened: nothing of ours stays on the machine.
    let torn = teardown(&config.data_dir, &config.instance).await;
    assert!(outcome.expect("within two minutes").is_ok(), "see the panic above");
    torn.expect("torn down");
    check_gone(&config);
    teardown(&config.data_dir, &config.instance).await.expect("tearing down again is fine");
}

async fn run(config: &Config, callers: &client::Certificates, tasks: &Tasks) {
    berth_daemon::init_telemetry(None).expect("a subscriber");
    network::start(config).await.expect("a network");
    network::start(config).await.expect("making it again changes nothing");
    let started = std::time::Instant::now();
    let cri = Containerd::start(config, tasks).await.expect("containerd").cri();
    eprintln!("containerd answered after {:?}", started.elapsed());
    image::import(config).await;

    let (entry, sandbox) = start_pod(config, &cri).await;
    let pods = PodTable::default();
    pods.put(UID, entry);
    let mut served = config.clone();
    served.kubelet_port = 10_250;
    let meters = Meters::of_pods(config, pods.clone(), tasks);
    server::start(served, cri.clone(), pods.clone(), meters, tasks).await.expect("a server");
    network::start_host_ports(config, pods, tasks);
    check_host_port().await;
    let caller = Caller::new(config, callers, 10_250);
    check_refusals(&caller, callers).await;
    check_streams(&caller).await;
    check_logs(&caller).await;
    meters::check(&caller).await;
    survives(config, &cri, tasks, &sandbox).await;
}

async fn start_pod(config: &Config, cri: &Cri) -> (PodEntry, String) {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": "web", "namespace": "shop", "uid": UID },
        "spec": { "containers": [{
            "name": "a",
            "resources": { "limits": { "cpu": "1", "memory": "64Mi" } },
            "ports": [{ "containerPort": 80, "hostPort": HOST_PORT }],
        }] },
    }))
    .expect("a pod");
    let parent = cgroups::create_pod(config, &pod).expect("a cgroup");
    let logs = config.pod_logs_dir("shop", "web", UID);
    for name in ["a", "b"] {
        std::fs::create_dir_all(logs.join(name)).expect("a directory");
    }
    let metadata = v1::PodSandboxMetadata {
        name: "web".to_owned(),
        uid: UID.to_owned(),
        namespace: "shop".to_owned(),
        attempt: 0,
    };
    let linux = v1::LinuxPodSandboxConfig { cgroup_parent: parent, ..Default::default() };
    let sandbox_config = v1::PodSandboxConfig {
        metadata: Some(metadata),
        log_directory: logs.to_string_lossy().into_owned(),
        linux: Some(linux),
        ..Default::default()
    };
    let sandbox = cri.run_pod_sandbox(sandbox_config.clone()).await.expect("a sandbox");
    let script = "echo one; echo oops >&2; echo two; echo hello > /page; \
                  exec /bin/busybox httpd -f -p 80 -h /";
    let mut containers = BTreeMap::new();
    for (name, script) in [("a", script), ("b", "exec /bin/busybox sleep 100000")] {
        let mut marks = labels::of_sandbox(&config.instance, "shop", "web", UID);
        marks.insert(labels::CONTAINER_NAME.to_owned(), name.to_owned());
        let container = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
            image: Some(v1::ImageSpec {
                image: config.sandbox_image.clone(),
                ..Default::default()
            }),
            command: ["/bin/busybox", "sh", "-c", script].map(str::to_owned).to_vec(),
            log_path: format!("{name}/0.log"),
            labels: marks.into_iter().collect(),
            ..Default::default()
        };
        let made = cri.create_container(&sandbox, container, sandbox_config.clone()).await;
        let id = made.expect("a container");
        cri.start_container(&id).await.expect("it starts");
        let log_path = logs.join(name).join("0.log");
        let started_at = Some(jiff::Timestamp::now());
        let current =
            ContainerRef { id, attempt: 0, running: true, ended: false, started_at, log_path };
        let entry = ContainerEntry { current: Some(current), previous: None };
        containers.insert(name.to_owned(), entry);
    }
    let network = cri.pod_sandbox_status(&sandbox).await.expect("a status").network;
    let ip = network.expect("a network").ip;
    let entry = PodEntry {
        pod: Arc::new(pod),
        sandbox_id: Some(sandbox.clone()),
        pod_ip: Some(ip),
        containers,
    };
    (entry, sandbox)
}

/// The machine itself reaches the pod by a port of its own.
async fn check_host_port() {
    for _ in 0..100 {
        let connected = tokio::net::TcpStream::connect(("127.0.0.1", HOST_PORT)).await;
        if let Ok(mut stream) = connected {
            stream.write_all(b"GET /page HTTP/1.0\r\n\r\n").await.expect("written");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.expect("read");
            assert!(answer.ends_with("hello\n"), "{answer}");
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("nobody answers at the host port");
}

async fn check_refusals(caller: &Caller, callers: &client::Certificates) {
    assert_eq!(caller.get("/healthz").await, (200, "ok".to_owned()));
    let outsider = caller.with(&callers.outsider);
    assert_eq!(outsider.get("/healthz").await.0, 403);
    assert!(caller.anonymous().connect().await.is_err(), "no certificate, no connection");
    assert_eq!(caller.get("/containerLogs/shop/none/a").await.0, 404);
    assert_eq!(caller.get("/containerLogs/shop/web/none").await.0, 404);
    assert_eq!(caller.get("/containerLogs/shop/web/a?previous=true").await.0, 400);
    assert_eq!(caller.get("/exec/shop/web/a?command=ls&output=1").await.0, 400);
}

/// `/exec` of the test's container with `command`, its words as they are.
fn exec(flags: &str, command: &[&str]) -> String {
    let words: String = command.iter().map(|word| format!("&command={word}")).collect();
    format!("/exec/shop/web/a?{flags}{words}")
}

async fn check_streams(caller: &Caller) {
    // The half-close that version 5 is for: cat ends because its input does.
    let path = exec("input=1&output=1&error=1", &["/bin/busybox", "cat"]);
    let said = caller.exec(&path, V5, b"hi there").await;
    assert_eq!(said.stdout, "hi there", "{said:?}");
    assert!(said.status.contains("\"status\":\"Success\"") && said.ended_well, "{said:?}");

    // Much more than the buffers between hold, in both directions at once.
    let much = vec![b'x'; 3 << 20];
    let said = caller.exec(&path, V5, &much).await;
    assert_eq!(said.stdout.len(), much.len());

    for protocol in [V4, V5] {
        let script = "echo%20out;echo%20err%20%3E%262;exit%207";
        let path = exec("output=1&error=1", &["/bin/busybox", "sh", "-c", script]);
        let said = caller.exec(&path, protocol, b"").await;
        assert_eq!((said.stdout.as_str(), said.stderr.as_str()), ("out\n", "err\n"), "{protocol}");
        assert!(said.status.contains("ExitCode") && said.status.contains('7'), "{}", said.status);
    }

    // The size comes on its own channel and may arrive after the first look.
    let script =
        "B=/bin/busybox;until%20$B%20stty%20size%7C$B%20grep%20132;do%20$B%20sleep%200.1;done";
    let path = exec("input=1&output=1&tty=1", &["/bin/busybox", "sh", "-c", script]);
    let said = caller.exec_resized(&path, V5, 50, 132).await;
    assert!(said.stdout.ends_with("50 132\r\n"), "{said:?}");

    let request = b"GET /page HTTP/1.0\r\n\r\n";
    caller.ask_through_tunnel("/portForward/shop/web", 80, request, "\r\n\r\nhello\n").await;
}

async fn check_logs(caller: &Caller) {
    let path = "/containerLogs/shop/web/a";
    let (status, text) = caller.get(path).await;
    assert_eq!(status, 200);
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["one", "oops", "two"]);
    assert_eq!(caller.get(&format!("{path}?stream=Stderr")).await.1, "oops\n");
    let (status, metrics) = caller.get("/metrics/resource").await;
    assert_eq!(status, 200, "{metrics}");
}

/// A containerd that is there is taken up; one that dies is started again; the pod sees neither.
async fn survives(config: &Config, cri: &Cri, tasks: &Tasks, sandbox: &str) {
    let pid = running_pid(&config.data_dir).expect("it runs");
    let again = Tasks::new();
    Containerd::start(config, &again).await.expect("taken up");
    assert_eq!(running_pid(&config.data_dir), Some(pid));
    again.stop(Duration::from_secs(5)).await;

    let before = cgroups::processes(&pod_cgroup(config));
    assert!(before.len() >= 2, "pause and container: {before:?}");
    let process = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(process, rustix::process::Signal::KILL).expect("killed");
    let mut waited = 0;
    while running_pid(&config.data_dir).is_none_or(|now| now == pid) {
        assert!(waited < 200, "not started again within 10 s");
        waited += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut status = cri.pod_sandbox_status(sandbox).await;
    while status.is_err() && waited < 200 {
        waited += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
        status = cri.pod_sandbox_status(sandbox).await;
    }
    let status = status.expect("it answers again");
    assert_eq!(status.state, v1::PodSandboxState::SandboxReady as i32);
    assert_eq!(cgroups::processes(&pod_cgroup(config)), before, "the pod noticed nothing");
    tasks.stop(Duration::from_secs(5)).await;
    assert!(running_pid(&config.data_dir).is_some(), "it stays when we go");
}

fn pod_cgroup(config: &Config) -> PathBuf {
    Path::new(&config.instance).join(format!("pod{UID}"))
}

fn check_gone(config: &Config) {
    assert_eq!(running_pid(&config.data_dir), None);
    assert!(mounts::below(&config.data_dir).is_empty());
    assert!(!Path::new("/sys/class/net").join(&config.instance).exists());
    assert!(cgroups::processes(Path::new(&config.instance)).is_empty());
    let rules = crate::tool::run_here("nft", &["list", "tables"]).expect("nft");
    assert!(!rules.contains(&config.instance), "{rules}");
}
