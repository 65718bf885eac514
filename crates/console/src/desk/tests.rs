//! People and attackers at a desk before a whole API server in this process, on SQLite and on a
//! PostgreSQL.

mod oidc;
mod people;
mod requests;
mod shell;
mod token;

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::response::Response;
use berth_apiserver::{ApiServer, Pki, Sans, ServiceRange, User};
use berth_daemon::Tasks;
use berth_store::{Embedded, Options};
use futures::StreamExt;
use http::{Request, StatusCode, header};
use serde_json::{Value, json};
use sqlx::AnyPool;
use tower::ServiceExt;

use super::*;
use crate::acts::Filter;
use crate::components::Components;
use crate::database::both::{Database, both};
use crate::shell::Limits;

const PASSWORD: &str = "correct horse battery";
/// What must come true does within this, or never.
const LIMIT: Duration = Duration::from_secs(30);
const MAPS: &str = "/k8s/api/v1/namespaces/default/configmaps";

struct Ground {
    desk: Desk,
    _database: Database,
    router: Router,
    admin: Client,
    tasks: Tasks,
    _dir: tempfile::TempDir,
}

/// A browser that has logged in.
struct Browser {
    router: Router,
    cookie: String,
    csrf: String,
}

impl Ground {
    /// One for each kind of database.
    async fn both() -> Vec<Self> {
        let mut all = Vec::new();
        for database in both().await {
            all.push(Self::start(database).await);
        }
        all
    }

    async fn start(database: Database) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tasks = Tasks::new();
        let store = Embedded::open(&dir.path().join("store"), Options::default()).await.unwrap();
        let pki = Pki::load_or_create(&dir.path().join("pki"), &Sans::default(), "node").unwrap();
        let config = berth_apiserver::Config {
            advertise: ([127, 0, 0, 1], 6443).into(),
            service_range: ServiceRange::new("10.90.0.0/16".parse().unwrap()).unwrap(),
            node_ports: 30000..=32767,
            pki,
            cluster_domain: "cluster.local".to_owned(),
        };
        let server = ApiServer::open(config, Arc::new(store), &tasks).await.unwrap();
        let admin = server.client(User::new("admin", &["system:masters"]));
        let desk = desk(&database.pool, &admin, &tasks, Limits::default()).await;
        Self { router: routes(desk.clone()), desk, admin, tasks, _database: database, _dir: dir }
    }

    async fn log_in(&self, name: &str) -> Browser {
        let answer = log_in(&self.router, name, PASSWORD).await;
        assert_eq!(answer.status(), StatusCode::OK);
        let cookie = answer.headers()[header::SET_COOKIE].to_str().unwrap().to_owned();
        for flag in ["Secure", "HttpOnly", "SameSite=Strict", "Path=/"] {
            assert!(cookie.contains(flag), "{cookie}");
        }
        let cookie = cookie.split(';').next().unwrap().to_owned();
        let csrf = body(answer).await["csrf"].as_str().unwrap().to_owned();
        Browser { router: self.router.clone(), cookie, csrf }
    }

    async fn end(self) {
        self.tasks.stop(Duration::from_secs(5)).await;
    }
}

/// The desk of `admin`'s cluster, with `ann`, who may do anything, and `eve`, who may look at the
/// namespace default.
async fn desk(pool: &AnyPool, admin: &Client, tasks: &Tasks, limits: Limits) -> Desk {
    bind(admin, "ClusterRoleBinding", "cluster-admin", "berth:admins").await;
    bind(admin, "RoleBinding", "view", "berth:viewers").await;
    let pool = pool.clone();
    let acts = Acts::start(pool.clone(), tasks);
    let accounts = Accounts::new(pool.clone());
    let desk = Desk {
        requests: Requests::new(admin.clone(), accounts.clone()),
        accounts,
        sessions: Sessions::new(pool.clone()),
        throttle: Arc::default(),
        tokens: Tokens::new(pool.clone()),
        provider: None,
        usage: Usage::new(pool.clone()),
        shells: Shells::start(pool.clone(), admin.clone(), tasks, limits),
        scalings: Scalings::start(pool, admin.clone(), acts.clone(), tasks),
        acts,
        debug_image: Some("tools:1".to_owned()),
        components: Components::new(admin.clone()),
        feeds: Feeds::new(admin.clone(), tasks),
        trends: Trends::start(admin.clone(), tasks),
        client: admin.clone(),
    };
    for (name, group) in [("ann", "berth:admins"), ("eve", "berth:viewers")] {
        desk.accounts.add(name, PASSWORD, &[group.to_owned()]).await.unwrap();
    }
    desk
}

