//! Making a sandbox: cgroup, directories, the sandbox itself, then what needs its address.

use std::path::Path;

use tokio::io::AsyncWriteExt;

use super::{Step, StepError};
use crate::cgroups;
use crate::cri::v1;
use crate::pod::{container, sandbox};

/// The pod's object, kept beside its volumes: how to end it when the API has forgotten it.
pub(crate) const RECORD: &str = "pod.json";

impl Step {
    pub(super) async fn create_sandbox(&self, attempt: u32) -> Result<(), StepError> {
        let made = self.try_create_sandbox(attempt).await;
        made.inspect_err(|error| {
            let message = format!("Failed to create pod sandbox: {}", error.message);
            self.shared.events.warning(&self.pod, None, "FailedCreatePodSandBox", message);
        })
    }

    async fn try_create_sandbox(&self, attempt: u32) -> Result<(), StepError> {
        let shared = &self.shared;
        let io = |error: std::io::Error| StepError::new("FailedCreatePodSandBox", error);
        let config = self.sandbox_config(attempt)?;
        let pod_dir = shared.config.pod_dir(self.uid());
        tokio::fs::create_dir_all(&pod_dir).await.map_err(io)?;
        tokio::fs::create_dir_all(&config.log_directory).await.map_err(io)?;
        let record = serde_json::to_vec(&*self.pod).unwrap_or_default();
        write_private(&pod_dir.join(RECORD), &record).await.map_err(io)?;
        let addresses = &shared.addresses;
        let inherited = addresses.inherit(&self.pod, &shared.table).await.map_err(io)?;
        let made = addresses.make(inherited, &self.pod, shared.cri.run_pod_sandbox(config)).await;
        made.map(drop).map_err(|error| StepError::new("FailedCreatePodSandBox", error))
    }

    /// The configuration that the sandbox was or is to be made with.
    pub(super) fn sandbox_config(&self, attempt: u32) -> Result<v1::PodSandboxConfig, StepError> {
        let shared = &self.shared;
        let parent = cgroups::create_pod(&shared.config, &self.pod)
            .map_err(|error| StepError::new("FailedCreatePodContainer", error))?;
        Ok(sandbox::config(&shared.config, &self.pod, attempt, &parent, &shared.host_dns))
    }

    /// Writes the pod's hosts file; what is there already is left, containers have it mounted.
    pub(super) async fn write_hosts(&self, ips: &[String]) -> std::io::Result<()> {
        let path = container::hosts_path(&self.shared.config, self.uid());
        let text = sandbox::hosts_file(&self.shared.config, &self.pod, ips);
        if tokio::fs::read_to_string(&path).await.is_ok_and(|had| had == text) {
            return Ok(());
        }
        if let Some(dir) = path.parent() {
            tokio::fs::create_dir_all(dir).await?;
        }
        tokio::fs::write(&path, text).await
    }
}

/// A pod's variables may hold what only root should read.
async fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut options = tokio::fs::OpenOptions::new();
    let mut file = options.create(true).write(true).truncate(true).mode(0o600).open(path).await?;
    file.write_all(bytes).await?;
    file.flush().await
}
