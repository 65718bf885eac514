//! `matchConditions`: expressions that narrow which requests a webhook or policy is about.

use kube_cel::cel::Value as Cel;
use serde_json::Value;

use crate::cel::{Bound, CompileError, Expression, Scope, Session};

/// One condition.
#[derive(Debug, Clone)]
pub struct Condition {
    name: String,
    expression: Expression,
}

/// What all conditions together say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Met {
    /// All hold.
    Yes,
    /// One does not.
    No,
    /// None is false, and one could not be told.
    Unclear(String),
}

/// What a condition may name.
const NAMES: &[&str] = &["object", "oldObject", "request", "authorizer"];

impl Condition {
    /// Compiles a list of conditions, which may also name `more`.
    ///
    /// # Errors
    /// With the first that does not compile, and its place in the list.
    pub fn compile(list: &Value, more: &[&str]) -> Result<Vec<Self>, (usize, CompileError)> {
        let names: Vec<&str> = NAMES.iter().chain(more).copied().collect();
        let scope = Scope::of(&names);
        let list = list.as_array().into_iter().flatten().enumerate();
        list.map(|(at, given)| {
            let source = given["expression"].as_str().unwrap_or_default();
            let expression = Expression::rule(source, &scope).map_err(|error| (at, error))?;
            let name = given["name"].as_str().unwrap_or_default().to_owned();
            Ok(Self { name, expression })
        })
        .collect()
    }

    /// Whether all conditions hold: one false is enough for no, whatever else fails.
    #[must_use]
    pub fn all(list: &[Self], session: &Session, bound: Bound<'_>) -> Met {
        let mut unclear = Vec::new();
        for one in list {
            match session.truth(&one.expression, bound) {
                Ok(true) => {}
                Ok(false) => return Met::No,
                Err(error) => unclear.push(format!("{}: {error}", one.name)),
            }
        }
        if unclear.is_empty() { Met::Yes } else { Met::Unclear(unclear.join(", ")) }
    }

    /// Whether evaluating may take long.
    #[must_use]
    pub fn loops(&self) -> bool {
        self.expression.loops()
    }
}

/// A JSON value as conditions see it; null stays null.
#[must_use]
pub(crate) fn seen(value: &Value) -> Cel {
    crate::cel::plain(value)
}
