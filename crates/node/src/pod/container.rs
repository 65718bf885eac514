//! A container as CRI wants it: the pod's words made concrete.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod};

use super::labels;
use crate::config::Config;
use crate::cri::v1;
use crate::environment;

/// Where a container writes why it ended, unless it says otherwise.
const TERMINATION_PATH: &str = "/dev/termination-log";

/// Which of the pod's lists a container stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Runs to its end before the next one begins.
    Init,
    /// An init container that stays: `restartPolicy: Always`.
    Sidecar,
    /// An ordinary container.
    Main,
    /// Added while the pod runs, never restarted.
    Ephemeral,
}

/// Every container of a pod with its role, in the order of the API.
pub(crate) fn all(pod: &Pod) -> Vec<(Role, Container)> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let init = spec.init_containers.iter().flatten().map(|container| {
        let stays = container.restart_policy.as_deref() == Some("Always");
        (if stays { Role::Sidecar } else { Role::Init }, container.clone())
    });
    let main = spec.containers.iter().map(|container| (Role::Main, container.clone()));
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let ephemeral = ephemeral.map(|container| (Role::Ephemeral, of_ephemeral(container)));
    init.chain(main).chain(ephemeral).collect()
}

fn of_ephemeral(container: &EphemeralContainer) -> Container {
    let own = container.clone();
    Container {
        name: own.name,
        image: own.image,
        image_pull_policy: own.image_pull_policy,
        command: own.command,
        args: own.args,
        env: own.env,
        env_from: own.env_from,
        working_dir: own.working_dir,
        volume_mounts: own.volume_mounts,
        security_context: own.security_context,
        stdin: own.stdin,
        stdin_once: own.stdin_once,
        tty: own.tty,
        termination_message_path: own.termination_message_path,
        termination_message_policy: own.termination_message_policy,
        restart_policy: Some("Never".to_owned()),
        ..Container::default()
    }
}

/// What [`config`] needs beside the API's words.
pub(crate) struct Made<'a> {
    pub attempt: u32,
    /// How long a restart after this attempt waits.
    pub restart_delay: Duration,
    /// The runtime's reference to the image.
    pub image: &'a str,
    pub env: &'a [(String, String)],
    pub mounts: Vec<v1::Mount>,
    pub resources: v1::LinuxContainerResources,
    pub security: v1::LinuxContainerSecurityContext,
}

/// The container's configuration.
pub(crate) fn config(
    settings: &Config,
    pod: &Pod,
    container: &Container,
    made: Made<'_>,
) -> v1::ContainerConfig {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let mut marks = labels::of_sandbox(&settings.instance, namespace, name, uid);
    marks.insert(labels::CONTAINER_NAME.to_owned(), container.name.clone());
    let file = termination_file(settings, uid, &container.name, made.attempt);
    let resources = serde_json::to_string(&container.resources).unwrap_or_default();
    let mut mounts = made.mounts;
    mounts.extend(own_mounts(settings, uid, container, &file, &mounts));
    let value = |name: &str| {
        made.env.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.clone())
    };
    let words = |words: &Option<Vec<String>>| {
        words.iter().flatten().map(|word| environment::expand(word, value)).collect()
    };
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata {
            name: container.name.clone(),
            attempt: made.attempt,
        }),
        image: Some(v1::ImageSpec { image: made.image.to_owned(), ..v1::ImageSpec::default() }),
        command: words(&container.command),
        args: words(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: made
            .env
            .iter()
            .map(|(key, value)| v1::KeyValue { key: key.clone(), value: value.clone() })
            .collect(),
        mounts,
        labels: marks,
        annotations: HashMap::from([
            (labels::IMAGE.to_owned(), container.image.clone().unwrap_or_default()),
            (labels::RESTART_DELAY.to_owned(), made.restart_delay.as_millis().to_string()),
            (labels::RESOURCES.to_owned(), resources),
            (labels::TERMINATION_FILE.to_owned(), file.display().to_string()),
        ]),
        log_path: log_path(&container.name, made.attempt),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(made.resources),
            security_context: Some(made.security),
        }),
        ..v1::ContainerConfig::default()
    }
}

/// The log of an attempt, below the pod's log directory.
pub(crate) fn log_path(container: &str, attempt: u32) -> String {
    format!("{container}/{attempt}.log")
}

/// The file that the attempt's termination message is written to, on the node.
pub(crate) fn termination_file(
    settings: &Config,
    uid: &str,
    container: &str,
    attempt: u32,
) -> PathBuf {
    settings.pod_dir(uid).join("containers").join(container).join(attempt.to_string())
}

/// The pod's hosts file on the node.
pub(crate) fn hosts_path(settings: &Config, uid: &str) -> PathBuf {
    settings.pod_dir(uid).join("etc-hosts")
}

/// The hosts file and the termination message, unless the pod mounts something there itself.
fn own_mounts(
    settings: &Config,
    uid: &str,
    container: &Container,
    termination_file: &Path,
    theirs: &[v1::Mount],
) -> Vec<v1::Mount> {
    let mount = |inside: &str, outside: &Path| v1::Mount {
        container_path: inside.to_owned(),
        host_path: outside.display().to_string(),
        ..v1::Mount::default()
    };
    let message = container.termination_message_path.as_deref().unwrap_or(TERMINATION_PATH);
    let hosts = hosts_path(settings, uid);
    [mount("/etc/hosts", &hosts), mount(message, termination_file)]
        .into_iter()
        .filter(|own| theirs.iter().all(|mount| mount.container_path != own.container_path))
        .collect()
}
