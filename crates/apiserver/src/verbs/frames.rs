//! Watch events made once for all who watch.
//!
//! A thousand watchers of one kind are told the same bytes. The first one makes them, the others
//! find them by the revision of the change. Bounded: so many places, each for one frame that is not
//! large; what was put out is made anew.

use std::sync::{Arc, Mutex};

use berth_schema::Resource;
use berth_store::{Entry, Revision};
use bytes::Bytes;
use serde_json::Value;

use crate::media::Format;
use crate::{protobuf, record};

/// Some watchers lag behind others by this many changes before they make frames anew.
const PLACES: usize = 512;
/// A larger frame is not kept: `PLACES` of these are what the cache can grow to.
const LARGEST: usize = 32 * 1024;

/// Frames of the last changes.
pub(crate) struct Frames {
    places: Box<[Mutex<Option<Frame>>]>,
}

struct Frame {
    /// Held, so that no other resource can come to lie at the same address.
    resource: Arc<Resource>,
    format: Format,
    kind: &'static str,
    at: Revision,
    key: Bytes,
    bytes: Bytes,
}

impl Default for Frames {
    fn default() -> Self {
        Self { places: (0..PLACES).map(|_| Mutex::default()).collect() }
    }
}

impl Frames {
    /// The frame of a change, from the cache or made.
    pub(crate) fn of(
        &self,
        kind: &'static str,
        resource: &Arc<Resource>,
        entry: &Entry,
        at: Revision,
        format: Format,
    ) -> Bytes {
        // Who watches in one format does not put out what is kept for the others.
        let half = if format == Format::Protobuf { PLACES as u64 / 2 } else { 0 };
        let place = usize::try_from((at.0 + half) % PLACES as u64).unwrap_or_default();
        let mut place = self.places[place].lock().expect("nothing panics while holding it");
        if let Some(frame) = place.as_ref()
            && frame.at == at
            && frame.kind == kind
            && frame.format == format
            && Arc::ptr_eq(&frame.resource, resource)
            && frame.key == entry.key
        {
            return frame.bytes.clone();
        }
        let bytes = make(kind, resource, entry, at, format);
        if bytes.len() <= LARGEST {
            let (resource, key) = (resource.clone(), entry.key.clone());
            *place = Some(Frame { resource, format, kind, at, key, bytes: bytes.clone() });
        }
        bytes
    }
}

/// `{"type":KIND,"object":…}` and a line's end, or the same as protobuf.
pub(crate) fn make(
    kind: &str,
    resource: &Arc<Resource>,
    entry: &Entry,
    at: Revision,
    format: Format,
) -> Bytes {
    if format == Format::Protobuf {
        let object = record::decode(resource, &entry.value, at.0);
        return event(kind, &object, format);
    }
    let mut out = Vec::with_capacity(entry.value.len() + 160);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    record::splice(&mut out, resource, &entry.value, at.0);
    out.extend_from_slice(b"}\n");
    Bytes::from(out)
}

/// An event about any object.
pub(crate) fn event(kind: &str, object: &Value, format: Format) -> Bytes {
    let frame = (format == Format::Protobuf).then(|| protobuf::watch_frame(kind, object)).flatten();
    frame.map_or_else(
        || Bytes::from(format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")),
        Bytes::from,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(kind: &str, resource: &Arc<Resource>, entry: &Entry, at: Revision) -> Bytes {
        super::make(kind, resource, entry, at, Format::Json)
    }

    fn entry(name: &str, value: &str, at: u64) -> Entry {
        Entry {
            key: Bytes::from(format!("/registry/core/configmaps/default/{name}")),
            value: Bytes::from(value.to_owned()),
            created: Revision(at),
            modified: Revision(at),
        }
    }

    #[test]
    fn watchers_share_a_frame_and_never_one_of_another_change() {
        let catalog = berth_schema::Catalog::builtin();
        let maps = catalog.resource("", "v1", "configmaps").unwrap().clone();
        let frames = Frames::default();
        let one = entry("a", r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"x":1}}"#, 7);
        let first = frames.of("ADDED", &maps, &one, Revision(7), Format::Json);
        let again = frames.of("ADDED", &maps, &one, Revision(7), Format::Json);
        assert_eq!(first, make("ADDED", &maps, &one, Revision(7)));
        assert_eq!(first.as_ptr(), again.as_ptr(), "the same bytes, not a copy");

        let other = entry("b", r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"x":2}}"#, 7);
        let secrets = catalog.resource("", "v1", "secrets").unwrap().clone();
        let later = Revision(7 + PLACES as u64);
        for (kind, resource, entry, at) in [
            ("MODIFIED", &maps, &one, Revision(7)),
            ("ADDED", &maps, &other, Revision(7)),
            ("ADDED", &secrets, &one, Revision(7)),
            ("ADDED", &maps, &one, later),
        ] {
            let frame = frames.of(kind, resource, entry, at, Format::Json);
            assert_eq!(frame, make(kind, resource, entry, at));
            assert_ne!(frame, first);
        }
        assert_eq!(frames.of("ADDED", &maps, &one, Revision(7), Format::Json), first);
    }

    #[test]
    fn a_large_frame_is_not_kept() {
        let catalog = berth_schema::Catalog::builtin();
        let maps = catalog.resource("", "v1", "configmaps").unwrap().clone();
        let frames = Frames::default();
        let filler = "x".repeat(LARGEST);
        let value =
            format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"x":"{filler}"}}}}"#);
        let large = entry("a", &value, 7);
        frames.of("ADDED", &maps, &large, Revision(7), Format::Json);
        assert!(frames.places.iter().all(|place| place.lock().unwrap().is_none()));
    }
}
