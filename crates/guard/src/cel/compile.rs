//! From text to an expression that may be kept: parsed, names resolved, fields looked up in the
//! schema, gates put in.

use std::collections::BTreeSet;

use kube_cel::cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, operators};
use kube_cel::cel::parser::{Expression as Tree, Parser};
use kube_cel::cel::{Context, ResolveResult};
use serde_json::Value;

use super::gates::{PICK, SMALL, TURN, WEIGH};
use super::value;

/// Longer expressions are refused.
const LONGEST: usize = 32 * 1024;
/// Brackets within brackets.
const DEEPEST_TEXT: usize = 100;
/// Levels of the tree: evaluation takes some kilobytes of stack for each.
const DEEPEST_TREE: usize = 120;
const PARSER_STACK: usize = 64 * 1024 * 1024;

/// Names that are no variables: types, and the first half of qualified functions.
const WORDS: &[&str] = &[
    "bool",
    "int",
    "uint",
    "double",
    "string",
    "bytes",
    "list",
    "map",
    "null_type",
    "type",
    "dyn",
    "optional",
    "math",
    "sets",
    "strings",
    "lists",
    "base64",
    "jsonpatch",
    "format",
    "ip",
    "cidr",
    "semver",
    "quantity",
    "google",
];

/// The functions there are; operators stand apart.
const FUNCTIONS: &[&str] = &[
    "abs",
    "add",
    "all",
    "allowed",
    "asApproximateFloat",
    "asInteger",
    "bitAnd",
    "bitNot",
    "bitOr",
    "bitShiftLeft",
    "bitShiftRight",
    "bitXor",
    "byte",
    "bytes",
    "ceil",
    "charAt",
    "check",
    "cidr",
    "compareTo",
    "contains",
    "containsCIDR",
    "containsIP",
    "date",
    "datetime",
    "decode",
    "distinct",
    "dns1035Label",
    "dns1035LabelPrefix",
    "dns1123Label",
    "dns1123LabelPrefix",
    "dns1123Subdomain",
    "dns1123SubdomainPrefix",
    "double",
    "duration",
    "dyn",
    "encode",
    "endsWith",
    "equivalent",
    "errored",
    "error",
    "escapeKey",
    "family",
    "find",
    "findAll",
    "first",
    "flatten",
    "floor",
    "format",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getEscapedPath",
    "getFullYear",
    "getHost",
    "getHostname",
    "getHours",
    "getMilliseconds",
    "getMinutes",
    "getMonth",
    "getPort",
    "getQuery",
    "getScheme",
    "getSeconds",
    "greatest",
    "group",
    "hasValue",
    "indexOf",
    "int",
    "intersects",
    "ip",
    "isCIDR",
    "isCIDRv4",
    "isCIDRv6",
    "isCanonical",
    "isFinite",
    "isGlobalUnicast",
    "isGreaterThan",
    "isIP",
    "isIPv4",
    "isIPv6",
    "isInf",
    "isInteger",
    "isLessThan",
    "isLinkLocalMulticast",
    "isLinkLocalUnicast",
    "isLoopback",
    "isNaN",
    "isQuantity",
    "isSemver",
    "isSorted",
    "isURL",
    "isUnspecified",
    "join",
    "labelValue",
    "last",
    "lastIndexOf",
    "least",
    "lowerAscii",
    "major",
    "masked",
    "matches",
    "max",
    "min",
    "minor",
    "name",
    "named",
    "namespace",
    "none",
    "of",
    "or",
    "orValue",
    "patch",
    "path",
    "prefixLength",
    "qualifiedName",
    "quantity",
    "quote",
    "range",
    "reason",
    "replace",
    "resource",
    "reverse",
    "round",
    "semver",
    "serviceAccount",
    "sign",
    "size",
    "slice",
    "sort",
    "split",
    "sqrt",
    "startsWith",
    "string",
    "sub",
    "subresource",
    "substring",
    "sum",
    "timestamp",
    "trim",
    "trunc",
    "type",
    "uint",
    "upperAscii",
    "uri",
    "url",
    "uuid",
    "validate",
    "value",
];

/// Why an expression cannot be kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("compilation failed: {0}")]
pub struct CompileError(pub String);

