//! Feeds a shadow with what the cluster does: watches of nodes and pods, and of what pods are
//! selected by. Nothing is written.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use berth_daemon::Backoff;
use futures::stream::{BoxStream, select_all};
use futures::{Stream, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use kube::runtime::reflector::{self, ObjectRef, Store, reflector};
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{WatchStreamExt, watcher::Config};
use kube::{Api, Client, ResourceExt};

use super::{Shadow, Sighting};
use crate::live::{
    RecordError, budgets, ended, like, recorded_budget, recorded_node, recorded_pod, set_of,
};

/// Changes that are taken in before the policies decide.
const BATCH: usize = 512;
/// Budgets are few and change seldom: they are listed this often.
const BUDGETS_EVERY: Duration = Duration::from_secs(60);
/// Pods that waited are tried again this often while there is cause to.
const SETTLE_EVERY: Duration = Duration::from_millis(250);
/// Longest wait for one answer.
const DEADLINE: Duration = Duration::from_secs(30);

/// Why a cluster cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// It does not say which cluster it is.
    #[error("reading the namespace kube-system, whose uid is the cluster's id")]
    Cluster(#[source] kube::Error),
    /// No answer.
    #[error("no answer within {} s", DEADLINE.as_secs())]
    Deadline,
}

/// The cluster's id: the uid of its namespace kube-system.
///
/// # Errors
/// [`FeedError`].
pub async fn cluster_id(client: &Client) -> Result<String, FeedError> {
    let spaces: Api<Namespace> = Api::all(client.clone());
    let space = tokio::time::timeout(DEADLINE, spaces.get("kube-system")).await;
    let space = space.map_err(|_| FeedError::Deadline)?.map_err(FeedError::Cluster)?;
    Ok(space.uid().unwrap_or_default())
}

enum Change {
    Node(Box<Event<Node>>),
    Pod(Box<Event<Pod>>),
    /// Something that pods are selected by, in its store already; whether that is whole now.
    Selector(Selector, bool),
}

/// What pods are selected by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Selector {
    Service,
    Set,
}

/// Feeds `shadow` for ever. `settled` is called whenever the policies have decided; from the first
/// time on the shadow has seen the whole cluster.
pub async fn follow(client: &Client, shadow: &Mutex<Shadow>, mut settled: impl FnMut()) {
    let (services, service_changes) = mirror::<Service>(client, Selector::Service);
    let (sets, set_changes) = mirror::<ReplicaSet>(client, Selector::Set);
    let watch = || Config::default().page_size(500);
    let nodes = watcher(Api::<Node>::all(client.clone()), watch()).default_backoff();
    let pods = watcher(Api::<Pod>::all(client.clone()), watch()).default_backoff();
    let changes = select_all([
        told("nodes", nodes).map(|event| Change::Node(Box::new(event))).boxed(),
        told("pods", pods).map(|event| Change::Pod(Box::new(event))).boxed(),
        service_changes,
        set_changes,
    ]);
    let mut changes = pin!(changes.ready_chunks(BATCH));
    let mut intake = Intake::new(shadow, services, sets);
    let mut look = tokio::time::interval(SETTLE_EVERY);
    let mut protect = pin!(follow_budgets(client, shadow));
    loop {
        tokio::select! {
            some = changes.next() => some.into_iter().flatten().for_each(|one| intake.take(one)),
            _ = look.tick() => {}
            () = &mut protect => {}
        }
        if intake.is_whole() && intake.settle() {
            settled();
        }
    }
}

/// A watch whose faults are told; it is taken up again by itself.
fn told<K>(
    what: &'static str,
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
) -> impl Stream<Item = Event<K>> + Send + 'static
where
    K: Send + 'static,
{
    events.filter_map(move |event| {
        let fault = event.as_ref().err();
        fault.inspect(|error| tracing::warn!(%error, what, "the watch is taken up again"));
        std::future::ready(event.ok())
    })
}

/// All of a kind, kept up to date by polling the stream.
fn mirror<K>(client: &Client, kind: Selector) -> (Store<K>, BoxStream<'static, Change>)
where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let (store, writer) = reflector::store();
    let events = watcher(Api::<K>::all(client.clone()), Config::default().page_size(500));
    let events = told("selectors", reflector(writer, events.default_backoff()));
    let changes = events.map(move |event| Change::Selector(kind, matches!(event, Event::InitDone)));
    (store, changes.boxed())
}

async fn follow_budgets(client: &Client, shadow: &Mutex<Shadow>) {
    let mut backoff = Backoff::new(Duration::from_secs(1), BUDGETS_EVERY);
    loop {
        let wait = match budgets(client).await {
            Ok(budgets) => {
                lock(shadow).see_budgets(budgets.iter().map(recorded_budget).collect());
                backoff.reset();
                BUDGETS_EVERY
            }
            Err(error) => {
                tracing::debug!(%error, "budgets");
                backoff.next_delay()
            }
        };
        tokio::time::sleep(wait).await;
    }
}

fn lock(shadow: &Mutex<Shadow>) -> MutexGuard<'_, Shadow> {
    shadow.lock().expect("no holder of the lock panics")
}

