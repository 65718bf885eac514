//! What the registry refuses, in the envelope that clients read.
//!
//! # Source
//! OCI distribution spec 1.1, "Error codes".

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::reference::ReferenceError;

/// A refusal: the spec's code, and a sentence.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
    headers: Box<HeaderMap>,
}

impl Refusal {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Refusal {
        Refusal { status, code, message: message.into(), headers: Box::default() }
    }

    pub(super) fn blob_unknown(digest: impl std::fmt::Display) -> Refusal {
        Refusal::new(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", format!("no blob {digest} here"))
    }

    pub(super) fn upload_unknown(id: &str) -> Refusal {
        let message = format!("no upload {id}: it ended, or was idle for too long");
        Refusal::new(StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN", message)
    }

    pub(super) fn upload_invalid(message: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID", message)
    }

    pub(super) fn digest_invalid(message: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", message)
    }

    pub(super) fn name_unknown(name: impl std::fmt::Display) -> Refusal {
        Refusal::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", format!("no repository {name}"))
    }

    pub(super) fn manifest_unknown(reference: impl std::fmt::Display) -> Refusal {
        let message = format!("no manifest {reference} in this repository");
        Refusal::new(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", message)
    }

    pub(super) fn manifest_invalid(message: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", message)
    }

    pub(super) fn manifest_too_large(limit: usize) -> Refusal {
        let message = format!("a manifest may have {limit} bytes");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID", message)
    }

    pub(super) fn manifest_blob_unknown(digest: &str) -> Refusal {
        let message = format!("the manifest refers to {digest}, which is not here: push it first");
        Refusal::new(StatusCode::NOT_FOUND, "MANIFEST_BLOB_UNKNOWN", message)
    }

    pub(super) fn out_of_order(location: &str, offset: u64) -> Refusal {
        let message = format!("the next byte of this upload is {offset}");
        let mut refusal =
            Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID", message);
        *refusal.headers = super::uploads::progress_headers(location, offset);
        refusal
    }

    pub(super) fn range(size: u64) -> Refusal {
        let message = format!("the blob has {size} bytes");
        let mut refusal = Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UNKNOWN", message);
        if let Ok(value) = HeaderValue::from_str(&format!("bytes */{size}")) {
            refusal.headers.insert(header::CONTENT_RANGE, value);
        }
        refusal
    }

    pub(super) fn too_many_uploads() -> Refusal {
        let message = "too many uploads are under way";
        Refusal::new(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS", message)
    }

    pub(super) fn slow() -> Refusal {
        let message = "nothing came for too long";
        Refusal::new(StatusCode::REQUEST_TIMEOUT, "BLOB_UPLOAD_INVALID", message)
    }

    pub(super) fn broken(message: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID", message)
    }

    pub(super) fn unsupported(what: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", what)
    }

    pub(super) fn nothing_there(path: &str) -> Refusal {
        Refusal::new(StatusCode::NOT_FOUND, "UNSUPPORTED", format!("nothing is served at {path}"))
    }
}

impl From<ReferenceError> for Refusal {
    fn from(error: ReferenceError) -> Refusal {
        let code = match error {
            ReferenceError::Name(_) => "NAME_INVALID",
            ReferenceError::Tag(_) => "MANIFEST_INVALID",
            ReferenceError::Digest(_) => "DIGEST_INVALID",
        };
        Refusal::new(StatusCode::BAD_REQUEST, code, error.to_string())
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Refusal {
        // Here the error ends, so here it is logged.
        tracing::error!(%error, "the registry cannot use its directory");
        let status = match error.kind() {
            std::io::ErrorKind::StorageFull => StatusCode::INSUFFICIENT_STORAGE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Refusal::new(status, "UNKNOWN", format!("the registry's directory: {error}"))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let envelope = serde_json::json!({
            "errors": [{ "code": self.code, "message": self.message, "detail": null }]
        });
        let mut response = Response::new(Body::from(envelope.to_string()));
        *response.status_mut() = self.status;
        *response.headers_mut() = *self.headers;
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        response
    }
}
