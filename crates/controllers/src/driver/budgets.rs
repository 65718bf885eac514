//! PodDisruptionBudgets of any Kubernetes: `policy/v1`, or `policy/v1beta1` before 1.21.
//!
//! The fields are the same. One thing is not: an empty selector meant no pod then, and means every
//! pod now; what comes out here means what it said.

use std::sync::atomic::{AtomicBool, Ordering};

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DynamicObject, ListParams, ObjectList};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use serde::de::DeserializeOwned;

use super::feed::{Changes, Feed, Objects, changes_read, list_read, watch_params};

/// See the module.
pub struct Budgets {
    stable: Objects<PodDisruptionBudget>,
    beta: Api<DynamicObject>,
    /// The last list came from `policy/v1beta1`.
    is_beta: AtomicBool,
}

impl Budgets {
    /// All budgets that `client` may read.
    pub fn new(client: Client) -> Self {
        let kind = GroupVersionKind::gvk("policy", "v1beta1", "PodDisruptionBudget");
        let resource = ApiResource::from_gvk_with_plural(&kind, "poddisruptionbudgets");
        Self {
            stable: Objects { api: Api::all(client.clone()), fields: None },
            beta: Api::all_with(client, &resource),
            is_beta: AtomicBool::new(false),
        }
    }
}

impl Feed<PodDisruptionBudget> for Budgets {
    async fn list(&self, params: &ListParams) -> kube::Result<ObjectList<PodDisruptionBudget>> {
        match self.stable.list(params).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            answer => {
                self.is_beta.store(false, Ordering::Relaxed);
                return answer;
            }
        }
        let found = self.beta.list(params).await?;
        self.is_beta.store(true, Ordering::Relaxed);
        list_read(found, read)
    }

    async fn watch(&self, version: &str) -> kube::Result<Changes<PodDisruptionBudget>> {
        if !self.is_beta.load(Ordering::Relaxed) {
            return self.stable.watch(version).await;
        }
        let events = self.beta.watch(&watch_params(None), version).await?;
        Ok(changes_read(events, read))
    }

    fn fields(&self) -> Option<&str> {
        None
    }
}

fn read(object: DynamicObject) -> kube::Result<PodDisruptionBudget> {
    fn part<T: DeserializeOwned>(object: &DynamicObject, name: &str) -> kube::Result<Option<T>> {
        let found = object.data.get(name).cloned().map(serde_json::from_value);
        found.transpose().map_err(kube::Error::SerdeError)
    }
    let mut budget = PodDisruptionBudget {
        spec: part(&object, "spec")?,
        status: part(&object, "status")?,
        metadata: object.metadata,
    };
    if let Some(spec) = &mut budget.spec
        && spec.selector.as_ref().is_some_and(|selector| *selector == Default::default())
    {
        spec.selector = None;
    }
    Ok(budget)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::http::Uri;
    use axum::http::header::CONTENT_TYPE;
    use axum::routing::get;
    use futures::TryStreamExt;
    use kube::api::WatchEvent;
    use serde_json::json;
    use tokio::net::TcpListener;

    /// As Kubernetes 1.20 answers.
    fn answer(uri: &Uri) -> String {
        let budget = |name: &str, selector: serde_json::Value| {
            json!({ "apiVersion": "policy/v1beta1", "kind": "PodDisruptionBudget",
                "metadata": { "name": name, "namespace": "shop", "resourceVersion": "7" },
                "spec": { "minAvailable": 1, "selector": selector },
                "status": { "disruptionsAllowed": 2, "currentHealthy": 3, "desiredHealthy": 1,
                    "expectedPods": 3 } })
        };
        let web = budget("web", json!({ "matchLabels": { "app": "web" } }));
        if uri.query().is_some_and(|query| query.contains("watch=true")) {
            let event = json!({ "type": "ADDED", "object": budget("none", json!({})) });
            return format!("{event}\n");
        }
        let list = json!({ "apiVersion": "policy/v1beta1", "kind": "PodDisruptionBudgetList",
            "metadata": { "resourceVersion": "7" }, "items": [web] });
        list.to_string()
    }

    #[tokio::test]
    async fn an_older_kubernetes_has_its_budgets_read_too() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let path = "/apis/policy/v1beta1/poddisruptionbudgets";
        let handler =
            get(|uri: Uri| async move { ([(CONTENT_TYPE, "application/json")], answer(&uri)) });
        let missing = || async {
            let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure",
                "reason": "NotFound", "code": 404, "message": "page not found" });
            (axum::http::StatusCode::NOT_FOUND, status.to_string())
        };
        let router = Router::new().route(path, handler).fallback(missing);
        let server = async { axum::serve(listener, router).await };
        let asks = async {
            let config = kube::Config::new(format!("http://{address}").parse().unwrap());
            let budgets = Budgets::new(Client::try_from(config).unwrap());
            let list = budgets.list(&ListParams::default()).await.unwrap();
            let web = &list.items[0];
            assert_eq!(web.metadata.name.as_deref(), Some("web"));
            assert!(web.spec.as_ref().unwrap().selector.is_some());
            assert_eq!(web.status.as_ref().unwrap().disruptions_allowed, Some(2));
            let mut events = budgets.watch("7").await.unwrap();
            let WatchEvent::Added(none) = events.try_next().await.unwrap().unwrap() else {
                unreachable!("it came")
            };
            assert_eq!(none.spec.unwrap().selector, None, "meant no pod, and still does");
        };
        tokio::select! {
            _ = server => unreachable!("it serves until the end"),
            () = asks => {}
        }
    }
}
