//! What the runtime has of one pod: a snapshot, and how it is taken.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::cri::{Cri, CriError, pid_of, v1};
use crate::pod::{container, labels, termination};

/// Everything of one pod in the runtime.
#[derive(Clone, Debug, Default)]
pub(crate) struct RuntimeState {
    /// Newest first.
    pub sandboxes: Vec<Sandbox>,
    /// By name, then newest attempt first.
    pub containers: Vec<ContainerRecord>,
}

/// A sandbox of the pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sandbox {
    pub id: String,
    pub attempt: u32,
    pub ready: bool,
    pub created_at: i64,
    /// Empty on the host's network.
    pub ips: Vec<String>,
}

/// The life of a container as CRI names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Life {
    #[default]
    Created,
    Running,
    Exited,
    Unknown,
}

/// One attempt of one container.
#[derive(Clone, Debug, Default)]
pub(crate) struct ContainerRecord {
    pub id: String,
    pub name: String,
    pub sandbox_id: String,
    pub attempt: u32,
    pub life: Life,
    pub created_at: Option<Timestamp>,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub exit_code: i32,
    pub reason: String,
    pub message: String,
    /// The image as the runtime knows it.
    pub image: String,
    pub image_ref: String,
    /// The image as the pod spelled it when this attempt was made.
    pub wanted_image: Option<String>,
    pub restart_delay: Duration,
    pub resources: Option<String>,
    pub termination_file: Option<String>,
    pub log_path: String,
    /// What an ended container left as its message.
    pub left: Option<String>,
    pub pid: Option<i32>,
}

impl RuntimeState {
    /// The sandbox in use: the newest, if it lives.
    pub fn sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.first().filter(|sandbox| sandbox.ready)
    }

    /// The pod's own address; none on the machine's network.
    pub fn address(&self) -> Option<IpAddr> {
        self.sandbox()?.ips.first()?.parse().ok()
    }

    /// The newest attempt of a container.
    pub fn latest(&self, name: &str) -> Option<&ContainerRecord> {
        self.containers.iter().find(|container| container.name == name)
    }

    /// The newest attempt within a sandbox.
    pub fn latest_in(&self, name: &str, sandbox: &str) -> Option<&ContainerRecord> {
        self.latest(name).filter(|container| container.sandbox_id == sandbox)
    }

    /// The attempt before the newest.
    pub fn previous(&self, name: &str) -> Option<&ContainerRecord> {
        self.containers.iter().filter(|container| container.name == name).nth(1)
    }

    /// Every container that runs now.
    pub fn running(&self) -> impl Iterator<Item = &ContainerRecord> {
        self.containers.iter().filter(|c| matches!(c.life, Life::Running | Life::Unknown))
    }
}

/// Takes snapshots; what can no longer change is asked for once.
#[derive(Debug, Default)]
pub(crate) struct Observer {
    exited: BTreeMap<String, ContainerRecord>,
    pids: BTreeMap<String, i32>,
    addresses: BTreeMap<String, Vec<String>>,
}

