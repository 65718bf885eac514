//! The pods of an App.

use std::collections::BTreeMap;

use berth_api::app::{Amounts, AppSpec, Init, Probe as Question, StrategyType, logs};
use berth_api::{Quantity, release};
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EmptyDirVolumeSource, EnvFromSource, EnvVar, EnvVarSource,
    ExecAction, HTTPGetAction, Lifecycle, LifecycleHandler, PodSpec, PodTemplateSpec, Probe,
    ResourceRequirements, SecretEnvSource, SecretKeySelector, SecretVolumeSource, SecurityContext,
    SleepAction, TCPSocketAction, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as KubeQuantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{DRAIN_SECONDS, PORT_NAME, config};

/// An instance that does not answer this long after its start is started again.
const START_SECONDS: i32 = 120;

/// The template of an App's pods.
pub fn template(spec: &AppSpec, name: &str, meta: &ObjectMeta) -> PodTemplateSpec {
    let mut labels = meta.labels.clone().unwrap_or_default();
    if spec.strategy.as_ref().is_some_and(|strategy| strategy.kind == StrategyType::InPlace) {
        labels.insert(release::TRAFFIC.to_owned(), "on".to_owned());
    }
    let mut pod = base(spec, name);
    pod.containers = vec![container(spec, name)];
    let init: Vec<Container> = spec.init.iter().map(|init| step(spec, name, init)).collect();
    pod.init_containers = Some(init).filter(|all| !all.is_empty());
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels),
            annotations: annotations(spec, name),
            ..ObjectMeta::default()
        }),
        spec: Some(pod),
    }
}

/// What the pods tell their node: the App's logs, and whether their addresses stay.
///
/// A node of another kind does not listen: log directories are ordinary volumes there.
pub fn annotations(spec: &AppSpec, name: &str) -> Option<BTreeMap<String, String>> {
    let said = spec.logs.as_ref().map(|logs| logs.collected(name));
    let said = said.and_then(|said| serde_json::to_string(&said).ok());
    let mut notes = BTreeMap::new();
    notes.extend(said.map(|said| (logs::ANNOTATION.to_owned(), said)));
    if spec.strategy.as_ref().is_some_and(|strategy| strategy.kind == StrategyType::KeepAddress) {
        notes.insert(release::KEEP_ADDRESS.to_owned(), "true".to_owned());
    }
    (!notes.is_empty()).then_some(notes)
}

/// What the App's pods and its work by the clock have in common; without containers.
pub fn base(spec: &AppSpec, name: &str) -> PodSpec {
    let volumes = volumes(spec, name);
    // The pause before the end counts against the grace.
    let grace = spec.termination_grace_period_seconds + DRAIN_SECONDS;
    PodSpec {
        termination_grace_period_seconds: Some(grace),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        host_network: spec.host_network.then_some(true),
        // Names of Services resolve on the node's network too.
        dns_policy: spec.host_network.then(|| "ClusterFirstWithHostNet".to_owned()),
        scheduler_name: spec.scheduler_name.clone(),
        volumes: Some(volumes).filter(|all| !all.is_empty()),
        ..PodSpec::default()
    }
}

fn container(spec: &AppSpec, name: &str) -> Container {
    let sleep = LifecycleHandler {
        sleep: Some(SleepAction { seconds: DRAIN_SECONDS }),
        ..LifecycleHandler::default()
    };
    let serves = spec.port.is_some() || !spec.ports.is_empty();
    let probes = spec.probes.clone().unwrap_or_default();
    let ports = ports(spec);
    Container {
        ports: Some(ports).filter(|all| !all.is_empty()),
        lifecycle: serves.then(|| Lifecycle { pre_stop: Some(sleep), ..Lifecycle::default() }),
        startup_probe: match &probes.startup {
            Some(asked) => Some(question(asked)),
            None => health(spec, 1, START_SECONDS),
        },
        readiness_probe: match &probes.readiness {
            Some(asked) => Some(question(asked)),
            None => health(spec, 2, 2),
        },
        liveness_probe: match &probes.liveness {
            Some(asked) => Some(question(asked)),
            // Without a health path a port that accepts says nothing about being stuck.
            None => spec.health.as_ref().and_then(|_| health(spec, 10, 3)),
        },
        ..worker(spec, name)
    }
}

