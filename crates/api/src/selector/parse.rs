//! Reads the text forms.

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::vec::IntoIter;

use super::{FieldRequirement, Requirement, SelectorError, Wanted};
use crate::names;

/// The requirements of `a=b,c!=d,e in (x,y),f notin (z),g,!h,i>1`.
///
/// # Source
/// Kubernetes' grammar of label selectors, and what it says of text that is none.
pub fn requirements(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    let mut words = split(text).into_iter().peekable();
    let mut found = Vec::new();
    loop {
        match words.peek().copied() {
            None => return Ok(found),
            Some(word) if !is_sign(word) || word == "!" => {}
            Some(word) => {
                let what = format!("found '{word}', expected: !, identifier, or 'end of string'");
                return Err(wrong(&what));
            }
        }
        let one = requirement(&mut words);
        found.push(one.map_err(|what| wrong(&format!("unable to parse requirement: {what}")))?);
        match words.next() {
            None => return Ok(found),
            Some(",") => match words.peek().copied() {
                Some(word) if !is_sign(word) || word == "!" => {}
                other => {
                    let other = other.unwrap_or_default();
                    let what = format!("found '{other}', expected: identifier after ','");
                    return Err(wrong(&what));
                }
            },
            Some(other) => {
                return Err(wrong(&format!("found '{other}', expected: ',' or 'end of string'")));
            }
        }
    }
}

type Words<'a> = Peekable<IntoIter<&'a str>>;

const SIGNS: [char; 7] = [',', '=', '!', '(', ')', '<', '>'];

fn is_sign(word: &str) -> bool {
    word.starts_with(SIGNS)
}

/// Signs and the words between them; whitespace only parts words.
fn split(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let length = if rest.starts_with("==") || rest.starts_with("!=") {
            2
        } else if is_sign(rest) {
            1
        } else {
            rest.find(|c: char| c.is_whitespace() || SIGNS.contains(&c)).unwrap_or(rest.len())
        };
        words.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    words
}

fn requirement(words: &mut Words<'_>) -> Result<Requirement, String> {
    let missing = words.next_if_eq(&"!").is_some();
    let key = identifier(words)?.to_owned();
    names::qualified_name(&key)
        .map_err(|wrong| format!("<nil>: Invalid value: {key:?}: {wrong}"))?;
    if missing {
        return Ok(Requirement { key, wanted: Wanted::Missing });
    }
    if words.peek().is_none_or(|word| *word == ",") {
        return Ok(Requirement { key, wanted: Wanted::Exists });
    }
    let operator = words.next().unwrap_or_default();
    let values = match operator {
        "in" | "notin" => set(words)?,
        "=" | "==" | "!=" | "<" | ">" => BTreeSet::from([value(words)?]),
        other => {
            return Err(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt"));
        }
    };
    let mut faults = Vec::new();
    let mut number = 0;
    for (at, value) in values.iter().enumerate() {
        if matches!(operator, "<" | ">") {
            match value.parse() {
                Ok(parsed) => number = parsed,
                Err(_) => faults.push(format!(
                    "values[{at}]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value \
                     must be an integer"
                )),
            }
        }
        if let Err(wrong) = names::label_value(value) {
            faults.push(format!("values[{at}][{key}]: Invalid value: {value:?}: {wrong}"));
        }
    }
    match faults.as_slice() {
        [] => {}
        [only] => return Err(only.clone()),
        several => return Err(format!("[{}]", several.join(", "))),
    }
    let values = values.into_iter().collect();
    let wanted = match operator {
        "notin" | "!=" => Wanted::NotIn(values),
        ">" => Wanted::Above(number),
        "<" => Wanted::Below(number),
        _ => Wanted::In(values),
    };
    Ok(Requirement { key, wanted })
}

fn identifier<'a>(words: &mut Words<'a>) -> Result<&'a str, String> {
    let word = words.next().unwrap_or_default();
    if word.is_empty() || is_sign(word) {
        return Err(format!("found '{word}', expected: identifier"));
    }
    Ok(word)
}

/// A single value; none is the empty one.
fn value(words: &mut Words<'_>) -> Result<String, String> {
    if words.peek().is_none_or(|word| *word == ",") {
        return Ok(String::new());
    }
    identifier(words).map(str::to_owned)
}

/// Values in parentheses; where there is none, the empty one.
fn set(words: &mut Words<'_>) -> Result<BTreeSet<String>, String> {
    let open = words.next().unwrap_or_default();
    if open != "(" {
        return Err(format!("found '{open}' expected: '('"));
    }
    if words.peek().is_none_or(|word| is_sign(word) && !matches!(*word, "," | ")")) {
        let found = words.peek().copied().unwrap_or_default();
        return Err(format!("found '{found}', expected: ',', ')' or identifier"));
    }
    let mut values = BTreeSet::new();
    loop {
        if words.peek().is_some_and(|word| matches!(*word, "," | ")")) {
            values.insert(String::new());
        } else {
            let word = words.next().unwrap_or_default();
            if word.is_empty() || is_sign(word) {
                return Err(format!("found '{word}', expected: ',', or identifier"));
            }
            values.insert(word.to_owned());
        }
        match words.next().unwrap_or_default() {
            ")" => return Ok(values),
            "," => {}
            other => return Err(format!("found '{other}', expected: ',' or ')'")),
        }
    }
}

fn wrong(what: &str) -> SelectorError {
    SelectorError(what.to_owned())
}

/// The requirements of `metadata.name=a,status.phase!=b`; `\` escapes `,`, `=` and itself.
pub fn fields(text: &str) -> Result<Vec<FieldRequirement>, SelectorError> {
    let terms = split_unescaped(text);
    terms.into_iter().filter(|term| !term.is_empty()).map(field).collect()
}

fn field(term: &str) -> Result<FieldRequirement, SelectorError> {
    let found = ["!=", "==", "="].iter().find_map(|operator| {
        let (path, value) = term.split_once(operator)?;
        (!path.contains(['=', '!'])).then_some((path, *operator, value))
    });
    let (path, operator, value) = found
        .ok_or_else(|| wrong(&format!("invalid selector: '{term}'; can't understand '{term}'")))?;
    Ok(FieldRequirement { path: path.to_owned(), equal: operator != "!=", value: unescape(value)? })
}

fn split_unescaped(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, c) in text.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == ',' {
            terms.push(&text[start..at]);
            start = at + 1;
        }
    }
    terms.push(&text[start..]);
    terms
}

fn unescape(value: &str) -> Result<String, SelectorError> {
    let mut plain = String::with_capacity(value.len());
    let mut rest = value.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' => match rest.next() {
                Some(next @ ('\\' | ',' | '=')) => plain.push(next),
                _ => {
                    return Err(wrong(&format!(
                        "invalid field selector: invalid escape in {value:?}"
                    )));
                }
            },
            ',' | '=' => {
                return Err(wrong(&format!(
                    "invalid field selector: unescaped {c:?} in {value:?}"
                )));
            }
            other => plain.push(other),
        }
    }
    Ok(plain)
}
