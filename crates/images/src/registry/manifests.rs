//! Manifests, tags and referrers.
//!
//! # Source
//! OCI distribution spec 1.1, end-3, end-7, end-8, end-9 and end-12.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde_json::json;

use super::error::Refusal;
use super::storage::{Storage, Stored};
use super::{Query, Registry, blocking, content_digest, respond};
use crate::manifest::{Descriptor, INDEX, MANIFEST, Manifest};
use crate::reference::{Digest, Name, Tag};

/// What the spec asks a registry to take at least, and this one at most.
const MANIFEST_BYTES_MAX: usize = 4 << 20;

/// A manifest is asked for by tag or by digest.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    Tag(Tag),
    Digest(Digest),
}

impl Wanted {
    pub(super) fn parse(text: &str) -> Result<Wanted, Refusal> {
        if text.contains(':') {
            Ok(Wanted::Digest(Digest::parse(text)?))
        } else {
            Ok(Wanted::Tag(Tag::parse(text)?))
        }
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Wanted::Tag(tag) => tag.fmt(f),
            Wanted::Digest(digest) => digest.fmt(f),
        }
    }
}

impl Registry {
    pub(super) async fn read_manifest(
        &self,
        name: Name,
        wanted: Wanted,
        head: bool,
    ) -> Result<Response, Refusal> {
        let (storage, of) = (self.storage.clone(), wanted.clone());
        let found = blocking(move || {
            let digest = match of {
                Wanted::Digest(digest) => Some(digest),
                Wanted::Tag(tag) => storage.resolve(&name, &tag)?,
            };
            digest.map_or(Ok(None), |digest| storage.manifest(&name, &digest))
        });
        let stored = found.await?.ok_or_else(|| Refusal::manifest_unknown(&wanted))?;
        let length = stored.content.len() as u64;
        let body = if head { Body::empty() } else { Body::from(stored.content) };
        let mut response = respond(StatusCode::OK, body);
        let headers = response.headers_mut();
        if let Ok(media_type) = HeaderValue::from_str(&stored.media_type) {
            headers.insert(header::CONTENT_TYPE, media_type);
        }
        headers.insert(header::CONTENT_LENGTH, length.into());
        content_digest(headers, &stored.digest);
        Ok(response)
    }

