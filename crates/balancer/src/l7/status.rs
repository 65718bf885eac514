//! Where an Ingress is reached, written into its status; and what became of Gateways and routes.
//!
//! Every process writes; what is already so is not written again, so two agree after one write.

mod gateway;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::networking::v1::{Ingress, IngressLoadBalancerIngress};
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::timeout;

use berth_daemon::Backoff;

use super::routes::{StreamReports, Table, stream_routes};
use super::{Address, Config, World};
use crate::streams::NotHad;

const PATIENCE: Duration = Duration::from_secs(5);

/// Keeps the status of the class's Ingresses, of Gateways and their routes, for ever.
pub(super) async fn keep(
    client: Client,
    config: Config,
    mut tables: watch::Receiver<Option<Arc<Table>>>,
    mut not_had: watch::Receiver<NotHad>,
) {
    let addresses: Vec<_> = config.addresses.iter().map(entry).collect();
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    let mut written: Option<(Arc<Table>, StreamReports)> = None;
    loop {
        let table = tables.borrow_and_update().clone();
        let mut failed = false;
        let refused = not_had.borrow_and_update().clone();
        let says = table.map(|table| {
            let (_, streams) = stream_routes(table.world(), &config.scope(), &refused);
            (table, streams)
        });
        let says_more = |(table, streams): &&(Arc<Table>, StreamReports)| {
            written
                .as_ref()
                .is_none_or(|(before, said)| !before.says_the_same(table) || said != streams)
        };
        if let Some((table, streams)) = says.as_ref().filter(says_more) {
            let world = table.world();
            if !world.gateway_classes.is_empty() {
                let (objects, reports) = (world.gateway(), table.reports().with(streams.clone()));
                let (addresses, versions) = (&config.addresses, &world.versions);
                failed |= !gateway::write(&client, &objects, &reports, addresses, versions).await;
            }
            for ingress in outdated(world, &config.ingress_class, &addresses) {
                failed |= !write(&client, &ingress, &addresses).await;
            }
        }
        if failed {
            // Tried again with what is known by then.
            tokio::time::sleep(backoff.next_delay()).await;
            continue;
        }
        backoff.reset();
        written = says;
        tokio::select! {
            changed = tables.changed() => if changed.is_err() { return },
            Ok(()) = not_had.changed() => {}
        }
    }
}

fn entry(address: &Address) -> IngressLoadBalancerIngress {
    match address {
        Address::Ip(ip) => {
            IngressLoadBalancerIngress { ip: Some(ip.to_string()), ..Default::default() }
        }
        Address::Hostname(name) => {
            IngressLoadBalancerIngress { hostname: Some(name.clone()), ..Default::default() }
        }
    }
}

/// The Ingresses whose status says something else.
fn outdated(
    world: &World,
    class: &str,
    addresses: &[IngressLoadBalancerIngress],
) -> Vec<Arc<Ingress>> {
    let says = |ingress: &Ingress| {
        let status = ingress.status.as_ref()?.load_balancer.as_ref()?;
        status.ingress.clone()
    };
    if addresses.is_empty() {
        return Vec::new();
    }
    let differs = |ingress: &Arc<Ingress>| says(ingress).as_deref() != Some(addresses);
    world.served(class).into_iter().filter(differs).collect()
}

async fn write(
    client: &Client,
    ingress: &Ingress,
    addresses: &[IngressLoadBalancerIngress],
) -> bool {
    let (namespace, name) = (ingress.namespace().unwrap_or_default(), ingress.name_any());
    let api: Api<Ingress> = Api::namespaced(client.clone(), &namespace);
    let patch = json!({"status": {"loadBalancer": {"ingress": addresses}}});
    let patching =
        async { api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch)).await };
    match timeout(PATIENCE, patching).await {
        Ok(Ok(_)) => true,
        // It is gone, and the next snapshot will say so.
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => true,
        Ok(Err(error)) => {
            tracing::debug!(%namespace, name, %error, "Ingress status not written");
            false
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::Snapshot;

    #[test]
    fn only_what_differs_is_written() {
        let addresses = [entry(&Address::Ip([192, 0, 2, 1].into()))];
        let check = |class: &str, status: serde_json::Value, expected: bool| {
            let object = json!({"metadata": {"namespace": "n", "name": "web"},
                "spec": {"ingressClassName": class}, "status": status});
            let ingress = Arc::new(serde_json::from_value(object).unwrap());
            let snapshot = Snapshot { ingresses: vec![ingress], ..Snapshot::default() };
            assert_eq!(
                outdated(&World::from(&snapshot), "berth", &addresses).len() == 1,
                expected,
                "{status}"
            );
        };
        let at = |ip: &str| json!({"loadBalancer": {"ingress": [{"ip": ip}]}});
        check("berth", json!({}), true);
        check("berth", json!({"loadBalancer": {}}), true);
        check("berth", at("192.0.2.9"), true);
        check("berth", at("192.0.2.1"), false);
        check("nginx", json!({}), false);
    }
}
