//! The roles and bindings of the cluster, in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::RwLock;

use berth_store::{Change, Entry};
use serde::Deserialize;
use serde_json::Value;

use super::Rule;
use crate::follow::Seen;
use crate::path::Target;
use crate::selector::Labels;
use crate::user::{SERVICE_ACCOUNT, User};

/// The part of the store it follows.
pub(crate) const PREFIX: &str = "/registry/rbac.authorization.k8s.io/";

/// Follows roles and bindings, and judges by them.
#[derive(Default)]
pub(crate) struct Index(RwLock<Held>);

#[derive(Default)]
struct Held {
    cluster_roles: HashMap<String, ClusterRole>,
    roles: HashMap<(String, String), Vec<Rule>>,
    cluster_bindings: HashMap<String, Binding>,
    bindings: HashMap<String, HashMap<String, Binding>>,
}

struct ClusterRole {
    rules: Vec<Rule>,
    labels: BTreeMap<String, String>,
    /// A role whose rules are those of all roles that one of these selects.
    selectors: Option<Vec<Labels>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Binding {
    #[serde(default)]
    subjects: Option<Vec<Subject>>,
    role_ref: RoleRef,
}

#[derive(Deserialize)]
struct Subject {
    kind: String,
    name: String,
    #[serde(default)]
    namespace: Option<String>,
}

#[derive(Deserialize)]
struct RoleRef {
    kind: String,
    name: String,
}

impl Binding {
    fn binds(&self, user: &User, namespace: &str) -> bool {
        self.subject(user, namespace).is_some()
    }

    /// The subject that is this user.
    fn subject(&self, user: &User, namespace: &str) -> Option<&Subject> {
        self.subjects.iter().flatten().find(|subject| match subject.kind.as_str() {
            "User" => subject.name == user.name,
            "Group" => user.is_in(&subject.name),
            "ServiceAccount" => {
                let namespace = subject.namespace.as_deref().unwrap_or(namespace);
                let account = user.name.strip_prefix(SERVICE_ACCOUNT);
                account.and_then(|account| account.split_once(':'))
                    == Some((namespace, subject.name.as_str()))
            }
            _ => false,
        })
    }
}

impl Index {
    /// Takes note of a change.
    pub(crate) fn see(&self, seen: Seen<'_>) {
        let mut held = self.0.write().expect("nothing panics while holding it");
        match seen {
            Seen::All(entries) => {
                *held = Held::default();
                entries.iter().for_each(|entry| held.put(entry));
            }
            Seen::Change(Change::Put { entry, .. }) => held.put(entry),
            Seen::Change(Change::Delete { previous, .. }) => held.remove(&previous.key),
        }
    }

    /// Whether the user may.
    pub(crate) fn allows(&self, user: &User, target: &Target) -> bool {
        if user.is_master() {
            return true;
        }
        let held = self.0.read().expect("nothing panics while holding it");
        held.any_rule(user, &target.namespace, |rule| rule.allows(target))
    }

    /// By which binding the user may, in Kubernetes' words; none when he may not.
    pub(crate) fn reason(&self, user: &User, target: &Target) -> Option<String> {
        if user.is_master() {
            return Some(format!("{} may do anything", crate::user::MASTERS));
        }
        let held = self.0.read().expect("nothing panics while holding it");
        for (name, binding) in &held.cluster_bindings {
            let role = &binding.role_ref.name;
            if let Some(subject) = binding.subject(user, "")
                && held.each_of_cluster_role(role, &mut |rule| rule.allows(target))
            {
                return Some(format!(
                    "RBAC: allowed by ClusterRoleBinding \"{name}\" of ClusterRole \"{role}\" to \
                     {} \"{}\"",
                    subject.kind, subject.name
                ));
            }
        }
        let namespace = target.namespace.as_str();
        for (name, binding) in held.bindings.get(namespace)? {
            let Some(subject) = binding.subject(user, namespace) else { continue };
            let (kind, role) = (&binding.role_ref.kind, &binding.role_ref.name);
            if held.role_of(binding, namespace, &mut |rule| rule.allows(target)) {
                return Some(format!(
                    "RBAC: allowed by RoleBinding \"{name}/{namespace}\" of {kind} \"{role}\" to {} \
                     \"{}\"",
                    subject.kind, subject.name
                ));
            }
        }
        None
    }

    /// All rules the user holds cluster-wide and in the namespace.
    pub(crate) fn rules(&self, user: &User, namespace: &str) -> Vec<Rule> {
        let held = self.0.read().expect("nothing panics while holding it");
        let mut rules = Vec::new();
        if user.is_master() {
            rules.push(star());
        }
        held.any_rule(user, namespace, |rule| {
            rules.push(rule.clone());
            false
        });
        rules
    }

