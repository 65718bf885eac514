//! Label selectors, field selectors and quantities from any text: never a panic; a quantity that
//! was read is written and read to the same amount.
#![no_main]

use std::collections::BTreeMap;

use berth_api::{FieldSelector, Quantity, Selector};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(selector) = text.parse::<Selector>() {
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        let _ = selector.matches(&labels);
    }
    if let Ok(selector) = text.parse::<FieldSelector>() {
        let _ = selector.matches_with(|path| Some(path.to_owned()));
    }
    if let Ok(quantity) = text.parse::<Quantity>() {
        let again: Quantity = quantity.to_string().parse().expect("what was written is read");
        assert_eq!(again.nanos(), quantity.nanos(), "{text}");
    }
});
