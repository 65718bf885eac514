//! Tables of selectors.

use super::*;

fn labels(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

#[test]
fn labels_are_selected() {
    for (selector, found, expected) in [
        ("", "", true),
        ("a=b", "a=b", true),
        ("a==b", "a=b", true),
        ("a = b", "a=b,c=d", true),
        ("a=b", "a=c", false),
        ("a=b", "", false),
        ("a=", "a=", true),
        ("a!=b", "", true),
        ("a!=b", "a=b", false),
        ("a in (x, y)", "a=y", true),
        ("a in (x,y),b", "a=y", false),
        ("a notin (x,y)", "a=z", true),
        ("a notin (x,y)", "", true),
        ("a", "a=", true),
        ("!a", "a=1", false),
        ("! a", "b=1", true),
        ("a>1", "a=2", true),
        ("a<1", "a=2", false),
        ("a>1", "a=x", false),
        ("a=b,c!=d,e in (x,y),!f", "a=b,e=x", true),
        ("app.kubernetes.io/name=hello", "app.kubernetes.io/name=hello", true),
    ] {
        let read: Selector = selector.parse().unwrap_or_else(|e| panic!("{selector}: {e}"));
        assert_eq!(read.matches(&labels(found)), expected, "{selector} on {found}");
        assert_eq!(read.to_string().parse::<Selector>().unwrap(), read, "{selector}");
    }
}

#[test]
fn what_is_no_selector_is_refused() {
    for text in
        ["=a", "a=b,", ",a", "a b", "a in x", "a in (x", "a>x", "!", "a/b/c=d", "a=b c", "a=-"]
    {
        assert!(text.parse::<Selector>().is_err(), "{text}");
    }
}

#[test]
fn the_object_form_selects_alike() {
    let read = |value| Selector::from_json(&value);
    let some = read(serde_json::json!({
        "matchLabels": {"a": "b"},
        "matchExpressions": [{"key": "c", "operator": "In", "values": ["d", "e"]}],
    }))
    .unwrap();
    assert!(some.matches(&labels("a=b,c=e")));
    assert!(!some.matches(&labels("a=b")));
    assert!(read(serde_json::json!({})).unwrap().is_everything());
    assert!(!read(serde_json::Value::Null).unwrap().matches(&labels("a=b")));
    let unknown = serde_json::json!({"matchExpressions": [{"key": "c", "operator": "Is"}]});
    assert!(read(unknown).is_err());
}

#[test]
fn fields_are_selected() {
    let find = |path: &str| match path {
        "metadata.name" => Some("a,b".to_owned()),
        "spec.nodeName" => Some(String::new()),
        _ => None,
    };
    for (text, expected) in [
        ("", true),
        (r"metadata.name=a\,b", true),
        (r"metadata.name==a\,b,spec.nodeName=", true),
        (r"metadata.name!=a\,b", false),
        ("spec.nodeName!=x", true),
        ("status.phase=Running", false),
    ] {
        let read: FieldSelector = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(read.matches_with(find), expected, "{text}");
    }
    for text in ["a", r"a=\x", "a=b=c"] {
        assert!(text.parse::<FieldSelector>().is_err(), "{text}");
    }
}
