//! What an older Kubernetes has instead of what Berth's own ground has: versions of kinds, and a
//! pause before a container's end.
//!
//! The fields of the older versions are those of the newer ones. What an older version lacks
//! altogether (a CronJob's time zone before 1.24) is left in, and its server refuses it by name: an
//! App that asks for it must not silently run at another time.
//!
//! A pause before the end is an action of the node since Kubernetes 1.30. Before, the node asks the
//! controllers for an answer that takes as long ([`Pauser`]): a program in the image that could wait
//! (`sleep`) is often not there. Where nobody answers, the container is ended at once.

use std::marker::PhantomData;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{HTTPGetAction, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{DeleteParams, DynamicObject, ListParams, ObjectList, Patch, PatchParams};
use kube::core::ApiResource;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::cache::Kept;
use super::feed::{Changes, Feed, changes_read, list_read, watch_params};

/// Group, kind and plural, the version we write, and the one that older servers have.
const OLDER: [(&str, &str, &str, &str, &str); 2] = [
    ("autoscaling", "HorizontalPodAutoscaler", "horizontalpodautoscalers", "v2", "v2beta2"),
    ("batch", "CronJob", "cronjobs", "v1", "v1beta1"),
];
/// What servers have had since nodes pause by themselves (1.30). Versions are no help: who builds
/// their own Kubernetes often leaves them out.
const PAUSES: (&str, &str) = ("admissionregistration.k8s.io/v1", "validatingadmissionpolicies");

/// Who answers late when a node asks.
#[derive(Clone, Debug)]
pub struct Pauser {
    /// An address that every node reaches.
    pub host: String,
    /// Its port.
    pub port: u16,
}

impl Pauser {
    /// What is asked for a pause of so many seconds.
    pub fn path(seconds: i64) -> String {
        format!("/pause/{seconds}")
    }
}

/// Which Kubernetes carries the cluster, by what it lacks.
#[derive(Clone, Debug, Default)]
pub struct Ground {
    /// The kinds that are there in their older version.
    older: Vec<&'static str>,
    /// Whether nodes cannot pause, and who does in their place.
    unpausing: Option<Option<Pauser>>,
}

impl Ground {
    /// Finds out what the server has; `pauser` is for nodes that cannot pause.
    ///
    /// # Errors
    /// When the server does not say.
    pub async fn discover(client: &Client, pauser: Option<Pauser>) -> kube::Result<Self> {
        let mut ground = Self::default();
        for (group, kind, plural, version, _) in OLDER {
            if !serves(client, &format!("{group}/{version}"), plural).await? {
                ground.older.push(kind);
            }
        }
        if !serves(client, PAUSES.0, PAUSES.1).await? {
            ground.unpausing = Some(pauser);
        }
        Ok(ground)
    }

    /// The set as this ground's controllers understand it: without `minReadySeconds` before 1.22,
    /// which is told from newer ones by what came with 1.23.
    pub fn fit_stateful_set(&self, set: &mut StatefulSet) {
        if self.older.contains(&OLDER[0].1)
            && let Some(spec) = &mut set.spec
        {
            spec.min_ready_seconds = None;
        }
    }

    /// The template as this ground's nodes understand it.
    pub fn fit(&self, mut template: PodTemplateSpec) -> PodTemplateSpec {
        let Some(pauser) = &self.unpausing else { return template };
        let containers = template.spec.iter_mut().flat_map(|spec| &mut spec.containers);
        for container in containers {
            let Some(handler) = container.lifecycle.as_mut().and_then(|all| all.pre_stop.as_mut())
            else {
                continue;
            };
            let Some(sleep) = handler.sleep.take() else { continue };
            match pauser {
                Some(pauser) => {
                    handler.http_get = Some(HTTPGetAction {
                        host: Some(pauser.host.clone()),
                        path: Some(Pauser::path(sleep.seconds)),
                        port: IntOrString::Int(i32::from(pauser.port)),
                        ..HTTPGetAction::default()
                    });
                }
                None => container.lifecycle = None,
            }
        }
        template
    }

    /// Where `K` is, if not in the version that its type says.
    fn older<K: Resource<DynamicType = ()>>(&self) -> Option<ApiResource> {
        let (group, _, _, _, version) = OLDER
            .into_iter()
            .filter(|(_, kind, ..)| self.older.contains(kind))
            .find(|(group, kind, ..)| *group == K::group(&()) && *kind == K::kind(&()))?;
        let mut resource = ApiResource::erase::<K>(&());
        resource.version = version.to_owned();
        resource.api_version = format!("{group}/{version}");
        Some(resource)
    }

    /// Applies `wanted`, written as `K`, in the version that this ground has.
    ///
    /// # Errors
    /// The server's refusal.
    pub async fn apply<K>(
        &self,
        client: &Client,
        namespace: &str,
        name: &str,
        params: &PatchParams,
        mut wanted: Value,
    ) -> kube::Result<K>
    where
        K: Kept + Resource<Scope = NamespaceResourceScope>,
    {
        let Some(resource) = self.older::<K>() else {
            let api: Api<K> = Api::namespaced(client.clone(), namespace);
            return api.patch(name, params, &Patch::Apply(&wanted)).await;
        };
        wanted["apiVersion"] = json!(resource.api_version);
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
        read(api.patch(name, params, &Patch::Apply(&wanted)).await?)
    }

    /// Deletes one `K`.
    ///
    /// # Errors
    /// The server's refusal.
    pub async fn delete<K>(
        &self,
        client: &Client,
        namespace: &str,
        name: &str,
        params: &DeleteParams,
    ) -> kube::Result<()>
    where
        K: Kept + Resource<Scope = NamespaceResourceScope>,
    {
        match self.older::<K>() {
            None => {
                Api::<K>::namespaced(client.clone(), namespace).delete(name, params).await.map(drop)
            }
            Some(resource) => {
                Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &resource)
                    .delete(name, params)
                    .await
                    .map(drop)
            }
        }
    }

    /// All `K` there are, if they are in an older version; else their type says how.
    pub fn feed<K: Kept>(&self, client: &Client) -> Option<Older<K>> {
        let resource = self.older::<K>()?;
        Some(Older { api: Api::all_with(client.clone(), &resource), kind: PhantomData })
    }
}

