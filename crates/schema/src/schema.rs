//! What a value may be: one model for built-in types and for custom resources.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::facts;

/// A value's shape and what is known of it beyond.
#[derive(Debug, Clone)]
pub struct Schema {
    /// What it looks like.
    pub shape: Shape,
    /// Of a list: what makes two items the same one.
    pub list: ListType,
    /// Of a map or object: it is owned and replaced as a whole.
    pub atomic: bool,
    /// How a strategic merge patch treats it.
    pub merge: Merge,
    /// Of a string (or a list of them): the only values there are, unless empty.
    pub allowed: Vec<String>,
    /// A null is kept as a value.
    pub nullable: bool,
    /// What stands in when it is absent.
    pub default: Option<Value>,
}

impl Schema {
    /// Anything at all.
    pub const ANY: Self = Self::plain(Shape::Any);

    /// A schema that says no more than the shape.
    #[must_use]
    pub const fn plain(shape: Shape) -> Self {
        Self {
            shape,
            list: ListType::Atomic,
            atomic: false,
            merge: Merge { merge: false, replace: false, retain_keys: false, key: None },
            allowed: Vec::new(),
            nullable: false,
            default: None,
        }
    }

    /// The object type, when it is one.
    #[must_use]
    pub fn object(&self) -> Option<&ObjectType> {
        match &self.shape {
            Shape::Object(object) => Some(object.get()),
            _ => None,
        }
    }

    /// The schema of what `key` holds in an object or map.
    #[must_use]
    pub fn child(&self, key: &str) -> Option<&Self> {
        match &self.shape {
            Shape::Object(object) => object.get().fields.get(key).map(|field| &field.schema),
            Shape::Map(item) => Some(item),
            _ => None,
        }
    }

    /// The schema of a list's items.
    #[must_use]
    pub fn item(&self) -> Option<&Self> {
        match &self.shape {
            Shape::List(item) => Some(item),
            _ => None,
        }
    }

    /// Whether a map or object is owned as a whole, by the field or by its type.
    #[must_use]
    pub fn is_atomic(&self) -> bool {
        self.atomic || self.object().is_some_and(|object| object.atomic)
    }
}

/// The form of a value.
#[derive(Debug, Clone)]
pub enum Shape {
    /// Anything at all.
    Any,
    /// An object of unknown fields, kept as it is.
    Raw,
    /// A set of owned fields.
    Fields,
    /// True or false.
    Bool,
    /// A whole number of 32 bits.
    Int32,
    /// A whole number of 64 bits.
    Int64,
    /// A number.
    Double,
    /// Text.
    String,
    /// Base64 of bytes.
    Bytes,
    /// RFC 3339, in seconds.
    Time,
    /// RFC 3339, in microseconds.
    MicroTime,
    /// An amount such as `500m` or `2Gi`.
    Quantity,
    /// A number or text.
    IntOrString,
    /// An object of known fields.
    Object(ObjectRef),
    /// A list.
    List(Box<Schema>),
    /// An object of free keys.
    Map(Box<Schema>),
}

/// What makes two items of a list the same one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListType {
    /// Nothing: the list is one value.
    Atomic,
    /// Their value.
    Set,
    /// These of their fields.
    Map(Vec<String>),
}

/// How a strategic merge patch treats a field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Merge {
    /// Lists are merged, by `key` or by value.
    pub merge: bool,
    /// The whole value is replaced.
    pub replace: bool,
    /// A patch may say which keys stay.
    pub retain_keys: bool,
    /// The field by which items of the list are the same.
    pub key: Option<String>,
}

/// One field of an object type.
#[derive(Debug, Clone)]
pub struct Field {
    /// What it may hold.
    pub schema: Schema,
    /// It must be there.
    pub required: bool,
}

/// An object of known fields.
#[derive(Debug, Clone, Default)]
pub struct ObjectType {
    /// Its name, such as `core.v1.Container`; empty below a custom resource.
    pub name: String,
    /// Its fields by name.
    pub fields: BTreeMap<String, Field>,
    /// It is owned as a whole.
    pub atomic: bool,
    /// Fields it does not know are kept.
    pub preserve_unknown: bool,
    /// The kinds it stands for.
    pub kinds: Vec<crate::Gvk>,
}

impl ObjectType {
    /// The last word of the type's name, as Go calls it.
    #[must_use]
    pub fn go_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or_default()
    }
}

/// Points at an object type, so that a type can hold itself.
#[derive(Debug, Clone)]
pub enum ObjectRef {
    /// A type of the facts, by its place there.
    Builtin(usize),
    /// A type of one custom resource.
    Own(Arc<ObjectType>),
}

impl ObjectRef {
    /// The type itself.
    #[must_use]
    pub fn get(&self) -> &ObjectType {
        match self {
            Self::Builtin(place) => facts::types().at(*place),
            Self::Own(object) => object,
        }
    }
}
