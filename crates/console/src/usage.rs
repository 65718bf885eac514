//! What was asked for and what was used, by App, namespace and cluster, over days and months.
//!
//! ```text
//!  pods (watch) ─────────┐ once a minute            once in five minutes
//!  metrics.k8s.io ───────┴────────▶ Tally of the hour ────▶ usage_hours ──▶ report, CSV
//! ```
//!
//! A row is an hour of an app: sums over its minutes, and how what was used is spread, so that the
//! 95th percentile of a month can be told. Hours are kept for [`KEPT`].

mod load;
mod sample;
mod spread;
mod tally;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::TryStreamExt;
use kube::Client;
use serde::{Deserialize, Serialize};
use sqlx::{AnyPool, Row};

use berth_daemon::Tasks;

pub(crate) use self::load::Load;
use self::sample::Followed;
use self::spread::Spread;
use self::tally::{Amount, Seen, Sums, Tally};
use crate::database::{DatabaseError, now};

const KEPT: Duration = Duration::from_secs(93 * 24 * 3600);
const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
const MINUTE: i64 = 60_000;
/// Rows of a transaction: others write too.
const BATCH: usize = 500;

/// By what a report is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// All together.
    Cluster,
    /// A row a namespace.
    Namespace,
    /// A row an App; pods of none are one row of their namespace.
    #[default]
    App,
}

impl By {
    fn word(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Namespace => "namespace",
            Self::App => "app",
        }
    }
}

/// What a report is of.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Period {
    /// Its rows.
    #[serde(default)]
    pub by: By,
    /// Of this namespace alone; empty: of all.
    #[serde(default)]
    pub namespace: String,
    /// From the hour of this time on, milliseconds since 1970; a week before `to` when silent.
    pub from: Option<i64>,
    /// To the hour of this time, which is in it; now when silent.
    pub to: Option<i64>,
}

/// A row of a report.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UsageRow {
    /// Empty for the cluster.
    pub namespace: String,
    /// Empty for namespaces, the cluster, and pods of no App.
    pub app: String,
    /// How long it was there.
    pub hours: f64,
    /// CPU.
    pub cpu: Resource,
    /// Memory.
    pub memory: Resource,
}

/// Cores, or GiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Resource {
    /// What was asked for, on average.
    pub requested: f64,
    /// What was used, on average.
    pub used: f64,
    /// What 95 % of the minutes did not exceed.
    pub p95: f64,
    /// The share of what was asked for that was not used; none where nothing was asked for.
    pub idle: Option<f64>,
    /// Core hours, or GiB hours, that were asked for.
    pub requested_hours: f64,
    /// Core hours, or GiB hours, that were used.
    pub used_hours: f64,
}

/// What all pods together asked for and used in a minute: millicores and bytes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Minute {
    /// Its beginning, milliseconds since 1970.
    pub at: i64,
    pub requested: Amount,
    pub used: Amount,
}

/// The database's hours.
#[derive(Clone, Debug)]
pub struct Usage {
    pool: AnyPool,
    pods: Arc<Mutex<Option<Followed>>>,
    load: Arc<tokio::sync::Mutex<Option<Arc<Load>>>>,
}

impl Usage {
    /// Those of the database.
    pub fn new(pool: AnyPool) -> Self {
        Self { pool, pods: Arc::default(), load: Arc::default() }
    }

    /// As [`Usage::new`], and looks at what pods of `client`'s cluster use.
    pub(crate) fn start(pool: AnyPool, client: Client, tasks: &Tasks) -> Self {
        let usage = Self::new(pool);
        let pods = usage.pods.clone();
        tasks.spawn_until_stop("console pods", sample::follow(client.clone(), pods.clone()));
        let stopping = tasks.clone();
        tasks.spawn("console usage", sample::run(usage.clone(), client, pods, stopping));
        usage
    }

