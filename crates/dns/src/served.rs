//! All that answering needs, in one place: whoever answers has a share of it.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::balancers::Place;
use crate::config::ZoneFile;
use crate::counts::Counts;
use crate::forward::Forward;
use crate::own::Own;
use crate::query_log;
use crate::transfer::Rules;
use crate::written::Written;
use crate::xdp;
use crate::zone::Current;

/// What is served, by whom it is asked elsewhere, and what is counted.
#[derive(Debug)]
pub(crate) struct Served {
    pub zone: Arc<Current>,
    pub forward: Arc<Forward>,
    /// May be exchanged while the server runs.
    pub own: ArcSwap<Own>,
    pub written: Arc<Written>,
    /// Of each thread that answers over UDP.
    pub counts: Vec<Arc<Counts>>,
    /// Of TCP and TLS.
    pub streams: Arc<Counts>,
    pub log: Option<query_log::Writer>,
    /// Who may have whole zones, and who is told of changes.
    pub rules: ArcSwap<Rules>,
    /// Raised when the rules were exchanged.
    pub new_rules: watch::Sender<u64>,
    /// What was answered in the kernel; set once, where that is wanted.
    pub kernel: OnceLock<Arc<xdp::Counts>>,
    /// The zone files that are wanted.
    pub lists: watch::Sender<Vec<ZoneFile>>,
    /// Who says which addresses are down.
    pub balancers: watch::Sender<Vec<Place>>,
}
