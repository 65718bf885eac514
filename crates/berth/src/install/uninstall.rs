//! `berth uninstall`: takes back all that `berth install` brought.
//!
//! Apps go first, while everything that takes them apart is there, then pods, rights and definitions,
//! the namespace last. Before anything goes, what people made is named: their Apps above all.

use std::io::{BufRead, IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use berth_api::app::App;
use berth_api::app::logs::collector;
use berth_api::{gateway, labels};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, ServiceAccount};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt};
use serde_json::json;

use super::manifests::{LABEL, NAMESPACE};
use super::objects::{self, Place};
use super::{refused, server};
use crate::cli::Global;
use crate::failure::{Exit, Failure};
use crate::progress::Steps;

const LOOK: Duration = Duration::from_millis(300);
/// Names of people's objects that are printed; the rest is counted.
const NAMED: usize = 20;
/// What the scheduler adds to nodes for batch pods.
const OFFERED: &str = "berth.dev/";
/// ConfigMaps that people write for Berth.
const PEOPLES: [&str; 2] = ["berth-freeze", "berth-reclaim"];

/// `berth uninstall`.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Leave the definitions, and with them all Apps, Releases and Gateways
    #[arg(long)]
    keep_crds: bool,
    /// How long to wait until all is gone, in seconds
    #[arg(long, default_value_t = 300)]
    timeout: u64,
}

/// Does what the command line says.
///
/// # Errors
/// Nobody agreed, the server refuses, or something does not go in time.
pub async fn run(global: &Global, options: Options) -> Result<()> {
    let server = server::connect(global).await?;
    let client = &server.client;
    server.refuse_own_ground().await?;
    let installed = objects::installed(client).await?;
    if installed.is_empty() {
        eprintln!("there is nothing of Berth on {}", server.version);
        return Ok(());
    }
    let people = People::find(client, &installed).await?;
    if !options.yes {
        agree(&question(&installed, &people, options.keep_crds))?;
    }
    let until = Instant::now() + Duration::from_secs(options.timeout);
    let mut steps = Steps::new();
    if !options.keep_crds {
        steps.begin("apps and all they stand for");
        people.remove(client, until, &mut steps).await?;
    }
    steps.begin("pods, services and rights");
    remove(client, &installed, options.keep_crds, until, &mut steps).await?;
    steps.begin("what the parts kept for themselves");
    traces(client).await?;
    steps.done();
    let mut stay = left(client).await?;
    stay.extend(
        installed
            .iter()
            .filter_map(|(place, set)| (place.kind == "DaemonSet").then(|| kept_by(set)).flatten()),
    );
    global.output.print(&json!({ "removed": installed.len(), "left": stay }), || {
        let mut text = format!("berth is gone from {}\n", server.version);
        for one in &stay {
            text.push_str(&format!("  {one} is people's and stays\n"));
        }
        text
    })
}

/// What people made of the kinds that are about to go.
struct People {
    /// Resource and where each object of it is.
    all: Vec<(ApiResource, Vec<Place>)>,
}

impl People {
    async fn find(client: &Client, installed: &[(Place, DynamicObject)]) -> Result<Self> {
        let mut all = Vec::new();
        for (place, definition) in installed {
            if place.kind != "CustomResourceDefinition" {
                continue;
            }
            let Some(resource) = kind_of(definition) else { continue };
            let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
            let found = match api.list(&ListParams::default()).await {
                Err(kube::Error::Api(status)) if status.code == 404 => continue,
                found => found.with_context(|| format!("listing {}", resource.plural))?,
            };
            let mine = |object: &&DynamicObject| !object.labels().contains_key(LABEL);
            let places = found.items.iter().filter(mine).map(|object| Place {
                kind: resource.kind.clone(),
                namespace: object.namespace().unwrap_or_default(),
                name: object.name_any(),
            });
            all.push((resource.clone(), places.collect()));
        }
        Ok(Self { all })
    }

    /// A line for each kind of which there are any; Releases go with their Apps.
    fn lines(&self) -> Vec<String> {
        let any = self
            .all
            .iter()
            .filter(|(resource, places)| !places.is_empty() && resource.kind != "Release");
        any.map(|(resource, places)| {
            let name = |place: &Place| match place.namespace.as_str() {
                "" => place.name.clone(),
                space => format!("{space}/{}", place.name),
            };
            let mut names: Vec<String> = places.iter().take(NAMED).map(name).collect();
            if places.len() > NAMED {
                names.push(format!("and {} more", places.len() - NAMED));
            }
            format!("{} {}: {}", places.len(), resource.plural, names.join(", "))
        })
        .collect()
    }

