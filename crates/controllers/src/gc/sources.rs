//! Where the graph comes from: the controllers' caches, and metadata watches for all other kinds.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_daemon::{Backoff, Tasks};
use kube::Api;
use kube::core::{DynamicObject, PartialObjectMeta};
use tokio::sync::Notify;

use super::graph::{Graph, Item};
use crate::driver::{Cache, Kept, Metadata, Sink, World, chain, follow};
use crate::kinds::{Kind, discover};

/// Definitions often come several at a time: look once for all of them.
const SETTLE: Duration = Duration::from_millis(300);
/// Kinds of aggregated servers come and go without a definition.
const LOOK_ANYWAY: Duration = Duration::from_secs(600);

/// The watches.
#[derive(Clone)]
pub struct Sources {
    world: Arc<World>,
    graph: Arc<Mutex<Graph>>,
    tasks: Tasks,
    followed: Arc<Mutex<HashMap<(String, String), Followed>>>,
    definitions: Arc<Notify>,
}

struct Followed {
    kind: Arc<Kind>,
    // None for kinds that come from the controllers' caches and never end.
    watch: Option<Tasks>,
}

impl Sources {
    /// Watches in `tasks`, once started.
    pub fn new(world: Arc<World>, graph: Arc<Mutex<Graph>>, tasks: Tasks) -> Self {
        Self { world, graph, tasks, followed: Arc::default(), definitions: Arc::default() }
    }

    /// Begins to follow every kind there is and every one that comes.
    pub fn start(&self) {
        let sources = self.clone();
        self.tasks.spawn_until_stop("garbage-collector kinds", async move { sources.run().await });
    }

    /// The kind that an owner reference means, if it is served.
    pub fn kind_of(&self, api_version: &str, kind: &str) -> Option<Arc<Kind>> {
        let followed = self.followed.lock().expect("no holder of the lock panics");
        followed.values().map(|it| &it.kind).find(|it| it.is(api_version, kind)).cloned()
    }

