//! The console's SQL database: SQLite in a file, or a PostgreSQL.
//!
//! One set of queries serves both: placeholders are `$1`, times are milliseconds since 1970, truth
//! is 0 or 1, lists are JSON.

mod copy;

use std::str::FromStr;
use std::time::Duration;

use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{AnyPool, SqlSafeStr};

pub use self::copy::{Copied, check_database, copy_database};

const CONNECTIONS: u32 = 4;
const ACQUIRE: Duration = Duration::from_secs(5);

/// Why the database does not serve.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The address is none, or nothing answers there.
    #[error("cannot open the database {shown}")]
    Open {
        /// The address, without a password.
        shown: String,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// Its tables cannot be brought up to date.
    #[error("cannot bring the database's tables up to date")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A query failed.
    #[error("the database does not answer")]
    Query(#[from] sqlx::Error),
}

/// Opens `address` (`sqlite:///PATH`, `postgres://USER:PASSWORD@HOST/NAME`), and makes or updates
/// its tables. A SQLite file is made when there is none.
///
/// # Errors
/// When nothing answers there, or its tables are from a newer version.
pub async fn open(address: &str) -> Result<AnyPool, DatabaseError> {
    sqlx::any::install_default_drivers();
    let failed = |source| DatabaseError::Open { shown: shown(address), source };
    let file = address.starts_with("sqlite:");
    let whole = if file && !address.contains('?') {
        format!("{address}?mode=rwc")
    } else {
        address.to_owned()
    };
    let options = AnyConnectOptions::from_str(&whole).map_err(failed)?;
    let pool = AnyPoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(ACQUIRE)
        .after_connect(move |connection, _| {
            Box::pin(async move {
                if file {
                    // Readers do not wait for the writer, and a writer waits for its turn.
                    let setting = "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; \
                                   PRAGMA busy_timeout = 5000; PRAGMA foreign_keys = ON";
                    sqlx::raw_sql(setting).execute(connection).await?;
                }
                Ok(())
            })
        })
        .connect_with(options)
        .await
        .map_err(failed)?;
    migrator().run(&pool).await?;
    Ok(pool)
}

fn migrator() -> Migrator {
    let steps = [
        (1, "accounts and sessions", include_str!("../migrations/1_accounts.sql")),
        (2, "acts", include_str!("../migrations/2_acts.sql")),
        (3, "shells", include_str!("../migrations/3_shells.sql")),
        (4, "usage", include_str!("../migrations/4_usage.sql")),
        (5, "tokens", include_str!("../migrations/5_tokens.sql")),
        (6, "issuers", include_str!("../migrations/6_issuers.sql")),
        (7, "minutes", include_str!("../migrations/7_minutes.sql")),
        (8, "scalings", include_str!("../migrations/8_scalings.sql")),
        (9, "account requests", include_str!("../migrations/9_requests.sql")),
        (10, "people", include_str!("../migrations/10_people.sql")),
    ];
    let steps = steps.map(|(version, what, sql)| {
        Migration::new(version, what.into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    Migrator::with_migrations(steps.to_vec())
}

/// `address` without what stands between its first colon after `//` and the `@`.
fn shown(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else { return address.to_owned() };
    match rest.rsplit_once('@') {
        Some((who, place)) => {
            let user = who.split(':').next().unwrap_or_default();
            format!("{scheme}://{user}@{place}")
        }
        None => address.to_owned(),
    }
}

/// What `LIKE $1 ESCAPE '!'` takes to find `text` anywhere; nothing for nothing.
pub(crate) fn holding(text: &str) -> String {
    let escaped = text.replace('!', "!!").replace('%', "!%").replace('_', "!_");
    if escaped.is_empty() { escaped } else { format!("%{escaped}%") }
}

/// Milliseconds since 1970.
pub(crate) fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

#[cfg(test)]
pub(crate) mod both;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_shown() {
        assert_eq!(shown("postgres://berth:s3cret@db/berth"), "postgres://berth@db/berth");
        assert_eq!(shown("sqlite:///var/lib/x.db"), "sqlite:///var/lib/x.db");
    }

    #[tokio::test]
    async fn what_is_no_database_is_refused_by_name() {
        let error = open("mysql://somewhere/x").await.unwrap_err();
        assert!(error.to_string().contains("mysql://somewhere/x"), "{error}");
    }
}