    /// Deletes the Apps, and waits until nothing of them is left.
    async fn remove(&self, client: &Client, until: Instant, steps: &mut Steps) -> Result<()> {
        let api: Api<App> = Api::all(client.clone());
        let apps = self.all.iter().find(|(resource, _)| resource.kind == "App");
        let Some((_, places)) = apps.filter(|(_, places)| !places.is_empty()) else {
            return Ok(());
        };
        for place in places {
            // An App that is in the foreground of its own deletion goes after what it stands for.
            let one: Api<App> = Api::namespaced(client.clone(), &place.namespace);
            match one.delete(&place.name, &DeleteParams::foreground()).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error).with_context(|| format!("deleting {place}")),
            }
        }
        let pods: Api<Pod> = Api::all(client.clone());
        let theirs =
            ListParams::default().labels(&format!("{}={}", labels::MANAGED_BY, labels::BERTH));
        wait(until, steps, async || {
            let apps = api.list(&ListParams::default()).await.context("listing apps")?.items.len();
            let pods = pods.list(&theirs).await.context("listing the apps' pods")?.items.len();
            Ok((apps + pods > 0).then(|| format!("{apps} apps and {pods} pods left")))
        })
        .await
    }
}

fn kind_of(definition: &DynamicObject) -> Option<ApiResource> {
    let spec = &definition.data["spec"];
    let versions = spec["versions"].as_array()?;
    let served = versions.iter().find(|version| version["served"] == true)?;
    let kind = GroupVersionKind::gvk(
        spec["group"].as_str()?,
        served["name"].as_str()?,
        spec["names"]["kind"].as_str()?,
    );
    Some(ApiResource::from_gvk_with_plural(&kind, spec["names"]["plural"].as_str()?))
}

fn question(installed: &[(Place, DynamicObject)], people: &People, keep_crds: bool) -> String {
    let mut text = format!("{} objects of Berth are taken away", installed.len());
    let lines = people.lines();
    if keep_crds {
        text.push_str(", the definitions stay. Apps go on as they are; nobody looks after them");
    } else if !lines.is_empty() {
        text.push_str(", and with the definitions what people made:");
        for line in &lines {
            text.push_str(&format!("\n  {line}"));
        }
        text.push_str("\nApps go with their pods, services, routes and configuration");
    }
    let claims = installed.iter().filter(|(place, _)| place.kind == "PersistentVolumeClaim");
    for (place, _) in claims {
        text.push_str(&format!("\n  {place}, with the console's accounts and acts"));
    }
    let dns =
        installed.iter().find(|(place, _)| place.kind == "Service" && place.name == "berth-dns");
    if let Some(address) = dns.and_then(|(_, dns)| dns.data["spec"]["clusterIP"].as_str()) {
        text.push_str(&format!("\n  DNS at {address} answers no more"));
    }
    text
}

fn agree(question: &str) -> Result<()> {
    if !std::io::stdin().is_terminal() {
        let hint = "say --yes to take it away all the same";
        return Err(refused(format!("nobody is here to be asked: {question}"), hint));
    }
    eprint!("{question}\nGo on? [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("reading the answer")?;
    if ["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) {
        return Ok(());
    }
    Err(refused("nothing was taken away", ""))
}

/// Deletes what is installed, in its order, and waits until it is gone.
async fn remove(
    client: &Client,
    installed: &[(Place, DynamicObject)],
    keep_crds: bool,
    until: Instant,
    steps: &mut Steps,
) -> Result<()> {
    let goes = |place: &Place| !(keep_crds && place.kind == "CustomResourceDefinition");
    for (place, object) in installed.iter().filter(|(place, _)| goes(place)) {
        if place.kind == "CustomResourceDefinition" && is_foreign(object) {
            continue;
        }
        let api = objects::api(client, &place.kind, Some(&place.namespace))?;
        match api.delete(&place.name, &DeleteParams::background()).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error).with_context(|| format!("removing {place}")),
        }
    }
    wait(until, steps, async || {
        let left = objects::installed(client).await?;
        let left: Vec<_> = left.iter().map(|(place, _)| place).filter(|one| goes(one)).collect();
        Ok(left.first().map(|first| format!("{} left: {first}", left.len())))
    })
    .await
}

/// A definition of the Gateway API that somebody took over.
fn is_foreign(definition: &DynamicObject) -> bool {
    definition.data["spec"]["group"] == gateway::GROUP
        && !definition.labels().contains_key(gateway::OURS)
}

