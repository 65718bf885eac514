//! How to schedule: which filters and scores take part, with which weights and arguments.
//!
//! Read from configuration, checked by [`Profile::validate`] before anything runs.
//!
//! Source: `KubeSchedulerConfiguration` v1, whose names and defaults these are.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// A question that a node must not fail, by Kubernetes' name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are Kubernetes' and documented there")]
pub enum Filter {
    NodeUnschedulable,
    NodeName,
    TaintToleration,
    NodeAffinity,
    NodePorts,
    NodeResourcesFit,
    /// Ours: enough is free on enough of the node's devices, each counted for itself.
    DeviceShares,
    VolumeRestrictions,
    NodeVolumeLimits,
    VolumeBinding,
    VolumeZone,
    /// Ours: a node that is measured to be busier than the ceiling takes nothing more.
    LoadCeiling,
    PodTopologySpread,
    InterPodAffinity,
}

/// A view on how well a node suits, by Kubernetes' name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are Kubernetes' and documented there")]
pub enum Score {
    TaintToleration,
    NodeAffinity,
    PodTopologySpread,
    InterPodAffinity,
    NodeResourcesFit,
    NodeResourcesBalancedAllocation,
    ImageLocality,
    /// Ours: the less a node is measured to be used, the better.
    LoadAware,
    /// Ours: the less of the node's devices becomes useless to typical pods, the better.
    DeviceFragmentation,
    /// Ours: among nodes whose devices suffer alike, the fuller the better.
    DeviceTightness,
}

/// What [`Score::DeviceFragmentation`] goes by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DevicePolicy {
    /// What the room would fetch at the prices of a market of typical pods.
    #[default]
    Archimedes,
    /// Fragmentation gradient descent.
    #[serde(rename = "FGD")]
    Fgd,
    /// Nothing but how full a node is.
    BestFit,
}

impl Filter {
    /// As configuration and metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::NodeUnschedulable => "NodeUnschedulable",
            Self::NodeName => "NodeName",
            Self::TaintToleration => "TaintToleration",
            Self::NodeAffinity => "NodeAffinity",
            Self::NodePorts => "NodePorts",
            Self::NodeResourcesFit => "NodeResourcesFit",
            Self::DeviceShares => "DeviceShares",
            Self::VolumeRestrictions => "VolumeRestrictions",
            Self::NodeVolumeLimits => "NodeVolumeLimits",
            Self::VolumeBinding => "VolumeBinding",
            Self::VolumeZone => "VolumeZone",
            Self::LoadCeiling => "LoadCeiling",
            Self::PodTopologySpread => "PodTopologySpread",
            Self::InterPodAffinity => "InterPodAffinity",
        }
    }
}

impl Score {
    /// As configuration names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::TaintToleration => "TaintToleration",
            Self::NodeAffinity => "NodeAffinity",
            Self::PodTopologySpread => "PodTopologySpread",
            Self::InterPodAffinity => "InterPodAffinity",
            Self::NodeResourcesFit => "NodeResourcesFit",
            Self::NodeResourcesBalancedAllocation => "NodeResourcesBalancedAllocation",
            Self::ImageLocality => "ImageLocality",
            Self::LoadAware => "LoadAware",
            Self::DeviceFragmentation => "DeviceFragmentation",
            Self::DeviceTightness => "DeviceTightness",
        }
    }
}

/// How free room is rated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Strategy {
    /// The emptier the better.
    LeastAllocated,
    /// The fuller the better.
    MostAllocated,
    /// By a line through points of how full (percent) and how good (0..=10).
    RequestedToCapacityRatio {
        /// In order of how full.
        shape: Vec<Point>,
    },
}

/// A point of a [`Strategy::RequestedToCapacityRatio`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// Percent of the resource in use.
    pub utilization: i64,
    /// 0..=10.
    pub score: i64,
}

/// A resource and what it counts beside the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weighed {
    /// `cpu`, `memory` or any other.
    pub name: String,
    /// 1..=100.
    #[serde(default = "one")]
    pub weight: i64,
}

