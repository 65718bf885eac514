//! `proxy` of nodes, pods and services: HTTP passed on to one of them, streaming both ways, and
//! other protocols (WebSocket, SPDY) byte for byte once both sides agreed on them.
//!
//! ```text
//! /api/v1/namespaces/NS/pods/[SCHEME:]NAME[:PORT]/proxy/PATH?QUERY
//!         └ RBAC on pods/proxy ─▶ admission ─▶ destination ─▶ link ─▶ PATH?QUERY at the pod
//! ```
//!
//! The other end never learns who asks, and answers as if it stood at the root: `Location` and the
//! links of pages are changed so that they lead back through here. Only connecting has a time
//! limit; how many requests are passed on at once is bounded. Refuses addresses of the machine
//! itself, and endpoints that are no pods.
//!
//! # Source
//! Kubernetes' `UpgradeAwareHandler` and `proxy.Transport`.

mod destination;
mod headers;
mod link;
mod links;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION};
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body::Frame;
use http_body_util::{BodyDataStream, BodyExt, StreamBody};
use serde_json::json;

pub(crate) use link::Links;

use crate::admission::{self, Asked, Operation};
use crate::audit::Source;
use crate::call::Call;
use crate::kubelet;
use crate::path::Target;
use crate::respond::{self, Body, BodyError};
use crate::server::Core;
use crate::status::Failure;
use links::Rewrite;

/// Longer pages come as they are.
const PAGE: usize = 4 * 1024 * 1024;
/// So do pages that are still not whole by then.
const PAGE_TIME: Duration = Duration::from_secs(5);

/// Whether a request is for somebody else.
pub(crate) fn is_one(target: &Target) -> bool {
    target.is_resource
        && target.group.is_empty()
        && target.subresource == "proxy"
        && matches!(target.resource.as_str(), "nodes" | "pods" | "services")
}

/// Passes a request on and the answer back.
pub(crate) async fn answer(
    core: &Arc<Core>,
    mut call: Call,
    uri: &Uri,
    source: Option<Source>,
    body: Body,
) -> Result<Response<Body>, Failure> {
    let target = &call.target;
    let resource = core.resource("", &target.version, &target.resource)?;
    let proxy = resource.subresource("proxy").ok_or_else(Failure::no_such_path)?;
    if resource.namespaced == target.namespace.is_empty() || target.name.is_empty() {
        return Err(Failure::no_such_path());
    }
    // Discovery does not list a verb for what a browser asks first.
    if !proxy.verbs.contains(&target.verb) && call.method != Method::OPTIONS {
        return Err(Failure::method_not_allowed());
    }
    let (prefix, rest) = split(uri.path()).ok_or_else(Failure::no_such_path)?;
    let asked = Asked {
        core,
        call: &call,
        resource: &resource,
        subresource: Some("proxy"),
        operation: Operation::Connect,
        namespace: &target.namespace,
        name: &target.name,
        dry_run: false,
        old: None,
    };
    let options = json!({"kind": proxy.kind.kind, "apiVersion": "v1", "path": rest});
    admission::validate_action(&asked, Some(&options)).await?;

    let is_upgrade = headers::is_upgrade(&call.headers);
    if rest.is_empty() && !is_upgrade && matches!(call.method, Method::GET | Method::HEAD) {
        // Without the slash a page's relative links would lead beside it.
        return Ok(redirect(&with_query(&format!("{prefix}/"), uri)?));
    }
    let to = destination::find(core, target).await?;
    let free = core.proxies.free.clone().try_acquire_owned();
    let place = free.map_err(|_| Failure::too_many_requests("too many proxied requests", 1))?;

    let path = if rest.is_empty() { "/" } else { rest };
    let mut request = Request::new(body);
    *request.method_mut() = call.method.clone();
    *request.uri_mut() = Uri::from(with_query(path, uri)?);
    *request.headers_mut() = headers::of_request(&call.headers);
    let host = host(&call, uri);
    let at = to.address.to_string();
    let named = HeaderValue::from_str(if host.is_empty() { &at } else { &host });
    request.headers_mut().insert(HOST, named.map_err(Failure::internal)?);
    forwarded(&mut request, uri.path(), source);

    let mut sender = core.proxies.connect(&core.kubelet, to, &core.tasks).await?;
    let mut response = sender.send_request(request).await.map_err(link::unreachable)?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(client) = call.upgrade.take().filter(|_| is_upgrade) else {
            return Err(link::unreachable("it changes the protocol unasked"));
        };
        let heads = response.headers().clone();
        let other = hyper::upgrade::on(&mut response);
        kubelet::join(client, other, place, &core.tasks);
        let mut answer = Response::new(respond::body(Bytes::new()));
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *answer.headers_mut() = heads;
        return Ok(answer);
    }
    let (parts, body) = response.into_parts();
    let mut answer = Response::new(body.map_err(BodyError::from).boxed_unsync());
    *answer.status_mut() = parts.status;
    *answer.headers_mut() = headers::of_answer(&parts.headers);
    let rewrite = Rewrite { prefix, hosts: [&at, &host] };
    let answer = lead_back(&call.method, &rewrite, answer).await;
    // The place is taken until the answer has been sent, or the client is gone.
    Ok(answer.map(|body| {
        body.map_frame(move |frame| {
            let _taken = &place;
            frame
        })
        .boxed_unsync()
    }))
}

/// The path up to `proxy`, as the client wrote it, and what follows.
fn split(path: &str) -> Option<(&str, &str)> {
    let mut at = 0;
    let mut count = 0;
    let mut wanted = None;
    for segment in path.split('/') {
        let start = at;
        at += segment.len() + 1;
        if segment.is_empty() {
            continue;
        }
        count += 1;
        if count == 3 {
            wanted = Some(if segment == "namespaces" { 7 } else { 5 });
        }
        if Some(count) == wanted {
            let end = start + segment.len();
            return (segment == "proxy").then(|| (&path[..end], &path[end..]));
        }
    }
    None
}

