//! Sets of field paths, as a tree.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Map, Value};

/// One step of a path, in the form that `fieldsV1` writes: `f:NAME`, `k:KEYS`, `v:VALUE`, `i:N`.
pub type Step = String;

/// A set of paths. A node is a member, or has children, or both.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Set {
    member: bool,
    children: BTreeMap<Step, Set>,
}

impl Set {
    pub fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    pub fn mark(&mut self) {
        self.member = true;
    }

    pub fn children(&self) -> impl Iterator<Item = (&Step, &Set)> {
        self.children.iter()
    }

    pub fn child(&self, step: &str) -> Option<&Self> {
        self.children.get(step)
    }

    /// Puts a set below a step; an empty one is nothing.
    pub fn put(&mut self, step: Step, below: Self) {
        if !below.is_empty() {
            self.children.insert(step, below);
        }
    }

    pub fn remove_field(&mut self, name: &str) {
        self.children.remove(&field(name));
    }

    pub fn child_field(&mut self, name: &str) -> Option<&mut Self> {
        self.children.get_mut(&field(name))
    }

    /// Removes a field below which nothing is left.
    pub fn drop_empty_field(&mut self, name: &str) {
        if self.child_field(name).is_some_and(|set| set.is_empty()) {
            self.remove_field(name);
        }
    }

    pub fn union(&self, other: &Self) -> Self {
        let mut all = self.clone();
        all.member |= other.member;
        for (step, set) in &other.children {
            let joined = all.child(step).map_or_else(|| set.clone(), |own| own.union(set));
            all.children.insert(step.clone(), joined);
        }
        all
    }

    pub fn intersection(&self, other: &Self) -> Self {
        let mut both = Self { member: self.member && other.member, children: BTreeMap::new() };
        for (step, set) in &self.children {
            if let Some(other) = other.child(step) {
                both.put(step.clone(), set.intersection(other));
            }
        }
        both
    }

    /// Without the members of `other`.
    pub fn difference(&self, other: &Self) -> Self {
        let mut rest = Self { member: self.member && !other.member, children: BTreeMap::new() };
        for (step, set) in &self.children {
            let left = other.child(step).map_or_else(|| set.clone(), |other| set.difference(other));
            rest.put(step.clone(), left);
        }
        rest
    }

    /// Without the members of `other` and all that stands below them.
    pub fn difference_deep(&self, other: &Self) -> Self {
        if other.member {
            return Self::default();
        }
        let mut rest = Self { member: self.member, children: BTreeMap::new() };
        for (step, set) in &self.children {
            let left =
                other.child(step).map_or_else(|| set.clone(), |other| set.difference_deep(other));
            rest.put(step.clone(), left);
        }
        rest
    }

    /// Every member as a path, `.spec.containers[name="a"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut all = Vec::new();
        self.collect(&mut String::new(), &mut all);
        all
    }

    fn collect(&self, path: &mut String, all: &mut Vec<String>) {
        if self.member {
            all.push(path.clone());
        }
        for (step, set) in &self.children {
            let length = path.len();
            show(path, step);
            set.collect(path, all);
            path.truncate(length);
        }
    }

    /// The `fieldsV1` form.
    pub fn to_fields(&self) -> Value {
        let mut fields = Map::new();
        for (step, set) in &self.children {
            let mut below = set.to_fields();
            if let (true, false, Value::Object(below)) =
                (set.member, set.children.is_empty(), &mut below)
            {
                below.insert(".".to_owned(), Value::Object(Map::new()));
            }
            fields.insert(step.clone(), below);
        }
        Value::Object(fields)
    }

    /// Reads the `fieldsV1` form; what is malformed is left out.
    pub fn from_fields(fields: &Value) -> Self {
        let mut set = Self::default();
        for (step, below) in fields.as_object().into_iter().flatten() {
            if step == "." {
                set.member = true;
                continue;
            }
            let Some(step) = canonical(step) else { continue };
            let mut child = Self::from_fields(below);
            if child.children.is_empty() {
                child.member = true;
            }
            set.children.insert(step, child);
        }
        set
    }
}

pub fn field(name: &str) -> Step {
    format!("f:{name}")
}

pub fn value(value: &Value) -> Step {
    format!("v:{value}")
}

pub fn keys(keys: &Map<String, Value>) -> Step {
    format!("k:{}", Value::Object(keys.clone()))
}

/// Writes JSON inside a step as we write it ourselves.
fn canonical(step: &str) -> Option<Step> {
    let (kind, rest) = step.split_once(':')?;
    match kind {
        "f" | "i" => Some(step.to_owned()),
        "k" | "v" => {
            let inside: Value = serde_json::from_str(rest).ok()?;
            Some(format!("{kind}:{inside}"))
        }
        _ => None,
    }
}

fn show(path: &mut String, step: &str) {
    let (kind, rest) = step.split_once(':').unwrap_or(("f", step));
    match kind {
        "f" => {
            path.push('.');
            path.push_str(rest);
        }
        "k" => {
            let keys: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
            let pairs: Vec<String> =
                keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
            // A String takes all that is written to it.
            write!(path, "[{}]", pairs.join(",")).unwrap_or_default();
        }
        "v" => write!(path, "[={rest}]").unwrap_or_default(),
        _ => write!(path, "[{rest}]").unwrap_or_default(),
    }
}
