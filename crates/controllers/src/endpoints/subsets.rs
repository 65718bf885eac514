//! Endpoints, the older form: every address of a Service in one object, ready or not.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::members::{self, Member, Port};
use super::{Snapshot, is_headless};

/// Who writes Endpoints; only those are removed with their Service.
pub(super) const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
pub(super) const OURS: &str = "endpoint-controller";
const HEADLESS: &str = "service.kubernetes.io/headless";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Addresses beyond this are left out, as Kubernetes does: the object would outgrow the store.
const MOST: usize = 1000;

/// The Endpoints as they should be, unless they are.
pub(super) fn plan(snapshot: &Snapshot<'_>) -> Option<Endpoints> {
    let service = snapshot.service;
    let unready = members::publishes_unready(service);
    let family = *members::families(service).first()?;
    let mut members = members::of(service, snapshot.pods, family);
    members.retain(|member| unready || !member.terminating);
    // Ready ones first, should some have to be left out.
    members.sort_by_key(|member| !(unready || member.serving));
    let truncated = members.len() > MOST;
    members.truncate(MOST);

    let has_ports =
        service.spec.as_ref().is_some_and(|s| s.ports.iter().flatten().next().is_some());
    let mut groups: BTreeMap<Vec<Port>, EndpointSubset> = BTreeMap::new();
    for member in members {
        if member.ports.is_empty() && has_ports {
            continue; // it has none of the named ports
        }
        let subset = groups.entry(member.ports.clone()).or_default();
        let ready = unready || member.serving;
        let list = if ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        list.get_or_insert_default().push(address(member));
    }
    let subsets: Vec<EndpointSubset> = groups
        .into_iter()
        .map(|(ports, mut subset)| {
            let by_ip = |list: &mut Option<Vec<EndpointAddress>>| {
                if let Some(list) = list {
                    list.sort_by(|a, b| a.ip.cmp(&b.ip));
                }
            };
            by_ip(&mut subset.addresses);
            by_ip(&mut subset.not_ready_addresses);
            subset.ports = (!ports.is_empty()).then(|| ports.iter().map(port).collect());
            subset
        })
        .collect();

    let before = snapshot.endpoints;
    let mut meta = before.map(|before| before.metadata.clone()).unwrap_or_else(|| ObjectMeta {
        name: service.metadata.name.clone(),
        namespace: service.metadata.namespace.clone(),
        ..Default::default()
    });
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(MANAGED_BY.into(), OURS.into());
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    meta.labels = Some(labels);
    if truncated {
        let annotations = meta.annotations.get_or_insert_default();
        annotations.insert(OVER_CAPACITY.into(), "truncated".into());
    } else if let Some(annotations) = &mut meta.annotations {
        annotations.remove(OVER_CAPACITY);
    }
    let same = before.is_some_and(|before| {
        before.subsets.as_deref().unwrap_or_default() == subsets
            && before.metadata.labels == meta.labels
            && before.metadata.annotations == meta.annotations
    });
    (!same).then_some(Endpoints { metadata: meta, subsets: Some(subsets) })
}

fn address(member: Member) -> EndpointAddress {
    EndpointAddress {
        ip: member.address.to_string(),
        hostname: member.hostname,
        node_name: member.node,
        target_ref: Some(member.pod),
    }
}

fn port(port: &Port) -> EndpointPort {
    EndpointPort {
        name: Some(port.name.clone()).filter(|name| !name.is_empty()),
        port: port.number,
        protocol: Some(port.protocol.clone()),
        app_protocol: port.app_protocol.clone(),
    }
}
