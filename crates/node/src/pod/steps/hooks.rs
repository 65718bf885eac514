//! postStart and preStop.

use std::net::IpAddr;
use std::time::Duration;

use berth_api::release;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{LifecycleHandler, Pod};

use super::Step;
use crate::pod::plan::grace;
use crate::probes::ask::{self, Target};
use crate::probes::verdict::Answer;

/// A postStart hook has no limit in Kubernetes; one that takes this long will not end.
const POST_START_LIMIT: Duration = Duration::from_secs(3600);

impl Step {
    /// Runs the hook; a container whose hook fails is ended and then restarted by its policy.
    pub(super) async fn post_start(&self, name: &str, id: &str) {
        let lifecycle = self.container(name).and_then(|container| container.lifecycle);
        let Some(hook) = lifecycle.and_then(|lifecycle| lifecycle.post_start) else { return };
        let Answer::Failure(message) = self.hook(name, id, &hook, POST_START_LIMIT).await else {
            return;
        };
        let events = &self.shared.events;
        events.warning(
            &self.pod,
            Some(name),
            "FailedPostStartHook",
            format!("PostStartHook failed: {message}"),
        );
        let until = Timestamp::now().saturating_add(grace(&self.pod)).unwrap_or(Timestamp::MAX);
        let text = format!("FailedPostStartHook: container {name} will be restarted");
        if let Err(error) = self.kill(name, id, until, true, text).await {
            tracing::warn!(container = name, error = error.message, "ending after a failed hook");
        }
    }

    /// Runs the hook for at most `limit`; whether there was one.
    pub(super) async fn pre_stop(&self, name: &str, id: &str, limit: Duration) -> bool {
        let lifecycle = self.container(name).and_then(|container| container.lifecycle);
        let Some(hook) = lifecycle.and_then(|lifecycle| lifecycle.pre_stop) else { return false };
        if hook.sleep.is_some() && is_drained(&self.pod) {
            return false;
        }
        if limit.is_zero() {
            return true;
        }
        if let Answer::Failure(message) = self.hook(name, id, &hook, limit).await {
            let text = format!("PreStopHook failed: {message}");
            self.shared.events.warning(&self.pod, Some(name), "FailedPreStopHook", text);
        }
        true
    }

    async fn hook(&self, name: &str, id: &str, hook: &LifecycleHandler, limit: Duration) -> Answer {
        let Some(container) = self.container(name) else { return Answer::Unknown };
        let target = Target { container, id: id.to_owned(), address: self.address() };
        let answer = async {
            if let Some(exec) = &hook.exec {
                ask::run(&self.shared.cri, &target, exec, limit).await
            } else if let Some(get) = &hook.http_get {
                ask::http_get(&target, get).await
            } else if let Some(sleep) = &hook.sleep {
                let seconds = u64::try_from(sleep.seconds).unwrap_or_default();
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                Answer::Success
            } else {
                Answer::Success
            }
        };
        match tokio::time::timeout(limit, answer).await {
            Ok(answer) => answer,
            Err(_) => Answer::Failure(format!("not done after {} s", limit.as_secs())),
        }
    }

    /// Where the pod answers: on the machine's network, the node's address.
    fn address(&self) -> IpAddr {
        self.runtime.address().unwrap_or(IpAddr::V4(self.shared.config.address))
    }
}

/// Whether a release took the pod out of service before it swaps an image in it: then the pause
/// that an end has for that purpose was made already, and would keep the instance away longer.
fn is_drained(pod: &Pod) -> bool {
    let labels = pod.metadata.labels.as_ref();
    let off = labels.and_then(|all| all.get(release::TRAFFIC)).is_some_and(|word| word == "off");
    off && pod.metadata.deletion_timestamp.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_a_pod_that_stays_and_takes_no_requests_is_drained() {
        for (meta, expected) in [
            (json!({}), false),
            (json!({ "labels": { "berth.dev/traffic": "on" } }), false),
            (json!({ "labels": { "berth.dev/traffic": "off" } }), true),
            (
                json!({ "labels": { "berth.dev/traffic": "off" },
                        "deletionTimestamp": "2026-11-11T00:00:00Z" }),
                false,
            ),
        ] {
            let pod: Pod = serde_json::from_value(json!({ "metadata": meta })).expect("a pod");
            assert_eq!(is_drained(&pod), expected, "{meta}");
        }
    }
}
