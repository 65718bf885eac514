//! An answer without what differs by nature, and how two of them differ.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Code and normalised body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    code: u16,
    body: Value,
}

/// Metadata that is each server's own.
const OWN: &[&str] = &["uid", "resourceVersion", "creationTimestamp", "selfLink"];
/// Fields whose values are chosen by the server: only that they are there is compared.
const CHOSEN: &[&str] =
    &["uid", "time", "nodePort", "healthCheckNodePort", "deletionTimestamp", "continue", "token"];
/// What newer Kubernetes knows and 1.20 does not, or the other way round; wherever it stands.
const OTHER_VERSION: &[&str] = &[
    "internalTrafficPolicy",
    "ipFamilies",
    "ipFamilyPolicy",
    "clusterIPs",
    "clusterIP",
    "subresource",
    "storageVersionHash",
    "singularName",
    // As owned fields.
    "f:internalTrafficPolicy",
    "f:ipFamilies",
    "f:ipFamilyPolicy",
    "f:clusterIPs",
    "f:allocateLoadBalancerNodePorts",
    "f:persistentVolumeClaimRetentionPolicy",
    "f:maxSurge",
];
/// What 1.20 owns by its parts and newer Kubernetes as a whole: it became atomic since.
const WHOLE_SINCE: &[&str] = &[
    "f:selector",
    "f:nodeSelector",
    "f:configMapKeyRef",
    "f:secretKeyRef",
    "f:fieldRef",
    "f:resourceFieldRef",
    "f:involvedObject",
    "f:roleRef",
    "f:ownerReferences",
    "f:requiredDuringSchedulingIgnoredDuringExecution",
];
/// Kinds that newer Kubernetes counts the changes of (`metadata.generation`) and 1.20 did not.
const COUNTED_SINCE: &[&str] = &["Pod", "CronJob", "Job", "HorizontalPodAutoscaler"];
/// How a Go value begins in a message; newer Kubernetes writes JSON there.
const GO_VALUES: &[&str] = &[
    "map[string]string{",
    "[]string{",
    "intstr.IntOrString{",
    "core.Toleration{",
    "core.ServicePort{",
    "core.SecurityContext{",
    "v1.LabelSelector{",
    "[]v1.OwnerReference{",
    "[]networking.IngressRule(",
];

impl Answer {
    pub fn new(code: u16, mut body: Value) -> Self {
        normalise(&mut body);
        Self { code, body }
    }

    /// Where this one and `theirs` differ, leaving out the pointers `except`.
    pub fn differences(&self, theirs: &Self, except: &[String]) -> Vec<String> {
        let mut found = Vec::new();
        if self.code != theirs.code && !except.iter().any(|one| one == "code") {
            found.push(format!("code {} | {}", self.code, theirs.code));
        }
        compare("", &self.body, &theirs.body, except, &mut found);
        found
    }
}

fn normalise(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(normalise),
        Value::Object(fields) => {
            if let Some(kind) = fields.get("kind").and_then(Value::as_str).map(str::to_owned) {
                uncounted(fields, &kind);
            }
            if let Some(Value::Object(meta)) = fields.get_mut("metadata") {
                OWN.iter().for_each(|own| drop(meta.remove(*own)));
                let generated = meta.contains_key("generateName");
                if generated && let Some(name) = meta.get_mut("name") {
                    *name = Value::from("<generated>");
                }
            }
            OTHER_VERSION.iter().for_each(|field| drop(fields.remove(*field)));
            for (_, inner) in fields.iter_mut().filter(|(name, _)| is_whole(name)) {
                *inner = Value::from("<owned>");
            }
            for (name, inner) in fields.iter_mut() {
                if CHOSEN.contains(&name.as_str())
                    && !inner.is_object()
                    && !inner.is_null()
                    && inner != ""
                {
                    *inner = Value::from(format!("<{name}>"));
                } else {
                    normalise(inner);
                }
            }
            // An owner of fields says when, and 1.20 did not say through which subresource.
            fields.retain(|_, inner| !inner.is_null());
        }
        Value::String(text) => *text = without_times(text),
        _ => {}
    }
}

fn is_whole(field: &str) -> bool {
    WHOLE_SINCE.contains(&field)
}

/// Takes the count of changes from an object, or the items of a list, of a kind that 1.20 does not
/// count.
fn uncounted(fields: &mut serde_json::Map<String, Value>, kind: &str) {
    let forget = |object: &mut Value| {
        if let Some(Value::Object(meta)) = object.get_mut("metadata") {
            meta.remove("generation");
        }
    };
    if COUNTED_SINCE.contains(&kind) {
        if let Some(Value::Object(meta)) = fields.get_mut("metadata") {
            meta.remove("generation");
        }
    } else if kind.strip_suffix("List").is_some_and(|kind| COUNTED_SINCE.contains(&kind)) {
        let items = fields.get_mut("items").and_then(Value::as_array_mut);
        items.into_iter().flatten().for_each(forget);
    }
}

/// `2026-01-01T00:00:00Z` becomes `<time>`.
fn without_times(text: &str) -> String {
    let is_time = text.len() >= 20
        && text.ends_with('Z')
        && text.as_bytes().get(10) == Some(&b'T')
        && text.as_bytes()[..4].iter().all(u8::is_ascii_digit);
    if is_time { "<time>".to_owned() } else { text.to_owned() }
}

fn compare(at: &str, ours: &Value, theirs: &Value, except: &[String], found: &mut Vec<String>) {
    if except.iter().any(|pattern| covers(pattern, at)) {
        return;
    }
    match (ours, theirs) {
        (Value::Object(one), Value::Object(two)) => {
            let names = one.keys().chain(two.keys().filter(|name| !one.contains_key(*name)));
            for name in names {
                let step = name.replace('~', "~0").replace('/', "~1");
                let get = |map: &serde_json::Map<String, Value>| {
                    map.get(name).cloned().unwrap_or_default()
                };
                compare(&format!("{at}/{step}"), &get(one), &get(two), except, found);
            }
        }
        (Value::Array(one), Value::Array(two)) if one.len() == two.len() => {
            for (index, (mine, other)) in one.iter().zip(two).enumerate() {
                compare(&format!("{at}/{index}"), mine, other, except, found);
            }
        }
        _ if ours == theirs => {}
        (Value::String(one), Value::String(two)) if same_but_for_go(one, two) => {}
        _ => {
            let short = |value: &Value| value.to_string().chars().take(300).collect::<String>();
            found.push(format!("{at}: {} | {}", short(ours), short(theirs)));
        }
    }
}

/// Whether two messages are equal up to the first Go value of theirs, and in how they end.
fn same_but_for_go(ours: &str, theirs: &str) -> bool {
    let Some(at) = GO_VALUES.iter().filter_map(|start| theirs.find(start)).min() else {
        return false;
    };
    let end = theirs.rsplit(": ").next().unwrap_or_default();
    ours.get(..at) == theirs.get(..at) && ours.ends_with(end)
}

/// Whether `pattern` means the pointer `at`.
fn covers(pattern: &str, at: &str) -> bool {
    let (wanted, steps): (Vec<_>, Vec<_>) = (pattern.split('/').collect(), at.split('/').collect());
    wanted.len() == steps.len()
        && wanted.iter().zip(&steps).all(|(one, step)| *one == "*" || one == step)
}
