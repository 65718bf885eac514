//! What an App's containers are told of their own size, for runtimes that would otherwise take the
//! machine's or a share of theirs.
//!
//! | variable | who reads it |
//! | --- | --- |
//! | `CONTAINER_CORE_LIMIT`, `CONTAINER_MAX_MEMORY` | start scripts of Java images (fabric8's `run-java.sh`, Red Hat's) |
//! | `JDK_JAVA_OPTIONS` | the `java` of JDK 10 and newer, which else takes a quarter of the memory for its heap; older ones do not read it (9 does, and refuses the option) |
//! | `GOMAXPROCS`, `GOMEMLIMIT` | Go, which before 1.25 counts the machine's processors |
//!
//! What the App itself says goes before. Refused: `JAVA_TOOL_OPTIONS` and its like, in which images
//! often name their agents: a pod's variable takes the place of the image's.

use std::collections::BTreeSet;

use berth_api::Quantity;
use berth_api::app::AppSpec;
use k8s_openapi::api::core::v1::{Container, EnvVar, PodSpec};

/// How much of its memory a JVM may take for its heap, in per cent: the rest is for threads, code and
/// classes, and for what else the container runs.
const HEAP_PERCENT: i64 = 75;
/// How much of its memory Go is to stay below, in per cent: its limit counts nothing but its own.
const GO_PERCENT: i64 = 90;

/// Tells the containers in `pod` what `spec` lets each of them have.
pub fn tell(pod: &mut PodSpec, spec: &AppSpec) {
    let all = variables(spec);
    let init = pod.init_containers.iter_mut().flatten();
    pod.containers.iter_mut().chain(init).for_each(|container| add(container, spec, &all));
}

fn add(container: &mut Container, spec: &AppSpec, all: &[(&str, String)]) {
    let mut said: BTreeSet<&str> =
        spec.config.iter().flat_map(|config| config.values.keys()).map(String::as_str).collect();
    let own = container.env.take().unwrap_or_default();
    said.extend(own.iter().map(|one| one.name.as_str()));
    let ours = all.iter().filter(|(name, _)| !said.contains(name)).map(|(name, value)| EnvVar {
        name: (*name).to_owned(),
        value: Some(value.clone()),
        ..EnvVar::default()
    });
    let env: Vec<EnvVar> = ours.chain(own.iter().cloned()).collect();
    container.env = Some(env).filter(|env| !env.is_empty());
}

fn variables(spec: &AppSpec) -> Vec<(&'static str, String)> {
    let limits = &spec.resources.limits;
    let amount = |text: &Option<String>| text.as_ref()?.parse::<Quantity>().ok();
    let mut all = Vec::new();
    if let Some(cpu) = amount(&limits.cpu) {
        // A part of a processor is one to who counts them.
        let cores = (cpu.millis() + 999) / 1000;
        let cores = cores.max(1).to_string();
        all.extend([("CONTAINER_CORE_LIMIT", cores.clone()), ("GOMAXPROCS", cores)]);
    }
    if let Some(memory) = amount(&limits.memory) {
        let bytes = memory.whole();
        all.push(("CONTAINER_MAX_MEMORY", bytes.to_string()));
        all.push(("GOMEMLIMIT", (bytes / 100 * GO_PERCENT).to_string()));
        all.push(("JDK_JAVA_OPTIONS", format!("-XX:MaxRAMPercentage={HEAP_PERCENT}.0")));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn told(spec: Value, env: Value) -> Vec<String> {
        let spec: AppSpec = serde_json::from_value(spec).unwrap();
        let container = json!({ "name": "web", "env": env });
        let mut pod: PodSpec = serde_json::from_value(
            json!({ "containers": [container], "initContainers": [container] }),
        )
        .unwrap();
        tell(&mut pod, &spec);
        let env = |container: &Container| {
            let all = container.env.iter().flatten();
            all.map(|one| format!("{}={}", one.name, one.value.as_deref().unwrap_or_default()))
                .collect::<Vec<String>>()
        };
        let (main, init) = (env(&pod.containers[0]), env(&pod.init_containers.unwrap()[0]));
        assert_eq!(main, init, "each has its size for itself");
        main
    }

    #[test]
    fn containers_are_told_what_they_may_use() {
        let all = told(json!({ "image": "a" }), json!([]));
        let wanted = [
            "CONTAINER_CORE_LIMIT=1",
            "GOMAXPROCS=1",
            "CONTAINER_MAX_MEMORY=1073741824",
            "GOMEMLIMIT=966367620",
            "JDK_JAVA_OPTIONS=-XX:MaxRAMPercentage=75.0",
        ];
        assert_eq!(all, wanted, "1 CPU and 1 GiB where an App is silent");
        let sizes = json!({ "limits": { "cpu": "2500m", "memory": "512Mi" } });
        let all = told(json!({ "image": "a", "resources": sizes }), json!([]));
        assert_eq!((all[0].as_str(), all[1].as_str()), ("CONTAINER_CORE_LIMIT=3", "GOMAXPROCS=3"));
        assert_eq!(all[2], "CONTAINER_MAX_MEMORY=536870912");
        let sizes = json!({ "limits": { "cpu": "100m", "memory": "512Mi" } });
        let all = told(json!({ "image": "a", "resources": sizes }), json!([]));
        assert_eq!(all[1], "GOMAXPROCS=1", "nobody works with none");
    }

    #[test]
    fn what_the_app_says_goes_before() {
        let own = json!([{ "name": "GOMAXPROCS", "value": "8" }]);
        let spec =
            json!({ "image": "a", "config": { "values": { "JDK_JAVA_OPTIONS": "-Xmx100m" } } });
        let all = told(spec, own);
        assert_eq!(all.last().map(String::as_str), Some("GOMAXPROCS=8"));
        assert_eq!(all.iter().filter(|one| one.starts_with("GOMAXPROCS")).count(), 1);
        assert!(all.iter().all(|one| !one.starts_with("JDK_JAVA_OPTIONS")), "{all:?}");
    }
}
