//! Sets of field paths, as a tree.

use std::fmt::Write;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};

/// One step of a path, in the form that `fieldsV1` writes: `f:NAME`, `k:KEYS`, `v:VALUE`, `i:N`.
pub type Step = String;

/// A set of paths. A node is a member, or has children, or both.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Set {
    member: bool,
    /// By step. Most have few: a tree's node would hold more room than all of them.
    children: Vec<(Step, Set)>,
}

impl Set {
    fn place(&self, step: &str) -> Result<usize, usize> {
        // They mostly come in order.
        match self.children.last() {
            Some((last, _)) if last.as_str() < step => Err(self.children.len()),
            _ => self.children.binary_search_by(|(own, _)| own.as_str().cmp(step)),
        }
    }

    fn child_mut(&mut self, step: &str) -> Option<&mut Self> {
        let place = self.place(step).ok()?;
        Some(&mut self.children[place].1)
    }

    fn insert(&mut self, step: Step, set: Self) {
        match self.place(&step) {
            Ok(place) => self.children[place].1 = set,
            Err(place) => self.children.insert(place, (step, set)),
        }
    }

    fn remove(&mut self, step: &str) {
        if let Ok(place) = self.place(step) {
            self.children.remove(place);
        }
    }

    pub fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    pub fn mark(&mut self) {
        self.member = true;
    }

    pub fn is_marked(&self) -> bool {
        self.member
    }

    pub fn unmark(&mut self) {
        self.member = false;
    }

    pub fn children(&self) -> impl ExactSizeIterator<Item = (&Step, &Set)> {
        self.children.iter().map(|(step, set)| (step, set))
    }

    pub fn child(&self, step: &str) -> Option<&Self> {
        self.place(step).ok().map(|place| &self.children[place].1)
    }

    /// Every child, to be changed.
    pub fn children_mut(&mut self) -> impl Iterator<Item = (&Step, &mut Self)> {
        self.children.iter_mut().map(|(step, set)| (&*step, set))
    }

    /// Makes it one member that has nothing below.
    pub fn close(&mut self) {
        if !self.children.is_empty() {
            self.children.clear();
            self.member = true;
        }
    }

    /// Puts a set below a step; an empty one is nothing.
    pub fn put(&mut self, step: Step, below: Self) {
        if !below.is_empty() {
            self.insert(step, below);
        }
    }

    pub fn remove_field(&mut self, name: &str) {
        if !self.children.is_empty() {
            self.remove(&field(name));
        }
    }

    pub fn child_field(&mut self, name: &str) -> Option<&mut Self> {
        if self.children.is_empty() { None } else { self.child_mut(&field(name)) }
    }

    /// Removes a field below which nothing is left.
    pub fn drop_empty_field(&mut self, name: &str) {
        if self.child_field(name).is_some_and(|set| set.is_empty()) {
            self.remove_field(name);
        }
    }

    pub fn intersection(&self, other: &Self) -> Self {
        let mut both = Self { member: self.member && other.member, children: Vec::new() };
        for (step, set) in &self.children {
            if let Some(other) = other.child(step) {
                both.put(step.clone(), set.intersection(other));
            }
        }
        both
    }

    /// Gives up all but the members of `other`.
    pub fn keep(&mut self, other: &Self) {
        self.member &= other.member;
        self.children.retain_mut(|(step, set)| match other.child(step) {
            Some(other) => {
                set.keep(other);
                !set.is_empty()
            }
            None => false,
        });
    }

    /// Takes in the members of `other`.
    pub fn absorb(&mut self, other: Self) {
        self.member |= other.member;
        if self.children.is_empty() {
            self.children = other.children;
            return;
        }
        if other.children.is_empty() {
            return;
        }
        let own = std::mem::take(&mut self.children);
        self.children.reserve(own.len() + other.children.len());
        let mut own = own.into_iter().peekable();
        for (step, set) in other.children {
            self.children.extend(std::iter::from_fn(|| own.next_if(|(own, _)| *own < step)));
            match own.next_if(|(own, _)| *own == step) {
                Some((step, mut same)) => {
                    same.absorb(set);
                    self.children.push((step, same));
                }
                None => self.children.push((step, set)),
            }
        }
        self.children.extend(own);
    }

