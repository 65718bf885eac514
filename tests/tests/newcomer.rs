//! README's block, as a newcomer runs it, with real containers, kubectl and load.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use berth_tests::{Cluster, Load, can_run_clusters, get, leftovers, until};

const HOST: &str = "hello.apps.berth.local";

#[test]
fn an_app_goes_from_a_directory_to_a_name_that_answers() -> Result<()> {
    if !can_run_clusters("the README's block") {
        return Ok(());
    }
    let cluster = Cluster::up()?;

    let deployed =
        cluster.berth(&["deploy", "examples/hello", "--name", "hello", "--replicas", "3"])?;
    assert!(deployed.out.contains(HOST), "deploy names the URL: {}", deployed.out);
    let (status, body) = get(cluster.http(), HOST, "/")?;
    assert_eq!((status, body.starts_with("hello from hello-")), (200, true), "{body}");

    a_rolling_update_loses_no_request(&cluster)?;
    status_logs_and_exec_show_the_app(&cluster)?;
    kubectl_prints_what_people_know(&cluster)?;
    names_resolve_inside_pods(&cluster)?;

    let (name, dir) = (cluster.name(), cluster.dir().to_owned());
    cluster.berth(&["down"])?;
    let left = leftovers(&name, &dir);
    assert!(left.is_empty(), "{}", left.join("\n"));
    cluster.berth(&["down", "--purge"])?;
    assert!(!dir.exists(), "--purge removes the data");
    Ok(())
}

fn a_rolling_update_loses_no_request(cluster: &Cluster) -> Result<()> {
    let load = Load::start(cluster.http(), HOST, 200);
    cluster.berth(&["deploy", "examples/hello", "--name", "hello", "--set", "GREETING=again"])?;
    let (_, body) = get(cluster.http(), HOST, "/")?;
    until("the old pods are gone", Duration::from_secs(60), || {
        let words = ["get", "pods", "-l", "app.kubernetes.io/instance=hello", "-o", "name"];
        cluster.kubectl(&words).is_ok_and(|ran| ran.out.lines().count() == 3)
    })?;
    let report = load.stop();
    assert!(body.starts_with("again from hello-"), "{body}");
    assert!(
        report.failures.is_empty(),
        "{} of {}: {:#?}",
        report.failures.len(),
        report.sent,
        report.failures
    );
    assert!(report.sent > 200, "the load ran during the update: {}", report.sent);
    assert_eq!(cluster.field("deployment/hello", "{.spec.replicas}")?, "3");
    Ok(())
}

fn status_logs_and_exec_show_the_app(cluster: &Cluster) -> Result<()> {
    let status = cluster.berth(&["status", "hello"])?.out;
    assert!(status.contains("3/3") && status.contains(HOST), "{status}");
    let status = cluster.berth(&["status", "hello", "-o", "json"])?.out;
    let status: serde_json::Value = serde_json::from_str(&status)?;
    assert_eq!(status["pods"].as_array().map(Vec::len), Some(3), "{status}");

    let logs = cluster.berth(&["logs", "hello"])?.out;
    assert!(logs.contains("listens on port 8080"), "{logs}");
    let mut following = cluster
        .command()
        .args(["logs", "-f", "hello", "--tail", "0"])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(following.stdout.take().expect("it is piped")).lines();
    let (address, done) = (cluster.http(), Arc::new(AtomicBool::new(false)));
    let asking = std::thread::spawn({
        let done = Arc::clone(&done);
        move || {
            let read = until("it is read", Duration::from_secs(60), || {
                drop(get(address, HOST, "/marker"));
                done.load(Ordering::Relaxed)
            });
            following.kill()?;
            following.wait()?;
            read
        }
    });
    let seen = lines.find(|line| line.as_ref().map_or(true, |line| line.contains("GET /marker")));
    done.store(true, Ordering::Relaxed);
    asking.join().expect("it does not panic")?;
    assert!(matches!(seen, Some(Ok(_))), "a request shows in the log that is followed");

    let said = cluster.berth(&["exec", "hello", "--", "sh", "-c", "echo $GREETING"])?.out;
    assert_eq!(said.trim(), "again");
    let sizes = "echo $CONTAINER_CORE_LIMIT $CONTAINER_MAX_MEMORY $JDK_JAVA_OPTIONS";
    let said = cluster.berth(&["exec", "hello", "--", "sh", "-c", sizes])?.out;
    assert_eq!(said.trim(), "1 1073741824 -XX:MaxRAMPercentage=75.0", "what it may use");
    let failed = cluster.try_berth(&["exec", "hello", "--", "sh", "-c", "exit 7"])?;
    assert_eq!(failed.code, 7, "exec ends with the command's exit code");
    Ok(())
}

fn kubectl_prints_what_people_know(cluster: &Cluster) -> Result<()> {
    let all = cluster.kubectl(&["get", "nodes,deploy,rs,pods,svc,ep,ing", "-A", "-o", "wide"])?.out;
    for expected in ["Ready", "deployment.apps/hello", "3/3", "pod/hello-", "Running", HOST] {
        assert!(all.contains(expected), "lacks {expected}:\n{all}");
    }
    cluster.kubectl(&["rollout", "status", "deployment/hello", "--timeout=30s"])?;
    let piped = cluster
        .kubectl_command()
        .args(["exec", "-i", "deploy/hello", "--", "sh", "-c", "read line; echo got $line"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    std::io::Write::write_all(&mut piped.stdin.as_ref().expect("it is piped"), b"this\n")?;
    let out = piped.wait_with_output()?;
    assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), "got this");
    Ok(())
}

fn names_resolve_inside_pods(cluster: &Cluster) -> Result<()> {
    let words =
        ["exec", "hello", "--", "sh", "-c", "busybox nslookup hello.default.svc.cluster.local"];
    let said = cluster.berth(&words)?.out;
    let address = cluster.field("service/hello", "{.spec.clusterIP}")?;
    assert!(said.contains(&address), "nslookup says {address}:\n{said}");
    Ok(())
}
