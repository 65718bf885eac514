//! The admission every cluster has, in Kubernetes' order: what completes first, quota last.
//!
//! Left out: `OwnerReferencesPermissionEnforcement`, `AlwaysPullImages` and their like, which
//! Kubernetes does not switch on by itself either.

use serde_json::Value;

use super::{Asked, Operation};
use super::{
    limit_range, node_restriction, pod_security, quota, runtime_class, signing, storage_class,
};
use crate::status::Failure;
use crate::{record, rules};

/// Completes a new or changed object.
pub(super) async fn mutate(asked: &Asked<'_>, new: &mut Value) -> Result<(), Failure> {
    limit_range::default(asked, new).await?;
    runtime_class::complete(asked, new).await?;
    storage_class::default(asked, new).await?;
    if asked.is_new("", "pods") {
        // Defaults of a range may have made requests and limits.
        rules::set_pod_quality(new);
    }
    Ok(())
}

/// Judges a complete write by everything but quotas.
pub(super) async fn validate(asked: &Asked<'_>, new: Option<&Value>) -> Result<(), Failure> {
    asked.call.notes.about(asked.name);
    node_restriction::check(asked, new).await?;
    let Some(new) = new else { return Ok(()) };
    signing::check(asked, new)?;
    limit_range::check(asked, new).await?;
    pod_security::check(asked, new).await?;
    storage_class::check(asked, new).await
}

/// Charges quotas, once nobody else can refuse any more.
pub(super) async fn charge(asked: &Asked<'_>, new: Option<&Value>) -> Result<(), Failure> {
    match new {
        Some(new) => quota::charge(asked, new).await,
        None => Ok(()),
    }
}

impl Asked<'_> {
    /// Group and plural as stored.
    pub(super) fn kind(&self) -> (&str, &str) {
        (self.resource.storage_group.as_str(), self.resource.storage_plural.as_str())
    }

    /// Whether an object of this kind is being created.
    pub(super) fn is_new(&self, group: &str, plural: &str) -> bool {
        self.operation == Operation::Create
            && self.subresource.is_none()
            && self.kind() == (group, plural)
    }

    /// All objects of a kind in the namespace of the write.
    pub(super) async fn namespaced(
        &self,
        group: &str,
        version: &str,
        plural: &str,
    ) -> Result<Vec<Value>, Failure> {
        let resource = self.core.resource(group, version, plural)?;
        let prefix = record::prefix(&resource, self.namespace);
        let page = self.core.store.list(prefix.as_bytes(), None, 0, None).await?;
        Ok(page.entries.iter().map(|entry| record::object(&resource, entry)).collect())
    }

    /// The refusal of this write.
    pub(super) fn forbid(&self, why: impl Into<String>) -> Failure {
        Failure::forbidden_object(self.resource, self.name, why.into())
    }
}
