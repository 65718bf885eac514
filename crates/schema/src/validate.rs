//! What makes an object acceptable.

use serde_json::Value;

use crate::{Cause, Resource, crd};

mod custom;

/// All that is wrong with `new`, as a change of `old`; empty when it is fine.
#[must_use]
pub fn validate(
    resource: &Resource,
    new: &Value,
    _old: Option<&Value>,
    _subresource: Option<&str>,
) -> Vec<Cause> {
    let mut causes = Vec::new();
    if let Some(own) = &resource.custom {
        let rules = custom::Rules { patterns: &own.patterns };
        causes.extend(rules.check("", new, &own.openapi));
    }
    if resource.plural == "customresourcedefinitions" {
        causes.extend(crd::check(new));
    }
    causes
}
