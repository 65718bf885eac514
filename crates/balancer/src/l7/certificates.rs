//! Which certificate a TLS client sees: by the name it asks for (SNI).
//!
//! From the Secrets that `spec.tls` names, the older Ingress first where two claim a name. A
//! Secret that cannot be read is logged and passed over: clients then see the default, which we
//! make ourselves at the start and nobody trusts. (One that could be read before does not get so
//! far, see `renewals`.)
//! Connections that are open keep the certificate they began with.

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;

use arc_swap::ArcSwap;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use rustls::crypto::ring::default_provider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::World;
use crate::kept::Key;

/// Why a certificate is of no use.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The Secret lacks a part.
    #[error("the Secret has no {0}")]
    Missing(&'static str),
    /// A part is not PEM.
    #[error("read {part}")]
    Pem {
        /// Which.
        part: &'static str,
        /// What is wrong with it.
        source: rustls_pki_types::pem::Error,
    },
    /// One of the chain is none.
    #[error("read a certificate in tls.crt")]
    Chain(#[from] pingora_x509::nom::Err<pingora_x509::error::X509Error>),
    /// Certificate and key are of no use together.
    #[error("use the certificate with its key")]
    Use(#[from] rustls::Error),
    /// None could be made.
    #[error("make the default certificate")]
    Make(#[from] rcgen::Error),
}

impl CertificateError {
    /// What it says, and why.
    pub(crate) fn with_causes(&self) -> String {
        let first: &(dyn Error + 'static) = self;
        let causes = std::iter::successors(Some(first), |error| (*error).source());
        causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
    }
}

/// The certificates by name, exchanged as a whole.
#[derive(Debug)]
pub(super) struct Certificates {
    by_name: ArcSwap<ByName>,
    default: Arc<CertifiedKey>,
}

#[derive(Debug, Default)]
struct ByName {
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// By what follows the `*.`.
    wildcard: HashMap<String, Arc<CertifiedKey>>,
    /// Secrets already read: reading a key takes milliseconds, endpoints change all the time.
    read: HashMap<Key, (Arc<Secret>, Option<Arc<CertifiedKey>>)>,
    /// Of a Gateway's listener for all hosts.
    any: Option<Arc<CertifiedKey>>,
}

impl Certificates {
    /// Knows the default only.
    pub(super) fn new() -> Result<Self, CertificateError> {
        let made = rcgen::generate_simple_self_signed(["berth.invalid".to_owned()])?;
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let chain = vec![made.cert.der().clone()];
        let default = CertifiedKey::from_der(chain, key.into(), &default_provider())?;
        Ok(Self { by_name: ArcSwap::default(), default: Arc::new(default) })
    }

    /// Takes what `class` names in `world`, and `listeners` (host and `NAMESPACE/NAME` of the
    /// Secret) after that, in place of what was there.
    pub(super) fn replace(&self, world: &World, class: &str, listeners: &[(String, String)]) {
        let before = self.by_name.load();
        let mut now = ByName::default();
        for ingress in world.served(class) {
            let Some(spec) = &ingress.spec else { continue };
            for tls in spec.tls.iter().flatten() {
                let Some(name) = &tls.secret_name else { continue };
                let named = (ingress.namespace().unwrap_or_default(), name.clone());
                let Some(secret) = world.secrets.get(&named) else { continue };
                let Some(key) = now.certificate(named, secret, &before) else { continue };
                let rules = spec.rules.iter().flatten().filter_map(|rule| rule.host.as_ref());
                let hosts = tls.hosts.iter().flatten();
                // Without hosts of its own it is for all hosts of the rules.
                let hosts: Vec<_> = if tls.hosts.iter().flatten().next().is_some() {
                    hosts.collect()
                } else {
                    rules.collect()
                };
                for host in hosts {
                    now.show(host, &key);
                }
            }
        }
        for (host, named) in listeners {
            let Some((namespace, name)) = named.split_once('/') else { continue };
            let named = (namespace.to_owned(), name.to_owned());
            let Some(secret) = world.secrets.get(&named) else { continue };
            let Some(key) = now.certificate(named, secret, &before) else { continue };
            now.show(host, &key);
        }
        self.by_name.store(Arc::new(now));
    }

    fn find(&self, name: Option<&str>) -> Arc<CertifiedKey> {
        let by_name = self.by_name.load();
        let wildcard = |name: &str| by_name.wildcard.get(name.split_once('.')?.1);
        let found = name.and_then(|name| by_name.exact.get(name).or_else(|| wildcard(name)));
        found.or(by_name.any.as_ref()).unwrap_or(&self.default).clone()
    }
}

impl ByName {
    /// Shows `key` for `host`, unless that has one.
    fn show(&mut self, host: &str, key: &Arc<CertifiedKey>) {
        let host = host.to_ascii_lowercase();
        if host.is_empty() {
            self.any.get_or_insert_with(|| key.clone());
            return;
        }
        let (place, name) = match host.strip_prefix("*.") {
            Some(domain) => (&mut self.wildcard, domain.to_owned()),
            None => (&mut self.exact, host),
        };
        place.entry(name).or_insert_with(|| key.clone());
    }

    fn certificate(
        &mut self,
        named: Key,
        secret: &Arc<Secret>,
        before: &Self,
    ) -> Option<Arc<CertifiedKey>> {
        let known = self.read.get(&named).or_else(|| before.read.get(&named));
        let is_same = |read: &Arc<Secret>| Arc::ptr_eq(read, secret) || read.data == secret.data;
        if let Some((_, key)) = known.filter(|(read, _)| is_same(read)) {
            let key = key.clone();
            self.read.insert(named, (secret.clone(), key.clone()));
            return key;
        }
        let key = match read(secret) {
            Ok(key) => Some(Arc::new(key)),
            Err(error) => {
                let namespace = secret.namespace().unwrap_or_default();
                let error: &dyn Error = &error;
                tracing::warn!(secret = %format!("{namespace}/{}", secret.name_any()), error,
                    "the Secret is of no use for TLS");
                None
            }
        };
        self.read.insert(named, (secret.clone(), key.clone()));
        key
    }
}

/// The certificate in `secret`, if it is a whole one: a chain, and the key of its first.
///
/// # Errors
/// When a part is missing, cannot be read, or does not belong to the others.
pub(crate) fn read(secret: &Secret) -> Result<CertifiedKey, CertificateError> {
    let part = |name: &'static str| {
        let data = secret.data.as_ref().and_then(|data| data.get(name));
        data.map(|bytes| bytes.0.as_slice()).ok_or(CertificateError::Missing(name))
    };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(part("tls.crt")?)
        .collect::<Result<_, _>>()
        .map_err(|source| CertificateError::Pem { part: "tls.crt", source })?;
    if chain.is_empty() {
        return Err(CertificateError::Missing("certificate in tls.crt"));
    }
    // rustls looks into the first alone; clients look into all, and so does nginx.
    for certificate in &chain {
        pingora_x509::parse_x509_certificate(certificate)?;
    }
    let key = PrivateKeyDer::from_pem_slice(part("tls.key")?)
        .map_err(|source| CertificateError::Pem { part: "tls.key", source })?;
    Ok(CertifiedKey::from_der(chain, key, &default_provider())?)
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.find(hello.server_name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;
    use serde_json::json;

    use crate::l7::Snapshot;

    fn world(hosts: &[&str], secret: Secret) -> World {
        let ingress = json!({
            "metadata": {"namespace": "n", "name": "web"},
            "spec": {"ingressClassName": "berth", "tls": [{"secretName": "web", "hosts": hosts}],
                "rules": [{"host": "rule.example"}]}
        });
        World::from(&Snapshot {
            ingresses: vec![Arc::new(serde_json::from_value(ingress).unwrap())],
            secrets: vec![Arc::new(secret)],
            ..Snapshot::default()
        })
    }

    fn secret(certificate: &str, key: &str) -> Secret {
        let mut secret = Secret::default();
        secret.metadata.namespace = Some("n".into());
        secret.metadata.name = Some("web".into());
        let parts = [("tls.crt", certificate), ("tls.key", key)];
        let data = parts.map(|(name, text)| (name.to_owned(), ByteString(text.into())));
        secret.data = Some(data.into());
        secret
    }

    #[test]
    fn the_name_asked_for_decides_and_a_useless_secret_means_the_default() {
        let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
        let good = secret(&made.cert.pem(), &made.signing_key.serialize_pem());
        let certificates = Certificates::new().unwrap();
        let ours = |name: Option<&str>| certificates.find(name).cert[0] == *made.cert.der();
        certificates.replace(&world(&["A.example", "*.b.example"], good.clone()), "berth", &[]);
        assert!(ours(Some("a.example")) && ours(Some("x.b.example")));
        for other in [None, Some("b.example"), Some("x.y.b.example"), Some("rule.example")] {
            assert!(!ours(other), "{other:?}");
        }
        certificates.replace(&world(&[], good), "berth", &[]);
        assert!(ours(Some("rule.example")) && !ours(Some("a.example")));
        let other = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
        let unlike = secret(&made.cert.pem(), &other.signing_key.serialize_pem());
        for useless in [unlike, secret("", ""), Secret::default()] {
            certificates.replace(&world(&[], useless), "berth", &[]);
            assert!(!ours(Some("rule.example")));
        }
    }
}
