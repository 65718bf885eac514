//! Blobs: read them in whole or in part, upload them in one piece or in many.
//!
//! # Source
//! OCI distribution spec 1.1, end-2, end-4a to end-11, end-13 and end-14.

use std::io::SeekFrom;
use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::error::Refusal;
use super::uploads::{Upload, progress_headers};
use super::{Query, Registry, blocking, content_digest, respond};
use crate::reference::{Digest, Name};

/// Read from disk at a time.
const READ_BYTES: usize = 256 << 10;

impl Registry {
    pub(super) async fn read_blob(
        &self,
        name: Name,
        digest: Digest,
        headers: &HeaderMap,
        head: bool,
    ) -> Result<Response, Refusal> {
        let (storage, wanted) = (self.storage.clone(), digest.clone());
        let size = blocking(move || {
            let size = storage.blob_size(&name, &wanted)?;
            if head && size.is_some() {
                storage.touch(&wanted)?;
            }
            Ok(size)
        });
        let size = size.await?.ok_or_else(|| Refusal::blob_unknown(&digest))?;
        let range = match headers.get(header::RANGE).and_then(|range| range.to_str().ok()) {
            Some(range) if !head => parse_range(range, size).ok_or_else(|| Refusal::range(size))?,
            _ => None,
        };
        let (status, start, length) = match range {
            Some((start, end)) => (StatusCode::PARTIAL_CONTENT, start, end + 1 - start),
            None => (StatusCode::OK, 0, size),
        };
        let body = if head {
            Body::empty()
        } else {
            let mut file = tokio::fs::File::open(self.storage.blob(&digest)).await?;
            file.seek(SeekFrom::Start(start)).await?;
            Body::from_stream(ReaderStream::with_capacity(file.take(length), READ_BYTES))
        };
        let mut response = respond(status, body);
        let headers = response.headers_mut();
        let octets = HeaderValue::from_static("application/octet-stream");
        headers.insert(header::CONTENT_TYPE, octets);
        headers.insert(header::CONTENT_LENGTH, length.into());
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if range.is_some()
            && let Ok(value) =
                HeaderValue::from_str(&format!("bytes {start}-{}/{size}", start + length - 1))
        {
            headers.insert(header::CONTENT_RANGE, value);
        }
        content_digest(headers, &digest);
        Ok(response)
    }

    pub(super) async fn delete_blob(
        &self,
        name: Name,
        digest: Digest,
    ) -> Result<Response, Refusal> {
        let (storage, wanted) = (self.storage.clone(), digest.clone());
        match blocking(move || storage.unlink_blob(&name, &wanted)).await? {
            true => Ok(respond(StatusCode::ACCEPTED, Body::empty())),
            false => Err(Refusal::blob_unknown(&digest)),
        }
    }

    /// POST: a mount, a whole blob, or the start of an upload.
    pub(super) async fn start_upload(
        &self,
        name: Name,
        query: &Query,
        body: Body,
    ) -> Result<Response, Refusal> {
        if let Some(digest) = query.get("mount") {
            let digest = Digest::parse(digest)?;
            let from = query.get("from").map(|from| Name::parse(from)).transpose()?;
            let (storage, into, wanted) = (self.storage.clone(), name.clone(), digest.clone());
            if blocking(move || storage.mount(&into, &wanted, from.as_ref())).await? {
                return Ok(created(&name, &digest));
            }
        }
        let digest = query.get("digest").map(|digest| Digest::parse(digest)).transpose()?;
        let (id, upload) = self.uploads.start(name.clone()).await?;
        let Some(digest) = digest else {
            let headers = progress_headers(&location(&name, &id.to_string()), 0);
            return Ok(accepted(StatusCode::ACCEPTED, headers));
        };
        let mut upload = upload.lock().await;
        let stored = self.complete(&mut upload, digest, body).await;
        self.uploads.end(id).await?;
        stored
    }

    pub(super) async fn upload_status(&self, name: Name, id: &str) -> Result<Response, Refusal> {
        let (_, upload) = self.upload_of(&name, id).await?;
        let offset = upload.lock().await.offset;
        let headers = progress_headers(&location(&name, id), offset);
        Ok(accepted(StatusCode::NO_CONTENT, headers))
    }