fn with_query(path: &str, uri: &Uri) -> Result<PathAndQuery, Failure> {
    let text = uri.query().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    text.parse().map_err(|_| Failure::bad_request("the path cannot be passed on"))
}

fn redirect(to: &PathAndQuery) -> Response<Body> {
    let mut response = Response::new(respond::body(Bytes::new()));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(to) = HeaderValue::from_str(to.as_str()) {
        response.headers_mut().insert(LOCATION, to);
    }
    response
}

/// The host the client asked, which HTTP/2 has in the address and HTTP/1 in the head.
fn host(call: &Call, uri: &Uri) -> String {
    let named = call.headers.get(HOST).and_then(|value| value.to_str().ok());
    uri.authority().map_or(named.unwrap_or_default(), |own| own.as_str()).to_owned()
}

fn forwarded(request: &mut Request<Body>, path: &str, source: Option<Source>) {
    let headers = request.headers_mut();
    if let Ok(path) = HeaderValue::from_str(path) {
        headers.insert(HeaderName::from_static("x-forwarded-uri"), path);
    }
    let Some(source) = source else { return };
    let name = HeaderName::from_static("x-forwarded-for");
    let before = headers.get(&name).and_then(|value| value.to_str().ok());
    let all = before.map_or_else(|| source.0.to_string(), |one| format!("{one}, {}", source.0));
    if let Ok(all) = HeaderValue::from_str(&all) {
        headers.insert(name, all);
    }
}

/// Changes where an answer leads to so that it comes back through here.
async fn lead_back(
    method: &Method,
    rewrite: &Rewrite<'_>,
    mut answer: Response<Body>,
) -> Response<Body> {
    let headers = answer.headers_mut();
    if let Some(location) = headers.get(LOCATION).and_then(|value| value.to_str().ok()) {
        let changed = rewrite.link(location).and_then(|link| HeaderValue::from_str(&link).ok());
        changed.map(|link| headers.insert(LOCATION, link));
        return answer;
    }
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let kind = text(CONTENT_TYPE).unwrap_or_default().to_ascii_lowercase();
    // Of other encodings of letters the tags would not be found.
    let is_page = kind.split(';').next().is_some_and(|kind| kind.trim() == "text/html")
        && !kind.contains("utf-16")
        && text(CONTENT_ENCODING).is_none_or(|encoding| encoding == "identity");
    let length = text(CONTENT_LENGTH).and_then(|length| length.parse::<usize>().ok());
    if !is_page || *method == Method::HEAD || length.is_some_and(|length| length > PAGE) {
        return answer;
    }
    let (mut parts, body) = answer.into_parts();
    parts.headers.remove(CONTENT_LENGTH);
    Response::from_parts(parts, page(rewrite, body).await)
}

/// The page with its links changed; as it is when it does not end, or not in time.
async fn page(rewrite: &Rewrite<'_>, body: Body) -> Body {
    let mut chunks = BodyDataStream::new(body);
    let (mut read, mut failed) = (BytesMut::new(), None);
    let whole = tokio::time::timeout(PAGE_TIME, async {
        while let Some(chunk) = chunks.next().await {
            match chunk {
                Ok(chunk) => read.extend_from_slice(&chunk),
                Err(error) => {
                    failed = Some(error);
                    return false;
                }
            }
            if read.len() > PAGE {
                return false;
            }
        }
        true
    })
    .await;
    if whole == Ok(true) {
        return respond::body(rewrite.page(&read));
    }
    let begun = stream::iter([Ok(read.freeze())].into_iter().chain(failed.map(Err)));
    StreamBody::new(begun.chain(chunks).map(|chunk| chunk.map(Frame::data))).boxed_unsync()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_the_proxy_stays_as_it_was_written() {
        let check = |path: &str, expected: Option<(&str, &str)>| {
            assert_eq!(split(path), expected, "{path}");
        };
        check("/api/v1/nodes/n/proxy", Some(("/api/v1/nodes/n/proxy", "")));
        check("/api/v1/nodes/n:10250/proxy/a", Some(("/api/v1/nodes/n:10250/proxy", "/a")));
        let pod = "/api/v1/namespaces/a/pods/b:80/proxy";
        for rest in ["/", "/x/", "//x", "/%2F/..", "/proxy/proxy/"] {
            check(&format!("{pod}{rest}"), Some((pod, rest)));
        }
        check(
            "/api/v1/namespaces/proxy/pods/proxy/proxy/x",
            Some(("/api/v1/namespaces/proxy/pods/proxy/proxy", "/x")),
        );
        check("/api/v1/nodes/n/status", None);
        check("/api/v1/nodes", None);
    }

    #[tokio::test]
    async fn pages_that_do_not_end_come_as_they_are() {
        tokio::time::pause();
        let rewrite = Rewrite { prefix: "/p", hosts: ["", ""] };
        let sent = |text: &'static str| Ok::<_, BodyError>(Frame::data(Bytes::from(text)));
        let endless = stream::iter([sent("<a href=\"/x\">")]).chain(stream::pending());
        let mut body = page(&rewrite, StreamBody::new(endless).boxed_unsync()).await;
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first, "<a href=\"/x\">");
        let ended = stream::iter([sent("<a hre"), sent("f=\"/x\">")]);
        let body = page(&rewrite, StreamBody::new(ended).boxed_unsync()).await;
        assert_eq!(body.collect().await.unwrap().to_bytes(), "<a href=\"/p/x\">");
    }
}
