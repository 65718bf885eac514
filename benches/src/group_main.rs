//! Group `main`: one machine, one command.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use berth_tests::apps::Ground;
use berth_tests::{Cluster, Load, get, until};
use serde_json::json;

use crate::budget::{Budget, median};
use crate::peer::Peer;

const HOST: &str = "hello.apps.berth.local";
const LOAD_PER_SECOND: u32 = 200;
/// At rest is measured for so long, after as long a pause.
const REST: Duration = Duration::from_secs(20);

/// Measures the group, cluster after cluster.
pub fn measure() -> Result<Vec<Budget>> {
    if !berth_tests::can_run_clusters("./dev bench main") {
        bail!("it cannot be measured here");
    }
    let peer = peer()?;
    let mut budgets = vec![start()?.beside(peer.as_ref().map(|peer| peer.ready_s))];
    let cluster = Cluster::up()?;
    let own = at_rest(&[cluster.pid()?])?;
    let [resident, cpu] =
        [|rest: &Rest| median(&rest.resident_mib), |rest: &Rest| rest.cpu_percent]
            .map(|figure: fn(&Rest) -> f64| peer.as_ref().map(|peer| figure(&peer.rest)));
    budgets
        .push(Budget::at_most("main-rest-resident_mib", 120.0, own.resident_mib).beside(resident));
    budgets.push(Budget::at_most("main-rest-cpu_percent", 1.0, vec![own.cpu_percent]).beside(cpu));
    cluster.berth(&["deploy", "examples/hello", "--name", "hello", "--replicas", "3"])?;
    budgets.push(first_answer(&cluster)?);
    budgets.push(rolling_update(&cluster)?);
    budgets.extend(kills(&cluster)?);
    drop(cluster);
    budgets.push(in_place()?);
    Ok(budgets)
}

/// From the start of `berth up` on an empty directory to a Ready node.
fn start() -> Result<Budget> {
    let mut samples = Vec::new();
    for _ in 0..3 {
        let cluster = Cluster::new()?;
        let begun = Instant::now();
        let mut process = cluster
            .command()
            .arg("up")
            .args(cluster.options())
            .stderr(std::process::Stdio::null())
            .spawn()?;
        let path = "{.items[0].status.conditions[?(@.type==\"Ready\")].status}";
        let ready = until("the node is Ready", Duration::from_secs(60), || {
            cluster.field("nodes", path).is_ok_and(|status| status == "True")
        });
        samples.push(begun.elapsed().as_secs_f64());
        cluster.berth(&["down"])?;
        process.wait()?;
        ready?;
    }
    Ok(Budget::at_most("main-up-to-ready-node_s", 3.0, samples))
}

/// What a real Kubernetes' control plane gives here; none where it is not installed.
struct PeerFigures {
    ready_s: f64,
    rest: Rest,
}

fn peer() -> Result<Option<PeerFigures>> {
    let Some(peer) = Peer::start()? else {
        println!("no peer: KUBEBUILDER_ASSETS has no kube-apiserver");
        return Ok(None);
    };
    println!("peer: etcd, kube-apiserver, kube-controller-manager, kube-scheduler; no node");
    let rest = at_rest(&peer.pids().collect::<Vec<_>>())?;
    Ok(Some(PeerFigures { ready_s: peer.ready_after.as_secs_f64(), rest }))
}

/// What processes need when nothing happens.
struct Rest {
    resident_mib: Vec<f64>,
    cpu_percent: f64,
}

fn at_rest(pids: &[i32]) -> Result<Rest> {
    let sum = |figure: fn(i32) -> Result<f64>| -> Result<f64> {
        pids.iter().map(|pid| figure(*pid)).sum()
    };
    std::thread::sleep(REST); // the measured state is rest itself
    let (begun, before) = (Instant::now(), sum(cpu_seconds)?);
    let mut resident = Vec::new();
    while begun.elapsed() < REST {
        resident.push(sum(resident_mib)?);
        std::thread::sleep(Duration::from_secs(1));
    }
    let cpu_percent = (sum(cpu_seconds)? - before) / begun.elapsed().as_secs_f64() * 100.0;
    Ok(Rest { resident_mib: resident, cpu_percent })
}

/// From `kubectl apply` of a one-replica Deployment to the first 200 through its Ingress.
fn first_answer(cluster: &Cluster) -> Result<Budget> {
    let image = cluster.field("deployment/hello", "{.spec.template.spec.containers[0].image}")?;
    let mut samples = Vec::new();
    for n in 0..5 {
        let host = format!("first{n}.apps.berth.local");
        let manifest = include_str!("first_answer.yaml")
            .replace("NAME", &format!("first{n}"))
            .replace("IMAGE", &image)
            .replace("HOST", &host);
        let begun = Instant::now();
        cluster.apply(&manifest)?;
        until("the first 200", Duration::from_secs(60), || {
            get(cluster.http(), &host, "/").is_ok_and(|(status, _)| status == 200)
        })?;
        samples.push(begun.elapsed().as_secs_f64());
    }
    Ok(Budget::at_most("main-apply-to-first-200_s", 1.5, samples))
}

/// Requests that fail while three replicas are replaced.
fn rolling_update(cluster: &Cluster) -> Result<Budget> {
    let load = Load::start(cluster.http(), HOST, LOAD_PER_SECOND);
    cluster.berth(&["deploy", "examples/hello", "--name", "hello", "--set", "GREETING=bench"])?;
    until("the old pods are gone", Duration::from_secs(60), || {
        let words = ["get", "pods", "-l", "app.kubernetes.io/instance=hello", "-o", "name"];
        cluster.kubectl(&words).is_ok_and(|ran| ran.out.lines().count() == 3)
    })?;
    let report = load.stop();
    println!(
        "rolling update: {} requests, p50 {:?}, p99 {:?}",
        report.sent,
        report.quantile(0.5),
        report.quantile(0.99)
    );
    Ok(failed("main-rolling-update-failed-requests", &report.failures))
}

