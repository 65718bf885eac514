//! A list's body, made piece by piece from stored bytes while it is sent.
//!
//! A list of thousands of objects never lies in memory as a whole beside the store, and each piece
//! is still in the processor's cache when it is encrypted. Its length is known beforehand.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::vec::IntoIter;

use berth_schema::Resource;
use berth_store::Entry;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::record::Splice;

/// Four TLS records.
const PIECE: usize = 64 * 1024;
const END: &[u8] = b"]}";

pub(super) struct Items {
    splice: Splice,
    /// What is sent before the first item; taken by the first piece.
    opening: Vec<u8>,
    entries: IntoIter<Entry>,
    is_first: bool,
    left: u64,
}

impl Items {
    /// `opening` ends with the bracket that the items follow.
    pub(super) fn new(resource: &Arc<Resource>, opening: Vec<u8>, entries: Vec<Entry>) -> Self {
        let splice = Splice::items(resource);
        let items: usize = entries.iter().map(|entry| splice.length(entry)).sum();
        let commas = entries.len().saturating_sub(1);
        let left = (opening.len() + items + commas + END.len()) as u64;
        Self { splice, opening, entries: entries.into_iter(), is_first: true, left }
    }

    fn piece(&mut self) -> Vec<u8> {
        let room = usize::try_from(self.left).unwrap_or(PIECE).min(PIECE + PIECE / 4);
        let mut out = std::mem::take(&mut self.opening);
        out.reserve(room);
        while out.len() < PIECE {
            let Some(entry) = self.entries.next() else {
                out.extend_from_slice(END);
                break;
            };
            if !std::mem::take(&mut self.is_first) {
                out.push(b',');
            }
            self.splice.append(&mut out, &entry.value, entry.modified.0);
        }
        out
    }
}

impl Body for Items {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let items = self.get_mut();
        if items.left == 0 {
            return Poll::Ready(None);
        }
        let piece = items.piece();
        items.left = items.left.saturating_sub(piece.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use berth_store::Revision;
    use http_body_util::BodyExt;
    use serde_json::{Value, json};

    use super::*;
    use crate::record;

    fn entries(resource: &Resource, count: usize, filler: usize) -> Vec<Entry> {
        let one = |at: usize| {
            let name = format!("one-{at}");
            let object = json!({
                "metadata": {"name": name, "annotations": {"x": "\"metadata\":{"}},
                "data": {"filler": "x".repeat(filler + at)},
            });
            let value = match at % 7 {
                // As no write of ours leaves one, but nothing may break on.
                3 => Bytes::from_static(b"{\"kind\":\"Other\",\"metadata\":{}}"),
                _ => record::encode(resource, &object).unwrap(),
            };
            let revision = Revision(10_u64.pow(u32::try_from(at % 9).unwrap()) + at as u64);
            let key = record::key(resource, "default", &name);
            Entry { key, value, created: revision, modified: revision }
        };
        (0..count).map(one).collect()
    }

    #[tokio::test]
    async fn pieces_are_the_bytes_that_one_would_write_at_once() {
        let catalog = berth_schema::Catalog::builtin();
        for (group, version, plural) in
            [("", "v1", "configmaps"), ("events.k8s.io", "v1", "events")]
        {
            let resource = catalog.resource(group, version, plural).unwrap();
            for (count, filler) in [(0, 0), (1, 10), (1, 300_000), (700, 900), (65, 64 * 1024)] {
                let entries = entries(resource, count, filler);
                let opening = b"{\"items\":[".to_vec();
                let mut whole = opening.clone();
                record::splice_all(&mut whole, resource, &entries);
                whole.extend_from_slice(END);
                let items = Items::new(resource, opening, entries.clone());
                assert_eq!(items.size_hint().exact(), Some(whole.len() as u64), "{plural} {count}");
                let got = items.collect().await.unwrap().to_bytes();
                assert!(got == whole, "{plural} {count} {filler}");
                let parsed: Value = serde_json::from_slice(&got).unwrap();
                let plain = |entry| {
                    let mut object = record::object(resource, entry);
                    record::nameless(&mut object);
                    object
                };
                let plain: Vec<Value> = entries.iter().map(plain).collect();
                assert_eq!(parsed["items"].as_array().unwrap(), &plain);
            }
        }
    }
}
