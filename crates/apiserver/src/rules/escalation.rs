//! Nobody gives away rights that he does not have, unless he was given the right to do so.

use std::sync::Arc;

use berth_schema::Resource;
use serde::Deserialize;
use serde_json::Value;

use crate::object;
use crate::path::Target;
use crate::rbac::{Rule, uncovered};
use crate::server::Core;
use crate::status::Failure;
use crate::user::User;

/// Judges a role's rules or a binding's role against what the user holds.
pub(super) fn check(
    core: &Core,
    user: &User,
    resource: &Arc<Resource>,
    new: &Value,
) -> Result<(), Failure> {
    if user.is_master() {
        return Ok(());
    }
    let namespace = object::namespace(new);
    let name = object::name(new);
    let may = |verb: &str, resource: &str, name: &str| {
        let target = Target {
            is_resource: true,
            verb: verb.to_owned(),
            group: "rbac.authorization.k8s.io".to_owned(),
            version: "v1".to_owned(),
            namespace: namespace.to_owned(),
            resource: resource.to_owned(),
            name: name.to_owned(),
            ..Target::default()
        };
        core.rbac.allows(user, &target)
    };
    let granted = if resource.plural.ends_with("bindings") {
        let role = &new["roleRef"];
        let kind = role["kind"].as_str().unwrap_or_default();
        let role_name = role["name"].as_str().unwrap_or_default();
        let plural = if kind == "Role" { "roles" } else { "clusterroles" };
        if may("bind", plural, role_name) {
            return Ok(());
        }
        core.rbac
            .role(namespace, kind, role_name)
            .ok_or_else(|| Failure::no_such(plural, role_name))?
    } else {
        if may("escalate", &resource.plural, name) {
            return Ok(());
        }
        if new["aggregationRule"].is_object() {
            // An aggregate may come to hold anything.
            vec![Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() }]
        } else {
            Option::<Vec<Rule>>::deserialize(&new["rules"]).ok().flatten().unwrap_or_default()
        }
    };
    let held = core.rbac.rules(user, namespace);
    match uncovered(&held, &granted) {
        None => Ok(()),
        Some(rule) => {
            let rule = serde_json::to_string(rule).unwrap_or_default();
            let why = format!(
                "user \"{}\" (groups={:?}) is attempting to grant RBAC permissions not currently \
                 held: {rule}",
                user.name, user.groups
            );
            Err(Failure::forbidden_object(resource, name, why))
        }
    }
}

fn all() -> Vec<String> {
    vec!["*".to_owned()]
}
