//! Cells of custom resources: simple JSON paths.
//!
//! Reads `.a.b`, `['a.b']`, `[0]`, `[*]` and `[?(@.a=="b")]`, which is what definitions use;
//! anything else shows nothing.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::age;

/// The cell of a column of this type.
pub fn cell(object: &Value, path: &str, kind: &str, now: Timestamp) -> Value {
    let found = find(object, path);
    let Some(first) = found.first() else { return Value::Null };
    match kind {
        "integer" => first.as_i64().map_or(Value::Null, |number| json!(number)),
        "number" => first.as_f64().map_or(Value::Null, |number| json!(number)),
        "boolean" => first.as_bool().map_or(Value::Null, |word| json!(word)),
        "date" => match first {
            Value::String(text) if text.parse::<Timestamp>().is_err() => json!("<invalid>"),
            Value::String(_) => json!(age::since(first, now)),
            _ => Value::Null,
        },
        _ => {
            let words: Vec<String> = found
                .iter()
                .map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned))
                .collect();
            json!(words.join(","))
        }
    }
}

/// The values at a path that are not null.
pub fn find<'a>(object: &'a Value, path: &str) -> Vec<&'a Value> {
    let path = path.trim().trim_start_matches('{').trim_end_matches('}');
    let mut found = vec![object];
    let mut rest = path.strip_prefix('$').unwrap_or(path);
    while !rest.is_empty() {
        let Some((step, after)) = step(rest) else { return Vec::new() };
        found = found.into_iter().flat_map(|value| walk(value, &step)).collect();
        rest = after;
    }
    found.retain(|value| !value.is_null());
    found
}

enum Step<'a> {
    Field(String),
    Index(i64),
    All,
    Where(&'a str, String),
}

fn step(path: &str) -> Option<(Step<'_>, &str)> {
    if let Some(inside) = path.strip_prefix('[') {
        let (inside, rest) = bracket(inside)?;
        let step = if inside == "*" {
            Step::All
        } else if let Some(condition) = inside.strip_prefix("?(") {
            let (left, right) = condition.strip_suffix(')')?.split_once("==")?;
            let right = right.trim().trim_matches(['"', '\'']);
            Step::Where(left.trim().strip_prefix('@')?, right.to_owned())
        } else if let Ok(index) = inside.parse() {
            Step::Index(index)
        } else {
            Step::Field(inside.strip_prefix('\'')?.strip_suffix('\'')?.to_owned())
        };
        return Some((step, rest));
    }
    let rest = path.strip_prefix('.').unwrap_or(path);
    if rest.starts_with('[') {
        return step(rest);
    }
    let mut name = String::new();
    let mut chars = rest.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '.' | '[' => return Some((named(name), &rest[at..])),
            // A dot in a key is written with a backslash.
            '\\' => name.push(chars.next()?.1),
            other => name.push(other),
        }
    }
    Some((named(name), ""))
}

fn named(name: String) -> Step<'static> {
    if name == "*" { Step::All } else { Step::Field(name) }
}

/// What is inside the bracket, quotes respected, and what follows it.
fn bracket(text: &str) -> Option<(&str, &str)> {
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (None, ']') => return Some((&text[..at], &text[at + 1..])),
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            _ => {}
        }
    }
    None
}

fn walk<'a>(value: &'a Value, step: &Step<'_>) -> Vec<&'a Value> {
    match (step, value) {
        (Step::Field(name), Value::Object(map)) => map.get(name).into_iter().collect(),
        (Step::Index(index), Value::Array(list)) => {
            let length = i64::try_from(list.len()).unwrap_or(i64::MAX);
            let at = if *index < 0 { index + length } else { *index };
            usize::try_from(at).ok().and_then(|at| list.get(at)).into_iter().collect()
        }
        (Step::All, Value::Array(list)) => list.iter().collect(),
        (Step::All, Value::Object(map)) => map.values().collect(),
        (Step::Where(path, wanted), Value::Array(list)) => {
            let fits = |one: &&Value| {
                find(one, path).first().is_some_and(|found| match found {
                    Value::String(text) => text == wanted,
                    other => other.to_string() == *wanted,
                })
            };
            list.iter().filter(fits).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_find_what_definitions_ask_for() {
        let object =
            json!({"spec": {"a": 1, "b.c": "x", "l": [{"t": "A", "v": 1}, {"t": "B", "v": 2}]}});
        for (path, expected) in [
            (".spec.a", json!([1])),
            ("$.spec.a", json!([1])),
            ("{.spec.a}", json!([1])),
            (".spec['b.c']", json!(["x"])),
            (r".spec.b\.c", json!(["x"])),
            (".spec.l[0].t", json!(["A"])),
            (".spec.l[-1].t", json!(["B"])),
            (".spec.l[*].v", json!([1, 2])),
            (r#".spec.l[?(@.t=="B")].v"#, json!([2])),
            (".spec.none", json!([])),
            (".spec.l[", json!([])),
            ("[[[", json!([])),
        ] {
            assert_eq!(json!(find(&object, path)), expected, "{path}");
        }
    }
}