/// How long an instance answers nothing while the image in its pod is swapped: five releases in
/// place, one after the other, of one instance that is asked at its own address all the time.
fn in_place() -> Result<Budget> {
    let ground = Ground::start()?;
    let (way, alone) = (json!({ "type": "inPlace" }), json!({ "replicas": 1 }));
    ground.apply_with(&ground.images[0], &way, &alone)?;
    let mut revision = ground.comes_to("Succeeded", 1)?;
    let path = "jsonpath={.items[0].status.podIP}";
    let pods = ["get", "pods", "-l", "app.kubernetes.io/instance=svc", "-o", path];
    let address = format!("{}:8080", ground.cluster.kubectl(&pods)?.out).parse()?;
    let mut samples = Vec::new();
    for n in 1..=5 {
        let over = AtomicBool::new(false);
        let away = std::thread::scope(|scope| {
            let away = scope.spawn(|| longest_silence(address, &over));
            let done = ground
                .apply_with(&ground.images[n % 2], &way, &alone)
                .and_then(|()| ground.comes_to("Succeeded", revision + 1));
            over.store(true, Ordering::Relaxed);
            let away = away.join().map_err(|_| anyhow::anyhow!("the watcher ended"))?;
            done.map(|is| {
                revision = is;
                away
            })
        })?;
        samples.push(away.as_secs_f64() * 1000.0);
    }
    println!("in place: away for {samples:.0?} ms");
    Ok(Budget::at_most("main-in-place-away_ms", 250.0, samples))
}

/// The longest time from an answer of `address` to its next one, until it is `over`.
fn longest_silence(address: SocketAddr, over: &AtomicBool) -> Duration {
    let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
    while !over.load(Ordering::Relaxed) {
        if get(address, HOST, "/").is_ok_and(|(status, _)| status == 200) {
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
        std::thread::sleep(Duration::from_millis(2)); // the rate of asking
    }
    longest.max(last.elapsed())
}

fn kills(cluster: &Cluster) -> Result<Vec<Budget>> {
    let restarts = |cluster: &Cluster| -> Result<u32> {
        let all = "jsonpath={.items[*].status.containerStatuses[*].restartCount}";
        let text = cluster.kubectl(&["get", "pods", "-A", "-o", all])?.out;
        Ok(text.split_whitespace().filter_map(|count| count.parse::<u32>().ok()).sum())
    };
    let before = restarts(cluster)?;
    let load = Load::start(cluster.http(), HOST, LOAD_PER_SECOND);
    kill(cluster.containerd_pid()?)?;
    kill(cluster.pid()?)?;
    std::thread::sleep(Duration::from_secs(3)); // what is measured is a while without either
    cluster.start()?;
    cluster.berth(&["deploy", "examples/hello", "--name", "hello", "--replicas", "4"])?;
    let report = load.stop();
    let restarted = f64::from(restarts(cluster)? - before);

    let back = balancer_back(cluster)?;
    Ok(vec![
        failed("main-kills-failed-requests", &report.failures),
        Budget::at_most("main-kills-restarted-containers", 0.0, vec![restarted]),
        Budget::at_most("main-balancer-kill-to-back_s", 2.0, vec![back]),
    ])
}

/// From the kill of one balancer process to two processes that listen again.
fn balancer_back(cluster: &Cluster) -> Result<f64> {
    let before = balancers(cluster)?;
    let victim = *before.first().context("a balancer process")?;
    let begun = Instant::now();
    kill(victim)?;
    until("the balancer is back", Duration::from_secs(60), || {
        let listening = listeners(cluster.http().port()).unwrap_or_default();
        balancers(cluster).is_ok_and(|now| !now.contains(&victim) && now.len() == before.len())
            && listening >= before.len()
    })?;
    Ok(begun.elapsed().as_secs_f64())
}

/// Process ids of the balancer's processes of this cluster.
fn balancers(cluster: &Cluster) -> Result<Vec<i32>> {
    let port = format!("0.0.0.0:{}", cluster.http().port());
    let mut found = Vec::new();
    for process in std::fs::read_dir("/proc")?.flatten() {
        let words = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        if words.contains(" balancer ") && words.contains(&port) {
            found.extend(process.file_name().to_string_lossy().parse::<i32>());
        }
    }
    Ok(found)
}

/// How many sockets listen on a TCP port.
fn listeners(port: u16) -> Result<usize> {
    let ending = format!(":{port:04X}");
    let table = std::fs::read_to_string("/proc/net/tcp")?;
    Ok(table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|cells| cells.len() > 3 && cells[1].ends_with(&ending) && cells[3] == "0A")
        .count())
}

fn failed(name: &str, failures: &[String]) -> Budget {
    failures.iter().take(5).for_each(|failure| println!("{name}: {failure}"));
    Budget::at_most(name, 0.0, vec![failures.len() as f64])
}

fn kill(pid: i32) -> Result<()> {
    let status = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status()?;
    if !status.success() {
        bail!("process {pid} cannot be killed");
    }
    Ok(())
}

fn resident_mib(pid: i32) -> Result<f64> {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<f64>().ok());
    Ok(kib.context("VmRSS of the control plane")? / 1024.0)
}

/// User and system time so far; the kernel counts in hundredths of a second (USER_HZ).
fn cpu_seconds(pid: i32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit(") ").next().context("/proc/PID/stat has a name")?;
    let ticks = after_name.split(' ').skip(11).take(2).filter_map(|word| word.parse::<f64>().ok());
    Ok(ticks.sum::<f64>() / 100.0)
}
