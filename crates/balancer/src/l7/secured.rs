//! TLS towards pods, by two annotations of their Service: the name that the pods' certificate has,
//! and the Secret with the authority that signed it.
//!
//! A Service that asks for it is never spoken to in the clear: with a Secret that is not there or of
//! no use its requests get 503. What pods show is checked whole, name and chain; there is no switch
//! to leave that out.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Secret;
use pingora::connectors::L4Connect;
use pingora::prelude::{Error, ErrorType, Result};
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::VirtualSocketStream;
use pingora::protocols::tls::CaType;
use pingora::utils::tls::{WrappedX509, parse_x509};
use rustls::crypto::ring::default_provider;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio_rustls::TlsConnector;

use super::upgrade::{Socket, connect};

/// The name in the pods' certificate.
pub(crate) const HOST: &str = "berth.dev/tls-host";
/// A Secret of the Service's namespace, of type `kubernetes.io/tls`, with `ca.crt`.
pub(crate) const CA: &str = "berth.dev/tls-ca";

/// How long a pod may take to accept a connection, and for the handshake on it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why pods cannot be trusted.
#[derive(Debug, thiserror::Error)]
pub(super) enum SecuredError {
    #[error("{HOST} is no host name")]
    Host(#[from] rustls_pki_types::InvalidDnsNameError),
    #[error("there is no Secret {0:?} of type kubernetes.io/tls")]
    NoSecret(String),
    #[error("the Secret has no ca.crt")]
    NoAuthority,
    #[error("read ca.crt")]
    Pem(#[from] rustls_pki_types::pem::Error),
    #[error("use the authority in ca.crt")]
    Use(#[from] rustls::Error),
    #[error("read the certificate in ca.crt")]
    Certificate(#[from] pingora_x509::nom::Err<pingora_x509::error::X509Error>),
}

/// How pods of a Service are spoken to.
///
/// Pingora makes and keeps such connections by itself, from `host` and `authority`; those for
/// requests that switch protocols are made here, with the patience of `upgrade`.
pub(super) struct Secured {
    connector: TlsConnector,
    name: ServerName<'static>,
    pub(super) host: String,
    pub(super) authority: Arc<CaType>,
    /// Connections of one trust are not used for another.
    pub(super) group: u64,
}

impl fmt::Debug for Secured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secured").field("name", &self.name).field("group", &self.group).finish()
    }
}

/// What a Service with these annotations asks for: the name, and the Secret's.
pub(crate) fn wanted(annotations: &BTreeMap<String, String>) -> Option<(&str, &str)> {
    let said = |key: &str| annotations.get(key).map(|value| value.trim());
    // One without the other is a mistake that must not mean "in the clear".
    let (host, authority) = (said(HOST), said(CA));
    (host.is_some() || authority.is_some())
        .then(|| (host.unwrap_or_default(), authority.unwrap_or_default()))
}

/// Those made so far, by what they were made of, for the next table.
pub(super) type Known = BTreeMap<u64, Weak<Secured>>;

/// Reads the authority in `secret` for pods called `host`, which speak HTTP/2 if `http2`.
pub(super) fn read(
    host: &str,
    (name, secret): (&str, Option<&Secret>),
    http2: bool,
    before: &Known,
) -> Result<Arc<Secured>, SecuredError> {
    let secret = secret.ok_or_else(|| SecuredError::NoSecret(name.to_owned()))?;
    let pem = secret.data.as_ref().and_then(|data| data.get("ca.crt"));
    let pem = &pem.ok_or(SecuredError::NoAuthority)?.0;
    let mut hasher = DefaultHasher::new();
    (host, pem, http2).hash(&mut hasher);
    let group = hasher.finish();
    if let Some(known) = before.get(&group).and_then(Weak::upgrade) {
        return Ok(known);
    }
    let (mut roots, mut authority) = (rustls::RootCertStore::empty(), Vec::new());
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate?;
        // Pingora takes it to be readable.
        pingora_x509::parse_x509_certificate(&certificate)?;
        authority.push(WrappedX509::new(certificate.to_vec(), parse_x509));
        roots.add(certificate)?;
    }
    if roots.is_empty() {
        return Err(SecuredError::NoAuthority);
    }
    let mut settings = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    settings.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    let name = ServerName::try_from(host.to_owned())?;
    let connector = TlsConnector::from(Arc::new(settings));
    let (host, authority) = (host.to_owned(), authority.into());
    Ok(Arc::new(Secured { connector, name, host, authority, group }))
}

#[async_trait]
impl L4Connect for Secured {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        let stream = connect(address, PATIENCE).await?;
        let shaken = self.connector.connect(self.name.clone(), stream);
        match tokio::time::timeout(PATIENCE, shaken).await {
            Ok(Ok(stream)) => Ok(VirtualSocketStream::new(Box::new(Socket::new(stream))).into()),
            Ok(Err(error)) => {
                Err(Error::because(ErrorType::TLSHandshakeFailure, "trust the pod", error))
            }
            Err(_) => Error::e_explain(ErrorType::TLSHandshakeTimedout, "trust the pod"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    fn secret(pem: &str) -> Secret {
        let data = [("ca.crt".to_owned(), ByteString(pem.into()))];
        Secret { data: Some(data.into()), ..Secret::default() }
    }

    #[test]
    fn only_a_name_and_an_authority_together_are_trust() {
        let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
        let good = secret(&made.cert.pem());
        let none = Known::new();
        let first = read("a.example", ("ca", Some(&good)), false, &none).unwrap();
        let known = Known::from([(first.group, Arc::downgrade(&first))]);
        let again = read("a.example", ("ca", Some(&good)), false, &known).unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        let other = read("b.example", ("ca", Some(&good)), false, &known).unwrap();
        assert_ne!(first.group, other.group);
        for (host, secret) in [
            ("a.example", None),
            ("", Some(&good)),
            ("a b", Some(&good)),
            ("a.example", Some(&Secret::default())),
            ("a.example", Some(&secret(""))),
            (
                "a.example",
                Some(&secret("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n")),
            ),
        ] {
            assert!(read(host, ("ca", secret), false, &none).is_err(), "{host:?}");
        }
    }

    #[test]
    fn half_of_it_is_asked_for_too() {
        let said = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        assert_eq!(wanted(&said(&[])), None);
        assert_eq!(wanted(&said(&[(HOST, "a")])), Some(("a", "")));
        assert_eq!(wanted(&said(&[(CA, " c ")])), Some(("", "c")));
    }
}
