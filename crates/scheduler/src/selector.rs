//! Which nodes a node selector means.
//!
//! Label selectors are `berth_api::Selector`; those of nodes also know fields and numbers.

use std::collections::BTreeMap;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// The label is one of the values.
    In,
    /// The label is absent or none of the values.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
    /// The label is a whole number greater than the value.
    Gt,
    /// The label is a whole number less than the value.
    Lt,
}

impl Operator {
    /// By Kubernetes' name for it.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "In" => Self::In,
            "NotIn" => Self::NotIn,
            "Exists" => Self::Exists,
            "DoesNotExist" => Self::DoesNotExist,
            "Gt" => Self::Gt,
            "Lt" => Self::Lt,
            _ => return None,
        })
    }
}

/// One requirement on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// How its value is compared.
    pub operator: Operator,
    /// With what.
    pub values: Vec<String>,
}

impl Requirement {
    /// Whether a label of this value, or its absence, meets the requirement.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let listed = |value: &str| self.values.iter().any(|known| known == value);
        match self.operator {
            Operator::In => value.is_some_and(listed),
            Operator::NotIn => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Gt => self.compares(value, |own, bound| own > bound),
            Operator::Lt => self.compares(value, |own, bound| own < bound),
        }
    }

    fn compares(&self, value: Option<&str>, holds: fn(i64, i64) -> bool) -> bool {
        let own = value.and_then(|value| value.parse().ok());
        let bound = self.values.first().and_then(|value| value.parse().ok());
        matches!((own, bound), (Some(own), Some(bound)) if holds(own, bound))
    }
}

/// One alternative of a node selector: labels and name must all meet it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeTerm {
    /// On labels.
    pub labels: Vec<Requirement>,
    /// On fields; the only field is `metadata.name`.
    pub fields: Vec<Requirement>,
}

impl NodeTerm {
    /// Whether a node is meant. A term without requirements means no node.
    pub fn matches(&self, name: &str, labels: &Labels) -> bool {
        if self.labels.is_empty() && self.fields.is_empty() {
            return false;
        }
        self.labels.iter().all(|each| each.matches(labels.get(&each.key).map(String::as_str)))
            && self
                .fields
                .iter()
                .all(|each| each.key == "metadata.name" && each.matches(Some(name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_hold_as_kubernetes_defines_them() {
        fn check(operator: &str, values: &[&str], value: Option<&str>, expected: bool) {
            let requirement = Requirement {
                key: "k".into(),
                operator: Operator::parse(operator).unwrap(),
                values: values.iter().map(|value| (*value).to_owned()).collect(),
            };
            assert_eq!(requirement.matches(value), expected, "{operator} {values:?} {value:?}");
        }
        check("In", &["a", "b"], Some("b"), true);
        check("In", &["a", "b"], Some("c"), false);
        check("In", &["a"], None, false);
        check("NotIn", &["a"], Some("b"), true);
        check("NotIn", &["a"], Some("a"), false);
        check("NotIn", &["a"], None, true);
        check("Exists", &[], Some(""), true);
        check("Exists", &[], None, false);
        check("DoesNotExist", &[], None, true);
        check("DoesNotExist", &[], Some("a"), false);
        check("Gt", &["5"], Some("6"), true);
        check("Gt", &["5"], Some("5"), false);
        check("Gt", &["5"], Some("many"), false);
        check("Lt", &["5"], Some("4"), true);
        check("Lt", &["5"], None, false);
    }

    #[test]
    fn a_term_without_requirements_means_no_node() {
        assert!(!NodeTerm::default().matches("n", &Labels::new()));
    }
}
