//! No failure of a Berth process touches a running container (invariant 3).

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use berth_tests::{Cluster, Load, Report, can_run_clusters, get, until};

const HOST: &str = "hello.apps.berth.local";

#[test]
fn kills_of_control_plane_containerd_and_balancer_cut_nothing_they_must_not() -> Result<()> {
    if !can_run_clusters("the kills under load") {
        return Ok(());
    }
    let cluster = Cluster::up()?;
    cluster.berth(&["deploy", "examples/hello", "--name", "hello", "--replicas", "3"])?;
    let before = containers(&cluster)?;
    assert!(before.len() >= 7, "three of hello, two of DNS, two of the balancer: {before:?}");

    let load = Load::start(cluster.http(), HOST, 200);
    kill(cluster.pid()?)?;
    let api = cluster.api();
    until("the API is gone", Duration::from_secs(30), || {
        std::net::TcpStream::connect(api).is_err()
    })?;
    kill(cluster.containerd_pid()?)?;
    let until_sent = std::time::Instant::now() + Duration::from_secs(2);
    until("two seconds of load", Duration::from_secs(5), || {
        std::time::Instant::now() > until_sent
    })?;
    cluster.start()?;
    cluster.berth(&["deploy", "examples/hello", "--name", "hello", "--replicas", "4"])?;
    nothing_failed(&load.stop());
    let after = containers(&cluster)?;
    for (container, restarts) in &before {
        assert_eq!(after.get(container), Some(restarts), "{container} was restarted: {after:?}");
    }

    one_balancer_process_may_die(&cluster)
}

fn one_balancer_process_may_die(cluster: &Cluster) -> Result<()> {
    let pods = cluster.kubectl(&["-n", "berth-system", "get", "pods", "-o", "json"])?.out;
    let pods: serde_json::Value = serde_json::from_str(&pods)?;
    let pod = pods["items"][0]["metadata"]["name"].as_str().context("a balancer pod")?.to_owned();
    let ready = || -> Result<String> {
        let path = "jsonpath={.status.containerStatuses[*].ready} {.status.containerStatuses[*].restartCount}";
        Ok(cluster.kubectl(&["-n", "berth-system", "get", "pod", &pod, "-o", path])?.out)
    };
    assert_eq!(ready()?, "true true 0 0");
    kill(balancer_process(cluster)?)?;
    let took = until("the balancer is back", Duration::from_secs(60), || {
        ready().is_ok_and(|now| now.starts_with("true true") && now.contains('1'))
    })?;
    eprintln!("the balancer process was back and ready after {took:?}");
    let load = Load::start(cluster.http(), HOST, 200);
    until("it answers", Duration::from_secs(30), || get(cluster.http(), HOST, "/").is_ok())?;
    nothing_failed(&load.stop());
    Ok(())
}

/// One of the two processes that listen on the HTTP port.
fn balancer_process(cluster: &Cluster) -> Result<i32> {
    let port = format!("0.0.0.0:{}", cluster.http().port());
    for process in std::fs::read_dir("/proc")?.flatten() {
        let words = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        if words.contains(" balancer ") && words.contains(&port) {
            return Ok(process.file_name().to_string_lossy().parse()?);
        }
    }
    anyhow::bail!("no balancer process listens on {port}")
}

/// Container id → restarts, of every container in the cluster.
fn containers(cluster: &Cluster) -> Result<BTreeMap<String, u64>> {
    let pods = cluster.kubectl(&["get", "pods", "-A", "-o", "json"])?.out;
    let pods: serde_json::Value = serde_json::from_str(&pods)?;
    let pods = pods["items"].as_array().context("a list of pods")?;
    let statuses =
        pods.iter().filter_map(|pod| pod["status"]["containerStatuses"].as_array()).flatten();
    Ok(statuses
        .filter_map(|status| {
            let id = status["containerID"].as_str()?.to_owned();
            Some((id, status["restartCount"].as_u64()?))
        })
        .collect())
}

fn kill(pid: i32) -> Result<()> {
    let status = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status()?;
    assert!(status.success(), "kill -9 {pid}");
    Ok(())
}

fn nothing_failed(report: &Report) {
    let failures = &report.failures;
    assert!(failures.is_empty(), "{} of {}: {failures:#?}", failures.len(), report.sent);
}
