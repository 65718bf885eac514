//! Label and field selectors of list, watch and deletecollection.

use std::borrow::Cow;
use std::collections::BTreeMap;

use berth_api::selector::{SelectorError, Wanted};
use berth_schema::Resource;
use memchr::memmem;
use serde::Deserialize;
use serde_json::Value;

use crate::status::Failure;

/// One requirement on a label.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
    Greater(String, i64),
    Less(String, i64),
}

/// A label selector; the empty one matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Vec<Requirement>);

impl Labels {
    /// Parses `a=b,c!=d,e in (f,g),!h`.
    ///
    /// # Errors
    /// 400 when it is no selector.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let parsed: berth_api::selector::Selector =
            text.parse().map_err(|wrong: SelectorError| Failure::bad_request(wrong.to_string()))?;
        let requirements = parsed.requirements().iter().map(|one| {
            let key = one.key.clone();
            match &one.wanted {
                Wanted::In(values) => Requirement::In(key, values.clone()),
                Wanted::NotIn(values) => Requirement::NotIn(key, values.clone()),
                Wanted::Exists => Requirement::Exists(key),
                Wanted::Missing => Requirement::Absent(key),
                Wanted::Above(than) => Requirement::Greater(key, *than),
                Wanted::Below(than) => Requirement::Less(key, *than),
            }
        });
        Ok(Self(requirements.collect()))
    }

    /// From an object's `matchLabels` and `matchExpressions`; none when it is malformed.
    pub fn from_value(selector: &Value) -> Option<Self> {
        let mut requirements = Vec::new();
        if let Some(labels) = selector["matchLabels"].as_object() {
            for (key, value) in labels {
                let value = value.as_str()?.to_owned();
                requirements.push(Requirement::In(key.clone(), vec![value]));
            }
        }
        for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
            let key = expression["key"].as_str()?.to_owned();
            let values = || -> Vec<String> {
                let values = expression["values"].as_array().into_iter().flatten();
                values.filter_map(|value| value.as_str().map(str::to_owned)).collect()
            };
            requirements.push(match expression["operator"].as_str()? {
                "In" => Requirement::In(key, values()),
                "NotIn" => Requirement::NotIn(key, values()),
                "Exists" => Requirement::Exists(key),
                "DoesNotExist" => Requirement::Absent(key),
                _ => return None,
            });
        }
        Some(Self(requirements))
    }

    /// Whether it matches everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether labels fulfil it.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => {
                labels.get(key).is_some_and(|value| values.contains(value))
            }
            Requirement::NotIn(key, values) => {
                labels.get(key).is_none_or(|value| !values.contains(value))
            }
            Requirement::Exists(key) => labels.contains_key(key),
            Requirement::Absent(key) => !labels.contains_key(key),
            Requirement::Greater(key, than) => number(labels, key).is_some_and(|own| own > *than),
            Requirement::Less(key, than) => number(labels, key).is_some_and(|own| own < *than),
        })
    }
}

fn number(labels: &BTreeMap<String, String>, key: &str) -> Option<i64> {
    labels.get(key)?.parse().ok()
}

/// A field selector; the empty one matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(Vec<(String, bool, String)>);

/// What may be selected by, beside `metadata.name` and `metadata.namespace`.
const SELECTABLE: &[(&str, &str, &[&str])] = &[
    (
        "",
        "pods",
        &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ],
    ),
    (
        "",
        "events",
        &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
    ),
    ("", "secrets", &["type"]),
    ("", "namespaces", &["status.phase"]),
    ("", "nodes", &["spec.unschedulable"]),
    ("", "services", &["spec.clusterIP", "spec.type"]),
    ("", "replicationcontrollers", &["status.replicas"]),
    ("apps", "replicasets", &["status.replicas"]),
    ("batch", "jobs", &["status.successful"]),
    ("certificates.k8s.io", "certificatesigningrequests", &["spec.signerName"]),
];

