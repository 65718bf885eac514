//! Bytes → an object of a resource.
//!
//! One pass, led by the schema: what the type does not know is left out and told, what is of
//! another type is refused by its full path, amounts and times get their canonical form, nulls and
//! empty lists go, as in a server that holds typed objects. Custom resources keep what theirs
//! allows.
//!
//! # Source
//! Kubernetes' serializers and its JSON decoder; the sentences are those that its clients know.

use serde::de::DeserializeSeed;
use serde_json::Value;

use crate::schema::{ObjectRef, Schema, Shape};
use crate::{Gvk, Resource, facts};

mod scalar;
mod walk;

use walk::{Seed, Walk};

/// The largest body that is read at all, as Kubernetes has it.
pub const MOST_BYTES: usize = 3 * 1024 * 1024;

/// How deep an object may nest. Who reads JSON with `serde_json` reads 128 levels and needs some for
/// a list, an event and managed fields around it: a deeper object, once stored, would end every
/// list it is in.
pub(crate) const DEEPEST: usize = 110;

/// How many parts of a YAML body may come from aliases and merge keys: what bombs multiply. A
/// million, the parser's own bound, costs 80 MB and most of a second.
const MOST_REPLAYED: usize = 50_000;

/// What to do about fields that a type does not have, or that come twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// Drop them.
    Ignore,
    /// Drop them and say so.
    #[default]
    Warn,
    /// Refuse the object.
    Strict,
}

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// JSON.
    Json,
    /// YAML, of which JSON is a part.
    Yaml,
}

/// An object and what is to be said about it.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// The object, without what its type does not know.
    pub object: Value,
    /// A sentence for each unknown or duplicate field; empty unless asked to warn.
    pub warnings: Vec<String>,
}

/// Why a body is no object of the resource; a bad request, all of them but `TooLarge`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The text is no JSON or YAML.
    #[error(
        "the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; \
         {detail}"
    )]
    Syntax {
        /// What was expected.
        kind: String,
        /// What the parser says.
        detail: String,
    },
    /// A value is of another type than its field, or a field is unknown and that is not allowed.
    #[error("{kind} in version {version:?} cannot be handled as a {kind}: {detail}")]
    Unfit {
        /// What was expected.
        kind: String,
        /// Its version.
        version: String,
        /// The sentence that names the field.
        detail: String,
    },
    /// It says that it is something else.
    #[error("{what} in the data ({found}) does not match the expected {what} ({expected})")]
    Mismatch {
        /// `API version` or `kind`.
        what: &'static str,
        /// What it says.
        found: String,
        /// What it should say.
        expected: String,
    },
    /// The body is over the limit (413).
    #[error("request body too large: limit is {MOST_BYTES} bytes")]
    TooLarge,
}

/// Reads an object of `resource`; fills in its version and kind when they are missing.
///
/// # Errors
/// When it is malformed, of another kind, has values of another type than their fields, or, if
/// `validation` is strict, fields that are unknown or come twice.
pub fn decode(
    resource: &Resource,
    body: &[u8],
    format: Format,
    validation: FieldValidation,
) -> Result<Decoded, DecodeError> {
    let target = Target::of(resource);
    parse(&target, body, format, validation)
}

/// Reads an object of a built-in kind that is no resource of its own, such as a `Scale` or an
/// `Eviction`.
///
/// # Errors
/// As [`decode`]; a kind of which nothing is known is taken as any object.
pub fn decode_kind(
    kind: &Gvk,
    body: &[u8],
    format: Format,
    validation: FieldValidation,
) -> Result<Decoded, DecodeError> {
    let schema = facts::types().of_kind(kind).map_or(Schema::plain(Shape::Raw), |at| {
        Schema::plain(Shape::Object(ObjectRef::Builtin(at)))
    });
    let target =
        Target { group: &kind.group, version: &kind.version, kind: &kind.kind, schema: &schema };
    parse(&target, body, format, validation)
}

/// Reads an object of `resource` that is a value already, such as a patch's outcome.
///
/// # Errors
/// As [`decode`].
pub fn retype(
    resource: &Resource,
    object: Value,
    validation: FieldValidation,
) -> Result<Decoded, DecodeError> {
    let target = Target::of(resource);
    let mut walk = Walk::new(resource.custom.is_none());
    let read = Seed::root(target.schema, &mut walk).deserialize(object);
    let read = read.map_err(|wrong| wrong.to_string());
    finish(&target, walk, read, validation)
}