/// What no manifest names: what the parts wrote while they ran.
async fn traces(client: &Client) -> Result<()> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-system");
    gone(leases.delete("berth-scheduler", &DeleteParams::default()).await.map(drop))?;
    let maps: Api<ConfigMap> =
        Api::namespaced(client.clone(), berth_controllers::advice::NAMESPACE);
    let history = ListParams::default().labels(berth_controllers::advice::LABEL);
    for map in maps.list(&history).await.context("listing what was remembered")? {
        gone(maps.delete(&map.name_any(), &DeleteParams::default()).await.map(drop))?;
    }
    let readers: Api<ServiceAccount> = Api::all(client.clone());
    let made = format!("app.kubernetes.io/name={}", collector::NAME);
    let made = readers.list(&ListParams::default().labels(&made)).await;
    for reader in made.context("listing the readers of logs")? {
        let Some(space) = reader.namespace().filter(|_| reader.name_any() == collector::READER)
        else {
            continue;
        };
        let api: Api<ServiceAccount> = Api::namespaced(client.clone(), &space);
        gone(api.delete(collector::READER, &DeleteParams::default()).await.map(drop))?;
    }
    let nodes: Api<Node> = Api::all(client.clone());
    for node in nodes.list(&ListParams::default()).await.context("listing nodes")? {
        let capacity = node.status.as_ref().and_then(|status| status.capacity.as_ref());
        let offered = capacity.into_iter().flatten().map(|(name, _)| name);
        let none: serde_json::Map<_, _> = offered
            .filter(|name| name.starts_with(OFFERED))
            .map(|name| (name.clone(), json!(null)))
            .collect();
        if !none.is_empty() {
            let patch = json!({ "status": { "capacity": none, "allocatable": none } });
            let (name, params) = (node.name_any(), PatchParams::default());
            let answer = nodes.patch_status(&name, &params, &Patch::Merge(&patch)).await;
            gone(answer.map(drop))?;
        }
    }
    Ok(())
}

fn gone(answer: kube::Result<()>) -> Result<()> {
    match answer {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        answer => answer.context("removing what the parts kept"),
    }
}

/// What people wrote for Berth and nobody but they should remove.
async fn left(client: &Client) -> Result<Vec<String>> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    let mut left = Vec::new();
    for name in PEOPLES {
        let found = maps.get_opt(name).await.context("looking for what people wrote")?;
        left.extend(found.map(|map| format!("ConfigMap kube-system/{}", map.name_any())));
    }
    Ok(left)
}

/// What collectors keep on nodes.
fn kept_by(set: &DynamicObject) -> Option<String> {
    let dir = set.data["spec"]["template"]["spec"]["volumes"][0]["hostPath"]["path"].as_str()?;
    Some(format!("what Apps wrote into their log directories, {dir} on each node,"))
}

/// Looks until `left` says that nothing is.
async fn wait(
    until: Instant,
    steps: &mut Steps,
    left: impl AsyncFn() -> Result<Option<String>>,
) -> Result<()> {
    let mut said = String::new();
    loop {
        let Some(line) = left().await? else { return Ok(()) };
        if Instant::now() > until {
            let hint = format!("see what keeps it: kubectl -n {NAMESPACE} get all; then try again");
            return Err(Failure::new(Exit::Failed, line, hint).into());
        }
        if line != said {
            steps.note(&line);
            said = line;
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::manifests;

    fn place(kind: &str, namespace: &str, name: &str) -> Place {
        Place { kind: kind.into(), namespace: namespace.into(), name: name.into() }
    }

    fn people(count: usize) -> People {
        let resource = |kind, plural| {
            ApiResource::from_gvk_with_plural(
                &GroupVersionKind::gvk("berth.dev", "v1", kind),
                plural,
            )
        };
        let apps = (0..count).map(|n| place("App", "shop", &format!("a{n}"))).collect();
        let releases = vec![place("Release", "shop", "a0-1")];
        People {
            all: vec![(resource("App", "apps"), apps), (resource("Release", "releases"), releases)],
        }
    }

    #[test]
    fn people_are_told_what_of_theirs_goes() {
        let all = manifests::all(&manifests::tests::wanted()).unwrap();
        let installed: Vec<(Place, DynamicObject)> = all
            .iter()
            .map(|one| (Place::of(one), objects::dynamic(&one.object).unwrap()))
            .collect();
        let text = question(&installed, &people(22), false);
        assert!(text.contains("22 apps: shop/a0, shop/a1"), "{text}");
        assert!(text.contains("and 2 more"), "{text}");
        assert!(!text.contains("releases:"), "they go with their apps: {text}");
        assert!(text.contains("PersistentVolumeClaim berth-system/berth-console"), "{text}");
        assert!(text.contains("DNS at 10.0.0.10 answers no more"), "{text}");
        let kept = question(&installed, &people(1), true);
        assert!(kept.contains("the definitions stay") && !kept.contains("shop/a0"), "{kept}");
    }

    #[test]
    fn a_definition_says_which_kind_it_is() {
        let all = manifests::all(&manifests::tests::wanted()).unwrap();
        let app = all.iter().find(|one| one.name() == "apps.berth.dev").unwrap();
        let resource = kind_of(&objects::dynamic(&app.object).unwrap()).unwrap();
        assert_eq!(
            (resource.api_version.as_str(), resource.plural.as_str()),
            ("berth.dev/v1", "apps")
        );
    }
}
