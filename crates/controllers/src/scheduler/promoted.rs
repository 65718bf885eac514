//! Profiles that were promoted: a ConfigMap that the scheduler follows while it works.
//!
//! `kube-system/berth-scheduler` holds a configuration under `scheduler.yaml`, the same file that
//! `berth scheduler --config` reads. Its profiles take the place of those of the same name that the
//! scheduler was started with, from the next decision on; names that it was not started with, and
//! all other keys, want a restart. Without the ConfigMap it is as it was started.
//!
//! # Guarantees
//! A text that cannot be meant changes nothing, and is told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_daemon::Tasks;
use berth_scheduler::Profile;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Config;
use super::board::{Board, Hint};
use crate::driver::{Cache, Objects, chain, follow};

/// The ConfigMap's namespace and name.
pub const CONFIG_MAP: (&str, &str) = ("kube-system", "berth-scheduler");
/// The key of the configuration in it.
pub const CONFIG_KEY: &str = "scheduler.yaml";
const FIELDS: &str = "metadata.name=berth-scheduler";
/// A server that does not let it be read must not keep pods waiting.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was promoted, followed.
pub struct Promoted {
    cache: Cache<ConfigMap>,
}

impl Promoted {
    /// Follows it for a scheduler that was started with these profiles.
    pub fn follow(
        client: Client,
        started: Vec<Profile>,
        board: &Arc<Mutex<Board>>,
        changed: &Arc<Notify>,
        tasks: &Tasks,
    ) -> Self {
        let cache: Cache<ConfigMap> = Cache::default();
        let (board, changed) = (Arc::clone(board), Arc::clone(changed));
        cache.subscribe(move |change| {
            let text = change.new.and_then(|map| text(map));
            match effective(&started, text.as_deref()) {
                Ok(profiles) => {
                    let mut board = board.lock().expect("no holder of the lock panics");
                    if board.cluster.set_profiles(profiles) {
                        board.wake(Hint::Anything, Instant::now());
                        tracing::info!("the profiles are others from now on");
                        changed.notify_one();
                    }
                }
                Err(error) => {
                    tracing::warn!(error, "{}/{} is not followed", CONFIG_MAP.0, CONFIG_MAP.1);
                }
            }
        });
        let feed = Objects { api: Api::namespaced(client, CONFIG_MAP.0), fields: Some(FIELDS) };
        tasks.spawn_until_stop("scheduler-config", follow(feed, cache.clone()));
        Self { cache }
    }

    /// Waits until it is known whether something was promoted, but not for ever.
    pub async fn ready(&self) {
        if tokio::time::timeout(PATIENCE, self.cache.ready()).await.is_err() {
            tracing::warn!("{}/{} cannot be read yet", CONFIG_MAP.0, CONFIG_MAP.1);
        }
    }
}

/// The profiles of a scheduler that was started with `started`, now.
///
/// # Errors
/// What the server says.
pub async fn now(client: &Client, started: &[Profile]) -> kube::Result<Vec<Profile>> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), CONFIG_MAP.0);
    let found = maps.get_opt(CONFIG_MAP.1).await?;
    let found = effective(started, found.and_then(|map| text(&map)).as_deref());
    Ok(found.unwrap_or_else(|_| started.to_vec()))
}

fn text(map: &ConfigMap) -> Option<String> {
    map.data.as_ref()?.get(CONFIG_KEY).cloned()
}

/// `started` with the profiles of `text` in the places of those of their names.
fn effective(started: &[Profile], text: Option<&str>) -> Result<Vec<Profile>, String> {
    let mut profiles = started.to_vec();
    let Some(text) = text.filter(|text| !text.trim().is_empty()) else { return Ok(profiles) };
    let read: Config = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    for other in read.validate().map_err(|error| chain(&error))?.profiles {
        let same = |profile: &&mut Profile| profile.scheduler_name == other.scheduler_name;
        if let Some(profile) = profiles.iter_mut().find(same) {
            *profile = other;
        }
    }
    Ok(profiles)
}

#[cfg(test)]
mod tests {
    use berth_scheduler::profile::Strategy;

    use super::*;

    #[test]
    fn only_profiles_of_its_own_names_change_and_nothing_by_a_wrong_text() {
        let started = Config::default().profiles;
        assert_eq!(effective(&started, None), Ok(started.clone()));
        assert_eq!(effective(&started, Some("\n")), Ok(started.clone()));
        let packed = "bindings: 7\nprofiles:\n- schedulerName: berth\n  strategy: {type: MostAllocated}\n- schedulerName: other\n";
        let found = effective(&started, Some(packed)).unwrap();
        assert_eq!((found.len(), &found[0]), (started.len(), &started[0]));
        assert_eq!(found[1].strategy, Strategy::MostAllocated);
        for wrong in ["profile: []", "profiles: [{loadCeiling: 0}]", "{", "bindings: 0"] {
            assert!(effective(&started, Some(wrong)).is_err(), "{wrong}");
        }
    }
}
