//! Admission: what the cluster's owner says about a write, after the kind's own rules and before
//! the store.
//!
//! ```text
//! create, update:  rules ─▶ mutate ─▶ defaults ─▶ managed fields ─▶ schema ─▶ validate ─▶ store
//! delete, connect:                                                            validate ─▶ store
//! ```
//!
//! Every step sees one [`Asked`]; warnings and audit annotations go to the call's [`Notes`].

mod builtin;
mod limit_range;
pub(crate) mod matched;
pub(crate) mod node_restriction;
mod pod_security;
mod policy;
mod quota;
mod runtime_class;
mod signing;
mod storage_class;
mod webhook;
mod webhook_client;

use std::sync::{Arc, Mutex};

use berth_schema::Resource;
use serde_json::Value;

use crate::call::Call;
use crate::server::Core;
use crate::status::Failure;

/// What is about to happen, in Kubernetes' words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
    /// A session or a proxy is opened.
    Connect,
}

/// One write that asks to be admitted.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) core: &'a Arc<Core>,
    pub(crate) call: &'a Call,
    pub(crate) resource: &'a Arc<Resource>,
    pub(crate) subresource: Option<&'a str>,
    pub(crate) operation: Operation,
    /// Empty for what has none.
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) dry_run: bool,
    /// The object as it is; none for a create.
    pub(crate) old: Option<&'a Value>,
}

/// What a request's admission leaves to be told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// To the client.
    pub(crate) warnings: Vec<String>,
    /// To the audit log: key and value.
    pub(crate) annotations: Vec<(String, String)>,
    /// The object's name, which a create may only have from the server.
    pub(crate) name: Option<String>,
}

/// Where admission leaves what is to be told.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    told: Mutex<Told>,
}

impl Notes {
    /// Adds a warning for the client.
    pub(crate) fn warn(&self, warning: impl Into<String>) {
        let mut told = self.told.lock().expect("nothing panics while holding it");
        let warning = warning.into();
        if !told.warnings.contains(&warning) {
            told.warnings.push(warning);
        }
    }

    /// Adds an annotation for the audit log.
    pub(crate) fn annotate(&self, key: impl Into<String>, value: impl Into<String>) {
        let mut told = self.told.lock().expect("nothing panics while holding it");
        told.annotations.push((key.into(), value.into()));
    }

    /// Notes the name of the object that is written.
    pub(crate) fn about(&self, name: &str) {
        let mut told = self.told.lock().expect("nothing panics while holding it");
        told.name = Some(name.to_owned());
    }

    /// What is to be told so far; gone from here afterwards.
    pub(crate) fn take(&self) -> Told {
        std::mem::take(&mut *self.told.lock().expect("nothing panics while holding it"))
    }
}

/// Changes a new or changed object as the cluster's owner wants it.
pub(crate) async fn mutate(asked: &Asked<'_>, new: &mut Value) -> Result<(), Failure> {
    builtin::mutate(asked, new).await?;
    webhook::mutate(asked, new).await
}

/// Judges an action on an object: an eviction, a token, a session. `body` is what was asked for.
pub(crate) async fn validate_action(
    asked: &Asked<'_>,
    body: Option<&Value>,
) -> Result<(), Failure> {
    if let Some(body) = body {
        webhook::mutate(asked, &mut body.clone()).await?;
    }
    policy::validate(asked, body).await?;
    webhook::validate(asked, body).await
}

/// Judges a write whose object is complete; `new` is none for a delete.
pub(crate) async fn validate(asked: &Asked<'_>, new: Option<&Value>) -> Result<(), Failure> {
    if let Some(new) = new {
        policy::check_own(asked, new)?;
        policy::check_rules(asked, new).await?;
    }
    builtin::validate(asked, new).await?;
    policy::validate(asked, new).await?;
    webhook::validate(asked, new).await?;
    builtin::charge(asked, new).await
}
