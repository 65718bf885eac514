//! CertificateSigningRequests: who asks is what the server knows of him, an approval is given only
//! through its subresource, and what was decided stays.
//!
//! Who may approve and sign is admission's to judge (`admission::signing`), what is signed the
//! controllers'.
//!
//! # Source
//! Kubernetes' strategy and validation of certificates.k8s.io/v1; KEP-1513.

use berth_api::names;
use berth_schema::{Cause, Resource};
use serde_json::{Value, json};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::pem::{Pem, parse_x509_pem};
use x509_parser::prelude::FromDer;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::object;
use crate::status::Failure;
use crate::user::User;

const APPROVED: &str = "Approved";
const DENIED: &str = "Denied";
const FAILED: &str = "Failed";
const LEGACY: &str = "kubernetes.io/legacy-unknown";
const LEAST_SECONDS: i64 = 600;
/// A domain of 253 letters, a slash, and a path of as many after a namespace's 63.
const LONGEST_SIGNER: usize = 571;

/// Notes who asks and judges what he asks for.
pub(super) fn complete(user: &User, resource: &Resource, new: &mut Value) -> Result<(), Failure> {
    let name = object::name(new).to_owned();
    let spec = object::section_mut(new, "spec");
    for field in ["username", "uid", "groups", "extra"] {
        spec.remove(field);
    }
    spec.insert("username".to_owned(), json!(user.name));
    if !user.groups.is_empty() {
        spec.insert("groups".to_owned(), json!(user.groups));
    }
    if !user.uid.is_empty() {
        spec.insert("uid".to_owned(), json!(user.uid));
    }
    if !user.extra.is_empty() {
        spec.insert("extra".to_owned(), json!(user.extra));
    }
    let causes = check_spec(&new["spec"]);
    if causes.is_empty() { Ok(()) } else { Err(Failure::invalid(resource, &name, causes)) }
}

fn check_spec(spec: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    if let Err(wrong) = parse(&spec["request"]) {
        causes.push(Cause::invalid("spec.request", &spec["request"], &wrong));
    }
    let usages: Vec<&str> =
        spec["usages"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if usages.is_empty() {
        causes.push(Cause::required("spec.usages", "usages must be provided"));
    }
    for (index, usage) in usages.iter().enumerate() {
        if usages[..index].contains(usage) {
            causes.push(Cause::duplicate(format!("spec.usages[{index}]"), &json!(usage)));
        }
    }
    causes.extend(check_signer(spec["signerName"].as_str().unwrap_or_default()));
    if let Some(seconds) = spec["expirationSeconds"].as_i64()
        && seconds < LEAST_SECONDS
    {
        let wrong = "may not specify a duration less than 600 seconds (10 minutes)";
        causes.push(Cause::invalid("spec.expirationSeconds", &json!(seconds), wrong));
    }
    causes
}

fn check_signer(signer: &str) -> Vec<Cause> {
    let field = "spec.signerName";
    let invalid = |value: &str, wrong: &str| Cause::invalid(field, &json!(value), wrong);
    if signer.is_empty() {
        return vec![Cause::required(field, "")];
    }
    if signer == LEGACY {
        let wrong = "the legacy signerName is not allowed via this API version";
        return vec![invalid(signer, wrong)];
    }
    let Some((domain, path)) = signer.split_once('/').filter(|(_, path)| !path.contains('/'))
    else {
        let wrong = "must be a fully qualified domain and path of the form \
                     'example.com/signer-name'";
        return vec![invalid(signer, wrong)];
    };
    let mut causes = Vec::new();
    for part in [domain, path] {
        let wrong = part.split('.').find_map(|label| Some((label, names::dns_label(label).err()?)));
        if let Some((label, wrong)) = wrong {
            causes.push(invalid(part, &format!("validating label {label:?}: {wrong}")));
        }
    }
    if !domain.contains('.') {
        let wrong = "should be a domain with at least two segments separated by dots";
        causes.push(invalid(domain, wrong));
    }
    if signer.chars().count() > LONGEST_SIGNER {
        causes.push(Cause::too_long(field, LONGEST_SIGNER));
    }
    causes
}

/// The request's own organisations; fails as Kubernetes does when it is none.
pub(crate) fn organizations(request: &Value) -> Result<Vec<String>, String> {
    let pem = parse(request)?;
    let (_, request) = read(&pem)?;
    let subject = &request.certification_request_info.subject;
    let groups = subject.iter_organization().filter_map(|group| group.as_str().ok());
    Ok(groups.map(str::to_owned).collect())
}

fn parse(request: &Value) -> Result<Pem, String> {
    let bytes = STANDARD.decode(request.as_str().unwrap_or_default()).unwrap_or_default();
    let (_, pem) = parse_x509_pem(&bytes)
        .map_err(|_| "PEM block type must be CERTIFICATE REQUEST".to_owned())?;
    if pem.label != "CERTIFICATE REQUEST" {
        return Err("PEM block type must be CERTIFICATE REQUEST".to_owned());
    }
    read(&pem)?;
    Ok(pem)
}

fn read(pem: &Pem) -> Result<(&[u8], X509CertificationRequest<'_>), String> {
    X509CertificationRequest::from_der(&pem.contents)
        .map_err(|error| format!("x509: the request cannot be read: {error}"))
}

/// Keeps what a write to the object itself, or to one of its subresources, may not change.
pub(super) fn confine(subresource: Option<&str>, old: &Value, new: &mut Value) {
    match subresource {
        None => new["spec"] = old["spec"].clone(),
        Some(_) => {
            for kind in [APPROVED, DENIED].iter().filter(|_| subresource == Some("status")) {
                keep(old, new, kind);
            }
            keep(old, new, FAILED);
            note_times(old, new);
        }
    }
}

fn conditions(object: &Value) -> &[Value] {
    object["status"]["conditions"].as_array().map_or(&[], Vec::as_slice)
}

fn of_kind<'a>(object: &'a Value, kind: &str) -> Vec<&'a Value> {
    conditions(object).iter().filter(|one| one["type"] == kind).collect()
}