async fn bind(client: &Client, kind: &str, role: &str, group: &str) {
    let (path, namespace) = match kind {
        "RoleBinding" => ("namespaces/default/rolebindings", "default"),
        _ => ("clusterrolebindings", ""),
    };
    let object = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind,
        "metadata": { "name": group, "namespace": namespace },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group }],
    });
    let request = Request::post(format!("/apis/rbac.authorization.k8s.io/v1/{path}"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(object.to_string().into_bytes())
        .unwrap();
    client.request::<Value>(request).await.unwrap();
}

async fn log_in(router: &Router, name: &str, password: &str) -> Response {
    let credentials = json!({ "name": name, "password": password });
    let request = Request::post("/session")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(credentials.to_string()))
        .unwrap();
    router.clone().oneshot(request).await.unwrap()
}

async fn body(answer: Response) -> Value {
    let bytes = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

impl Browser {
    fn request(&self, method: &str, path: &str) -> http::request::Builder {
        Request::builder()
            .method(method)
            .uri(path)
            .header(header::COOKIE, &self.cookie)
            .header("x-berth-csrf", &self.csrf)
            .header(header::CONTENT_TYPE, "application/json")
    }

    async fn send(&self, method: &str, path: &str, sent: Value) -> Response {
        let request = self.request(method, path).body(Body::from(sent.to_string())).unwrap();
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn get(&self, path: &str) -> Response {
        let request = self.request("GET", path).body(Body::empty()).unwrap();
        self.router.clone().oneshot(request).await.unwrap()
    }
}

fn map(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name } })
}

