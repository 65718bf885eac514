//! The log directories of pods that a kubelet runs: found, held open, let go.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_api::app::logs::{Collected, VARIABLE, named};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt;
use rustix::io::Errno;

use super::kubelet::Volumes;
use super::pods::Pods;
use super::processes;
use crate::app_logs::{self, About, Directories, Volume};

/// What a pod, or a container, left is held for so long after it has gone.
const HELD: Duration = Duration::from_secs(30);
/// A pod that has begun: its files come soon.
const YOUNG: Duration = Duration::from_secs(10);
/// A pod or a container that has gone: its last lines come soon.
const LAST: Duration = Duration::from_secs(2);
/// A container that is told to run and has no process is looked for so often.
const TRIES: u32 = 20;
/// Between looks at whether another directory stands where one was.
const RENEW: Duration = Duration::from_secs(5);

/// The directories of this node's pods.
pub(super) struct Held {
    volumes: Volumes,
    root: PathBuf,
    pods: Pods,
    by_uid: HashMap<String, Entry>,
    is_hurried: bool,
}

/// One pod's.
#[derive(Default)]
struct Entry {
    /// Volumes that the pod names, by the volume's name.
    said: BTreeMap<String, Place>,
    /// What images name, by container.
    containers: HashMap<String, Container>,
    began: Option<Instant>,
    gone: Option<Instant>,
}

/// Where the container sees it, and the directory.
type Place = (String, Arc<Volume>);

/// One run of a container.
struct Container {
    root: Option<OwnedFd>,
    /// Paths that are named, and what was found there; the last is what is there now.
    named: BTreeMap<String, Vec<Arc<Volume>>>,
    /// It started then, seconds since 1970.
    since: i64,
    tries: u32,
    looked: Instant,
    gone: Option<Instant>,
}

impl Held {
    pub fn new(volumes: Volumes, root: PathBuf, pods: Pods) -> Self {
        Self { volumes, root, pods, by_uid: HashMap::new(), is_hurried: false }
    }

    fn take_up(&mut self, pods: &[(String, Arc<Pod>, Collected)], now: Instant) {
        let mut missing = HashSet::new();
        for (uid, pod, _) in pods {
            let entry = self.by_uid.entry(uid.clone()).or_default();
            entry.began.get_or_insert(now);
            for (id, since) in running(pod) {
                let container = entry
                    .containers
                    .entry(id.clone())
                    .or_insert_with(|| Container::new(since, now));
                if container.tries > 0 && container.root.is_none() {
                    missing.insert(id);
                }
            }
        }
        if missing.is_empty() {
            return;
        }
        let mut found = processes::of(&missing);
        for entry in self.by_uid.values_mut() {
            for (id, container) in &mut entry.containers {
                if missing.contains(id) {
                    container.meet(found.remove(id), self.volumes.node());
                }
            }
        }
    }

    fn open_said(&mut self, uid: &str, pod: &Pod, collected: &Collected) {
        let Some(entry) = self.by_uid.get_mut(uid) else { return };
        for (name, inside) in &collected.volumes {
            let known = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
            let is_ours = known.clone().any(|one| one.name == *name && one.empty_dir.is_some());
            if entry.said.contains_key(name) || !is_ours {
                continue;
            }
            match self.volumes.open(uid, name) {
                Ok(dir) => {
                    let volume = Arc::new(Volume::of(dir, None));
                    entry.said.insert(name.clone(), (inside.clone(), volume));
                }
                // The kubelet makes it before it starts a container.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(uid, name, %error, "cannot open a log directory"),
            }
        }
    }
}

impl Container {
    fn new(since: i64, now: Instant) -> Self {
        let named = BTreeMap::new();
        Self { root: None, named, since, tries: TRIES, looked: now, gone: None }
    }

    /// Its first process, where it has one now.
    fn meet(&mut self, process: Option<processes::Process>, node: &CStr) {
        self.tries -= 1;
        let Some(process) = process else { return };
        let known = process.variable(VARIABLE).and_then(|value| Ok((value, process.root(node)?)));
        match known {
            Ok((value, root)) => {
                let paths = named(value.as_deref().unwrap_or_default());
                self.named = paths.into_iter().map(|path| (path, Vec::new())).collect();
                self.root = Some(root).filter(|_| !self.named.is_empty());
                self.tries = 0;
            }
            Err(error) => tracing::debug!(%error, "cannot look at a container's process"),
        }
    }

