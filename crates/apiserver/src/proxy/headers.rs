//! What passes through a proxy of a request's and an answer's head.
//!
//! Left behind: what concerns one connection only (RFC 9110 §7.6.1), and all by which the client
//! proved who it is: the other end is not to act in its name.

use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, AUTHORIZATION, CONNECTION,
    PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
/// A token that a browser can only send as a subprotocol.
const BEARER_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

/// Whether the request asks for another protocol.
pub(super) fn is_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(UPGRADE) && connection(headers).any(|one| one == "upgrade")
}

fn connection(headers: &HeaderMap) -> impl Iterator<Item = String> {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|one| one.trim().to_ascii_lowercase())
}

/// The head of the request that goes on.
pub(super) fn of_request(headers: &HeaderMap) -> HeaderMap {
    let upgrade = headers.get(UPGRADE).filter(|_| is_upgrade(headers)).cloned();
    let mut out = end_to_end(headers);
    let is_impersonation = |name: &HeaderName| name.as_str().starts_with("impersonate-");
    let asked_as: Vec<HeaderName> =
        out.keys().filter(|one| is_impersonation(one)).cloned().collect();
    for name in asked_as.iter().chain([&AUTHORIZATION, &PROXY_AUTHORIZATION]) {
        out.remove(name);
    }
    without_bearer(&mut out);
    // Links in a page can only be changed when it is not compressed.
    let accepts = |value: &HeaderValue| value.to_str().is_ok_and(|one| one.contains("text/html"));
    if out.get_all(ACCEPT).iter().any(accepts) {
        out.remove(ACCEPT_ENCODING);
    }
    if let Some(upgrade) = upgrade {
        out.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        out.insert(UPGRADE, upgrade);
    }
    out
}

fn without_bearer(headers: &mut HeaderMap) {
    let all = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|one| one.to_str().ok());
    let all: Vec<&str> = all.flat_map(|one| one.split(',')).map(str::trim).collect();
    if !all.iter().any(|one| one.starts_with(BEARER_PROTOCOL)) {
        return;
    }
    let kept: Vec<&str> =
        all.iter().copied().filter(|one| !one.starts_with(BEARER_PROTOCOL)).collect();
    let kept = HeaderValue::from_str(&kept.join(", ")).ok().filter(|kept| !kept.is_empty());
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    kept.map(|kept| headers.insert(SEC_WEBSOCKET_PROTOCOL, kept));
}

/// The head of the answer that comes back. Who may read it across origins is the API server's to
/// say, not the other end's.
pub(super) fn of_answer(headers: &HeaderMap) -> HeaderMap {
    let mut out = end_to_end(headers);
    for name in [
        ACCESS_CONTROL_ALLOW_CREDENTIALS,
        ACCESS_CONTROL_ALLOW_HEADERS,
        ACCESS_CONTROL_ALLOW_METHODS,
        ACCESS_CONTROL_ALLOW_ORIGIN,
    ] {
        out.remove(name);
    }
    out
}

fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let named: Vec<String> = connection(headers).collect();
    let own = [
        CONNECTION,
        KEEP_ALIVE,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ];
    let mut out = headers.clone();
    for name in &own {
        out.remove(name);
    }
    for name in &named {
        out.remove(name.as_str());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn credentials_and_matters_of_the_connection_stay_behind() {
        let given = headers(&[
            ("authorization", "Bearer x"),
            ("proxy-authorization", "Basic x"),
            ("impersonate-user", "bob"),
            ("impersonate-extra-scopes", "all"),
            ("connection", "keep-alive, X-Own"),
            ("x-own", "1"),
            ("keep-alive", "5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("accept", "text/html,*/*"),
            ("accept-encoding", "gzip"),
            ("x-other", "1"),
            ("cookie", "a=b"),
        ]);
        assert!(!is_upgrade(&given), "not said by Connection");
        assert_eq!(names(&of_request(&given)), ["accept", "cookie", "x-other"]);
    }

    #[test]
    fn upgrades_pass_without_the_token() {
        let given = headers(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-protocol", "base64url.bearer.authorization.k8s.io.dG9rZW4, chat"),
            ("sec-websocket-key", "x"),
        ]);
        assert!(is_upgrade(&given));
        let out = of_request(&given);
        assert_eq!(out["sec-websocket-protocol"], "chat");
        assert_eq!(
            (&out["upgrade"], &out["connection"]),
            (&HeaderValue::from_static("websocket"), &HeaderValue::from_static("Upgrade"),)
        );
    }

    #[test]
    fn answers_do_not_speak_for_the_api_server() {
        let given = headers(&[
            ("access-control-allow-origin", "*"),
            ("connection", "close"),
            ("content-type", "text/plain"),
        ]);
        assert_eq!(names(&of_answer(&given)), ["content-type"]);
    }
}
