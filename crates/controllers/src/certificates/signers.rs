//! The signers of a cluster, and what each of them signs.
//!
//! ```text
//! kubernetes.io/kube-apiserver-client           any subject, to connect to the API
//! kubernetes.io/kube-apiserver-client-kubelet   CN=system:node:NAME O=system:nodes, to connect
//! kubernetes.io/kubelet-serving                 the same with names and addresses, to serve
//! ```
//!
//! # Source
//! Kubernetes' signers; KEP-1513, KEP-266.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer;

/// Signs for clients of the API.
pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// Signs for node agents as clients of the API.
pub const NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Signs for node agents as servers.
pub const NODE_SERVING: &str = "kubernetes.io/kubelet-serving";

const NODES: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";

/// What a certificate of one of these signers may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// `client auth`.
    ClientAuth,
    /// `server auth`.
    ServerAuth,
    /// `digital signature`.
    DigitalSignature,
    /// `key encipherment`.
    KeyEncipherment,
}

/// What a request says of its subject.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// The common name.
    pub name: String,
    /// The organisations.
    pub groups: Vec<String>,
    /// DNS names among its alternative names.
    pub dns_names: usize,
    /// Addresses.
    pub addresses: usize,
    /// E-mail addresses.
    pub mails: usize,
    /// URIs.
    pub uris: usize,
}

/// The subject of a request in PEM form.
#[must_use]
pub fn subject(request_pem: &[u8]) -> Option<Subject> {
    let (_, pem) = parse_x509_pem(request_pem).ok()?;
    let (_, request) = X509CertificationRequest::from_der(&pem.contents).ok()?;
    let names = &request.certification_request_info.subject;
    let mut subject = Subject {
        name: names.iter_common_name().last()?.as_str().ok()?.to_owned(),
        groups: names
            .iter_organization()
            .map(|group| group.as_str().map(str::to_owned))
            .collect::<Result<_, _>>()
            .ok()?,
        ..Subject::default()
    };
    for extension in request.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(_) => subject.dns_names += 1,
                GeneralName::IPAddress(_) => subject.addresses += 1,
                GeneralName::RFC822Name(_) => subject.mails += 1,
                GeneralName::URI(_) => subject.uris += 1,
                // Nobody here reads the others, so nobody vouches for them either.
                _ => return None,
            }
        }
    }
    Some(subject)
}

/// What a request asks for, when its signer is one of ours.
///
/// # Errors
/// Why the signer does not sign it.
pub fn judge(request: &CertificateSigningRequest) -> Option<Result<Vec<Use>, &'static str>> {
    let spec = &request.spec;
    let judge = match spec.signer_name.as_str() {
        CLIENT => client,
        NODE_CLIENT => node_client,
        NODE_SERVING => node_serving,
        _ => return None,
    };
    let Some(subject) = subject(&spec.request.0) else {
        return Some(Err("the request cannot be read"));
    };
    let Some(uses) = uses(spec.usages.as_deref().unwrap_or_default()) else {
        return Some(Err("usages did not match those of the signer"));
    };
    Some(judge(&subject, &uses).map(|()| uses))
}

/// Whether an agent asks for itself, when the request is for an agent's certificate to connect with.
#[must_use]
pub fn is_for_node(request: &CertificateSigningRequest) -> Option<bool> {
    if request.spec.signer_name != NODE_CLIENT || judge(request)?.is_err() {
        return None;
    }
    let subject = subject(&request.spec.request.0)?;
    Some(request.spec.username.as_deref() == Some(subject.name.as_str()))
}

fn uses(usages: &[String]) -> Option<Vec<Use>> {
    usages
        .iter()
        .map(|usage| {
            Some(match usage.as_str() {
                "client auth" => Use::ClientAuth,
                "server auth" => Use::ServerAuth,
                "digital signature" => Use::DigitalSignature,
                "key encipherment" => Use::KeyEncipherment,
                _ => return None,
            })
        })
        .collect()
}

