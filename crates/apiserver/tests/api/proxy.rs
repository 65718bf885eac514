//! `proxy` of nodes, pods and services: what passes, what is changed, who may, and what is out of
//! reach.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use berth_daemon::Tasks;
use bytes::Bytes;
use futures::StreamExt;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::node;
use crate::server::{PODS, Server, eventually, pod, refused, send};

/// An address of this machine that is not loopback's, which may not be proxied to; nothing is sent
/// to find it.
fn own_address() -> Option<IpAddr> {
    let found = || {
        let socket = UdpSocket::bind(("0.0.0.0", 0)).ok()?;
        socket.connect(("192.0.2.1", 9)).ok()?;
        let address = socket.local_addr().ok()?.ip();
        (!address.is_loopback()).then_some(address)
    };
    let found = found();
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "no address but loopback's");
        eprintln!("skipped: this machine has no address but loopback's");
    }
    found
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

fn text(kind: &str, text: String) -> Answer {
    let body = Full::new(Bytes::from(text)).boxed();
    Response::builder().header("content-type", kind).body(body).unwrap()
}

/// Answers as the path says.
async fn serve(
    own: SocketAddr,
    tasks: Tasks,
    mut request: Request<Incoming>,
) -> Result<Answer, Infallible> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    Ok(match request.uri().path() {
        "/page" => text("text/html; charset=utf-8", "<a href=\"/next\">/next</a>".to_owned()),
        "/moved" => Response::builder()
            .status(StatusCode::FOUND)
            .header("location", format!("http://{own}/there?{query}"))
            .body(Full::default().boxed())
            .unwrap(),
        "/slow" => {
            let first = futures::stream::iter([Ok(Frame::data(Bytes::from("first")))]);
            let body = StreamBody::new(first.chain(futures::stream::pending()));
            Response::new(BodyExt::boxed(body))
        }
        "/switch" => {
            let upgrade = hyper::upgrade::on(&mut request);
            tasks.spawn("switched", async move {
                let mut stream = TokioIo::new(upgrade.await.unwrap());
                let mut line = [0; 4];
                stream.read_exact(&mut line).await.unwrap();
                line.reverse();
                stream.write_all(&line).await.unwrap();
            });
            Response::builder()
                .status(StatusCode::SWITCHING_PROTOCOLS)
                .header("connection", "upgrade")
                .header("upgrade", "own")
                .body(Full::default().boxed())
                .unwrap()
        }
        path => {
            let (path, method) = (path.to_owned(), request.method().to_string());
            let headers: Vec<(String, String)> = request
                .headers()
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
                .collect();
            let body = request.collect().await.unwrap().to_bytes();
            let seen = json!({
                "path": path, "query": query, "method": method, "length": body.len(),
                "headers": headers.into_iter().collect::<std::collections::BTreeMap<_, _>>(),
            });
            text("application/json", seen.to_string())
        }
    })
}

/// Something that answers HTTP on an address that pods could have, as long as the test runs.
async fn other_end(address: IpAddr) -> SocketAddr {
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    let own = listener.local_addr().unwrap();
    let tasks = Tasks::new();
    let inner = tasks.clone();
    tasks.spawn("other end", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tasks = inner.clone();
            let service =
                hyper::service::service_fn(move |request| serve(own, tasks.clone(), request));
            inner.spawn("connection", async move {
                let server = hyper::server::conn::http1::Builder::new();
                let served = server.serve_connection(TokioIo::new(stream), service);
                // A client that goes away is part of the tests.
                let _ = served.with_upgrades().await;
            });
        }
    });
    own
}

async fn run_pod(server: &Server, name: &str, address: SocketAddr) {
    let mut body = pod(name);
    body["spec"]["containers"][0]["ports"] = json!([{"containerPort": address.port()}]);
    server.create(PODS, &body).await.unwrap();
    let ip = address.ip().to_string();
    let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}});
    let path = format!("{PODS}/{name}/status");
    server.patch(&path, "merge-patch+json", &status).await.unwrap();
}

