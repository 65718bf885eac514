//! Kinds with a controller of their own, by kubectl on one cluster with real containers: StatefulSets
//! with claims, CronJobs, autoscaling, quotas, disruption budgets.

use std::time::Duration;

use anyhow::Result;
use berth_tests::{Cluster, Ran, can_run_clusters, until, within};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
/// Figures are read every so often, and the autoscaler looks at them every so often.
const FIGURES: Duration = Duration::from_secs(150);
/// A minute and what a Job takes.
const NEXT_MINUTE: Duration = Duration::from_secs(100);

#[test]
fn kinds_of_daily_charts_do_what_they_say() -> Result<()> {
    if !can_run_clusters("the kinds of daily charts") {
        return Ok(());
    }
    let cluster = Cluster::up()?;
    cluster.berth(&["deploy", "examples/hello", "--name", "hello"])?;
    let image = cluster.field("deployment/hello", "{.spec.template.spec.containers[0].image}")?;
    cluster.apply(&include_str!("../fixtures/kinds.yaml").replace("IMAGE", &image))?;

    a_stateful_set_keeps_its_names_and_its_data(&cluster)?;
    a_budget_holds_an_eviction_back(&cluster)?;
    a_quota_is_counted_and_given_back(&cluster, &image)?;
    a_cron_job_runs_by_itself_and_by_hand(&cluster)?;
    a_busy_deployment_grows_to_its_most(&cluster)?;
    what_containers_do_is_told(&cluster)?;
    let dir = cluster.dir().to_owned();
    cluster.berth(&["down", "--purge"])?;
    assert!(!dir.join("volumes").exists(), "--purge removes the volumes too");
    Ok(())
}

fn a_stateful_set_keeps_its_names_and_its_data(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["rollout", "status", "sts/db", "--timeout=90s"])?;
    let first = |pod: &str| -> Result<String> {
        let ran = cluster.kubectl(&[
            "exec",
            pod,
            "--",
            "/bin/sh",
            "-c",
            "read x < /data/first; echo $x",
        ])?;
        Ok(ran.out.trim().to_owned())
    };
    for pod in ["db-0", "db-1"] {
        let claim = format!("pvc/data-{pod}");
        assert_eq!(cluster.field(&claim, "{.status.phase}")?, "Bound");
        let volume = cluster.field(&claim, "{.spec.volumeName}")?;
        assert_eq!(
            cluster.field(&format!("pv/{volume}"), "{.spec.claimRef.name}")?,
            format!("data-{pod}")
        );
        assert_eq!(first(pod)?, cluster.field(&format!("pod/{pod}"), "{.metadata.uid}")?);
    }
    assert_ne!(first("db-0")?, first("db-1")?, "each has a volume of its own");

    let before = cluster.field("pod/db-0", "{.metadata.uid}")?;
    cluster.kubectl(&["delete", "pod", "db-0", "--timeout=30s"])?;
    until("another db-0 is ready", PATIENCE, || {
        let path = "{.metadata.uid} {.status.conditions[?(@.type==\"Ready\")].status}";
        cluster
            .field("pod/db-0", path)
            .is_ok_and(|now| now.ends_with(" True") && !now.starts_with(&before))
    })?;
    assert_eq!(first("db-0")?, before, "it has the volume of the one before");

    cluster.kubectl(&["scale", "sts/db", "--replicas=1"])?;
    until("the last one has gone", PATIENCE, || is_gone(cluster, "pod/db-1"))?;
    assert_eq!(cluster.field("pvc/data-db-1", "{.status.phase}")?, "Bound", "its claim stays");
    let kept = cluster.field("pvc/data-db-1", "{.spec.volumeName}")?;
    cluster.kubectl(&["delete", "pvc", "data-db-1", "--timeout=30s"])?;
    until("the volume went with its claim", PATIENCE, || is_gone(cluster, &format!("pv/{kept}")))?;
    Ok(())
}

