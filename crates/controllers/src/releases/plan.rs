//! What a release does next: one pure function of how things are.

mod back;
mod gates;

use std::time::Duration;

use berth_api::answers::Count;
use berth_api::app::StrategyType;
use berth_api::release::{Phase, Release, ReleaseStatus, StepStatus};
use jiff::Timestamp;

use super::judge::Reading;
use super::shares;
use super::steps::{self, Ground, Kind};
use super::swap::{self, Instance, Touch};
use super::transfer::{Bounds, Side, transfer};
use crate::apps::template::{Target, Traffic};
use crate::workloads::share;

/// A look at things that no watch tells of.
const LOOK: Duration = Duration::from_secs(1);
const ON_REQUEST: &str = "paused on request";
const TO_BE_PROMOTED: &str = "waits to be promoted";
const CHECKS: &str = "waits for its checks";

/// The main workload as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Main {
    /// The Release whose template it has; none where Berth has not released yet.
    pub release: Option<String>,
    /// Its size. `available` counts only pods of its template.
    pub side: Side,
    /// How many of its pods have its template.
    pub updated: i32,
    /// Whether its controller has seen what it says.
    pub observed: bool,
    /// Whether it is paused.
    pub paused: bool,
    /// The number of the release that the template of the set with most of its pods has.
    pub set_release: Option<i64>,
}

impl Main {
    /// Whether it is all that its template asks for, and nothing else.
    fn is_settled(&self) -> bool {
        let Side { asked, there, available } = self.side;
        self.observed && self.updated == asked && there == asked && available >= asked
    }
}

/// Whether room for the surge is set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Room {
    /// Nobody keeps reservations for these pods.
    NotKept,
    /// All of it is.
    Held,
    /// Some is missing; what exactly.
    Missing(String),
}

/// All that a plan is made from.
#[derive(Clone, Debug)]
pub struct Snapshot<'a> {
    /// How many instances the App asks for.
    pub replicas: i32,
    /// Whether they are a StatefulSet's.
    pub stateful: bool,
    /// Whether they have disks of their own.
    pub disks: bool,
    /// The release.
    pub release: &'a Release,
    /// How the one comes that waits for this, if one does.
    pub newer: Option<StrategyType>,
    /// What ran before, if anything did that can be gone back to.
    pub stable: Option<&'a Release>,
    /// The main workload.
    pub main: Option<Main>,
    /// The candidate.
    pub candidate: Side,
    /// Whether there is one.
    pub has_candidate: bool,
    /// The App's pods.
    pub pods: &'a [Instance],
    /// Whether nothing but images differs from what ran before.
    pub only_images: bool,
    /// Why addresses cannot be handed on from pod to pod, where they cannot.
    pub loses_addresses: Option<String>,
    /// Why nothing may start now.
    pub frozen: Option<String>,
    /// Whether there is room.
    pub room: Room,
    /// Answers to checks that the plan before asked for.
    pub readings: &'a [Reading],
    /// What the balancer counted of the new instances since it was asked last.
    pub counted: Option<Count>,
}

/// What is to be done.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// What the main workload is to be; `None` leaves it alone.
    pub main: Option<Target>,
    /// How many instances the candidate is to have; `None` removes it.
    pub candidate: Option<i32>,
    /// Who gets requests.
    pub traffic: Traffic,
    /// How many slots are reserved; `None` for no reservation.
    pub reserve: Option<i32>,
    /// Whether the main workload's ReplicaSet takes the template of this Release.
    pub retemplate: Option<String>,
    /// Pods to change, and towards which Release.
    pub touch: Vec<(String, Touch)>,
    /// The Release towards which pods are changed.
    pub goal: Option<String>,
    /// Checks to ask now, by their place among the strategy's.
    pub ask: Vec<usize>,
    /// Whether the balancer is asked what the new instances answer.
    pub count: bool,
    /// The release's status.
    pub status: ReleaseStatus,
    /// When to look again although nothing changes.
    pub again: Option<Duration>,
}

/// Decides at `now`.
pub fn plan(snapshot: &Snapshot<'_>, now: Timestamp) -> Plan {
    let mut status = snapshot.release.status.clone().unwrap_or_default();
    if status.steps.is_empty() {
        let ground = Ground {
            stateful: snapshot.stateful,
            disks: snapshot.disks,
            only_images: snapshot.only_images,
            has_before: has_before(snapshot),
        };
        let (steps, note) = steps::of(snapshot.release, ground);
        status.steps = steps;
        status.from = snapshot.stable.map(name);
        status.notes.extend(note.map(str::to_owned));
    }
    let plan = Plan { status, ..Plan::default() };
    let mut run = Run { snapshot, now, counted: snapshot.counted, plan };
    run.go();
    run.plan
}

