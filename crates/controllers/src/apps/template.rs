//! What an App asks for, as standard objects.
//!
//! No request is lost in an update: a new pod is added before an old one goes; an old one is taken
//! out of the Service first and told to end only after a pause, in which the balancers hear of it.

use std::collections::BTreeMap;

use berth_api::app::{Amounts, App, AppSpec, Route};
use berth_api::{Quantity, labels};
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment,
};
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EnvVar, HTTPGetAction, Lifecycle, LifecycleHandler, PodSpec,
    PodTemplateSpec, Probe, ResourceRequirements, Service, ServicePort, ServiceSpec, SleepAction,
    TCPSocketAction,
};
use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, HTTPIngressRuleValue, Ingress, IngressBackend, IngressRule,
    IngressServiceBackend, IngressSpec, IngressTLS, ServiceBackendPort,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as KubeQuantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Resource;
use serde::Serialize;

/// How long an instance goes on taking requests after it was taken out of its Service: many times
/// what endpoints take to reach kernel and balancers, little enough not to slow an update down.
const DRAIN_SECONDS: i64 = 3;
/// An instance that does not answer this long after its start is started again.
const START_SECONDS: i32 = 120;
/// The port of an App's Service.
const SERVICE_PORT: i32 = 80;
/// The name of an App's port, on container and Service.
const PORT_NAME: &str = "http";

/// Where Apps are reached.
#[derive(Clone, Debug)]
pub struct Domain {
    /// Apps answer under `NAME.` and this.
    pub name: String,
    /// The balancer's HTTP port, as clients reach it.
    pub http_port: u16,
    /// The balancer's TLS port, as clients reach it.
    pub https_port: u16,
}

/// The objects that an App stands for.
#[derive(Debug, Serialize)]
pub struct Wanted {
    /// Its instances.
    pub deployment: Deployment,
    /// Its address in the cluster, if it has a port.
    pub service: Option<Service>,
    /// Its names, if it has a port and routes.
    pub ingress: Option<Ingress>,
    /// Where it answers.
    pub url: Option<String>,
}

/// What `app` asks for; `None` for an object without name and UID.
pub fn plan(app: &App, domain: &Domain) -> Option<Wanted> {
    let name = app.metadata.name.clone()?;
    let mut owner = app.controller_owner_ref(&())?;
    owner.block_owner_deletion = Some(true);
    let meta = meta(app, &name, owner);
    let host = format!("{name}.{}", domain.name);
    let routes = match &app.spec.routes {
        Some(routes) => routes.clone(),
        None => vec![Route { host: None, path: "/".to_owned(), tls_secret: None }],
    };
    let reachable = app.spec.port.is_some() && !routes.is_empty();
    Some(Wanted {
        deployment: deployment(&app.spec, &name, &meta),
        service: app.spec.port.map(|_| service(&name, &meta)),
        url: routes.first().filter(|_| reachable).map(|route| url(route, &host, domain)),
        ingress: reachable.then(|| ingress(&routes, &host, &name, &meta)),
    })
}

fn meta(app: &App, name: &str, owner: OwnerReference) -> ObjectMeta {
    let part_of = app.metadata.labels.as_ref().and_then(|all| all.get(labels::PART_OF));
    let mut all = selector(name);
    all.insert(labels::MANAGED_BY.to_owned(), labels::BERTH.to_owned());
    all.insert(labels::PART_OF.to_owned(), part_of.map_or(name, String::as_str).to_owned());
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: app.metadata.namespace.clone(),
        labels: Some(all),
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    }
}

/// The labels that tell the App's pods from all others; they never change.
pub fn selector(name: &str) -> BTreeMap<String, String> {
    [labels::NAME, labels::INSTANCE].map(|key| (key.to_owned(), name.to_owned())).into()
}

fn deployment(spec: &AppSpec, name: &str, meta: &ObjectMeta) -> Deployment {
    let template = PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: meta.labels.clone(), ..ObjectMeta::default() }),
        spec: Some(PodSpec {
            containers: vec![container(spec, name)],
            // The pause before the end counts against the grace.
            termination_grace_period_seconds: Some(
                spec.termination_grace_period_seconds + DRAIN_SECONDS,
            ),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            ..PodSpec::default()
        }),
    };
    Deployment {
        metadata: meta.clone(),
        spec: Some(DeploymentSpec {
            replicas: Some(spec.replicas),
            selector: LabelSelector {
                match_labels: Some(selector(name)),
                ..LabelSelector::default()
            },
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(1)),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
            }),
            template,
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