fn is_gone(cluster: &Cluster, what: &str) -> bool {
    cluster.try_kubectl(&["get", what]).is_ok_and(|ran| ran.err.contains("NotFound"))
}

fn a_budget_holds_an_eviction_back(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["rollout", "status", "deploy/web", "--timeout=60s"])?;
    let allowed = |expected: &str| {
        until(&format!("{expected} may be disrupted"), PATIENCE, || {
            let path = "{.status.disruptionsAllowed} {.status.currentHealthy}";
            cluster.field("pdb/web", path).is_ok_and(|now| now == format!("{expected} 2"))
        })
    };
    allowed("0")?;
    let pod = cluster
        .kubectl(&["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].metadata.name}"])?
        .out;
    let refused = evict(cluster, &pod)?;
    assert_ne!(refused.code, 0, "evicted in spite of its budget");
    assert!(refused.err.contains("disruption budget"), "{}", refused.err);

    let patch = r#"{"spec":{"minAvailable":1}}"#;
    cluster.kubectl(&["patch", "pdb", "web", "--type=merge", "-p", patch])?;
    allowed("1")?;
    let evicted = evict(cluster, &pod)?;
    assert_eq!(evicted.code, 0, "{}", evicted.err);
    until("the pod has gone", PATIENCE, || is_gone(cluster, &format!("pod/{pod}")))?;
    // Another came in its place.
    allowed("1")?;
    Ok(())
}

fn evict(cluster: &Cluster, pod: &str) -> Result<Ran> {
    let eviction = format!(
        r#"{{"apiVersion":"policy/v1","kind":"Eviction","metadata":{{"name":"{pod}","namespace":"default"}}}}"#
    );
    let path = cluster.dir().join("eviction.json");
    std::fs::write(&path, eviction)?;
    let raw = format!("/api/v1/namespaces/default/pods/{pod}/eviction");
    cluster.try_kubectl(&["create", "--raw", &raw, "-f", &path.display().to_string()])
}

fn a_quota_is_counted_and_given_back(cluster: &Cluster, image: &str) -> Result<()> {
    let pod = |name: &str, memory: &str| {
        let limits = format!(
            r#"{{"spec":{{"containers":[{{"name":"main","image":"{image}","command":["/bin/sh","-c","exec busybox sleep 3600"],"resources":{{"requests":{{"memory":"{memory}"}}}}}}],"terminationGracePeriodSeconds":0}}}}"#
        );
        let overrides = format!("--overrides={limits}");
        cluster.try_kubectl(&[
            "-n",
            "tight",
            "run",
            name,
            "--image",
            image,
            "--restart=Never",
            &overrides,
        ])
    };
    until("the namespace has its account", PATIENCE, || {
        cluster.kubectl(&["-n", "tight", "get", "serviceaccount", "default"]).is_ok()
    })?;
    let refused = pod("large", "65Mi")?;
    assert!(
        refused.err.contains("exceeded quota: one, requested: requests.memory=65Mi"),
        "{}",
        refused.err
    );
    let made = pod("first", "32Mi")?;
    assert_eq!(made.code, 0, "{}", made.err);
    let refused = pod("second", "1Mi")?;
    assert!(
        refused
            .err
            .contains("exceeded quota: one, requested: pods=1, used: pods=1, limited: pods=1"),
        "{}",
        refused.err
    );
    let words = [
        "-n",
        "tight",
        "get",
        "quota",
        "one",
        "-o",
        "jsonpath={.status.used.pods} {.status.used.requests\\.memory}",
    ];
    until("what is used is told", PATIENCE, || {
        cluster.kubectl(&words).is_ok_and(|ran| ran.out == "1 32Mi")
    })?;
    cluster.kubectl(&["-n", "tight", "delete", "pod", "first", "--timeout=30s"])?;
    until("it was given back", PATIENCE, || pod("third", "64Mi").is_ok_and(|ran| ran.code == 0))?;
    Ok(())
}

