//! What stands below an object: parts of it, actions on it, and ways into a running pod.

mod apps;
mod eviction;
mod pods;
mod scale;
mod token;

use std::sync::Arc;

use berth_schema::Resource;
use http::Response;

pub(crate) use pods::{bind_named, node_place};
pub(crate) use scale::{back as scale_back, view as scale_view};

use crate::call::Call;
use crate::respond::Body;
use crate::server::Core;
use crate::status::Failure;
use crate::verbs;

/// Answers a request for a subresource.
pub(crate) async fn answer(
    core: &Arc<Core>,
    call: Call,
    resource: &Arc<Resource>,
) -> Result<Response<Body>, Failure> {
    let name = call.target.subresource.clone();
    // Not of the kind's definition, which can say only `status` and `scale`.
    if name == "log" && resource.group == "berth.dev" && resource.plural == "apps" {
        return apps::log(core, &call).await;
    }
    let Some(found) = resource.subresource(&name) else { return Err(Failure::no_such_path()) };
    let verb = call.target.verb.as_str();
    if !found.verbs.iter().any(|own| own == verb) {
        return Err(Failure::method_not_allowed());
    }
    match (resource.plural.as_str(), name.as_str()) {
        (_, "scale") => scale::answer(core, &call, resource).await,
        ("pods", "binding") if resource.group.is_empty() => pods::bind(core, &call, resource).await,
        ("pods", "eviction") if resource.group.is_empty() => {
            eviction::evict(core, &call, resource).await
        }
        ("serviceaccounts", "token") if resource.group.is_empty() => {
            token::request(core, &call).await
        }
        ("pods", "log") if resource.group.is_empty() => pods::log(core, &call).await,
        ("pods", "exec" | "attach" | "portforward") if resource.group.is_empty() => {
            pods::session(core, call).await
        }
        (_, "status" | "finalize" | "approval" | "ephemeralcontainers" | "resize") => match verb {
            "get" => verbs::get(core, &call, resource).await,
            "update" => verbs::put_subresource(core, &call, resource, Some(&name)).await,
            "patch" => verbs::patch_subresource(core, &call, resource, &name).await,
            _ => Err(Failure::method_not_allowed()),
        },
        _ => Err(Failure::no_such_path()),
    }
}
