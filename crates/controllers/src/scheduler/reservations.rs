//! Reservations on a live cluster: ConfigMaps with the label `berth.dev/reservation`, followed.
//!
//! ```text
//!  ConfigMap, node, the end of one ──▶ settle ──▶ the board holds room
//!                                        └──────▶ its slots as an annotation, for a restart
//! ```
//!
//! Slots without room are tried again every 10 s. Ends are compared with the wall clock, which may
//! jump: it is looked at every minute at the latest, and a reservation whose end comes to lie in the
//! future again holds again. See the decision record 0004.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_api::{Quantity, Selector};
use berth_daemon::Tasks;
use berth_scheduler::amount::{Amounts, Bytes, Millicores};
use berth_scheduler::reservation::{Reservation, settle};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::board::{Board, Hint};
use super::leader::Leadership;
use crate::driver::{Cache, Key, Labelled, World, chain, follow, within};

/// Marks the ConfigMaps that are reservations.
const LABEL: &str = "berth.dev/reservation";
/// Where the slots are, written by the scheduler.
const SLOTS: &str = "berth.dev/reservation-slots";
/// Slots without room, and what could not be written, are tried again after this.
const AGAIN: Duration = Duration::from_secs(10);
/// How long a jump of the wall clock may go unseen.
const LONGEST: Duration = Duration::from_secs(60);
/// Whoever does not lead looks whether it does by now; that asks nobody.
const LEADING: Duration = Duration::from_secs(1);
/// No call takes longer.
const CALL_LIMIT: Duration = Duration::from_secs(10);

type Shared = Arc<Mutex<Board>>;

/// The reservations of a cluster.
pub struct Reservations {
    client: Client,
    board: Shared,
    /// Told when there is room that was not there.
    freed: Arc<Notify>,
    leadership: Leadership,
    maps: Cache<ConfigMap>,
    /// A ConfigMap changed, or a node came or went.
    changed: Arc<Notify>,
}

impl Reservations {
    /// Begins to follow them, in `tasks`; [`Reservations::keep`] acts.
    pub fn follow(
        client: Client,
        world: &World,
        board: &Shared,
        freed: &Arc<Notify>,
        leadership: Leadership,
        tasks: &Tasks,
    ) -> Self {
        let maps: Cache<ConfigMap> = Cache::default();
        let changed = Arc::new(Notify::new());
        let wake = Arc::clone(&changed);
        maps.subscribe(move |_| wake.notify_one());
        let wake = Arc::clone(&changed);
        world.nodes.subscribe(move |change| {
            if change.old.is_none() || change.new.is_none() {
                wake.notify_one();
            }
        });
        let feed = Labelled { api: Api::all(client.clone()), labels: LABEL };
        tasks.spawn_until_stop("follow", follow(feed, maps.clone()));
        let (board, freed) = (Arc::clone(board), Arc::clone(freed));
        Self { client, board, freed, leadership, maps, changed }
    }

    /// Sets and keeps the slots of all reservations.
    pub async fn keep(self) {
        self.maps.ready().await;
        let mut held = false;
        loop {
            let wait = if self.leadership.holds() { self.settle(&mut held).await } else { LEADING };
            // Whatever happened since is in the caches; one more look costs nothing.
            drop(tokio::time::timeout(wait, self.changed.notified()).await);
        }
    }

    /// Settles all; how long that holds if nothing happens.
    async fn settle(&self, held: &mut bool) -> Duration {
        let wanted = wanted(self.maps.all().iter().map(|map| &**map));
        // Nothing to hold and nothing held: the lock is left to those who decide.
        if !*held && wanted.is_empty() {
            return LONGEST;
        }
        *held = !wanted.is_empty();
        let now = Timestamp::now().as_second();
        let (settled, missing) = {
            let mut board = self.board.lock().expect("no holder of the lock panics");
            let found = settle(&mut board.cluster, &wanted, now);
            board.wake(Hint::PodGone, Instant::now());
            found
        };
        self.freed.notify_one();
        let mut wait = until_next(&wanted, now);
        if missing > 0 {
            tracing::info!(missing, "reserved slots without room");
            wait = wait.min(AGAIN);
        }
        for (old, new) in pairs(&wanted, &settled) {
            match within(CALL_LIMIT, store(&self.client, old, new)).await {
                Ok(Some(map)) => self.maps.remember(map),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(name = new.name, error = %chain(&error), "reservation");
                    wait = wait.min(AGAIN);
                }
            }
        }
        wait
    }
}

/// Until the first of `wanted` ends, by a clock that says `now`; a minute at most.
fn until_next(wanted: &[Reservation], now: i64) -> Duration {
    let ends = wanted.iter().filter_map(|each| each.until).filter(|until| *until > now);
    let next = ends.min().map_or(LONGEST, |until| Duration::from_secs(until.abs_diff(now)));
    next.min(LONGEST)
}

fn wanted<'a>(maps: impl Iterator<Item = &'a ConfigMap>) -> Vec<Reservation> {
    maps.filter_map(|object| {
        read(object)
            .inspect_err(|reason| {
                let key = Key::of(&object.metadata);
                tracing::warn!(config_map = %key, reason, "no reservation");
            })
            .ok()
    })
    .collect()
}

/// All reservations as they are now.
///
/// # Errors
/// They could not be listed.
pub async fn list(client: &Client) -> kube::Result<Vec<Reservation>> {
    let api: Api<ConfigMap> = Api::all(client.clone());
    let list = within(CALL_LIMIT, api.list(&ListParams::default().labels(LABEL))).await?;
    Ok(wanted(list.items.iter()))
}

