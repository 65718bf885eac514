//! Terminals through a console on a port, a whole API server on another, and a node agent that runs
//! real shells: what is between a key and its echo but for the container's runtime.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Stdio;

use futures::SinkExt;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use kube::config::{KubeConfigOptions, Kubeconfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{ChildStdin, Command};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::*;

const PODS: &str = "/api/v1/namespaces/default/pods";
const WEB: &str = "/shell?namespace=default&pod=web&container=main";

type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// A console on a port, whose pod `web` of the namespace default has a node agent.
struct Shop {
    ground: Ground,
    address: SocketAddr,
    roots: Arc<rustls::RootCertStore>,
}

fn roots(pki: &Pki) -> Arc<rustls::RootCertStore> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pki.ca_pem().as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    Arc::new(roots)
}

impl Shop {
    async fn start(database: Database, limits: Limits) -> Self {
        drop(rustls::crypto::ring::default_provider().install_default());
        let dir = tempfile::tempdir().unwrap();
        let tasks = Tasks::new();
        let store = Embedded::open(&dir.path().join("store"), Options::default()).await.unwrap();
        let names = Sans { ips: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)], dns: Vec::new() };
        let pki = Pki::load_or_create(&dir.path().join("pki"), &names, "node-1").unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let api = listener.local_addr().unwrap();
        let config = berth_apiserver::Config {
            advertise: api,
            service_range: ServiceRange::new("10.91.0.0/16".parse().unwrap()).unwrap(),
            node_ports: 30000..=32767,
            pki: pki.clone(),
            cluster_domain: "cluster.local".to_owned(),
        };
        let server = ApiServer::open(config, Arc::new(store), &tasks).await.unwrap();
        server.serve(listener, &tasks);
        let file = Kubeconfig::from_yaml(&pki.kubeconfig(&format!("https://{api}"))).unwrap();
        let named = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(file, &named).await.unwrap();
        let client = Client::try_from(config).unwrap();
        let agent = node_agent(&pki, &tasks).await;
        let desk = desk(&database.pool, &client, &tasks, limits).await;
        let serving = pki.api_serving();
        let (certificate, key) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
        std::fs::write(&certificate, &serving.cert_pem).unwrap();
        std::fs::write(&key, &serving.key_pem).unwrap();
        let config = crate::Config {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            certificate,
            key,
            database: String::new(),
            oidc: None,
            debug_image: None,
        };
        let router = routes(desk.clone());
        let address = crate::connections::serve(&config, router.clone(), &tasks).await.unwrap();
        let ground = Ground { router, desk, admin: client, tasks, _database: database, _dir: dir };
        let shop = Self { ground, address, roots: roots(&pki) };
        shop.pod(agent.port()).await;
        shop
    }

    /// Makes the pod on a node whose agent listens at `port`.
    async fn pod(&self, port: u16) {
        let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": { "name": "default" } });
        let accounts = "/api/v1/namespaces/default/serviceaccounts";
        self.send("POST", accounts, account).await;
        let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "node-1" },
            "status": { "addresses": [{ "type": "InternalIP", "address": "127.0.0.1" }],
                "daemonEndpoints": { "kubeletEndpoint": { "Port": port } } } });
        self.send("POST", "/api/v1/nodes", node).await;
        let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web" },
            "spec": { "nodeName": "node-1", "containers": [{ "name": "main", "image": "i" }] } });
        self.send("POST", PODS, pod).await;
    }

    async fn send(&self, method: &str, path: &str, body: Value) -> Value {
        let kind = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        let request = Request::builder().method(method).uri(path);
        let request = request.header(header::CONTENT_TYPE, kind);
        let request = request.body(body.to_string().into_bytes()).unwrap();
        self.ground.admin.request(request).await.unwrap()
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let name = ServerName::from(self.address.ip());
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }

    /// A WebSocket with these headers; the status where it is refused.
    async fn socket(&self, path: &str, headers: &[(&'static str, String)]) -> Result<Socket, u16> {
        let mut request = format!("wss://{}{path}", self.address).into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        match tokio_tungstenite::client_async(request, self.connect().await).await {
            Ok((socket, _)) => Ok(socket),
            Err(Error::Http(answer)) => Err(answer.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    async fn terminal(&self, person: &Browser, path: &str) -> Terminal {
        let protocols = format!("berth.shell, csrf.{}", person.csrf);
        let headers = [("cookie", person.cookie.clone()), ("sec-websocket-protocol", protocols)];
        Terminal { socket: self.socket(path, &headers).await.unwrap(), shown: String::new() }
    }
}

/// What the person has before them.
struct Terminal {
    socket: Socket,
    shown: String,
}

impl Terminal {
    async fn keys(&mut self, keys: &str) {
        self.socket.send(Message::binary(keys.as_bytes().to_vec())).await.unwrap();
    }

    /// The next thing that the console says of the session; what is shown meanwhile is gathered.
    async fn told(&mut self) -> Value {
        self.until(|_, told| told.is_some()).await.unwrap()
    }

    async fn shows(&mut self, text: &str) {
        self.until(|shown, _| shown.contains(text)).await;
    }

    async fn until(&mut self, done: impl Fn(&str, Option<&Value>) -> bool) -> Option<Value> {
        let mut told: Option<Value> = None;
        let waited = async {
            while !done(&self.shown, told.as_ref()) {
                match self.socket.next().await.expect("more").unwrap() {
                    Message::Binary(bytes) => {
                        self.shown.push_str(std::str::from_utf8(&bytes).unwrap());
                    }
                    Message::Text(text) => told = Some(serde_json::from_str(&text).unwrap()),
                    _ => {}
                }
            }
        };
        let late = tokio::time::timeout(LIMIT, waited).await.is_err();
        assert!(!late, "shown: {:?}, told: {told:?}", self.shown);
        told
    }

    /// Opened; its id.
    async fn opened(&mut self) -> String {
        let told = self.told().await;
        told["opened"].as_str().unwrap_or_else(|| panic!("{told}")).to_owned()
    }
}

/// A node agent whose containers are shells of this machine, each on a terminal of its own.
async fn node_agent(pki: &Pki, tasks: &Tasks) -> SocketAddr {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let (cert, key) = pki.kubelet_serving();
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(cert.as_bytes()).collect::<Result<_, _>>().unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let group = tasks.clone();
    tasks.spawn_until_stop("node agent", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, inner) = (acceptor.clone(), group.clone());
            group.spawn_until_stop("node agent's connection", async move {
                stream.set_nodelay(true).unwrap();
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = hyper::service::service_fn(move |request| {
                    let inner = inner.clone();
                    async move { Ok::<_, std::convert::Infallible>(switch(request, &inner)) }
                });
                let server = hyper::server::conn::http1::Builder::new();
                let served = server.serve_connection(TokioIo::new(stream), service);
                drop(served.with_upgrades().await);
            });
        }
    });
    address
}

fn switch(mut request: http::Request<Incoming>, tasks: &Tasks) -> http::Response<String> {
    let path = request.uri().path().to_owned();
    let ours = path == "/exec/default/web/main" || path.starts_with("/attach/default/web/debug-");
    let key = request.headers().get("sec-websocket-key").cloned();
    let (Some(key), true) = (key, ours) else {
        return http::Response::builder().status(404).body(format!("no {path}")).unwrap();
    };
    let upgrade = request.extensions_mut().remove::<OnUpgrade>().unwrap();
    tasks.spawn_until_stop("container", async move {
        let stream = TokioIo::new(upgrade.await.unwrap());
        contain(WebSocketStream::from_raw_socket(stream, Role::Server, None).await).await;
    });
    http::Response::builder()
        .status(101)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-accept", derive_accept_key(key.as_bytes()))
        .header("sec-websocket-protocol", "v5.channel.k8s.io")
        .body(String::new())
        .unwrap()
}

/// A shell on a terminal, spoken to by `v5.channel.k8s.io`.
async fn contain(mut client: WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>) {
    // `script` gives it a terminal.
    let mut child = Command::new("script")
        .args(["-q", "-e", "-f", "-c", "PS1='$ ' exec sh", "/dev/null"])
        .env_remove("ENV")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let (mut keys, mut printed) = (child.stdin.take(), child.stdout.take().unwrap());
    let mut buffer = [0; 4096];
    loop {
        tokio::select! {
            read = printed.read(&mut buffer) => {
                let read = read.unwrap();
                if read == 0 {
                    break;
                }
                let sent = client.send(Message::binary([&[1], &buffer[..read]].concat())).await;
                if sent.is_err() {
                    return;
                }
            }
            message = client.next() => match message {
                Some(Ok(Message::Binary(bytes))) => take(&bytes, keys.as_mut()).await,
                Some(Ok(Message::Close(_))) | Some(Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
        }
    }
    drop(keys.take());
    let code = child.wait().await.unwrap().code().unwrap_or(-1);
    let status = match code {
        0 => json!({ "status": "Success" }),
        code => json!({ "status": "Failure", "reason": "NonZeroExitCode",
            "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] } }),
    };
    let sent = client.send(Message::binary([&[3], status.to_string().as_bytes()].concat()));
    drop(sent.await);
    drop(client.close(None).await);
}

async fn take(bytes: &[u8], keys: Option<&mut ChildStdin>) {
    match (bytes.split_first(), keys) {
        (Some((0, typed)), Some(keys)) => drop(keys.write_all(typed).await),
        (Some((4, size)), _) => {
            let size: Value = serde_json::from_slice(size).unwrap();
            assert!(size["Width"].is_u64() && size["Height"].is_u64(), "{size}");
        }
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_typed_in_a_shell_runs_and_is_recorded() {
    for database in both().await {
        let shop = Shop::start(database, Limits::default()).await;
        let ann = shop.ground.log_in("ann").await;
        let mut terminal = shop.terminal(&ann, &format!("{WEB}&columns=100&rows=30")).await;
        let id = terminal.opened().await;
        terminal.shows("$ ").await;
        terminal.keys("echo 6 times 7 is $((6*7))\r").await;
        terminal.shows("times 7 is 42").await;
        let resize = json!({ "resize": { "columns": 120, "rows": 40 } });
        terminal.socket.send(Message::text(resize.to_string())).await.unwrap();
        // The clipboard, the title, and what a terminal would answer into the shell.
        terminal
            .keys("printf 'A\\033]52;c;ZXZpbA==\\007B\\033]0;evil\\007C\\033[6n\\033[cD\\n'\r")
            .await;
        terminal.shows("\nABCD\r").await;
        // Nothing of a password is shown, so nothing of it is kept.
        terminal.keys("stty -echo; echo Secret; read secret; stty echo; echo over\r").await;
        terminal.shows("\nSecret\r\n").await;
        terminal.keys("hunter2\r").await;
        terminal.shows("over\r\n$ ").await;
        terminal.keys("exit 3\r").await;
        let ended = terminal.told().await;
        assert_eq!(ended, json!({ "ended": { "why": "exit", "code": 3 } }));

        let listed = body(ann.get("/shells").await).await;
        let session = &listed["items"][0];
        assert_eq!(session["id"], id.as_str());
        assert_eq!((&session["account"], &session["pod"]), (&json!("ann"), &json!("web")));
        assert_eq!((&session["container"], &session["ending"]), (&json!("main"), &json!("exit 3")));
        let found = body(ann.get("/shells/commands?text=TIMES").await).await;
        assert_eq!(found["items"][0]["text"], "echo 6 times 7 is $((6*7))");
        let commands = body(ann.get(&format!("/shells/commands?shell={id}")).await).await;
        let commands: Vec<&str> = commands["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["text"].as_str().unwrap())
            .collect();
        assert_eq!((commands.len(), *commands.last().unwrap()), (4, "exit 3"), "{commands:?}");

        let answer = ann.get(&format!("/shells/{id}/recording")).await;
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "application/x-asciicast");
        let bytes = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        let lines: Vec<Value> = std::str::from_utf8(&bytes)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!((&lines[0]["width"], &lines[0]["height"]), (&json!(100), &json!(30)));
        let shown: String = lines
            .iter()
            .filter(|line| line[1] == "o")
            .map(|line| line[2].as_str().unwrap())
            .collect();
        assert_eq!(shown, terminal.shown, "what was shown is what is recorded");
        assert!(!shown.contains("hunter2") && !shown.contains("\u{1b}]"), "{shown:?}");
        assert!(lines.iter().any(|line| line[1] == "r" && line[2] == "120x40"));
        assert!(lines.iter().any(|line| line[1] == "m" && line[2] == "exit 3"));
        shop.ground.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_is_for_those_who_may_and_from_our_page_alone() {
    for database in both().await {
        let shop = Shop::start(database, Limits::default()).await;
        let (ann, eve) = (shop.ground.log_in("ann").await, shop.ground.log_in("eve").await);
        let mut refused = shop.terminal(&eve, WEB).await;
        let told = refused.told().await;
        assert_eq!(told["ended"]["why"], "refused");
        assert!(told["ended"]["message"].as_str().unwrap().contains("\"eve\""), "{told}");
        assert_eq!(body(eve.get("/shells").await).await, json!({ "items": [], "all": false }));

        let cookie = ("cookie", ann.cookie.clone());
        let protocol =
            |secret: &str| ("sec-websocket-protocol", format!("berth.shell, csrf.{secret}"));
        let origin = |of: &str| ("origin", of.to_owned());
        for (headers, expected) in [
            (vec![protocol(&ann.csrf)], 401),
            (vec![cookie.clone(), protocol(&eve.csrf)], 403),
            (vec![cookie.clone(), ("sec-websocket-protocol", "berth.shell".to_owned())], 403),
            (vec![cookie.clone(), protocol(&ann.csrf), origin("https://evil.example")], 403),
            (
                vec![cookie.clone(), protocol(&ann.csrf), ("sec-fetch-site", "cross-site".into())],
                403,
            ),
            (vec![cookie.clone(), ("sec-websocket-protocol", format!("csrf.{}", ann.csrf))], 400),
        ] {
            let status = shop.socket(WEB, &headers).await.err();
            assert_eq!(status, Some(expected), "{headers:?}");
        }
        for path in
            ["/shell?namespace=default&pod=../secrets", "/shell?namespace=default&pod=a%2Fb"]
        {
            let headers = [cookie.clone(), protocol(&ann.csrf)];
            assert_eq!(shop.socket(path, &headers).await.err(), Some(400), "{path}");
        }

        // Sessions of others are not there for who may not see them.
        let mut terminal = shop.terminal(&ann, WEB).await;
        let id = terminal.opened().await;
        for path in [format!("/shells/{id}"), format!("/shells/{id}/recording")] {
            assert_eq!(eve.get(&path).await.status(), StatusCode::NOT_FOUND, "{path}");
        }
        let cut = eve.send("DELETE", &format!("/shells/{id}"), json!({})).await;
        assert_eq!(cut.status(), StatusCode::NOT_FOUND);
        assert_eq!(body(eve.get("/shells/commands").await).await, json!({ "items": [] }));
        assert_eq!(body(ann.get("/shells?live=true").await).await["items"][0]["id"], id.as_str());
        let cut = ann.send("DELETE", &format!("/shells/{id}"), json!({})).await;
        assert_eq!(cut.status(), StatusCode::OK);
        terminal.until(|_, told| told.is_some_and(|told| told["ended"]["why"] == "cut")).await;
        shop.ground.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_ends_with_the_log_in_without_keys_and_when_its_recording_is_full() {
    let quick = Duration::from_millis(200);
    for database in both().await {
        let shop = Shop::start(database, Limits { check: quick, ..Limits::default() }).await;
        let ann = shop.ground.log_in("ann").await;
        let mut terminal = shop.terminal(&ann, WEB).await;
        terminal.opened().await;
        ann.send("DELETE", "/session", json!({})).await;
        assert_eq!(terminal.told().await, json!({ "ended": { "why": "rights" } }));
        shop.ground.end().await;
    }

    for database in both().await {
        let shop = Shop::start(database, Limits { idle: quick, ..Limits::default() }).await;
        let ann = shop.ground.log_in("ann").await;
        let mut terminal = shop.terminal(&ann, WEB).await;
        terminal.opened().await;
        assert_eq!(terminal.told().await, json!({ "ended": { "why": "idle" } }));
        shop.ground.end().await;
    }

    for database in both().await {
        let shop = Shop::start(database, Limits { recording: 100_000, ..Limits::default() }).await;
        let ann = shop.ground.log_in("ann").await;
        let mut terminal = shop.terminal(&ann, WEB).await;
        let id = terminal.opened().await;
        terminal.keys("yes\r").await;
        assert_eq!(terminal.told().await, json!({ "ended": { "why": "full" } }));
        let record = body(ann.get(&format!("/shells/{id}")).await).await;
        let bytes = record["bytes"].as_i64().unwrap();
        assert!((100_000..150_000).contains(&bytes), "{record}");
        shop.ground.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_made_for_who_wants_to_look_into_a_pod() {
    for database in both().await {
        let shop = Shop::start(database, Limits::default()).await;
        let ann = shop.ground.log_in("ann").await;
        let mut terminal = shop.terminal(&ann, &format!("{WEB}&image=tools:1")).await;
        let name = terminal.told().await["waiting"].as_str().unwrap().to_owned();
        let pod: Value = shop.send("GET", &format!("{PODS}/web"), Value::Null).await;
        let made = &pod["spec"]["ephemeralContainers"][0];
        assert_eq!((&made["name"], &made["image"]), (&json!(name), &json!("tools:1")));
        assert_eq!(made["targetContainerName"], "main");
        assert_eq!(made["securityContext"]["capabilities"]["add"], json!(["SYS_PTRACE"]));
        let runs = json!({ "status": { "ephemeralContainerStatuses": [{
        "name": name, "image": "tools:1", "imageID": "", "ready": false, "restartCount": 0,
        "state": { "running": { "startedAt": "2026-01-01T00:00:00Z" } } }] } });
        shop.send("PATCH", &format!("{PODS}/web/status"), runs).await;
        let id = terminal.opened().await;
        terminal.keys("exit\r").await;
        terminal.until(|_, told| told.is_some_and(|told| told["ended"]["why"] == "exit")).await;
        let record = body(ann.get(&format!("/shells/{id}")).await).await;
        assert_eq!((&record["container"], &record["image"]), (&json!(name), &json!("tools:1")));
        shop.ground.end().await;
    }
}
