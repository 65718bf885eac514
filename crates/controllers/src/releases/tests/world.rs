//! A world of numbers: workloads that follow what they are told, a little late.

use berth_api::answers::Count;
use berth_api::app::StrategyType;
use berth_api::release::{Release, ReleaseStatus};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::apps::template::Target;
use crate::releases::judge::Reading;
use crate::releases::plan::{Main, Plan, Room, Snapshot, plan};
use crate::releases::swap::{Instance, Touch};
use crate::releases::transfer::Side;

/// A Release of the App `shop/web`.
pub fn release(revision: i64, strategy: Value) -> Release {
    serde_json::from_value(json!({
        "apiVersion": "berth.dev/v1", "kind": "Release",
        "metadata": { "name": format!("web-{revision}"), "namespace": "shop" },
        "spec": { "app": "web", "revision": revision, "image": format!("web:{revision}"), "template": "t",
            "strategy": strategy, "appSpec": { "image": "web:1" } },
    }))
    .unwrap()
}

/// An App that runs release 1 and is to run release 2.
pub struct Model {
    pub replicas: i32,
    /// Whether the instances are a StatefulSet's.
    pub stateful: bool,
    /// Whether they have disks of their own.
    pub disks: bool,
    pub release: Release,
    pub main: Main,
    pub candidate: Side,
    pub has_candidate: bool,
    pub pods: Vec<Instance>,
    pub only_images: bool,
    pub newer: Option<StrategyType>,
    pub loses_addresses: Option<String>,
    pub frozen: Option<String>,
    pub room: Room,
    /// Pods of release 2 never take requests.
    pub broken: bool,
    /// What Prometheus says.
    pub answer: Option<Result<f64, String>>,
    /// What the balancer counts a second.
    pub counted: Option<Count>,
    /// The most instances there ever were.
    pub most: i32,
    /// The fewest pods that ever took requests.
    pub fewest: i32,
    now: Timestamp,
    stable: Release,
    readings: Vec<Reading>,
    /// Pods of the main workload that are not of its template yet.
    old: i32,
    /// For a StatefulSet: how many stay as they are.
    stays: i32,
    containers: u32,
}

impl Model {
    pub fn new(replicas: i32, strategy: Value) -> Self {
        let side = Side { asked: replicas, there: replicas, available: replicas };
        let pods = (0..replicas).map(|n| Instance {
            name: format!("p{n}"),
            release: Some("1".into()),
            ready: true,
            image: Some("web:1".into()),
            container: Some(format!("c{n}")),
            ..Instance::default()
        });
        Self {
            replicas,
            stateful: false,
            disks: false,
            release: release(2, strategy),
            main: Main {
                release: Some("web-1".into()),
                side,
                updated: replicas,
                observed: true,
                paused: false,
                set_release: Some(1),
            },
            candidate: Side::default(),
            has_candidate: false,
            pods: pods.collect(),
            only_images: false,
            newer: None,
            loses_addresses: None,
            frozen: None,
            room: Room::NotKept,
            broken: false,
            answer: None,
            counted: None,
            most: replicas,
            fewest: replicas,
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
            stable: release(1, json!({})),
            readings: Vec::new(),
            old: 0,
            stays: 0,
            containers: 0,
        }
    }

    pub fn status(&self) -> ReleaseStatus {
        self.release.status.clone().unwrap_or_default()
    }

    pub fn names(&self) -> Vec<&str> {
        self.pods.iter().map(|pod| pod.name.as_str()).collect()
    }

    /// The plan as things are, and its status written.
    pub fn look(&mut self) -> Plan {
        let snapshot = Snapshot {
            replicas: self.replicas,
            stateful: self.stateful,
            disks: self.disks,
            release: &self.release,
            newer: self.newer,
            stable: Some(&self.stable),
            main: Some(self.main.clone()),
            candidate: self.candidate,
            has_candidate: self.has_candidate,
            pods: &self.pods,
            only_images: self.only_images,
            loses_addresses: self.loses_addresses.clone(),
            frozen: self.frozen.clone(),
            room: self.room.clone(),
            readings: &self.readings,
            counted: self.counted,
        };
        let plan = plan(&snapshot, self.now);
        self.readings.clear();
        self.release.status = Some(plan.status.clone());
        plan
    }

    /// A plan, carried out; then a second goes by.
    pub fn step(&mut self) -> Plan {
        let plan = self.look();
        if let Some(answer) = &self.answer
            && !plan.ask.is_empty()
        {
            let value = answer.clone();
            self.readings.push(Reading { check: "errors".into(), value, at: self.now });
        }
        if let Some(target) = &plan.main {
            self.take(target);
        } else if plan.status.phase.is_over() {
            self.main.side.asked = self.replicas;
        }
        match plan.candidate {
            Some(count) => {
                self.has_candidate = true;
                self.candidate.asked = count;
            }
            None if self.has_candidate => {
                self.has_candidate = false;
                self.candidate = Side::default();
            }
            None => {}
        }
        if plan.retemplate.is_some() {
            self.main.set_release = number(plan.retemplate.as_deref());
        }
        let goal = number(plan.goal.as_deref()).map(|number| number.to_string());
        for (name, touch) in &plan.touch {
            self.touch(name, touch, goal.as_ref());
        }
        self.tick();
        plan
    }

