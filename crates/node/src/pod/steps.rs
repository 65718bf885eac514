//! Carrying out a plan's actions. Each step is a task of its own and answers with an [`Outcome`];
//! none of them decides anything.

mod hooks;
mod sandbox;
mod start;

pub(crate) use sandbox::RECORD;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::api::{Api, DeleteParams, Preconditions};

use super::container;
use super::plan::Action;
use super::resources::{self, Qos};
use super::runtime::RuntimeState;
use super::table::PodTable;
use crate::cgroups;
use crate::config::Config;
use crate::cri::{Cri, v1};
use crate::events::Events;
use crate::images::{ImageError, Images, Present};
use crate::network::Addresses;
use crate::runtime_events::RuntimeEvents;
use crate::volumes::{self, Mounts};
use berth_daemon::Tasks;

/// What a container gets at least between a preStop hook that took all its time and the end.
const GRACE_AFTER_HOOK: Duration = Duration::from_secs(2);
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// What all workers of a node share.
pub(crate) struct Shared {
    pub config: Config,
    pub cri: Cri,
    pub client: kube::Client,
    pub images: Images,
    pub events: Events,
    pub runtime_events: RuntimeEvents,
    pub table: PodTable,
    pub addresses: Addresses,
    /// The machine's own resolver.
    pub host_dns: v1::DnsConfig,
    /// The machine's memory, bytes.
    pub memory_total: i64,
    pub tasks: Tasks,
}

/// What a step needs: the world as it was when the step was decided.
pub(crate) struct Step {
    pub shared: Arc<Shared>,
    pub pod: Arc<Pod>,
    pub gone: bool,
    pub runtime: Arc<RuntimeState>,
    pub mounts: Option<Mounts>,
    /// For a start: the image that was made sure of.
    pub image: Option<(String, super::ImageUser)>,
}

/// A step that did not succeed: the API's word and a sentence.
#[derive(Debug)]
pub(crate) struct StepError {
    pub reason: &'static str,
    pub message: String,
}

impl StepError {
    fn new(reason: &'static str, error: impl std::error::Error) -> Self {
        Self { reason, message: chain(&error) }
    }
}

/// An error and what it came from, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

/// What came of a step.
pub(crate) enum Outcome {
    Volumes(Result<Mounts, StepError>),
    Sandbox(Result<(), StepError>),
    SandboxStopped(String, Result<(), StepError>),
    Image(String, Result<Present, ImageError>),
    /// The new container's id, and whether its postStart hook is still to run.
    Started(String, Result<(String, bool), StepError>),
    Hooked(String),
    Resized(String, Result<String, StepError>),
    Settled(Result<(), StepError>),
    Finished(Result<(), StepError>),
    /// Nothing to note beyond whether it worked.
    Done(Result<(), StepError>),
}

impl Step {
    pub(crate) async fn run(self, action: Action) -> Outcome {
        match action {
            Action::PrepareVolumes => Outcome::Volumes(self.volumes().await),
            Action::CreateSandbox { attempt } => {
                Outcome::Sandbox(self.create_sandbox(attempt).await)
            }
            Action::StopSandbox { id } => {
                if let Err(error) = self.shared.addresses.keep(&self.pod, &id) {
                    tracing::warn!(pod = self.uid(), %error, "cannot keep a pod's address");
                }
                let stopped = self.shared.cri.stop_pod_sandbox(&id).await;
                let stopped = stopped.map_err(|error| StepError::new("FailedKillPod", error));
                Outcome::SandboxStopped(id, stopped)
            }
            Action::RemoveSandbox { id } => {
                let removed = self.shared.cri.remove_pod_sandbox(&id).await;
                Outcome::Done(removed.map_err(|error| StepError::new("FailedKillPod", error)))
            }
            Action::RemoveContainer { id } => {
                let removed = self.shared.cri.remove_container(&id).await;
                Outcome::Done(removed.map_err(|error| StepError::new("FailedKillPod", error)))
            }
            Action::PullImage { container } => {
                let outcome = self.pull(&container).await;
                Outcome::Image(container, outcome)
            }
            Action::Start { container, attempt, restart_delay } => {
                let outcome = self.start(&container, attempt, restart_delay).await;
                Outcome::Started(container, outcome)
            }
            Action::PostStart { container, id } => {
                self.post_start(&container, &id).await;
                Outcome::Hooked(id)
            }
            Action::Kill { container, id, until, pre_stop, message } => {
                Outcome::Done(self.kill(&container, &id, until, pre_stop, message).await)
            }
            Action::Resize { container, id } => {
                let outcome = self.resize(&container, &id).await;
                Outcome::Resized(id, outcome)
            }
            Action::Settle => Outcome::Settled(self.settle().await),
            Action::Finish => Outcome::Finished(self.finish().await),
        }
    }

    fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    fn container(&self, name: &str) -> Option<Container> {
        let all = container::all(&self.pod);
        all.into_iter().map(|(_, container)| container).find(|container| container.name == name)
    }

