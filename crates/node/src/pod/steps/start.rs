//! Making and starting a container.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, HostIP, Pod, PodIP};

use super::{Step, StepError};
use crate::app_logs;
use crate::environment;
use crate::pod::container::{self, Made, Role};
use crate::pod::resources::{self, Qos};
use crate::pod::security;

impl Step {
    pub(super) async fn start(
        &self,
        name: &str,
        attempt: u32,
        restart_delay: Duration,
    ) -> Result<(String, bool), StepError> {
        let started = self.try_start(name, attempt, restart_delay).await;
        let events = &self.shared.events;
        match &started {
            Ok(_) => {
                events.normal(
                    &self.pod,
                    Some(name),
                    "Started",
                    format!("Started container {name}"),
                );
            }
            Err(error) => {
                let message = format!("Error: {}", error.message);
                events.warning(&self.pod, Some(name), "Failed", message);
            }
        }
        started
    }

    async fn try_start(
        &self,
        name: &str,
        attempt: u32,
        restart_delay: Duration,
    ) -> Result<(String, bool), StepError> {
        let shared = &self.shared;
        let settings = &shared.config;
        let missing = |what: &str| StepError {
            reason: "CreateContainerError",
            message: format!("container {name}: no {what} any more"),
        };
        let all = container::all(&self.pod);
        let (role, container) = all
            .into_iter()
            .find(|(_, own)| own.name == name)
            .ok_or_else(|| missing("place in the pod"))?;
        let sandbox = self.runtime.sandbox().ok_or_else(|| missing("sandbox"))?;
        let mounts = self.mounts.as_ref().ok_or_else(|| missing("volumes"))?;
        let (image, user) = self.image.as_ref().ok_or_else(|| missing("image"))?;
        let config_error = "CreateContainerConfigError";
        let pod = self.pod_with_addresses(&sandbox.ips);
        let mut security = security::of_container(&pod, &container, user)
            .map_err(|error| StepError::new(config_error, error))?;
        self.share_with_target(role, name, &mut security);
        let env = environment::resolve(settings, &shared.client, &pod, &container)
            .await
            .map_err(|error| StepError::new(config_error, error))?;
        let mut mounts = mounts
            .for_container(&container, &env)
            .map_err(|error| StepError::new(config_error, error))?;
        if role == Role::Main && app_logs::is_collected(&pod) {
            let failed = |error| StepError::new(config_error, error);
            let of_image = shared.cri.image_env(image).await;
            let of_image = of_image.map_err(|error| StepError::new(config_error, error))?;
            let logs = app_logs::image_mounts(settings, &pod, name, &env, &of_image, &mounts);
            mounts.extend(logs.map_err(failed)?);
        }
        self.lay_files(&container, attempt, &sandbox.ips)
            .await
            .map_err(|error| StepError::new("CreateContainerError", error))?;
        let made = Made {
            attempt,
            restart_delay,
            image,
            env: &env,
            mounts,
            resources: resources::linux(&container, Qos::of_pod(&pod), shared.memory_total),
            security,
        };
        let config = container::config(settings, &pod, &container, made);
        let sandbox_config = self.sandbox_config(sandbox.attempt)?;
        let id = shared
            .cri
            .create_container(&sandbox.id, config, sandbox_config)
            .await
            .map_err(|error| StepError::new("CreateContainerError", error))?;
        shared.events.normal(
            &self.pod,
            Some(name),
            "Created",
            format!("Created container: {name}"),
        );
        shared
            .cri
            .start_container(&id)
            .await
            .map_err(|error| StepError::new("RunContainerError", error))?;
        let hooked = container.lifecycle.is_some_and(|lifecycle| lifecycle.post_start.is_some());
        Ok((id, hooked))
    }

    /// The pod with addresses that the API may not have yet.
    fn pod_with_addresses(&self, ips: &[String]) -> Pod {
        let mut pod = (*self.pod).clone();
        let node = self.shared.config.address.to_string();
        let on_host = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
        let ips = if on_host { vec![node.clone()] } else { ips.to_vec() };
        let status = pod.status.get_or_insert_default();
        status.pod_ip = ips.first().cloned();
        status.pod_ips = Some(ips.into_iter().map(|ip| PodIP { ip }).collect());
        status.host_ip = Some(node.clone());
        status.host_ips = Some(vec![HostIP { ip: node }]);
        pod
    }

    /// An ephemeral container may look into the processes of the one it was made for.
    fn share_with_target(
        &self,
        role: Role,
        name: &str,
        security: &mut crate::cri::v1::LinuxContainerSecurityContext,
    ) {
        if role != Role::Ephemeral {
            return;
        }
        let spec = self.pod.spec.as_ref();
        let mut own = spec.into_iter().flat_map(|spec| spec.ephemeral_containers.iter().flatten());
        let target = own
            .find(|container| container.name == name)
            .and_then(|container| container.target_container_name.as_deref())
            .and_then(|target| self.runtime.latest(target));
        if let (Some(target), Some(namespaces)) = (target, &mut security.namespace_options) {
            namespaces.pid = crate::cri::v1::NamespaceMode::Target as i32;
            namespaces.target_id.clone_from(&target.id);
        }
    }

    /// The files that the container finds on the node: log directory, hosts, termination message.
    async fn lay_files(
        &self,
        container: &Container,
        attempt: u32,
        ips: &[String],
    ) -> std::io::Result<()> {
        let settings = &self.shared.config;
        self.write_hosts(ips).await?;
        let meta = &self.pod.metadata;
        let logs = settings.pod_logs_dir(
            meta.namespace.as_deref().unwrap_or("default"),
            meta.name.as_deref().unwrap_or_default(),
            self.uid(),
        );
        tokio::fs::create_dir_all(logs.join(&container.name)).await?;
        let message = container::termination_file(settings, self.uid(), &container.name, attempt);
        if let Some(dir) = message.parent() {
            tokio::fs::create_dir_all(dir).await?;
        }
        tokio::fs::write(&message, b"").await?;
        // Whoever the container runs as may write it.
        tokio::fs::set_permissions(&message, std::fs::Permissions::from_mode(0o666)).await
    }
}
