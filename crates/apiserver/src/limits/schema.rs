//! Which requests are of a flow schema, and of which flow in it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use http::HeaderValue;
use serde_json::Value;

use super::level::Level;
use crate::object;
use crate::path::Target;
use crate::user::{SERVICE_ACCOUNT, User};

/// A compiled FlowSchema.
pub(super) struct Schema {
    pub(super) name: String,
    pub(super) precedence: i64,
    pub(super) level: Arc<Level>,
    pub(super) ids: Option<(HeaderValue, HeaderValue)>,
    by: By,
    /// None takes everything.
    rules: Option<Vec<Rule>>,
}

enum By {
    Nothing,
    User,
    Namespace,
}

struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<OfResources>,
    paths: Vec<OfPaths>,
}

enum Subject {
    User(String),
    Group(String),
    Account { namespace: String, name: String },
}

struct OfResources {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    cluster: bool,
    namespaces: Vec<String>,
}

struct OfPaths {
    verbs: Vec<String>,
    paths: Vec<String>,
}

fn strings(value: &Value) -> Vec<String> {
    let all = value.as_array().into_iter().flatten();
    all.filter_map(|one| one.as_str().map(str::to_owned)).collect()
}

fn has(list: &[String], one: &str) -> bool {
    list.iter().any(|own| own == "*" || own == one)
}

fn list<T>(value: &Value, read: impl FnMut(&Value) -> T) -> Vec<T> {
    value.as_array().into_iter().flatten().map(read).collect()
}

impl Schema {
    pub(super) fn compile(schema: &Value, level: Arc<Level>, level_uid: &str) -> Self {
        let spec = &schema["spec"];
        let header = |uid: &str| HeaderValue::from_str(uid).ok();
        Self {
            name: object::name(schema).to_owned(),
            precedence: spec["matchingPrecedence"].as_i64().unwrap_or(1000),
            level,
            ids: header(object::uid(schema)).zip(header(level_uid)),
            by: match spec["distinguisherMethod"]["type"].as_str() {
                Some("ByUser") => By::User,
                Some("ByNamespace") => By::Namespace,
                _ => By::Nothing,
            },
            rules: Some(list(&spec["rules"], Rule::compile)),
        }
    }

    /// For what no other schema takes.
    pub(super) fn everything(level: Arc<Level>) -> Self {
        let name = "catch-all".to_owned();
        Self { name, precedence: i64::MAX, level, ids: None, by: By::User, rules: None }
    }

    pub(super) fn matches(&self, user: &User, target: &Target) -> bool {
        self.rules.as_ref().is_none_or(|rules| rules.iter().any(|rule| rule.matches(user, target)))
    }

    /// The flow of a request, as a number to deal queues by.
    pub(super) fn flow(&self, user: &User, target: &Target) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.name.hash(&mut hasher);
        match self.by {
            By::Nothing => {}
            By::User => user.name.hash(&mut hasher),
            By::Namespace => target.namespace.hash(&mut hasher),
        }
        hasher.finish()
    }
}

impl Rule {
    fn compile(rule: &Value) -> Self {
        let subject = |subject: &Value| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            match subject["kind"].as_str() {
                Some("User") => Subject::User(text(&subject["user"]["name"])),
                Some("Group") => Subject::Group(text(&subject["group"]["name"])),
                _ => Subject::Account {
                    namespace: text(&subject["serviceAccount"]["namespace"]),
                    name: text(&subject["serviceAccount"]["name"]),
                },
            }
        };
        Self {
            subjects: list(&rule["subjects"], subject),
            resources: list(&rule["resourceRules"], |rule| OfResources {
                verbs: strings(&rule["verbs"]),
                groups: strings(&rule["apiGroups"]),
                resources: strings(&rule["resources"]),
                cluster: rule["clusterScope"] == true,
                namespaces: strings(&rule["namespaces"]),
            }),
            paths: list(&rule["nonResourceRules"], |rule| OfPaths {
                verbs: strings(&rule["verbs"]),
                paths: strings(&rule["nonResourceURLs"]),
            }),
        }
    }

    fn matches(&self, user: &User, target: &Target) -> bool {
        self.subjects.iter().any(|subject| subject.is(user))
            && if target.is_resource {
                self.resources.iter().any(|rule| rule.matches(target))
            } else {
                self.paths.iter().any(|rule| rule.matches(target))
            }
    }
}

impl Subject {
    fn is(&self, user: &User) -> bool {
        match self {
            Self::User(name) => name == "*" || *name == user.name,
            Self::Group(name) => name == "*" || user.is_in(name),
            Self::Account { namespace, name } => {
                let account = user.name.strip_prefix(SERVICE_ACCOUNT);
                account
                    .and_then(|account| account.split_once(':'))
                    .is_some_and(|(of, own)| of == namespace && (name == "*" || own == name))
            }
        }
    }
}

impl OfResources {
    fn matches(&self, target: &Target) -> bool {
        has(&self.verbs, &target.verb)
            && has(&self.groups, &target.group)
            && self.resources.iter().any(|own| of_resource(own, target))
            && if target.namespace.is_empty() {
                self.cluster
            } else {
                has(&self.namespaces, &target.namespace)
            }
    }
}

/// `*`, `nodes`, `nodes/status`.
fn of_resource(own: &str, target: &Target) -> bool {
    match own.split_once('/') {
        None => own == "*" || (target.subresource.is_empty() && own == target.resource),
        Some((resource, sub)) => resource == target.resource && sub == target.subresource,
    }
}

impl OfPaths {
    fn matches(&self, target: &Target) -> bool {
        has(&self.verbs, &target.verb)
            && self.paths.iter().any(|own| match own.strip_suffix('*') {
                Some(start) => target.path.starts_with(start),
                None => *own == target.path,
            })
    }
}
