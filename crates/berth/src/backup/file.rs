//! The file: written beside its name, synced, then given its name; and those that are too many.

use std::fmt;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use berth_store::Store;
use berth_store::backup::{Extra, write};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::console;
use crate::instance::{Every, Instance, write_whole};

/// What a name begins and ends with where we choose it; only such files are ever removed.
const NAME: (&str, &str) = ("berth-", ".backup");
/// The time in a name, so that names sort by it.
const TIME: &str = "%Y%m%dT%H%M%S%3fZ";
/// How long the time in a name is.
const TIME_BYTES: usize = 19;
const KEEP: u32 = 60;

/// When and where backups are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// How often; not at all without.
    pub every: Option<Duration>,
    /// How many stay.
    pub keep: u32,
    /// Where they go.
    pub dir: PathBuf,
}

impl Schedule {
    /// What the options say.
    pub fn of(instance: &Instance) -> Self {
        let options = &instance.options;
        Self {
            every: options.backup_every.and_then(|Every(every)| every),
            keep: options.backup_keep.unwrap_or(KEEP),
            dir: options.backup_dir.clone().unwrap_or_else(|| instance.dir.join("backups")),
        }
    }
}

/// A backup that was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// The file.
    pub file: PathBuf,
    /// How long it is.
    pub bytes: u64,
    /// How many objects are in it.
    pub entries: u64,
    /// Their one revision.
    pub revision: u64,
    /// What of the console's database is missing, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, bytes, entries, revision, missing } = self;
        let size = bytes / 1024 + 1;
        write!(f, "{}: {entries} objects at revision {revision}, {size} KiB", file.display())?;
        match missing {
            Some(missing) => write!(f, "; {missing}"),
            None => Ok(()),
        }
    }
}

/// How the last backup went that was taken by itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Last {
    /// When it ended.
    pub at: Timestamp,
    /// What was taken.
    pub taken: Option<Taken>,
    /// Why nothing was.
    pub error: Option<String>,
}

impl fmt::Display for Last {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.taken, &self.error) {
            (_, Some(error)) => write!(f, "! no backup was taken at {:.0}: {error}", self.at),
            (Some(taken), None) => write!(f, "backup at {:.0}: {taken}", self.at),
            (None, None) => write!(f, "no backup yet"),
        }
    }
}

/// Writes down how a backup went, for `berth status`.
///
/// # Errors
/// When the data directory cannot be written.
pub fn remember(instance: &Instance, went: &Result<Taken>) -> Result<()> {
    let (taken, error) = match went {
        Ok(taken) => (Some(taken.clone()), None),
        Err(error) => (None, Some(crate::failure::chain(error))),
    };
    let last = Last { at: Timestamp::now(), taken, error };
    write_whole(&instance.dir.join("backup.json"), &serde_json::to_string(&last)?)
}

/// How the last one went, if one was taken by itself.
pub fn last(instance: &Instance) -> Option<Last> {
    serde_json::from_slice(&fs::read(instance.dir.join("backup.json")).ok()?).ok()
}

/// `berth-20260102T030405678Z.backup` in `dir`.
fn fresh_name(dir: &Path) -> PathBuf {
    dir.join(format!("{}{}{}", NAME.0, Timestamp::now().strftime(TIME), NAME.1))
}

/// Takes a backup of `store` and of the instance's own files to `to`, a file or a directory.
///
/// # Errors
/// When the store cannot be read or the file not be written; then none is there.
pub async fn take(store: &dyn Store, instance: &Instance, to: &Path) -> Result<Taken> {
    let in_data_dir = to == instance.dir.join("backups");
    if in_data_dir || to.as_os_str().as_encoded_bytes().ends_with(b"/") {
        fs::create_dir_all(to).with_context(|| format!("creating {}", to.display()))?;
    }
    if in_data_dir {
        fs::set_permissions(to, fs::Permissions::from_mode(0o700))?;
    }
    let file = if to.is_dir() { fresh_name(to) } else { to.to_owned() };
    let mut part = file.clone().into_os_string();
    part.push(".part");
    let part = PathBuf::from(part);
    let written = write_synced(store, instance, &file, &part).await;
    if written.is_err() {
        // It may not have come into being at all.
        drop(fs::remove_file(&part));
    }
    written.with_context(|| format!("writing {}", file.display()))
}

async fn write_synced(
    store: &dyn Store,
    instance: &Instance,
    file: &Path,
    part: &Path,
) -> Result<Taken> {
    let mut files = extras(&instance.dir)?;
    // A console that cannot be copied must not cost the cluster its backup.
    let missing = match console::part(&instance.dir).await {
        Ok(None) => None,
        Ok(Some((file, missing))) => {
            files.push(file);
            missing
        }
        Err(error) => {
            let why = crate::failure::chain(&error);
            Some(format!("the console's database is not in it: {why}"))
        }
    };
    if let Some(missing) = &missing {
        tracing::warn!(missing, "a backup is not whole");
    }
    let fresh = || {
        let mut options = File::options();
        options.create(true).write(true).truncate(true).mode(0o600).open(part).map(BufWriter::new)
    };
    let (summary, mut out) = write(store, &files, fresh).await?;
    out.flush()?;
    out.get_ref().sync_all()?;
    fs::rename(part, file)?;
    if let Some(dir) = file.parent() {
        File::open(dir)?.sync_all()?;
    }
    Ok(Taken {
        file: file.to_owned(),
        bytes: summary.bytes,
        entries: summary.header.entries,
        revision: summary.header.revision.0,
        missing,
    })
}

/// What an instance needs besides its objects: its keys and its options.
fn extras(dir: &Path) -> Result<Vec<Extra>> {
    let mut paths = vec![dir.join("config.json")];
    let pki = dir.join("pki");
    if pki.is_dir() {
        for file in fs::read_dir(&pki)? {
            paths.push(file?.path());
        }
    }
    paths.sort();
    let mut extras = Vec::new();
    for path in paths.into_iter().filter(|path| path.is_file()) {
        let content = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let below = path.strip_prefix(dir).expect("it was found below the directory");
        extras.push(Extra { path: below.to_string_lossy().into_owned(), content });
    }
    Ok(extras)
}

/// Removes the oldest backups in `dir` but for `keep`; says which.
///
/// # Errors
/// The first that cannot be removed.
pub fn rotate(dir: &Path, keep: u32) -> Result<Vec<PathBuf>> {
    let mut ours = Vec::new();
    for file in fs::read_dir(dir)? {
        let path = file?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let time = name.strip_prefix(NAME.0).and_then(|name| name.strip_suffix(NAME.1));
        if time.is_some_and(|time| time.len() == TIME_BYTES && time.ends_with('Z')) {
            ours.push(path);
        }
    }
    ours.sort();
    let surplus = ours.len().saturating_sub(keep as usize);
    ours.truncate(surplus);
    for path in &ours {
        fs::remove_file(path).with_context(|| format!("removing {}", path.display()))?;
    }
    Ok(ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_of_ours_go_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let names = [
            "berth-20260102T030405000Z.backup",
            "berth-20260102T030406000Z.backup",
            "berth-20260102T030407000Z.backup",
            "berth-mine.backup",
            "notes",
        ];
        for name in names {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        let gone = rotate(dir.path(), 2).unwrap();
        assert_eq!(gone, [dir.path().join(names[0])]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4);
        let fresh = fresh_name(dir.path());
        fs::write(&fresh, "x").unwrap();
        rotate(dir.path(), 1).unwrap();
        assert!(fresh.exists() && !dir.path().join(names[2]).exists());
        assert!(dir.path().join(names[3]).exists());
    }
}
