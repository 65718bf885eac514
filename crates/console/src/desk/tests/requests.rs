//! Somebody asks for an account, and somebody else decides.

use berth_api::account;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::PostParams;

use super::*;
use crate::accounts::Request as Of;
use crate::acts::Act;

const REQUESTS: &str = "/k8s/apis/berth.dev/v1/accountrequests";
const RBAC: &str = "/k8s/apis/rbac.authorization.k8s.io/v1";

/// A ground that knows requests, with `ann`, who may do anything, and `lia`, who may approve, look
/// at `default` and give roles in it.
async fn ground(database: Database) -> (Ground, Browser, Browser) {
    let ground = Ground::start(database).await;
    let definitions = Api::<CustomResourceDefinition>::all(ground.admin.clone());
    definitions.create(&PostParams::default(), &account::definition()).await.unwrap();
    let established = kube::runtime::conditions::is_crd_established();
    let name = "accountrequests.berth.dev";
    let known = kube::runtime::wait::await_condition(definitions, name, established);
    tokio::time::timeout(LIMIT, known).await.unwrap().unwrap();
    // Its request went while no console ran.
    let gone = Of { name: "for-gus".to_owned(), uid: "no longer".to_owned() };
    ground.desk.accounts.grant("gus", PASSWORD, &[], &gone).await.unwrap();
    ground.desk.requests.follow(ground.desk.acts.clone(), &ground.tasks);
    let ann = ground.log_in("ann").await;
    let rule = |groups: &str, resources: &[&str], verbs: &[&str]| json!({ "apiGroups": [groups], "resources": resources, "verbs": verbs });
    let look = rule("", &["pods", "configmaps"], &["get", "list"]);
    let approve = [
        rule("berth.dev", &["accountrequests"], &["get", "approve"]),
        rule("berth.dev", &["accountrequests/status"], &["patch"]),
    ];
    let bind = rule("rbac.authorization.k8s.io", &["rolebindings"], &["create", "delete"]);
    for (name, rules) in [
        ("berth:viewer", json!([look])),
        ("berth:developer", json!([look, rule("", &["pods", "configmaps"], &["create"])])),
        ("approver", json!(approve)),
        ("lead", json!([look, bind])),
    ] {
        let role = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": { "name": name }, "rules": rules,
        });
        made(&ann, &format!("{RBAC}/clusterroles"), role).await;
    }
    bound(&ann, "clusterrolebindings", "approver", "lia").await;
    bound(&ann, "namespaces/default/rolebindings", "lead", "lia").await;
    ground.desk.accounts.add("lia", PASSWORD, &[]).await.unwrap();
    let lia = ground.log_in("lia").await;
    (ground, ann, lia)
}

async fn bound(ann: &Browser, path: &str, role: &str, user: &str) {
    let group = "rbac.authorization.k8s.io";
    let kind = if path.starts_with("cluster") { "ClusterRoleBinding" } else { "RoleBinding" };
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind,
        "metadata": { "name": format!("{role}-{user}") },
        "roleRef": { "apiGroup": group, "kind": "ClusterRole", "name": role },
        "subjects": [{ "apiGroup": group, "kind": "User", "name": user }],
    });
    made(ann, &format!("{RBAC}/{path}"), binding).await;
}

async fn made(ann: &Browser, path: &str, object: Value) {
    let answer = ann.send("POST", path, object).await;
    let status = answer.status();
    assert_eq!(status, StatusCode::CREATED, "{path}: {}", body(answer).await);
}

/// A request for an account of the name `who`; the object is named `for-WHO`.
async fn ask(ann: &Browser, who: &str, groups: &[&str], role: &str) {
    let object = json!({
        "apiVersion": "berth.dev/v1", "kind": "AccountRequest",
        "metadata": { "name": format!("for-{who}") },
        "spec": {
            "name": who, "groups": groups, "reason": "on call",
            "roles": [{ "namespace": "default", "role": role }],
        },
    });
    made(ann, REQUESTS, object).await;
}

