//! The managers of an object, as `metadata.managedFields` lists them.

use serde_json::{Map, Value, json};

use super::set::Set;
use super::{Conflict, fields, text};
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

    /// As [`Self::write`], among entries that were not read.
    pub fn write_among(self, mut unread: Vec<Value>, object: &mut Value) {
        unread.extend(self.entries.into_iter().map(Entry::write_text));
        if unread.is_empty() {
            drop_all(object);
            return;
        }
        sort(&mut unread);
        put_list(object, unread);
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

    fn write(mut self) -> Value {
        let fields = std::mem::take(&mut self.set).into_fields();
        self.write_with(fields)
    }

    /// With the fields as text.
    fn write_text(self) -> Value {
        let fields = serde_json::to_string(&self.set).map_or(Value::Null, Value::String);
        self.write_with(fields)
    }

    fn write_with(self, fields: Value) -> Value {
        let operation = match self.operation {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        };
        let mut entry = Map::new();
        let mut put = |name: &str, value: Value| drop(entry.insert(name.to_owned(), value));
        put("apiVersion", Value::String(self.version));
        put("fieldsType", Value::from("FieldsV1"));
        put("fieldsV1", fields);
        put("manager", Value::String(self.manager));
        put("operation", Value::from(operation));
        if let Some(name) = self.subresource {
            put("subresource", Value::String(name));
        }
        // Somebody else may have written it without.
        if !self.time.is_empty() {
            put("time", Value::String(self.time));
        }
        Value::Object(entry)
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
        let fields = Fields::of(entry)?;
        let is_whole = operation(entry).is_some() && entry["time"].is_string();
        if !is_whole || at == MOST_UPDATERS {
            return None;
        }
        let is_own = is_update_of(entry, manager, subresource, version);
        if is_own && own.is_none() && fields.hold(changed) {
            own = Some(at);
        } else if is_own || fields.may_be_touched(changed) {
            return None;
        }
    }
    let own = own?;
    let mut list = list.to_vec();
    if !changed.is_empty() {
        list[own]["time"] = json!(now);
    }
    sort(&mut list);
    Some(list)
}

/// Parts a list into entries that a change leaves as they are, and those that must be read. All
/// must be read when one more would make them too many, or when it is not certain.
pub fn part(
    list: Vec<Value>,
    touched: &[&Set],
    manager: &str,
    subresource: Option<&str>,
    version: &str,
) -> (Vec<Value>, Vec<Value>) {
    let is_left = |entry: &Value| {
        let text = Fields::of(entry).filter(|fields| matches!(fields, Fields::Text(_)));
        operation(entry).is_some()
            && entry["time"].is_string()
            && !is_update_of(entry, manager, subresource, version)
            && text.is_some_and(|text| touched.iter().all(|set| !text.may_be_touched(set)))
    };
    if list.len() >= MOST_UPDATERS {
        return (Vec::new(), list);
    }
    list.into_iter().partition(is_left)
}

fn sort(list: &mut [Value]) {
    fn key(entry: &Value) -> impl Ord + '_ {
        let word = |key: &str| entry[key].as_str();
        let (time, manager) = (word("time"), word("manager"));
        (operation(entry), time, manager, word("apiVersion"), word("subresource"))
    }
    list.sort_by(|one, other| key(one).cmp(&key(other)));
}

fn is_update_of(entry: &Value, manager: &str, subresource: Option<&str>, version: &str) -> bool {
    operation(entry) == Some(Operation::Update)
        && entry["manager"].as_str() == Some(manager)
        && entry["apiVersion"].as_str() == Some(version)
        && entry["subresource"].as_str() == subresource
}

/// An entry's fields, read or still as text.
enum Fields<'a> {
    Read(&'a Map<String, Value>),
    Text(&'a str),
}

impl<'a> Fields<'a> {
    /// None when there are none.
    fn of(entry: &'a Value) -> Option<Self> {
        match &entry["fieldsV1"] {
            Value::Object(fields) if !fields.is_empty() => Some(Self::Read(fields)),
            Value::String(text) if text != "{}" => Some(Self::Text(text)),
            _ => None,
        }
    }

    /// Whether every member is one of them.
    fn hold(&self, set: &Set) -> bool {
        match self {
            Self::Read(fields) => set.is_within(fields),
            Self::Text(text) => text::is_within(set, text),
        }
    }

    /// Whether a member may be one of them; `false` is certain.
    fn may_be_touched(&self, by: &Set) -> bool {
        match self {
            Self::Read(fields) => by.may_touch(fields),
            Self::Text(text) => text::may_touch(by, text),
        }
    }
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
    let set = match &entry["fieldsV1"] {
        Value::String(text) => Set::from_fields(&serde_json::from_str(text).unwrap_or_default()),
        fields => Set::from_fields(fields),
    };
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
