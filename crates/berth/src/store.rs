//! Opens the store that the options name, and ends the process when the store ends by itself.

use std::io;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use berth_daemon::Tasks;
use berth_store::etcd::Target;
use berth_store::{Embedded, Entry, Etcd, OpenError, Options, Revision, Store};

use crate::failure::{Exit, Failure, chain};
use crate::instance::{Instance, StoreAt};

/// Opens the store of `instance`. With `tasks`, the process ends when a write to disk fails: what
/// it holds in memory may then be more than what is on disk, and must not be served.
///
/// # Errors
/// One line that says what is wrong.
pub async fn open(instance: &Instance, tasks: Option<&Tasks>) -> Result<Arc<dyn Store>> {
    match &instance.options.store {
        None | Some(StoreAt::Embedded) => {
            let dir = instance.dir.join("store");
            let store = match Embedded::open(&dir, Options::default()).await {
                Err(error @ OpenError::Damaged { .. }) => {
                    let hint = "do not repair it: berth restore FILE --replace --up puts a backup \
                        in its place and keeps it aside";
                    return Err(Failure::new(Exit::Failed, chain(&error.into()), hint).into());
                }
                opened => opened
                    .with_context(|| format!("opening the store in {}", instance.dir.display()))?,
            };
            if let Some(tasks) = tasks {
                let stopped = store.stopped();
                tasks.spawn_until_stop("store-watchdog", async move {
                    stopped.await;
                    tracing::error!("the store has stopped, and so does berth; containers go on");
                    eprintln!("berth: the store could not be written and has stopped");
                    std::process::exit(Exit::Failed as i32);
                });
            }
            Ok(Arc::new(store))
        }
        Some(StoreAt::Etcd(_, target)) => {
            let opened = Etcd::open(target, &Options::default()).await;
            Ok(Arc::new(opened.map_err(|error| etcd_failure(target, error))?))
        }
    }
}

/// Asks a store that is not in the data directory whether it is there, before anything starts.
///
/// # Errors
/// One line that says what is wrong.
pub async fn preflight(instance: &Instance) -> Result<()> {
    match &instance.options.store {
        None | Some(StoreAt::Embedded) => Ok(()),
        Some(StoreAt::Etcd(_, target)) => {
            Etcd::reach(target).await.map_err(|error| etcd_failure(target, error))
        }
    }
}

/// Puts entries into the store that `at` names, which must be empty.
///
/// # Errors
/// When something is there, or it cannot be written.
pub async fn fill(
    at: &StoreAt,
    embedded: &Path,
    revision: Revision,
    entries: impl Iterator<Item = io::Result<Entry>>,
) -> Result<()> {
    match at {
        StoreAt::Embedded => Ok(Embedded::fill(embedded, revision, entries)?),
        StoreAt::Etcd(_, target) => {
            let filled = Etcd::fill(target, revision, entries).await;
            filled.map_err(|error| match error {
                OpenError::Damaged { .. } => {
                    let hint = "give another prefix: --store 'etcd://…?prefix=/NAME'";
                    Failure::new(Exit::InUse, error.to_string(), hint).into()
                }
                other => etcd_failure(target, other),
            })
        }
    }
}

fn etcd_failure(target: &Target, error: OpenError) -> anyhow::Error {
    let hint = format!(
        "see that etcd runs at {}, or choose another store: --store etcd://HOST:PORT",
        target.endpoints.join(", ")
    );
    Failure::new(Exit::Machine, chain(&error.into()), hint).into()
}
