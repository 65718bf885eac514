//! Brings objects to the server, by server-side apply, and takes away what is no more wanted.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use super::MANAGER;
use super::manifests::{LABEL, LABELLED, Manifest, NAMESPACE, VERSION};
use super::objects::{self, Place};

/// No call takes longer.
const CALL_LIMIT: Duration = Duration::from_secs(30);
/// How long a definition may take to be served.
const ESTABLISHED_WITHIN: Duration = Duration::from_secs(60);
/// Kubernetes' own word for rights that are left as people made them.
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const TLS_SECRET: &str = "berth-console-tls";

/// How many objects became what.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    /// Made.
    pub created: usize,
    /// Changed.
    pub changed: usize,
    /// As they were.
    pub unchanged: usize,
}

/// One run of `berth install`.
pub struct Apply {
    client: Client,
    before: BTreeMap<Place, DynamicObject>,
    count: Count,
}

impl Apply {
    /// With what is installed already.
    ///
    /// # Errors
    /// What may not be listed.
    pub async fn begin(client: Client) -> Result<Self> {
        let before = objects::installed(&client).await?.into_iter().collect();
        Ok(Self { client, before, count: Count::default() })
    }

    /// The version that is installed, if one is.
    pub fn version(&self) -> Option<String> {
        let space = self.before.iter().find(|(place, _)| place.kind == "Namespace")?;
        space.1.annotations().get(VERSION).cloned()
    }

    /// What was done so far.
    pub fn count(&self) -> Count {
        self.count
    }

    /// Applies each in turn.
    ///
    /// # Errors
    /// The server's refusal, by object.
    pub async fn all(&mut self, manifests: impl Iterator<Item = &Manifest>) -> Result<()> {
        for manifest in manifests {
            self.one(manifest).await?;
        }
        Ok(())
    }

    async fn one(&mut self, manifest: &Manifest) -> Result<()> {
        let place = Place::of(manifest);
        let known = self.before.get(&place);
        let left = |known: &DynamicObject| {
            known.annotations().get(AUTOUPDATE).is_some_and(|value| value == "false")
        };
        if known.is_some_and(left) {
            self.count.unchanged += 1;
            return Ok(());
        }
        let api = objects::api(&self.client, &place.kind, manifest.namespace())?;
        let object = objects::dynamic(&manifest.object)?;
        let params = PatchParams::apply(MANAGER).force();
        let patch = Patch::Apply(&object);
        let call = api.patch(&place.name, &params, &patch);
        let answer = tokio::time::timeout(CALL_LIMIT, call).await;
        let answer = answer.with_context(|| format!("no answer to the apply of {place}"))?;
        let written = answer.with_context(|| format!("applying {place}"))?;
        match known {
            None => self.count.created += 1,
            Some(known) if essence(known) == essence(&written) => self.count.unchanged += 1,
            Some(_) => self.count.changed += 1,
        }
        Ok(())
    }

    /// Waits until the definitions among `manifests` are served.
    ///
    /// # Errors
    /// Which is not, after a minute.
    pub async fn established(&self, manifests: &[Manifest]) -> Result<()> {
        let api = Api::<CustomResourceDefinition>::all(self.client.clone());
        let definitions = manifests.iter().filter(|one| one.kind() == "CustomResourceDefinition");
        for definition in definitions {
            let name = definition.name();
            let established = kube::runtime::conditions::is_crd_established();
            let ready = kube::runtime::wait::await_condition(api.clone(), name, established);
            let ready = tokio::time::timeout(ESTABLISHED_WITHIN, ready).await;
            ready.map_err(|_| anyhow!("{name} is not established after a minute"))??;
        }
        Ok(())
    }

    /// Makes a certificate for the console, unless it has one.
    ///
    /// # Errors
    /// The server's refusal.
    pub async fn console_certificate(&mut self) -> Result<()> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), NAMESPACE);
        if api.get_opt(TLS_SECRET).await.context("looking for the console's certificate")?.is_some()
        {
            return Ok(());
        }
        let names = ["berth-console", "berth-console.berth-system.svc", "localhost"];
        let names = names.map(str::to_owned).to_vec();
        let made = rcgen::generate_simple_self_signed(names).context("making a certificate")?;
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let secret: Secret = serde_json::from_value(json!({
            "metadata": { "name": TLS_SECRET, "labels": { LABEL: LABELLED } },
            "type": "kubernetes.io/tls",
            "stringData": { "tls.crt": certificate, "tls.key": key },
        }))?;
        match api.create(&PostParams::default(), &secret).await {
            Ok(_) => self.count.created += 1,
            // Another run was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error).context("keeping the console's certificate"),
        }
        Ok(())
    }

    /// Removes what an earlier version, or other options, had asked for. What people may have put
    /// something into (definitions, namespaces, claims, secrets) stays.
    ///
    /// # Errors
    /// The server's refusal, by object.
    pub async fn prune(&self, wanted: &[Manifest]) -> Result<Vec<String>> {
        let wanted: Vec<Place> = wanted.iter().map(Place::of).collect();
        let mut gone = Vec::new();
        for place in self.before.keys().filter(|place| !wanted.contains(place)) {
            if stays(&place.kind) {
                continue;
            }
            let api = objects::api(&self.client, &place.kind, Some(&place.namespace))?;
            match api.delete(&place.name, &DeleteParams::background()).await {
                Ok(_) => gone.push(place.to_string()),
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error).with_context(|| format!("removing {place}")),
            }
        }
        Ok(gone)
    }
}

/// What an object says, without what its server and its controllers say of it.
fn essence(object: &DynamicObject) -> (Value, BTreeMap<String, String>, BTreeMap<String, String>) {
    let mut data = object.data.clone();
    if let Some(fields) = data.as_object_mut() {
        fields.remove("status");
    }
    let mut notes = object.annotations().clone();
    notes.remove("deployment.kubernetes.io/revision");
    notes.remove("deprecated.daemonset.template.generation");
    (data, notes, object.labels().clone())
}

fn stays(kind: &str) -> bool {
    let kept = ["CustomResourceDefinition", "Namespace", "PersistentVolumeClaim", "Secret"];
    kept.contains(&kind)
}
