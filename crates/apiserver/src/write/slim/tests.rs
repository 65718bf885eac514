//! What is cut out of an object and put back, byte by byte.

use berth_schema::Catalog;
use berth_store::Revision;

use super::*;

fn entry(resource: &Resource, object: &Value) -> Entry {
    Entry {
        key: record::key(resource, "default", "a"),
        value: record::encode(resource, object).unwrap(),
        created: Revision(3),
        modified: Revision(7),
    }
}

fn pod() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "a",
            "namespace": "default",
            "resourceVersion": "7",
            "labels": {"app": "\u{1f6a2} \"quoted\""},
            "managedFields": [{
                "manager": "kubectl", "operation": "Update", "apiVersion": "v1",
                "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1",
                "fieldsV1": {"f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}}}}},
            }],
        },
        "spec": {"containers": [{"name": "c", "image": "i"}], "priority": 0},
        "status": {"phase": "Pending"},
    })
}

#[test]
fn what_is_not_changed_is_written_as_it_was() {
    let catalog = Catalog::builtin();
    let pods = catalog.resource("", "v1", "pods").unwrap();
    let entry = entry(pods, &pod());
    let slim = Slim::of(pods, &entry).unwrap();
    assert_eq!(slim.object["spec"], json!({}));
    assert_eq!(slim.object["metadata"].get(MANAGED), None);
    let mut new = slim.object.clone();
    new["metadata"][MANAGED] = json!(slim.entries);
    assert!(slim.is_same(&new));
    assert_eq!(slim.encode(pods, &new).unwrap(), entry.value);
    new["metadata"][MANAGED][0]["time"] = json!("2026-01-02T00:00:00Z");
    assert!(slim.is_same(&new));
    new["metadata"]["labels"]["app"] = json!("b");
    assert!(!slim.is_same(&new));
}

#[test]
fn a_binding_puts_the_node_into_the_text_of_the_spec() {
    let catalog = Catalog::builtin();
    let pods = catalog.resource("", "v1", "pods").unwrap();
    let entry = entry(pods, &pod());
    let slim = Slim::of(pods, &entry).unwrap();
    let mut new = slim.object.clone();
    new["spec"]["nodeName"] = json!("n1");
    new["metadata"][MANAGED] = json!(slim.entries);
    let mut whole = pod();
    whole["spec"]["nodeName"] = json!("n1");
    assert_eq!(slim.encode(pods, &new).unwrap(), record::encode(pods, &whole).unwrap());
}

#[test]
fn a_pod_of_an_unknown_form_is_not_for_this_way() {
    let catalog = Catalog::builtin();
    let pods = catalog.resource("", "v1", "pods").unwrap();
    for (field, value) in [("extra", json!({})), ("spec", Value::Null)] {
        let mut odd = pod();
        odd[field] = value;
        assert!(Slim::of(pods, &entry(pods, &odd)).is_none(), "{field}");
    }
}
