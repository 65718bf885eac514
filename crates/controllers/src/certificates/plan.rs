//! What to do about one request, and by when it is to be looked at again.

use std::time::Duration;

use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition,
};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use x509_parser::pem::Pem;

use super::signers::{self, Use};

/// Decided requests tell nothing new after a while.
const DECIDED: SignedDuration = SignedDuration::from_hours(1);
/// Whoever would have to decide a request is not going to after a day.
const PENDING: SignedDuration = SignedDuration::from_hours(24);
/// What a certificate lasts that no other time was asked for.
const LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// A step.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing until then.
    Wait(Option<Duration>),
    /// Ask whether whoever asks may have it without anybody's approval, by a right to create this
    /// subresource.
    Approve {
        /// `selfnodeclient` before `nodeclient`.
        rights: &'static [&'static str],
    },
    /// Sign it.
    Sign {
        /// What for.
        uses: Vec<Use>,
        /// How long.
        lifetime: Duration,
    },
    /// Say that its signer will not sign it.
    Fail(&'static str),
    /// It has served its time.
    Delete,
}

/// Whether the request has this condition.
#[must_use]
pub fn has(request: &CertificateSigningRequest, kind: &str) -> bool {
    condition(request, kind).is_some()
}

fn condition<'a>(
    request: &'a CertificateSigningRequest,
    kind: &str,
) -> Option<&'a CertificateSigningRequestCondition> {
    let status = request.status.as_ref()?;
    status.conditions.iter().flatten().find(|one| one.type_ == kind)
}

/// What to do at `now`.
#[must_use]
pub fn plan(request: &CertificateSigningRequest, now: Timestamp) -> Step {
    if request.metadata.deletion_timestamp.is_some() {
        return Step::Wait(None);
    }
    let certificate = request
        .status
        .as_ref()
        .and_then(|status| status.certificate.as_ref())
        .map(|bytes| bytes.0.as_slice())
        .filter(|bytes| !bytes.is_empty());
    let is_open = !has(request, "Denied") && !has(request, "Failed") && certificate.is_none();
    if is_open && has(request, "Approved") {
        match signers::judge(request) {
            None => {}
            Some(Err(why)) => return Step::Fail(why),
            Some(Ok(uses)) => {
                let asked = request.spec.expiration_seconds.and_then(|all| u64::try_from(all).ok());
                let lifetime = asked.map_or(LIFETIME, Duration::from_secs).min(LIFETIME);
                return Step::Sign { uses, lifetime };
            }
        }
    }
    let Some(end) = end(request, certificate) else { return Step::Wait(None) };
    let left = end.duration_since(now);
    if left <= SignedDuration::ZERO {
        return Step::Delete;
    }
    if is_open && !has(request, "Approved") {
        match signers::is_for_node(request) {
            Some(true) => return Step::Approve { rights: &["selfnodeclient", "nodeclient"] },
            Some(false) => return Step::Approve { rights: &["nodeclient"] },
            None => {}
        }
    }
    Step::Wait(Duration::try_from(left).ok())
}

