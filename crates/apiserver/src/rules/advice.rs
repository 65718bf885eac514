//! What is stored without anybody acting on it, and what to tell the person who stores it.
//!
//! A kind is served whole, so that a manifest made for a larger cluster is taken; but a
//! ReplicationController that never gets a pod, without a word, looks like a fault. The line goes when the
//! controller comes.

use berth_schema::Resource;
use serde_json::Value;

/// Kinds whose controller is not there, and what follows from that.
const IDLE: &[(&str, &str, &str)] = &[
    ("", "replicationcontrollers", "no pods are made for it; use a Deployment"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicies", "it is not evaluated"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings", "it is not evaluated"),
    ("apiregistration.k8s.io", "apiservices", "requests are not passed on to it"),
    ("networking.k8s.io", "networkpolicies", "all traffic stays allowed"),
];

/// Lines for whoever created `object`.
pub(crate) fn on_create(resource: &Resource, object: &Value) -> Vec<String> {
    let (group, plural) = super::kind(resource);
    if (group, plural) == ("apiextensions.k8s.io", "customresourcedefinitions") {
        return on_definition(object);
    }
    let idle = IDLE.iter().find(|(own, name, _)| (*own, *name) == (group, plural));
    idle.map(|(_, _, why)| format!("this {} is stored, but {why}", resource.kind))
        .into_iter()
        .collect()
}

fn on_definition(definition: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    if definition["spec"]["conversion"]["strategy"] == "Webhook" {
        lines.push("the conversion webhook is stored, but not called".to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_nobody_acts_on_is_told() {
        let catalog = berth_schema::Catalog::builtin();
        let check = |group: &str, plural: &str, object: Value, expected: &[&str]| {
            let resource = catalog.resource(group, "v1", plural).expect("a served resource");
            assert_eq!(on_create(resource, &object), expected, "{plural}");
        };
        check("apps", "deployments", json!({}), &[]);
        check("apps", "statefulsets", json!({}), &[]);
        check(
            "",
            "replicationcontrollers",
            json!({}),
            &["this ReplicationController is stored, but no pods are made for it; use a \
                 Deployment"],
        );
        let told = "the conversion webhook is stored, but not called";
        let definition = json!({"spec": {"conversion": {"strategy": "Webhook"}}});
        let group = "apiextensions.k8s.io";
        check(group, "customresourcedefinitions", definition, &[told]);
        check(group, "customresourcedefinitions", json!({"spec": {}}), &[]);
    }

    #[test]
    fn every_kind_told_about_is_served() {
        let catalog = berth_schema::Catalog::builtin();
        for (group, plural, _) in IDLE {
            let is = |one: &&std::sync::Arc<Resource>| one.group == *group && one.plural == *plural;
            assert!(catalog.resources().any(|one| is(&one)), "{plural}.{group}");
        }
    }
}
