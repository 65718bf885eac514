//! Ways into a pod: its binding to a node, its logs, and sessions in its containers.

use std::sync::Arc;

use berth_schema::Resource;
use http::{Response, StatusCode};
use serde_json::Value;

use crate::admission::{self, Asked, Operation};
use crate::call::Call;
use crate::kubelet::Place;
use crate::object;
use crate::path::{Query, Target};
use crate::rbac;
use crate::respond::{self, Body};
use crate::rules;
use crate::server::Core;
use crate::status::{self, Failure};
use crate::verbs;
use crate::write::Write;

const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// Binds a pod to a node, the old way: by a `Binding` of the pod's name in `bindings`.
pub(crate) async fn bind_named(core: &Arc<Core>, call: &Call) -> Result<Response<Body>, Failure> {
    let name = object::name(&call.body_value()?).to_owned();
    let mut call = call.detached();
    Arc::make_mut(&mut call.target).name = name;
    bind(core, &call, &core.resource("", "v1", "pods")?).await
}

/// Binds a pod to a node.
pub(super) async fn bind(
    core: &Arc<Core>,
    call: &Call,
    resource: &Arc<Resource>,
) -> Result<Response<Body>, Failure> {
    let binding = call.body_value()?;
    let target = &call.target;
    let manager = call.manager()?;
    let write = Write {
        core,
        call,
        resource,
        subresource: Some("binding"),
        dry_run: call.dry_run()?,
        manager: Some(&manager),
    };
    let uid = object::uid(&binding).to_owned();
    let bound = |live: &Value| {
        if !uid.is_empty() && uid != object::uid(live) {
            return Err(Failure::conflict(
                resource,
                &target.name,
                &format!(
                    "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                    object::uid(live)
                ),
            ));
        }
        rules::bind_pod(resource, live, &binding)
    };
    let of_binding = |failure: Failure| match failure.reason {
        "Conflict" => failure.of_subresource(resource, "binding"),
        _ => failure,
    };
    let done = write.update_slim(&target.namespace, &target.name, bound).await;
    if done.map_err(of_binding)?.is_none() {
        let done = write.update(&target.namespace, &target.name, bound).await;
        done.map_err(of_binding)?;
    }
    Ok(respond::value(StatusCode::CREATED, &status::success(201), &call.output))
}

/// The log of one container.
pub(super) async fn log(core: &Arc<Core>, call: &Call) -> Result<Response<Body>, Failure> {
    let target = &call.target;
    let pod = rules::find_pod(core, &target.namespace, &target.name).await?;
    let container = container(&pod, &call.query)?;
    let place = place(core, &pod).await?;
    let names = [
        "follow",
        "previous",
        "sinceSeconds",
        "sinceTime",
        "timestamps",
        "tailLines",
        "limitBytes",
        "stream",
    ];
    let query =
        encode(names.iter().flat_map(|name| call.query.all(name).map(move |value| (*name, value))));
    let path = format!("/containerLogs/{}/{}/{container}?{query}", target.namespace, target.name);
    core.kubelet.get(&place, &path, &core.tasks).await
}

/// A session: exec, attach or portforward, passed through to the node as it is.
pub(super) async fn session(core: &Arc<Core>, call: Call) -> Result<Response<Body>, Failure> {
    let target = &call.target;
    // A session changes things, though WebSocket opens it with a GET.
    let creates = Target { verb: "create".to_owned(), ..Target::clone(target) };
    if target.verb != "create" && !core.rbac.allows(&call.user, &creates) {
        return Err(Failure::forbidden(rbac::refusal(&call.user, &creates)));
    }
    let pod = rules::find_pod(core, &target.namespace, &target.name).await?;
    let (namespace, name) = (&target.namespace, &target.name);
    let asked = Asked {
        core,
        call: &call,
        resource: &core.resource("", "v1", "pods")?,
        subresource: Some(&target.subresource),
        operation: Operation::Connect,
        namespace,
        name,
        dry_run: false,
        old: None,
    };
    admission::validate_action(&asked, Some(&session_options(&call))).await?;
    let path = match target.subresource.as_str() {
        "portforward" => {
            let query = encode(call.query.all("ports").map(|value| ("ports", value)));
            format!("/portForward/{namespace}/{name}?{query}")
        }
        kind => {
            let container = container(&pod, &call.query)?;
            let running = pod["status"]["phase"].as_str().unwrap_or_default();
            if matches!(running, "Succeeded" | "Failed") {
                return Err(Failure::bad_request(format!(
                    "cannot {kind} into a container in a completed pod; current phase is {running}"
                )));
            }
            let names = ["command", "stdin", "stdout", "stderr", "tty"];
            let pairs =
                names.iter().flat_map(|name| call.query.all(name).map(move |value| (*name, value)));
            format!("/{kind}/{namespace}/{name}/{container}?{}", encode(pairs))
        }
    };
    let place = place(core, &pod).await?;
    core.kubelet.session(&place, &path, call, &core.tasks).await
}

