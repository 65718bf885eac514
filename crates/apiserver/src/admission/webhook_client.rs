//! The line to one webhook: TLS with the authority that its configuration names, connections kept.
//!
//! A service is reached at one of its ready endpoints, else at its own address. An answer has a
//! largest size and a latest time; more than that is no answer.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine;
use berth_store::Store;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use http::{Method, Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::tls;

/// Kubernetes lets an object be 1.5 MiB; a patch in base64 may be twice that.
const LARGEST_ANSWER: usize = 3 * 1024 * 1024;
const IDLE: Duration = Duration::from_secs(60);
const IDLE_CONNECTIONS: usize = 8;
/// Who is trusted where a configuration names nobody, as Debian keeps it.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Calls one webhook.
#[derive(Clone)]
pub(super) struct Line {
    client: Client<Connector, Full<Bytes>>,
    url: Uri,
}

impl Line {
    /// A line to where `client_config` points.
    pub(super) fn new(client_config: &Value, store: Arc<dyn Store>) -> Result<Self, String> {
        let service = &client_config["service"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (url, service) = if service.is_object() {
            let (name, namespace) = (text(&service["name"]), text(&service["namespace"]));
            let port = service["port"].as_u64().unwrap_or(443);
            let path = service["path"].as_str().unwrap_or("/");
            let url = format!("https://{name}.{namespace}.svc:{port}{path}");
            (url, Some(Service { name, namespace, port }))
        } else {
            (text(&client_config["url"]), None)
        };
        let url: Uri = url.parse().map_err(|error| format!("{url:?} is no URL: {error}"))?;
        let connector = Connector {
            tls: TlsConnector::from(Arc::new(tls_config(&client_config["caBundle"])?)),
            service: service.map(Arc::new),
            store,
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build(connector);
        Ok(Self { client, url })
    }

    /// Sends a review; answers the body of what came back.
    pub(super) async fn ask(&self, review: &Value, within: Duration) -> Result<Bytes, String> {
        let seconds = within.as_secs();
        let shown = format!("Post \"{}?timeout={seconds}s\"", self.url);
        let join = if self.url.query().is_some() { '&' } else { '?' };
        let url = format!("{}{join}timeout={seconds}s", self.url);
        let request = Request::builder()
            .method(Method::POST)
            .uri(url)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, "kube-apiserver-admission")
            .body(Full::new(Bytes::from(review.to_string())))
            .map_err(|error| format!("{shown}: {error}"))?;
        let call = async {
            let response = self.client.request(request).await.map_err(|error| chain(&error))?;
            let code = response.status();
            let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await;
            let body = body.map_err(|error| format!("reading the answer: {error}"))?.to_bytes();
            if !code.is_success() {
                return Err(format!("the server answered {code}"));
            }
            Ok(body)
        };
        match tokio::time::timeout(within, call).await {
            Ok(done) => done.map_err(|error| format!("{shown}: {error}")),
            Err(_) => Err(format!("{shown}: context deadline exceeded")),
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        said.push_str(&format!(": {error}"));
        next = error.source();
    }
    said
}

fn tls_config(bundle: &Value) -> Result<ClientConfig, String> {
    let pem = match bundle.as_str().filter(|text| !text.is_empty()) {
        Some(text) => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(text);
            let bytes = bytes.map_err(|error| format!("caBundle: {error}"))?;
            String::from_utf8(bytes).map_err(|error| format!("caBundle: {error}"))?
        }
        None => std::fs::read_to_string(SYSTEM_ROOTS)
            .map_err(|error| format!("no caBundle, and {SYSTEM_ROOTS}: {error}"))?,
    };
    let roots = tls::roots(&pem).map_err(|error| format!("caBundle: {error}"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

struct Service {
    name: String,
    namespace: String,
    port: u64,
}

#[derive(Clone)]
struct Connector {
    tls: TlsConnector,
    service: Option<Arc<Service>>,
    store: Arc<dyn Store>,
}

impl tower::Service<Uri> for Connector {
    type Response = Secured;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Secured, io::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        let own = self.clone();
        Box::pin(async move {
            let host = url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
            let plain = match &own.service {
                Some(service) => {
                    let (address, port) = locate(own.store.as_ref(), service).await?;
                    TcpStream::connect((address.as_str(), port)).await?
                }
                None => {
                    let port = url.port_u16().unwrap_or(443);
                    TcpStream::connect((host.as_str(), port)).await?
                }
            };
            let _ = plain.set_nodelay(true);
            let name = ServerName::try_from(host).map_err(io::Error::other)?;
            let secured = own.tls.connect(name, plain).await?;
            Ok(Secured(TokioIo::new(secured)))
        })
    }
}

/// Where a service answers: at a ready endpoint, else at its cluster address.
async fn locate(store: &dyn Store, service: &Service) -> Result<(String, u16), io::Error> {
    let Service { name, namespace, port } = service;
    let missing = || io::Error::other(format!("service \"{name}\" not found"));
    let key = format!("/registry/core/services/{namespace}/{name}");
    let (entry, _) = store.get(key.as_bytes()).await.map_err(io::Error::other)?;
    let found: Value =
        serde_json::from_slice(&entry.ok_or_else(missing)?.value).map_err(io::Error::other)?;
    let mut ports = found["spec"]["ports"].as_array().into_iter().flatten();
    let own = ports.find(|one| one["port"].as_u64() == Some(*port)).ok_or_else(|| {
        io::Error::other(format!("no service port {port} found for service \"{name}\""))
    })?;
    let port_name = own["name"].as_str().unwrap_or_default();
    let prefix = format!("/registry/discovery.k8s.io/endpointslices/{namespace}/");
    let slices = store.list(prefix.as_bytes(), None, 0, None).await.map_err(io::Error::other)?;
    for entry in &slices.entries {
        let Ok(slice) = serde_json::from_slice::<Value>(&entry.value) else { continue };
        if slice["metadata"]["labels"]["kubernetes.io/service-name"] != name.as_str() {
            continue;
        }
        let mut ports = slice["ports"].as_array().into_iter().flatten();
        let port = ports.find(|one| one["name"].as_str().unwrap_or_default() == port_name);
        let port = port.and_then(|one| u16::try_from(one["port"].as_u64()?).ok());
        let mut endpoints = slice["endpoints"].as_array().into_iter().flatten();
        let ready = endpoints.find(|one| one["conditions"]["ready"] != false);
        if let (Some(port), Some(address)) =
            (port, ready.and_then(|one| one["addresses"][0].as_str()))
        {
            return Ok((address.to_owned(), port));
        }
    }
    let address = found["spec"]["clusterIP"].as_str().filter(|one| !matches!(*one, "" | "None"));
    match (address, u16::try_from(*port)) {
        (Some(address), Ok(port)) => Ok((address.to_owned(), port)),
        _ => Err(io::Error::other(format!("no endpoints available for service \"{name}\""))),
    }
}

/// A connection that the pool can keep.
struct Secured(TokioIo<TlsStream<TcpStream>>);

impl Connection for Secured {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl Write for Secured {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
