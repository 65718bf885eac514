//! JSON as CEL sees it, and back.

use std::collections::HashMap;
use std::sync::Arc;

use kube_cel::cel::Value as Cel;
use kube_cel::cel::objects::{Key, Map};
use serde_json::{Value, json};

/// Words of CEL that cannot be field names as they are.
const RESERVED: &[&str] = &[
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// A field's name as expressions spell it.
///
/// # Source
/// `x-kubernetes-validations`' rules for property names (Kubernetes API reference).
#[must_use]
pub fn escape(name: &str) -> String {
    if RESERVED.contains(&name) {
        return format!("__{name}__");
    }
    if !name.contains(['.', '-', '/']) && !name.contains("__") {
        return name.to_owned();
    }
    name.replace("__", "__underscores__")
        .replace('.', "__dot__")
        .replace('-', "__dash__")
        .replace('/', "__slash__")
}

/// The schema of a property that an expression spells `field`.
pub(super) fn property<'a>(schema: &'a Value, field: &str) -> Option<&'a Value> {
    const OWN: &[&str] = &["apiVersion", "kind", "metadata"];
    static ANY: Value = Value::Null;
    let properties = schema["properties"].as_object();
    let found = properties
        .into_iter()
        .flatten()
        .find(|(name, _)| name.as_str() == field || escape(name) == field);
    if let Some((_, found)) = found {
        return Some(found);
    }
    let whole = schema["x-kubernetes-embedded-resource"] == true;
    if whole && OWN.contains(&field) {
        return Some(&ANY);
    }
    schema.get("additionalProperties").filter(|below| below.is_object())
}

/// A value of which no schema is known.
#[must_use]
pub fn plain(value: &Value) -> Cel {
    convert(value, None)
}

/// A value of a schema: formats become times and bytes, names are escaped.
#[must_use]
pub fn typed(value: &Value, schema: &Value) -> Cel {
    convert(value, Some(schema))
}

fn convert(value: &Value, schema: Option<&Value>) -> Cel {
    let word = |word: &str| schema.and_then(|schema| schema.get(word)).and_then(Value::as_str);
    match value {
        Value::Null => Cel::Null,
        Value::Bool(truth) => Cel::Bool(*truth),
        Value::Number(number) => {
            let float = || Cel::Float(number.as_f64().unwrap_or(f64::NAN));
            if word("type") == Some("number") {
                return float();
            }
            number
                .as_i64()
                .map(Cel::Int)
                .or_else(|| number.as_u64().map(Cel::UInt))
                .unwrap_or_else(float)
        }
        Value::String(text) => formatted(text, word("format")),
        Value::Array(list) => {
            let items = schema.and_then(|schema| schema.get("items"));
            Cel::List(Arc::new(list.iter().map(|item| convert(item, items)).collect()))
        }
        Value::Object(fields) => {
            let properties = schema.and_then(|schema| schema["properties"].as_object());
            let additional = schema.and_then(|schema| schema.get("additionalProperties"));
            let mut map = HashMap::with_capacity(fields.len());
            for (name, value) in fields {
                let own = properties.and_then(|all| all.get(name));
                // A null stands for an absent field unless the schema wants it.
                if value.is_null() && own.is_some_and(|own| own["nullable"] != true) {
                    continue;
                }
                let below = own.or_else(|| additional.filter(|below| below.is_object()));
                let name = if own.is_some() { escape(name) } else { name.clone() };
                map.insert(Key::String(Arc::new(name)), convert(value, below));
            }
            Cel::Map(Map { map: Arc::new(map) })
        }
    }
}

fn formatted(text: &str, format: Option<&str>) -> Cel {
    let plain = || Cel::String(Arc::new(text.to_owned()));
    // The library's own readers do the reading, so that literals and fields agree.
    let read = |function: &str| {
        let context = kube_cel::cel::Context::default();
        let mut scope = context.new_inner_scope();
        scope.add_variable_from_value("text", plain());
        let program = kube_cel::cel::Program::compile(&format!("{function}(text)")).ok()?;
        program.execute(&scope).ok()
    };
    match format {
        Some("date-time") => read("timestamp").unwrap_or_else(plain),
        Some("date") => {
            let context = kube_cel::cel::Context::default();
            let source = format!("timestamp('{text}T00:00:00Z')");
            let whole = text.len() == 10 && text.bytes().all(|b| b.is_ascii_digit() || b == b'-');
            let read = whole.then(|| kube_cel::cel::Program::compile(&source).ok()).flatten();
            read.and_then(|read| read.execute(&context).ok()).unwrap_or_else(plain)
        }
        Some("duration") => read("duration").unwrap_or_else(plain),
        Some("byte") => {
            let done = decode(text);
            done.map_or_else(plain, |bytes| Cel::Bytes(Arc::new(bytes)))
        }
        _ => plain(),
    }
}

/// Base64, as it stands in a field of bytes.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Some(u32::from(byte - b'A')),
        b'a'..=b'z' => Some(u32::from(byte - b'a') + 26),
        b'0'..=b'9' => Some(u32::from(byte - b'0') + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let bare = text.trim_end_matches('=');
    if !text.len().is_multiple_of(4) || text.len() - bare.len() > 2 {
        return None;
    }
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    for part in bare.as_bytes().chunks(4) {
        let mut word = 0;
        for byte in part {
            word = word << 6 | digit(*byte)?;
        }
        word <<= 6 * (4 - part.len());
        out.extend_from_slice(&word.to_be_bytes()[1..part.len()]);
    }
    Some(out)
}

/// A value as JSON; none for what JSON has no word for.
#[must_use]
pub fn to_json(value: &Cel) -> Option<Value> {
    Some(match value {
        Cel::Null => Value::Null,
        Cel::Bool(truth) => json!(truth),
        Cel::Int(number) => json!(number),
        Cel::UInt(number) => json!(number),
        Cel::Float(number) => json!(number),
        Cel::String(text) => json!(text.as_str()),
        Cel::List(list) => Value::Array(list.iter().map(to_json).collect::<Option<_>>()?),
        Cel::Map(map) => {
            let mut fields = serde_json::Map::new();
            for (key, value) in map.map.iter() {
                let Key::String(key) = key else { return None };
                fields.insert(key.to_string(), to_json(value)?);
            }
            Value::Object(fields)
        }
        _ => return None,
    })
}

/// A plain value as text, for annotations; none for what is none.
#[must_use]
pub fn shown(value: &Cel) -> Option<String> {
    match value {
        Cel::String(text) => Some(text.to_string()),
        Cel::Null => None,
        other => to_json(other).map(|value| value.to_string()),
    }
}