fn container(spec: &AppSpec, name: &str) -> Container {
    let env = spec.env.iter().map(|(key, value)| EnvVar {
        name: key.clone(),
        value: Some(value.clone()),
        ..EnvVar::default()
    });
    let sleep = LifecycleHandler {
        sleep: Some(SleepAction { seconds: DRAIN_SECONDS }),
        ..LifecycleHandler::default()
    };
    Container {
        name: name.to_owned(),
        image: Some(spec.image.clone()),
        command: filled(&spec.command),
        args: filled(&spec.args),
        env: Some(env.collect()).filter(|env: &Vec<_>| !env.is_empty()),
        resources: Some(resources(&spec.resources.limits, &spec.resources.requests)),
        ports: spec.port.map(|port| {
            vec![ContainerPort {
                name: Some(PORT_NAME.to_owned()),
                container_port: port,
                protocol: Some("TCP".to_owned()),
                ..ContainerPort::default()
            }]
        }),
        lifecycle: spec.port.map(|_| Lifecycle { pre_stop: Some(sleep), ..Lifecycle::default() }),
        startup_probe: probe(spec, 1, START_SECONDS),
        readiness_probe: probe(spec, 2, 2),
        // Without a health path a port that accepts says nothing about being stuck.
        liveness_probe: spec.health.as_ref().and_then(|_| probe(spec, 10, 3)),
        ..Container::default()
    }
}

fn filled(list: &[String]) -> Option<Vec<String>> {
    (!list.is_empty()).then(|| list.to_vec())
}

fn probe(spec: &AppSpec, period: i32, failures: i32) -> Option<Probe> {
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

fn lesser<'a>(request: Option<&'a String>, limit: Option<&'a String>) -> Option<&'a String> {
    let (Some(asked), Some(most)) = (request, limit) else { return request };
    match (asked.parse::<Quantity>(), most.parse::<Quantity>()) {
        (Ok(asked), Ok(bound)) if asked > bound => Some(most),
        _ => Some(asked),
    }
}

fn service(name: &str, meta: &ObjectMeta) -> Service {
    Service {
        metadata: meta.clone(),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            selector: Some(selector(name)),
            ports: Some(vec![ServicePort {
                name: Some(PORT_NAME.to_owned()),
                port: SERVICE_PORT,
                protocol: Some("TCP".to_owned()),
                target_port: Some(IntOrString::String(PORT_NAME.to_owned())),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

fn ingress(routes: &[Route], host: &str, name: &str, meta: &ObjectMeta) -> Ingress {
    let backend = IngressBackend {
        service: Some(IngressServiceBackend {
            name: name.to_owned(),
            port: Some(ServiceBackendPort { number: Some(SERVICE_PORT), name: None }),
        }),
        resource: None,
    };
    let mut paths: BTreeMap<String, Vec<HTTPIngressPath>> = BTreeMap::new();
    let mut secrets: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for route in routes {
        let host = route.host.clone().unwrap_or_else(|| host.to_owned());
        paths.entry(host.clone()).or_default().push(HTTPIngressPath {
            path: Some(route.path.clone()),
            path_type: "Prefix".to_owned(),
            backend: backend.clone(),
        });
        if let Some(secret) = &route.tls_secret {
            let hosts = secrets.entry(secret.clone()).or_default();
            if !hosts.contains(&host) {
                hosts.push(host);
            }
        }
    }
    let rule = |(host, paths)| IngressRule {
        host: Some(host),
        http: Some(HTTPIngressRuleValue { paths }),
    };
    let tls: Vec<IngressTLS> = secrets
        .into_iter()
        .map(|(secret, hosts)| IngressTLS { secret_name: Some(secret), hosts: Some(hosts) })
        .collect();
    Ingress {
        metadata: meta.clone(),
        spec: Some(IngressSpec {
            ingress_class_name: Some(labels::INGRESS_CLASS.to_owned()),
            rules: Some(paths.into_iter().map(rule).collect()),
            tls: Some(tls).filter(|tls| !tls.is_empty()),
            default_backend: None,
        }),
        ..Ingress::default()
    }
}

fn url(route: &Route, host: &str, domain: &Domain) -> String {
    let host = route.host.as_deref().unwrap_or(host);
    let (scheme, port, usual) = match route.tls_secret {
        Some(_) => ("https", domain.https_port, 443),
        None => ("http", domain.http_port, 80),
    };
    let port = if port == usual { String::new() } else { format!(":{port}") };
    format!("{scheme}://{host}{port}{}", route.path)
}

#[cfg(test)]
mod tests;
