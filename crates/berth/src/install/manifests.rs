//! What an installation is made of: a pure function of what is wanted.
//!
//! Accounts and rights of DNS, balancer and console are those of `berth up`, read from its own
//! manifests: they cannot come apart. What is the embedded ground's alone is left out by name.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use berth_api::{account, app, gateway, release};
use clap::ValueEnum;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::console::oidc::PROVIDER;

const SYSTEM: &str = include_str!("../up/system.yaml");
const PEOPLE: &str = include_str!("../up/people.yaml");
const CONSOLE_RIGHTS: &str = include_str!("../up/console.yaml");
const CONTROLLERS: &str = include_str!("controllers.yaml");
const DNS: &str = include_str!("dns.yaml");
const BALANCER: &str = include_str!("balancer.yaml");
const CONSOLE: &str = include_str!("console.yaml");
const COLLECTOR: &str = include_str!("collector.yaml");

/// Where all but DNS and scheduler are.
pub const NAMESPACE: &str = "berth-system";
/// The label of everything that is installed.
pub const LABEL: &str = "berth.dev/installed-by";
/// Its value.
pub const LABELLED: &str = "berth-install";
/// On the namespace: which version is installed.
pub const VERSION: &str = "berth.dev/version";

/// What the console needs to ask who people are.
const PROVIDER_SECRET: &str = "berth-console-oidc";

/// The kinds, in the order in which they are wanted; [`Manifest::rank`] is a place in it.
const ORDER: [&str; 15] = [
    "Namespace",
    "CustomResourceDefinition",
    "ServiceAccount",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "ConfigMap",
    "Secret",
    "PersistentVolumeClaim",
    "Service",
    "IngressClass",
    "GatewayClass",
    "Deployment",
    "DaemonSet",
];
/// The rank of definitions.
pub const DEFINITIONS: usize = 1;
/// The rank of what has pods.
pub const WORKLOADS: usize = 13;

/// What can be left out.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What makes Apps and Releases work
    Controllers,
    /// Names
    Dns,
    /// HTTP from outside
    Balancer,
    /// For pods with `schedulerName: berth`
    Scheduler,
    /// The web console
    Console,
    /// Log directories of Apps
    Collector,
}

/// How the balancer is reached from outside.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Door {
    /// By what the cluster has for Services of type LoadBalancer, at 80 and 443
    #[default]
    LoadBalancer,
    /// On every node, at ports that Kubernetes chooses
    NodePort,
    /// Not at all: something else leads to it
    ClusterIp,
}

impl Door {
    fn word(self) -> &'static str {
        match self {
            Self::LoadBalancer => "LoadBalancer",
            Self::NodePort => "NodePort",
            Self::ClusterIp => "ClusterIP",
        }
    }
}

/// Where the console's file is.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Storage {
    /// A claim where the cluster has a default StorageClass, else with the pod
    #[default]
    Auto,
    /// A PersistentVolumeClaim
    Claim,
    /// With the pod: another pod knows no accounts
    Ephemeral,
}

/// What is to be there.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Berth's image.
    pub image: String,
    /// The parts.
    pub parts: Vec<Part>,
    /// What Apps' names end in.
    pub apps_domain: String,
    /// What the cluster's names end in.
    pub cluster_domain: String,
    /// How the balancer is reached.
    pub door: Door,
    /// Where, for HTTP and TLS.
    pub ports: (u16, u16),
    /// What Ingresses' status says.
    pub address: Option<String>,
    /// Whether Ingresses without a class are ours.
    pub default_class: bool,
    /// The address of our DNS.
    pub dns_address: Option<Ipv4Addr>,
    /// What the console offers to who wants a container to look into a pod.
    pub debug_image: Option<String>,
    /// Whether the console's file is on a claim.
    pub claim: bool,
    /// Where nodes keep what Apps wrote into their log directories.
    pub collector_dir: String,
    /// Who else names people: the files that the console needs for it.
    pub provider: Option<BTreeMap<&'static str, String>>,
}

impl Wanted {
    /// Whether `part` is.
    pub fn has(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }
}

/// What has pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// A DaemonSet; else a Deployment.
    pub is_on_each_node: bool,
}

/// One object, and which file it is rendered into.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// The file's name without its ending.
    pub file: &'static str,
    /// The object.
    pub object: Value,
}

