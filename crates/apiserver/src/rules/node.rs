//! Nodes: the range of addresses for their pods, as one and as many.

use serde_json::{Value, json};

/// One range and the list of ranges say the same, whichever was written.
pub(super) fn fold(node: &mut Value) {
    let Some(spec) = node.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let one = spec.get("podCIDR").filter(|range| !range.is_null()).cloned();
    let first = spec.get("podCIDRs").and_then(|ranges| ranges.get(0)).cloned();
    match (one, first) {
        (Some(range), None) => drop(spec.insert("podCIDRs".to_owned(), json!([range]))),
        (None, Some(range)) => drop(spec.insert("podCIDR".to_owned(), range)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_a_list_of_one() {
        let mut node = json!({"spec": {"podCIDR": "10.1.0.0/24"}});
        fold(&mut node);
        assert_eq!(node["spec"]["podCIDRs"], json!(["10.1.0.0/24"]));
        let mut node = json!({"spec": {"podCIDRs": ["10.1.0.0/24", "fd00::/64"]}});
        fold(&mut node);
        assert_eq!(node["spec"]["podCIDR"], "10.1.0.0/24");
    }
}
