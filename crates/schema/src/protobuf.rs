//! Bodies in Kubernetes' protobuf form, which Go's typed clients send by default since 1.32.
//!
//! ```text
//! "k8s\0"  Unknown { 1: TypeMeta { 1: apiVersion, 2: kind }, 2: the object's message, 4: … }
//! ```
//!
//! Read into the JSON that the same client would have sent otherwise, so that everything behind
//! knows one form only; answers are written from that form by `write`. Field numbers come from
//! `facts/protobuf.txt`. Unknown fields are skipped, as the encoding's rules want. Source: the API concepts page, "Kubernetes protobuf encoding".

use std::collections::HashMap;
use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

mod write;

pub use write::{encode, is_known, watch_frame};

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

const MAGIC: &[u8] = b"k8s\0";
const FACTS: &str = include_str!("../facts/protobuf.txt");
/// No object of Kubernetes nests deeper; a body that does is made up.
const DEPTH: usize = 64;

/// Why a body cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProtobufError {
    /// It does not begin with `k8s` and a zero byte.
    #[error("the body does not begin as protobuf of Kubernetes does")]
    Magic,
    /// It breaks off, nests too deep or does not fit its message.
    #[error("the body breaks off or is damaged")]
    Damaged,
    /// A kind without protobuf form, as custom ones.
    #[error("no protobuf form is known for {0}")]
    UnknownKind(String),
}

struct Field {
    json: &'static str,
    kind: &'static str,
    keeps_zero: bool,
}

type Message = HashMap<u64, Field>;

fn messages() -> &'static HashMap<&'static str, Message> {
    static READ: OnceLock<HashMap<&'static str, Message>> = OnceLock::new();
    READ.get_or_init(|| {
        let mut all: HashMap<&'static str, Message> = HashMap::new();
        let mut current = "";
        for line in FACTS.lines().filter(|line| !line.starts_with('#')) {
            let Some(field) = line.strip_prefix(' ') else {
                current = line;
                continue;
            };
            let mut words = field.split(' ');
            let number = words.next().and_then(|word| word.parse().ok());
            let (Some(number), Some(json), Some(kind)) = (number, words.next(), words.next())
            else {
                continue;
            };
            let keeps_zero = kind.ends_with('+');
            let kind = kind.trim_end_matches('+');
            all.entry(current).or_default().insert(number, Field { json, kind, keeps_zero });
        }
        all
    })
}

/// The object that a body holds.
///
/// # Errors
/// A body that is no such form, is damaged, or is of a kind that has none.
pub fn decode(body: &[u8]) -> Result<Value, ProtobufError> {
    let body = body.strip_prefix(MAGIC).ok_or(ProtobufError::Magic)?;
    let (mut meta, mut raw): (&[u8], &[u8]) = (&[], &[]);
    for field in Fields(body) {
        match field? {
            (1, Wire::Bytes(bytes)) => meta = bytes,
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let (mut api_version, mut kind) = (String::new(), String::new());
    for field in Fields(meta) {
        match field? {
            (1, Wire::Bytes(bytes)) => api_version = text(bytes)?,
            (2, Wire::Bytes(bytes)) => kind = text(bytes)?,
            _ => {}
        }
    }
    let name = message_name(&api_version, &kind);
    if !messages().contains_key(name.as_str()) {
        return Err(ProtobufError::UnknownKind(format!("{api_version}, {kind}")));
    }
    let mut object = message(&name, raw, 0)?;
    if let Some(fields) = object.as_object_mut() {
        fields.insert("apiVersion".to_owned(), json!(api_version));
        fields.insert("kind".to_owned(), json!(kind));
    }
    Ok(object)
}

/// `core.v1.Pod`, `rbac.v1.Role`; options are of the meta group whatever they are sent as.
fn message_name(api_version: &str, kind: &str) -> String {
    if kind.ends_with("Options") && kind != "PodLogOptions" {
        return format!("meta.v1.{kind}");
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("core", api_version));
    let group = group.split('.').next().unwrap_or_default();
    // The numbers stayed when these became v1.
    let version = match (group, version) {
        ("batch" | "policy", "v1beta1") => "v1",
        _ => version,
    };
    format!("{group}.{version}.{kind}")
}

enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32,
}

/// The fields of a message, one by one.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Wire<'a>), ProtobufError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.read();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or(ProtobufError::Damaged))
    }
}

