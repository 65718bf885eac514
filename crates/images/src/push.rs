//! The registry's client: enough to push an image of ours, and to read one back.
//!
//! Blobs that are there already are not sent, those of another repository are mounted. Plain HTTP:
//! it speaks to Berth's own registry on the loopback address, nothing else.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::sync::watch;

use crate::layer::Layer;
use crate::manifest::{DOCKER_LIST, DOCKER_MANIFEST, Descriptor, INDEX, MANIFEST, Manifest};
use crate::reference::{Digest, Name};

/// What a request may take that moves little.
const PATIENCE: Duration = Duration::from_secs(30);
/// What a blob may take besides: a disk slower than this is broken.
const BYTES_PER_SECOND_MIN: u64 = 1 << 20;
/// No document that we read is larger.
const DOCUMENT_BYTES_MAX: usize = 8 << 20;

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Why the registry could not be used.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The request could not be sent, or its answer not read.
    #[error("cannot reach the registry at {registry}")]
    Unreachable {
        /// Where it should be.
        registry: SocketAddr,
        /// What the system said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time.
    #[error("the registry at {registry} did not answer within {} s", patience.as_secs())]
    Slow {
        /// Where it is.
        registry: SocketAddr,
        /// How long was waited.
        patience: Duration,
    },
    /// The registry said no.
    #[error("the registry refused {what}: {status}: {message}")]
    Refused {
        /// The request.
        what: String,
        /// Its status.
        status: StatusCode,
        /// Its words.
        message: String,
    },
    /// A document is not what it should be.
    #[error("the registry's {what} cannot be read: {reason}")]
    Unreadable {
        /// Which document.
        what: String,
        /// What is wrong.
        reason: String,
    },
}

/// What a blob holds.
#[derive(Clone)]
pub(crate) enum Content {
    Bytes(Bytes),
    Layer(std::sync::Arc<Layer>),
}

/// A blob to push.
#[derive(Clone)]
pub(crate) struct Blob {
    pub(crate) descriptor: Descriptor,
    pub(crate) content: Content,
}

impl Blob {
    pub(crate) fn bytes(media_type: &str, content: Vec<u8>) -> Blob {
        let digest = Digest::of(&content);
        let descriptor = Descriptor::new(media_type, digest.as_str(), content.len() as u64);
        Blob { descriptor, content: Content::Bytes(content.into()) }
    }
}

/// A client of one registry.
#[derive(Clone)]
pub(crate) struct Registry {
    address: SocketAddr,
    http: Client<HttpConnector, Body>,
}