async fn raw(server: &Server, request: Request<Body>) -> Response<Body> {
    server.admin().send(request).await.unwrap()
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).header("accept", "text/html,*/*").body(Body::empty()).unwrap()
}

async fn body(response: Response<Body>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn requests_pass_whole_and_without_credentials() {
    let Some(address) = own_address() else { return };
    let server = Server::start().await;
    let end = other_end(address).await;
    run_pod(&server, "web", end).await;
    let proxy = format!("{PODS}/web/proxy");
    let path = format!("{proxy}/a%20b//c/?watch=1&x=%2F");
    let big = vec![7_u8; 5 * 1024 * 1024];
    let request = Request::post(&path)
        .header("authorization", "Bearer secret")
        .header("impersonate-user", "admin")
        .header("impersonate-group", "system:masters")
        .header("x-own", "kept")
        .header("accept", "application/x-own")
        .body(Body::from(big))
        .unwrap();
    let response = raw(&server, request).await;
    assert_eq!(response.status(), 200);
    let seen: Value = serde_json::from_str(&body(response).await).unwrap();
    assert_eq!(seen["path"], "/a%20b//c/");
    assert_eq!((&seen["query"], &seen["method"]), (&json!("watch=1&x=%2F"), &json!("POST")));
    assert_eq!(seen["length"], 5 * 1024 * 1024, "more than an object may have");
    assert_eq!(seen["headers"]["x-own"], "kept");
    let shown = path.split('?').next().unwrap();
    assert_eq!(seen["headers"]["x-forwarded-uri"], shown);
    for name in ["authorization", "impersonate-user", "impersonate-group"] {
        assert!(seen["headers"][name].is_null(), "{name}");
    }
    server.stop().await;
}

#[tokio::test]
async fn answers_lead_back_through_the_proxy() {
    let Some(address) = own_address() else { return };
    let server = Server::start().await;
    let end = other_end(address).await;
    run_pod(&server, "web", end).await;
    let proxy = format!("{PODS}/http:web:{}/proxy", end.port());
    let bare = raw(&server, get(&format!("{proxy}?a=b"))).await;
    assert_eq!(
        (bare.status().as_u16(), &bare.headers()["location"]),
        (301, &http::HeaderValue::from_str(&format!("{proxy}/?a=b")).unwrap())
    );
    let moved = raw(&server, get(&format!("{proxy}/moved?a=b"))).await;
    assert_eq!(moved.status(), 302);
    assert_eq!(moved.headers()["location"], format!("{proxy}/there?a=b"));
    let page = raw(&server, get(&format!("{proxy}/page"))).await;
    assert_eq!(body(page).await, format!("<a href=\"{proxy}/next\">/next</a>"));
    // The first half comes though the second never does.
    let mut slow = raw(&server, get(&format!("{proxy}/slow"))).await.into_body();
    let first = slow.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, "first");
    server.stop().await;
}

#[tokio::test]
async fn other_protocols_pass_both_ways() {
    let Some(address) = own_address() else { return };
    let server = Server::start().await;
    let end = other_end(address).await;
    run_pod(&server, "web", end).await;
    let token = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let token = server.create(token, &json!({})).await.unwrap();
    let token = token["status"]["token"].as_str().unwrap().to_owned();
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let head = format!(
        "GET {PODS}/web/proxy/switch HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n\
         connection: upgrade\r\nupgrade: own\r\n\r\n"
    );
    let refusal = node::exchange(&server, &head.replace("upgrade\r\n", "close\r\n")).await;
    assert!(refusal.starts_with("HTTP/1.1 403"), "{refusal}");
    assert!(refusal.contains("pods/proxy"), "{refusal}");
    let role = json!({"metadata": {"name": "proxies"}, "rules": [
        {"apiGroups": [""], "resources": ["pods/proxy"], "verbs": ["get"], "resourceNames": ["web"]},
    ]});
    server.create(&format!("{rbac}/roles"), &role).await.unwrap();
    let binding = json!({
        "metadata": {"name": "proxies"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "proxies"},
    });
    server.create(&format!("{rbac}/rolebindings"), &binding).await.unwrap();
    let account =
        server.api.client(berth_apiserver::User::service_account("default", "default", ""));
    let own = format!("{PODS}/web/proxy/x");
    eventually("allowed", async || account.send(get(&own)).await.unwrap().status() == 200).await;
    let posted = send(&account, "POST", &own, "text/plain", None).await;
    refused(posted, 403, "Forbidden");

    let mut stream = node::connect(&server).await;
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).await.unwrap();
        answer.push(byte[0]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
    stream.write_all(b"abcd").await.unwrap();
    let mut back = [0; 4];
    let read = stream.read_exact(&mut back);
    tokio::time::timeout(Duration::from_secs(10), read).await.unwrap().unwrap();
    assert_eq!(&back, b"dcba");
    server.stop().await;
}

