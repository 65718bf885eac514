//! The managers of an object, as `metadata.managedFields` lists them.

use serde_json::{Map, Value, json};

use super::Conflict;
use super::set::Set;

/// More entries of updates than this are joined, the oldest first.
const MOST_UPDATERS: usize = 10;
const JOINED: &str = "ancient-changes";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Apply,
    Update,
}

/// One manager's fields.
#[derive(Debug, Clone)]
pub struct Entry {
    pub manager: String,
    pub operation: Operation,
    pub version: String,
    pub subresource: Option<String>,
    pub time: String,
    pub set: Set,
}

/// All of an object's managers.
#[derive(Debug, Default)]
pub struct Managers {
    entries: Vec<Entry>,
}

impl Managers {
    pub fn of_list(list: &[Value]) -> Self {
        Self { entries: list.iter().filter_map(read_entry).collect() }
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes out a manager's entry, whatever version it was written in.
    pub fn take(
        &mut self,
        manager: &str,
        operation: Operation,
        subresource: Option<&str>,
    ) -> Option<Entry> {
        let place = self.entries.iter().position(|one| {
            one.manager == manager
                && one.operation == operation
                && one.subresource.as_deref() == subresource
        })?;
        Some(self.entries.remove(place))
    }

    /// Puts a manager's entry in; an empty one is none.
    pub fn set(
        &mut self,
        manager: &str,
        operation: Operation,
        version: &str,
        subresource: Option<&str>,
        set: Set,
        time: &str,
    ) {
        if !set.is_empty() {
            self.entries.push(Entry {
                manager: manager.to_owned(),
                operation,
                version: version.to_owned(),
                subresource: subresource.map(str::to_owned),
                time: time.to_owned(),
                set,
            });
        }
    }

    /// Whose fields are touched.
    pub fn conflicts(&self, touched: &Set) -> Vec<Conflict> {
        let mut all = Vec::new();
        for entry in &self.entries {
            for field in entry.set.intersection(touched).paths() {
                all.push(Conflict { manager: entry.shown(), field });
            }
        }
        all
    }

    /// Takes these fields from everyone.
    pub fn lose(&mut self, set: &Set) {
        for entry in &mut self.entries {
            entry.set.subtract(set);
        }
        self.entries.retain(|entry| !entry.set.is_empty());
    }

    /// Every owned field.
    pub fn all(&self) -> Set {
        let mut all = Set::default();
        self.entries.iter().for_each(|entry| all.absorb(entry.set.clone()));
        all
    }

    /// Writes the entries into an object, applies first, the oldest first.
    pub fn write(mut self, object: &mut Value) {
        self.join_old();
        self.entries.sort_by(|one, other| {
            let key = |entry: &Entry| {
                (
                    entry.operation,
                    entry.time.clone(),
                    entry.manager.clone(),
                    entry.subresource.clone(),
                )
            };
            key(one).cmp(&key(other))
        });
        if self.entries.is_empty() {
            drop_all(object);
            return;
        }
        put_list(object, self.entries.into_iter().map(Entry::write).collect());
    }

    /// Joins the oldest updates of one version when there are too many.
    fn join_old(&mut self) {
        let mut updates: Vec<Entry> = Vec::new();
        let is_update =
            |entry: &Entry| entry.operation == Operation::Update && entry.subresource.is_none();
        if self.entries.iter().filter(|entry| is_update(entry)).count() <= MOST_UPDATERS {
            return;
        }
        self.entries.retain(|entry| {
            let update = is_update(entry);
            if update {
                updates.push(entry.clone());
            }
            !update
        });
        updates.sort_by(|one, other| one.time.cmp(&other.time));
        let extra = updates.len() - MOST_UPDATERS + 1;
        let recent = updates.split_off(extra);
        let mut joined: Vec<Entry> = Vec::new();
        for entry in updates {
            match joined.iter_mut().find(|one| one.version == entry.version) {
                Some(one) => {
                    one.set.absorb(entry.set);
                    one.time = entry.time;
                }
                None => joined.push(Entry { manager: JOINED.to_owned(), ..entry }),
            }
        }
        self.entries.extend(joined);
        self.entries.extend(recent);
    }
}

impl Entry {
    fn shown(&self) -> String {
        let below = self.subresource.as_ref().map(|name| format!(" with subresource {name:?}"));
        let below = below.unwrap_or_default();
        match self.operation {
            Operation::Apply => format!("{:?}{below}", self.manager),
            Operation::Update => format!("{:?}{below} using {}", self.manager, self.version),
        }
    }

