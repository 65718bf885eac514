//! Differences between what an App asks for and what is there, field by field.
//!
//! Only fields that the App asks for count: what others add is theirs. Items of lists are told apart
//! by what names them in Kubernetes, so that a sidecar is no difference.

use berth_api::Quantity;
use serde_json::{Map, Value, json};

/// What names the items of a list, the first that all of them have and no two share.
const NAMES: [&str; 7] =
    ["mountPath", "name", "containerPort", "host", "port", "uid", "secretName"];
/// Under these keys `1` and `1000m` are the same.
const AMOUNTS: [&str; 2] = ["limits", "requests"];
/// So they are where this is the field itself.
const AMOUNT: &str = "sizeLimit";

/// One step down into an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The field of an object.
    Field(String),
    /// The item of a list that is named so, and by which field.
    Item(&'static str, String),
}

/// One field that is not as wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Where.
    pub path: Vec<Part>,
    /// What is asked for.
    pub wanted: Value,
    /// What is there; null where nothing is.
    pub found: Value,
}

impl Difference {
    /// The path as people read it: `spec.template.spec.containers[hello].image`.
    pub fn field(&self) -> String {
        let mut text = String::new();
        for part in &self.path {
            match part {
                Part::Field(name) => {
                    if !text.is_empty() {
                        text.push('.');
                    }
                    text.push_str(name);
                }
                Part::Item(_, name) => {
                    text.push('[');
                    text.push_str(name);
                    text.push(']');
                }
            }
        }
        text
    }
}

/// Where `found` is not as `wanted` says.
pub fn between(wanted: &Value, found: &Value) -> Vec<Difference> {
    let mut all = Vec::new();
    compare(&mut Vec::new(), wanted, found, &mut all);
    all
}

fn compare(path: &mut Vec<Part>, wanted: &Value, found: &Value, all: &mut Vec<Difference>) {
    match (wanted, found) {
        (Value::Null, _) => {}
        (Value::Object(wanted), Value::Object(found)) => {
            for (key, value) in wanted {
                path.push(Part::Field(key.clone()));
                compare(path, value, found.get(key).unwrap_or(&Value::Null), all);
                path.pop();
            }
        }
        (Value::Array(list), Value::Array(there)) => match named(list).filter(|_| !list.is_empty())
        {
            Some(name) => {
                for item in list {
                    let other = there.iter().find(|other| other[name] == item[name]);
                    path.push(Part::Item(name, plain(&item[name])));
                    compare(path, item, other.unwrap_or(&Value::Null), all);
                    path.pop();
                }
            }
            None => {
                let same = list.len() == there.len()
                    && list.iter().zip(there).all(|(a, b)| between(a, b).is_empty());
                if !same {
                    all.push(difference(path, wanted, found));
                }
            }
        },
        // What is asked for and empty is as good as absent.
        (Value::Object(wanted), Value::Null) if wanted.is_empty() => {}
        (Value::Array(wanted), Value::Null) if wanted.is_empty() => {}
        (Value::Bool(false), Value::Null) => {}
        _ if wanted == found || same_amount(path, wanted, found) => {}
        _ => all.push(difference(path, wanted, found)),
    }
}

fn difference(path: &[Part], wanted: &Value, found: &Value) -> Difference {
    Difference { path: path.to_vec(), wanted: wanted.clone(), found: found.clone() }
}

fn named(list: &[Value]) -> Option<&'static str> {
    NAMES.into_iter().find(|name| {
        let mut seen = Vec::new();
        list.iter().all(|item| {
            let value = &item[*name];
            let fresh = !value.is_null() && !seen.contains(&value);
            seen.push(value);
            fresh
        })
    })
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn same_amount(path: &[Part], wanted: &Value, found: &Value) -> bool {
    let holder = path.len().checked_sub(2).and_then(|index| path.get(index));
    let amount = matches!(holder, Some(Part::Field(name)) if AMOUNTS.contains(&name.as_str()))
        || matches!(path.last(), Some(Part::Field(name)) if name == AMOUNT);
    let parse = |value: &Value| plain(value).parse::<Quantity>().ok();
    amount && parse(wanted).is_some() && parse(wanted) == parse(found)
}

/// `object` without what is at `path`: a field that is somebody else's now.
pub fn without(object: &mut Value, path: &[Part]) {
    let Some((first, rest)) = path.split_first() else { return };
    match first {
        Part::Field(name) if rest.is_empty() => {
            if let Some(map) = object.as_object_mut() {
                map.remove(name);
            }
        }
        Part::Field(name) => {
            if let Some(next) = object.get_mut(name) {
                without(next, rest);
            }
        }
        Part::Item(by, name) => {
            let items = object.as_array_mut().into_iter().flatten();
            for item in items.filter(|item| plain(&item[*by]) == *name) {
                without(item, rest);
            }
        }
    }
}

