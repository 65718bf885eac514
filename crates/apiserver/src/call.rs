//! One request, authenticated and read, on its way through the verbs.

use std::borrow::Cow;
use std::sync::Arc;

use berth_schema::{Cause, FieldValidation, Format, Resource};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, Method};
use hyper::upgrade::OnUpgrade;
use serde_json::{Value, json};

use crate::admission::Notes;
use crate::media::Output;
use crate::path::{Query, Target};
use crate::status::Failure;
use crate::user::User;

/// Longest name of a manager, in bytes.
const MANAGER: usize = 128;
const BODIES: &str = "application/json, application/yaml";

/// A request.
pub(crate) struct Call {
    pub(crate) user: Arc<User>,
    pub(crate) method: Method,
    pub(crate) target: Arc<Target>,
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) output: Output,
    pub(crate) upgrade: Option<OnUpgrade>,
    pub(crate) notes: Arc<Notes>,
}

impl Call {
    /// The media type of the body without its parameters.
    pub(crate) fn content_type(&self) -> &str {
        let value = self.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().split(';').next().unwrap_or_default().trim()
    }

    /// How the body is written.
    pub(crate) fn body_format(&self) -> Result<Format, Failure> {
        match self.content_type() {
            "" | "application/json" | "*/*" => Ok(Format::Json),
            "application/yaml" | "text/yaml" | "application/x-yaml" => Ok(Format::Yaml),
            other => Err(Failure::unsupported_media_type(other, BODIES)),
        }
    }

    /// The body as a value, for the few kinds that are not resources of their own. An empty body
    /// is null.
    pub(crate) fn body_value(&self) -> Result<Value, Failure> {
        if self.body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Value::Null);
        }
        let parsed = match self.body_format()? {
            Format::Json => serde_json::from_slice(&self.body).map_err(|error| error.to_string()),
            Format::Yaml => {
                let text = String::from_utf8_lossy(&self.body);
                serde_saphyr::from_str(&text).map_err(|error| error.to_string())
            }
        };
        parsed.map_err(|error| Failure::bad_request(format!("the body cannot be read: {error}")))
    }

    /// The body decoded as an object of the resource; unknown fields as the client wants it.
    pub(crate) fn body_object(
        &self,
        resource: &Resource,
        warnings: &mut Vec<String>,
    ) -> Result<Value, Failure> {
        self.decode(resource, &self.body, self.body_format()?, warnings)
    }

    /// Bytes decoded as an object of the resource.
    pub(crate) fn decode(
        &self,
        resource: &Resource,
        bytes: &[u8],
        format: Format,
        warnings: &mut Vec<String>,
    ) -> Result<Value, Failure> {
        let decoded = berth_schema::decode(resource, bytes, format, self.field_validation()?)
            .map_err(|error| Failure::bad_request(error.to_string()))?;
        warnings.extend(decoded.warnings);
        let expected = (crate::record::api_version(resource), &resource.kind);
        let object = decoded.object;
        let differs = |field: &str, wanted: &str| {
            object[field].as_str().is_some_and(|own| !own.is_empty() && own != wanted)
        };
        if differs("apiVersion", &expected.0) || differs("kind", expected.1) {
            return Err(Failure::bad_request(format!(
                "the object provided is of {}, {}, this path takes {}, {}",
                object["apiVersion"], object["kind"], expected.0, expected.1
            )));
        }
        Ok(object)
    }

    pub(crate) fn field_validation(&self) -> Result<FieldValidation, Failure> {
        match self.query.get("fieldValidation") {
            None | Some("Warn") => Ok(FieldValidation::Warn),
            Some("Strict") => Ok(FieldValidation::Strict),
            Some("Ignore") => Ok(FieldValidation::Ignore),
            Some(other) => Err(Failure::bad_request(format!(
                "fieldValidation: {other:?} is none of Ignore, Warn, Strict"
            ))),
        }
    }

    /// Whether nothing is to be kept.
    pub(crate) fn dry_run(&self) -> Result<bool, Failure> {
        let values: Vec<&str> =
            self.query.all("dryRun").filter(|value| !value.is_empty()).collect();
        match values.as_slice() {
            [] => Ok(false),
            all if all.iter().all(|value| *value == "All") => Ok(true),
            other => {
                let cause = Cause::not_supported("dryRun", &json!(other), &["All"]);
                Err(Failure::invalid_options(self.options(), vec![cause]))
            }
        }
    }

    /// The kind of what the query says about a write.
    fn options(&self) -> &'static str {
        match self.target.verb.as_str() {
            "create" => "CreateOptions",
            "update" => "UpdateOptions",
            "patch" => "PatchOptions",
            _ => "DeleteOptions",
        }
    }

    /// Under whose name fields are owned: who the client says he is, else the program that it is.
    pub(crate) fn manager(&self) -> Result<Cow<'_, str>, Failure> {
        if let Some(manager) = self.query.get("fieldManager") {
            let odd = manager.chars().enumerate().find(|(_, letter)| letter.is_control());
            let cause = match odd {
                _ if manager.len() > MANAGER => Some(Cause::too_long("fieldManager", MANAGER)),
                Some((at, letter)) => {
                    let code = u32::from(letter);
                    let detail = format!("invalid character U+{code:04X} (at position {at})");
                    Some(Cause::invalid("fieldManager", &json!(manager), &detail))
                }
                None => None,
            };
            return match cause {
                Some(cause) => Err(Failure::invalid_options(self.options(), vec![cause])),
                None => Ok(Cow::Borrowed(manager)),
            };
        }
        let agent = self.headers.get(USER_AGENT).and_then(|value| value.to_str().ok());
        let program = agent.and_then(|agent| agent.split('/').next()).unwrap_or_default();
        // Header text is ASCII without control characters.
        let program = program.get(..MANAGER).unwrap_or(program);
        Ok(match program.is_empty() {
            false => Cow::Borrowed(program),
            true => Cow::Owned(self.user.name.clone()),
        })
    }
}

impl Call {
    /// The same request for somebody who outlives it or reads it anew; it cannot be upgraded.
    pub(crate) fn detached(&self) -> Self {
        Self {
            user: self.user.clone(),
            method: self.method.clone(),
            target: self.target.clone(),
            query: self.query.clone(),
            headers: self.headers.clone(),
            body: self.body.clone(),
            output: self.output.clone(),
            upgrade: None,
            notes: Arc::clone(&self.notes),
        }
    }
}

impl Call {
    /// An object that a patch made, judged as a body of the resource. A refusal shows it: `again`
    /// makes it once more, so that those that are fine need not be copied.
    pub(crate) fn retype(
        &self,
        resource: &Resource,
        object: Value,
        again: impl FnOnce() -> Option<Value>,
        warnings: &mut Vec<String>,
    ) -> Result<Value, Failure> {
        let validation = self.field_validation()?;
        let decoded = berth_schema::retype(resource, object, validation).map_err(|error| {
            match validation {
                // What is unknown or said twice is a fault of the patch, not of what it made.
                FieldValidation::Strict if error.to_string().starts_with("strict decoding") => {
                    Failure::bad_request(error.to_string())
                }
                _ => Failure::mistyped_patch(&again().unwrap_or_default(), &error.to_string()),
            }
        })?;
        warnings.extend(decoded.warnings);
        Ok(decoded.object)
    }
}
