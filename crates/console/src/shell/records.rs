//! Sessions in the database: who, where, what was shown, what was typed.
//!
//! Sessions are kept for [`KEPT`], and the oldest go when all together are longer than [`ALL`].

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::{AnyPool, Row};

use crate::database::{DatabaseError, holding, now};

const KEPT: Duration = Duration::from_secs(90 * 24 * 3600);
/// Bytes of all recordings.
const ALL: i64 = 4 << 30;
/// A session that was not seen for this long has ended with the process that carried it.
pub(super) const SEEN: Duration = Duration::from_secs(180);
const PAGE: i64 = 100;

/// A session, live or past.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Record {
    pub id: String,
    pub account: String,
    pub address: String,
    pub namespace: String,
    pub pod: String,
    pub container: String,
    /// The words of the command; empty when the container's own process was attached to.
    pub command: String,
    /// Of the container that was made for the session; empty for the pod's own.
    pub image: String,
    /// Milliseconds since 1970, as all times here.
    pub began: i64,
    /// 0 while it goes on.
    pub ended: i64,
    /// Why it ended.
    pub ending: String,
    /// Of the recording.
    pub bytes: i64,
}

/// A command that was typed in a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Command {
    pub shell: String,
    pub at: i64,
    pub text: String,
    pub account: String,
    pub namespace: String,
    pub pod: String,
}

/// What is looked for.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Filter {
    /// Of this account alone.
    #[serde(default)]
    pub account: String,
    /// In this namespace alone.
    #[serde(default)]
    pub namespace: String,
    /// A part of a typed command.
    #[serde(default)]
    pub text: String,
    /// Of this session alone.
    #[serde(default)]
    pub shell: String,
    /// Only those that go on.
    #[serde(default)]
    pub live: bool,
    /// Before this time.
    pub before: Option<i64>,
}

/// The database's sessions.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    pool: AnyPool,
}

impl Records {
    pub fn new(pool: AnyPool) -> Self {
        Self { pool }
    }