/// The App's image with its surroundings: what serves and what runs by the clock alike.
pub fn worker(spec: &AppSpec, name: &str) -> Container {
    let from = from(spec, name);
    let mounts = mounts(spec);
    Container {
        name: name.to_owned(),
        image: Some(spec.image.clone()),
        command: filled(&spec.command),
        args: filled(&spec.args),
        env: Some(variables(spec, &BTreeMap::new())).filter(|env| !env.is_empty()),
        env_from: Some(from).filter(|all| !all.is_empty()),
        volume_mounts: Some(mounts).filter(|all| !all.is_empty()),
        resources: Some(resources(&spec.resources.limits, &spec.resources.requests)),
        ..Container::default()
    }
}

fn step(spec: &AppSpec, name: &str, init: &Init) -> Container {
    let privileged = SecurityContext { privileged: Some(true), ..SecurityContext::default() };
    Container {
        name: init.name.clone(),
        image: Some(init.image.clone().unwrap_or_else(|| spec.image.clone())),
        command: filled(&init.command),
        args: filled(&init.args),
        env: Some(variables(spec, &init.env)).filter(|env| !env.is_empty()),
        security_context: init.privileged.then_some(privileged),
        ..worker(spec, name)
    }
}

/// The App's variables, those in `more` instead of its own of the same name, and single keys of
/// Secrets.
fn variables(spec: &AppSpec, more: &BTreeMap<String, String>) -> Vec<EnvVar> {
    let mut plain = spec.env.clone();
    plain.extend(more.iter().map(|(key, value)| (key.clone(), value.clone())));
    let plain = plain.into_iter().map(|(name, value)| EnvVar {
        name,
        value: Some(value),
        ..EnvVar::default()
    });
    let secret = |secret: &str, name: &String, key: &String| EnvVar {
        name: name.clone(),
        value_from: Some(EnvVarSource {
            secret_key_ref: Some(SecretKeySelector {
                name: secret.to_owned(),
                key: key.clone(),
                optional: None,
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    };
    let secrets = spec
        .secrets
        .iter()
        .flat_map(|each| each.env.iter().map(|(name, key)| secret(&each.name, name, key)));
    plain.chain(secrets).collect()
}

fn from(spec: &AppSpec, name: &str) -> Vec<EnvFromSource> {
    let whole = |secret: &str| EnvFromSource {
        secret_ref: Some(SecretEnvSource { name: secret.to_owned(), optional: None }),
        ..EnvFromSource::default()
    };
    let secrets = spec.secrets.iter().filter(|each| each.env.is_empty() && each.path.is_none());
    config::values(spec, name).into_iter().chain(secrets.map(|each| whole(&each.name))).collect()
}

fn volumes(spec: &AppSpec, name: &str) -> Vec<Volume> {
    let secret = |name: &str| Volume {
        name: format!("secret-{name}"),
        secret: Some(SecretVolumeSource {
            secret_name: Some(name.to_owned()),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    };
    let secrets = spec.secrets.iter().filter(|each| each.path.is_some());
    let logs = spec.logs.iter().flat_map(|logs| logs.volumes()).map(|(name, _)| Volume {
        name,
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    });
    let scratch = spec.scratch.iter().enumerate().map(|(number, each)| Volume {
        name: each.volume(number),
        empty_dir: Some(EmptyDirVolumeSource {
            size_limit: each.size.clone().map(KubeQuantity),
            medium: None,
        }),
        ..Volume::default()
    });
    let config = config::volume(spec, name).into_iter();
    config.chain(secrets.map(|each| secret(&each.name))).chain(logs).chain(scratch).collect()
}

fn mounts(spec: &AppSpec) -> Vec<VolumeMount> {
    let secrets = spec.secrets.iter().filter_map(|each| {
        Some(VolumeMount {
            name: format!("secret-{}", each.name),
            mount_path: each.path.clone()?,
            read_only: Some(true),
            ..VolumeMount::default()
        })
    });
    let disks = spec.storage.iter().map(|disk| VolumeMount {
        name: disk.name.clone(),
        mount_path: disk.path.clone(),
        ..VolumeMount::default()
    });
    let logs = spec.logs.iter().flat_map(|logs| logs.volumes()).map(|(name, path)| VolumeMount {
        name,
        mount_path: path.to_owned(),
        ..VolumeMount::default()
    });
    let scratch = spec.scratch.iter().enumerate().map(|(number, each)| VolumeMount {
        name: each.volume(number),
        mount_path: each.path.clone(),
        ..VolumeMount::default()
    });
    let disks = disks.chain(logs).chain(scratch);
    config::mounts(spec).into_iter().chain(secrets).chain(disks).collect()
}

fn ports(spec: &AppSpec) -> Vec<ContainerPort> {
    let port = |name: &str, port: i32, protocol: Option<&String>| ContainerPort {
        name: Some(name.to_owned()),
        container_port: port,
        // The server's own answer where the node's network is used; said here so that it is no drift.
        host_port: spec.host_network.then_some(port),
        protocol: Some(protocol.map_or("TCP", String::as_str).to_owned()),
        ..ContainerPort::default()
    };
    let http = spec.port.map(|number| port(PORT_NAME, number, None));
    let others = spec.ports.iter().map(|each| port(&each.name, each.port, each.protocol.as_ref()));
    http.into_iter().chain(others).collect()
}

fn filled(list: &[String]) -> Option<Vec<String>> {
    (!list.is_empty()).then(|| list.to_vec())
}

fn health(spec: &AppSpec, period: i32, failures: i32) -> Option<Probe> {
    spec.port?;
    let port = IntOrString::String(PORT_NAME.to_owned());
    let mut probe = Probe {
        period_seconds: Some(period),
        failure_threshold: Some(failures),
        timeout_seconds: Some(period.clamp(1, 5)),
        ..Probe::default()
    };
    match &spec.health {
        Some(health) => {
            let path = Some(health.path.clone());
            probe.http_get = Some(HTTPGetAction { path, port, ..HTTPGetAction::default() });
        }
        None => probe.tcp_socket = Some(TCPSocketAction { port, ..TCPSocketAction::default() }),
    }
    Some(probe)
}

fn question(asked: &Question) -> Probe {
    let name = asked.port.as_deref().unwrap_or(PORT_NAME);
    let port = IntOrString::String(name.to_owned());
    let mut probe = Probe {
        period_seconds: asked.period_seconds,
        initial_delay_seconds: asked.initial_delay_seconds,
        timeout_seconds: asked.timeout_seconds,
        failure_threshold: asked.failure_threshold,
        ..Probe::default()
    };
    if !asked.command.is_empty() {
        probe.exec = Some(ExecAction { command: Some(asked.command.clone()) });
    } else if let Some(path) = &asked.path {
        let path = Some(path.clone());
        probe.http_get = Some(HTTPGetAction { path, port, ..HTTPGetAction::default() });
    } else {
        probe.tcp_socket = Some(TCPSocketAction { port, ..TCPSocketAction::default() });
    }
    probe
}

fn resources(limits: &Amounts, requests: &Amounts) -> ResourceRequirements {
    let list = |cpu: Option<&String>, memory: Option<&String>| -> BTreeMap<String, KubeQuantity> {
        [("cpu", cpu), ("memory", memory)]
            .into_iter()
            .filter_map(|(name, amount)| Some((name.to_owned(), KubeQuantity(amount?.clone()))))
            .collect()
    };
    // More kept free than may be used is refused by the API server; the limit is what was meant.
    let cpu = lesser(requests.cpu.as_ref(), limits.cpu.as_ref());
    let memory = lesser(requests.memory.as_ref(), limits.memory.as_ref());
    ResourceRequirements {
        limits: Some(list(limits.cpu.as_ref(), limits.memory.as_ref())),
        requests: Some(list(cpu, memory)),
        ..ResourceRequirements::default()
    }
}

/// What one instance asks its node for: processor and memory.
pub fn requested(spec: &AppSpec) -> (Option<String>, Option<String>) {
    let (limits, requests) = (&spec.resources.limits, &spec.resources.requests);
    let of = |request, limit| lesser(request, limit).cloned();
    (
        of(requests.cpu.as_ref(), limits.cpu.as_ref()),
        of(requests.memory.as_ref(), limits.memory.as_ref()),
    )
}

fn lesser<'a>(request: Option<&'a String>, limit: Option<&'a String>) -> Option<&'a String> {
    let (Some(asked), Some(most)) = (request, limit) else { return request };
    match (asked.parse::<Quantity>(), most.parse::<Quantity>()) {
        (Ok(asked), Ok(bound)) if asked > bound => Some(most),
        _ => Some(asked),
    }
}
