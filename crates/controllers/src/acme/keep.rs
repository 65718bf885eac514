//! What ACME leaves in the cluster: the account, what failed, and certificates.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use x509_parser::extensions::GeneralName;
use x509_parser::pem::parse_x509_pem;

use super::authority::Made;
use super::plan::{Certificate, Failed, Held};
use super::{CONFIG_MAP, NAMESPACE, OURS};
use crate::driver::{Key, gone_is_none};
use berth_api::acme::THUMBPRINT;

/// The Secret with the account's key.
const ACCOUNT: &str = "berth-acme-account";
/// Whom a certificate or an account is from.
const DIRECTORY: &str = "berth.dev/acme-directory";

fn params() -> PatchParams {
    PatchParams::apply("berth-acme").force()
}

/// The ConfigMap: the account's fingerprint, and what failed by `NAMESPACE.SECRET`.
pub(super) struct Notes(BTreeMap<String, String>);

impl Notes {
    pub(super) async fn read(client: &Client) -> kube::Result<Self> {
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
        Ok(Self(api.get_opt(CONFIG_MAP).await?.and_then(|map| map.data).unwrap_or_default()))
    }

    /// What failed for the Secret of `key`.
    pub(super) fn failed(&self, key: &Key) -> Option<Failed> {
        serde_json::from_str(self.0.get(&name(key))?).ok()
    }

    /// Writes the fingerprint down, for balancers to answer with.
    pub(super) async fn put_thumbprint(&self, client: &Client, text: &str) -> kube::Result<()> {
        if self.0.get(THUMBPRINT).is_some_and(|known| known == text) {
            return Ok(());
        }
        merge(client, THUMBPRINT, json!(text)).await
    }

    pub(super) async fn put(
        &self,
        client: &Client,
        key: &Key,
        failed: &Failed,
    ) -> kube::Result<()> {
        let text = serde_json::to_string(failed).map_err(kube::Error::SerdeError)?;
        merge(client, &name(key), json!(text)).await
    }

    pub(super) async fn forget(&self, client: &Client, key: &Key) -> kube::Result<()> {
        if !self.0.contains_key(&name(key)) {
            return Ok(());
        }
        merge(client, &name(key), Value::Null).await
    }
}

fn name(key: &Key) -> String {
    format!("{}.{}", key.namespace, key.name)
}

async fn merge(client: &Client, key: &str, value: Value) -> kube::Result<()> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let patch = Patch::Merge(json!({"data": {key: value}}));
    let params = PatchParams::default();
    if gone_is_none(api.patch(CONFIG_MAP, &params, &patch).await)?.is_none() {
        let made = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": CONFIG_MAP, "namespace": NAMESPACE}, "data": {key: value}});
        let made = serde_json::from_value(made).map_err(kube::Error::SerdeError)?;
        api.create(&kube::api::PostParams::default(), &made).await?;
    }
    Ok(())
}

/// The account at `directory` that was kept.
pub(super) async fn account(client: &Client, directory: &str) -> kube::Result<Option<Vec<u8>>> {
    let api: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    let kept = api.get_opt(ACCOUNT).await?;
    let kept =
        kept.filter(|kept| kept.annotations().get(DIRECTORY).is_some_and(|at| at == directory));
    let text = kept.and_then(|kept| kept.data).and_then(|mut data| data.remove("account.json"));
    Ok(text.map(|text| text.0))
}

pub(super) async fn put_account(
    client: &Client,
    directory: &str,
    text: Vec<u8>,
) -> kube::Result<()> {
    let api: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    let secret = json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": ACCOUNT, "annotations": {DIRECTORY: directory}},
        "data": {"account.json": ByteString(text)}});
    api.patch(ACCOUNT, &params(), &Patch::Apply(secret)).await.map(drop)
}

/// The Secret of `key`, as far as it matters.
pub(super) async fn read(client: &Client, key: &Key) -> kube::Result<Option<Held>> {
    let api: Api<Secret> = Api::namespaced(client.clone(), &key.namespace);
    Ok(api.get_opt(&key.name).await?.map(|secret| held(&secret)))
}

fn held(secret: &Secret) -> Held {
    let pem = secret.data.as_ref().and_then(|data| data.get("tls.crt"));
    Held {
        is_ours: secret.labels().contains_key(OURS),
        directory: secret.annotations().get(DIRECTORY).cloned().unwrap_or_default(),
        certificate: pem.and_then(|pem| certificate(&pem.0)),
    }
}

/// What the first certificate of a chain says.
fn certificate(pem: &[u8]) -> Option<Certificate> {
    let (_, pem) = parse_x509_pem(pem).ok()?;
    let read = pem.parse_x509().ok()?;
    let names = read.subject_alternative_name().ok()??;
    let hosts: BTreeSet<String> = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        })
        .collect();
    let moment = |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).ok();
    let validity = read.validity();
    Some(Certificate {
        hosts,
        from: moment(validity.not_before)?,
        until: moment(validity.not_after)?,
    })
}

/// Puts a certificate into the Secret of `key`.
pub(super) async fn write(
    client: &Client,
    key: &Key,
    made: &Made,
    directory: &str,
) -> kube::Result<()> {
    let api: Api<Secret> = Api::namespaced(client.clone(), &key.namespace);
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": key.name, "labels": {OURS: "true"},
            "annotations": {DIRECTORY: directory}},
        "data": {"tls.crt": bytes(&made.chain), "tls.key": bytes(&made.key)}});
    api.patch(&key.name, &params(), &Patch::Apply(secret)).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_read_from_its_secret() {
        let made = rcgen::generate_simple_self_signed(["A.example".to_owned()]).unwrap();
        let secret = |label: Option<&str>, pem: &str| {
            let mut secret = Secret::default();
            secret.metadata.labels =
                label.map(|label| [(label.to_owned(), "true".to_owned())].into());
            let pem = ByteString(pem.as_bytes().to_vec());
            secret.data = Some([("tls.crt".to_owned(), pem)].into());
            held(&secret)
        };
        let ours = secret(Some(OURS), &made.cert.pem());
        assert!(ours.is_ours && ours.certificate.unwrap().hosts.contains("a.example"));
        assert_eq!(
            secret(None, "x"),
            Held { is_ours: false, directory: String::new(), certificate: None }
        );
    }
}
