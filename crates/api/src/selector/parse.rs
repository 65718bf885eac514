//! Reads the text forms.

use super::{FieldRequirement, Requirement, SelectorError, Wanted};

/// The requirements of `a=b,c!=d,e in (x,y),f notin (z),g,!h,i>1`.
pub fn requirements(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    let mut rest = text.trim();
    let mut found = Vec::new();
    while !rest.is_empty() {
        let (one, after) = requirement(rest)?;
        found.push(one);
        let after = after.trim_start();
        rest = match after.strip_prefix(',') {
            Some(next) if next.trim().is_empty() => {
                return Err(wrong("found '', expected: identifier after ','"));
            }
            Some(next) => next.trim_start(),
            None if after.is_empty() => after,
            None => {
                return Err(wrong(&format!("found '{after}', expected: ',' or 'end of string'")));
            }
        };
    }
    Ok(found)
}

fn requirement(text: &str) -> Result<(Requirement, &str), SelectorError> {
    if let Some(rest) = text.strip_prefix('!') {
        let (key, rest) = word(rest.trim_start());
        let key = some(key, "found '', expected: identifier")?;
        return Ok((Requirement { key, wanted: Wanted::Missing }, rest));
    }
    let (key, rest) = word(text);
    let key = some(key, &format!("found '{text}', expected: !, identifier, or 'end of string'"))?;
    let rest = rest.trim_start();
    let (wanted, rest) = if let Some(rest) = rest.strip_prefix("!=") {
        let (value, rest) = word(rest.trim_start());
        (Wanted::NotIn(vec![value.to_owned()]), rest)
    } else if let Some(rest) = rest.strip_prefix("==").or_else(|| rest.strip_prefix('=')) {
        let (value, rest) = word(rest.trim_start());
        (Wanted::In(vec![value.to_owned()]), rest)
    } else if let Some(rest) = rest.strip_prefix('>') {
        let (number, rest) = number(rest)?;
        (Wanted::Above(number), rest)
    } else if let Some(rest) = rest.strip_prefix('<') {
        let (number, rest) = number(rest)?;
        (Wanted::Below(number), rest)
    } else {
        match word(rest) {
            ("in", rest) => {
                let (values, rest) = set(rest)?;
                (Wanted::In(values), rest)
            }
            ("notin", rest) => {
                let (values, rest) = set(rest)?;
                (Wanted::NotIn(values), rest)
            }
            _ => (Wanted::Exists, rest),
        }
    };
    Ok((Requirement { key, wanted }, rest))
}

fn number(text: &str) -> Result<(i64, &str), SelectorError> {
    let (value, rest) = word(text.trim_start());
    let number = value.parse();
    let number = number.map_err(|_| {
        wrong(&format!("{value:?}: for 'Gt', 'Lt' operators, the value must be an integer"))
    })?;
    Ok((number, rest))
}

fn set(text: &str) -> Result<(Vec<String>, &str), SelectorError> {
    let inside = text.trim_start().strip_prefix('(');
    let inside = inside.ok_or_else(|| wrong(&format!("found '{text}', expected: '('")))?;
    let (inside, rest) =
        inside.split_once(')').ok_or_else(|| wrong("found '', expected: ',', or ')'"))?;
    Ok((inside.split(',').map(|value| value.trim().to_owned()).collect(), rest))
}

/// A word and what follows it.
fn word(text: &str) -> (&str, &str) {
    let ends = |c: char| c.is_whitespace() || matches!(c, ',' | '=' | '!' | '(' | ')' | '<' | '>');
    text.split_at(text.find(ends).unwrap_or(text.len()))
}

fn some(word: &str, otherwise: &str) -> Result<String, SelectorError> {
    if word.is_empty() { Err(wrong(otherwise)) } else { Ok(word.to_owned()) }
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
