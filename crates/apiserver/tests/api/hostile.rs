//! What clients may send that they should not: over TLS as it comes, each answered with a `Status`
//! or a clean end, while another client is served as ever.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::server::{CONFIG_MAPS, PODS, Server, config_map, pod, refused};

/// Far above what any of these take, far below what an attack costs that works.
const BOUND: Duration = Duration::from_secs(10);

/// A connection of the administrator.
async fn connect(server: &Server) -> TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(server.pki.ca_pem().as_bytes()).unwrap()).unwrap();
    let kubeconfig = std::fs::read_to_string(server.path("kubeconfig")).unwrap();
    let pem = |field: &str| {
        let line = kubeconfig.lines().find_map(|line| line.trim().strip_prefix(field)).unwrap();
        STANDARD.decode(line.trim_matches([':', ' ', '"'])).unwrap()
    };
    let chain = CertificateDer::pem_slice_iter(&pem("client-certificate-data"))
        .collect::<Result<Vec<_>, _>>()
        .unwrap();
    let key = PrivateKeyDer::from_pem_slice(&pem("client-key-data")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    let stream = TcpStream::connect(server.address).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

/// Sends bytes and reads what comes until the server ends the connection or the body is whole;
/// code 0 when it ended without an answer.
async fn raw(server: &Server, bytes: &[u8]) -> (u16, Value) {
    let mut stream = connect(server).await;
    // The server may answer and close before all is sent.
    let _ = stream.write_all(bytes).await;
    let mut got = Vec::new();
    let mut buffer = [0; 16 * 1024];
    let read = async {
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(count) => got.extend_from_slice(&buffer[..count]),
            }
            if let Some(body) = body_of(&got) {
                return body;
            }
        }
        Value::Null
    };
    let body = tokio::time::timeout(BOUND, read).await.expect("answered in time");
    let head = String::from_utf8_lossy(&got);
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    (code.unwrap_or(0), body)
}

fn body_of(got: &[u8]) -> Option<Value> {
    let end = got.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&got[..end]).to_lowercase();
    let length = head.split("content-length: ").nth(1)?.split("\r\n").next()?.parse().ok()?;
    (got.len() - end >= length).then(|| serde_json::from_slice(&got[end..]).unwrap_or(Value::Null))
}

fn post(kind: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {CONFIG_MAPS} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

#[tokio::test]
async fn bodies_that_are_no_objects_are_bad_requests() {
    let server = Server::start().await;
    let check = async |kind: &str, body: &[u8], code: u16, reason: &str| {
        let started = Instant::now();
        let (got, status) = raw(&server, &post(kind, body)).await;
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]);
        assert_eq!(got, code, "{shown}: {status}");
        assert_eq!(status["kind"], "Status", "{shown}: {status}");
        assert_eq!(status["reason"], reason, "{shown}: {status}");
        assert!(started.elapsed() < BOUND, "{shown}: {:?}", started.elapsed());
    };
    let (json, yaml) = ("application/json", "application/yaml");
    for body in [
        b"{\"a\":".to_vec(),
        b"null".to_vec(),
        vec![0; 100],
        b"{\"data\":{\"a\":\"\xff\xfe\"}}".to_vec(),
        b"[".repeat(1_000_000),
        b"{\"a\":".repeat(500_000),
        b"{\"data\":1e999}".to_vec(),
    ] {
        check(json, &body, 400, "BadRequest").await;
    }
    let lists = |name: char| {
        let before = char::from(u8::try_from(u32::from(name)).unwrap() - 1);
        format!("{name}: &{name} [{}]\n", vec![format!("*{before}"); 9].join(","))
    };
    let bomb = "a: &a [x]\n".to_owned() + &('b'..='z').map(lists).collect::<String>();
    let merges = |at: u32| {
        format!("k{at}: &k{at}\n  <<: [{}]\n", vec![format!("*k{}", at - 1); 9].join(","))
    };
    let merges = "k0: &k0 {x: 1}\n".to_owned() + &(1..30).map(merges).collect::<String>();
    let long = format!("z: &z '{}'\ndata:\n", "x".repeat(50_000));
    let long = (0..9_000).fold(long, |all, at| all + &format!("  k{at}: *z\n"));
    for body in [
        bomb.into_bytes(),
        merges.into_bytes(),
        long.into_bytes(),
        b"[".repeat(1_000_000),
        b"- ".repeat(1_000_000),
        b"a: \xff".to_vec(),
    ] {
        check(yaml, &body, 400, "BadRequest").await;
    }
    check("text/plain", b"{}", 415, "UnsupportedMediaType").await;
    check("application/vnd.kubernetes.protobuf", b"{}", 400, "BadRequest").await;
    check(json, &vec![b' '; 3 * 1024 * 1024 + 1], 413, "RequestEntityTooLarge").await;
    server.stop().await;
}

