//! Whether a rule is about a request: operations, groups, versions, resources, scope, selectors.

use std::collections::BTreeMap;

use berth_api::selector::Selector;
use serde_json::Value;

use crate::attributes::{Attributes, Kind, Place};

/// One of the other places under which a request's resource is served, with its kind.
pub type Equivalent = (Place, Kind);

/// One rule of a webhook or policy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    scope: String,
    names: Vec<String>,
}

fn words(value: &Value) -> Vec<String> {
    let list = value.as_array().into_iter().flatten();
    list.filter_map(|word| word.as_str().map(str::to_owned)).collect()
}

fn has(words: &[String], word: &str) -> bool {
    words.iter().any(|own| own == "*" || own == word)
}

impl Rule {
    /// Reads a `RuleWithOperations` or `NamedRuleWithOperations`.
    #[must_use]
    pub fn read(rule: &Value) -> Self {
        Self {
            operations: words(&rule["operations"]),
            groups: words(&rule["apiGroups"]),
            versions: words(&rule["apiVersions"]),
            resources: words(&rule["resources"]),
            scope: rule["scope"].as_str().unwrap_or("*").to_owned(),
            names: words(&rule["resourceNames"]),
        }
    }

    fn fits(&self, request: &Attributes, place: &Place) -> bool {
        let cluster_wide = !request.namespaced;
        // A namespace is no part of itself.
        let scoped = match self.scope.as_str() {
            "Namespaced" => !cluster_wide,
            "Cluster" => cluster_wide,
            _ => true,
        };
        let resource = self.resources.iter().any(|own| {
            let (wanted, below) = own.split_once('/').unwrap_or((own, ""));
            let whole = own == "*/*";
            whole
                || ((wanted == "*" || wanted == place.resource)
                    && (below == request.subresource || (below == "*" && own.contains('/'))))
        });
        scoped
            && resource
            && has(&self.operations, &request.asked.operation)
            && has(&self.groups, &place.group)
            && has(&self.versions, &place.version)
            && (self.names.is_empty() || self.names.contains(&request.name))
    }
}

/// All that a webhook or policy says about which requests it wants.
#[derive(Debug, Clone)]
pub struct Constraints {
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    equivalent: bool,
    namespaces: Selector,
    objects: Selector,
}

/// The selector of a field; an absent one selects everything, a malformed one nothing.
fn selector(value: &Value) -> Selector {
    if value.is_null() {
        return Selector::everything();
    }
    Selector::from_json(value).unwrap_or_else(|_| Selector::nothing())
}

impl Constraints {
    /// Reads a webhook (its `rules`), or a policy's `matchConstraints` (its `resourceRules`).
    #[must_use]
    pub fn read(given: &Value) -> Self {
        let rules = |value: &Value| -> Vec<Rule> {
            value.as_array().into_iter().flatten().map(Rule::read).collect()
        };
        let own = if given["rules"].is_array() { &given["rules"] } else { &given["resourceRules"] };
        Self {
            rules: rules(own),
            excluded: rules(&given["excludeResourceRules"]),
            equivalent: given["matchPolicy"].as_str().unwrap_or("Equivalent") == "Equivalent",
            namespaces: selector(&given["namespaceSelector"]),
            objects: selector(&given["objectSelector"]),
        }
    }

    /// Whether every resource is wanted as far as rules go: a binding may name none.
    #[must_use]
    pub fn has_rules(&self) -> bool {
        !self.rules.is_empty()
    }

    /// Where, and as what kind, a request is wanted; none when it is not. `others` are the places
    /// of the same objects under other groups and versions.
    #[must_use]
    pub fn wants(&self, request: &Attributes, others: &[Equivalent]) -> Option<Equivalent> {
        let own = (request.place.clone(), request.kind.clone());
        if !self.selects(request) || self.is_excluded(request, &own, others) {
            return None;
        }
        if !self.has_rules() {
            return Some(own);
        }
        let fits = |place: &Place| self.rules.iter().any(|rule| rule.fits(request, place));
        if fits(&own.0) {
            return Some(own);
        }
        // The kind of a subresource is its own: its parent's other places do not change it.
        let other = others.iter().filter(|_| self.equivalent).find(|(place, _)| fits(place))?;
        let kind = if request.subresource.is_empty() || request.subresource == "status" {
            other.1.clone()
        } else {
            request.kind.clone()
        };
        Some((other.0.clone(), kind))
    }

    fn is_excluded(&self, request: &Attributes, own: &Equivalent, others: &[Equivalent]) -> bool {
        let out = |place: &Place| self.excluded.iter().any(|rule| rule.fits(request, place));
        out(&own.0) || (self.equivalent && others.iter().any(|(place, _)| out(place)))
    }

