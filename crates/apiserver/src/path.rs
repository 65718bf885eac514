//! A request's path and query, read the Kubernetes way.
//!
//! ```text
//! /api/v1/namespaces/NS/pods/NAME/log        core group
//! /apis/apps/v1/namespaces/NS/deployments    the others
//! /healthz, /version, /openapi/v3 …          not about a resource
//! ```

use std::borrow::Cow;

use http::Method;

/// What a request is about, as authorization needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Whether it is about a resource at all; if not, only `verb` and `path` count.
    pub is_resource: bool,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; for the
    /// rest the method in lower case.
    pub verb: String,
    /// The API group, empty for the core one.
    pub group: String,
    /// The version.
    pub version: String,
    /// Empty for cluster-scoped requests and those across all namespaces.
    pub namespace: String,
    /// The plural.
    pub resource: String,
    /// `status`, `log` … or empty.
    pub subresource: String,
    /// The object's name or empty.
    pub name: String,
    /// What follows the subresource, for proxies.
    pub rest: String,
    /// The whole path.
    pub path: String,
}

/// The query's parameters, decoded, in order.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Parses what follows the question mark.
    pub fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(&key.replace('+', " ")), decode(&value.replace('+', " ")))
        });
        Self(pairs.collect())
    }

    /// The first value of a parameter that is not empty.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(own, value)| own == key && !value.is_empty())
            .map(|(_, value)| value.as_str())
    }

    /// All values of a parameter.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(own, _)| own == key).map(|(_, value)| value.as_str())
    }

    /// A whole number; what is none is told as Go tells it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn integer(&self, key: &str) -> Result<Option<i64>, String> {
        let Some((_, text)) = self.0.iter().find(|(own, _)| own == key) else { return Ok(None) };
        text.parse().map(Some).map_err(|wrong: std::num::ParseIntError| {
            use std::num::IntErrorKind::{NegOverflow, PosOverflow};
            let why = match wrong.kind() {
                PosOverflow | NegOverflow => "value out of range",
                _ => "invalid syntax",
            };
            format!("strconv.ParseInt: parsing {text:?}: {why}")
        })
    }

    /// Whether a switch is on: there, and neither `0` nor `false`.
    pub fn is_on(&self, key: &str) -> bool {
        self.0
            .iter()
            .find(|(own, _)| own == key)
            .is_some_and(|(_, value)| value != "0" && !value.eq_ignore_ascii_case("false"))
    }
}

/// Undoes percent-encoding; what is no valid UTF-8 is replaced.
pub(crate) fn decode(text: &str) -> String {
    if !text.contains('%') {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|two| std::str::from_utf8(two).ok());
        match hex.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) if bytes[at] == b'%' => {
                out.push(byte);
                at += 3;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    match String::from_utf8_lossy(&out) {
        Cow::Borrowed(text) => text.to_owned(),
        Cow::Owned(text) => text,
    }
}

/// Subresources of a namespace itself; anything else behind its name is a resource in it.
const OF_NAMESPACES: [&str; 2] = ["status", "finalize"];

