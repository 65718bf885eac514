//! DaemonSets: the count of their templates, which old clients read from an annotation.

use serde_json::{Value, json};

use crate::object;

const TEMPLATES: &str = "deprecated.daemonset.template.generation";

/// There is always one.
pub(super) fn fold(new: &mut Value) {
    let annotations = object::meta_mut(new).entry("annotations").or_insert_with(|| json!({}));
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.entry(TEMPLATES).or_insert_with(|| json!("0"));
    }
}

/// An update that does not name the count does not change it.
pub(super) fn keep(old: &Value, new: &mut Value) {
    fold(new);
    if let Some(count) = old["metadata"]["annotations"].get(TEMPLATES) {
        object::meta_mut(new)["annotations"][TEMPLATES] = count.clone();
    }
}

/// The first template is 1; each change is one more, whatever the client says.
pub(super) fn count(old: Option<&Value>, new: &mut Value) {
    let of = |one: &Value| {
        let text = one["metadata"]["annotations"][TEMPLATES].as_str();
        text.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0)
    };
    let count = match old {
        None => of(new).max(1),
        Some(old) => of(old) + u64::from(old["spec"]["template"] != new["spec"]["template"]),
    };
    fold(new);
    object::meta_mut(new)["annotations"][TEMPLATES] = json!(count.to_string());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_counted_from_one() {
        let of = |object: &Value| object["metadata"]["annotations"][TEMPLATES].clone();
        let mut old = json!({"metadata": {}, "spec": {"template": {"a": 1}}});
        count(None, &mut old);
        assert_eq!(of(&old), "1");
        let mut same = json!({"metadata": {}, "spec": {"template": {"a": 1}}});
        count(Some(&old), &mut same);
        assert_eq!(of(&same), "1");
        let mut other = json!({"metadata": {}, "spec": {"template": {"a": 2}}});
        count(Some(&old), &mut other);
        assert_eq!(of(&other), "2");
    }
}
