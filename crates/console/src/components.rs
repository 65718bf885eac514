//! What the cluster is made of, and whether it is well: for everybody who is logged in, whatever
//! else they may see.
//!
//! ```text
//!  /readyz, /version ─────────────────────┐
//!  Leases of nodes, and of who leads ─────┼─▶ Component … ─▶ GET /components
//!  Deployments and DaemonSets of Berth ───┘
//! ```
//!
//! Asked for when somebody looks, once for all who do.

use std::sync::Arc;
use std::time::Duration;

use berth_api::labels;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::ListParams;
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;

use crate::database::now;

/// What is younger is not asked for again.
const FRESH_MS: i64 = 5_000;
const CALL: Duration = Duration::from_secs(5);
/// Components, or nodes of a fleet.
const MOST: u32 = 10_000;
const NODES: &str = "kube-node-lease";
/// Where who leads says so.
const LEADERS: [&str; 2] = ["kube-system", "berth-system"];
/// Seconds that a Lease holds which does not say.
const LEASE_SECONDS: i32 = 40;
/// What the API server of `berth up` has in its version: its process is all of these.
const OWN: &str = "-berth";
const ONE_PROCESS: [&str; 4] = ["API server", "controllers", "scheduler", "registry"];

/// One part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Component {
    pub name: String,
    /// `process`, `nodes`, `leader`, `Deployment` or `DaemonSet`.
    pub kind: &'static str,
    /// Empty for what is in none.
    pub namespace: String,
    pub well: bool,
    /// How many of how many, or who leads.
    pub said: String,
}

/// The cluster's parts.
#[derive(Clone)]
pub(crate) struct Components {
    client: Client,
    known: Arc<Mutex<(i64, Arc<Vec<Component>>)>>,
}

impl Components {
    /// Asks nothing yet.
    pub fn new(client: Client) -> Self {
        Self { client, known: Arc::default() }
    }

    /// All of them, as they were at most [`FRESH_MS`] ago.
    pub async fn list(&self) -> Arc<Vec<Component>> {
        let mut known = self.known.lock().await;
        if now() - known.0 > FRESH_MS {
            *known = (now(), Arc::new(look(&self.client).await));
        }
        known.1.clone()
    }
}

async fn look(client: &Client) -> Vec<Component> {
    let own = format!("{}={}", labels::PART_OF, labels::BERTH);
    let (process, leases, deployments, daemons) = tokio::join!(
        process(client),
        all::<Lease>(client, ""),
        all::<Deployment>(client, &own),
        all::<DaemonSet>(client, &own),
    );
    let mut found = process;
    let at = Timestamp::now();
    found.extend(nodes(&leases, at));
    found.extend(leases.iter().filter_map(|lease| leader(lease, at)));
    found.extend(deployments.iter().map(|one| {
        let status = one.status.as_ref();
        let wanted = one.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        counted("Deployment", one, status.and_then(|s| s.ready_replicas).unwrap_or(0), wanted)
    }));
    found.extend(daemons.iter().map(|one| {
        let status = one.status.as_ref();
        let wanted = status.map_or(0, |status| status.desired_number_scheduled);
        counted("DaemonSet", one, status.map_or(0, |status| status.number_ready), wanted)
    }));
    found
}

/// The API server, and what else is in its process.
async fn process(client: &Client) -> Vec<Component> {
    let request = http::Request::get("/readyz").body(Vec::new()).expect("the path is one");
    let ready = tokio::time::timeout(CALL, client.request_text(request)).await;
    let version = tokio::time::timeout(CALL, client.apiserver_version()).await;
    let version = match version {
        Ok(Ok(version)) => version.git_version,
        _ => String::new(),
    };
    let well = matches!(ready, Ok(Ok(_)));
    let parts = if version.contains(OWN) { &ONE_PROCESS[..] } else { &ONE_PROCESS[..1] };
    let one = |name: &&str| Component {
        name: (*name).to_owned(),
        kind: "process",
        namespace: String::new(),
        well,
        said: version.clone(),
    };
    parts.iter().map(one).collect()
}

/// Node agents, by their leases: together, as there may be thousands.
fn nodes(leases: &[Lease], at: Timestamp) -> Option<Component> {
    let own: Vec<_> =
        leases.iter().filter(|lease| lease.namespace().as_deref() == Some(NODES)).collect();
    let fresh = own.iter().filter(|lease| holds(lease, at)).count();
    (!own.is_empty()).then(|| Component {
        name: "node agents".to_owned(),
        kind: "nodes",
        namespace: String::new(),
        well: fresh == own.len(),
        said: format!("{fresh}/{}", own.len()),
    })
}

fn leader(lease: &Lease, at: Timestamp) -> Option<Component> {
    let namespace = lease.namespace().unwrap_or_default();
    let holder = lease.spec.as_ref()?.holder_identity.clone().unwrap_or_default();
    // API servers of Kubernetes name themselves there too, and nobody ends what they leave behind.
    let serves = lease.labels().contains_key("apiserver.kubernetes.io/identity");
    (LEADERS.contains(&&*namespace) && !serves).then(|| Component {
        name: lease.name_any(),
        kind: "leader",
        namespace,
        well: !holder.is_empty() && holds(lease, at),
        said: holder,
    })
}

/// Whether it was renewed in time.
fn holds(lease: &Lease, at: Timestamp) -> bool {
    let Some(spec) = &lease.spec else { return false };
    let seconds = spec.lease_duration_seconds.unwrap_or(LEASE_SECONDS);
    let age = spec.renew_time.as_ref().map(|time| at.duration_since(time.0));
    age.is_some_and(|age| age.as_secs() <= i64::from(seconds))
}

fn counted<K: Resource>(kind: &'static str, object: &K, have: i32, want: i32) -> Component {
    Component {
        name: object.name_any(),
        kind,
        namespace: object.namespace().unwrap_or_default(),
        well: have >= want,
        said: format!("{have}/{want}"),
    }
}

/// Those that carry the label; none where the API server does not tell.
async fn all<K>(client: &Client, label: &str) -> Vec<K>
where
    K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
    K::DynamicType: Default,
{
    let api: Api<K> = Api::all(client.clone());
    let params = ListParams::default().labels(label).limit(MOST);
    match tokio::time::timeout(CALL, api.list(&params)).await {
        Ok(Ok(list)) => list.items,
        Ok(Err(error)) => {
            tracing::debug!(%error, "the cluster's parts");
            Vec::new()
        }
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lease(namespace: &str, name: &str, renewed: &str) -> Lease {
        serde_json::from_value(json!({
            "metadata": { "namespace": namespace, "name": name },
            "spec": { "holderIdentity": "a", "leaseDurationSeconds": 40, "renewTime": renewed },
        }))
        .unwrap()
    }

    #[test]
    fn who_renews_its_lease_is_well() {
        let at: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let (late, early) = ("2026-01-01T00:00:30.000000Z", "2026-01-01T00:00:10.000000Z");
        let leases =
            [lease(NODES, "a", late), lease(NODES, "b", early), lease("kube-system", "s", early)];
        let agents = nodes(&leases, at).unwrap();
        assert_eq!((agents.well, agents.said.as_str()), (false, "1/2"));
        let leaders: Vec<_> = leases.iter().filter_map(|one| leader(one, at)).collect();
        assert_eq!((leaders.len(), leaders[0].well), (1, false), "it was not renewed in time");
        assert!(leader(&lease("kube-system", "s", late), at).unwrap().well);
        assert!(leader(&lease("default", "s", late), at).is_none(), "somebody else's");
    }
}
