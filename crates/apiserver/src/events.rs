//! Events end an hour after they were last written.

use std::sync::Arc;
use std::time::Duration;

use berth_store::{Expect, Store};
use serde_json::Value;

use crate::record;

const LIFETIME: Duration = Duration::from_secs(3600);
const SWEEP_EVERY: Duration = Duration::from_secs(300);
const PAGE: usize = 500;

/// Removes events an hour after they were last written; runs until it is dropped.
pub(crate) async fn sweep(store: Arc<dyn Store>) {
    let mut ticks = tokio::time::interval(SWEEP_EVERY);
    loop {
        ticks.tick().await;
        if let Err(error) = sweep_once(store.as_ref()).await {
            tracing::warn!(%error, "sweeping old events: will try again");
        }
    }
}

async fn sweep_once(store: &dyn Store) -> Result<(), berth_store::ReadError> {
    let prefix = record::kind_prefix("", "events");
    let oldest = jiff::Timestamp::now().as_second() - LIFETIME.as_secs() as i64;
    let mut after = None;
    loop {
        let page = store.list(prefix.as_bytes(), after.as_deref(), PAGE, None).await?;
        for entry in &page.entries {
            if last_seen(&entry.value).is_some_and(|at| at < oldest) {
                // Somebody wrote to it meanwhile: then it is not old any more.
                let _ = store.delete(&entry.key, Expect::Modified(entry.modified)).await;
            }
        }
        match page.entries.last() {
            Some(last) if page.remaining > 0 => after = Some(last.key.clone()),
            _ => return Ok(()),
        }
    }
}

fn last_seen(value: &[u8]) -> Option<i64> {
    let event: Value = serde_json::from_slice(value).ok()?;
    let times = [
        &event["metadata"]["creationTimestamp"],
        &event["lastTimestamp"],
        &event["eventTime"],
        &event["series"]["lastObservedTime"],
    ];
    let seconds = times
        .iter()
        .filter_map(|time| Some(time.as_str()?.parse::<jiff::Timestamp>().ok()?.as_second()));
    seconds.max()
}