    fn selects(&self, request: &Attributes) -> bool {
        let is_namespace = request.place.group.is_empty() && request.place.resource == "namespaces";
        if !self.namespaces.is_everything() {
            if is_namespace {
                // A namespace is selected by its own labels, as they will be.
                let object = if request.object.is_null() { &request.old } else { &request.object };
                if !self.namespaces.matches(&labels(object)) {
                    return false;
                }
            } else if request.namespaced
                && !self.namespaces.matches(&labels(&request.namespace_object))
            {
                return false;
            }
        }
        self.objects.is_everything()
            || [&request.object, &request.old]
                .into_iter()
                .any(|object| object.is_object() && self.objects.matches(&labels(object)))
    }
}

fn labels(object: &Value) -> BTreeMap<String, String> {
    let found = object["metadata"]["labels"].as_object();
    let pairs = found.into_iter().flatten();
    pairs.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request(resource: &str, sub: &str, operation: &str) -> Attributes {
        let mut request = Attributes {
            place: Place { group: "apps".into(), version: "v1".into(), resource: resource.into() },
            subresource: sub.into(),
            namespaced: true,
            namespace: "prod".into(),
            name: "web".into(),
            object: json!({"metadata": {"labels": {"a": "b"}}}),
            namespace_object: json!({"metadata": {"labels": {"env": "prod"}}}),
            ..Attributes::default()
        };
        request.asked.operation = operation.into();
        request
    }

    #[test]
    fn rules_fit_or_not() {
        let check = |rule: Value, request: &Attributes, expected: bool| {
            let found = Constraints::read(&json!({"rules": [rule]})).wants(request, &[]);
            assert_eq!(found.is_some(), expected, "{rule} {request:?}");
        };
        let rule = |operations: &[&str], resources: &[&str]| {
            json!({"operations": operations, "apiGroups": ["apps"], "apiVersions": ["v1"],
                "resources": resources})
        };
        let plain = request("deployments", "", "CREATE");
        let scale = request("deployments", "scale", "UPDATE");
        check(rule(&["CREATE"], &["deployments"]), &plain, true);
        check(rule(&["UPDATE"], &["deployments"]), &plain, false);
        check(rule(&["*"], &["*"]), &plain, true);
        check(rule(&["*"], &["*"]), &scale, false);
        check(rule(&["*"], &["*/*"]), &scale, true);
        check(rule(&["*"], &["*/*"]), &plain, true);
        check(rule(&["*"], &["deployments/*"]), &scale, true);
        check(rule(&["*"], &["deployments/scale"]), &scale, true);
        check(rule(&["*"], &["*/scale"]), &scale, true);
        check(rule(&["*"], &["deployments/status"]), &scale, false);
        let mut cluster = rule(&["*"], &["*"]);
        cluster["scope"] = json!("Cluster");
        check(cluster, &plain, false);
        let mut named = rule(&["*"], &["*"]);
        named["resourceNames"] = json!(["other"]);
        check(named, &plain, false);
    }

    #[test]
    fn selectors_and_exclusions_narrow() {
        let check = |more: Value, expected: bool| {
            let mut given = json!({"resourceRules": [{"operations": ["*"], "apiGroups": ["*"],
                "apiVersions": ["*"], "resources": ["*"]}]});
            for (key, value) in more.as_object().into_iter().flatten() {
                given[key] = value.clone();
            }
            let found = Constraints::read(&given).wants(&request("deployments", "", "CREATE"), &[]);
            assert_eq!(found.is_some(), expected, "{more}");
        };
        check(json!({}), true);
        check(json!({"namespaceSelector": {"matchLabels": {"env": "prod"}}}), true);
        check(json!({"namespaceSelector": {"matchLabels": {"env": "test"}}}), false);
        check(json!({"objectSelector": {"matchLabels": {"a": "b"}}}), true);
        check(
            json!({"objectSelector": {"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}}),
            false,
        );
        check(
            json!({"excludeResourceRules": [{"operations": ["*"], "apiGroups": ["apps"],
            "apiVersions": ["*"], "resources": ["deployments"]}]}),
            false,
        );
    }

    #[test]
    fn an_equivalent_place_is_found() {
        let old = (
            Place {
                group: "extensions".into(),
                version: "v1beta1".into(),
                resource: "deployments".into(),
            },
            Kind {
                group: "extensions".into(),
                version: "v1beta1".into(),
                kind: "Deployment".into(),
            },
        );
        let mut given = json!({"rules": [{"operations": ["*"], "apiGroups": ["extensions"],
            "apiVersions": ["*"], "resources": ["deployments"]}]});
        let plain = request("deployments", "", "CREATE");
        let found = Constraints::read(&given).wants(&plain, std::slice::from_ref(&old));
        assert_eq!(found, Some(old.clone()));
        given["matchPolicy"] = json!("Exact");
        assert_eq!(Constraints::read(&given).wants(&plain, &[old]), None);
    }
}
