//! Questions about users and access, answered as Kubernetes answers them. What is refused, and in
//! which words, was asked of a real kube-apiserver.

use http::Request;
use kube::client::Body;
use serde_json::{Value, json};

use crate::server::{Answer, MASTERS, PODS, Server, eventually, pod, refused, send};
use berth_apiserver::User;

const ACCESS: &str = "/apis/authorization.k8s.io/v1";
const WHO: &str = "/apis/authentication.k8s.io/v1";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

async fn allow(server: &Server, name: &str, rules: Value) {
    let role = json!({"metadata": {"name": name}, "rules": rules});
    server.create(&format!("{RBAC}/clusterroles"), &role).await.unwrap();
    let binding = json!({
        "metadata": {"name": name},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": name}],
        "roleRef": {"kind": "ClusterRole", "apiGroup": "rbac.authorization.k8s.io", "name": name},
    });
    server.create(&format!("{RBAC}/clusterrolebindings"), &binding).await.unwrap();
}

#[tokio::test]
async fn access_is_told_by_verb_resource_name_and_path() {
    let server = Server::start().await;
    let rules = json!([
        {"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list"]},
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["mine"], "verbs": ["*"]},
        {"apiGroups": ["apps"], "resources": ["*/scale"], "verbs": ["patch"]},
        {"apiGroups": ["x.example"], "resources": ["*"], "verbs": ["get"]},
        {"nonResourceURLs": ["/healthz", "/logs/*"], "verbs": ["get"]},
    ]);
    allow(&server, "ann", rules).await;
    let ask = async |attributes: Value| -> Value {
        let body = json!({"spec": {"user": "ann", "resourceAttributes": attributes}});
        server.create(&format!("{ACCESS}/subjectaccessreviews"), &body).await.unwrap()["status"]
            .clone()
    };
    let pods = json!({"verb": "get", "resource": "pods", "namespace": "default"});
    eventually("the role is seen", async || ask(pods.clone()).await["allowed"] == true).await;
    assert_eq!(
        ask(pods).await["reason"],
        "RBAC: allowed by ClusterRoleBinding \"ann\" of ClusterRole \"ann\" to User \"ann\""
    );
    for (verb, group, resource, sub, name, expected) in [
        ("get", "", "pods", "", "a", true),
        ("list", "", "pods", "", "", true),
        ("watch", "", "pods", "", "", false),
        ("*", "", "pods", "", "", false),
        ("get", "", "*", "", "", false),
        ("get", "*", "pods", "", "", false),
        ("get", "", "pods", "log", "a", true),
        ("get", "", "pods/log", "", "a", true),
        ("get", "", "pods", "exec", "a", false),
        ("delete", "", "secrets", "", "mine", true),
        ("*", "", "secrets", "", "mine", true),
        ("delete", "", "secrets", "", "other", false),
        ("list", "", "secrets", "", "", false),
        ("patch", "apps", "deployments", "scale", "a", true),
        ("patch", "apps", "deployments", "", "a", false),
        ("get", "x.example", "anything", "status", "a", true),
        ("get", "x.example", "*", "", "", true),
    ] {
        let attributes = json!({
            "verb": verb, "group": group, "resource": resource, "subresource": sub, "name": name,
        });
        assert_eq!(ask(attributes.clone()).await["allowed"], expected, "{attributes}");
    }
    for (path, verb, expected) in [
        ("/healthz", "get", true),
        ("/healthz", "post", false),
        ("/healthz/etcd", "get", false),
        ("/logs/a/b", "get", true),
        ("/logs", "get", false),
    ] {
        let body = json!({"spec": {
            "user": "ann", "nonResourceAttributes": {"path": path, "verb": verb},
        }});
        let answer = server.create(&format!("{ACCESS}/subjectaccessreviews"), &body).await.unwrap();
        assert_eq!(answer["status"]["allowed"], expected, "{verb} {path}");
    }
    let all = json!({"spec": {
        "groups": [MASTERS], "resourceAttributes": {"verb": "*", "resource": "*"},
    }});
    let answer = server.create(&format!("{ACCESS}/subjectaccessreviews"), &all).await.unwrap();
    assert_eq!(answer["status"], json!({"allowed": true}));
    server.stop().await;
}