impl Target {
    /// Reads a request's target.
    pub fn parse(method: &Method, path: &str, query: &Query) -> Self {
        let decoded: Vec<String>;
        let parts = path.split('/').filter(|part| !part.is_empty());
        let parts: Vec<&str> = if path.contains('%') {
            decoded = parts.map(decode).collect();
            decoded.iter().map(String::as_str).collect()
        } else {
            parts.collect()
        };
        let (group, version, parts) = match parts.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
            ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
            _ => {
                let verb = method.as_str().to_ascii_lowercase();
                return Self { verb, path: path.to_owned(), ..Self::default() };
            }
        };
        let mut target = Self {
            is_resource: true,
            group: group.to_owned(),
            version: version.to_owned(),
            path: path.to_owned(),
            ..Self::default()
        };
        let core = group.is_empty();
        let (parts, old_watch) = match parts {
            ["watch", rest @ ..] if !rest.is_empty() => (rest, true),
            all => (all, false),
        };
        let own = match parts {
            ["namespaces", name, rest @ ..] if core => {
                target.namespace = (*name).to_owned();
                match rest {
                    [] => &["namespaces", name],
                    [sub, ..] if OF_NAMESPACES.contains(sub) => parts,
                    in_it => in_it,
                }
            }
            ["namespaces", name, rest @ ..] if !rest.is_empty() => {
                target.namespace = (*name).to_owned();
                rest
            }
            all => all,
        };
        let mut own = own.iter().copied();
        target.resource = own.next().unwrap_or_default().to_owned();
        target.name = own.next().unwrap_or_default().to_owned();
        target.subresource = own.next().unwrap_or_default().to_owned();
        target.rest = own.collect::<Vec<_>>().join("/");
        // The query of a proxied request is not ours.
        let watches = target.subresource != "proxy" && query.is_on("watch");
        target.verb = verb(method, &target.name, old_watch || watches).to_owned();
        if matches!(target.verb.as_str(), "list" | "watch" | "deletecollection")
            && target.name.is_empty()
            && let Some(selector) = query.get("fieldSelector")
            && let Some(name) = only_name(selector)
        {
            target.name = name;
        }
        target
    }
}

fn verb(method: &Method, name: &str, watch: bool) -> &'static str {
    match (method.as_str(), name.is_empty()) {
        ("GET" | "HEAD", _) if watch => "watch",
        ("GET" | "HEAD", true) => "list",
        ("GET" | "HEAD", false) => "get",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", true) => "deletecollection",
        ("DELETE", false) => "delete",
        _ => "unknown",
    }
}

/// `metadata.name=x` alone: rules with resourceNames then apply to the collection.
fn only_name(selector: &str) -> Option<String> {
    selector.split(',').find_map(|part| {
        let name = part.strip_prefix("metadata.name=")?;
        Some(name.trim_start_matches('=').to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(method: &str, uri: &str) -> Target {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        Target::parse(&method, path, &Query::parse(query))
    }

    #[test]
    fn paths_are_read_as_kubernetes_reads_them() {
        let check = |method: &str, uri: &str, expected: [&str; 7]| {
            let got = target(method, uri);
            let got = [
                got.verb.as_str(),
                &got.group,
                &got.version,
                &got.namespace,
                &got.resource,
                &got.name,
                &got.subresource,
            ];
            assert_eq!(got, expected, "{method} {uri}");
        };
        check("GET", "/api/v1/pods", ["list", "", "v1", "", "pods", "", ""]);
        check("GET", "/api/v1/pods?watch=1", ["watch", "", "v1", "", "pods", "", ""]);
        check("GET", "/api/v1/namespaces/a", ["get", "", "v1", "a", "namespaces", "a", ""]);
        check("GET", "/api/v1/namespaces", ["list", "", "v1", "", "namespaces", "", ""]);
        check(
            "PUT",
            "/api/v1/namespaces/a/finalize",
            ["update", "", "v1", "a", "namespaces", "a", "finalize"],
        );
        check("GET", "/api/v1/namespaces/a/pods/b/log", ["get", "", "v1", "a", "pods", "b", "log"]);
        check(
            "PATCH",
            "/apis/apps/v1/namespaces/a/deployments/b",
            ["patch", "apps", "v1", "a", "deployments", "b", ""],
        );
        check(
            "DELETE",
            "/apis/apps/v1/namespaces/a/deployments",
            ["deletecollection", "apps", "v1", "a", "deployments", "", ""],
        );
        check(
            "GET",
            "/api/v1/namespaces/a/pods?fieldSelector=metadata.name%3Dx",
            ["list", "", "v1", "a", "pods", "x", ""],
        );
        check("GET", "/apis/apps/v1", ["get", "", "", "", "", "", ""]);
        check("GET", "/healthz", ["get", "", "", "", "", "", ""]);
    }

    #[test]
    fn queries_are_decoded_and_keep_their_order() {
        let query = Query::parse("command=ls&command=%2Ftmp+x&stdin&tty=false");
        assert_eq!(query.all("command").collect::<Vec<_>>(), ["ls", "/tmp x"]);
        assert!(query.is_on("stdin"));
        assert!(!query.is_on("tty"));
    }
}
