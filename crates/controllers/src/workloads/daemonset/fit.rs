//! Whether a node should carry a DaemonSet's pod, and how the pod is pinned to it.

use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod,
    PodSpec, PodTemplateSpec, Taint, Toleration,
};

/// What a node means to a DaemonSet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fit {
    /// It should have a pod.
    pub runs: bool,
    /// A pod already there may stay.
    pub stays: bool,
}

/// Taints that every daemon pod tolerates: it is there to serve the node in trouble, too.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// And this one where the pod uses the node's own network.
const NO_NETWORK: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// Judges `node` for `template`.
pub(super) fn judge(template: &PodTemplateSpec, node: &Node) -> Fit {
    let Some(spec) = &template.spec else { return Fit { runs: false, stays: false } };
    if !(named(spec, node) && labelled(spec, node)) {
        return Fit { runs: false, stays: false };
    }
    let tolerations = tolerations(spec);
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    let untolerated = |effects: &[&str]| {
        taints.into_iter().flatten().any(|taint| {
            effects.contains(&taint.effect.as_str())
                && !tolerations.iter().any(|toleration| tolerates(toleration, taint))
        })
    };
    Fit { runs: !untolerated(&["NoSchedule", "NoExecute"]), stays: !untolerated(&["NoExecute"]) }
}

/// Pins `pod` to `node` and lets it tolerate what daemons tolerate.
pub(super) fn pin(pod: &mut Pod, node: &str) {
    let Some(spec) = &mut pod.spec else { return };
    spec.tolerations = Some(tolerations(spec));
    let field = NodeSelectorRequirement {
        key: "metadata.name".into(),
        operator: "In".into(),
        values: Some(vec![node.to_owned()]),
    };
    let affinity: &mut Affinity = spec.affinity.get_or_insert_default();
    let affinity: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    let required = &mut affinity.required_during_scheduling_ignored_during_execution;
    // The node was judged against the template's own terms already.
    let term = NodeSelectorTerm { match_fields: Some(vec![field]), match_expressions: None };
    *required = Some(NodeSelector { node_selector_terms: vec![term] });
}

/// The node that [`pin`] pinned `pod` to.
pub(super) fn pinned_to(pod: &Pod) -> Option<&str> {
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let fields = required.node_selector_terms.iter().filter_map(|term| term.match_fields.as_ref());
    let name = fields.flatten().find(|f| f.key == "metadata.name" && f.operator == "In")?;
    name.values.as_ref()?.first().map(String::as_str)
}

fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut all = spec.tolerations.clone().unwrap_or_default();
    let network = spec.host_network.unwrap_or(false).then_some(NO_NETWORK);
    for (key, effect) in TOLERATED.into_iter().chain(network) {
        let toleration = Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            effect: Some(effect.into()),
            ..Default::default()
        };
        if !all.contains(&toleration) {
            all.push(toleration);
        }
    }
    all
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let given = |text: &Option<String>| text.clone().unwrap_or_default();
    let (key, effect) = (given(&toleration.key), given(&toleration.effect));
    if !effect.is_empty() && effect != taint.effect {
        return false;
    }
    let exists = toleration.operator.as_deref() == Some("Exists");
    if key.is_empty() {
        return exists;
    }
    key == taint.key && (exists || given(&toleration.value) == given(&taint.value))
}

fn named(spec: &PodSpec, node: &Node) -> bool {
    let name = spec.node_name.as_deref().unwrap_or_default();
    name.is_empty() || Some(name) == node.metadata.name.as_deref()
}

fn labelled(spec: &PodSpec, node: &Node) -> bool {
    let labels = node.metadata.labels.as_ref();
    let value = |key: &str| labels.and_then(|all| all.get(key)).map(String::as_str);
    if !spec.node_selector.iter().flatten().all(|(key, wanted)| value(key) == Some(wanted)) {
        return false;
    }
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required =
        affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let Some(required) = required else { return true };
    let name = node.metadata.name.as_deref();
    required.node_selector_terms.iter().any(|term| {
        let expressions = term.match_expressions.as_deref().unwrap_or_default();
        let fields = term.match_fields.as_deref().unwrap_or_default();
        // A term that asks nothing matches nothing.
        !(expressions.is_empty() && fields.is_empty())
            && expressions.iter().all(|e| meets(e, value(&e.key)))
            && fields.iter().all(|f| f.key == "metadata.name" && meets(f, name))
    })
}

fn meets(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = || value.is_some_and(|value| values.iter().any(|wanted| wanted == value));
    let number = || {
        let wanted: i64 = values.first()?.parse().ok()?;
        let value: i64 = value?.parse().ok()?;
        Some(value.cmp(&wanted))
    };
    match requirement.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => number().is_some_and(|order| order.is_gt()),
        "Lt" => number().is_some_and(|order| order.is_lt()),
        _ => false,
    }
}