fn a_cron_job_runs_by_itself_and_by_hand(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["create", "job", "by-hand", "--from=cronjob/tick"])?;
    cluster.kubectl(&["wait", "job/by-hand", "--for=condition=Complete", "--timeout=60s"])?;
    assert_eq!(cluster.kubectl(&["logs", "job/by-hand"])?.out.trim(), "tick");
    let (_, job) = within("a Job of the schedule completed", NEXT_MINUTE, || {
        let path = "jsonpath={range .items[?(@.status.succeeded==1)]}{.metadata.name} {.metadata.ownerReferences[0].kind}{\"\\n\"}{end}";
        let jobs = cluster.kubectl(&["get", "jobs", "-o", path]).ok()?.out;
        jobs.lines().find(|line| line.starts_with("tick-")).map(str::to_owned)
    })?;
    assert!(job.ends_with(" CronJob"), "{job}");
    assert!(!cluster.field("cronjob/tick", "{.status.lastScheduleTime}")?.is_empty());
    cluster.kubectl(&["delete", "cronjob", "tick", "--timeout=30s"])?;
    until("its Jobs went with it", PATIENCE, || {
        cluster
            .kubectl(&["get", "jobs", "-o", "name"])
            .is_ok_and(|ran| !ran.out.contains("job.batch/tick-"))
    })?;
    Ok(())
}

fn a_busy_deployment_grows_to_its_most(cluster: &Cluster) -> Result<()> {
    let took = until("it has grown to three", FIGURES, || {
        cluster.field("deploy/busy", "{.spec.replicas}").is_ok_and(|now| now == "3")
    })?;
    eprintln!("the autoscaler had acted after {took:?}");
    let conditions =
        cluster.field("hpa/busy", "{range .status.conditions[*]}{.type}={.status} {end}")?;
    assert!(conditions.contains("ScalingActive=True"), "{conditions}");
    assert!(conditions.contains("AbleToScale=True"), "{conditions}");
    let shown = cluster.kubectl(&["get", "hpa", "busy"])?.out;
    assert!(shown.contains("cpu: ") && shown.contains("/50%"), "{shown}");
    let top = cluster.kubectl(&["top", "pods", "-l", "app=busy", "--no-headers"])?.out;
    assert!(top.lines().count() >= 1, "{top}");
    Ok(())
}

/// By who may ask nodes, and by who may look at the namespace alone.
fn what_containers_do_is_told(cluster: &Cluster) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let ann = scratch.path().join("ann").display().to_string();
    let own = cluster.kubectl(&["config", "view", "--raw", "-o", "json"])?.out;
    let mut own: Value = serde_json::from_str(&own)?;
    own["users"][0]["user"]["as"] = "ann".into();
    std::fs::write(&ann, own.to_string())?;
    let view = ["create", "rolebinding", "ann", "--clusterrole=berth:viewer", "--user=ann"];
    cluster.kubectl(&view)?;
    let busy = |words: &[&str]| -> Result<Value> {
        let ran = cluster.berth(&[words, &["top", "-o", "json"]].concat())?;
        let rows: Vec<Value> = serde_json::from_str(&ran.out)?;
        let is_busy = |row: &Value| row["pod"].as_str().is_some_and(|pod| pod.starts_with("busy-"));
        Ok(rows.into_iter().find(is_busy).unwrap_or_default())
    };
    let row = busy(&[])?;
    assert!(row["cpu"].is_f64() && row["load"].is_array() && row["rssBytes"].is_u64(), "{row}");
    let row = busy(&["--kubeconfig", &ann])?;
    assert!(row["cpu"].is_f64() && row["workingSetBytes"].is_u64(), "{row}");
    assert!(row["load"].is_null(), "no collector stands beside a node of Berth's own: {row}");
    Ok(())
}
