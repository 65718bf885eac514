//! Watching: from now, from a revision, or from the list on; in order, each change once.
//!
//! An object that comes to match the selector is ADDED, one that ceases to is DELETED, whatever
//! happened in the store. A watcher that cannot keep up is cut off and comes back from its last
//! revision. Bookmarks say how far a quiet watch has got, so that it can resume there.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use berth_schema::{Cause, Resource};
use berth_store::{Change, Entry, ReadError, Revision, Watch, WatchEvent};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use tokio::time::{Instant, Interval, MissedTickBehavior, Sleep};

use super::list::{self, Selection};
use super::{frames, read};
use crate::call::Call;
use crate::media::{Format, Shape};
use crate::metrics::OpenWatch;
use crate::record;
use crate::respond::{Body, BodyError};
use crate::server::Core;
use crate::status::Failure;

const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// How long a watch lasts when the client names no time; the upper half at random, so that clients
/// do not all come back at once.
const DEFAULT_SECONDS: u64 = 1800;

/// Events that wait together go out in pieces of this size: larger ones are memory that the kernel
/// gives and takes back each time.
const PIECE: usize = 48 * 1024;

/// What a running watch holds.
struct Watching {
    core: Arc<Core>,
    call: Call,
    resource: Arc<Resource>,
    selection: Selection,
    watch: Watch,
    /// Everything up to here has been told.
    seen: Revision,
    queue: VecDeque<Bytes>,
    /// Table headings go out once.
    headed: bool,
    bookmarks: bool,
    ticks: Interval,
    /// Made once: an event costs no new timer and no new place in a list of waiters.
    deadline: Pin<Box<Sleep>>,
    stopping: BoxFuture<'static, ()>,
    ended: bool,
    _open: OpenWatch,
}

pub(crate) async fn watch(
    core: &Arc<Core>,
    call: &Call,
    resource: &Arc<Resource>,
) -> Result<Response<Body>, Failure> {
    let selection = Selection::parse(call, resource)?;
    let bookmarks = call.query.is_on("allowWatchBookmarks");
    let wants_initial = call.query.is_on("sendInitialEvents");
    check_options(call)?;
    let asked = call.query.get("resourceVersion");
    let from = match asked {
        None | Some("0") => None,
        Some(text) => Some(Revision(
            text.parse()
                .map_err(|_| Failure::bad_request(format!("invalid resource version {text:?}")))?,
        )),
    };
    let prefix = record::prefix(resource, &call.target.namespace);
    let current = core.store.revision().await?;
    if let Some(from) = from
        && from > current
    {
        return Err(Failure::revision_too_large(from.0, current.0));
    }
    let says_no = call.query.get("sendInitialEvents").is_some() && !wants_initial;
    let mut initial = None;
    let start = match from {
        Some(from) if !wants_initial => from,
        None if says_no => current,
        _ => {
            let page = match list::by_node(core, resource, &selection, &prefix).await? {
                Some(page) => page,
                None => core.store.list(prefix.as_bytes(), None, 0, None).await?,
            };
            let revision = page.revision;
            initial = Some(page.entries);
            revision
        }
    };
    let watch = match core.store.watch(Bytes::from(prefix), start).await {
        Ok(watch) => watch,
        Err(ReadError::Compacted { .. }) => return Ok(too_old(start, current, call.output.format)),
        Err(error) => return Err(error.into()),
    };
    let seconds = match call.query.integer("timeoutSeconds").map_err(Failure::bad_request)? {
        Some(seconds) if seconds > 0 => seconds.unsigned_abs(),
        _ => rand::random_range(DEFAULT_SECONDS..DEFAULT_SECONDS * 2),
    };
    let mut ticks = tokio::time::interval_at(Instant::now() + BOOKMARK_EVERY, BOOKMARK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let tasks = core.tasks.clone();
    let mut watching = Watching {
        core: core.clone(),
        call: call.detached(),
        resource: resource.clone(),
        selection,
        watch,
        seen: start,
        queue: VecDeque::new(),
        headed: false,
        bookmarks,
        ticks,
        deadline: Box::pin(tokio::time::sleep(Duration::from_secs(seconds))),
        stopping: Box::pin(async move { tasks.stopping().await }),
        ended: false,
        _open: core.metrics.watch(),
    };
    for entry in initial.into_iter().flatten() {
        if watching.selected(&entry) {
            watching.tell_alone("ADDED", &entry, entry.modified);
        }
    }
    if wants_initial && bookmarks {
        watching.bookmark(true);
    }
    Ok(streaming(watching))
}

/// What Kubernetes asks of the options that go together.
fn check_options(call: &Call) -> Result<(), Failure> {
    const MATCH: &str = "resourceVersionMatch";
    let initial = call.query.get("sendInitialEvents").is_some();
    let matching = call.query.get(MATCH);
    let mut causes = Vec::new();
    if initial && matching != Some("NotOlderThan") {
        let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        causes.push(Cause::forbidden(MATCH, why));
    }
    if let Some(matching) = matching {
        if !initial {
            let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is \
                       provided";
            causes.push(Cause::forbidden(MATCH, why));
        }
        if matching != "NotOlderThan" {
            causes.push(Cause::not_supported(MATCH, &json!(matching), &["NotOlderThan"]));
        }
        if call.query.get("continue").is_some() {
            let why = "resourceVersionMatch is forbidden when continue is provided";
            causes.push(Cause::forbidden(MATCH, why));
        }
    }
    if causes.is_empty() { Ok(()) } else { Err(Failure::invalid_options("ListOptions", causes)) }
}

fn streaming(watching: Watching) -> Response<Body> {
    let kind = stream_type(watching.call.output.format);
    let frames = stream::unfold(watching, |mut watching| async move {
        let bytes = watching.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(bytes)), watching))
    });
    let body = StreamBody::new(frames).map_err(BodyError::from).boxed_unsync();
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// What a stream of events is.
fn stream_type(format: Format) -> &'static str {
    match format {
        Format::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        _ => "application/json",
    }
}