/// As many conditions of a kind as before are those of before.
fn keep(old: &Value, new: &mut Value, kind: &str) {
    let before = of_kind(old, kind);
    if before.len() != of_kind(new, kind).len() {
        return;
    }
    let list = new["status"]["conditions"].as_array_mut();
    let after = list.into_iter().flatten().filter(|one| one["type"] == kind);
    for (after, before) in after.zip(before) {
        after.clone_from(before);
    }
}

fn note_times(old: &Value, new: &mut Value) {
    let now = json!(object::now());
    for one in new["status"]["conditions"].as_array_mut().into_iter().flatten() {
        // What is as it was, was not touched: it keeps even times that it lacks.
        if !one.is_object() || conditions(old).contains(one) {
            continue;
        }
        if one["lastUpdateTime"].is_null() {
            one["lastUpdateTime"] = now.clone();
        }
        if one["lastTransitionTime"].is_null() {
            let same = |before: &&Value| {
                before["type"] == one["type"] && before["status"] == one["status"]
            };
            let before = conditions(old).iter().find(same);
            let since = before.map(|before| before["lastTransitionTime"].clone());
            one["lastTransitionTime"] =
                since.filter(|since| !since.is_null()).unwrap_or_else(|| now.clone());
        }
    }
}

/// Judges a change of what was decided.
pub(super) fn check_update(
    resource: &Resource,
    subresource: Option<&str>,
    old: &Value,
    new: &Value,
) -> Result<(), Failure> {
    let mut causes = check_conditions(new);
    let field = "status.conditions";
    for kind in [APPROVED, DENIED, FAILED] {
        let (before, after) = (of_kind(old, kind), of_kind(new, kind));
        let refused = |what: &str| {
            Cause::forbidden(field, &format!("updates may not {what} a condition of type {kind:?}"))
        };
        if before.len() > after.len() {
            causes.push(refused("remove"));
        } else if before.len() < after.len() {
            if kind != FAILED && subresource != Some("approval") {
                causes.push(refused("add"));
            }
        } else if before != after {
            causes.push(refused("modify"));
        }
    }
    let certificate =
        |object: &Value| object["status"]["certificate"].as_str().unwrap_or_default().to_owned();
    let (before, after) = (certificate(old), certificate(new));
    if before != after {
        let field = "status.certificate";
        if !before.is_empty() {
            let wrong = "updates may not modify existing certificate content";
            causes.push(Cause::forbidden(field, wrong));
        } else if subresource != Some("status") {
            causes.push(Cause::forbidden(field, "updates may not set certificate content"));
        } else if let Err(wrong) = check_certificate(&after) {
            causes.push(Cause::invalid(field, &json!(after), wrong));
        }
    }
    if causes.is_empty() {
        return Ok(());
    }
    Err(Failure::invalid(resource, object::name(new), causes))
}

