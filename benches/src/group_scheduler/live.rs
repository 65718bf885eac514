//! Pods bound a second through the API: `berth scheduler` beside kube-scheduler, on one API server.
//!
//! The server is ours, alone and empty at the begin of each round, since it holds more than either
//! scheduler asks of it; `BERTH_SCHEDULER_GROUND=kubernetes` takes kube-apiserver and etcd instead.
//! Nodes are registered objects. The measured pods exist before the scheduler is started, so that
//! whoever makes them limits nobody; what counts is the time from the first binding to the last, as
//! a watch shows them. Pods that have to displace others are made when the scheduler is at work (it
//! has bound a probe), and the clock runs from before the first of them is sent: evictions count.
//! Both schedulers may send 5,000 requests a second, 10,000 at once. Rounds alternate.
//!
//! Ours is the example `scheduler`: what `berth scheduler` starts, without the rest of the binary.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Value, json};

use super::workload::{self, Workload};
use crate::budget::{Budget, median};
use crate::group_api::client::{Connection, Target};
use crate::group_api::side::{self, Ours, Side};
use crate::peer::Peer;

/// Nodes, and rounds of each side.
const SIZES: [(usize, usize); 2] = [(1_000, 3), (5_000, 1)];
/// How many times kube-scheduler's rate ours should be.
const FACTOR: f64 = 10.0;
const LANES: usize = 48;
const PATIENCE: Duration = Duration::from_secs(300);
const START: Duration = Duration::from_secs(30);
/// Something comes and goes this often; scheduler_perf's second is longer than a round.
const CHURN: Duration = Duration::from_millis(100);
/// How often a scheduler is looked at that may have ended.
const LOOK: Duration = Duration::from_secs(1);
const JSON: &str = "application/json";
const PODS: &str = "/api/v1/namespaces/default/pods";

/// Who schedules.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scheduler {
    Berth,
    Kubernetes,
}

/// What a round gave.
struct Seen {
    per_second: f64,
    /// Processor time for each pod that was bound, microseconds.
    scheduler_us: f64,
    server_us: f64,
    /// The scheduler's processor time before the clock ran, milliseconds: reading the cluster.
    start_ms: f64,
}

/// Measures what `BERTH_SCHEDULER_PARTS` asks for.
pub fn measure() -> Result<Vec<Budget>> {
    let mut budgets = Vec::new();
    for (nodes, rounds) in SIZES {
        for workload in workload::ALL {
            if super::is_wanted(workload.name()) && super::is_wanted_size(nodes) {
                budgets.extend(compare(workload, nodes, rounds)?);
            }
        }
    }
    Ok(budgets)
}

fn compare(workload: Workload, nodes: usize, rounds: usize) -> Result<[Budget; 2]> {
    let name = workload.name();
    let sides = [Scheduler::Berth, Scheduler::Kubernetes];
    let sides = if kube_scheduler().is_some() { &sides[..] } else { &sides[..1] };
    let (mut rates, mut costs) = (vec![Vec::new(); 2], vec![Vec::new(); 2]);
    for _ in 0..rounds {
        for (at, scheduler) in sides.iter().enumerate() {
            let seen = round(workload, nodes, *scheduler)
                .with_context(|| format!("{name} on {nodes} nodes, {}", scheduler.word()))?;
            eprintln!(
                "{}: {name} on {nodes} nodes: {:.0} pods/s, {:.0} µs of its processor and {:.0} µs \
                 of the server's for each; {:.0} ms of its before",
                scheduler.word(),
                seen.per_second,
                seen.scheduler_us,
                seen.server_us,
                seen.start_ms
            );
            rates[at].push(seen.per_second);
            costs[at].push(seen.scheduler_us);
        }
    }
    let of_peer = |samples: &[f64]| (!samples.is_empty()).then(|| median(samples));
    let (rate, cost) = (of_peer(&rates[1]), of_peer(&costs[1]));
    let label = |what: &str| format!("scheduler-live-{name}-{nodes}-{what}");
    let goal = rate.map_or(0.0, |rate| rate * FACTOR);
    let own = Budget::at_least(&label("pods_per_s"), goal, rates.swap_remove(0)).beside(rate);
    let goal = cost.map_or(f64::INFINITY, |cost| cost / FACTOR);
    let used = Budget::at_most(&label("processor_us"), goal, costs.swap_remove(0)).beside(cost);
    Ok([own, used])
}