fn client(_: &Subject, uses: &[Use]) -> Result<(), &'static str> {
    if uses.contains(&Use::ServerAuth) || !uses.contains(&Use::ClientAuth) {
        return Err("usages did not match {client auth} with digital signature, key encipherment");
    }
    Ok(())
}

fn node_client(subject: &Subject, uses: &[Use]) -> Result<(), &'static str> {
    node(subject)?;
    if subject.dns_names > 0 {
        return Err("DNS subjectAltNames are not allowed");
    }
    if subject.addresses > 0 {
        return Err("IP subjectAltNames are not allowed");
    }
    if subject.mails > 0 {
        return Err("email subjectAltNames are not allowed");
    }
    if subject.uris > 0 {
        return Err("URI subjectAltNames are not allowed");
    }
    exactly(uses, Use::ClientAuth)
}

fn node_serving(subject: &Subject, uses: &[Use]) -> Result<(), &'static str> {
    node(subject)?;
    if subject.dns_names + subject.addresses == 0 {
        return Err("DNS or IP subjectAltName is required");
    }
    if subject.mails > 0 {
        return Err("email subjectAltNames are not allowed");
    }
    if subject.uris > 0 {
        return Err("URI subjectAltNames are not allowed");
    }
    exactly(uses, Use::ServerAuth)
}

fn node(subject: &Subject) -> Result<(), &'static str> {
    if subject.groups != [NODES] {
        return Err("subject organization is not system:nodes");
    }
    match subject.name.strip_prefix(NODE_PREFIX) {
        Some(name) if !name.is_empty() => Ok(()),
        _ => Err("subject common name does not begin with system:node:"),
    }
}

/// One purpose with a digital signature, and key encipherment or not.
fn exactly(uses: &[Use], purpose: Use) -> Result<(), &'static str> {
    let allowed = [purpose, Use::DigitalSignature, Use::KeyEncipherment];
    if uses.iter().all(|one| allowed.contains(one))
        && uses.contains(&purpose)
        && uses.contains(&Use::DigitalSignature)
    {
        return Ok(());
    }
    Err("usages did not match those of the signer")
}

#[cfg(test)]
mod tests {
    use super::*;
    use Use::{ClientAuth, DigitalSignature, KeyEncipherment, ServerAuth};

    #[test]
    fn each_signer_signs_its_own() {
        let agent = Subject {
            name: "system:node:a".to_owned(),
            groups: vec![NODES.to_owned()],
            ..Subject::default()
        };
        let serving = Subject { dns_names: 1, ..agent.clone() };
        let both = [ClientAuth, DigitalSignature, KeyEncipherment];
        assert!(node_client(&agent, &both).is_ok());
        assert!(node_client(&agent, &both[..2]).is_ok());
        assert!(node_client(&agent, &both[..1]).is_err(), "no signature");
        assert!(node_client(&agent, &[ServerAuth, DigitalSignature]).is_err());
        assert!(node_client(&serving, &both).is_err(), "a name");
        for groups in [vec![], vec!["x".to_owned()], vec![NODES.to_owned(), "x".to_owned()]] {
            assert!(node_client(&Subject { groups, ..agent.clone() }, &both).is_err());
        }
        for name in ["a", "system:node:"] {
            let other = Subject { name: name.to_owned(), ..agent.clone() };
            assert!(node_client(&other, &both).is_err(), "{name}");
        }
        let serve = [ServerAuth, DigitalSignature];
        assert!(node_serving(&serving, &serve).is_ok());
        assert!(node_serving(&agent, &serve).is_err(), "no name");
        assert!(node_serving(&serving, &both).is_err());
        assert!(node_serving(&Subject { uris: 1, ..serving }, &serve).is_err());
        assert!(client(&agent, &[ClientAuth]).is_ok());
        assert!(client(&agent, &[DigitalSignature]).is_err());
        assert!(client(&agent, &[ClientAuth, ServerAuth]).is_err());
    }
}
