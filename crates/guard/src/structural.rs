//! `x-kubernetes-validations`: the rules that a custom resource's schema lays down, at every level.
//!
//! Compiled once when the definition is stored. A rule is not asked about what a write leaves as it
//! was (ratcheting), except when it compares with what was there before.
//!
//! # Source
//! `x-kubernetes-validations` in the Kubernetes API reference; KEP-2876, KEP-4008 (ratcheting).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use kube_cel::cel::Value as Cel;
use serde_json::{Value, json};

use crate::Fault;
use crate::cel::{self, Budget, EvalError, Expression, Scope, Session};

const EXTENSION: &str = "x-kubernetes-validations";
/// Nested deeper, a schema is refused elsewhere; here it only must not end the stack.
const DEEPEST: usize = 64;
const EXHAUSTED: &str = "validation failed due to running out of cost budget, no further \
                         validation rules will be run";

/// All rules of one version of a custom resource.
#[derive(Debug, Clone)]
pub struct Rules {
    root: Node,
    loops: bool,
}

#[derive(Debug, Clone)]
struct Node {
    /// The part of the schema that the rules' `self` is of.
    schema: Arc<Value>,
    rules: Vec<Rule>,
    /// What tells the items of a list apart.
    keys: Vec<String>,
    properties: BTreeMap<String, Node>,
    items: Option<Box<Node>>,
    additional: Option<Box<Node>>,
}

#[derive(Debug, Clone)]
struct Rule {
    source: String,
    expression: Expression,
    /// It names `oldSelf`.
    transition: bool,
    optional_old: bool,
    message: Option<String>,
    message_expression: Option<Expression>,
    reason: String,
    field_path: String,
}

impl Rules {
    /// Compiles the rules of a schema; none when it has none. What is wrong with them goes to
    /// `faults`, under `path`.
    #[must_use]
    pub fn compile(schema: &Value, path: &str, faults: &mut Vec<Fault>) -> Option<Self> {
        let mut whole = schema.clone();
        if whole.is_object() {
            complete(&mut whole);
        }
        let mut loops = false;
        let root = compile(&whole, path, Level { depth: 0, correlated: true }, &mut loops, faults)?;
        Some(Self { root, loops })
    }

    /// Whether judging may take long enough to be done aside.
    #[must_use]
    pub fn is_heavy(&self) -> bool {
        self.loops
    }

    /// All that the rules have against `new`, as a change of `old`.
    #[must_use]
    pub fn judge(&self, new: &Value, old: Option<&Value>, now: Instant) -> Vec<Fault> {
        let session = Session::new(Budget::for_request(now));
        let mut faults = Vec::new();
        judge(&session, &self.root, "", new, old, &mut faults);
        faults
    }
}

/// Every object's own fields, as far as rules may name them.
fn complete(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else { return };
    let properties = fields.entry("properties").or_insert_with(|| json!({}));
    let Some(properties) = properties.as_object_mut() else { return };
    for name in ["apiVersion", "kind"] {
        properties.insert(name.to_owned(), json!({"type": "string"}));
    }
    let metadata = properties.entry("metadata").or_insert_with(|| json!({"type": "object"}));
    for name in ["name", "generateName"] {
        if metadata["properties"][name].is_null() {
            metadata["properties"][name] = json!({"type": "string"});
        }
    }
}

#[derive(Clone, Copy)]
struct Level {
    depth: usize,
    /// Whether an item here can be found again in the object as it was.
    correlated: bool,
}

fn compile(
    schema: &Value,
    path: &str,
    level: Level,
    loops: &mut bool,
    faults: &mut Vec<Fault>,
) -> Option<Node> {
    if level.depth > DEEPEST {
        return None;
    }
    let below = |correlated: bool| Level { depth: level.depth + 1, correlated };
    let mut node = Node {
        schema: Arc::new(Value::Null),
        rules: Vec::new(),
        keys: Vec::new(),
        properties: BTreeMap::new(),
        items: None,
        additional: None,
    };
    let rules = schema[EXTENSION].as_array().map(Vec::as_slice).unwrap_or_default();
    for (at, given) in rules.iter().enumerate() {
        let path = format!("{path}.{EXTENSION}[{at}]");
        if let Some(rule) = compile_rule(schema, given, &path, level.correlated, faults) {
            *loops |= rule.expression.loops()
                || rule.message_expression.as_ref().is_some_and(Expression::loops);
            node.rules.push(rule);
        }
    }
    node.keys = schema["x-kubernetes-list-map-keys"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|key| key.as_str().map(str::to_owned))
        .collect();
    if !node.rules.is_empty() {
        node.schema = Arc::new(schema.clone());
    }
    for (name, own) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.properties[{name}]");
        if let Some(found) = compile(own, &path, below(level.correlated), loops, faults) {
            node.properties.insert(name.clone(), found);
        }
    }
    if schema["items"].is_object() {
        let same = level.correlated && schema["x-kubernetes-list-type"] == "map";
        let path = format!("{path}.items");
        node.items = compile(&schema["items"], &path, below(same), loops, faults).map(Box::new);
    }
    if schema["additionalProperties"].is_object() {
        let own = &schema["additionalProperties"];
        let path = format!("{path}.additionalProperties");
        node.additional = compile(own, &path, below(level.correlated), loops, faults).map(Box::new);
    }
    let empty = node.rules.is_empty()
        && node.properties.is_empty()
        && node.items.is_none()
        && node.additional.is_none();
    (!empty).then_some(node)
}

