//! Selectors over labels and over fields, in their text form and in their object form.
//!
//! # Source
//! Kubernetes' label selectors: `a=b,c!=d,e in (x,y),f notin (z),g,!h,i>1`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

mod parse;

/// What is asked of one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// It has one of these values.
    In(Vec<String>),
    /// It is missing or has none of these values.
    NotIn(Vec<String>),
    /// It is there.
    Exists,
    /// It is missing.
    Missing,
    /// It is a number above this one.
    Above(i64),
    /// It is a number below this one.
    Below(i64),
}

/// One label and what is asked of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// What is asked.
    pub wanted: Wanted,
}

impl Requirement {
    fn holds(&self, found: Option<&str>) -> bool {
        match (&self.wanted, found) {
            (Wanted::In(values), Some(found)) => values.iter().any(|value| value == found),
            (Wanted::NotIn(values), Some(found)) => values.iter().all(|value| value != found),
            (Wanted::Exists, found) => found.is_some(),
            (Wanted::NotIn(_) | Wanted::Missing, None) => true,
            (Wanted::Above(least), Some(found)) => {
                found.parse::<i64>().is_ok_and(|found| found > *least)
            }
            (Wanted::Below(most), Some(found)) => {
                found.parse::<i64>().is_ok_and(|found| found < *most)
            }
            _ => false,
        }
    }
}

/// Which labelled objects are meant; all of its requirements must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

/// A text or object that is no selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub(crate) String);

impl Selector {
    /// Selects every object.
    #[must_use]
    pub fn everything() -> Self {
        Self::default()
    }

    /// Selects no object.
    #[must_use]
    pub fn nothing() -> Self {
        Self { requirements: Vec::new(), nothing: true }
    }

    /// Selects objects that carry all of these labels.
    #[must_use]
    pub fn labels<'a>(pairs: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        let equal = |(key, value): (&String, &String)| Requirement {
            key: key.clone(),
            wanted: Wanted::In(vec![value.clone()]),
        };
        Self { requirements: pairs.into_iter().map(equal).collect(), nothing: false }
    }

    /// The object form; a missing selector selects nothing, an empty one everything.
    ///
    /// # Errors
    /// When an operator is unknown or its values do not fit it.
    pub fn from_object(selector: Option<&LabelSelector>) -> Result<Self, SelectorError> {
        let Some(selector) = selector else {
            return Ok(Self::nothing());
        };
        let mut all = Self::labels(selector.match_labels.iter().flatten());
        for expression in selector.match_expressions.iter().flatten() {
            let values = expression.values.clone().unwrap_or_default();
            let wanted = wanted(&expression.operator, values)?;
            all.requirements.push(Requirement { key: expression.key.clone(), wanted });
        }
        Ok(all)
    }

    /// The object form as JSON; null selects nothing.
    ///
    /// # Errors
    /// As [`Selector::from_object`], and when it is no label selector.
    pub fn from_json(selector: &serde_json::Value) -> Result<Self, SelectorError> {
        if selector.is_null() {
            return Ok(Self::nothing());
        }
        let read: LabelSelector = serde::Deserialize::deserialize(selector)
            .map_err(|wrong: serde_json::Error| SelectorError(wrong.to_string()))?;
        Self::from_object(Some(&read))
    }

    /// Whether these labels are selected.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches_with(|key| labels.get(key).map(String::as_str))
    }

    /// Whether the labels that `find` knows are selected.
    pub fn matches_with<'a>(&self, find: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|one| one.holds(find(&one.key)))
    }

    /// What is asked.
    #[must_use]
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether it selects every object.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }
}

fn wanted(operator: &str, values: Vec<String>) -> Result<Wanted, SelectorError> {
    let wanted = match (operator, values.is_empty()) {
        ("In", false) => Wanted::In(values),
        ("NotIn", false) => Wanted::NotIn(values),
        ("Exists", true) => Wanted::Exists,
        ("DoesNotExist", true) => Wanted::Missing,
        ("In" | "NotIn", true) => {
            let wrong = "for 'in', 'notin' operators, values set can't be empty";
            return Err(SelectorError(wrong.to_owned()));
        }
        ("Exists" | "DoesNotExist", false) => {
            let wrong = "values set must be empty for exists and does not exist";
            return Err(SelectorError(wrong.to_owned()));
        }
        _ => {
            return Err(SelectorError(format!(
                "{operator:?} is not a valid label selector operator"
            )));
        }
    };
    Ok(wanted)
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let requirements = parse::requirements(text)?;
        Ok(Self { requirements, nothing: false })
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, one) in self.requirements.iter().enumerate() {
            if at > 0 {
                out.write_str(",")?;
            }
            let key = &one.key;
            match &one.wanted {
                Wanted::In(values) if values.len() == 1 => write!(out, "{key}={}", values[0])?,
                Wanted::In(values) => write!(out, "{key} in ({})", values.join(","))?,
                Wanted::NotIn(values) if values.len() == 1 => write!(out, "{key}!={}", values[0])?,
                Wanted::NotIn(values) => write!(out, "{key} notin ({})", values.join(","))?,
                Wanted::Exists => write!(out, "{key}")?,
                Wanted::Missing => write!(out, "!{key}")?,
                Wanted::Above(least) => write!(out, "{key}>{least}")?,
                Wanted::Below(most) => write!(out, "{key}<{most}")?,
            }
        }
        Ok(())
    }
}

/// One field and the value that it must or must not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldRequirement {
    /// Its path, such as `metadata.name`.
    pub path: String,
    /// It must have the value, or must not.
    pub equal: bool,
    /// The value.
    pub value: String,
}

/// Which objects are meant by their fields: `metadata.name=a,status.phase!=Running`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldSelector {
    /// All of these must hold.
    pub requirements: Vec<FieldRequirement>,
}

impl FieldSelector {
    /// Whether the fields that `find` knows are selected; a missing one is the empty text.
    pub fn matches_with(&self, find: impl Fn(&str) -> Option<String>) -> bool {
        self.requirements.iter().all(|one| {
            let found = find(&one.path).unwrap_or_default();
            (found == one.value) == one.equal
        })
    }

    /// The value that a field must have, when there is one.
    #[must_use]
    pub fn exact(&self, path: &str) -> Option<&str> {
        let found = self.requirements.iter().find(|one| one.equal && one.path == path);
        found.map(|one| one.value.as_str())
    }
}

impl FromStr for FieldSelector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        Ok(Self { requirements: parse::fields(text)? })
    }
}

#[cfg(test)]
mod tests;