/// What a body should be.
struct Target<'a> {
    group: &'a str,
    version: &'a str,
    kind: &'a str,
    schema: &'a Schema,
}

impl<'a> Target<'a> {
    fn of(resource: &'a Resource) -> Self {
        Self {
            group: &resource.group,
            version: &resource.version,
            kind: &resource.kind,
            schema: &resource.schema,
        }
    }

    fn unfit(&self, detail: String) -> DecodeError {
        DecodeError::Unfit { kind: self.kind.to_owned(), version: self.version.to_owned(), detail }
    }
}

fn parse(
    target: &Target<'_>,
    body: &[u8],
    format: Format,
    validation: FieldValidation,
) -> Result<Decoded, DecodeError> {
    if body.len() > MOST_BYTES {
        return Err(DecodeError::TooLarge);
    }
    let native = !matches!(&target.schema.shape, Shape::Object(ObjectRef::Own(_)));
    let mut walk = Walk::new(native);
    // Nearly all YAML that reaches a server is JSON, which is read a great deal faster.
    let json = body.trim_ascii_start().first() == Some(&b'{');
    let read = if format == Format::Json || json {
        let mut parser = serde_json::Deserializer::from_slice(body);
        let read = Seed::root(target.schema, &mut walk).deserialize(&mut parser);
        read.and_then(|object| parser.end().map(|()| object))
            .map_err(|wrong| format!("json parse error: {wrong}"))
    } else {
        let twice = match validation {
            FieldValidation::Strict => serde_saphyr::DuplicateKeyPolicy::Error,
            _ => serde_saphyr::DuplicateKeyPolicy::LastWins,
        };
        let options = serde_saphyr::options! {
            duplicate_keys: twice,
            with_snippet: false,
            alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MOST_REPLAYED },
        };
        serde_saphyr::with_deserializer_from_slice_with_options(body, options, |parser| {
            Seed::root(target.schema, &mut walk).deserialize(parser)
        })
        .map_err(|wrong| format!("yaml parse error: {wrong}"))
    };
    finish(target, walk, read, validation)
}

fn finish(
    target: &Target<'_>,
    walk: Walk<'_>,
    read: Result<Value, String>,
    validation: FieldValidation,
) -> Result<Decoded, DecodeError> {
    if let Some(detail) = walk.fault {
        return Err(target.unfit(detail));
    }
    let mut object =
        read.map_err(|detail| DecodeError::Syntax { kind: target.kind.to_owned(), detail })?;
    if !object.is_object() {
        let detail = "json parse error: the body is no object".to_owned();
        return Err(DecodeError::Syntax { kind: target.kind.to_owned(), detail });
    }
    if is_deeper(&object, DEEPEST) {
        let detail = format!("json parse error: the body is more than {DEEPEST} levels deep");
        return Err(DecodeError::Syntax { kind: target.kind.to_owned(), detail });
    }
    let version = crate::catalog::join(target.group, target.version);
    expect(&mut object, "apiVersion", "API version", &version)?;
    expect(&mut object, "kind", "kind", target.kind)?;
    let warnings = match validation {
        FieldValidation::Ignore => Vec::new(),
        FieldValidation::Warn => walk.warnings,
        FieldValidation::Strict if walk.warnings.is_empty() => Vec::new(),
        FieldValidation::Strict => {
            let detail = format!("strict decoding error: {}", walk.warnings.join(", "));
            return Err(target.unfit(detail));
        }
    };
    Ok(Decoded { object, warnings })
}

fn is_deeper(value: &Value, than: usize) -> bool {
    match value {
        Value::Array(_) | Value::Object(_) if than == 0 => true,
        Value::Array(items) => items.iter().any(|item| is_deeper(item, than - 1)),
        Value::Object(fields) => fields.values().any(|field| is_deeper(field, than - 1)),
        _ => false,
    }
}

fn expect(
    object: &mut Value,
    field: &str,
    what: &'static str,
    expected: &str,
) -> Result<(), DecodeError> {
    match object[field].as_str().unwrap_or_default() {
        "" => object[field] = Value::from(expected),
        found if found == expected => {}
        found => {
            let (found, expected) = (found.to_owned(), expected.to_owned());
            return Err(DecodeError::Mismatch { what, found, expected });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