/// What an expression may name, and of what shape it is where that is known.
#[derive(Debug, Clone, Default)]
pub struct Scope<'a> {
    names: Vec<(&'a str, Option<&'a Value>)>,
}

impl<'a> Scope<'a> {
    /// A scope of names of which no shape is known.
    #[must_use]
    pub fn of(names: &[&'a str]) -> Self {
        Self { names: names.iter().map(|name| (*name, None)).collect() }
    }

    /// The same with one more name, of an OpenAPI schema when it has one.
    #[must_use]
    pub fn with(mut self, name: &'a str, schema: Option<&'a Value>) -> Self {
        self.names.push((name, schema));
        self
    }
}

/// An expression that is ready to run.
#[derive(Debug, Clone)]
pub struct Expression {
    tree: Tree,
    named: BTreeSet<String>,
    loops: bool,
}

impl Expression {
    /// Compiles an expression whose value is to be a truth.
    ///
    /// # Errors
    /// With the first fault: syntax, unknown names or fields, another type.
    pub fn rule(source: &str, scope: &Scope<'_>) -> Result<Self, CompileError> {
        Self::compile(source, scope, Some("boolean"))
    }

    /// Compiles an expression whose value is to be text.
    ///
    /// # Errors
    /// As [`Expression::rule`].
    pub fn message(source: &str, scope: &Scope<'_>) -> Result<Self, CompileError> {
        Self::compile(source, scope, Some("string"))
    }

    /// Compiles an expression of any value.
    ///
    /// # Errors
    /// As [`Expression::rule`].
    pub fn any(source: &str, scope: &Scope<'_>) -> Result<Self, CompileError> {
        Self::compile(source, scope, None)
    }

    fn compile(
        source: &str,
        scope: &Scope<'_>,
        wanted: Option<&'static str>,
    ) -> Result<Self, CompileError> {
        sized(source)?;
        // The parser recurses by the length of chains: on a stack of its own it cannot end the
        // process.
        let run = std::thread::scope(|threads| {
            let builder = std::thread::Builder::new().stack_size(PARSER_STACK);
            let work = || prepare(source, scope, wanted);
            let thread = builder.spawn_scoped(threads, work);
            thread.map(|thread| thread.join())
        });
        match run {
            Ok(Ok(done)) => done,
            _ => Err(CompileError("the expression cannot be parsed".to_owned())),
        }
    }

    /// Whether the expression names this variable.
    #[must_use]
    pub fn names(&self, variable: &str) -> bool {
        self.named.contains(variable)
    }

    /// Whether it goes through lists or maps, and so may take long.
    #[must_use]
    pub fn loops(&self) -> bool {
        self.loops
    }

