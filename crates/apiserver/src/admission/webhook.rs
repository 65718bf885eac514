//! Asking webhooks: the mutating ones one after the other, the validating ones all at once.
//!
//! What to ask whom, and what an answer means, is decided in `berth_guard`; here it is carried out.

use std::sync::Arc;
use std::time::Instant;

use berth_guard::webhook::{Answer, Call};
use berth_guard::{Attributes, Equivalent};
use futures::future::join_all;
use serde_json::Value;

use super::matched::{Hook, Matched, converted, is_exempt, matched};
use super::{Asked, Notes};
use crate::status::Failure;

/// What came of one webhook.
enum Came {
    Skipped,
    Answered(Answer),
    Failed(Failure),
}

/// Lets mutating webhooks change a new or changed object.
pub(super) async fn mutate(asked: &Asked<'_>, new: &mut Value) -> Result<(), Failure> {
    let held = asked.core.guards.held();
    if held.mutating.is_empty() || is_exempt(asked.resource) {
        return Ok(());
    }
    let hooks: Vec<&Arc<Hook>> = held.mutating.values().flatten().collect();
    // Where the object last changed after a webhook saw it: only that makes it worth asking anew.
    let mut changed_at = None;
    for (at, hook) in hooks.iter().enumerate() {
        if ask_one(asked, hook, new).await? {
            changed_at = Some(at);
        }
    }
    let Some(last) = changed_at else { return Ok(()) };
    for hook in hooks.iter().take(last).filter(|hook| hook.webhook.again) {
        ask_one(asked, hook, new).await?;
    }
    Ok(())
}

/// Whether the webhook changed the object.
async fn ask_one(asked: &Asked<'_>, hook: &Arc<Hook>, new: &mut Value) -> Result<bool, Failure> {
    let matched = matched(asked, Some(new)).await?;
    let patch = match ask(asked, hook, &matched, true).await {
        Came::Skipped => return Ok(false),
        Came::Failed(failure) => return Err(failure),
        Came::Answered(answer) => match take(asked, answer)? {
            Some(patch) => patch,
            None => return Ok(false),
        },
    };
    let before = new.clone();
    let done = apply(asked, &matched.request, new, &patch);
    match done {
        Ok(()) => Ok(*new != before),
        Err(why) => {
            *new = before;
            let failed = failing(hook, &why);
            if hook.webhook.fails_closed { Err(failed) } else { Ok(note(asked, hook, &why)) }
        }
    }
}

fn apply(
    asked: &Asked<'_>,
    request: &Attributes,
    new: &mut Value,
    patch: &Value,
) -> Result<(), String> {
    let resource = asked.resource;
    let text = patch.to_string();
    let patched = berth_schema::patch::json(&request.object, text.as_bytes())
        .map_err(|error| error.to_string())?;
    match asked.subresource {
        Some("scale") => {
            crate::subresources::scale_back(resource, new, &patched);
            return Ok(());
        }
        // What was asked is done already; there is nothing left to change.
        Some("binding" | "eviction" | "token") => return Ok(()),
        _ => {}
    }
    let mut warnings = Vec::new();
    let copy = patched.clone();
    let retyped = asked.call.retype(resource, patched, || Some(copy), &mut warnings);
    let mut typed = retyped.map_err(|failure| failure.message)?;
    berth_schema::default(resource, &mut typed);
    // Who an object is was settled before.
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        crate::object::set_meta(&mut typed, field, new["metadata"][field].clone());
    }
    *new = typed;
    Ok(())
}

/// Asks every validating webhook that wants to be asked; all of them must agree.
pub(super) async fn validate(asked: &Asked<'_>, new: Option<&Value>) -> Result<(), Failure> {
    let held = asked.core.guards.held();
    if held.validating.is_empty() || is_exempt(asked.resource) {
        return Ok(());
    }
    let matched = matched(asked, new).await?;
    let hooks = held.validating.values().flatten();
    let came = join_all(hooks.map(|hook| ask(asked, hook, &matched, false))).await;
    let mut refused = None;
    for one in came {
        let done = match one {
            Came::Skipped => Ok(()),
            Came::Failed(failure) => Err(failure),
            Came::Answered(answer) => take(asked, answer).map(drop),
        };
        if let Err(failure) = done {
            refused.get_or_insert(failure);
        }
    }
    refused.map_or(Ok(()), Err)
}

