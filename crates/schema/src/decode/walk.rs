//! The walk through a body along its schema.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::scalar;
use crate::schema::{ObjectType, Schema, Shape};

/// Deeper than any real object; a guard for the stack.
const DEEPEST: usize = 120;
/// How many typed objects a body may hold. Each is defaulted, checked and may be told wrong, which
/// makes two bytes of text a kilobyte; one that is stored has far fewer, as it has names in it.
const MOST_OBJECTS: usize = 100_000;
/// More warnings than this help no one.
const MOST_WARNINGS: usize = 50;

/// Anything, below a value that is kept as it is.
static ANY: Schema = Schema::ANY;

/// A step from an object to one of its parts.
enum Step<'s> {
    Field(&'s str),
    Key(String),
    Index(usize),
}

/// Where the walk is and what it met.
pub struct Walk<'s> {
    path: Vec<Step<'s>>,
    owner: &'s str,
    /// Values are those of typed objects: no nulls, no empty lists.
    native: bool,
    objects: usize,
    pub warnings: Vec<String>,
    pub fault: Option<String>,
}

impl Walk<'_> {
    pub fn new(native: bool) -> Self {
        let (path, warnings) = (Vec::new(), Vec::new());
        Self { path, owner: "", native, objects: 0, warnings, fault: None }
    }

    /// `spec.containers[0].name`, with one more step.
    fn path_to(&self, last: Option<&str>) -> String {
        let mut text = String::new();
        for step in &self.path {
            match step {
                Step::Field(name) => push(&mut text, name),
                Step::Key(name) => push(&mut text, name),
                Step::Index(at) => text.push_str(&format!("[{at}]")),
            }
        }
        if let Some(last) = last {
            push(&mut text, last);
        }
        text
    }

    fn warn(&mut self, what: &str, field: &str) {
        if self.warnings.len() < MOST_WARNINGS {
            let text = format!("{what} field \"{}\"", self.path_to(Some(field)));
            self.warnings.push(text);
        }
    }

    /// Notes that a value is of another type, in the words of Go's decoder: only struct fields
    /// make its path, and it begins with the innermost struct's name.
    fn mistyped(&mut self, found: &str, schema: &Schema) {
        let mut fields = String::new();
        for step in &self.path {
            if let Step::Field(name) = step {
                push(&mut fields, name);
            }
        }
        let wanted = scalar::go_type(schema);
        let place = if fields.is_empty() {
            "Go value".to_owned()
        } else if self.owner.is_empty() {
            format!("field {fields}")
        } else {
            format!("Go struct field {}.{fields}", self.owner)
        };
        self.set_fault(format!("json: cannot unmarshal {found} into {place} of type {wanted}"));
    }

    fn set_fault(&mut self, fault: String) {
        self.fault.get_or_insert(fault);
    }
}

fn push(text: &mut String, name: &str) {
    if !text.is_empty() {
        text.push('.');
    }
    text.push_str(name);
}

/// Reads one value of a schema.
pub struct Seed<'w, 's> {
    schema: &'s Schema,
    walk: &'w mut Walk<'s>,
}

impl<'w, 's> Seed<'w, 's> {
    pub fn root(schema: &'s Schema, walk: &'w mut Walk<'s>) -> Self {
        Self { schema, walk }
    }

    /// Ends the walk over a value that does not fit.
    fn unfit<E: Error>(self, found: &str) -> E {
        self.walk.mistyped(found, self.schema);
        E::custom("the value does not fit")
    }

    /// A scalar of another type: kept where validation judges types, else the end of the walk.
    fn other<E: Error>(self, found: &str, value: Value) -> Result<Value, E> {
        if self.keeps_mistyped() { Ok(value) } else { Err(self.unfit(found)) }
    }

    /// Whether a value of another type is left to validation, which tells all of them at once: in a
    /// custom resource, but for what every object has.
    fn keeps_mistyped(&self) -> bool {
        let everyones = match self.walk.path.as_slice() {
            [] => true,
            [Step::Field(name)] => matches!(*name, "apiVersion" | "kind" | "metadata"),
            _ => false,
        };
        !self.walk.native && !everyones
    }

