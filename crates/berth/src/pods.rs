//! An app's pods, and what is wrong with a pod, in the words of its status.

use anyhow::Result;
use berth_api::labels;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::api::ListParams;
use kube::{Api, Client};

use crate::failure::{Exit, Failure};

/// The label by which an app's pods are found.
pub fn selector(app: &str) -> String {
    format!("{}={app}", labels::INSTANCE)
}

/// The pods of `app`, oldest first; a pod of that very name where there is no such app.
///
/// # Errors
/// [`Exit::Failed`] when there is neither.
pub async fn of(client: &Client, namespace: &str, app: &str) -> Result<Vec<Pod>> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let mut pods = api.list(&ListParams::default().labels(&selector(app))).await?.items;
    if pods.is_empty() {
        pods.extend(api.get_opt(app).await?);
    }
    if pods.is_empty() {
        let message = format!("no app or pod `{app}` in namespace {namespace} has a container");
        return Err(Failure::new(Exit::Failed, message, "see `berth status`").into());
    }
    pods.sort_by(|a, b| a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp));
    Ok(pods)
}

/// Whether the pod's Ready condition holds.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
}

/// The containers' statuses, init containers first.
pub fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let init = status.and_then(|status| status.init_container_statuses.as_ref());
    let main = status.and_then(|status| status.container_statuses.as_ref());
    init.into_iter().flatten().chain(main.into_iter().flatten())
}

/// Why a container waits for something that will not come by itself: `reason: message`.
pub fn trouble(pod: &Pod) -> Option<String> {
    const HOPELESS: [&str; 8] = [
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
        "CrashLoopBackOff",
    ];
    statuses(pod).find_map(|status| {
        let waiting = status.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.as_deref().filter(|reason| HOPELESS.contains(reason))?;
        let message = waiting.message.as_deref().unwrap_or_default();
        Some(format!("{reason}: {message}").trim_end_matches([':', ' ']).to_owned())
    })
}

/// Whether nothing of the pod has run yet since an image could not be had.
pub fn waits_for_image(pod: &Pod) -> bool {
    let is_new = |status: &ContainerStatus| {
        status.restart_count == 0
            && status
                .state
                .as_ref()
                .is_none_or(|state| state.running.is_none() && state.terminated.is_none())
    };
    let reason = |status: &ContainerStatus| status.state.clone()?.waiting?.reason;
    pod.metadata.deletion_timestamp.is_none()
        && statuses(pod).all(is_new)
        && statuses(pod).any(|status| {
            matches!(reason(status).as_deref(), Some("ErrImagePull" | "ImagePullBackOff"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_waits_for_its_image_until_something_of_it_has_run() {
        let pod = |restarts: i32, states: &[serde_json::Value]| -> Pod {
            let one = |state| {
                json!({"name": "c", "image": "i", "imageID": "", "ready": false,
                "restartCount": restarts, "state": state})
            };
            let all: Vec<_> = states.iter().map(one).collect();
            serde_json::from_value(json!({"metadata": {}, "status": {"containerStatuses": all}}))
                .unwrap()
        };
        let waits = json!({"waiting": {"reason": "ImagePullBackOff"}});
        let runs = json!({"running": {}});
        let starts = json!({"waiting": {"reason": "ContainerCreating"}});
        assert!(waits_for_image(&pod(0, &[starts.clone(), waits.clone()])));
        assert!(!waits_for_image(&pod(0, &[starts])));
        assert!(!waits_for_image(&pod(0, &[runs, waits.clone()])));
        assert!(!waits_for_image(&pod(1, &[waits])));
    }

    #[test]
    fn only_what_will_not_come_by_itself_is_trouble() {
        for (reason, expected) in [
            ("ContainerCreating", None),
            ("ErrImagePull", Some("ErrImagePull: no such image")),
            ("CrashLoopBackOff", Some("CrashLoopBackOff: no such image")),
        ] {
            let pod: Pod = serde_json::from_value(json!({"metadata": {}, "status": {
                "containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": false,
                "restartCount": 0, "state": {"waiting": {"reason": reason,
                "message": "no such image"}}}]}}))
            .unwrap();
            assert_eq!(trouble(&pod).as_deref(), expected, "{reason}");
        }
    }
}
