//! A container's environment variables, as Kubernetes defines them.
//!
//! In order, later ones win: service addresses, `envFrom`, `env`. Only the `value` of `env` is
//! expanded, with what was defined before it. Last comes which devices the pod was given.

mod devices;
mod services;

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvVar, EnvVarSource, Pod, Secret, Service,
};
use kube::Api;
use kube::api::ListParams;

use crate::downward::{self, DownwardError};
use crate::{Config, machine};

/// The API server answers in milliseconds; one that does not is tried again by the caller.
const API_DEADLINE: Duration = Duration::from_secs(10);

/// Why the environment of a container is not known. Most reasons go away when somebody makes the
/// object that is missing, so the caller tries again later.
#[derive(Debug, thiserror::Error)]
pub enum EnvError {
    /// A ConfigMap, Secret or Service does not exist.
    #[error("{kind} {name:?} not found")]
    Missing {
        /// `configmap`, `secret` or `service`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The object exists and lacks the key.
    #[error("{kind} {name:?} has no key {key:?}")]
    MissingKey {
        /// `configmap` or `secret`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// The key asked for.
        key: String,
    },
    /// A source that this node does not know.
    #[error("variable {variable:?} comes from {kind}, which is not supported")]
    Unsupported {
        /// The variable's name.
        variable: String,
        /// The source's field.
        kind: &'static str,
    },
    /// A reference to the pod itself that leads nowhere.
    #[error("variable {variable:?}")]
    Downward {
        /// The variable's name.
        variable: String,
        /// Why.
        #[source]
        source: DownwardError,
    },
    /// The API server did not give an object.
    #[error("cannot read {kind} {name:?}")]
    Api {
        /// The object's kind.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server did not answer in time.
    #[error("no answer about {kind} {name:?} within {} s", API_DEADLINE.as_secs())]
    Late {
        /// The object's kind.
        kind: &'static str,
        /// Its name.
        name: String,
    },
}

/// The variables of `container`, each name once.
///
/// `pod` carries the addresses in its status: fill in `podIP`, `podIPs`, `hostIP` and `hostIPs`
/// first when the API server does not have them yet.
///
/// # Errors
/// When an object that is not optional is missing, or the API server does not answer.
pub async fn resolve(
    config: &Config,
    client: &kube::Client,
    pod: &Pod,
    container: &Container,
) -> Result<Vec<(String, String)>, EnvError> {
    let sources = Sources::read(client, pod, container).await?;
    compose(config, &sources, pod, container)
}

/// What the variables are made from. `None` for an object that does not exist.
#[derive(Debug, Default)]
struct Sources {
    config_maps: BTreeMap<String, Option<BTreeMap<String, String>>>,
    secrets: BTreeMap<String, Option<BTreeMap<String, String>>>,
    services: Vec<Service>,
}

impl Sources {
    async fn read(
        client: &kube::Client,
        pod: &Pod,
        container: &Container,
    ) -> Result<Self, EnvError> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let mut sources = Self::default();
        for from in container.env_from.iter().flatten() {
            if let Some(map) = &from.config_map_ref {
                sources.config_maps.insert(map.name.clone(), None);
            }
            if let Some(secret) = &from.secret_ref {
                sources.secrets.insert(secret.name.clone(), None);
            }
        }
        for from in container.env.iter().flatten().filter_map(|env| env.value_from.as_ref()) {
            if let Some(map) = &from.config_map_key_ref {
                sources.config_maps.insert(map.name.clone(), None);
            }
            if let Some(secret) = &from.secret_key_ref {
                sources.secrets.insert(secret.name.clone(), None);
            }
        }
        let config_maps = Api::<ConfigMap>::namespaced(client.clone(), namespace);
        for (name, found) in &mut sources.config_maps {
            let map = within("configmap", name, config_maps.get_opt(name)).await?;
            *found = map.map(|map| map.data.unwrap_or_default());
        }
        let secrets = Api::<Secret>::namespaced(client.clone(), namespace);
        for (name, found) in &mut sources.secrets {
            let secret = within("secret", name, secrets.get_opt(name)).await?;
            *found = secret.map(|secret| {
                let data = secret.data.unwrap_or_default().into_iter();
                data.map(|(key, value)| (key, String::from_utf8_lossy(&value.0).into_owned()))
                    .collect()
            });
        }
        let links = pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
        sources.services = read_services(client, namespace, links).await?;
        Ok(sources)
    }
}

/// The API server's own Service, and those of the pod's namespace when it wants them.
async fn read_services(
    client: &kube::Client,
    namespace: &str,
    links: bool,
) -> Result<Vec<Service>, EnvError> {
    let default = Api::<Service>::namespaced(client.clone(), "default");
    let master = within("service", "kubernetes", default.get_opt("kubernetes")).await?;
    let missing = || EnvError::Missing { kind: "service", name: "kubernetes".to_owned() };
    let mut services = vec![master.ok_or_else(missing)?];
    if links {
        let own = Api::<Service>::namespaced(client.clone(), namespace);
        let everything = ListParams::default();
        let listed = within("services of", namespace, own.list(&everything)).await?;
        services.extend(listed.items.into_iter().filter(|service| {
            namespace != "default" || service.metadata.name.as_deref() != Some("kubernetes")
        }));
    }
    Ok(services)
}

async fn within<T>(
    kind: &'static str,
    name: &str,
    answer: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, EnvError> {
    match tokio::time::timeout(API_DEADLINE, answer).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => {
            Err(EnvError::Api { kind, name: name.to_owned(), source: Box::new(source) })
        }
        Err(_) => Err(EnvError::Late { kind, name: name.to_owned() }),
    }
}

/// Variables in the order of their first definition, each name once.
#[derive(Default)]
struct Variables {
    order: Vec<(String, String)>,
    places: BTreeMap<String, usize>,
}

impl Variables {
    fn set(&mut self, name: &str, value: String) {
        match self.places.get(name) {
            Some(place) => self.order[*place].1 = value,
            None => {
                self.places.insert(name.to_owned(), self.order.len());
                self.order.push((name.to_owned(), value));
            }
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.places.get(name).map(|place| self.order[*place].1.as_str())
    }
}

fn compose(
    config: &Config,
    sources: &Sources,
    pod: &Pod,
    container: &Container,
) -> Result<Vec<(String, String)>, EnvError> {
    let mut variables = Variables::default();
    for service in &sources.services {
        for (name, value) in services::variables(service) {
            variables.set(&name, value);
        }
    }
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let (kind, objects, name, optional) = match (&from.config_map_ref, &from.secret_ref) {
            (Some(map), _) => ("configmap", &sources.config_maps, &map.name, map.optional),
            (None, Some(secret)) => ("secret", &sources.secrets, &secret.name, secret.optional),
            (None, None) => continue,
        };
        match objects.get(name).and_then(Option::as_ref) {
            Some(data) => {
                for (key, value) in data {
                    // A key that cannot be a variable's name is left out, as Kubernetes does.
                    if !key.contains('=') {
                        variables.set(&format!("{prefix}{key}"), value.clone());
                    }
                }
            }
            None if optional == Some(true) => {}
            None => return Err(EnvError::Missing { kind, name: name.clone() }),
        }
    }
    for env in container.env.iter().flatten() {
        let value = match &env.value_from {
            Some(from) => from_source(config, sources, pod, container, env, from)?,
            None => Some(expand(env.value.as_deref().unwrap_or_default(), |name| {
                variables.get(name).map(str::to_owned)
            })),
        };
        if let Some(value) = value {
            variables.set(&env.name, value);
        }
    }
    for (name, value) in devices::variables(pod) {
        variables.set(name, value);
    }
    Ok(variables.order)
}

/// The value of one `valueFrom`; `None` when it is optional and absent.
fn from_source(
    config: &Config,
    sources: &Sources,
    pod: &Pod,
    container: &Container,
    env: &EnvVar,
    from: &EnvVarSource,
) -> Result<Option<String>, EnvError> {
    let downward = |source| EnvError::Downward { variable: env.name.clone(), source };
    if let Some(field) = &from.field_ref {
        return downward::field(pod, &field.field_path).map(Some).map_err(downward);
    }
    if let Some(selector) = &from.resource_field_ref {
        let node = machine::allocatable(config);
        return downward::resource(pod, Some(container), selector, &node)
            .map(Some)
            .map_err(downward);
    }
    let (kind, objects, name, key, optional) =
        match (&from.config_map_key_ref, &from.secret_key_ref) {
            (Some(map), _) => {
                ("configmap", &sources.config_maps, &map.name, &map.key, map.optional)
            }
            (None, Some(secret)) => {
                ("secret", &sources.secrets, &secret.name, &secret.key, secret.optional)
            }
            (None, None) => {
                let kind = "fileKeyRef";
                return Err(EnvError::Unsupported { variable: env.name.clone(), kind });
            }
        };
    let object = objects.get(name).and_then(Option::as_ref);
    match (object.and_then(|data| data.get(key)), object) {
        (Some(value), _) => Ok(Some(value.clone())),
        (None, _) if optional == Some(true) => Ok(None),
        (None, Some(_)) => Err(EnvError::MissingKey { kind, name: name.clone(), key: key.clone() }),
        (None, None) => Err(EnvError::Missing { kind, name: name.clone() }),
    }
}

/// Replaces `$(NAME)` by what `lookup` knows; an unknown name stays as written, `$$` is `$`.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(escaped) = after.strip_prefix('$') {
            expanded.push('$');
            rest = escaped;
        } else if let Some((name, following)) =
            after.strip_prefix('(').and_then(|inner| inner.split_once(')'))
        {
            match lookup(name) {
                Some(value) => expanded.push_str(&value),
                None => expanded.push_str(&format!("$({name})")),
            }
            rest = following;
        } else {
            expanded.push('$');
            rest = after;
        }
    }
    expanded + rest
}

#[cfg(test)]
mod tests;
