//! A list as the API server prints it: columns, and a row an object, each row's JSON made once.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use berth_api::release::{FREEZE, FREEZE_EXCEPT};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Rows in a frame.
const PIECE: usize = 500;

/// `meta.k8s.io/v1` Table, what is used of it.
#[derive(Deserialize)]
pub(super) struct Printed {
    pub metadata: ListMeta,
    #[serde(default, rename = "columnDefinitions")]
    pub columns: Option<Box<RawValue>>,
    #[serde(default)]
    pub rows: Option<Vec<PrintedRow>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ListMeta {
    pub resource_version: String,
    #[serde(rename = "continue")]
    pub next: String,
}

#[derive(Deserialize)]
pub(super) struct PrintedRow {
    #[serde(default)]
    cells: Option<Box<RawValue>>,
    object: Object,
}

#[derive(Deserialize)]
struct Object {
    metadata: Meta,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Meta {
    namespace: String,
    name: String,
    uid: String,
    resource_version: String,
    creation_timestamp: Option<String>,
    deletion_timestamp: Option<String>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Row<'a> {
    namespace: &'a str,
    name: &'a str,
    uid: &'a str,
    created: Option<&'a str>,
    ending: Option<&'a str>,
    labels: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    notes: BTreeMap<&'a str, &'a str>,
    cells: Option<&'a RawValue>,
}

/// Namespace and name.
pub(super) type Key = (String, String);

impl PrintedRow {
    pub(super) fn version(&self) -> &str {
        &self.object.metadata.resource_version
    }

    fn key(&self) -> Key {
        (self.object.metadata.namespace.clone(), self.object.metadata.name.clone())
    }