    pub(super) async fn append_upload(
        &self,
        name: Name,
        id: &str,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Response, Refusal> {
        let (_, upload) = self.upload_of(&name, id).await?;
        let location = location(&name, id);
        let mut upload = upload.lock().await;
        check_order(headers, &location, upload.offset)?;
        upload.append(body).await?;
        Ok(accepted(StatusCode::ACCEPTED, progress_headers(&location, upload.offset)))
    }

    pub(super) async fn finish_upload(
        &self,
        name: Name,
        id: &str,
        query: &Query,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Response, Refusal> {
        let (uuid, upload) = self.upload_of(&name, id).await?;
        let digest = query
            .get("digest")
            .ok_or_else(|| Refusal::digest_invalid("the digest parameter is missing"))?;
        let digest = Digest::parse(digest)?;
        let mut upload = upload.lock().await;
        check_order(headers, &location(&name, id), upload.offset)?;
        let stored = self.complete(&mut upload, digest, body).await;
        self.uploads.end(uuid).await?;
        stored
    }

    pub(super) async fn cancel_upload(&self, name: Name, id: &str) -> Result<Response, Refusal> {
        let (uuid, _) = self.upload_of(&name, id).await?;
        self.uploads.end(uuid).await?;
        Ok(respond(StatusCode::NO_CONTENT, Body::empty()))
    }

    async fn upload_of(
        &self,
        name: &Name,
        id: &str,
    ) -> Result<(uuid::Uuid, Arc<tokio::sync::Mutex<Upload>>), Refusal> {
        let (uuid, upload) = self.uploads.get(id)?;
        if upload.lock().await.repository != *name {
            return Err(Refusal::upload_unknown(id));
        }
        Ok((uuid, upload))
    }

    /// Takes in the rest, and makes the upload a blob when it is what the client said.
    async fn complete(
        &self,
        upload: &mut Upload,
        digest: Digest,
        body: Body,
    ) -> Result<Response, Refusal> {
        upload.append(body).await?;
        let found = upload.finish().await?;
        if found != digest {
            let message = format!("the content has the digest {found}, not {digest}");
            return Err(Refusal::digest_invalid(message));
        }
        let (storage, name) = (self.storage.clone(), upload.repository.clone());
        let (path, into, wanted) = (upload.path.clone(), name.clone(), digest.clone());
        blocking(move || storage.adopt(&path, &into, &wanted)).await?;
        Ok(created(&name, &digest))
    }
}

fn location(name: &Name, id: &str) -> String {
    format!("/v2/{name}/blobs/uploads/{id}")
}

fn accepted(status: StatusCode, headers: HeaderMap) -> Response {
    let mut response = respond(status, Body::empty());
    response.headers_mut().extend(headers);
    response
}

fn created(name: &Name, digest: &Digest) -> Response {
    let mut response = respond(StatusCode::CREATED, Body::empty());
    let headers = response.headers_mut();
    if let Ok(location) = HeaderValue::from_str(&format!("/v2/{name}/blobs/{digest}")) {
        headers.insert(header::LOCATION, location);
    }
    content_digest(headers, digest);
    response
}

/// A chunk that says where it belongs must belong at the end of what is there.
fn check_order(headers: &HeaderMap, location: &str, offset: u64) -> Result<(), Refusal> {
    let Some(range) = headers.get(header::CONTENT_RANGE) else { return Ok(()) };
    let invalid = || Refusal::upload_invalid("Content-Range is START-END, both inclusive");
    let range = range.to_str().map_err(|_| invalid())?;
    let range = range.strip_prefix("bytes ").unwrap_or(range);
    let (start, end) = range.split_once('-').ok_or_else(invalid)?;
    let end = end.split('/').next().unwrap_or(end);
    let start: u64 = start.parse().map_err(|_| invalid())?;
    let end: u64 = end.parse().map_err(|_| invalid())?;
    if start != offset {
        return Err(Refusal::out_of_order(location, offset));
    }
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    let length: Option<u64> = length.and_then(|length| length.parse().ok());
    match length {
        Some(length) if end.checked_sub(start).is_none_or(|last| last + 1 != length) => {
            Err(Refusal::upload_invalid("Content-Range and Content-Length differ"))
        }
        _ => Ok(()),
    }
}

/// The first and last byte that `range` asks for. Outer none: it cannot be satisfied; inner none:
/// it is not one range of bytes, and RFC 9110 §14.2 says to ignore it.
#[allow(clippy::option_option)] // the two nones mean different things
fn parse_range(range: &str, size: u64) -> Option<Option<(u64, u64)>> {
    let Some((start, end)) = range.strip_prefix("bytes=").and_then(|r| r.split_once('-')) else {
        return Some(None);
    };
    let (start, end) = match (start.parse::<u64>(), end.parse::<u64>()) {
        (Ok(start), Ok(end)) if start <= end => (start, end.min(size.saturating_sub(1))),
        (Ok(start), Err(_)) if end.is_empty() => (start, size.saturating_sub(1)),
        (Err(_), Ok(last)) if start.is_empty() => {
            if last == 0 {
                return None;
            }
            (size.saturating_sub(last), size.saturating_sub(1))
        }
        _ => return Some(None),
    };
    if start >= size { None } else { Some(Some((start, end))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_rfc_9110_says() {
        for (range, size, expected) in [
            ("bytes=0-0", 10, Some(Some((0, 0)))),
            ("bytes=2-5", 10, Some(Some((2, 5)))),
            ("bytes=5-", 10, Some(Some((5, 9)))),
            ("bytes=5-100", 10, Some(Some((5, 9)))),
            ("bytes=-3", 10, Some(Some((7, 9)))),
            ("bytes=-30", 10, Some(Some((0, 9)))),
            ("bytes=-0", 10, None),
            ("bytes=10-", 10, None),
            ("bytes=0-", 0, None),
            ("bytes=5-2", 10, Some(None)),
            ("bytes=0-1,3-4", 10, Some(None)),
            ("lines=0-1", 10, Some(None)),
        ] {
            assert_eq!(parse_range(range, size), expected, "{range} of {size}");
        }
    }
}
