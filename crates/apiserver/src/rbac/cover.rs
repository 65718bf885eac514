//! Whether somebody who wants to grant rules holds them himself.

use super::Rule;
use crate::path::Target;

/// The first rule of `wanted` that `held` does not cover; none when all are covered.
///
/// Each wanted rule is taken apart into its single verb, group, resource and name, and each of
/// those must be in one held rule. A star is only covered by a star.
pub(crate) fn uncovered<'a>(held: &[Rule], wanted: &'a [Rule]) -> Option<&'a Rule> {
    wanted.iter().find(|rule| !singles(rule).iter().all(|single| covered(held, single)))
}

fn covered(held: &[Rule], single: &Target) -> bool {
    held.iter().any(|rule| rule.allows(single))
}

fn singles(rule: &Rule) -> Vec<Target> {
    let mut out = Vec::new();
    let any = [String::new()];
    let names = if rule.resource_names.is_empty() { &any[..] } else { &rule.resource_names[..] };
    for verb in &rule.verbs {
        for path in &rule.non_resource_urls {
            let target = Target { verb: verb.clone(), path: path.clone(), ..Target::default() };
            out.push(target);
        }
        for group in &rule.api_groups {
            for resource in &rule.resources {
                let (resource, subresource) =
                    resource.split_once('/').unwrap_or((resource.as_str(), ""));
                for name in names {
                    out.push(Target {
                        is_resource: true,
                        verb: verb.clone(),
                        group: group.clone(),
                        resource: resource.to_owned(),
                        subresource: subresource.to_owned(),
                        name: name.clone(),
                        ..Target::default()
                    });
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rules(value: serde_json::Value) -> Vec<Rule> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn nobody_grants_more_than_he_holds() {
        let held = rules(json!([
            {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]},
            {"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"]},
        ]));
        let check = |wanted: serde_json::Value, fine: bool| {
            assert_eq!(uncovered(&held, &rules(wanted.clone())).is_none(), fine, "{wanted}");
        };
        check(json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]), true);
        check(json!([{"verbs": ["*"], "apiGroups": [""], "resources": ["pods"]}]), false);
        check(json!([{"verbs": ["get"], "apiGroups": ["*"], "resources": ["pods"]}]), false);
        check(json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"]}]), false);
        check(
            json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"],
                    "resourceNames": ["a"]}]),
            true,
        );
    }
}
