//! The catalogue of every served resource, built-in and custom.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use regex::Regex;
use serde_json::Value;

use crate::crd::{self, CrdError};
use crate::facts;
use crate::schema::Schema;

/// A group, version and kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Gvk {
    /// Empty for the core group.
    pub group: String,
    /// Such as `v1`.
    pub version: String,
    /// Such as `Pod`.
    pub kind: String,
}

/// A resource as the API serves it.
#[derive(Debug, Clone)]
pub struct Resource {
    /// Empty for the core group.
    pub group: String,
    /// Such as `v1`.
    pub version: String,
    /// Such as `Pod`.
    pub kind: String,
    /// Such as `pods`.
    pub plural: String,
    /// Such as `pod`.
    pub singular: String,
    /// Such as `po`.
    pub short_names: Vec<String>,
    /// Such as `all`.
    pub categories: Vec<String>,
    /// Its objects live in namespaces.
    pub namespaced: bool,
    /// What may be done with it.
    pub verbs: Vec<String>,
    /// What stands below an object.
    pub subresources: Vec<Subresource>,
    /// The group under which its objects are stored.
    pub storage_group: String,
    /// The version in which its objects are stored.
    pub storage_version: String,
    /// The plural under which its objects are stored.
    pub storage_plural: String,
    /// The columns of its tables.
    pub columns: Vec<Column>,
    /// The type of its objects.
    pub schema: Schema,
    /// What only a custom resource has.
    pub custom: Option<Custom>,
}

impl Resource {
    /// `v1` or `apps/v1`.
    #[must_use]
    pub fn api_version(&self) -> String {
        join(&self.group, &self.version)
    }

    /// The subresource of this name.
    #[must_use]
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|sub| sub.name == name)
    }

    /// Whether `verb` is served.
    #[must_use]
    pub fn allows(&self, verb: &str) -> bool {
        self.verbs.iter().any(|known| known == verb)
    }
}

/// `version`, or `group/version` outside the core group.
pub(crate) fn join(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// What stands below an object: `status`, `scale`, `log`.
#[derive(Debug, Clone)]
pub struct Subresource {
    /// Its name.
    pub name: String,
    /// What it takes and answers.
    pub kind: Gvk,
    /// What may be done with it.
    pub verbs: Vec<String>,
}

/// A column of a table.
#[derive(Debug, Clone)]
pub struct Column {
    /// Its heading.
    pub name: String,
    /// `string`, `integer`, `date` and so on.
    pub kind: String,
    /// How to read it, such as `name`.
    pub format: String,
    /// Zero is always shown, more only when asked for a wide table.
    pub priority: i64,
    /// What it tells.
    pub description: String,
    /// Where a custom resource's value stands.
    pub path: Option<String>,
}

/// A column that every resource of its kind has.
pub(crate) fn plain_column(name: &str, kind: &str, format: &str) -> Column {
    Column {
        name: name.to_owned(),
        kind: kind.to_owned(),
        format: format.to_owned(),
        priority: 0,
        description: String::new(),
        path: None,
    }
}

/// What only a custom resource has.
#[derive(Debug, Clone)]
pub struct Custom {
    /// The definition's name.
    pub definition: String,
    /// Where the scale subresource reads and writes.
    pub scale: Option<Scale>,
    /// The version's schema as it was given.
    pub openapi: Arc<Value>,
    /// The schema's regular expressions, made ready.
    pub patterns: BTreeMap<String, Regex>,
    /// What is told to whoever still uses the version; none unless it is deprecated.
    pub deprecation: Option<String>,
    /// Fields by which objects may be selected, such as `spec.color`.
    pub selectable: Vec<String>,
}

/// Where a custom resource keeps what its scale tells.
#[derive(Debug, Clone)]
pub struct Scale {
    /// Such as `.spec.replicas`.
    pub spec_path: String,
    /// Such as `.status.replicas`.
    pub status_path: String,
    /// Such as `.status.selector`.
    pub selector_path: Option<String>,
}

/// Every served resource.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    list: Vec<Arc<Resource>>,
    /// Places in the list by plural; few groups and versions have the same one.
    by_plural: HashMap<String, Vec<usize>>,
    by_kind: HashMap<String, Vec<usize>>,
    changes: u64,
}

