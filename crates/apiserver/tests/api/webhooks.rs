//! Admission webhooks: honest ones, hanging ones and liars, over real TLS.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use berth_store::Expect;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::server::{CONFIG_MAPS, PODS, Server, config_map, eventually, pod, refused};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

/// How a webhook answers a review: a whole body, or none to hang.
type Behaviour = Arc<dyn Fn(&Value) -> Option<String> + Send + Sync>;

/// A webhook on a port of its own.
struct Hook {
    port: u16,
    bundle: String,
    asked: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    _serving: JoinSet<()>,
}

impl Hook {
    async fn start(name: &str, behaviour: Behaviour) -> Self {
        let signed = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        let key = rustls_pki_types::PrivateKeyDer::try_from(signed.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![signed.cert.der().clone()], key.unwrap())
            .unwrap();
        let tls = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (asked, connections) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (counted, opened) = (asked.clone(), connections.clone());
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, behaviour) = (tls.clone(), behaviour.clone());
                let (counted, opened) = (counted.clone(), opened.clone());
                open.spawn(async move {
                    let Ok(stream) = tls.accept(stream).await else { return };
                    opened.fetch_add(1, Ordering::SeqCst);
                    serve(BufReader::new(stream), &behaviour, &counted).await;
                });
            }
        });
        let bundle = STANDARD.encode(signed.cert.pem());
        Self { port, bundle, asked, connections, _serving: serving }
    }

    fn url(&self) -> Value {
        let url = format!("https://localhost:{}/review", self.port);
        json!({"url": url, "caBundle": self.bundle})
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

async fn serve<S>(mut stream: BufReader<S>, behaviour: &Behaviour, asked: &AtomicUsize)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    loop {
        let (mut length, mut line) = (0, String::new());
        loop {
            line.clear();
            if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                return;
            }
            if let Some(found) = line.to_lowercase().strip_prefix("content-length:") {
                length = found.trim().parse().unwrap();
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        asked.fetch_add(1, Ordering::SeqCst);
        let review = serde_json::from_slice(&body).unwrap();
        let Some(answer) = behaviour(&review) else { return std::future::pending().await };
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            answer.len()
        );
        if stream.write_all(format!("{head}{answer}").as_bytes()).await.is_err() {
            return;
        }
    }
}

fn review(request: &Value, mut response: Value) -> String {
    response["uid"] = request["request"]["uid"].clone();
    json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response})
        .to_string()
}

fn behaves(response: impl Fn(&Value) -> Value + Send + Sync + 'static) -> Behaviour {
    Arc::new(move |request| Some(review(request, response(request))))
}

fn patching(patch: Value) -> Value {
    let patch = STANDARD.encode(patch.to_string());
    json!({"allowed": true, "patchType": "JSONPatch", "patch": patch})
}

fn configuration(kind: &str, name: &str, client: Value, more: Value) -> Value {
    let mut hook = json!({
        "name": format!("{name}.example.com"),
        "clientConfig": client,
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "timeoutSeconds": 1,
        "objectSelector": {"matchLabels": {"watched": "yes"}},
        "rules": [{"operations": ["CREATE", "UPDATE", "DELETE"], "apiGroups": [""],
            "apiVersions": ["v1"], "resources": ["configmaps"]}],
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        hook[key] = value.clone();
    }
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
        "metadata": {"name": name}, "webhooks": [hook]})
}

async fn put_in_force(server: &Server, kind: &str, name: &str, client: Value, more: Value) {
    let url = format!("{GROUP}/{}s", kind.to_lowercase());
    server.create(&url, &configuration(kind, name, client, more)).await.unwrap();
}

const VALIDATING: &str = "ValidatingWebhookConfiguration";
const MUTATING: &str = "MutatingWebhookConfiguration";

fn watched(name: &str) -> Value {
    let mut map = config_map(name, json!({"a": "b"}));
    map["metadata"]["labels"] = json!({"watched": "yes"});
    map
}

const DRY: &str = "/api/v1/namespaces/default/configmaps?dryRun=All";

