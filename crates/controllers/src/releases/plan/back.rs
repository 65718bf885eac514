//! The way back to what ran before.

use std::time::Duration;

use berth_api::release::{Phase, StepStatus};

use super::gates::seconds;
use super::{Bounds, Kind, Run, Side, Target, Traffic, name, number, parse};
use crate::releases::steps::LEAVE_SECONDS;

impl Run<'_> {
    /// Begins to go back to what ran before, if anything did.
    pub(super) fn take_back(&mut self, why: &str) {
        if self.snapshot.stable.is_none() {
            // Nothing ran before: there is nothing better than to go on trying.
            self.plan.status.message = format!("{why}, but there is no version to go back to");
            return;
        }
        let status = &mut self.plan.status;
        status.phase = Phase::Aborting;
        status.message = why.to_owned();
        let index = usize::try_from(status.step).unwrap_or(0);
        if let Some(step) = status.steps.get_mut(index) {
            step.ended_at.get_or_insert_with(|| self.now.to_string());
        }
    }

    /// Undoes whatever was done.
    pub(super) fn go_back(&mut self) {
        let Some(stable) = self.snapshot.stable else { return };
        let replicas = self.snapshot.replicas;
        self.plan.reserve = None;
        self.plan.ask.clear();
        self.plan.traffic = Traffic::default();
        self.plan.status.at = "going back".to_owned();
        let main = self.snapshot.main.clone().unwrap_or_default();
        if self.plan.status.steps.iter().any(|step| Kind::of(step) == Kind::Swap) {
            self.plan.candidate = None;
            let touched = main.paused || main.release != Some(name(stable)) || !main.is_settled();
            let all_old = self
                .snapshot
                .pods
                .iter()
                .all(|pod| pod.serves != Some(false) && pod.release == Some(number(stable)));
            if all_old && main.release == Some(name(stable)) {
                self.plan.main =
                    Some(Target { release: Some(name(stable)), replicas, ..Target::default() });
                self.plan.touch.clear();
                if !touched {
                    self.over_after_return();
                }
                return;
            }
            self.swap(stable);
            return;
        }
        self.hold_on();
        let (release, in_turn) = (Some(name(stable)), self.in_turn());
        self.plan.main = Some(Target { release, replicas, in_turn, ..Target::default() });
        if !self.snapshot.has_candidate {
            self.plan.candidate = None;
            if main.release == Some(name(stable))
                && main.side.asked == replicas
                && main.is_settled()
            {
                self.over_after_return();
            }
            return;
        }
        // Requests leave the new version at once if the old can carry them.
        if main.side.good() * 2 >= replicas {
            self.plan.traffic.only = Some(number(stable));
        }
        let doubles = self.plan.status.steps.iter().any(|step| Kind::of(step) == Kind::Preview);
        let bounds = self.bounds();
        let bounds = if doubles { Bounds { surge: replicas, ..bounds } } else { bounds };
        let back = self.balance((replicas, 0), bounds);
        if let Some(left) = self.leaves() {
            self.plan.candidate = Some(self.snapshot.candidate.asked);
            self.plan.again = Some(left);
        } else if back && self.snapshot.candidate == Side::default() {
            self.plan.candidate = None;
        }
    }

    fn over_after_return(&mut self) {
        let why = self.plan.status.message.clone();
        let asked = self.snapshot.release.spec.abort;
        let phase = if self.snapshot.newer.is_some() && !asked && why.starts_with("a newer") {
            Phase::Superseded
        } else {
            Phase::Aborted
        };
        self.end(phase, &why);
    }

    /// How long the new instances, which had all requests, stay after these were led back.
    fn leaves(&self) -> Option<Duration> {
        let status = &self.plan.status;
        let switched =
            |step: &StepStatus| Kind::of(step) == Kind::Switch && step.started_at.is_some();
        if !status.steps.iter().any(switched) {
            return None;
        }
        let since = parse(self.step().and_then(|step| step.ended_at.as_deref()))?;
        let left = LEAVE_SECONDS - self.now.duration_since(since).as_secs();
        (left > 0).then(|| seconds(left))
    }
}
