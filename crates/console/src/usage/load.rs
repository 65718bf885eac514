//! What nodes and Apps hold and use at this moment: asked for once, however many people look.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use berth_api::Quantity;
use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use serde::Serialize;

use super::Usage;
use super::sample::{measured, measured_nodes, seen};
use super::tally::{Amount, Seen};
use crate::database::now;

/// What is younger is not asked for again.
const FRESH_MS: i64 = 10_000;
const CALL: Duration = Duration::from_secs(10);
const PAGE: u32 = 500;

/// One moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Load {
    /// Milliseconds since 1970.
    pub at: i64,
    /// By name.
    pub nodes: Vec<NodeLoad>,
    /// By namespace and name; pods of no App are in none.
    pub apps: Vec<AppLoad>,
}

/// Millicores and bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct NodeLoad {
    pub name: String,
    /// What pods may ask for.
    pub allocatable: Amount,
    pub requested: Amount,
    pub pods: u32,
    /// None where nobody measures.
    pub used: Option<Amount>,
}

/// Millicores and bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct AppLoad {
    pub namespace: String,
    pub app: String,
    pub requested: Amount,
    /// None where nobody measures.
    pub used: Option<Amount>,
}

impl Usage {
    /// What nodes and Apps hold and use, at most [`FRESH_MS`] ago.
    ///
    /// # Errors
    /// When the API server does not tell its nodes.
    pub(crate) async fn load(&self, client: &Client) -> Result<Arc<Load>, kube::Error> {
        // Whoever comes meanwhile waits for the answer of who came first.
        let mut known = self.load.lock().await;
        if let Some(load) = known.as_ref().filter(|load| now() - load.at < FRESH_MS) {
            return Ok(load.clone());
        }
        let (nodes, nodes_used, pods_used) =
            tokio::join!(nodes(client), measured_nodes(client), measured(client));
        let pods = seen(&self.pods, pods_used.as_ref().unwrap_or(&HashMap::new()));
        let mut load = add_up(nodes?, nodes_used, &pods.unwrap_or_default(), pods_used.is_some());
        load.at = now();
        let load = Arc::new(load);
        *known = Some(load.clone());
        Ok(load)
    }
}

async fn nodes(client: &Client) -> Result<Vec<(String, Amount)>, kube::Error> {
    let api: Api<Node> = Api::all(client.clone());
    let mut all = Vec::new();
    let mut next = None;
    loop {
        let params = ListParams { limit: Some(PAGE), continue_token: next, ..Default::default() };
        let page = match tokio::time::timeout(CALL, api.list(&params)).await {
            Ok(page) => page?,
            Err(late) => return Err(kube::Error::Service(Box::new(late))),
        };
        all.extend(page.items.iter().map(|node| (node.name_any(), allocatable(node))));
        next = page.metadata.continue_.filter(|token| !token.is_empty());
        if next.is_none() {
            return Ok(all);
        }
    }
}

fn allocatable(node: &Node) -> Amount {
    let all = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
    let read = |what: &str| all?.get(what)?.0.parse::<Quantity>().ok();
    Amount {
        cpu: read("cpu").map_or(0, |cpu| cpu.millis()),
        memory: read("memory").map_or(0, |memory| memory.whole()),
    }
}

fn add_up(
    nodes: Vec<(String, Amount)>,
    used: Option<HashMap<String, Amount>>,
    pods: &[Seen],
    measured: bool,
) -> Load {
    let used = used.unwrap_or_default();
    let mut by_node: BTreeMap<String, NodeLoad> = nodes
        .into_iter()
        .map(|(name, allocatable)| {
            let used = used.get(&name).copied();
            (name.clone(), NodeLoad { name, allocatable, used, ..NodeLoad::default() })
        })
        .collect();
    let mut by_app: BTreeMap<(&str, &str), AppLoad> = BTreeMap::new();
    for pod in pods {
        if let Some(node) = by_node.get_mut(&*pod.node) {
            node.requested.add(pod.requested);
            node.pods += 1;
        }
        if pod.app.is_empty() {
            continue;
        }
        let app = by_app.entry((&pod.namespace, &pod.app)).or_insert_with(|| AppLoad {
            namespace: pod.namespace.to_string(),
            app: pod.app.to_string(),
            used: measured.then(Amount::default),
            ..AppLoad::default()
        });
        app.requested.add(pod.requested);
        if let Some(used) = &mut app.used {
            used.add(pod.used);
        }
    }
    let (nodes, apps) = (by_node.into_values().collect(), by_app.into_values().collect());
    Load { at: 0, nodes, apps }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amount(cpu: i64) -> Amount {
        Amount { cpu, memory: cpu << 20 }
    }

    fn pod(node: &str, app: &str, requested: i64, used: i64) -> Seen {
        Seen {
            namespace: "shop".into(),
            app: app.into(),
            node: node.into(),
            requested: amount(requested),
            used: amount(used),
        }
    }

    #[test]
    fn pods_add_up_by_node_and_by_app() {
        let nodes = vec![("a".to_owned(), amount(4000)), ("b".to_owned(), amount(2000))];
        let pods = [pod("a", "web", 500, 20), pod("b", "web", 500, 30), pod("a", "", 100, 1)];
        let used = HashMap::from([("a".to_owned(), amount(90))]);
        let load = add_up(nodes.clone(), Some(used), &pods, true);
        let said: Vec<_> =
            load.nodes.iter().map(|node| (node.requested.cpu, node.pods, node.used)).collect();
        assert_eq!(said, [(600, 2, Some(amount(90))), (500, 1, None)]);
        assert_eq!((load.apps.len(), load.apps[0].requested), (1, amount(1000)));
        assert_eq!(load.apps[0].used, Some(amount(50)));
        let unmeasured = add_up(nodes, None, &pods, false);
        assert_eq!((unmeasured.apps[0].used, unmeasured.nodes[0].used), (None, None));
    }
}
