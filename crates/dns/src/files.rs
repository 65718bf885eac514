//! Zone files: read at the start, and again when they change.
//!
//! A zone that is not in order is refused and named; what was served before stays in force.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use berth_daemon::Tasks;

use crate::config::{Config, StartError, ZoneFile};
use crate::name::{self, Domain};
use crate::zone::file::{Problem, Static, read};
use crate::zone::{Current, Policies, Sources, Zone};

/// How often files are looked at; a look is one system call a file.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why a zone is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ZoneError {
    /// It cannot be read.
    #[error("read it")]
    Read(#[from] std::io::Error),
    /// It is not in order.
    #[error("{}", Listed(.0))]
    Wrong(Vec<Problem>),
    /// Names below a cluster's domain are the cluster's.
    #[error("{apex} lies in the cluster's domain")]
    Cluster {
        /// The zone.
        apex: String,
    },
    /// Another file has the same zone.
    #[error("{apex} is in another file too")]
    Twice {
        /// The zone.
        apex: String,
    },
}

struct Listed<'a>(&'a [Problem]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("; "))
    }
}

/// The files, and what was last read from them.
#[derive(Debug)]
pub(crate) struct Files {
    files: Vec<ZoneFile>,
    policies: Policies,
    domains: Vec<Domain>,
    zone: Arc<Current>,
    loaded: Mutex<Vec<Option<Loaded>>>,
}

#[derive(Clone, Debug)]
struct Loaded {
    changed: SystemTime,
    zone: Arc<Static>,
}

impl Files {
    pub(crate) fn new(
        config: &Config,
        policies: Policies,
        domains: Vec<Domain>,
        zone: Arc<Current>,
    ) -> Self {
        let loaded = Mutex::new(vec![None; config.zones.len()]);
        Self { files: config.zones.clone(), policies, domains, zone, loaded }
    }

    /// Reads all of them and puts their names in force.
    ///
    /// # Errors
    /// Of the first that cannot be taken: at the start somebody is there to read it.
    pub(crate) async fn load(&self) -> Result<(), StartError> {
        if self.files.is_empty() {
            return Ok(());
        }
        for (number, file) in self.files.iter().enumerate() {
            self.read(number)
                .await
                .map_err(|source| StartError::Zone { path: file.path.clone(), source })?;
        }
        self.put_in_force();
        Ok(())
    }

    /// Looks for changes until `tasks` end.
    pub(crate) fn follow(self, tasks: &Tasks) {
        if self.files.is_empty() {
            return;
        }
        tasks.spawn_until_stop("zone files", async move {
            let mut refused: Vec<Option<SystemTime>> = vec![None; self.files.len()];
            let mut looks = tokio::time::interval(LOOK_EVERY);
            loop {
                looks.tick().await;
                let mut changed = false;
                for (number, file) in self.files.iter().enumerate() {
                    let Ok(now) = modified(file).await else { continue };
                    let known = self.loaded()[number].as_ref().map(|loaded| loaded.changed);
                    if known == Some(now) || refused[number] == Some(now) {
                        continue;
                    }
                    match self.read(number).await {
                        Ok(()) => changed = true,
                        Err(error) => {
                            refused[number] = Some(now);
                            let path = file.path.display();
                            tracing::warn!(%path, %error, "zone not taken, the old one stays");
                        }
                    }
                }
                if changed {
                    self.put_in_force();
                }
            }
        });
    }

    async fn read(&self, number: usize) -> Result<(), ZoneError> {
        let file = &self.files[number];
        let changed = modified(file).await?;
        let (path, origin) = (file.path.clone(), file.origin.clone());
        let reading = tokio::task::spawn_blocking(move || {
            let text = std::fs::read(path)?;
            read(&text, origin.as_deref()).map_err(ZoneError::Wrong)
        });
        let (zone, problems) = reading.await.map_err(std::io::Error::other)??;
        let apex = || name::text(&zone.apex);
        if self.domains.iter().any(|domain| name::is_under(&zone.apex, domain.wire())) {
            return Err(ZoneError::Cluster { apex: apex() });
        }
        let mut loaded = self.loaded();
        let mut others = loaded.iter().enumerate().filter(|(at, _)| *at != number);
        if others.any(|(_, other)| other.as_ref().is_some_and(|l| l.zone.apex == zone.apex)) {
            return Err(ZoneError::Twice { apex: apex() });
        }
        for problem in problems {
            tracing::warn!(path = %file.path.display(), "{problem}");
        }
        loaded[number] = Some(Loaded { changed, zone: Arc::new(zone) });
        Ok(())
    }

    fn put_in_force(&self) {
        let loaded: Vec<_> = self.loaded().iter().flatten().map(|l| Arc::clone(&l.zone)).collect();
        let policies = Some(&self.policies);
        self.zone.set_files(Zone::build(Sources {
            zones: &loaded,
            policies,
            ..Sources::default()
        }));
        tracing::info!(zones = loaded.len(), names = self.zone.get().len(), "zones in force");
    }

    fn loaded(&self) -> std::sync::MutexGuard<'_, Vec<Option<Loaded>>> {
        self.loaded.lock().expect("no holder of the lock panics")
    }
}

async fn modified(file: &ZoneFile) -> std::io::Result<SystemTime> {
    tokio::fs::metadata(&file.path).await?.modified()
}
