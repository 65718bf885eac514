//! Gateways of a whole API server: ours in this process, and a real Kubernetes beside it. The
//! definitions come while the balancer runs.

use std::fmt::Debug;

use berth_api::gateway::{self, Gateway, GatewayClass, HTTPRoute, TCPRoute, TLSRoute};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::{conditions, wait};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::*;

const LIMIT: Duration = Duration::from_secs(30);

pub(super) async fn create<K>(api: &Api<K>, object: Value)
where
    K: kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize,
{
    let object: K = serde_json::from_value(object.clone()).unwrap();
    api.create(&PostParams::default(), &object).await.unwrap();
}

pub(super) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < LIMIT, "still not so: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// From an Ingress alone to Gateways, and back to none.
#[allow(clippy::disallowed_methods)] // joined below
async fn story(client: kube::Client) {
    // Without endpoints: a route that is known answers 503 and says why, an unknown one 404.
    let namespaced = "default";
    let services: Api<Service> = Api::namespaced(client.clone(), namespaced);
    create(
        &services,
        json!({"metadata": {"name": "web"}, "spec": {"ports": [{"name": "http", "port": 80}]}}),
    )
    .await;
    let ingresses: Api<k8s_openapi::api::networking::v1::Ingress> =
        Api::namespaced(client.clone(), namespaced);
    let backend = json!({"service": {"name": "web", "port": {"name": "http"}}});
    create(
        &ingresses,
        json!({"metadata": {"name": "web"}, "spec": {"ingressClassName": "berth",
        "rules": [{"host": "old.example", "http": {"paths": [
            {"path": "/", "pathType": "Prefix", "backend": backend}]}}]}}),
    )
    .await;

    let mut config = config();
    config.addresses = vec![l7::Address::Ip([192, 0, 2, 7].into())];
    let (http, tasks) = (config.http, Tasks::new());
    let (its_tasks, its_client) = (tasks.clone(), client.clone());
    let (_sites, sites) = watch::channel(l7::Sites::default());
    let running = tokio::spawn(async move { l7::run(config, its_client, sites, &its_tasks).await });
    let answers = async |host: &str| {
        let mut client = Client::new(http);
        client.get(host, "/").await.map_or(0, |answer| answer.status)
    };
    eventually("the Ingress is served", async || answers("old.example").await == 503).await;

    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in gateway::definitions() {
        definitions.create(&PostParams::default(), &definition).await.unwrap();
        let name = definition.metadata.name.unwrap();
        let established =
            wait::await_condition(definitions.clone(), &name, conditions::is_crd_established());
        tokio::time::timeout(LIMIT, established).await.unwrap().unwrap();
    }
    let classes: Api<GatewayClass> = Api::all(client.clone());
    let gateways: Api<Gateway> = Api::namespaced(client.clone(), namespaced);
    let routes: Api<HTTPRoute> = Api::namespaced(client.clone(), namespaced);
    // A kind is served a moment after it is established.
    eventually("the kinds are served", async || routes.list(&Default::default()).await.is_ok())
        .await;
    create(
        &classes,
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass",
        "metadata": {"name": "berth"}, "spec": {"controllerName": gateway::CONTROLLER}}),
    )
    .await;
    let (tcp, tls) = (free_port().port(), free_port().port());
    create(
        &gateways,
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": "door"}, "spec": {"gatewayClassName": "berth", "listeners": [
            {"name": "http", "port": 80, "protocol": "HTTP"},
            {"name": "tcp", "port": tcp, "protocol": "TCP"},
            {"name": "tls", "port": tls, "protocol": "TLS", "tls": {"mode": "Passthrough"}},
            {"name": "had", "port": http.port(), "protocol": "TCP"}]}}),
    )
    .await;
    let streams: Api<TCPRoute> = Api::namespaced(client.clone(), namespaced);
    let named: Api<TLSRoute> = Api::namespaced(client.clone(), namespaced);
    let stream = |kind: &str, section: &str, rules: Value| {
        json!({"apiVersion": "gateway.networking.k8s.io/v1alpha2", "kind": kind,
            "metadata": {"name": section}, "spec": {
                "parentRefs": [{"name": "door", "sectionName": section}], "rules": rules}})
    };
    let to_web = json!({"backendRefs": [{"name": "web", "port": 80}]});
    create(&streams, stream("TCPRoute", "tcp", json!([to_web]))).await;
    create(&named, stream("TLSRoute", "tls", json!([to_web, to_web]))).await;
    let route = |name: &str, value: &str| {
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": name}, "spec": {"parentRefs": [{"name": "door"}],
                "hostnames": [format!("{name}.example")], "rules": [{
                    "matches": [{"path": {"type": "RegularExpression", "value": value}}],
                    "backendRefs": [{"name": "web", "port": 80}]}]}})
    };
    create(&routes, route("good", "/.*")).await;
    create(&routes, route("bad", "/(")).await;
    eventually("the route is served", async || answers("good.example").await == 503).await;
    assert_eq!(answers("bad.example").await, 404);

    let is = |conditions: &[gateway::Condition], kind: &str, status: &str| {
        conditions.iter().any(|one| one.kind == kind && one.status == status)
    };
    eventually("all statuses are written", async || {
        let class = classes.get("berth").await.unwrap().status.unwrap_or_default();
        let door = gateways.get("door").await.unwrap().status.unwrap_or_default();
        let of = async |name: &str| {
            let status = routes.get(name).await.unwrap().status.unwrap_or_default();
            status.parents.into_iter().next().map(|parent| parent.conditions).unwrap_or_default()
        };
        let (good, bad) = (of("good").await, of("bad").await);
        let parents = |parents: Vec<gateway::ParentStatus>| {
            let first = parents.into_iter().next();
            first.map(|parent| parent.conditions).unwrap_or_default()
        };
        let stream = streams.get("tcp").await.unwrap().status.unwrap_or_default();
        let refused = named.get("tls").await.unwrap().status.unwrap_or_default();
        let (stream, refused) = (parents(stream.parents), parents(refused.parents));
        let listener = |name: &str| {
            let found = door.listeners.iter().find(|one| one.name == name);
            found.map(|one| (one.attached_routes, one.conditions.clone())).unwrap_or_default()
        };
        let open = TcpStream::connect(("127.0.0.1", tcp)).await.is_ok();
        open && is(&stream, "Accepted", "True")
            && is(&stream, "ResolvedRefs", "True")
            && is(&refused, "Accepted", "False")
            && listener("tcp").0 == 1
            && is(&listener("tcp").1, "Programmed", "True")
            && is(&listener("had").1, "Accepted", "False")
            && is(&class.conditions, "Accepted", "True")
            && is(&door.conditions, "Programmed", "True")
            && door.addresses.iter().any(|address| address.value == "192.0.2.7")
            && door.listeners.first().is_some_and(|one| one.attached_routes == 1)
            && is(&good, "Accepted", "True")
            && is(&good, "ResolvedRefs", "True")
            && bad.iter().any(|one| {
                one.kind == "Accepted" && one.status == "False" && one.message.contains("rule 0")
            })
    })
    .await;
    // Mended, it is served; what was said of it is taken back.
    let mended = json!({"spec": route("bad", "/.*")["spec"]});
    let params = PatchParams::default();
    routes.patch("bad", &params, &Patch::Merge(&mended)).await.unwrap();
    eventually("the mended route is served", async || answers("bad.example").await == 503).await;
    routes.delete("good", &DeleteParams::default()).await.unwrap();
    eventually("the route is gone", async || answers("good.example").await == 404).await;
    assert_eq!(answers("old.example").await, 503, "the Ingress stays");
    tasks.cancel();
    tokio::time::timeout(LIMIT, running).await.unwrap().unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_that_come_later_are_followed_on_ours() {
    let (dir, tasks) = (tempfile::tempdir().unwrap(), Tasks::new());
    story(serve(dir.path(), &tasks).await).await;
    tasks.stop(LIMIT).await;
}

