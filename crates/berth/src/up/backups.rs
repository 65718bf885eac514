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

#[cfg(test)]
mod tests {
    use berth_store::Expect;
    use clap::Parser;

    use super::*;
    use crate::instance::{Options, StoreAt};
    use crate::store;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: backup::Options,
    }

    async fn berth_backup(instance: &Instance, words: &[&str]) -> Result<()> {
        let options = Line::try_parse_from(std::iter::once(&"backup").chain(words))?.options;
        let data_dir = instance.dir.clone();
        let global = Global { data_dir, kubeconfig: None, output: Format::default() };
        backup::run(&global, options).await
    }

    fn backups(dir: &Path) -> Vec<PathBuf> {
        let files = std::fs::read_dir(dir).into_iter().flatten();
        files.map(|file| file.unwrap().path()).collect()
    }

    async fn until(what: impl Fn() -> bool) {
        let mut looks = tokio::time::interval(Duration::from_millis(20));
        let waiting = async {
            while !what() {
                looks.tick().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_process_takes_backups_when_asked_and_by_itself() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { store: Some(StoreAt::Embedded), ..Options::default() };
        let instance = Instance::new(&dir.path().join("data"), options).unwrap();
        let _taken = instance.take().unwrap();
        instance.remember_options().unwrap();
        let store = store::open(&instance, None).await.unwrap();
        store.put("a".into(), "1".into(), Expect::Anything).await.unwrap();
        let tasks = Tasks::new();
        start(&instance, store.clone(), &tasks).unwrap();

        let file = dir.path().join("asked");
        berth_backup(&instance, &[file.to_str().unwrap()]).await.unwrap();
        assert_eq!(berth_store::backup::check(&file).unwrap().entries, 1);
        let nowhere = dir.path().join("nowhere/file");
        let refused = berth_backup(&instance, &[nowhere.to_str().unwrap()]).await.unwrap_err();
        assert!(format!("{refused:#}").contains("No such file"), "{refused:#}");

        berth_backup(&instance, &["--every", "1s", "--keep", "2"]).await.unwrap();
        let there = instance.dir.join("backups");
        until(|| backups(&there).len() == 2).await;
        let first = backups(&there);
        until(|| backups(&there).iter().all(|path| !first.contains(path))).await;
        assert!(backups(&there).len() <= 3, "one more while it is being written");

        // A file stands where the directory should be: said, and gone on with.
        let wrong = dir.path().join("wrong");
        std::fs::write(&wrong, "").unwrap();
        berth_backup(&instance, &["--dir", wrong.to_str().unwrap()]).await.unwrap();
        until(|| backup::last(&instance).is_some_and(|last| last.error.is_some())).await;
        berth_backup(&instance, &["--every", "never"]).await.unwrap();
        tasks.stop(Duration::from_secs(5)).await;
    }
}
