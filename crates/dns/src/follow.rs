//! Follows Services and EndpointSlices, and puts a new zone in place when they change.

use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_daemon::{Ready, Tasks};
use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};

use crate::Current;
use crate::snapshot;
use crate::wire::Name;
use crate::zone::{Records, Zone};

/// Changes that come together make one zone: short, because a change is to be answered in 100 ms.
const GATHER: Duration = Duration::from_millis(10);
/// The snapshot may lag: it matters only when API server and we both end.
const SAVE_EVERY: Duration = Duration::from_secs(5);

/// Keeps `current` up to date until `tasks` is told to stop; raises `ready` at the first full list.
pub fn start(
    client: Client,
    domain: Name,
    snapshot: Option<PathBuf>,
    current: Current,
    ready: Ready,
    tasks: &Tasks,
) {
    let (services, mut service_changes) = follow::<Service>(&client);
    let (slices, mut slice_changes) = follow::<EndpointSlice>(&client);
    tasks.spawn_until_stop("follow", async move {
        let mut known = Records::default();
        let mut listed = false;
        let mut saved_at = None;
        let mut unsaved = false;
        loop {
            let save = tokio::time::sleep(SAVE_EVERY);
            tokio::select! {
                Some(()) = service_changes.next() => {}
                Some(()) = slice_changes.next() => {}
                () = save, if unsaved => {}
            }
            // The caches drain both streams while we wait for what comes together.
            let gathered = tokio::time::sleep(GATHER);
            tokio::pin!(gathered);
            loop {
                tokio::select! {
                    () = &mut gathered => break,
                    Some(()) = service_changes.next() => {}
                    Some(()) = slice_changes.next() => {}
                }
            }
            if !listed {
                let both =
                    async { (services.wait_until_ready().await, slices.wait_until_ready().await) };
                let (Ok(()), Ok(())) = (match futures::FutureExt::now_or_never(both) {
                    Some(both) => both,
                    None => continue, // a half list would forget names that the snapshot knows
                }) else {
                    continue;
                };
                listed = true;
            }
            let records = Records::of(
                services.state().iter().map(AsRef::as_ref),
                slices.state().iter().map(AsRef::as_ref),
            );
            if records != known || !ready.is_ready() {
                current.store(Zone::build(&records, &domain));
                ready.set(true);
                known = records;
                unsaved = true;
            }
            let due = saved_at.is_none_or(|at: tokio::time::Instant| at.elapsed() >= SAVE_EVERY);
            if unsaved && due {
                save_to(snapshot.as_deref(), &known);
                saved_at = Some(tokio::time::Instant::now());
                unsaved = false;
            }
        }
    });
}

fn save_to(path: Option<&Path>, records: &Records) {
    let Some(path) = path else { return };
    if let Err(error) = snapshot::write(path, records) {
        tracing::warn!(%error, ?path, "the snapshot of names was not written");
    }
}

/// A cache of all objects of a kind, and a stream with an item a change.
fn follow<K>(client: &Client) -> (Store<K>, BoxStream<'static, ()>)
where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let (store, writer) = reflector::store();
    let api: Api<K> = Api::all(client.clone());
    let backoff = watcher::DefaultBackoff::default();
    let changes = watcher(api, watcher::Config::default())
        .modify(|object| object.meta_mut().managed_fields = None)
        .backoff(backoff)
        .reflect(writer)
        .filter_map(async |change| {
            change.inspect_err(|error| tracing::debug!(%error, "the API is away")).ok().map(drop)
        });
    (store, changes.boxed())
}
