//! An App's scale rule, as a HorizontalPodAutoscaler of the App itself.
//!
//! It points at the App and not at its Deployment: while a release has two sets of pods, the App
//! divides what the autoscaler asks for, and the autoscaler counts both.

use berth_api::app::Scale;
use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec, MetricSpec,
    MetricTarget, ResourceMetricSource,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The processor use that is aimed at when a rule names nothing, as `kubectl autoscale` does.
const CPU: i32 = 80;

/// The autoscaler of `rule`.
pub fn autoscaler(rule: &Scale, meta: &ObjectMeta) -> HorizontalPodAutoscaler {
    let cpu = rule.cpu.or_else(|| rule.memory.is_none().then_some(CPU));
    let metric = |name: &str, percent: i32| MetricSpec {
        type_: "Resource".to_owned(),
        resource: Some(ResourceMetricSource {
            name: name.to_owned(),
            target: MetricTarget {
                type_: "Utilization".to_owned(),
                average_utilization: Some(percent),
                ..MetricTarget::default()
            },
        }),
        ..MetricSpec::default()
    };
    let metrics = [("cpu", cpu), ("memory", rule.memory)];
    let metrics = metrics.into_iter().filter_map(|(name, percent)| Some(metric(name, percent?)));
    HorizontalPodAutoscaler {
        metadata: meta.clone(),
        spec: HorizontalPodAutoscalerSpec {
            min_replicas: Some(rule.min),
            max_replicas: rule.max,
            metrics: Some(metrics.collect()),
            scale_target_ref: CrossVersionObjectReference {
                api_version: Some("berth.dev/v1".to_owned()),
                kind: "App".to_owned(),
                name: meta.name.clone().unwrap_or_default(),
            },
            ..HorizontalPodAutoscalerSpec::default()
        },
        ..HorizontalPodAutoscaler::default()
    }
}
