//! How fast a number of replicas may be gone to: stabilization windows and policies. Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{
    HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerBehavior,
};

/// What is remembered of one autoscaler.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Memory {
    /// Whether the size at which it was first seen stands among the recommendations: who knows
    /// nothing of the last minutes, after a restart too, takes nothing down before they are over.
    pub is_begun: bool,
    /// What was recommended when.
    pub recommendations: Vec<(Timestamp, i32)>,
    /// Steps that were taken: positive upwards.
    pub steps: Vec<(Timestamp, i32)>,
}

impl Memory {
    /// Begins with the size there is, once.
    pub fn begin(&mut self, current: i32, now: Timestamp) {
        if !std::mem::replace(&mut self.is_begun, true) {
            self.recommendations.push((now, current));
        }
    }

    /// Forgets what no window and no policy reaches any more.
    pub fn forget(&mut self, rules: &Rules, now: Timestamp) {
        let periods = rules.up.policies.iter().chain(&rules.down.policies);
        let longest = periods.map(|policy| policy.period_seconds).max().unwrap_or(0);
        let window = rules.up.window.max(rules.down.window);
        self.recommendations.retain(|(at, _)| age(*at, now) <= i64::from(window));
        self.steps.retain(|(at, _)| age(*at, now) <= i64::from(longest));
    }
}

/// Both directions, with what was not said filled in.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub up: Direction,
    pub down: Direction,
}

/// One direction.
#[derive(Clone, Debug)]
pub(super) struct Direction {
    window: i32,
    select: String,
    policies: Vec<HPAScalingPolicy>,
}

impl Rules {
    /// Kubernetes' defaults: up at once, to the double or by four pods in 15 s, whichever is more;
    /// down to what the last five minutes wanted at most.
    pub fn of(behavior: Option<&HorizontalPodAutoscalerBehavior>) -> Self {
        let policy = |type_: &str, value| HPAScalingPolicy {
            type_: type_.to_owned(),
            value,
            period_seconds: 15,
        };
        let up = vec![policy("Pods", 4), policy("Percent", 100)];
        let down = vec![policy("Percent", 100)];
        Self {
            up: Direction::of(behavior.and_then(|own| own.scale_up.as_ref()), 0, up),
            down: Direction::of(behavior.and_then(|own| own.scale_down.as_ref()), 300, down),
        }
    }
}

impl Direction {
    fn of(own: Option<&HPAScalingRules>, window: i32, policies: Vec<HPAScalingPolicy>) -> Self {
        let given = own.and_then(|own| own.policies.clone()).filter(|given| !given.is_empty());
        Self {
            window: own.and_then(|own| own.stabilization_window_seconds).unwrap_or(window),
            select: own.and_then(|own| own.select_policy.clone()).unwrap_or_else(|| "Max".into()),
            policies: given.unwrap_or(policies),
        }
    }
}

/// A reason and a sentence, as a condition has them.
pub(super) type Why = (&'static str, &'static str);

/// Where to go now.
#[derive(Debug, PartialEq)]
pub(super) struct Pace {
    pub replicas: i32,
    /// Said of `AbleToScale`.
    pub stabilized: Option<Why>,
    /// Said of `ScalingLimited`, when it is.
    pub limited: Option<Why>,
}

