//! What becomes of a request that a rule is for: who gets it, and what is changed on the way.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};

use super::Backend;

/// What becomes of a rule's requests.
#[derive(Debug, Default)]
pub(in crate::l7) struct Route {
    /// `Ingress n/web`, `HTTPRoute n/web`.
    pub(in crate::l7) name: String,
    pub(in crate::l7) filters: Filters,
    pub(in crate::l7) targets: Targets,
    /// From the request to its answer; `None` for ever.
    pub(in crate::l7) timeout: Option<Duration>,
    /// Of one try.
    pub(in crate::l7) backend_timeout: Option<Duration>,
    pub(in crate::l7) retry: Option<Retry>,
    /// The longest body of a request, bytes.
    pub(in crate::l7) max_body: Option<u64>,
}

/// When an answer is not passed on but asked for again.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::l7) struct Retry {
    pub(in crate::l7) codes: Vec<u16>,
    /// Beside the first.
    pub(in crate::l7) attempts: usize,
    pub(in crate::l7) backoff: Duration,
}

/// What is changed.
#[derive(Clone, Debug, Default)]
pub(in crate::l7) struct Filters {
    pub(in crate::l7) request: Vec<HeaderChange>,
    pub(in crate::l7) response: Vec<HeaderChange>,
    pub(in crate::l7) rewrite: Option<Rewrite>,
    pub(in crate::l7) redirect: Option<Redirect>,
    pub(in crate::l7) mirrors: Vec<Mirror>,
}

#[derive(Clone, Debug, PartialEq)]
pub(in crate::l7) enum HeaderChange {
    Set(HeaderName, HeaderValue),
    Add(HeaderName, HeaderValue),
    Remove(HeaderName),
}

/// Another path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::l7) enum NewPath {
    Full(String),
    /// In place of the prefix that the rule named.
    Prefix(String),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::l7) struct Rewrite {
    pub(in crate::l7) host: Option<HeaderValue>,
    pub(in crate::l7) path: Option<NewPath>,
}

#[derive(Clone, Debug, PartialEq)]
pub(in crate::l7) struct Redirect {
    pub(in crate::l7) scheme: Option<&'static str>,
    pub(in crate::l7) host: Option<String>,
    pub(in crate::l7) path: Option<NewPath>,
    pub(in crate::l7) port: Option<u16>,
    pub(in crate::l7) status: StatusCode,
    /// Of the listener, as clients see it.
    pub(in crate::l7) listener_port: u16,
}

/// A copy of so many requests among a million.
#[derive(Clone, Debug)]
pub(in crate::l7) struct Mirror {
    pub(in crate::l7) backend: Arc<Backend>,
    pub(in crate::l7) per_million: u32,
}

/// Who may get the request, by weight.
#[derive(Debug, Default)]
pub(in crate::l7) struct Targets {
    each: Vec<Target>,
    total: u64,
}

/// One that may get the request.
#[derive(Debug)]
pub(in crate::l7) struct Target {
    pub(in crate::l7) to: Result<Arc<Backend>, String>,
    pub(in crate::l7) filters: Filters,
    weight: u32,
}

impl Target {
    pub(super) fn new(to: Result<Arc<Backend>, String>, filters: Filters, weight: u32) -> Self {
        Self { to, filters, weight }
    }
}

impl Targets {
    pub(super) fn new(each: Vec<Target>) -> Self {
        let total = each.iter().map(|target| u64::from(target.weight)).sum();
        Self { each, total }
    }

    /// All requests to one.
    pub(super) fn one(backend: Arc<Backend>) -> Self {
        Self::new(vec![Target::new(Ok(backend), Filters::default(), 1)])
    }

    /// The place of the one that this request goes to; `None` when nobody has a weight.
    pub(in crate::l7) fn pick(&self, random: u64) -> Option<usize> {
        if self.total == 0 {
            return None;
        }
        let mut left = random % self.total;
        self.each.iter().position(|target| {
            let weight = u64::from(target.weight);
            let here = left < weight;
            left = left.saturating_sub(weight);
            here
        })
    }

    pub(in crate::l7) fn get(&self, place: usize) -> Option<&Target> {
        self.each.get(place)
    }

    pub(in crate::l7) fn iter(&self) -> impl Iterator<Item = &Target> {
        self.each.iter()
    }
}