impl Manifest {
    /// Its kind.
    pub fn kind(&self) -> &str {
        self.object["kind"].as_str().unwrap_or_default()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// Its namespace, where it is in one.
    pub fn namespace(&self) -> Option<&str> {
        self.object["metadata"]["namespace"].as_str()
    }

    /// When it is applied, relative to others.
    pub fn rank(&self) -> usize {
        ORDER.iter().position(|kind| *kind == self.kind()).unwrap_or(WORKLOADS)
    }

    /// Namespace and name, of what has pods.
    pub fn workload(&self) -> Option<Workload> {
        let namespace = self.namespace()?.to_owned();
        let name = self.name().to_owned();
        match self.kind() {
            "Deployment" => Some(Workload { namespace, name, is_on_each_node: false }),
            "DaemonSet" => Some(Workload { namespace, name, is_on_each_node: true }),
            _ => None,
        }
    }
}

/// All objects, in the order in which they are applied.
///
/// # Errors
/// When a text of ours is no YAML: a test keeps it from happening.
pub fn all(wanted: &Wanted) -> Result<Vec<Manifest>> {
    let mut all = Vec::new();
    definitions(&mut all)?;
    let mut add = |file, objects: Vec<Value>| {
        all.extend(objects.into_iter().map(|object| Manifest { file, object }));
    };
    let of_all = |object: &Value| object["metadata"]["name"] == NAMESPACE;
    let mut core: Vec<Value> = plain(SYSTEM)?.into_iter().filter(of_all).collect();
    if wanted.has(Part::Collector) {
        // It looks at processes of the node, which clusters with a stricter default refuse.
        let labels = json!({ "pod-security.kubernetes.io/enforce": "privileged" });
        core.iter_mut().for_each(|space| space["metadata"]["labels"] = labels.clone());
    }
    add("core", core);
    add("people", plain(PEOPLE)?);
    let named =
        |part: &'static str| move |object: &Value| is_of(object, part) && !is_embedded(object);
    if wanted.has(Part::Controllers) {
        add("controllers", filled(CONTROLLERS, wanted)?);
    }
    if wanted.has(Part::Dns) {
        add("dns", plain(SYSTEM)?.into_iter().filter(named("dns")).collect());
        let mut own = filled(DNS, wanted)?;
        if let Some(address) = wanted.dns_address {
            own[0]["spec"]["clusterIP"] = json!(address);
        }
        add("dns", own);
    }
    if wanted.has(Part::Balancer) {
        let rights = plain(SYSTEM)?.into_iter().filter(named("balancer"));
        add("balancer", rights.collect());
        let mut classes = plain(SYSTEM)?;
        classes.retain(|one| one["kind"] == "IngressClass" || one["kind"] == "GatewayClass");
        for class in &mut classes {
            if !wanted.default_class && class["kind"] == "IngressClass" {
                class["metadata"]["annotations"] = json!({});
            }
        }
        add("balancer", classes);
        let mut own = filled(BALANCER, wanted)?;
        if let Some(address) = &wanted.address {
            let words = &mut own[1]["spec"]["template"]["spec"]["containers"][0]["command"];
            let words = words.as_array_mut().context("the balancer has a command")?;
            words.extend([json!("--address"), json!(address)]);
        }
        add("balancer", own);
    }
    if wanted.has(Part::Scheduler) {
        let text = crate::scheduler::manifests_of(&wanted.image, crate::scheduler::PLAIN_CONFIG);
        add("scheduler", objects(&text)?);
    }
    if wanted.has(Part::Console) {
        add("console", plain(CONSOLE_RIGHTS)?);
        let mut own = filled(CONSOLE, wanted)?;
        if wanted.claim {
            let claim = json!({ "claimName": "berth-console" });
            own[1]["spec"]["template"]["spec"]["volumes"][0] =
                json!({ "name": "state", "persistentVolumeClaim": claim });
            own.push(console_claim());
        }
        if let Some(files) = &wanted.provider {
            let secret = console_provider(&mut own[1], files)?;
            own.push(secret);
        }
        add("console", own);
    }
    if wanted.has(Part::Collector) {
        add("collector", filled(COLLECTOR, wanted)?);
    }
    for one in &mut all {
        mark(&mut one.object);
    }
    all.sort_by_key(Manifest::rank);
    Ok(all)
}

fn definitions(all: &mut Vec<Manifest>) -> Result<()> {
    let own = [app::definition(), release::definition(), account::definition()];
    for (file, definition) in own
        .into_iter()
        .map(|one| ("definitions", one))
        .chain(gateway::definitions().into_iter().map(|one| ("gateway-api", one)))
    {
        let mut object = serde_json::to_value(definition)?;
        // What a server says of a definition is not ours to write.
        object.as_object_mut().context("a definition is an object")?.remove("status");
        all.push(Manifest { file, object });
    }
    Ok(())
}

/// The Secret of these files, which `deployment` gets.
fn console_provider(
    deployment: &mut Value,
    files: &BTreeMap<&'static str, String>,
) -> Result<Value> {
    let pod = &mut deployment["spec"]["template"];
    let digest = Sha256::digest(serde_json::to_vec(files)?);
    let digest: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    // What is in a Secret comes to a process that runs, but it does not look again.
    pod["metadata"]["annotations"]["berth.dev/provider"] = json!(digest);
    let container = &mut pod["spec"]["containers"][0];
    let words = container["command"].as_array_mut().context("the console has a command")?;
    words.extend([json!("--oidc"), json!(format!("/etc/berth/oidc/{PROVIDER}"))]);
    let mounts = container["volumeMounts"].as_array_mut().context("the console has files")?;
    mounts.push(json!({ "name": "oidc", "mountPath": "/etc/berth/oidc", "readOnly": true }));
    let volumes = pod["spec"]["volumes"].as_array_mut().context("the console has volumes")?;
    let secret = json!({ "secretName": PROVIDER_SECRET, "defaultMode": 288 });
    volumes.push(json!({ "name": "oidc", "secret": secret }));
    Ok(json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": { "name": PROVIDER_SECRET, "namespace": NAMESPACE },
        "stringData": files,
    }))
}

