//! When an App was given other replicas: from how many to how many, by whom and why.
//!
//! ```text
//!  Apps (watch) ── replicas are others ──▶ evidence: autoscaler's event, act, Release, writer
//!                                                        │
//!                                        scalings ◀──────┘ kept for 90 days
//! ```
//!
//! What changed while no console ran is found when one starts: then the App's own fields say who
//! wrote them last. Of several consoles of one database the first to write a change keeps it.

mod evidence;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use berth_api::app::App;
use berth_daemon::Tasks;
use futures::{StreamExt, TryStreamExt};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use serde::Serialize;
use sqlx::AnyPool;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use self::evidence::{Writer, evidence, writer};
use crate::acts::Acts;
use crate::database::{DatabaseError, now};

const KEPT: Duration = Duration::from_secs(90 * 24 * 3600);
const PAGE: i64 = 200;
const PRUNE_EVERY: Duration = Duration::from_secs(3600);
/// Changes that wait for their evidence, and those for which it is looked for at a time.
const WAITING: usize = 1024;
const AT_ONCE: usize = 16;
/// Before nothing was known of the App.
const UNKNOWN: i64 = -1;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Scaling {
    /// Milliseconds since 1970.
    pub at: i64,
    /// -1 where nothing was known before.
    pub before: i64,
    pub after: i64,
    /// An account, `autoscaler`, or whoever the API server says wrote it.
    pub who: String,
    pub why: String,
}

/// An App that has other replicas than it had.
#[derive(Clone, Debug)]
pub(super) struct Change {
    namespace: String,
    app: String,
    version: String,
    at: i64,
    before: i64,
    after: i64,
    writer: Writer,
    /// It was seen when it came to be, so its evidence is fresh.
    live: bool,
}

/// The database's changes.
#[derive(Clone, Debug)]
pub(crate) struct Scalings {
    pool: AnyPool,
}

impl Scalings {
    /// Follows the Apps of `client`'s cluster until `tasks` stop.
    pub fn start(pool: AnyPool, client: Client, acts: Acts, tasks: &Tasks) -> Self {
        let scalings = Self { pool };
        let (send, changes) = mpsc::channel(WAITING);
        tasks.spawn_until_stop("console apps", follow(client.clone(), scalings.clone(), send));
        tasks.spawn_until_stop("console scalings", {
            let scalings = scalings.clone();
            async move {
                let keep = |change| {
                    let (scalings, client, acts) = (&scalings, &client, &acts);
                    async move { scalings.settle(client, acts, change).await }
                };
                ReceiverStream::new(changes).for_each_concurrent(AT_ONCE, keep).await;
            }
        });
        let pruner = scalings.clone();
        tasks.spawn_until_stop("console scalings prune", async move {
            let mut turn = tokio::time::interval(PRUNE_EVERY);
            loop {
                turn.tick().await;
                if let Err(error) = pruner.prune(now()).await {
                    tracing::warn!(%error, "cannot remove old changes of replicas");
                }
            }
        });
        scalings
    }

    /// The App's latest, the newest first.
    pub async fn list(&self, namespace: &str, app: &str) -> Result<Vec<Scaling>, DatabaseError> {
        let query = "SELECT at, count_before, count_after, who, why FROM scalings \
                     WHERE namespace = $1 AND app = $2 ORDER BY at DESC LIMIT $3";
        let rows: Vec<(i64, i64, i64, String, String)> = sqlx::query_as(query)
            .bind(namespace)
            .bind(app)
            .bind(PAGE)
            .fetch_all(&self.pool)
            .await?;
        let told = rows.into_iter().map(|(at, before, after, who, why)| Scaling {
            at,
            before,
            after,
            who,
            why,
        });
        Ok(told.collect())
    }

    /// What the App was last known to have.
    async fn last(&self, namespace: &str, app: &str) -> Result<i64, DatabaseError> {
        Ok(self.list(namespace, app).await?.first().map_or(UNKNOWN, |one| one.after))
    }

    async fn settle(&self, client: &Client, acts: &Acts, change: Change) {
        let (who, why) = evidence(client, acts, &change).await.told(&change);
        if let Err(error) = self.keep(&change, &who, &why).await {
            let Change { namespace, app, .. } = &change;
            tracing::warn!(%error, namespace, app, "a change of replicas cannot be written");
        }
    }

    async fn keep(&self, change: &Change, who: &str, why: &str) -> Result<(), DatabaseError> {
        let query = "INSERT INTO scalings \
                     (namespace, app, version, at, count_before, count_after, who, why) \
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING";
        sqlx::query(query)
            .bind(&change.namespace)
            .bind(&change.app)
            .bind(&change.version)
            .bind(change.at)
            .bind(change.before)
            .bind(change.after)
            .bind(who)
            .bind(why)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    async fn prune(&self, now: i64) -> Result<(), DatabaseError> {
        let query = "DELETE FROM scalings WHERE at < $1";
        sqlx::query(query).bind(now - KEPT.as_millis() as i64).execute(&self.pool).await?;
        Ok(())
    }
}

async fn follow(client: Client, scalings: Scalings, send: mpsc::Sender<Change>) {
    let apps = watcher(Api::<App>::all(client), watcher::Config::default()).default_backoff();
    let mut events = std::pin::pin!(apps);
    let mut known = HashMap::<(String, String), i64>::new();
    loop {
        let event = match events.try_next().await {
            Ok(Some(event)) => event,
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(%error, "following Apps for their replicas");
                continue;
            }
        };
        let (app, live) = match event {
            watcher::Event::Apply(app) => (app, true),
            watcher::Event::InitApply(app) => (app, false),
            watcher::Event::Delete(app) => {
                known.remove(&(app.namespace().unwrap_or_default(), app.name_any()));
                continue;
            }
            watcher::Event::Init | watcher::Event::InitDone => continue,
        };
        let key = (app.namespace().unwrap_or_default(), app.name_any());
        let after = i64::from(app.spec.replicas);
        let before = match known.entry(key.clone()) {
            Entry::Occupied(mut held) => held.insert(after),
            Entry::Vacant(place) => {
                place.insert(after);
                match scalings.last(&key.0, &key.1).await {
                    Ok(last) => last,
                    Err(error) => {
                        tracing::warn!(%error, "what replicas an App had is not known");
                        after
                    }
                }
            }
        };
        if before == after {
            continue;
        }
        let writer = writer(&app);
        let at = if live { now() } else { writer.at.unwrap_or_else(now) };
        let version = app.resource_version().unwrap_or_default();
        let (namespace, app) = key;
        let change = Change { namespace, app, version, at, before, after, writer, live };
        if send.send(change).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