#[tokio::test]
async fn a_validating_webhook_denies_in_its_own_words() {
    let server = Server::start().await;
    let hook = Hook::start(
        "localhost",
        behaves(|review| {
            let request = &review["request"];
            assert_eq!(request["resource"]["resource"], "configmaps");
            assert_eq!(request["userInfo"]["username"], "admin");
            let kept = request["operation"] == "DELETE";
            let object = if kept { &request["oldObject"] } else { &request["object"] };
            match object["metadata"]["name"].as_str() {
                Some("bad") => {
                    json!({"allowed": false, "status": {"code": 409, "message": "not today"}})
                }
                Some("kept") if kept => json!({"allowed": false}),
                _ => json!({"allowed": true}),
            }
        }),
    )
    .await;
    put_in_force(&server, VALIDATING, "v", hook.url(), json!({})).await;
    eventually("in force", async || server.create(DRY, &watched("bad")).await.is_err()).await;
    let failure = server.create(CONFIG_MAPS, &watched("bad")).await.unwrap_err();
    let said = "admission webhook \"v.example.com\" denied the request: not today";
    assert_eq!((failure.code, failure.message.as_str()), (409, said));
    server.create(CONFIG_MAPS, &watched("kept")).await.unwrap();
    let message = refused(
        server.send("DELETE", &format!("{CONFIG_MAPS}/kept"), None).await,
        403,
        "Forbidden",
    );
    assert!(message.ends_with("denied the request without explanation"), "{message}");
    let before = hook.asked();
    server.create(CONFIG_MAPS, &config_map("plain", json!({}))).await.unwrap();
    assert_eq!(hook.asked(), before, "an object that is not selected was sent");
    assert!(hook.connections.load(Ordering::SeqCst) <= 2, "connections are not kept");
    server.stop().await;
}

#[tokio::test]
async fn mutating_webhooks_change_objects_in_turn_and_are_asked_again() {
    let server = Server::start().await;
    let first = Hook::start(
        "localhost",
        behaves(|review| {
            let data = &review["request"]["object"]["data"];
            let seen = if data["second"].is_null() { "alone" } else { "both" };
            patching(json!([{"op": "add", "path": "/data/first", "value": seen}]))
        }),
    )
    .await;
    let second = Hook::start(
        "localhost",
        behaves(|review| {
            let first = review["request"]["object"]["data"]["first"].clone();
            patching(json!([{"op": "add", "path": "/data/second", "value": first}]))
        }),
    )
    .await;
    let again = json!({"reinvocationPolicy": "IfNeeded"});
    put_in_force(&server, MUTATING, "m1", first.url(), again).await;
    put_in_force(&server, MUTATING, "m2", second.url(), json!({})).await;
    eventually("in force", async || {
        let made = server.create(DRY, &watched("x")).await.unwrap();
        made["data"]["second"] == "alone"
    })
    .await;
    let made = server.create(CONFIG_MAPS, &watched("x")).await.unwrap();
    assert_eq!(made["data"], json!({"a": "b", "first": "both", "second": "alone"}));
    let kept = server.get(&format!("{CONFIG_MAPS}/x")).await.unwrap();
    assert_eq!(kept["data"], made["data"]);
    server.stop().await;
}

#[tokio::test]
async fn hanging_and_lying_webhooks_fail_as_their_policy_says() {
    let server = Server::start().await;
    let liar = |body: String| -> Behaviour { Arc::new(move |_| Some(body.clone())) };
    let broken = json!([{"op": "replace", "path": "/nothing/here", "value": 1}]);
    let cases: Vec<(&str, &str, Behaviour, &str)> = vec![
        ("hang", VALIDATING, Arc::new(|_| None), "context deadline exceeded"),
        ("html", VALIDATING, liar("<html>".to_owned()), "json parse error"),
        ("other", VALIDATING, liar("{\"kind\": \"Pod\"}".to_owned()), "expected webhook response"),
        (
            "uid",
            VALIDATING,
            liar(review(&json!({"request": {"uid": "mine"}}), json!({"allowed": true}))),
            "expected response.uid",
        ),
        ("huge", VALIDATING, liar(format!("\"{}\"", "x".repeat(8 << 20))), "length limit exceeded"),
        (
            "nopatchtype",
            MUTATING,
            behaves(|_| json!({"allowed": true, "patch": "W10="})),
            "not response.patchType",
        ),
        (
            "badpatch",
            MUTATING,
            behaves(move |_| patching(broken.clone())),
            "failed calling webhook",
        ),
    ];
    for (name, kind, behaviour, expected) in cases {
        let hook = Hook::start("localhost", behaviour).await;
        put_in_force(&server, kind, name, hook.url(), json!({"failurePolicy": "Fail"})).await;
        let started = Instant::now();
        eventually("asked", async || server.create(DRY, &watched("x")).await.is_err()).await;
        let message = refused(server.create(DRY, &watched("x")).await, 500, "InternalError");
        assert!(message.contains(expected), "{name}: {message}");
        let start =
            format!("Internal error occurred: failed calling webhook \"{name}.example.com\"");
        assert!(message.starts_with(&start), "{message}");
        assert!(started.elapsed() < Duration::from_secs(10), "{name}: {:?}", started.elapsed());
        let path = format!("{GROUP}/{}s/{name}", kind.to_lowercase());
        let lenient =
            json!([{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Ignore"}]);
        server.patch(&path, "json-patch+json", &lenient).await.unwrap();
        eventually("let pass", async || server.create(DRY, &watched("x")).await.is_ok()).await;
        server.send("DELETE", &path, None).await.unwrap();
    }
    server.stop().await;
}

#[tokio::test]
async fn a_service_is_reached_at_its_ready_endpoint_by_its_name() {
    let server = Server::start().await;
    let hook = Hook::start(
        "guard.default.svc",
        behaves(|_| json!({"allowed": true, "warnings": ["seen"]})),
    )
    .await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "guard"},
        "spec": {"ports": [{"name": "https", "port": 443}]}});
    server.create("/api/v1/namespaces/default/services", &service).await.unwrap();
    let client = json!({"service": {"name": "guard", "namespace": "default", "path": "/v"},
        "caBundle": hook.bundle});
    put_in_force(&server, VALIDATING, "s", client, json!({})).await;
    eventually("unreachable", async || server.create(DRY, &watched("x")).await.is_err()).await;
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "guard-1", "labels": {"kubernetes.io/service-name": "guard"}},
        "addressType": "IPv4", "ports": [{"name": "https", "port": hook.port}],
        "endpoints": [{"addresses": ["127.0.0.2"], "conditions": {"ready": false}},
            {"addresses": ["127.0.0.1"], "conditions": {"ready": true}}]});
    // The API takes no loopback addresses, and the test has no others.
    let key = "/registry/discovery.k8s.io/endpointslices/default/guard-1".into();
    server.store.put(key, slice.to_string().into(), Expect::Absent).await.unwrap();
    server.create(CONFIG_MAPS, &watched("x")).await.unwrap();
    assert!(hook.asked() >= 1);
    server.stop().await;
}

