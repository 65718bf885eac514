//! Kubernetes' expression language: compiled once, run within a budget.
//!
//! The evaluator (the `cel` crate) knows no limits of its own. Before an expression is kept, its
//! tree is therefore rewritten: every turn of a loop and every sum passes a gate that counts and
//! looks at the clock, and the few functions that can multiply a text are measured first. Trees
//! that are deep enough to outgrow a stack are refused, as are message literals, which the
//! evaluator cannot make.
//!
//! # Source
//! The environment is that of `k8s.io/apiserver/pkg/cel`; the limits follow its per-call and
//! per-request cost limits, in turns and time in place of abstract cost.

mod authorizer;
mod budget;
mod compile;
mod gates;
mod value;

pub use authorizer::{Authorize, Question};
pub use budget::Budget;
pub use compile::{CompileError, Expression, Scope};
pub(crate) use value::decode;
pub use value::{escape, plain, shown, to_json, typed};

use std::sync::Arc;

use kube_cel::KubeCelExt;
pub use kube_cel::cel::Value;
use kube_cel::cel::{Context, ExecutionError, objects};

/// Why an expression came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// It would take too long or too much memory.
    #[error("operation cancelled: actual cost limit exceeded")]
    TooExpensive,
    /// It went wrong: a missing key, an index, a division.
    #[error("{0}")]
    Failed(String),
    /// Its value is of another type than is needed there.
    #[error("cel expression evaluates to {0}, which is not {1}")]
    Type(String, &'static str),
}

/// Runs expressions, all on one budget.
pub struct Session {
    root: Context<'static>,
    budget: Arc<Budget>,
}

/// Variables by name.
pub type Bound<'a> = &'a [(&'a str, Value)];

impl Session {
    /// A session that may spend `budget`.
    #[must_use]
    pub fn new(budget: Budget) -> Self {
        let budget = Arc::new(budget);
        let mut root = Context::default();
        root.register_all();
        gates::register(&mut root, &budget);
        authorizer::register(&mut root);
        Self { root, budget }
    }

    /// The expression's value.
    ///
    /// # Errors
    /// When it goes wrong, or the session's budget is spent.
    pub fn eval(&self, expression: &Expression, bound: Bound<'_>) -> Result<Value, EvalError> {
        self.budget.spend(1).map_err(|_| EvalError::TooExpensive)?;
        let mut scope = self.root.new_inner_scope();
        for (name, value) in bound {
            scope.add_variable_from_value(*name, value.clone());
        }
        // The evaluator has branches that end in a panic where a type is missing: a request must
        // not be lost to them.
        let run = std::panic::AssertUnwindSafe(|| expression.run(&scope));
        match std::panic::catch_unwind(run) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(_)) if self.budget.is_spent() => Err(EvalError::TooExpensive),
            Ok(Err(error)) => Err(EvalError::Failed(said(&error))),
            Err(_) => Err(EvalError::Failed("the expression cannot be evaluated".to_owned())),
        }
    }

    /// The expression's truth.
    ///
    /// # Errors
    /// As [`Session::eval`], and when it is neither true nor false.
    pub fn truth(&self, expression: &Expression, bound: Bound<'_>) -> Result<bool, EvalError> {
        match self.eval(expression, bound)? {
            Value::Bool(truth) => Ok(truth),
            other => Err(EvalError::Type(other.type_of().to_string(), "a bool")),
        }
    }

    /// The expression's text.
    ///
    /// # Errors
    /// As [`Session::eval`], and when it is no text.
    pub fn text(&self, expression: &Expression, bound: Bound<'_>) -> Result<String, EvalError> {
        match self.eval(expression, bound)? {
            Value::String(text) => Ok(text.to_string()),
            other => Err(EvalError::Type(other.type_of().to_string(), "a string")),
        }
    }
}

/// A value that may be missing: `optional.of(value)` or `optional.none()`.
#[must_use]
pub fn optional(value: Option<Value>) -> Value {
    let value = value.map_or_else(objects::OptionalValue::none, objects::OptionalValue::of);
    Value::Opaque(Arc::new(value))
}

/// Something that answers `authorizer` in expressions.
#[must_use]
pub fn authorizer(authorize: Arc<dyn Authorize>) -> Value {
    authorizer::value(authorize, Question::default())
}

/// The `authorizer.requestResource` of expressions: a check that is already about `question`.
#[must_use]
pub fn request_resource(authorize: Arc<dyn Authorize>, question: Question) -> Value {
    authorizer::value(authorize, question)
}

/// A map of values by name.
#[must_use]
pub fn map(pairs: &[(String, Value)]) -> Value {
    let key = |name: &String| objects::Key::String(Arc::new(name.clone()));
    let map = pairs.iter().map(|(name, value)| (key(name), value.clone())).collect();
    Value::Map(objects::Map { map: Arc::new(map) })
}

/// An error in Kubernetes' words where people look for them.
fn said(error: &ExecutionError) -> String {
    match error {
        ExecutionError::NoSuchKey(key) => format!("no such key: {key}"),
        ExecutionError::NoSuchOverload => "no such overload".to_owned(),
        ExecutionError::UndeclaredReference(name) => format!("no such attribute(s): {name}"),
        ExecutionError::DivisionByZero(_) => "division by zero".to_owned(),
        ExecutionError::RemainderByZero(_) => "modulus by zero".to_owned(),
        ExecutionError::FunctionError { message, .. } => message.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
