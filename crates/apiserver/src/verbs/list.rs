//! Listing: selectors, pages, revisions.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use berth_schema::{Cause, Resource};
use berth_store::{Entry, Page, ReadError, Revision};
use bytes::Bytes;
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::items::Items;
use super::read;
use crate::call::Call;
use crate::media::Shape;
use crate::record;
use crate::respond::{self, Body};
use crate::selector::{Fields, Labels};
use crate::server::Core;
use crate::status::Failure;

/// How many entries are read at a time when a selector leaves out most of them.
const CHUNK: usize = 500;

/// A longer list is made while it is sent.
const PIECES_FROM: usize = 64 * 1024;

/// What a list is narrowed to.
pub(crate) struct Selection {
    pub(crate) labels: Labels,
    pub(crate) fields: Fields,
}

impl Selection {
    pub(crate) fn parse(call: &Call, resource: &Resource) -> Result<Self, Failure> {
        let text = |key: &str| call.query.get(key).unwrap_or_default();
        Ok(Self {
            labels: Labels::parse(text("labelSelector"))?,
            fields: Fields::parse(text("fieldSelector"), resource)?,
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether a stored value is selected; parses no more of it than it must.
    pub(crate) fn matches(&self, resource: &Resource, key: &[u8], value: &[u8]) -> bool {
        if !self.fields.is_empty() {
            if self.fields.only_identity() {
                let (namespace, name) = record::identity(resource, key);
                if !self.fields.matches_identity(namespace, name) {
                    return false;
                }
            } else {
                if !self.fields.may_match(value) {
                    return false;
                }
                let matches = self.fields.matches_stored(value).unwrap_or_else(|| {
                    let object: Value = serde_json::from_slice(value).unwrap_or_default();
                    self.fields.matches(&object)
                });
                if !matches {
                    return false;
                }
            }
        }
        self.labels.is_empty() || self.labels.matches(&record::labels(value))
    }
}

/// Where a list goes on; opaque to clients. Revision 0 is whatever is current: the rest is shown,
/// but not as it was when the list began.
#[derive(Serialize, Deserialize)]
struct Continue {
    #[serde(rename = "rv")]
    revision: u64,
    after: String,
}

impl Continue {
    fn parse(text: &str) -> Result<Self, Failure> {
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok();
        bytes
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .ok_or_else(|| Failure::bad_request("continue key is not valid"))
    }

    fn to_text(&self) -> String {
        URL_SAFE_NO_PAD.encode(json!(self).to_string())
    }
}

/// A page of entries as selected.
pub(crate) struct Found {
    pub(crate) entries: Vec<Entry>,
    pub(crate) revision: Revision,
    next: Option<String>,
    remaining: Option<u64>,
}

pub(crate) async fn list(
    core: &Arc<Core>,
    call: &Call,
    resource: &Arc<Resource>,
) -> Result<Response<Body>, Failure> {
    let selection = Selection::parse(call, resource)?;
    let found = find(core, call, resource, &selection).await?;
    let mut meta = json!({"resourceVersion": found.revision.to_string()});
    if let Some(next) = &found.next {
        meta["continue"] = json!(next);
    }
    if let Some(remaining) = found.remaining {
        meta["remainingItemCount"] = json!(remaining);
    }
    let objects = || found.entries.iter().map(|entry| record::object(resource, entry));
    match &call.output.shape {
        Shape::Whole | Shape::Discovery(_) => {
            if resource.custom.is_some() && found.next.is_none() {
                // Kubernetes writes it out where its list is no Go type.
                meta["continue"] = json!("");
            }
            let opening = opening(resource, &meta);
            let size: usize = found.entries.iter().map(|entry| entry.value.len()).sum();
            if size >= PIECES_FROM
                && respond::is_plain(&call.output, size)
                && !record::is_converted(resource)
            {
                let items = Items::new(resource, opening, found.entries);
                return Ok(respond::plain(StatusCode::OK, items));
            }
            let json = whole(resource, opening, &found.entries);
            Ok(respond::json(StatusCode::OK, json, &call.output))
        }
        Shape::Table(version) => {
            let objects: Vec<Value> = objects().collect();
            let table = read::to_table(call, resource, &objects, version, meta, false)?;
            Ok(respond::value(StatusCode::OK, &table, &call.output))
        }
        Shape::Metadata(version) => {
            let items: Vec<Value> =
                objects().map(|object| read::to_metadata(&object, version)).collect();
            let list = json!({
                "kind": "PartialObjectMetadataList",
                "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": meta,
                "items": items,
            });
            Ok(respond::value(StatusCode::OK, &list, &call.output))
        }
    }
}

/// What a list is before its items.
fn opening(resource: &Resource, meta: &Value) -> Vec<u8> {
    let api_version = record::api_version(resource);
    format!(
        "{{\"kind\":\"{}List\",\"apiVersion\":\"{api_version}\",\"metadata\":{meta},\"items\":[",
        resource.kind,
    )
    .into_bytes()
}

/// The list put together from stored bytes, nothing of them parsed.
fn whole(resource: &Arc<Resource>, opening: Vec<u8>, entries: &[Entry]) -> Vec<u8> {
    let mut out = opening;
    out.reserve(entries.iter().map(|entry| entry.value.len() + 64).sum());
    record::splice_all(&mut out, resource, entries);
    out.extend_from_slice(b"]}");
    out
}

/// Reads what the request selects.
pub(crate) async fn find(
    core: &Core,
    call: &Call,
    resource: &Resource,
    selection: &Selection,
) -> Result<Found, Failure> {
    let number = |key| call.query.integer(key).map_err(Failure::bad_request);
    number("timeoutSeconds")?;
    let limit = number("limit")?.unwrap_or_default().max(0) as usize;
    let (mut after, at) = start(core, call).await?;
    let prefix = record::prefix(resource, &call.target.namespace);
    if (&after, at) == (&None, None)
        && let Some(page) = by_node(core, resource, selection, &prefix).await?
        && (limit == 0 || page.entries.len() <= limit)
    {
        let (mut entries, revision) = (page.entries, page.revision);
        entries.retain(|entry| selection.matches(resource, &entry.key, &entry.value));
        return Ok(Found { entries, revision, next: None, remaining: None });
    }
    let mut entries = Vec::new();
    let mut at = at;
    let step = if limit == 0 { 0 } else { limit.max(CHUNK) };
    let step = if selection.is_empty() { limit } else { step };
    let (revision, remaining) = loop {
        let page = core
            .store
            .list(prefix.as_bytes(), after.as_deref(), step, at)
            .await
            .map_err(|error| list_failure(error, call))?;
        at = Some(page.revision);
        let read = page.entries.len();
        let mut taken = 0;
        for entry in page.entries {
            if limit > 0 && entries.len() == limit {
                break;
            }
            taken += 1;
            after = Some(entry.key.clone());
            if selection.is_empty() || selection.matches(resource, &entry.key, &entry.value) {
                entries.push(entry);
            }
        }
        let left = page.remaining + (read - taken) as u64;
        if left == 0 || limit == 0 || entries.len() >= limit {
            break (page.revision, left);
        }
    };
    let next = (remaining > 0 && limit > 0)
        .then(|| after.and_then(|key| String::from_utf8(key.to_vec()).ok()))
        .flatten()
        .map(|after| Continue { revision: revision.0, after }.to_text());
    // With a selector nobody knows how many of the rest would be selected.
    let remaining = (next.is_some() && selection.is_empty()).then_some(remaining);
    Ok(Found { entries, revision, next, remaining })
}

/// The pods of the node that is selected by, when it is.
pub(super) async fn by_node(
    core: &Core,
    resource: &Resource,
    selection: &Selection,
    prefix: &str,
) -> Result<Option<Page>, Failure> {
    let Some(node) = selection.fields.node().filter(|_| record::is_pods(resource)) else {
        return Ok(None);
    };
    let (index, prefix) = (record::PODS_BY_NODE.name, prefix.as_bytes());
    Ok(core.store.list_by(index, node.as_bytes(), prefix, None, 0).await?)
}

/// Behind which key, and at which revision.
async fn start(core: &Core, call: &Call) -> Result<(Option<Bytes>, Option<Revision>), Failure> {
    let asked = call.query.get("resourceVersion");
    let matching = call.query.get("resourceVersionMatch");
    if call.query.get("sendInitialEvents").is_some() {
        let why = "sendInitialEvents is forbidden for list";
        let cause = Cause::forbidden("sendInitialEvents", why);
        return Err(Failure::invalid_options("ListOptions", vec![cause]));
    }
    if let Some(text) = call.query.get("continue") {
        if matching.is_some() {
            return Err(mismatch("is forbidden when continue is provided"));
        }
        if asked.is_some_and(|asked| asked != "0") {
            return Err(Failure::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let from = Continue::parse(text)?;
        let at = (from.revision > 0).then_some(Revision(from.revision));
        return Ok((Some(Bytes::from(from.after)), at));
    }
    let Some(asked) = asked else {
        if matching.is_some() {
            return Err(mismatch("is forbidden unless resourceVersion is provided"));
        }
        return Ok((None, None));
    };
    let wanted: u64 = asked
        .parse()
        .map_err(|_| Failure::bad_request(format!("invalid resource version {asked:?}")))?;
    let current = core.store.revision().await?;
    if wanted > current.0 {
        return Err(Failure::revision_too_large(wanted, current.0));
    }
    match matching {
        Some("Exact") if wanted == 0 => {
            Err(mismatch("\"Exact\" is forbidden for resourceVersion \"0\""))
        }
        Some("Exact") => Ok((None, Some(Revision(wanted)))),
        None | Some("NotOlderThan") => Ok((None, None)),
        Some(other) => {
            let allowed = ["Exact", "NotOlderThan", ""];
            let cause = Cause::not_supported("resourceVersionMatch", &json!(other), &allowed);
            Err(Failure::invalid_options("ListOptions", vec![cause]))
        }
    }
}

fn mismatch(why: &str) -> Failure {
    let cause = Cause::forbidden("resourceVersionMatch", &format!("resourceVersionMatch {why}"));
    Failure::invalid_options("ListOptions", vec![cause])
}

fn list_failure(error: ReadError, call: &Call) -> Failure {
    match error {
        ReadError::Compacted { .. } if call.query.get("continue").is_some() => {
            let mut failure = Failure::expired(
                "The provided continue parameter is too old to display a consistent list result. \
                 You can start a new list without the continue parameter, or use the continue \
                 token in this response to retrieve the remainder of the results. Continuing with \
                 the provided token results in an inconsistent list - objects that were created, \
                 modified, or deleted between the time the first chunk was returned and now may \
                 show up in the list.",
            );
            let from = call.query.get("continue").and_then(|text| Continue::parse(text).ok());
            failure.next = from.map(|from| Continue { revision: 0, ..from }.to_text());
            failure
        }
        ReadError::Compacted { .. } => {
            Failure::expired("The resourceVersion for the provided list is too old.")
        }
        other => other.into(),
    }
}
