//! What follows from which state, case by case.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::pod::ImageUser;
use crate::pod::facts::ImageFact;
use crate::pod::runtime::Sandbox;
use crate::probes::Kind;

/// A pod in some state, built up by what makes the case.
struct Case {
    pod: Pod,
    gone: bool,
    runtime: RuntimeState,
    probes: ProbeResults,
    facts: Facts,
    busy: BTreeMap<String, Timestamp>,
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

/// How long a failed fetch waits for the next.
const PULL_WAIT: Duration = Duration::from_secs(10);

/// The time in every case.
const NOW: i64 = 1_000_000;

impl Case {
    fn new(spec: Value) -> Self {
        let pod = json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": spec});
        let facts = Facts { start_time: Some(at(NOW - 60)), ..Facts::default() };
        Self {
            pod: serde_json::from_value(pod).expect("a pod"),
            gone: false,
            runtime: RuntimeState::default(),
            probes: ProbeResults::default(),
            facts,
            busy: BTreeMap::new(),
        }
    }

    /// A sandbox that lives, volumes, and the images of these containers.
    fn prepared(mut self, images: &[&str]) -> Self {
        self.runtime.sandboxes.push(Sandbox {
            id: "s0".to_owned(),
            ready: true,
            ..Sandbox::default()
        });
        self.facts.volumes = Step::Done;
        for name in images {
            let fact = ImageFact::Ready { reference: "i".to_owned(), user: ImageUser::default() };
            self.facts.images.insert((*name).to_owned(), fact);
        }
        self
    }

    fn container(mut self, name: &str, attempt: u32, life: Life, exit_code: i32) -> Self {
        let ended = life == Life::Exited;
        let delay = if attempt == 0 { 0 } else { 10 };
        self.runtime.containers.push(ContainerRecord {
            id: format!("{name}{attempt}"),
            name: name.to_owned(),
            sandbox_id: "s0".to_owned(),
            attempt,
            life,
            exit_code,
            started_at: Some(at(NOW - 2)),
            finished_at: ended.then(|| at(NOW - 1)),
            restart_delay: Duration::from_secs(delay),
            wanted_image: Some("x".to_owned()),
            ..ContainerRecord::default()
        });
        self
    }

    fn busy(mut self, key: &str) -> Self {
        self.busy.insert(key.to_owned(), Timestamp::MAX);
        self
    }

    fn deleted(mut self, grace: i64) -> Self {
        self.pod.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(NOW)));
        self.pod.metadata.deletion_grace_period_seconds = Some(grace);
        self.facts.ending_since = Some(at(NOW));
        self
    }

    fn plan(&self) -> Plan {
        let view = View {
            pod: &self.pod,
            gone: self.gone,
            runtime: &self.runtime,
            probes: &self.probes,
            facts: &self.facts,
            busy: &self.busy,
        };
        plan(&view, at(NOW))
    }

    #[track_caller]
    fn expect(&self, steps: &[&str]) -> Plan {
        let plan = self.plan();
        let named: Vec<String> = plan.actions.iter().map(Action::key).collect();
        assert_eq!(named, steps);
        plan
    }
}

fn one() -> Value {
    json!({"containers": [{"name": "a", "image": "x"}]})
}

fn with_init() -> Value {
    json!({
        "initContainers": [
            {"name": "i", "image": "x"},
            {"name": "side", "image": "x", "restartPolicy": "Always"},
            {"name": "j", "image": "x"}
        ],
        "containers": [{"name": "a", "image": "x"}]
    })
}

#[test]
fn a_new_pod_gets_volumes_sandbox_and_image_at_once() {
    Case::new(one()).expect(&["volumes", "sandbox", "image/a"]);
    Case::new(one()).busy("volumes").busy("sandbox").busy("image/a").expect(&[]);
}

#[test]
fn a_container_starts_when_everything_for_it_is_there() {
    Case::new(one()).prepared(&["a"]).expect(&["start/a"]);
    Case::new(one()).prepared(&["a"]).busy("start/a").expect(&[]);
    Case::new(one()).prepared(&[]).expect(&["image/a"]);
    Case::new(one()).prepared(&["a"]).container("a", 0, Life::Running, 0).expect(&[]);
}

#[test]
fn init_containers_run_in_order_and_sidecars_stay() {
    let images = ["i", "side", "j", "a"];
    let base = || Case::new(with_init()).prepared(&images);
    base().expect(&["start/i"]);
    base().container("i", 0, Life::Running, 0).expect(&[]);
    let done = || base().container("i", 0, Life::Exited, 0);
    done().expect(&["start/side"]);
    let stays = || done().container("side", 0, Life::Running, 0);
    let plan = stays().expect(&["start/j"]);
    assert_eq!(plan.waiting["a"].reason, "PodInitializing");
    let all = || stays().container("j", 0, Life::Exited, 0);
    assert!(all().expect(&["start/a"]).initialized);
    all().container("a", 0, Life::Running, 0).expect(&[]);
}

