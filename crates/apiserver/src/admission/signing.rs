//! Who may approve and sign certificate requests, and which names a request may not ask for.
//!
//! A signer is no object; roles name it as `signers` with the verbs `approve` and `sign`, alone or
//! as `DOMAIN/*`.
//!
//! # Source
//! Kubernetes' plugins `CertificateApproval`, `CertificateSigning` and
//! `CertificateSubjectRestriction`; KEP-1513.

use serde_json::Value;

use super::node_restriction::EMBEDDED;
use super::{Asked, Operation};
use crate::path::Target;
use crate::rules::signing_request;
use crate::status::Failure;
use crate::user::MASTERS;

/// Groups that a certificate cannot be asked for: the masters, and the agent within the control
/// plane's own process, which authorization does not confine to a node.
const KEPT: [&str; 2] = [MASTERS, EMBEDDED];
const CLIENTS: &str = "kubernetes.io/kube-apiserver-client";

pub(super) fn check(asked: &Asked<'_>, new: &Value) -> Result<(), Failure> {
    if asked.kind() != ("certificates.k8s.io", "certificatesigningrequests") {
        return Ok(());
    }
    let signer = new["spec"]["signerName"].as_str().unwrap_or_default();
    match (asked.operation, asked.subresource) {
        (Operation::Create, None) => {
            // Whoever may ask for any name would else be master of the cluster.
            if signer != CLIENTS {
                return Ok(());
            }
            let groups = signing_request::organizations(&new["spec"]["request"]);
            let taken = |group: &str| match &groups {
                Ok(all) => all.iter().any(|one| one == group),
                Err(_) => true,
            };
            match KEPT.into_iter().find(|group| taken(group)) {
                Some(group) => Err(asked
                    .forbid(format!("use of {CLIENTS} signer with {group} group is not allowed"))),
                None => Ok(()),
            }
        }
        (Operation::Update, Some("approval")) => may(asked, "approve", signer),
        (Operation::Update, Some("status")) => {
            let of = |object: &Value, field: &str| object["status"][field].clone();
            let differs =
                |field: &str| asked.old.is_none_or(|old| of(old, field) != of(new, field));
            if differs("certificate") || differs("conditions") {
                return may(asked, "sign", signer);
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn may(asked: &Asked<'_>, verb: &str, signer: &str) -> Result<(), Failure> {
    let domain = signer.split('/').next().unwrap_or_default();
    let allowed = [signer.to_owned(), format!("{domain}/*")].into_iter().any(|name| {
        let target = Target {
            is_resource: true,
            verb: verb.to_owned(),
            group: "certificates.k8s.io".to_owned(),
            version: "*".to_owned(),
            resource: "signers".to_owned(),
            name,
            ..Target::default()
        };
        asked.core.rbac.allows(&asked.call.user, &target)
    });
    if allowed {
        return Ok(());
    }
    Err(asked.forbid(format!("user not permitted to {verb} requests with signerName {signer:?}")))
}
