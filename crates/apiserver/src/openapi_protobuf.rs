//! The OpenAPI v2 document in protobuf form: the only one that kubectl takes before it learnt v3
//! (1.20 refuses to apply anything without it).
//!
//! Field numbers are those of `openapi.v2` in gnostic's OpenAPIv2.proto. What has no place in it
//! and no name beginning with `x-` is left out.

use serde_json::Value;

/// What is answered: with an at sign it would be no media type by RFC 6838, and Go refuses it.
pub(crate) const ANSWERED: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// What kubectl asks for, nevertheless also with the at sign.
pub(crate) const ASKED: [&str; 2] =
    [ANSWERED, "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"];

/// How a member of an object becomes a field.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    Texts,
    Truth,
    Integer,
    /// A value of any type, as YAML.
    Any,
    Anys,
    One(fn(&Value) -> Vec<u8>),
    Many(fn(&Value) -> Vec<u8>),
}

type Members = &'static [(&'static str, u64, Kind)];

const DOCUMENT: Members = &[
    ("swagger", 1, Kind::Text),
    ("info", 2, Kind::One(info)),
    ("consumes", 6, Kind::Texts),
    ("produces", 7, Kind::Texts),
    ("paths", 8, Kind::One(paths)),
    ("definitions", 9, Kind::One(schemas)),
];

const INFO: Members = &[("title", 1, Kind::Text), ("version", 2, Kind::Text)];

const SCHEMA: Members = &[
    ("$ref", 1, Kind::Text),
    ("format", 2, Kind::Text),
    ("title", 3, Kind::Text),
    ("description", 4, Kind::Text),
    ("default", 5, Kind::Any),
    ("maxLength", 11, Kind::Integer),
    ("minLength", 12, Kind::Integer),
    ("pattern", 13, Kind::Text),
    ("maxItems", 14, Kind::Integer),
    ("minItems", 15, Kind::Integer),
    ("uniqueItems", 16, Kind::Truth),
    ("maxProperties", 17, Kind::Integer),
    ("minProperties", 18, Kind::Integer),
    ("required", 19, Kind::Texts),
    ("enum", 20, Kind::Anys),
    ("additionalProperties", 21, Kind::One(schema_or_truth)),
    ("type", 22, Kind::One(type_item)),
    ("items", 23, Kind::One(in_first)),
    ("allOf", 24, Kind::Many(schema)),
    ("properties", 25, Kind::One(schemas)),
];
const SCHEMA_EXTENSION: u64 = 31;

const PATH: Members = &[
    ("get", 2, Kind::One(operation)),
    ("put", 3, Kind::One(operation)),
    ("post", 4, Kind::One(operation)),
    ("delete", 5, Kind::One(operation)),
    ("options", 6, Kind::One(operation)),
    ("head", 7, Kind::One(operation)),
    ("patch", 8, Kind::One(operation)),
    ("parameters", 9, Kind::Many(parameter)),
];
const PATH_EXTENSION: u64 = 10;

const OPERATION: Members = &[
    ("tags", 1, Kind::Texts),
    ("description", 3, Kind::Text),
    ("operationId", 5, Kind::Text),
    ("produces", 6, Kind::Texts),
    ("consumes", 7, Kind::Texts),
    ("parameters", 8, Kind::Many(parameter)),
    ("responses", 9, Kind::One(responses)),
    ("schemes", 10, Kind::Texts),
];
const OPERATION_EXTENSION: u64 = 13;

const BODY: Members = &[
    ("description", 1, Kind::Text),
    ("name", 2, Kind::Text),
    ("in", 3, Kind::Text),
    ("required", 4, Kind::Truth),
    ("schema", 5, Kind::One(schema)),
];

const QUERY: Members = &[
    ("required", 1, Kind::Truth),
    ("in", 2, Kind::Text),
    ("description", 3, Kind::Text),
    ("name", 4, Kind::Text),
    ("type", 6, Kind::Text),
    ("format", 7, Kind::Text),
    ("uniqueItems", 20, Kind::Truth),
];

const IN_PATH: Members = &[
    ("required", 1, Kind::Truth),
    ("in", 2, Kind::Text),
    ("description", 3, Kind::Text),
    ("name", 4, Kind::Text),
    ("type", 5, Kind::Text),
    ("format", 6, Kind::Text),
    ("uniqueItems", 19, Kind::Truth),
];

const RESPONSE: Members = &[("description", 1, Kind::Text), ("schema", 2, Kind::One(in_first))];

/// The whole document.
pub(crate) fn encode(document: &Value) -> Vec<u8> {
    object(document, DOCUMENT, None)
}

fn info(value: &Value) -> Vec<u8> {
    object(value, INFO, None)
}

fn schema(value: &Value) -> Vec<u8> {
    object(value, SCHEMA, Some(SCHEMA_EXTENSION))
}