#[test]
fn a_failed_init_container_is_tried_again_unless_the_pod_never_restarts() {
    let case = || Case::new(with_init()).prepared(&["i"]).container("i", 0, Life::Exited, 1);
    case().expect(&["start/i"]);
    let mut never = case();
    never.pod.spec.as_mut().expect("a spec").restart_policy = Some("Never".to_owned());
    let plan = never.expect(&["stop/s0"]);
    assert!(plan.terminal);
}

#[test]
fn restarts_are_immediate_once_and_then_wait() {
    Case::new(one()).prepared(&["a"]).container("a", 0, Life::Exited, 0).expect(&["start/a"]);
    let second = Case::new(one()).prepared(&["a"]).container("a", 1, Life::Exited, 1);
    let plan = second.expect(&[]);
    assert_eq!(plan.waiting["a"].reason, "CrashLoopBackOff");
    assert_eq!(plan.wake, Some(at(NOW + 9)));
}

#[test]
fn a_pod_whose_containers_are_done_is_taken_down_and_kept() {
    let mut case = Case::new(json!({
        "restartPolicy": "OnFailure", "containers": [{"name": "a", "image": "x"}]
    }))
    .prepared(&[])
    .container("a", 0, Life::Exited, 0);
    assert!(case.expect(&["stop/s0"]).terminal);
    case.facts.stopped.insert("s0".to_owned());
    case.expect(&["end"]);
    assert_eq!(case.plan().actions, [Action::Settle]);
    case.facts.settled = true;
    case.expect(&[]);
}

#[test]
fn a_failed_liveness_probe_ends_the_container() {
    let mut case = Case::new(one()).prepared(&[]).container("a", 0, Life::Running, 0);
    case.probes.set("a0", Kind::Liveness, false, String::new());
    case.expect(&["kill/a0"]);
}

#[test]
fn another_image_ends_the_container_and_other_resources_do_not() {
    let mut case = Case::new(one()).prepared(&["a"]).container("a", 0, Life::Running, 0);
    case.pod.spec.as_mut().expect("a spec").containers[0].image = Some("y".to_owned());
    case.expect(&["kill/a0"]);
    let mut sized = Case::new(json!({"containers": [
        {"name": "a", "image": "x", "resources": {"limits": {"cpu": "1"}}}
    ]}))
    .prepared(&[])
    .container("a", 0, Life::Running, 0);
    sized.runtime.containers[0].resources = Some(r#"{"limits":{"cpu":"2"}}"#.to_owned());
    let plan = sized.expect(&["resize/a0"]);
    assert_eq!(plan.resize, Some(Resize::InProgress(None)));
    sized.facts.room = Some((500, 1 << 30));
    let plan = sized.expect(&[]);
    let why = "Node didn't have enough capacity: cpu, requested: 1000, capacity: 500";
    assert_eq!(plan.resize, Some(Resize::Infeasible(why.to_owned())));
    sized.facts.room = None;
    let policy = json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]);
    sized.pod.spec.as_mut().expect("a spec").containers[0].resize_policy =
        serde_json::from_value(policy).expect("a policy");
    sized.expect(&["kill/a0"]);
}

#[test]
fn a_dead_sandbox_is_left_before_the_next_is_made() {
    let mut case = Case::new(one()).prepared(&["a"]).container("a", 0, Life::Running, 0);
    case.runtime.sandboxes[0].ready = false;
    case.expect(&["kill/a0"]);
    case.runtime.containers[0].life = Life::Exited;
    case.runtime.containers[0].finished_at = Some(at(NOW));
    case.expect(&["stop/s0"]);
    case.facts.stopped.insert("s0".to_owned());
    let plan = case.expect(&["sandbox"]);
    assert_eq!(plan.actions, [Action::CreateSandbox { attempt: 1 }]);
}

#[test]
fn a_post_start_hook_holds_back_the_containers_after_it() {
    let spec = json!({"containers": [
        {"name": "a", "image": "x", "lifecycle": {"postStart": {"exec": {"command": ["x"]}}}},
        {"name": "b", "image": "x"}
    ]});
    let images = ["a", "b"];
    Case::new(spec.clone()).prepared(&images).expect(&["start/a"]);
    let mut case = Case::new(spec).prepared(&images).container("a", 0, Life::Running, 0);
    case.facts.hooks.insert("a0".to_owned());
    case.expect(&["hook/a0"]);
    case.facts.hooks.clear();
    case.expect(&["start/b"]);
}