fn console_claim() -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": { "name": "berth-console", "namespace": NAMESPACE },
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": { "requests": { "storage": "1Gi" } },
        },
    })
}

/// Whether an object of `berth up` is of this part.
fn is_of(object: &Value, part: &str) -> bool {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    name == format!("berth-{part}") || name == format!("berth:{part}")
}

/// What stands for the embedded ground: there it is one node's directory, here a Deployment of ours.
fn is_embedded(object: &Value) -> bool {
    object["kind"] == "Deployment" || object["kind"] == "Service"
}

/// What makes an object ours, and every image one that the node may have already.
fn mark(object: &mut Value) {
    object["metadata"]["labels"][LABEL] = json!(LABELLED);
    if object["kind"] == "Namespace" {
        object["metadata"]["annotations"][VERSION] = json!(env!("CARGO_PKG_VERSION"));
    }
    if object["kind"] == "Deployment" || object["kind"] == "DaemonSet" {
        let containers = object["spec"]["template"]["spec"]["containers"].as_array_mut();
        for container in containers.into_iter().flatten() {
            container["imagePullPolicy"] = json!("IfNotPresent");
        }
    }
}

fn filled(text: &str, wanted: &Wanted) -> Result<Vec<Value>> {
    let words = [
        ("image", json!(wanted.image).to_string()),
        ("debug-image", json!(wanted.debug_image.as_deref().unwrap_or_default()).to_string()),
        ("collector-dir", json!(wanted.collector_dir).to_string()),
        ("apps-domain", wanted.apps_domain.clone()),
        ("cluster-domain", wanted.cluster_domain.clone()),
        ("http-port", wanted.ports.0.to_string()),
        ("https-port", wanted.ports.1.to_string()),
        ("balancer-service", wanted.door.word().to_owned()),
    ];
    let text = words.iter().fold(text.to_owned(), |text, (word, value)| {
        text.replace(&format!("{{{{{word}}}}}"), value)
    });
    objects(&text)
}

/// The objects in which nothing is to be filled in.
fn plain(text: &str) -> Result<Vec<Value>> {
    let documents = text.split("\n---\n").filter(|text| !text.contains("{{"));
    documents.map(read).collect()
}

fn objects(text: &str) -> Result<Vec<Value>> {
    text.split("\n---\n").map(read).collect()
}

