//! `ValidatingAdmissionPolicy` and its bindings.

use serde_json::{Value, json};

use crate::server::{CONFIG_MAPS, Server, config_map, eventually, refused, send};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

fn policy(name: &str, mut spec: Value) -> Value {
    if spec["matchConstraints"].is_null() {
        spec["matchConstraints"] = json!({"resourceRules": [{"operations": ["CREATE", "UPDATE"],
            "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]});
    }
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name}, "spec": spec})
}

fn binding(name: &str, mut spec: Value) -> Value {
    spec["policyName"] = json!(name);
    json!({"apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": name}, "spec": spec})
}

async fn put_in_force(server: &Server, name: &str, spec: Value, bound: Value) {
    let policies = format!("{GROUP}/validatingadmissionpolicies");
    server.create(&policies, &policy(name, spec)).await.unwrap();
    let bindings = format!("{GROUP}/validatingadmissionpolicybindings");
    server.create(&bindings, &binding(name, bound)).await.unwrap();
}

#[tokio::test]
async fn a_policy_denies_what_its_rules_refuse() {
    let server = Server::start().await;
    let spec = json!({
        "variables": [{"name": "owner", "expression": "object.?data.?owner.orValue('')"}],
        "matchConditions": [{"name": "not-root-ca",
            "expression": "object.metadata.name != 'kube-root-ca.crt'"}],
        "validations": [{"expression": "variables.owner != ''", "reason": "Forbidden",
            "messageExpression": "object.metadata.name + ' has no owner'"}],
    });
    put_in_force(&server, "owner", spec, json!({"validationActions": ["Deny"]})).await;
    let bad = config_map("bad", json!({"a": "b"}));
    let url = format!("{CONFIG_MAPS}?dryRun=All");
    eventually("in force", async || server.create(&url, &bad).await.is_err()).await;
    let message = refused(server.create(CONFIG_MAPS, &bad).await, 403, "Forbidden");
    assert_eq!(
        message,
        "configmaps \"bad\" is forbidden: ValidatingAdmissionPolicy 'owner' with binding 'owner' \
         denied request: bad has no owner"
    );
    let good = config_map("good", json!({"owner": "me"}));
    server.create(CONFIG_MAPS, &good).await.unwrap();
    let one = format!("{CONFIG_MAPS}/good");
    let patch = json!({"data": {"owner": null}});
    refused(server.patch(&one, "merge-patch+json", &patch).await, 403, "Forbidden");
    let path = format!("{GROUP}/validatingadmissionpolicybindings/owner");
    server.send("DELETE", &path, None).await.unwrap();
    eventually("out of force", async || server.create(&url, &bad).await.is_ok()).await;
    server.stop().await;
}

#[tokio::test]
async fn parameters_and_permissions_are_part_of_the_judgement() {
    let server = Server::start().await;
    server.create(CONFIG_MAPS, &config_map("limits", json!({"most": "2"}))).await.unwrap();
    let spec = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "matchConditions": [{"name": "mere-mortals", "expression":
            "!authorizer.group('').resource('configmaps').namespace(request.namespace)\
             .check('overrule').allowed()"}],
        "validations": [{"expression": "size(object.data) <= int(params.data.most)",
            "message": "too many keys"}],
    });
    let bound = json!({"validationActions": ["Deny"],
        "paramRef": {"name": "limits", "parameterNotFoundAction": "Deny"}});
    put_in_force(&server, "keys", spec, bound).await;
    let grant = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": "writer"}, "rules": [
            {"verbs": ["create"], "apiGroups": [""], "resources": ["configmaps"]}]});
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    server.create(&format!("{rbac}/roles"), &grant).await.unwrap();
    let bound = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "bob"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "bob"}],
        "roleRef": {"kind": "Role", "apiGroup": "rbac.authorization.k8s.io", "name": "writer"}});
    server.create(&format!("{rbac}/rolebindings"), &bound).await.unwrap();
    let many = config_map("many", json!({"a": "1", "b": "2", "c": "3"}));
    let bob = server.user("bob");
    let url = format!("{CONFIG_MAPS}?dryRun=All");
    eventually("in force", async || {
        let answer = send(&bob, "POST", &url, "application/json", Some(&many)).await;
        answer
            .is_err_and(|failure| failure.code == 422 && failure.message.contains("too many keys"))
    })
    .await;
    let few = config_map("few", json!({"a": "1", "b": "2"}));
    send(&bob, "POST", CONFIG_MAPS, "application/json", Some(&few)).await.unwrap();
    // The administrator may do anything, overruling included.
    server.create(CONFIG_MAPS, &many).await.unwrap();
    server.send("DELETE", &format!("{CONFIG_MAPS}/limits"), None).await.unwrap();
    let answer = send(&bob, "POST", &url, "application/json", Some(&few)).await;
    let message = refused(answer, 422, "Invalid");
    assert!(message.contains("no params found for policy binding"), "{message}");
    server.stop().await;
}

#[tokio::test]
async fn malformed_policies_are_refused_at_the_field() {
    let server = Server::start().await;
    let check = async |spec: Value, expected: &str| {
        let url = format!("{GROUP}/validatingadmissionpolicies");
        let message = refused(server.create(&url, &policy("x", spec)).await, 422, "Invalid");
        assert!(message.contains(expected), "{message}");
    };
    check(
        json!({"validations": [{"expression": "object.x =="}]}),
        "spec.validations[0].expression: Invalid value: \"object.x ==\": compilation failed",
    )
    .await;
    check(json!({"validations": [{"expression": "params.x"}]}), "undeclared reference to 'params'")
        .await;
    check(json!({}), "spec.validations: Required value").await;
    let url = format!("{GROUP}/validatingadmissionpolicybindings");
    let wrong = binding("x", json!({"validationActions": ["Deny", "Warn"]}));
    let message = refused(server.create(&url, &wrong).await, 422, "Invalid");
    assert!(message.contains("must not contain both Deny and Warn"), "{message}");
    server.stop().await;
}
