//! The objects that every cluster of ours has: DNS, balancer, their accounts, the App kind, the
//! Gateway API's kinds.
//!
//! They are applied server-side, so what people change about fields that we do not name stays.
//! The pods run two processes each on one port (SO_REUSEPORT). Their health ports are in two
//! pairs, the *sides*: a change of the template moves to the other side, so that an old process
//! never answers for a new one while both run.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use berth_api::gateway;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};

use crate::instance::Instance;

const MANIFESTS: &str = include_str!("system.yaml");
const SIDE: &str = "berth.dev/health-side";
const READY_WITHIN: Duration = Duration::from_secs(120);

/// The two parts that run as pods: their namespaces, Deployments, and the first of the four health
/// ports of each, counted from `--health-port`.
const PARTS: [Part; 2] = [
    Part { word: "balancer", namespace: "berth-system", name: "berth-balancer", health: 0 },
    Part { word: "dns", namespace: "kube-system", name: "berth-dns", health: 4 },
];

struct Part {
    word: &'static str,
    namespace: &'static str,
    name: &'static str,
    health: u16,
}

/// Applies all of it with `image` as the pods' image.
///
/// # Errors
/// What the API server refused, by object.
pub async fn apply(client: &Client, instance: &Instance, image: &str) -> Result<()> {
    let crd = serde_json::to_value(berth_api::app::definition())?;
    apply_one(client, serde_json::from_value(crd)?).await?;
    gateway_definitions(client).await?;
    let (mut text, mut others) = (MANIFESTS.to_owned(), Vec::new());
    let options = &instance.options;
    for (word, value) in [
        ("image", image.to_owned()),
        ("node-address", instance.node_address().to_string()),
        ("dns-address", instance.dns_address().to_string()),
        ("dns-port", options.dns_port.to_string()),
        ("http-port", options.http_port.to_string()),
        ("https-port", options.https_port.to_string()),
        ("balancers", balancers(options.health_port)),
    ] {
        text = fill(&text, word, &value);
    }
    for part in &PARTS {
        let api: Api<Deployment> = Api::namespaced(client.clone(), part.namespace);
        let running = api.get_opt(part.name).await.context("reading the parts that run")?;
        let side = side(running.as_ref(), |side| {
            // The other part is on any side: only this one is looked at.
            let any =
                PARTS.iter().fold(on_side(&text, part, options.health_port, side), |text, part| {
                    on_side(&text, part, options.health_port, 0)
                });
            deployment(&any, part.name)
        })?;
        text = on_side(&text, part, options.health_port, side);
    }
    for object in objects(&text)? {
        // The Deployments want their accounts and services first.
        match object.types.as_ref().map(|types| types.kind.as_str()) {
            Some("Deployment") => others.push(object),
            _ => apply_one(client, object).await?,
        }
    }
    for object in others {
        apply_one(client, object).await?;
    }
    Ok(())
}

/// Waits until DNS and balancer have rolled out.
///
/// # Errors
/// After two minutes, with what the Deployment says of itself.
pub async fn wait(client: &Client) -> Result<()> {
    for part in &PARTS {
        let api: Api<Deployment> = Api::namespaced(client.clone(), part.namespace);
        let rolled = kube::runtime::wait::await_condition(api.clone(), part.name, rolled_out);
        let Ok(done) = tokio::time::timeout(READY_WITHIN, rolled).await else {
            return Err(anyhow!(
                "{} is not ready: see `kubectl -n {} describe pods`",
                part.name,
                part.namespace
            ));
        };
        done?;
    }
    Ok(())
}

pub(super) fn rolled_out(deployment: Option<&Deployment>) -> bool {
    let Some(deployment) = deployment else { return false };
    let (Some(spec), Some(status)) = (&deployment.spec, &deployment.status) else { return false };
    let wanted = spec.replicas.unwrap_or(1);
    status.observed_generation >= deployment.metadata.generation
        && status.updated_replicas.unwrap_or(0) == wanted
        && status.available_replicas.unwrap_or(0) == wanted
}

/// The side that runs when its template is what we would apply, else the other.
fn side(
    running: Option<&Deployment>,
    wanted: impl Fn(u16) -> Result<DynamicObject>,
) -> Result<u16> {
    let Some(running) = running else { return Ok(0) };
    let now = running.metadata.annotations.as_ref().and_then(|notes| notes.get(SIDE));
    let now = u16::from(now.is_some_and(|side| side == "1"));
    let template = serde_json::to_value(&running.spec)?;
    let wanted = wanted(now)?;
    let same = covers(&template["template"], &wanted.data["spec"]["template"]);
    Ok(if same { now } else { 1 - now })
}

/// Whether `actual` has everything that `wanted` says (and perhaps defaults beside it).
fn covers(actual: &serde_json::Value, wanted: &serde_json::Value) -> bool {
    use serde_json::Value::{Array, Object};
    match (actual, wanted) {
        (Object(actual), Object(wanted)) => wanted.iter().all(|(key, value)| {
            let empty = value.as_object().is_some_and(serde_json::Map::is_empty);
            actual.get(key).map_or(empty, |actual| covers(actual, value))
        }),
        (Array(actual), Array(wanted)) => {
            actual.len() == wanted.len() && actual.iter().zip(wanted).all(|(a, w)| covers(a, w))
        }
        (actual, wanted) => actual == wanted,
    }
}

