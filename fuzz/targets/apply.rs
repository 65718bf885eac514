//! Two appliers after each other, each with any object: never a panic; applying the same again
//! changes nothing; whoever forces owns what it applied.
#![no_main]

use std::sync::{Arc, LazyLock};

use berth_schema::{Catalog, FieldValidation, Format, Resource, apply, decode};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

const NOW: &str = "2026-01-01T00:00:00Z";

static KINDS: LazyLock<Vec<Arc<Resource>>> = LazyLock::new(|| {
    let catalog = Catalog::builtin();
    [
        ("", "v1", "pods"),
        ("", "v1", "services"),
        ("", "v1", "configmaps"),
        ("apps", "v1", "deployments"),
    ]
    .iter()
    .map(|(group, version, plural)| {
        catalog.resource(group, version, plural).expect("it is built in").clone()
    })
    .collect()
});

fuzz_target!(|input: &[u8]| {
    let [kind, rest @ ..] = input else { return };
    let resource = &KINDS[usize::from(*kind) % KINDS.len()];
    let mut parts = rest.split(|byte| *byte == 0);
    let mut read = || -> Option<Value> {
        let body = parts.next()?;
        decode(resource, body, Format::Yaml, FieldValidation::Ignore).ok().map(|read| read.object)
    };
    let (Some(one), Some(two)) = (read(), read()) else { return };
    let Ok(first) = apply::apply(resource, None, &one, "one", false, None, NOW) else { return };
    let again = apply::apply(resource, Some(&first), &one, "one", false, None, NOW);
    assert_eq!(again.expect("its own fields are no conflict"), first);
    let Ok(second) = apply::apply(resource, Some(&first), &two, "two", true, None, NOW) else {
        return;
    };
    let again = apply::apply(resource, Some(&second), &two, "two", false, None, NOW);
    assert_eq!(again.expect("it owns them now"), second);
});