#[tokio::test]
async fn questions_that_make_no_sense_are_refused() {
    let server = Server::start().await;
    let local = format!("{ACCESS}/namespaces/default/localsubjectaccessreviews");
    let (all, own) =
        (format!("{ACCESS}/subjectaccessreviews"), format!("{ACCESS}/selfsubjectaccessreviews"));
    let pods = json!({"verb": "get", "resource": "pods"});
    let path = json!({"verb": "get", "path": "/"});
    for (to, body, expected) in [
        (&all, json!({"spec": {"user": "a"}}), "exactly one of nonResourceAttributes"),
        (&all, json!({"spec": {"resourceAttributes": pods}}), "at least one of user or group"),
        (
            &all,
            json!({"spec": {
                "user": "a", "resourceAttributes": pods, "nonResourceAttributes": path,
            }}),
            "cannot be specified in combination with resourceAttributes",
        ),
        (
            &all,
            json!({"metadata": {"name": "x"}, "spec": {"user": "a", "resourceAttributes": pods}}),
            "must be empty",
        ),
        (&own, json!({}), "exactly one of nonResourceAttributes"),
        (
            &local,
            json!({"spec": {"user": "a", "resourceAttributes": pods}}),
            "must match metadata.namespace",
        ),
        (
            &local,
            json!({"spec": {"user": "a", "nonResourceAttributes": path}}),
            "disallowed on this kind of request",
        ),
    ] {
        let message = refused(server.create(to, &body).await, 422, "Invalid");
        assert!(message.contains(expected), "{message}");
    }
    let rules = format!("{ACCESS}/selfsubjectrulesreviews");
    let message = refused(server.create(&rules, &json!({})).await, 400, "BadRequest");
    assert_eq!(message, "no namespace on request");
    let tokens = format!("{WHO}/tokenreviews");
    let message = refused(server.create(&tokens, &json!({})).await, 400, "BadRequest");
    assert_eq!(message, "token is required for TokenReview in authentication");
    server.stop().await;
}

#[tokio::test]
async fn tokens_are_for_their_audiences_and_bound_to_what_is_named() {
    let server = Server::start().await;
    server.create(PODS, &pod("p")).await.unwrap();
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let token = async |spec: Value| -> String {
        let made = server.create(path, &json!({"spec": spec})).await.unwrap();
        made["status"]["token"].as_str().unwrap().to_owned()
    };
    let review = async |token: &str, audiences: Value| -> Value {
        let body = json!({"spec": {"token": token, "audiences": audiences}});
        server.create(&format!("{WHO}/tokenreviews"), &body).await.unwrap()["status"].clone()
    };
    let vault = token(json!({"audiences": ["vault", "other"]})).await;
    assert_eq!(review(&vault, json!(["x", "vault"])).await["audiences"], json!(["vault"]));
    let error = review(&vault, Value::Null).await;
    assert_eq!(error["authenticated"], Value::Null);
    let wrong = "is invalid for the target audiences";
    assert!(error["error"].as_str().unwrap().contains(wrong), "{error}");
    let own = review(&token(json!({})).await, Value::Null).await;
    assert_eq!(own["audiences"], json!(["https://kubernetes.default.svc.cluster.local"]));

    let bound = |kind: &str, name: &str, uid: &str| {
        json!({"spec": {"boundObjectRef": {
            "apiVersion": "v1", "kind": kind, "name": name, "uid": uid,
        }}})
    };
    let ask = async |body: Value| -> Answer { server.create(path, &body).await };
    let message = refused(ask(bound("ConfigMap", "a", "")).await, 400, "BadRequest");
    assert_eq!(message, "cannot bind token to object of type /v1, Kind=ConfigMap");
    refused(ask(bound("Secret", "none", "")).await, 404, "NotFound");
    refused(ask(bound("Pod", "p", "another")).await, 409, "Conflict");
    for (seconds, wrong) in [(599, "less than 10 minutes"), (1_i64 << 33, "larger than 2^32")] {
        let body = json!({"spec": {"expirationSeconds": seconds}});
        let message = refused(ask(body).await, 422, "Invalid");
        assert!(message.contains(wrong), "{message}");
    }
    let day = ask(json!({"spec": {"expirationSeconds": 90 * 24 * 3600}})).await.unwrap();
    assert_eq!(day["spec"]["expirationSeconds"], 48 * 3600, "no longer than two days");
    server.stop().await;
}