    fn json(&self) -> Arc<str> {
        let meta = &self.object.metadata;
        let row = Row {
            namespace: &meta.namespace,
            name: &meta.name,
            uid: &meta.uid,
            created: meta.creation_timestamp.as_deref(),
            ending: meta.deletion_timestamp.as_deref(),
            labels: &meta.labels,
            notes: notes(&meta.annotations),
            cells: self.cells.as_deref(),
        };
        serde_json::to_string(&row).expect("texts and raw JSON are JSON").into()
    }
}

/// The annotations that a page of lists shows; all others stay where they are.
fn notes(annotations: &BTreeMap<String, String>) -> BTreeMap<&str, &str> {
    let shown = annotations.iter().filter(|(key, _)| [FREEZE, FREEZE_EXCEPT].contains(&&***key));
    shown.map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

/// What a list was when it was last heard of.
#[derive(Debug, Default)]
pub(super) struct Table {
    columns: String,
    rows: BTreeMap<Key, Arc<str>>,
    complete: bool,
    away: bool,
}

/// What changed since the last frame; the last change of an object counts.
#[derive(Default)]
pub(super) struct Changes(BTreeMap<Key, Option<Arc<str>>>);

impl Changes {
    pub(super) fn set(&mut self, row: &PrintedRow) {
        self.0.insert(row.key(), Some(row.json()));
    }

    pub(super) fn remove(&mut self, row: &PrintedRow) {
        self.0.insert(row.key(), None);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Table {
    /// All of it, in frames; nothing when it has not come yet.
    pub(super) fn whole(&self) -> Vec<Bytes> {
        let away = self.away.then(|| event("away", "{}"));
        if !self.complete {
            return away.into_iter().collect();
        }
        let rows: Vec<&Arc<str>> = self.rows.values().collect();
        let mut frames = vec![event("columns", &self.columns)];
        frames.extend(rows.chunks(PIECE).map(|piece| event("rows", &list(piece))));
        frames.push(event("ready", "{}"));
        frames.extend(away);
        frames
    }

    /// What it shows is what was last known, with the frame that says so where it is news.
    pub(super) fn lose(&mut self) -> Option<Bytes> {
        let news = !std::mem::replace(&mut self.away, true);
        news.then(|| event("away", "{}"))
    }

    /// Becomes `rows` under `columns`, with the frames that say so.
    pub(super) fn replace(&mut self, columns: String, rows: &[PrintedRow]) -> Vec<Bytes> {
        let rows = rows.iter().map(|row| (row.key(), row.json())).collect();
        *self = Self { columns, rows, complete: true, away: false };
        self.whole()
    }

    /// Takes the changes, with the frames that say so.
    pub(super) fn change(&mut self, changes: Changes) -> Vec<Bytes> {
        let (mut set, mut gone) = (Vec::new(), Vec::new());
        for (key, row) in changes.0 {
            match row {
                Some(row) => {
                    self.rows.insert(key, row.clone());
                    set.push(row);
                }
                None if self.rows.remove(&key).is_some() => gone.push(key),
                None => {}
            }
        }
        let set: Vec<&Arc<str>> = set.iter().collect();
        let mut frames: Vec<Bytes> =
            set.chunks(PIECE).map(|piece| event("rows", &list(piece))).collect();
        if !gone.is_empty() {
            let gone = serde_json::to_string(&gone).expect("texts are JSON");
            frames.push(event("gone", &gone));
        }
        frames
    }
}

fn list(rows: &[&Arc<str>]) -> String {
    let mut text = String::from("[");
    for (index, row) in rows.iter().enumerate() {
        text.push_str(if index > 0 { "," } else { "" });
        text.push_str(row);
    }
    text.push(']');
    text
}

/// A server-sent event. JSON that the API server made has no line breaks but could: they go.
fn event(name: &str, data: &str) -> Bytes {
    let mut text = String::with_capacity(name.len() + data.len() + 16);
    let _ = write!(text, "event: {name}\ndata: ");
    text.extend(data.chars().filter(|c| !matches!(c, '\n' | '\r')));
    text.push_str("\n\n");
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, cell: &str) -> PrintedRow {
        let text = format!(
            r#"{{"cells":["{name}","{cell}"],"object":{{"metadata":{{"name":"{name}",
            "namespace":"a","uid":"u","resourceVersion":"7"}}}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn text(frames: &[Bytes]) -> String {
        frames.iter().map(|frame| String::from_utf8(frame.to_vec()).unwrap()).collect()
    }

    #[test]
    fn who_comes_sees_what_changed_before() {
        let mut table = Table::default();
        assert!(table.whole().is_empty(), "nothing is said before the list has come");
        table.replace("[]".to_owned(), &[row("x", "1"), row("y", "1")]);
        let mut changes = Changes::default();
        changes.set(&row("x", "2"));
        changes.remove(&row("y", "1"));
        changes.remove(&row("z", "1"));
        let said = text(&table.change(changes));
        assert!(said.contains(r#"["x","2"]"#) && said.contains(r#"[["a","y"]]"#), "{said}");
        assert!(!said.contains('z'), "nobody knew it: {said}");
        let whole = text(&table.whole());
        assert!(whole.contains(r#"["x","2"]"#) && !whole.contains(r#""y""#), "{whole}");
        assert!(whole.ends_with("event: ready\ndata: {}\n\n"));
    }

    #[test]
    fn who_looks_is_told_once_that_it_is_away_and_who_comes_too() {
        let mut table = Table::default();
        assert!(table.lose().is_some() && table.lose().is_none());
        assert_eq!(text(&table.whole()), "event: away\ndata: {}\n\n");
        let back = text(&table.replace("[]".to_owned(), &[row("x", "1")]));
        assert!(back.ends_with("event: ready\ndata: {}\n\n"), "{back}");
        table.lose();
        assert!(text(&table.whole()).ends_with("event: away\ndata: {}\n\n"));
    }

    #[test]
    fn of_annotations_freezes_alone_are_shown() {
        let text = r#"{"object":{"metadata":{"name":"x","annotations":
            {"berth.dev/freeze":"always","kubectl.kubernetes.io/last-applied-configuration":"y"}}}}"#;
        let row: PrintedRow = serde_json::from_str(text).unwrap();
        let said: serde_json::Value = serde_json::from_str(&row.json()).unwrap();
        assert_eq!(said["notes"], serde_json::json!({ "berth.dev/freeze": "always" }));
    }

    #[test]
    fn an_event_is_one_line_of_data() {
        assert_eq!(&event("rows", "[\n1,\r2]")[..], b"event: rows\ndata: [1,2]\n\n");
    }
}
