//! `pods/eviction`: a deletion that asks the disruption budgets first.

use std::sync::Arc;

use berth_schema::Resource;
use berth_store::{Expect, WriteError};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::admission::{self, Asked, Operation};
use crate::call::Call;
use crate::respond::{self, Body};
use crate::rules;
use crate::selector::Labels;
use crate::server::Core;
use crate::status::{self, Failure};
use crate::verbs::{self, DeleteOptions};
use crate::{object, record};

const TRIES: usize = 5;

pub(super) async fn evict(
    core: &Arc<Core>,
    call: &Call,
    resource: &Arc<Resource>,
) -> Result<Response<Body>, Failure> {
    let target = &call.target;
    let body = call.body_value()?;
    let mut options = DeleteOptions::from_value(&body["deleteOptions"])?;
    options.dry_run |= call.dry_run()?;
    let pod = rules::find_pod(core, &target.namespace, &target.name).await?;
    let asked = Asked {
        core,
        call,
        resource,
        subresource: Some("eviction"),
        operation: Operation::Create,
        namespace: &target.namespace,
        name: &target.name,
        dry_run: options.dry_run,
        old: None,
    };
    admission::validate_action(&asked, Some(&body)).await?;
    let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    let pending = pod["status"]["phase"] == "Pending";
    if !ended && !pending && !object::is_deleting(&pod) {
        spend_budget(core, &target.namespace, &pod, options.dry_run).await?;
    }
    verbs::remove(core, None, resource, &target.namespace, &target.name, &options).await?;
    Ok(respond::value(StatusCode::CREATED, &status::success(201), &call.output))
}

/// Takes one disruption off the budget that covers the pod; refuses when there is none left.
async fn spend_budget(
    core: &Arc<Core>,
    namespace: &str,
    pod: &Value,
    dry_run: bool,
) -> Result<(), Failure> {
    let resource = core.resource("policy", "v1", "poddisruptionbudgets")?;
    let prefix = record::prefix(&resource, namespace);
    for _ in 0..TRIES {
        let page = core.store.list(prefix.as_bytes(), None, 0, None).await?;
        let labels = object::labels(pod);
        let covering: Vec<_> = page
            .entries
            .iter()
            .filter_map(|entry| {
                let budget = record::object(&resource, entry);
                let selector = &budget["spec"]["selector"];
                let covers = !selector.is_null()
                    && Labels::from_value(selector).is_some_and(|own| own.matches(&labels));
                covers.then_some((entry, budget))
            })
            .collect();
        let (entry, mut budget) = match covering.len() {
            0 => return Ok(()),
            1 => match covering.into_iter().next() {
                Some(one) => one,
                None => return Ok(()),
            },
            _ => {
                return Err(Failure::internal(
                    "This pod has more than one PodDisruptionBudget, which the eviction \
                     subresource does not support.",
                ));
            }
        };
        let name = object::name(&budget).to_owned();
        let status = &budget["status"];
        let generation = budget["metadata"]["generation"].as_i64().unwrap_or_default();
        if status["observedGeneration"].as_i64().unwrap_or_default() < generation {
            return Err(Failure::too_many_requests(
                format!(
                    "Cannot evict pod as the disruption budget {name} is still being processed by the server."
                ),
                10,
            ));
        }
        if !is_ready(pod) && spares_unready(&budget) {
            return Ok(());
        }
        let allowed = status["disruptionsAllowed"].as_i64().unwrap_or_default();
        if allowed <= 0 {
            let needed = status["desiredHealthy"].as_i64().unwrap_or_default();
            let healthy = status["currentHealthy"].as_i64().unwrap_or_default();
            return Err(Failure::disruption_budget(
                &name,
                format!("needs {needed} healthy pods and has {healthy} currently"),
            ));
        }
        if dry_run {
            return Ok(());
        }
        budget["status"]["disruptionsAllowed"] = json!(allowed - 1);
        if !budget["status"]["disruptedPods"].is_object() {
            budget["status"]["disruptedPods"] = json!({});
        }
        budget["status"]["disruptedPods"][object::name(pod)] = json!(object::now());
        let value = record::encode(&resource, &budget)?;
        match core.store.put(entry.key.clone(), value, Expect::Modified(entry.modified)).await {
            Ok(_) => return Ok(()),
            Err(WriteError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Failure::too_many_requests("the disruption budget changes too quickly", 1))
}

/// Whether a pod that serves nobody may go without being counted (KEP-3017): always, or while the
/// budget is kept by the others.
fn spares_unready(budget: &Value) -> bool {
    let status = &budget["status"];
    let count = |field: &str| status[field].as_i64().unwrap_or_default();
    budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
        || (count("desiredHealthy") > 0 && count("currentHealthy") >= count("desiredHealthy"))
}

fn is_ready(pod: &Value) -> bool {
    let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}