/// When a request has served its time.
fn end(request: &CertificateSigningRequest, certificate: Option<&[u8]>) -> Option<Timestamp> {
    let created = request.metadata.creation_timestamp.as_ref()?.0;
    let decided = ["Denied", "Failed", "Approved"].into_iter().find_map(|kind| {
        let one =
            condition(request, kind).filter(|_| kind != "Approved" || certificate.is_some())?;
        let at = one.last_update_time.as_ref().map_or(created, |at| at.0);
        at.checked_add(DECIDED).ok()
    });
    let end = decided.or_else(|| created.checked_add(PENDING).ok())?;
    let expired = certificate.and_then(|bytes| {
        let first = Pem::iter_from_buffer(bytes).next()?.ok()?;
        let end = first.parse_x509().ok()?.validity().not_after.timestamp();
        Timestamp::from_second(end).ok()
    });
    Some(expired.map_or(end, |expired| expired.min(end)))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use k8s_openapi::api::certificates::v1::CertificateSigningRequestStatus;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    const HOUR: i64 = 3600;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn request(signer: &str, user: &str, conditions: &[&str]) -> CertificateSigningRequest {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "system:node:a");
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        let mut request = CertificateSigningRequest::default();
        request.metadata.creation_timestamp = Some(Time(at(0)));
        request.spec.signer_name = signer.to_owned();
        request.spec.username = Some(user.to_owned());
        request.spec.request = ByteString(pem.into_bytes());
        request.spec.usages = Some(vec!["client auth".to_owned(), "digital signature".to_owned()]);
        let conditions = conditions.iter().map(|kind| CertificateSigningRequestCondition {
            type_: (*kind).to_owned(),
            status: "True".to_owned(),
            last_update_time: Some(Time(at(HOUR))),
            ..CertificateSigningRequestCondition::default()
        });
        request.status = Some(CertificateSigningRequestStatus {
            certificate: None,
            conditions: Some(conditions.collect()),
        });
        request
    }

    #[test]
    fn approved_requests_are_signed_and_unfit_ones_fail() {
        let ours = request(signers::NODE_CLIENT, "x", &["Approved"]);
        let uses = vec![Use::ClientAuth, Use::DigitalSignature];
        assert_eq!(plan(&ours, at(0)), Step::Sign { uses: uses.clone(), lifetime: LIFETIME });
        let mut short = ours.clone();
        short.spec.expiration_seconds = Some(600);
        let lifetime = Duration::from_secs(600);
        assert_eq!(plan(&short, at(0)), Step::Sign { uses, lifetime });
        let mut unfit = ours.clone();
        unfit.spec.usages = Some(vec!["server auth".to_owned()]);
        assert!(matches!(plan(&unfit, at(0)), Step::Fail(_)));
        let foreign = request("example.com/own", "x", &["Approved"]);
        assert!(matches!(plan(&foreign, at(0)), Step::Wait(Some(_))));
    }

    #[test]
    fn agents_are_approved_by_what_they_may() {
        let rights = |user: &str, signer: &str, conditions: &[&str]| match plan(
            &request(signer, user, conditions),
            at(0),
        ) {
            Step::Approve { rights } => rights.len(),
            _ => 0,
        };
        assert_eq!(rights("system:node:a", signers::NODE_CLIENT, &[]), 2);
        assert_eq!(rights("system:bootstrap:x", signers::NODE_CLIENT, &[]), 1);
        assert_eq!(rights("system:node:a", signers::CLIENT, &[]), 0);
        assert_eq!(rights("system:node:a", signers::NODE_CLIENT, &["Denied"]), 0);
    }

    #[test]
    fn requests_go_when_they_have_served_their_time() {
        let pending = request("example.com/own", "x", &[]);
        assert_eq!(plan(&pending, at(23 * HOUR)), Step::Wait(Some(Duration::from_secs(3600))));
        assert_eq!(plan(&pending, at(24 * HOUR)), Step::Delete);
        for kind in ["Denied", "Failed"] {
            let decided = request("example.com/own", "x", &[kind]);
            assert_eq!(plan(&decided, at(2 * HOUR)), Step::Delete, "{kind}");
            assert!(matches!(plan(&decided, at(2 * HOUR - 1)), Step::Wait(Some(_))), "{kind}");
        }
        let unsigned = request("example.com/own", "x", &["Approved"]);
        assert!(matches!(plan(&unsigned, at(23 * HOUR)), Step::Wait(Some(_))));
        let mut signed = request(signers::CLIENT, "x", &["Approved"]);
        let status = signed.status.as_mut().unwrap();
        status.certificate = Some(ByteString(b"-----BEGIN X-----".to_vec()));
        assert_eq!(plan(&signed, at(2 * HOUR)), Step::Delete);
        assert!(matches!(plan(&signed, at(HOUR)), Step::Wait(Some(_))));
    }
}