    /// The rules of a role; none when there is no such role.
    pub(crate) fn role(&self, namespace: &str, kind: &str, name: &str) -> Option<Vec<Rule>> {
        let held = self.0.read().expect("nothing panics while holding it");
        if kind == "Role" {
            return held.roles.get(&(namespace.to_owned(), name.to_owned())).cloned();
        }
        held.cluster_roles.contains_key(name).then(|| {
            let mut rules = Vec::new();
            held.each_of_cluster_role(name, &mut |rule| {
                rules.push(rule.clone());
                false
            });
            rules
        })
    }
}

/// What `system:masters` may, as a rule.
fn star() -> Rule {
    let all = || vec!["*".to_owned()];
    Rule {
        verbs: all(),
        api_groups: all(),
        resources: all(),
        resource_names: Vec::new(),
        non_resource_urls: all(),
    }
}

impl Held {
    fn put(&mut self, entry: &Entry) {
        let Some((plural, namespace, name)) = parts(&entry.key) else { return };
        let Ok(object) = serde_json::from_slice::<Value>(&entry.value) else { return };
        let rules = || -> Vec<Rule> {
            Option::<Vec<Rule>>::deserialize(&object["rules"]).ok().flatten().unwrap_or_default()
        };
        match plural {
            "clusterroles" => {
                let selectors = object["aggregationRule"]["clusterRoleSelectors"].as_array();
                let role = ClusterRole {
                    rules: rules(),
                    labels: crate::object::labels(&object),
                    selectors: selectors
                        .map(|list| list.iter().filter_map(Labels::from_value).collect()),
                };
                self.cluster_roles.insert(name.to_owned(), role);
            }
            "roles" => {
                self.roles.insert((namespace.to_owned(), name.to_owned()), rules());
            }
            "clusterrolebindings" => {
                if let Ok(binding) = Binding::deserialize(&object) {
                    self.cluster_bindings.insert(name.to_owned(), binding);
                }
            }
            "rolebindings" => {
                if let Ok(binding) = Binding::deserialize(&object) {
                    let own = self.bindings.entry(namespace.to_owned()).or_default();
                    own.insert(name.to_owned(), binding);
                }
            }
            _ => {}
        }
    }

    fn remove(&mut self, key: &[u8]) {
        let Some((plural, namespace, name)) = parts(key) else { return };
        match plural {
            "clusterroles" => drop(self.cluster_roles.remove(name)),
            "roles" => drop(self.roles.remove(&(namespace.to_owned(), name.to_owned()))),
            "clusterrolebindings" => drop(self.cluster_bindings.remove(name)),
            "rolebindings" => {
                if let Some(own) = self.bindings.get_mut(namespace) {
                    own.remove(name);
                }
            }
            _ => {}
        }
    }

    /// Shows the user's rules one by one until one is found to do.
    fn any_rule(&self, user: &User, namespace: &str, mut fits: impl FnMut(&Rule) -> bool) -> bool {
        let cluster = self.cluster_bindings.values().filter(|binding| binding.binds(user, ""));
        for binding in cluster {
            if self.each_of_cluster_role(&binding.role_ref.name, &mut fits) {
                return true;
            }
        }
        let own = self.bindings.get(namespace).into_iter().flat_map(HashMap::values);
        for binding in own.filter(|binding| binding.binds(user, namespace)) {
            if self.role_of(binding, namespace, &mut fits) {
                return true;
            }
        }
        false
    }

    /// Whether a rule of the role that a binding in a namespace names does.
    fn role_of(
        &self,
        binding: &Binding,
        namespace: &str,
        fits: &mut impl FnMut(&Rule) -> bool,
    ) -> bool {
        let name = &binding.role_ref.name;
        if binding.role_ref.kind == "ClusterRole" {
            return self.each_of_cluster_role(name, fits);
        }
        let role = self.roles.get(&(namespace.to_owned(), name.clone()));
        role.into_iter().flatten().any(fits)
    }

    fn each_of_cluster_role(&self, name: &str, fits: &mut impl FnMut(&Rule) -> bool) -> bool {
        let mut seen = Vec::new();
        let mut todo = vec![name];
        while let Some(name) = todo.pop() {
            if seen.contains(&name) {
                continue;
            }
            seen.push(name);
            let Some(role) = self.cluster_roles.get(name) else { continue };
            match &role.selectors {
                None => {
                    if role.rules.iter().any(&mut *fits) {
                        return true;
                    }
                }
                // Aggregates may themselves be selected: edit is part of admin.
                Some(selectors) => todo.extend(
                    self.cluster_roles
                        .iter()
                        .filter(|(_, other)| {
                            selectors.iter().any(|selector| selector.matches(&other.labels))
                        })
                        .map(|(name, _)| name.as_str()),
                ),
            }
        }
        false
    }
}

fn parts(key: &[u8]) -> Option<(&str, &str, &str)> {
    let rest = std::str::from_utf8(key).ok()?.strip_prefix(PREFIX)?;
    let mut parts = rest.split('/');
    let (plural, second) = (parts.next()?, parts.next()?);
    Some(match parts.next() {
        Some(name) => (plural, second, name),
        None => (plural, "", second),
    })
}
