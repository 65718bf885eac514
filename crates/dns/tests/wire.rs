//! The whole server over real sockets on loopback, with an API server that says what a test wants.

#[path = "wire/balancers.rs"]
mod balancers;
#[path = "wire/chaos.rs"]
mod chaos;
#[path = "wire/forwarding.rs"]
mod forwarding;
#[path = "wire/objects.rs"]
mod objects;
#[path = "wire/peers.rs"]
mod peers;
#[path = "wire/running.rs"]
mod running;
#[path = "wire/xdp.rs"]
mod xdp;

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_daemon::Tasks;
use berth_dns::Config;
use bytes::Bytes;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

const WEB: &str = "web.default.svc.cluster.local.";

type Frames = Result<http_body::Frame<Bytes>, Infallible>;

/// An API server with one Service and whatever its test adds.
#[derive(Clone, Default)]
struct Api {
    watchers: Arc<Mutex<Vec<mpsc::Sender<Frames>>>>,
}

fn service(name: &str, ip: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "default", "resourceVersion": "2"},
        "spec": {"clusterIP": ip, "ports": [{"name": "http", "port": 80}]}
    })
}

impl Api {
    fn client(&self) -> kube::Client {
        let api = self.clone();
        let serve = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let reply = api.reply(request.uri());
            async move { Ok::<_, Infallible>(reply) }
        });
        kube::Client::new(serve, "default")
    }

    /// A client whose every call fails.
    fn absent() -> kube::Client {
        let serve = tower::service_fn(|_: http::Request<kube::client::Body>| async {
            Err::<http::Response<Full<Bytes>>, _>(std::io::Error::other("nobody there"))
        });
        kube::Client::new(serve, "default")
    }

    fn reply(&self, uri: &http::Uri) -> http::Response<BoxBody<Bytes, Infallible>> {
        let services = uri.path().ends_with("/services");
        let body = if uri.query().unwrap_or_default().contains("watch=true") {
            let (sender, receiver) = mpsc::channel(16);
            if services {
                self.watchers.lock().expect("no panic").push(sender);
            } else {
                std::mem::forget(sender);
            }
            StreamBody::new(ReceiverStream::new(receiver)).boxed()
        } else {
            let items = if services { json!([service("web", "10.43.0.9")]) } else { json!([]) };
            let kind = if services { "ServiceList" } else { "EndpointSliceList" };
            let version = if services { "v1" } else { "discovery.k8s.io/v1" };
            let list = json!({"kind": kind, "apiVersion": version,
                "metadata": {"resourceVersion": "1"}, "items": items});
            Full::new(Bytes::from(list.to_string())).boxed()
        };
        http::Response::new(body)
    }

    async fn add(&self, service: Value) {
        let line = format!("{}\n", json!({"type": "ADDED", "object": service}));
        let watchers = self.watchers.lock().expect("no panic").clone();
        for watcher in watchers {
            let frame = http_body::Frame::data(Bytes::from(line.clone()));
            watcher.send(Ok(frame)).await.expect("the server watches");
        }
    }
}

