//! What every cluster has from its first moment: roles, priority classes, namespaces, and the
//! Service by which pods find the API.
//!
//! Runs at every start. What is there is left as it is, except what names the address: that follows
//! the configuration.

use std::sync::Arc;

use berth_schema::{Resource, facts};
use http::{HeaderMap, Method};
use serde_json::{Value, json};

use crate::call::Call;
use crate::media::Output;
use crate::object;
use crate::path::{Query, Target};
use crate::server::Core;
use crate::status::Failure;
use crate::user::{MASTERS, User};
use crate::verbs;
use crate::write::Write;

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
const MANAGER: &str = "kube-apiserver";

pub(crate) async fn run(core: &Arc<Core>) -> Result<(), Failure> {
    for name in NAMESPACES {
        ensure(core, "", "v1", "namespaces", json!({"metadata": {"name": name}})).await?;
    }
    for object in facts::bootstrap() {
        let (group, version) =
            object["apiVersion"].as_str().and_then(|text| text.split_once('/')).unwrap_or_default();
        let kind = object["kind"].as_str().unwrap_or_default();
        let plural = {
            let catalog = core.catalog.read().expect("nothing panics while holding it");
            catalog.by_kind(group, version, kind).map(|resource| resource.plural.clone())
        };
        if let Some(plural) = plural {
            let (group, version) = (group.to_owned(), version.to_owned());
            ensure(core, &group, &version, &plural, object).await?;
        }
    }
    for own in own_bindings() {
        ensure(core, "rbac.authorization.k8s.io", "v1", "clusterrolebindings", own).await?;
    }
    serve_kubernetes(core).await
}

/// Who of our own parts holds what, beyond what Kubernetes binds.
///
/// Node agents are users of one group; on one machine nothing narrower would tell them apart. They
/// renew their certificates by themselves, and who shows a bootstrap token gets a first one. The
/// controllers are one user here, where Kubernetes has an account for each: together they may do
/// anything, since the garbage collector deletes objects of every kind.
fn own_bindings() -> [Value; 5] {
    let csr = "system:certificates.k8s.io:certificatesigningrequests";
    let binding = |name: &str, kind: &str, subject: &str, role: &str| {
        json!({
            "metadata": {"name": name},
            "subjects": [{
                "kind": kind, "apiGroup": "rbac.authorization.k8s.io", "name": subject,
            }],
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role,
            },
        })
    };
    [
        binding("berth:nodes", "Group", "system:nodes", "system:node"),
        binding("berth:node-renewal", "Group", "system:nodes", &format!("{csr}:selfnodeclient")),
        binding(
            "berth:node-bootstrap",
            "Group",
            "system:bootstrappers",
            "system:node-bootstrapper",
        ),
        binding(
            "berth:node-bootstrap-approval",
            "Group",
            "system:bootstrappers",
            &format!("{csr}:nodeclient"),
        ),
        binding("berth:controllers", "User", "system:kube-controller-manager", "cluster-admin"),
    ]
}

/// The Service `kubernetes` at the first service address, and this API server behind it.
async fn serve_kubernetes(core: &Arc<Core>) -> Result<(), Failure> {
    let advertise = core.settings.advertise;
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let service = json!({
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": core.settings.service_range.nth(1).to_string(),
            "ports": [{
                "name": "https", "protocol": "TCP", "port": 443, "targetPort": advertise.port(),
            }],
        },
    });
    replace(core, "", "services", service, "spec").await?;
    let ready = json!({"endpointslice.kubernetes.io/skip-mirror": "true"});
    let endpoints = json!({
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": ready},
        "subsets": [{
            "addresses": [{"ip": advertise.ip().to_string()}],
            "ports": [{"name": "https", "port": advertise.port(), "protocol": "TCP"}],
        }],
    });
    replace(core, "", "endpoints", endpoints, "subsets").await?;
    let slice = json!({
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": if advertise.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{
            "addresses": [advertise.ip().to_string()],
            "conditions": {"ready": true},
        }],
        "ports": [{"name": "https", "port": advertise.port(), "protocol": "TCP"}],
    });
    replace(core, "discovery.k8s.io", "endpointslices", slice.clone(), "endpoints").await?;
    replace(core, "discovery.k8s.io", "endpointslices", slice, "ports").await
}

/// Creates the object unless it is there.
async fn ensure(
    core: &Arc<Core>,
    group: &str,
    version: &str,
    plural: &str,
    new: Value,
) -> Result<(), Failure> {
    let resource = core.resource(group, version, plural)?;
    let call = own_call(&resource, &new);
    let write = own_write(core, &call, &resource);
    match verbs::commit_create(&write, new).await {
        Err(failure) if failure.reason != "AlreadyExists" => Err(failure),
        _ => Ok(()),
    }
}

/// Creates the object, or brings one part of it in step.
async fn replace(
    core: &Arc<Core>,
    group: &str,
    plural: &str,
    wanted: Value,
    part: &str,
) -> Result<(), Failure> {
    let resource = core.resource(group, "v1", plural)?;
    let call = own_call(&resource, &wanted);
    let write = own_write(core, &call, &resource);
    let (namespace, name) = (object::namespace(&wanted), object::name(&wanted));
    let updated = write
        .update(namespace, name, |live| {
            let mut new = live.clone();
            new[part] = wanted[part].clone();
            Ok(new)
        })
        .await;
    match updated {
        Err(failure) if failure.code == 404 => {
            verbs::commit_create(&write, wanted.clone()).await.map(drop)
        }
        other => other.map(drop),
    }
}

fn own_call(resource: &Resource, new: &Value) -> Call {
    Call {
        user: Arc::new(User::new("system:apiserver", &[MASTERS])),
        method: Method::POST,
        target: Arc::new(Target {
            is_resource: true,
            verb: "create".to_owned(),
            group: resource.group.clone(),
            version: resource.version.clone(),
            namespace: object::namespace(new).to_owned(),
            resource: resource.plural.clone(),
            ..Target::default()
        }),
        query: Query::default(),
        headers: HeaderMap::new(),
        body: bytes::Bytes::new(),
        output: Output::default(),
        upgrade: None,
        notes: Arc::default(),
    }
}

fn own_write<'a>(core: &'a Arc<Core>, call: &'a Call, resource: &'a Arc<Resource>) -> Write<'a> {
    Write { core, call, resource, subresource: None, dry_run: false, manager: Some(MANAGER) }
}
