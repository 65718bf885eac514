//! Zone files: read at the start, again when they change, and when somebody says so.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use berth_daemon::Tasks;

use crate::config::ZoneFile;
use crate::served::Served;
use crate::written::{Origin, Written, ZoneError};

/// How often files are looked at; a look is one system call a file.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The files, and when those that were read last were changed.
#[derive(Debug)]
pub(crate) struct Files {
    files: Vec<ZoneFile>,
    written: Arc<Written>,
    changed: Vec<Option<SystemTime>>,
}

impl Files {
    /// Reads all of them and puts their names in force. One that cannot be taken is named, counted
    /// and looked at again when it changes: the others' names are answered, after a crash too.
    pub(crate) async fn load(files: Vec<ZoneFile>, written: Arc<Written>) -> Self {
        let changed = vec![None; files.len()];
        let mut all = Self { files, written, changed };
        for number in 0..all.files.len() {
            if let Err(error) = all.read(number).await {
                let path = all.files[number].path.display();
                tracing::error!(%path, %error, "zone not taken, nothing of it is answered");
            }
        }
        all
    }

    /// Looks for changes until `tasks` end. A new list is taken whenever there is one, and
    /// all files are read then.
    pub(crate) fn follow(mut self, served: Arc<Served>, tasks: &Tasks) {
        let mut lists = served.lists.subscribe();
        tasks.spawn_until_stop("zone files", async move {
            let _held = served;
            let mut looks = tokio::time::interval(LOOK_EVERY);
            loop {
                let all = tokio::select! {
                    _ = looks.tick() => false,
                    told = lists.changed() => {
                        told.expect("this task holds the sender too");
                        let list = lists.borrow_and_update().clone();
                        self.replace(list);
                        true
                    }
                };
                for number in 0..self.files.len() {
                    let now = modified(&self.files[number]).await.ok();
                    if !all && (now.is_none() || self.changed[number] == now) {
                        continue;
                    }
                    self.changed[number] = now;
                    if let Err(error) = self.read(number).await {
                        let path = self.files[number].path.display();
                        tracing::warn!(%path, %error, "zone not taken, the old one stays");
                    }
                }
            }
        });
    }

    /// Forgets the zones of files that are not in the list.
    fn replace(&mut self, list: Vec<ZoneFile>) {
        for origin in self.written.origins() {
            if let Origin::File(path) = &origin
                && !list.iter().any(|file| file.path.display().to_string() == *path)
            {
                self.written.forget(&origin);
            }
        }
        self.changed = vec![None; list.len()];
        self.files = list;
    }

    async fn read(&mut self, number: usize) -> Result<(), ZoneError> {
        let ZoneFile { path, origin } = self.files[number].clone();
        self.changed[number] = Some(modified(&self.files[number]).await?);
        let written = Arc::clone(&self.written);
        let shown = path.display().to_string();
        let from = Origin::File(shown.clone());
        let reading = tokio::task::spawn_blocking(move || {
            let text = std::fs::read(path)?;
            written.read(from, &text, origin.as_deref())
        });
        for problem in reading.await.map_err(std::io::Error::other)?? {
            tracing::warn!(path = shown, "{problem}");
        }
        Ok(())
    }
}

async fn modified(file: &ZoneFile) -> std::io::Result<SystemTime> {
    tokio::fs::metadata(&file.path).await?.modified()
}
