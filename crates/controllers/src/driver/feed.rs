//! List, then watch, for ever: how a [`Sink`] is kept in step with the API server.
//!
//! Written here rather than taken from `kube::runtime::watcher` because the list's resource version
//! is needed to tell a vanished object from one that we wrote after the list was taken.

use std::time::Duration;

use berth_daemon::Backoff;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};
use kube::api::{DynamicObject, ListParams, ObjectList, WatchEvent, WatchParams};
use kube::core::{PartialObjectMeta, Request};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use std::fmt::Debug;

use super::read::{changes, page};

/// Objects of one answer to a list.
const PAGE: u32 = 500;
/// A list page that takes longer is given up.
const LIST_LIMIT: Duration = Duration::from_secs(30);
/// The server ends a watch after this; it is then begun again where it ended.
const WATCH_SECONDS: u32 = 290;
/// A watch that is silent for longer than it may live has lost its connection.
const SILENCE_LIMIT: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 15);

/// The stream of one watch.
pub type Changes<K> = BoxStream<'static, kube::Result<WatchEvent<K>>>;

/// The objects of a list in an older version, in the one that is asked for.
pub fn list_read<K: Clone>(
    found: ObjectList<DynamicObject>,
    read: fn(DynamicObject) -> kube::Result<K>,
) -> kube::Result<ObjectList<K>> {
    let items = found.items.into_iter().map(read).collect::<kube::Result<_>>()?;
    Ok(ObjectList { types: found.types, metadata: found.metadata, items })
}

/// The same for the events of a watch.
pub fn changes_read<K: Send + 'static>(
    events: impl Stream<Item = kube::Result<WatchEvent<DynamicObject>>> + Send + 'static,
    read: fn(DynamicObject) -> kube::Result<K>,
) -> Changes<K> {
    let event = move |event| async move {
        Ok(match event {
            WatchEvent::Added(object) => WatchEvent::Added(read(object)?),
            WatchEvent::Modified(object) => WatchEvent::Modified(read(object)?),
            WatchEvent::Deleted(object) => WatchEvent::Deleted(read(object)?),
            WatchEvent::Bookmark(bookmark) => WatchEvent::Bookmark(bookmark),
            WatchEvent::Error(status) => WatchEvent::Error(status),
        })
    };
    events.and_then(event).boxed()
}

/// What a feed is poured into.
pub trait Sink<K>: Send + Sync + 'static {
    /// All there was at `version`.
    fn replace(&self, objects: Vec<K>, version: u64);
    /// An object came or changed.
    fn applied(&self, object: K);
    /// An object went; `object` is its last state.
    fn deleted(&self, object: K);
}

/// Where objects come from: whole ([`Objects`]) or by metadata alone ([`Metadata`]).
pub trait Feed<K: Clone>: Send + Sync + 'static {
    /// One page.
    fn list(&self, params: &ListParams)
    -> impl Future<Output = kube::Result<ObjectList<K>>> + Send;
    /// Changes after `version`.
    fn watch(&self, version: &str) -> impl Future<Output = kube::Result<Changes<K>>> + Send;
    /// The field selector that narrows both, if any.
    fn fields(&self) -> Option<&str>;
}

/// Whole objects.
pub struct Objects<K> {
    /// What to list and watch.
    pub api: Api<K>,
    /// A field selector.
    pub fields: Option<&'static str>,
}

/// Whole objects that have a label.
pub struct Labelled<K> {
    /// What to list and watch.
    pub api: Api<K>,
    /// A label selector.
    pub labels: &'static str,
}

/// Metadata alone: what most of an object's bytes are not.
pub struct Metadata<K> {
    /// What to list and watch.
    pub api: Api<K>,
}

impl<K> Feed<K> for Objects<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    async fn list(&self, params: &ListParams) -> kube::Result<ObjectList<K>> {
        list_of(&self.api, params).await
    }

    async fn watch(&self, version: &str) -> kube::Result<Changes<K>> {
        watch_of(&self.api, &watch_params(self.fields), version).await
    }

    fn fields(&self) -> Option<&str> {
        self.fields
    }
}

impl<K> Feed<K> for Labelled<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    async fn list(&self, params: &ListParams) -> kube::Result<ObjectList<K>> {
        list_of(&self.api, &params.clone().labels(self.labels)).await
    }

    async fn watch(&self, version: &str) -> kube::Result<Changes<K>> {
        let params = watch_params(None).labels(self.labels);
        watch_of(&self.api, &params, version).await
    }

    fn fields(&self) -> Option<&str> {
        None
    }
}

impl<K> Feed<PartialObjectMeta<K>> for Metadata<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    async fn list(&self, params: &ListParams) -> kube::Result<ObjectList<PartialObjectMeta<K>>> {
        let request = Request::new(self.api.resource_url()).list_metadata(params);
        page(&client_of(&self.api), request.map_err(kube::Error::BuildRequest)?).await
    }

    async fn watch(&self, version: &str) -> kube::Result<Changes<PartialObjectMeta<K>>> {
        let request = Request::new(self.api.resource_url());
        let request = request.watch_metadata(&watch_params(None), version);
        changes(&client_of(&self.api), request.map_err(kube::Error::BuildRequest)?).await
    }

    fn fields(&self) -> Option<&str> {
        None
    }
}

