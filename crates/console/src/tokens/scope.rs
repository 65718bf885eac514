//! What a token is good for, of all that its account may.

use http::Method;
use serde::{Deserialize, Serialize};

/// Namespaces and verbs. It takes away; it gives nothing that RBAC does not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// These alone, and nothing that is in none; empty: everything.
    pub namespaces: Vec<String>,
    /// As RBAC names them: `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`,
    /// `deletecollection`.
    pub verbs: Vec<String>,
}

/// What RBAC calls them.
pub(super) const VERBS: [&str; 8] =
    ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];

impl Scope {
    /// Whether a request of the API at `path` is within it. `path` is as the API server gets it,
    /// without escapes, dots and empty segments.
    pub fn permits(&self, method: &Method, path: &str, query: &str) -> bool {
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        let rest = match segments.as_slice() {
            ["version"]
            | ["openapi", ..]
            | ["api" | "apis"]
            | ["api", _]
            | ["apis", _]
            | ["apis", _, _] => return *method == Method::GET,
            ["api", _, rest @ ..] | ["apis", _, _, rest @ ..] => rest,
            _ => return false,
        };
        let (namespace, named) = match rest {
            // The old way to watch.
            ["watch" | "proxy", ..] => return false,
            // A namespace itself is in none.
            ["namespaces"] => (None, false),
            ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => (None, true),
            ["namespaces", namespace, _] => (Some(*namespace), false),
            ["namespaces", namespace, _, _, ..] => (Some(*namespace), true),
            [_] => (None, false),
            [_, ..] => (None, true),
            [] => return false,
        };
        let watches = query.split('&').any(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            // As the API server reads it: whatever is not said to be false is true. A name that is
            // written with escapes may be this one.
            (key == "watch" || key.contains(['%', '+']))
                && !matches!(value, "false" | "0" | "False" | "FALSE" | "f" | "F")
        });
        let verb = match method.as_str() {
            "GET" | "HEAD" if named => "get",
            "GET" | "HEAD" if watches => "watch",
            "GET" | "HEAD" => "list",
            "POST" => "create",
            "PUT" => "update",
            "PATCH" => "patch",
            "DELETE" if named => "delete",
            "DELETE" => "deletecollection",
            _ => return false,
        };
        let within = self.namespaces.is_empty()
            || namespace
                .is_some_and(|namespace| self.namespaces.iter().any(|one| one == namespace));
        within && self.verbs.iter().any(|one| one == verb)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(namespaces: &[&str], verbs: &[&str]) -> Scope {
        let owned = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect();
        Scope { namespaces: owned(namespaces), verbs: owned(verbs) }
    }

    #[test]
    fn a_scope_holds_to_its_namespaces_and_verbs() {
        let reads = scope(&["shop"], &["get", "list", "watch"]);
        let check = |request: &str, expected: bool| {
            let (method, target) = request.split_once(' ').unwrap();
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            let method: Method = method.parse().unwrap();
            assert_eq!(reads.permits(&method, path, query), expected, "{request}");
        };
        for request in [
            "GET /api/v1/namespaces/shop/pods",
            "GET /api/v1/namespaces/shop/pods/web-0",
            "GET /api/v1/namespaces/shop/pods/web-0/log",
            "GET /apis/apps/v1/namespaces/shop/deployments?watch=true",
            "GET /apis",
            "GET /api/v1",
            "GET /apis/apps/v1",
            "GET /openapi/v3/apis/apps/v1",
            "GET /version",
        ] {
            check(request, true);
        }
        for request in [
            "POST /api/v1/namespaces/shop/pods",
            "POST /api/v1/namespaces/shop/pods/web-0/eviction",
            "DELETE /api/v1/namespaces/shop/pods",
            "PATCH /api/v1/namespaces/shop/pods/web-0",
            "PUT /api/v1/namespaces/shop/pods/web-0",
            "GET /api/v1/namespaces/bank/pods",
            "GET /api/v1/pods",
            "GET /api/v1/nodes",
            "GET /api/v1/nodes/n",
            "GET /api/v1/namespaces",
            "GET /api/v1/namespaces/shop",
            "DELETE /api/v1/namespaces/shop",
            "PUT /api/v1/namespaces/shop/finalize",
            "GET /api/v1/watch/namespaces/shop/pods",
            "POST /apis",
            "GET /metrics",
            "OPTIONS /api/v1/namespaces/shop/pods",
        ] {
            check(request, false);
        }
    }

    #[test]
    fn one_that_may_list_may_not_watch() {
        let lists = scope(&[], &["list"]);
        let permits = |query| lists.permits(&Method::GET, "/api/v1/pods", query);
        assert!(permits("") && permits("watch=false") && permits("limit=5"));
        assert!(
            !permits("w%61tch=1")
                && !permits("watch=1")
                && !permits("limit=5&watch=true")
                && !permits("watch")
        );
        let deletes = scope(&[], &["delete"]);
        assert!(!deletes.permits(&Method::DELETE, "/api/v1/nodes", ""));
        assert!(deletes.permits(&Method::DELETE, "/api/v1/nodes/n", ""));
    }
}