impl<'a> Fields<'a> {
    fn read(&mut self) -> Option<(u64, Wire<'a>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().ok()?)),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Wire::Fixed32
            }
            _ => return None,
        };
        Some((tag >> 3, value))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (first, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}

fn text(bytes: &[u8]) -> Result<String, ProtobufError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| ProtobufError::Damaged)
}

fn message(name: &str, bytes: &[u8], depth: usize) -> Result<Value, ProtobufError> {
    if depth > DEPTH {
        return Err(ProtobufError::Damaged);
    }
    if let Some(value) = special(name, bytes, depth)? {
        return Ok(value);
    }
    let Some(known) = messages().get(name) else { return Ok(json!({})) };
    let mut object = Map::new();
    for field in Fields(bytes) {
        let (number, wire) = field?;
        let Some(field) = known.get(&number) else { continue };
        if let Some(item) = field.kind.strip_prefix("[]") {
            let list = object.entry(field.json).or_insert_with(|| json!([]));
            let Value::Array(list) = list else { continue };
            items(item, &wire, depth, list)?;
        } else if let Some(item) = field.kind.strip_prefix("{}") {
            let Wire::Bytes(bytes) = wire else { return Err(ProtobufError::Damaged) };
            let (key, value) = entry(item, bytes, depth)?;
            let map = object.entry(field.json).or_insert_with(|| json!({}));
            map[key] = value;
        } else {
            let value = value(field.kind, &wire, depth)?;
            if field.json == "-" {
                if let Value::Object(inner) = value {
                    object.extend(inner);
                }
            } else if !value.is_null() && (field.keeps_zero || !is_zero(&value)) {
                object.insert(field.json.to_owned(), value);
            }
        }
    }
    Ok(Value::Object(object))
}

/// What a Go client leaves out of JSON. Objects are pointers or shown even when empty.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Bool(truth) => !truth,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

/// The items of a repeated field: numbers may come packed.
fn items(
    kind: &str,
    wire: &Wire<'_>,
    depth: usize,
    list: &mut Vec<Value>,
) -> Result<(), ProtobufError> {
    if let ("i", Wire::Bytes(bytes)) = (kind, wire) {
        let mut packed = Fields(bytes);
        while !packed.0.is_empty() {
            let number = packed.varint().ok_or(ProtobufError::Damaged)?;
            list.push(json!(number.cast_signed()));
        }
        return Ok(());
    }
    list.push(value(kind, wire, depth)?);
    Ok(())
}

fn entry(kind: &str, bytes: &[u8], depth: usize) -> Result<(String, Value), ProtobufError> {
    let mut key = String::new();
    let mut found = None;
    for field in Fields(bytes) {
        match field? {
            (1, Wire::Bytes(bytes)) => key = text(bytes)?,
            (2, wire) => found = Some(value(kind, &wire, depth)?),
            _ => {}
        }
    }
    let absent = || match kind {
        "s" | "b" => json!(""),
        "i" => json!(0),
        _ => json!({}),
    };
    Ok((key, found.unwrap_or_else(absent)))
}

fn value(kind: &str, wire: &Wire<'_>, depth: usize) -> Result<Value, ProtobufError> {
    Ok(match (kind, wire) {
        ("s", Wire::Bytes(bytes)) => json!(text(bytes)?),
        ("b", Wire::Bytes(bytes)) => json!(STANDARD.encode(bytes)),
        ("t", Wire::Varint(number)) => json!(*number != 0),
        ("i", Wire::Varint(number)) => json!(number.cast_signed()),
        ("d", Wire::Fixed64(bits)) => json!(f64::from_bits(*bits)),
        (name, Wire::Bytes(bytes)) => message(name, bytes, depth + 1)?,
        _ => return Err(ProtobufError::Damaged),
    })
}

