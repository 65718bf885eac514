//! Ingress rules with real traffic: balancers in this process, pods as little servers on 127.0.0.x.
#![allow(clippy::unwrap_used)] // a test's helpers fail like the test

#[path = "l7/acme.rs"]
mod acme;
#[path = "l7/chaos.rs"]
mod chaos;
#[path = "l7/clients.rs"]
mod clients;
#[path = "l7/cluster.rs"]
mod cluster;
#[path = "l7/dns.rs"]
mod dns;
#[path = "l7/gateway.rs"]
mod gateway;
#[path = "support/hello.rs"]
mod hello;
#[path = "l7/hostile.rs"]
mod hostile;
#[path = "l7/log.rs"]
mod log;
#[path = "l7/plain.rs"]
mod plain;
#[path = "support/pods.rs"]
mod pods;
#[path = "l7/policies.rs"]
mod policies;
#[path = "l7/proxied.rs"]
mod proxied;
#[path = "l7/secured.rs"]
mod secured;
#[path = "l7/streams.rs"]
mod streams;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::watch;

use berth_balancer::l7::{self, Config, ServeError, Snapshot, World};
use berth_daemon::Tasks;

use pods::{Client, Pod};

const SOON: Duration = Duration::from_secs(20);

/// A balancer and the source of its routes.
struct Balancer {
    config: Config,
    routes: watch::Sender<Option<World>>,
    tasks: Tasks,
    served: tokio::task::JoinHandle<Result<(), ServeError>>,
}