fn read(text: &str) -> Result<Value> {
    serde_saphyr::from_str(text).context("reading our manifests")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn wanted() -> Wanted {
        Wanted {
            image: "registry.example/berth:7".into(),
            parts: Part::value_variants().to_vec(),
            apps_domain: "apps.example".into(),
            cluster_domain: "cluster.local".into(),
            door: Door::default(),
            ports: (80, 443),
            address: Some("192.0.2.1".into()),
            default_class: false,
            dns_address: Some(Ipv4Addr::new(10, 0, 0, 10)),
            debug_image: Some("registry.example/tools:7".into()),
            claim: true,
            collector_dir: "/var/lib/berth-collector".into(),
            provider: Some(BTreeMap::from([(PROVIDER, "{}".to_owned())])),
        }
    }

    fn find<'a>(all: &'a [Manifest], kind: &str, name: &str) -> &'a Value {
        let found = all.iter().find(|one| one.kind() == kind && one.name() == name);
        &found.unwrap_or_else(|| unreachable!("no {kind} {name}")).object
    }

    fn names(all: &[Manifest]) -> Vec<(String, String, String)> {
        let key = |one: &Manifest| {
            let namespace = one.namespace().unwrap_or_default().to_owned();
            (one.kind().to_owned(), namespace, one.name().to_owned())
        };
        all.iter().map(key).collect()
    }

    #[test]
    fn every_object_is_whole_marked_and_there_once() {
        let all = all(&wanted()).unwrap();
        let mut seen = names(&all);
        seen.sort();
        let count = seen.len();
        seen.dedup();
        assert_eq!(seen.len(), count, "an object is there twice");
        for one in &all {
            assert!(ORDER.contains(&one.kind()), "{}: no place in the order", one.kind());
            assert_eq!(one.object["metadata"]["labels"][LABEL], LABELLED, "{}", one.name());
            // What a definition says of queries has such words of its own.
            let whole = one.rank() == DEFINITIONS || !one.object.to_string().contains("{{");
            assert!(whole, "{}: not filled in", one.name());
            assert!(one.object["apiVersion"].is_string(), "{}", one.name());
        }
        assert!(all.is_sorted_by_key(Manifest::rank));
    }

    #[test]
    fn every_account_that_is_used_or_given_rights_is_there() {
        let all = all(&wanted()).unwrap();
        let mut asked = Vec::new();
        for one in &all {
            let account = &one.object["spec"]["template"]["spec"]["serviceAccountName"];
            let namespace = one.namespace().unwrap_or_default();
            asked.extend(account.as_str().map(|name| (namespace.to_owned(), name.to_owned())));
            for subject in one.object["subjects"].as_array().into_iter().flatten() {
                if subject["kind"] == "ServiceAccount" {
                    let word = |key: &str| subject[key].as_str().unwrap_or_default().to_owned();
                    asked.push((word("namespace"), word("name")));
                }
            }
            if let Some(role) = one.object["roleRef"]["name"].as_str() {
                let kind = one.object["roleRef"]["kind"].as_str().unwrap();
                let known = names(&all).contains(&(
                    kind.to_owned(),
                    if kind == "Role" { namespace.to_owned() } else { String::new() },
                    role.to_owned(),
                ));
                assert!(known, "{kind} {role}");
            }
        }
        assert!(asked.len() >= 10, "{asked:?}");
        for (namespace, name) in asked {
            let account = ("ServiceAccount".to_owned(), namespace, name);
            assert!(names(&all).contains(&account), "{account:?}");
        }
    }

    #[test]
    fn all_pods_are_of_the_image_and_none_is_on_the_nodes_network() {
        let all = all(&wanted()).unwrap();
        let mut seen = 0;
        for one in all.iter().filter(|one| one.workload().is_some()) {
            let pod = &one.object["spec"]["template"]["spec"];
            assert!(pod["hostNetwork"].is_null(), "{}", one.name());
            for container in pod["containers"].as_array().unwrap() {
                assert_eq!(container["image"], "registry.example/berth:7");
                assert_eq!(container["imagePullPolicy"], "IfNotPresent");
                seen += 1;
            }
        }
        assert_eq!(seen, 6);
    }

    #[test]
    fn what_is_wanted_is_what_is_said() {
        let mut wanted = wanted();
        let said = all(&wanted).unwrap();
        assert_eq!(find(&said, "Service", "berth-dns")["spec"]["clusterIP"], "10.0.0.10");
        let balancer = find(&said, "Deployment", "berth-balancer").to_string();
        assert!(balancer.contains(r#""--address","192.0.2.1""#), "{balancer}");
        let class = &find(&said, "IngressClass", "berth")["metadata"]["annotations"];
        assert_eq!(*class, json!({}), "Ingresses of others are theirs");
        let door = find(&said, "Service", "berth-balancer");
        assert_eq!(door["spec"]["type"], "LoadBalancer");
        assert_eq!(
            find(&said, "PersistentVolumeClaim", "berth-console")["spec"]["accessModes"][0],
            "ReadWriteOnce"
        );
        let console = find(&said, "Deployment", "berth-console").to_string();
        assert!(console.contains("claimName") && !console.contains("emptyDir"), "{console}");
        assert!(console.contains("/etc/berth/oidc/provider.json"), "{console}");
        let secret = &find(&said, "Secret", "berth-console-oidc")["stringData"];
        assert_eq!(*secret, json!({ "provider.json": "{}" }));
        let controllers = find(&said, "Deployment", "berth-controllers").to_string();
        assert!(controllers.contains(r#""--apps-domain","apps.example""#), "{controllers}");
        wanted.parts = vec![Part::Controllers];
        wanted.default_class = true;
        wanted.provider = None;
        let few = all(&wanted).unwrap();
        let pods: Vec<_> = few.iter().filter_map(Manifest::workload).map(|one| one.name).collect();
        assert_eq!(pods, ["berth-controllers"]);
        assert!(!names(&few).iter().any(|(kind, ..)| kind == "IngressClass"));
    }

    #[test]
    fn what_is_the_embedded_grounds_alone_is_left_out() {
        let all = names(&all(&wanted()).unwrap());
        for name in
            ["local-path", "berth:node-volumes", "system:aggregated-metrics-reader", "kube-dns"]
        {
            assert!(!all.iter().any(|(.., known)| known == name), "{name}");
        }
    }
}