/// An API server of ours in this process.
pub(super) async fn serve(dir: &std::path::Path, tasks: &Tasks) -> kube::Client {
    use berth_apiserver::{ApiServer, Pki, Sans, ServiceRange, User};
    use berth_store::{Embedded, Options};
    let store = Embedded::open(&dir.join("store"), Options::default()).await.unwrap();
    let pki = Pki::load_or_create(&dir.join("pki"), &Sans::default(), "node").unwrap();
    let config = berth_apiserver::Config {
        advertise: ([127, 0, 0, 1], 6443).into(),
        service_range: ServiceRange::new("10.88.0.0/16".parse().unwrap()).unwrap(),
        node_ports: 30000..=32767,
        pki,
        cluster_domain: "cluster.local".to_owned(),
    };
    let server = ApiServer::open(config, Arc::new(store), tasks).await.unwrap();
    server.client(User::new("admin", &["system:masters"]))
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_that_come_later_are_followed_on_kubernetes() {
    use berth_tests::{Kubernetes, TOKEN};
    let Some(real) = tokio::task::spawn_blocking(Kubernetes::start).await.unwrap().unwrap() else {
        assert!(std::env::var_os("CI").is_none(), "KUBEBUILDER_ASSETS has no kube-apiserver");
        return eprintln!("skipped: no kube-apiserver is here (set KUBEBUILDER_ASSETS)");
    };
    let mut config = kube::Config::new(real.url().parse().unwrap());
    config.accept_invalid_certs = true;
    config.auth_info.token = Some(TOKEN.to_owned().into());
    let client = kube::Client::try_from(config).unwrap();
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client.clone());
    // The namespace is made soon after a real server is ready.
    eventually("default is there", async || namespaces.get("default").await.is_ok()).await;
    story(client).await;
}