#[tokio::test]
async fn a_service_leads_to_one_of_its_pods() {
    let Some(address) = own_address() else { return };
    let server = Server::start().await;
    let end = other_end(address).await;
    run_pod(&server, "web", end).await;
    let services = "/api/v1/namespaces/default/services";
    let service = json!({"metadata": {"name": "s"}, "spec": {
        "ports": [{"name": "http", "port": 80, "targetPort": end.port()}],
    }});
    server.create(services, &service).await.unwrap();
    let proxy = format!("{services}/s:80/proxy/x");
    let message = refused(server.get(&proxy).await, 503, "ServiceUnavailable");
    assert_eq!(message, "no endpoints available for service \"s\"");
    let endpoints = |targets: Value| {
        json!({"metadata": {"name": "s"}, "subsets": [{
            "addresses": targets, "ports": [{"name": "http", "port": end.port()}],
        }]})
    };
    let ip = address.to_string();
    let path = "/api/v1/namespaces/default/endpoints";
    server.create(path, &endpoints(json!([{"ip": ip}]))).await.unwrap();
    refused(server.get(&proxy).await, 503, "ServiceUnavailable");
    let other = json!([{"ip": "10.9.9.9", "targetRef": {"kind": "Pod", "name": "web"}}]);
    server.send("PUT", &format!("{path}/s"), Some(&endpoints(other))).await.unwrap();
    refused(server.get(&proxy).await, 503, "ServiceUnavailable");
    let good = json!([{"ip": ip, "targetRef": {"kind": "Pod", "name": "web"}}]);
    server.send("PUT", &format!("{path}/s"), Some(&endpoints(good))).await.unwrap();
    for name in ["s:80", "s:http", "http:s:http"] {
        let seen = server.get(&format!("{services}/{name}/proxy/x")).await.unwrap();
        assert_eq!(seen["path"], "/x", "{name}");
    }
    for name in ["s", "s:81"] {
        let answer = server.get(&format!("{services}/{name}/proxy/x")).await;
        refused(answer, 503, "ServiceUnavailable");
    }
    server.stop().await;
}

#[tokio::test]
async fn what_is_local_to_the_server_is_out_of_reach() {
    let server = Server::start().await;
    let end: SocketAddr = "127.0.0.1:9".parse().unwrap();
    run_pod(&server, "local", end).await;
    let message = refused(server.get(&format!("{PODS}/local/proxy/x")).await, 400, "BadRequest");
    assert_eq!(message, "address not allowed");
    let node = json!({"metadata": {"name": "n"}, "status": {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
    }});
    server.create("/api/v1/nodes", &node).await.unwrap();
    refused(server.get("/api/v1/nodes/n:9/proxy/x").await, 400, "BadRequest");
    refused(server.get(&format!("{PODS}/a:b:c:d/proxy/x")).await, 400, "BadRequest");
    refused(server.get(&format!("{PODS}/none/proxy/x")).await, 404, "NotFound");
    server.stop().await;
}
