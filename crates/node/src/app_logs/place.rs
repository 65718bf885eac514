//! Where an App's log directories are, and which of a pod's volumes are such.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use berth_api::app::logs::{ANNOTATION, Collected, KEEP_HOURS, QUOTA, VARIABLE, named};
use berth_api::{labels, names};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::{Deserialize, Serialize};

use crate::Config;
use crate::cri::v1;

/// A quota that is less is taken for this: below it nothing useful is kept.
const LEAST_QUOTA: u64 = 1 << 20;
const ABOUT: &str = "about.json";

/// Whose directories these are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct About {
    /// The pod's name.
    pub pod: String,
    /// The directories, and where the container sees each.
    pub volumes: BTreeMap<String, String>,
    /// How long lines and files are kept, hours.
    pub keep_hours: u32,
    /// What files and lines of the App take at most on this node, bytes.
    pub quota: u64,
}

impl About {
    pub fn read(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(dir.join(ABOUT)).ok()?).ok()
    }

    /// What holds of `pod`, without directories yet.
    pub fn of(pod: &Pod, collected: &Collected) -> Self {
        let quota = crate::quantity::bytes(&Quantity(collected.quota.clone()));
        Self {
            pod: pod.metadata.name.clone().unwrap_or_default(),
            volumes: BTreeMap::new(),
            keep_hours: u32::try_from(collected.keep_hours).unwrap_or_default().max(1),
            quota: quota.max(LEAST_QUOTA),
        }
    }

    /// Notes it in `dir`, unless it stands there already.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn note(&self, dir: &Path) -> io::Result<()> {
        if Self::read(dir).as_ref() == Some(self) {
            return Ok(());
        }
        let beside = dir.join("about.new");
        std::fs::write(&beside, serde_json::to_vec(self)?)?;
        std::fs::rename(beside, dir.join(ABOUT))
    }
}

/// `node/app-logs`: one directory an App.
pub(crate) fn root(config: &Config) -> PathBuf {
    config.node_dir().join("app-logs")
}

/// What was collected of an App below `root`. `None` for what can be no App's name.
pub(crate) fn log_path(root: &Path, namespace: &str, app: &str) -> Option<PathBuf> {
    Some(app_dir(root, namespace, app)?.join("log"))
}

/// An App's directory below `root`. `None` for what can be no App's name.
pub(crate) fn app_dir(root: &Path, namespace: &str, app: &str) -> Option<PathBuf> {
    names::dns_label(namespace).ok()?;
    names::dns_label(app).ok()?;
    Some(root.join(format!("{namespace}_{app}")))
}

/// What the pod says in its annotation.
fn said(pod: &Pod) -> Option<Collected> {
    let text = pod.metadata.annotations.as_ref()?.get(ANNOTATION)?;
    serde_json::from_str(text).ok()
}

/// The same, and for the pods of Apps that say nothing what holds by default.
pub(crate) fn collected(pod: &Pod) -> Option<Collected> {
    said(pod).or_else(|| {
        let labels = pod.metadata.labels.as_ref()?;
        let is_app = labels.get(labels::MANAGED_BY).is_some_and(|by| by == labels::BERTH);
        Some(Collected {
            app: labels.get(labels::INSTANCE).filter(|_| is_app)?.clone(),
            volumes: BTreeMap::new(),
            keep_hours: KEEP_HOURS,
            quota: QUOTA.to_owned(),
        })
    })
}

/// The directory of a volume whose files are collected; `None` for any other volume.
///
/// # Errors
/// When the directory cannot be made.
pub(crate) fn volume(config: &Config, pod: &Pod, name: &str) -> io::Result<Option<PathBuf>> {
    let Some(collected) = said(pod) else { return Ok(None) };
    match collected.volumes.get(name) {
        Some(path) => directory(config, pod, &collected, name, path),
        None => Ok(None),
    }
}

/// Mounts for the directories that the container's variable names, or its image's, as far as
/// nothing is mounted there.
///
/// # Errors
/// When a directory cannot be made.
pub(crate) fn image_mounts(
    config: &Config,
    pod: &Pod,
    container: &str,
    env: &[(String, String)],
    image_env: &[String],
    there: &[v1::Mount],
) -> io::Result<Vec<v1::Mount>> {
    let Some(collected) = collected(pod) else { return Ok(Vec::new()) };
    let own = env.iter().rev().find(|(name, _)| name == VARIABLE).map(|(_, value)| value.as_str());
    let of_image = image_env.iter().find_map(|line| line.strip_prefix(VARIABLE)?.strip_prefix('='));
    let mut mounts = Vec::new();
    for (number, path) in named(own.or(of_image).unwrap_or_default()).into_iter().enumerate() {
        if there.iter().any(|mount| mount.container_path.trim_end_matches('/') == path) {
            continue;
        }
        // No volume can have a name with a dot.
        let name = format!("named.{container}.{number}");
        let Some(dir) = directory(config, pod, &collected, &name, &path)? else { continue };
        std::fs::create_dir_all(&dir)?;
        crate::volumes::open_to_all(&dir)?;
        mounts.push(v1::Mount {
            container_path: path,
            host_path: dir.to_string_lossy().into_owned(),
            ..v1::Mount::default()
        });
    }
    Ok(mounts)
}

/// Whether the pod is one for whose image [`image_mounts`] has to be asked.
pub(crate) fn is_collected(pod: &Pod) -> bool {
    collected(pod).is_some()
}

/// Notes a directory as one to collect from, and says where it is. It is not made yet.
fn directory(
    config: &Config,
    pod: &Pod,
    collected: &Collected,
    name: &str,
    path: &str,
) -> io::Result<Option<PathBuf>> {
    let meta = &pod.metadata;
    let uid = meta.uid.as_deref().unwrap_or_default();
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let Some(app) = app_dir(&root(config), namespace, &collected.app) else { return Ok(None) };
    // While it is there the pod is, and its directories are not removed.
    std::fs::create_dir_all(config.pod_dir(uid))?;
    let dir = app.join("dirs").join(uid);
    std::fs::create_dir_all(dir.join("v"))?;
    let mut about = About::of(pod, collected);
    about.volumes = About::read(&dir).map(|about| about.volumes).unwrap_or_default();
    about.volumes.insert(name.to_owned(), path.to_owned());
    about.note(&dir)?;
    Ok(Some(dir.join("v").join(name)))
}