fn check_conditions(new: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let (mut seen, mut decided): (Vec<&str>, Option<&str>) = (Vec::new(), None);
    for (index, one) in conditions(new).iter().enumerate() {
        let field = |name: &str| format!("status.conditions[{index}].{name}");
        let text = |name: &str| one[name].as_str().unwrap_or_default();
        let (kind, status) = (text("type"), text("status"));
        let allowed: &[&str] = match kind {
            "" => {
                causes.push(Cause::required(field("type"), ""));
                &["True", "False", "Unknown"]
            }
            APPROVED | DENIED | FAILED => &["True"],
            _ => &["True", "False", "Unknown"],
        };
        if status.is_empty() {
            causes.push(Cause::required(field("status"), ""));
        } else if !allowed.contains(&status) {
            causes.push(Cause::not_supported(field("status"), &json!(status), allowed));
        }
        if seen.contains(&kind) {
            causes.push(Cause::duplicate(field("type"), &json!(kind)));
        }
        seen.push(kind);
        if matches!(kind, APPROVED | DENIED) {
            if decided.is_some_and(|other| other != kind) {
                let wrong = "Approved and Denied conditions are mutually exclusive";
                causes.push(Cause::invalid(field("type"), &json!(kind), wrong));
            }
            decided = Some(kind);
        }
    }
    causes
}

fn check_certificate(certificate: &str) -> Result<(), &'static str> {
    let bytes = STANDARD.decode(certificate).unwrap_or_default();
    let mut blocks = 0;
    for pem in Pem::iter_from_buffer(&bytes) {
        let pem = pem.map_err(|_| "must contain one or more PEM blocks")?;
        if pem.label != "CERTIFICATE" {
            return Err("only CERTIFICATE PEM blocks are allowed");
        }
        pem.parse_x509().map_err(|_| "each block must be a certificate")?;
        blocks += 1;
    }
    if blocks == 0 { Err("must contain one or more PEM blocks") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem() -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "devs");
        STANDARD.encode(params.serialize_request(&key).unwrap().pem().unwrap())
    }

    #[test]
    fn what_is_asked_for_is_judged_as_kubernetes_does() {
        let spec = |more: Value| {
            let mut spec = json!({
                "request": pem(), "signerName": "example.com/own", "usages": ["client auth"],
            });
            for (key, value) in more.as_object().unwrap() {
                spec[key] = value.clone();
            }
            let causes = check_spec(&spec);
            causes.into_iter().map(|cause| cause.field).collect::<Vec<_>>()
        };
        let none: [&str; 0] = [];
        assert_eq!(spec(json!({})), none);
        assert_eq!(spec(json!({"expirationSeconds": 600})), none);
        assert_eq!(spec(json!({"expirationSeconds": 599})), ["spec.expirationSeconds"]);
        assert_eq!(spec(json!({"request": "eA=="})), ["spec.request"]);
        assert_eq!(spec(json!({"usages": []})), ["spec.usages"]);
        assert_eq!(spec(json!({"usages": ["any", "any"]})), ["spec.usages[1]"]);
        for bad in ["", "x", "a/b", "a.b/c/d", "A.b/c", LEGACY] {
            assert_eq!(spec(json!({"signerName": bad}))[0], "spec.signerName", "{bad}");
        }
        assert_eq!(organizations(&json!(pem())).unwrap(), ["devs"]);
    }

    #[test]
    fn decisions_stay_and_exclude_each_other() {
        let catalog = berth_schema::Catalog::builtin();
        let group = "certificates.k8s.io";
        let resource = catalog.resource(group, "v1", "certificatesigningrequests").unwrap();
        let with = |kinds: &[&str]| {
            let list: Vec<Value> =
                kinds.iter().map(|kind| json!({"type": kind, "status": "True"})).collect();
            json!({"metadata": {"name": "a"}, "status": {"conditions": list}})
        };
        let check = |sub: Option<&str>, old: &[&str], new: &[&str]| {
            let (old, mut new) = (with(old), with(new));
            confine(sub, &old, &mut new);
            check_update(resource, sub, &old, &new).is_ok()
        };
        let (approval, status) = (Some("approval"), Some("status"));
        assert!(check(approval, &[], &["Approved"]));
        assert!(check(approval, &[], &["Denied", "Other"]));
        assert!(!check(approval, &[], &["Approved", "Denied"]));
        assert!(!check(approval, &["Approved"], &["Denied"]));
        assert!(!check(approval, &["Approved"], &[]));
        assert!(!check(status, &[], &["Approved"]));
        assert!(!check(status, &["Approved"], &[]));
        assert!(check(status, &["Approved"], &["Approved", "Failed"]));
        assert!(!check(approval, &["Other"], &["Other", "Other"]));
    }

    #[test]
    fn conditions_get_their_times_and_keep_them() {
        let old = json!({"status": {"conditions": [
            {"type": "X", "status": "True", "lastTransitionTime": "then"},
        ]}});
        let mut new = json!({"status": {"conditions": [
            {"type": "X", "status": "True"}, {"type": "Y", "status": "True"},
        ]}});
        note_times(&old, &mut new);
        let list = &new["status"]["conditions"];
        assert_eq!(list[0]["lastTransitionTime"], "then");
        assert!(list[1]["lastTransitionTime"].as_str().unwrap().ends_with('Z'));
        assert!(list[0]["lastUpdateTime"].is_string());
    }
}