/// A watch from a forgotten revision: one ERROR event, then the end.
fn too_old(from: Revision, current: Revision, format: Format) -> Response<Body> {
    let failure = Failure::expired(format!("too old resource version: {from} ({current})"));
    let event = frames::event("ERROR", &failure.to_status(), format);
    let mut response = Response::new(crate::respond::body(event));
    let kind = HeaderValue::from_static(stream_type(format));
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

impl Watching {
    /// The next bytes to send; none at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if !self.queue.is_empty() {
                if self.queue.len() == 1 {
                    return self.queue.pop_front();
                }
                // In one piece: a frame of its own each would be a TLS record each.
                let mut size = 0;
                let count = self.queue.iter().take_while(|event| {
                    let is_first = size == 0;
                    size += event.len();
                    is_first || size <= PIECE
                });
                let count = count.count();
                let size = self.queue.iter().take(count).map(Bytes::len).sum();
                let mut out = Vec::with_capacity(size);
                self.queue.drain(..count).for_each(|event| out.extend_from_slice(&event));
                return Some(Bytes::from(out));
            }
            if self.ended {
                return None;
            }
            tokio::select! {
                biased;
                () = &mut self.stopping => self.ended = true,
                event = self.watch.next() => match event {
                    Some(WatchEvent::Changes(changes)) => {
                        for change in &changes {
                            self.change(change);
                        }
                    }
                    Some(WatchEvent::Progress(revision)) => self.seen = self.seen.max(revision),
                    None => self.ended = true,
                },
                _ = self.ticks.tick(), if self.bookmarks => self.bookmark(false),
                () = &mut self.deadline => {
                    if self.bookmarks {
                        self.bookmark(false);
                    }
                    self.ended = true;
                }
            }
        }
    }

    fn selected(&self, entry: &Entry) -> bool {
        self.selection.is_empty()
            || self.selection.matches(&self.resource, &entry.key, &entry.value)
    }

    fn change(&mut self, change: &Change) {
        let at = change.revision();
        self.seen = self.seen.max(at);
        match change {
            Change::Put { entry, previous } => {
                let was = previous.as_ref().is_some_and(|previous| self.selected(previous));
                match (was, self.selected(entry)) {
                    (false, true) => self.tell("ADDED", entry, at),
                    (true, true) => self.tell("MODIFIED", entry, at),
                    // The object as it last matched, at the revision at which it no longer did.
                    (true, false) => {
                        if let Some(previous) = previous {
                            self.tell("DELETED", previous, at);
                        }
                    }
                    (false, false) => {}
                }
            }
            Change::Delete { previous, .. } => {
                if self.selected(previous) {
                    self.tell("DELETED", previous, at);
                }
            }
        }
    }

    /// Tells a change, in the same bytes as all others who watch.
    fn tell(&mut self, kind: &'static str, entry: &Entry, at: Revision) {
        if matches!(self.call.output.shape, Shape::Whole | Shape::Discovery(_)) {
            let format = self.call.output.format;
            let frame = self.core.frames.of(kind, &self.resource, entry, at, format);
            self.queue.push_back(frame);
        } else {
            self.tell_alone(kind, entry, at);
        }
    }

    /// Tells what nobody else is told at this moment, or in a shape of this watch's own.
    fn tell_alone(&mut self, kind: &str, entry: &Entry, at: Revision) {
        if matches!(self.call.output.shape, Shape::Whole | Shape::Discovery(_)) {
            let format = self.call.output.format;
            self.queue.push_back(frames::make(kind, &self.resource, entry, at, format));
            return;
        }
        let object = record::decode(&self.resource, &entry.value, at.0);
        let shaped = self.shape(&object);
        self.queue.push_back(frames::event(kind, &shaped, self.call.output.format));
    }

    fn shape(&mut self, object: &Value) -> Value {
        match &self.call.output.shape {
            Shape::Table(version) => {
                let meta = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                let objects = std::slice::from_ref(object);
                let omit = std::mem::replace(&mut self.headed, true);
                read::to_table(&self.call, &self.resource, objects, version, meta, omit)
                    .unwrap_or_else(|failure| failure.to_status())
            }
            Shape::Metadata(version) => read::to_metadata(object, version),
            Shape::Whole | Shape::Discovery(_) => object.clone(),
        }
    }

    fn bookmark(&mut self, ends_initial: bool) {
        let mut meta = json!({"resourceVersion": self.seen.to_string()});
        if ends_initial {
            meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let (kind, api_version) = match &self.call.output.shape {
            Shape::Table(version) => ("Table", format!("meta.k8s.io/{version}")),
            Shape::Metadata(version) => ("PartialObjectMetadata", format!("meta.k8s.io/{version}")),
            _ => (self.resource.kind.as_str(), record::api_version(&self.resource)),
        };
        let mut object = json!({"kind": kind, "apiVersion": api_version, "metadata": meta});
        if kind == "Table" {
            object["rows"] = json!([]);
            object["columnDefinitions"] = json!([]);
        }
        self.queue.push_back(frames::event("BOOKMARK", &object, self.call.output.format));
    }
}