/// What a session asks for, as admission sees it.
fn session_options(call: &Call) -> Value {
    let kind = match call.target.subresource.as_str() {
        "exec" => "PodExecOptions",
        "attach" => "PodAttachOptions",
        _ => "PodPortForwardOptions",
    };
    let mut options = serde_json::json!({"kind": kind, "apiVersion": "v1"});
    for flag in ["stdin", "stdout", "stderr", "tty"] {
        if call.query.is_on(flag) {
            options[flag] = serde_json::json!(true);
        }
    }
    if let Some(container) = call.query.get("container") {
        options["container"] = serde_json::json!(container);
    }
    for (key, shown) in [("command", "command"), ("ports", "ports")] {
        let values: Vec<&str> = call.query.all(key).collect();
        if !values.is_empty() {
            options[shown] = serde_json::json!(values);
        }
    }
    options
}

/// The container asked for, else the only or the annotated one.
fn container(pod: &Value, query: &Query) -> Result<String, Failure> {
    let pod_name = object::name(pod);
    let list = |field: &str| -> Vec<String> {
        let list = pod["spec"][field].as_array().into_iter().flatten();
        list.filter_map(|one| one["name"].as_str().map(str::to_owned)).collect()
    };
    let own = list("containers");
    let (init, ephemeral) = (list("initContainers"), list("ephemeralContainers"));
    if let Some(asked) = query.get("container") {
        if [&own, &init, &ephemeral].iter().any(|list| list.iter().any(|name| name == asked)) {
            return Ok(asked.to_owned());
        }
        return Err(Failure::bad_request(format!(
            "container {asked} is not valid for pod {pod_name}"
        )));
    }
    if let [only] = own.as_slice() {
        return Ok(only.clone());
    }
    let preferred = pod["metadata"]["annotations"][DEFAULT_CONTAINER].as_str();
    if let Some(preferred) = preferred.filter(|name| own.iter().any(|one| one == name)) {
        return Ok(preferred.to_owned());
    }
    let mut message = format!(
        "a container name must be specified for pod {pod_name}, choose one of: [{}]",
        own.join(" ")
    );
    if !init.is_empty() {
        message.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
    }
    Err(Failure::bad_request(message))
}

/// Where the node agent of a pod's node is.
async fn place(core: &Arc<Core>, pod: &Value) -> Result<Place, Failure> {
    let node_name = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if node_name.is_empty() {
        return Err(Failure::bad_request(format!(
            "pod {} does not have a host assigned",
            object::name(pod)
        )));
    }
    node_place(&verbs::found(core, "nodes", "", node_name).await?)
}

/// Where the agent of a node is.
pub(crate) fn node_place(node: &Value) -> Result<Place, Failure> {
    let addresses = node["status"]["addresses"].as_array().into_iter().flatten();
    let address = addresses
        .filter(|one| one["type"] == "InternalIP")
        .find_map(|one| one["address"].as_str()?.parse().ok());
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"]
        .as_u64()
        .filter(|port| *port != 0);
    match (address, port.and_then(|port| u16::try_from(port).ok())) {
        (Some(address), Some(port)) => Ok(Place { address, port }),
        _ => Err(Failure::unavailable(format!(
            "node {} has not said where it can be reached",
            object::name(node)
        ))),
    }
}

pub(super) fn encode<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let escape = |text: &str| -> String {
        text.bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                    char::from(byte).to_string()
                }
                other => format!("%{other:02X}"),
            })
            .collect()
    };
    pairs.map(|(key, value)| format!("{key}={}", escape(value))).collect::<Vec<_>>().join("&")
}