/// The API server that a round is played on.
enum Ground {
    Ours(Ours),
    Kubernetes(Peer),
}

impl Ground {
    fn start() -> Result<Self> {
        if std::env::var("BERTH_SCHEDULER_GROUND").is_ok_and(|ground| ground == "kubernetes") {
            return Ok(Self::Kubernetes(Peer::start_api()?.context("kube-apiserver is missing")?));
        }
        Ok(Self::Ours(Ours::start()?))
    }

    fn side(&self) -> Result<Side> {
        match self {
            Self::Ours(ours) => ours.side(),
            Self::Kubernetes(peer) => side::of_peer(peer),
        }
    }

    fn kubeconfig(&self) -> PathBuf {
        match self {
            Self::Ours(ours) => ours.kubeconfig(),
            Self::Kubernetes(peer) => peer.kubeconfig(),
        }
    }
}

fn round(workload: Workload, nodes: usize, scheduler: Scheduler) -> Result<Seen> {
    let ground = Ground::start()?;
    let side = ground.side()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (target, profile) = (&side.target, scheduler.profile());
        let wanted = workload.measured(nodes, scheduler == Scheduler::Kubernetes);
        let measured = || (0..wanted).map(|at| workload.pod(at, profile)).collect();
        let late = workload.is_made_late();
        fill(target, workload, nodes, profile).await?;
        let first = if late { vec![workload::probe(profile)] } else { measured() };
        post(target, pods(first)).await?;
        let mut watch = Watch::open(target, wanted).await?;
        let dir = tempfile::tempdir()?;
        let mut running = Running::start(scheduler, &ground.kubeconfig(), dir.path())?;
        let own = Side { name: "", target: target.clone(), pids: vec![running.pid()?] };
        let seen = tokio::time::timeout(PATIENCE, async {
            let all = async {
                watch.until(1).await?;
                let (own_before, before) = (own.cpu(), side.cpu());
                let begun = Instant::now();
                let from = if late { 0 } else { watch.bound };
                if late {
                    // The probe was the first.
                    watch.bound = 0;
                    let ((), ()) = futures::future::try_join(
                        post(target, pods(measured())),
                        watch.until(wanted),
                    )
                    .await?;
                } else {
                    watch.until(wanted).await?;
                }
                let took = begun.elapsed();
                let each = |used: Duration| used.as_micros() as f64 / wanted as f64;
                let start = if late { own_before } else { Duration::ZERO };
                anyhow::Ok(Seen {
                    per_second: (wanted - from) as f64 / took.as_secs_f64(),
                    scheduler_us: each(own.cpu().saturating_sub(start)),
                    server_us: each(side.cpu().saturating_sub(before)),
                    start_ms: own_before.as_secs_f64() * 1e3,
                })
            };
            tokio::select! {
                seen = all => seen,
                failed = churn(target, workload, profile) => failed.and(Err(anyhow!("no churn"))),
                failed = running.ended() => failed.and(Err(anyhow!("the scheduler ended"))),
            }
        });
        match seen.await {
            Ok(seen) => seen.context("watching the pods"),
            Err(_) => bail!("{} of {wanted} pods were bound in {PATIENCE:?}", watch.bound),
        }
    })
}

fn pods(pods: Vec<Value>) -> Vec<(String, Value)> {
    pods.into_iter().map(|pod| (PODS.to_owned(), pod)).collect()
}

