//! A copy of a SQLite database while it is written to, for backups; and whether a copy is whole.
//!
//! SQLite makes it in one transaction (`VACUUM INTO`): it is of one moment, and has no journal
//! beside it. A PostgreSQL is backed up by its own tools.

use std::path::Path;

use sqlx::{AnyConnection, Connection, Row};

use super::DatabaseError;

/// What a copy holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// How long it is.
    pub bytes: u64,
    /// The oldest sessions whose recordings were left out, because it would be too long with them.
    pub left_out: u64,
}

async fn connect(file: &Path) -> Result<AnyConnection, DatabaseError> {
    sqlx::any::install_default_drivers();
    let address = format!("sqlite://{}?mode=rw", file.display());
    let opened = AnyConnection::connect(&address).await;
    opened.map_err(|source| DatabaseError::Open { shown: address, source })
}

/// Copies the SQLite database `from` to `to`, which must not be there. Where the copy is longer than
/// `most` bytes, recordings of sessions are left out, those of the oldest first; all else is in it.
///
/// # Errors
/// When one of them cannot be read or written.
pub async fn copy_database(from: &Path, to: &Path, most: u64) -> Result<Copied, DatabaseError> {
    let mut source = connect(from).await?;
    sqlx::raw_sql("PRAGMA busy_timeout = 10000").execute(&mut source).await?;
    let name = to.display().to_string();
    sqlx::query("VACUUM INTO $1").bind(&name).execute(&mut source).await?;
    source.close().await?;
    let mut copied = Copied { bytes: length(to)?, left_out: 0 };
    if copied.bytes <= most {
        return Ok(copied);
    }
    let mut copy = connect(to).await?;
    // What is left out need not be taken back.
    sqlx::raw_sql("PRAGMA journal_mode = OFF").execute(&mut copy).await?;
    let query = "SELECT id, bytes FROM shells WHERE bytes > 0 ORDER BY began_at";
    let sessions = sqlx::query(query).fetch_all(&mut copy).await?;
    let mut excess = i64::try_from(copied.bytes - most).unwrap_or(i64::MAX);
    for session in &sessions {
        if excess <= 0 {
            break;
        }
        let id: String = session.try_get("id")?;
        let bytes: i64 = session.try_get("bytes")?;
        sqlx::query("DELETE FROM shell_pieces WHERE shell = $1")
            .bind(id)
            .execute(&mut copy)
            .await?;
        excess -= bytes;
        copied.left_out += 1;
    }
    sqlx::raw_sql("VACUUM").execute(&mut copy).await?;
    copy.close().await?;
    copied.bytes = length(to)?;
    Ok(copied)
}

fn length(file: &Path) -> Result<u64, DatabaseError> {
    let meta = std::fs::metadata(file).map_err(sqlx::Error::Io)?;
    Ok(meta.len())
}

/// Whether SQLite finds the database whole; if not, what it finds.
///
/// # Errors
/// When it is no database at all.
pub async fn check_database(file: &Path) -> Result<Option<String>, DatabaseError> {
    let mut opened = connect(file).await?;
    let row = sqlx::query("PRAGMA integrity_check(1)").fetch_one(&mut opened).await?;
    let said: String = row.try_get(0)?;
    let fault = if said == "ok" {
        // A database of somebody else's is none of a console's.
        let found = sqlx::query("SELECT COUNT(*) FROM accounts").fetch_one(&mut opened).await;
        found.err().map(|_| "it has no accounts".to_owned())
    } else {
        Some(said)
    };
    opened.close().await?;
    Ok(fault)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::Accounts;
    use crate::database::open;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_copy_is_of_one_moment_while_others_write() {
        let dir = tempfile::tempdir().unwrap();
        let (file, copy) = (dir.path().join("console.db"), dir.path().join("copy"));
        let pool = open(&format!("sqlite://{}", file.display())).await.unwrap();
        Accounts::new(pool.clone()).add("ann", "correct horse battery", &[]).await.unwrap();
        let writing = async {
            for number in 0..400 {
                let query = "INSERT INTO acts (id, at, account, address, verb, path, status, \
                             milliseconds) VALUES ($1, $2, 'ann', '', 'create', '/x', 200, 1)";
                let insert = sqlx::query(query).bind(format!("a{number}")).bind(number);
                insert.execute(&pool).await.unwrap();
            }
        };
        let copying = async {
            let mut all = Vec::new();
            for number in 0..5 {
                let to = copy.with_extension(number.to_string());
                all.push(copy_database(&file, &to, u64::MAX).await.unwrap());
                assert_eq!(check_database(&to).await.unwrap(), None);
            }
            all
        };
        let ((), copies) = tokio::join!(writing, copying);
        assert!(copies.iter().all(|one| one.left_out == 0 && one.bytes > 0));
        assert!(copy_database(&file, &copy.with_extension("0"), 1).await.is_err(), "it is there");
        let last = open(&format!("sqlite://{}", copy.with_extension("4").display())).await.unwrap();
        assert_eq!(Accounts::new(last).list().await.unwrap()[0].name, "ann");
    }

    #[tokio::test]
    async fn the_oldest_recordings_are_left_out_where_there_is_no_room_and_damage_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (file, copy) = (dir.path().join("console.db"), dir.path().join("copy"));
        let pool = open(&format!("sqlite://{}", file.display())).await.unwrap();
        for (number, id) in ["old", "new"].into_iter().enumerate() {
            let query = "INSERT INTO shells (id, account, address, namespace, pod, container, \
                         command, image, began_at, seen_at, bytes) \
                         VALUES ($1, 'ann', '', 'n', 'p', 'c', 'sh', '', $2, $2, 1000000)";
            let began = i64::try_from(number).unwrap();
            sqlx::query(query).bind(id).bind(began).execute(&pool).await.unwrap();
            let query = "INSERT INTO shell_pieces (shell, number, content) VALUES ($1, 0, $2)";
            let text = "x".repeat(1_000_000);
            sqlx::query(query).bind(id).bind(text).execute(&pool).await.unwrap();
        }
        let copied = copy_database(&file, &copy, 1_500_000).await.unwrap();
        assert_eq!(copied.left_out, 1);
        assert!(copied.bytes <= 1_500_000, "{copied:?}");
        let left = open(&format!("sqlite://{}", copy.display())).await.unwrap();
        let rows = sqlx::query("SELECT shell FROM shell_pieces").fetch_all(&left).await.unwrap();
        assert_eq!(rows[0].try_get::<String, _>("shell").unwrap(), "new");
        assert_eq!(rows.len(), 1);
        left.close().await;
        let mut bytes = std::fs::read(&copy).unwrap();
        let length = bytes.len();
        bytes[length / 4..length / 2].fill(0x5a);
        std::fs::write(&copy, bytes).unwrap();
        assert!(!matches!(check_database(&copy).await, Ok(None)), "damage is found");
        std::fs::write(&copy, "no database").unwrap();
        assert!(!matches!(check_database(&copy).await, Ok(None)));
    }
}
