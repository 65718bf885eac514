//! The sizes of the sets: step by step from old to new, in proportion while a rollout is resized.

use std::cmp::Reverse;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;

use super::{Plan, Sets, Wanted, age, available, revision, scaled, size, still_running};
use crate::workloads::pod::annotation;

/// How large the new set may be now, when it is `current` large.
pub(super) fn room(wanted: &Wanted<'_>, sets: &Sets, current: i32) -> i32 {
    if wanted.recreate {
        return wanted.replicas;
    }
    let free = wanted.most() - sets.total();
    if free <= 0 { current } else { current + free.min(wanted.replicas - current).max(0) }
}

/// Writes `set` with `replicas` into the plan, if that or its annotations differ.
pub(super) fn resize(wanted: &Wanted<'_>, set: &ReplicaSet, replicas: i32, plan: &mut Plan) {
    let mut changed = set.clone();
    let annotations = changed.metadata.annotations.get_or_insert_default();
    annotations.insert(revision::DESIRED.into(), wanted.replicas.to_string());
    annotations.insert(revision::MAX.into(), wanted.most().to_string());
    if let Some(spec) = &mut changed.spec {
        spec.replicas = Some(replicas);
    }
    if changed == *set {
        return;
    }
    if size(set) != replicas {
        plan.notes.push(scaled(set, size(set), replicas));
    }
    plan.update.push(changed);
}

/// One step of a rolling update: the new set grows into the room there is; when it cannot, the old
/// ones give way as far as availability allows, the unhealthy first.
pub(super) fn roll(wanted: &Wanted<'_>, sets: &Sets, new: &ReplicaSet, plan: &mut Plan) {
    let target =
        if size(new) > wanted.replicas { wanted.replicas } else { room(wanted, sets, size(new)) };
    if target != size(new) {
        return resize(wanted, new, target, plan);
    }
    let old: Vec<_> = sets.old.iter().filter(|set| size(set) > 0).collect();
    if old.is_empty() {
        return;
    }
    let least = wanted.replicas - wanted.unavailable;
    let new_unavailable = (size(new) - available(new)).max(0);
    let mut budget = sets.total() - least - new_unavailable;
    if budget <= 0 {
        return;
    }
    let mut sizes: Vec<i32> = old.iter().map(|set| size(set)).collect();
    for (set, left) in old.iter().zip(&mut sizes) {
        let unhealthy = (*left - available(set)).clamp(0, budget);
        *left -= unhealthy;
        budget -= unhealthy;
    }
    let mut spare = sets.all().map(|set| available(set)).sum::<i32>() - least;
    for left in &mut sizes {
        let less = (*left).min(spare.max(0)).min(budget.max(0));
        *left -= less;
        spare -= less;
        budget -= less;
    }
    for (set, left) in old.into_iter().zip(sizes) {
        if left != size(set) {
            resize(wanted, set, left, plan);
        }
    }
}

/// For `Recreate`: whether the new pods must still wait; old sets are told to end meanwhile.
pub(super) fn old_must_end(
    wanted: &Wanted<'_>,
    sets: &Sets,
    pods: &[Arc<Pod>],
    plan: &mut Plan,
) -> bool {
    for set in sets.old.iter().filter(|set| size(set) > 0) {
        resize(wanted, set, 0, plan);
    }
    !plan.update.is_empty() || still_running(pods, &sets.old)
}

/// Whether `spec.replicas` changed since the sets were last sized.
pub(super) fn resized(wanted: &Wanted<'_>, sets: &Sets) -> bool {
    sets.all()
        .filter(|set| size(set) > 0)
        .any(|set| noted(set, revision::DESIRED).is_some_and(|desired| desired != wanted.replicas))
}

/// Sizes the sets for a changed `spec.replicas` without moving the rollout on.
pub(super) fn scale(wanted: &Wanted<'_>, sets: &Sets, plan: &mut Plan) {
    let mut active: Vec<_> = sets.all().filter(|set| size(set) > 0).cloned().collect();
    if active.len() <= 1 {
        let newest = || sets.new.clone().or_else(|| sets.old.iter().max_by_key(|s| of(s)).cloned());
        if let Some(only) = active.pop().or_else(newest) {
            resize(wanted, &only, wanted.replicas, plan);
        }
        return;
    }
    if let Some(new) = sets.new.as_ref().filter(|new| saturated(wanted, new)) {
        for set in active.iter().filter(|set| *set != new) {
            resize(wanted, set, 0, plan);
        }
        return;
    }
    if wanted.recreate {
        return;
    }
    let total: i32 = active.iter().map(|set| size(set)).sum();
    let change = wanted.most() - total;
    // What cannot be shared evenly goes to the largest; among equals growth goes to the newer ones
    // and shrinking takes from the older ones.
    active.sort_by(|a, b| {
        let by_size = Reverse(size(a)).cmp(&Reverse(size(b)));
        by_size.then_with(|| if change > 0 { age(b).cmp(&age(a)) } else { age(a).cmp(&age(b)) })
    });
    let mut sizes: Vec<i32> = active.iter().map(|set| size(set)).collect();
    let mut given = 0;
    for (set, target) in active.iter().zip(&mut sizes) {
        let rest = change - given;
        if rest == 0 {
            break;
        }
        let share = fraction(wanted, set, total);
        let share = if change > 0 { share.clamp(0, rest) } else { share.clamp(rest, 0) };
        *target += share;
        given += share;
    }
    if let Some(first) = sizes.first_mut() {
        *first = (*first + change - given).max(0);
    }
    for (set, target) in active.iter().zip(sizes) {
        resize(wanted, set, target.max(0), plan);
    }
}

/// How much `set` should grow (or shrink, negative) to keep its part of the whole.
fn fraction(wanted: &Wanted<'_>, set: &ReplicaSet, total: i32) -> i32 {
    if wanted.replicas == 0 {
        return -size(set);
    }
    let before = noted(set, revision::MAX).filter(|max| *max > 0).unwrap_or(total.max(1));
    let target = f64::from(size(set)) * f64::from(wanted.most()) / f64::from(before);
    target.round() as i32 - size(set)
}

fn saturated(wanted: &Wanted<'_>, new: &ReplicaSet) -> bool {
    size(new) == wanted.replicas
        && noted(new, revision::DESIRED) == Some(wanted.replicas)
        && available(new) == wanted.replicas
}

/// Removes the oldest sets beyond the history limit; never one that has pods or is being written.
pub(super) fn forget(wanted: &Wanted<'_>, sets: &Sets, plan: &mut Plan) {
    let limit = usize::try_from(wanted.spec.revision_history_limit.unwrap_or(10)).unwrap_or(0);
    let mut idle: Vec<_> = sets.old.iter().filter(|set| is_idle(set)).cloned().collect();
    idle.sort_by_key(|set| of(set));
    let surplus = sets.old.len().saturating_sub(limit);
    plan.delete.extend(idle.into_iter().take(surplus));
}

fn is_idle(set: &ReplicaSet) -> bool {
    let status = set.status.as_ref();
    size(set) == 0
        && status.is_some_and(|status| status.replicas == 0)
        && status.and_then(|status| status.observed_generation) >= set.metadata.generation
        && set.metadata.deletion_timestamp.is_none()
}

fn of(set: &ReplicaSet) -> i64 {
    revision::of(&set.metadata)
}

fn noted(set: &ReplicaSet, key: &str) -> Option<i32> {
    annotation(&set.metadata, key).and_then(|text| text.parse().ok())
}