impl Fields {
    /// Parses `metadata.name=a,status.phase!=b` for a resource.
    ///
    /// # Errors
    /// 400 when it is no selector or names a field the resource cannot be selected by.
    pub fn parse(text: &str, resource: &Resource) -> Result<Self, Failure> {
        let mut terms = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (key, equal, value) = ["!=", "==", "="]
                .iter()
                .find_map(|sign| {
                    let (key, value) = part.split_once(sign)?;
                    Some((key.trim(), *sign != "!=", value.trim()))
                })
                .ok_or_else(|| {
                    let what = format!("invalid selector: '{text}'; can't understand '{part}'");
                    Failure::bad_request(what)
                })?;
            if value.contains('=') {
                let what = "invalid field selector: unescaped character in value: 61";
                return Err(Failure::bad_request(what));
            }
            let key = &as_stored(resource, key);
            if !selectable(resource, key) {
                return Err(Failure::bad_request(format!(
                    "Unable to find {:?} that match label selector \"\", field selector \
                     {text:?}: field label not supported: {key}",
                    resource.plural
                )));
            }
            terms.push((key.to_owned(), equal, value.to_owned()));
        }
        Ok(Self(terms))
    }

    /// Whether it matches everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether name and namespace are all it asks for.
    pub fn only_identity(&self) -> bool {
        self.0.iter().all(|(key, ..)| key.starts_with("metadata."))
    }

    /// Whether an object fulfils it.
    pub fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|(key, equal, value)| (field(object, key) == *value) == *equal)
    }

    /// The node that a pod must be on to fulfil it.
    pub(crate) fn node(&self) -> Option<&str> {
        let mut nodes = self
            .0
            .iter()
            .filter(|(key, equal, value)| *equal && key == "spec.nodeName" && is_plain(value));
        nodes.next().map(|(.., value)| value.as_str())
    }

    /// As [`Fields::matches`] for stored JSON, without building the object; none for selectors of
    /// more than the few fields that everybody selects pods by.
    pub(crate) fn matches_stored(&self, stored: &[u8]) -> Option<bool> {
        #[derive(Deserialize, Default)]
        struct Pod<'a> {
            #[serde(borrow, default)]
            spec: Spec<'a>,
            #[serde(borrow, default)]
            status: Status<'a>,
        }
        #[derive(Deserialize, Default)]
        struct Spec<'a> {
            #[serde(borrow, default, rename = "nodeName")]
            node_name: Option<Cow<'a, str>>,
        }
        #[derive(Deserialize, Default)]
        struct Status<'a> {
            #[serde(borrow, default)]
            phase: Option<Cow<'a, str>>,
        }
        let known = |key: &str| matches!(key, "spec.nodeName" | "status.phase");
        if !self.0.iter().all(|(key, ..)| known(key)) {
            return None;
        }
        let pod: Pod<'_> = serde_json::from_slice(stored).ok()?;
        Some(self.0.iter().all(|(key, equal, value)| {
            let own = if key == "spec.nodeName" { &pod.spec.node_name } else { &pod.status.phase };
            (own.as_deref().unwrap_or_default() == value) == *equal
        }))
    }

    /// Whether bytes of stored JSON can fulfil it; `false` is certain. Saves parsing 25,000 pods
    /// to find those of one node.
    pub(crate) fn may_match(&self, stored: &[u8]) -> bool {
        self.0.iter().all(|(key, equal, value)| {
            if !equal
                || !is_plain(value)
                || !matches!(key.as_str(), "spec.nodeName" | "status.phase")
            {
                return true;
            }
            let field = key.rsplit('.').next().unwrap_or_default();
            memmem::find(stored, format!("\"{field}\":\"{value}\"").as_bytes()).is_some()
        })
    }

    /// Whether a name and a namespace fulfil it, when those are all it asks for.
    pub fn matches_identity(&self, namespace: &str, name: &str) -> bool {
        self.0.iter().all(|(key, equal, value)| {
            let own = if key == "metadata.name" { name } else { namespace };
            (own == value) == *equal
        })
    }
}

