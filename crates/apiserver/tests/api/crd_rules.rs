//! Rules in CEL that a custom resource's schema lays down.

use serde_json::{Value, json};

use crate::server::{Server, eventually, refused};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const DATABASES: &str = "/apis/db.example.com/v1/namespaces/default/databases";

/// A database operator's definition: rules on the object, on a list's items and on a map's values.
fn definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "databases.db.example.com"},
        "spec": {
            "group": "db.example.com",
            "scope": "Namespaced",
            "names": {"plural": "databases", "kind": "Database", "shortNames": ["dbs"]},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "x-kubernetes-validations": [
                        {"rule": "self.metadata.name.size() <= 12", "message": "name is too long"},
                    ],
                    "properties": {"spec": {
                        "type": "object",
                        "required": ["engine"],
                        "x-kubernetes-validations": [{
                            "rule": "self.users.all(u, self.users.exists_one(o, o.name == u.name))",
                            "message": "users must be unique",
                        }],
                        "properties": {
                            "engine": {"type": "string", "enum": ["postgres", "mysql"],
                                "x-kubernetes-validations": [{
                                    "rule": "self == oldSelf", "message": "engine is immutable"}]},
                            "replicas": {"type": "integer", "default": 1,
                                "x-kubernetes-validations": [{
                                    "rule": "self % 2 == 1", "reason": "FieldValueForbidden",
                                    "messageExpression": "'%d is no odd number'.format([self])"}]},
                            "users": {"type": "array", "default": [], "items": {
                                "type": "object", "properties": {"name": {"type": "string"}}}},
                            "parameters": {"type": "object", "additionalProperties": {
                                "type": "string", "x-kubernetes-validations": [{
                                    "rule": "isQuantity(self)", "message": "must be a quantity"}]}},
                        },
                    }},
                }},
            }],
        },
    })
}

