//! The tables of facts, read once: types, resources, what a cluster has from its first moment.
//!
//! The files are written by `cargo xtask codegen` (types, resources, bootstrap) or by hand
//! (defaults); a line that does not parse is a fault of this crate, which a test finds.

use std::collections::HashMap;
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::catalog::{Column, Gvk, Resource, Subresource};
use crate::schema::{Field, ListType, Merge, ObjectRef, ObjectType, Schema, Shape};

const TYPES: &str = include_str!("../facts/types.txt");
const RESOURCES: &str = include_str!("../facts/resources.txt");
const BOOTSTRAP: &str = include_str!("../facts/bootstrap.txt");

/// Every built-in type.
#[derive(Debug)]
pub struct Types {
    list: Vec<ObjectType>,
    places: HashMap<String, usize>,
    packages: Vec<(String, String)>,
}

impl Types {
    /// The type at a place that a schema holds.
    #[must_use]
    pub fn at(&self, place: usize) -> &ObjectType {
        &self.list[place]
    }

    /// Where the type of this name stands.
    #[must_use]
    pub fn place(&self, name: &str) -> Option<usize> {
        self.places.get(name).copied()
    }

    /// The type of this name, such as `core.v1.Pod`.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&ObjectType> {
        self.place(name).map(|place| self.at(place))
    }

    /// Where the type of this kind stands.
    #[must_use]
    pub fn of_kind(&self, kind: &Gvk) -> Option<usize> {
        self.list.iter().position(|object| object.kinds.contains(kind))
    }

    /// Every type, by name.
    pub fn iter(&self) -> impl Iterator<Item = &ObjectType> {
        self.list.iter()
    }

    /// The name that OpenAPI documents know the type by.
    #[must_use]
    pub fn long_name(&self, name: &str) -> String {
        let (package, last) = name.rsplit_once('.').unwrap_or(("", name));
        let found = self.packages.iter().find(|(brief, _)| brief == package);
        found.map_or_else(|| name.to_owned(), |(_, long)| format!("{long}.{last}"))
    }
}

/// The built-in types, read at the first call.
pub fn types() -> &'static Types {
    static READ: OnceLock<Types> = OnceLock::new();
    READ.get_or_init(|| read_types(TYPES))
}

fn read_types(text: &str) -> Types {
    let mut packages = Vec::new();
    let mut places = HashMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("type ") {
            let name = rest.split(' ').next().unwrap_or_default();
            places.insert(name.to_owned(), places.len());
        } else if let Some((brief, long)) =
            line.strip_prefix("package ").and_then(|rest| rest.split_once(' '))
        {
            packages.push((brief.to_owned(), long.to_owned()));
        }
    }
    let mut list: Vec<ObjectType> = Vec::with_capacity(places.len());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("type ") {
            list.push(read_type(rest));
        } else if let (Some(rest), Some(last)) = (line.strip_prefix(' '), list.last_mut()) {
            let mut words = rest.split(' ');
            let name = words.next().unwrap_or_default();
            let field = read_field(words, &places);
            last.fields.insert(name.to_owned(), field);
        }
    }
    Types { list, places, packages }
}

fn read_type(line: &str) -> ObjectType {
    let mut words = line.split(' ');
    let mut object =
        ObjectType { name: words.next().unwrap_or_default().to_owned(), ..ObjectType::default() };
    for word in words {
        match word.split_once('=') {
            Some(("gvk", kind)) => object.kinds.push(read_gvk(kind)),
            _ => object.atomic |= word == "atomic",
        }
    }
    object
}

fn read_field<'a>(
    mut words: impl Iterator<Item = &'a str>,
    places: &HashMap<String, usize>,
) -> Field {
    let shape = read_shape(words.next().unwrap_or_default(), places);
    let is_list = matches!(shape, Shape::List(_));
    let mut schema = Schema::plain(shape);
    let mut required = false;
    for word in words {
        match word.split_once('=') {
            Some(("list", keys)) => {
                schema.list = ListType::Map(keys.split(',').map(str::to_owned).collect());
            }
            Some(("patch", rules)) => {
                let key = schema.merge.key.take();
                let has = |rule| rules.split(',').any(|word| word == rule);
                schema.merge = Merge {
                    merge: has("merge"),
                    replace: has("replace"),
                    retain_keys: has("retainKeys"),
                    key,
                };
            }
            Some(("key", key)) => schema.merge.key = Some(key.to_owned()),
            // A blank stands between words of the line, so those of a value are written as `~`.
            Some(("enum", words)) => {
                schema.allowed = words.split('|').map(|one| one.replace('~', " ")).collect();
            }
            _ if word == "set" => schema.list = ListType::Set,
            _ if word == "atomic" => schema.atomic = !is_list,
            _ => required |= word == "required",
        }
    }
    Field { schema, required }
}

