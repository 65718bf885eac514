//! Keeping something in memory in step with a part of the store.

use std::sync::Arc;
use std::time::Duration;

use berth_daemon::Backoff;
use berth_store::{Change, Entry, ReadError, Revision, Store, WatchEvent};
use bytes::Bytes;

/// What a follower is told.
pub(crate) enum Seen<'a> {
    /// Everything there is; what was known before is void.
    All(&'a [Entry]),
    /// One change.
    Change(&'a Change),
}

/// Tells `on` all entries under `prefix` once; answers the revision to go on from.
pub(crate) async fn load(
    store: &dyn Store,
    prefix: &Bytes,
    mut on: impl FnMut(Seen<'_>),
) -> Result<Revision, ReadError> {
    let page = store.list(prefix, None, 0, None).await?;
    on(Seen::All(&page.entries));
    Ok(page.revision)
}

/// Tells `on` every change after `from`, and everything anew whenever it fell behind. Returns when
/// the store closes.
pub(crate) async fn follow(
    store: Arc<dyn Store>,
    prefix: Bytes,
    mut from: Revision,
    mut on: impl FnMut(Seen<'_>),
) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
    loop {
        if let Ok(mut watch) = store.watch(prefix.clone(), from).await {
            while let Some(event) = watch.next().await {
                backoff.reset();
                match event {
                    WatchEvent::Changes(changes) => {
                        for change in &changes {
                            from = change.revision();
                            on(Seen::Change(change));
                        }
                    }
                    WatchEvent::Progress(revision) => from = revision,
                }
            }
        }
        tokio::time::sleep(backoff.next_delay()).await;
        match load(store.as_ref(), &prefix, &mut on).await {
            Ok(revision) => from = revision,
            Err(ReadError::Closed) => return,
            Err(error) => tracing::warn!(%error, "following the store: will try again"),
        }
    }
}