    pub fn run(&mut self, seconds: usize) {
        for _ in 0..seconds {
            self.step();
        }
    }

    /// Some pods stop taking requests.
    pub fn crash(&mut self, count: i32) {
        self.main.side.available = (self.main.side.available - count).max(0);
        self.candidate.available = (self.candidate.available - count / 2).max(0);
    }

    /// An autoscaler looks: each instance uses so many per cent of what is aimed at, whatever it
    /// does, as memory is used. It counts the instances that get requests.
    pub fn scale(&mut self, plan: &Plan, percent: i32) {
        let counted = match plan.traffic.only.as_deref() {
            Some("1") => self.main.side.there,
            Some(_) => self.candidate.there,
            None => self.main.side.there + self.candidate.there,
        };
        if (percent - 100).abs() > 10 {
            self.replicas = (counted * percent + 99) / 100;
        }
    }

    fn take(&mut self, target: &Target) {
        self.stays = if target.on_delete { i32::MAX } else { target.partition };
        self.main.side.asked = target.replicas;
        self.main.paused = target.paused;
        self.main.observed = true;
        if target.release != self.main.release {
            self.main.release.clone_from(&target.release);
            let new = number(target.release.as_deref());
            let same_set = self.main.set_release == new;
            self.old = if same_set { 0 } else { self.main.side.there };
            self.main.updated = self.main.side.there - self.old;
            self.main.set_release = new;
        }
    }

    fn touch(&mut self, name: &str, touch: &Touch, goal: Option<&String>) {
        self.containers += 1;
        let fresh = format!("n{}", self.containers);
        let now = self.now;
        let Some(pod) = self.pods.iter_mut().find(|pod| pod.name == name) else { return };
        match touch {
            Touch::Serve => {
                pod.serves = Some(true);
                pod.drained_at = None;
                pod.swapped_from = None;
            }
            Touch::Hold => pod.holds = true,
            Touch::Drain => {
                pod.serves = Some(false);
                pod.drained_at = Some(now);
            }
            Touch::Swap { from } => {
                pod.swapped_from.clone_from(from);
                pod.release = goal.cloned();
                pod.image = goal.map(|goal| format!("web:{goal}"));
                pod.container = Some(fresh);
                pod.ready = true;
            }
        }
    }

    fn tick(&mut self) {
        self.now += SignedDuration::from_secs(1);
        let new_is_broken = |release: Option<&str>| self.broken && release == Some("web-2");
        // One old pod gives way a second, as a rolling update does.
        let broken = new_is_broken(self.main.release.as_deref());
        if self.old > 0 && !self.main.paused && self.stays < self.old && !broken {
            self.old -= 1;
        }
        let main_broken = new_is_broken(self.main.release.as_deref());
        let candidate_broken = self.broken;
        follow(&mut self.main.side, main_broken && self.old == 0);
        if self.only_images {
            self.follow_pods();
        }
        self.old = self.old.min(self.main.side.there);
        self.main.updated = self.main.side.there - self.old;
        if main_broken {
            self.main.updated = 0;
        }
        if self.has_candidate {
            follow(&mut self.candidate, candidate_broken);
        }
        self.most = self.most.max(self.main.side.there + self.candidate.there);
        let serving = self.pods.iter().filter(|pod| pod.ready && pod.serves != Some(false));
        self.fewest = self.fewest.min(i32::try_from(serving.count()).unwrap());
    }
}

impl Model {
    /// Pods come and go with what the workload asks for; new ones have its set's template.
    fn follow_pods(&mut self) {
        let wanted = usize::try_from(self.main.side.there).unwrap();
        self.pods.truncate(wanted);
        let release = self.main.set_release.map(|number| number.to_string());
        while self.pods.len() < wanted {
            self.containers += 1;
            self.pods.push(Instance {
                name: format!("q{}", self.containers),
                release: release.clone(),
                serves: Some(true),
                ready: true,
                image: release.as_ref().map(|number| format!("web:{number}")),
                container: Some(format!("q{}", self.containers)),
                ..Instance::default()
            });
        }
        if self.stateful && self.stays == i32::MAX {
            let old = self.pods.iter().filter(|pod| pod.release != release);
            self.old = i32::try_from(old.count()).unwrap();
        }
    }
}

fn number(name: Option<&str>) -> Option<i64> {
    name?.rsplit('-').next()?.parse().ok()
}

/// What was there becomes what was asked for, and what started takes requests.
fn follow(side: &mut Side, broken: bool) {
    side.available = if broken { 0 } else { side.there.min(side.asked) };
    side.there = side.asked;
    side.available = side.available.min(side.there);
}
