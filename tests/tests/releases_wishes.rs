//! What those who run services at JD asked of its platform, each wish as a test by its name, with
//! real containers. That addresses stay, and that blue-green, rolling and canary are a matter of
//! choice, is seen under load in `releases.rs`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use berth_tests::apps::{Ground, HOST, PATIENCE};
use berth_tests::{can_run_clusters, until};
use serde_json::{Value, json};

const GIB: u64 = 1 << 30;

/// The one pod of `svc`.
fn pod(ground: &Ground) -> Result<Value> {
    let words = ["get", "pods", "-l", "app.kubernetes.io/instance=svc", "-o", "json"];
    let all: Value = serde_json::from_str(&ground.cluster.kubectl(&words)?.out)?;
    let items = all["items"].as_array().context("a list")?;
    ensure!(items.len() == 1, "{} pods instead of one", items.len());
    Ok(items[0].clone())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The container's process, as this machine counts processes.
fn process(pod: &Value) -> Result<u32> {
    let uid = text(&pod["metadata"]["uid"]);
    let container = text(&pod["status"]["containerStatuses"][0]["containerID"]);
    let id = container.rsplit('/').next().unwrap_or_default();
    ensure!(!uid.is_empty() && !id.is_empty(), "the container has no id yet");
    for entry in fs::read_dir("/proc")?.flatten() {
        let Ok(number) = entry.file_name().to_string_lossy().parse() else { continue };
        let groups = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        if groups.contains(id) {
            return Ok(number);
        }
    }
    anyhow::bail!("no process is in container {id}");
}

/// A file as the container sees it.
fn inside(pod: &Value, path: &str) -> Result<PathBuf> {
    Ok(PathBuf::from(format!("/proc/{}/root{path}", process(pod)?)))
}

/// What a file is, wherever it is seen from: device, inode, bytes on disk, and when it was written.
fn same(path: &Path) -> Result<(u64, u64, u64, i64)> {
    let meta = fs::metadata(path).with_context(|| path.display().to_string())?;
    Ok((meta.dev(), meta.ino(), meta.blocks() * 512, meta.mtime_nsec()))
}

/// Waits until the one pod is ready after so many restarts.
fn ready(ground: &Ground, restarts: i64) -> Result<Value> {
    let mut last = Value::Null;
    until(&format!("ready after {restarts} restarts"), PATIENCE, || {
        last = pod(ground).unwrap_or_default();
        let status = &last["status"]["containerStatuses"][0];
        status["ready"] == true && status["restartCount"] == restarts
    })
    .with_context(|| last["status"].to_string())?;
    Ok(last)
}

#[test]
fn restart_in_the_same_container_directory_after_a_crash() -> Result<()> {
    if !can_run_clusters("a restart after a crash") {
        return Ok(());
    }
    let ground = Ground::start()?;
    let more = json!({ "replicas": 1, "scratch": [{ "path": "/work" }] });
    ground.apply_with(&ground.images[0], &json!({}), &more)?;
    ground.comes_to("Succeeded", 1)?;
    let before = ready(&ground, 0)?;
    let path = inside(&before, "/work/index")?;
    fs::write(&path, "half an hour's work")?;
    let file = same(&path)?;
    let killed = Command::new("kill").args(["-9", &process(&before)?.to_string()]).status()?;
    assert!(killed.success());
    let after = ready(&ground, 1)?;
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"], "the same pod");
    assert_eq!(after["status"]["podIP"], before["status"]["podIP"], "the same address");
    let container = |pod: &Value| pod["status"]["containerStatuses"][0]["containerID"].clone();
    assert_ne!(container(&after), container(&before), "another container");
    let path = inside(&after, "/work/index")?;
    assert_eq!(fs::read_to_string(&path)?, "half an hour's work");
    assert_eq!(same(&path)?, file, "the same file");
    Ok(())
}

#[test]
fn model_files_of_8_gb_survive_an_upgrade() -> Result<()> {
    if !can_run_clusters("model files through an upgrade") {
        return Ok(());
    }
    let ground = Ground::start()?;
    let more = json!({ "replicas": 1,
        "scratch": [{ "name": "models", "path": "/models", "size": "10Gi" }] });
    let way = json!({ "type": "inPlace" });
    ground.apply_with(&ground.images[0], &way, &more)?;
    ground.comes_to("Succeeded", 1)?;
    let before = ready(&ground, 0)?;
    let path = inside(&before, "/models/weights")?;
    // Blocks of the disk, not a hole in a file.
    let wanted = 8 * GIB;
    let size = wanted.to_string();
    let made = Command::new("fallocate").args(["-l", &size]).arg(&path).output()?;
    let error = String::from_utf8_lossy(&made.stderr).into_owned();
    if !made.status.success() && error.contains("No space left") {
        eprintln!("skipped: the disk has no room for 8 GiB");
        return Ok(());
    }
    assert!(made.status.success(), "{error}");
    let file = same(&path)?;
    assert!(file.2 >= wanted, "8 GiB of the disk: {file:?}");
    ground.apply_with(&ground.images[1], &way, &more)?;
    ground.comes_to("Succeeded", 2)?;
    let after = ready(&ground, 1)?;
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"], "the same pod");
    assert_eq!(after["spec"]["containers"][0]["image"], ground.images[1].as_str());
    until("the new version answers", PATIENCE, || {
        ground.answers(HOST, 4).is_ok_and(|seen| seen == [0, 4])
    })?;
    let path = inside(&after, "/models/weights")?;
    assert_eq!(same(&path)?, file, "the same file, not a copy of it");
    Ok(())
}

/// Thousandths of a processor.
fn milli(text: &str) -> i64 {
    match text.strip_suffix('m') {
        Some(number) => number.parse().unwrap_or_default(),
        None => text.parse::<f64>().map_or(0, |cores| (cores * 1000.0).round() as i64),
    }
}

/// Thousandths of a processor that the node has left for pods.
fn left(ground: &Ground) -> Result<i64> {
    let has = ground.cluster.field("nodes", "{.items[0].status.allocatable.cpu}")?;
    let words = ["get", "pods", "-A", "-o", "json"];
    let all: Value = serde_json::from_str(&ground.cluster.kubectl(&words)?.out)?;
    let pods = all["items"].as_array().context("a list")?;
    let containers = pods.iter().filter_map(|pod| pod["spec"]["containers"].as_array());
    let asked = containers.flatten().map(|one| milli(text(&one["resources"]["requests"]["cpu"])));
    Ok(milli(&has) - asked.sum::<i64>())
}

#[test]
fn a_promotion_day_upgrade_that_must_find_room() -> Result<()> {
    if !can_run_clusters("an upgrade on a full node") {
        return Ok(());
    }
    let ground = Ground::start()?;
    let amounts = json!({ "cpu": "100m", "memory": "64Mi" });
    let more = json!({ "resources": { "limits": amounts, "requests": amounts } });
    let way = json!({ "type": "rolling" });
    ground.apply_with(&ground.images[0], &way, &more)?;
    ground.comes_to("Succeeded", 1)?;
    let free = left(&ground)?;
    assert!(free > 150, "{free}m are left");
    // Everybody sells today: what is left does not carry one instance more.
    let full = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "promotion" },
        "spec": { "terminationGracePeriodSeconds": 1, "containers": [{
            "name": "promotion", "image": ground.images[0],
            "resources": { "requests": { "cpu": format!("{}m", free - 60) } } }] },
    });
    ground.cluster.apply(&full.to_string())?;
    ground.cluster.kubectl(&["wait", "--for=condition=Ready", "pod/promotion", "--timeout=60s"])?;
    ground.loses_nothing("an upgrade that finds room", || {
        ground.apply_with(&ground.images[1], &way, &more)?;
        let wanted = "waits for room for 1 more: 0 of 1 reserved (each 100m CPU, 64Mi memory)";
        let mut last = Value::Null;
        until("it says for what it waits", PATIENCE, || {
            last = ground.release().unwrap_or_default();
            last["spec"]["revision"] == 2 && last["status"]["message"] == wanted
        })
        .with_context(|| last["status"].to_string())?;
        assert_eq!(last["status"]["steps"][0]["kind"], "reserve");
        assert_eq!(ground.answers(HOST, 8)?, [8, 0], "nothing was touched");
        ground.cluster.kubectl(&["delete", "pod", "promotion"])?;
        ground.comes_to("Succeeded", 2)?;
        Ok(())
    })?;
    assert_eq!(ground.answers(HOST, 8)?, [0, 8]);
    Ok(())
}