/// Leads `wanted` over the windows, the policies and the bounds; notes it in `memory`.
pub(super) fn pace(
    rules: &Rules,
    memory: &mut Memory,
    current: i32,
    wanted: i32,
    (least, most): (i32, i32),
    now: Timestamp,
) -> Pace {
    let within = |window: i32| {
        let recent = memory.recommendations.iter();
        recent.filter(move |(at, _)| age(*at, now) < i64::from(window)).map(|(_, wanted)| *wanted)
    };
    let lowest = within(rules.up.window).fold(wanted, i32::min);
    let highest = within(rules.down.window).fold(wanted, i32::max);
    let calm = current.max(lowest).min(highest);
    memory.recommendations.push((now, wanted));
    let stabilized = (calm != wanted).then_some(if wanted < calm {
        (
            "ScaleDownStabilized",
            "recent recommendations were higher than current one, applying the highest recent \
             recommendation",
        )
    } else {
        (
            "ScaleUpStabilized",
            "recent recommendations were lower than current one, applying the lowest recent \
             recommendation",
        )
    });
    let (replicas, limited) = if calm > current {
        let limit = highest_allowed(&rules.up, memory, current, now).max(current);
        match calm {
            calm if calm > most.min(limit) && most <= limit => (most, Some(TOO_MANY)),
            calm if calm > limit => (limit, Some(UP_LIMIT)),
            calm => (calm, None),
        }
    } else if calm < current {
        let limit = lowest_allowed(&rules.down, memory, current, now).min(current);
        match calm {
            calm if calm < least.max(limit) && least >= limit => (least, Some(TOO_FEW)),
            calm if calm < limit => (limit, Some(DOWN_LIMIT)),
            calm => (calm, None),
        }
    } else {
        (calm, None)
    };
    let (replicas, limited) = match replicas {
        replicas if replicas < least => (least, Some(TOO_FEW)),
        replicas if replicas > most => (most, Some(TOO_MANY)),
        replicas => (replicas, limited.or_else(|| beyond(wanted, least, most))),
    };
    Pace { replicas, stabilized, limited }
}

/// What the metrics want is out of bounds although the workload stands at one of them.
fn beyond(wanted: i32, least: i32, most: i32) -> Option<Why> {
    (wanted > most).then_some(TOO_MANY).or_else(|| (wanted < least).then_some(TOO_FEW))
}

const TOO_MANY: Why =
    ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const TOO_FEW: Why =
    ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
const UP_LIMIT: Why =
    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const DOWN_LIMIT: Why = (
    "ScaleDownLimit",
    "the desired replica count is decreasing faster than the maximum scale rate",
);

fn highest_allowed(rules: &Direction, memory: &Memory, current: i32, now: Timestamp) -> i32 {
    let proposals = rules.policies.iter().map(|policy| {
        let start = at_start(policy, memory, current, now);
        match policy.type_.as_str() {
            "Pods" => start.saturating_add(policy.value),
            // The conversion keeps to i32's bounds.
            _ => (f64::from(start) * (1.0 + f64::from(policy.value) / 100.0)).ceil() as i32,
        }
    });
    match rules.select.as_str() {
        "Disabled" => current,
        "Min" => proposals.min().unwrap_or(current),
        _ => proposals.max().unwrap_or(current),
    }
}

fn lowest_allowed(rules: &Direction, memory: &Memory, current: i32, now: Timestamp) -> i32 {
    let proposals = rules.policies.iter().map(|policy| {
        let start = at_start(policy, memory, current, now);
        match policy.type_.as_str() {
            "Pods" => start.saturating_sub(policy.value),
            _ => (f64::from(start) * (1.0 - f64::from(policy.value) / 100.0)) as i32,
        }
    });
    match rules.select.as_str() {
        "Disabled" => current,
        // The smallest change.
        "Min" => proposals.max().unwrap_or(current),
        _ => proposals.min().unwrap_or(current),
    }
}

/// How many replicas there were when the policy's period began.
fn at_start(policy: &HPAScalingPolicy, memory: &Memory, current: i32, now: Timestamp) -> i32 {
    let recent = memory.steps.iter();
    let recent = recent.filter(|(at, _)| age(*at, now) < i64::from(policy.period_seconds));
    recent.fold(current, |sum, (_, step)| sum.saturating_sub(*step))
}

/// In whole seconds.
fn age(at: Timestamp, now: Timestamp) -> i64 {
    at.duration_until(now).max(SignedDuration::ZERO).as_secs()
}
