//! `berth status`: the cluster at a glance, or one app with its pods and what went wrong.

use anyhow::{Context, Result};
use berth_api::app::App;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use crate::cli::Global;
use crate::instance::Instance;
use crate::output::{age, columns};
use crate::{backup, connect, pods};

/// How many Events of an app are shown.
const EVENTS: usize = 5;

/// `berth status`.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// The app; the whole cluster without
    name: Option<String>,
    #[arg(short, long, default_value = "default")]
    namespace: String,
}

/// Prints it.
///
/// # Errors
/// When nothing answers, or there is no such app.
pub async fn run(global: &Global, options: Options) -> Result<()> {
    let client = connect::client(global).await?;
    match &options.name {
        Some(name) => app(global, &client, &options.namespace, name).await,
        None => cluster(global, &client).await,
    }
}

async fn cluster(global: &Global, client: &Client) -> Result<()> {
    let version = client.apiserver_version().await?.git_version;
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await?.items;
    let apps = Api::<App>::all(client.clone()).list(&ListParams::default()).await?.items;
    let all = Api::<Pod>::all(client.clone()).list(&ListParams::default()).await?.items;
    let ready = all.iter().filter(|pod| pods::is_ready(pod)).count();
    let nodes: Vec<Value> = nodes.iter().map(node).collect();
    let apps: Vec<Value> = apps.iter().map(app_summary).collect();
    // Only the data directory's own cluster; another one's backups are elsewhere.
    let instance = if global.kubeconfig.is_none() { Instance::of(global).ok() } else { None };
    let last = instance.as_ref().and_then(backup::last);
    let shown = json!({ "version": version, "nodes": nodes, "apps": apps, "backup": last,
        "pods": { "all": all.len(), "ready": ready } });
    global.output.print(&shown, || {
        let mut text = format!("berth {version}, {ready} of {} pods ready\n\n", all.len());
        text +=
            &columns(&["NODE", "STATUS", "ADDRESS"], &rows(&nodes, &["name", "status", "address"]));
        text.push('\n');
        text += &columns(
            &["APP", "NAMESPACE", "READY", "URL"],
            &rows(&apps, &["name", "namespace", "ready", "url"]),
        );
        if let Some(last) = &last {
            text += &format!("\n{last}\n");
        }
        text
    })
}

async fn app(global: &Global, client: &Client, namespace: &str, name: &str) -> Result<()> {
    let api: Api<App> = Api::namespaced(client.clone(), namespace);
    let app = api.get(name).await.with_context(|| format!("the app {name} in {namespace}"))?;
    let listed = ListParams::default().labels(&pods::selector(name));
    let pods = Api::<Pod>::namespaced(client.clone(), namespace).list(&listed).await?.items;
    let now = Timestamp::now();
    let pods: Vec<Value> = pods.iter().map(|pod| pod_summary(pod, now)).collect();
    let warnings = warnings(client, namespace, name, now).await?;
    let mut shown = app_summary(&app);
    shown["image"] = json!(app.spec.image);
    shown["pods"] = json!(pods);
    shown["warnings"] = json!(warnings);
    global.output.print(&shown, || {
        let word = |key: &str| shown[key].as_str().unwrap_or("-").to_owned();
        let mut text = format!(
            "app     {name}\nimage   {}\nready   {}\nurl     {}\n\n",
            word("image"),
            word("ready"),
            word("url")
        );
        let keys = ["name", "status", "restarts", "address", "age"];
        text += &columns(&["POD", "STATUS", "RESTARTS", "ADDRESS", "AGE"], &rows(&pods, &keys));
        for warning in &warnings {
            text += &format!("\n! {warning}");
        }
        if !warnings.is_empty() {
            text.push('\n');
        }
        text
    })
}

/// The latest warnings about the app's objects, oldest first.
async fn warnings(
    client: &Client,
    namespace: &str,
    name: &str,
    now: Timestamp,
) -> Result<Vec<String>> {
    let listed = ListParams::default().fields("type=Warning");
    let mut events = Api::<Event>::namespaced(client.clone(), namespace).list(&listed).await?.items;
    let of_app = |event: &Event| {
        let object = event.involved_object.name.as_deref().unwrap_or_default();
        object == name || object.strip_prefix(name).is_some_and(|rest| rest.starts_with('-'))
    };
    events.retain(of_app);
    events.sort_by(|a, b| a.last_timestamp.cmp(&b.last_timestamp));
    let latest = events.iter().skip(events.len().saturating_sub(EVENTS));
    Ok(latest
        .map(|event| {
            let when = event.last_timestamp.as_ref().map_or_else(String::new, |at| age(at.0, now));
            let text = |field: &Option<String>| field.clone().unwrap_or_default();
            let object = text(&event.involved_object.name);
            format!("{when} ago {object}: {}: {}", text(&event.reason), text(&event.message))
        })
        .collect())
}

fn node(node: &Node) -> Value {
    let status = node.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_ref());
    let ready = conditions.into_iter().flatten().find(|condition| condition.type_ == "Ready");
    let ready = ready.is_some_and(|condition| condition.status == "True");
    let addresses = status.and_then(|status| status.addresses.as_ref());
    let address = addresses.into_iter().flatten().find(|address| address.type_ == "InternalIP");
    json!({
        "name": node.name_any(),
        "status": if ready { "Ready" } else { "NotReady" },
        "address": address.map(|address| &address.address),
    })
}

fn app_summary(app: &App) -> Value {
    let status = app.status.clone().unwrap_or_default();
    let ready = format!("{}/{}", status.ready_replicas, app.spec.replicas);
    json!({ "name": app.name_any(), "namespace": app.namespace(), "ready": ready, "url": status.url })
}

fn pod_summary(pod: &Pod, now: Timestamp) -> Value {
    let phase = pod.status.as_ref().and_then(|status| status.phase.clone());
    let leaving = pod.metadata.deletion_timestamp.is_some();
    let status = match (pods::trouble(pod), pods::is_ready(pod)) {
        (Some(trouble), _) => trouble,
        (None, _) if leaving => "Terminating".into(),
        (None, true) => "Ready".into(),
        (None, false) => phase.unwrap_or_else(|| "Pending".into()),
    };
    let restarts: i32 = pods::statuses(pod).map(|status| status.restart_count).sum();
    json!({
        "name": pod.name_any(),
        "status": status,
        "restarts": restarts.to_string(),
        "address": pod.status.as_ref().and_then(|status| status.pod_ip.clone()),
        "age": pod.metadata.creation_timestamp.as_ref().map(|at| age(at.0, now)),
    })
}

fn rows(items: &[Value], keys: &[&str]) -> Vec<Vec<String>> {
    let cell = |item: &Value, key: &&str| item[*key].as_str().unwrap_or("-").to_owned();
    items.iter().map(|item| keys.iter().map(|key| cell(item, key)).collect()).collect()
}