#[tokio::test]
async fn a_node_asks_for_tokens_of_its_own_pods_alone() {
    let server = Server::start().await;
    for (name, node) in [("mine", "n1"), ("theirs", "n2")] {
        let mut body = pod(name);
        body["spec"]["nodeName"] = json!(node);
        server.create(PODS, &body).await.unwrap();
    }
    let uid = async |name: &str| {
        server.get(&format!("{PODS}/{name}")).await.unwrap()["metadata"]["uid"].clone()
    };
    let (mine, theirs) = (uid("mine").await, uid("theirs").await);
    let agent = server.api.client(User::new("system:node:n1", &["system:nodes"]));
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let ask = async |bound: Value| -> Answer {
        let body = json!({"spec": {"boundObjectRef": bound}});
        send(&agent, "POST", path, "application/json", Some(&body)).await
    };
    let to = |name: &str, uid: &Value| json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid});
    ask(to("mine", &mine)).await.unwrap();
    for (bound, wrong) in [
        (Value::Null, "not bound to a pod"),
        (json!({"apiVersion": "v1", "kind": "Pod", "name": "mine"}), "without a uid"),
        (to("theirs", &theirs), "a different node"),
    ] {
        let message = refused(ask(bound).await, 403, "Forbidden");
        assert!(message.contains(wrong), "{message}");
    }
    server.stop().await;
}

#[tokio::test]
async fn impersonation_is_allowed_part_by_part() {
    let server = Server::start().await;
    allow(
        &server,
        "ann",
        json!([
            {"apiGroups": [""], "resources": ["users"], "resourceNames": ["bob"],
                "verbs": ["impersonate"]},
            {"apiGroups": [""], "resources": ["groups"], "resourceNames": ["devs"],
                "verbs": ["impersonate"]},
            {"apiGroups": ["authentication.k8s.io"], "resources": ["uids"],
                "resourceNames": ["u-1"], "verbs": ["impersonate"]},
            {"apiGroups": ["authentication.k8s.io"], "resources": ["userextras/a/b"],
                "resourceNames": ["x"], "verbs": ["impersonate"]},
        ]),
    )
    .await;
    let ann = server.user("ann");
    let ask = async |headers: &[(&str, &str)]| -> (u16, Value) {
        let request = Request::post(format!("{WHO}/selfsubjectreviews"));
        let request = headers.iter().fold(request, |all, (name, value)| all.header(*name, *value));
        let body = Body::from(b"{}".to_vec());
        let response = ann.send(request.body(body).unwrap()).await.unwrap();
        let code = response.status().as_u16();
        let bytes = response.into_body().collect_bytes().await.unwrap();
        (code, serde_json::from_slice(&bytes).unwrap())
    };
    let bob = ("impersonate-user", "bob");
    eventually("the role is seen", async || ask(&[bob]).await.0 == 201).await;
    let whole = [
        bob,
        ("impersonate-group", "devs"),
        ("impersonate-uid", "u-1"),
        ("impersonate-extra-a%2fb", "x"),
    ];
    let (code, answer) = ask(&whole).await;
    assert_eq!(code, 201, "{answer}");
    assert_eq!(
        answer["status"]["userInfo"],
        json!({
            "username": "bob", "uid": "u-1", "groups": ["devs", "system:authenticated"],
            "extra": {"a/b": ["x"]},
        })
    );
    for more in [
        ("impersonate-group", MASTERS),
        ("impersonate-uid", "u-2"),
        ("impersonate-extra-a%2fb", "y"),
        ("impersonate-extra-other", "x"),
    ] {
        assert_eq!(ask(&[bob, more]).await.0, 403, "{more:?}");
    }
    assert_eq!(ask(&[("impersonate-user", "eve")]).await.0, 403);
    assert_eq!(ask(&[("impersonate-group", "devs")]).await.0, 400, "a group of whom?");
    let nobody = Request::get(PODS).header("impersonate-user", "system:anonymous");
    let answer = server.admin().send(nobody.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 403, "who acts as nobody has proved who he is");
    server.stop().await;
}
