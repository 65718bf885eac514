//! ClusterRoles that are made of others: their rules are written out, so that people see them.
//!
//! The API server's own judgement follows the selectors and waits for nobody; this is what
//! `kubectl describe clusterrole admin` shows.
//!
//! Source: Kubernetes' ClusterRole aggregation.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::core::{Selector, SelectorExt};
use serde_json::json;

use crate::driver::{Controller, Error, Key, Queue, World};

/// Writes the rules of aggregated ClusterRoles.
pub struct Aggregations;

/// The rules `role` is to have, where they differ from those it has.
pub fn plan(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Option<Vec<PolicyRule>> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.as_ref()?;
    let selectors: Vec<Selector> =
        selectors.iter().filter_map(|one| Selector::try_from(one.clone()).ok()).collect();
    let picked = |other: &ClusterRole| {
        let labels = other.metadata.labels.clone().unwrap_or_default();
        selectors.iter().any(|selector| selector.matches(&labels))
    };
    let mut parts: Vec<&Arc<ClusterRole>> = all
        .iter()
        .filter(|other| other.metadata.name != role.metadata.name && picked(other))
        .collect();
    parts.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let mut rules: Vec<PolicyRule> = Vec::new();
    for rule in parts.iter().flat_map(|part| part.rules.iter().flatten()) {
        if !rules.contains(rule) {
            rules.push(rule.clone());
        }
    }
    (role.rules.as_deref().unwrap_or_default() != rules).then_some(rules)
}

impl Controller for Aggregations {
    const NAME: &'static str = "clusterrole-aggregation-controller";
    const WORKERS: usize = 1;
    /// All are looked at together: a part may itself be made of others.
    type Key = ();

    fn wire(&self, world: &World, queue: &Queue<()>) {
        let queue = queue.clone();
        world.cluster_roles.subscribe(move |_| queue.add(()));
    }

    async fn reconcile(&self, world: &World, (): &()) -> Result<Option<Duration>, Error> {
        let api: Api<ClusterRole> = Api::all(world.client.clone());
        let all = world.cluster_roles.all();
        for role in &all {
            let Some(rules) = plan(role, &all) else { continue };
            let patch = Patch::Merge(json!({
                "metadata": { "resourceVersion": role.metadata.resource_version },
                "rules": rules,
            }));
            let name = Key::of(&role.metadata).name;
            // What came of it wakes us again, for the roles that this one is a part of.
            world.cluster_roles.remember(api.patch(&name, &PatchParams::default(), &patch).await?);
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str, label: &str, selects: Option<&str>, verbs: &[&str]) -> Arc<ClusterRole> {
        let rules: Vec<_> = verbs.iter().map(|verb| json!({ "verbs": [verb] })).collect();
        let rule = selects
            .map(|label| json!({ "clusterRoleSelectors": [{ "matchLabels": { label: "true" } }] }));
        let role = json!({
            "metadata": { "name": name, "labels": { label: "true" } },
            "aggregationRule": rule,
            "rules": rules,
        });
        Arc::new(serde_json::from_value(role).expect("a role"))
    }

    #[test]
    fn a_role_has_the_rules_of_those_it_selects_each_once() {
        let all = [
            role("whole", "x", Some("part"), &["old"]),
            role("b", "part", None, &["get", "list"]),
            role("a", "part", None, &["get", "watch"]),
            role("c", "other", None, &["delete"]),
        ];
        let rules = plan(&all[0], &all).expect("they differ");
        let verbs: Vec<_> = rules.iter().map(|rule| rule.verbs[0].as_str()).collect();
        assert_eq!(verbs, ["get", "watch", "list"]);
        let settled = role("whole", "x", Some("part"), &["get", "watch", "list"]);
        assert_eq!(plan(&settled, &all), None);
        assert_eq!(plan(&all[1], &all), None, "not an aggregate");
    }
}
