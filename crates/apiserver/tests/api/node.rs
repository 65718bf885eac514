//! Over the network: who is let in, and the way through to a node agent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use berth_apiserver::Pki;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::server::{PODS, Server, pod};

fn roots(pki: &Pki) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pki.ca_pem().as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    roots
}

/// A connection that trusts the CA and shows no certificate.
pub async fn connect(server: &Server) -> TlsStream<TcpStream> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots(&server.pki))
        .with_no_client_auth();
    let stream = TcpStream::connect(server.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

/// Sends a request of HTTP/1.1 and answers all that comes back until the end.
pub async fn exchange(server: &Server, head: &str) -> String {
    let mut stream = connect(server).await;
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(10), read).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn get(path: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{more}\r\n")
}

#[tokio::test]
async fn strangers_see_health_and_version_and_nothing_else() {
    let server = Server::start().await;
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        let answer = exchange(&server, &get(path, "")).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    }
    let answer = exchange(&server, &get("/api/v1/pods", "")).await;
    assert!(answer.starts_with("HTTP/1.1 40"), "{answer}");
    assert!(answer.contains("\"Status\""), "{answer}");
    let forged = "authorization: Bearer made.up.token\r\n";
    for path in ["/healthz", "/api/v1/pods"] {
        let answer = exchange(&server, &get(path, forged)).await;
        assert!(answer.starts_with("HTTP/1.1 401"), "{path}: {answer}");
    }
    let claims = "impersonate-user: admin\r\nimpersonate-group: system:masters\r\n";
    let answer = exchange(&server, &get("/api/v1/pods", claims)).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn a_token_opens_what_its_account_may() {
    let server = Server::start().await;
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let made = server.create(path, &json!({})).await.unwrap();
    let token = made["status"]["token"].as_str().unwrap();
    let bearer = format!("authorization: Bearer {token}\r\n");
    let answer = exchange(&server, &get("/api/v1/pods", &bearer)).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(answer.contains("system:serviceaccount:default:default"), "{answer}");
    let answer = exchange(&server, &get("/api", &bearer)).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn a_body_that_is_announced_too_long_is_refused_before_it_comes() {
    let server = Server::start().await;
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let made = server.create(path, &json!({})).await.unwrap();
    let token = made["status"]["token"].as_str().unwrap();
    let head = format!(
        "POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews HTTP/1.1\r\nhost: a\r\n\
         authorization: Bearer {token}\r\nconnection: close\r\ncontent-length: 4000000\r\n\r\n"
    );
    let answer = exchange(&server, &head).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    server.stop().await;
}

/// A node agent that knows one log and echoes sessions.
async fn node_agent(pki: &Pki) -> SocketAddr {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots(pki)), provider.clone());
    let (cert, key) = pki.kubelet_serving();
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(cert.as_bytes()).collect::<Result<_, _>>().unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    berth_daemon::Tasks::new().spawn("node agent", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            if head.starts_with("GET /containerLogs/default/p/c?tailLines=2 ") {
                let answer = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\
                              transfer-encoding: chunked\r\n\r\n4\r\none\n\r\n4\r\ntwo\n\r\n0\r\n\r\n";
                stream.write_all(answer.as_bytes()).await.unwrap();
            } else if head.contains("/exec/default/p/c?command=cat&stdin=true") {
                assert!(!head.to_lowercase().contains("authorization"), "{head}");
                let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                              upgrade: websocket\r\n\r\n";
                stream.write_all(answer.as_bytes()).await.unwrap();
                let mut echoed = [0; 5];
                stream.read_exact(&mut echoed).await.unwrap();
                stream.write_all(&echoed).await.unwrap();
            } else {
                let answer = "HTTP/1.1 404 Not Found\r\ncontent-length: 9\r\n\r\nno such c";
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            let _ = stream.shutdown().await;
        }
    });
    address
}

async fn with_node() -> Server {
    let server = Server::start().await;
    let address = node_agent(&server.pki).await;
    let node = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "node-1"},
        "status": {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": address.port()}},
        },
    });
    server.create("/api/v1/nodes", &node).await.unwrap();
    server.create(PODS, &pod("p")).await.unwrap();
    let bind = json!({"target": {"kind": "Node", "name": "node-1"}});
    server.create(&format!("{PODS}/p/binding"), &bind).await.unwrap();
    server
}

#[tokio::test]
async fn logs_come_from_the_node_agent() {
    let server = with_node().await;
    let log = server.get(&format!("{PODS}/p/log?tailLines=2")).await.unwrap();
    assert_eq!(log, "one\ntwo\n");
    let refusal = server.get(&format!("{PODS}/p/log?container=x")).await.unwrap_err();
    assert_eq!(refusal.message, "container x is not valid for pod p");
    let refusal = server.get(&format!("{PODS}/p/log?tailLines=3")).await.unwrap_err();
    assert_eq!((refusal.code, refusal.message.as_str()), (404, "no such c"));
    server.stop().await;
}

#[tokio::test]
async fn a_pod_of_many_containers_wants_one_named() {
    let server = Server::start().await;
    let mut two = pod("p");
    two["spec"]["containers"].as_array_mut().unwrap().push(json!({"name": "d", "image": "i"}));
    server.create(PODS, &two).await.unwrap();
    let refusal = server.get(&format!("{PODS}/p/log")).await.unwrap_err();
    assert_eq!(
        refusal.message,
        "a container name must be specified for pod p, choose one of: [c d]"
    );
    server.stop().await;
}

#[tokio::test]
async fn a_session_passes_through_byte_for_byte() {
    let server = with_node().await;
    let role = json!({
        "metadata": {"name": "all"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}],
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin",
        },
    });
    let path = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    server.create(path, &role).await.unwrap();
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let made = server.create(path, &json!({})).await.unwrap();
    let token = made["status"]["token"].as_str().unwrap();
    let head = format!(
        "GET {PODS}/p/exec?command=cat&stdin=true HTTP/1.1\r\nhost: a\r\n\
         authorization: Bearer {token}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello"
    );
    crate::server::eventually("bound", async || {
        let mut stream = connect(&server).await;
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        let _ = tokio::time::timeout(Duration::from_secs(10), read).await.unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        answer.starts_with("HTTP/1.1 101") && answer.ends_with("\r\n\r\nhello")
    })
    .await;
    server.stop().await;
}
