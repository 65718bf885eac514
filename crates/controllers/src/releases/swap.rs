//! Swapping images inside pods that are there: same name, same node, same address, same disks.
//!
//! ```text
//!  serving ──▶ traffic off ──3 s──▶ image and release patched ──ready again──▶ serving
//! ```
//!
//! A Deployment would replace pods as soon as its template changes. So it is paused, its ReplicaSet
//! gets the new template (pods are told apart by labels alone, so it keeps them), then the
//! Deployment gets the same one, and finds nothing to do when it goes on. A StatefulSet waits for
//! deletions meanwhile, and its pods are marked as of the new revision.
//!
//! The idea of swapping in place is OpenKruise's; that of moving the template under a paused
//! Deployment is ours, for lack of a workload kind of our own.

use berth_api::release::Release;
use jiff::Timestamp;

use super::plan::{Main, Snapshot};
use crate::apps::template::{DRAIN_SECONDS, Target};

/// One pod of the App.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Instance {
    /// Its name.
    pub name: String,
    /// The number of the release that it says it is of.
    pub release: Option<String>,
    /// Whether it is marked as taking requests; `None` without a mark.
    pub serves: Option<bool>,
    /// Whether it is ready.
    pub ready: bool,
    /// The image that its main container is to have.
    pub image: Option<String>,
    /// The id of its main container.
    pub container: Option<String>,
    /// Since when it has been kept from requests.
    pub drained_at: Option<Timestamp>,
    /// The container that its image was swapped away from.
    pub swapped_from: Option<String>,
    /// Whether its node keeps its address for who comes after it.
    pub holds: bool,
}

/// What is done to one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Touch {
    /// It is marked as taking requests.
    Serve,
    /// Its address is kept.
    Hold,
    /// No more requests go to it.
    Drain,
    /// Its image becomes the goal's.
    Swap {
        /// The container that goes.
        from: Option<String>,
    },
}

/// What is to be done for a swap at this moment.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Swapping {
    /// What the workload is to be.
    pub target: Target,
    /// Whether the ReplicaSet's template has to become the goal's.
    pub retemplate: bool,
    /// Pods to change.
    pub touch: Vec<(String, Touch)>,
    /// How many pods are of the goal and take requests.
    pub done: i32,
    /// Whether all is.
    pub over: bool,
}

/// Pods that have no mark yet.
pub fn unmarked(pods: &[Instance]) -> Vec<(String, Touch)> {
    let bare = pods.iter().filter(|pod| pod.serves.is_none());
    bare.map(|pod| (pod.name.clone(), Touch::Serve)).collect()
}

/// Pods whose addresses nobody would keep.
pub fn unheld(pods: &[Instance]) -> Vec<(String, Touch)> {
    let bare = pods.iter().filter(|pod| !pod.holds);
    bare.map(|pod| (pod.name.clone(), Touch::Hold)).collect()
}

/// The next moves towards `goal`, `at_once` pods at a time.
pub fn plan(
    snapshot: &Snapshot<'_>,
    main: &Main,
    goal: &Release,
    at_once: i32,
    now: Timestamp,
) -> Swapping {
    let name = goal.metadata.name.as_deref();
    let mut plan = Swapping {
        target: Target {
            release: main.release.clone(),
            replicas: snapshot.replicas,
            paused: !snapshot.stateful,
            on_delete: snapshot.stateful,
            partition: 0,
            in_turn: None,
        },
        ..Swapping::default()
    };
    if snapshot.stateful {
        plan.target.release = name.map(str::to_owned);
        if main.release.as_deref() != name || !main.observed {
            return plan;
        }
    } else {
        if !(main.paused && main.observed) {
            return plan;
        }
        if main.set_release != Some(goal.spec.revision) {
            plan.retemplate = true;
            return plan;
        }
        plan.target.release = name.map(str::to_owned);
        if main.release.as_deref() != name {
            return plan;
        }
    }
    pods(snapshot, &mut plan, goal, at_once, now);
    plan
}

fn pods(
    snapshot: &Snapshot<'_>,
    plan: &mut Swapping,
    goal: &Release,
    at_once: i32,
    now: Timestamp,
) {
    let revision = goal.spec.revision.to_string();
    let mut busy = 0;
    let mut waiting = Vec::new();
    for pod in snapshot.pods {
        let is_new = pod.release.as_ref() == Some(&revision);
        let serves = pod.serves != Some(false);
        if is_new && serves && pod.ready {
            plan.done += 1;
        } else if is_new {
            busy += 1;
            let changed = pod.swapped_from.is_none() || pod.swapped_from != pod.container;
            if !serves && pod.ready && changed && pod.container.is_some() {
                plan.touch.push((pod.name.clone(), Touch::Serve));
            }
        } else if serves && pod.image.as_ref() == Some(&goal.spec.image) {
            // Nothing in it restarts: it only has to say of which release it is.
            busy += 1;
            plan.touch.push((pod.name.clone(), Touch::Swap { from: None }));
        } else if let Some(since) = pod.drained_at.filter(|_| !serves) {
            busy += 1;
            // One that takes no requests anyway need not be waited for.
            if !pod.ready || now.duration_since(since).as_secs() >= DRAIN_SECONDS {
                let from = pod.container.clone();
                plan.touch.push((pod.name.clone(), Touch::Swap { from }));
            }
        } else {
            waiting.push(pod);
        }
    }
    plan.over = busy == 0 && waiting.is_empty() && plan.done >= snapshot.replicas;
    // Those that are broken already first: nobody misses them.
    waiting.sort_by_key(|pod| pod.ready);
    let free = usize::try_from((at_once - busy).max(0)).unwrap_or(0);
    let next = waiting.into_iter().take(free);
    plan.touch.extend(next.map(|pod| (pod.name.clone(), Touch::Drain)));
}
