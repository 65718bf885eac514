//! `berth restore`: an instance from a backup, beside the broken one or in its place.
//!
//! Never repairs in place: beside means a new data directory, in place means that the broken store
//! is set aside under another name. All of the file is checked before anything is written, and what
//! is written gets its name last.
//!
//! Revisions of the restored store are greater than any that the broken one has handed out, so
//! clients that watch are told to list again.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use berth_store::Revision;
use berth_store::backup::{Extra, Header, REVISION_JUMP, Reader, check};
use jiff::Timestamp;

use crate::backup::check_console;
use crate::cli::{Global, on_one_thread};
use crate::failure::{Exit, Failure};
use crate::instance::{self, Instance, StoreAt, write_bytes, write_whole};
use crate::{store, up};

/// `berth restore`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Beside the broken instance: berth restore FILE --data-dir NEW. Its pods \
    start anew there; stop the broken one first (berth down), both want the same ports.\n\
    In its place: stop the process, then berth restore FILE --replace --up. Containers that the \
    backup knows go on running; those of pods made later are ended.")]
pub struct Options {
    /// The backup
    file: PathBuf,
    /// Set the store of the data directory aside (it is kept) and put the restored one in its place
    #[arg(long)]
    replace: bool,
    /// Put objects here instead of where they were: `embedded` or an etcd's URL
    #[arg(long, value_name = "STORE")]
    store: Option<StoreAt>,
    /// Then start the cluster, as `berth up` with the restored options
    #[arg(long)]
    up: bool,
    /// With --up: return when everything is ready, and go on in the background
    #[arg(long, requires = "up")]
    detach: bool,
}

/// Restores, and starts the cluster if asked to.
///
/// # Errors
/// A backup that is not whole, a directory that is not empty, an instance that runs.
pub fn run(global: &Global, options: &Options) -> Result<()> {
    let dir = std::path::absolute(&global.data_dir)?;
    let header = check(&options.file)?;
    let (mut restored, aside) = on_one_thread(async {
        match options.replace {
            true => replace(global, options).await,
            false => beside(&dir, options).await.map(|restored| (restored, None)),
        }
    })?;
    tell(global, &dir, header, aside, options.up)?;
    match options.up {
        true => {
            restored.detach = options.detach;
            up::run(global, restored)
        }
        false => Ok(()),
    }
}

/// A new instance in an empty directory.
async fn beside(dir: &Path, options: &Options) -> Result<instance::Options> {
    if fs::read_dir(dir).is_ok_and(|mut files| files.next().is_some()) {
        let message = format!("{} is not empty", dir.display());
        let hint = "name a new directory: --data-dir NEW; or, to set its store aside: --replace";
        return Err(Failure::new(Exit::InUse, message, hint).into());
    }
    let mut part = dir.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    fs::DirBuilder::new().mode(0o711).create(&part).map_err(|error| {
        let message = format!("cannot create {}: {error}", part.display());
        let hint = match error.kind() {
            io::ErrorKind::AlreadyExists => "left by a restore that was stopped: remove it",
            _ => "run as root, or choose another --data-dir",
        };
        Failure::new(Exit::Machine, message, hint)
    })?;
    let made = async {
        let reader = Reader::open(&options.file)?;
        check_console(reader.files(), &part.join("console")).await?;
        put_files(&part, reader.files())?;
        let mut restored = restored_options(&part)?;
        if options.store.is_some() {
            restored.store.clone_from(&options.store);
        }
        let at = restored.store.clone().unwrap_or(StoreAt::Embedded);
        fill(&at, &part.join("store"), reader).await?;
        // Checks what the options say for the directory as it will be called.
        let checked = Instance::new(dir, restored.clone())?;
        let text = serde_json::to_string_pretty(&checked.options)? + "\n";
        write_whole(&part.join("config.json"), &text)?;
        // An empty directory is replaced; one that has got something meanwhile is not.
        fs::rename(&part, dir).with_context(|| format!("creating {}", dir.display()))?;
        sync_parent(dir)?;
        Ok(restored)
    }
    .await;
    if made.is_err() {
        drop(fs::remove_dir_all(&part));
    }
    made
}