/// What pods that state no spread get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DefaultSpread {
    /// The node label whose values are the domains.
    pub topology_key: String,
    /// By how many pods domains may differ.
    pub max_skew: i64,
    /// Refuses nodes, or only weighs them.
    #[serde(default)]
    pub required: bool,
}

/// A way to schedule, under a name that pods ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Profile {
    /// What pods have in `spec.schedulerName`.
    pub scheduler_name: String,
    /// Filters that are not asked.
    pub disabled_filters: BTreeSet<Filter>,
    /// The weight of each score; one that is missing or 0 is off.
    pub scores: BTreeMap<Score, i64>,
    /// How `NodeResourcesFit` rates.
    pub strategy: Strategy,
    /// Which resources `NodeResourcesFit` rates.
    pub resources: Vec<Weighed>,
    /// Which resources `NodeResourcesBalancedAllocation` compares.
    pub balanced_resources: Vec<Weighed>,
    /// Spread for pods that state none and are selected by a Service or a controller.
    pub default_constraints: Vec<DefaultSpread>,
    /// What a pod's required affinity towards a newcomer counts.
    pub hard_pod_affinity_weight: i64,
    /// 100, or 0 as Kubernetes writes "as the scheduler sees fit": a decision costs what changed and
    /// not what there is, so that all nodes are compared always. Anything else is refused.
    pub percentage_of_nodes_to_score: u8,
    /// Percent of processor or memory measured in use above which a node takes nothing more.
    pub load_ceiling: Option<u8>,
    /// What devices are packed by; the first profile's counts for all.
    pub device_policy: DevicePolicy,
    /// Decides between nodes that are equally good.
    pub seed: u64,
}

/// A configuration that cannot be meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} is {value}; {wanted}")]
pub struct ProfileError {
    /// Which key.
    pub key: &'static str,
    /// What it says.
    pub value: String,
    /// What would be right.
    pub wanted: &'static str,
}

fn one() -> i64 {
    1
}

impl Default for Profile {
    fn default() -> Self {
        Self::standard(0)
    }
}

impl Profile {
    /// Every filter and score, weighed as Kubernetes does.
    pub fn standard(seed: u64) -> Self {
        let both = || ["cpu", "memory"].map(|name| Weighed { name: name.to_owned(), weight: 1 });
        let soft = |key: &str, max_skew| DefaultSpread {
            topology_key: key.to_owned(),
            max_skew,
            required: false,
        };
        Self {
            scheduler_name: "default-scheduler".to_owned(),
            disabled_filters: BTreeSet::new(),
            scores: BTreeMap::from([
                (Score::TaintToleration, 3),
                (Score::NodeAffinity, 2),
                (Score::PodTopologySpread, 2),
                (Score::InterPodAffinity, 2),
                (Score::NodeResourcesFit, 1),
                (Score::NodeResourcesBalancedAllocation, 1),
                (Score::ImageLocality, 1),
                (Score::LoadAware, 1),
                (Score::DeviceFragmentation, 20),
                (Score::DeviceTightness, 3),
            ]),
            strategy: Strategy::LeastAllocated,
            resources: both().into(),
            balanced_resources: both().into(),
            default_constraints: vec![
                soft("topology.kubernetes.io/zone", 3),
                soft("kubernetes.io/hostname", 5),
            ],
            hard_pod_affinity_weight: 1,
            percentage_of_nodes_to_score: 100,
            load_ceiling: None,
            device_policy: DevicePolicy::default(),
            seed,
        }
    }

    /// Whether `filter` is asked.
    pub fn asks(&self, filter: Filter) -> bool {
        !self.disabled_filters.contains(&filter)
    }

    /// The weight of `score`, 0 when it is off.
    pub fn weight(&self, score: Score) -> i64 {
        self.scores.get(&score).copied().unwrap_or(0)
    }