fn read_shape(word: &str, places: &HashMap<String, usize>) -> Shape {
    if let Some(item) = word.strip_prefix("[]") {
        return Shape::List(Box::new(Schema::plain(read_shape(item, places))));
    }
    if let Some(item) = word.strip_prefix("{}") {
        return Shape::Map(Box::new(Schema::plain(read_shape(item, places))));
    }
    match word {
        "raw" => Shape::Raw,
        "fields" => Shape::Fields,
        "bool" => Shape::Bool,
        "int32" => Shape::Int32,
        "int64" => Shape::Int64,
        "double" => Shape::Double,
        "string" => Shape::String,
        "bytes" => Shape::Bytes,
        "time" => Shape::Time,
        "microtime" => Shape::MicroTime,
        "quantity" => Shape::Quantity,
        "intstr" => Shape::IntOrString,
        name => {
            places.get(name).map_or(Shape::Any, |place| Shape::Object(ObjectRef::Builtin(*place)))
        }
    }
}

fn read_gvk(text: &str) -> Gvk {
    let mut words = text.split('/');
    let mut word = || words.next().unwrap_or_default().to_owned();
    let group = word();
    let group = if group == "-" { String::new() } else { group };
    Gvk { group, version: word(), kind: word() }
}

/// The built-in resources, in the order in which discovery shows them.
pub(crate) fn resources() -> Vec<Resource> {
    let mut list: Vec<Resource> = Vec::new();
    for line in RESOURCES.lines() {
        if let Some(rest) = line.strip_prefix("resource ") {
            list.extend(read_resource(rest));
        } else if let Some(last) = list.last_mut() {
            let line = line.trim_start();
            if let Some(rest) = line.strip_prefix("sub ") {
                let mut words = rest.split(' ');
                let mut word = || words.next().unwrap_or_default();
                let (name, kind, verbs) = (word().to_owned(), read_gvk(word()), names(word()));
                last.subresources.push(Subresource { name, kind, verbs });
            } else if let Some(rest) = line.strip_prefix("column ") {
                last.columns.extend(read_column(rest));
            }
        }
    }
    for (group, version, plural) in OLDER {
        let newest = |one: &Resource| one.group == group && one.version == "v1";
        let found = list.iter().find(|one| newest(one) && one.plural == plural);
        let Some(mut older) = found.cloned() else { continue };
        version.clone_into(&mut older.version);
        for sub in older.subresources.iter_mut().filter(|sub| sub.kind.group == group) {
            version.clone_into(&mut sub.kind.version);
        }
        let end = list.iter().rposition(|one| one.group == group).map_or(list.len(), |at| at + 1);
        list.insert(end, older);
    }
    list
}

/// Versions that Kubernetes has dropped since and old clients still write: kubectl 1.20 creates
/// these. The fields are those of v1, which is what is stored.
const OLDER: [(&str, &str, &str); 2] =
    [("batch", "v1beta1", "cronjobs"), ("policy", "v1beta1", "poddisruptionbudgets")];

fn read_resource(line: &str) -> Option<Resource> {
    let mut words = line.split(' ');
    let group = words.next().filter(|group| *group != "-").unwrap_or_default().to_owned();
    let version = words.next()?.to_owned();
    let plural = words.next()?.to_owned();
    let kind = words.next()?.to_owned();
    let singular = words.next()?.to_owned();
    let namespaced = words.next()? == "namespaced";
    let mut resource = Resource {
        storage_group: group.clone(),
        storage_version: version.clone(),
        storage_plural: plural.clone(),
        group,
        version,
        plural,
        kind,
        singular,
        namespaced,
        short_names: Vec::new(),
        categories: Vec::new(),
        verbs: Vec::new(),
        subresources: Vec::new(),
        columns: Vec::new(),
        schema: Schema::plain(Shape::Raw),
        custom: None,
    };
    for (key, value) in words.filter_map(|word| word.split_once('=')) {
        match key {
            "type" => {
                let place = types().place(value)?;
                resource.schema = Schema::plain(Shape::Object(ObjectRef::Builtin(place)));
            }
            "verbs" => resource.verbs = names(value),
            "short" => resource.short_names = names(value),
            "in" => resource.categories = names(value),
            _ => {}
        }
    }
    // The same objects under two names are stored once, under the richer one.
    match (resource.group.as_str(), resource.version.as_str(), resource.plural.as_str()) {
        ("events.k8s.io", _, "events") => {
            resource.storage_group = String::new();
            resource.storage_version = "v1".to_owned();
        }
        ("autoscaling", "v1", "horizontalpodautoscalers") => {
            resource.storage_version = "v2".to_owned();
        }
        _ => {}
    }
    Some(resource)
}

