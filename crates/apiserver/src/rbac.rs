//! Authorization by roles and bindings (`rbac.authorization.k8s.io/v1`).
//!
//! Everything is judged from an index in memory that follows the store; a change shows within
//! milliseconds. Additive only: there are no rules that deny. `system:masters` is never asked.

mod cover;
mod index;
pub(crate) mod node;

use serde::{Deserialize, Deserializer, Serialize};

pub(crate) use cover::uncovered;
pub(crate) use index::{Index, PREFIX};

use crate::path::Target;
use crate::user::User;

/// One rule of a role.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Rule {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) verbs: Vec<String>,
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub(crate) api_groups: Vec<String>,
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub(crate) resources: Vec<String>,
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub(crate) resource_names: Vec<String>,
    #[serde(
        default,
        rename = "nonResourceURLs",
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub(crate) non_resource_urls: Vec<String>,
}

fn nullable<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::<Vec<T>>::deserialize(deserializer)?.unwrap_or_default())
}

impl Rule {
    pub(crate) fn allows(&self, target: &Target) -> bool {
        let has = |list: &[String], one: &str| list.iter().any(|own| own == "*" || own == one);
        if !has(&self.verbs, &target.verb) {
            return false;
        }
        if !target.is_resource {
            return self.non_resource_urls.iter().any(|pattern| {
                pattern
                    .strip_suffix('*')
                    .map_or(*pattern == target.path, |start| target.path.starts_with(start))
            });
        }
        has(&self.api_groups, &target.group)
            && self.resources.iter().any(|own| resource_matches(own, target))
            && (self.resource_names.is_empty() || self.resource_names.contains(&target.name))
    }
}

/// `*`, `pods`, `pods/log`, `*/scale`.
fn resource_matches(pattern: &str, target: &Target) -> bool {
    if pattern == "*" {
        return true;
    }
    // Who reviews access may write `pods/log` as one.
    if target.subresource.is_empty() {
        return pattern == target.resource;
    }
    match pattern.split_once('/') {
        None => false,
        Some((resource, subresource)) => {
            subresource == target.subresource && (resource == "*" || resource == target.resource)
        }
    }
}

/// Who is refused what, in Kubernetes' words.
pub(crate) fn refusal(user: &User, target: &Target) -> String {
    if !target.is_resource {
        return format!(
            "forbidden: User \"{}\" cannot {} path \"{}\"",
            user.name, target.verb, target.path
        );
    }
    let resource = if target.subresource.is_empty() {
        target.resource.clone()
    } else {
        format!("{}/{}", target.resource, target.subresource)
    };
    let qualified = if target.group.is_empty() {
        target.resource.clone()
    } else {
        format!("{}.{}", target.resource, target.group)
    };
    let named =
        if target.name.is_empty() { qualified } else { format!("{qualified} \"{}\"", target.name) };
    let place = if target.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace \"{}\"", target.namespace)
    };
    format!(
        "{named} is forbidden: User \"{}\" cannot {} resource \"{resource}\" in API group \"{}\" \
         {place}",
        user.name, target.verb, target.group
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(value: serde_json::Value) -> Rule {
        serde_json::from_value(value).unwrap()
    }

    fn target(verb: &str, group: &str, resource: &str, sub: &str, name: &str) -> Target {
        Target {
            is_resource: true,
            verb: verb.to_owned(),
            group: group.to_owned(),
            resource: resource.to_owned(),
            subresource: sub.to_owned(),
            name: name.to_owned(),
            ..Target::default()
        }
    }

    #[test]
    fn rules_match_verbs_groups_resources_and_names() {
        let pods = rule(serde_json::json!({
            "verbs": ["get"], "apiGroups": [""], "resources": ["pods", "*/scale"]
        }));
        assert!(pods.allows(&target("get", "", "pods", "", "a")));
        assert!(!pods.allows(&target("list", "", "pods", "", "")));
        assert!(!pods.allows(&target("get", "", "pods", "log", "a")));
        assert!(!pods.allows(&target("get", "apps", "pods", "", "a")));
        assert!(pods.allows(&target("get", "", "replicationcontrollers", "scale", "a")));
        assert!(!pods.allows(&target("get", "", "*", "", "a")), "a star is asked for as one");
        let logs = rule(serde_json::json!({
            "verbs": ["get"], "apiGroups": [""], "resources": ["pods/log"]
        }));
        assert!(logs.allows(&target("get", "", "pods", "log", "a")));
        assert!(logs.allows(&target("get", "", "pods/log", "", "a")));
        assert!(!logs.allows(&target("get", "", "pods", "", "a")));
        let named = rule(serde_json::json!({
            "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "resourceNames": ["a"]
        }));
        assert!(named.allows(&target("delete", "apps", "deployments", "", "a")));
        assert!(!named.allows(&target("delete", "apps", "deployments", "", "b")));
        assert!(!named.allows(&target("list", "apps", "deployments", "", "")));
    }

    #[test]
    fn paths_match_exactly_or_by_a_star_at_the_end() {
        let paths = rule(serde_json::json!({
            "verbs": ["get"], "nonResourceURLs": ["/healthz", "/api/*"], "apiGroups": null
        }));
        let path = |path: &str| Target {
            verb: "get".to_owned(),
            path: path.to_owned(),
            ..Target::default()
        };
        assert!(paths.allows(&path("/healthz")));
        assert!(!paths.allows(&path("/healthz/x")));
        assert!(paths.allows(&path("/api/v1")));
        assert!(!paths.allows(&path("/apis")));
    }
}