    /// What was asked for and used in `period`, the most that was asked for first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn report(&self, period: &Period) -> Result<Vec<UsageRow>, DatabaseError> {
        let (from, to) = period.bounds(now());
        let query = "SELECT namespace, app, samples, cpu_requested, cpu_used, cpu_spread, \
                     memory_requested, memory_used, memory_spread FROM usage_hours \
                     WHERE scope = $1 AND hour >= $2 AND hour <= $3 AND ($4 = '' OR namespace = $4)";
        let mut rows = sqlx::query(query)
            .bind(period.by.word())
            .bind(from)
            .bind(to)
            .bind(&period.namespace)
            .fetch(&self.pool);
        let mut all: BTreeMap<(String, String), Sums> = BTreeMap::new();
        while let Some(row) = rows.try_next().await? {
            let amount = |cpu: &str, memory: &str| {
                Ok::<_, sqlx::Error>(Amount {
                    cpu: row.try_get(cpu)?,
                    memory: row.try_get(memory)?,
                })
            };
            let sums = Sums {
                samples: row.try_get("samples")?,
                requested: amount("cpu_requested", "memory_requested")?,
                used: amount("cpu_used", "memory_used")?,
                cpu_spread: Spread::read(row.try_get("cpu_spread")?),
                memory_spread: Spread::read(row.try_get("memory_spread")?),
            };
            all.entry((row.try_get("namespace")?, row.try_get("app")?)).or_default().merge(&sums);
        }
        let mut rows: Vec<UsageRow> = all
            .into_iter()
            .filter(|(_, sums)| sums.samples > 0)
            .map(|((namespace, app), sums)| told(namespace, app, &sums))
            .collect();
        rows.sort_by(|a, b| b.cpu.requested_hours.total_cmp(&a.cpu.requested_hours));
        Ok(rows)
    }

    /// Whether this process takes the sample of `minute`.
    async fn claim(&self, minute: i64) -> Result<bool, DatabaseError> {
        let query = "INSERT INTO usage_turns (minute) VALUES ($1) ON CONFLICT DO NOTHING";
        let claimed = sqlx::query(query).bind(minute).execute(&self.pool).await?;
        Ok(claimed.rows_affected() > 0)
    }

    /// All pods together, the last day's minutes in their order.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn minutes(&self) -> Result<Vec<Minute>, DatabaseError> {
        let query = "SELECT minute, cpu_requested, cpu_used, memory_requested, memory_used \
                     FROM usage_minutes WHERE minute >= $1 ORDER BY minute";
        let oldest = (now() - DAY) / MINUTE;
        let rows: Vec<(i64, i64, i64, i64, i64)> =
            sqlx::query_as(query).bind(oldest).fetch_all(&self.pool).await?;
        let minutes = rows.into_iter().map(|(minute, cpu, cpu_used, memory, memory_used)| Minute {
            at: minute * MINUTE,
            requested: Amount { cpu, memory },
            used: Amount { cpu: cpu_used, memory: memory_used },
        });
        Ok(minutes.collect())
    }

    async fn keep(&self, minute: i64, seen: &[Seen]) -> Result<(), DatabaseError> {
        let mut sums = [0; 4];
        for one in seen {
            let amounts = [one.requested.cpu, one.used.cpu, one.requested.memory, one.used.memory];
            sums.iter_mut().zip(amounts).for_each(|(sum, amount)| *sum += amount);
        }
        let query = "INSERT INTO usage_minutes \
                     (minute, cpu_requested, cpu_used, memory_requested, memory_used) \
                     VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING";
        let [cpu, cpu_used, memory, memory_used] = sums;
        sqlx::query(query)
            .bind(minute)
            .bind(cpu)
            .bind(cpu_used)
            .bind(memory)
            .bind(memory_used)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    async fn write(&self, hour: i64, writer: &str, tally: &Tally) -> Result<(), DatabaseError> {
        let query = "INSERT INTO usage_hours (hour, scope, namespace, app, writer, samples, \
                     cpu_requested, cpu_used, cpu_spread, \
                     memory_requested, memory_used, memory_spread) \
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) \
                     ON CONFLICT (scope, hour, namespace, app, writer) DO UPDATE SET \
                     samples = excluded.samples, cpu_requested = excluded.cpu_requested, \
                     cpu_used = excluded.cpu_used, cpu_spread = excluded.cpu_spread, \
                     memory_requested = excluded.memory_requested, \
                     memory_used = excluded.memory_used, memory_spread = excluded.memory_spread";
        let all: Vec<_> = tally.sums.iter().collect();
        for batch in all.chunks(BATCH) {
            let mut transaction = self.pool.begin().await?;
            for (subject, sums) in batch {
                sqlx::query(query)
                    .bind(hour)
                    .bind(subject.by.word())
                    .bind(subject.namespace.as_ref())
                    .bind(subject.app.as_ref())
                    .bind(writer)
                    .bind(sums.samples)
                    .bind(sums.requested.cpu)
                    .bind(sums.used.cpu)
                    .bind(sums.cpu_spread.written())
                    .bind(sums.requested.memory)
                    .bind(sums.used.memory)
                    .bind(sums.memory_spread.written())
                    .execute(&mut *transaction)
                    .await?;
            }
            transaction.commit().await?;
        }
        Ok(())
    }

    async fn prune(&self, now: i64) -> Result<(), DatabaseError> {
        let oldest = (now - KEPT.as_millis() as i64) / HOUR;
        let query = "DELETE FROM usage_hours WHERE hour < $1";
        sqlx::query(query).bind(oldest).execute(&self.pool).await?;
        // Nobody claims a minute of yesterday, or asks for it.
        for query in [
            "DELETE FROM usage_turns WHERE minute < $1",
            "DELETE FROM usage_minutes WHERE minute < $1",
        ] {
            sqlx::query(query).bind((now - DAY) / MINUTE).execute(&self.pool).await?;
        }
        Ok(())
    }
}

