//! All of it: from a Deployment's creation to pods that are Ready and have an address.
//!
//! The whole control plane (API server, controllers, scheduler, one store with synced writes) and
//! its hollow nodes are one process, the example `plane`; hollow nodes acknowledge pods and run
//! nothing. Deployments are made at once; the clock runs from before the first is sent until a watch
//! shows the last pod Ready with an address.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::budget::Budget;
use crate::group_api::client::{Connection, Target};
use crate::group_api::side;

/// Nodes, and pods of each of the Deployments.
const SIZES: [usize; 2] = [1_000, 10_000];
const DEPLOYMENTS: usize = 20;
const REPLICAS: usize = 500;
const ROUNDS: usize = 3;
/// 150,000 containers a minute.
const GOAL: f64 = 2_500.0;
const PATIENCE: Duration = Duration::from_secs(180);
const PODS: &str = "/api/v1/namespaces/default/pods";

/// Measures it on both sizes.
pub fn measure() -> Result<Vec<Budget>> {
    let mut budgets = Vec::new();
    for nodes in SIZES.into_iter().filter(|nodes| super::is_wanted_size(*nodes)) {
        let mut rates = Vec::new();
        for _ in 0..ROUNDS {
            rates.push(round(nodes).with_context(|| format!("{nodes} hollow nodes"))?);
        }
        let label = format!("scheduler-whole-{nodes}-ready-pods_per_s");
        budgets.push(Budget::at_least(&label, GOAL, rates));
    }
    Ok(budgets)
}

fn round(nodes: usize) -> Result<f64> {
    let dir = tempfile::tempdir()?;
    let [port] = berth_tests::free_ports()?;
    let begun = Instant::now();
    let plane = Plane::start(dir.path(), port, nodes)?;
    let registered = begun.elapsed();
    let side = side::of_ours(&dir.path().join("kubeconfig"), port, plane.pid()?)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let before = side.cpu();
        let wanted = DEPLOYMENTS * REPLICAS;
        let deployed = tokio::time::timeout(PATIENCE, deploy(&side.target, wanted));
        let took = deployed.await.with_context(|| format!("not Ready in {PATIENCE:?}"))??;
        let used = side.cpu().saturating_sub(before);
        let rate = wanted as f64 / took.as_secs_f64();
        eprintln!(
            "{nodes} hollow nodes registered in {registered:.1?}; {wanted} pods Ready in \
             {took:.1?}: {rate:.0}/s, {:.0} µs of processor for each, {:.0} MiB resident",
            used.as_micros() as f64 / wanted as f64,
            side.resident()
        );
        Ok(rate)
    })
}

/// Makes the Deployments; how long until their pods are Ready.
async fn deploy(target: &Target, wanted: usize) -> Result<Duration> {
    let mut connection = Connection::open(target).await?;
    connection.ask(&target.request("GET", &format!("{PODS}?limit=1"), "", "")).await?;
    let list: Value = serde_json::from_slice(&connection.body).context("a list of pods")?;
    let from = list["metadata"]["resourceVersion"].as_str().context("a list's version")?;
    let mut watch = Connection::open(target).await?;
    let path = format!("{PODS}?watch=1&timeoutSeconds=600&resourceVersion={from}");
    let (status, _) = watch.head(&target.request("GET", &path, "", "")).await?;
    ensure!(status == 200, "a watch: {status}");
    let begun = Instant::now();
    for at in 0..DEPLOYMENTS {
        let body = deployment(at).to_string();
        let path = "/apis/apps/v1/namespaces/default/deployments";
        let request = target.request("POST", path, "application/json", &body);
        let status = connection.ask(&request).await?;
        ensure!(status == 201, "a Deployment: {}", String::from_utf8_lossy(&connection.body));
    }
    let mut ready = std::collections::HashSet::new();
    let mut bytes = Vec::with_capacity(256 * 1024);
    while ready.len() < wanted {
        ensure!(watch.more(&mut bytes).await? > 0, "the watch ended");
        let Some(end) = memchr::memrchr(b'\n', &bytes) else { continue };
        ready.extend(bytes[..end].split(|byte| *byte == b'\n').filter_map(name_of_ready));
        bytes.drain(..=end);
    }
    Ok(begun.elapsed())
}

/// The pod's name, if the change shows it Ready with an address.
fn name_of_ready(line: &[u8]) -> Option<String> {
    // Most changes are not that one: a look at the bytes is enough for them.
    memchr::memmem::find(line, b"\"podIP\":\"")?;
    let change: Value = serde_json::from_slice(line).ok()?;
    let conditions = change["object"]["status"]["conditions"].as_array()?;
    let ready = conditions.iter().any(|each| each["type"] == "Ready" && each["status"] == "True");
    let name = change["object"]["metadata"]["name"].as_str()?;
    ready.then(|| name.to_owned())
}

fn deployment(at: usize) -> Value {
    let labels = json!({ "app": format!("web-{at}") });
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": format!("web-{at}") },
        "spec": { "replicas": REPLICAS, "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": { "containers": [{
                "name": "web", "image": "registry.k8s.io/pause:3.10",
                "resources": { "requests": { "cpu": "100m", "memory": "128Mi" } } }] } } },
    })
}

/// The process; ended when dropped.
struct Plane(Child);

impl Plane {
    fn start(dir: &Path, port: u16, nodes: usize) -> Result<Self> {
        let program = std::env::current_exe()?.with_file_name("examples").join("plane");
        let process = Command::new(&program)
            .arg(dir)
            .args([port.to_string(), nodes.to_string()])
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let mut plane = Self(process);
        let out = plane.0.stdout.take().context("its output is a pipe")?;
        let mut lines = BufReader::new(out).lines();
        ensure!(lines.any(|line| line.is_ok_and(|line| line == "ready")), "it ended at once");
        Ok(plane)
    }

    fn pid(&self) -> Result<i32> {
        Ok(i32::try_from(self.0.id())?)
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        // One that has ended by itself cannot be killed, and need not be.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
