//! The zones that are written down, wherever they come from: files, objects, other servers.
//!
//! A zone that is not in order is refused and named; what was served before stays in force.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::name::{self, Domain};
use crate::zone::file::{self, Problem, Static};
use crate::zone::{Current, Policies};

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
    /// It is served from somewhere else already.
    #[error("{apex} is served from {other} already")]
    Twice {
        /// The zone.
        apex: String,
        /// From where.
        other: String,
    },
}

struct Listed<'a>(&'a [Problem]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("; "))
    }
}

/// Where a zone comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Origin {
    /// The file of that path.
    File(String),
    /// The object of that cluster, by `namespace/name`.
    Object(usize, String),
    /// Another server; by apex.
    Primary(Vec<u8>),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "the file {path}"),
            Self::Object(_, key) => write!(f, "the ConfigMap {key}"),
            Self::Primary(apex) => write!(f, "the primary of {}", name::text(apex)),
        }
    }
}

/// All zones that are written down.
#[derive(Debug)]
pub(crate) struct Written {
    policies: Mutex<Arc<Policies>>,
    domains: Vec<Domain>,
    zone: Arc<Current>,
    zones: Mutex<BTreeMap<Origin, Arc<Static>>>,
    refused: AtomicU64,
}

impl Written {
    pub(crate) fn new(policies: Policies, domains: Vec<Domain>, zone: Arc<Current>) -> Self {
        let policies = Mutex::new(Arc::new(policies));
        Self { policies, domains, zone, zones: Mutex::default(), refused: AtomicU64::new(0) }
    }

    /// Reads a zone's text and puts it in force in place of what came from there before; its
    /// harmless problems. Blocks for as long as it takes to prepare the answers.
    ///
    /// # Errors
    /// When it cannot be taken; nothing has changed then.
    pub(crate) fn read(
        &self,
        from: Origin,
        text: &[u8],
        origin: Option<&str>,
    ) -> Result<Vec<Problem>, ZoneError> {
        let read = file::read(text, origin).map_err(ZoneError::Wrong);
        let taken = read.and_then(|(zone, problems)| {
            self.take(from, zone)?;
            Ok(problems)
        });
        taken.inspect_err(|_| self.count_refused())
    }

    /// Counts what was not taken.
    pub(crate) fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// How often something was not taken.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Prepares the answers of all zones anew, under other policies.
    pub(crate) fn set_policies(&self, policies: Policies) {
        let zones = self.lock();
        let mut held = self.policies.lock().expect("no holder of the lock panics");
        if **held == policies {
            return;
        }
        *held = Arc::new(policies);
        drop(held);
        self.put_in_force(&zones, true);
    }

    /// All zones there are.
    pub(crate) fn origins(&self) -> Vec<Origin> {
        self.lock().keys().cloned().collect()
    }

    /// Puts a zone in force in place of what came from there before.
    ///
    /// # Errors
    /// When it is in a cluster's domain, or served from somewhere else.
    pub(crate) fn take(&self, from: Origin, zone: Static) -> Result<(), ZoneError> {
        let apex = || name::text(&zone.apex);
        if self.domains.iter().any(|domain| name::is_under(&zone.apex, domain.wire())) {
            return Err(ZoneError::Cluster { apex: apex() });
        }
        let mut zones = self.lock();
        let mut others = zones.iter().filter(|(other, _)| **other != from);
        if let Some((other, _)) = others.find(|(_, other)| other.apex == zone.apex) {
            return Err(ZoneError::Twice { apex: apex(), other: other.to_string() });
        }
        let (shown, records) = (apex(), zone.records.len());
        let same = zones.get(&from).is_some_and(|before| **before == zone);
        if !same {
            zones.insert(from, Arc::new(zone));
            self.put_in_force(&zones, false);
            tracing::info!(zone = shown, records, "zone in force");
        }
        Ok(())
    }

    /// No longer serves what came from there; whether anything did.
    pub(crate) fn forget(&self, from: &Origin) -> bool {
        let mut zones = self.lock();
        let Some(zone) = zones.remove(from) else { return false };
        self.put_in_force(&zones, false);
        tracing::info!(zone = name::text(&zone.apex), "zone no longer in force");
        true
    }

    /// The zone that came from there.
    pub(crate) fn from(&self, from: &Origin) -> Option<Arc<Static>> {
        self.lock().get(from).cloned()
    }

    fn put_in_force(&self, zones: &BTreeMap<Origin, Arc<Static>>, anew: bool) {
        let zones: Vec<_> = zones.values().cloned().collect();
        let policies = Arc::clone(&self.policies.lock().expect("no holder of the lock panics"));
        self.zone.set_written(&zones, &policies, anew);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Origin, Arc<Static>>> {
        self.zones.lock().expect("no holder of the lock panics")
    }
}
