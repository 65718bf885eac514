//! OpenAPI documents of the served resources, made from the same model that reads objects.
//!
//! They carry what clients act on: types, list types and merge keys, kinds, and which parameters
//! an operation takes. They carry no descriptions: the facts have none.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Map, Value, json};

use crate::{Catalog, catalog};

mod models;
mod paths;

/// Which of the two forms of OpenAPI is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    V2,
    V3,
}

impl Dialect {
    /// A reference to a type by its long name.
    fn reference(self, name: &str) -> Value {
        match self {
            Self::V2 => json!({"$ref": format!("#/definitions/{name}")}),
            Self::V3 => json!({"$ref": format!("#/components/schemas/{name}")}),
        }
    }
}

/// The index at `/openapi/v3`: each document's address changes with its content.
#[must_use]
pub fn v3_index(catalog: &Catalog) -> Value {
    let mut paths = Map::new();
    for (group, version) in group_versions(catalog) {
        let place = place(group, version);
        let hash = fingerprint(catalog, group, version);
        let url = format!("/openapi/v3/{place}?hash={hash:016X}");
        paths.insert(place, json!({"serverRelativeURL": url}));
    }
    json!({"paths": paths})
}

/// The document of one group and version.
#[must_use]
pub fn v3(catalog: &Catalog, group: &str, version: &str) -> Option<Value> {
    let served = catalog.resources().filter(|one| one.group == group && one.version == version);
    let served: Vec<_> = served.collect();
    if served.is_empty() {
        return None;
    }
    let dialect = Dialect::V3;
    let mut paths = Map::new();
    let mut models = models::Models::new(dialect);
    for resource in served {
        paths::add(&mut paths, resource, dialect);
        models.add_resource(resource);
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": paths,
        "components": {"schemas": models.finish()},
    }))
}

/// The document at `/openapi/v2`, of everything.
#[must_use]
pub fn v2(catalog: &Catalog) -> Value {
    let dialect = Dialect::V2;
    let mut paths = Map::new();
    let mut models = models::Models::new(dialect);
    for resource in catalog.resources() {
        paths::add(&mut paths, resource, dialect);
        models.add_resource(resource);
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": paths,
        "definitions": models.finish(),
    })
}

fn group_versions(catalog: &Catalog) -> BTreeSet<(&str, &str)> {
    catalog.resources().map(|one| (one.group.as_str(), one.version.as_str())).collect()
}

fn place(group: &str, version: &str) -> String {
    let root = if group.is_empty() { "api" } else { "apis" };
    format!("{root}/{}", catalog::join(group, version))
}

/// Changes whenever the document does: with this crate's version, or a definition's schema.
fn fingerprint(catalog: &Catalog, group: &str, version: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    env!("CARGO_PKG_VERSION").hash(&mut hasher);
    for one in catalog.resources().filter(|one| one.group == group && one.version == version) {
        (&one.plural, &one.kind, one.namespaced).hash(&mut hasher);
        for sub in &one.subresources {
            sub.name.hash(&mut hasher);
        }
        if let Some(custom) = &one.custom {
            custom.openapi.to_string().hash(&mut hasher);
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests;