impl Observer {
    /// The pod's state now.
    pub async fn observe(&mut self, cri: &Cri, pod: &Pod) -> Result<RuntimeState, CriError> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let selector = [(labels::POD_UID, uid)];
        let (sandboxes, containers) =
            tokio::try_join!(cri.list_pod_sandbox(&selector), cri.list_containers(&selector))?;
        let mut state = RuntimeState::default();
        for sandbox in sandboxes {
            state.sandboxes.push(self.sandbox(cri, sandbox).await?);
        }
        state
            .sandboxes
            .sort_by_key(|sandbox| std::cmp::Reverse((sandbox.attempt, sandbox.created_at)));
        for container in &containers {
            if let Some(record) = self.container(cri, pod, container).await? {
                state.containers.push(record);
            }
        }
        state.containers.sort_by(|a, b| {
            (&a.name, std::cmp::Reverse((a.attempt, a.created_at)))
                .cmp(&(&b.name, std::cmp::Reverse((b.attempt, b.created_at))))
        });
        let known = |id: &String| containers.iter().any(|container| container.id == *id);
        self.exited.retain(|id, _| known(id));
        self.pids.retain(|id, _| known(id));
        self.addresses.retain(|id, _| state.sandboxes.iter().any(|sandbox| sandbox.id == *id));
        Ok(state)
    }

    async fn sandbox(&mut self, cri: &Cri, listed: v1::PodSandbox) -> Result<Sandbox, CriError> {
        let ready = listed.state == v1::PodSandboxState::SandboxReady as i32;
        let ips = match self.addresses.get(&listed.id) {
            Some(ips) => ips.clone(),
            None if ready => {
                let network = cri.pod_sandbox_status(&listed.id).await?.network.unwrap_or_default();
                let more = network.additional_ips.into_iter().map(|ip| ip.ip);
                let ips: Vec<String> =
                    std::iter::once(network.ip).chain(more).filter(|ip| !ip.is_empty()).collect();
                self.addresses.insert(listed.id.clone(), ips.clone());
                ips
            }
            None => Vec::new(),
        };
        let attempt = listed.metadata.map_or(0, |meta| meta.attempt);
        Ok(Sandbox { id: listed.id, attempt, ready, created_at: listed.created_at, ips })
    }

    /// `None` when the container was removed between the list and the question.
    async fn container(
        &mut self,
        cri: &Cri,
        pod: &Pod,
        listed: &v1::Container,
    ) -> Result<Option<ContainerRecord>, CriError> {
        if let Some(record) = self.exited.get(&listed.id) {
            return Ok(Some(record.clone()));
        }
        let verbose = !self.pids.contains_key(&listed.id);
        let (status, info) = match cri.container_status(&listed.id, verbose).await {
            Ok(answer) => answer,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut record = record_of(status, &listed.pod_sandbox_id);
        match record.life {
            Life::Running => {
                if let Some(pid) = pid_of(&info) {
                    self.pids.insert(record.id.clone(), pid);
                }
                record.pid = self.pids.get(&record.id).copied();
            }
            Life::Exited => {
                let all = container::all(pod);
                let own = all.iter().find(|(_, container)| container.name == record.name);
                record.left = own.and_then(|(_, own)| termination::message(&record, own));
                self.exited.insert(record.id.clone(), record.clone());
            }
            Life::Created | Life::Unknown => {}
        }
        Ok(Some(record))
    }
}

fn record_of(status: v1::ContainerStatus, sandbox_id: &str) -> ContainerRecord {
    let life = match status.state() {
        v1::ContainerState::ContainerCreated => Life::Created,
        v1::ContainerState::ContainerRunning => Life::Running,
        v1::ContainerState::ContainerExited => Life::Exited,
        v1::ContainerState::ContainerUnknown => Life::Unknown,
    };
    let time = |nanos: i64| {
        Some(nanos).filter(|n| *n > 0).and_then(|n| Timestamp::from_nanosecond(i128::from(n)).ok())
    };
    let note = |key: &str| status.annotations.get(key).cloned();
    let meta = status.metadata.clone().unwrap_or_default();
    ContainerRecord {
        name: status.labels.get(labels::CONTAINER_NAME).cloned().unwrap_or(meta.name),
        sandbox_id: sandbox_id.to_owned(),
        attempt: meta.attempt,
        life,
        created_at: time(status.created_at),
        started_at: time(status.started_at),
        finished_at: time(status.finished_at),
        exit_code: status.exit_code,
        wanted_image: note(labels::IMAGE),
        restart_delay: labels::restart_delay(&status.annotations),
        resources: note(labels::RESOURCES),
        termination_file: note(labels::TERMINATION_FILE),
        image: status.image.map(|image| image.image).unwrap_or_default(),
        id: status.id,
        reason: status.reason,
        message: status.message,
        image_ref: status.image_ref,
        log_path: status.log_path,
        left: None,
        pid: None,
    }
}