fn free_port() -> SocketAddr {
    let [port] = berth_tests::free_ports().expect("a port");
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

async fn start(client: kube::Client, change: impl FnOnce(&mut Config)) -> (Config, Tasks) {
    let mut config = Config::new(free_port(), free_port(), vec![]);
    config.threads = Some(2);
    change(&mut config);
    let tasks = Tasks::new();
    berth_dns::run(config.clone(), client, &tasks).await.expect("it starts");
    (config, tasks)
}

async fn stop(tasks: Tasks) {
    assert_eq!(tasks.stop(Duration::from_secs(5)).await, berth_daemon::Stopped::Drained);
}

fn query(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
    message.to_vec().expect("it encodes")
}

async fn over_udp(server: SocketAddr, packet: &[u8]) -> Message {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
    socket.connect(server).await.expect("it connects");
    socket.send(packet).await.expect("it is sent");
    let mut bytes = [0; 4096];
    let length = tokio::time::timeout(Duration::from_secs(10), socket.recv(&mut bytes)).await;
    let length = length.expect("an answer in time").expect("an answer");
    Message::from_vec(&bytes[..length]).expect("it can be read")
}

async fn over_tcp(server: SocketAddr, packets: &[Vec<u8>]) -> Vec<Message> {
    let mut stream = TcpStream::connect(server).await.expect("it connects");
    let mut answers = Vec::new();
    for packet in packets {
        stream.write_u16(packet.len() as u16).await.expect("it is sent");
        stream.write_all(packet).await.expect("it is sent");
        let length = stream.read_u16().await.expect("an answer");
        let mut bytes = vec![0; usize::from(length)];
        stream.read_exact(&mut bytes).await.expect("an answer");
        answers.push(Message::from_vec(&bytes).expect("it can be read"));
    }
    answers
}

/// Asks until `done` says that the answer is the one waited for.
async fn until(server: SocketAddr, packet: &[u8], done: impl Fn(&Message) -> bool) -> Message {
    let wait = async {
        loop {
            let message = over_udp(server, packet).await;
            if done(&message) {
                return message;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("it is answered in time")
}

fn has_answer(message: &Message) -> bool {
    !message.answers.is_empty()
}

async fn health(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).await.expect("it connects");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("it is sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("an answer");
    text.lines().next().unwrap_or_default().to_owned()
}

/// An upstream that knows every name as 192.0.2.1, and counts its questions.
async fn upstream(tasks: &Tasks) -> (SocketAddr, Arc<Mutex<usize>>) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
    let address = socket.local_addr().expect("an address");
    let asked = Arc::new(Mutex::new(0));
    let count = Arc::clone(&asked);
    tasks.spawn_until_stop("upstream", async move {
        let mut bytes = [0; 4096];
        while let Ok((length, client)) = socket.recv_from(&mut bytes).await {
            *count.lock().expect("no panic") += 1;
            let asked = Message::from_vec(&bytes[..length]).expect("it can be read");
            let mut reply = Message::new(asked.metadata.id, MessageType::Response, OpCode::Query);
            reply.queries = asked.queries.clone();
            let name = asked.queries[0].name().clone();
            if name.to_ascii().starts_with("none.") {
                reply.metadata.response_code = ResponseCode::NXDomain;
            } else {
                let data = RData::A(A::new(192, 0, 2, 1));
                reply.add_answer(Record::from_rdata(name, 300, data));
            }
            let _ = socket.send_to(&reply.to_vec().expect("it encodes"), client).await;
        }
    });
    (address, asked)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_answer_over_udp_and_tcp_and_new_ones_at_once() {
    let api = Api::default();
    let (config, tasks) = start(api.client(), |_| {}).await;
    let message = until(config.listen, &query(WEB, RecordType::A), has_answer).await;
    assert_eq!(message.answers[0].data.to_string(), "10.43.0.9");
    assert_eq!(health(config.health).await, "HTTP/1.1 200 OK");

    let answers =
        over_tcp(config.listen, &[query(WEB, RecordType::A), query(WEB, RecordType::MX)]).await;
    assert_eq!(answers[0].answers, message.answers);
    assert!(answers[1].answers.is_empty() && answers[1].authorities.len() == 1);

    api.add(service("new", "10.43.0.77")).await;
    let new = query("new.default.svc.cluster.local.", RecordType::A);
    let message = until(config.listen, &new, has_answer).await;
    assert_eq!(message.answers[0].data.to_string(), "10.43.0.77");
    stop(tasks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_share_a_port() {
    let (first, first_tasks) = start(Api::default().client(), |_| {}).await;
    let listen = first.listen;
    let (_, second_tasks) = start(Api::default().client(), |config| config.listen = listen).await;
    until(listen, &query(WEB, RecordType::A), has_answer).await;
    stop(first_tasks).await;
    until(listen, &query(WEB, RecordType::A), has_answer).await;
    over_tcp(listen, &[query(WEB, RecordType::A)]).await;
    stop(second_tasks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_known_is_answered_without_an_api_server() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("names.json");
    let keep = |config: &mut Config| config.snapshot = Some(path.clone());
    let (config, tasks) = start(Api::default().client(), keep).await;
    until(config.listen, &query(WEB, RecordType::A), has_answer).await;
    let written = async {
        while !path.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), written).await.expect("it is written");
    stop(tasks).await;

    let (config, tasks) = start(Api::absent(), keep).await;
    assert_eq!(health(config.health).await, "HTTP/1.1 200 OK");
    let message = over_udp(config.listen, &query(WEB, RecordType::A)).await;
    assert_eq!(message.answers[0].data.to_string(), "10.43.0.9");
    stop(tasks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_names_it_is_not_healthy() {
    let (config, tasks) = start(Api::absent(), |_| {}).await;
    assert_eq!(health(config.health).await, "HTTP/1.1 503 Service Unavailable");
    stop(tasks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_names_are_forwarded_and_kept() {
    let helpers = Tasks::new();
    let (good, asked) = upstream(&helpers).await;
    // Nobody listens there: the next one is asked.
    let dead = free_port();
    let (config, tasks) = start(Api::default().client(), |c| c.upstreams = vec![dead, good]).await;
    let packet = query("wWw.Example.org.", RecordType::A);
    for _ in 0..3 {
        let message = over_udp(config.listen, &packet).await;
        assert_eq!(message.answers[0].data.to_string(), "192.0.2.1");
        assert_eq!(message.queries[0].name().to_ascii(), "wWw.Example.org.");
        assert!(!message.metadata.authoritative);
    }
    assert_eq!(*asked.lock().expect("no panic"), 1);
    for _ in 0..2 {
        let message = over_tcp(config.listen, &[query("none.example.org.", RecordType::A)]).await;
        assert_eq!(message[0].metadata.response_code, ResponseCode::NXDomain);
    }
    assert_eq!(*asked.lock().expect("no panic"), 2, "that there is none is kept, too");
    stop(tasks).await;
    stop(helpers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_external_name_is_followed_to_its_addresses() {
    let helpers = Tasks::new();
    let (good, _) = upstream(&helpers).await;
    let api = Api::default();
    let (config, tasks) = start(api.client(), |c| c.upstreams = vec![good]).await;
    until(config.listen, &query(WEB, RecordType::A), has_answer).await;
    let mut out = service("out", "");
    out["spec"] = json!({"type": "ExternalName", "externalName": "example.org"});
    api.add(out).await;
    let packet = query("out.default.svc.cluster.local.", RecordType::A);
    let message = until(config.listen, &packet, has_answer).await;
    let data: Vec<_> = message.answers.iter().map(|record| record.data.to_string()).collect();
    assert_eq!(data, ["example.org.", "192.0.2.1"]);
    stop(tasks).await;
    stop(helpers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_upstreams_other_names_fail_at_once() {
    let (config, tasks) = start(Api::default().client(), |_| {}).await;
    let message = over_udp(config.listen, &query("example.org.", RecordType::A)).await;
    assert_eq!(message.metadata.response_code, ResponseCode::ServFail);
    stop(tasks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tool_that_people_use_understands_it() {
    let Ok(version) = tokio::process::Command::new("dig").arg("-v").output().await else {
        assert!(std::env::var_os("CI").is_none(), "dig is needed in CI: apt-get install dnsutils");
        eprintln!("skipped: there is no dig on this machine");
        return;
    };
    drop(version);
    let (config, tasks) = start(Api::default().client(), |_| {}).await;
    until(config.listen, &query(WEB, RecordType::A), has_answer).await;
    for over in ["+notcp", "+tcp"] {
        let output = tokio::process::Command::new("dig")
            .args(["+short", "+time=5", over, "@127.0.0.1", "-p"])
            .arg(config.listen.port().to_string())
            .arg(WEB)
            .output()
            .await
            .expect("dig runs");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "10.43.0.9\n", "{over}");
    }
    stop(tasks).await;
}
