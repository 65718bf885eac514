//! Endpoints that say how loaded they are, and endpoints that are asked how they are.

use super::*;

/// `web.example` leads to the pods at `addresses`, by what `annotations` of its Ingress say.
fn picked(addresses: &[SocketAddr], annotations: &[(&str, &str)]) -> Snapshot {
    let mut routes = snapshot(&[], json!({}));
    let ingress = Arc::make_mut(&mut routes.ingresses[0]);
    let named = annotations.iter().map(|(key, value)| (format!("berth.dev/{key}"), value));
    ingress.metadata.annotations =
        Some(named.map(|(key, value)| (key, (*value).to_owned())).collect());
    let slices = addresses.iter().map(|address| {
        let slice = json!({"metadata": {"namespace": "n", "name": format!("web-{}", address.port()),
                "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": address.port()}],
            "endpoints": [{"addresses": [address.ip().to_string()]}]});
        Arc::new(serde_json::from_value(slice).unwrap())
    });
    routes.slices = slices.collect();
    routes
}

/// A pod that answers everything with `body` and this field.
async fn saying(field: &str, body: &str) -> Pod {
    let length = body.len();
    let answer = format!("HTTP/1.1 200 OK\r\n{field}\r\nContent-Length: {length}\r\n\r\n{body}");
    Pod::saying(answer.as_bytes(), false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_above_its_threshold_gets_its_floor_a_second_and_no_more() {
    const FLOOR: usize = 20;
    let rules = [
        ("pick", "round-robin"),
        ("load-header", "X-Load"),
        ("load-threshold", "0.5"),
        ("load-full", "1"),
        ("load-floor", "20"),
    ];
    // The short way, and Pingora's.
    for method in BOTH {
        let (full, idle) =
            (saying("X-Load: 1.5", "full").await, saying("X-Load: 0.1", "idle").await);
        let routes = picked(&[full.address, idle.address], &rules);
        let balancer = start(config(), Some(routes)).await;
        let mut client = Client::new(balancer.config.http);
        let mut ask = async || {
            let answer = client.request(method, "web.example", "/", &[], "").await.unwrap();
            assert_eq!(answer.status, 200);
            answer.body == "full"
        };
        until("it said how loaded it is", async || ask().await).await;
        for second in 0..3 {
            let (started, mut to_full, mut to_idle) = (Instant::now(), 0, 0);
            while started.elapsed() < Duration::from_secs(1) {
                *(if ask().await { &mut to_full } else { &mut to_idle }) += 1;
            }
            // A tenth of a second's worth may come at once, and the last request took its time.
            let most = FLOOR + FLOOR / 10 + 2;
            assert!((FLOOR / 2..=most).contains(&to_full), "{method} {second}: {to_full}");
            assert!(to_idle > 3 * to_full, "{method} {second}: {to_full} and {to_idle}");
        }
        balancer.stop().await;
    }
}

/// Only `good` is asked, with each of `methods`, once all were checked.
async fn only_good(good: &str, routes: Snapshot, methods: &[&str], path: &str) {
    let balancer = start(config(), Some(routes)).await;
    let mut client = Client::new(balancer.config.http);
    for method in methods {
        until("the others are found ill", async || {
            for _ in 0..20 {
                let answer = client.request(method, "web.example", path, &[], "").await;
                if !answer.is_ok_and(|answer| answer.body.contains(good)) {
                    return false;
                }
            }
            true
        })
        .await;
    }
    balancer.stop().await;
}

/// Turn by turn, whoever is quicker, and how few are well.
const ALIKE: [(&str, &str); 3] =
    [("pick", "round-robin"), ("panic-percent", "0"), ("health-interval", "100ms")];

#[tokio::test(flavor = "multi_thread")]
async fn a_check_may_ask_for_a_text_in_the_body() {
    let good = saying("X-A: a", "status: ok").await;
    let (ill, empty) = (saying("X-A: a", "status: degraded").await, saying("X-A: a", "").await);
    let checks = [&ALIKE[..], &[("health", "http:/healthz"), ("health-body", "ok")]].concat();
    let routes = picked(&[ill.address, good.address, empty.address], &checks);
    only_good("status: ok", routes, &BOTH, "/").await;
    let asked = |pod: &Pod| pod.seen.lock().unwrap().iter().any(|line| line.contains("/healthz"));
    assert!(asked(&good) && asked(&ill) && asked(&empty));
}

/// etcd, whose server of gRPC says of itself how it is, and which speaks HTTP/1.1 at the same port.
async fn etcd(dir: &std::path::Path) -> Option<(tokio::process::Child, SocketAddr)> {
    let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let program = assets.map(|folder| folder.join("etcd")).filter(|path| path.exists());
    let program = program.unwrap_or_else(|| PathBuf::from("etcd"));
    let (client, peer) = (free_port(), free_port());
    let (at, with) = (format!("http://{client}"), format!("http://{peer}"));
    let started = Command::new(program)
        .args(["--data-dir", &dir.display().to_string()])
        .args(["--listen-client-urls", &at, "--advertise-client-urls", &at])
        .args(["--listen-peer-urls", &with, "--initial-advertise-peer-urls", &with])
        .args(["--initial-cluster", &format!("default={with}")])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn();
    match started {
        Ok(process) => {
            until("etcd answers", async || {
                Client::new(client).get("etcd", "/version").await.is_ok()
            })
            .await;
            Some((process, client))
        }
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "etcd: {error}");
            eprintln!("skipped: etcd: {error}");
            None
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_server_of_grpc_is_found_well_and_others_ill() {
    let dir = tempfile::tempdir().unwrap();
    let Some((mut process, address)) = etcd(dir.path()).await else { return };
    let other = Pod::start("other").await;
    let both = [other.address, address];
    let checks = [&ALIKE[..], &[("health", "grpc")]].concat();
    only_good("etcdserver", picked(&both, &checks), &["GET"], "/version").await;
    // A service that it does not know is not well.
    let checks = [&ALIKE[..], &[("health", "grpc:no.such.Service")]].concat();
    let balancer = start(config(), Some(picked(&[address], &checks))).await;
    let mut health = Client::new(balancer.config.health);
    until("it is not well", async || {
        let told = health.get("health", "/addresses").await.unwrap().body;
        told.contains("gRPC status 5")
    })
    .await;
    balancer.stop().await;
    process.kill().await.unwrap();
}