async fn decide(who: &Browser, decision: &str, name: &str) -> (StatusCode, Value) {
    let sent = json!({ "decision": decision, "why": "who is that" });
    let answer = who.send("POST", &format!("/accounts/requests/{name}"), sent).await;
    (answer.status(), body(answer).await)
}

async fn status(ann: &Browser, name: &str) -> Value {
    body(ann.get(&format!("{REQUESTS}/{name}")).await).await["status"].take()
}

fn said(answer: &Value) -> &str {
    answer["message"].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_comes_of_a_request_and_goes_with_it() {
    for database in both().await {
        let (ground, ann, lia) = ground(database).await;
        let eve = ground.log_in("eve").await;
        ask(&ann, "ben", &[], "viewer").await;
        let (code, answer) = decide(&eve, "approve", "for-ben").await;
        assert_eq!(code, StatusCode::FORBIDDEN, "{answer}");
        assert!(said(&answer).contains("verb approve"), "{answer}");
        assert_eq!(status(&ann, "for-ben").await, Value::Null);

        let (code, answer) = decide(&lia, "approve", "for-ben").await;
        assert_eq!(code, StatusCode::OK, "{answer}");
        let password = answer["password"].as_str().unwrap();
        let told = status(&ann, "for-ben").await;
        assert_eq!((&told["phase"], &told["by"]), (&json!("Approved"), &json!("lia")), "{told}");
        let path = format!("{RBAC}/namespaces/default/rolebindings/account-for-ben-viewer");
        let binding = body(ann.get(&path).await).await;
        assert_eq!(binding["metadata"]["ownerReferences"][0]["name"], "for-ben", "{binding}");
        let entered = log_in(&ground.router, "ben", password).await;
        assert_eq!(entered.status(), StatusCode::OK);
        let cookie = entered.headers()[header::SET_COOKIE].to_str().unwrap();
        let cookie = cookie.split(';').next().unwrap().to_owned();
        let csrf = body(entered).await["csrf"].as_str().unwrap().to_owned();
        let ben = Browser { router: ground.router.clone(), cookie, csrf };
        assert_eq!(ben.get(MAPS).await.status(), StatusCode::OK);
        assert_eq!(ben.send("POST", MAPS, map("x")).await.status(), StatusCode::FORBIDDEN);
        assert_eq!(decide(&ann, "approve", "for-ben").await.0, StatusCode::CONFLICT, "again");
        assert_eq!(decide(&ann, "deny", "for-ben").await.0, StatusCode::CONFLICT, "too late");
        assert_eq!(status(&ann, "for-ben").await, told, "and what was decided stays told");

        // Git says more: it is given when somebody approves it who has it.
        let more =
            json!({ "spec": { "roles": [{ "namespace": "default", "role": "developer" }] } });
        let path = format!("{REQUESTS}/for-ben");
        let changed = ann.request("PATCH", &path);
        let changed = changed.body(Body::from(more.to_string())).unwrap();
        let (mut parts, sent) = changed.into_parts();
        let merge = http::HeaderValue::from_static("application/merge-patch+json");
        parts.headers.insert(header::CONTENT_TYPE, merge);
        let changed = ann.router.clone().oneshot(Request::from_parts(parts, sent)).await.unwrap();
        assert_eq!(changed.status(), StatusCode::OK);
        assert_eq!(ben.send("POST", MAPS, map("x")).await.status(), StatusCode::FORBIDDEN);
        let (code, answer) = decide(&lia, "approve", "for-ben").await;
        assert_eq!(code, StatusCode::FORBIDDEN, "{answer}");
        assert_eq!(ben.get(MAPS).await.status(), StatusCode::OK, "what was approved holds");
        let (code, answer) = decide(&ann, "approve", "for-ben").await;
        assert_eq!((code, &answer["password"]), (StatusCode::OK, &Value::Null), "{answer}");
        assert_eq!(ben.send("POST", MAPS, map("x")).await.status(), StatusCode::CREATED);
        let old = format!("{RBAC}/namespaces/default/rolebindings/account-for-ben-viewer");
        assert_eq!(ann.get(&old).await.status(), StatusCode::NOT_FOUND);

        assert_eq!(ann.send("DELETE", &path, json!({})).await.status(), StatusCode::OK);
        let gone = async {
            while ben.get("/session").await.status() != StatusCode::UNAUTHORIZED {
                tokio::task::yield_now().await;
            }
            loop {
                let acts = ground.desk.acts.list(&Filter::default()).await.unwrap();
                let ours = acts.iter().filter(|act| act.account == "berth-console");
                let told =
                    |act: &Act| ["/accounts/ben", "/accounts/gus"].contains(&act.path.as_str());
                if ours.filter(|act| told(act)).count() == 2 {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LIMIT, gone).await.unwrap();
        let names = ground.desk.accounts.list().await.unwrap();
        let names: Vec<&str> = names.iter().map(|account| account.name.as_str()).collect();
        assert_eq!(names, ["ann", "eve", "lia"], "those that came of no request stay");
        ground.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gives_what_they_have_not() {
    for database in both().await {
        let (ground, ann, lia) = ground(database).await;
        let refused = async |who: &str, words: &str| {
            let name = format!("for-{who}");
            let (code, answer) = decide(&lia, "approve", &name).await;
            assert!(code.is_client_error() && said(&answer).contains(words), "{who}: {answer}");
            let told = status(&ann, &name).await;
            assert_eq!(told["phase"], "Pending", "{told}");
            assert!(said(&told).contains(words), "it is told there too: {told}");
            let names = ground.desk.accounts.list().await.unwrap();
            assert!(names.iter().all(|account| account.name != who), "{names:?}");
            let path = format!("{RBAC}/namespaces/default/rolebindings");
            let bindings = body(ann.get(&path).await).await.to_string();
            assert!(!bindings.contains(&name), "{bindings}");
        };
        ask(&ann, "dev", &[], "developer").await;
        refused("dev", "configmaps").await;
        ask(&ann, "boss", &["berth:admins"], "viewer").await;
        refused("boss", "in the group berth:admins").await;
        ask(&ann, "root", &["system:masters"], "viewer").await;
        refused("root", "system:masters").await;
        // A certificate of this name has rights: its password would have them too.
        bound(&ann, "clusterrolebindings", "berth:developer", "carl").await;
        ask(&ann, "carl", &[], "viewer").await;
        refused("carl", "impersonate").await;
        for who in ["dev", "boss", "carl"] {
            let (code, answer) = decide(&ann, "approve", &format!("for-{who}")).await;
            assert_eq!(code, StatusCode::OK, "{who}: {answer}");
        }
        let (code, answer) = decide(&ann, "approve", "for-root").await;
        assert_eq!(code, StatusCode::CONFLICT, "not even by who may do anything: {answer}");

        ask(&ann, "eve", &[], "viewer").await;
        let (code, answer) = decide(&ann, "approve", "for-eve").await;
        assert_eq!(code, StatusCode::CONFLICT, "{answer}");
        assert!(said(&answer).contains("an account eve already"), "{answer}");
        let (code, _) = decide(&ann, "deny", "for-eve").await;
        assert_eq!(code, StatusCode::OK);
        let told = status(&ann, "for-eve").await;
        assert_eq!((&told["phase"], &told["message"]), (&json!("Denied"), &json!("who is that")));
        assert_eq!(decide(&ann, "deny", "for-eve").await.0, StatusCode::CONFLICT, "again");
        for name in ["nobody", "a%2Fb", "..", "%2e%2e%2fpods"] {
            let (code, _) = decide(&ann, "approve", name).await;
            assert!(code.is_client_error(), "{name}: {code}");
        }
        ground.end().await;
    }
}