    /// Gives up the members of `other`.
    pub fn subtract(&mut self, other: &Self) {
        self.member &= !other.member;
        self.subtract_below(other, Self::subtract);
    }

    /// Gives up the members of `other` and all that stands below them.
    pub fn subtract_deep(&mut self, other: &Self) {
        if other.member {
            *self = Self::default();
            return;
        }
        self.subtract_below(other, Self::subtract_deep);
    }

    fn subtract_below(&mut self, other: &Self, subtract: fn(&mut Self, &Self)) {
        if other.children.is_empty() {
            return;
        }
        self.children.retain_mut(|(step, own)| match other.child(step) {
            Some(set) => {
                subtract(own, set);
                !own.is_empty()
            }
            None => true,
        });
    }

    /// Whether every member is one of `fieldsV1`, written as we write it.
    pub fn is_within(&self, fields: &Map<String, Value>) -> bool {
        self.children.iter().all(|(step, set)| match fields.get(step) {
            Some(Value::Object(below)) => (!set.member || is_member(below)) && set.is_within(below),
            _ => false,
        })
    }

    /// Whether a member may be one of `fieldsV1`; `false` is certain.
    pub fn may_touch(&self, fields: &Map<String, Value>) -> bool {
        self.children.iter().any(|(step, set)| match fields.get(step) {
            Some(Value::Object(below)) => (set.member && is_member(below)) || set.may_touch(below),
            Some(_) => true,
            // Somebody else's way of writing JSON may make the same step look another.
            None => !step.starts_with("f:") && fields.keys().any(|own| !own.starts_with("f:")),
        })
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
    pub fn into_fields(self) -> Value {
        let mut fields = Map::new();
        for (step, set) in self.children {
            let is_inner = set.member && !set.children.is_empty();
            let mut below = set.into_fields();
            if let (true, Value::Object(below)) = (is_inner, &mut below) {
                below.insert(".".to_owned(), Value::Object(Map::new()));
            }
            fields.insert(step, below);
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
            set.insert(step, child);
        }
        set
    }
}

/// In the `fieldsV1` form.
impl Serialize for Set {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let is_inner = self.member && !self.children.is_empty();
        let mut fields = to.serialize_map(Some(self.children.len() + usize::from(is_inner)))?;
        if is_inner {
            // Before all steps, as in order.
            fields.serialize_entry(".", &Self::default())?;
        }
        for (step, set) in &self.children {
            fields.serialize_entry(step, set)?;
        }
        fields.end()
    }
}

/// Whether a node of `fieldsV1` is a member itself.
fn is_member(node: &Map<String, Value>) -> bool {
    node.is_empty() || node.contains_key(".")
}

pub fn field(name: &str) -> Step {
    ["f:", name].concat()
}

pub fn value(value: &Value) -> Step {
    format!("v:{}", whole(value.clone()))
}

pub fn keys(keys: Map<String, Value>) -> Step {
    format!("k:{}", whole(Value::Object(keys)))
}

/// The value with whole numbers written as such: 2.0 and 2 are one key.
fn whole(mut value: Value) -> Value {
    /// Up to here every whole number is a float of its own.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match &mut value {
        Value::Number(number) if number.is_f64() => {
            let float = number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < EXACT);
            // Such a number has neither fraction nor exponent in this form.
            match float.and_then(|float| format!("{float:.0}").parse::<i64>().ok()) {
                Some(integer) => Value::from(integer),
                None => value,
            }
        }
        Value::Object(fields) => {
            fields.values_mut().for_each(|field| *field = whole(field.take()));
            value
        }
        _ => value,
    }
}

/// Writes JSON inside a step as we write it ourselves.
pub fn canonical(step: &str) -> Option<Step> {
    let (kind, rest) = step.split_once(':')?;
    match kind {
        "f" | "i" => Some(step.to_owned()),
        "k" | "v" => {
            let inside: Value = serde_json::from_str(rest).ok()?;
            Some(format!("{kind}:{}", whole(inside)))
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
