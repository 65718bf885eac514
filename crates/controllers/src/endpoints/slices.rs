//! EndpointSlices: members in portions of at most a hundred, moved as little as possible.
//!
//! A member that is in a slice stays in that slice, so that one pod's change rewrites one slice and
//! every client that follows them reads only that.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::members::{self, Family, Member, Port};
use super::{Plan, Snapshot, is_headless};
use crate::workloads::pod;

/// The Service a slice belongs to.
pub(super) const SERVICE: &str = "kubernetes.io/service-name";
/// Who writes a slice; we touch no other's.
pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Our name there: the one that Kubernetes' own controller uses, so that tools know it.
pub(super) const OURS: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
/// As many members as Kubernetes puts into a slice.
const MOST: usize = 100;

/// Whether we write this slice, for `service`.
pub(super) fn is_ours(slice: &EndpointSlice, service: &str) -> bool {
    pod::label(&slice.metadata, MANAGED_BY) == OURS
        && pod::label(&slice.metadata, SERVICE) == service
}

pub(super) fn plan(snapshot: &Snapshot<'_>, plan: &mut Plan) {
    let name = snapshot.service.metadata.name.as_deref().unwrap_or_default();
    let families = members::families(snapshot.service);
    let ours = snapshot.slices.iter().filter(|slice| is_ours(slice, name));
    let mut rest: Vec<Arc<EndpointSlice>> = ours.cloned().collect();
    for family in families {
        let (there, others) =
            rest.into_iter().partition(|slice| slice.address_type == family.name());
        rest = others;
        one_family(snapshot, family, there, plan);
    }
    plan.delete.extend(rest);
}

fn one_family(
    snapshot: &Snapshot<'_>,
    family: Family,
    mut there: Vec<Arc<EndpointSlice>>,
    plan: &mut Plan,
) {
    let service = snapshot.service;
    let unready = members::publishes_unready(service);
    let mut groups: BTreeMap<Vec<Port>, BTreeMap<String, Endpoint>> = BTreeMap::new();
    for member in members::of(service, snapshot.pods, family) {
        let uid = member.pod.uid.clone().unwrap_or_default();
        groups.entry(member.ports.clone()).or_default().insert(uid, endpoint(&member, unready));
    }
    if groups.is_empty() {
        // One empty slice says "nobody", where no slice would say "not known yet".
        groups.insert(Vec::new(), BTreeMap::new());
    }
    for (ports, mut wanted) in groups {
        let ports: Vec<EndpointPort> = ports.iter().map(port).collect();
        let same = |slice: &Arc<EndpointSlice>| {
            slice.metadata.deletion_timestamp.is_none()
                && slice.ports.as_deref().unwrap_or_default() == ports
        };
        let (mut slices, others) = there.into_iter().partition::<Vec<_>, _>(same);
        there = others;
        slices.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        let mut kept: Vec<(Arc<EndpointSlice>, Vec<Endpoint>)> = Vec::new();
        for slice in slices {
            let known = slice.endpoints.iter().flatten();
            // By the pod's UID; a member that is in two slices stays in the first.
            let staying = known.filter_map(|e| wanted.remove(e.target_ref.as_ref()?.uid.as_ref()?));
            let staying = staying.collect();
            kept.push((slice, staying));
        }
        let mut new: Vec<Endpoint> = wanted.into_values().collect();
        for (_, endpoints) in &mut kept {
            let room = MOST.saturating_sub(endpoints.len()).min(new.len());
            endpoints.extend(new.drain(..room));
        }
        let empty = kept.iter().all(|(_, endpoints)| endpoints.is_empty()) && new.is_empty();
        for (position, (slice, endpoints)) in kept.iter().enumerate() {
            if endpoints.is_empty() && !(empty && position == 0) {
                plan.delete.push(slice.clone());
                continue;
            }
            let changed = EndpointSlice {
                metadata: labelled(service, slice.metadata.clone()),
                endpoints: Some(endpoints.clone()),
                ..(**slice).clone()
            };
            let same = slice.endpoints.as_deref().unwrap_or_default() == endpoints.as_slice();
            if !same || changed.metadata.labels != slice.metadata.labels {
                plan.update.push(changed);
            }
        }
        let portions: Vec<Vec<Endpoint>> = match new.is_empty() {
            true if kept.is_empty() => vec![Vec::new()],
            _ => new.chunks(MOST).map(<[Endpoint]>::to_vec).collect(),
        };
        for endpoints in portions {
            plan.create.push(EndpointSlice {
                metadata: labelled(service, fresh(&service.metadata)),
                address_type: family.name().into(),
                endpoints: Some(endpoints),
                ports: Some(ports.clone()),
            });
        }
    }
    plan.delete.extend(there);
}

fn endpoint(member: &Member, unready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![member.address.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(unready || (member.serving && !member.terminating)),
            serving: Some(member.serving),
            terminating: Some(member.terminating),
        }),
        hostname: member.hostname.clone(),
        node_name: member.node.clone(),
        target_ref: Some(member.pod.clone()),
        ..Default::default()
    }
}

fn port(port: &Port) -> EndpointPort {
    EndpointPort {
        name: Some(port.name.clone()),
        port: Some(port.number),
        protocol: Some(port.protocol.clone()),
        app_protocol: port.app_protocol.clone(),
    }
}

fn fresh(service: &ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        generate_name: Some(format!("{}-", service.name.as_deref().unwrap_or_default())),
        namespace: service.namespace.clone(),
        owner_references: Some(vec![OwnerReference {
            api_version: "v1".into(),
            kind: "Service".into(),
            name: service.name.clone().unwrap_or_default(),
            uid: service.uid.clone().unwrap_or_default(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }]),
        ..Default::default()
    }
}

/// `meta` with the labels that a slice of `service` has: the Service's own and ours.
fn labelled(service: &Service, mut meta: ObjectMeta) -> ObjectMeta {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(SERVICE.into(), service.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY.into(), OURS.into());
    meta.labels = Some(labels);
    meta
}
