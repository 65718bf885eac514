//! One round of decisions: who is due, what is decided for each, and what the board keeps of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use berth_scheduler::preempt::Preemption;
use berth_scheduler::snapshot::{Gang, Pod, Rebuild};
use berth_scheduler::{Placement, Unschedulable, gang, preempt};
use tokio::time::Instant;

use super::{Board, Decision, Event, Outcome, PARKED, Stage, Waiting};
use crate::driver::Key;

/// What refuses a gang that has waited too long: no filter, so that only new nodes wake it.
const GANG: &str = "Gang";

impl Board {
    /// Decides for at most `limit` pods that are due, in order, and counts each placement.
    ///
    /// A gang is decided for as a whole, so that there may be more decisions than `limit`.
    pub fn decide(&mut self, now: Instant, limit: usize) -> Vec<Decision> {
        while let Some((at, key)) = self.due.first().cloned() {
            if at > now {
                break;
            }
            let event = match self.waiting.get(&key).map(|waiting| waiting.stage) {
                Some(Stage::Parked(_)) => Event::WaitedLong,
                _ => Event::Waited,
            };
            self.enqueue(&key, Stage::Active, event);
        }
        let mut decisions = Vec::new();
        while decisions.len() < limit {
            let Some((.., key)) = self.active.first().cloned() else { break };
            let Some(waiting) = self.waiting.get(&key) else {
                self.active.pop_first();
                continue;
            };
            match waiting.pod.gang.clone() {
                Some(gang) => self.attempt_gang(&key, &gang, now, &mut decisions),
                None => decisions.push(self.attempt(&key, now)),
            }
        }
        decisions
    }

    fn attempt(&mut self, key: &Key, now: Instant) -> Decision {
        let waiting = self.waiting.get(key).expect("the caller has looked");
        let (waited, attempts) = (now.saturating_duration_since(waiting.seen), waiting.attempts);
        let pod = Arc::clone(&waiting.pod);
        let outcome = self.with_volumes(&pod).and_then(|pod| {
            let placement = self.place_for(&pod)?;
            Ok((pod, placement))
        });
        let outcome = match outcome {
            Ok((pod, placement)) => {
                self.assume(key, &pod, &placement);
                Outcome::Bind(placement)
            }
            Err(why) => self.refuse(key, &pod, why, now),
        };
        Decision { key: key.clone(), pod, outcome, waited, attempts }
    }

    /// The pod with what its volumes ask of a node.
    pub(super) fn with_volumes(&self, pod: &Arc<Pod>) -> Result<Arc<Pod>, Unschedulable> {
        if pod.claims.is_empty() {
            return Ok(Arc::clone(pod));
        }
        match self.volumes.needs(pod) {
            Ok(volumes) => Ok(Arc::new(Pod { volumes, ..Pod::clone(pod) })),
            Err(reason) => Err(Unschedulable::prior(self.cluster.nodes().count(), reason)),
        }
    }

    /// Back home if it wants that, else to the best node.
    fn place_for(&mut self, pod: &Arc<Pod>) -> Result<Placement, Unschedulable> {
        let mut refused = None;
        for node in self.homes.of(pod) {
            if !self.cluster.has_node(&node) {
                continue;
            }
            match self.cluster.check(pod, &node) {
                Ok(()) => return Ok(Placement { node, candidates: 1, score: 0 }),
                Err(reasons) => {
                    refused.get_or_insert((node, reasons));
                }
            }
        }
        if let Some((node, reasons)) = refused
            && pod.rebuild == Some(Rebuild::Required)
        {
            let nodes = self.cluster.nodes().count();
            let reasons = reasons.join(", ");
            let text = format!("it must go back to {node}, which refuses: {reasons}");
            return Err(Unschedulable::prior(nodes, text));
        }
        self.cluster.decide(pod)
    }

    pub(super) fn assume(&mut self, key: &Key, pod: &Arc<Pod>, placement: &Placement) {
        let mut placed = Pod::clone(pod);
        placed.node = Some(placement.node.clone());
        let placed = self.cluster.with_devices(&Arc::new(placed), &placement.node);
        self.homes.taken(pod, &placement.node);
        self.cluster.nominate(&placed, None);
        self.cluster.place(Arc::clone(&placed), &placement.node);
        self.unqueue(key);
        self.assumed.insert(key.clone(), placed);
    }

    fn refuse(&mut self, key: &Key, pod: &Arc<Pod>, why: Unschedulable, now: Instant) -> Outcome {
        let mut refused_by: BTreeSet<&'static str> = why.by_filter.keys().copied().collect();
        if why.prior.is_some() && !pod.claims.is_empty() {
            refused_by.insert("VolumeBinding");
        }
        self.wait_longer(key, now, refused_by);
        let lower = self.priorities.keys().next().is_some_and(|lowest| *lowest < pod.priority);
        if why.prior.is_some() || why.resolvable == 0 || !lower {
            let note = (why.prior.is_none() && why.nodes > 0).then(|| not_helpful(&why));
            return Outcome::Refuse { why, preemption: None, note };
        }
        let budgets: Vec<_> = self.budgets.values().cloned().collect();
        match preempt::preempt(&mut self.cluster, pod, &budgets) {
            Ok(preemption) => {
                self.cluster.nominate(pod, Some(&preemption.node));
                self.awaits(key, &preemption);
                Outcome::Refuse { why, preemption: Some(preemption), note: None }
            }
            Err(none) => Outcome::Refuse { why, preemption: None, note: Some(none.to_string()) },
        }
    }