    /// Opens what is named and there.
    fn open(&mut self, inside_pod: &[String], now: Instant) {
        let Some(root) = &self.root else { return };
        let renews = now.duration_since(self.looked) > RENEW;
        if renews {
            self.looked = now;
        }
        self.named.retain(|path, found| {
            // Collected as the pod's own volume.
            if inside_pod.contains(path) {
                return false;
            }
            if !found.is_empty() && !renews {
                return true;
            }
            match processes::directory(root, path) {
                Ok(dir) => {
                    if found.last().is_none_or(|last| !last.is(&dir)) {
                        found.push(Arc::new(Volume::of(dir, Some(self.since))));
                    }
                    // What stood there before was read meanwhile.
                    let surplus = found.len().saturating_sub(2);
                    found.drain(..surplus);
                    true
                }
                Err(Errno::NOENT) => true,
                Err(Errno::XDEV) => {
                    tracing::info!(path, "not collected: it is on a volume of its own");
                    !found.is_empty()
                }
                Err(error) => {
                    tracing::info!(path, %error, "not collected: it is no plain directory");
                    !found.is_empty()
                }
            }
        });
    }
}

impl Directories for Held {
    fn refresh(&mut self) {
        let now = Instant::now();
        let pods: Vec<_> = self.pods.all().into_iter().filter_map(collected).collect();
        self.take_up(&pods, now);
        self.is_hurried = false;
        let mut there = HashSet::new();
        for (uid, pod, collected) in &pods {
            self.open_said(uid, pod, collected);
            let Some(entry) = self.by_uid.get_mut(uid) else { continue };
            let runs: HashSet<String> = running(pod).map(|(id, _)| id).collect();
            let said: Vec<String> = entry.said.values().map(|(path, _)| path.clone()).collect();
            for (id, container) in &mut entry.containers {
                match runs.contains(id) {
                    true => container.gone = None,
                    false => _ = container.gone.get_or_insert(now),
                }
                container.open(&said, now);
            }
            entry.gone = None;
            entry.containers.retain(|_, one| !is_past(one.gone, HELD, now));
            self.is_hurried |= pod.metadata.deletion_timestamp.is_some()
                || is_within(entry.began, YOUNG, now)
                || entry.containers.values().any(|one| is_within(one.gone, LAST, now));
            there.insert(uid.as_str());
            if !entry.is_empty()
                && let Some(app) = pod
                    .namespace()
                    .and_then(|space| app_logs::app_dir(&self.root, &space, &collected.app))
            {
                let dir = app.join("dirs").join(uid);
                let about = About::of(pod, collected);
                if let Err(error) = std::fs::create_dir_all(&dir).and_then(|()| about.note(&dir)) {
                    tracing::warn!(dir = %dir.display(), %error, "cannot keep logs");
                }
            }
        }
        self.by_uid.retain(|uid, entry| {
            if !there.contains(uid.as_str()) {
                entry.gone.get_or_insert(now);
            }
            !is_past(entry.gone, HELD, now)
        });
        self.is_hurried |= self.by_uid.values().any(|entry| is_within(entry.gone, LAST, now));
    }

    fn is_over(&self, uid: &str) -> bool {
        self.by_uid.get(uid).is_none_or(|entry| entry.gone.is_some())
    }

    fn open(&mut self, dir: &Path, _about: &About) -> Vec<(Arc<Volume>, String)> {
        let uid = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(entry) = self.by_uid.get(uid) else { return Vec::new() };
        entry.places().map(|(path, volume)| (volume.clone(), path.clone())).collect()
    }

    fn is_hurried(&self) -> bool {
        self.is_hurried
    }
}

impl Entry {
    fn places(&self) -> impl Iterator<Item = (&String, &Arc<Volume>)> {
        let said = self.said.values().map(|(path, volume)| (path, volume));
        let named = self.containers.values().flat_map(|container| &container.named);
        said.chain(named.flat_map(|(path, found)| found.iter().map(move |one| (path, one))))
    }

    fn is_empty(&self) -> bool {
        self.places().next().is_none()
    }
}

/// A pod with something to collect.
fn collected(pod: Arc<Pod>) -> Option<(String, Arc<Pod>, Collected)> {
    let collected = app_logs::collected(&pod)?;
    Some((pod.metadata.uid.clone()?, pod, collected))
}

/// The containers that run, and since when, seconds since 1970.
fn running(pod: &Pod) -> impl Iterator<Item = (String, i64)> {
    let all = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    all.filter_map(|status: &ContainerStatus| {
        let since = status.state.as_ref()?.running.as_ref()?.started_at.as_ref()?;
        // `containerd://ID`
        let (_, id) = status.container_id.as_ref()?.split_once("://")?;
        Some((id.to_owned(), since.0.as_second()))
    })
}

fn is_past(since: Option<Instant>, time: Duration, now: Instant) -> bool {
    since.is_some_and(|since| now.duration_since(since) > time)
}

fn is_within(since: Option<Instant>, time: Duration, now: Instant) -> bool {
    since.is_some() && !is_past(since, time, now)
}
