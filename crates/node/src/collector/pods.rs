//! The pods of this node, and the account by which their logs are read.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use berth_api::app::logs::collector::{NAME, READER};
use berth_daemon::Tasks;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::PostParams;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::app_logs;

/// How often namespaces without a reader are looked for.
const LOOK: Duration = Duration::from_secs(2);
const CALL: Duration = Duration::from_secs(10);

/// The pods of this node, as the API last said.
#[derive(Clone)]
pub(super) struct Pods(Store<Pod>);

impl Pods {
    /// Follows them until `tasks` stop.
    pub fn follow(client: Client, node: &str, tasks: &Tasks) -> Self {
        let config = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
        let (store, writer) = reflector::store();
        let watch = watcher(Api::<Pod>::all(client), config)
            .backoff(watcher::DefaultBackoff::default())
            .modify(|pod| pod.managed_fields_mut().clear());
        let mut watch = Box::pin(watch.reflect(writer));
        tasks.spawn_until_stop("pods of this node", async move {
            while let Some(event) = watch.next().await {
                if let Err(error) = event {
                    tracing::warn!(%error, "cannot watch the pods of this node");
                }
            }
        });
        Self(store)
    }

    /// Waits until they have been listed once.
    pub async fn known(&self) {
        // An end of the watch is the end of the process.
        let _ = self.0.wait_until_ready().await;
    }

    /// All of them now.
    pub fn all(&self) -> Vec<Arc<Pod>> {
        self.0.state()
    }
}

/// Makes the account by which a namespace's logs are read where there is something to read, until
/// `tasks` stop. It outlives the Apps, as their logs do.
pub(super) fn make_readers(client: Client, pods: Pods, tasks: &Tasks) {
    tasks.spawn_until_stop("readers of logs", async move {
        let mut made = HashSet::new();
        loop {
            for pod in pods.all() {
                let Some(namespace) = pod.namespace() else { continue };
                if made.contains(&namespace) || app_logs::collected(&pod).is_none() {
                    continue;
                }
                match make_reader(&client, &namespace).await {
                    Ok(()) => _ = made.insert(namespace),
                    Err(error) => {
                        tracing::warn!(namespace, %error, "cannot make the account {READER}");
                    }
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    });
}

async fn make_reader(client: &Client, namespace: &str) -> kube::Result<()> {
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let labels = json!({ "app.kubernetes.io/name": NAME, "app.kubernetes.io/part-of": "berth" });
    let reader = json!({
        "metadata": { "name": READER, "labels": labels },
        "automountServiceAccountToken": false,
    });
    let reader: ServiceAccount = serde_json::from_value(reader).map_err(kube::Error::SerdeError)?;
    let params = PostParams::default();
    match tokio::time::timeout(CALL, api.create(&params, &reader)).await {
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => Ok(()),
        Ok(answer) => answer.map(drop),
        Err(late) => Err(kube::Error::Service(late.into())),
    }
}