fn compile_rule(
    schema: &Value,
    given: &Value,
    path: &str,
    correlated: bool,
    faults: &mut Vec<Fault>,
) -> Option<Rule> {
    let source = given["rule"].as_str().unwrap_or_default().trim().to_owned();
    if source.is_empty() {
        faults.push(Fault::required(format!("{path}.rule"), "rule is not specified"));
        return None;
    }
    let before = faults.len();
    let scope = Scope::default().with("self", Some(schema)).with("oldSelf", Some(schema));
    let optional_old = given["optionalOldSelf"] == true;
    // An optional is unwrapped first: its fields are not looked up.
    let scope = if optional_old {
        Scope::default().with("self", Some(schema)).with("oldSelf", None)
    } else {
        scope
    };
    let expression = match Expression::rule(&source, &scope) {
        Ok(expression) => Some(expression),
        Err(error) => {
            let field = format!("{path}.rule");
            faults.push(Fault::invalid(field, &given["rule"], &error.to_string()));
            None
        }
    };
    let transition = expression.as_ref().is_some_and(|one| one.names("oldSelf"));
    if transition && !correlated {
        let wrong = "oldSelf cannot be used on the uncorrelatable portion of the schema";
        faults.push(Fault::invalid(format!("{path}.rule"), &given["rule"], wrong));
    }
    if optional_old && !transition && expression.is_some() {
        let wrong = "may not be set if oldSelf is not used in rule";
        faults.push(Fault::invalid(format!("{path}.optionalOldSelf"), &json!(true), wrong));
    }
    let message = given["message"].as_str().map(|text| text.trim().to_owned());
    if given["message"].as_str().is_some_and(|text| text.trim().is_empty()) {
        let field = format!("{path}.message");
        faults.push(Fault::invalid(
            field,
            &given["message"],
            "message must be non-empty if specified",
        ));
    } else if message.as_deref().is_some_and(|text| text.contains('\n')) {
        let field = format!("{path}.message");
        faults.push(Fault::invalid(
            field,
            &given["message"],
            "message must not contain line breaks",
        ));
    }
    let message_expression = given["messageExpression"].as_str().and_then(|text| {
        let field = format!("{path}.messageExpression");
        if text.trim().is_empty() {
            let wrong = "must be non-empty if specified";
            faults.push(Fault::required(field, wrong));
            return None;
        }
        match Expression::message(text.trim(), &scope) {
            Ok(expression) => Some(expression),
            Err(error) => {
                let wrong = format!("messageExpression {error}");
                faults.push(Fault::invalid(field, &given["messageExpression"], &wrong));
                None
            }
        }
    });
    let reason = given["reason"].as_str().unwrap_or("FieldValueInvalid").to_owned();
    let reasons =
        ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
    if !reasons.contains(&reason.as_str()) {
        faults.push(Fault::not_supported(format!("{path}.reason"), &given["reason"], &reasons));
    }
    let field_path = match given["fieldPath"].as_str() {
        None => String::new(),
        Some(text) => match relative(text, schema) {
            Ok(found) => found,
            Err(wrong) => {
                faults.push(Fault::invalid(format!("{path}.fieldPath"), &json!(text), &wrong));
                String::new()
            }
        },
    };
    let expression = expression.filter(|_| faults.len() == before)?;
    Some(Rule {
        source,
        expression,
        transition,
        optional_old,
        message,
        message_expression,
        reason,
        field_path,
    })
}