    async fn volumes(&self) -> Result<Mounts, StepError> {
        let shared = &self.shared;
        let prepared = volumes::prepare(&shared.config, &shared.client, &self.pod).await;
        prepared.map_err(|error| {
            let failed = StepError::new("FailedMount", error);
            let message = format!("MountVolume.SetUp failed: {}", failed.message);
            self.shared.events.warning(&self.pod, None, "FailedMount", message);
            failed
        })
    }

    async fn pull(&self, name: &str) -> Result<Present, ImageError> {
        let container = self.container(name).unwrap_or_default();
        let image = container.image.clone().unwrap_or_default();
        let events = &self.shared.events;
        let present = self
            .shared
            .images
            .ensure(&self.pod, &container, |image| {
                let message = format!("Pulling image \"{image}\"");
                events.normal(&self.pod, Some(name), "Pulling", message);
            })
            .await;
        match &present {
            Ok(Present { pulled: Some((took, size)), .. }) => {
                let message = format!(
                    "Successfully pulled image \"{image}\" in {} ms. Image size: {size} bytes.",
                    took.as_millis()
                );
                events.normal(&self.pod, Some(name), "Pulled", message);
            }
            Ok(_) => {
                let message = format!("Container image \"{image}\" already present on machine");
                events.normal(&self.pod, Some(name), "Pulled", message);
            }
            Err(error) if !error.is_away => {
                let message = format!("Failed to pull image \"{image}\": {}", error.message);
                events.warning(&self.pod, Some(name), "Failed", message);
                events.warning(&self.pod, Some(name), "Failed", format!("Error: {}", error.reason));
            }
            Err(_) => {}
        }
        present
    }

    async fn kill(
        &self,
        name: &str,
        id: &str,
        until: Timestamp,
        pre_stop: bool,
        message: String,
    ) -> Result<(), StepError> {
        if pre_stop {
            self.shared.events.normal(&self.pod, Some(name), "Killing", message);
        }
        let hooked = pre_stop && self.pre_stop(name, id, remaining(until)).await;
        let least = if hooked { GRACE_AFTER_HOOK } else { Duration::ZERO };
        let grace = remaining(until).max(least);
        let stopped = self.shared.cri.stop_container(id, grace).await;
        stopped.map_err(|error| {
            let failed = StepError::new("FailedKillPod", error);
            let message = format!("error killing container {name}: {}", failed.message);
            self.shared.events.warning(&self.pod, Some(name), "FailedKillPod", message);
            failed
        })
    }

    async fn resize(&self, name: &str, id: &str) -> Result<String, StepError> {
        let container = self.container(name).unwrap_or_default();
        let failed = |error: &dyn std::error::Error| StepError {
            reason: "ResizeError",
            message: chain(error),
        };
        // The pod's bound encloses its containers': it grows before them and shrinks after them,
        // which cgroup v1 refuses in any other order.
        let enclosed = || cgroups::create_pod(&self.shared.config, &self.pod);
        let grown = enclosed();
        let linux = resources::linux(&container, Qos::of_pod(&self.pod), self.shared.memory_total);
        let updated = self.shared.cri.update_container_resources(id, linux).await;
        updated.map_err(|error| failed(&error))?;
        if grown.is_err() {
            enclosed().map_err(|error| failed(&error))?;
        }
        Ok(serde_json::to_string(&container.resources).unwrap_or_default())
    }

    /// What a pod that ended keeps is its records and logs.
    async fn settle(&self) -> Result<(), StepError> {
        let config = &self.shared.config;
        volumes::remove(config, self.uid())
            .map_err(|error| StepError::new("FailedUnmount", error))?;
        let removed = cgroups::remove_pod(config, self.uid()).await;
        removed.map_err(|error| StepError::new("FailedKillPod", error))
    }

    async fn finish(&self) -> Result<(), StepError> {
        let cri = &self.shared.cri;
        for sandbox in &self.runtime.sandboxes {
            let removed = cri.remove_pod_sandbox(&sandbox.id).await;
            removed.map_err(|error| StepError::new("FailedKillPod", error))?;
        }
        self.settle().await?;
        let meta = &self.pod.metadata;
        let (namespace, name) = (
            meta.namespace.as_deref().unwrap_or("default"),
            meta.name.as_deref().unwrap_or_default(),
        );
        if !self.gone {
            self.tell_gone(namespace, name).await?;
        }
        let logs = self.shared.config.pod_logs_dir(namespace, name, self.uid());
        match tokio::fs::remove_dir_all(&logs).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(StepError::new("FailedKillPod", error))
            }
            _ => Ok(()),
        }
    }

    /// Removes the object of this very pod, not of one that took its name.
    async fn tell_gone(&self, namespace: &str, name: &str) -> Result<(), StepError> {
        let api: Api<Pod> = Api::namespaced(self.shared.client.clone(), namespace);
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: Some(self.uid().to_owned()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match tokio::time::timeout(CALL_LIMIT, api.delete(name, &params)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Ok(()),
            Ok(Err(error)) => Err(StepError::new("FailedDelete", error)),
            Err(late) => Err(StepError::new("FailedDelete", late)),
        }
    }
}

/// The time left until `until`; none when it has passed.
fn remaining(until: Timestamp) -> Duration {
    Duration::try_from(until.duration_since(Timestamp::now())).unwrap_or_default()
}
