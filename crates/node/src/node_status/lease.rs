//! The node's lease: renewed while the agent lives, read by whoever watches over nodes.

use std::time::Duration;

use berth_daemon::Backoff;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

const NAMESPACE: &str = "kube-node-lease";
const RENEW: Duration = Duration::from_secs(10);
/// Four renewals may fail before the node counts as silent.
const LIFE_SECONDS: i32 = 40;
const API_DEADLINE: Duration = Duration::from_secs(10);

pub(super) async fn keep(client: kube::Client, node: String) {
    let leases: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
    let nodes: Api<Node> = Api::all(client);
    let mut backoff = Backoff::new(Duration::from_millis(200), RENEW);
    loop {
        let renewed = tokio::time::timeout(API_DEADLINE, renew(&leases, &nodes, &node)).await;
        let wait = match renewed {
            Ok(Ok(())) => {
                backoff.reset();
                RENEW
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "the node's lease is not renewed");
                backoff.next_delay()
            }
            Err(_) => backoff.next_delay(),
        };
        tokio::time::sleep(wait).await;
    }
}

async fn renew(leases: &Api<Lease>, nodes: &Api<Node>, node: &str) -> Result<(), kube::Error> {
    let patch = Patch::Merge(json!({ "spec": spec(node, Timestamp::now()) }));
    match leases.patch(node, &PatchParams::default(), &patch).await {
        Ok(_) => return Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => {}
        Err(error) => return Err(error),
    }
    // Owned by the Node object, so that it goes with it.
    let uid = nodes.get(node).await?.metadata.uid;
    let lease = json!({
        "metadata": {
            "name": node,
            "namespace": NAMESPACE,
            "ownerReferences": [
                { "apiVersion": "v1", "kind": "Node", "name": node, "uid": uid.unwrap_or_default() },
            ],
        },
        "spec": spec(node, Timestamp::now()),
    });
    let lease: Lease = serde_json::from_value(lease).map_err(kube::Error::SerdeError)?;
    leases.create(&PostParams::default(), &lease).await.map(drop)
}

fn spec(node: &str, now: Timestamp) -> Value {
    json!({
        "holderIdentity": node,
        "leaseDurationSeconds": LIFE_SECONDS,
        // The type wants microseconds, always.
        "renewTime": format!("{now:.6}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_dated_in_microseconds() {
        let spec = spec("n", Timestamp::from_second(0).expect("a time"));
        assert_eq!(spec["renewTime"], "1970-01-01T00:00:00.000000Z");
    }
}
