//! Secrets: text that was given as text becomes data.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// Moves `stringData`, which is only ever written, into `data`.
pub(super) fn fold(new: &mut Value) {
    let text = new.as_object_mut().and_then(|fields| fields.remove("stringData"));
    let Some(Value::Object(text)) = text else { return };
    if !new["data"].is_object() {
        new["data"] = json!({});
    }
    for (key, value) in text {
        new["data"][key] = json!(STANDARD.encode(value.as_str().unwrap_or_default()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_wins_over_data_of_the_same_key() {
        let mut secret = json!({"data": {"a": "eA==", "b": "eQ=="}, "stringData": {"a": "z"}});
        fold(&mut secret);
        assert_eq!(secret, json!({"data": {"a": "eg==", "b": "eQ=="}}));
    }
}
