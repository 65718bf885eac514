//! Gateways and their routes with real traffic.

use std::convert::Infallible;

use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::*;

/// A Gateway with one listener for HTTP, Services with the ports of `pods`, and `routes`.
fn doors(pods: &[(&str, &[SocketAddr])], app_protocol: Option<&str>, routes: &[Value]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for (service, addresses) in pods {
        let mut port = json!({"name": "http", "port": 80});
        if let Some(protocol) = app_protocol {
            port["appProtocol"] = json!(protocol);
        }
        let metadata = json!({"namespace": "n", "name": service});
        let service_object = json!({"metadata": metadata, "spec": {"ports": [port]}});
        snapshot.services.push(Arc::new(serde_json::from_value(service_object).unwrap()));
        for address in *addresses {
            let slice = json!({
                "metadata": {"namespace": "n", "name": format!("{service}-{}", address.port()),
                    "labels": {"kubernetes.io/service-name": service}},
                "addressType": "IPv4", "ports": [{"name": "http", "port": address.port()}],
                "endpoints": [{"addresses": [address.ip().to_string()]}]});
            snapshot.slices.push(Arc::new(serde_json::from_value(slice).unwrap()));
        }
    }
    let class = json!({"metadata": {"name": "berth"},
        "spec": {"controllerName": "berth.dev/gateway"}});
    snapshot.gateway.classes = vec![Arc::new(serde_json::from_value(class).unwrap())];
    let gateway = json!({"metadata": {"namespace": "n", "name": "door"}, "spec": {
        "gatewayClassName": "berth",
        "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}});
    snapshot.gateway.gateways = vec![Arc::new(serde_json::from_value(gateway).unwrap())];
    for route in routes {
        match route["kind"].as_str() {
            Some("GRPCRoute") => snapshot.gateway.grpc.push(one_of(route)),
            _ => snapshot.gateway.http.push(one_of(route)),
        }
    }
    snapshot
}

fn one_of<K: serde::de::DeserializeOwned>(value: &Value) -> Arc<K> {
    Arc::new(serde_json::from_value(value.clone()).unwrap())
}

fn route(name: &str, rules: Value) -> Value {
    json!({"kind": "HTTPRoute", "metadata": {"namespace": "n", "name": name}, "spec": {
        "parentRefs": [{"name": "door"}], "hostnames": ["web.example"], "rules": rules}})
}

fn to(service: &str) -> Value {
    json!([{"name": service, "port": 80}])
}

fn under(path: &str) -> Value {
    json!([{"path": {"type": "PathPrefix", "value": path}}])
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_change_requests_and_answers() {
    let (one, two) = (Pod::start("one").await, Pod::start("two").await);
    let rewrite = json!({"type": "URLRewrite", "urlRewrite": {"hostname": "in.example",
        "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/show/me"}}});
    let request = json!({"type": "RequestHeaderModifier", "requestHeaderModifier": {
        "set": [{"name": "x-set", "value": "s"}], "add": [{"name": "x-add", "value": "a"}],
        "remove": ["x-gone"]}});
    let response = json!({"type": "ResponseHeaderModifier", "responseHeaderModifier": {
        "set": [{"name": "x-answer", "value": "yes"}], "remove": ["content-type"]}});
    let redirect = json!({"type": "RequestRedirect", "requestRedirect": {"scheme": "https",
        "statusCode": 301, "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"}}});
    let mirror = json!({"type": "RequestMirror",
        "requestMirror": {"backendRef": {"name": "two", "port": 80}}});
    let rules = json!([
        {"matches": under("/old"), "filters": [redirect]},
        {"matches": under("/api"), "filters": [rewrite, request, response], "backendRefs": to("one")},
        {"matches": under("/copied"), "filters": [mirror], "backendRefs": to("one")},
        {"matches": under("/nowhere"), "backendRefs": to("missing")},
        {"matches": [{"path": {"value": "/q"}, "method": "GET",
            "queryParams": [{"name": "v", "value": "2"}],
            "headers": [{"type": "RegularExpression", "name": "x-kind", "value": "a+"}]}],
         "backendRefs": to("two")},
    ]);
    let pods: [(&str, &[SocketAddr]); 2] = [("one", &[one.address]), ("two", &[two.address])];
    let balancer = start(config(), Some(doors(&pods, None, &[route("web", rules)]))).await;
    let mut client = Client::new(balancer.config.http);

    let sent = [("x-gone", "1"), ("x-set", "mine"), ("x-add", "mine")];
    let answer = client.request("GET", "web.example", "/api/v1?x=1", &sent, "").await.unwrap();
    assert!(answer.body.starts_with("GET /show/me/v1?x=1 HTTP/1.1"), "{}", answer.body);
    assert!(answer.body.contains("\nhost: in.example"), "{}", answer.body);
    assert!(answer.body.contains("x-set: s\n"), "{}", answer.body);
    assert!(answer.body.contains("x-forwarded-host: web.example"), "{}", answer.body);
    assert!(!answer.body.contains("x-gone"), "{}", answer.body);
    assert_eq!(answer.headers.get("x-answer").map(String::as_str), Some("yes"));
    assert!(!answer.headers.contains_key("content-type"), "{:?}", answer.headers);

    let answer = client.get("web.example", "/old/page?x=1").await.unwrap();
    assert_eq!(answer.status, 301);
    assert_eq!(answer.headers["location"], "https://web.example/new/page?x=1");

    let body = "b".repeat(5000);
    let answer = client.request("POST", "web.example", "/copied", &[], &body).await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "one"));
    let line = "POST /copied HTTP/1.1 +5000";
    until("the copy arrives", async || two.seen.lock().unwrap().iter().any(|one| one == line))
        .await;

    assert_eq!(client.get("web.example", "/nowhere").await.unwrap().status, 500);
    let kind = [("x-kind", "aaa")];
    let two_answers = client.request("GET", "web.example", "/q?v=2", &kind, "").await.unwrap();
    assert_eq!(two_answers.body, "two");
    for (path, kind) in [("/q?v=1", "aaa"), ("/q?v=2", "b"), ("/q", "aaa")] {
        let headers = [("x-kind", kind)];
        let answer = client.request("GET", "web.example", path, &headers, "").await.unwrap();
        assert_eq!(answer.status, 404, "{path} {kind}");
    }
    balancer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_retries_timeouts_and_body_limits_hold() {
    let (one, two, ill) =
        (Pod::start("one").await, Pod::start("two").await, Pod::start("ill").await);
    let mut limited =
        route("small", json!([{"matches": under("/small"), "backendRefs": to("one")}]));
    limited["metadata"]["annotations"] = json!({"balancer.berth.dev/max-request-body": "1Ki"});
    let rules = json!([
        {"matches": under("/split"), "backendRefs": [
            {"name": "one", "port": 80, "weight": 3}, {"name": "two", "port": 80, "weight": 1},
            {"name": "ill", "port": 80, "weight": 0}]},
        {"matches": under("/again"), "backendRefs": to("mixed"),
            "retry": {"codes": [503], "attempts": 3, "backoff": "1ms"}},
        {"matches": under("/once"), "backendRefs": to("ill")},
        {"matches": under("/slow"), "backendRefs": to("one"), "timeouts": {"request": "100ms"}},
    ]);
    let both = [ill.address, one.address];
    let pods: [(&str, &[SocketAddr]); 4] = [
        ("one", &[one.address]),
        ("two", &[two.address]),
        ("ill", &[ill.address]),
        ("mixed", &both),
    ];
    let routes = [route("web", rules), limited];
    let balancer = start(config(), Some(doors(&pods, None, &routes))).await;
    let mut client = Client::new(balancer.config.http);

    let mut counts = std::collections::HashMap::new();
    for _ in 0..400 {
        let answer = client.get("web.example", "/split").await.unwrap();
        *counts.entry(answer.body).or_insert(0) += 1;
    }
    assert!((240..=360).contains(&counts["one"]) && counts.len() == 2, "{counts:?}");

    for _ in 0..20 {
        let answer = client.request("POST", "web.example", "/again", &[], "body").await.unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, "one"));
    }
    assert!(!ill.seen.lock().unwrap().is_empty(), "the ill one was never asked");
    assert_eq!(client.get("web.example", "/once").await.unwrap().status, 503);

    let answer = client.get("web.example", "/slow").await.unwrap();
    assert_eq!(answer.status, 504, "{}", answer.body);

    for (length, status) in [(1024, 200), (1025, 413), (100_000, 413)] {
        let body = "b".repeat(length);
        let mut client = Client::new(balancer.config.http);
        let answer = client.request("POST", "web.example", "/small", &[], &body).await;
        // A client that still sends when it is refused may see its connection end.
        if let Ok(answer) = answer {
            assert_eq!(answer.status, status, "{length}");
        } else {
            assert_eq!(status, 413, "{length}");
        }
    }
    // Chunks say no length: what is too much is found while it comes, by a pod that waits for all.
    let mut stream = TcpStream::connect(balancer.config.http).await.unwrap();
    let head =
        "POST /small/chunks HTTP/1.1\r\nHost: web.example\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("400\r\n{}\r\n", "b".repeat(1024));
    stream.write_all((chunk.repeat(2) + "0\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    let _ = tokio::time::timeout(SOON, stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    balancer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_compressed_for_who_asks() {
    let pod = Pod::start("one").await;
    let mut config = config();
    config.compress = true;
    let balancer = start(config, Some(snapshot(&[&pod], json!({})))).await;
    let url = format!("http://127.0.0.1:{}/text", balancer.config.http.port());
    for (coding, expected) in [("gzip", "gzip"), ("br", "br"), ("identity", "")] {
        let (host, accept) = ("Host: web.example", format!("Accept-Encoding: {coding}"));
        let shown = "%{size_download} %{header_json}";
        let text = curl(&["-H", host, "-H", &accept, "-o", "/dev/null", "-w", shown, &url]).await;
        let (size, headers) = text.split_once(' ').unwrap();
        let headers: Value = serde_json::from_str(headers).unwrap();
        let encoding = headers["content-encoding"][0].as_str().unwrap_or_default();
        assert_eq!(encoding, expected, "{headers}");
        let size: usize = size.parse().unwrap();
        assert_eq!(size < 1000, !expected.is_empty(), "{coding}: {size}");
    }
    let compressed = ["-H", "Host: web.example", "--compressed", &url];
    assert_eq!(curl(&compressed).await, "word ".repeat(2000));
    balancer.stop().await;
}

/// A server that speaks HTTP/2 in the clear and nothing else: answers with the path, and trailers.
#[allow(clippy::disallowed_methods)] // ends with the test's runtime
async fn h2c_pod() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(|request: hyper::Request<Incoming>| async {
                let path = request.uri().path().to_owned();
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let text = Bytes::from(format!("{path} {}", body.len()));
                let trailers =
                    [(http::HeaderName::from_static("grpc-status"), "0".parse().unwrap())];
                let frames = futures::stream::iter([
                    Ok::<_, Infallible>(Frame::data(text)),
                    Ok(Frame::trailers(trailers.into_iter().collect())),
                ]);
                let body = StreamBody::new(frames.boxed());
                Ok::<_, Infallible>(hyper::Response::new(body))
            });
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection);
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::disallowed_methods)] // ends with the test's runtime
async fn grpc_goes_by_http2_on_both_sides_with_its_trailers() {
    let pod = h2c_pod().await;
    let matched = json!([{"method": {"service": "shop.Cart", "method": "Add"}}]);
    let calls = json!({"kind": "GRPCRoute", "metadata": {"namespace": "n", "name": "calls"},
        "spec": {"parentRefs": [{"name": "door"}], "hostnames": ["grpc.example"],
            "rules": [{"matches": matched, "backendRefs": to("calls")}]}});
    let plain = route("plain", json!([{"backendRefs": to("calls")}]));
    let pods: [(&str, &[SocketAddr]); 1] = [("calls", &[pod])];
    let routes = doors(&pods, Some("kubernetes.io/h2c"), &[calls, plain]);
    let balancer = start(config(), Some(routes)).await;

    let stream = TcpStream::connect(balancer.config.http).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    for (path, status) in [("/shop.Cart/Add", 200), ("/shop.Cart/Remove", 404)] {
        for _ in 0..20 {
            let request = hyper::Request::post(format!("http://grpc.example{path}"))
                .header("content-type", "application/grpc")
                .body(Full::new(Bytes::from_static(b"12345")))
                .unwrap();
            let answer = tokio::time::timeout(SOON, sender.send_request(request)).await;
            let answer = answer.unwrap().unwrap();
            assert_eq!(answer.status(), status, "{path}");
            let body = answer.into_body().collect().await.unwrap();
            if status == 200 {
                let trailers = body.trailers().unwrap();
                assert_eq!(trailers["grpc-status"], "0");
                assert_eq!(body.to_bytes(), format!("{path} 5"));
            }
        }
    }
    // HTTP/1 before, HTTP/2 behind.
    let url = format!("http://127.0.0.1:{}/x", balancer.config.http.port());
    let text = curl(&["--http1.1", "-H", "Host: web.example", "-d", "abc", &url]).await;
    assert_eq!(text, "/x 3");
    let text = curl(&["--http2-prior-knowledge", "-H", "Host: web.example", &url]).await;
    assert_eq!(text, "/x 0");
    balancer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_trusted_proxies_say_who_the_client_is() {
    let pod = Pod::start("one").await;
    for (trusted, expected, gone) in [
        ("10.0.0.0/8", "x-forwarded-for: 127.0.0.1\n", "6.6.6.6"),
        ("127.0.0.0/8", "x-forwarded-for: 6.6.6.6, 127.0.0.1\n", "nothing"),
    ] {
        let mut config = config();
        config.trusted_proxies = vec![trusted.parse().unwrap()];
        config.forwarded = true;
        let balancer = start(config, Some(snapshot(&[&pod], json!({})))).await;
        let sent = [
            ("X-Forwarded-For", "6.6.6.6"),
            ("X-Real-IP", "6.6.6.6"),
            ("Forwarded", "for=6.6.6.6"),
        ];
        let mut client = Client::new(balancer.config.http);
        let answer = client.request("GET", "web.example", "/show", &sent, "").await.unwrap();
        assert!(answer.body.contains(expected), "{}", answer.body);
        assert!(!answer.body.contains(gone), "{}", answer.body);
        let own = "for=127.0.0.1;host=\"web.example\";proto=http";
        assert!(answer.body.contains(own), "{}", answer.body);
        balancer.stop().await;
    }
}