#[test]
fn a_deleted_pod_ends_containers_then_sidecars_then_everything() {
    let mut case = Case::new(with_init())
        .prepared(&[])
        .container("side", 0, Life::Running, 0)
        .container("a", 0, Life::Running, 0)
        .deleted(5);
    let plan = case.expect(&["kill/a0"]);
    assert!(matches!(&plan.actions[0], Action::Kill { until, .. } if *until == at(NOW + 5)));
    case.runtime.containers[1].life = Life::Exited;
    case.expect(&["kill/side0"]);
    case.runtime.containers[0].life = Life::Exited;
    case.expect(&["stop/s0"]);
    case.facts.stopped.insert("s0".to_owned());
    assert_eq!(case.plan().actions, [Action::Finish]);
    case.facts.finished = true;
    case.expect(&[]);
}

#[test]
fn nothing_starts_in_a_deleted_pod_and_what_is_starting_is_waited_for() {
    Case::new(one()).prepared(&["a"]).deleted(5).expect(&["stop/s0"]);
    Case::new(one()).prepared(&["a"]).deleted(5).busy("start/a").expect(&[]);
    assert_eq!(Case::new(one()).deleted(5).plan().actions, [Action::Finish]);
}

#[test]
fn another_image_does_not_wait_for_how_often_the_one_before_ended() {
    let image = |image: &str| json!({"containers": [{"name": "a", "image": image}]});
    let ended = |image_now: &str| {
        Case::new(image(image_now)).prepared(&["a"]).container("a", 3, Life::Exited, 1)
    };
    ended("x").expect(&[]);
    let plan = ended("y").expect(&["start/a"]);
    let Action::Start { attempt, restart_delay, .. } = &plan.actions[0] else { panic!("a start") };
    assert_eq!((*attempt, *restart_delay), (4, Duration::ZERO));
}

#[test]
fn a_container_works_until_its_next_image_was_fetched_or_cannot_be() {
    let spec = json!({"containers": [{"name": "a", "image": "y"}]});
    let running = |images: &[&str]| {
        Case::new(spec.clone()).prepared(images).container("a", 0, Life::Running, 0)
    };
    running(&[]).expect(&["image/a"]);
    running(&[]).busy("image/a").expect(&[]);
    let plan = running(&["a"]).expect(&["kill/a0"]);
    assert!(matches!(plan.actions[0], Action::Kill { pre_stop: true, .. }));
    let mut case = running(&[]);
    let mut step = Step::Untried;
    step.fail("ErrImagePull", "gone".to_owned(), at(NOW), (PULL_WAIT, PULL_WAIT));
    let Step::Failed(failure) = step else { panic!("it failed") };
    case.facts.images.insert("a".to_owned(), ImageFact::Failed(failure));
    case.expect(&["kill/a0"]);
}

#[test]
fn a_shorter_grace_period_cuts_a_kill_short() {
    let case = Case::new(one()).prepared(&[]).container("a", 0, Life::Running, 0);
    let mut case = case.deleted(30);
    case.busy.insert("kill/a0".to_owned(), at(NOW + 30));
    case.expect(&[]);
    case.pod.metadata.deletion_grace_period_seconds = Some(1);
    let plan = case.expect(&["kill/a0"]);
    assert!(matches!(plan.actions[0], Action::Kill { pre_stop: false, .. }));
}

#[test]
fn a_pod_past_its_deadline_is_ended() {
    let spec = json!({"activeDeadlineSeconds": 60, "containers": [{"name": "a", "image": "x"}]});
    let case = Case::new(spec).prepared(&[]).container("a", 0, Life::Running, 0);
    let plan = case.expect(&["kill/a0"]);
    assert_eq!(plan.cause.map(|cause| cause.reason).as_deref(), Some("DeadlineExceeded"));
}

#[test]
fn a_failed_pull_is_shown_and_tried_again_when_its_time_has_come() {
    let mut case = Case::new(one()).prepared(&[]);
    for (since, retry, reason, steps) in [
        (1, 9, "ErrImagePull", &[][..]),
        (6, 4, "ImagePullBackOff", &[]),
        (10, 0, "ImagePullBackOff", &["image/a"]),
    ] {
        let failure = crate::pod::facts::Failure {
            reason: "ErrImagePull",
            message: "no".to_owned(),
            count: 1,
            at: at(NOW - since),
            retry_at: at(NOW + retry),
        };
        case.facts.images.insert("a".to_owned(), ImageFact::Failed(failure));
        let plan = case.expect(steps);
        assert_eq!(plan.waiting["a"].reason, reason, "{since} s after the failure");
    }
}

#[test]
fn attempts_count_on_when_the_runtime_has_forgotten() {
    let mut case = Case::new(one()).prepared(&["a"]);
    case.facts.restarts.insert("a".to_owned(), 4);
    let plan = case.expect(&["start/a"]);
    assert!(matches!(plan.actions[0], Action::Start { attempt: 5, .. }));
}