/// What the App would have to say for `difference` in its workload to be none; `None` where an App
/// has no word for it.
pub fn adopted(app: &str, difference: &Difference) -> Option<Value> {
    let found = &difference.found;
    let field = difference.field();
    if field == "spec.replicas" {
        return Some(json!({ "replicas": found }));
    }
    let rest = field.strip_prefix(&format!("spec.template.spec.containers[{app}]."))?;
    if let Some(name) = rest.strip_prefix("env[").and_then(|rest| rest.strip_suffix("].value")) {
        return Some(json!({ "env": { name: found } }));
    }
    match rest.split('.').collect::<Vec<_>>().as_slice() {
        ["image"] if found.is_string() => Some(json!({ "image": found })),
        [list @ ("command" | "args")] => Some(single(list, found.clone())),
        ["resources", part @ ("limits" | "requests"), amount @ ("cpu" | "memory")] => {
            let inner = single(part, single(amount, found.clone()));
            Some(json!({ "resources": inner }))
        }
        _ => None,
    }
}

fn single(key: &str, value: Value) -> Value {
    Value::Object(Map::from_iter([(key.to_owned(), value)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(wanted: Value, found: Value) -> Vec<String> {
        between(&wanted, &found).iter().map(Difference::field).collect()
    }

    #[test]
    fn only_what_is_asked_for_can_differ() {
        let none: [&str; 0] = [];
        assert_eq!(fields(json!({ "a": 1 }), json!({ "a": 1, "b": 2 })), none);
        assert_eq!(fields(json!({ "a": { "b": 1 } }), json!({ "a": { "b": 2 } })), ["a.b"]);
        assert_eq!(fields(json!({ "a": 1 }), json!({})), ["a"]);
        let list = |items: Value| json!({ "containers": items });
        let web = json!({ "name": "web", "image": "a" });
        let sidecar = json!({ "name": "mesh", "image": "m" });
        assert_eq!(fields(list(json!([web])), list(json!([sidecar, web]))), none);
        let other = json!({ "name": "web", "image": "b" });
        assert_eq!(fields(list(json!([web])), list(json!([other]))), ["containers[web].image"]);
        assert_eq!(fields(json!({ "args": ["a"] }), json!({ "args": ["a", "b"] })), ["args"]);
    }

    #[test]
    fn amounts_are_compared_by_what_they_are() {
        let limits = |cpu: &str| json!({ "limits": { "cpu": cpu } });
        assert!(between(&limits("1000m"), &limits("1")).is_empty());
        assert_eq!(between(&limits("1"), &limits("2")).len(), 1);
        assert_eq!(between(&json!({ "env": "1000m" }), &json!({ "env": "1" })).len(), 1);
        let scratch = |size: &str| json!({ "emptyDir": { "sizeLimit": size } });
        assert!(between(&scratch("1024Mi"), &scratch("1Gi")).is_empty());
        assert_eq!(fields(scratch("2Gi"), scratch("1Gi")), ["emptyDir.sizeLimit"]);
    }

    #[test]
    fn mounts_of_one_volume_are_told_apart_by_their_path() {
        let mount =
            |path: &str, sub: &str| json!({ "name": "c", "mountPath": path, "subPath": sub });
        let wanted = json!({ "m": [mount("/a", "1"), mount("/b", "2")] });
        let found = json!({ "m": [mount("/b", "2"), mount("/a", "3")] });
        assert_eq!(fields(wanted, found), ["m[/a].subPath"]);
    }

    #[test]
    fn what_an_app_can_say_is_taken_into_it() {
        let found = |path: &str, container: Value, wanted: Value| {
            let of = |c: &Value| {
                json!({ "spec": { "replicas": c["replicas"],
                "template": { "spec": { "containers": [c] } } } })
            };
            let all = between(&of(&wanted), &of(&container));
            let one = all.iter().find(|one| one.field().ends_with(path)).unwrap();
            adopted("web", one)
        };
        let base = json!({ "name": "web", "image": "a", "replicas": 2,
            "env": [{ "name": "A", "value": "1" }], "lifecycle": { "x": 1 } });
        let changed = json!({ "name": "web", "image": "b", "replicas": 5,
            "env": [{ "name": "A", "value": "2" }], "lifecycle": { "x": 2 } });
        let check = |path: &str| found(path, changed.clone(), base.clone());
        assert_eq!(check("image"), Some(json!({ "image": "b" })));
        assert_eq!(check("spec.replicas"), Some(json!({ "replicas": 5 })));
        assert_eq!(check("value"), Some(json!({ "env": { "A": "2" } })));
        assert_eq!(check("lifecycle.x"), None);
    }

    #[test]
    fn a_field_that_is_somebody_elses_is_left_out() {
        let wanted = json!({ "c": [{ "name": "a", "x": 1, "y": 2 }] });
        let found = json!({ "c": [{ "name": "a", "x": 5, "y": 2 }] });
        let mut left = wanted.clone();
        without(&mut left, &between(&wanted, &found)[0].path);
        assert_eq!(left, json!({ "c": [{ "name": "a", "y": 2 }] }));
    }
}