fn schemas(value: &Value) -> Vec<u8> {
    named(value, 1, schema)
}

fn paths(value: &Value) -> Vec<u8> {
    named(value, 2, |path| object(path, PATH, Some(PATH_EXTENSION)))
}

fn operation(value: &Value) -> Vec<u8> {
    object(value, OPERATION, Some(OPERATION_EXTENSION))
}

fn responses(value: &Value) -> Vec<u8> {
    named(value, 1, |response| {
        let mut out = Vec::new();
        put_bytes(&mut out, 1, &object(response, RESPONSE, None));
        out
    })
}

/// `ParametersItem { Parameter { body or NonBodyParameter { … } } }`
fn parameter(value: &Value) -> Vec<u8> {
    let wrap = |number: u64, bytes: &[u8]| {
        let mut out = Vec::new();
        put_bytes(&mut out, number, bytes);
        out
    };
    let inner = match value["in"].as_str() {
        Some("body") => wrap(1, &object(value, BODY, None)),
        Some("path") => wrap(2, &wrap(4, &object(value, IN_PATH, None))),
        _ => wrap(2, &wrap(3, &object(value, QUERY, None))),
    };
    wrap(1, &inner)
}

fn schema_or_truth(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    match value.as_bool() {
        Some(truth) => put_number(&mut out, 2, u64::from(truth)),
        None => put_bytes(&mut out, 1, &schema(value)),
    }
    out
}

/// A schema as the first field of a message of its own.
fn in_first(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, 1, &schema(value));
    out
}

fn type_item(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    let single = std::slice::from_ref(value);
    for name in value.as_array().map_or(single, Vec::as_slice) {
        put_bytes(&mut out, 1, name.as_str().unwrap_or_default().as_bytes());
    }
    out
}

/// A map as pairs of name and value.
fn named(value: &Value, number: u64, encode: impl Fn(&Value) -> Vec<u8>) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in value.as_object().into_iter().flatten() {
        let mut pair = Vec::new();
        put_bytes(&mut pair, 1, name.as_bytes());
        put_bytes(&mut pair, 2, &encode(value));
        put_bytes(&mut out, number, &pair);
    }
    out
}

fn any(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    // JSON is YAML.
    put_bytes(&mut out, 2, format!("{value}\n").as_bytes());
    out
}

fn object(value: &Value, members: Members, extension: Option<u64>) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, number, kind) in members {
        let Some(member) = value.get(*name) else { continue };
        let list = || member.as_array().into_iter().flatten();
        match kind {
            Kind::Text => put_bytes(&mut out, *number, text(member)),
            Kind::Texts => list().for_each(|one| put_bytes(&mut out, *number, text(one))),
            Kind::Truth => put_number(&mut out, *number, u64::from(*member == Value::Bool(true))),
            Kind::Integer => {
                put_number(&mut out, *number, member.as_i64().unwrap_or_default().cast_unsigned());
            }
            Kind::Any => put_bytes(&mut out, *number, &any(member)),
            Kind::Anys => list().for_each(|one| put_bytes(&mut out, *number, &any(one))),
            Kind::One(encode) => put_bytes(&mut out, *number, &encode(member)),
            Kind::Many(encode) => list().for_each(|one| put_bytes(&mut out, *number, &encode(one))),
        }
    }
    let Some(extension) = extension else { return out };
    let all = value.as_object().into_iter().flatten();
    for (name, member) in all.filter(|(name, _)| name.starts_with("x-")) {
        let mut pair = Vec::new();
        put_bytes(&mut pair, 1, name.as_bytes());
        put_bytes(&mut pair, 2, &any(member));
        put_bytes(&mut out, extension, &pair);
    }
    out
}

fn text(value: &Value) -> &[u8] {
    value.as_str().unwrap_or_default().as_bytes()
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_number(out: &mut Vec<u8>, number: u64, value: u64) {
    put_varint(out, number << 3);
    put_varint(out, value);
}

fn put_bytes(out: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    put_varint(out, number << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_definition_keeps_its_type_its_properties_and_its_kind() {
        let document = json!({
            "swagger": "2.0",
            "definitions": {"T": {
                "type": "object",
                "properties": {"a": {"type": "string"}},
                "x-kubernetes-group-version-kind": [{"kind": "T"}],
            }},
        });
        let string = [0xb2, 1, 8, 10, 6, b's', b't', b'r', b'i', b'n', b'g'];
        let bytes = encode(&document);
        assert_eq!(&bytes[..5], b"\x0a\x032.0");
        let holds = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
        assert!(holds(&string), "the property's type");
        assert!(holds(b"\x0a\x06object"), "the definition's type");
        assert!(holds(b"[{\"kind\":\"T\"}]\n"), "the extension as YAML");
    }
}
