//! Why a pod goes where it goes: read from a live cluster, decided by the same code, written nowhere.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_daemon::Tasks;
use berth_scheduler::{Explanation, Profile, Unschedulable, device};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::storage::v1::CSINode;
use kube::api::ListParams;
use kube::{Api, Client};
use serde::Serialize;
use tokio::sync::Notify;

use super::board::Board;
use super::board::asked::unplaced;
use super::{Config, extras, promoted, wire};
use crate::driver::{Cache, Key, Objects, World, follow};

/// A hundred thousand pods are read in less.
const LIMIT: Duration = Duration::from_secs(60);

/// Why a cluster could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// The server refused, or was not reached.
    #[error("read the cluster")]
    Api(#[from] kube::Error),
    /// A list did not come: its kind may not be read, or the server is slow.
    #[error("read the cluster within {} s: may this user list pods, nodes, namespaces, services, replicasets, budgets, volumes, claims, classes and csinodes?", LIMIT.as_secs())]
    TimedOut,
}

/// How the decision for a pod comes about.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Why {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// Whom it asks to be scheduled by.
    pub scheduler: String,
    /// The profile that this was decided by.
    pub profile: String,
    /// The node it is bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Where it would go now; the same node, another one, or none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<String>,
    /// Why it goes nowhere, as Kubernetes words it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// How many nodes there are.
    pub nodes: usize,
    /// How many of them passed all filters.
    pub passed: usize,
    /// How many nodes each filter refused.
    pub filters: Vec<Share>,
    /// The same by reason.
    pub reasons: Vec<Share>,
    /// The best five nodes.
    pub best: Vec<Rating>,
    /// The place that the node it is bound to has among all that passed, and its score.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub standing: Option<Standing>,
    /// What would have to change for it to be placed.
    pub remedies: Vec<String>,
    /// What else bears on it.
    pub notes: Vec<String>,
}

/// A number of nodes.
#[derive(Clone, Debug, Serialize)]
pub struct Share {
    /// The filter or reason.
    pub name: String,
    /// How many.
    pub nodes: usize,
}

/// A node with its scores.
#[derive(Clone, Debug, Serialize)]
pub struct Rating {
    /// Its name.
    pub node: String,
    /// All scores by weight.
    pub total: i64,
    /// Each score.
    pub scores: Vec<Worth>,
}

/// One score of one node.
#[derive(Clone, Debug, Serialize)]
pub struct Worth {
    /// Its name.
    pub score: &'static str,
    /// 0 to 100.
    pub value: i64,
    /// What it counts.
    pub weight: i64,
}

/// Where a node stands among those that passed.
#[derive(Clone, Debug, Serialize)]
pub struct Standing {
    /// 1 for the best.
    pub place: usize,
    /// All scores by weight.
    pub total: i64,
}

/// Reads the cluster and says why the pod goes where it goes; `None` where there is no such pod.
///
/// # Errors
/// [`LookError`] where the cluster could not be read.
pub async fn why(
    client: &Client,
    config: &Config,
    namespace: &str,
    name: &str,
) -> Result<Option<Why>, LookError> {
    look(client, config, |world, board, config| {
        world.pods.get(namespace, name).map(|pod| explain(world, board, config, &pod))
    })
    .await
}

/// What `of` makes of a cluster, of its board as the driver has it when it starts, and of the
/// configuration with the profiles that are promoted there.
///
/// # Errors
/// [`LookError`] where the cluster could not be read.
pub(super) async fn look<T>(
    client: &Client,
    config: &Config,
    of: impl FnOnce(&World, &mut Board, &Config) -> T,
) -> Result<T, LookError> {
    // Refusals are told at once, where following would try again and again.
    let one = ListParams::default().limit(1);
    Api::<Node>::all(client.clone()).list(&one).await?;
    Api::<Pod>::all(client.clone()).list(&one).await?;
    let tasks = Tasks::new();
    let read = tokio::time::timeout(LIMIT, read(client, config, &tasks)).await;
    let found = match read {
        Ok(Ok((config, world, board))) => {
            let mut board = board.lock().expect("no holder of the lock panics");
            Ok(of(&world, &mut board, &config))
        }
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(LookError::TimedOut),
    };
    tasks.stop(Duration::ZERO).await;
    found
}

async fn read(
    client: &Client,
    config: &Config,
    tasks: &Tasks,
) -> kube::Result<(Config, Arc<World>, Arc<Mutex<Board>>)> {
    let mut config = config.clone();
    if config.follow_promotions {
        config.profiles = promoted::now(client, &config.profiles).await?;
    }
    let world = Arc::new(World::for_scheduler(client.clone(), tasks));
    let board = Arc::new(Mutex::new(Board::new(config.profiles.clone())));
    let csi: Cache<CSINode> = Cache::default();
    let feed = Objects { api: Api::all(client.clone()), fields: None };
    tasks.spawn_until_stop("follow", follow(feed, csi.clone()));
    wire::wire(&world, &csi, &board, &Arc::new(Notify::new()));
    world.ready().await;
    csi.ready().await;
    extras::look(client, &world, &board, config.measured_use).await?;
    Ok((config, world, board))
}