#[tokio::test]
async fn a_chunked_body_ends_at_the_limit_too() {
    let server = Server::start().await;
    let mut bytes = format!(
        "POST {CONFIG_MAPS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\n\r\n"
    )
    .into_bytes();
    for _ in 0..4 {
        bytes.extend_from_slice(b"100000\r\n");
        bytes.extend(std::iter::repeat_n(b' ', 0x10_0000));
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    let (code, status) = raw(&server, &bytes).await;
    assert_eq!((code, &status["reason"]), (413, &json!("RequestEntityTooLarge")), "{status}");
    server.stop().await;
}

#[tokio::test]
async fn patches_that_explode_are_refused() {
    let server = Server::start().await;
    server.create(CONFIG_MAPS, &config_map("a", json!({}))).await.unwrap();
    let one = format!("{CONFIG_MAPS}/a");
    let copy = json!({"op": "copy", "from": "/x", "path": "/x/-"});
    let mut operations = vec![json!({"op": "add", "path": "/x", "value": ["x".repeat(1000)]})];
    operations.extend(std::iter::repeat_n(copy, 60));
    let answer = server.patch(&one, "json-patch+json", &Value::Array(operations)).await;
    assert!(refused(answer, 422, "Invalid").contains("accumulated size"));
    let mut path = "/x/k".to_owned();
    let mut operations = vec![json!({"op": "add", "path": "/x", "value": {"k": {}}})];
    for _ in 0..17 {
        operations.push(json!({"op": "copy", "from": "/x", "path": format!("{path}/k")}));
        path = format!("{path}/k{}", &path[2..]);
    }
    let answer = server.patch(&one, "json-patch+json", &Value::Array(operations)).await;
    assert!(refused(answer, 422, "Invalid").contains("levels deep"));
    server.get(&one).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn long_lists_cost_no_more_than_their_length() {
    let server = Server::start().await;
    let env = |prefix: &str| -> Vec<Value> {
        (0..8_000).map(|at| json!({"name": format!("{prefix}{at}"), "value": "1"})).collect()
    };
    let mut body = pod("long");
    body["spec"]["containers"][0]["env"] = Value::from(env("a"));
    server.create(PODS, &body).await.unwrap();
    let started = Instant::now();
    let patch = json!({"spec": {"containers": [{"name": "c", "env": env("b")}]}});
    // A pod's variables stay as they are, so the merge is all that this costs.
    let answer = server.patch(&format!("{PODS}/long"), "strategic-merge-patch+json", &patch).await;
    refused(answer, 422, "Invalid");
    assert!(started.elapsed() < BOUND, "{:?}", started.elapsed());
    server.stop().await;
}

#[tokio::test]
async fn clients_that_never_finish_do_not_keep_others_waiting() {
    let server = Server::start().await;
    let mut held = Vec::new();
    for at in 0..120 {
        let mut stream = connect(&server).await;
        let start = match at % 3 {
            // Nothing at all, half a head, half a body.
            0 => String::new(),
            1 => "GET /api HTTP/1.1\r\nHost: x\r\nX-Long: ".to_owned(),
            _ => format!(
                "POST {CONFIG_MAPS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
                 Content-Length: 3000000\r\n\r\n{{"
            ),
        };
        stream.write_all(start.as_bytes()).await.unwrap();
        held.push(stream);
    }
    let request = format!("GET {CONFIG_MAPS} HTTP/1.1\r\nHost: x\r\n\r\n");
    for _ in 0..20 {
        let started = Instant::now();
        let (code, _) = raw(&server, request.as_bytes()).await;
        assert_eq!(code, 200);
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    }
    drop(held);
    server.stop().await;
}

#[tokio::test]
async fn odd_requests_are_answered_and_change_nothing() {
    let server = Server::start().await;
    let check = async |head: &str, codes: &[u16]| {
        let (code, _) = raw(&server, format!("{head}\r\nHost: x\r\n\r\n").as_bytes()).await;
        assert!(codes.contains(&code), "{}: {code}", &head[..head.len().min(100)]);
    };
    for path in ["a%2fb", "a%00b", "..", "%2e%2e", "%zz", "%ff"] {
        check(&format!("GET {CONFIG_MAPS}/{path} HTTP/1.1"), &[404]).await;
    }
    check(&format!("GET {CONFIG_MAPS}?labelSelector={} HTTP/1.1", "(".repeat(50_000)), &[400])
        .await;
    check(&format!("GET {CONFIG_MAPS}?fieldSelector={}%3D1 HTTP/1.1", "a.".repeat(30_000)), &[400])
        .await;
    // The answer is lost when the server closes while more is being sent.
    check(&format!("GET {CONFIG_MAPS}?x={} HTTP/1.1", "a".repeat(500_000)), &[414, 431, 0]).await;
    check(&format!("GET {CONFIG_MAPS} HTTP/1.1\r\nX-A: {}", "a".repeat(1_000_000)), &[431, 0])
        .await;
    check(&format!("BREW {CONFIG_MAPS} HTTP/1.1"), &[405]).await;
    check(&format!("GET {CONFIG_MAPS}?limit=99999999999999999999 HTTP/1.1"), &[400]).await;
    check(&format!("GET {CONFIG_MAPS} HTTP/1.1\r\nAccept: image/png"), &[406]).await;
    check(&format!("GET {CONFIG_MAPS} HTTP/1.1\r\nImpersonate-Group: a"), &[400]).await;
    // Two lengths: whoever stands between might see another request in it.
    check(
        &format!("POST {CONFIG_MAPS} HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 5"),
        &[400],
    )
    .await;
    assert_eq!(server.get(CONFIG_MAPS).await.unwrap()["items"], json!([]));
    server.stop().await;
}
