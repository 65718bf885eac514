//! Who asks: the session behind the cookie, and whether the page that asks is ours.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, FromRequestParts};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, header};

use super::{Desk, Refusal};
use crate::accounts::{Account, Session, SessionError, Sessions};
use crate::tokens::TokenError;

/// `__Host-`: a browser takes it over TLS alone, and from nobody else's domain.
const COOKIE: &str = "__Host-berth";
const CSRF: &str = "x-berth-csrf";

/// Somebody who is logged in, asking from a page of ours.
///
/// A request that changes something must show the session's other secret in `x-berth-csrf`, which
/// no foreign page can read. What a browser says of where a request comes from must not say
/// elsewhere.
pub(super) struct Visitor {
    pub session: Session,
    pub address: IpAddr,
    /// The name of the token that was shown instead of a cookie.
    token: Option<String>,
}

impl Visitor {
    pub(super) fn account(&self) -> &Account {
        &self.session.account
    }

    /// Which session it is; a token has none.
    pub(super) fn session_id(&self) -> Option<&str> {
        self.token.is_none().then_some(self.session.id.as_str())
    }

    /// As the acts name them.
    pub(super) fn who(&self) -> String {
        let name = &self.account().name;
        match &self.token {
            Some(token) => format!("{name} (token {token})"),
            None => name.clone(),
        }
    }

    /// The headers that make the API server take a request as theirs.
    ///
    /// Names and groups were checked when the account was made: each is a header's value.
    pub(super) fn impersonate(&self, headers: &mut HeaderMap) {
        impersonate(self.account(), headers);
    }
}

pub(super) fn impersonate(account: &Account, headers: &mut HeaderMap) {
    let groups = account.groups.iter().map(String::as_str).chain(["system:authenticated"]);
    if let Ok(user) = HeaderValue::from_str(&account.name) {
        headers.insert("impersonate-user", user);
    }
    for group in groups {
        if let Ok(group) = HeaderValue::from_str(group) {
            headers.append("impersonate-group", group);
        }
    }
}

impl FromRequestParts<Desk> for Visitor {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, desk: &Desk) -> Result<Self, Refusal> {
        same_site(&parts.headers)?;
        let Some(token) = cookie(&parts.headers) else {
            return by_token(parts, desk).await;
        };
        let session = desk.sessions.find(token).await.map_err(|error| match error {
            SessionError::Unknown => Refusal::unauthorized(),
            SessionError::Database(error) => Refusal::unavailable(&error),
        })?;
        if !parts.method.is_safe() {
            let shown = parts.headers.get(CSRF).map(HeaderValue::as_bytes).unwrap_or_default();
            if !same(shown, session.csrf.as_bytes()) {
                return Err(Refusal::forbidden("the page that asks is none of this console's"));
            }
        }
        Ok(Self { session, address: address(parts), token: None })
    }
}

/// A program with a service token, which opens `/k8s/…` alone: no page can make a browser show one.
async fn by_token(parts: &Parts, desk: &Desk) -> Result<Visitor, Refusal> {
    let line = parts.headers.get(header::AUTHORIZATION).and_then(|line| line.to_str().ok());
    let shown = line.and_then(|line| line.strip_prefix("Bearer "));
    let shown = shown.ok_or_else(Refusal::unauthorized)?;
    let (token, account) = desk.tokens.find(shown).await.map_err(|error| match error {
        TokenError::Database(error) => Refusal::unavailable(&error),
        _ => Refusal::unauthorized(),
    })?;
    let query = parts.uri.query().unwrap_or_default();
    let path = parts.uri.path().strip_prefix("/k8s");
    if !path.is_some_and(|path| token.scope.permits(&parts.method, path, query)) {
        return Err(Refusal::forbidden(format!("the token {} is not good for this", token.name)));
    }
    let session = Session { id: String::new(), account, csrf: String::new(), renewed: None };
    Ok(Visitor { session, address: address(parts), token: Some(token.name) })
}

/// Where the connection comes from.
pub(super) fn address(parts: &Parts) -> IpAddr {
    let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
    peer.map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.0.ip().to_canonical())
}

/// Refuses what a browser says comes from another site.
pub(super) fn same_site(headers: &HeaderMap) -> Result<(), Refusal> {
    let elsewhere = || Refusal::forbidden("asked from another site's page");
    if let Some(site) = headers.get("sec-fetch-site")
        && site != "same-origin"
        && site != "none"
    {
        return Err(elsewhere());
    }
    let (Some(origin), Some(host)) = (headers.get(header::ORIGIN), headers.get(header::HOST))
    else {
        return Ok(());
    };
    let (origin, host) = (origin.to_str().unwrap_or_default(), host.to_str().unwrap_or_default());
    if origin.strip_prefix("https://") == Some(host) { Ok(()) } else { Err(elsewhere()) }
}

/// The cookie's value, when there is exactly one.
fn cookie(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get_all(header::COOKIE).into_iter();
    let mut ours = all
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter_map(|(name, value)| (name == COOKIE).then_some(value));
    let first = ours.next()?;
    ours.next().is_none().then_some(first)
}

/// `Set-Cookie` for `token`; an empty one forgets it.
pub(super) fn set_cookie(token: &str) -> HeaderValue {
    let age = if token.is_empty() { 0 } else { Sessions::LONGEST.as_secs() };
    let text =
        format!("{COOKIE}={token}; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age={age}");
    HeaderValue::from_str(&text).expect("tokens are base64")
}

/// Compares without telling by its time where they differ.
pub(super) fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn one_cookie_is_ours() {
        let theirs = headers(&[("cookie", "a=b; __Host-berth=token; c=d")]);
        assert_eq!(cookie(&theirs), Some("token"));
        let two = headers(&[("cookie", "__Host-berth=a"), ("cookie", "__Host-berth=b")]);
        assert_eq!(cookie(&two), None);
        assert_eq!(cookie(&headers(&[("cookie", "berth=a; x__Host-berth=b")])), None);
    }

    #[test]
    fn another_site_is_refused() {
        let asked = |lines| same_site(&headers(lines)).is_ok();
        assert!(asked(&[]));
        assert!(asked(&[("host", "c:8444"), ("origin", "https://c:8444")]));
        assert!(asked(&[("sec-fetch-site", "same-origin")]));
        assert!(!asked(&[("sec-fetch-site", "cross-site")]));
        assert!(!asked(&[("sec-fetch-site", "same-site")]));
        assert!(!asked(&[("host", "c:8444"), ("origin", "https://evil")]));
        assert!(!asked(&[("host", "c:8444"), ("origin", "null")]));
        assert!(!asked(&[("host", "c:8444"), ("origin", "http://c:8444")]));
    }
}