async fn list_of<K>(api: &Api<K>, params: &ListParams) -> kube::Result<ObjectList<K>>
where
    K: Resource + Clone + DeserializeOwned,
{
    let request = Request::new(api.resource_url()).list(params);
    page(&client_of(api), request.map_err(kube::Error::BuildRequest)?).await
}

async fn watch_of<K>(api: &Api<K>, params: &WatchParams, version: &str) -> kube::Result<Changes<K>>
where
    K: Resource + Clone + DeserializeOwned + Send + 'static,
{
    let request = Request::new(api.resource_url()).watch(params, version);
    changes(&client_of(api), request.map_err(kube::Error::BuildRequest)?).await
}

fn client_of<K: Resource + Clone>(api: &Api<K>) -> Client {
    api.clone().into_client()
}

/// For a watch that the server ends after [`WATCH_SECONDS`].
pub(super) fn watch_params(fields: Option<&str>) -> WatchParams {
    let params = WatchParams::default().timeout(WATCH_SECONDS);
    match fields {
        Some(fields) => params.fields(fields),
        None => params,
    }
}

/// Keeps `sink` in step with `feed` until dropped.
///
/// A kind that the server does not serve (a custom one whose definition is not there yet) counts as
/// empty and is looked for again.
pub async fn follow<K, F, S>(feed: F, sink: S)
where
    K: Resource + Clone + DeserializeOwned + Send + 'static,
    F: Feed<K>,
    S: Sink<K>,
{
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    loop {
        match list(&feed).await {
            Ok((objects, version)) => {
                sink.replace(objects, number(Some(&version)));
                watch_until_lost(&feed, &sink, version, &mut backoff).await;
            }
            Err(kube::Error::Api(status)) if status.code == 404 => sink.replace(Vec::new(), 0),
            Err(error) => {
                tracing::warn!(kind = std::any::type_name::<K>(), error = %super::chain(&error), "list failed");
            }
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

async fn list<K: Clone, F: Feed<K>>(feed: &F) -> kube::Result<(Vec<K>, String)> {
    let mut objects = Vec::new();
    let mut token = None;
    loop {
        let mut params = ListParams::default().limit(PAGE);
        params.field_selector = feed.fields().map(str::to_owned);
        params.continue_token = token;
        let page = super::within(LIST_LIMIT, feed.list(&params)).await?;
        objects.extend(page.items);
        token = page.metadata.continue_.filter(|token| !token.is_empty());
        if token.is_none() {
            return Ok((objects, page.metadata.resource_version.unwrap_or_default()));
        }
    }
}

/// Returns when the server no longer knows the version: a new list is due.
async fn watch_until_lost<K, F, S>(feed: &F, sink: &S, mut version: String, backoff: &mut Backoff)
where
    K: Resource + Clone + DeserializeOwned + Send + 'static,
    F: Feed<K>,
    S: Sink<K>,
{
    loop {
        let begun = tokio::time::timeout(LIST_LIMIT, feed.watch(&version)).await;
        let lost = match begun {
            Ok(Ok(mut stream)) => drain(&mut stream, sink, &mut version, backoff).await,
            Ok(Err(kube::Error::Api(status))) if status.code == 410 || status.code == 404 => true,
            Ok(Err(error)) => {
                tracing::debug!(error = %super::chain(&error), "watch refused");
                false
            }
            Err(_) => false,
        };
        if lost {
            return;
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

/// Whether the watch ended in a way that only a new list can heal.
async fn drain<K, S>(
    stream: &mut Changes<K>,
    sink: &S,
    version: &mut String,
    backoff: &mut Backoff,
) -> bool
where
    K: Resource + Clone + DeserializeOwned + Send + 'static,
    S: Sink<K>,
{
    loop {
        match tokio::time::timeout(SILENCE_LIMIT, stream.try_next()).await {
            Ok(Ok(Some(event))) => {
                let next = match event {
                    WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                        let next = object.resource_version();
                        sink.applied(object);
                        next
                    }
                    WatchEvent::Deleted(object) => {
                        let next = object.resource_version();
                        sink.deleted(object);
                        next
                    }
                    WatchEvent::Bookmark(bookmark) => Some(bookmark.metadata.resource_version),
                    WatchEvent::Error(status) => return status.code == 410 || status.code == 404,
                };
                backoff.reset();
                if let Some(next) = next {
                    *version = next;
                }
            }
            Ok(Ok(None)) | Err(_) => return false,
            Ok(Err(error)) => {
                tracing::debug!(error = %super::chain(&error), "watch broke");
                return false;
            }
        }
    }
}

/// A resource version as a number; 0 for none.
pub fn number(version: Option<&str>) -> u64 {
    version.and_then(|version| version.parse().ok()).unwrap_or(0)
}
