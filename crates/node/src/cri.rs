//! The container runtime as this crate sees it: CRI v1 over a unix socket.
//!
//! A thin client: one method a call, each with its own time limit, every failure a [`CriError`] that
//! says what was tried. It keeps no state and never retries; who calls knows whether that is safe.
//! The connection is made on first use and again after containerd was away.

mod images;

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

pub use k8s_cri::v1;

use hyper_util::rt::TokioIo;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// Ordinary calls answer in milliseconds; a loaded machine gets patience.
const CALL_LIMIT: Duration = Duration::from_secs(20);
/// A sandbox waits for CNI, which may wait for a lock.
const SANDBOX_LIMIT: Duration = Duration::from_secs(120);
/// What a call may take beyond the time its own arguments allow.
const SLACK: Duration = Duration::from_secs(30);
/// Lists of a full node outgrow gRPC's default of 4 MiB.
const MESSAGE_LIMIT: usize = 32 << 20;

/// A client of the runtime and image services. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

/// A CRI call that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum CriError {
    /// The runtime answered with a failure, or could not be reached.
    #[error("{operation}: {}", .status.message())]
    Refused {
        /// The CRI method.
        operation: &'static str,
        /// What gRPC said.
        status: Box<tonic::Status>,
    },
    /// The runtime did not answer in time.
    #[error("{operation}: no answer within {} s", .limit.as_secs())]
    Timeout {
        /// The CRI method.
        operation: &'static str,
        /// How long it was waited for.
        limit: Duration,
    },
}

impl CriError {
    /// Whether the object asked for does not exist.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(tonic::Code::NotFound)
    }

    /// Whether the runtime lacks the method.
    pub fn is_unimplemented(&self) -> bool {
        self.code() == Some(tonic::Code::Unimplemented)
    }

    /// Whether the runtime itself was away, so that nothing is known about the outcome.
    pub fn is_away(&self) -> bool {
        match self {
            Self::Refused { status, .. } => matches!(
                status.code(),
                tonic::Code::Unavailable | tonic::Code::Cancelled | tonic::Code::Unknown
                    if status.code() != tonic::Code::Unknown || is_transport(status)
            ),
            Self::Timeout { .. } => true,
        }
    }

    /// Whether a command took longer than it was given.
    pub fn is_deadline(&self) -> bool {
        self.code() == Some(tonic::Code::DeadlineExceeded)
    }

    /// What the runtime said, without the method's name.
    pub fn reason(&self) -> String {
        match self {
            Self::Refused { status, .. } => status.message().to_owned(),
            Self::Timeout { .. } => self.to_string(),
        }
    }

    fn code(&self) -> Option<tonic::Code> {
        match self {
            Self::Refused { status, .. } => Some(status.code()),
            Self::Timeout { .. } => None,
        }
    }
}

/// tonic reports a broken connection as `Unknown` with a source; a runtime's refusal has none.
fn is_transport(status: &tonic::Status) -> bool {
    std::error::Error::source(status).is_some()
}

async fn call<T>(
    operation: &'static str,
    limit: Duration,
    answer: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, CriError> {
    match tokio::time::timeout(limit, answer).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(CriError::Refused { operation, status: Box::new(status) }),
        Err(_) => Err(CriError::Timeout { operation, limit }),
    }
}

/// The exit of a command run by [`Cri::exec_sync`].
#[derive(Debug, Clone)]
pub struct ExecOutput {
    /// Standard output, cut by the runtime at 16 MB.
    pub stdout: Vec<u8>,
    /// Standard error, cut likewise.
    pub stderr: Vec<u8>,
    /// 0 when all went well.
    pub exit_code: i32,
}