    async fn run(&self) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
        loop {
            let found = tokio::time::timeout(Duration::from_secs(30), discover(&self.world.client));
            match found.await {
                Ok(Ok(kinds)) => {
                    backoff.reset();
                    self.take(kinds);
                    tokio::select! {
                        () = self.definitions.notified() => tokio::time::sleep(SETTLE).await,
                        () = tokio::time::sleep(LOOK_ANYWAY) => {}
                    }
                    continue;
                }
                Ok(Err(error)) => tracing::warn!(error = %chain(&error), "discovery failed"),
                Err(_) => tracing::warn!("discovery: no answer"),
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    /// Follows what is new, and stops following what is no longer served.
    fn take(&self, kinds: Vec<Kind>) {
        let mut followed = self.followed.lock().expect("no holder of the lock panics");
        let id = |kind: &Kind| (kind.resource.group.clone(), kind.resource.kind.clone());
        let served: Vec<(String, String)> = kinds.iter().map(id).collect();
        for kind in kinds {
            let id = id(&kind);
            let same = |known: &Followed| {
                known.watch.is_none() || known.kind.resource.version == kind.resource.version
            };
            if followed.get(&id).is_some_and(same) {
                continue;
            }
            if let Some(Followed { watch: Some(watch), .. }) = followed.remove(&id) {
                watch.cancel();
            }
            let kind = Arc::new(kind);
            let watch = self.follow(&kind);
            followed.insert(id, Followed { kind, watch });
        }
        followed.retain(|id, known| {
            let Some(watch) = known.watch.as_ref().filter(|_| !served.contains(id)) else {
                return true;
            };
            watch.cancel();
            let mut graph = self.graph.lock().expect("no holder of the lock panics");
            for uid in graph.of_kind(&known.kind) {
                graph.remove(&uid);
            }
            false
        });
    }

    fn follow(&self, kind: &Arc<Kind>) -> Option<Tasks> {
        let world = &self.world;
        match kind.id() {
            ("", "Pod") => self.take_from(&world.pods, kind),
            ("", "Node") => self.take_from(&world.nodes, kind),
            ("", "Namespace") => self.take_from(&world.namespaces, kind),
            ("", "Service") => self.take_from(&world.services, kind),
            ("", "ServiceAccount") => self.take_from(&world.service_accounts, kind),
            ("", "Endpoints") => self.take_from(&world.endpoints, kind),
            ("discovery.k8s.io", "EndpointSlice") => self.take_from(&world.endpoint_slices, kind),
            ("apps", "Deployment") => self.take_from(&world.deployments, kind),
            ("apps", "ReplicaSet") => self.take_from(&world.replica_sets, kind),
            ("apps", "DaemonSet") => self.take_from(&world.daemon_sets, kind),
            ("batch", "Job") => self.take_from(&world.jobs, kind),
            ("networking.k8s.io", "Ingress") => self.take_from(&world.ingresses, kind),
            ("coordination.k8s.io", "Lease") => self.take_from(&world.leases, kind),
            ("berth.dev", "App") => self.take_from(&world.apps, kind),
            _ => return Some(self.watch(kind)),
        }
        None
    }

    fn take_from<K: Kept>(&self, cache: &Cache<K>, kind: &Arc<Kind>) {
        let (graph, kind) = (Arc::clone(&self.graph), Arc::clone(kind));
        cache.subscribe(move |change| {
            let mut graph = graph.lock().expect("no holder of the lock panics");
            match change.new {
                Some(new) => {
                    Item::new(&kind, new.meta()).into_iter().for_each(|item| graph.put(item))
                }
                None => graph.remove(change.latest().meta().uid.as_deref().unwrap_or_default()),
            }
        });
    }

    fn watch(&self, kind: &Arc<Kind>) -> Tasks {
        let tasks = self.tasks.child();
        let api: Api<DynamicObject> = Api::all_with(self.world.client.clone(), &kind.resource);
        let sink = GraphSink {
            graph: Arc::clone(&self.graph),
            kind: Arc::clone(kind),
            definitions: (kind.resource.kind == "CustomResourceDefinition")
                .then(|| Arc::clone(&self.definitions)),
        };
        tasks.spawn_until_stop("garbage-collector watch", follow(Metadata { api }, sink));
        tasks
    }
}

/// Pours the metadata of one kind into the graph.
struct GraphSink {
    graph: Arc<Mutex<Graph>>,
    kind: Arc<Kind>,
    definitions: Option<Arc<Notify>>,
}

impl GraphSink {
    fn changed(&self) {
        if let Some(definitions) = &self.definitions {
            definitions.notify_one();
        }
    }
}

impl Sink<PartialObjectMeta<DynamicObject>> for GraphSink {
    fn replace(&self, objects: Vec<PartialObjectMeta<DynamicObject>>, _: u64) {
        let mut graph = self.graph.lock().expect("no holder of the lock panics");
        let listed: HashSet<&String> =
            objects.iter().filter_map(|object| object.metadata.uid.as_ref()).collect();
        for uid in graph.of_kind(&self.kind) {
            if !listed.contains(&uid) {
                graph.remove(&uid);
            }
        }
        for object in &objects {
            Item::new(&self.kind, &object.metadata).into_iter().for_each(|item| graph.put(item));
        }
        self.changed();
    }

    fn applied(&self, object: PartialObjectMeta<DynamicObject>) {
        if let Some(item) = Item::new(&self.kind, &object.metadata) {
            let mut graph = self.graph.lock().expect("no holder of the lock panics");
            graph.put(item);
        }
        // A definition is served only some changes after it came: look on every one.
        self.changed();
    }

    fn deleted(&self, object: PartialObjectMeta<DynamicObject>) {
        let mut graph = self.graph.lock().expect("no holder of the lock panics");
        graph.remove(object.metadata.uid.as_deref().unwrap_or_default());
        drop(graph);
        self.changed();
    }
}
