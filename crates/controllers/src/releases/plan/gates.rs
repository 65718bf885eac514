//! Whether a step may be left, has to be taken back, or is only told of.

use std::time::Duration;

use berth_api::app::StrategyType;
use berth_api::release::Phase;

use super::{
    CHECKS, Kind, LOOK, ON_REQUEST, Room, Run, TO_BE_PROMOTED, describe, has_before, name, number,
    parse, portion,
};
use crate::releases::{balancer, judge, swap};

/// Two colours would be two truths, and one of them is thrown away.
const ONE_SET_OF_DISKS: &str = "blueGreen is not possible with storage: each colour would have \
    disks of its own, and what the one that goes had written would go with it; choose rolling, \
    canary or inPlace";

impl Run<'_> {
    /// Whether new instances come into the addresses of those before.
    fn hands_on(&self) -> bool {
        self.plan.status.steps.iter().any(|step| Kind::of(step) == Kind::Hold)
    }

    /// How many go at a time before as many come, where addresses are handed on.
    pub(super) fn in_turn(&self) -> Option<i32> {
        let unavailable = self.bounds().unavailable;
        let two = 2.min(self.snapshot.replicas - 1);
        let count = if unavailable > 0 { unavailable } else { two };
        self.hands_on().then_some(count.max(1))
    }

    /// New instances keep their addresses too: those before come back into them when it is aborted.
    pub(super) fn hold_on(&mut self) {
        if self.hands_on() {
            self.plan.touch = swap::unheld(self.snapshot.pods);
        }
    }

    /// Whether room for what comes in addition is set aside, or nobody does that here.
    pub(super) fn reserve(&mut self) -> bool {
        self.plan.reserve = self.slots();
        let Some(slots) = self.plan.reserve else { return true };
        match &self.snapshot.room {
            Room::NotKept => {
                self.plan.reserve = None;
                self.note(format!(
                    "room for {slots} more was not reserved: the pods' scheduler keeps no \
                     reservations, so new instances may wait for a node"
                ));
                true
            }
            Room::Held => true,
            Room::Missing(what) => {
                self.plan.status.message = format!("waits for room for {slots} more: {what}");
                self.plan.again = Some(LOOK);
                false
            }
        }
    }

    fn note(&mut self, note: String) {
        let notes = &mut self.plan.status.notes;
        if !notes.contains(&note) {
            notes.push(note);
        }
    }

    /// Why the release cannot be carried out: by what the App is, or on this ground.
    pub(super) fn impossible(&self) -> Option<String> {
        let spec = &self.snapshot.release.spec;
        let doubles = spec.strategy.kind == StrategyType::BlueGreen && spec.rollback_to.is_none();
        if doubles && self.snapshot.disks && has_before(self.snapshot) {
            return Some(ONE_SET_OF_DISKS.to_owned());
        }
        let why = self.snapshot.loses_addresses.as_ref().filter(|_| self.hands_on())?;
        Some(format!("keepAddress is not possible here: {why}; choose rolling or inPlace"))
    }

    /// Why the release has to be taken back, by what was measured.
    pub(super) fn judge(&mut self, index: usize) -> Option<String> {
        let spec = &self.snapshot.release.spec;
        if !self.kind().is_judged() {
            return None;
        }
        self.plan.count = true;
        self.plan.again = sooner(self.plan.again, balancer::PAUSE);
        if let Some(counted) = self.counted.take() {
            judge::count(&mut self.plan.status.steps[index], counted, self.now);
        }
        if spec.rollback_to.is_some() {
            return None;
        }
        let fresh = self.fresh();
        let step = &mut self.plan.status.steps[index];
        let verdict = judge::take_in(&spec.strategy.checks, self.snapshot.readings, step);
        if fresh > 0 {
            let (ask, next) = judge::due(&spec.strategy.checks, step, self.now);
            self.plan.ask = ask;
            self.plan.again = sooner(self.plan.again, next);
        }
        verdict
    }

    pub(super) fn too_late(&mut self, index: usize, reached: bool) -> Option<String> {
        let kind = self.kind();
        if reached || matches!(kind, Kind::Reserve | Kind::Finish) || self.paused() {
            return None;
        }
        let begun = parse(self.plan.status.steps[index].started_at.as_deref())?;
        let limit = self.snapshot.release.spec.strategy.deadline_seconds;
        let left = limit - self.now.duration_since(begun).as_secs();
        if left > 0 {
            self.plan.again = sooner(self.plan.again, seconds(left));
            return None;
        }
        Some(format!("step {} was not there within {limit} s", describe(&self.plan.status)))
    }

    pub(super) fn paused(&self) -> bool {
        self.snapshot.release.spec.paused
    }

    /// Whether the step, which is reached, may be left.
    pub(super) fn may_pass(&mut self, index: usize) -> bool {
        let spec = &self.snapshot.release.spec;
        if spec.paused {
            self.plan.status.phase = Phase::Paused;
            self.plan.status.message = ON_REQUEST.to_owned();
            return false;
        }
        if usize::try_from(spec.promoted).unwrap_or(0) > index {
            return true;
        }
        let step = &self.plan.status.steps[index];
        let Some(pause) = step.pause_seconds else {
            self.plan.status.phase = Phase::Paused;
            self.plan.status.message = TO_BE_PROMOTED.to_owned();
            return false;
        };
        let reached = parse(step.reached_at.as_deref()).unwrap_or(self.now);
        let left = pause - self.now.duration_since(reached).as_secs();
        if left > 0 {
            self.plan.again = sooner(self.plan.again, seconds(left));
            return false;
        }
        let judged = spec.rollback_to.is_some()
            || !self.kind().is_judged()
            || judge::all_good(&spec.strategy.checks, step);
        if !judged {
            self.plan.status.message = CHECKS.to_owned();
        }
        judged
    }

    /// How many instances of the new version there are.
    pub(super) fn fresh(&self) -> i32 {
        let ours = name(self.snapshot.release);
        let main = self.snapshot.main.as_ref();
        let rolls = main.filter(|main| main.release.as_deref() == Some(&ours));
        match self.kind() {
            Kind::Swap => {
                let number = Some(number(self.snapshot.release));
                let new =
                    self.snapshot.pods.iter().filter(|pod| {
                        pod.ready && pod.serves != Some(false) && pod.release == number
                    });
                i32::try_from(new.count()).unwrap_or(i32::MAX)
            }
            Kind::Canary(_) if !self.snapshot.stateful => self.snapshot.candidate.available,
            Kind::Preview | Kind::Switch | Kind::Keep => self.snapshot.candidate.available,
            _ => rolls.map_or(0, |main| main.updated),
        }
    }

    pub(super) fn tell_where(&mut self) {
        let there = self.fresh();
        let counted = match self.kind() {
            Kind::Roll | Kind::Swap | Kind::Preview => Some((there, self.snapshot.replicas)),
            Kind::Canary(weight) => Some((there, portion(self.snapshot.replicas, weight))),
            _ => None,
        };
        let place = describe(&self.plan.status);
        self.plan.status.at = match counted {
            Some((there, wanted)) => format!("{place} ({there}/{wanted})"),
            None => place,
        };
    }
}

pub(super) fn seconds(count: i64) -> Duration {
    Duration::from_secs(u64::try_from(count).unwrap_or(1).max(1))
}

fn sooner(a: Option<Duration>, b: Duration) -> Option<Duration> {
    Some(a.map_or(b, |a| a.min(b)))
}
