//! Zones from ConfigMaps: taken when they are in order, else refused by an Event that names the
//! lines, while the old one stays.
//!
//! Only maps of one namespace count: who may write a zone may answer for any name.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use berth_api::zone;
use berth_daemon::Tasks;
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use tokio::sync::watch;

use crate::facts::{self, Facts, ZoneText};
use crate::follow::key;
use crate::known::Clusters;
use crate::written::{Origin, Written};

/// How long an API server may take to keep an Event.
const PATIENCE: Duration = Duration::from_secs(5);
/// What an Event's note may be long (core/v1: 1,024 bytes).
const MOST_NOTE: usize = 1000;

/// What the ConfigMaps of one cluster are taken into.
pub(crate) struct Objects {
    pub written: Arc<Written>,
    pub clusters: Arc<Clusters>,
    /// Of the cluster.
    pub number: usize,
    /// Told of every zone that is to be in the snapshot.
    pub changed: watch::Sender<u64>,
}

impl Objects {
    /// Puts the zones in force that were in order when the snapshot was written.
    pub(crate) fn restore(&self, facts: &Facts) {
        for (key, ZoneText { origin, text }) in &facts.zones {
            let from = Origin::Object(self.number, key.clone());
            if let Err(error) = self.written.read(from, text.as_bytes(), origin.as_deref()) {
                tracing::warn!(%error, map = key, "zone of the snapshot not taken");
            }
        }
    }

    /// Follows the maps of `namespace` in `tasks`.
    pub(crate) fn follow(self, client: Client, namespace: &str, tasks: &Tasks) {
        let maps = Api::<ConfigMap>::namespaced(client.clone(), namespace);
        let labelled = watcher::Config::default().labels(zone::LABEL);
        let mut events = watcher(maps, labelled).default_backoff().boxed();
        let recorder = Recorder::new(client, Reporter::from("berth-dns"));
        tasks.spawn_until_stop("zone objects", async move {
            let this = Arc::new(self);
            let mut listed = BTreeSet::new();
            while let Some(event) = events.next().await {
                match event {
                    Ok(watcher::Event::Init) => listed.clear(),
                    Ok(watcher::Event::InitApply(map)) => {
                        listed.insert(key(&map));
                        this.take(&map, &recorder).await;
                    }
                    Ok(watcher::Event::InitDone) => {
                        let known = this.clusters.facts(this.number).zones.into_keys();
                        for key in known.filter(|key| !listed.contains(key)) {
                            this.forget(&key);
                        }
                    }
                    Ok(watcher::Event::Apply(map)) => this.take(&map, &recorder).await,
                    Ok(watcher::Event::Delete(map)) => this.forget(&key(&map)),
                    // Where nobody allowed it to be followed there are none.
                    Err(error) => tracing::debug!(%error, "zone maps cannot be followed"),
                }
            }
        });
    }

    async fn take(self: &Arc<Self>, map: &ConfigMap, recorder: &Recorder) {
        let Some(found) = facts::of_zone(map) else { return };
        let key = key(map);
        let (this, from) = (Arc::clone(self), Origin::Object(self.number, key.clone()));
        let ZoneText { origin, text } = found.clone();
        let taken = tokio::task::spawn_blocking(move || {
            let before = this.written.from(&from);
            let problems = this.written.read(from.clone(), text.as_bytes(), origin.as_deref())?;
            let unchanged = match (before, this.written.from(&from)) {
                (Some(before), Some(after)) => Arc::ptr_eq(&before, &after),
                _ => false,
            };
            Ok::<_, crate::ZoneError>((problems, unchanged))
        });
        let (type_, reason, note) = match taken.await {
            Ok(Ok((problems, unchanged))) => {
                self.clusters.keep(self.number, &key, Some(found));
                self.changed.send_modify(|count| *count += 1);
                if unchanged {
                    return; // said before
                }
                let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
                let note = format!("the zone is in force\n{}", lines.join("\n"));
                (EventType::Normal, zone::TAKEN, note)
            }
            Ok(Err(error)) => {
                tracing::warn!(map = key, %error, "zone not taken, the old one stays");
                let note = format!("the zone is not taken, the old one stays: {error}");
                (EventType::Warning, zone::REFUSED, note)
            }
            Err(_) => return,
        };
        let mut end = note.trim_end().len().min(MOST_NOTE);
        while !note.is_char_boundary(end) {
            end -= 1;
        }
        let event = Event {
            type_,
            reason: reason.into(),
            note: Some(note[..end].to_owned()),
            action: "ReadZone".into(),
            secondary: None,
        };
        let object = map.object_ref(&());
        match tokio::time::timeout(PATIENCE, recorder.publish(&event, &object)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(map = key, %error, "event not kept"),
            Err(_) => tracing::debug!(map = key, "event not kept in time"),
        }
    }

    fn forget(&self, key: &str) {
        self.clusters.keep(self.number, key, None);
        if self.written.forget(&Origin::Object(self.number, key.to_owned())) {
            self.changed.send_modify(|count| *count += 1);
        }
    }
}
