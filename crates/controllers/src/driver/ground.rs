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

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{HTTPGetAction, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{
    DeleteParams, DynamicObject, ListParams, ObjectList, Patch, PatchParams, WatchEvent,
};
use kube::core::ApiResource;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::cache::Kept;
use super::feed::{Changes, Feed, watch_params};

/// Group, kind, the minor version that brought it in the version we write, and the one before.
const OLDER: [(&str, &str, u32, &str); 2] = [
    ("autoscaling", "HorizontalPodAutoscaler", 23, "v2beta2"),
    ("batch", "CronJob", 21, "v1beta1"),
];
/// Nodes pause by themselves since then.
const PAUSES: u32 = 30;
/// StatefulSets wait for a pod to have been ready for a while since then.
const STATEFUL_MIN_READY: u32 = 22;

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

/// Which Kubernetes carries the cluster.
#[derive(Clone, Debug)]
pub struct Ground {
    minor: u32,
    pauser: Option<Pauser>,
}

impl Default for Ground {
    /// Berth's own: nothing is missing.
    fn default() -> Self {
        Self { minor: u32::MAX, pauser: None }
    }
}

impl Ground {
    /// Kubernetes 1.`minor`, and who pauses where nodes do not.
    pub fn kubernetes(minor: u32, pauser: Option<Pauser>) -> Self {
        Self { minor, pauser }
    }

    /// Whether a StatefulSet's `minReadySeconds` means anything.
    pub fn has_stateful_min_ready(&self) -> bool {
        self.minor >= STATEFUL_MIN_READY
    }

    /// The template as this ground's nodes understand it.
    pub fn fit(&self, mut template: PodTemplateSpec) -> PodTemplateSpec {
        if self.minor >= PAUSES {
            return template;
        }
        let containers = template.spec.iter_mut().flat_map(|spec| &mut spec.containers);
        for container in containers {
            let Some(handler) = container.lifecycle.as_mut().and_then(|all| all.pre_stop.as_mut())
            else {
                continue;
            };
            let Some(sleep) = handler.sleep.take() else { continue };
            match &self.pauser {
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
        let known = OLDER.iter().find(|(group, kind, since, _)| {
            *group == K::group(&()) && *kind == K::kind(&()) && self.minor < *since
        });
        known.map(|(group, _, _, version)| {
            let mut resource = ApiResource::erase::<K>(&());
            resource.version = (*version).to_owned();
            resource.api_version = format!("{group}/{version}");
            resource
        })
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

/// Objects that are read from an older version of their kind.
pub struct Older<K> {
    api: Api<DynamicObject>,
    kind: PhantomData<fn() -> K>,
}

impl<K: Kept> Feed<K> for Older<K> {
    async fn list(&self, params: &ListParams) -> kube::Result<ObjectList<K>> {
        let found = self.api.list(params).await?;
        let items = found.items.into_iter().map(read).collect::<kube::Result<_>>()?;
        Ok(ObjectList { types: found.types, metadata: found.metadata, items })
    }

    async fn watch(&self, version: &str) -> kube::Result<Changes<K>> {
        let events = self.api.watch(&watch_params(None), version).await?;
        let read = |event| async {
            Ok(match event {
                WatchEvent::Added(object) => WatchEvent::Added(read(object)?),
                WatchEvent::Modified(object) => WatchEvent::Modified(read(object)?),
                WatchEvent::Deleted(object) => WatchEvent::Deleted(read(object)?),
                WatchEvent::Bookmark(bookmark) => WatchEvent::Bookmark(bookmark),
                WatchEvent::Error(status) => WatchEvent::Error(status),
            })
        };
        Ok(events.and_then(read).boxed())
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
    use k8s_openapi::api::apps::v1::Deployment;
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

    #[test]
    fn kinds_are_where_the_server_has_them() {
        let at = |minor| Ground::kubernetes(minor, None);
        let scaler =
            |minor| at(minor).older::<HorizontalPodAutoscaler>().map(|one| one.api_version);
        assert_eq!(scaler(20).as_deref(), Some("autoscaling/v2beta2"));
        assert_eq!(scaler(23), None);
        let clock = at(20).older::<CronJob>().expect("it is older there");
        assert_eq!(
            (clock.api_version.as_str(), clock.plural.as_str()),
            ("batch/v1beta1", "cronjobs")
        );
        assert!(at(21).older::<CronJob>().is_none());
        assert!(at(20).older::<Deployment>().is_none());
        assert!(Ground::default().older::<CronJob>().is_none());
    }

    #[test]
    fn a_node_that_cannot_pause_asks_for_an_answer_that_takes_as_long() {
        let pauser = Pauser { host: "10.0.0.9".into(), port: 80 };
        let old = Ground::kubernetes(20, Some(pauser)).fit(template());
        let asked = json!({ "httpGet": { "host": "10.0.0.9", "path": "/pause/3", "port": 80 } });
        assert_eq!(stop(&old, 0), asked);
        assert_eq!(
            stop(&old, 1),
            json!({ "exec": { "command": ["/bye"] } }),
            "what is asked for stays"
        );
        assert_eq!(Ground::default().fit(template()), template());
        assert_eq!(Ground::kubernetes(30, None).fit(template()), template());
        assert_eq!(stop(&Ground::kubernetes(20, None).fit(template()), 0), Value::Null);
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
