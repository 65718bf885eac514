//! `authorizer`: asking in an expression what the requesting user may.

use std::fmt;
use std::sync::Arc;

use kube_cel::cel::extractors::{Arguments, This};
use kube_cel::cel::objects::Opaque;
use kube_cel::cel::{Context, ExecutionError, ResolveResult, Value};

/// What is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Question {
    /// A path that is no resource; empty for a resource.
    pub path: String,
    /// The API group.
    pub group: String,
    /// The plural.
    pub resource: String,
    /// `status`, `scale`, or empty.
    pub subresource: String,
    /// Empty for all.
    pub namespace: String,
    /// Empty for any.
    pub name: String,
    /// `get`, `create` and so on.
    pub verb: String,
    /// Namespace and name, when it is asked for a service account and not for the user.
    pub service_account: Option<(String, String)>,
}

/// Somebody who knows what the requesting user may.
pub trait Authorize: Send + Sync {
    /// Whether what is asked is allowed.
    fn allows(&self, question: &Question) -> bool;
}

/// A question that is being put together, or its answer.
struct Asking {
    authorize: Arc<dyn Authorize>,
    question: Question,
    answer: Option<bool>,
}

impl fmt::Debug for Asking {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.question.fmt(out)
    }
}

impl PartialEq for Asking {
    fn eq(&self, other: &Self) -> bool {
        self.question == other.question && self.answer == other.answer
    }
}

impl Eq for Asking {}

impl Opaque for Asking {
    fn runtime_type_name(&self) -> &str {
        "kubernetes.authorization.Authorizer"
    }
}

pub(super) fn value(authorize: Arc<dyn Authorize>, question: Question) -> Value {
    Value::Opaque(Arc::new(Asking { authorize, question, answer: None }))
}

fn asking<'a>(value: &'a Value, function: &str) -> Result<&'a Asking, ExecutionError> {
    let found = match value {
        Value::Opaque(opaque) => opaque.downcast_ref::<Asking>(),
        _ => None,
    };
    found.ok_or_else(|| ExecutionError::function_error(function, "no such overload"))
}

fn text(args: &[Value], at: usize, function: &str) -> Result<String, ExecutionError> {
    match args.get(at) {
        Some(Value::String(text)) => Ok(text.to_string()),
        _ => Err(ExecutionError::function_error(function, "no such overload")),
    }
}

pub(super) fn register(root: &mut Context<'static>) {
    let mut step = |name: &'static str, set: fn(&mut Question, String)| {
        root.add_function(name, move |This(this): This<Value>, Arguments(args): Arguments| {
            let before = asking(&this, name)?;
            let mut question = before.question.clone();
            set(&mut question, text(&args, 0, name)?);
            Ok(value(before.authorize.clone(), question)) as ResolveResult
        });
    };
    step("path", |question, text| question.path = text);
    step("group", |question, text| question.group = text);
    step("resource", |question, text| question.resource = text);
    step("subresource", |question, text| question.subresource = text);
    step("namespace", |question, text| question.namespace = text);
    step("name", |question, text| question.name = text);
    let account = |This(this): This<Value>, Arguments(args): Arguments| -> ResolveResult {
        let before = asking(&this, "serviceAccount")?;
        let (namespace, name) =
            (text(&args, 0, "serviceAccount")?, text(&args, 1, "serviceAccount")?);
        let question =
            Question { service_account: Some((namespace, name)), ..before.question.clone() };
        Ok(value(before.authorize.clone(), question))
    };
    root.add_function("serviceAccount", account);
    let check = |This(this): This<Value>, Arguments(args): Arguments| -> ResolveResult {
        let before = asking(&this, "check")?;
        let question = Question { verb: text(&args, 0, "check")?, ..before.question.clone() };
        let answer = Some(before.authorize.allows(&question));
        let authorize = before.authorize.clone();
        Ok(Value::Opaque(Arc::new(Asking { authorize, question, answer })))
    };
    root.add_function("check", check);
    root.add_function("allowed", |This(this): This<Value>| -> ResolveResult {
        let answer = asking(&this, "allowed")?.answer;
        answer.map(Value::Bool).ok_or_else(|| ExecutionError::function_error("allowed", "no check"))
    });
    root.add_function("errored", |This(this): This<Value>| -> ResolveResult {
        asking(&this, "errored")?;
        Ok(Value::Bool(false))
    });
    for name in ["reason", "error"] {
        root.add_function(name, move |This(this): This<Value>| -> ResolveResult {
            asking(&this, name)?;
            Ok(Value::String(Arc::default()))
        });
    }
}
