//! Leases and statuses at the kubelet's rates, spread evenly, so that the load has no peaks.

use std::time::Duration;

use futures::{StreamExt, stream};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tokio::time::MissedTickBehavior;

use super::nodes::{LEASES, lease, status};
use super::{Counts, Options, answered};

/// A round of leases takes the kubelet's renewal interval, in so many steps.
const STEP: Duration = Duration::from_millis(100);
const STEPS: usize = 100;
/// A status every so many rounds: five minutes.
const ROUNDS: usize = 30;

/// Beats for ever. A beat that fails is left out: the next one comes soon.
pub(super) async fn beat(client: Client, options: &Options, counts: &Counts) {
    let leases: &Api<Lease> = &Api::namespaced(client.clone(), LEASES);
    let nodes: &Api<Node> = &Api::all(client);
    let mut ticks = tokio::time::interval(STEP);
    // A slow API server gets fewer beats, not a burst.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for step in 0_usize.. {
        ticks.tick().await;
        let due = (step % STEPS..options.nodes).step_by(STEPS);
        stream::iter(due)
            .map(|index| async move {
                let name = options.name(index);
                let renewed = Patch::Merge(json!({ "spec": lease(&name) }));
                let plain = PatchParams::default();
                let mut done = answered(leases.patch(&name, &plain, &renewed)).await.map(drop);
                if (index / STEPS + step / STEPS).is_multiple_of(ROUNDS) {
                    let told = Patch::Merge(json!({ "status": status(options, &name) }));
                    let told = answered(nodes.patch_status(&name, &plain, &told)).await;
                    done = done.and(told.map(drop));
                }
                match done {
                    Ok(()) => Counts::one_more(&counts.beats),
                    Err(error) => {
                        Counts::one_more(&counts.failed);
                        tracing::debug!(%error, node = name, "a heartbeat is missing");
                    }
                }
            })
            .buffer_unordered(options.in_flight.max(1))
            .for_each(async |()| {})
            .await;
    }
}
