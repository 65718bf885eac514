//! Questions about owned fields in the text of `fieldsV1`, answered while it is read through:
//! nothing is built of what the question is not about.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, Visitor};

use super::set::{self, Set};

/// Whether a member of the set may be one of the fields; `false` is certain.
pub fn may_touch(set: &Set, fields: &str) -> bool {
    // Who finds one ends the reading, as what cannot be read does.
    Apart(set).deserialize(&mut serde_json::Deserializer::from_str(fields)).is_err()
}

/// Whether every member of the set is one of the fields, written as we write them.
pub fn is_within(set: &Set, fields: &str) -> bool {
    let found = Within(set).deserialize(&mut serde_json::Deserializer::from_str(fields));
    found.is_ok_and(|(is_within, _)| is_within)
}

/// Reads fields through as long as none of them is touched.
struct Apart<'s>(&'s Set);

impl<'de> DeserializeSeed<'de> for Apart<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, parser: D) -> Result<(), D::Error> {
        parser.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Apart<'_> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("fields")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Step(step)) = map.next_key()? {
            match self.below(&step) {
                Some(set) if set.is_marked() => return Err(A::Error::custom("touched")),
                Some(set) => map.next_value_seed(Apart(set))?,
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

impl Apart<'_> {
    /// The set below a step, however the JSON in the step is written.
    fn below(&self, step: &str) -> Option<&Set> {
        let found = self.0.child(step);
        if found.is_some() || step.starts_with("f:") || step == "." {
            return found;
        }
        set::canonical(step).and_then(|step| self.0.child(&step))
    }
}

/// Reads fields through and counts the set's members among them; says also whether the fields'
/// own parent is one of them.
struct Within<'s>(&'s Set);

impl<'de> DeserializeSeed<'de> for Within<'_> {
    type Value = (bool, bool);

    fn deserialize<D: serde::Deserializer<'de>>(self, parser: D) -> Result<(bool, bool), D::Error> {
        parser.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Within<'_> {
    type Value = (bool, bool);

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("fields")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(bool, bool), A::Error> {
        let (mut found, mut is_empty, mut is_dotted) = (0, true, false);
        while let Some(Step(step)) = map.next_key()? {
            is_empty = false;
            is_dotted |= step == ".";
            match self.0.child(&step) {
                Some(set) => {
                    let (is_within, is_member) = map.next_value_seed(Within(set))?;
                    found += usize::from(is_within && (is_member || !set.is_marked()));
                }
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok((found == self.0.children().count(), is_empty || is_dotted))
    }
}

/// One step, borrowed from the text where it holds no escapes.
struct Step<'a>(Cow<'a, str>);

impl<'de> serde::Deserialize<'de> for Step<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(parser: D) -> Result<Self, D::Error> {
        parser.deserialize_str(Key).map(Step)
    }
}

struct Key;

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a step")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn set(fields: Value) -> Set {
        Set::from_fields(&fields)
    }

    #[test]
    fn text_answers_as_the_read_fields_do() {
        let fields = json!({
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:status": {"f:phase": {}, "f:conditions": {
                "k:{\"type\":\"Ready\"}": {".": {}, "f:status": {}, "f:type": {}},
            }},
        });
        let text = fields.to_string();
        assert_eq!(serde_json::to_string(&set(fields.clone())).unwrap(), text);
        let read = fields.as_object().unwrap();
        let ready =
            |below: Value| json!({"f:status": {"f:conditions": {"k:{\"type\":\"Ready\"}": below}}});
        for (asked, within, touches) in [
            (json!({}), true, false),
            (json!({"f:status": {"f:phase": {}}}), true, true),
            (json!({"f:status": {"f:reason": {}}}), false, false),
            (json!({"f:spec": {"f:nodeName": {}}}), false, false),
            (json!({"f:metadata": {"f:labels": {}}}), true, true),
            (json!({"f:metadata": {"f:labels": {"f:app": {}, "f:b": {}}}}), false, true),
            (ready(json!({"f:status": {}})), true, true),
            (ready(json!({".": {}, "f:type": {}})), true, true),
            (ready(json!({"f:reason": {}})), false, false),
            (json!({"f:status": {"f:conditions": {"k:{\"type\":\"Other\"}": {}}}}), false, false),
        ] {
            let set = set(asked.clone());
            assert_eq!(is_within(&set, &text), within, "{asked}");
            assert_eq!(set.is_within(read), within, "{asked}");
            assert_eq!(may_touch(&set, &text), touches, "{asked}");
            // What the text says for certain the read fields may only doubt.
            assert!(set.may_touch(read) || !touches, "{asked}");
        }
    }

    #[test]
    fn a_step_that_is_written_otherwise_is_the_same_and_what_is_no_json_may_be_anything() {
        let asked = set(json!({"k:{\"port\":80,\"protocol\":\"TCP\"}": {}}));
        let text = json!({"k:{\"protocol\": \"TCP\", \"port\": 80.0}": {}}).to_string();
        assert!(may_touch(&asked, &text) && !is_within(&asked, &text));
        assert!(may_touch(&asked, "{\"k:") && !is_within(&asked, "{"));
    }
}
