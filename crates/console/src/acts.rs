//! What people changed through the console, kept in the database.
//!
//! A row is written for each request that changes something, whatever came of it. Rows wait in a
//! bounded queue for a writer that takes them in batches; when it is full, requests wait.

use std::ops::Deref;
use std::time::Duration;

use serde::Serialize;
use sqlx::{AnyPool, Row};
use tokio::sync::mpsc;

use berth_daemon::Tasks;

use crate::database::{DatabaseError, holding};

const WAITING: usize = 4096;
const BATCH: usize = 200;
const KEPT: Duration = Duration::from_secs(90 * 24 * 3600);
const PRUNE_EVERY: Duration = Duration::from_secs(3600);
const AGAIN: Duration = Duration::from_secs(1);

/// One act.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Act {
    /// Milliseconds since 1970.
    pub at: i64,
    /// Whose.
    pub account: String,
    /// From where.
    pub address: String,
    /// The HTTP method, or `login`, `logout`.
    pub verb: String,
    /// The API's path.
    pub path: String,
    /// The HTTP status of the answer.
    pub status: u16,
    /// How long it took.
    pub milliseconds: i64,
}

/// One that was written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// Its place among all: later acts have greater ones.
    pub id: String,
    /// What was done.
    #[serde(flatten)]
    pub act: Act,
}

impl Deref for Kept {
    type Target = Act;

    fn deref(&self) -> &Act {
        &self.act
    }
}

/// What is looked for.
#[derive(Clone, Debug, Default, serde::Deserialize)]
pub struct Filter {
    /// Of this account alone.
    #[serde(default)]
    pub account: String,
    /// Whose path holds this.
    #[serde(default)]
    pub path: String,
    /// Of this verb alone.
    #[serde(default)]
    pub verb: String,
    /// In this namespace alone.
    #[serde(default)]
    pub namespace: String,
    /// Not before this time, milliseconds since 1970.
    pub from: Option<i64>,
    /// Before this time, milliseconds since 1970.
    pub to: Option<i64>,
    /// Before the act of this id; with none, from the latest on.
    #[serde(default)]
    pub before: String,
}

/// The database's acts.
#[derive(Clone, Debug)]
pub struct Acts {
    pool: AnyPool,
    queue: mpsc::Sender<Act>,
}

impl Acts {
    /// How many [`Acts::list`] gives at once.
    pub const PAGE: i64 = 200;

    /// Starts the writer.
    pub fn start(pool: AnyPool, tasks: &Tasks) -> Self {
        let (queue, mut waiting) = mpsc::channel(WAITING);
        let (writer, stopping) = (pool.clone(), tasks.clone());
        tasks.spawn("console acts", async move {
            let mut batch = Vec::with_capacity(BATCH);
            loop {
                let some = tokio::select! {
                    biased;
                    some = waiting.recv_many(&mut batch, BATCH) => some,
                    () = stopping.stopping() => break,
                };
                if some == 0 {
                    break;
                }
                while let Err(error) = write(&writer, &batch).await {
                    tracing::error!(%error, "cannot write who did what; trying again");
                    if stopping.is_stopping() {
                        break;
                    }
                    tokio::time::sleep(AGAIN).await;
                }
                batch.clear();
            }
        });
        let pruner = pool.clone();
        tasks.spawn_until_stop("console acts' age", async move {
            let mut turn = tokio::time::interval(PRUNE_EVERY);
            loop {
                turn.tick().await;
                let before = crate::database::now() - KEPT.as_millis() as i64;
                let query = "DELETE FROM acts WHERE at < $1";
                if let Err(error) = sqlx::query(query).bind(before).execute(&pruner).await {
                    tracing::warn!(%error, "cannot remove old acts");
                }
            }
        });
        Self { pool, queue }
    }

    /// Keeps `act`.
    pub async fn keep(&self, act: Act) {
        if self.queue.send(act).await.is_err() {
            tracing::error!("the writer of acts has ended");
        }
    }