    fn keeps_nulls(&self) -> bool {
        self.schema.nullable || matches!(self.schema.shape, Shape::Any) || !self.walk.native
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_, '_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, parser: D) -> Result<Value, D::Error> {
        if self.walk.path.len() > DEEPEST {
            self.walk.set_fault("the object is nested too deeply".to_owned());
            return Err(D::Error::custom("nested too deeply"));
        }
        parser.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_, '_> {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&scalar::go_type(self.schema))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        match self.schema.shape {
            Shape::Any | Shape::Bool => Ok(Value::Bool(value)),
            _ => self.other("bool", Value::Bool(value)),
        }
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        match self.schema.shape {
            Shape::Any | Shape::Int64 | Shape::Double => Ok(Value::from(value)),
            Shape::Int32 | Shape::IntOrString if i32::try_from(value).is_ok() => {
                Ok(Value::from(value))
            }
            Shape::Quantity => self.visit_string(value.to_string()),
            Shape::Int32 | Shape::IntOrString => Err(self.unfit(&format!("number {value}"))),
            _ => self.other("number", Value::from(value)),
        }
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        match (i64::try_from(value), &self.schema.shape) {
            (Ok(small), _) => self.visit_i64(small),
            (Err(_), Shape::Any | Shape::Double) => Ok(Value::from(value)),
            (Err(_), Shape::Quantity) => self.visit_string(value.to_string()),
            (Err(_), _) => Err(self.unfit(&format!("number {value}"))),
        }
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        let number = Number::from_f64(value);
        match (&self.schema.shape, number) {
            (Shape::Any | Shape::Double, Some(number)) => Ok(Value::Number(number)),
            (Shape::Quantity, Some(_)) => self.visit_string(value.to_string()),
            // JSON schema calls 1.0 an integer.
            (Shape::Int64, Some(_)) if !self.walk.native && is_whole(value) => {
                Ok(Value::from(value as i64))
            }
            (Shape::Int32 | Shape::Int64 | Shape::IntOrString, _) => {
                self.other(&format!("number {value}"), Value::from(value))
            }
            _ => self.other("number", Value::from(value)),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        self.visit_string(text.to_owned())
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Value, E> {
        let kept = self.keeps_mistyped().then(|| text.clone());
        match (scalar::text(&self.schema.shape, text), kept) {
            (Ok(value), _) => Ok(value),
            (Err(None), Some(text)) => Ok(Value::String(text)),
            (Err(None), None) => Err(self.unfit("string")),
            (Err(Some(fault)), _) => {
                self.walk.set_fault(fault);
                Err(E::custom("the value does not fit"))
            }
        }
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: serde::Deserializer<'de>>(self, parser: D) -> Result<Value, D::Error> {
        self.deserialize(parser)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let item = match &self.schema.shape {
            Shape::List(item) => item,
            Shape::Any => &ANY,
            _ if self.keeps_mistyped() => &ANY,
            _ => return Err(self.unfit("array")),
        };
        let mut items = Vec::new();
        loop {
            self.walk.path.push(Step::Index(items.len()));
            let next = list.next_element_seed(Seed { schema: item, walk: self.walk })?;
            self.walk.path.pop();
            match next {
                None => return Ok(Value::Array(items)),
                Some(Value::Null) if self.walk.native => items.push(scalar::zero(&item.shape)),
                Some(value) => items.push(value),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Value, A::Error> {
        match &self.schema.shape {
            Shape::Object(object) => object_of(object.get(), self.walk, map),
            Shape::Map(item) => map_of(item, self.walk, map),
            Shape::Any | Shape::Raw | Shape::Fields => map_of(&ANY, self.walk, map),
            _ if self.keeps_mistyped() => map_of(&ANY, self.walk, map),
            _ => Err(self.unfit("object")),
        }
    }
}

/// Whether a number is whole and small enough for that to be certain.
fn is_whole(value: f64) -> bool {
    value.fract() == 0.0 && value.abs() < 9e15
}

fn object_of<'de, 's, A: MapAccess<'de>>(
    object: &'s ObjectType,
    walk: &mut Walk<'s>,
    mut map: A,
) -> Result<Value, A::Error> {
    walk.objects += 1;
    if walk.objects > MOST_OBJECTS {
        walk.set_fault(format!("the object has more than {MOST_OBJECTS} objects in it"));
        return Err(A::Error::custom("too many objects"));
    }
    let outside = (walk.owner, walk.native);
    walk.owner = object.go_name();
    walk.native = !object.name.is_empty();
    let mut found = Map::new();
    let mut emptied: Vec<&str> = Vec::new();
    while let Some(key) = map.next_key_seed(Key)? {
        let Some((name, field)) = object.fields.get_key_value(key.as_ref()) else {
            if object.preserve_unknown {
                walk.path.push(Step::Key(key.clone().into_owned()));
                let value = map.next_value_seed(Seed { schema: &ANY, walk })?;
                walk.path.pop();
                found.insert(key.into_owned(), value);
            } else {
                walk.warn("unknown", &key);
                map.next_value::<IgnoredAny>()?;
            }
            continue;
        };
        walk.path.push(Step::Field(name));
        let seed = Seed { schema: &field.schema, walk };
        let keeps_nulls = seed.keeps_nulls();
        let value = map.next_value_seed(seed)?;
        walk.path.pop();
        let nothing = match &value {
            Value::Null => !keeps_nulls,
            value => walk.native && !field.required && scalar::is_empty(&field.schema, value),
        };
        let before = if nothing {
            emptied.push(name);
            found.remove(name)
        } else {
            found.insert(name.clone(), value)
        };
        if before.is_some() || emptied.iter().filter(|one| *one == name).count() > 1 {
            walk.warn("duplicate", name);
        }
    }
    (walk.owner, walk.native) = outside;
    Ok(Value::Object(found))
}

fn map_of<'de, 's, A: MapAccess<'de>>(
    item: &'s Schema,
    walk: &mut Walk<'s>,
    mut map: A,
) -> Result<Value, A::Error> {
    let mut found = Map::new();
    while let Some(key) = map.next_key_seed(Key)? {
        let key = key.into_owned();
        walk.path.push(Step::Key(key.clone()));
        let seed = Seed { schema: item, walk };
        let keeps_nulls = seed.keeps_nulls();
        let mut value = map.next_value_seed(seed)?;
        walk.path.pop();
        if value.is_null() && !keeps_nulls {
            value = scalar::zero(&item.shape);
        }
        if found.contains_key(&key) {
            walk.warn("duplicate", &key);
        }
        found.insert(key, value);
    }
    Ok(Value::Object(found))
}

/// Reads a key, borrowed from the body where that can be.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: serde::Deserializer<'de>>(
        self,
        parser: D,
    ) -> Result<Cow<'de, str>, D::Error> {
        parser.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a key")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text))
    }
}