/// Takes changes in: pods wait until it is known what they are selected by.
struct Intake<'a> {
    shadow: &'a Mutex<Shadow>,
    services: Store<Service>,
    sets: Store<ReplicaSet>,
    /// Whether Services and ReplicaSets have been listed.
    selectors: (bool, bool),
    held: Vec<Event<Pod>>,
    /// Whether the first list is complete, and who was on the last one.
    nodes: (bool, BTreeSet<String>),
    pods: (bool, BTreeSet<String>),
    begun: bool,
}

impl<'a> Intake<'a> {
    fn new(shadow: &'a Mutex<Shadow>, services: Store<Service>, sets: Store<ReplicaSet>) -> Self {
        Self {
            shadow,
            services,
            sets,
            selectors: (false, false),
            held: Vec::new(),
            nodes: (false, BTreeSet::new()),
            pods: (false, BTreeSet::new()),
            begun: false,
        }
    }

    fn is_whole(&self) -> bool {
        self.nodes.0 && self.pods.0
    }

    /// Whether the policies decided something.
    fn settle(&mut self) -> bool {
        let mut shadow = lock(self.shadow);
        if !std::mem::replace(&mut self.begun, true) {
            shadow.seen_all();
        } else if !shadow.is_unsettled() {
            return false;
        }
        shadow.settle(Timestamp::now());
        true
    }

    fn take(&mut self, change: Change) {
        match change {
            Change::Node(event) => self.node(*event),
            Change::Pod(event) if self.selectors == (true, true) => self.pod(*event),
            Change::Pod(event) => self.held.push(*event),
            Change::Selector(kind, whole) => {
                match kind {
                    Selector::Service => self.selectors.0 |= whole,
                    Selector::Set => self.selectors.1 |= whole,
                }
                if self.selectors == (true, true) {
                    std::mem::take(&mut self.held).into_iter().for_each(|event| self.pod(event));
                }
            }
        }
    }

    fn node(&mut self, event: Event<Node>) {
        let mut shadow = lock(self.shadow);
        let mut see = |node: &Node| match recorded_node(node) {
            Ok(node) => shadow.see_node(node),
            Err(error) => skip(&error),
        };
        match event {
            Event::Init => self.nodes.1.clear(),
            Event::InitApply(node) => {
                see(&node);
                self.nodes.1.insert(node.name_any());
            }
            Event::Apply(node) => see(&node),
            Event::Delete(node) => shadow.lose_node(&node.name_any()),
            Event::InitDone => {
                let (whole, listed) = &mut self.nodes;
                *whole = true;
                shadow.keep_nodes(|name| listed.contains(name));
                listed.clear();
            }
        }
    }

    fn pod(&mut self, event: Event<Pod>) {
        match event {
            Event::Init => self.pods.1.clear(),
            Event::InitApply(pod) => {
                self.see(&pod);
                self.pods.1.insert(pod.uid().unwrap_or_default());
            }
            Event::Apply(pod) => self.see(&pod),
            Event::Delete(pod) => lock(self.shadow).lose_pod(&pod.uid().unwrap_or_default()),
            Event::InitDone => {
                let (whole, listed) = &mut self.pods;
                *whole = true;
                lock(self.shadow).keep_pods(|uid| listed.contains(uid));
                listed.clear();
            }
        }
    }

    fn see(&self, pod: &Pod) {
        let uid = pod.uid().unwrap_or_default();
        let spec = pod.spec.as_ref();
        let placed = spec.is_some_and(|spec| spec.node_name.is_some());
        let gates = spec.and_then(|spec| spec.scheduling_gates.as_ref());
        let gated = gates.is_some_and(|gates| !gates.is_empty());
        let leaving = pod.metadata.deletion_timestamp.is_some() && !placed;
        if ended(pod) || leaving {
            return lock(self.shadow).lose_pod(&uid);
        }
        if gated {
            return;
        }
        match self.sighting(pod) {
            Ok(sighting) => lock(self.shadow).see_pod(&uid, sighting, Timestamp::now()),
            Err(error) => skip(&error),
        }
    }

    fn sighting(&self, pod: &Pod) -> Result<Sighting, RecordError> {
        let created_s = pod.creation_timestamp().map_or(0, |time| time.0.as_second());
        let mut recorded = recorded_pod(pod, u64::try_from(created_s).unwrap_or_default())?;
        let here = pod.namespace().unwrap_or_default();
        let set = set_of(pod).and_then(|name| self.sets.get(&ObjectRef::new(name).within(&here)));
        let services = self.services.state();
        recorded.like = like(pod, services.iter().map(|each| &**each), set.as_deref());
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        let refused = conditions.into_iter().flatten().any(|each| {
            each.type_ == "PodScheduled"
                && each.status == "False"
                && each.reason.as_deref() == Some("Unschedulable")
        });
        let mut owners = pod.owner_references().iter();
        let daemon = owners.any(|each| each.controller == Some(true) && each.kind == "DaemonSet");
        let pinned = daemon || pod.annotations().contains_key("kubernetes.io/config.mirror");
        Ok(Sighting { pod: recorded, created_s, pinned, refused })
    }
}

fn skip(error: &RecordError) {
    tracing::warn!(error = %error, "it is left out of the shadow");
}
