//! Backups of a living cluster, restored in the broken one's place under running pods, and beside it
//! into a directory of its own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use berth_tests::{Cluster, can_run_clusters, leftovers, until};

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_broken_cluster_comes_back_from_its_backup() -> Result<()> {
    if !can_run_clusters("restoring a cluster") {
        return Ok(());
    }
    let cluster = Cluster::up()?;
    cluster.berth(&["deploy", "examples/hello", "--name", "hello", "--replicas", "2"])?;
    cluster.kubectl(&["create", "configmap", "state", "--from-literal=is=backed-up"])?;
    let scratch = tempfile::tempdir()?;
    let backup = scratch.path().join("cluster.backup");
    cluster.berth(&["backup", &backup.display().to_string()])?;

    in_its_place_pods_go_on(&cluster, &backup)?;
    beside_it_everything_starts_anew(&cluster, &backup, scratch.path())?;
    Ok(())
}

fn in_its_place_pods_go_on(cluster: &Cluster, backup: &Path) -> Result<()> {
    let before = containers(cluster)?;
    assert_eq!(before.len(), 2, "{before:?}");
    let patch = r#"{"data":{"is":"changed"}}"#;
    cluster.kubectl(&["patch", "configmap", "state", "--type=merge", "-p", patch])?;
    cluster.kubectl(&["scale", "app/hello", "--replicas=3"]).or_else(|_| {
        cluster.kubectl(&[
            "patch",
            "app",
            "hello",
            "--type=merge",
            "-p",
            r#"{"spec":{"replicas":3}}"#,
        ])
    })?;
    until("a pod that the backup does not know", PATIENCE, || {
        containers(cluster).is_ok_and(|now| now.len() == 3)
    })?;
    // The process ends as it would not, and its store is damaged in the middle.
    let pid = cluster.pid()?;
    let killed = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status()?;
    assert!(killed.success(), "kill -9 {pid}");
    until("the process has gone", PATIENCE, || !Path::new(&format!("/proc/{pid}")).exists())?;
    let journal = largest_file(&cluster.dir().join("store"))?;
    let mut bytes = std::fs::read(&journal)?;
    let length = bytes.len();
    bytes[length / 4..length / 2].fill(0x5a);
    std::fs::write(&journal, bytes)?;

    let file = backup.display().to_string();
    cluster.berth(&["restore", &file, "--replace", "--up", "--detach"])?;
    assert_eq!(cluster.field("configmap/state", "{.data.is}")?, "backed-up");
    until("as many pods as the backup says", PATIENCE, || {
        containers(cluster).is_ok_and(|now| now == before)
    })?;
    let aside = std::fs::read_dir(cluster.dir())?
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().starts_with("store.replaced-"));
    assert!(aside, "the broken store is kept");
    Ok(())
}

/// Of the app's pods: container id and restarts.
fn containers(cluster: &Cluster) -> Result<Vec<String>> {
    let path = "jsonpath={range .items[*].status.containerStatuses[?(@.ready==true)]}\
                {.containerID} {.restartCount}{\"\\n\"}{end}";
    let words = ["get", "pods", "-l", "app.kubernetes.io/instance=hello", "-o", path];
    let mut lines: Vec<String> = cluster.kubectl(&words)?.out.lines().map(str::to_owned).collect();
    lines.sort();
    Ok(lines)
}

fn largest_file(dir: &Path) -> Result<PathBuf> {
    let mut found: Option<(u64, PathBuf)> = None;
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir)?.flatten() {
            let length = entry.metadata()?.len();
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            } else if found.as_ref().is_none_or(|(most, _)| length > *most) {
                found = Some((length, entry.path()));
            }
        }
    }
    found.map(|(_, path)| path).context("the store has files")
}

/// The instance beside; ended with all it left.
struct Beside<'a> {
    cluster: &'a Cluster,
    dir: PathBuf,
}

impl Beside<'_> {
    fn berth(&self, words: &[&str]) -> Result<String> {
        let dir = self.dir.display().to_string();
        let words: Vec<&str> = words.iter().copied().chain(["--data-dir", &dir]).collect();
        Ok(self.cluster.berth(&words)?.err)
    }

    fn kubectl(&self, words: &[&str]) -> Result<String> {
        let config = self.dir.join("kubeconfig").display().to_string();
        let words: Vec<&str> =
            ["--kubeconfig", &config].into_iter().chain(words.iter().copied()).collect();
        Ok(self.cluster.kubectl(&words)?.out)
    }
}

impl Drop for Beside<'_> {
    fn drop(&mut self) {
        if self.dir.join("config.json").exists()
            && let Err(error) = self.berth(&["down"])
        {
            eprintln!("berth down: {error:#}");
        }
    }
}

fn beside_it_everything_starts_anew(
    cluster: &Cluster,
    backup: &Path,
    scratch: &Path,
) -> Result<()> {
    let broken = std::fs::read_dir(cluster.dir())?.count();
    cluster.berth(&["down"])?;
    let beside = Beside { cluster, dir: scratch.join("beside") };
    let file = backup.display().to_string();
    beside.berth(&["restore", &file, "--up", "--detach"])?;
    let data = beside.kubectl(&["get", "configmap", "state", "-o", "jsonpath={.data.is}"])?;
    assert_eq!(data, "backed-up");
    let again =
        cluster.try_berth(&["restore", &file, "--data-dir", &beside.dir.display().to_string()])?;
    assert!(again.code != 0 && again.err.contains("is not empty"), "{}", again.err);
    // Images are in no backup: the app is deployed again, to the same cluster.
    beside.berth(&["deploy", "examples/hello", "--name", "hello", "--replicas", "2"])?;
    let words = ["get", "deploy", "hello", "-o", "jsonpath={.status.readyReplicas}"];
    assert_eq!(beside.kubectl(&words)?, "2");
    assert!(std::fs::read_dir(cluster.dir())?.count() >= broken - 2, "the broken one stays");
    let dir = beside.dir.clone();
    drop(beside);
    until("nothing is left of it", PATIENCE, || {
        let mine = dir.display().to_string();
        !leftovers("none", &dir).iter().any(|line| line.contains(&mine))
    })?;
    Ok(())
}
