//! Whether a pod that was bound to this node may start here, and who makes room for it.
//!
//! The machine's amounts come from the machine; labels, taints and devices from the Node object,
//! read again before anything is refused for them: whoever labels a node and then binds a pod must
//! not be punished for being quick.
//!
//! Refuses to judge a pod that was taken before: an agent that comes back takes up what runs.
//!
//! Source: the kubelet's admission of pods. What is decided is in `berth_scheduler::admission`.

use std::sync::Arc;
use std::time::Duration;

use berth_scheduler::admission::{make_room, rejections};
use berth_scheduler::amount::{Bytes, Millicores};
use berth_scheduler::snapshot;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;

use crate::config::Config;
use crate::machine;
use crate::node_status::labels;
use crate::pod::plan::Cause;
use crate::pod::resources::Qos;
use crate::pod::steps::RECORD;

/// An API server that does not say what it has of the node does not hold up its pods.
const READ_LIMIT: Duration = Duration::from_secs(5);

/// What became of a pod.
#[derive(Debug, PartialEq)]
pub(crate) enum Verdict {
    /// It may start.
    Taken,
    /// It may start when the pods of these UIDs have ended.
    TakenAfter(Vec<String>),
    /// It never starts.
    Refused(Cause),
}

/// Judges pods.
pub(crate) struct Admission {
    config: Config,
    nodes: Api<Node>,
    /// As the Node object was last.
    known: snapshot::Node,
    was_read: bool,
}

impl Admission {
    pub fn new(client: kube::Client, config: &Config) -> Self {
        let known = snapshot::Node {
            name: config.name.clone(),
            labels: labels(&config.name).into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
            ..snapshot::Node::default()
        };
        Self { config: config.clone(), nodes: Api::all(client), known, was_read: false }
    }

    /// Whether an agent took this pod before, or there is nothing to take: it ended, or is to end.
    pub fn is_settled(&self, pod: &Pod) -> bool {
        let status = pod.status.as_ref();
        let started = status.is_some_and(|status| {
            status.start_time.is_some()
                || status.container_statuses.iter().flatten().next().is_some()
        });
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        started
            || is_over(pod)
            || pod.metadata.deletion_timestamp.is_some()
            || self.config.pod_dir(uid).join(RECORD).exists()
    }

    /// Judges `pod` beside `others`, which are here.
    pub async fn judge(&mut self, pod: &Pod, others: &[Arc<Pod>]) -> Verdict {
        let asked = snapshot::pod(pod);
        let mut others: Vec<(Qos, Arc<snapshot::Pod>)> = others
            .iter()
            .map(|other| (Qos::of_pod(other), Arc::new(snapshot::pod(other))))
            .collect();
        // Whom nothing was promised goes first, the newest of equals.
        others.sort_by_key(|(qos, other)| {
            (std::cmp::Reverse(*qos), other.priority, std::cmp::Reverse(other.start))
        });
        let others: Vec<Arc<snapshot::Pod>> = others.into_iter().map(|(_, other)| other).collect();
        let mut node = self.node();
        let mut found = rejections(&asked, &node, &others);
        if !found.is_empty() || !self.was_read {
            self.read_node().await;
            node = self.node();
            found = rejections(&asked, &node, &others);
        }
        let Some(first) = found.first() else { return Verdict::Taken };
        if let Some(gone) = make_room(&asked, &node, &others) {
            return Verdict::TakenAfter(gone.iter().map(|at| others[*at].uid.clone()).collect());
        }
        Verdict::Refused(Cause {
            reason: first.reason(),
            message: format!("Pod was rejected: {first}"),
        })
    }

    async fn read_node(&mut self) {
        match tokio::time::timeout(READ_LIMIT, self.nodes.get_opt(&self.config.name)).await {
            Ok(Ok(Some(node))) => (self.known, self.was_read) = (snapshot::node(&node), true),
            Ok(Ok(None)) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the node is judged by what was known"),
            Err(_) => tracing::debug!("the node is judged by what was known"),
        }
    }

    /// What the API has of the node, with the machine's own amounts.
    fn node(&self) -> snapshot::Node {
        let room = machine::allocatable(&self.config);
        let whole = |amount: u64| i64::try_from(amount).unwrap_or(i64::MAX);
        let mut node = self.known.clone();
        node.allocatable.cpu = Millicores(whole(room.cpu_milli));
        node.allocatable.memory = Bytes(whole(room.memory_bytes));
        node.allocatable.ephemeral_storage = Bytes(whole(room.disk_bytes));
        node.pods = whole(room.pods);
        node
    }
}

/// Whether the API has it that nothing of the pod runs any more.
pub(crate) fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(value: Value) -> Pod {
        serde_json::from_value(value).expect("a pod")
    }

    #[tokio::test]
    async fn what_an_agent_took_before_is_not_judged_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let config = crate::sample::config(dir.path());
        let client = kube::Client::try_from(kube::Config::new(
            "http://127.0.0.1:9".parse().expect("an address"),
        ));
        let admission = Admission::new(client.expect("a client"), &config);
        let check = |status: Value, expected: bool| {
            let pod = pod(json!({ "metadata": { "name": "p", "uid": "u" }, "status": status }));
            assert_eq!(admission.is_settled(&pod), expected, "{:?}", pod.status);
        };
        check(json!({ "phase": "Pending" }), false);
        check(json!({ "phase": "Running", "startTime": "2026-01-01T00:00:00Z" }), true);
        check(json!({ "phase": "Failed" }), true);
        let ending = json!({ "deletionTimestamp": "2026-01-01T00:00:00Z" });
        assert!(admission.is_settled(&pod(json!({ "metadata": ending }))));
        // It was killed before it could say so.
        std::fs::create_dir_all(config.pod_dir("u")).expect("a directory");
        std::fs::write(config.pod_dir("u").join(RECORD), "{}").expect("written");
        check(json!({ "phase": "Pending" }), true);
    }

    #[tokio::test]
    async fn the_machine_counts_even_where_no_server_answers() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut config = crate::sample::config(dir.path());
        config.max_pods = 1;
        let client = kube::Client::try_from(kube::Config::new(
            "http://127.0.0.1:9".parse().expect("an address"),
        ));
        let mut admission = Admission::new(client.expect("a client"), &config);
        let plain = |name: &str| pod(json!({ "metadata": { "name": name, "uid": name } }));
        assert_eq!(admission.judge(&plain("a"), &[]).await, Verdict::Taken);
        let others = [Arc::new(plain("a"))];
        let refused = admission.judge(&plain("b"), &others).await;
        let message = "Pod was rejected: Node didn't have enough resource: pods, requested: 1, \
                       used: 1, capacity: 1";
        let cause = Cause { reason: "OutOfpods".to_owned(), message: message.to_owned() };
        assert_eq!(refused, Verdict::Refused(cause));
        let critical = pod(
            json!({ "metadata": { "name": "c" }, "spec": { "containers": [], "priority": 2_000_000_000 } }),
        );
        let verdict = admission.judge(&critical, &others).await;
        assert_eq!(verdict, Verdict::TakenAfter(vec!["a".to_owned()]));
    }
}