/// Tells what an answer leaves to be told; its patch when it has one.
fn take(asked: &Asked<'_>, answer: Answer) -> Result<Option<Value>, Failure> {
    let tell = |warnings: Vec<String>, annotations: Vec<(String, String)>| {
        let notes: &Notes = &asked.call.notes;
        warnings.into_iter().for_each(|warning| notes.warn(warning));
        annotations.into_iter().for_each(|(key, value)| notes.annotate(key, value));
    };
    match answer {
        Answer::Allowed { patch, warnings, annotations } => {
            tell(warnings, annotations);
            Ok(patch)
        }
        Answer::Denied { code, reason, message, warnings, annotations } => {
            tell(warnings, annotations);
            Err(Failure::denied(code, &reason, message))
        }
    }
}

async fn ask(asked: &Asked<'_>, hook: &Arc<Hook>, matched: &Matched, mutating: bool) -> Came {
    let as_what = match decide(hook, matched).await {
        Call::Skip => return Came::Skipped,
        Call::Refuse(why) => {
            let failure = if why.ends_with("does not support dry run") {
                Failure::bad_request(why)
            } else {
                Failure::forbidden_object(asked.resource, asked.name, why)
            };
            return Came::Failed(failure);
        }
        Call::Ask(as_what) => as_what,
    };
    match send(asked, hook, matched, &as_what, mutating).await {
        Ok(answer) => Came::Answered(answer),
        Err(why) if hook.webhook.fails_closed => Came::Failed(failing(hook, &why)),
        Err(why) => {
            note(asked, hook, &why);
            Came::Skipped
        }
    }
}

/// Whether to ask; aside when a condition loops, so that it holds up nobody else.
async fn decide(hook: &Arc<Hook>, matched: &Matched) -> Call {
    let Matched { request, others, authorize } = matched;
    if !hook.webhook.is_heavy() {
        return hook.webhook.call(request, others, authorize, Instant::now());
    }
    let (hook, request) = (Arc::clone(hook), request.clone());
    let (others, authorize) = (others.clone(), Arc::clone(authorize));
    let aside = tokio::task::spawn_blocking(move || {
        hook.webhook.call(&request, &others, &authorize, Instant::now())
    });
    aside.await.unwrap_or_else(|error| Call::Refuse(error.to_string()))
}

async fn send(
    asked: &Asked<'_>,
    hook: &Hook,
    matched: &Matched,
    as_what: &Equivalent,
    mutating: bool,
) -> Result<Answer, String> {
    let line = hook.line.as_ref().map_err(Clone::clone)?;
    let uid = uuid::Uuid::new_v4().to_string();
    let mut review = hook.webhook.review(&matched.request, as_what, &uid);
    if as_what.0 != matched.request.place && asked.subresource.is_none() {
        for field in ["object", "oldObject"] {
            let object = review["request"][field].take();
            let there = converted(asked.core, asked.resource, &as_what.0, &object);
            review["request"][field] = there;
        }
    }
    let body = line.ask(&review, hook.webhook.timeout).await?;
    hook.webhook.judge(&uid, mutating, &body)
}

/// A webhook that failed, where that fails the request.
fn failing(hook: &Hook, why: &str) -> Failure {
    let name = &hook.webhook.name;
    let said = format!("failed calling webhook {name:?}: failed to call webhook: {why}");
    Failure::internal(said)
}

/// A webhook that failed, where that is let pass.
fn note(asked: &Asked<'_>, hook: &Hook, why: &str) -> bool {
    let webhook = &hook.webhook;
    tracing::warn!(webhook = webhook.name, why, "a webhook failed and was passed over");
    let key = format!("failed-open.admission.k8s.io/{}", webhook.configuration);
    asked.call.notes.annotate(key, webhook.name.clone());
    false
}
