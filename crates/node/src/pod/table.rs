//! Which pods are here, for those who only look: logs, exec, the kubelet API, node status.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

/// A read handle on every pod of this node. Cheap to clone; workers keep it current.
#[derive(Clone, Debug, Default)]
pub struct PodTable(Arc<RwLock<HashMap<String, Arc<PodEntry>>>>);

/// One pod, as its worker saw it last.
#[derive(Clone, Debug)]
pub struct PodEntry {
    /// The object of the API.
    pub pod: Arc<Pod>,
    /// The sandbox that is in use.
    pub sandbox_id: Option<String>,
    /// The pod's address, when it has one.
    pub pod_ip: Option<String>,
    /// By container name; init and ephemeral containers too.
    pub containers: BTreeMap<String, ContainerEntry>,
}

/// A container's newest attempt and the one before.
#[derive(Clone, Debug, Default)]
pub struct ContainerEntry {
    /// The newest attempt, running or not.
    pub current: Option<ContainerRef>,
    /// The attempt before.
    pub previous: Option<ContainerRef>,
}

/// One attempt of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerRef {
    /// The runtime's id, without the scheme.
    pub id: String,
    /// 0 for the first.
    pub attempt: u32,
    /// Whether it runs now.
    pub running: bool,
    /// Whether it will write no more; one that is made and not yet started will.
    pub ended: bool,
    /// When it began to run.
    pub started_at: Option<Timestamp>,
    /// Its log file.
    pub log_path: PathBuf,
}

impl PodTable {
    /// The pod with this uid.
    pub fn by_uid(&self, uid: &str) -> Option<Arc<PodEntry>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(uid).cloned()
    }

    /// The newest pod of this name.
    pub fn by_name(&self, namespace: &str, name: &str) -> Option<Arc<PodEntry>> {
        let pods = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let named = pods.values().filter(|entry| {
            let meta = &entry.pod.metadata;
            meta.namespace.as_deref() == Some(namespace) && meta.name.as_deref() == Some(name)
        });
        named.max_by_key(|entry| entry.pod.metadata.creation_timestamp.clone()).cloned()
    }

    /// Every pod.
    pub fn all(&self) -> Vec<Arc<PodEntry>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(crate) fn put(&self, uid: &str, entry: PodEntry) {
        let mut pods = self.0.write().unwrap_or_else(PoisonError::into_inner);
        pods.insert(uid.to_owned(), Arc::new(entry));
    }

    pub(crate) fn remove(&self, uid: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}
