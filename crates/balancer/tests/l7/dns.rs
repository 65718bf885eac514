//! DNS answers without the addresses that a balancer finds down: both real, over real sockets.

use std::sync::atomic::AtomicU16;

use berth_dns::{Healthy, Order, Wanted, ZoneFile};
use tokio::net::TcpListener;

use super::*;

const NAME: &str = "www.pods.test";
const BOTH: [&str; 2] = ["127.0.41.1", "127.0.41.2"];

/// A server that answers every request with the status that it is told, and closes.
async fn pod(ip: &str, tasks: &Tasks) -> (SocketAddr, Arc<AtomicU16>) {
    let listener = TcpListener::bind((ip, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let status = Arc::new(AtomicU16::new(200));
    let (shown, group) = (status.clone(), tasks.clone());
    tasks.spawn_until_stop("pod", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let shown = shown.clone();
            group.spawn_until_stop("pod-connection", async move {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                let status = shown.load(Ordering::Relaxed);
                let head = format!("HTTP/1.1 {status} As told\r\nContent-Length: 0\r\n");
                let answer = format!("{head}Connection: close\r\n\r\n");
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    (address, status)
}

/// `web.example` leads to these, under a Service with these annotations.
fn routed(pods: &[SocketAddr], annotations: Value) -> Snapshot {
    let mut all = snapshot(&[], json!({}));
    let mut service = serde_json::to_value(&*all.services[0]).unwrap();
    service["metadata"]["annotations"] = annotations;
    all.services[0] = Arc::new(serde_json::from_value(service).unwrap());
    let slice = |pod: &SocketAddr| {
        json!({"metadata": {"namespace": "n", "name": format!("web-{}", pod.port()),
                "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": pod.port()}],
            "endpoints": [{"addresses": [pod.ip().to_string()]}]})
    };
    let slices = pods.iter().map(|pod| Arc::new(serde_json::from_value(slice(pod)).unwrap()));
    all.slices = slices.collect();
    all
}

async fn given(server: SocketAddr) -> Vec<String> {
    let said = berth_dns::query(server, NAME, "A", false).await.unwrap();
    said.answers.into_iter().map(|record| record.data).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_balancer_finds_down_goes_out_of_dns_and_comes_back() {
    let (dir, helpers) = (tempfile::tempdir().unwrap(), Tasks::new());
    let (first, its_status) = pod(BOTH[0], &helpers).await;
    let (second, other_status) = pod(BOTH[1], &helpers).await;
    let checked = json!({"berth.dev/health": "http:/healthz", "berth.dev/health-interval": "200ms",
        "berth.dev/health-fall": "2", "berth.dev/health-rise": "1"});
    let balancer = start(config(), Some(routed(&[first, second], checked))).await;

    let path = dir.path().join("zone");
    let zone = format!(
        "$ORIGIN pods.test.\n$TTL 1\n@ SOA ns admin 1 3600 600 86400 30\n@ NS ns\n\
         ns A 127.0.0.1\nwww A {}\nwww A {}\n",
        BOTH[0], BOTH[1]
    );
    std::fs::write(&path, zone).unwrap();
    let mut settings = berth_dns::Config::new(free_port(), free_port(), vec![]);
    settings.threads = Some(1);
    settings.zones = vec![ZoneFile { path, origin: None }];
    settings.balancers = vec![format!("http://{}", balancer.config.health)];
    let policy =
        Wanted { order: Order::Fixed, healthy: Some(Healthy::Balancer), ..Wanted::default() };
    settings.policies.insert(NAME.to_owned(), policy);
    let dns = Tasks::new();
    let server = berth_dns::run_for(settings.clone(), vec![], &dns).await.unwrap();
    let www = settings.listen;
    let gives = async |what: &str, wanted: &[&str]| {
        until(what, async || given(www).await == wanted).await;
    };
    gives("both are given", &BOTH).await;
    let found = async || {
        let mut client = Client::new(balancer.config.health);
        let answer = client.get("health", "/addresses").await.unwrap();
        serde_json::from_str::<Value>(&answer.body).unwrap()
    };
    let well = async || found().await.to_string().matches("\"well\"").count() == 2;
    until("both were checked", well).await;

    // By a check.
    its_status.store(500, Ordering::Relaxed);
    gives("the one that fails its check is not given", &BOTH[1..]).await;
    let page = found().await;
    let told = page["addresses"].as_array().unwrap();
    let ill = told.iter().find(|one| one["address"] == BOTH[0]).unwrap();
    let why = format!("port {}: status 500", first.port());
    assert_eq!((&ill["finding"], &ill["why"]), (&json!("ill"), &json!(why)));
    other_status.store(500, Ordering::Relaxed);
    gives("if all fail, all are given", &BOTH).await;
    other_status.store(200, Ordering::Relaxed);
    gives("the other one is back", &BOTH[1..]).await;
    its_status.store(200, Ordering::Relaxed);
    gives("it is back", &BOTH).await;

    // By what requests met there, without any check.
    let ejected = json!({"berth.dev/outlier-errors": "3", "berth.dev/outlier-ejection": "1s"});
    balancer.publish(routed(&[first, second], ejected));
    let unchecked = async || found().await.to_string().matches("\"unchecked\"").count() == 2;
    until("nobody checks them any more", unchecked).await;
    its_status.store(503, Ordering::Relaxed);
    let mut client = Client::new(balancer.config.http);
    until("the one whose requests fail is not given", async || {
        for _ in 0..20 {
            client.get("web.example", "/").await.unwrap();
        }
        given(www).await == BOTH[1..]
    })
    .await;
    its_status.store(200, Ordering::Relaxed);
    gives("an ejection ends", &BOTH).await;

    // A balancer that is gone keeps nothing out.
    let failing = json!({"berth.dev/health": "tcp", "berth.dev/health-port": "1",
        "berth.dev/health-interval": "200ms"});
    balancer.publish(routed(&[second], failing));
    gives("one that is ill from the first check on", &BOTH[..1]).await;
    balancer.stop().await;
    let begun = Instant::now();
    while given(www).await != BOTH {
        assert!(begun.elapsed() < 4 * SOON, "it is still kept out");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(server);
    dns.stop(SOON).await;
    helpers.stop(SOON).await;
}
