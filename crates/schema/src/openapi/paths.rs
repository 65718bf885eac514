//! Paths and their operations.

use serde_json::{Map, Value, json};

use super::models::{gvk, long, name_of};
use super::{Dialect, place};
use crate::{Gvk, Resource, Subresource, facts};

/// The bodies that a patch may have.
const PATCHES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// What a list may be asked with.
const LISTING: [(&str, &str); 11] = [
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("pretty", "string"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
/// What a write may be asked with.
const WRITING: [(&str, &str); 4] = [
    ("dryRun", "string"),
    ("fieldManager", "string"),
    ("fieldValidation", "string"),
    ("pretty", "string"),
];
/// What a deletion may be asked with.
const DELETING: [(&str, &str); 5] = [
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
    ("pretty", "string"),
];

/// Adds the paths of a resource and its subresources.
pub fn add(paths: &mut Map<String, Value>, resource: &Resource, dialect: Dialect) {
    let root = format!("/{}", place(&resource.group, &resource.version));
    let plural = &resource.plural;
    let kind = Gvk {
        group: resource.group.clone(),
        version: resource.version.clone(),
        kind: resource.kind.clone(),
    };
    let write = Writer { resource, dialect, kind, model: name_of(resource), sub: "" };
    let collection = if resource.namespaced {
        let all = write.item(&[("get", "list")], false);
        if resource.allows("list") {
            paths.insert(format!("{root}/{plural}"), all);
        }
        format!("{root}/namespaces/{{namespace}}/{plural}")
    } else {
        format!("{root}/{plural}")
    };
    let on_all = [("get", "list"), ("post", "create"), ("delete", "deletecollection")];
    put(paths, collection.clone(), write.item(&on_all, resource.namespaced));
    let one = format!("{collection}/{{name}}");
    let on_one = [("get", "get"), ("put", "update"), ("patch", "patch"), ("delete", "delete")];
    put(paths, one.clone(), write.named(&on_one));
    for sub in &resource.subresources {
        let write = write.below(sub);
        let verbs = [("get", "get"), ("put", "update"), ("patch", "patch"), ("post", "create")];
        put(paths, format!("{one}/{}", sub.name), write.named(&verbs));
    }
}

fn put(paths: &mut Map<String, Value>, path: String, item: Value) {
    let has_operation = item.as_object().is_some_and(|item| item.len() > 1);
    if has_operation {
        paths.insert(path, item);
    }
}

struct Writer<'a> {
    resource: &'a Resource,
    dialect: Dialect,
    kind: Gvk,
    model: String,
    sub: &'a str,
}

impl<'a> Writer<'a> {
    fn below(&self, sub: &'a Subresource) -> Writer<'a> {
        let known = facts::types().of_kind(&sub.kind).map(|at| long(&facts::types().at(at).name));
        let model =
            if sub.kind == self.kind { self.model.clone() } else { known.unwrap_or_default() };
        Writer {
            resource: self.resource,
            dialect: self.dialect,
            kind: sub.kind.clone(),
            model,
            sub: &sub.name,
        }
    }

    fn allows(&self, verb: &str) -> bool {
        match self.resource.subresource(self.sub) {
            Some(sub) => sub.verbs.iter().any(|known| known == verb),
            None => self.resource.allows(verb),
        }
    }

    fn named(&self, verbs: &[(&str, &str)]) -> Value {
        let mut item = self.item(verbs, self.resource.namespaced);
        if let Some(parameters) = item["parameters"].as_array_mut() {
            parameters.insert(0, self.path_parameter("name"));
        }
        item
    }

    /// A path's operations and the parameters in the path itself.
    fn item(&self, verbs: &[(&str, &str)], in_namespace: bool) -> Value {
        let mut item = Map::new();
        for (method, verb) in verbs {
            if self.allows(verb) {
                item.insert((*method).to_owned(), self.operation(verb, in_namespace));
            }
        }
        let parameters =
            if in_namespace { vec![self.path_parameter("namespace")] } else { Vec::new() };
        item.insert("parameters".to_owned(), Value::Array(parameters));
        Value::Object(item)
    }

    fn operation(&self, verb: &str, in_namespace: bool) -> Value {
        let (action, query): (&str, &[(&str, &str)]) = match verb {
            "list" => ("list", &LISTING),
            "get" => ("get", &[("pretty", "string")]),
            "create" => ("post", &WRITING),
            "update" => ("put", &WRITING),
            "patch" => ("patch", &WRITING),
            "delete" => ("delete", &DELETING),
            _ => ("deletecollection", &LISTING),
        };
        let mut parameters: Vec<Value> =
            query.iter().map(|(name, kind)| self.query_parameter(name, kind)).collect();
        if verb == "patch" {
            parameters.push(self.query_parameter("force", "boolean"));
        }
        let answer = match verb {
            "list" => format!("{}List", self.model),
            "delete" | "deletecollection" => long("meta.v1.Status"),
            _ => self.model.clone(),
        };
        let body = match verb {
            "create" | "update" => Some(self.model.clone()),
            "patch" => Some(long("meta.v1.Patch")),
            "delete" | "deletecollection" => Some(long("meta.v1.DeleteOptions")),
            _ => None,
        };
        let Gvk { group, version, kind } = &self.kind;
        let mut operation = json!({
            "operationId": self.id(verb, in_namespace),
            "responses": {"200": self.response(&answer)},
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": gvk(group, version, kind),
        });
        let strategic = "application/strategic-merge-patch+json";
        let custom = self.resource.custom.is_some();
        let bodies: Vec<&str> = match verb {
            // Clients take the first kind of patch that they find here.
            "patch" => PATCHES.into_iter().filter(|kind| !custom || *kind != strategic).collect(),
            _ => vec!["*/*"],
        };
        match (self.dialect, body.filter(|name| !name.is_empty())) {
            (_, None) => {}
            (Dialect::V2, Some(name)) => {
                operation["consumes"] = json!(bodies);
                parameters.insert(
                    0,
                    json!({
                        "name": "body", "in": "body", "required": !verb.starts_with("delete"),
                        "schema": self.dialect.reference(&name),
                    }),
                );
            }
            (Dialect::V3, Some(name)) => {
                let schema = json!({"schema": self.dialect.reference(&name)});
                let content = bodies.iter().map(|kind| ((*kind).to_owned(), schema.clone()));
                let content: Map<String, Value> = content.collect();
                operation["requestBody"] = json!({"content": content});
            }
        }
        if self.dialect == Dialect::V2 {
            operation["produces"] = json!(["application/json", "application/yaml"]);
        }
        operation["parameters"] = Value::Array(parameters);
        operation
    }

    fn response(&self, model: &str) -> Value {
        let mut response = json!({"description": "OK"});
        if model.is_empty() {
            return response;
        }
        let schema = self.dialect.reference(model);
        match self.dialect {
            Dialect::V2 => response["schema"] = schema,
            Dialect::V3 => {
                response["content"] = json!({"application/json": {"schema": schema}});
            }
        }
        response
    }

    fn query_parameter(&self, name: &str, kind: &str) -> Value {
        match self.dialect {
            Dialect::V2 => json!({"name": name, "in": "query", "type": kind, "uniqueItems": true}),
            Dialect::V3 => {
                json!({"name": name, "in": "query", "schema": {"type": kind, "uniqueItems": true}})
            }
        }
    }

    fn path_parameter(&self, name: &str) -> Value {
        match self.dialect {
            Dialect::V2 => json!({
                "name": name, "in": "path", "required": true, "type": "string", "uniqueItems": true,
            }),
            Dialect::V3 => json!({
                "name": name, "in": "path", "required": true,
                "schema": {"type": "string", "uniqueItems": true},
            }),
        }
    }

    /// `listCoreV1NamespacedPod`, as generated clients name their functions.
    fn id(&self, verb: &str, in_namespace: bool) -> String {
        let verb = match verb {
            "get" => "read",
            "update" => "replace",
            "deletecollection" => "deleteCollection",
            other => other,
        };
        let group = self.resource.group.split('.').next().filter(|group| !group.is_empty());
        let all = self.resource.namespaced && !in_namespace;
        let parts = [
            capital(group.unwrap_or("core")),
            capital(&self.resource.version),
            if in_namespace { "Namespaced".to_owned() } else { String::new() },
            self.resource.kind.clone(),
            capital(self.sub),
            if all { "ForAllNamespaces".to_owned() } else { String::new() },
        ];
        format!("{verb}{}", parts.concat())
    }
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    let first = chars.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(chars).collect()
}
