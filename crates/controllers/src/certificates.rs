//! CertificateSigningRequests: agents are approved by what they may, approved requests of the
//! cluster's own signers are signed, old requests go.
//!
//! The key is not here: [`crate::issue::Issue`] signs what these rules let pass. Requests of other
//! signers are left to whoever serves them.
//!
//! # Source
//! Kubernetes' csrapproving, csrsigning and csrcleaner controllers.

mod plan;
mod signers;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::{Value, json};

use crate::driver::{Controller, Error, Key, Queue, World, gone_is_none};
use crate::issue::Issue;
use plan::Step;

pub use signers::Use;

/// How long until an agent's request is looked at again that nothing approves yet: roles change.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// Approves, signs and removes requests.
#[derive(Debug)]
pub struct Certificates {
    /// Who holds the key.
    pub issuer: Arc<dyn Issue>,
}

impl Controller for Certificates {
    const NAME: &'static str = "certificates";
    type Key = String;

    fn wire(&self, world: &World, queue: &Queue<String>) {
        let own = queue.clone();
        world.signing_requests.subscribe(move |change| {
            if change.new.is_some() {
                own.add(Key::of(&change.latest().metadata).name);
            }
        });
    }

    async fn reconcile(&self, world: &World, name: &String) -> Result<Option<Duration>, Error> {
        let Some(request) = world.signing_requests.get("", name) else { return Ok(None) };
        let api: Api<CertificateSigningRequest> = Api::all(world.client.clone());
        match plan::plan(&request, Timestamp::now()) {
            Step::Wait(next) => Ok(next),
            Step::Delete => {
                let preconditions = Preconditions {
                    uid: request.metadata.uid.clone(),
                    resource_version: request.metadata.resource_version.clone(),
                };
                let params =
                    DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
                gone_is_none(api.delete(name, &params).await)?;
                Ok(None)
            }
            Step::Approve { rights } => {
                let Some(right) = first_held(world, &request, rights).await? else {
                    return Ok(Some(ASK_AGAIN));
                };
                let message = match right {
                    "selfnodeclient" => {
                        "Auto approving self kubelet client certificate after SubjectAccessReview."
                    }
                    _ => "Auto approving kubelet client certificate after SubjectAccessReview.",
                };
                let patch = with_condition(&request, "Approved", "AutoApproved", message);
                let made = api.patch_approval(name, &PatchParams::default(), &patch).await?;
                world.signing_requests.remember(made);
                Ok(None)
            }
            Step::Sign { uses, lifetime } => {
                let pem = String::from_utf8_lossy(&request.spec.request.0);
                let patch = match self.issuer.certificate(&pem, &uses, lifetime) {
                    Ok(certificate) => {
                        let bytes = k8s_openapi::ByteString(certificate.into_bytes());
                        changed(&request, json!({"certificate": bytes}))
                    }
                    Err(why) => with_condition(&request, "Failed", "SigningError", &why),
                };
                let made = api.patch_status(name, &PatchParams::default(), &patch).await?;
                world.signing_requests.remember(made);
                Ok(None)
            }
            Step::Fail(why) => {
                let patch = with_condition(&request, "Failed", "SignerValidationFailure", why);
                let made = api.patch_status(name, &PatchParams::default(), &patch).await?;
                world.signing_requests.remember(made);
                Ok(None)
            }
        }
    }
}

/// A change of the status of this very revision.
fn changed(request: &CertificateSigningRequest, status: Value) -> Patch<Value> {
    let revision = &request.metadata.resource_version;
    Patch::Merge(json!({"metadata": {"resourceVersion": revision}, "status": status}))
}

fn with_condition(
    request: &CertificateSigningRequest,
    kind: &str,
    reason: &str,
    message: &str,
) -> Patch<Value> {
    let before = request.status.iter().flat_map(|status| &status.conditions).flatten();
    let mut all: Vec<Value> = before.map(|one| json!(one)).collect();
    all.push(json!({"type": kind, "status": "True", "reason": reason, "message": message}));
    changed(request, json!({"conditions": all}))
}

/// The first of these rights that whoever asks holds.
async fn first_held(
    world: &World,
    request: &CertificateSigningRequest,
    rights: &[&'static str],
) -> Result<Option<&'static str>, Error> {
    let reviews: Api<SubjectAccessReview> = Api::all(world.client.clone());
    for right in rights {
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: request.spec.username.clone(),
                uid: request.spec.uid.clone(),
                groups: request.spec.groups.clone(),
                extra: request.spec.extra.clone(),
                resource_attributes: Some(ResourceAttributes {
                    group: Some("certificates.k8s.io".to_owned()),
                    resource: Some("certificatesigningrequests".to_owned()),
                    subresource: Some((*right).to_owned()),
                    verb: Some("create".to_owned()),
                    version: Some("*".to_owned()),
                    ..ResourceAttributes::default()
                }),
                non_resource_attributes: None,
            },
            ..SubjectAccessReview::default()
        };
        let answer = reviews.create(&PostParams::default(), &review).await?;
        if answer.status.is_some_and(|status| status.allowed) {
            return Ok(Some(right));
        }
    }
    Ok(None)
}
