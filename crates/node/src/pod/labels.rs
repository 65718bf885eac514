//! The words on sandboxes and containers by which they are found again.
//!
//! The labels are the kubelet's own, so that crictl and log shippers know our containers;
//! what only we read is under `berth.dev/`.

use std::collections::HashMap;
use std::time::Duration;

/// The pod's name.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
/// The pod's namespace.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// The pod's uid: what a worker looks for.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
/// The container's name in the pod.
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Which instance of Berth made it; what carries another name or none is left alone.
pub const INSTANCE: &str = "berth.dev/instance";

/// Annotation: the image as the pod spells it; a difference means that the pod was changed.
pub const IMAGE: &str = "berth.dev/image";
/// Annotation: how long a restart after this attempt waits, in milliseconds.
pub const RESTART_DELAY: &str = "berth.dev/restart-delay-ms";
/// Annotation: the container's resources as they were when it was made, JSON.
pub const RESOURCES: &str = "berth.dev/resources";
/// Annotation: the file on the node that is mounted as termination message.
pub const TERMINATION_FILE: &str = "berth.dev/termination-file";

/// The labels of a pod's sandbox.
pub fn of_sandbox(
    instance: &str,
    namespace: &str,
    name: &str,
    uid: &str,
) -> HashMap<String, String> {
    HashMap::from([
        (INSTANCE.to_owned(), instance.to_owned()),
        (POD_NAMESPACE.to_owned(), namespace.to_owned()),
        (POD_NAME.to_owned(), name.to_owned()),
        (POD_UID.to_owned(), uid.to_owned()),
    ])
}

/// The restart delay written on a container, zero when there is none.
pub fn restart_delay(annotations: &HashMap<String, String>) -> Duration {
    annotations
        .get(RESTART_DELAY)
        .and_then(|text| text.parse().ok())
        .map_or(Duration::ZERO, Duration::from_millis)
}