#[tokio::test]
async fn configurations_are_checked_and_never_sent_to_webhooks() {
    let server = Server::start().await;
    let hook = Hook::start("localhost", behaves(|_| json!({"allowed": false}))).await;
    let everything = json!({"objectSelector": {}, "rules": [{"operations": ["*"],
        "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"]}]});
    put_in_force(&server, VALIDATING, "all", hook.url(), everything).await;
    eventually("in force", async || server.create(DRY, &watched("x")).await.is_err()).await;
    let wrong = configuration(VALIDATING, "w", hook.url(), json!({"timeoutSeconds": 60}));
    let url = format!("{GROUP}/validatingwebhookconfigurations");
    let message = refused(server.create(&url, &wrong).await, 422, "Invalid");
    assert!(message.contains("webhooks[0].timeoutSeconds"), "{message}");
    // Whoever locked himself out can undo it.
    server.send("DELETE", &format!("{url}/all"), None).await.unwrap();
    eventually("free again", async || server.create(DRY, &watched("x")).await.is_ok()).await;
    server.stop().await;
}

#[tokio::test]
async fn actions_below_an_object_are_admitted_too() {
    let server = Server::start().await;
    let hook = Hook::start(
        "localhost",
        behaves(|review| {
            let request = &review["request"];
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let message = format!(
                "{} {}/{} of {}",
                text(&request["operation"]),
                text(&request["resource"]["resource"]),
                text(&request["subResource"]),
                text(&request["kind"]["kind"]),
            );
            json!({"allowed": false, "status": {"message": message}})
        }),
    )
    .await;
    server.create(PODS, &pod("p")).await.unwrap();
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "d"}, "spec": {"replicas": 1,
            "selector": {"matchLabels": {"a": "b"}}, "template": {
                "metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    server.create(deployments, &deployment).await.unwrap();
    let below = json!({"objectSelector": {}, "rules": [{"operations": ["*"], "apiGroups": ["*"],
        "apiVersions": ["*"], "scope": "Namespaced",
        "resources": ["pods/eviction", "pods/binding", "pods/exec", "*/scale", "*/token"]}]});
    put_in_force(&server, VALIDATING, "below", hook.url(), below).await;
    let evict = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    let dry = format!("{PODS}/p/eviction?dryRun=All");
    eventually("in force", async || server.create(&dry, &evict).await.is_err()).await;
    let check = async |method: &str, path: &str, body: Value, expected: &str| {
        let message = refused(server.send(method, path, Some(&body)).await, 403, "Forbidden");
        assert!(message.ends_with(&format!("denied the request: {expected}")), "{message}");
    };
    let pod = format!("{PODS}/p");
    check("POST", &format!("{pod}/eviction"), evict, "CREATE pods/eviction of Eviction").await;
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"},
        "target": {"kind": "Node", "name": "n"}});
    check("POST", &format!("{pod}/binding"), binding, "CREATE pods/binding of Binding").await;
    let exec = format!("{pod}/exec?command=sh&stdout=true");
    check("POST", &exec, json!({}), "CONNECT pods/exec of PodExecOptions").await;
    let scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"},
        "spec": {"replicas": 3}});
    let path = format!("{deployments}/d/scale");
    check("PUT", &path, scale, "UPDATE deployments/scale of Scale").await;
    let token = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"audiences": []}});
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    check("POST", path, token, "CREATE serviceaccounts/token of TokenRequest").await;
    server.stop().await;
}