#[tokio::test(flavor = "multi_thread")]
async fn people_act_as_themselves_and_it_is_written_down() {
    for ground in Ground::both().await {
        let (ann, eve) = (ground.log_in("ann").await, ground.log_in("eve").await);
        assert_eq!(ann.send("POST", MAPS, map("a")).await.status(), StatusCode::CREATED);
        let seen = eve.get(&format!("{MAPS}/a")).await;
        assert_eq!(seen.status(), StatusCode::OK);
        let refused = eve.send("POST", MAPS, map("b")).await;
        assert_eq!(refused.status(), StatusCode::FORBIDDEN);
        let refused = body(refused).await;
        assert!(refused["message"].as_str().unwrap().contains("\"eve\""), "{refused}");
        assert_eq!(eve.get("/k8s/api/v1/nodes").await.status(), StatusCode::FORBIDDEN);
        assert_eq!(eve.get("/acts").await.status(), StatusCode::FORBIDDEN);

        // The writer is behind by a moment.
        let written = async {
            loop {
                let filter = Filter { path: "configmaps".to_owned(), ..Filter::default() };
                let acts = ground.desk.acts.list(&filter).await.unwrap();
                if acts.len() == 2 {
                    return acts;
                }
                tokio::task::yield_now().await;
            }
        };
        let acts = tokio::time::timeout(LIMIT, written).await.unwrap();
        let mut said: Vec<_> = acts.iter().map(|act| (act.account.as_str(), act.status)).collect();
        said.sort_unstable();
        assert_eq!(said, [("ann", 201), ("eve", 403)]);
        assert_eq!(body(ann.get("/acts?account=eve&path=%25").await).await["items"], json!([]));
        ground.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_forged_replayed_or_from_elsewhere_is_refused() {
    for ground in Ground::both().await {
        let ann = ground.log_in("ann").await;
        let without = |name: &'static str| {
            let mut request =
                ann.request("POST", MAPS).body(Body::from(map("x").to_string())).unwrap();
            request.headers_mut().remove(name);
            ann.router.clone().oneshot(request)
        };
        assert_eq!(without("x-berth-csrf").await.unwrap().status(), StatusCode::FORBIDDEN);
        assert_eq!(without("cookie").await.unwrap().status(), StatusCode::UNAUTHORIZED);
        let eve = ground.log_in("eve").await;
        let crossed = Browser { csrf: eve.csrf.clone(), router: ann.router.clone(), ..ann };
        assert_eq!(crossed.send("POST", MAPS, map("x")).await.status(), StatusCode::FORBIDDEN);
        let ann = ground.log_in("ann").await;
        for (name, value) in [
            ("origin", "https://evil.example"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            let request = ann.request("POST", MAPS).header(name, value).header("host", "console");
            let request = request.body(Body::from(map("x").to_string())).unwrap();
            let answer = ann.router.clone().oneshot(request).await.unwrap();
            assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{name}: {value}");
        }
        // Nobody becomes somebody else, whatever headers they send.
        let request = eve
            .request("POST", MAPS)
            .header("impersonate-user", "admin")
            .header("impersonate-group", "system:masters")
            .header("authorization", "Bearer x")
            .body(Body::from(map("x").to_string()))
            .unwrap();
        let answer = eve.router.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::FORBIDDEN);

        let gone = ann.send("DELETE", "/session", json!({})).await;
        assert_eq!(gone.status(), StatusCode::OK);
        assert_eq!(ann.get("/session").await.status(), StatusCode::UNAUTHORIZED, "replayed");
        let forged = Browser { cookie: format!("__Host-berth={}", "A".repeat(43)), ..ann };
        assert_eq!(forged.get("/session").await.status(), StatusCode::UNAUTHORIZED);
        let request =
            Request::get("/api/v1/namespaces/default/configmaps/x").body(Vec::new()).unwrap();
        assert!(ground.admin.request::<Value>(request).await.is_err(), "none of it was done");
        ground.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_passwords_are_slowed_and_a_flood_of_them_harms_nobody() {
    for ground in Ground::both().await {
        let ann = ground.log_in("ann").await;
        let flood = futures::stream::iter(0..10_000)
            .map(|number| {
                let router = ground.router.clone();
                async move { log_in(&router, &format!("user{number}"), PASSWORD).await.status() }
            })
            .buffer_unordered(10_000)
            .collect::<Vec<_>>();
        let meanwhile = async {
            let mut longest = Duration::ZERO;
            for _ in 0..20 {
                let begun = Instant::now();
                assert_eq!(ann.get("/session").await.status(), StatusCode::OK);
                longest = longest.max(begun.elapsed());
            }
            longest
        };
        let (answers, longest) = tokio::join!(flood, meanwhile);
        assert!(longest < LIMIT, "others are slowed: {longest:?}");
        let refused = [StatusCode::UNAUTHORIZED, StatusCode::TOO_MANY_REQUESTS];
        assert!(answers.iter().all(|status| refused.contains(status)));
        let looked = answers.iter().filter(|status| **status == StatusCode::UNAUTHORIZED).count();
        assert!(looked < 200, "{looked} passwords were tried from one address");
        let answer = log_in(&ground.router, "ann", PASSWORD).await;
        assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
        assert!(answer.headers().contains_key(header::RETRY_AFTER));
        ground.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_follows_and_is_for_those_who_may_see_it() {
    for ground in Ground::both().await {
        let (ann, eve) = (ground.log_in("ann").await, ground.log_in("eve").await);
        ann.send("POST", MAPS, map("before")).await;
        let path = "/live?path=/api/v1/namespaces/default/configmaps";
        let answer = eve.get(path).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/event-stream");
        let mut events = answer.into_body().into_data_stream();
        let mut until = async |what: &str| {
            let mut text = String::new();
            let waited = async {
                while !text.contains(what) {
                    let frame = events.next().await.unwrap().unwrap();
                    text.push_str(std::str::from_utf8(&frame).unwrap());
                }
            };
            assert!(tokio::time::timeout(LIMIT, waited).await.is_ok(), "no {what} in {text}");
            text
        };
        let first = until("event: ready").await;
        assert!(first.contains("\"before\"") && first.contains("event: columns"), "{first}");
        ann.send("POST", MAPS, map("after")).await;
        until("\"after\"").await;
        ann.send("DELETE", &format!("{MAPS}/before"), json!({})).await;
        until("event: gone\ndata: [[\"default\",\"before\"]]").await;

        for path in ["/api/v1/secrets", "/api/v1/nodes", "/api/v1/namespaces/kube-system/pods"] {
            let answer = eve.get(&format!("/live?path={path}")).await;
            assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{path}");
        }
        for path in ["/metrics", "/api/v1/pods/../secrets", "/api/v1/pods%3Fx=y", "", "/api/v1"] {
            let answer = ann.get(&format!("/live?path={path}")).await;
            assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{path}");
        }
        ground.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_tell_browsers_to_run_nothing_but_ours() {
    for ground in Ground::both().await {
        let ann = ground.log_in("ann").await;
        let script = "<script>alert(1)</script>";
        let mut bad = map("xss");
        bad["data"] = json!({ "x": script });
        ann.send("POST", MAPS, bad).await;
        for path in
            ["/", "/now", "/session", "/k8s/api/v1/namespaces/default/configmaps/xss", "/nope"]
        {
            let answer = ann.get(path).await;
            let headers = answer.headers();
            let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
            assert!(policy.contains("script-src 'self'") && !policy.contains("unsafe-eval"));
            assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
            assert_eq!(headers[header::X_FRAME_OPTIONS], "DENY");
            if path.starts_with("/k8s") {
                assert_eq!(headers[header::CONTENT_TYPE], "application/json");
            }
        }
        let long = "x".repeat(BODY + 1);
        let request = ann.request("POST", MAPS).body(Body::from(long)).unwrap();
        let answer = ann.router.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
        ground.end().await;
    }
}
