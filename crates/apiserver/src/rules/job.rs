//! Jobs: the selector and the labels that tie pods to the one job that made them.

use serde_json::{Value, json};

use crate::object;

/// Generates the selector from the job's UID, unless the user insists on one of his own.
pub(super) fn prepare(new: &mut Value) {
    if new["spec"]["manualSelector"].as_bool() == Some(true) {
        return;
    }
    let (uid, name) = (object::uid(new).to_owned(), object::name(new).to_owned());
    if !new["spec"].is_object() || !new["spec"]["selector"].is_null() {
        // A selector without manualSelector is refused by validation, unless it is our own.
        let own = &new["spec"]["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"];
        if !new["spec"].is_object() || own.is_null() {
            return;
        }
    }
    let labels = object::section_mut(&mut new["spec"]["template"], "metadata")
        .entry("labels")
        .or_insert_with(|| json!({}));
    if !labels.is_object() {
        *labels = json!({});
    }
    labels["controller-uid"] = json!(uid);
    labels["job-name"] = json!(name);
    labels["batch.kubernetes.io/controller-uid"] = json!(uid);
    labels["batch.kubernetes.io/job-name"] = json!(name);
    new["spec"]["selector"] = json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}});
}
