//! Programs with tokens, within their scopes and beyond.

use super::*;
use crate::tokens::Scope;

async fn ask(router: &Router, token: &str, method: &str, path: &str, sent: Value) -> StatusCode {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(sent.to_string()))
        .unwrap();
    router.clone().oneshot(request).await.unwrap().status()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_may_what_its_scope_and_its_account_both_may() {
    for ground in Ground::both().await {
        let owned = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
        let day = Duration::from_secs(24 * 3600);
        let make = async |name: &str, account: &str, namespaces: &[&str], verbs: &[&str]| {
            let scope = Scope { namespaces: owned(namespaces), verbs: owned(verbs) };
            ground.desk.tokens.add(name, account, &scope, day).await.unwrap()
        };
        let writes = make("ci", "ann", &["default"], &["get", "list", "create"]).await;
        let elsewhere = make("other", "ann", &["shop"], &["get", "list", "create"]).await;
        let weak = make("weak", "eve", &[], &["get", "list", "create"]).await;
        let router = &ground.router;
        let create =
            async |token: &str, name: &str| ask(router, token, "POST", MAPS, map(name)).await;
        assert_eq!(create(&writes, "a").await, StatusCode::CREATED);
        assert_eq!(create(&elsewhere, "b").await, StatusCode::FORBIDDEN, "the namespace");
        assert_eq!(create(&weak, "c").await, StatusCode::FORBIDDEN, "RBAC");
        let get =
            async |token: &str, path: &str| ask(router, token, "GET", path, Value::Null).await;
        assert_eq!(get(&writes, &format!("{MAPS}/a")).await, StatusCode::OK);
        assert_eq!(get(&weak, MAPS).await, StatusCode::OK);
        assert_eq!(get(&writes, &format!("{MAPS}?watch=true")).await, StatusCode::FORBIDDEN);
        for path in [
            "/k8s/api/v1/nodes",
            "/k8s/api/v1/namespaces/kube-system/configmaps",
            "/k8s/api/v1/namespaces/default/../kube-system/configmaps",
            "/session",
            "/acts",
            "/usage",
            "/shells",
            "/live?path=/api/v1/namespaces/default/configmaps",
        ] {
            let refused = [StatusCode::FORBIDDEN, StatusCode::BAD_REQUEST];
            assert!(refused.contains(&get(&writes, path).await), "{path}");
        }
        let gone = ask(router, &writes, "DELETE", &format!("{MAPS}/a"), json!({})).await;
        assert_eq!(gone, StatusCode::FORBIDDEN, "the verb");
        assert_eq!(get("berth_x", MAPS).await, StatusCode::UNAUTHORIZED);
        ground.desk.tokens.revoke("ci").await.unwrap();
        assert_eq!(get(&writes, MAPS).await, StatusCode::UNAUTHORIZED);

        let written = async {
            loop {
                let filter = Filter { account: "ann (token ci)".to_owned(), ..Filter::default() };
                let acts = ground.desk.acts.list(&filter).await.unwrap();
                if !acts.is_empty() {
                    return acts;
                }
                tokio::task::yield_now().await;
            }
        };
        let acts = tokio::time::timeout(LIMIT, written).await.unwrap();
        assert_eq!((acts[0].path.as_str(), acts[0].status), (&MAPS[4..], 201));
        ground.end().await;
    }
}