/// The directory stays what it is but for its store.
async fn replace(
    global: &Global,
    options: &Options,
) -> Result<(instance::Options, Option<String>)> {
    let mut instance = Instance::of(global)?;
    if let Some(pid) = instance.running() {
        let message = format!("berth is up in {} (process {pid})", instance.dir.display());
        let hint = format!("end the process first: kill {pid}; containers go on");
        return Err(Failure::new(Exit::InUse, message, hint).into());
    }
    let locked = instance.lock()?;
    let reader = Reader::open(&options.file)?;
    let time = Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let before = instance.options.store.clone().unwrap_or(StoreAt::Embedded);
    let at = match (&options.store, &before) {
        (Some(chosen), _) => chosen.clone(),
        // A prefix cannot be renamed, so the new one gets another name.
        (None, StoreAt::Etcd(_, target)) => {
            before.with_prefix(&format!("{}-{time}", target.prefix))?
        }
        (None, StoreAt::Embedded) => StoreAt::Embedded,
    };
    // Keys that the running pods rely on are never replaced, only put where there are none.
    let missing = |file: &&Extra| !instance.dir.join(&file.path).exists();
    let files: Vec<Extra> = reader.files().iter().filter(missing).cloned().collect();
    check_console(&files, &instance.dir.join("console")).await?;
    let fresh = instance.dir.join("store.new");
    if fresh.exists() {
        fs::remove_dir_all(&fresh).with_context(|| format!("removing {}", fresh.display()))?;
    }
    fill(&at, &fresh, reader).await?;
    put_files(&instance.dir, &files)?;
    let mut aside = None;
    if at == StoreAt::Embedded {
        let store = instance.dir.join("store");
        if store.exists() {
            let broken = instance.dir.join(format!("store.replaced-{time}"));
            fs::rename(&store, &broken).context("setting the store aside")?;
            aside = Some(broken.display().to_string());
        }
        fs::rename(&fresh, &store).context("putting the restored store in its place")?;
        sync_parent(&store)?;
    }
    if aside.is_none() && before != at {
        aside = Some(before.to_string());
    }
    instance.options.store = Some(at);
    instance.remember_options()?;
    drop(locked);
    Ok((instance.options, aside))
}

async fn fill(
    at: &StoreAt,
    embedded: &Path,
    mut reader: Reader<io::BufReader<fs::File>>,
) -> Result<()> {
    let revision = Revision(reader.header().revision.0 + REVISION_JUMP);
    let entries = std::iter::from_fn(|| reader.next_entry().map_err(io::Error::other).transpose());
    store::fill(at, embedded, revision, entries).await
}

fn put_files(dir: &Path, files: &[Extra]) -> Result<()> {
    for file in files {
        let path = dir.join(&file.path);
        if let Some(parent) = path.parent().filter(|parent| *parent != dir) {
            fs::create_dir_all(parent)?;
            fs::set_permissions(parent, fs::Permissions::from_mode(0o700))?;
        }
        write_bytes(&path, &file.content)?;
    }
    Ok(())
}

fn restored_options(dir: &Path) -> Result<instance::Options> {
    match fs::read(dir.join("config.json")) {
        Ok(text) => serde_json::from_slice(&text).context("the options in the backup"),
        Err(_) => Ok(instance::Options::default()),
    }
}

fn sync_parent(path: &Path) -> Result<()> {
    let parent = path.parent().context("it has a parent")?;
    Ok(fs::File::open(parent)?.sync_all()?)
}