    /// The profile, if it can be meant.
    ///
    /// # Errors
    /// Names the first key whose value is out of range.
    pub fn validate(self) -> Result<Self, ProfileError> {
        let wrong = |key, value: String, wanted| Err(ProfileError { key, value, wanted });
        if self.scheduler_name.is_empty() {
            return wrong("schedulerName", "empty".to_owned(), "a name that pods can ask for");
        }
        if let Some((score, weight)) =
            self.scores.iter().find(|(_, weight)| !(0..=10_000).contains(*weight))
        {
            let value = format!("{}: {weight}", score.name());
            return wrong("scores", value, "weights are 0 to 10000");
        }
        for (key, list) in
            [("resources", &self.resources), ("balancedResources", &self.balanced_resources)]
        {
            if let Some(each) = list.iter().find(|each| !(1..=100).contains(&each.weight)) {
                let value = format!("{}: {}", each.name, each.weight);
                return wrong(key, value, "weights are 1 to 100");
            }
        }
        if let Strategy::RequestedToCapacityRatio { shape } = &self.strategy {
            let ordered = shape.windows(2).all(|two| two[0].utilization < two[1].utilization);
            let ranged = shape
                .iter()
                .all(|at| (0..=100).contains(&at.utilization) && (0..=10).contains(&at.score));
            if shape.is_empty() || !ordered || !ranged {
                let value = format!("{shape:?}");
                return wrong(
                    "strategy.shape",
                    value,
                    "points of rising utilization 0 to 100 with scores 0 to 10",
                );
            }
        }
        if let Some(each) = self.default_constraints.iter().find(|each| each.max_skew < 1) {
            return wrong("defaultConstraints.maxSkew", each.max_skew.to_string(), "at least 1");
        }
        if !(0..=100).contains(&self.hard_pod_affinity_weight) {
            let value = self.hard_pod_affinity_weight.to_string();
            return wrong("hardPodAffinityWeight", value, "0 to 100");
        }
        if !matches!(self.percentage_of_nodes_to_score, 0 | 100) {
            let value = self.percentage_of_nodes_to_score.to_string();
            let wanted = "this scheduler compares all nodes always: 100, or leave it out";
            return wrong("percentageOfNodesToScore", value, wanted);
        }
        if self.load_ceiling.is_some_and(|ceiling| !(1..=100).contains(&ceiling)) {
            let value = format!("{:?}", self.load_ceiling);
            return wrong("loadCeiling", value, "1 to 100, or nothing");
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Profile, String> {
        let profile: Profile = serde_json::from_str(text).map_err(|error| error.to_string())?;
        profile.validate().map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_left_out_is_the_default() {
        assert_eq!(read("{}"), Ok(Profile::standard(0)));
        let packed = read(r#"{"strategy": {"type": "MostAllocated"}}"#).unwrap();
        assert_eq!(packed.strategy, Strategy::MostAllocated);
    }

    #[test]
    fn a_wrong_value_names_its_key() {
        fn check(text: &str, expected: &str) {
            let error = read(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        check(r#"{"seeds": 1}"#, "unknown field `seeds`");
        check(r#"{"schedulerName": ""}"#, "schedulerName is empty");
        check(r#"{"scores": {"NodeAffinity": -1}}"#, "NodeAffinity: -1; weights are 0 to 10000");
        check(r#"{"scores": {"Nothing": 1}}"#, "unknown variant `Nothing`");
        check(r#"{"resources": [{"name": "cpu", "weight": 0}]}"#, "resources is cpu: 0");
        check(
            r#"{"strategy": {"type": "RequestedToCapacityRatio", "shape": []}}"#,
            "strategy.shape",
        );
        check(r#"{"loadCeiling": 0}"#, "loadCeiling");
        check(
            r#"{"percentageOfNodesToScore": 50}"#,
            "percentageOfNodesToScore is 50; this scheduler",
        );
        assert!(read(r#"{"percentageOfNodesToScore": 0}"#).is_ok());
    }
}