async fn serves(client: &Client, group_version: &str, plural: &str) -> kube::Result<bool> {
    match client.list_api_group_resources(group_version).await {
        Ok(found) => Ok(found.resources.iter().any(|resource| resource.name == plural)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error),
    }
}

/// Objects that are read from an older version of their kind.
pub struct Older<K> {
    api: Api<DynamicObject>,
    kind: PhantomData<fn() -> K>,
}

impl<K: Kept> Feed<K> for Older<K> {
    async fn list(&self, params: &ListParams) -> kube::Result<ObjectList<K>> {
        let found = self.api.list(params).await?;
        list_read(found, read)
    }

    async fn watch(&self, version: &str) -> kube::Result<Changes<K>> {
        let events = self.api.watch(&watch_params(None), version).await?;
        Ok(changes_read(events, read))
    }

    fn fields(&self) -> Option<&str> {
        None
    }
}

/// The object as if it were in the version that its type says.
fn read<K>(object: DynamicObject) -> kube::Result<K>
where
    K: Resource<DynamicType = ()> + DeserializeOwned,
{
    let mut value = serde_json::to_value(object).map_err(kube::Error::SerdeError)?;
    value["apiVersion"] = json!(K::api_version(&()));
    value["kind"] = json!(K::kind(&()));
    serde_json::from_value(value).map_err(kube::Error::SerdeError)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::{Deployment, StatefulSetSpec};
    use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
    use k8s_openapi::api::batch::v1::CronJob;

    fn template() -> PodTemplateSpec {
        serde_json::from_value(json!({ "spec": { "containers": [
            { "name": "web", "lifecycle": { "preStop": { "sleep": { "seconds": 3 } } } },
            { "name": "own", "lifecycle": { "preStop": { "exec": { "command": ["/bye"] } } } },
        ] } }))
        .unwrap()
    }

    fn stop(template: &PodTemplateSpec, index: usize) -> Value {
        let whole = serde_json::to_value(template).unwrap();
        whole["spec"]["containers"][index]["lifecycle"]["preStop"].clone()
    }

    fn old(pauser: Option<Pauser>) -> Ground {
        Ground { older: vec!["HorizontalPodAutoscaler", "CronJob"], unpausing: Some(pauser) }
    }

    #[test]
    fn kinds_are_where_the_server_has_them() {
        let scaler = old(None).older::<HorizontalPodAutoscaler>().map(|one| one.api_version);
        assert_eq!(scaler.as_deref(), Some("autoscaling/v2beta2"));
        let clock = old(None).older::<CronJob>().expect("it is older there");
        let place = (clock.api_version.as_str(), clock.plural.as_str());
        assert_eq!(place, ("batch/v1beta1", "cronjobs"));
        assert!(old(None).older::<Deployment>().is_none());
        assert!(Ground::default().older::<CronJob>().is_none());
        let waits = |ground: Ground| {
            let spec = StatefulSetSpec { min_ready_seconds: Some(5), ..StatefulSetSpec::default() };
            let mut set = StatefulSet { spec: Some(spec), ..StatefulSet::default() };
            ground.fit_stateful_set(&mut set);
            set.spec.and_then(|spec| spec.min_ready_seconds)
        };
        assert_eq!((waits(Ground::default()), waits(old(None))), (Some(5), None));
    }

    #[test]
    fn a_node_that_cannot_pause_asks_for_an_answer_that_takes_as_long() {
        let pauser = Pauser { host: "10.0.0.9".into(), port: 80 };
        let fitted = old(Some(pauser)).fit(template());
        let asked = json!({ "httpGet": { "host": "10.0.0.9", "path": "/pause/3", "port": 80 } });
        assert_eq!(stop(&fitted, 0), asked);
        let own = json!({ "exec": { "command": ["/bye"] } });
        assert_eq!(stop(&fitted, 1), own, "what is asked for stays");
        assert_eq!(Ground::default().fit(template()), template());
        assert_eq!(stop(&old(None).fit(template()), 0), Value::Null);
    }

    #[test]
    fn an_older_object_reads_as_the_newer_kind() {
        let object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "batch/v1beta1", "kind": "CronJob",
            "metadata": { "name": "night", "namespace": "shop" },
            "spec": { "schedule": "0 3 * * *", "jobTemplate": {} },
        }))
        .unwrap();
        let clock: CronJob = read(object).unwrap();
        assert_eq!(clock.spec.schedule, "0 3 * * *");
    }
}
