//! `apps/NAME/log`: what an App wrote into its log directories, from the node that collected it.
//!
//! It is there as long as the node keeps it, also when the App is gone: whether there is an App of
//! that name is not asked.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use serde_json::Value;

use super::pods::{encode, node_place};
use crate::call::Call;
use crate::object;
use crate::record;
use crate::respond::Body;
use crate::server::Core;
use crate::status::Failure;

/// What is passed on of the query.
const OPTIONS: [&str; 6] =
    ["follow", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes"];

/// The collected log of an App on one node: the one that `node` names, or the only one.
pub(super) async fn log(core: &Arc<Core>, call: &Call) -> Result<Response<Body>, Failure> {
    let target = &call.target;
    if target.verb != "get" {
        return Err(Failure::method_not_allowed());
    }
    let wanted = call.query.all("node").next();
    let node = node(core, wanted).await?;
    let query = OPTIONS.iter().flat_map(|name| call.query.all(name).map(move |is| (*name, is)));
    let path = format!("/appLogs/{}/{}?{}", target.namespace, target.name, encode(query));
    core.kubelet.get(&node_place(&node)?, &path, &core.tasks).await
}

/// The node that is meant. Nodes of another kind collect nothing.
async fn node(core: &Core, wanted: Option<&str>) -> Result<Value, Failure> {
    let prefix = Bytes::from(record::kind_prefix("", "nodes"));
    let page = core.store.list(&prefix, None, 0, None).await.map_err(Failure::internal)?;
    let all = page.entries.iter().filter_map(|entry| serde_json::from_slice(&entry.value).ok());
    let mut ours = all.filter(|node: &Value| {
        node["metadata"]["annotations"]["berth.dev/volumes-dir"].is_string()
            && wanted.is_none_or(|name| object::name(node) == name)
    });
    match (ours.next(), ours.next()) {
        (Some(node), None) => Ok(node),
        (None, _) => Err(Failure::bad_request("no such node collects logs of Apps".to_owned())),
        (Some(one), Some(other)) => {
            let (one, other) = (object::name(&one), object::name(&other));
            let text = format!("several nodes collect logs: say ?node={one} or ?node={other} …");
            Err(Failure::bad_request(text))
        }
    }
}
