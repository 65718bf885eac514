//! What an App's instances use and answer, every ten seconds while somebody looks.
//!
//! ```text
//!  the App's pods (by label) ──────┐
//!  /stats/summary of their nodes ──┤
//!  (load and I/O: of collectors) ──┼─▶ Look, Look ─▶ Point: the last half hour ─▶ GET /trends
//!  /metrics of the balancers ──────┘
//! ```
//!
//! All who look at an App see the same points, and a node is asked once for all Apps on it. Nothing
//! is asked for an App that nobody looked at for [`FORGOTTEN`], and nothing is written down: what
//! stays for months is the usage report's.
//!
//! # Source
//! RSS and cache beside the working set: how Mogujie counts memory.

mod balancers;
mod look;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use berth_api::summary::Summary;
use berth_daemon::Tasks;
use futures::StreamExt;
use futures::stream;
use kube::Client;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;

use self::look::{Instance, Look};
use crate::collected;
use crate::database::now;

/// Between two looks.
pub(crate) const EVERY: Duration = Duration::from_secs(10);
/// Sooner, when somebody is new: a rate takes two looks.
const SOON: Duration = Duration::from_secs(3);
/// Half an hour of them.
const POINTS: usize = 180;
const FORGOTTEN: Duration = Duration::from_secs(600);
/// Apps that are looked at at a time; the one that was asked for longest ago makes room.
const APPS: usize = 64;
/// For their answer; they themselves wait five seconds for each other.
const COLLECTORS: Duration = Duration::from_secs(8);
/// Questions that wait for an answer at a time.
const AT_ONCE: usize = 8;

/// Namespace and name.
type Key = (String, String);

/// Cores; bytes of RSS, of cache and of the working set; answers, failures among them, and seconds
/// until they began, a second; load over 1, 5 and 15 minutes; bytes read and written a second; when
/// its youngest container began to run, in milliseconds since 1970. None where nobody counts.
pub(crate) type Values = [Option<f64>; 13];

/// One moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Point {
    /// Milliseconds since 1970.
    pub at: i64,
    /// By instance.
    pub pods: BTreeMap<String, Values>,
}

#[derive(Debug)]
struct Kept {
    asked: Instant,
    before: Option<Look>,
    points: VecDeque<Point>,
}

#[derive(Debug, Default)]
struct Shared {
    apps: Mutex<HashMap<Key, Kept>>,
    wake: Notify,
}

/// Apps that are looked at.
#[derive(Clone, Debug)]
pub(crate) struct Trends {
    shared: Arc<Shared>,
}

impl Trends {
    /// Asks `client`'s cluster while somebody looks, until `tasks` stop.
    pub fn start(client: Client, tasks: &Tasks) -> Self {
        let shared = Arc::<Shared>::default();
        tasks.spawn_until_stop("console trends", run(Arc::clone(&shared), client));
        Self { shared }
    }

    /// The App's points after `since`, the oldest first; none yet for the first who looks.
    pub fn of(&self, namespace: &str, app: &str, since: i64) -> Vec<Point> {
        let mut apps = self.shared.apps.lock().expect("nothing panics under this lock");
        let key = (namespace.to_owned(), app.to_owned());
        if let Some(kept) = apps.get_mut(&key) {
            kept.asked = Instant::now();
            return kept.points.iter().filter(|point| point.at > since).cloned().collect();
        }
        if apps.len() >= APPS {
            let oldest = apps.iter().min_by_key(|(_, kept)| kept.asked).map(|(key, _)| key.clone());
            oldest.and_then(|key| apps.remove(&key));
        }
        apps.insert(key, Kept { asked: Instant::now(), before: None, points: VecDeque::new() });
        self.shared.wake.notify_one();
        Vec::new()
    }
}

impl Shared {
    fn wanted(&self) -> Vec<Key> {
        let mut apps = self.apps.lock().expect("nothing panics under this lock");
        apps.retain(|_, kept| kept.asked.elapsed() < FORGOTTEN);
        apps.keys().cloned().collect()
    }

    fn keep(&self, key: &Key, at: i64, look: Look) {
        let mut apps = self.apps.lock().expect("nothing panics under this lock");
        let Some(kept) = apps.get_mut(key) else { return };
        if let Some(before) = &kept.before {
            kept.points.push_back(Point { at, pods: look.since(before) });
            if kept.points.len() > POINTS {
                kept.points.pop_front();
            }
        }
        kept.before = Some(look);
    }
}

async fn run(shared: Arc<Shared>, client: Client) {
    let mut turn = tokio::time::interval(EVERY);
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut places = balancers::Places::default();
    let stats = collected::Stats::default();
    loop {
        tokio::select! {
            _ = turn.tick() => {}
            () = shared.wake.notified() => turn.reset_after(SOON),
        }
        let wanted = shared.wanted();
        if wanted.is_empty() {
            shared.wake.notified().await;
            shared.wake.notify_one();
            continue;
        }
        let apps: Vec<(Key, Vec<Instance>)> = stream::iter(wanted)
            .map(|key| async {
                let found = look::instances(&client, &key.0, &key.1).await;
                found.map(|instances| (key, instances))
            })
            .buffer_unordered(AT_ONCE)
            .filter_map(std::future::ready)
            .collect()
            .await;
        let nodes: BTreeSet<String> =
            apps.iter().flat_map(|(_, pods)| pods).map(|pod| pod.node.clone()).collect();
        let mut used: HashMap<_, _> = stream::iter(nodes)
            .map(async |node| look::summary(&client, &node).await)
            .buffer_unordered(AT_ONCE)
            .flat_map(stream::iter)
            .collect()
            .await;
        for summary in collected(&client, &stats, &apps, &used).await {
            look::complete(&mut used, summary);
        }
        let counts = balancers::counts(&client, &mut places).await;
        let at = now();
        for (key, instances) in &apps {
            shared.keep(key, at, Look::new(instances, &used, counts.as_deref()));
        }
    }
}

/// What collectors tell of the instances whose nodes do not tell all.
async fn collected(
    client: &Client,
    stats: &collected::Stats,
    apps: &[(Key, Vec<Instance>)],
    used: &HashMap<String, look::Used>,
) -> Vec<Summary> {
    let mut nodes: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for ((namespace, _), instances) in apps {
        let missing = instances.iter().filter(|one| !one.is_measured(used));
        let missing: Vec<String> = missing.map(|one| one.node.clone()).collect();
        if !missing.is_empty() {
            nodes.entry(namespace.clone()).or_default().extend(missing);
        }
    }
    let told = stream::iter(nodes).map(async |(namespace, nodes)| {
        match tokio::time::timeout(COLLECTORS, stats.of(client, &namespace, &nodes)).await {
            Ok(Ok(summary)) => summary,
            Ok(Err(error)) => {
                tracing::debug!(%error, namespace, "what collectors tell");
                None
            }
            Err(_) => None,
        }
    });
    told.buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await
}
