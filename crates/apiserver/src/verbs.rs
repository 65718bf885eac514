//! The verbs on objects and collections, the same for every kind.

mod create;
mod delete;
mod frames;
mod items;
mod list;
mod patch;
mod read;
mod update;
mod watch;

use std::sync::Arc;

use berth_schema::Resource;
use http::Response;

pub(crate) use create::commit as commit_create;
pub(crate) use delete::{Options as DeleteOptions, remove};
pub(crate) use frames::Frames;
pub(crate) use patch::{Kind as PatchKind, scale as patch_scale};
pub(crate) use read::{found, get};
pub(crate) use update::put as put_subresource;

use crate::call::Call;
use crate::respond::Body;
use crate::server::Core;
use crate::status::Failure;

/// Answers a request for a resource itself.
pub(crate) async fn answer(
    core: &Arc<Core>,
    call: &Call,
    resource: &Arc<Resource>,
) -> Result<Response<Body>, Failure> {
    let verb = call.target.verb.as_str();
    if !resource.verbs.iter().any(|own| own == verb) {
        return Err(Failure::method_not_allowed());
    }
    match verb {
        "get" => read::get(core, call, resource).await,
        "list" => Box::pin(list::list(core, call, resource)).await,
        "watch" => Box::pin(watch::watch(core, call, resource)).await,
        "create" => Box::pin(create::create(core, call, resource)).await,
        "update" => Box::pin(update::put(core, call, resource, None)).await,
        "patch" => Box::pin(patch::patch(core, call, resource, None)).await,
        "delete" => Box::pin(delete::delete(core, call, resource)).await,
        "deletecollection" => Box::pin(delete::delete_collection(core, call, resource)).await,
        _ => Err(Failure::method_not_allowed()),
    }
}

/// Answers a patch of a subresource that is a part of the object.
pub(crate) async fn patch_subresource(
    core: &Arc<Core>,
    call: &Call,
    resource: &Arc<Resource>,
    subresource: &str,
) -> Result<Response<Body>, Failure> {
    patch::patch(core, call, resource, Some(subresource)).await
}
