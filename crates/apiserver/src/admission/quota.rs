//! ResourceQuotas: what a write adds is charged to every quota that counts it, before it is stored.
//!
//! A charge is a compare-and-swap of the quota's status, so that creates at the same time never go
//! over together. A write that fails after its charge leaves the quota charged too high until the
//! quota controller counts anew; the other way round would leave it too low. A quota nobody has
//! counted yet is counted here, so that it holds from its first moment.
//!
//! # Source
//! Kubernetes' `ResourceQuota` plugin.

use std::collections::BTreeMap;

use berth_api::Quantity;
use berth_api::quota::{self, Usage};
use berth_store::{Expect, WriteError};
use bytes::Bytes;
use serde_json::{Value, json};

use super::{Asked, Operation};
use crate::status::Failure;
use crate::{object, record};

/// How often a charge is tried anew when somebody else charged first: as often as writers of one
/// namespace can be in each other's way.
const TRIES: usize = 256;
const POD_NEEDS: [&str; 6] =
    ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

/// Charges what `new` adds, or refuses it.
pub(super) async fn charge(asked: &Asked<'_>, new: &Value) -> Result<(), Failure> {
    let (group, plural) = asked.kind();
    if !asked.resource.namespaced || !concerned(asked) || (group, plural) == ("", "events") {
        return Ok(());
    }
    let quotas = asked.core.resource("", "v1", "resourcequotas")?;
    let prefix = record::prefix(&quotas, asked.namespace);
    let page = asked.core.store.list(prefix.as_bytes(), None, 0, None).await?;
    if page.entries.is_empty() {
        return Ok(());
    }
    let mut more = quota::usage(group, plural, new);
    let before = asked.old.map(|old| quota::usage(group, plural, old)).unwrap_or_default();
    for entry in &page.entries {
        let own = record::object(&quotas, entry);
        if !quota::matches_scopes(&own, group, plural, new) {
            continue;
        }
        let hard = hard(&own, group, plural);
        if (group, plural) == ("", "pods") && asked.operation == Operation::Create {
            let absent = unnamed(&hard, new);
            if !absent.is_empty() {
                let name = object::name(&own);
                return Err(asked.forbid(format!("failed quota: {name}: must specify {absent}")));
            }
        }
    }
    // What was counted by the same quota before costs nothing again.
    let was_counted =
        |own: &Value| asked.old.is_some_and(|old| quota::matches_scopes(own, group, plural, old));
    more.retain(|_, amount| !amount.is_zero() && !amount.is_negative());
    for entry in page.entries {
        let own = record::object(&quotas, &entry);
        if !quota::matches_scopes(&own, group, plural, new) {
            continue;
        }
        let mut delta = more.clone();
        if was_counted(&own) {
            for (name, amount) in &mut delta {
                if let Some(before) = before.get(name) {
                    *amount = *amount - *before;
                }
            }
            delta.retain(|_, amount| !amount.is_zero() && !amount.is_negative());
        }
        charge_one(asked, &entry.key, delta).await?;
    }
    Ok(())
}

fn concerned(asked: &Asked<'_>) -> bool {
    match (asked.operation, asked.kind(), asked.subresource) {
        (Operation::Create, _, None) => true,
        (Operation::Update, ("", "pods"), sub) => matches!(sub, None | Some("resize")),
        (Operation::Update, ("", "services" | "persistentvolumeclaims"), None) => true,
        _ => false,
    }
}

/// The quota's limits that count objects of this kind.
fn hard(own: &Value, group: &str, plural: &str) -> Usage {
    let all = own["spec"]["hard"].as_object().into_iter().flatten();
    all.filter(|(name, _)| quota::counts(name, group, plural))
        .filter_map(|(name, value)| Some((name.clone(), amount(value)?)))
        .collect()
}

fn amount(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.to_string().parse().ok(),
        _ => None,
    }
}

/// What the quota limits and a container does not name.
fn unnamed(hard: &Usage, pod: &Value) -> String {
    let mut absent: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for need in POD_NEEDS.into_iter().filter(|need| hard.contains_key(*need)) {
        let (kind, what) = match need.split_once('.') {
            Some(("limits", what)) => ("limits", what),
            Some((_, what)) => ("requests", what),
            None => ("requests", need),
        };
        if !pod["spec"]["resources"][kind][what].is_null() {
            continue;
        }
        for list in ["containers", "initContainers"] {
            for container in pod["spec"][list].as_array().into_iter().flatten() {
                if container["resources"][kind][what].is_null() {
                    let name = container["name"].as_str().unwrap_or_default();
                    absent.entry(need).or_default().push(name);
                }
            }
        }
    }
    let each = absent.into_iter().map(|(need, names)| format!("{need} for: {}", names.join(",")));
    each.collect::<Vec<_>>().join("; ")
}

