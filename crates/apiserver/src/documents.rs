//! OpenAPI documents, each made once for a catalogue and kept until that changes.
//!
//! They are large, and clients ask for them with every command. What is kept is bounded by the
//! number of group versions; a document that nobody asks for is never made.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::openapi_protobuf;

/// A document as it goes out, before compression.
pub(crate) struct Document {
    pub(crate) bytes: Bytes,
    /// Its `ETag`, quoted.
    pub(crate) tag: String,
}

/// The documents of one state of the catalogue.
#[derive(Default)]
pub(crate) struct Documents {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    catalog: u64,
    documents: HashMap<(String, bool), Arc<Document>>,
}

impl Documents {
    /// The document at `path` for the catalogue's state `catalog`; `make` is asked when there is
    /// none yet, and may know no such path.
    pub(crate) fn get(
        &self,
        catalog: u64,
        path: &str,
        as_protobuf: bool,
        make: impl FnOnce() -> Option<Value>,
    ) -> Option<Arc<Document>> {
        // Held while making: two clients that ask at once get one document.
        let mut kept = self.kept.lock().expect("nothing panics while holding it");
        if kept.catalog != catalog {
            *kept = Kept { catalog, documents: HashMap::new() };
        }
        let key = (path.to_owned(), as_protobuf);
        if let Some(document) = kept.documents.get(&key) {
            return Some(Arc::clone(document));
        }
        let document = Arc::new(Document::of(&make()?, as_protobuf));
        kept.documents.insert(key, Arc::clone(&document));
        Some(document)
    }
}

impl Document {
    fn of(value: &Value, as_protobuf: bool) -> Self {
        let bytes = match as_protobuf {
            true => Bytes::from(openapi_protobuf::encode(value)),
            false => Bytes::from(value.to_string()),
        };
        let digest = Sha256::digest(&bytes);
        let tag = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect::<String>();
        Self { bytes, tag: format!("\"{tag}\"") }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_document_is_made_once_for_each_state_of_the_catalogue() {
        let documents = Documents::default();
        let mut made = 0;
        let mut ask = |catalog, path: &str| {
            let document = documents.get(catalog, path, false, || {
                made += 1;
                (path != "none").then(|| json!({ "at": catalog }))
            });
            (document.map(|document| document.tag.clone()), made)
        };
        let (first, _) = ask(1, "v2");
        assert_eq!(ask(1, "v2"), (first.clone(), 1));
        let (second, count) = ask(2, "v2");
        assert!(second != first && count == 2);
        assert_eq!(ask(2, "none"), (None, 3));
    }
}