    pub(super) fn run(&self, context: &Context<'_>) -> ResolveResult {
        context.resolve(&self.tree)
    }
}

fn sized(source: &str) -> Result<(), CompileError> {
    if source.len() > LONGEST {
        return Err(CompileError(format!("expression is longer than {LONGEST} bytes")));
    }
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in source.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    if deepest > DEEPEST_TEXT {
        return Err(CompileError("expression recursion limit exceeded".to_owned()));
    }
    Ok(())
}

fn prepare(
    source: &str,
    scope: &Scope<'_>,
    wanted: Option<&'static str>,
) -> Result<Expression, CompileError> {
    let parsed = Parser::default().enable_optional_syntax(true).parse(source);
    let mut tree = parsed.map_err(|errors| CompileError(errors.to_string()))?;
    let bound = scope.names.iter().map(|(name, found)| ((*name).to_owned(), *found)).collect();
    let mut walk = Walk { bound, named: BTreeSet::new(), loops: false };
    walk.check(&tree, 0)?;
    if let Some(wanted) = wanted
        && let Some(found) = walk.kind(&tree.expr)
        && found != wanted
    {
        let wanted = if wanted == "boolean" { "bool" } else { wanted };
        return Err(CompileError(format!("must evaluate to {wanted}")));
    }
    let Walk { named, loops, .. } = walk;
    gate(&mut tree);
    Ok(Expression { tree, named, loops })
}

struct Walk<'a> {
    bound: Vec<(String, Option<&'a Value>)>,
    named: BTreeSet<String>,
    loops: bool,
}

impl<'a> Walk<'a> {
    fn check(&mut self, tree: &IdedExpr, depth: usize) -> Result<(), CompileError> {
        if depth > DEEPEST_TREE {
            return Err(CompileError("expression recursion limit exceeded".to_owned()));
        }
        let below = depth + 1;
        match &tree.expr {
            Expr::Unspecified => Err(CompileError("the expression is incomplete".to_owned())),
            Expr::Struct(made) => {
                Err(CompileError(format!("undeclared reference to '{}'", made.type_name)))
            }
            Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => self.ident(name),
            Expr::Select(select) => {
                self.check(&select.operand, below)?;
                self.field(&select.operand.expr, &select.field)
            }
            Expr::List(list) => list.elements.iter().try_for_each(|one| self.check(one, below)),
            Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
                kube_cel::cel::common::ast::EntryExpr::MapEntry(pair) => {
                    self.check(&pair.key, below)?;
                    self.check(&pair.value, below)
                }
                kube_cel::cel::common::ast::EntryExpr::StructField(field) => {
                    self.check(&field.value, below)
                }
            }),
            Expr::Call(call) => {
                self.function(call)?;
                if let Some(target) = &call.target {
                    self.check(target, below)?;
                }
                call.args.iter().try_for_each(|one| self.check(one, below))
            }
            Expr::Comprehension(turns) => {
                self.loops = true;
                self.check(&turns.iter_range, below)?;
                self.check(&turns.accu_init, below)?;
                let item = self.schema(&turns.iter_range.expr).and_then(|range| {
                    // A map is gone through by its keys.
                    range.get("items").filter(|items| items.is_object())
                });
                let before = self.bound.len();
                self.bound.push((turns.iter_var.clone(), item));
                self.bound.push((turns.accu_var.clone(), None));
                self.bound.extend(turns.iter_var2.clone().map(|name| (name, None)));
                let done = [&turns.loop_cond, &turns.loop_step, &turns.result]
                    .into_iter()
                    .try_for_each(|part| self.check(part, below));
                self.bound.truncate(before);
                done
            }
        }
    }

    fn ident(&mut self, name: &str) -> Result<(), CompileError> {
        let plain = name.strip_prefix('.').unwrap_or(name);
        if self.bound.iter().any(|(own, _)| *own == plain) {
            self.named.insert(plain.to_owned());
            return Ok(());
        }
        if WORDS.contains(&plain) {
            return Ok(());
        }
        let wrong = format!("undeclared reference to '{name}' (in container '')");
        Err(CompileError(format!("ERROR: <input>:1:1: {wrong}")))
    }

    fn function(&self, call: &CallExpr) -> Result<(), CompileError> {
        let name = call.func_name.as_str();
        let operator = name.contains(['_', '@', '!', '-']);
        if operator || FUNCTIONS.contains(&name) {
            return Ok(());
        }
        let wrong = format!("undeclared reference to '{name}' (in container '')");
        Err(CompileError(format!("ERROR: <input>:1:1: {wrong}")))
    }

    fn field(&self, operand: &Expr, field: &str) -> Result<(), CompileError> {
        let Some(schema) = self.schema(operand) else { return Ok(()) };
        let closed = schema["type"] == "object"
            && schema["x-kubernetes-preserve-unknown-fields"] != true
            && schema.get("additionalProperties").is_none();
        if closed && value::property(schema, field).is_none() {
            let wrong = format!("undefined field '{field}'");
            return Err(CompileError(format!("ERROR: <input>:1:1: {wrong}")));
        }
        Ok(())
    }

    /// The schema of an expression's value, as far as it can be read off.
    fn schema(&self, expr: &Expr) -> Option<&'a Value> {
        match expr {
            Expr::Ident(name) => {
                self.bound.iter().rev().find(|(own, _)| own == name).and_then(|(_, found)| *found)
            }
            Expr::Select(select) if !select.test => {
                let schema = self.schema(&select.operand.expr)?;
                value::property(schema, &select.field)
            }
            Expr::Call(call) if call.func_name == operators::INDEX => {
                let schema = self.schema(&call.args.first()?.expr)?;
                let of = |word: &str| schema.get(word).filter(|found| found.is_object());
                of("items").or_else(|| of("additionalProperties"))
            }
            _ => None,
        }
    }

    /// The type of an expression's value in JSON schema's words, as far as it can be read off.
    fn kind(&self, expr: &Expr) -> Option<&'a str> {
        match expr {
            Expr::Literal(LiteralValue::Boolean(_)) => Some("boolean"),
            Expr::Literal(LiteralValue::String(_)) => Some("string"),
            Expr::Literal(LiteralValue::Int(_) | LiteralValue::UInt(_)) => Some("integer"),
            Expr::Literal(LiteralValue::Double(_)) => Some("number"),
            Expr::List(_) => Some("array"),
            Expr::Map(_) => Some("object"),
            Expr::Select(select) if select.test => Some("boolean"),
            Expr::Call(call) => match call.func_name.as_str() {
                "_&&_" | "_||_" | "!_" | "_==_" | "_!=_" | "_<_" | "_<=_" | "_>_" | "_>=_"
                | "@in" => Some("boolean"),
                "startsWith" | "endsWith" | "matches" | "isSorted" => Some("boolean"),
                "size" => Some("integer"),
                _ => None,
            },
            other => {
                let schema = self.schema(other)?;
                if schema["x-kubernetes-int-or-string"] == true || !schema["format"].is_null() {
                    return None;
                }
                schema["type"].as_str()
            }
        }
    }
}