fn read_column(text: &str) -> Option<Column> {
    let mut words = text.split('|').map(str::to_owned);
    Some(Column {
        name: words.next()?,
        kind: words.next()?,
        format: words.next()?,
        priority: words.next()?.parse().ok()?,
        description: String::new(),
        path: None,
    })
}

fn names(text: &str) -> Vec<String> {
    text.split(',').filter(|name| !name.is_empty() && *name != "-").map(str::to_owned).collect()
}

/// What a cluster has from its first moment: cluster roles and their bindings, priority classes,
/// flow schemas and priority levels, as whole objects without what a server fills in.
#[must_use]
pub fn bootstrap() -> Vec<Value> {
    let mut objects: Vec<Value> = Vec::new();
    for line in BOOTSTRAP.lines() {
        let (word, rest) = line.trim_start().split_once(' ').unwrap_or((line, ""));
        let words: Vec<&str> = rest.split(' ').collect();
        match (word, words.as_slice()) {
            ("role", [name, labels]) => objects.push(rbac("ClusterRole", name, labels)),
            ("binding", [name, labels, role]) => {
                let mut object = rbac("ClusterRoleBinding", name, labels);
                object["roleRef"] = json!({
                    "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role,
                });
                objects.push(object);
            }
            ("object", _) => objects.extend(serde_json::from_str::<Value>(rest)),
            _ => {
                if let Some(last) = objects.last_mut() {
                    read_part(last, word, &words);
                }
            }
        }
    }
    objects
}

fn read_part(object: &mut Value, word: &str, words: &[&str]) {
    let (place, part) = match (word, words) {
        ("aggregate", [labels]) => {
            let selector = json!({"matchLabels": pairs(labels)});
            (&mut object["aggregationRule"]["clusterRoleSelectors"], selector)
        }
        ("rule", words) => {
            let keys = ["verbs", "apiGroups", "resources", "resourceNames", "nonResourceURLs"];
            let mut rule = json!({});
            for (key, list) in keys.into_iter().zip(words).filter(|(_, list)| **list != "-") {
                let list = names(list);
                let plain = |name: String| if name == "core" { String::new() } else { name };
                rule[key] = list.into_iter().map(plain).collect();
            }
            (&mut object["rules"], rule)
        }
        ("subject", [kind, name, namespace]) => {
            let mut subject = json!({"kind": kind, "name": name});
            if *kind == "ServiceAccount" {
                subject["namespace"] = json!(namespace);
            } else {
                subject["apiGroup"] = json!("rbac.authorization.k8s.io");
            }
            (&mut object["subjects"], subject)
        }
        _ => return,
    };
    match place {
        Value::Array(list) => list.push(part),
        other => *other = Value::Array(vec![part]),
    }
}

fn rbac(kind: &str, name: &str, labels: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": kind,
        "metadata": {
            "name": name,
            "labels": pairs(labels),
            "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
        },
    })
}

fn pairs(text: &str) -> Value {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(key, value)| (key.to_owned(), json!(value)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_that_the_facts_name_is_there() {
        for word in TYPES.split([' ', '\n']) {
            let name = word.trim_start_matches("[]").trim_start_matches("{}");
            if name.split('.').nth(1) == Some("v1") && !word.contains('/') && !name.contains("k8s")
            {
                let is_package = name.split('.').count() < 3;
                assert!(is_package || types().place(name).is_some(), "{name}");
            }
        }
        assert!(types().iter().count() > 500);
    }

    #[test]
    fn a_field_carries_its_list_type_and_merge_key() {
        let container = types().named("core.v1.Container").unwrap();
        let ports = &container.fields["ports"].schema;
        let keys = vec!["containerPort".to_owned(), "protocol".to_owned()];
        assert_eq!(ports.list, ListType::Map(keys));
        assert_eq!(ports.merge.key.as_deref(), Some("containerPort"));
        assert!(container.fields["name"].required);
    }

    #[test]
    fn the_bootstrap_roles_are_whole() {
        let objects = bootstrap();
        let admin = objects.iter().find(|one| one["metadata"]["name"] == "cluster-admin").unwrap();
        assert_eq!(admin["rules"][0]["verbs"], json!(["*"]));
        assert_eq!(admin["rules"][1]["nonResourceURLs"], json!(["*"]));
        let edit = objects.iter().find(|one| one["metadata"]["name"] == "system:aggregate-to-edit");
        assert_eq!(edit.unwrap()["rules"][0]["apiGroups"], json!([""]));
        let kinds = ["ClusterRole", "ClusterRoleBinding", "FlowSchema", "PriorityClass"];
        for kind in kinds {
            assert!(objects.iter().any(|one| one["kind"] == kind), "{kind}");
        }
    }
}