impl Cri {
    /// A client of the runtime at `socket`; connects on first use.
    pub fn new(socket: &Path) -> Self {
        let socket = socket.to_owned();
        // The address is for form only: the connector ignores it.
        let channel = Endpoint::from_static("http://containerd")
            .connect_timeout(Duration::from_secs(5))
            .connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
                let socket = socket.clone();
                async move { UnixStream::connect(socket).await.map(TokioIo::new) }
            }));
        Self {
            runtime: RuntimeServiceClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE_LIMIT),
            images: ImageServiceClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT),
        }
    }

    /// Name and version of the runtime.
    pub async fn version(&self) -> Result<v1::VersionResponse, CriError> {
        let request = v1::VersionRequest { version: "v1".to_owned() };
        call("Version", CALL_LIMIT, self.runtime.clone().version(request)).await
    }

    /// The runtime's conditions: `RuntimeReady`, `NetworkReady`.
    pub async fn status(&self) -> Result<v1::StatusResponse, CriError> {
        let request = v1::StatusRequest { verbose: false };
        call("Status", CALL_LIMIT, self.runtime.clone().status(request)).await
    }

    /// Makes and starts a sandbox; answers its id.
    pub async fn run_pod_sandbox(&self, config: v1::PodSandboxConfig) -> Result<String, CriError> {
        let request =
            v1::RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
        let mut runtime = self.runtime.clone();
        let made = call("RunPodSandbox", SANDBOX_LIMIT, runtime.run_pod_sandbox(request));
        Ok(made.await?.pod_sandbox_id)
    }

    /// Ends a sandbox's processes and takes its network away; fine when it is gone already.
    pub async fn stop_pod_sandbox(&self, id: &str) -> Result<(), CriError> {
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        let mut runtime = self.runtime.clone();
        let stopped = call("StopPodSandbox", SANDBOX_LIMIT, runtime.stop_pod_sandbox(request));
        absent_is_fine(stopped.await.map(drop))
    }

    /// Removes a stopped sandbox with its containers; fine when it is gone already.
    pub async fn remove_pod_sandbox(&self, id: &str) -> Result<(), CriError> {
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        let mut runtime = self.runtime.clone();
        let removed = call("RemovePodSandbox", SANDBOX_LIMIT, runtime.remove_pod_sandbox(request));
        absent_is_fine(removed.await.map(drop))
    }

    /// The sandboxes that carry every one of `labels`.
    pub async fn list_pod_sandbox(
        &self,
        labels: &[(&str, &str)],
    ) -> Result<Vec<v1::PodSandbox>, CriError> {
        let filter = v1::PodSandboxFilter {
            label_selector: owned(labels),
            ..v1::PodSandboxFilter::default()
        };
        let request = v1::ListPodSandboxRequest { filter: Some(filter) };
        let mut runtime = self.runtime.clone();
        let answer = runtime.list_pod_sandbox(request);
        Ok(call("ListPodSandbox", CALL_LIMIT, answer).await?.items)
    }

    /// A sandbox's state and addresses.
    pub async fn pod_sandbox_status(&self, id: &str) -> Result<v1::PodSandboxStatus, CriError> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let mut runtime = self.runtime.clone();
        let answer = call("PodSandboxStatus", CALL_LIMIT, runtime.pod_sandbox_status(request));
        Ok(answer.await?.status.unwrap_or_default())
    }

    /// Makes a container in a sandbox; answers its id.
    pub async fn create_container(
        &self,
        sandbox: &str,
        config: v1::ContainerConfig,
        sandbox_config: v1::PodSandboxConfig,
    ) -> Result<String, CriError> {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        let mut runtime = self.runtime.clone();
        let made = call("CreateContainer", SANDBOX_LIMIT, runtime.create_container(request));
        Ok(made.await?.container_id)
    }

    /// Starts a container that was made and never started.
    pub async fn start_container(&self, id: &str) -> Result<(), CriError> {
        let request = v1::StartContainerRequest { container_id: id.to_owned() };
        call("StartContainer", SANDBOX_LIMIT, self.runtime.clone().start_container(request))
            .await
            .map(drop)
    }

    /// Sends the stop signal, after `grace` the kill signal; answers when the process is gone.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), CriError> {
        // Whole seconds only: rounded up, so that a started second is still given.
        let timeout = i64::try_from(grace.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
        let request = v1::StopContainerRequest { container_id: id.to_owned(), timeout };
        let mut runtime = self.runtime.clone();
        let stopped = call("StopContainer", grace + SLACK, runtime.stop_container(request));
        absent_is_fine(stopped.await.map(drop))
    }

    /// Removes a container, ending it when it runs; fine when it is gone already.
    pub async fn remove_container(&self, id: &str) -> Result<(), CriError> {
        let request = v1::RemoveContainerRequest { container_id: id.to_owned() };
        let mut runtime = self.runtime.clone();
        let removed = call("RemoveContainer", SANDBOX_LIMIT, runtime.remove_container(request));
        absent_is_fine(removed.await.map(drop))
    }

    /// The containers that carry every one of `labels`.
    pub async fn list_containers(
        &self,
        labels: &[(&str, &str)],
    ) -> Result<Vec<v1::Container>, CriError> {
        let filter =
            v1::ContainerFilter { label_selector: owned(labels), ..v1::ContainerFilter::default() };
        let request = v1::ListContainersRequest { filter: Some(filter) };
        let mut runtime = self.runtime.clone();
        let answer = call("ListContainers", CALL_LIMIT, runtime.list_containers(request));
        Ok(answer.await?.containers)
    }

    /// A container's state; with `verbose` also the runtime's own notes (`info`: JSON, with the pid).
    pub async fn container_status(
        &self,
        id: &str,
        verbose: bool,
    ) -> Result<(v1::ContainerStatus, HashMap<String, String>), CriError> {
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose };
        let answer =
            call("ContainerStatus", CALL_LIMIT, self.runtime.clone().container_status(request))
                .await?;
        Ok((answer.status.unwrap_or_default(), answer.info))
    }

    /// Runs a command in a container and waits for it, at most `limit`.
    pub async fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        limit: Duration,
    ) -> Result<ExecOutput, CriError> {
        let timeout = i64::try_from(limit.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
        let request =
            v1::ExecSyncRequest { container_id: id.to_owned(), cmd: command.to_vec(), timeout };
        let answer =
            call("ExecSync", limit + SLACK, self.runtime.clone().exec_sync(request)).await?;
        Ok(ExecOutput { stdout: answer.stdout, stderr: answer.stderr, exit_code: answer.exit_code })
    }

    /// Prepares a command in a container; answers the address to stream it from.
    pub async fn exec(&self, request: v1::ExecRequest) -> Result<String, CriError> {
        Ok(call("Exec", CALL_LIMIT, self.runtime.clone().exec(request)).await?.url)
    }

    /// Prepares an attachment to a container's first process; answers the address to stream from.
    pub async fn attach(&self, request: v1::AttachRequest) -> Result<String, CriError> {
        Ok(call("Attach", CALL_LIMIT, self.runtime.clone().attach(request)).await?.url)
    }

    /// Prepares a way to ports inside a sandbox; answers the address to stream from.
    pub async fn port_forward(&self, request: v1::PortForwardRequest) -> Result<String, CriError> {
        Ok(call("PortForward", CALL_LIMIT, self.runtime.clone().port_forward(request)).await?.url)
    }

    /// Changes a running container's limits without a restart.
    pub async fn update_container_resources(
        &self,
        id: &str,
        linux: v1::LinuxContainerResources,
    ) -> Result<(), CriError> {
        let request = v1::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(linux),
            windows: None,
            annotations: HashMap::new(),
        };
        let mut runtime = self.runtime.clone();
        let answer = runtime.update_container_resources(request);
        call("UpdateContainerResources", CALL_LIMIT, answer).await.map(drop)
    }

    /// Makes the runtime write to a new log file after the old one was renamed.
    pub async fn reopen_container_log(&self, id: &str) -> Result<(), CriError> {
        let request = v1::ReopenContainerLogRequest { container_id: id.to_owned() };
        let mut runtime = self.runtime.clone();
        let answer = runtime.reopen_container_log(request);
        call("ReopenContainerLog", CALL_LIMIT, answer).await.map(drop)
    }

    /// What the containers with `labels` use of processor, memory and disk.
    pub async fn list_container_stats(
        &self,
        labels: &[(&str, &str)],
    ) -> Result<Vec<v1::ContainerStats>, CriError> {
        let filter = v1::ContainerStatsFilter {
            label_selector: owned(labels),
            ..v1::ContainerStatsFilter::default()
        };
        let request = v1::ListContainerStatsRequest { filter: Some(filter) };
        let mut runtime = self.runtime.clone();
        let answer = runtime.list_container_stats(request);
        Ok(call("ListContainerStats", CALL_LIMIT, answer).await?.stats)
    }

    /// The runtime's own news of containers; containerd 1.6 lacks it.
    pub async fn container_events(
        &self,
    ) -> Result<tonic::Streaming<v1::ContainerEventResponse>, CriError> {
        let mut runtime = self.runtime.clone();
        let answer = runtime.get_container_events(v1::GetEventsRequest {});
        call("GetContainerEvents", CALL_LIMIT, answer).await
    }
}

fn owned(labels: &[(&str, &str)]) -> HashMap<String, String> {
    labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn absent_is_fine(outcome: Result<(), CriError>) -> Result<(), CriError> {
    match outcome {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}

/// The process id in a verbose status' `info`, if the runtime gave one.
pub fn pid_of(info: &HashMap<String, String>) -> Option<i32> {
    let info: serde_json::Value = serde_json::from_str(info.get("info")?).ok()?;
    i32::try_from(info.get("pid")?.as_i64()?).ok().filter(|pid| *pid > 0)
}