/// Messages whose JSON is no object of their fields.
fn special(name: &str, bytes: &[u8], depth: usize) -> Result<Option<Value>, ProtobufError> {
    let (mut varints, mut strings) = ([0u64; 4], [None; 4]);
    if !matches!(
        name,
        "quantity"
            | "intstr"
            | "time"
            | "raw"
            | "duration"
            | "wrap[]s"
            | "apiextensions.v1.JSONSchemaPropsOrBool"
            | "apiextensions.v1.JSONSchemaPropsOrArray"
            | "apiextensions.v1.JSONSchemaPropsOrStringArray"
    ) {
        return Ok(None);
    }
    let mut list = Vec::new();
    for field in Fields(bytes) {
        match field? {
            (number @ 1..=3, Wire::Varint(value)) => varints[number as usize] = value,
            (number @ 1..=3, Wire::Bytes(value)) => {
                strings[number as usize] = Some(value);
                list.push(value);
            }
            _ => {}
        }
    }
    let first = strings[1].unwrap_or_default();
    let schema = |bytes: &[u8]| message("apiextensions.v1.JSONSchemaProps", bytes, depth + 1);
    Ok(Some(match name {
        "quantity" => json!(text(first)?),
        "intstr" if varints[1] == 1 => json!(text(strings[3].unwrap_or_default())?),
        "intstr" => json!(varints[2].cast_signed()),
        // A time that was not set is an empty message.
        "time" if bytes.is_empty() => Value::Null,
        "time" => {
            let nanos = i32::try_from(varints[2]).unwrap_or_default();
            let at = Timestamp::new(varints[1].cast_signed(), nanos)
                .map_err(|_| ProtobufError::Damaged)?;
            let form = if nanos == 0 { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S.%6fZ" };
            json!(at.strftime(form).to_string())
        }
        "duration" => json!(format!("{}ns", varints[1].cast_signed())),
        "wrap[]s" => list.into_iter().map(text).collect::<Result<Vec<_>, _>>()?.into(),
        "raw" if first.is_empty() => Value::Null,
        "raw" => serde_json::from_slice(first).map_err(|_| ProtobufError::Damaged)?,
        "apiextensions.v1.JSONSchemaPropsOrBool" => match strings[2] {
            Some(bytes) => schema(bytes)?,
            None => json!(varints[1] != 0),
        },
        "apiextensions.v1.JSONSchemaPropsOrArray" if strings[1].is_some() => schema(first)?,
        _ if strings[1].is_some() => schema(first)?,
        _ => list.into_iter().map(text).collect::<Result<Vec<_>, _>>()?.into(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(content.len()).unwrap()];
        out.extend_from_slice(content);
        out
    }

    fn envelope(api_version: &str, kind: &str, object: &[u8]) -> Vec<u8> {
        let meta = [bytes(1, api_version.as_bytes()), bytes(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), bytes(1, &meta), bytes(2, object)].concat()
    }

    #[test]
    fn a_config_map_reads_as_its_json() {
        let meta = [bytes(1, b"a"), bytes(3, b""), bytes(8, b"")].concat();
        let entry = [bytes(1, b"key"), bytes(2, b"value")].concat();
        let binary = [bytes(1, b"raw"), bytes(2, &[0xff, 0x00])].concat();
        let object = [bytes(1, &meta), bytes(2, &entry), bytes(3, &binary)].concat();
        assert_eq!(
            decode(&envelope("v1", "ConfigMap", &object)).unwrap(),
            json!({
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "a"},
                "data": {"key": "value"},
                "binaryData": {"raw": "/wA="},
            })
        );
    }

    #[test]
    fn a_zero_that_was_set_stays_and_one_that_was_not_goes() {
        // spec { replicas: 0 (a pointer), minReadySeconds: 0 (a plain number) }
        let object = bytes(2, &[1 << 3, 0, 5 << 3, 0]);
        let deployment = decode(&envelope("apps/v1", "Deployment", &object)).unwrap();
        assert_eq!(deployment["spec"], json!({"replicas": 0}));
    }

    #[test]
    fn nonsense_is_refused_without_a_panic() {
        assert_eq!(decode(b"{}").unwrap_err(), ProtobufError::Magic);
        let whole = envelope("v1", "ConfigMap", &bytes(1, &bytes(1, b"a")));
        for end in MAGIC.len()..whole.len() {
            let _ = decode(&whole[..end]);
        }
        for position in MAGIC.len()..whole.len() {
            let mut damaged = whole.clone();
            damaged[position] ^= 0xff;
            let _ = decode(&damaged);
        }
        let unknown = envelope("example.com/v1", "Widget", b"");
        assert!(matches!(decode(&unknown), Err(ProtobufError::UnknownKind(_))));
    }
}