impl Registry {
    pub(crate) fn new(address: SocketAddr) -> Registry {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(PATIENCE));
        connector.set_nodelay(true);
        Registry { address, http: Client::builder(TokioExecutor::new()).build(connector) }
    }

    /// Sends what is missing, then the manifest under each of `references` (tags or the digest).
    /// `progress` hears of bytes done and bytes in all.
    pub(crate) async fn push(
        &self,
        name: &Name,
        blobs: &[Blob],
        manifest: &Manifest,
        references: &[String],
        progress: &mut (dyn FnMut(u64, u64) + Send),
    ) -> Result<Digest, PushError> {
        let total: u64 = blobs.iter().map(|blob| blob.descriptor.size).sum();
        let mut done = 0;
        progress(done, total);
        for blob in blobs {
            self.push_blob(name, blob, &mut |sent| progress(done + sent, total)).await?;
            done += blob.descriptor.size;
            progress(done, total);
        }
        let content = serde_json::to_vec(manifest).map_err(|error| PushError::Unreadable {
            what: "manifest".to_owned(),
            reason: error.to_string(),
        })?;
        let digest = Digest::of(&content);
        for reference in references {
            self.put_manifest(name, reference, MANIFEST, content.clone().into()).await?;
        }
        Ok(digest)
    }

    /// Gives a manifest that is there another tag.
    pub(crate) async fn tag(
        &self,
        name: &Name,
        digest: &Digest,
        tag: &str,
    ) -> Result<(), PushError> {
        let path = format!("/v2/{name}/manifests/{digest}");
        let Some(content) = self.document(&path).await? else { return Ok(()) };
        let manifest: Manifest = read(&content, &path)?;
        let media_type = manifest.media_type.as_deref().unwrap_or(MANIFEST);
        self.put_manifest(name, tag, media_type, content).await
    }

    async fn push_blob(
        &self,
        name: &Name,
        blob: &Blob,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(), PushError> {
        let digest = &blob.descriptor.digest;
        if self.has_blob(name, digest).await? {
            return Ok(());
        }
        // Without `from`: whichever repository has it.
        let start = format!("/v2/{name}/blobs/uploads/?mount={digest}");
        let started = self.send(Method::POST, &start, None, empty(), PATIENCE).await?;
        if started.status() == StatusCode::CREATED {
            return Ok(());
        }
        let started = self.accept(started, &[StatusCode::ACCEPTED], &start).await?;
        let location = started
            .headers()
            .get(header::LOCATION)
            .and_then(|location| location.to_str().ok())
            .ok_or_else(|| PushError::Unreadable {
                what: "answer to an upload".to_owned(),
                reason: "it has no Location".to_owned(),
            })?;
        let put = format!("{location}?digest={digest}");
        let (sent, mut moved) = watch::channel(0);
        let (body, size) = (body(blob, sent), blob.descriptor.size);
        let patience = PATIENCE + Duration::from_secs(size / BYTES_PER_SECOND_MIN);
        let mut sending = std::pin::pin!(self.send(Method::PUT, &put, None, body, patience));
        let answer = loop {
            tokio::select! {
                answer = &mut sending => break answer?,
                Ok(()) = moved.changed() => progress(*moved.borrow_and_update()),
            }
        };
        self.accept(answer, &[StatusCode::CREATED], &put).await?;
        Ok(())
    }

    /// Makes blobs of `from` blobs of `name` too.
    pub(crate) async fn mount(
        &self,
        name: &Name,
        from: &Name,
        blobs: &[Descriptor],
    ) -> Result<(), PushError> {
        for blob in blobs {
            let path = format!("/v2/{name}/blobs/uploads/?mount={}&from={from}", blob.digest);
            let answer = self.send(Method::POST, &path, None, empty(), PATIENCE).await?;
            self.accept(answer, &[StatusCode::CREATED], &path).await?;
        }
        Ok(())
    }

    async fn has_blob(&self, name: &Name, digest: &str) -> Result<bool, PushError> {
        let path = format!("/v2/{name}/blobs/{digest}");
        let answer = self.send(Method::HEAD, &path, None, empty(), PATIENCE).await?;
        let answer = self.accept(answer, &[StatusCode::OK, StatusCode::NOT_FOUND], &path).await?;
        Ok(answer.status() == StatusCode::OK)
    }

    async fn put_manifest(
        &self,
        name: &Name,
        reference: &str,
        media_type: &str,
        content: Bytes,
    ) -> Result<(), PushError> {
        let path = format!("/v2/{name}/manifests/{reference}");
        let body = full(content);
        let answer = self.send(Method::PUT, &path, Some(media_type), body, PATIENCE).await?;
        self.accept(answer, &[StatusCode::CREATED], &path).await?;
        Ok(())
    }

    /// The digest that a tag points at.
    pub(crate) async fn resolve(
        &self,
        name: &Name,
        tag: &str,
    ) -> Result<Option<Digest>, PushError> {
        let path = format!("/v2/{name}/manifests/{tag}");
        let answer = self.send(Method::HEAD, &path, None, empty(), PATIENCE).await?;
        let answer = self.accept(answer, &[StatusCode::OK, StatusCode::NOT_FOUND], &path).await?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let digest = answer.headers().get("docker-content-digest");
        Ok(digest.and_then(|d| d.to_str().ok()).and_then(|d| Digest::parse(d).ok()))
    }

    /// The manifest of a tag or digest, for this machine when it is an index; none when it is not
    /// there.
    pub(crate) async fn image(
        &self,
        name: &Name,
        reference: &str,
    ) -> Result<Option<Manifest>, PushError> {
        let Some(found) = self.manifest(name, reference).await? else { return Ok(None) };
        if found.manifests.is_empty() {
            return Ok(Some(found));
        }
        let fits = found.manifests.iter().find(|child| {
            child.platform.as_ref().is_some_and(|platform| {
                platform.architecture == crate::manifest::architecture() && platform.os == "linux"
            })
        });
        match fits {
            Some(child) => self.manifest(name, &child.digest).await,
            None => Ok(None),
        }
    }

    async fn manifest(&self, name: &Name, reference: &str) -> Result<Option<Manifest>, PushError> {
        let path = format!("/v2/{name}/manifests/{reference}");
        let Some(content) = self.document(&path).await? else { return Ok(None) };
        Ok(Some(read(&content, &path)?))
    }

    /// A JSON blob.
    pub(crate) async fn json<T: serde::de::DeserializeOwned>(
        &self,
        name: &Name,
        digest: &str,
    ) -> Result<Option<T>, PushError> {
        let path = format!("/v2/{name}/blobs/{digest}");
        match self.document(&path).await? {
            Some(content) => Ok(Some(read(&content, &path)?)),
            None => Ok(None),
        }
    }

    async fn document(&self, path: &str) -> Result<Option<Bytes>, PushError> {
        let answer = self.send(Method::GET, path, None, empty(), PATIENCE).await?;
        let answer = self.accept(answer, &[StatusCode::OK, StatusCode::NOT_FOUND], path).await?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let body = Limited::new(answer.into_body(), DOCUMENT_BYTES_MAX).collect();
        let body = tokio::time::timeout(PATIENCE, body).await.map_err(|_| self.slow(PATIENCE))?;
        Ok(Some(body.map_err(|source| self.unreachable(source))?.to_bytes()))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: Option<&str>,
        body: Body,
        patience: Duration,
    ) -> Result<Response<Incoming>, PushError> {
        let mut headers = HeaderMap::new();
        if let Some(Ok(content_type)) = content_type.map(header::HeaderValue::from_str) {
            headers.insert(header::CONTENT_TYPE, content_type);
        }
        for accepted in [MANIFEST, INDEX, DOCKER_MANIFEST, DOCKER_LIST, "*/*"] {
            headers.append(header::ACCEPT, header::HeaderValue::from_static(accepted));
        }
        let uri = format!("http://{}{path}", self.address);
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri.parse().map_err(|error| self.unreachable(Box::new(error)))?;
        *request.headers_mut() = headers;
        tokio::time::timeout(patience, self.http.request(request))
            .await
            .map_err(|_| self.slow(patience))?
            .map_err(|source| self.unreachable(Box::new(source)))
    }

    async fn accept(
        &self,
        answer: Response<Incoming>,
        accepted: &[StatusCode],
        what: &str,
    ) -> Result<Response<Incoming>, PushError> {
        if accepted.contains(&answer.status()) {
            return Ok(answer);
        }
        let status = answer.status();
        let body = Limited::new(answer.into_body(), DOCUMENT_BYTES_MAX).collect();
        let body = tokio::time::timeout(PATIENCE, body).await.map_err(|_| self.slow(PATIENCE))?;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        let envelope: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let message = envelope["errors"][0]["message"].as_str().unwrap_or("no reason given");
        Err(PushError::Refused { what: what.to_owned(), status, message: message.to_owned() })
    }

    fn unreachable(&self, source: Box<dyn std::error::Error + Send + Sync>) -> PushError {
        PushError::Unreachable { registry: self.address, source }
    }

    fn slow(&self, patience: Duration) -> PushError {
        PushError::Slow { registry: self.address, patience }
    }
}

fn read<T: serde::de::DeserializeOwned>(content: &[u8], what: &str) -> Result<T, PushError> {
    serde_json::from_slice(content)
        .map_err(|error| PushError::Unreadable { what: what.to_owned(), reason: error.to_string() })
}

fn empty() -> Body {
    full(Bytes::new())
}

fn full(content: Bytes) -> Body {
    Full::new(content).map_err(|never| match never {}).boxed_unsync()
}

/// The content of a blob; `sent` hears how much has gone.
fn body(blob: &Blob, sent: watch::Sender<u64>) -> Body {
    match &blob.content {
        Content::Bytes(content) => full(content.clone()),
        Content::Layer(layer) => {
            let frames = layer.stream().map_ok(move |piece: Bytes| {
                sent.send_modify(|sent| *sent += piece.len() as u64);
                Frame::data(piece)
            });
            StreamBody::new(frames).boxed_unsync()
        }
    }
}
