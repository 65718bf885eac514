//! Policies and rules in CEL: what they need is fetched here, what they say is told here.

use std::sync::Arc;
use std::time::Instant;

use berth_guard::policy::{Binding, Policy, Verdict};
use berth_guard::structural::Rules;
use berth_guard::{Equivalent, config};
use berth_schema::Resource;
use serde_json::{Value, json};

use super::Asked;
use super::matched::{Matched, causes, converted, is_exempt, matched};
use crate::selector::Labels;
use crate::server::Core;
use crate::status::Failure;
use crate::{object, record};

const MOST_PARAMS: usize = 256;

/// Whether what configures admission, or defines custom resources, is well formed.
pub(super) fn check_own(asked: &Asked<'_>, new: &Value) -> Result<(), Failure> {
    let resource = asked.resource;
    let faults = match (resource.group.as_str(), resource.plural.as_str()) {
        ("admissionregistration.k8s.io", plural) => config::check(plural, new),
        ("apiextensions.k8s.io", "customresourcedefinitions") if asked.subresource.is_none() => {
            // Rules that were stored by an older release must not stand in the way of others.
            let same = |old: &Value| old["spec"]["versions"] == new["spec"]["versions"];
            if asked.old.is_some_and(same) {
                return Ok(());
            }
            let mut faults = Vec::new();
            for (at, version) in
                new["spec"]["versions"].as_array().into_iter().flatten().enumerate()
            {
                let path = format!("spec.versions[{at}].schema.openAPIV3Schema");
                let schema = &version["schema"]["openAPIV3Schema"];
                let _ = Rules::compile(schema, &path, &mut faults);
            }
            faults
        }
        _ => return Ok(()),
    };
    if faults.is_empty() {
        return Ok(());
    }
    Err(Failure::invalid(resource, asked.name, causes(faults)))
}

/// Judges an object of a custom resource by the rules of its schema.
pub(super) async fn check_rules(asked: &Asked<'_>, new: &Value) -> Result<(), Failure> {
    let Some(rules) = asked.core.guards.rules(asked.resource) else { return Ok(()) };
    let faults = if rules.is_heavy() {
        let (new, old) = (new.clone(), asked.old.cloned());
        let aside =
            tokio::task::spawn_blocking(move || rules.judge(&new, old.as_ref(), Instant::now()));
        aside.await.map_err(Failure::internal)?
    } else {
        rules.judge(new, asked.old, Instant::now())
    };
    if faults.is_empty() {
        return Ok(());
    }
    Err(Failure::invalid(asked.resource, asked.name, causes(faults)))
}

/// Judges a request by every policy in force.
pub(super) async fn validate(asked: &Asked<'_>, new: Option<&Value>) -> Result<(), Failure> {
    let held = asked.core.guards.held();
    if held.bindings.is_empty() || held.policies.is_empty() || is_exempt(asked.resource) {
        return Ok(());
    }
    let matched = matched(asked, new).await?;
    let mut refused = None;
    for binding in held.bindings.values() {
        let Some(policy) = held.policies.get(&binding.policy) else { continue };
        let Some(as_what) = policy.wants(binding, &matched.request, &matched.others) else {
            continue;
        };
        let verdict = judge(asked, policy, binding, &matched, as_what).await?;
        verdict.warnings.into_iter().for_each(|warning| asked.call.notes.warn(warning));
        for (key, value) in verdict.annotations {
            asked.call.notes.annotate(key, value);
        }
        if let Some(denial) = verdict.denial {
            let cause = json!({ "message": denial.message });
            let mut failure = Failure::forbidden_object(asked.resource, asked.name, denial.message);
            // kubectl shows the causes of what is invalid, and not the message.
            if let Some(details) = &mut failure.details {
                details["causes"] = json!([cause]);
            }
            failure.code = denial.code;
            failure.reason = denial.reason;
            refused.get_or_insert(failure);
        }
    }
    refused.map_or(Ok(()), Err)
}

async fn judge(
    asked: &Asked<'_>,
    policy: &Arc<Policy>,
    binding: &Arc<Binding>,
    matched: &Matched,
    as_what: Equivalent,
) -> Result<Verdict, Failure> {
    let params = match params(asked, policy, binding, matched).await? {
        Ok(params) => params,
        Err(why) => return Ok(policy.without_params(binding, &why)),
    };
    let mut request = matched.request.clone();
    if asked.subresource.is_none() {
        request.object = converted(asked.core, asked.resource, &as_what.0, &request.object);
        request.old = converted(asked.core, asked.resource, &as_what.0, &request.old);
    }
    let authorize = Arc::clone(&matched.authorize);
    if !policy.is_heavy() {
        let now = Instant::now();
        return Ok(policy.judge(binding, &request, &as_what, &params, &authorize, now));
    }
    let (policy, binding) = (Arc::clone(policy), Arc::clone(binding));
    let aside = tokio::task::spawn_blocking(move || {
        policy.judge(&binding, &request, &as_what, &params, &authorize, Instant::now())
    });
    aside.await.map_err(Failure::internal)
}

/// The objects that a binding's `paramRef` names, or why there are none where there must be.
async fn params(
    asked: &Asked<'_>,
    policy: &Policy,
    binding: &Binding,
    matched: &Matched,
) -> Result<Result<Vec<Value>, String>, Failure> {
    let Some((api_version, kind)) = &policy.params else { return Ok(Ok(vec![Value::Null])) };
    let given = &binding.param_ref;
    if given.is_null() {
        return Ok(Ok(vec![Value::Null]));
    }
    let Some(resource) = kind_of(asked.core, api_version, kind) else {
        return Ok(Err(format!(
            "failed to configure policy: failed to find resource referenced by paramKind: \
             '{api_version}, Kind={kind}'"
        )));
    };
    let namespace = if resource.namespaced {
        let own = given["namespace"].as_str().filter(|own| !own.is_empty());
        own.unwrap_or(&matched.request.namespace)
    } else {
        ""
    };
    if resource.namespaced && namespace.is_empty() {
        let why = "failed to configure binding: cannot use namespaced paramRef in policy binding \
                   that matches cluster-scoped resources";
        return Ok(Err(why.to_owned()));
    }
    let mut found = Vec::new();
    if let Some(name) = given["name"].as_str().filter(|name| !name.is_empty()) {
        let (entry, _) = asked.core.store.get(&record::key(&resource, namespace, name)).await?;
        found.extend(entry.map(|entry| record::object(&resource, &entry)));
    } else if let Some(selector) = Labels::from_value(&given["selector"]) {
        let prefix = record::prefix(&resource, namespace);
        let page = asked.core.store.list(prefix.as_bytes(), None, 0, None).await?;
        let objects = page.entries.iter().map(|entry| record::object(&resource, entry));
        found
            .extend(objects.filter(|one| selector.matches(&object::labels(one))).take(MOST_PARAMS));
    }
    if found.is_empty() && given["parameterNotFoundAction"] == "Deny" {
        let why = "failed to configure binding: no params found for policy binding with `Deny` \
                   parameterNotFoundAction";
        return Ok(Err(why.to_owned()));
    }
    Ok(Ok(found))
}

fn kind_of(core: &Core, api_version: &str, kind: &str) -> Option<Arc<Resource>> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let catalog = core.catalog.read().expect("nothing panics while holding it");
    catalog.by_kind(group, version, kind).cloned()
}