fn tell(
    global: &Global,
    dir: &Path,
    header: Header,
    aside: Option<String>,
    start: bool,
) -> Result<()> {
    let created = i64::try_from(header.created).ok().and_then(|s| Timestamp::from_second(s).ok());
    let shown = serde_json::json!({
        "dir": dir, "entries": header.entries, "revision": header.revision.0,
        "created": created, "aside": aside,
    });
    global.output.print(&shown, || {
        let when = created.map_or_else(|| "an unknown time".to_owned(), |at| at.to_string());
        let mut text =
            format!("restored {} objects as of {when} into {}\n", header.entries, dir.display());
        if let Some(aside) = aside {
            text += &format!("the store from before is kept: {aside}\n");
        }
        if !start {
            text += &format!(
                "start it with the options it had: berth up --data-dir {} …\n",
                dir.display()
            );
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use berth_store::{Embedded, Expect, Store};

    use super::*;
    use crate::backup::take;
    use crate::output::Format;

    fn global(dir: &Path) -> Global {
        Global { data_dir: dir.to_owned(), kubeconfig: None, output: Format::default() }
    }

    fn options(file: &Path, replace: bool) -> Options {
        Options { file: file.to_owned(), replace, store: None, up: false, detach: false }
    }

    /// An instance as `berth up` leaves it, with `values` in its store.
    async fn instance(dir: &Path, values: &[&'static str]) -> Instance {
        let instance = Instance::new(dir, instance::Options::default()).unwrap();
        drop(instance.take().unwrap());
        instance.remember_options().unwrap();
        fs::create_dir(dir.join("pki")).unwrap();
        write_whole(&dir.join("pki/sa.key"), "the key").unwrap();
        let opened = store::open(&instance, None).await.unwrap();
        for value in values {
            opened.put("a".into(), (*value).into(), Expect::Anything).await.unwrap();
        }
        instance
    }

    async fn value(dir: &Path) -> (String, u64) {
        let dir = dir.join("store");
        let store = Embedded::open(&dir, berth_store::Options::default()).await.unwrap();
        let (entry, at) = store.get(b"a").await.unwrap();
        (String::from_utf8(entry.unwrap().value.to_vec()).unwrap(), at.0)
    }

    async fn backed_up(instance: &Instance, to: &Path) {
        let opened = store::open(instance, None).await.unwrap();
        let taken = take(&*opened, instance, to).await.unwrap();
        assert_eq!(taken.entries, 1);
        let mode = fs::metadata(&taken.file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "keys are in it");
    }

    #[tokio::test]
    async fn the_consoles_database_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new, file) =
            (dir.path().join("old"), dir.path().join("new"), dir.path().join("b"));
        let instance = instance(&old, &["1"]).await;
        fs::create_dir(old.join("console")).unwrap();
        let open = async |dir: &Path| {
            let address = format!("sqlite://{}/console/console.db", dir.display());
            berth_console::Accounts::new(berth_console::open_database(&address).await.unwrap())
        };
        // It is open and was written to a moment ago.
        let accounts = open(&old).await;
        accounts.add("ann", "correct horse battery", &[]).await.unwrap();
        backed_up(&instance, &file).await;
        accounts.add("late", "correct horse battery", &[]).await.unwrap();
        beside(&new, &options(&file, false)).await.unwrap();
        let names = |all: Vec<berth_console::Listed>| -> Vec<String> {
            all.into_iter().map(|account| account.name).collect()
        };
        assert_eq!(names(open(&new).await.list().await.unwrap()), ["ann"]);
        let left: Vec<_> = fs::read_dir(&new).unwrap().flatten().collect();
        assert!(left.iter().all(|entry| !entry.file_name().to_string_lossy().contains("check")));
        // In place, what is there stays: only its store was broken.
        drop(replace(&global(&old), &options(&file, true)).await.unwrap());
        assert_eq!(names(open(&old).await.list().await.unwrap()).len(), 2);
    }

    #[tokio::test]
    async fn beside_has_the_objects_the_keys_and_the_options() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new, file) =
            (dir.path().join("old"), dir.path().join("new"), dir.path().join("b"));
        let instance = instance(&old, &["1", "2"]).await;
        backed_up(&instance, &file).await;
        let restored = beside(&new, &options(&file, false)).await.unwrap();
        assert_eq!(restored.api_port, instance.options.api_port);
        let (found, revision) = value(&new).await;
        assert_eq!((found.as_str(), revision), ("2", 3 + REVISION_JUMP));
        assert_eq!(fs::read_to_string(new.join("pki/sa.key")).unwrap(), "the key");
        let mode = |name: &str| fs::metadata(new.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("pki"), mode("pki/sa.key")), (0o700, 0o600));
        assert!(Instance::of(&global(&new)).is_ok());

        let again = beside(&new, &options(&file, false)).await.unwrap_err().to_string();
        assert!(again.contains("not empty"), "{again}");
    }

    #[tokio::test]
    async fn a_backup_that_is_not_whole_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new, file) =
            (dir.path().join("old"), dir.path().join("new"), dir.path().join("b"));
        backed_up(&instance(&old, &["1"]).await, &file).await;
        let whole = fs::read(&file).unwrap();
        fs::write(&file, &whole[..whole.len() - 10]).unwrap();
        let torn = run(&global(&new), &options(&file, false)).unwrap_err().to_string();
        assert!(torn.contains("torn"), "{torn}");
        assert!(!new.exists());
        // Even when it is found only while it is being put back.
        beside(&new, &options(&file, false)).await.unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[tokio::test]
    async fn replace_sets_the_store_aside_and_keeps_the_keys() {
        let dir = tempfile::tempdir().unwrap();
        let (old, file) = (dir.path().join("old"), dir.path().join("b"));
        let instance = instance(&old, &["1"]).await;
        backed_up(&instance, &file).await;
        let opened = store::open(&instance, None).await.unwrap();
        let later = opened.put("a".into(), "broken".into(), Expect::Anything).await.unwrap();
        drop(opened);
        write_whole(&old.join("pki/sa.key"), "a newer key").unwrap();

        let running = instance.lock().unwrap();
        let refused = replace(&global(&old), &options(&file, true)).await.unwrap_err().to_string();
        assert!(refused.contains("is up"), "{refused}");
        drop(running);

        let (_, aside) = replace(&global(&old), &options(&file, true)).await.unwrap();
        let (found, revision) = value(&old).await;
        assert_eq!(found, "1");
        assert!(revision > later.modified.0, "revisions do not go back");
        assert_eq!(fs::read_to_string(old.join("pki/sa.key")).unwrap(), "a newer key");
        let aside = PathBuf::from(aside.unwrap());
        assert!(aside.starts_with(&old) && aside.join("db").is_dir());
    }
}