/// Nodes, and the pods that are there before.
async fn fill(target: &Target, workload: Workload, nodes: usize, scheduler: &str) -> Result<()> {
    exists(target, "/api/v1/namespaces/default").await?;
    let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": { "name": "default" } });
    let class = json!({ "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
        "metadata": { "name": workload::PRIORITY_CLASS }, "value": 1000 });
    let accounts = "/api/v1/namespaces/default/serviceaccounts".to_owned();
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses".to_owned();
    post(target, vec![(accounts, account), (classes, class)]).await?;
    let all = (0..nodes).map(|at| {
        let node = workload::node(&workload::node_name(at), at % 3);
        ("/api/v1/nodes".to_owned(), node)
    });
    post(target, all.collect()).await?;
    // kube-apiserver marks new nodes as not ready, and nobody here would take that back.
    let ready = (0..nodes).map(|at| {
        let path = format!("/api/v1/nodes/{}", workload::node_name(at));
        let patch = json!({ "spec": { "taints": null } }).to_string();
        target.request("PATCH", &path, "application/merge-patch+json", &patch)
    });
    send(target, ready.collect()).await?;
    post(target, pods(workload.before(nodes, scheduler))).await
}

/// Waits for what a server that has just been started makes itself.
async fn exists(target: &Target, path: &str) -> Result<()> {
    let mut connection = Connection::open(target).await?;
    let request = target.request("GET", path, "", "");
    let mut ticks = tokio::time::interval(CHURN);
    let found = async {
        loop {
            ticks.tick().await;
            if connection.ask(&request).await? == 200 {
                return anyhow::Ok(());
            }
        }
    };
    let found = tokio::time::timeout(START, found).await;
    found.with_context(|| format!("{path} is not there after {START:?}"))?
}

/// Makes every object, over several connections.
async fn post(target: &Target, objects: Vec<(String, Value)>) -> Result<()> {
    let request =
        |(path, object): (String, Value)| target.request("POST", &path, JSON, &object.to_string());
    send(target, objects.into_iter().map(request).collect()).await
}

async fn send(target: &Target, requests: Vec<Vec<u8>>) -> Result<()> {
    let mut lanes: Vec<Vec<Vec<u8>>> = vec![Vec::new(); LANES.min(requests.len())];
    let count = lanes.len();
    for (at, request) in requests.into_iter().enumerate() {
        lanes[at % count].push(request);
    }
    let lanes = lanes.into_iter().map(async |requests| {
        let mut connection = Connection::open(target).await?;
        for request in requests {
            let status = connection.ask(&request).await?;
            ensure!(
                matches!(status, 200 | 201 | 409),
                "{}",
                String::from_utf8_lossy(&connection.body)
            );
        }
        anyhow::Ok(())
    });
    futures::future::try_join_all(lanes).await.context("filling the cluster").map(drop)
}

/// What comes and goes while pods are scheduled: a node, a pod that fits nowhere, a Service. Ends
/// only when it fails.
async fn churn(target: &Target, workload: Workload, scheduler: &str) -> Result<()> {
    if workload != Workload::MixedChurn {
        return std::future::pending().await;
    }
    let mut connection = Connection::open(target).await?;
    let mut large = workload::pod(
        "churn",
        scheduler,
        json!({ "priorityClassName": workload::PRIORITY_CLASS,
            "terminationGracePeriodSeconds": 0 }),
        "9",
    );
    large["metadata"]["labels"] = json!({ "color": "blue" });
    let service = json!({ "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "churn" },
        "spec": { "selector": { "app": "churn" }, "ports": [{ "port": 80 }] } });
    let objects = [
        ("/api/v1/nodes", workload::node("churn", 0)),
        (PODS, large),
        ("/api/v1/namespaces/default/services", service),
    ];
    let mut ticks = tokio::time::interval(CHURN);
    loop {
        for (path, object) in &objects {
            ticks.tick().await;
            let made = target.request("POST", path, JSON, &object.to_string());
            let status = connection.ask(&made).await?;
            ensure!(status == 201, "making {path}/churn: {status}");
        }
        for (path, _) in &objects {
            ticks.tick().await;
            let gone = target.request("DELETE", &format!("{path}/churn"), "", "");
            let status = connection.ask(&gone).await?;
            ensure!(matches!(status, 200 | 202), "removing {path}/churn: {status}");
        }
    }
}

/// A watch of the pods that counts those that got a node.
struct Watch {
    connection: Connection,
    bytes: Vec<u8>,
    seen: Vec<bool>,
    bound: usize,
}

