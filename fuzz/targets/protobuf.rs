//! Bodies in Kubernetes' protobuf form, of every kind: never a panic; what was read has a JSON form,
//! and writing and reading it again changes nothing any more.
//!
//! The first byte picks a kind, so that the envelope need not be guessed; 0 leaves the bytes alone.
#![no_main]

use std::sync::LazyLock;

use berth_schema::{Catalog, FieldValidation, Format, Resource, decode, protobuf};
use libfuzzer_sys::fuzz_target;

static KINDS: LazyLock<Vec<std::sync::Arc<Resource>>> = LazyLock::new(|| {
    let catalog = Catalog::builtin();
    let has_form =
        |kind: &&std::sync::Arc<Resource>| protobuf::is_known(&kind.api_version(), &kind.kind);
    catalog.resources().filter(has_form).cloned().collect()
});

/// A field of bytes.
fn field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    let mut length = bytes.len();
    while length > 0x7f {
        out.push(u8::try_from(length & 0x7f).expect("seven bits") | 0x80);
        length >>= 7;
    }
    out.push(u8::try_from(length).expect("seven bits"));
    out.extend_from_slice(bytes);
}

fn enveloped(kind: &Resource, object: &[u8]) -> Vec<u8> {
    let mut meta = Vec::new();
    field(&mut meta, 1, kind.api_version().as_bytes());
    field(&mut meta, 2, kind.kind.as_bytes());
    let mut out = b"k8s\0".to_vec();
    field(&mut out, 1, &meta);
    field(&mut out, 2, object);
    out
}

fuzz_target!(|input: &[u8]| {
    let [kind, rest @ ..] = input else { return };
    let kind = usize::from(*kind).checked_sub(1).map(|at| &KINDS[at % KINDS.len()]);
    let body = kind.map_or_else(|| rest.to_vec(), |kind| enveloped(kind, rest));
    let Ok(read) = protobuf::decode(&body) else { return };
    if let Some(kind) = kind {
        // What the server does with it: it is JSON from here on.
        drop(decode(kind, read.to_string().as_bytes(), Format::Json, FieldValidation::Warn));
    }
    let Some(written) = protobuf::encode(&read) else { return };
    let again = protobuf::decode(&written).expect("what was written can be read");
    let written = protobuf::encode(&again).expect("it still is of that kind");
    let third = protobuf::decode(&written).expect("what was written can be read");
    assert_eq!(third, again);
});
