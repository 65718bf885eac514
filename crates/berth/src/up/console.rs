//! The console beside the cluster: its certificate, its pod, the roles that people are given.
//!
//! It is a pod as DNS and balancer are, so it outlives `berth up`. What it keeps is in
//! `DIR/console`, which `berth console account` opens too. It never gets a password of ours: the
//! first account is made by whoever may read the data directory.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use berth_apiserver::{Pki, Sans};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{Api, DeleteParams, DynamicObject};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::system;
use crate::console::oidc::{self, Provider};
use crate::instance::{ConsoleAt, Instance};

const MANIFESTS: &str = include_str!("console.yaml");
const PEOPLE: &str = include_str!("people.yaml");
const NAMESPACE: &str = "berth-system";
const DEPLOYMENT: &str = "berth-console";
const ROLE: &str = "berth:console";
/// Who named people names them no more.
const OFF: &str = "off";
/// Nothing waits for it but the last lines that `berth up` prints.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Kubernetes' own word for a role that is left as people made it.
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// Applies the roles and the console's pod with `image`; takes the pod away when it is off.
///
/// # Errors
/// What the API server refused, by object; a certificate that cannot be made.
pub async fn apply(client: &Client, instance: &Instance, pki: &Pki, image: &str) -> Result<()> {
    for object in system::objects(PEOPLE)? {
        if !left_alone(client, &object).await? {
            system::apply_one(client, object).await?;
        }
    }
    let ConsoleAt::Listen(listen) = instance.options.console else {
        return remove(client).await;
    };
    let requests = serde_json::to_value(berth_api::account::definition())?;
    system::apply_one(client, serde_json::from_value(requests)?).await?;
    let directory = directory(instance)?;
    let certificate = certificate(instance, pki, &directory, listen)?;
    let provider = provider(instance, &directory.join("oidc"))?;
    let debug = berth_images::system::tools_reference(instance.registry());
    let text = manifests(image, listen, &directory, &certificate, &provider);
    let text = system::fill(&text, "debug", &debug);
    for object in system::objects(&text)? {
        system::apply_one(client, object).await?;
    }
    Ok(())
}

/// How people get in, for the last lines of `berth up`; `flag` is how commands name the instance.
pub async fn welcome(client: &Client, instance: &Instance, flag: &str) -> String {
    let ConsoleAt::Listen(listen) = instance.options.console else { return String::new() };
    let host = if listen.ip().is_unspecified() { "localhost".to_owned() } else { host(listen) };
    let mut text = format!("\n\n  https://{host}:{}/ is the console", listen.port());
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let ready = kube::runtime::wait::await_condition(deployments, DEPLOYMENT, system::rolled_out);
    if !matches!(tokio::time::timeout(READY_WITHIN, ready).await, Ok(Ok(_))) {
        let what = format!("kubectl -n {NAMESPACE} describe pods");
        return format!("{text}; it is not ready yet: see `{what}`");
    }
    match anybody(&instance.dir.join("console")).await {
        Ok(true) => {}
        Ok(false) => {
            text += "; its first account:\n  ";
            text += &format!("berth console account add admin --group berth:admins{flag}");
        }
        Err(error) => tracing::warn!(%error, "cannot tell whether the console has accounts"),
    }
    text
}

async fn anybody(directory: &Path) -> Result<bool> {
    let address = format!("sqlite://{}/console.db", directory.display());
    let accounts = berth_console::Accounts::new(berth_console::open_database(&address).await?);
    Ok(!accounts.list().await?.is_empty())
}

fn directory(instance: &Instance) -> Result<PathBuf> {
    let directory = instance.dir.join("console");
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
    made.with_context(|| format!("making {}", directory.display()))?;
    Ok(directory)
}

