//! The managers of an object, as `metadata.managedFields` lists them.

use serde_json::{Map, Value, json};

use super::set::Set;
use super::{Conflict, fields};
use crate::schema::Schema;

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
    /// The entries of a list, their sets brought to the schema of today.
    pub fn of_list(list: &[Value], schema: &Schema) -> Self {
        let mut entries: Vec<Entry> = list.iter().filter_map(read_entry).collect();
        entries.iter_mut().for_each(|entry| fields::settle(&mut entry.set, schema));
        Self { entries }
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes out the entry of an applier, whatever version it was written in.
    pub fn take_apply(&mut self, manager: &str, subresource: Option<&str>) -> Option<Entry> {
        self.take(Operation::Apply, manager, subresource, None)
    }

    /// Takes out the entry of an updater in this version: in another it has an entry of its own.
    pub fn take_update(
        &mut self,
        manager: &str,
        subresource: Option<&str>,
        version: &str,
    ) -> Option<Entry> {
        self.take(Operation::Update, manager, subresource, Some(version))
    }

    fn take(
        &mut self,
        operation: Operation,
        manager: &str,
        subresource: Option<&str>,
        version: Option<&str>,
    ) -> Option<Entry> {
        let place = self.entries.iter().position(|one| {
            one.manager == manager
                && one.operation == operation
                && one.subresource.as_deref() == subresource
                && version.is_none_or(|version| one.version == version)
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
        if self.entries.is_empty() {
            drop_all(object);
            return;
        }
        self.entries.sort_by(|one, other| one.order().cmp(&other.order()));
        put_list(object, self.entries.into_iter().map(Entry::write).collect());
    }

    /// Joins the oldest updates, each with those of its version, until there are not too many.
    ///
    /// One that is alone in its version stays as it is.
    pub fn join_old(&mut self) {
        let is_update = |entry: &Entry| entry.operation == Operation::Update;
        let mut left = self.entries.iter().filter(|entry| is_update(entry)).count();
        if left <= MOST_UPDATERS {
            return;
        }
        self.entries.sort_by(|one, other| one.order().cmp(&other.order()));
        let mut joined: Vec<Entry> = Vec::with_capacity(self.entries.len());
        let applies = self.entries.iter().take_while(|entry| !is_update(entry)).count();
        let updates = self.entries.split_off(applies);
        for entry in updates {
            let older = joined.iter_mut().find(|one| one.version == entry.version);
            match older.filter(|_| left > MOST_UPDATERS) {
                Some(older) => {
                    older.manager = JOINED.to_owned();
                    older.subresource = None;
                    older.time = entry.time;
                    older.set.absorb(entry.set);
                    left -= 1;
                }
                None => joined.push(entry),
            }
        }
        self.entries.extend(joined);
    }
}

impl Entry {
    /// How entries are ordered in the list.
    fn order(&self) -> (Operation, &str, &str, &str, Option<&str>) {
        let subresource = self.subresource.as_deref();
        (self.operation, &self.time, &self.manager, &self.version, subresource)
    }

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
            "fieldsType": "FieldsV1",
            "fieldsV1": self.set.into_fields(),
        });
        if let Some(name) = &self.subresource {
            entry["subresource"] = json!(name);
        }
        // Somebody else may have written it without.
        if !self.time.is_empty() {
            entry["time"] = json!(self.time);
        }
        entry
    }
}

/// Whether a list is one that says something: entries, and each of them whole.
pub fn is_valid(list: &[Value]) -> bool {
    let is_whole = |entry: &Value| {
        operation(entry).is_some()
            && entry["apiVersion"].as_str().is_some_and(|version| !version.is_empty())
            && entry["fieldsType"] == "FieldsV1"
    };
    !list.is_empty() && list.iter().all(is_whole)
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
            && entry["apiVersion"].as_str() == Some(version)
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
    list.sort_by(|one, other| {
        let word = |entry: &'_ Value, key: &str| entry[key].as_str().map(str::to_owned);
        let key = |entry: &Value| {
            let time = word(entry, "time");
            let version = word(entry, "apiVersion");
            (operation(entry), time, word(entry, "manager"), version, word(entry, "subresource"))
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
