//! The gates that rewritten expressions pass, and functions that are measured before they run.

use std::sync::Arc;

use kube_cel::cel::extractors::{Arguments, This};
use kube_cel::cel::objects::{Key, OptionalValue};
use kube_cel::cel::{Context, ExecutionError, ResolveResult, Value};

use super::budget::Budget;

/// One turn of a loop; no expression can spell this name, nor the next two.
pub(super) const TURN: &str = "@turn";
/// A value that was put together.
pub(super) const WEIGH: &str = "@weigh";
/// A value that must be small, for it will be multiplied.
pub(super) const SMALL: &str = "@small";
/// A field or item that may be missing: the evaluator's own does not look into an optional.
pub(super) const PICK: &str = "@pick";

/// Longest text or list that an expression may make.
const MOST_MADE: usize = 4 * 1024 * 1024;
const SMALL_SIZE: usize = 16 * 1024;
/// So many bytes or items cost as much as one turn.
const A_TURNS_WORTH: usize = 64;

/// Adds the gates, and replaces what the libraries do without measure.
pub(super) fn register(root: &mut Context<'static>, budget: &Arc<Budget>) {
    let own = Arc::clone(budget);
    root.add_function(TURN, move || -> ResolveResult {
        own.spend(1).map_err(|_| spent(TURN))?;
        Ok(Value::Bool(true))
    });
    let own = Arc::clone(budget);
    root.add_function(WEIGH, move |This(value): This<Value>| -> ResolveResult {
        let made = flat(&value);
        pay(&own, made, WEIGH)?;
        Ok(value)
    });
    let own = Arc::clone(budget);
    root.add_function(SMALL, move |This(value): This<Value>| -> ResolveResult {
        let large = match &value {
            Value::Int(number) => *number > i64::try_from(SMALL_SIZE).unwrap_or(i64::MAX),
            other => deep(other) > SMALL_SIZE,
        };
        if large {
            own.spend(u64::MAX).map_err(|_| spent(SMALL))?;
        }
        Ok(value)
    });
    let own = Arc::clone(budget);
    let replace = move |This(text): This<Arc<String>>,
                        Arguments(args): Arguments|
          -> ResolveResult {
        let (Some(Value::String(from)), Some(Value::String(to))) = (args.first(), args.get(1))
        else {
            return Err(ExecutionError::function_error("replace", "no such overload"));
        };
        let most = match args.get(2) {
            Some(Value::Int(count)) => usize::try_from(*count).unwrap_or(usize::MAX),
            _ => usize::MAX,
        };
        let found = if from.is_empty() {
            text.chars().count() + 1
        } else {
            text.matches(from.as_str()).take(most).count()
        };
        pay(&own, text.len().saturating_add(found.min(most).saturating_mul(to.len())), "replace")?;
        Ok(Value::String(Arc::new(text.replacen(from.as_str(), to, most))))
    };
    root.add_function("replace", replace);
    let own = Arc::clone(budget);
    let join = move |This(list): This<Arc<Vec<Value>>>,
                     Arguments(args): Arguments|
          -> ResolveResult {
        let separator = match args.first() {
            Some(Value::String(text)) => text.as_str(),
            _ => "",
        };
        let mut parts = Vec::with_capacity(list.len());
        for item in list.iter() {
            let Value::String(text) = item else {
                return Err(ExecutionError::function_error("join", "no such overload"));
            };
            parts.push(text.as_str());
        }
        let own_size: usize = parts.iter().map(|part| part.len()).sum();
        pay(&own, own_size.saturating_add(parts.len().saturating_mul(separator.len())), "join")?;
        Ok(Value::String(Arc::new(parts.join(separator))))
    };
    root.add_function("join", join);
    root.add_function(PICK, |Arguments(args): Arguments| -> ResolveResult { Ok(pick(&args)) });
    root.add_function("size", |This(value): This<Value>| -> ResolveResult {
        let size = match &value {
            // Code points, as CEL has it.
            Value::String(text) => text.chars().count(),
            Value::List(list) => list.len(),
            Value::Map(map) => map.map.len(),
            Value::Bytes(bytes) => bytes.len(),
            _ => return Err(ExecutionError::function_error("size", "no such overload")),
        };
        Ok(Value::Int(i64::try_from(size).unwrap_or(i64::MAX)))
    });
}

fn pick(args: &[Value]) -> Value {
    let (Some(from), Some(what)) = (args.first(), args.get(1)) else {
        return super::optional(None);
    };
    let inner = match from {
        Value::Opaque(opaque) => opaque.downcast_ref::<OptionalValue>().and_then(|one| one.value()),
        other => Some(other),
    };
    let found = match (inner, what) {
        (Some(Value::Map(map)), what) => {
            let key: Option<Key> = what.clone().try_into().ok();
            key.and_then(|key| map.map.get(&key).cloned())
        }
        (Some(Value::List(list)), Value::Int(at)) => {
            usize::try_from(*at).ok().and_then(|at| list.get(at).cloned())
        }
        _ => None,
    };
    super::optional(found)
}

fn spent(function: &str) -> ExecutionError {
    ExecutionError::function_error(function, "operation cancelled: actual cost limit exceeded")
}

fn pay(budget: &Budget, size: usize, function: &str) -> Result<(), ExecutionError> {
    let units = if size > MOST_MADE { u64::MAX } else { (size / A_TURNS_WORTH) as u64 };
    budget.spend(units).map_err(|_| spent(function))
}

/// The size of the outermost text or list alone.
fn flat(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        Value::List(list) => list.len(),
        _ => 0,
    }
}

fn deep(value: &Value) -> usize {
    match value {
        Value::List(list) => list.iter().map(deep).sum::<usize>() + list.len(),
        Value::Map(map) => {
            let key = |key: &Key| if let Key::String(text) = key { text.len() } else { 8 };
            map.map.iter().map(|(name, value)| key(name) + deep(value)).sum()
        }
        other => flat(other) + 1,
    }
}