    pub(super) async fn put_manifest(
        &self,
        name: Name,
        wanted: Wanted,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Response, Refusal> {
        let content = axum::body::to_bytes(body, MANIFEST_BYTES_MAX)
            .await
            .map_err(|_| Refusal::manifest_too_large(MANIFEST_BYTES_MAX))?;
        let digest = Digest::of(&content);
        let tag = match wanted {
            Wanted::Digest(said) if said != digest => {
                let message = format!("the content has the digest {digest}, not {said}");
                return Err(Refusal::digest_invalid(message));
            }
            Wanted::Digest(_) => None,
            Wanted::Tag(tag) => Some(tag),
        };
        let sent = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let (manifest, media_type) = check(&content, sent)?;
        let subject = match &manifest.subject {
            Some(subject) => Some(Digest::parse(&subject.digest)?),
            None => None,
        };
        let location = format!("/v2/{name}/manifests/{digest}");
        let (storage, about) = (self.storage.clone(), subject.clone());
        let stored = Stored { digest: digest.clone(), media_type, content: content.into() };
        let missing = blocking(move || {
            if let Some(missing) = missing(&storage, &name, &manifest)? {
                return Ok(Some(missing));
            }
            storage.put_manifest(&name, tag.as_ref(), &stored, about.as_ref())?;
            Ok(None)
        });
        if let Some(missing) = missing.await? {
            return Err(Refusal::manifest_blob_unknown(&missing));
        }
        let mut response = respond(StatusCode::CREATED, Body::empty());
        let headers = response.headers_mut();
        if let Ok(location) = HeaderValue::from_str(&location) {
            headers.insert(header::LOCATION, location);
        }
        if let Some(Ok(subject)) = subject.map(|subject| HeaderValue::from_str(subject.as_str())) {
            headers.insert(HeaderName::from_static("oci-subject"), subject);
        }
        content_digest(headers, &digest);
        Ok(response)
    }

    pub(super) async fn delete_manifest(
        &self,
        name: Name,
        wanted: Wanted,
    ) -> Result<Response, Refusal> {
        let (storage, of) = (self.storage.clone(), wanted.clone());
        let deleted = blocking(move || match of {
            Wanted::Tag(tag) => storage.delete_tag(&name, &tag),
            Wanted::Digest(digest) => storage.delete_manifest(&name, &digest),
        });
        match deleted.await? {
            true => Ok(respond(StatusCode::ACCEPTED, Body::empty())),
            false => Err(Refusal::manifest_unknown(wanted)),
        }
    }

    pub(super) async fn list_tags(&self, name: Name, query: &Query) -> Result<Response, Refusal> {
        let (storage, of) = (self.storage.clone(), name.clone());
        let tags = blocking(move || storage.tags(&of)).await?;
        let tags = tags.ok_or_else(|| Refusal::name_unknown(&name))?;
        let limit: Option<usize> = query.get("n").and_then(|n| n.parse().ok());
        let after = query.get("last").map_or("", String::as_str);
        let mut tags: Vec<&str> =
            tags.iter().map(Tag::as_str).filter(|tag| after.is_empty() || *tag > after).collect();
        let more = limit.is_some_and(|limit| tags.len() > limit);
        tags.truncate(limit.unwrap_or(usize::MAX));
        let mut response =
            json_response("application/json", &json!({ "name": name.as_str(), "tags": tags }));
        if let (true, Some(limit), Some(last)) = (more, limit, tags.last()) {
            let link = format!("</v2/{name}/tags/list?n={limit}&last={last}>; rel=\"next\"");
            if let Ok(link) = HeaderValue::from_str(&link) {
                response.headers_mut().insert(header::LINK, link);
            }
        }
        Ok(response)
    }

    pub(super) async fn referrers(
        &self,
        name: Name,
        subject: Digest,
        query: &Query,
    ) -> Result<Response, Refusal> {
        let storage = self.storage.clone();
        let mut found = blocking(move || referrers(&storage, &name, &subject)).await?;
        let filter = query.get("artifactType");
        if let Some(kind) = filter {
            found.retain(|descriptor| descriptor.artifact_type.as_ref() == Some(kind));
        }
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": found });
        let mut response = json_response(INDEX, &index);
        if filter.is_some() {
            let applied = HeaderName::from_static("oci-filters-applied");
            response.headers_mut().insert(applied, HeaderValue::from_static("artifactType"));
        }
        Ok(response)
    }
}

fn json_response(media_type: &'static str, value: &serde_json::Value) -> Response {
    let mut response = respond(StatusCode::OK, Body::from(value.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// Reads a manifest, and finds its media type in it or beside it.
fn check(content: &[u8], sent: Option<&str>) -> Result<(Manifest, String), Refusal> {
    let manifest: Manifest = serde_json::from_slice(content)
        .map_err(|error| Refusal::manifest_invalid(format!("it cannot be read: {error}")))?;
    if manifest.schema_version != 2 {
        let message = format!("schemaVersion is {}, it must be 2", manifest.schema_version);
        return Err(Refusal::manifest_invalid(message));
    }
    let media_type = match (&manifest.media_type, sent) {
        (Some(inside), Some(sent)) if inside != sent => {
            let message = format!("it says that it is {inside}, the request says {sent}");
            return Err(Refusal::manifest_invalid(message));
        }
        (Some(inside), _) => inside.clone(),
        (None, Some(sent)) => sent.to_owned(),
        (None, None) if manifest.manifests.is_empty() => MANIFEST.to_owned(),
        (None, None) => INDEX.to_owned(),
    };
    Ok((manifest, media_type))
}

/// The first thing that the manifest needs and the repository does not have. The subject may come
/// later, or never.
fn missing(storage: &Storage, name: &Name, manifest: &Manifest) -> std::io::Result<Option<String>> {
    let elsewhere = |descriptor: &&Descriptor| {
        descriptor.urls.is_empty() && !descriptor.media_type.contains("nondistributable")
    };
    for blob in manifest.config.iter().chain(&manifest.layers).filter(elsewhere) {
        let there = match Digest::parse(&blob.digest) {
            Ok(digest) => storage.blob_size(name, &digest)?.is_some(),
            Err(_) => false,
        };
        if !there {
            return Ok(Some(blob.digest.clone()));
        }
    }
    for child in &manifest.manifests {
        let there = match Digest::parse(&child.digest) {
            Ok(digest) => storage.has_manifest(name, &digest)?,
            Err(_) => false,
        };
        if !there {
            return Ok(Some(child.digest.clone()));
        }
    }
    Ok(None)
}

fn referrers(storage: &Storage, name: &Name, subject: &Digest) -> std::io::Result<Vec<Descriptor>> {
    let mut found = Vec::new();
    for digest in storage.referrers(name, subject)? {
        let Some(stored) = storage.manifest(name, &digest)? else { continue };
        let Ok(manifest) = serde_json::from_slice::<Manifest>(&stored.content) else { continue };
        let size = stored.content.len() as u64;
        let mut descriptor = Descriptor::new(&stored.media_type, digest.as_str(), size);
        descriptor.artifact_type = manifest.kind_of_artifact().map(str::to_owned);
        descriptor.annotations = manifest.annotations;
        found.push(descriptor);
    }
    Ok(found)
}