fn database(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "db.example.com/v1", "kind": "Database",
        "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn rules_hold_for_every_write() {
    let server = Server::start().await;
    server.create(DEFINITIONS, &definition()).await.unwrap();
    eventually("served", async || server.get(DATABASES).await.is_ok()).await;
    let good = database("good", json!({"engine": "postgres", "replicas": 3}));
    let made = server.create(DATABASES, &good).await.unwrap();
    assert_eq!(made["spec"]["users"], json!([]));
    let check = async |name: &str, spec: Value, expected: &str| {
        let message =
            refused(server.create(DATABASES, &database(name, spec)).await, 422, "Invalid");
        assert!(message.contains(expected), "{message}");
    };
    let even = "spec.replicas: Forbidden: 2 is no odd number";
    check("a", json!({"engine": "mysql", "replicas": 2}), even).await;
    let long = "Invalid value: \"object\": name is too long";
    check("a-very-long-name", json!({"engine": "mysql"}), long).await;
    let twice = json!({"engine": "mysql", "users": [{"name": "x"}, {"name": "x"}]});
    check("b", twice, "spec: Invalid value: \"object\": users must be unique").await;
    let wrong = json!({"engine": "mysql", "parameters": {"mem": "lots"}});
    check("c", wrong, "spec.parameters[mem]: Invalid value: \"string\": must be a quantity").await;
    let patch = json!({"spec": {"engine": "mysql"}});
    let one = format!("{DATABASES}/good");
    let message = refused(server.patch(&one, "merge-patch+json", &patch).await, 422, "Invalid");
    assert!(message.contains("spec.engine: Invalid value: \"string\": engine is immutable"));
    let patch = json!({"spec": {"replicas": 5}});
    server.patch(&one, "merge-patch+json", &patch).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn what_an_older_schema_let_in_may_stay() {
    let server = Server::start().await;
    let mut loose = definition();
    let schema = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/replicas";
    let rules = loose.pointer_mut(schema).unwrap()["x-kubernetes-validations"].take();
    loose.pointer_mut(schema).unwrap().as_object_mut().unwrap().remove("x-kubernetes-validations");
    server.create(DEFINITIONS, &loose).await.unwrap();
    eventually("served", async || server.get(DATABASES).await.is_ok()).await;
    let even = database("even", json!({"engine": "mysql", "replicas": 2}));
    server.create(DATABASES, &even).await.unwrap();
    let path = format!("{DEFINITIONS}/databases.db.example.com");
    let body = json!([{"op": "add", "value": rules, "path":
        format!("{schema}/x-kubernetes-validations")}]);
    server.patch(&path, "json-patch+json", &body).await.unwrap();
    let other = database("other", json!({"engine": "mysql", "replicas": 2}));
    let url = format!("{DATABASES}?dryRun=All");
    eventually("in force", async || server.create(&url, &other).await.is_err()).await;
    let one = format!("{DATABASES}/even");
    let patch = json!({"metadata": {"labels": {"a": "b"}}});
    server.patch(&one, "merge-patch+json", &patch).await.unwrap();
    let patch = json!({"spec": {"replicas": 4}});
    refused(server.patch(&one, "merge-patch+json", &patch).await, 422, "Invalid");
    server.stop().await;
}

#[tokio::test]
async fn a_definition_whose_rule_does_not_compile_is_refused() {
    let server = Server::start().await;
    let check = async |rule: &str, expected: &str| {
        let mut wrong = definition();
        let schema = &mut wrong["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        schema["properties"]["spec"]["x-kubernetes-validations"][0]["rule"] = json!(rule);
        let message = refused(server.create(DEFINITIONS, &wrong).await, 422, "Invalid");
        let at = "spec.versions[0].schema.openAPIV3Schema.properties[spec].\
                  x-kubernetes-validations[0].rule: Invalid value";
        assert!(message.contains(at) && message.contains(expected), "{message}");
    };
    check("self.replicas >", "Syntax error").await;
    check("self.replica > 1", "undefined field 'replica'").await;
    check("self.replicas", "must evaluate to bool").await;
    check("self.replicas > limit", "undeclared reference to 'limit'").await;
    server.stop().await;
}

#[tokio::test]
async fn an_endless_rule_is_cut_off_and_others_go_on() {
    let server = Server::start().await;
    let mut slow = definition();
    let schema = &mut slow["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    schema["properties"]["spec"]["x-kubernetes-validations"][0]["rule"] = json!(
        "self.users.all(a, self.users.all(b, self.users.all(c, a.name + b.name + c.name != 'x')))"
    );
    server.create(DEFINITIONS, &slow).await.unwrap();
    eventually("served", async || server.get(DATABASES).await.is_ok()).await;
    let users: Vec<Value> = (0..2000).map(|at| json!({"name": format!("u{at}")})).collect();
    let large = database("large", json!({"engine": "mysql", "users": users}));
    let started = std::time::Instant::now();
    let (refusal, other) =
        tokio::join!(server.create(DATABASES, &large), server.get("/api/v1/pods"));
    let message = refused(refusal, 422, "Invalid");
    assert!(message.contains("running out of cost budget"), "{message}");
    other.unwrap();
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
    server.stop().await;
}

#[tokio::test]
async fn names_that_are_taken_wait_until_they_are_free() {
    let server = Server::start().await;
    server.create(DEFINITIONS, &definition()).await.unwrap();
    eventually("served", async || server.get(DATABASES).await.is_ok()).await;
    let mut second = definition();
    second["metadata"]["name"] = json!("stores.db.example.com");
    second["spec"]["names"] = json!({"plural": "stores", "kind": "Store", "shortNames": ["dbs"]});
    let version = &mut second["spec"]["versions"][0];
    version["deprecated"] = json!(true);
    version["selectableFields"] = json!([{"jsonPath": ".spec.engine"}]);
    server.create(DEFINITIONS, &second).await.unwrap();
    let path = format!("{DEFINITIONS}/stores.db.example.com");
    let condition = async |kind: &str| {
        let got = server.get(&path).await.unwrap();
        let all = got["status"]["conditions"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|one| one["type"] == kind).unwrap_or_default()
    };
    eventually("refused", async || condition("NamesAccepted").await["status"] == "False").await;
    let refused = condition("NamesAccepted").await;
    assert_eq!(refused["reason"], "ShortNamesConflict");
    assert_eq!(refused["message"], "\"dbs\" is already in use");
    let stores = "/apis/db.example.com/v1/namespaces/default/stores";
    assert!(server.get(stores).await.is_err());
    let first = format!("{DEFINITIONS}/databases.db.example.com");
    server.send("DELETE", &first, None).await.unwrap();
    eventually("accepted", async || condition("Established").await["status"] == "True").await;
    for (name, engine) in [("a", "mysql"), ("b", "postgres")] {
        let store = json!({"apiVersion": "db.example.com/v1", "kind": "Store",
            "metadata": {"name": name}, "spec": {"engine": engine}});
        server.create(stores, &store).await.unwrap();
    }
    let found = server.get(&format!("{stores}?fieldSelector=spec.engine=mysql")).await.unwrap();
    assert_eq!(found["items"].as_array().unwrap().len(), 1);
    assert_eq!(found["items"][0]["metadata"]["name"], "a");
    server.stop().await;
}
