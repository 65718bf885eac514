//! The page itself, embedded, compressed once.

use std::collections::HashMap;
use std::io::Write;
use std::sync::LazyLock;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use rust_embed::RustEmbed;

/// What `npm run build` in `console/` makes; absent where nobody ran it.
#[derive(RustEmbed)]
#[folder = "../../console/dist"]
#[allow_missing = true]
struct Built;

struct Asset {
    plain: Bytes,
    zipped: Option<Bytes>,
    kind: HeaderValue,
}

static ASSETS: LazyLock<HashMap<String, Asset>> = LazyLock::new(|| {
    Built::iter()
        .filter_map(|path| {
            let file = Built::get(&path)?;
            let kind = HeaderValue::from_static(kind(&path));
            let plain = Bytes::from(file.data.into_owned());
            let zipped = zipped(&plain).filter(|zipped| zipped.len() < plain.len());
            Some((path.into_owned(), Asset { plain, zipped, kind }))
        })
        .collect()
});

/// A file of the page, or the page itself for whatever the page's own router knows.
pub(super) async fn show(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    if method != Method::GET && method != Method::HEAD {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let path = uri.path().trim_start_matches('/');
    let asset = match ASSETS.get(path) {
        Some(asset) => asset,
        // A file that is not there is no page.
        None if path.starts_with("assets/") => return StatusCode::NOT_FOUND.into_response(),
        None => match ASSETS.get("index.html") {
            Some(asset) => asset,
            None => {
                let message =
                    "this binary was built without the console's page: ./dev up builds it";
                return (StatusCode::NOT_IMPLEMENTED, message).into_response();
            }
        },
    };
    let accepts = headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    let zips = accepts.is_some_and(|accepts| accepts.contains("gzip"));
    let mut answer = Response::new(Body::empty());
    match &asset.zipped {
        Some(zipped) if zips => {
            *answer.body_mut() = Body::from(zipped.clone());
            let gzip = HeaderValue::from_static("gzip");
            answer.headers_mut().insert(header::CONTENT_ENCODING, gzip);
        }
        _ => *answer.body_mut() = Body::from(asset.plain.clone()),
    }
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, asset.kind.clone());
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    // Their names carry a hash of what is in them.
    if path.starts_with("assets/") {
        let forever = HeaderValue::from_static("public, max-age=31536000, immutable");
        headers.insert(header::CACHE_CONTROL, forever);
    }
    answer
}

fn zipped(plain: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(9));
    encoder.write_all(plain).ok()?;
    encoder.finish().ok().map(Bytes::from)
}

fn kind(path: &str) -> &'static str {
    match path.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("json" | "webmanifest") => "application/json",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("woff2") => "font/woff2",
        _ => "application/octet-stream",
    }
}
