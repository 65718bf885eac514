//! One Service in two clusters: two API servers, each with endpoints of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use berth_apiserver::{ApiServer, Pki, Sans, ServiceRange, User};
use berth_daemon::Tasks;
use berth_store::{Embedded, Options};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::Instant;

use berth_balancer::{l7, streams};

use crate::streams::{Pod, SOON, free_port};

async fn cluster(dir: &Path, tasks: &Tasks) -> Client {
    let store = Embedded::open(&dir.join("store"), Options::default()).await.unwrap();
    let pki = Pki::load_or_create(&dir.join("pki"), &Sans::default(), "node").unwrap();
    let config = berth_apiserver::Config {
        advertise: ([127, 0, 0, 1], 6443).into(),
        service_range: ServiceRange::new("10.89.0.0/16".parse().unwrap()).unwrap(),
        node_ports: 30000..=32767,
        pki,
        cluster_domain: "cluster.local".to_owned(),
    };
    let server = ApiServer::open(config, Arc::new(store), tasks).await.unwrap();
    server.client(User::new("admin", &["system:masters"]))
}

/// Makes the Service (without selector) with one endpoint.
async fn publish(client: &Client, pod: &Pod, annotations: Value) {
    let service = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "db", "annotations": annotations},
        "spec": {"ports": [{"name": "main", "port": 3306}]}});
    let services: Api<Service> = Api::namespaced(client.clone(), "default");
    services
        .create(&PostParams::default(), &serde_json::from_value(service).unwrap())
        .await
        .unwrap();
    // Addresses of loopback are refused in EndpointSlices: the machine's own stand for pods.
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "db-1", "labels": {"kubernetes.io/service-name": "db"}},
        "addressType": "IPv4", "endpoints": [{"addresses": [pod.address.ip()]}],
        "ports": [{"name": "main", "port": pod.address.port(), "protocol": "TCP"}]});
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "default");
    slices.create(&PostParams::default(), &serde_json::from_value(slice).unwrap()).await.unwrap();
}

/// Of a hundred connections, how many came to the north.
async fn share(port: u16) -> usize {
    let mut north = 0;
    for _ in 0..100 {
        if crate::streams::name_of(port).await.is_ok_and(|name| name == "n|") {
            north += 1;
        }
    }
    north
}

async fn until_share(what: &str, port: u16, holds: impl Fn(usize) -> bool) {
    let started = Instant::now();
    loop {
        let now = share(port).await;
        if holds(now) {
            return;
        }
        assert!(started.elapsed() < SOON, "{what}: {now} of 100 to the north");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::disallowed_methods)] // a test ends with what it spawned
async fn weights_move_between_clusters_and_a_failing_one_gets_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let tasks = Tasks::new();
    let north = cluster(&dir.path().join("north"), &tasks).await;
    let south = cluster(&dir.path().join("south"), &tasks).await;
    let (n, s, port) = (Pod::routable("n").await, Pod::routable("s").await, free_port());
    let listen = format!("tcp/{port}=main");
    let annotations =
        json!({"berth.dev/listen": listen, "berth.dev/clusters": "north=80,south=20"});
    publish(&north, &n, annotations).await;
    publish(&south, &s, json!({})).await;

    let health = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut config = streams::Config::new(Ipv4Addr::LOCALHOST.into(), health);
    config.drain = Duration::from_secs(1);
    let own = l7::Sites { own: "north".into(), ..l7::Sites::default() };
    let sites = l7::follow_others(vec![("south".to_owned(), south.clone())], own, &tasks);
    let its_tasks = tasks.clone();
    let client = north.clone();
    let served = tokio::spawn(async move {
        streams::run(config, client, sites, &its_tasks).await.unwrap();
    });
    until_share("80 to 20", port, |north| (65..=93).contains(&north)).await;

    let services: Api<Service> = Api::namespaced(north.clone(), "default");
    let weigh = async |weights: &str| {
        let patch = json!({"metadata": {"annotations": {"berth.dev/clusters": weights}}});
        services.patch("db", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    };
    weigh("north=0,south=100").await;
    until_share("at once", port, |north| north == 0).await;
    weigh("north=50,south=50").await;
    until_share("half and half", port, |north| (30..=70).contains(&north)).await;
    // The south's backend dies, and no API says so.
    s.stop().await;
    until_share("the south is at 0", port, |north| north == 100).await;
    tasks.cancel();
    served.await.unwrap();
    n.stop().await;
    tasks.stop(SOON).await;
}