/// Whether a value is written in JSON as it is. Anything else may be escaped, left out, or no
/// string.
fn is_plain(value: &str) -> bool {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    !value.is_empty() && value.bytes().all(fine)
}

/// Events of the newer group are selected by its own names, and stored under the older ones.
fn as_stored(resource: &Resource, key: &str) -> String {
    if resource.group != "events.k8s.io" {
        return key.to_owned();
    }
    match key.strip_prefix("regarding.") {
        Some(rest) => format!("involvedObject.{rest}"),
        None => key.replace("reportingController", "reportingComponent"),
    }
}

fn selectable(resource: &Resource, key: &str) -> bool {
    if key == "metadata.name" || (key == "metadata.namespace" && resource.namespaced) {
        return true;
    }
    if resource.custom.as_ref().is_some_and(|own| own.selectable.iter().any(|one| one == key)) {
        return true;
    }
    SELECTABLE.iter().any(|(group, plural, fields)| {
        (*group == resource.storage_group && *plural == resource.storage_plural)
            && fields.contains(&key)
    })
}

fn field(object: &Value, key: &str) -> String {
    if key == "source" {
        return object["source"]["component"].as_str().unwrap_or_default().to_owned();
    }
    let mut value = object;
    for part in key.split('.') {
        value = &value[part];
    }
    match value {
        Value::String(text) => text.clone(),
        Value::Null if matches!(key, "spec.unschedulable" | "spec.hostNetwork") => {
            "false".to_owned()
        }
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn label_selectors_match_as_kubernetes_says() {
        let own = labels(&[("app", "web"), ("tier", "front"), ("n", "5")]);
        let check = |text: &str, expected: bool| {
            assert_eq!(Labels::parse(text).unwrap().matches(&own), expected, "{text}");
        };
        check("", true);
        check("app=web", true);
        check("app==web,tier=front", true);
        check("app!=web", false);
        check("missing!=x", true);
        check("app in (web, api)", true);
        check("app notin (web,api)", false);
        check("missing notin (a)", true);
        check("app", true);
        check("!app", false);
        check("!missing", true);
        check("n>4", true);
        check("n<5", false);
        check("app in (web),tier notin (back)", true);
    }

    #[test]
    fn bytes_are_left_out_only_when_the_object_would_be() {
        let catalog = berth_schema::Catalog::builtin();
        let pods = catalog.resource("", "v1", "pods").unwrap();
        let objects = [
            serde_json::json!({"spec": {"nodeName": "a"}, "status": {"phase": "Running"}}),
            serde_json::json!({"spec": {"nodeName": "a-1"}, "status": {"phase": "Failed"}}),
            serde_json::json!({"metadata": {"annotations": {"nodeName": "a"}}, "spec": {}}),
            serde_json::json!({"spec": {"hostNetwork": true}}),
        ];
        let mut left_out = 0;
        for text in [
            "spec.nodeName=a",
            "spec.nodeName!=a",
            "spec.nodeName=",
            "spec.nodeName=a,status.phase=Running",
            "status.phase!=Failed",
            "spec.hostNetwork=true",
            "spec.hostNetwork=false",
        ] {
            let fields = Fields::parse(text, pods).unwrap();
            for object in &objects {
                let may = fields.may_match(&serde_json::to_vec(object).unwrap());
                assert!(may || !fields.matches(object), "{text} of {object}");
                let stored = fields.matches_stored(&serde_json::to_vec(object).unwrap());
                let wanted = (!text.contains("hostNetwork")).then(|| fields.matches(object));
                assert_eq!(stored, wanted, "{text} of {object}");
                left_out += usize::from(!may);
            }
        }
        assert_eq!(left_out, 5);
    }

    #[test]
    fn nonsense_is_no_selector() {
        for text in ["=a", "a in b", "a=b,,c=d", "a=(b)", "a==b c"] {
            assert!(Labels::parse(text).is_err(), "{text}");
        }
    }
}