/// `.spec.size` or `['a.b']`, checked against the schema, as it is shown after a path.
fn relative(text: &str, schema: &Value) -> Result<String, String> {
    let mut rest = text.trim();
    let (mut place, mut shown) = (schema, String::new());
    if rest.is_empty() {
        return Err("fieldPath must be non-empty if specified".to_owned());
    }
    while !rest.is_empty() {
        let (name, after) = if let Some(quoted) = rest.strip_prefix("['") {
            quoted.split_once("']").ok_or_else(|| "fieldPath is not a valid path".to_owned())?
        } else if let Some(dotted) = rest.strip_prefix('.') {
            let end = dotted.find(['.', '[']).unwrap_or(dotted.len());
            dotted.split_at(end)
        } else {
            return Err("fieldPath is not a valid path: expected [ or .".to_owned());
        };
        let additional = place.get("additionalProperties").filter(|below| below.is_object());
        let found = place["properties"].get(name).or(additional);
        let Some(found) = found else {
            return Err(format!(
                "fieldPath must be a valid path: does not refer to a valid field: {name}"
            ));
        };
        if place["properties"].get(name).is_some() {
            shown.push_str(&format!(".{name}"));
        } else {
            shown.push_str(&format!("[{name}]"));
        }
        place = found;
        rest = after;
    }
    Ok(shown)
}

/// Whether judging may go on.
fn judge(
    session: &Session,
    node: &Node,
    path: &str,
    new: &Value,
    old: Option<&Value>,
    faults: &mut Vec<Fault>,
) -> bool {
    if !node.rules.is_empty()
        && !new.is_null()
        && !judge_here(session, node, path, new, old, faults)
    {
        return false;
    }
    match new {
        Value::Object(fields) => fields.iter().all(|(name, value)| {
            let own = node.properties.get(name);
            let below = own.or(node.additional.as_deref());
            let path = match (own, path) {
                (None, _) => format!("{path}[{name}]"),
                (_, "") => name.clone(),
                _ => format!("{path}.{name}"),
            };
            let old = old.and_then(|old| old.get(name));
            below.is_none_or(|below| judge(session, below, &path, value, old, faults))
        }),
        Value::Array(list) => {
            let Some(items) = node.items.as_deref() else { return true };
            let keys = &node.keys;
            list.iter().enumerate().all(|(at, value)| {
                let same = |one: &&Value| keys.iter().all(|key| one.get(key) == value.get(key));
                let old = match (keys.is_empty(), old.and_then(Value::as_array)) {
                    (false, Some(before)) => before.iter().find(same),
                    _ => None,
                };
                judge(session, items, &format!("{path}[{at}]"), value, old, faults)
            })
        }
        _ => true,
    }
}

fn judge_here(
    session: &Session,
    node: &Node,
    path: &str,
    new: &Value,
    old: Option<&Value>,
    faults: &mut Vec<Fault>,
) -> bool {
    let old = old.filter(|old| !old.is_null());
    let unchanged = old == Some(new);
    let (mut is, mut was): (Option<Cel>, Option<Cel>) = (None, None);
    for rule in &node.rules {
        if (rule.transition && !rule.optional_old && old.is_none())
            || (!rule.transition && unchanged)
        {
            continue;
        }
        let is = is.get_or_insert_with(|| cel::typed(new, &node.schema)).clone();
        let mut bound = vec![("self", is)];
        if rule.transition {
            let found =
                old.map(|old| was.get_or_insert_with(|| cel::typed(old, &node.schema)).clone());
            let found =
                if rule.optional_old { cel::optional(found) } else { found.unwrap_or(Cel::Null) };
            bound.push(("oldSelf", found));
        }
        let kind = json!(node.schema["type"].as_str().unwrap_or("object"));
        match session.truth(&rule.expression, &bound) {
            Ok(true) => {}
            Ok(false) => {
                let said = rule.say(session, &bound);
                faults.push(rule.fault(path, &kind, &said));
            }
            Err(EvalError::TooExpensive) => {
                faults.push(Fault::invalid(path, &kind, EXHAUSTED));
                return false;
            }
            Err(error) => {
                let about = rule.message.as_deref().unwrap_or(&rule.source);
                let wrong = format!("{error} evaluating rule: {about}");
                faults.push(Fault::invalid(path, &kind, &wrong));
            }
        }
    }
    true
}

impl Rule {
    fn say(&self, session: &Session, bound: cel::Bound<'_>) -> String {
        let made = self.message_expression.as_ref().and_then(|one| session.text(one, bound).ok());
        let made = made.map(|text| text.trim().to_owned());
        made.filter(|text| !text.is_empty() && !text.contains('\n'))
            .or_else(|| self.message.clone())
            .unwrap_or_else(|| format!("failed rule: {}", self.source))
    }

    fn fault(&self, path: &str, kind: &Value, said: &str) -> Fault {
        let field = format!("{path}{}", self.field_path);
        let field = field.strip_prefix('.').unwrap_or(&field).to_owned();
        match self.reason.as_str() {
            "FieldValueForbidden" => Fault::forbidden(field, said),
            "FieldValueRequired" => Fault::required(field, said),
            "FieldValueDuplicate" => Fault::duplicate(field, kind),
            _ => Fault::invalid(field, kind, said),
        }
    }
}

#[cfg(test)]
mod tests;