impl Catalog {
    /// All that Kubernetes serves by itself.
    #[must_use]
    pub fn builtin() -> Self {
        let mut catalog = Self::default();
        catalog.set(facts::resources().into_iter().map(Arc::new).collect());
        catalog
    }

    /// Takes up the served versions of a custom resource definition, in place of what it served
    /// before.
    ///
    /// # Errors
    /// When the definition is malformed or its schema is not structural; nothing changes then.
    pub fn add_crd(&mut self, definition: &Value) -> Result<(), CrdError> {
        let resources = crd::resources(definition)?;
        let name = definition["metadata"]["name"].as_str().unwrap_or_default();
        self.remove_crd(name);
        let mut list = std::mem::take(&mut self.list);
        list.extend(resources.into_iter().map(Arc::new));
        self.set(list);
        Ok(())
    }

    /// Takes up what a definition describes without storing it: of its verbs only `verbs`.
    ///
    /// # Errors
    /// As for [`Catalog::add_crd`].
    pub fn add_computed(&mut self, definition: &Value, verbs: &[&str]) -> Result<(), CrdError> {
        let mut resources = crd::resources(definition)?;
        for resource in &mut resources {
            resource.verbs.retain(|verb| verbs.contains(&verb.as_str()));
            resource.singular.clear();
        }
        let mut list = std::mem::take(&mut self.list);
        list.extend(resources.into_iter().map(Arc::new));
        self.set(list);
        Ok(())
    }

    /// Serves a custom resource definition no more.
    pub fn remove_crd(&mut self, name: &str) {
        let mut list = std::mem::take(&mut self.list);
        list.retain(|one| one.custom.as_ref().is_none_or(|custom| custom.definition != name));
        self.set(list);
    }

    /// The resource of this group, version and plural.
    #[must_use]
    pub fn resource(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.find(self.by_plural.get(plural)?, group, version)
    }

    /// The resource of this group, version and kind.
    #[must_use]
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Resource>> {
        self.find(self.by_kind.get(kind)?, group, version)
    }

    fn find(&self, places: &[usize], group: &str, version: &str) -> Option<&Arc<Resource>> {
        // The last one counts, as if it had replaced those before.
        let mut found = places.iter().rev().map(|place| &self.list[*place]);
        found.find(|resource| resource.group == group && resource.version == version)
    }

    /// Every resource, in the order in which discovery shows them.
    pub fn resources(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.list.iter()
    }

    /// How often the catalogue has changed: what was made from it stays true while this does.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    fn set(&mut self, list: Vec<Arc<Resource>>) {
        self.changes += 1;
        self.by_plural.clear();
        self.by_kind.clear();
        for (at, one) in list.iter().enumerate() {
            self.by_plural.entry(one.plural.clone()).or_default().push(at);
            self.by_kind.entry(one.kind.clone()).or_default().push(at);
        }
        self.list = list;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_found_by_plural_and_by_kind() {
        let catalog = Catalog::builtin();
        let pods = catalog.resource("", "v1", "pods").unwrap();
        assert_eq!(catalog.by_kind("", "v1", "Pod").unwrap().plural, "pods");
        assert!(pods.namespaced && pods.allows("watch"));
        assert_eq!(pods.short_names, ["po"]);
        let eviction = &pods.subresource("eviction").unwrap().kind;
        assert_eq!((eviction.group.as_str(), eviction.kind.as_str()), ("policy", "Eviction"));
    }

    #[test]
    fn every_resource_has_an_object_type() {
        for resource in Catalog::builtin().resources() {
            let object = resource.schema.object().expect("a type");
            assert_eq!(object.go_name(), resource.kind);
        }
    }
}
