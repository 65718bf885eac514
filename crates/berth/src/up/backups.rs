//! Backups of a cluster that is up: those that are asked for, and those taken by themselves.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use berth_daemon::Tasks;
use berth_store::Store;
use jiff::Timestamp;
use tokio::net::UnixStream;
use tokio::sync::watch;

use crate::backup::{self, Schedule, Taken};
use crate::cli::Global;
use crate::instance::Instance;
use crate::output::Format;

/// Serves `DIR/backup.sock` and keeps to the schedule.
///
/// # Errors
/// When the socket cannot be made.
pub fn start(instance: &Instance, store: Arc<dyn Store>, tasks: &Tasks) -> Result<()> {
    let listener = backup::listen(instance)?;
    let (changed, schedule) = watch::channel(Schedule::of(instance));
    let server = Arc::new(Server { instance: instance.clone(), store, changed });
    let asked = server.clone();
    tasks.spawn_until_stop("backup-socket", async move {
        loop {
            match listener.accept().await {
                // One at a time: who asks meanwhile waits in the socket's own queue.
                Ok((stream, _)) => asked.clone().answer(stream).await,
                Err(error) => {
                    tracing::warn!(%error, "the socket for backups");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    });
    tasks.spawn_until_stop("backups", server.keep_to(schedule));
    Ok(())
}

struct Server {
    instance: Instance,
    store: Arc<dyn Store>,
    changed: watch::Sender<Schedule>,
}

impl Server {
    async fn answer(self: Arc<Self>, stream: UnixStream) {
        let answered = backup::answer_line(stream, async |line: String| {
            match line.split_once(' ').unwrap_or((&line, "")) {
                ("backup", path) => {
                    Ok(serde_json::to_value(self.clone().take(path.into()).await?)?)
                }
                ("schedule", "") => {
                    let last = self.read_options()?;
                    self.changed.send_replace(Schedule::of(&last));
                    Ok(serde_json::Value::Null)
                }
                _ => anyhow::bail!("no such request: {line}"),
            }
        });
        if let Err(error) = answered.await {
            tracing::warn!(error = %format!("{error:#}"), "a request for a backup");
        }
    }

    fn read_options(&self) -> Result<Instance> {
        let data_dir = self.instance.dir.clone();
        Instance::of(&Global { data_dir, kubeconfig: None, output: Format::default() })
    }

    /// Packing and writing block, so they have a thread of their own.
    async fn take(self: Arc<Self>, to: PathBuf) -> Result<Taken> {
        let runtime = tokio::runtime::Handle::current();
        let take = move || runtime.block_on(backup::take(&*self.store, &self.instance, &to));
        tokio::task::spawn_blocking(take).await.context("taking a backup")?
    }

    async fn keep_to(self: Arc<Self>, mut schedule: watch::Receiver<Schedule>) {
        loop {
            let now = schedule.borrow_and_update().clone();
            let due = async {
                match now.every {
                    Some(every) => tokio::time::sleep(until_due(&self.instance, every)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => self.take_scheduled(&now).await,
                changed = schedule.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
        }
    }

    async fn take_scheduled(self: &Arc<Self>, schedule: &Schedule) {
        let went = async {
            std::fs::create_dir_all(&schedule.dir)
                .with_context(|| format!("creating {}", schedule.dir.display()))?;
            let taken = self.clone().take(schedule.dir.clone()).await?;
            clear(&schedule.dir, schedule.keep);
            Ok(taken)
        }
        .await;
        match &went {
            Ok(taken) => tracing::debug!(%taken, "a backup was taken"),
            Err(error) => tracing::error!(error = %format!("{error:#}"), "no backup was taken"),
        }
        if let Err(error) = backup::remember(&self.instance, &went) {
            tracing::error!(error = %format!("{error:#}"), "cannot write down how the backup went");
        }
    }
}

fn clear(dir: &Path, keep: u32) {
    if let Err(error) = backup::rotate(dir, keep) {
        tracing::error!(error = %format!("{error:#}"), "an old backup stays");
    }
}

/// How long until the next one, by when the last was taken: a restart does not put it off.
fn until_due(instance: &Instance, every: Duration) -> Duration {
    let Some(last) = backup::last(instance) else { return Duration::ZERO };
    let since = Timestamp::now().duration_since(last.at);
    // A clock that was set back must not put it off for long either.
    every.saturating_sub(since.try_into().unwrap_or(Duration::ZERO)).min(every)
}