    /// A session begins.
    pub async fn begin(&self, record: &Record) -> Result<(), DatabaseError> {
        let query = "INSERT INTO shells (id, account, address, namespace, pod, container, \
                     command, image, began_at, seen_at) \
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)";
        sqlx::query(query)
            .bind(&record.id)
            .bind(&record.account)
            .bind(&record.address)
            .bind(&record.namespace)
            .bind(&record.pod)
            .bind(&record.container)
            .bind(&record.command)
            .bind(&record.image)
            .bind(record.began)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// More of its recording: piece `number`.
    pub async fn piece(&self, id: &str, number: i64, text: &str) -> Result<(), DatabaseError> {
        let mut transaction = self.pool.begin().await?;
        let query = "INSERT INTO shell_pieces (shell, number, content) VALUES ($1, $2, $3)";
        sqlx::query(query).bind(id).bind(number).bind(text).execute(&mut *transaction).await?;
        let query = "UPDATE shells SET bytes = bytes + $1, seen_at = $2 WHERE id = $3";
        sqlx::query(query)
            .bind(i64::try_from(text.len()).unwrap_or(i64::MAX))
            .bind(now())
            .bind(id)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Its command `number` was entered.
    pub async fn command(
        &self,
        id: &str,
        number: i64,
        at: i64,
        text: &str,
    ) -> Result<(), DatabaseError> {
        let query =
            "INSERT INTO shell_commands (shell, number, at, content) VALUES ($1, $2, $3, $4)";
        sqlx::query(query).bind(id).bind(number).bind(at).bind(text).execute(&self.pool).await?;
        Ok(())
    }

    /// It goes on.
    pub async fn seen(&self, id: &str) -> Result<(), DatabaseError> {
        let query = "UPDATE shells SET seen_at = $1 WHERE id = $2";
        sqlx::query(query).bind(now()).bind(id).execute(&self.pool).await?;
        Ok(())
    }

    /// It has ended.
    pub async fn end(&self, id: &str, why: &str) -> Result<(), DatabaseError> {
        let query = "UPDATE shells SET ended_at = $1, ending = $2 WHERE id = $3";
        sqlx::query(query).bind(now()).bind(why).bind(id).execute(&self.pool).await?;
        Ok(())
    }

    /// It is to end, whichever process carries it; whether it went on.
    pub async fn cut(&self, id: &str, by: &str) -> Result<bool, DatabaseError> {
        let query = "UPDATE shells SET cut_by = $1 WHERE id = $2 AND ended_at = 0 AND cut_by = ''";
        let cut = sqlx::query(query).bind(by).bind(id).execute(&self.pool).await?;
        Ok(cut.rows_affected() > 0)
    }

    /// Which go on and are to end, and who says so.
    pub async fn to_be_cut(&self) -> Result<Vec<(String, String)>, DatabaseError> {
        let query = "SELECT id, cut_by FROM shells WHERE ended_at = 0 AND cut_by <> '' \
                     AND seen_at > $1 LIMIT 1000";
        let since = now() - SEEN.as_millis() as i64;
        let rows = sqlx::query(query).bind(since).fetch_all(&self.pool).await?;
        Ok(rows
            .iter()
            .map(|row| Ok((row.try_get("id")?, row.try_get("cut_by")?)))
            .collect::<Result<_, sqlx::Error>>()?)
    }

    /// The latest that fit, the newest first.
    pub async fn list(&self, filter: &Filter) -> Result<Vec<Record>, DatabaseError> {
        let query = "SELECT * FROM shells WHERE began_at < $1 AND ($2 = '' OR account = $2) \
                     AND ($3 = '' OR namespace = $3) \
                     AND ($4 = 0 OR (ended_at = 0 AND seen_at > $5)) \
                     ORDER BY began_at DESC LIMIT $6";
        let rows = sqlx::query(query)
            .bind(filter.before.unwrap_or(i64::MAX))
            .bind(&filter.account)
            .bind(&filter.namespace)
            .bind(i64::from(filter.live))
            .bind(now() - SEEN.as_millis() as i64)
            .bind(PAGE)
            .fetch_all(&self.pool)
            .await?;
        Ok(rows.iter().map(record).collect::<Result<_, sqlx::Error>>()?)
    }

    /// One of them.
    pub async fn find(&self, id: &str) -> Result<Option<Record>, DatabaseError> {
        let query = "SELECT * FROM shells WHERE id = $1";
        let row = sqlx::query(query).bind(id).fetch_optional(&self.pool).await?;
        Ok(row.as_ref().map(record).transpose()?)
    }

    /// Its recording so far: an asciicast.
    pub async fn recording(&self, id: &str) -> Result<String, DatabaseError> {
        let query = "SELECT content FROM shell_pieces WHERE shell = $1 ORDER BY number";
        let rows = sqlx::query(query).bind(id).fetch_all(&self.pool).await?;
        let mut all = String::new();
        for row in &rows {
            all.push_str(row.try_get("content")?);
        }
        Ok(all)
    }

    /// Commands that fit, the newest first; those of one session in their order.
    pub async fn commands(&self, filter: &Filter) -> Result<Vec<Command>, DatabaseError> {
        let order = if filter.shell.is_empty() { "c.at DESC, c.number DESC" } else { "c.number" };
        let query = format!(
            "SELECT c.shell, c.at, c.content, s.account, s.namespace, s.pod \
             FROM shell_commands c JOIN shells s ON s.id = c.shell \
             WHERE c.at < $1 AND ($2 = '' OR s.account = $2) AND ($3 = '' OR s.namespace = $3) \
             AND ($4 = '' OR LOWER(c.content) LIKE $4 ESCAPE '!') AND ($5 = '' OR c.shell = $5) \
             ORDER BY {order} LIMIT $6"
        );
        type Found = (String, i64, String, String, String, String);
        let rows: Vec<Found> = sqlx::query_as(sqlx::AssertSqlSafe(query))
            .bind(filter.before.unwrap_or(i64::MAX))
            .bind(&filter.account)
            .bind(&filter.namespace)
            .bind(holding(&filter.text.to_lowercase()))
            .bind(&filter.shell)
            .bind(if filter.shell.is_empty() { PAGE } else { 10 * PAGE })
            .fetch_all(&self.pool)
            .await?;
        let commands = rows.into_iter().map(|(shell, at, text, account, namespace, pod)| Command {
            shell,
            at,
            text,
            account,
            namespace,
            pod,
        });
        Ok(commands.collect())
    }

    /// Removes what is too old or too much.
    pub async fn prune(&self) -> Result<(), DatabaseError> {
        self.prune_to(now() - KEPT.as_millis() as i64, ALL).await
    }

    async fn prune_to(&self, oldest: i64, all: i64) -> Result<(), DatabaseError> {
        let query = "DELETE FROM shells WHERE began_at < $1 AND (ended_at > 0 OR seen_at < $1)";
        sqlx::query(query).bind(oldest).execute(&self.pool).await?;
        // Those that are older than the last ones which fit together.
        let query = "DELETE FROM shells WHERE ended_at > 0 AND id IN (SELECT id FROM \
                     (SELECT id, SUM(bytes) OVER (ORDER BY began_at DESC, id) AS so_far \
                     FROM shells) AS sums WHERE so_far > $1)";
        sqlx::query(query).bind(all).execute(&self.pool).await?;
        Ok(())
    }
}

fn record(row: &sqlx::any::AnyRow) -> Result<Record, sqlx::Error> {
    let (ended, seen): (i64, i64) = (row.try_get("ended_at")?, row.try_get("seen_at")?);
    let lost = ended == 0 && seen < now() - SEEN.as_millis() as i64;
    Ok(Record {
        id: row.try_get("id")?,
        account: row.try_get("account")?,
        address: row.try_get("address")?,
        namespace: row.try_get("namespace")?,
        pod: row.try_get("pod")?,
        container: row.try_get("container")?,
        command: row.try_get("command")?,
        image: row.try_get("image")?,
        began: row.try_get("began_at")?,
        ended: if lost { seen } else { ended },
        ending: if lost { "lost".to_owned() } else { row.try_get("ending")? },
        bytes: row.try_get("bytes")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::both::both;

    fn session(id: &str, account: &str, began: i64) -> Record {
        Record {
            id: id.to_owned(),
            account: account.to_owned(),
            address: "127.0.0.1".to_owned(),
            namespace: "shop".to_owned(),
            pod: "web-0".to_owned(),
            container: "web".to_owned(),
            command: "sh".to_owned(),
            image: String::new(),
            began,
            ended: 0,
            ending: String::new(),
            bytes: 0,
        }
    }

    fn ids(records: &[Record]) -> Vec<&str> {
        records.iter().map(|record| record.id.as_str()).collect()
    }

    #[tokio::test]
    async fn a_session_is_kept_in_pieces_and_found_by_what_was_typed() {
        for database in both().await {
            let records = Records::new(database.pool.clone());
            let now = now();
            records.begin(&session("a", "ann", now)).await.unwrap();
            records.begin(&session("b", "ben", now + 1)).await.unwrap();
            for (number, text) in ["one\n", "two\n", "zwölf 🚀\n"].into_iter().enumerate() {
                records.piece("a", number as i64, text).await.unwrap();
            }
            assert_eq!(records.recording("a").await.unwrap(), "one\ntwo\nzwölf 🚀\n");
            assert_eq!(records.recording("b").await.unwrap(), "");
            for (shell, number, text) in
                [("a", 0, "rm -rf /tmp/A_b"), ("a", 1, "ls"), ("b", 0, "ls 100%")]
            {
                records.command(shell, number, now + number, text).await.unwrap();
            }
            let found = async |filter: Filter| {
                let commands = records.commands(&filter).await.unwrap();
                commands.into_iter().map(|command| command.text).collect::<Vec<_>>()
            };
            let text = |text: &str| Filter { text: text.to_owned(), ..Filter::default() };
            assert_eq!(found(text("a_B")).await, ["rm -rf /tmp/A_b"]);
            assert_eq!(found(text("%")).await, ["ls 100%"], "no pattern");
            let own = Filter { account: "ann".to_owned(), ..text("ls") };
            assert_eq!(found(own).await, ["ls"]);
            let one = Filter { shell: "a".to_owned(), ..Filter::default() };
            assert_eq!(found(one).await, ["rm -rf /tmp/A_b", "ls"]);
            let all = records.list(&Filter::default()).await.unwrap();
            assert_eq!(ids(&all), ["b", "a"]);
            assert_eq!(all[1].bytes, 20);
        }
    }

    #[tokio::test]
    async fn a_session_ends_once_and_is_cut_while_it_goes_on() {
        for database in both().await {
            let records = Records::new(database.pool.clone());
            let now = now();
            records.begin(&session("a", "ann", now)).await.unwrap();
            records
                .begin(&session("gone", "ann", now - 10 * SEEN.as_millis() as i64))
                .await
                .unwrap();
            let live = Filter { live: true, ..Filter::default() };
            assert_eq!(ids(&records.list(&live).await.unwrap()), ["a"]);
            let gone = records.find("gone").await.unwrap().unwrap();
            assert_eq!((gone.ending.as_str(), gone.ended > 0), ("lost", true));
            assert!(records.cut("a", "olga").await.unwrap());
            assert!(!records.cut("a", "olga").await.unwrap(), "once");
            let cut = records.to_be_cut().await.unwrap();
            assert_eq!(cut, [("a".to_owned(), "olga".to_owned())]);
            records.end("a", "cut by olga").await.unwrap();
            assert!(records.to_be_cut().await.unwrap().is_empty());
            assert!(!records.cut("a", "olga").await.unwrap(), "it has ended");
            assert!(records.list(&live).await.unwrap().is_empty());
            assert!(records.find("none").await.unwrap().is_none());
        }
    }

    #[tokio::test]
    async fn the_oldest_go_with_all_that_was_recorded() {
        for database in both().await {
            let records = Records::new(database.pool.clone());
            let now = now();
            for (id, began) in [("old", 1000), ("a", now - 3), ("b", now - 2), ("c", now - 1)] {
                records.begin(&session(id, "ann", began)).await.unwrap();
                records.piece(id, 0, "0123456789").await.unwrap();
                records.command(id, 0, began, "ls").await.unwrap();
                records.end(id, "").await.unwrap();
            }
            records.prune_to(2000, 20).await.unwrap();
            let left = records.list(&Filter::default()).await.unwrap();
            assert_eq!(ids(&left), ["c", "b"]);
            assert_eq!(records.commands(&Filter::default()).await.unwrap().len(), 2);
            assert_eq!(records.recording("a").await.unwrap(), "");
        }
    }
}
