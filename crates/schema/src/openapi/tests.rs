//! What clients look for in the documents.

use serde_json::json;

use super::*;

/// Every reference below a value.
fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match (key.as_str(), value) {
                    ("$ref", Value::String(text)) => found.push(text.clone()),
                    _ => references(value, found),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_to_a_schema() {
    let catalog = Catalog::builtin();
    let mut documents = vec![v2(&catalog)];
    for (group, version) in group_versions(&catalog) {
        documents.push(v3(&catalog, group, version).unwrap());
    }
    for document in documents {
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(!found.is_empty());
        for reference in found {
            let pointer = reference.trim_start_matches('#');
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }
}

#[test]
fn deployments_can_be_patched_by_what_the_document_says() {
    let catalog = Catalog::builtin();
    let document = v3(&catalog, "apps", "v1").unwrap();
    let patch =
        &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(
        patch["x-kubernetes-group-version-kind"],
        json!({"group": "apps", "version": "v1", "kind": "Deployment"})
    );
    let parameters = patch["parameters"].as_array().unwrap();
    for name in ["dryRun", "fieldManager", "fieldValidation", "force"] {
        assert!(parameters.iter().any(|one| one["name"] == name), "{name}");
    }
    let spec = &document["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"];
    assert_eq!(spec["properties"]["containers"]["x-kubernetes-patch-merge-key"], "name");
    let strategy = &document["components"]["schemas"]["io.k8s.api.apps.v1.DeploymentSpec"];
    assert_eq!(strategy["properties"]["strategy"]["x-kubernetes-patch-strategy"], "retainKeys");
    assert!(v3(&catalog, "apps", "v9").is_none());
    let scale = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"];
    assert_eq!(scale["patch"]["x-kubernetes-group-version-kind"]["kind"], "Scale");
}

#[test]
fn the_index_changes_with_a_definition() {
    let mut catalog = Catalog::builtin();
    let before = v3_index(&catalog);
    assert!(before["paths"]["api/v1"]["serverRelativeURL"].is_string());
    let schema = |kind: &str| json!({"type": "object", "properties": {"spec": {"type": kind, "nullable": true}}});
    let definition = |kind: &str| {
        json!({
            "metadata": {"name": "toys.example.dev"},
            "spec": {
                "group": "example.dev", "scope": "Cluster", "names": {"plural": "toys", "kind": "Toy"},
                "versions": [{"name": "v1", "served": true, "storage": true,
                    "schema": {"openAPIV3Schema": schema(kind)}}],
            },
        })
    };
    catalog.add_crd(&definition("string")).unwrap();
    let one = v3_index(&catalog);
    catalog.add_crd(&definition("integer")).unwrap();
    let two = v3_index(&catalog);
    assert_ne!(one["paths"]["apis/example.dev/v1"], two["paths"]["apis/example.dev/v1"]);
    assert_eq!(one["paths"]["api/v1"], before["paths"]["api/v1"]);
    let toy = &v2(&catalog)["definitions"]["dev.example.v1.Toy"];
    assert_eq!(toy["x-kubernetes-group-version-kind"][0]["kind"], "Toy");
    assert_eq!(toy["properties"]["spec"], json!({}));
    let toy =
        &v3(&catalog, "example.dev", "v1").unwrap()["components"]["schemas"]["dev.example.v1.Toy"];
    assert_eq!(toy["properties"]["spec"]["type"], "integer");
    let document = v3(&catalog, "example.dev", "v1").unwrap();
    let patch = &document["paths"]["/apis/example.dev/v1/toys/{name}"]["patch"];
    let bodies = patch["requestBody"]["content"].as_object().unwrap();
    assert!(!bodies.contains_key("application/strategic-merge-patch+json"));
}
