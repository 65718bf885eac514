//! Services of the front's class, with an API server beside it.

use berth_apiserver::{ApiServer, Pki, Sans, ServiceRange, User};
use berth_balancer::l4::front;
use berth_store::{Embedded, Options};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, Patch, PatchParams, PostParams};

use super::*;

/// An API server, and the front that follows it, in the namespace of whoever calls it.
fn front_of_a_cluster(
    file: PathBuf,
    client: mpsc::Sender<kube::Client>,
    mut end: tokio::sync::oneshot::Receiver<()>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (dir, tasks) = (tempfile::tempdir().unwrap(), berth_daemon::Tasks::new());
        let store = Embedded::open(&dir.path().join("store"), Options::default()).await.unwrap();
        let pki = Pki::load_or_create(&dir.path().join("pki"), &Sans::default(), "node").unwrap();
        let config = berth_apiserver::Config {
            advertise: ([127, 0, 0, 1], 6443).into(),
            service_range: ServiceRange::new("10.88.0.0/16".parse().unwrap()).unwrap(),
            node_ports: 30000..=32767,
            pki,
            cluster_domain: "cluster.local".to_owned(),
        };
        let server = ApiServer::open(config, std::sync::Arc::new(store), &tasks).await.unwrap();
        let of = server.client(User::new("admin", &["system:masters"]));
        client.send(of.clone()).unwrap();
        let read: front::Reader = |text| Ok(serde_json::from_str(text)?);
        front::follow(file, read, Some(of), &tasks).await.unwrap();
        let _ = (&mut end).await;
        tasks.stop(PATIENCE).await;
    });
}

#[test]
fn services_of_its_class_are_given_an_address_and_served() {
    if !crate::may_run() {
        return;
    }
    let net = Net::new();
    net.client.run(|| run("ethtool -K c0 tx off"));
    for (side, name) in net.backends.iter().zip(["b1", "b2", "b3"]) {
        side.run(move || run(&format!("ethtool -K {name} tx off")));
    }
    let wanted = json!({"interface": "f0", "mode": "generic", "pins": net.pins,
        "addresses": ["192.0.2.10/32"]});
    std::fs::write(&net.file, wanted.to_string()).unwrap();
    let (told, client) = mpsc::channel();
    let (end, ended) = tokio::sync::oneshot::channel();
    let file = net.file.clone();
    let following = net.front.run(move || {
        // A thread of a namespace's thread is in it too.
        std::thread::spawn(move || front_of_a_cluster(file, told, ended))
    });
    let client = client.recv().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let services: Api<Service> = Api::namespaced(client.clone(), "default");
    let slices: Api<EndpointSlice> = Api::namespaced(client, "default");
    let service = |name: &str, ranges: Value| -> Service {
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": {
            "type": "LoadBalancer", "loadBalancerClass": "berth.dev/front",
            "loadBalancerSourceRanges": ranges,
            "ports": [{"name": "web", "port": 80, "targetPort": 8080}]}}))
        .unwrap()
    };
    let endpoint = |last: u8, leaves: bool| {
        json!({"addresses": [format!("10.77.0.{last}")], "conditions":
            {"ready": !leaves, "serving": true, "terminating": leaves}})
    };
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "web", "port": 8080}],
        "endpoints": [endpoint(11, false), endpoint(12, false)]}))
    .unwrap();
    let address = |name: &str| {
        let status = runtime.block_on(services.get(name)).unwrap().status.unwrap_or_default();
        status.load_balancer.and_then(|one| one.ingress?.first()?.ip.clone())
    };
    let until_so = |what: &str, holds: &dyn Fn() -> bool| {
        let end = Instant::now() + SOON;
        while !holds() {
            assert!(Instant::now() < end, "still not so: {what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    let params = PostParams::default();
    runtime.block_on(async {
        let refused = service("refused", json!(["10.0.0.0/8"]));
        services.create(&params, &refused).await.unwrap();
        services.create(&params, &service("web", json!([]))).await.unwrap();
        slices.create(&params, &slice).await.unwrap();
    });
    until_so("the Service has its address", &|| address("web").as_deref() == Some("192.0.2.10"));
    net.until_new_go_to(&[11, 12]);
    let mut open = open_forty(&net, VIP.into());
    // One pod leaves: its connections stay, new ones go to the other.
    let leaves = json!({"endpoints": [endpoint(11, true), endpoint(12, false)]});
    let patch = Patch::Merge(&leaves);
    runtime.block_on(slices.patch("web-1", &PatchParams::default(), &patch)).unwrap();
    net.until_new_go_to(&[12]);
    still_there(&mut open, None);
    assert_eq!(address("refused"), None, "who may come in is not kept by the front");
    drop(end);
    following.join().unwrap();
}
