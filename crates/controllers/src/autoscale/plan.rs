//! What an autoscaler comes to: replicas, status, and what is told. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_api::Quantity;
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerStatus,
    MetricSpec, MetricStatus, MetricTarget,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::behavior::{self, Memory, Rules};
use super::replicas::{self, Proposal, Samples, Tolerance};
use crate::workloads::Note;

/// Near enough, where the autoscaler does not say.
const TOLERANCE: f64 = 0.1;

/// What was read for one metric.
#[derive(Clone, Debug)]
pub(super) enum Reading {
    /// By pod.
    Pods(Samples),
    /// For the whole, in thousandths.
    One(i64),
}

/// The target's scale as it is.
#[derive(Clone, Debug)]
pub(super) struct Scale {
    /// As asked for.
    pub wanted: i32,
    /// As they run.
    pub running: i32,
}

/// Everything that a decision is made from.
pub(super) struct Snapshot<'a> {
    pub autoscaler: &'a HorizontalPodAutoscaler,
    /// Or why it is not known, with the condition's reason.
    pub scale: Result<Scale, (&'static str, String)>,
    /// Those that the target selects.
    pub pods: &'a [Arc<Pod>],
    /// One for each of the spec's metrics, or why there is none.
    pub readings: &'a [Result<Reading, String>],
}

/// What is to be done.
#[derive(Debug)]
pub(super) struct Plan {
    pub status: HorizontalPodAutoscalerStatus,
    /// The new size and why; none where it stays.
    pub rescale: Option<(i32, String)>,
    pub notes: Vec<Note>,
}

/// Decides; `memory` is this autoscaler's own.
pub(super) fn plan(world: &Snapshot<'_>, memory: &mut Memory, now: Timestamp) -> Plan {
    let own = world.autoscaler;
    let spec = own.spec.clone();
    let mut status = own.status.clone().unwrap_or_default();
    status.observed_generation = own.metadata.generation;
    let mut say = Conditions { status: &mut status, now };
    let scale = match &world.scale {
        Ok(scale) => scale,
        Err((reason, message)) => {
            let message = format!(
                "the HPA controller was unable to get the target's current scale: {message}"
            );
            say.set("AbleToScale", false, reason, &message);
            let note = Note { reason, message };
            return Plan { status, rescale: None, notes: vec![note] };
        }
    };
    say.set(
        "AbleToScale",
        true,
        "SucceededGetScale",
        "the HPA controller was able to get the target's current scale",
    );
    status.current_replicas = Some(scale.running);
    let (least, most) = (spec.min_replicas.unwrap_or(1), spec.max_replicas);
    let rules = Rules::of(spec.behavior.as_ref());
    memory.forget(&rules, now);
    memory.begin(scale.wanted, now);
    let mut notes = Vec::new();
    let (replicas, why) = if scale.wanted == 0 && least != 0 {
        let mut say = Conditions { status: &mut status, now };
        let message = "scaling is disabled since the replica count of the target is zero";
        say.set("ScalingActive", false, "ScalingDisabled", message);
        (0, String::new())
    } else if scale.wanted > most {
        (most, "Current number of replicas above Spec.MaxReplicas".to_owned())
    } else if scale.wanted < least {
        (least, "Current number of replicas below Spec.MinReplicas".to_owned())
    } else {
        match weigh(world, scale, &mut status, &mut notes, now) {
            Err(()) => {
                status.desired_replicas = scale.wanted;
                return Plan { status, rescale: None, notes };
            }
            Ok((wanted, metric)) => {
                let pace = behavior::pace(&rules, memory, scale.wanted, wanted, (least, most), now);
                let mut say = Conditions { status: &mut status, now };
                let (reason, message) = pace
                    .stabilized
                    .unwrap_or(("ReadyForNewScale", "recommended size matches current size"));
                say.set("AbleToScale", true, reason, message);
                match pace.limited {
                    Some((reason, message)) => say.set("ScalingLimited", true, reason, message),
                    None => {
                        let message = "the desired count is within the acceptable range";
                        say.set("ScalingLimited", false, "DesiredWithinRange", message);
                    }
                }
                let why = match pace.replicas.cmp(&scale.wanted) {
                    std::cmp::Ordering::Greater => format!("{metric} above target"),
                    _ => "All metrics below target".to_owned(),
                };
                (pace.replicas, why)
            }
        }
    };
    status.desired_replicas = replicas;
    let rescale = (replicas != scale.wanted).then_some((replicas, why));
    Plan { status, rescale, notes }
}

/// Notes what came of the change.
pub(super) fn rescaled(
    status: &mut HorizontalPodAutoscalerStatus,
    memory: &mut Memory,
    (from, to): (i32, i32),
    done: Result<(), String>,
    now: Timestamp,
) {
    let mut say = Conditions { status, now };
    match done {
        Ok(()) => {
            let message = format!("the HPA controller was able to update the target scale to {to}");
            say.set("AbleToScale", true, "SucceededRescale", &message);
            status.last_scale_time = Some(Time(now));
            memory.steps.push((now, to - from));
        }
        Err(error) => {
            let message =
                format!("the HPA controller was unable to update the target scale: {error}");
            say.set("AbleToScale", false, "FailedUpdateScale", &message);
            status.desired_replicas = from;
        }
    }
}