impl NewPath {
    /// What `path` becomes, whose first `matched` bytes are the prefix that the rule named.
    pub(in crate::l7) fn of<'a>(&'a self, path: &'a str, matched: usize) -> Cow<'a, str> {
        match self {
            Self::Full(full) => Cow::Borrowed(full),
            Self::Prefix(by) => {
                let rest = path.get(matched..).unwrap_or_default();
                let by = by.trim_end_matches('/');
                match (by.is_empty(), rest.is_empty()) {
                    (true, true) => Cow::Borrowed("/"),
                    (true, false) if rest.starts_with('/') => Cow::Borrowed(rest),
                    (false, true) => Cow::Borrowed(by),
                    _ if rest.starts_with('/') => Cow::Owned(format!("{by}{rest}")),
                    _ => Cow::Owned(format!("{by}/{rest}")),
                }
            }
        }
    }
}

impl Redirect {
    /// Where a request for `path` of `host`, by `scheme`, is sent.
    pub(in crate::l7) fn location(
        &self,
        scheme: &'static str,
        host: &str,
        (path, matched): (&str, usize),
        query: Option<&str>,
    ) -> String {
        let scheme = self.scheme.unwrap_or(scheme);
        let host = self.host.as_deref().unwrap_or(host);
        // A scheme of its own has its well-known port; else the listener's is kept.
        let port = self.port.unwrap_or(match self.scheme {
            Some("http") => 80,
            Some(_) => 443,
            None => self.listener_port,
        });
        let port = match (scheme, port) {
            ("http", 80) | ("https", 443) => String::new(),
            (_, port) => format!(":{port}"),
        };
        let path = self.path.as_ref().map_or(Cow::Borrowed(path), |new| new.of(path, matched));
        let query = query.map(|query| format!("?{query}")).unwrap_or_default();
        format!("{scheme}://{host}{port}{path}{query}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_replaced_by_whole_elements() {
        let check = |matched: &str, by: &str, path: &str, expected: &str| {
            let new = NewPath::Prefix(by.into());
            assert_eq!(new.of(path, matched.len()), expected, "{matched} by {by} in {path}");
        };
        // The table of the Gateway API's documentation of ReplacePrefixMatch.
        check("/foo", "/xyz", "/foo/bar", "/xyz/bar");
        check("/foo", "/xyz/", "/foo/bar", "/xyz/bar");
        check("/foo", "/xyz", "/foo/", "/xyz/");
        check("/foo", "/xyz", "/foo", "/xyz");
        check("/foo", "", "/foo/bar", "/bar");
        check("/foo", "", "/foo/", "/");
        check("/foo", "", "/foo", "/");
        check("/foo", "/", "/foo/", "/");
        check("/foo", "/", "/foo", "/");
        check("", "/x", "/a", "/x/a");
        assert_eq!(NewPath::Full("/all".into()).of("/a/b", 1), "/all");
    }

    #[test]
    fn a_redirect_keeps_what_it_does_not_name() {
        let plain = Redirect {
            scheme: None,
            host: None,
            path: None,
            port: None,
            status: StatusCode::FOUND,
            listener_port: 80,
        };
        let check = |redirect: &Redirect, expected: &str| {
            assert_eq!(redirect.location("http", "a.example", ("/p", 0), Some("q=1")), expected);
        };
        check(&plain, "http://a.example/p?q=1");
        check(&Redirect { listener_port: 8080, ..plain.clone() }, "http://a.example:8080/p?q=1");
        let tls = Redirect { scheme: Some("https"), listener_port: 8080, ..plain.clone() };
        check(&tls, "https://a.example/p?q=1");
        check(&Redirect { port: Some(8443), ..tls }, "https://a.example:8443/p?q=1");
        let path = Some(NewPath::Full("/new".into()));
        let away = Redirect { host: Some("b.example".into()), path, ..plain };
        check(&away, "http://b.example/new?q=1");
    }

    #[test]
    fn targets_get_their_share() {
        let target = |weight| Target::new(Err(String::new()), Filters::default(), weight);
        let targets = Targets::new(vec![target(1), target(0), target(3)]);
        let mut counts = [0; 3];
        for random in 0..400 {
            counts[targets.pick(random).unwrap()] += 1;
        }
        assert_eq!(counts, [100, 0, 300]);
        assert_eq!(Targets::new(vec![target(0)]).pick(7), None);
    }
}