    /// The pod is tried when the last of these has gone.
    fn awaits(&mut self, key: &Key, preemption: &Preemption) {
        let Some(waiting) = self.waiting.get_mut(key) else { return };
        waiting.victims = preemption.victims.iter().map(|victim| victim.uid.clone()).collect();
        let victims = waiting.victims.iter().map(|uid| (uid.clone(), key.clone()));
        self.leaving.extend(victims);
    }

    fn attempt_gang(&mut self, key: &Key, gang: &Gang, now: Instant, out: &mut Vec<Decision>) {
        let of_gang = |pod: &Pod| {
            pod.namespace == key.namespace
                && pod.gang.as_ref().is_some_and(|other| other.name == gang.name)
        };
        let mut members: Vec<(Key, &Waiting)> = self
            .waiting
            .iter()
            .filter(|(_, waiting)| of_gang(&waiting.pod))
            .map(|(key, waiting)| (key.clone(), waiting))
            .collect();
        members.sort_by(|(one, first), (other, second)| {
            (first.created, one).cmp(&(second.created, other))
        });
        let there = self.placed.values().chain(self.assumed.values());
        let there = there.filter(|pod| of_gang(pod) && !pod.terminating).count();
        let meta: Vec<_> = members
            .iter()
            .map(|(key, waiting)| {
                let waited = now.saturating_duration_since(waiting.seen);
                (key.clone(), Arc::clone(&waiting.pod), waited, waiting.attempts)
            })
            .collect();
        let least = meta.iter().filter_map(|(_, pod, ..)| pod.gang.as_ref()).map(|own| own.least);
        let least = least.max().unwrap_or(1);
        let ready: Result<Vec<_>, _> =
            meta.iter().map(|(_, pod, ..)| self.with_volumes(pod)).collect();
        let mut rooms = Vec::new();
        let placed = match ready {
            Ok(_) if there + meta.len() < least => Err(format!(
                "the gang {} needs {least} pods at once, and {} exist",
                gang.name,
                there + meta.len()
            )),
            Ok(pods) => gang::place(&mut self.cluster, &pods, there, least).map_err(|few| {
                rooms = self.room_for_gang(&pods, there, least);
                few.to_string().trim_end_matches('.').to_owned()
            }),
            Err(why) => Err(why.prior.unwrap_or_default()),
        };
        match placed {
            Ok(outcomes) => {
                for ((key, _, waited, attempts), (pod, outcome)) in meta.into_iter().zip(outcomes) {
                    let outcome = match outcome {
                        Ok(placement) => {
                            self.assume(&key, &pod, &placement);
                            Outcome::Bind(placement)
                        }
                        Err(why) => self.refuse(&key, &pod, why, now),
                    };
                    out.push(Decision { key, pod, outcome, waited, attempts });
                }
            }
            Err(mut reason) => {
                let nodes = self.cluster.nodes().count();
                let patience = meta.iter().filter_map(|(_, pod, ..)| pod.gang.as_ref());
                let patience = patience.map(|own| own.patience).max().unwrap_or_default();
                let waited = meta.iter().map(|(.., waited, _)| *waited).max().unwrap_or_default();
                let left = patience.saturating_sub(waited);
                if left.is_zero() {
                    reason = format!(
                        "the gang {} found no room within {} s and makes way for others; {reason}",
                        gang.name,
                        patience.as_secs()
                    );
                }
                for (key, pod, waited, attempts) in meta {
                    if left.is_zero() {
                        // Tried again when nodes change, when one of it comes, and now and then.
                        self.cluster.nominate(&pod, None);
                        self.wait_longer(&key, now, BTreeSet::from([GANG]));
                    } else {
                        // Any change may let the whole in.
                        self.wait_longer(&key, now, BTreeSet::new());
                        self.stage(&key, Stage::Parked(now + left.min(PARKED)));
                    }
                    let room = rooms.iter().position(|(other, _)| other.uid == pod.uid);
                    let preemption = room.filter(|_| !left.is_zero()).map(|at| {
                        let (_, preemption) = rooms.swap_remove(at);
                        self.cluster.nominate(&pod, Some(&preemption.node));
                        preemption
                    });
                    let why = Unschedulable::prior(nodes, reason.clone());
                    let outcome = Outcome::Refuse { why, preemption, note: None };
                    out.push(Decision { key, pod, outcome, waited, attempts });
                }
            }
        }
    }
}

impl Board {
    /// Who must go so that a whole gang fits; nobody, where that would not be enough.
    fn room_for_gang(
        &mut self,
        pods: &[Arc<Pod>],
        there: usize,
        least: usize,
    ) -> Vec<(Arc<Pod>, Preemption)> {
        let highest = pods.iter().map(|pod| pod.priority).max();
        if self.priorities.keys().next().is_none_or(|lowest| Some(*lowest) >= highest) {
            return Vec::new();
        }
        let budgets: Vec<_> = self.budgets.values().cloned().collect();
        gang::make_room(&mut self.cluster, pods, there, least, &budgets).unwrap_or_default()
    }
}

/// What Kubernetes says where taking pods off would not help.
fn not_helpful(why: &Unschedulable) -> String {
    let mut parts = Vec::new();
    if why.resolvable > 0 {
        parts.push(format!("{} No preemption victims found for incoming pod", why.resolvable));
    }
    let hopeless = why.nodes.saturating_sub(why.resolvable);
    if hopeless > 0 {
        parts.push(format!("{hopeless} Preemption is not helpful for scheduling"));
    }
    format!("preemption: 0/{} nodes are available: {}.", why.nodes, parts.join(", "))
}
