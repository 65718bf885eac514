//! Custom resource definitions: from one to the resources that it makes.
//!
//! Refuses a definition whose schemas are not structural, as Kubernetes does: only those can be
//! pruned, defaulted and merged. Rules in CEL are read elsewhere: they need an evaluator.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_api::names;
use serde_json::{Value, json};

use crate::catalog::{Column, Custom, Gvk, Resource, Scale, Subresource};
use crate::{Cause, catalog};

mod structural;

/// Why a definition is not taken up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {}", causes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
pub struct CrdError {
    /// The definition.
    pub name: String,
    /// All that is wrong with it.
    pub causes: Vec<Cause>,
}

/// The names that the definition's status should say are accepted.
#[must_use]
pub fn condition_names(definition: &Value) -> Value {
    definition["spec"]["names"].clone()
}

/// All that is wrong with a definition.
pub(crate) fn check(definition: &Value) -> Vec<Cause> {
    let mut causes = head(definition);
    let spec = &definition["spec"];
    let versions = list(&spec["versions"]);
    if versions.is_empty() {
        causes.push(Cause::required("spec.versions", "must have at least one version"));
    }
    let stored = versions.iter().filter(|version| version["storage"] == true).count();
    if !versions.is_empty() && stored != 1 {
        let wrong = "must have exactly one version marked as storage version";
        causes.push(Cause::invalid("spec.versions", &spec["versions"], wrong));
    }
    let mut seen: Vec<&str> = Vec::new();
    for (at, version) in versions.iter().enumerate() {
        let path = format!("spec.versions[{at}]");
        let name = text(version, "name");
        if let Err(wrong) = names::dns1035_label(name) {
            causes.push(Cause::invalid(format!("{path}.name"), &version["name"], &wrong));
        }
        if seen.contains(&name) {
            causes.push(Cause::duplicate(format!("{path}.name"), &version["name"]));
        }
        seen.push(name);
        let schema = &version["schema"]["openAPIV3Schema"];
        let path = format!("{path}.schema.openAPIV3Schema");
        if schema.is_null() {
            causes.push(Cause::required(path, "schemas are required"));
        } else {
            structural::check(schema, &path, &mut causes);
        }
        let warning = &version["deprecationWarning"];
        if !warning.is_null() && version["deprecated"] != true {
            let path = format!("spec.versions[{at}].deprecationWarning");
            let wrong = "can only be set for deprecated versions";
            causes.push(Cause::invalid(path, warning, wrong));
        }
        selectable_fields(version, &format!("spec.versions[{at}]"), &mut causes);
    }
    causes
}

/// More fields than this may not be selected by.
const MOST_SELECTABLE: usize = 8;

/// Whether objects can be selected by the fields that a version says.
fn selectable_fields(version: &Value, path: &str, causes: &mut Vec<Cause>) {
    let fields = list(&version["selectableFields"]);
    if fields.len() > MOST_SELECTABLE {
        let path = format!("{path}.selectableFields");
        causes.push(Cause::too_many(path, fields.len(), MOST_SELECTABLE));
    }
    for (at, field) in fields.iter().enumerate() {
        let path = format!("{path}.selectableFields[{at}].jsonPath");
        let given = text(field, "jsonPath");
        let Some(rest) = given.strip_prefix('.') else {
            causes.push(Cause::invalid(
                path,
                &field["jsonPath"],
                "must be a simple json path with leading .",
            ));
            continue;
        };
        if rest.starts_with("metadata") {
            let wrong = "must not point to fields in metadata";
            causes.push(Cause::invalid(path, &field["jsonPath"], wrong));
            continue;
        }
        let root = &version["schema"]["openAPIV3Schema"];
        let found = rest.split('.').fold(root, |place, name| &place["properties"][name]);
        if !matches!(text(found, "type"), "string" | "integer" | "boolean") {
            let wrong = "must point to a field of type string, boolean or integer. Enum string fields \
                         and strings with formats are allowed.";
            causes.push(Cause::invalid(&path, &field["jsonPath"], wrong));
        }
        if fields[..at].contains(field) {
            causes.push(Cause::duplicate(path, &field["jsonPath"]));
        }
    }
}

fn head(definition: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let spec = &definition["spec"];
    let (group, plural) = (text(spec, "group"), text(&spec["names"], "plural"));
    if group.is_empty() {
        causes.push(Cause::required("spec.group", ""));
    } else if let Err(wrong) = names::dns_subdomain(group) {
        causes.push(Cause::invalid("spec.group", &spec["group"], &wrong));
    } else if !group.contains('.') {
        let wrong = "should be a domain with at least one dot";
        causes.push(Cause::invalid("spec.group", &spec["group"], wrong));
    }
    for key in ["plural", "singular", "kind", "listKind"] {
        let path = format!("spec.names.{key}");
        let name = text(&spec["names"], key);
        if name.is_empty() {
            causes.push(Cause::required(path, ""));
        } else if let Err(wrong) = names::dns1035_label(&name.to_lowercase()) {
            causes.push(Cause::invalid(path, &spec["names"][key], &wrong));
        }
    }
    let wanted = format!("{plural}.{group}");
    if text(&definition["metadata"], "name") != wanted {
        let wrong = format!("must be spec.names.plural+\".\"+spec.group: {wanted:?}");
        causes.push(Cause::invalid("metadata.name", &definition["metadata"]["name"], &wrong));
    }
    if !matches!(text(spec, "scope"), "Namespaced" | "Cluster") {
        let allowed = ["Cluster", "Namespaced"];
        causes.push(Cause::not_supported("spec.scope", &spec["scope"], &allowed));
    }
    causes
}

