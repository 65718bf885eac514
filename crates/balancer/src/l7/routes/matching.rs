//! What a request must be like for a rule, and which of several rules it is for.
//!
//! Order: exact paths, then expressions (the longer text first), then prefixes (the longer first);
//! then rules with a method, with more headers, with more query parameters; then the older object,
//! then the first by namespace and name, then the first in the object. It is the Gateway API's;
//! where expressions stand it leaves open, and Ingress's own order is a part of it.

use std::cmp::Reverse;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, Method};
use regex::Regex;

use super::actions::Route;

/// What is looked up.
#[derive(Clone, Copy, Debug)]
pub(in crate::l7) struct Asked<'a> {
    /// In lower case, without a port.
    pub(in crate::l7) host: &'a str,
    /// As it was sent.
    pub(in crate::l7) path: &'a str,
    pub(in crate::l7) query: Option<&'a str>,
    pub(in crate::l7) method: &'a Method,
    pub(in crate::l7) headers: &'a HeaderMap,
}

/// Requests of one kind, and what becomes of them.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) path: PathMatch,
    pub(super) method: Option<Method>,
    pub(super) headers: Vec<(HeaderName, ValueMatch)>,
    pub(super) query: Vec<(String, ValueMatch)>,
    pub(super) then: Arc<Route>,
}

#[derive(Clone, Debug)]
pub(super) enum PathMatch {
    Exact(String),
    /// Without a slash at its end; the empty one matches all.
    Prefix(String),
    /// Of the whole path.
    Expression(Regex),
}

#[derive(Clone, Debug)]
pub(super) enum ValueMatch {
    Exact(String),
    /// Of the whole value.
    Expression(Regex),
}

/// An expression that must fit the whole text. Bounded in size, and so in what it may cost.
pub(super) fn whole(expression: &str) -> Result<Regex, regex::Error> {
    regex::RegexBuilder::new(&format!("^(?:{expression})$"))
        .size_limit(1 << 18)
        .dfa_size_limit(1 << 18)
        .build()
}

impl PathMatch {
    pub(super) fn prefix(text: &str) -> Self {
        Self::Prefix(text.trim_end_matches('/').to_owned())
    }

    fn fits(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => path == exact,
            Self::Prefix(prefix) => path
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            Self::Expression(expression) => expression.is_match(path),
        }
    }

    /// How much of a path that fits is the prefix that the rule named.
    pub(super) fn prefix_len(&self) -> usize {
        match self {
            Self::Prefix(prefix) => prefix.len(),
            Self::Exact(_) | Self::Expression(_) => 0,
        }
    }

    fn order(&self) -> (u8, Reverse<usize>) {
        match self {
            Self::Exact(_) => (0, Reverse(0)),
            Self::Expression(expression) => (1, Reverse(expression.as_str().len())),
            Self::Prefix(prefix) => (2, Reverse(prefix.len())),
        }
    }
}

impl ValueMatch {
    fn fits(&self, value: &str) -> bool {
        match self {
            Self::Exact(exact) => value == exact,
            Self::Expression(expression) => expression.is_match(value),
        }
    }
}

impl Rule {
    /// For everything under `path`.
    pub(super) fn simple(path: PathMatch, then: Arc<Route>) -> Self {
        Self { path, method: None, headers: Vec::new(), query: Vec::new(), then }
    }

    pub(super) fn fits(&self, asked: &Asked<'_>) -> bool {
        self.fits_but_for_fields(asked)
            && self.headers.iter().all(|(name, value)| {
                // Several lines of one name are one value, RFC 9110 section 5.3.
                let mut lines = asked.headers.get_all(name).iter();
                match (lines.next(), lines.next()) {
                    (None, _) => false,
                    (Some(one), None) => one.to_str().is_ok_and(|one| value.fits(one)),
                    (Some(_), Some(_)) => {
                        let all = asked.headers.get_all(name).iter();
                        let all: Result<Vec<_>, _> = all.map(|line| line.to_str()).collect();
                        all.is_ok_and(|all| value.fits(&all.join(",")))
                    }
                }
            })
    }

    /// Whether it would fit with the right header fields.
    pub(super) fn fits_but_for_fields(&self, asked: &Asked<'_>) -> bool {
        self.path.fits(asked.path)
            && self.method.as_ref().is_none_or(|method| method == asked.method)
            && self.query.iter().all(|(name, value)| {
                // Of several with one name the first counts, as the Gateway API suggests.
                parameter(asked.query.unwrap_or_default(), name)
                    .is_some_and(|found| value.fits(&found))
            })
    }

    /// Smaller comes first; equal ones stay in the order that they were added in.
    pub(super) fn order(&self) -> impl Ord + use<> {
        let method = self.method.is_none();
        (self.path.order(), method, Reverse(self.headers.len()), Reverse(self.query.len()))
    }
}

/// The first parameter called `name`, decoded.
fn parameter(query: &str, name: &str) -> Option<String> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(key) == name).then(|| decoded(value))
    })
}

/// `%XX` and `+` undone; what is no UTF-8 then is replaced.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).and_then(|byte| (*byte as char).to_digit(16));
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).expect("two hexadecimal digits"));
                at += 2;
            }
            (b'+', ..) => out.push(b' '),
            (byte, ..) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_found_decoded_and_the_first_counts() {
        let check = |query: &str, name: &str, expected: Option<&str>| {
            assert_eq!(parameter(query, name).as_deref(), expected, "{query} {name}");
        };
        check("a=1&b=2&a=3", "a", Some("1"));
        check("a=1&b=2", "b", Some("2"));
        check("a", "a", Some(""));
        check("a%20b=x+y%2F", "a b", Some("x y/"));
        check("ab=%", "ab", Some("%"));
        check("x=1", "a", None);
        check("", "a", None);
    }
}
