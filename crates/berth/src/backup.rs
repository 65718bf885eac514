//! `berth backup`: one file with all objects at one revision, and the keys that go with them.
//!
//! While the cluster is up its process holds the store, so it takes the backup: this one asks it
//! through `DIR/backup.sock`. Otherwise this process opens the store itself. Writes go on.
//!
//! With `--every` it is the process's own task from then on; the options stay in the configuration.

mod ask;
mod console;
mod file;

use std::path::{Path, PathBuf};

use anyhow::Result;

pub use self::ask::{answer_line, listen};
pub use self::console::check as check_console;
pub use self::file::{Schedule, Taken, last, remember, rotate, take};
use crate::cli::Global;
use crate::failure::{Exit, Failure};
use crate::instance::{Every, Instance};
use crate::store;

/// `berth backup`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "The file holds the cluster's private keys (pki/: without them, tokens and \
    kubeconfigs of running pods would be void) and the console's database (accounts, acts, recorded \
    shells), so it is readable by its owner only. Images, volumes and a console's PostgreSQL are not \
    in it."
)]
pub struct Options {
    /// Where to: a file, or a directory for a name with the time in it [default: DATA_DIR/backups]
    path: Option<PathBuf>,
    /// From now on, take one this often: 30s, 1m, 2h; `never` ends it
    #[arg(long, value_name = "TIME", conflicts_with = "path")]
    every: Option<Every>,
    /// How many of them are kept
    #[arg(long, value_name = "N", conflicts_with = "path",
        value_parser = clap::value_parser!(u32).range(1..))]
    keep: Option<u32>,
    /// Where they go
    #[arg(long, value_name = "DIR", conflicts_with = "path")]
    dir: Option<PathBuf>,
}

/// Takes one, or says that they be taken.
///
/// # Errors
/// When it cannot be taken or written.
pub async fn run(global: &Global, options: Options) -> Result<()> {
    let mut instance = Instance::of(global)?;
    if options.every.is_some() || options.keep.is_some() || options.dir.is_some() {
        return schedule(global, &mut instance, options).await;
    }
    let to = match options.path {
        Some(path) => std::path::absolute(path)?,
        None => Schedule::of(&instance).dir,
    };
    let taken = match instance.running() {
        Some(_) => ask::backup(&instance, &to).await?,
        None => {
            let locked = instance.lock()?;
            let store = store::open(&instance, None).await?;
            let taken = take(&*store, &instance, &to).await?;
            drop((store, locked));
            taken
        }
    };
    global.output.print(&serde_json::to_value(&taken)?, || format!("{taken}\n"))
}

async fn schedule(global: &Global, instance: &mut Instance, options: Options) -> Result<()> {
    let chosen = &mut instance.options;
    chosen.backup_every = options.every.or(chosen.backup_every);
    chosen.backup_keep = options.keep.or(chosen.backup_keep);
    if let Some(dir) = options.dir {
        chosen.backup_dir = Some(std::path::absolute(dir)?);
    }
    instance.remember_options()?;
    let schedule = Schedule::of(instance);
    let running = instance.running().is_some();
    if running {
        ask::schedule(instance).await?;
    }
    let shown = serde_json::json!({
        "every": Every(schedule.every).to_string(), "keep": schedule.keep, "dir": schedule.dir,
    });
    global.output.print(&shown, || {
        let when = if running { "" } else { ", from the next `berth up` on" };
        match schedule.every {
            None => format!("no backups are taken by themselves{when}\n"),
            Some(_) => format!(
                "a backup every {}, {} kept in {}{when}\n",
                Every(schedule.every),
                schedule.keep,
                schedule.dir.display()
            ),
        }
    })
}

/// A failure to back up, with what can be done about it.
pub fn cannot(what: &Path, said: &str) -> anyhow::Error {
    let message = format!("cannot back up to {}: {said}", what.display());
    Failure::new(Exit::Failed, message, "choose another file, or make room there").into()
}
