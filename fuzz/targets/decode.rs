//! A body of any bytes, as any kind, in JSON and in YAML: never a panic, and what was read is read
//! again unchanged; defaulting twice is defaulting once.
#![no_main]

use std::sync::LazyLock;

use berth_schema::{Catalog, FieldValidation, Format, Resource, decode, default, validate};
use libfuzzer_sys::fuzz_target;

static KINDS: LazyLock<Vec<std::sync::Arc<Resource>>> =
    LazyLock::new(|| Catalog::builtin().resources().cloned().collect());

fuzz_target!(|input: &[u8]| {
    let [kind, format, body @ ..] = input else { return };
    let resource = &KINDS[usize::from(*kind) % KINDS.len()];
    let format = if format % 2 == 0 { Format::Json } else { Format::Yaml };
    let Ok(read) = decode(resource, body, format, FieldValidation::Warn) else { return };
    let text = read.object.to_string();
    let again = decode(resource, text.as_bytes(), Format::Json, FieldValidation::Strict)
        .expect("what was read can be written and read");
    assert_eq!(again.object, read.object);
    let mut object = read.object;
    default(resource, &mut object);
    let mut twice = object.clone();
    default(resource, &mut twice);
    assert_eq!(twice, object);
    drop(validate(resource, &object, None, None));
    drop(validate(resource, &object, Some(&object), None));
});
