//! What the cluster's owner laid down, in memory: webhooks, policies, rules of custom resources;
//! and a request in the form in which they judge it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, RwLock};

use berth_guard::cel::{Authorize, Question};
use berth_guard::policy::{Binding, Policy};
use berth_guard::structural::Rules;
use berth_guard::webhook::Webhook;
use berth_guard::{Attributes, Equivalent, Fault, Kind, Place};
use berth_schema::{Cause, Resource};
use berth_store::{Change, Entry, Store};
use serde_json::{Value, json};

use super::webhook_client::Line;
use super::{Asked, Operation};
use crate::follow::Seen;
use crate::path::Target;
use crate::server::Core;
use crate::status::Failure;
use crate::user::User;

/// The part of the store it follows.
pub(crate) const PREFIX: &str = "/registry/admissionregistration.k8s.io/";

/// A webhook and the line to it; no line when its configuration cannot be used.
pub(super) struct Hook {
    pub(super) webhook: Webhook,
    pub(super) line: Result<Line, String>,
}

/// Everything laid down, by the names of the objects.
#[derive(Default, Clone)]
pub(super) struct Held {
    pub(super) mutating: BTreeMap<String, Vec<Arc<Hook>>>,
    pub(super) validating: BTreeMap<String, Vec<Arc<Hook>>>,
    pub(super) policies: BTreeMap<String, Arc<Policy>>,
    pub(super) bindings: BTreeMap<String, Arc<Binding>>,
}

type ByVersion = HashMap<String, Arc<Rules>>;

/// Follows what the cluster's owner lays down.
#[derive(Default)]
pub(crate) struct Guards {
    held: RwLock<Arc<Held>>,
    /// The rules of custom resources, by definition and version.
    rules: RwLock<HashMap<String, ByVersion>>,
}

impl Guards {
    /// Takes note of a change under [`PREFIX`].
    pub(crate) fn see(&self, store: &Arc<dyn Store>, seen: Seen<'_>) {
        let mut held = match seen {
            Seen::All(_) => Held::default(),
            Seen::Change(_) => Held::clone(&self.held()),
        };
        match seen {
            Seen::All(entries) => entries.iter().for_each(|entry| held.put(store, entry)),
            Seen::Change(Change::Put { entry, .. }) => held.put(store, entry),
            Seen::Change(Change::Delete { previous, .. }) => held.remove(&previous.key),
        }
        *self.held.write().expect("nothing panics while holding it") = Arc::new(held);
    }

    /// Whether there is no webhook and no policy in force.
    pub(crate) fn want_nothing(&self) -> bool {
        let held = self.held.read().expect("nothing panics while holding it");
        let is_policed = !held.policies.is_empty() && !held.bindings.is_empty();
        !is_policed && held.mutating.is_empty() && held.validating.is_empty()
    }

    pub(super) fn held(&self) -> Arc<Held> {
        Arc::clone(&self.held.read().expect("nothing panics while holding it"))
    }

    /// Takes up the rules of a definition, in place of those it had.
    pub(crate) fn define(&self, definition: &Value) {
        let name = crate::object::name(definition).to_owned();
        let mut found = HashMap::new();
        for version in definition["spec"]["versions"].as_array().into_iter().flatten() {
            let schema = &version["schema"]["openAPIV3Schema"];
            if let Some(rules) = Rules::compile(schema, "", &mut Vec::new()) {
                let version = version["name"].as_str().unwrap_or_default();
                found.insert(version.to_owned(), Arc::new(rules));
            }
        }
        let mut rules = self.rules.write().expect("nothing panics while holding it");
        rules.insert(name, found);
    }

    /// Every definition that is known, served or not.
    pub(crate) fn defined(&self) -> Vec<String> {
        self.rules.read().expect("nothing panics while holding it").keys().cloned().collect()
    }

    /// Forgets a definition.
    pub(crate) fn undefine(&self, name: &str) {
        self.rules.write().expect("nothing panics while holding it").remove(name);
    }

    pub(super) fn rules(&self, resource: &Resource) -> Option<Arc<Rules>> {
        let custom = resource.custom.as_ref()?;
        let rules = self.rules.read().expect("nothing panics while holding it");
        rules.get(&custom.definition)?.get(&resource.version).cloned()
    }
}

impl Held {
    fn put(&mut self, store: &Arc<dyn Store>, entry: &Entry) {
        let Some((plural, name)) = parts(&entry.key) else { return };
        let Ok(object) = serde_json::from_slice::<Value>(&entry.value) else { return };
        let hooks = || -> Vec<Arc<Hook>> {
            let read = Webhook::read_all(&object).into_iter();
            read.map(|webhook| {
                let line = Line::new(&webhook.client, Arc::clone(store));
                Arc::new(Hook { webhook, line })
            })
            .collect()
        };
        let name = name.to_owned();
        match plural {
            "mutatingwebhookconfigurations" => drop(self.mutating.insert(name, hooks())),
            "validatingwebhookconfigurations" => drop(self.validating.insert(name, hooks())),
            "validatingadmissionpolicies" => {
                self.policies.insert(name, Arc::new(Policy::read(&object)));
            }
            "validatingadmissionpolicybindings" => {
                self.bindings.insert(name, Arc::new(Binding::read(&object)));
            }
            _ => {}
        }
    }

    fn remove(&mut self, key: &[u8]) {
        let Some((plural, name)) = parts(key) else { return };
        match plural {
            "mutatingwebhookconfigurations" => drop(self.mutating.remove(name)),
            "validatingwebhookconfigurations" => drop(self.validating.remove(name)),
            "validatingadmissionpolicies" => drop(self.policies.remove(name)),
            "validatingadmissionpolicybindings" => drop(self.bindings.remove(name)),
            _ => {}
        }
    }
}