impl Watch {
    async fn open(target: &Target, wanted: usize) -> Result<Self> {
        let mut connection = Connection::open(target).await?;
        connection.ask(&target.request("GET", &format!("{PODS}?limit=1"), "", "")).await?;
        let list: Value = serde_json::from_slice(&connection.body).context("a list of pods")?;
        let from = list["metadata"]["resourceVersion"].as_str().context("a list's version")?;
        let path = format!("{PODS}?watch=1&timeoutSeconds=600&resourceVersion={from}");
        let mut connection = Connection::open(target).await?;
        let (status, _) = connection.head(&target.request("GET", &path, "", "")).await?;
        ensure!(status == 200, "a watch: {status}");
        let bytes = Vec::with_capacity(256 * 1024);
        // One more than is measured: the probe, which has the last number.
        Ok(Self { connection, bytes, seen: vec![false; wanted + 1], bound: 0 })
    }

    /// Reads until so many have a node.
    async fn until(&mut self, wanted: usize) -> Result<()> {
        while self.bound < wanted {
            ensure!(self.connection.more(&mut self.bytes).await? > 0, "the watch ended");
            let Some(end) = memchr::memrchr(b'\n', &self.bytes) else { continue };
            let mut at = 0;
            while let Some(length) = memchr::memchr(b'\n', &self.bytes[at..=end]) {
                if let Some(number) = number_of_bound(&self.bytes[at..at + length]) {
                    // What has a number of its own that is not measured is the probe.
                    let last = self.seen.len() - 1;
                    let seen = &mut self.seen[number.min(last)];
                    self.bound += usize::from(!std::mem::replace(seen, true));
                }
                at += length + 1;
            }
            self.bytes.drain(..=end);
        }
        Ok(())
    }
}

/// The number of the measured pod that a change shows with a node.
fn number_of_bound(line: &[u8]) -> Option<usize> {
    let name = b"\"name\":\"measured-";
    let at = memchr::memmem::find(line, name)?;
    memchr::memmem::find(line, b"\"nodeName\":\"")?;
    let digits = line.get(at + name.len()..at + name.len() + workload::DIGITS)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

impl Scheduler {
    fn word(self) -> &'static str {
        match self {
            Self::Berth => "berth",
            Self::Kubernetes => "kube-scheduler",
        }
    }

    /// The name that pods ask for.
    fn profile(self) -> &'static str {
        match self {
            Self::Berth => "berth",
            Self::Kubernetes => "default-scheduler",
        }
    }
}

/// A scheduler's process; ended when dropped.
struct Running(Child);

impl Running {
    fn start(scheduler: Scheduler, kubeconfig: &Path, dir: &Path) -> Result<Self> {
        let mut command = match scheduler {
            Scheduler::Berth => {
                let config = dir.join("scheduler.json");
                let limits = json!({ "profiles": [{ "schedulerName": scheduler.profile() }],
                    "bindingsPerSecond": 5_000, "bindingsBurst": 10_000, "measuredUse": true });
                std::fs::write(&config, limits.to_string())?;
                let program = std::env::current_exe()?.with_file_name("examples").join("scheduler");
                let mut command = Command::new(program);
                command.arg(kubeconfig).arg(config).env("RUST_LOG", "warn");
                command
            }
            Scheduler::Kubernetes => {
                let program = kube_scheduler().context("kube-scheduler is missing")?;
                let mut command = Command::new(program);
                command.arg(format!("--kubeconfig={}", kubeconfig.display()));
                command.args(["--leader-elect=false", "--port=0", "--secure-port=0"]);
                command.args(["--kube-api-qps=5000", "--kube-api-burst=10000"]);
                command
            }
        };
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(command.spawn().with_context(|| format!("starting {}", scheduler.word()))?))
    }

    /// Waits for what should not be.
    async fn ended(&mut self) -> Result<()> {
        loop {
            if let Some(status) = self.0.try_wait()? {
                bail!("the scheduler ended: {status}");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn pid(&self) -> Result<i32> {
        Ok(i32::try_from(self.0.id())?)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended by itself cannot be killed, and need not be.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn kube_scheduler() -> Option<PathBuf> {
    let named = std::env::var_os("KUBEBUILDER_ASSETS");
    let path = named.map_or_else(|| PathBuf::from("/opt/kubernetes"), PathBuf::from);
    Some(path.join("kube-scheduler")).filter(|path| path.exists())
}
