//! One cache per kind for the whole process, and the client to write with.

use berth_api::app::App;
use berth_daemon::Tasks;
use k8s_openapi::api::apps::v1::{
    ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet,
};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod,
    ResourceQuota, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::runtime::events::{Recorder, Reporter};
use kube::{Api, Client};

use super::budgets::Budgets;
use super::cache::{Cache, Kept};
use super::feed::{Feed, Labelled, Objects, Sink, follow};
use super::ground::Ground;
use super::slim::SlimPods;

/// The name of the ConfigMap with the cluster's CA in every namespace.
pub const ROOT_CA: &str = "kube-root-ca.crt";

const ROOT_CA_FIELD: &str = "metadata.name=kube-root-ca.crt";
/// The label that an App's pods have.
const APPS_PODS: &str = "app.kubernetes.io/managed-by=berth";
const ACCOUNT_TOKENS: &str = "type=kubernetes.io/service-account-token";

/// The world as the controllers see it.
pub struct World {
    /// To write with; the controllers' own user.
    pub client: Client,
    /// Which Kubernetes it is.
    pub ground: Ground,
    /// All pods.
    pub pods: Cache<Pod>,
    /// All nodes.
    pub nodes: Cache<Node>,
    /// All namespaces.
    pub namespaces: Cache<Namespace>,
    /// All Services.
    pub services: Cache<Service>,
    /// All ServiceAccounts.
    pub service_accounts: Cache<ServiceAccount>,
    /// The ConfigMaps that hold the cluster's CA, and no others.
    pub root_cas: Cache<ConfigMap>,
    /// All Endpoints.
    pub endpoints: Cache<Endpoints>,
    /// All EndpointSlices.
    pub endpoint_slices: Cache<EndpointSlice>,
    /// All Deployments.
    pub deployments: Cache<Deployment>,
    /// All ReplicaSets.
    pub replica_sets: Cache<ReplicaSet>,
    /// All DaemonSets.
    pub daemon_sets: Cache<DaemonSet>,
    /// All StatefulSets.
    pub stateful_sets: Cache<StatefulSet>,
    /// All ControllerRevisions.
    pub revisions: Cache<ControllerRevision>,
    /// All Jobs.
    pub jobs: Cache<Job>,
    /// All CronJobs.
    pub cron_jobs: Cache<CronJob>,
    /// All Ingresses.
    pub ingresses: Cache<Ingress>,
    /// All ClusterRoles.
    pub cluster_roles: Cache<ClusterRole>,
    /// All PodDisruptionBudgets.
    pub budgets: Cache<PodDisruptionBudget>,
    /// All Leases.
    pub leases: Cache<Lease>,
    /// All Apps.
    pub apps: Cache<App>,
    /// All PersistentVolumes.
    pub volumes: Cache<PersistentVolume>,
    /// All PersistentVolumeClaims.
    pub claims: Cache<PersistentVolumeClaim>,
    /// All StorageClasses.
    pub storage_classes: Cache<StorageClass>,
    /// All ResourceQuotas.
    pub quotas: Cache<ResourceQuota>,
    /// All HorizontalPodAutoscalers.
    pub autoscalers: Cache<HorizontalPodAutoscaler>,
    /// All CertificateSigningRequests.
    pub signing_requests: Cache<CertificateSigningRequest>,
    /// The Secrets that hold an account's token, and no others.
    pub token_secrets: Cache<Secret>,
}

impl World {
    /// Begins to follow every kind, in `tasks`.
    pub fn start(client: Client, tasks: &Tasks) -> Self {
        let everything = Start { client: &client, tasks };
        Self {
            pods: everything.of(),
            nodes: everything.of(),
            namespaces: everything.of(),
            services: everything.of(),
            service_accounts: everything.of(),
            root_cas: everything.selected(Some(ROOT_CA_FIELD)),
            endpoints: everything.of(),
            endpoint_slices: everything.of(),
            deployments: everything.of(),
            replica_sets: everything.of(),
            daemon_sets: everything.of(),
            stateful_sets: everything.of(),
            revisions: everything.of(),
            jobs: everything.of(),
            cron_jobs: everything.of(),
            ingresses: everything.of(),
            cluster_roles: everything.of(),
            budgets: everything.of(),
            leases: everything.of(),
            apps: everything.of(),
            volumes: everything.of(),
            claims: everything.of(),
            storage_classes: everything.of(),
            quotas: everything.of(),
            autoscalers: everything.of(),
            signing_requests: everything.of(),
            token_secrets: everything.selected(Some(ACCOUNT_TOKENS)),
            ground: Ground::default(),
            client,
        }
    }