fn parts(key: &[u8]) -> Option<(&str, &str)> {
    std::str::from_utf8(key).ok()?.strip_prefix(PREFIX)?.split_once('/')
}

/// Asks the roles of the cluster on behalf of the user of a request.
struct Permissions {
    core: Arc<Core>,
    user: Arc<User>,
}

impl Authorize for Permissions {
    fn allows(&self, question: &Question) -> bool {
        let target = Target {
            is_resource: question.path.is_empty(),
            verb: question.verb.clone(),
            group: question.group.clone(),
            namespace: question.namespace.clone(),
            resource: question.resource.clone(),
            subresource: question.subresource.clone(),
            name: question.name.clone(),
            path: question.path.clone(),
            ..Target::default()
        };
        match &question.service_account {
            Some((namespace, name)) => {
                self.core.rbac.allows(&User::service_account(namespace, name, ""), &target)
            }
            None => self.core.rbac.allows(&self.user, &target),
        }
    }
}

/// A request, ready to be judged.
pub(super) struct Matched {
    pub(super) request: Attributes,
    pub(super) others: Vec<Equivalent>,
    pub(super) authorize: Arc<dyn Authorize>,
}

/// The request in the words of admission.
pub(super) async fn matched(asked: &Asked<'_>, new: Option<&Value>) -> Result<Matched, Failure> {
    let Asked { core, call, resource, .. } = *asked;
    let user = &call.user;
    let subresource = asked.subresource.unwrap_or_default();
    let below = resource.subresource(subresource).map(|found| &found.kind);
    let kind = below.map_or_else(
        || kind(resource),
        |kind| Kind {
            group: kind.group.clone(),
            version: kind.version.clone(),
            kind: kind.kind.clone(),
        },
    );
    let (mut object, mut old) = (new.cloned(), asked.old.cloned());
    let mut operation = asked.operation;
    match subresource {
        "scale" => {
            let view = |object: Value| crate::subresources::scale_view(resource, &object);
            (object, old) = (object.map(view), old.map(view));
        }
        // The pod changes; what was asked is that it be bound.
        "binding" => {
            (object, old) = (Some(call.body_value()?), None);
            operation = Operation::Create;
        }
        _ => {}
    }
    let namespaced = resource.namespaced;
    let namespace_object = if namespaced {
        core.core_object("namespaces", "", asked.namespace).await?.unwrap_or_default()
    } else {
        Value::Null
    };
    let dry_run = if asked.dry_run { json!(["All"]) } else { Value::Null };
    let (operation, options) = match operation {
        Operation::Create => ("CREATE", "CreateOptions"),
        Operation::Update => ("UPDATE", "UpdateOptions"),
        Operation::Delete => ("DELETE", "DeleteOptions"),
        Operation::Connect => ("CONNECT", ""),
    };
    let mut options = match options {
        "" => Value::Null,
        kind => json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"}),
    };
    if !dry_run.is_null() && options.is_object() {
        options["dryRun"] = dry_run;
    }
    let request = Attributes {
        kind,
        place: place(resource),
        subresource: subresource.to_owned(),
        namespace: if namespaced { asked.namespace.to_owned() } else { String::new() },
        name: asked.name.to_owned(),
        namespaced,
        asked: berth_guard::Asked {
            user: json!({
                "username": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra,
            }),
            operation: operation.to_owned(),
            options,
        },
        dry_run: asked.dry_run,
        object: object.unwrap_or_default(),
        old: old.unwrap_or_default(),
        namespace_object,
    };
    let authorize = Arc::new(Permissions { core: Arc::clone(core), user: user.clone() });
    Ok(Matched { request, others: others(core, resource), authorize })
}

fn kind(resource: &Resource) -> Kind {
    Kind {
        group: resource.group.clone(),
        version: resource.version.clone(),
        kind: resource.kind.clone(),
    }
}

fn place(resource: &Resource) -> Place {
    Place {
        group: resource.group.clone(),
        version: resource.version.clone(),
        resource: resource.plural.clone(),
    }
}

/// The other places under which the same objects are served.
fn others(core: &Core, resource: &Resource) -> Vec<Equivalent> {
    let catalog = core.catalog.read().expect("nothing panics while holding it");
    let same = |one: &&Arc<Resource>| {
        one.storage_group == resource.storage_group
            && one.storage_plural == resource.storage_plural
            && (one.group != resource.group || one.version != resource.version)
    };
    catalog.resources().filter(same).map(|one| (place(one), kind(one))).collect()
}

/// An object of one served place as it looks at another.
pub(super) fn converted(core: &Core, from: &Resource, to: &Place, object: &Value) -> Value {
    if object.is_null() || (from.group == to.group && from.version == to.version) {
        return object.clone();
    }
    let Ok(resource) = core.resource(&to.group, &to.version, &to.resource) else {
        return object.clone();
    };
    let mut object = object.clone();
    berth_schema::to_storage(from, &mut object);
    berth_schema::from_storage(&resource, &mut object);
    object
}

/// Whether dynamic admission leaves a resource alone, so that nobody locks himself out.
pub(super) fn is_exempt(resource: &Resource) -> bool {
    resource.group == "admissionregistration.k8s.io"
}

/// Faults as causes of a refusal.
pub(super) fn causes(faults: Vec<Fault>) -> Vec<Cause> {
    let cause =
        |fault: Fault| Cause { reason: fault.reason, message: fault.message, field: fault.field };
    faults.into_iter().map(cause).collect()
}
