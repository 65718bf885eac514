//! Who may what.

use kube::Client;
use serde_json::{Value, json};

use crate::server::{CONFIG_MAPS, PODS, Server, config_map, eventually, pod, refused, send};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

async fn get(client: &Client, path: &str) -> crate::server::Answer {
    send(client, "GET", path, "application/json", None).await
}

fn role(kind: &str, name: &str, verbs: &[&str], resources: &[&str]) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": name},
        "rules": [{"verbs": verbs, "apiGroups": [""], "resources": resources}],
    })
}

fn binding(name: &str, role: &str, user: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": name},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user}],
        "roleRef": {"kind": "Role", "apiGroup": "rbac.authorization.k8s.io", "name": role},
    })
}

#[tokio::test]
async fn a_user_may_what_a_role_bound_to_him_allows_there() {
    let server = Server::start().await;
    let bob = server.user("bob");
    let message = refused(get(&bob, CONFIG_MAPS).await, 403, "Forbidden");
    assert_eq!(
        message,
        "configmaps is forbidden: User \"bob\" cannot list resource \"configmaps\" in API group \
         \"\" in the namespace \"default\""
    );
    let in_default = format!("{RBAC}/namespaces/default");
    let reader = role("Role", "reader", &["get", "list"], &["configmaps"]);
    server.create(&format!("{in_default}/roles"), &reader).await.unwrap();
    let bound = binding("bob", "reader", "bob");
    server.create(&format!("{in_default}/rolebindings"), &bound).await.unwrap();
    eventually("allowed", async || get(&bob, CONFIG_MAPS).await.is_ok()).await;
    refused(get(&bob, "/api/v1/configmaps").await, 403, "Forbidden");
    let body = config_map("a", json!({}));
    let create = send(&bob, "POST", CONFIG_MAPS, "application/json", Some(&body)).await;
    refused(create, 403, "Forbidden");
    server.send("DELETE", &format!("{in_default}/rolebindings/bob"), None).await.unwrap();
    eventually("refused again", async || get(&bob, CONFIG_MAPS).await.is_err()).await;
    server.stop().await;
}

#[tokio::test]
async fn nobody_grants_what_he_does_not_hold() {
    let server = Server::start().await;
    let in_default = format!("{RBAC}/namespaces/default");
    let mut granter = role("Role", "granter", &["get"], &["configmaps"]);
    granter["rules"].as_array_mut().unwrap().push(json!({
        "verbs": ["create"],
        "apiGroups": ["rbac.authorization.k8s.io"],
        "resources": ["roles", "rolebindings"],
    }));
    server.create(&format!("{in_default}/roles"), &granter).await.unwrap();
    let bound = binding("bob", "granter", "bob");
    server.create(&format!("{in_default}/rolebindings"), &bound).await.unwrap();
    let bob = server.user("bob");
    eventually("allowed", async || {
        get(&bob, &format!("{CONFIG_MAPS}/x")).await.is_err_and(|r| r.code == 404)
    })
    .await;
    let roles = format!("{in_default}/roles");
    let more = role("Role", "more", &["get"], &["secrets"]);
    let refusal = send(&bob, "POST", &roles, "application/json", Some(&more)).await;
    let message = refused(refusal, 403, "Forbidden");
    assert!(message.contains("not currently held"), "{message}");
    let same = role("Role", "same", &["get"], &["configmaps"]);
    send(&bob, "POST", &roles, "application/json", Some(&same)).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn aggregated_roles_hold_what_their_parts_hold() {
    let server = Server::start().await;
    let mut bound = binding("al", "view", "al");
    bound["roleRef"]["kind"] = json!("ClusterRole");
    server.create(&format!("{RBAC}/namespaces/default/rolebindings"), &bound).await.unwrap();
    let al = server.user("al");
    eventually("allowed", async || get(&al, PODS).await.is_ok()).await;
    refused(get(&al, "/api/v1/namespaces/default/secrets").await, 403, "Forbidden");
    server.stop().await;
}

#[tokio::test]
async fn a_token_holds_as_long_as_what_it_is_bound_to() {
    let server = Server::start().await;
    server.create(PODS, &pod("p")).await.unwrap();
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p"}},
    });
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let made = server.create(path, &request).await.unwrap();
    let token = made["status"]["token"].as_str().unwrap();
    let review = |token: &str| {
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": token},
        });
        let server = &server;
        async move {
            let path = "/apis/authentication.k8s.io/v1/tokenreviews";
            server.create(path, &body).await.unwrap()["status"].clone()
        }
    };
    let held = review(token).await;
    assert_eq!(held["authenticated"], true);
    assert_eq!(held["user"]["username"], "system:serviceaccount:default:default");
    assert_eq!(held["user"]["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
    assert!(review("made.up.token").await.get("authenticated").is_none());

    server.send("DELETE", &format!("{PODS}/p"), None).await.unwrap();
    assert!(review(token).await.get("authenticated").is_none(), "the pod is gone");

    let unbound = json!({"spec": {"expirationSeconds": 600}});
    let made = server.create(path, &unbound).await.unwrap();
    let token = made["status"]["token"].as_str().unwrap();
    assert_eq!(review(token).await["authenticated"], true);
    let account = "/api/v1/namespaces/default/serviceaccounts/default";
    server.send("DELETE", account, None).await.unwrap();
    assert!(review(token).await.get("authenticated").is_none(), "the account is gone");
    let again = json!({"metadata": {"name": "default"}});
    server.create("/api/v1/namespaces/default/serviceaccounts", &again).await.unwrap();
    assert!(review(token).await.get("authenticated").is_none(), "the account is another one");
    server.stop().await;
}

#[tokio::test]
async fn impersonation_needs_its_own_right() {
    let server = Server::start().await;
    let as_bob = |client: Client| async move {
        let request = http::Request::get(CONFIG_MAPS).header("impersonate-user", "bob");
        client.request_text(request.body(Vec::new()).unwrap()).await
    };
    let kube::Error::Api(status) = as_bob(server.admin()).await.unwrap_err() else {
        panic!("not a refusal")
    };
    assert!(status.message.contains("User \"bob\" cannot list"), "{}", status.message);
    let kube::Error::Api(status) = as_bob(server.user("eve")).await.unwrap_err() else {
        panic!("not a refusal")
    };
    assert!(status.message.contains("cannot impersonate resource \"users\""), "{}", status.message);
    server.stop().await;
}

#[tokio::test]
async fn a_user_learns_what_he_may() {
    let server = Server::start().await;
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let ask = |verb: &str| {
        json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {"verb": verb, "resource": "pods", "namespace": "default"}},
        })
    };
    let bob = server.user("bob");
    let answer = send(&bob, "POST", path, "application/json", Some(&ask("list"))).await.unwrap();
    assert_eq!(answer["status"]["allowed"], false);
    let answer = server.create(path, &ask("list")).await.unwrap();
    assert_eq!(answer["status"]["allowed"], true);
    let who = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let answer = send(&bob, "POST", path, "application/json", Some(&who)).await.unwrap();
    assert_eq!(answer["status"]["userInfo"]["username"], "bob");
    server.stop().await;
}