    fn write(self) -> Value {
        let mut entry = json!({
            "manager": self.manager,
            "operation": match self.operation {
                Operation::Apply => "Apply",
                Operation::Update => "Update",
            },
            "apiVersion": self.version,
            "time": self.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": self.set.into_fields(),
        });
        if let Some(name) = &self.subresource {
            entry["subresource"] = json!(name);
        }
        entry
    }
}

/// Whether an entry of a list says something.
pub fn is_any(list: &[Value]) -> bool {
    list.iter().any(|entry| operation(entry).is_some())
}

/// The entries after a manager changed once more what it has changed before and nobody else owns:
/// then only its time is another, and no set need be read. None when it is not so, or not certain.
pub fn again(
    list: &[Value],
    changed: &Set,
    manager: &str,
    subresource: Option<&str>,
    version: &str,
    now: &str,
) -> Option<Vec<Value>> {
    let mut own = None;
    for (at, entry) in list.iter().enumerate().take(MOST_UPDATERS + 1) {
        let fields = entry["fieldsV1"].as_object().filter(|fields| !fields.is_empty())?;
        let is_whole = operation(entry).is_some() && entry["time"].is_string();
        if !is_whole || at == MOST_UPDATERS {
            return None;
        }
        let is_own = operation(entry) == Some(Operation::Update)
            && entry["manager"].as_str() == Some(manager)
            && entry["subresource"].as_str() == subresource;
        if is_own && own.is_none() && changed.is_within(fields) {
            own = Some(at);
        } else if is_own || changed.may_touch(fields) {
            return None;
        }
    }
    let own = own?;
    let mut list = list.to_vec();
    if !changed.is_empty() {
        list[own]["time"] = json!(now);
    }
    list[own]["apiVersion"] = json!(version);
    list.sort_by(|one, other| {
        let word = |entry: &'_ Value, key: &str| entry[key].as_str().map(str::to_owned);
        let key = |entry: &Value| {
            let time = word(entry, "time");
            (operation(entry), time, word(entry, "manager"), word(entry, "subresource"))
        };
        key(one).cmp(&key(other))
    });
    Some(list)
}

/// Takes the entries out of an object.
pub fn take_list(object: &mut Value) -> Vec<Value> {
    match metadata(object).and_then(|metadata| metadata.remove("managedFields")) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    }
}

/// Puts entries into an object.
pub fn put_list(object: &mut Value, list: Vec<Value>) {
    let Some(fields) = object.as_object_mut() else { return };
    if let Value::Object(metadata) = fields.entry("metadata").or_insert_with(|| json!({})) {
        metadata.insert("managedFields".to_owned(), Value::Array(list));
    }
}

fn operation(entry: &Value) -> Option<Operation> {
    match entry["operation"].as_str()? {
        "Apply" => Some(Operation::Apply),
        "Update" => Some(Operation::Update),
        _ => None,
    }
}

fn read_entry(entry: &Value) -> Option<Entry> {
    let operation = operation(entry)?;
    let word = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let subresource = Some(word("subresource")).filter(|name| !name.is_empty());
    let set = Set::from_fields(&entry["fieldsV1"]);
    Some(Entry {
        manager: word("manager"),
        operation,
        version: word("apiVersion"),
        subresource,
        time: word("time"),
        set,
    })
}

/// Leaves out an object's entries, which no one owns.
pub fn strip(object: &mut Value) {
    drop_all(object);
}

/// Removes every entry.
pub fn drop_all(object: &mut Value) {
    if let Some(metadata) = metadata(object) {
        metadata.remove("managedFields");
    }
}

/// Brings back what only the server writes.
pub fn restore(object: &mut Value, live: &Value) {
    let Some(metadata) = metadata(object) else { return };
    let own = ["uid", "resourceVersion", "creationTimestamp", "generation", "deletionTimestamp"];
    for name in own {
        // A resource version that the configuration brings is its precondition.
        if name == "resourceVersion" && metadata.contains_key(name) {
            continue;
        }
        if let Some(value) = live["metadata"].get(name) {
            metadata.insert(name.to_owned(), value.clone());
        }
    }
}

fn metadata(object: &mut Value) -> Option<&mut Map<String, Value>> {
    object.get_mut("metadata")?.as_object_mut()
}