/// Issues what is missing or about to expire; which it is, in few letters.
fn certificate(
    instance: &Instance,
    pki: &Pki,
    directory: &Path,
    listen: SocketAddr,
) -> Result<String> {
    let mut ips = vec![IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(instance.node_address())];
    if !listen.ip().is_unspecified() {
        ips.push(listen.ip());
    }
    let sans = Sans { ips, dns: vec!["localhost".to_owned(), instance.node_name.clone()] };
    let pair = pki.serving(directory, "tls", "berth-console", sans)?;
    let digest = Sha256::digest(pair.cert_pem.as_bytes());
    Ok(digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

/// Puts who names people beside the console's files; which one it is, in few letters.
fn provider(instance: &Instance, directory: &Path) -> Result<String> {
    let Some(file) = instance.options.console_oidc.as_ref().filter(|file| *file != Path::new(OFF))
    else {
        return match std::fs::remove_dir_all(directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", directory.display()))
            }
            _ => Ok(String::new()),
        };
    };
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.with_context(|| format!("making {}", directory.display()))?;
    let mut digest = Sha256::new();
    for (name, text) in Provider::read(file)?.files()? {
        let path = directory.join(name);
        std::fs::write(&path, &text).with_context(|| format!("writing {}", path.display()))?;
        digest.update(text);
    }
    Ok(digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

fn manifests(
    image: &str,
    listen: SocketAddr,
    directory: &Path,
    certificate: &str,
    provider: &str,
) -> String {
    let named = format!("/var/lib/berth/console/oidc/{}", oidc::PROVIDER);
    let named = if provider.is_empty() { String::new() } else { format!(", --oidc, {named}") };
    let local = if listen.is_ipv4() { "127.0.0.1" } else { "::1" };
    let probe =
        if listen.ip().is_unspecified() { local.to_owned() } else { listen.ip().to_string() };
    let words = [
        ("image", image.to_owned()),
        ("listen", listen.to_string()),
        ("port", listen.port().to_string()),
        ("probe", probe),
        ("directory", directory.display().to_string()),
        ("certificate", certificate.to_owned()),
        ("provider", provider.to_owned()),
        ("oidc", named),
    ];
    words.iter().fold(MANIFESTS.to_owned(), |text, (word, value)| system::fill(&text, word, value))
}

fn host(listen: SocketAddr) -> String {
    match listen.ip() {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

async fn left_alone(client: &Client, object: &DynamicObject) -> Result<bool> {
    let types = object.types.clone().unwrap_or_default();
    let name = object.metadata.name.clone().unwrap_or_default();
    let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(&types)?);
    let api: Api<DynamicObject> = match object.metadata.namespace.as_deref() {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let found = api.get_opt(&name).await.with_context(|| format!("reading {name}"))?;
    let annotations = found.and_then(|found| found.metadata.annotations).unwrap_or_default();
    Ok(annotations.get(AUTOUPDATE).is_some_and(|value| value == "false"))
}

/// What the console may do goes with it; its accounts stay.
async fn remove(client: &Client) -> Result<()> {
    let namespaced = Api::<Deployment>::namespaced(client.clone(), NAMESPACE);
    gone(namespaced, DEPLOYMENT).await?;
    gone(Api::<ClusterRoleBinding>::all(client.clone()), ROLE).await?;
    gone(Api::<ClusterRole>::all(client.clone()), ROLE).await?;
    gone(Api::<ServiceAccount>::namespaced(client.clone(), NAMESPACE), DEPLOYMENT).await
}

async fn gone<K>(api: Api<K>, name: &str) -> Result<()>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    match api.delete(name, &DeleteParams::background()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error).with_context(|| format!("removing {name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_manifest_is_an_object() {
        let listen = "0.0.0.0:8444".parse().unwrap();
        for provider in ["", "p"] {
            let text = manifests("x", listen, Path::new("/d"), "c", provider);
            let text = system::fill(&text, "debug", "tools:1");
            assert!(!text.contains("{{"), "a placeholder that nothing fills in");
            assert_eq!(text.contains("--oidc"), !provider.is_empty(), "{text}");
            for object in
                system::objects(&text).unwrap().iter().chain(&system::objects(PEOPLE).unwrap())
            {
                assert!(object.types.is_some(), "{object:?}");
            }
        }
    }
}