/// `NAME=AMOUNT` of those that are over.
fn shown(over: &[String], of: &Usage) -> String {
    let each = over
        .iter()
        .map(|name| format!("{name}={}", of.get(name).copied().unwrap_or(Quantity::ZERO)));
    each.collect::<Vec<_>>().join(",")
}

/// What is used after `delta`; the refusal when that is too much.
fn add(name: &str, hard: &Usage, used: &Usage, delta: &Usage) -> Result<Usage, String> {
    let mut after = used.clone();
    quota::add(&mut after, delta);
    let over: Vec<String> = hard
        .iter()
        .filter(|(what, most)| delta.contains_key(*what) && after.get(*what) > Some(*most))
        .map(|(what, _)| what.clone())
        .collect();
    if over.is_empty() {
        return Ok(after);
    }
    Err(format!(
        "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
        shown(&over, delta),
        shown(&over, used),
        shown(&over, hard)
    ))
}

async fn charge_one(asked: &Asked<'_>, key: &Bytes, mut delta: Usage) -> Result<(), Failure> {
    let quotas = asked.core.resource("", "v1", "resourcequotas")?;
    let (group, plural) = asked.kind();
    for _ in 0..TRIES {
        let Some(entry) = asked.core.store.get(key).await?.0 else { return Ok(()) };
        let mut own = record::object(&quotas, &entry);
        let hard = hard(&own, group, plural);
        delta.retain(|name, _| hard.contains_key(name));
        if delta.is_empty() {
            return Ok(());
        }
        let mut used: Usage = hard
            .keys()
            .filter_map(|name| Some((name.clone(), amount(&own["status"]["used"][name])?)))
            .collect();
        if hard.keys().any(|name| !used.contains_key(name)) {
            used = counted(asked, &own, &hard).await?;
        }
        let after = add(object::name(&own), &hard, &used, &delta)
            .map_err(|message| asked.forbid(message))?;
        if asked.dry_run {
            return Ok(());
        }
        if !own["status"]["hard"].is_object() {
            own["status"]["hard"] = own["spec"]["hard"].clone();
        }
        for (name, amount) in after {
            own["status"]["used"][name] = json!(amount.to_string());
        }
        let value = record::encode(&quotas, &own)?;
        match asked.core.store.put(key.clone(), value, Expect::Modified(entry.modified)).await {
            Ok(_) => return Ok(()),
            Err(WriteError::Conflict { .. } | WriteError::NotFound) => {
                tokio::task::yield_now().await
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(Failure::too_many_requests("the namespace's quota is written to by too many at once", 1))
}

/// What the objects that are there count for.
async fn counted(asked: &Asked<'_>, own: &Value, hard: &Usage) -> Result<Usage, Failure> {
    let (group, plural) = asked.kind();
    let mut used: Usage = hard.keys().map(|name| (name.clone(), Quantity::ZERO)).collect();
    for other in asked.namespaced(group, &asked.resource.version, plural).await? {
        if quota::matches_scopes(own, group, plural, &other) {
            let mut usage = quota::usage(group, plural, &other);
            usage.retain(|name, _| hard.contains_key(name));
            quota::add(&mut used, &usage);
        }
    }
    Ok(used)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(pairs: &[(&str, &str)]) -> Usage {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), value.parse().unwrap())).collect()
    }

    #[test]
    fn only_what_is_over_is_told() {
        let hard = usage(&[("pods", "2"), ("requests.cpu", "1")]);
        let used = usage(&[("pods", "1"), ("requests.cpu", "800m")]);
        let said = add("q", &hard, &used, &usage(&[("pods", "1"), ("requests.cpu", "300m")]));
        assert_eq!(
            said.unwrap_err(),
            "exceeded quota: q, requested: requests.cpu=300m, used: requests.cpu=800m, limited: \
             requests.cpu=1"
        );
        let after = add("q", &hard, &used, &usage(&[("pods", "1")])).unwrap();
        assert_eq!(after, usage(&[("pods", "2"), ("requests.cpu", "800m")]));
    }

    #[test]
    fn what_a_quota_limits_containers_must_name() {
        let pod = json!({"spec": {"containers": [
            {"name": "a", "resources": {"limits": {"cpu": "1"}}}, {"name": "b"}]}});
        let hard = usage(&[("limits.cpu", "4"), ("pods", "1")]);
        assert_eq!(unnamed(&hard, &pod), "limits.cpu for: b");
        let hard = usage(&[("limits.cpu", "4"), ("memory", "1Gi")]);
        assert_eq!(unnamed(&hard, &pod), "limits.cpu for: b; memory for: a,b");
    }
}