/// Where balancers say what they find, on either side: a balancer that moves to the other does not
/// change the template of DNS.
fn balancers(first_port: u16) -> String {
    let part = PARTS.iter().find(|part| part.word == "balancer");
    let first = first_port + part.map_or(0, |part| part.health);
    let all: Vec<_> = (first..first + 4).map(|port| format!("http://127.0.0.1:{port}")).collect();
    all.join(",")
}

fn on_side(text: &str, part: &Part, first_port: u16, side: u16) -> String {
    let port = first_port + part.health + 2 * side;
    let text = fill(text, &format!("{}-side", part.word), &side.to_string());
    let text = fill(&text, &format!("{}-health-0", part.word), &port.to_string());
    fill(&text, &format!("{}-health-1", part.word), &(port + 1).to_string())
}

pub(super) fn fill(text: &str, word: &str, value: &str) -> String {
    text.replace(&format!("{{{{{word}}}}}"), value)
}

fn deployment(text: &str, name: &str) -> Result<DynamicObject> {
    let found = objects(text)?.into_iter().find(|object| {
        let kind = object.types.as_ref().map(|types| types.kind.as_str());
        kind == Some("Deployment") && object.metadata.name.as_deref() == Some(name)
    });
    found.context("every part has a Deployment among the manifests")
}

pub(super) fn objects(text: &str) -> Result<Vec<DynamicObject>> {
    let documents = text.split("\n---\n");
    documents.map(|text| serde_saphyr::from_str(text).context("reading our manifests")).collect()
}

/// Applies the Gateway API's definitions, but for those that somebody else brought.
async fn gateway_definitions(client: &Client) -> Result<()> {
    let api = Api::<CustomResourceDefinition>::all(client.clone());
    for crd in gateway::definitions() {
        let name = crd.metadata.name.clone().unwrap_or_default();
        let known = api.get_opt(&name).await.context("reading the Gateway API's definitions")?;
        let is_ours = |known: &CustomResourceDefinition| {
            known.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(gateway::OURS))
        };
        if known.as_ref().is_none_or(is_ours) {
            apply_one(client, serde_json::from_value(serde_json::to_value(crd)?)?).await?;
        }
        let established = kube::runtime::conditions::is_crd_established();
        let ready = kube::runtime::wait::await_condition(api.clone(), &name, established);
        let ready = tokio::time::timeout(READY_WITHIN, ready).await;
        ready.with_context(|| format!("{name} is not established"))??;
    }
    Ok(())
}

pub(super) async fn apply_one(client: &Client, object: DynamicObject) -> Result<()> {
    let types = object.types.clone().unwrap_or_default();
    let name = object.metadata.name.clone().unwrap_or_default();
    let kind = GroupVersionKind::try_from(&types)?;
    let resource = ApiResource::from_gvk(&kind);
    let api: Api<DynamicObject> = match &object.metadata.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let params = PatchParams::apply("berth").force();
    let applied = api.patch(&name, &params, &Patch::Apply(&object)).await;
    applied.with_context(|| format!("applying {} {name}", types.kind))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_manifest_is_an_object() {
        let mut text =
            PARTS.iter().fold(MANIFESTS.to_owned(), |text, part| on_side(&text, part, 1, 0));
        let others =
            ["image", "node-address", "dns-address", "dns-port", "http-port", "https-port"];
        for word in others.into_iter().chain(["balancers"]) {
            text = fill(&text, word, "1");
        }
        assert!(!text.contains("{{"), "a placeholder that nothing fills in");
        let objects = objects(&text).unwrap();
        assert!(objects.iter().all(|object| object.types.is_some()));
        for part in &PARTS {
            deployment(&text, part.name).unwrap();
        }
    }

    #[test]
    fn defaults_beside_ours_are_no_difference() {
        let wanted = json!({"a": [{"b": 1}], "empty": {}});
        assert!(covers(&json!({"a": [{"b": 1, "default": 2}], "c": 3}), &wanted));
        assert!(!covers(&json!({"a": [{"b": 2}]}), &wanted));
        assert!(!covers(&json!({"a": [{"b": 1}, {"b": 1}]}), &wanted));
    }

    #[test]
    fn a_changed_template_moves_to_the_other_side() {
        let deployment = |side: &str, image: &str| -> Deployment {
            serde_json::from_value(json!({
                "metadata": {"annotations": {SIDE: side}},
                "spec": {"selector": {}, "template": {"spec": {"containers": [
                    {"name": "c", "image": image}]}}},
            }))
            .unwrap()
        };
        let wanted = |_| -> Result<DynamicObject> {
            let spec =
                json!({"template": {"spec": {"containers": [{"name": "c", "image": "new"}]}}});
            Ok(serde_json::from_value(json!({"metadata": {}, "spec": spec}))?)
        };
        assert_eq!(side(None, wanted).unwrap(), 0);
        assert_eq!(side(Some(&deployment("0", "new")), wanted).unwrap(), 0);
        assert_eq!(side(Some(&deployment("1", "new")), wanted).unwrap(), 1);
        assert_eq!(side(Some(&deployment("0", "old")), wanted).unwrap(), 1);
        assert_eq!(side(Some(&deployment("1", "old")), wanted).unwrap(), 0);
    }
}