impl Period {
    /// The first and the last hour.
    fn bounds(&self, now: i64) -> (i64, i64) {
        let to = self.to.unwrap_or(now);
        let from = self.from.unwrap_or(to - 7 * 24 * HOUR);
        (from.div_euclid(HOUR), to.div_euclid(HOUR))
    }
}

fn told(namespace: String, app: String, sums: &Sums) -> UsageRow {
    // A sample stands for its minute.
    let hours = sums.samples as f64 / 60.0;
    let resource = |requested: i64, used: i64, spread: &Spread, unit: f64| {
        let (requested, used) = (requested as f64 / unit, used as f64 / unit);
        let samples = sums.samples as f64;
        Resource {
            requested: requested / samples,
            used: used / samples,
            p95: spread.percentile(0.95) as f64 / unit,
            idle: (requested > 0.0).then(|| (1.0 - used / requested).max(0.0)),
            requested_hours: requested / 60.0,
            used_hours: used / 60.0,
        }
    };
    const GIB: f64 = (1_u64 << 30) as f64;
    UsageRow {
        namespace,
        app,
        hours,
        cpu: resource(sums.requested.cpu, sums.used.cpu, &sums.cpu_spread, 1000.0),
        memory: resource(sums.requested.memory, sums.used.memory, &sums.memory_spread, GIB),
    }
}

/// A report as a spreadsheet reads it (RFC 4180).
pub fn csv(rows: &[UsageRow]) -> String {
    let mut text = "namespace,app,hours,cpu_requested_cores,cpu_used_cores,cpu_p95_cores,cpu_idle,\
                    cpu_requested_core_hours,cpu_used_core_hours,memory_requested_gib,\
                    memory_used_gib,memory_p95_gib,memory_idle,memory_requested_gib_hours,\
                    memory_used_gib_hours\r\n"
        .to_owned();
    for row in rows {
        // Names of namespaces and values of labels: neither quotes nor commas can be in them.
        text.push_str(&format!("{},{},{:.2}", row.namespace, row.app, row.hours));
        for resource in [&row.cpu, &row.memory] {
            let Resource { requested, used, p95, idle, requested_hours, used_hours } = resource;
            let idle = idle.map(|idle| format!("{idle:.4}")).unwrap_or_default();
            text.push_str(&format!(
                ",{requested:.4},{used:.4},{p95:.4},{idle},{requested_hours:.4},{used_hours:.4}"
            ));
        }
        text.push_str("\r\n");
    }
    text
}

#[cfg(test)]
mod tests;