/// The resources that a definition makes, the preferred version first.
pub(crate) fn resources(definition: &Value) -> Result<Vec<Resource>, CrdError> {
    let name = text(&definition["metadata"], "name").to_owned();
    let mut full = definition.clone();
    complete(&mut full);
    let causes = check(&full);
    if !causes.is_empty() {
        return Err(CrdError { name, causes });
    }
    let spec = &full["spec"];
    let versions = list(&spec["versions"]);
    let storage = versions.iter().find(|version| version["storage"] == true);
    let storage = storage.map(|version| text(version, "name")).unwrap_or_default();
    let served = versions.iter().filter(|version| version["served"] == true);
    let mut all: Vec<Resource> =
        served.map(|version| resource(&name, spec, version, storage)).collect();
    all.sort_by_key(|one| std::cmp::Reverse(rank(&one.version)));
    Ok(all)
}

/// Names that a definition may leave out.
fn complete(definition: &mut Value) {
    let Some(names) = definition["spec"]["names"].as_object_mut() else { return };
    let kind = names.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    names.entry("singular").or_insert_with(|| json!(kind.to_lowercase()));
    names.entry("listKind").or_insert_with(|| json!(format!("{kind}List")));
}

fn resource(name: &str, spec: &Value, version: &Value, storage: &str) -> Resource {
    let group = text(spec, "group").to_owned();
    let names = &spec["names"];
    let number = text(version, "name").to_owned();
    let kind = text(names, "kind").to_owned();
    let openapi = version["schema"]["openAPIV3Schema"].clone();
    let gvk = Gvk { group: group.clone(), version: number.clone(), kind: kind.clone() };
    let (subresources, scale) = subresources(&version["subresources"], &gvk);
    let plural = text(names, "plural").to_owned();
    let verbs = ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];
    let mut patterns = BTreeMap::new();
    structural::patterns(&openapi, &mut patterns);
    Resource {
        storage_group: group.clone(),
        storage_version: storage.to_owned(),
        storage_plural: plural.clone(),
        schema: structural::root(&openapi, gvk),
        group,
        version: number,
        kind,
        plural,
        singular: text(names, "singular").to_owned(),
        short_names: words(&names["shortNames"]),
        categories: words(&names["categories"]),
        namespaced: text(spec, "scope") == "Namespaced",
        verbs: verbs.map(str::to_owned).to_vec(),
        subresources,
        columns: columns(&version["additionalPrinterColumns"]),
        custom: Some(Custom {
            definition: name.to_owned(),
            scale,
            openapi: Arc::new(openapi),
            patterns,
            deprecation: deprecation(spec, version),
            selectable: list(&version["selectableFields"])
                .iter()
                .map(|field| text(field, "jsonPath").trim_start_matches('.').to_owned())
                .collect(),
        }),
    }
}

/// The warning of a deprecated version: the definition's own, or Kubernetes' sentence.
fn deprecation(spec: &Value, version: &Value) -> Option<String> {
    if version["deprecated"] != true {
        return None;
    }
    let own = version["deprecationWarning"].as_str().map(str::to_owned);
    Some(own.unwrap_or_else(|| {
        let kind = text(&spec["names"], "kind");
        format!("{}/{} {kind} is deprecated", text(spec, "group"), text(version, "name"))
    }))
}

fn subresources(found: &Value, kind: &Gvk) -> (Vec<Subresource>, Option<Scale>) {
    let verbs = || ["get", "patch", "update"].map(str::to_owned).to_vec();
    let mut all = Vec::new();
    if found["status"].is_object() {
        all.push(Subresource { name: "status".to_owned(), kind: kind.clone(), verbs: verbs() });
    }
    let given = &found["scale"];
    let scale = given.is_object().then(|| Scale {
        spec_path: text(given, "specReplicasPath").to_owned(),
        status_path: text(given, "statusReplicasPath").to_owned(),
        selector_path: given["labelSelectorPath"].as_str().map(str::to_owned),
    });
    if scale.is_some() {
        let kind = Gvk { group: "autoscaling".into(), version: "v1".into(), kind: "Scale".into() };
        all.push(Subresource { name: "scale".to_owned(), kind, verbs: verbs() });
    }
    (all, scale)
}

fn columns(found: &Value) -> Vec<Column> {
    let column = |given: &Value| Column {
        name: text(given, "name").to_owned(),
        kind: text(given, "type").to_owned(),
        format: text(given, "format").to_owned(),
        priority: given["priority"].as_i64().unwrap_or(0),
        description: text(given, "description").to_owned(),
        path: Some(text(given, "jsonPath").to_owned()),
    };
    let mut all = vec![catalog::plain_column("Name", "string", "name")];
    let own = list(found);
    all.extend(own.iter().map(column));
    if own.is_empty() {
        let mut age = catalog::plain_column("Age", "date", "");
        age.path = Some(".metadata.creationTimestamp".to_owned());
        all.push(age);
    }
    all
}

/// Which version is preferred: stable before beta before alpha, then the higher number.
///
/// # Source
/// Kubernetes' version priority.
fn rank(version: &str) -> (u8, u64, u64) {
    let parse = || {
        let rest = version.strip_prefix('v')?;
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major: u64 = rest[..end].parse().ok()?;
        if end == rest.len() {
            return Some((3, major, 0));
        }
        let beta = rest[end..].strip_prefix("beta").map(|number| (2, number));
        let (stage, number) =
            beta.or_else(|| rest[end..].strip_prefix("alpha").map(|number| (1, number)))?;
        Some((stage, major, number.parse().ok()?))
    };
    parse().unwrap_or((0, 0, 0))
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn words(value: &Value) -> Vec<String> {
    list(value).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests;