    /// Begins to follow what a scheduler reads, in `tasks`; every other cache is empty and stays so.
    pub fn for_scheduler(client: Client, tasks: &Tasks) -> Self {
        let read = Start { client: &client, tasks };
        Self {
            pods: read.fed(SlimPods::new(client.clone())),
            nodes: read.of(),
            namespaces: read.of(),
            services: read.of(),
            replica_sets: read.of(),
            budgets: read.fed(Budgets::new(client.clone())),
            volumes: read.of(),
            claims: read.of(),
            storage_classes: read.of(),
            ..Self::empty(client.clone())
        }
    }

    /// Begins to follow what the controllers of Apps read, in `tasks`, of the Kubernetes that
    /// `ground` is; every other cache is empty and stays so.
    pub fn for_apps(client: Client, ground: Ground, tasks: &Tasks) -> Self {
        let read = Start { client: &client, tasks };
        // Of pods, which are many, only those that Apps have.
        let pods = Labelled { api: Api::all(client.clone()), labels: APPS_PODS };
        Self {
            pods: read.fed(pods),
            namespaces: read.of(),
            services: read.of(),
            deployments: read.of(),
            replica_sets: read.of(),
            stateful_sets: read.of(),
            ingresses: read.of(),
            apps: read.of(),
            cron_jobs: read.on(&ground),
            autoscalers: read.on(&ground),
            ground,
            ..Self::empty(client.clone())
        }
    }

    fn empty(client: Client) -> Self {
        Self {
            client,
            ground: Ground::default(),
            pods: empty(),
            nodes: empty(),
            namespaces: empty(),
            services: empty(),
            service_accounts: empty(),
            root_cas: empty(),
            endpoints: empty(),
            endpoint_slices: empty(),
            deployments: empty(),
            replica_sets: empty(),
            daemon_sets: empty(),
            stateful_sets: empty(),
            revisions: empty(),
            jobs: empty(),
            cron_jobs: empty(),
            ingresses: empty(),
            cluster_roles: empty(),
            budgets: empty(),
            leases: empty(),
            apps: empty(),
            volumes: empty(),
            claims: empty(),
            storage_classes: empty(),
            quotas: empty(),
            autoscalers: empty(),
            signing_requests: empty(),
            token_secrets: empty(),
        }
    }

    /// Resolves when every cache holds a full list.
    pub async fn ready(&self) {
        self.pods.ready().await;
        self.nodes.ready().await;
        self.namespaces.ready().await;
        self.services.ready().await;
        self.service_accounts.ready().await;
        self.root_cas.ready().await;
        self.endpoints.ready().await;
        self.endpoint_slices.ready().await;
        self.deployments.ready().await;
        self.replica_sets.ready().await;
        self.daemon_sets.ready().await;
        self.stateful_sets.ready().await;
        self.revisions.ready().await;
        self.jobs.ready().await;
        self.cron_jobs.ready().await;
        self.ingresses.ready().await;
        self.cluster_roles.ready().await;
        self.budgets.ready().await;
        self.leases.ready().await;
        self.apps.ready().await;
        self.volumes.ready().await;
        self.claims.ready().await;
        self.storage_classes.ready().await;
        self.quotas.ready().await;
        self.autoscalers.ready().await;
        self.signing_requests.ready().await;
        self.token_secrets.ready().await;
    }

    /// All objects of a namespaced kind in `namespace`, to write to.
    pub fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// What writes Events under the name of `controller`.
    pub fn recorder(&self, controller: &str) -> Recorder {
        Recorder::new(
            self.client.clone(),
            Reporter { controller: controller.to_owned(), instance: None },
        )
    }
}

/// A cache that nobody fills.
fn empty<K: Kept>() -> Cache<K> {
    let cache = Cache::default();
    cache.replace(Vec::new(), 0);
    cache
}

struct Start<'a> {
    client: &'a Client,
    tasks: &'a Tasks,
}

impl Start<'_> {
    fn of<K: Kept>(&self) -> Cache<K> {
        self.selected(None)
    }

    fn selected<K: Kept>(&self, fields: Option<&'static str>) -> Cache<K> {
        self.fed(Objects { api: Api::all(self.client.clone()), fields })
    }

    fn on<K: Kept>(&self, ground: &Ground) -> Cache<K> {
        match ground.feed(self.client) {
            Some(older) => self.fed(older),
            None => self.of(),
        }
    }

    fn fed<K: Kept>(&self, feed: impl Feed<K>) -> Cache<K> {
        let cache = Cache::default();
        self.tasks.spawn_until_stop("follow", follow(feed, cache.clone()));
        cache
    }
}
