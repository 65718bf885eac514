//! A YAML or JSON document that remembers where everything is.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// A place in a file, both from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: u64,
    /// The column.
    pub column: u64,
}

/// A value and where it is.
#[derive(Debug)]
pub struct Node {
    /// Where it begins.
    pub at: Place,
    /// What it is.
    pub what: What,
}

/// What a value can be.
#[derive(Debug)]
pub enum What {
    /// Nothing.
    Null,
    /// Yes or no.
    Bool,
    /// A number.
    Number(f64),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// Keys, where they are, and their values, in the file's order.
    Map(Vec<(String, Place, Node)>),
}

impl What {
    /// As people call it.
    pub fn noun(&self) -> &'static str {
        match self {
            What::Null => "nothing",
            What::Bool => "true or false",
            What::Number(_) => "a number",
            What::Text(_) => "text",
            What::List(_) => "a list",
            What::Map(_) => "keys with values",
        }
    }
}

impl Node {
    /// The value under `key`.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.what {
            What::Map(entries) => {
                entries.iter().find(|(name, ..)| name == key).map(|(_, _, node)| node)
            }
            _ => None,
        }
    }

    /// Its text, if it is one.
    pub fn text(&self) -> Option<&str> {
        match &self.what {
            What::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Its items; none when it is no list.
    pub fn items(&self) -> &[Node] {
        match &self.what {
            What::List(items) => items,
            _ => &[],
        }
    }
}

fn place<T>(spanned: &Spanned<T>) -> Place {
    Place { line: spanned.referenced.line(), column: spanned.referenced.column() }
}

/// Reads a document.
///
/// # Errors
/// What the parser says, with its place.
pub fn read(text: &str) -> Result<Node, serde_saphyr::Error> {
    let whole: Spanned<What> = serde_saphyr::from_str(text)?;
    Ok(Node { at: place(&whole), what: whole.value })
}

impl<'de> Deserialize<'de> for What {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Anything)
    }
}

struct Anything;

impl<'de> Visitor<'de> for Anything {
    type Value = What;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<What, E> {
        Ok(What::Null)
    }

    fn visit_none<E>(self) -> Result<What, E> {
        Ok(What::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<What, E> {
        Ok(What::Bool)
    }

    fn visit_i64<E>(self, value: i64) -> Result<What, E> {
        Ok(What::Number(value as f64))
    }

    fn visit_u64<E>(self, value: u64) -> Result<What, E> {
        Ok(What::Number(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<What, E> {
        Ok(What::Number(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<What, E> {
        Ok(What::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<What, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element::<Spanned<What>>()? {
            items.push(Node { at: place(&item), what: item.value });
        }
        Ok(What::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<What, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let value = map.next_value::<Spanned<What>>()?;
            let node = Node { at: place(&value), what: value.value };
            entries.push((key.value.clone(), place(&key), node));
        }
        Ok(What::Map(entries))
    }
}
