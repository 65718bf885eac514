//! People and their own: passwords, sessions, tokens; and those who look after others' accounts.

use super::*;

const NEXT: &str = "another one entirely";

/// Gives the user `name` what `rules` say, everywhere.
async fn may(ground: &Ground, name: &str, rules: Value) {
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let version = "rbac.authorization.k8s.io/v1";
    let role = json!({ "apiVersion": version, "kind": "ClusterRole",
        "metadata": { "name": name }, "rules": rules });
    let binding = json!({ "apiVersion": version, "kind": "ClusterRoleBinding",
        "metadata": { "name": format!("{name}-may") },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name }] });
    for (resource, object) in [("clusterroles", role), ("clusterrolebindings", binding)] {
        let request = Request::post(format!("{rbac}/{resource}"))
            .header(header::CONTENT_TYPE, "application/json")
            .body(object.to_string().into_bytes())
            .unwrap();
        ground.admin.request::<Value>(request).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn people_change_their_own_password_and_see_what_is_theirs() {
    for ground in Ground::both().await {
        let (eve, elsewhere) = (ground.log_in("eve").await, ground.log_in("eve").await);
        let ann = ground.log_in("ann").await;
        let life = Duration::from_secs(3600);
        let scope = crate::tokens::Scope { verbs: vec!["get".to_owned()], ..Default::default() };
        for (name, account) in [("ci", "eve"), ("other", "ann")] {
            ground.desk.tokens.add(name, account, &scope, life).await.unwrap();
        }
        let own = body(eve.get("/own").await).await;
        assert_eq!(
            (&own["account"]["name"], &own["account"]["provider"]),
            (&json!("eve"), &json!(false))
        );
        let sessions = own["sessions"].as_array().unwrap();
        assert_eq!(sessions.iter().filter(|one| one["here"] == true).count(), 1, "{own}");
        assert_eq!(sessions.len(), 2, "{own}");
        assert_eq!(own["tokens"].as_array().unwrap().len(), 1, "{own}");
        assert_eq!(own["tokens"][0]["name"], "ci");
        let told = own.to_string();
        assert!(!told.contains("csrf") && !told.contains("digest"), "no secret: {told}");

        let set = |old: &'static str, new: &'static str| {
            eve.send("POST", "/own/password", json!({ "old": old, "new": new }))
        };
        assert_eq!(set("wrong", NEXT).await.status(), StatusCode::FORBIDDEN);
        assert_eq!(set(PASSWORD, "short").await.status(), StatusCode::BAD_REQUEST);
        let mut forged = eve.request("POST", "/own/password").body(Body::empty()).unwrap();
        forged.headers_mut().remove("x-berth-csrf");
        let answer = eve.router.clone().oneshot(forged).await.unwrap();
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "from another page");
        assert_eq!(set(PASSWORD, NEXT).await.status(), StatusCode::OK);
        assert_eq!(eve.get("/session").await.status(), StatusCode::OK);
        assert_eq!(elsewhere.get("/session").await.status(), StatusCode::UNAUTHORIZED);
        let answer = log_in(&ground.router, "eve", NEXT).await;
        assert_eq!(answer.status(), StatusCode::OK);

        // Nobody ends somebody else's session, and one's own only once.
        let anns = body(ann.get("/own").await).await["sessions"][0]["session"]["id"].clone();
        let path = |id: &Value| format!("/own/sessions/{}", id.as_str().unwrap());
        let gone = eve.send("DELETE", &path(&anns), json!({})).await;
        assert_eq!(gone.status(), StatusCode::NOT_FOUND);
        assert_eq!(ann.get("/session").await.status(), StatusCode::OK);
        let own = body(eve.get("/own").await).await;
        let sessions = own["sessions"].as_array().unwrap();
        let other = sessions.iter().find(|one| one["here"] == false).unwrap();
        let path = path(&other["session"]["id"]);
        assert_eq!(eve.send("DELETE", &path, json!({})).await.status(), StatusCode::OK);
        assert_eq!(eve.send("DELETE", &path, json!({})).await.status(), StatusCode::NOT_FOUND);

        // Who sits down at an open browser does not guess for long.
        let mut refused = 0;
        while set("guessed", NEXT).await.status() == StatusCode::FORBIDDEN {
            refused += 1;
            assert!(refused < 10, "nobody slows this down");
        }
        assert_eq!(set(NEXT, PASSWORD).await.status(), StatusCode::TOO_MANY_REQUESTS);
        written(&ground, "eve", "password", 200).await;
        ground.end().await;
    }
}

