//! The console's own database in the cluster's backup.
//!
//! Only the SQLite of this instance's console: a PostgreSQL is backed up by its own tools. It goes
//! into the file as one record, so it is bounded; what is too long are recordings of shells, and the
//! oldest of them stay out.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use berth_console::{check_database, copy_database};
use berth_store::backup::Extra;

/// Where it is below the data directory.
pub const PATH: &str = "console/console.db";
/// A record of a backup has its end at 64 MiB.
const MOST: u64 = 48 << 20;

/// A copy of the console's database as it is now, and what of it is missing; none where there is no
/// console.
///
/// # Errors
/// When it cannot be copied.
pub async fn part(dir: &Path) -> Result<Option<(Extra, Option<String>)>> {
    let database = dir.join(PATH);
    if !database.exists() {
        return Ok(None);
    }
    let copy = Removed::named(dir.join("console").join("backup.part"));
    let copied = copy_database(&database, &copy.0, MOST).await?;
    anyhow::ensure!(copied.bytes <= MOST, "it has {} bytes without recordings", copied.bytes);
    let content = std::fs::read(&copy.0)?;
    let missing = (copied.left_out > 0)
        .then(|| format!("recordings of the {} oldest shells are not in it", copied.left_out));
    Ok(Some((Extra { path: PATH.to_owned(), content }, missing)))
}

/// Refuses a console's database that is not whole. It is looked at beside `beside`.
///
/// # Errors
/// When it is damaged.
pub async fn check(files: &[Extra], beside: &Path) -> Result<()> {
    let Some(file) = files.iter().find(|file| file.path == PATH) else { return Ok(()) };
    let copy = Removed::named(beside.with_extension("console-check"));
    std::fs::write(&copy.0, &file.content)
        .with_context(|| format!("writing {}", copy.0.display()))?;
    let fault = check_database(&copy.0).await.context("the console's database in the backup")?;
    match fault {
        None => Ok(()),
        Some(fault) => anyhow::bail!("the console's database in the backup is damaged: {fault}"),
    }
}

/// A file that is not there before and after.
struct Removed(PathBuf);

impl Removed {
    fn named(path: PathBuf) -> Self {
        let file = Self(path);
        file.remove();
        file
    }

    fn remove(&self) {
        for end in ["", "-wal", "-shm", "-journal"] {
            let mut path = self.0.clone().into_os_string();
            path.push(end);
            drop(std::fs::remove_file(path)); // most are not there
        }
    }
}

impl Drop for Removed {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_consoles_database_goes_along_and_damage_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(part(dir.path()).await.unwrap().is_none(), "no console, no database");
        std::fs::create_dir(dir.path().join("console")).unwrap();
        let address = format!("sqlite://{}", dir.path().join(PATH).display());
        let pool = berth_console::open_database(&address).await.unwrap();
        let accounts = berth_console::Accounts::new(pool);
        accounts.add("ann", "correct horse battery", &[]).await.unwrap();
        let (mut file, missing) = part(dir.path()).await.unwrap().unwrap();
        assert_eq!((file.path.as_str(), missing), (PATH, None));
        let left = std::fs::read_dir(dir.path().join("console")).unwrap();
        assert!(left.flatten().all(|entry| entry.file_name() != "backup.part"));
        check(std::slice::from_ref(&file), &dir.path().join("new")).await.unwrap();
        let length = file.content.len();
        file.content[length / 4..length / 2].fill(0x5a);
        assert!(check(&[file], &dir.path().join("new")).await.is_err());
        check(&[], &dir.path().join("new")).await.unwrap();
    }
}