fn has_before(snapshot: &Snapshot<'_>) -> bool {
    snapshot.stable.is_some() && snapshot.main.as_ref().is_some_and(|main| main.release.is_some())
}

fn name(release: &Release) -> String {
    release.metadata.name.clone().unwrap_or_default()
}

fn number(release: &Release) -> String {
    release.spec.revision.to_string()
}

/// One making of a plan.
struct Run<'a> {
    snapshot: &'a Snapshot<'a>,
    now: Timestamp,
    /// Until a step has it.
    counted: Option<Count>,
    plan: Plan,
}

impl Run<'_> {
    fn go(&mut self) {
        self.hold();
        if self.plan.status.phase.is_over() {
            return;
        }
        self.heed_wishes();
        match self.plan.status.phase {
            Phase::Waiting => self.wait(),
            Phase::Progressing | Phase::Paused => self.proceed(),
            Phase::Aborting => self.go_back(),
            Phase::Aborted | Phase::Succeeded | Phase::Superseded => {}
        }
    }

    fn step(&self) -> Option<&StepStatus> {
        let index = usize::try_from(self.plan.status.step).ok()?;
        self.plan.status.steps.get(index)
    }

    fn kind(&self) -> Kind {
        self.step().map_or(Kind::Finish, Kind::of)
    }

    /// Everything stays as it is; only the App's own number of instances is followed.
    fn hold(&mut self) {
        let replicas = self.snapshot.replicas;
        let runs = self.snapshot.main.as_ref().and_then(|main| main.release.clone());
        self.plan.main =
            runs.map(|release| Target { release: Some(release), replicas, ..Target::default() });
    }

    /// What people or a newer release ask for.
    fn heed_wishes(&mut self) {
        let status = &self.plan.status;
        let (phase, finishing) = (status.phase, self.kind() == Kind::Finish);
        let asked = self.snapshot.release.spec.abort;
        if !(asked || self.snapshot.newer.is_some()) || phase == Phase::Aborting {
            return;
        }
        let why = if asked { "aborted on request" } else { "a newer release came" };
        if phase == Phase::Waiting && !self.has_touched() {
            let end = if asked { Phase::Aborted } else { Phase::Superseded };
            self.end(end, why);
        } else if self.kind() == Kind::Roll
            && self.snapshot.newer == Some(StrategyType::Rolling)
            && self.in_turn().is_none()
        {
            // The newer one rolls on from wherever this one is.
            self.end(Phase::Superseded, why);
        } else if !finishing {
            self.take_back(why);
        }
    }

    /// Whether anything of it is in the world.
    fn has_touched(&self) -> bool {
        let ours = name(self.snapshot.release);
        let main = self.snapshot.main.as_ref();
        self.snapshot.has_candidate
            || main.is_some_and(|main| main.release.as_deref() == Some(&ours))
    }

    fn end(&mut self, phase: Phase, message: &str) {
        let now = self.now.to_string();
        let status = &mut self.plan.status;
        let index = usize::try_from(status.step).unwrap_or(0);
        if let Some(step) = status.steps.get_mut(index) {
            step.ended_at.get_or_insert_with(|| now.clone());
        }
        status.phase = phase;
        status.message = message.to_owned();
        status.at.clear();
        status.ended_at = Some(now);
        self.plan.reserve = None;
    }

    fn wait(&mut self) {
        let rollback = self.snapshot.release.spec.rollback_to.is_some();
        if let Some(why) = &self.snapshot.frozen
            && has_before(self.snapshot)
            && !rollback
        {
            self.plan.status.message = format!("frozen: {why}");
            self.plan.again = Some(LOOK * 10);
            return;
        }
        let status = &mut self.plan.status;
        if status.message.starts_with("frozen: ") {
            status.message.clear();
        }
        if self.snapshot.release.spec.paused {
            status.message = "paused before its first step".to_owned();
            return;
        }
        if let Some(why) = self.impossible() {
            self.end(Phase::Aborted, &why);
            return;
        }
        let status = &mut self.plan.status;
        status.phase = Phase::Progressing;
        status.started_at.get_or_insert_with(|| self.now.to_string());
        self.proceed();
    }

    /// Works at the current step, and goes to the next when this one is over.
    fn proceed(&mut self) {
        self.resume();
        loop {
            let now = self.now.to_string();
            let index = usize::try_from(self.plan.status.step).unwrap_or(0);
            let Some(step) = self.plan.status.steps.get_mut(index) else {
                self.end(Phase::Succeeded, "");
                return;
            };
            step.started_at.get_or_insert_with(|| now.clone());
            let reached = self.work();
            self.tell_where();
            let step = &mut self.plan.status.steps[index];
            if reached {
                step.reached_at.get_or_insert_with(|| now.clone());
            }
            let was_reached = step.reached_at.is_some();
            if let Some(why) = self.judge(index).or_else(|| self.too_late(index, was_reached)) {
                self.take_back(&why);
                if self.plan.status.phase == Phase::Aborting {
                    self.go_back();
                }
                return;
            }
            if !reached && self.paused() {
                self.plan.status.phase = Phase::Paused;
                self.plan.status.message = ON_REQUEST.to_owned();
            }
            if !(reached && self.may_pass(index)) {
                return;
            }
            self.plan.status.steps[index].ended_at = Some(now);
            self.plan.status.step += 1;
            self.plan.status.phase = Phase::Progressing;
            self.plan.status.message.clear();
        }
    }

    /// Takes up what was paused; a step's time begins anew.
    fn resume(&mut self) {
        let status = &mut self.plan.status;
        if status.message == ON_REQUEST && !self.snapshot.release.spec.paused {
            let index = usize::try_from(status.step).unwrap_or(0);
            if let Some(step) = status.steps.get_mut(index) {
                step.started_at = Some(self.now.to_string());
            }
        }
        if [ON_REQUEST, TO_BE_PROMOTED, CHECKS].contains(&status.message.as_str()) {
            status.message.clear();
        }
        status.phase = Phase::Progressing;
    }

    /// Sets what the current step wants; whether it is there.
    fn work(&mut self) -> bool {
        let replicas = self.snapshot.replicas;
        let kind = self.kind();
        let this = self.snapshot.release;
        if !matches!(kind, Kind::Reserve | Kind::Mark | Kind::Hold) {
            self.plan.reserve = self.slots().filter(|_| self.reserves());
        }
        self.plan.traffic = Traffic::default();
        if let Kind::Canary(weight) = kind {
            let weights = shares::weights(self.snapshot.pods, &number(this), weight);
            let header = this.spec.strategy.header.clone();
            let preview = header.as_ref().map(|_| number(this));
            self.plan.traffic = Traffic { weights, header, preview, ..Traffic::default() };
        }
        match kind {
            Kind::Reserve => self.reserve(),
            Kind::Roll => self.roll(),
            Kind::Canary(weight) if self.snapshot.stateful => self.ordinals(weight),
            Kind::Canary(weight) => {
                let new = portion(replicas, weight);
                self.balance((replicas - new, new), self.bounds())
            }
            Kind::Preview | Kind::Switch | Kind::Keep => {
                let double = Bounds { surge: replicas, ..self.bounds() };
                let there = self.balance((replicas, replicas), double);
                let only = match (kind, self.snapshot.stable) {
                    (Kind::Preview, Some(stable)) => Some(number(stable)),
                    _ => Some(number(this)),
                };
                let preview = (kind == Kind::Preview).then(|| number(this));
                self.plan.traffic = Traffic { only, preview, ..Traffic::default() };
                there || kind != Kind::Preview
            }
            Kind::Mark => {
                self.plan.touch = swap::unmarked(self.snapshot.pods);
                self.plan.touch.is_empty()
            }
            Kind::Hold => {
                self.plan.touch = swap::unheld(self.snapshot.pods);
                self.plan.touch.is_empty()
            }
            Kind::Swap => self.swap(this),
            Kind::Finish => self.finish(),
        }
    }

    fn bounds(&self) -> Bounds {
        let strategy = &self.snapshot.release.spec.strategy;
        let replicas = self.snapshot.replicas;
        let (surge, unavailable) =
            share::fenceposts(Some(&strategy.max_surge), Some(&strategy.max_unavailable), replicas);
        Bounds { replicas, surge, unavailable: unavailable.min(replicas) }
    }

    fn reserves(&self) -> bool {
        self.plan.status.steps.iter().any(|step| Kind::of(step) == Kind::Reserve)
    }

    /// How many instances come in addition.
    fn slots(&self) -> Option<i32> {
        let replicas = self.snapshot.replicas;
        let doubles = self.plan.status.steps.iter().any(|step| Kind::of(step) == Kind::Preview);
        let slots = if doubles { replicas } else { self.bounds().surge.min(replicas) };
        (slots > 0).then_some(slots)
    }

    fn roll(&mut self) -> bool {
        self.hold_on();
        let this = name(self.snapshot.release);
        let paused = self.snapshot.release.spec.paused;
        let main = self.snapshot.main.clone().unwrap_or_default();
        let replicas = self.snapshot.replicas;
        // A StatefulSet has no pause: its partition stands where it is.
        let partition = if paused { (replicas - main.updated).max(0) } else { 0 };
        let stands = paused && main.release.as_deref() != Some(&this);
        self.plan.main = Some(Target {
            release: if stands { main.release.clone() } else { Some(this.clone()) },
            replicas,
            paused: paused && !self.snapshot.stateful,
            partition: if self.snapshot.stateful && !stands { partition } else { 0 },
            on_delete: false,
            in_turn: self.in_turn(),
        });
        !paused
            && main.release.as_deref() == Some(&this)
            && main.side.asked == replicas
            && main.is_settled()
    }

    /// A canary of a StatefulSet: its last instances are new.
    fn ordinals(&mut self, weight: i32) -> bool {
        let replicas = self.snapshot.replicas;
        let new = portion(replicas, weight);
        let this = name(self.snapshot.release);
        let main = self.snapshot.main.clone().unwrap_or_default();
        self.plan.main = Some(Target {
            release: Some(this.clone()),
            replicas,
            partition: replicas - new,
            ..Target::default()
        });
        main.release.as_deref() == Some(&this)
            && main.observed
            && main.updated >= new
            && main.side.there == replicas
            && main.side.available >= replicas
    }

    /// Moves towards so many instances of the main workload and of the candidate.
    fn balance(&mut self, wanted: (i32, i32), bounds: Bounds) -> bool {
        let main = self.snapshot.main.clone().unwrap_or_default();
        let other = self.snapshot.candidate;
        let (of_main, of_other) = transfer(bounds, wanted, main.side, other);
        if let Some(target) = &mut self.plan.main {
            target.replicas = of_main;
        }
        self.plan.candidate = Some(of_other);
        let is = |side: Side, wanted: i32| {
            side.asked == wanted && side.there == wanted && side.available >= wanted
        };
        is(main.side, wanted.0) && is(other, wanted.1) && main.observed
    }

    fn swap(&mut self, goal: &Release) -> bool {
        let Some(main) = &self.snapshot.main else { return false };
        let at_once = self.bounds().unavailable.max(1);
        let paused = self.snapshot.release.spec.paused && self.plan.status.phase != Phase::Aborting;
        let target = name(goal);
        let at_once = if paused { 0 } else { at_once };
        let plan = swap::plan(self.snapshot, main, goal, at_once, self.now);
        self.plan.main = Some(plan.target);
        self.plan.retemplate = plan.retemplate.then(|| target.clone());
        self.plan.touch = plan.touch;
        self.plan.goal = Some(target);
        self.plan.traffic.marked = true;
        self.plan.again = Some(LOOK);
        plan.over && !paused
    }

    /// The main workload takes the version on, and the candidate goes.
    fn finish(&mut self) -> bool {
        let this = self.snapshot.release;
        let replicas = self.snapshot.replicas;
        let main = self.snapshot.main.clone().unwrap_or_default();
        let bounds = self.bounds();
        if !self.snapshot.has_candidate {
            // Swapped in place, or by ordinals: the workload only has to agree.
            let release = Some(name(this));
            self.plan.main = Some(Target { release, replicas, ..Target::default() });
            return main.release == Some(name(this)) && !main.paused && main.is_settled();
        }
        if main.release != Some(name(this)) {
            self.plan.traffic.only = Some(number(this));
            let gone = self.balance((0, replicas), bounds);
            if !gone {
                return false;
            }
            if let Some(target) = &mut self.plan.main {
                target.release = Some(name(this));
                target.replicas = 0;
            }
            return false;
        }
        let there = self.balance((replicas, 0), bounds);
        let empty = self.snapshot.candidate == Side::default();
        if there && empty {
            self.plan.candidate = None;
        }
        // The next look finds no candidate, and is the last.
        false
    }
}

/// How many of `replicas` are new at `weight` per cent: at least one, at most all.
fn portion(replicas: i32, weight: i32) -> i32 {
    let exact = i64::from(replicas) * i64::from(weight.clamp(0, 100));
    i32::try_from((exact + 99) / 100).unwrap_or(replicas)
}

fn describe(status: &ReleaseStatus) -> String {
    let index = usize::try_from(status.step).unwrap_or(0);
    let Some(step) = status.steps.get(index) else { return String::new() };
    match step.weight {
        Some(weight) => format!("{} {weight}%", step.kind),
        None => step.kind.clone(),
    }
}

fn parse(text: Option<&str>) -> Option<Timestamp> {
    text?.parse().ok()
}