    /// The latest that fit, the newest first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn list(&self, filter: &Filter) -> Result<Vec<Kept>, DatabaseError> {
        // Ids begin with the time, and tell acts of one millisecond from one another.
        let query = "SELECT id, at, account, address, verb, path, status, milliseconds FROM acts \
                     WHERE ($1 = '' OR id < $1) AND ($2 = '' OR account = $2) \
                     AND ($3 = '' OR path LIKE $3 ESCAPE '!') AND ($4 = '' OR verb = $4) \
                     AND ($5 = '' OR path || '/' LIKE $5 ESCAPE '!') AND at >= $6 AND at < $7 \
                     ORDER BY id DESC LIMIT $8";
        let inside = match filter.namespace.as_str() {
            "" => String::new(),
            namespace => holding(&format!("/namespaces/{namespace}/")),
        };
        let rows = sqlx::query(query)
            .bind(&filter.before)
            .bind(&filter.account)
            .bind(holding(&filter.path))
            .bind(&filter.verb)
            .bind(inside)
            .bind(filter.from.unwrap_or_default())
            .bind(filter.to.unwrap_or(i64::MAX))
            .bind(Self::PAGE)
            .fetch_all(&self.pool)
            .await?;
        rows.iter()
            .map(|row| {
                let act = Act {
                    at: row.try_get("at")?,
                    account: row.try_get("account")?,
                    address: row.try_get("address")?,
                    verb: row.try_get("verb")?,
                    path: row.try_get("path")?,
                    status: u16::try_from(row.try_get::<i64, _>("status")?).unwrap_or_default(),
                    milliseconds: row.try_get("milliseconds")?,
                };
                Ok(Kept { id: row.try_get("id")?, act })
            })
            .collect()
    }
}

/// Keeps one act of somebody who works on the console's database without the console.
///
/// # Errors
/// When the database does not take it.
pub async fn keep(pool: &AnyPool, act: Act) -> Result<(), DatabaseError> {
    Ok(write(pool, &[act]).await?)
}

async fn write(pool: &AnyPool, batch: &[Act]) -> Result<(), sqlx::Error> {
    let mut transaction = pool.begin().await?;
    for act in batch {
        let query = "INSERT INTO acts \
                     (id, at, account, address, verb, path, status, milliseconds) \
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
        let id = format!("{:016x}{:016x}", act.at, rand::random::<u64>());
        sqlx::query(query)
            .bind(id)
            .bind(act.at)
            .bind(&act.account)
            .bind(&act.address)
            .bind(&act.verb)
            .bind(&act.path)
            .bind(i64::from(act.status))
            .bind(act.milliseconds)
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::both::both;

    #[tokio::test]
    async fn acts_are_found_by_person_path_and_time() {
        for database in both().await {
            let tasks = Tasks::new();
            let acts = Acts::start(database.pool.clone(), &tasks);
            let now = crate::database::now();
            for (account, path, at) in [
                ("ann", "/a_b", now),
                ("ann", "/axb", now + 1),
                ("eve", "/a%b", now + 2),
                ("eve", "/api/v1/namespaces/shop", now + 2),
            ] {
                let act = Act {
                    at,
                    account: account.to_owned(),
                    address: "127.0.0.1".to_owned(),
                    verb: "POST".to_owned(),
                    path: path.to_owned(),
                    status: 201,
                    milliseconds: 1,
                };
                acts.keep(act).await;
            }
            let all = async {
                while acts.list(&Filter::default()).await.unwrap().len() < 4 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(30), all).await.unwrap();
            let found = async |account: &str, path: &str| {
                let (account, path) = (account.to_owned(), path.to_owned());
                let filter = Filter { account, path, ..Filter::default() };
                let acts = acts.list(&filter).await.unwrap();
                acts.into_iter().map(|kept| kept.act.path).collect::<Vec<_>>()
            };
            assert_eq!(found("", "").await[2..], ["/axb", "/a_b"]);
            assert_eq!(found("ann", "").await, ["/axb", "/a_b"]);
            assert_eq!(found("", "a_b").await, ["/a_b"], "no pattern");
            assert_eq!(found("", "%").await, ["/a%b"], "no pattern");
            let of = async |filter: Filter| acts.list(&filter).await.unwrap().len();
            let span = Filter { from: Some(now + 1), to: Some(now + 2), ..Filter::default() };
            assert_eq!(of(span).await, 1, "from, and until before");
            assert_eq!(of(Filter { verb: "POST".to_owned(), ..Filter::default() }).await, 4);
            assert_eq!(of(Filter { verb: "PUT".to_owned(), ..Filter::default() }).await, 0);
            let inside = |name: &str| Filter { namespace: name.to_owned(), ..Filter::default() };
            assert_eq!((of(inside("shop")).await, of(inside("sho")).await), (1, 0));
            let all = acts.list(&Filter::default()).await.unwrap();
            for (index, kept) in all.iter().enumerate() {
                let before = Filter { before: kept.id.clone(), ..Filter::default() };
                let older = acts.list(&before).await.unwrap();
                assert_eq!(older, all[index + 1..], "each act is on one page");
            }
            tasks.stop(Duration::from_secs(5)).await;
        }
    }
}