/// The most that any metric wants, and that metric; an error when too little is known.
fn weigh(
    world: &Snapshot<'_>,
    scale: &Scale,
    status: &mut HorizontalPodAutoscalerStatus,
    notes: &mut Vec<Note>,
    now: Timestamp,
) -> Result<(i32, String), ()> {
    let spec = world.autoscaler.spec.clone();
    let metrics = spec.metrics.unwrap_or_default();
    let rules = spec.behavior.as_ref();
    let tolerance = |rules: Option<&k8s_openapi::api::autoscaling::v2::HPAScalingRules>| {
        let own = rules.and_then(|rules| rules.tolerance.as_ref());
        let own = own.and_then(|own| own.0.parse::<Quantity>().ok());
        own.map_or(TOLERANCE, |own| own.millis() as f64 / 1000.0)
    };
    let tolerance = Tolerance {
        down: tolerance(rules.and_then(|rules| rules.scale_down.as_ref())),
        up: tolerance(rules.and_then(|rules| rules.scale_up.as_ref())),
    };
    let mut best: Option<(i32, String)> = None;
    let mut failures: Vec<(&'static str, String)> = Vec::new();
    let mut shown: Vec<MetricStatus> = Vec::new();
    for (metric, reading) in metrics.iter().zip(world.readings) {
        let weighed = reading
            .clone()
            .and_then(|reading| weigh_one(world, scale, metric, &reading, tolerance, now));
        match weighed {
            Ok((proposal, name)) => {
                shown.extend(current(metric, &proposal));
                if best.as_ref().is_none_or(|(most, _)| proposal.replicas > *most) {
                    best = Some((proposal.replicas, name));
                }
            }
            Err(error) => failures.push((reason(metric), error)),
        }
    }
    status.current_metrics = (!shown.is_empty()).then_some(shown);
    // With some unknown, more may be made, but nothing taken away.
    let enough =
        best.as_ref().is_some_and(|(most, _)| failures.is_empty() || *most >= scale.wanted);
    let mut say = Conditions { status, now };
    if let (Some((_, name)), true) = (&best, enough) {
        let message =
            format!("the HPA was able to successfully calculate a replica count from {name}");
        say.set("ScalingActive", true, "ValidMetricFound", &message);
        return best.ok_or(());
    }
    for (reason, message) in &failures {
        notes.push(Note { reason, message: message.clone() });
    }
    let (reason, first) = failures
        .first()
        .cloned()
        .unwrap_or(("FailedComputeMetricsReplicas", "there is no metric".to_owned()));
    let message = format!("the HPA was unable to compute the replica count: {first}");
    say.set("ScalingActive", false, reason, &message);
    notes.push(Note {
        reason: "FailedComputeMetricsReplicas",
        message: format!(
            "invalid metrics ({} invalid out of {}), first error is: {first}",
            failures.len(),
            metrics.len()
        ),
    });
    Err(())
}

fn reason(metric: &MetricSpec) -> &'static str {
    match metric.type_.as_str() {
        "Resource" => "FailedGetResourceMetric",
        "ContainerResource" => "FailedGetContainerResourceMetric",
        "Pods" => "FailedGetPodsMetric",
        "Object" => "FailedGetObjectMetric",
        "External" => "FailedGetExternalMetric",
        _ => "InvalidMetricSourceType",
    }
}

/// The target of a metric, and what it is called in messages.
pub(super) fn target(metric: &MetricSpec) -> Option<(&MetricTarget, String)> {
    Some(match metric.type_.as_str() {
        "Resource" => {
            let own = metric.resource.as_ref()?;
            let of = if own.target.average_utilization.is_some() {
                " utilization (percentage of request)"
            } else {
                ""
            };
            (&own.target, format!("{} resource{of}", own.name))
        }
        "ContainerResource" => {
            let own = metric.container_resource.as_ref()?;
            let of = if own.target.average_utilization.is_some() {
                " utilization (percentage of request)"
            } else {
                ""
            };
            (&own.target, format!("{} container resource{of}", own.name))
        }
        "Pods" => {
            let own = metric.pods.as_ref()?;
            (&own.target, format!("pods metric {}", own.metric.name))
        }
        "Object" => {
            let own = metric.object.as_ref()?;
            (&own.target, format!("{} metric {}", own.described_object.kind, own.metric.name))
        }
        "External" => {
            let own = metric.external.as_ref()?;
            (&own.target, format!("external metric {}", own.metric.name))
        }
        _ => return None,
    })
}