fn pairs<'a>(
    old: &'a [Reservation],
    new: &'a [Reservation],
) -> impl Iterator<Item = (&'a Reservation, &'a Reservation)> {
    new.iter().filter_map(|new| {
        let old = old.iter().find(|old| (&old.namespace, &old.name) == (&new.namespace, &new.name));
        old.map(|old| (old, new))
    })
}

/// The reservation that a ConfigMap describes.
///
/// # Errors
/// Which key is wrong, and how.
fn read(object: &ConfigMap) -> Result<Reservation, String> {
    let data = object.data.clone().unwrap_or_default();
    let known = ["selector", "slots", "cpu", "memory", "until", "ttl"];
    if let Some(key) = data.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(format!("{key} is not known; there are {}", known.join(", ")));
    }
    let amount = |key: &str| match data.get(key) {
        Some(text) => text
            .parse::<Quantity>()
            .map(Some)
            .map_err(|_| format!("{key} is {text}; a quantity is wanted")),
        None => Ok(None),
    };
    let slots = data.get("slots").map_or(Ok(1), |text| {
        text.parse::<i64>()
            .ok()
            .filter(|slots| (1..=10_000).contains(slots))
            .ok_or_else(|| format!("slots is {text}; 1 to 10000 is wanted"))
    })?;
    let selector = data.get("selector").ok_or("selector is missing: whose pods is it for?")?;
    let selector: Selector =
        selector.parse().map_err(|error| format!("selector is {selector}; {error}"))?;
    let until = match (data.get("until"), data.get("ttl")) {
        (Some(text), _) => {
            let at = text.parse::<Timestamp>();
            Some(at.map_err(|_| format!("until is {text}; a time is wanted"))?.as_second())
        }
        (None, Some(text)) => {
            let seconds = text.parse::<i64>();
            let seconds =
                seconds.map_err(|_| format!("ttl is {text}; whole seconds are wanted"))?;
            let created = object.metadata.creation_timestamp.as_ref();
            Some(created.map_or(0, |at| at.0.as_second()) + seconds)
        }
        (None, None) => None,
    };
    let (set, floors) = slots_of(object);
    Ok(Reservation {
        name: object.name_any(),
        namespace: object.namespace().unwrap_or_default(),
        selector,
        slots,
        slot: Amounts {
            cpu: Millicores(amount("cpu")?.map_or(0, |amount| amount.millis())),
            memory: Bytes(amount("memory")?.map_or(0, |amount| amount.whole())),
            ..Amounts::default()
        },
        until,
        floors,
        set,
        ..Reservation::default()
    })
}

#[derive(Deserialize)]
struct Slot {
    set: i64,
    floor: i64,
}

fn slots_of(object: &ConfigMap) -> (BTreeMap<String, i64>, BTreeMap<String, i64>) {
    let stored = object.annotations().get(SLOTS);
    let slots: BTreeMap<String, Slot> =
        stored.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let set = slots.iter().map(|(node, slot)| (node.clone(), slot.set)).collect();
    (set, slots.into_iter().map(|(node, slot)| (node, slot.floor)).collect())
}

/// Writes the slots down where they changed; the ConfigMap that was written.
async fn store(
    client: &Client,
    old: &Reservation,
    new: &Reservation,
) -> kube::Result<Option<ConfigMap>> {
    if (&old.set, &old.floors) == (&new.set, &new.floors) {
        return Ok(None);
    }
    let slots: BTreeMap<&String, serde_json::Value> = new
        .set
        .iter()
        .map(|(node, set)| (node, json!({ "set": set, "floor": new.floors.get(node) })))
        .collect();
    let text = serde_json::to_string(&slots).map_err(kube::Error::SerdeError)?;
    let patch = json!({ "metadata": { "annotations": { SLOTS: text } } });
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), &new.namespace);
    api.patch(&new.name, &PatchParams::default(), &Patch::Merge(patch)).await.map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_map_is_read_as_a_reservation_or_refused_by_key() {
        let config_map = |data: serde_json::Value| -> ConfigMap {
            serde_json::from_value(json!({
                "metadata": { "name": "r", "namespace": "shop",
                    "creationTimestamp": "2026-01-01T00:00:00Z",
                    "annotations": { SLOTS: r#"{"a": {"set": 2, "floor": 3}}"# } },
                "data": data,
            }))
            .unwrap()
        };
        let whole = json!({ "selector": "app=web", "slots": "2", "cpu": "500m", "ttl": "60" });
        let found = read(&config_map(whole)).unwrap();
        assert_eq!((found.slots, found.slot.cpu), (2, Millicores(500)));
        assert_eq!((found.set["a"], found.floors["a"]), (2, 3));
        let created = "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap().as_second();
        assert_eq!(found.until, Some(created + 60));
        let wrong = |data| read(&config_map(data)).unwrap_err();
        assert!(wrong(json!({})).contains("selector is missing"));
        assert!(wrong(json!({ "selector": "a=b", "slots": "0" })).contains("slots is 0"));
        assert!(wrong(json!({ "selector": "a=b", "gpu": "1" })).contains("gpu is not known"));
        assert!(wrong(json!({ "selector": "a=b", "cpu": "much" })).contains("cpu is much"));
    }

    #[test]
    fn a_clock_that_jumps_ends_a_reservation_no_sooner_than_it_says() {
        let until = |until| Reservation { until, ..Reservation::default() };
        let all = [until(None), until(Some(1_000)), until(Some(1_030))];
        for (now, seconds) in [
            (990, 10),
            (1_000, 30),
            // Far back: the end is hours away, and the clock may come back any moment.
            (-50_000, 60),
            (i64::MAX, 60),
        ] {
            assert_eq!(until_next(&all, now), Duration::from_secs(seconds), "at {now}");
        }
    }
}
