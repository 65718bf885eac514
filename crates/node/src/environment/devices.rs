//! What tells a container which devices are its pod's, and how much of them.
//!
//! Refuses to enforce a share: what runs in the container must keep to it, or NVIDIA's MPS makes it,
//! where its daemon runs.
//!
//! Source: the variables of NVIDIA's container toolkit and of its multi-process service.

use berth_scheduler::device::{self, write_index};
use berth_scheduler::gpu::WHOLE;
use berth_scheduler::snapshot;
use k8s_openapi::api::core::v1::Pod;

/// Devices by their numbers: the toolkit lets the container see these alone.
const VISIBLE: &str = "NVIDIA_VISIBLE_DEVICES";
/// Thousandths of each of them.
const SHARE: &str = "BERTH_GPU_MILLI";
/// Percent of a device's processors that MPS lets it use.
const MPS: &str = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE";

/// What is set, in place of anything that the pod or its image says; nothing for pods without devices.
pub(super) fn variables(pod: &Pod) -> Vec<(&'static str, String)> {
    let annotated = |key: &str| pod.metadata.annotations.iter().any(|all| all.contains_key(key));
    if !annotated(device::INDEX) {
        return Vec::new();
    }
    let pod = snapshot::pod(pod);
    if pod.devices == 0 {
        return Vec::new();
    }
    let milli = pod.share.map_or(WHOLE, |share| share.milli);
    let mut all = vec![(VISIBLE, write_index(pod.devices)), (SHARE, milli.to_string())];
    if milli < WHOLE {
        all.push((MPS, (milli / 10).max(1).to_string()));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_container_is_told_its_devices_and_its_share() {
        fn check(annotations: Value, expected: &[(&str, &str)]) {
            let object = json!({ "metadata": { "name": "p", "annotations": annotations },
                "spec": { "nodeName": "n", "containers": [] } });
            let found = variables(&serde_json::from_value(object).expect("a pod"));
            let found: Vec<(&str, &str)> =
                found.iter().map(|(name, value)| (*name, value.as_str())).collect();
            assert_eq!(found, expected, "{annotations}");
        }
        check(json!({}), &[]);
        check(json!({ "berth.dev/gpu-index": "all" }), &[]);
        check(
            json!({ "berth.dev/gpu-index": "1", "berth.dev/gpu-milli": "250" }),
            &[(VISIBLE, "1"), (SHARE, "250"), (MPS, "25")],
        );
        check(json!({ "berth.dev/gpu-index": "0,3" }), &[(VISIBLE, "0,3"), (SHARE, "1000")]);
    }
}