/// Waits until the audit has such an act.
async fn written(ground: &Ground, account: &str, verb: &str, status: u16) {
    let found = async {
        loop {
            let filter = Filter { account: account.to_owned(), ..Filter::default() };
            let acts = ground.desk.acts.list(&filter).await.unwrap();
            if acts.iter().any(|act| act.verb == verb && act.status == status) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(LIMIT, found).await.is_ok(), "no {verb} by {account}: {status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_are_looked_after_by_who_has_as_much() {
    for ground in Ground::both().await {
        ground.desk.accounts.add("ops", PASSWORD, &[]).await.unwrap();
        ground.desk.accounts.add("kim", PASSWORD, &[]).await.unwrap();
        let rule = json!([{ "apiGroups": ["berth.dev"], "resources": ["accounts"],
            "verbs": ["get", "update"] }]);
        may(&ground, "ops", rule).await;
        let (ann, eve, ops, kim) = (
            ground.log_in("ann").await,
            ground.log_in("eve").await,
            ground.log_in("ops").await,
            ground.log_in("kim").await,
        );
        assert_eq!(eve.get("/people").await.status(), StatusCode::FORBIDDEN);
        let all = body(ops.get("/people").await).await;
        let names = all["items"].as_array().unwrap().iter().map(|one| one["name"].clone());
        assert_eq!(names.collect::<Vec<_>>(), ["ann", "eve", "kim", "ops"]);
        assert!(
            all["items"][0]["entered"].is_i64() && !all.to_string().contains("argon2"),
            "{all}"
        );

        let change = async |who: &Browser, name: &str, change: &str| {
            let path = format!("/people/{name}");
            let answer = who.send("POST", &path, json!({ "change": change })).await;
            (answer.status(), body(answer).await)
        };
        for what in ["disable", "enable", "password"] {
            assert_eq!(change(&eve, "kim", what).await.0, StatusCode::FORBIDDEN, "{what}");
            // Admins have more than an operator.
            assert_eq!(change(&ops, "ann", what).await.0, StatusCode::FORBIDDEN, "{what}");
            assert_eq!(change(&ann, "nobody", what).await.0, StatusCode::NOT_FOUND, "{what}");
            assert_eq!(change(&ann, "ann", what).await.0, StatusCode::CONFLICT, "{what}");
        }
        // Whoever sets a password could log in by it.
        assert_eq!(change(&ops, "kim", "password").await.0, StatusCode::FORBIDDEN);
        assert_eq!(change(&ops, "kim", "disable").await.0, StatusCode::OK);
        assert_eq!(kim.get("/session").await.status(), StatusCode::UNAUTHORIZED, "logged out");
        let answer = log_in(&ground.router, "kim", PASSWORD).await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(change(&ops, "kim", "enable").await.0, StatusCode::OK);
        let (status, made) = change(&ann, "kim", "password").await;
        assert_eq!(status, StatusCode::OK);
        let answer = log_in(&ground.router, "kim", made["password"].as_str().unwrap()).await;
        assert_eq!(answer.status(), StatusCode::OK);
        ground.desk.accounts.enter("lea", "https://id", "1", &[]).await.unwrap();
        assert_eq!(change(&ann, "lea", "password").await.0, StatusCode::CONFLICT, "a provider's");
        written(&ground, "ops", "disable", 403).await;
        written(&ground, "ann", "password", 200).await;
        ground.end().await;
    }
}