fn free_port() -> SocketAddr {
    let [port] = berth_tests::free_ports().unwrap();
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn config() -> Config {
    let mut config = Config::new(free_port(), free_port(), free_port());
    config.access_log = l7::AccessLog::Off;
    config
}

#[allow(clippy::disallowed_methods)] // the test joins it
async fn start(config: Config, snapshot: Option<Snapshot>) -> Balancer {
    let (routes, worlds) = watch::channel(snapshot.map(|snapshot| World::from(&snapshot)));
    let tasks = Tasks::new();
    let (its_config, its_tasks) = (config.clone(), tasks.clone());
    let served = tokio::spawn(async move { l7::serve(its_config, worlds, &its_tasks).await });
    let balancer = Balancer { config, routes, tasks, served };
    until("it is healthy", async || balancer.health().await == Some(200)).await;
    balancer
}

impl Balancer {
    async fn health(&self) -> Option<u16> {
        Client::new(self.config.health).get("health", "/").await.ok().map(|answer| answer.status)
    }

    fn publish(&self, snapshot: Snapshot) {
        self.routes.send_replace(Some(World::from(&snapshot)));
    }

    async fn stop(self) {
        self.tasks.cancel();
        tokio::time::timeout(SOON, self.served).await.unwrap().unwrap().unwrap();
    }
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < SOON, "still not so: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// `web.example` and everything in `extra` leads to Service `web`, whose pods are `pods`.
fn snapshot(pods: &[&Pod], extra: Value) -> Snapshot {
    let backend = |name: &str| json!({"service": {"name": name, "port": {"name": "http"}}});
    let path = |path: &str, name: &str| json!({"path": path, "pathType": "Prefix", "backend": backend(name)});
    let mut ingress = json!({
        "metadata": {"namespace": "n", "name": "web"},
        "spec": {"ingressClassName": "berth", "rules": [
            {"host": "web.example", "http": {"paths": [path("/", "web"), path("/empty", "none")]}},
            {"host": "tls.example", "http": {"paths": [path("/", "web")]}},
        ]},
    });
    for (key, value) in extra.as_object().into_iter().flatten() {
        ingress["spec"][key] = value.clone();
    }
    let service = |name: &str| {
        json!({"metadata": {"namespace": "n", "name": name},
            "spec": {"ports": [{"name": "http", "port": 80}]}})
    };
    // Pods have one port each, so every pod has a slice of its own.
    let slices = pods.iter().map(|pod| {
        json!({"metadata": {"namespace": "n", "name": format!("web-{}", pod.address.port()),
                "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": pod.address.port()}],
            "endpoints": [{"addresses": [pod.address.ip().to_string()]}]})
    });
    let arc = |value: Value| Arc::new(serde_json::from_value(value).unwrap());
    Snapshot {
        ingresses: vec![Arc::new(serde_json::from_value(ingress).unwrap())],
        services: vec![arc(service("web")), arc(service("none"))],
        slices: slices.map(|slice| Arc::new(serde_json::from_value(slice).unwrap())).collect(),
        ..Snapshot::default()
    }
}

/// Saves the routes to `pod` for a balancer in a process of its own: its program, and the first of
/// the three ports that it takes.
async fn alone(pod: &Pod, routes: &std::path::Path) -> (PathBuf, SocketAddr) {
    let mut saving = config();
    saving.snapshot = Some(routes.to_owned());
    let balancer = start(saving, Some(snapshot(&[pod], json!({})))).await;
    until("it is saved", async || routes.exists()).await;
    balancer.stop().await;
    let own = std::env::current_exe().unwrap();
    let program = own.ancestors().nth(2).unwrap().join("examples/l7_serve");
    let http = loop {
        let [first, second, third] = [free_port(), free_port(), free_port()];
        if [second.port(), third.port()] == [first.port() + 1, first.port() + 2] {
            break first;
        }
    };
    (program, http)
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_reach_their_pods_and_refusals_say_why() {
    let pod = Pod::start("one").await;
    let balancer = start(config(), Some(snapshot(&[&pod], json!({})))).await;
    let mut client = Client::new(balancer.config.http);

    let answer = client.get("web.example", "/echo").await.unwrap();
    assert_eq!(answer.status, 200);
    for header in ["x-forwarded-for: 127.0.0.1", "x-forwarded-proto: http"] {
        assert!(answer.body.contains(header), "{header} in {}", answer.body);
    }
    assert!(answer.body.contains("x-forwarded-host: web.example"), "{}", answer.body);
    assert!(answer.body.contains("x-request-id: "), "{}", answer.body);
    let spoofed = [("X-Forwarded-For", "6.6.6.6"), ("X-Request-Id", "abc-1")];
    let answer = client.request("GET", "web.example:80", "/echo", &spoofed, "").await.unwrap();
    assert!(!answer.body.contains("6.6.6.6"), "{}", answer.body);
    assert!(answer.body.contains("x-request-id: abc-1"), "{}", answer.body);
    let body = "b".repeat(300_000);
    let answer = client.request("POST", "web.example", "/length", &[], &body).await.unwrap();
    assert_eq!(answer.body, "300000");

    let answer = client.get("no.example", "/x").await.unwrap();
    assert_eq!(answer.status, 404);
    assert!(answer.body.contains("\"no.example\" and path \"/x\""), "{}", answer.body);
    let answer = client.get("web.example", "/empty/x").await.unwrap();
    assert_eq!(answer.status, 503);
    let text = "none of its endpoints is ready, Service n/none port http (Ingress n/web)";
    assert!(answer.body.contains(text), "{}", answer.body);
    assert_eq!(client.connections, 1, "refusals keep the connection");

    let gone = pod.address;
    pod.stop().await;
    let answer = client.request("POST", "web.example", "/", &[], "x").await.unwrap();
    assert_eq!(answer.status, 502, "{gone}");
    let text = "web.example: every endpoint that was tried refused the connection, Service n/web";
    assert!(answer.body.contains(text), "{}", answer.body);
    balancer.stop().await;
}

/// One that may be repeated and one that may not.
const BOTH: [&str; 2] = ["GET", "POST"];

/// Clients that send two methods without a pause, each on a connection it keeps.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    clients: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Load {
    #[allow(clippy::disallowed_methods)] // the test joins them
    fn start(address: SocketAddr, methods: [&'static str; 2], keep: bool) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let client = |number: usize| {
            let (stop, done) = (stop.clone(), done.clone());
            async move {
                let (mut client, mut failures) = (Client::new(address), Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    let method = methods[number % 2];
                    match client.request(method, "web.example", "/", &[], "body").await {
                        Ok(answer) if answer.status == 200 => {}
                        Ok(answer) => {
                            failures.push(format!("{method}: {} {}", answer.status, answer.body));
                        }
                        Err(error) => failures.push(format!("{method}: {error}")),
                    }
                    if !keep {
                        client = Client::new(address);
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
                failures
            }
        };
        let clients = (0..8).map(|number| tokio::spawn(client(number))).collect();
        Self { stop, done, clients }
    }

    async fn more(&self, requests: usize) {
        let enough = self.done.load(Ordering::Relaxed) + requests;
        until("requests are done", async || self.done.load(Ordering::Relaxed) >= enough).await;
    }

    async fn failures(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut failures = Vec::new();
        for client in self.clients {
            failures.extend(client.await.unwrap());
        }
        eprintln!("{} requests", self.done.load(Ordering::Relaxed));
        failures
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_update_loses_no_request() {
    let mut pods = vec![Pod::start("a").await, Pod::start("b").await, Pod::start("c").await];
    let all = |pods: &Vec<Pod>| snapshot(&pods.iter().collect::<Vec<_>>(), json!({}));
    let balancer = start(config(), Some(all(&pods))).await;
    for (orderly, methods) in [(true, ["GET", "POST"]), (false, ["GET", "PUT"])] {
        let load = Load::start(balancer.config.http, methods, true);
        for round in 0..6 {
            load.more(50).await;
            pods.push(Pod::start(&format!("r{round}")).await);
            balancer.publish(all(&pods));
            let old = pods.remove(0);
            if orderly {
                // Out of the table before it is stopped, as the node agent does it.
                balancer.publish(all(&pods));
                load.more(50).await;
                old.stop().await;
            } else {
                // The pod is quicker than the news of it: only what may be repeated is saved.
                old.stop().await;
                load.more(50).await;
                balancer.publish(all(&pods));
            }
        }
        assert_eq!(load.failures().await, [""; 0], "orderly: {orderly}");
    }
    balancer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_a_pod_closes_without_a_word_costs_no_request() {
    let pods = [Pod::rude("a").await, Pod::rude("b").await];
    let balancer = start(config(), Some(snapshot(&[&pods[0], &pods[1]], json!({})))).await;
    let load = Load::start(balancer.config.http, BOTH, true);
    load.more(500).await;
    assert_eq!(load.failures().await, [""; 0]);
    balancer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_balancers_leaves_without_a_lost_request() {
    let pod = Pod::start("one").await;
    let config = config();
    let mut second = config.clone();
    second.health = free_port();
    for keep in [true, false] {
        let staying = start(config.clone(), Some(snapshot(&[&pod], json!({})))).await;
        let leaving = start(second.clone(), Some(snapshot(&[&pod], json!({})))).await;
        let load = Load::start(config.http, BOTH, keep);
        load.more(100).await;
        let mut slow = Client::new(config.http);
        leaving.tasks.cancel();
        let answer = slow.get("web.example", "/slow").await.unwrap();
        assert_eq!(answer.status, 200);
        leaving.stop().await;
        load.more(100).await;
        assert_eq!(load.failures().await, [""; 0], "keep: {keep}");
        staying.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn open_requests_finish_in_a_drain_and_idle_connections_end() {
    let pod = Pod::start("one").await;
    let balancer = start(config(), Some(snapshot(&[&pod], json!({})))).await;
    let http = balancer.config.http;
    let mut idle = Client::new(http);
    idle.get("web.example", "/").await.unwrap();
    let mut slow = Client::new(http);
    let request = slow.get("web.example", "/slow");
    let stop = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let started = Instant::now();
        balancer.tasks.cancel();
        until("unready", async || balancer.health().await == Some(503)).await;
        until("closed", async || TcpStream::connect(http).await.is_err()).await;
        balancer.stop().await;
        started.elapsed()
    };
    let (answer, took) = tokio::join!(request, stop);
    let answer = answer.unwrap();
    assert_eq!((answer.status, answer.closes), (200, true));
    assert!(took >= Duration::from_millis(300), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_pass_both_ways_and_outlast_pauses_of_bodies() {
    let pod = Pod::start("one").await;
    let mut config = config();
    config.body_timeout = Duration::from_millis(100);
    let balancer = start(config, Some(snapshot(&[&pod], json!({})))).await;
    for pause in std::iter::repeat_n(1, 50).chain([300]) {
        let mut stream = TcpStream::connect(balancer.config.http).await.unwrap();
        stream
        .write_all(
            b"GET /ws HTTP/1.1\r\nHost: web.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
              Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .await
        .unwrap();
        let mut buffer = vec![0; 4096];
        let read = stream.read(&mut buffer).await.unwrap();
        let head = String::from_utf8_lossy(&buffer[..read]).into_owned();
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        for message in ["hello", "again"] {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            stream.write_all(message.as_bytes()).await.unwrap();
            let read = stream.read(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..read], message.as_bytes());
        }
    }
    balancer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_are_cut() {
    let pod = Pod::start("one").await;
    let mut config = config();
    config.header_timeout = Duration::from_millis(200);
    config.body_timeout = Duration::from_millis(200);
    let balancer = start(config, Some(snapshot(&[&pod], json!({})))).await;
    for head in [
        "GET / HTTP/1.1\r\nHost: web.exa",
        "POST / HTTP/1.1\r\nHost: web.example\r\nContent-Length: 9\r\n\r\nab",
    ] {
        let mut stream = TcpStream::connect(balancer.config.http).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(SOON, stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "{head:?} holds the connection");
    }
    balancer.stop().await;
}

async fn curl(arguments: &[&str]) -> String {
    let done = Command::new("curl").args(["-sS", "--max-time", "5"]).args(arguments).output().await;
    let done = done.unwrap();
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

fn certificate(dir: &std::path::Path, name: &str) -> (PathBuf, Value) {
    use base64::Engine;
    let made = rcgen::generate_simple_self_signed(["tls.example".to_owned()]).unwrap();
    let path = dir.join(name);
    std::fs::write(&path, made.cert.pem()).unwrap();
    let encode = |text: String| base64::engine::general_purpose::STANDARD.encode(text);
    let data = json!({"tls.crt": encode(made.cert.pem()),
        "tls.key": encode(made.signing_key.serialize_pem())});
    let metadata = json!({"namespace": "n", "name": "cert"});
    (path, json!({"metadata": metadata, "type": "kubernetes.io/tls", "data": data}))
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_follow_their_secrets_and_http2_is_spoken() {
    let dir = tempfile::tempdir().unwrap();
    let pod = Pod::start("one").await;
    let with = |secret: &Value| {
        let tls = json!({"tls": [{"hosts": ["tls.example"], "secretName": "cert"}]});
        let mut routes = snapshot(&[&pod], tls);
        routes.secrets = vec![Arc::new(serde_json::from_value(secret.clone()).unwrap())];
        routes
    };
    let (first, secret) = certificate(dir.path(), "first.pem");
    let balancer = start(config(), Some(with(&secret))).await;
    let port = balancer.config.https.port();
    let url = format!("https://tls.example:{port}/echo");
    let resolve = format!("tls.example:{port}:127.0.0.1");
    let trusting = |path: &PathBuf| path.display().to_string();
    for version in ["--http1.1", "--http2"] {
        let text = curl(&[
            version,
            "--cacert",
            &trusting(&first),
            "--resolve",
            &resolve,
            "-w",
            "v%{http_version}",
            &url,
        ])
        .await;
        assert!(text.contains("x-forwarded-proto: https"), "{text}");
        let spoken = if version == "--http2" { "v2" } else { "v1.1" };
        assert!(text.ends_with(spoken), "{text}");
    }
    // Renewed while we serve.
    let (second, secret) = certificate(dir.path(), "second.pem");
    balancer.publish(with(&secret));
    until("the new certificate is shown", async || {
        let trust = trusting(&second);
        let arguments = ["-sS", "--cacert", &trust, "--resolve", &resolve, &url];
        Command::new("curl").args(arguments).output().await.unwrap().status.success()
    })
    .await;
    // A renewal that is of no use changes nothing, for Ingresses that come later either.
    let rubbish = json!({"metadata": {"namespace": "n", "name": "cert"},
        "type": "kubernetes.io/tls", "data": {"tls.crt": "cnViYmlzaA==", "tls.key": ""}});
    let mut routes = with(&rubbish);
    let mut last = routes.ingresses[0].as_ref().clone();
    last.metadata.name = Some("last".to_owned());
    let rules = last.spec.as_mut().unwrap().rules.as_mut().unwrap();
    rules[0].host = Some("last.example".to_owned());
    routes.ingresses.push(Arc::new(last));
    balancer.publish(routes);
    let mut client = Client::new(balancer.config.http);
    until("the renewal is there", async || {
        client.get("last.example", "/").await.unwrap().status == 200
    })
    .await;
    curl(&["--cacert", &trusting(&second), "--resolve", &resolve, &url]).await;
    // Another name gets the certificate that we made, and its routes all the same.
    let other = format!("https://web.example:{port}/echo");
    let resolve = format!("web.example:{port}:127.0.0.1");
    assert!(
        curl(&["--insecure", "--resolve", &resolve, &other]).await.contains("host: web.example")
    );
    balancer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_without_an_api_server_serves_what_was_saved() {
    let dir = tempfile::tempdir().unwrap();
    let pod = Pod::start("one").await;
    let mut config = config();
    config.snapshot = Some(dir.path().join("routes.json"));
    let balancer = start(config.clone(), Some(snapshot(&[&pod], json!({})))).await;
    until("it is saved", async || dir.path().join("routes.json").exists()).await;
    balancer.stop().await;
    let balancer = start(config, None).await;
    let answer = Client::new(balancer.config.http).get("web.example", "/").await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "one"));
    balancer.stop().await;
}