fn explain(world: &World, board: &mut Board, config: &Config, object: &Pod) -> Why {
    let key = Key::of(&object.metadata);
    let pod = unplaced(object, wire::like(world, object));
    let node = object.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let profile = profile_of(config, &pod.scheduler);
    let mut why = Why {
        namespace: key.namespace,
        pod: key.name,
        scheduler: pod.scheduler.clone(),
        profile: profile.scheduler_name.clone(),
        node: node.clone(),
        decision: None,
        message: None,
        nodes: board.cluster.nodes().count(),
        passed: 0,
        filters: Vec::new(),
        reasons: Vec::new(),
        best: Vec::new(),
        standing: None,
        remedies: Vec::new(),
        notes: notes(object, board, &pod),
    };
    match board.explain(&pod) {
        Ok(explanation) => {
            tell(&mut why, &explanation, profile);
            if let Some(node) = &node {
                let rated = board.rate(&pod);
                why.standing = rated
                    .iter()
                    .position(|(name, _)| name == node)
                    .map(|at| Standing { place: at + 1, total: rated[at].1 });
            }
        }
        Err(refused) => {
            why.message = Some(refused.to_string());
            why.remedies.extend(refused.prior);
        }
    }
    why
}

fn tell(why: &mut Why, explanation: &Explanation, profile: &Profile) {
    why.remedies = explanation.remedies();
    let Unschedulable { by_filter, reasons, .. } = &explanation.refused;
    why.passed = why.nodes.saturating_sub(by_filter.values().sum());
    why.filters = shares(by_filter.iter());
    why.reasons = shares(reasons.iter());
    match &explanation.outcome {
        Ok(placement) => why.decision = Some(placement.node.clone()),
        Err(refused) => why.message = Some(refused.to_string()),
    }
    let weights: BTreeMap<&str, i64> =
        profile.scores.iter().map(|(score, weight)| (score.name(), *weight)).collect();
    why.best = explanation
        .best
        .iter()
        .map(|rated| Rating {
            node: rated.node.clone(),
            total: rated.total,
            scores: rated
                .scores
                .iter()
                .filter_map(|(score, worth)| {
                    let weight = weights.get(score).copied().filter(|weight| *weight > 0)?;
                    Some(Worth { score, value: worth / weight, weight })
                })
                .collect(),
        })
        .collect();
}

/// The most first.
fn shares<'a>(counts: impl Iterator<Item = (&'a (impl ToString + 'a), &'a usize)>) -> Vec<Share> {
    let mut shares: Vec<Share> =
        counts.map(|(name, nodes)| Share { name: name.to_string(), nodes: *nodes }).collect();
    shares.sort_by_key(|share| std::cmp::Reverse(share.nodes));
    shares
}

/// As the cluster chooses: the one that is named, else the first.
fn profile_of<'a>(config: &'a Config, name: &str) -> &'a Profile {
    let named = config.profiles.iter().find(|profile| profile.scheduler_name == name);
    named.or(config.profiles.first()).expect("a valid configuration has a profile")
}

fn notes(object: &Pod, board: &Board, pod: &berth_scheduler::Pod) -> Vec<String> {
    let mut notes = Vec::new();
    let spec = object.spec.as_ref();
    if !board.serves(&pod.scheduler) {
        notes.push(format!("{} decides for it, by its own rules", pod.scheduler));
    }
    for gate in spec.iter().flat_map(|spec| spec.scheduling_gates.iter().flatten()) {
        notes.push(format!("the scheduling gate {} holds it back", gate.name));
    }
    if object.metadata.deletion_timestamp.is_some() {
        notes.push("it is being deleted".to_owned());
    }
    let phase = object.status.as_ref().and_then(|status| status.phase.as_deref());
    if let Some(phase @ ("Succeeded" | "Failed")) = phase {
        notes.push(format!("it is over: {phase}"));
    }
    if let Some(gang) = &pod.gang {
        let (name, least) = (&gang.name, gang.least);
        notes.push(format!("of the gang {name} at least {least} go together or none does"));
    }
    if let Some(node) = &pod.nominated {
        notes.push(format!("room is being made for it on {node}"));
    }
    if let Some(given) = object.metadata.annotations.as_ref().and_then(|all| all.get(device::INDEX))
    {
        notes.push(format!("it has the devices {given}"));
    }
    notes.extend(board.devices_for(pod));
    notes
}