fn weigh_one(
    world: &Snapshot<'_>,
    scale: &Scale,
    metric: &MetricSpec,
    reading: &Reading,
    tolerance: Tolerance,
    now: Timestamp,
) -> Result<(Proposal, String), String> {
    let (target, name) =
        target(metric).ok_or_else(|| format!("metric source {:?} is not known", metric.type_))?;
    let amount = |quantity: &Option<k8s_openapi::apimachinery::pkg::api::resource::Quantity>| {
        let amount = quantity.as_ref()?.0.parse::<Quantity>().ok()?.millis();
        (amount > 0).then_some(amount)
    };
    let of_resource = metric
        .resource
        .as_ref()
        .map(|own| (own.name.as_str(), None))
        .or(metric.container_resource.as_ref().map(|c| (c.name.as_str(), Some(&*c.container))));
    let cpu = of_resource.is_some_and(|(name, _)| name == "cpu");
    let basis = (world.pods, cpu, tolerance, now);
    let proposal = match reading {
        Reading::Pods(samples) => {
            if let (Some(percent), Some((resource, container))) =
                (target.average_utilization, of_resource)
            {
                let requests = requests(world.pods, resource, container)?;
                replicas::by_utilization(scale.wanted, percent, samples, &requests, basis)?
            } else if let Some(average) = amount(&target.average_value) {
                replicas::by_average(scale.wanted, average, samples, basis)?
            } else {
                return Err("invalid metric source: neither an average utilization target nor an \
                            average value (usage) target was set"
                    .to_owned());
            }
        }
        Reading::One(value) => {
            if let Some(average) = amount(&target.average_value) {
                replicas::by_share(scale.running, average, *value, tolerance)
            } else if let Some(goal) = amount(&target.value) {
                replicas::by_value(scale.wanted, goal, *value, world.pods, tolerance)
            } else {
                return Err("invalid metric source: neither a value target nor an average value \
                            target was set"
                    .to_owned());
            }
        }
    };
    Ok((proposal, name))
}

/// What each pod asks for of a resource, in all its containers or in one.
fn requests(
    pods: &[Arc<Pod>],
    resource: &str,
    container: Option<&str>,
) -> Result<BTreeMap<String, i64>, String> {
    let mut all = BTreeMap::new();
    for pod in pods {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let spec = pod.spec.clone().unwrap_or_default();
        let sidecars = spec.init_containers.unwrap_or_default();
        let sidecars =
            sidecars.iter().filter(|one| one.restart_policy.as_deref() == Some("Always"));
        let mut sum = 0i64;
        for one in spec.containers.iter().chain(sidecars) {
            if container.is_some_and(|wanted| wanted != one.name) {
                continue;
            }
            let asked = one.resources.as_ref().and_then(|all| all.requests.as_ref()?.get(resource));
            let asked = asked.and_then(|asked| asked.0.parse::<Quantity>().ok());
            let asked = asked.ok_or_else(|| {
                format!("missing request for {resource} in container {} of Pod {name}", one.name)
            })?;
            sum = sum.saturating_add(asked.millis());
        }
        all.insert(name, sum);
    }
    Ok(all)
}

/// What `status.currentMetrics` shows of a metric.
fn current(metric: &MetricSpec, proposal: &Proposal) -> Option<MetricStatus> {
    let (target, _) = target(metric)?;
    let value = Quantity::from_millis(proposal.value).to_string();
    let average = target.average_utilization.is_some() || target.average_value.is_some();
    let mut current = json!({ if average { "averageValue" } else { "value" }: value });
    if let Some(percent) = proposal.utilization {
        current["averageUtilization"] = json!(percent);
    }
    let whole = serde_json::to_value(metric).ok()?;
    let field = match metric.type_.as_str() {
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        "Pods" => "pods",
        "Object" => "object",
        _ => "external",
    };
    let mut source: Value = whole.get(field)?.clone();
    source.as_object_mut()?.remove("target");
    source["current"] = current;
    serde_json::from_value(json!({ "type": metric.type_, field: source })).ok()
}

struct Conditions<'a> {
    status: &'a mut HorizontalPodAutoscalerStatus,
    now: Timestamp,
}

impl Conditions<'_> {
    fn set(&mut self, type_: &str, holds: bool, reason: &str, message: &str) {
        let all = self.status.conditions.get_or_insert_default();
        let word = if holds { "True" } else { "False" };
        let known = all.iter_mut().find(|condition| condition.type_ == type_);
        let now = Timestamp::from_second(self.now.as_second()).unwrap_or(self.now);
        match known {
            Some(condition) => {
                if condition.status != word {
                    condition.last_transition_time = Some(Time(now));
                }
                condition.status = word.to_owned();
                condition.reason = Some(reason.to_owned());
                condition.message = Some(message.to_owned());
            }
            None => all.push(HorizontalPodAutoscalerCondition {
                type_: type_.to_owned(),
                status: word.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message.to_owned()),
                last_transition_time: Some(Time(now)),
            }),
        }
    }
}
