//! The steps that a release goes through.

use berth_api::app::{Strategy, StrategyType};
use berth_api::release::{Release, StepStatus};

use crate::apps::template::DRAIN_SECONDS;

/// Endpoints and pods reach those who join them by different watches: what was marked has to be
/// known before it is asked for.
const MARK_SECONDS: i64 = 2;
/// So long instances stay after requests were led away from all of them: a Service's new pods and
/// the end of its old ones reach endpoints by different watches, and whoever hears of the end first
/// would have none.
pub const LEAVE_SECONDS: i64 = DRAIN_SECONDS;

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Room for what comes in addition is set aside.
    Reserve,
    /// The main workload rolls.
    Roll,
    /// A share of the instances is new.
    Canary(i32),
    /// All of the new stand beside all of the old, reached by the preview's name alone.
    Preview,
    /// All requests go to the new.
    Switch,
    /// The old stay for a while.
    Keep,
    /// Pods are marked as taking requests.
    Mark,
    /// Pods are told to keep their addresses for who comes after them.
    Hold,
    /// Images are swapped.
    Swap,
    /// The main workload takes the new version on.
    Finish,
}

impl Kind {
    /// What `step` does; a kind that this version does not know ends the release.
    pub fn of(step: &StepStatus) -> Self {
        match step.kind.as_str() {
            "reserve" => Kind::Reserve,
            "roll" => Kind::Roll,
            "canary" => Kind::Canary(step.weight.unwrap_or(100)),
            "preview" => Kind::Preview,
            "switch" => Kind::Switch,
            "keep" => Kind::Keep,
            "mark" => Kind::Mark,
            "hold" => Kind::Hold,
            "swap" => Kind::Swap,
            _ => Kind::Finish,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Kind::Reserve => "reserve",
            Kind::Roll => "roll",
            Kind::Canary(_) => "canary",
            Kind::Preview => "preview",
            Kind::Switch => "switch",
            Kind::Keep => "keep",
            Kind::Mark => "mark",
            Kind::Hold => "hold",
            Kind::Swap => "swap",
            Kind::Finish => "finish",
        }
    }

    /// Whether new instances take requests in it, so that there is something to judge.
    pub fn is_judged(self) -> bool {
        matches!(self, Kind::Roll | Kind::Canary(_) | Kind::Switch | Kind::Keep | Kind::Swap)
    }
}

/// What the choice of steps depends on.
#[derive(Clone, Copy, Debug)]
pub struct Ground {
    /// Whether the instances are a StatefulSet's.
    pub stateful: bool,
    /// Whether they have disks of their own.
    pub disks: bool,
    /// Whether nothing but images changes.
    pub only_images: bool,
    /// Whether something runs that can be gone back to.
    pub has_before: bool,
}

/// The steps of `release`, and what people should know about their choice.
pub fn of(release: &Release, ground: Ground) -> (Vec<StepStatus>, Option<&'static str>) {
    let strategy = &release.spec.strategy;
    let at_once = release.spec.rollback_to.is_some();
    if !ground.has_before {
        return (vec![step(Kind::Roll, Some(0))], None);
    }
    let mut steps = Vec::new();
    let mut note = None;
    let reserves = strategy.reserve && !ground.stateful;
    match strategy.kind {
        StrategyType::InPlace if ground.only_images => {
            steps.push(step(Kind::Mark, Some(MARK_SECONDS)));
            steps.push(step(Kind::Swap, Some(0)));
            steps.push(step(Kind::Finish, Some(0)));
        }
        StrategyType::Canary => {
            steps.extend(reserves.then(|| step(Kind::Reserve, Some(0))));
            steps.extend(shares(strategy, at_once));
            steps.push(step(Kind::Finish, Some(0)));
        }
        StrategyType::BlueGreen if !ground.disks => {
            // All come in addition here, whatever holds them.
            steps.extend(strategy.reserve.then(|| step(Kind::Reserve, Some(0))));
            let waits = if strategy.auto_promote || at_once { Some(0) } else { None };
            steps.push(step(Kind::Preview, waits));
            steps.push(step(Kind::Switch, Some(LEAVE_SECONDS)));
            steps.push(step(Kind::Keep, Some(if at_once { 0 } else { strategy.keep_seconds })));
            steps.push(step(Kind::Finish, Some(0)));
        }
        StrategyType::KeepAddress => {
            // The node hears of it by its own watch.
            steps.push(step(Kind::Hold, Some(MARK_SECONDS)));
            steps.push(step(Kind::Roll, Some(0)));
        }
        kind => {
            note = match kind {
                StrategyType::InPlace => Some("more than images changes, so pods are replaced"),
                // Only the way back comes here: it must not fail by how it was to come.
                StrategyType::BlueGreen => Some("there are disks, so it goes back by rolling"),
                _ => None,
            };
            steps.extend(reserves.then(|| step(Kind::Reserve, Some(0))));
            steps.push(step(Kind::Roll, Some(0)));
        }
    }
    (steps, note)
}

fn shares(strategy: &Strategy, at_once: bool) -> Vec<StepStatus> {
    let asked = strategy.steps.iter().filter(|_| !at_once);
    let mut all: Vec<StepStatus> =
        asked.map(|one| step(Kind::Canary(one.weight), one.pause_seconds)).collect();
    if all.last().is_none_or(|last| last.weight != Some(100)) {
        all.push(step(Kind::Canary(100), Some(0)));
    }
    all
}

fn step(kind: Kind, pause_seconds: Option<i64>) -> StepStatus {
    let weight = match kind {
        Kind::Canary(weight) => Some(weight),
        _ => None,
    };
    StepStatus { kind: kind.word().to_owned(), weight, pause_seconds, ..StepStatus::default() }
}