fn call(name: &str, args: Vec<IdedExpr>) -> IdedExpr {
    let call = CallExpr { func_name: name.to_owned(), target: None, args };
    IdedExpr { id: 0, expr: Expr::Call(call) }
}

/// Puts the gates in.
fn gate(tree: &mut IdedExpr) {
    match &mut tree.expr {
        Expr::Unspecified | Expr::Literal(_) | Expr::Ident(_) | Expr::Struct(_) => {}
        Expr::Select(select) => {
            gate(&mut select.operand);
            let is_own = matches!(&select.operand.expr, Expr::Ident(name) if name == "authorizer");
            if is_own && select.field == "requestResource" && !select.test {
                tree.expr = Expr::Ident("authorizer.requestResource".to_owned());
                return;
            }
            // What follows a missing field is missing too.
            let chained =
                matches!(&select.operand.expr, Expr::Call(before) if before.func_name == PICK);
            if chained && !select.test {
                let operand = std::mem::take(&mut *select.operand);
                let field = LiteralValue::String(select.field.as_str().into());
                let field = IdedExpr { id: 0, expr: Expr::Literal(field) };
                *tree = call(PICK, vec![operand, field]);
            }
        }
        Expr::List(list) => list.elements.iter_mut().for_each(gate),
        Expr::Map(map) => {
            for entry in &mut map.entries {
                if let kube_cel::cel::common::ast::EntryExpr::MapEntry(pair) = &mut entry.expr {
                    gate(&mut pair.key);
                    gate(&mut pair.value);
                }
            }
        }
        Expr::Call(one) => {
            if let Some(target) = &mut one.target {
                gate(target);
            }
            one.args.iter_mut().for_each(gate);
            if matches!(one.func_name.as_str(), "format" | "range") {
                for arg in &mut one.args {
                    let inner = std::mem::take(arg);
                    *arg = call(SMALL, vec![inner]);
                }
            }
            if matches!(one.func_name.as_str(), operators::OPT_SELECT | operators::OPT_INDEX) {
                one.func_name = PICK.to_owned();
            }
            if one.func_name == operators::ADD {
                let sum = std::mem::take(tree);
                *tree = call(WEIGH, vec![sum]);
            }
        }
        Expr::Comprehension(turns) => {
            gate(&mut turns.iter_range);
            gate(&mut turns.accu_init);
            gate(&mut turns.loop_step);
            gate(&mut turns.result);
            let cond = std::mem::take(&mut turns.loop_cond);
            let turn = call(TURN, Vec::new());
            let stop = call(operators::LOGICAL_NOT, vec![call(TURN, Vec::new())]);
            turns.loop_cond = call(operators::CONDITIONAL, vec![turn, cond, stop]);
        }
    }
}
