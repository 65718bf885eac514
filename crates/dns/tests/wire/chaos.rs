//! What must not show at the sockets: endpoints that flap, an API server that goes, the process
//! killed in the middle of it all, a zone that is broken beside one that is not, packets of noise.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use berth_daemon::Tasks;
use berth_dns::{Config, ZoneFile};
use bytes::Bytes;
use hickory_proto::rr::RecordType;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Api, Frames, free_port, has_answer, over_udp, query, running, start, stop, until};

const DB: &str = "db.default.svc.cluster.local.";
/// Where a child of the test that kills one listens, and what it keeps.
const CHILD: &str = "BERTH_DNS_CHAOS_CHILD";

/// An API server with one headless Service of two endpoints, one of which changes; or none.
#[derive(Clone, Default)]
struct Flapping {
    watchers: Arc<Mutex<Vec<mpsc::Sender<Frames>>>>,
    gone: Arc<AtomicBool>,
    /// The last number of the endpoint that changes.
    last: Arc<Mutex<u8>>,
}

impl Flapping {
    fn client(&self) -> kube::Client {
        let api = self.clone();
        let serve = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let reply = match api.gone.load(Ordering::Relaxed) {
                true => Err(std::io::Error::other("nobody there")),
                false => Ok(api.reply(request.uri())),
            };
            async move { reply }
        });
        kube::Client::new(serve, "default")
    }

    fn reply(&self, uri: &http::Uri) -> http::Response<BoxBody<Bytes, Infallible>> {
        let slices = uri.path().ends_with("/endpointslices");
        let body = if uri.query().unwrap_or_default().contains("watch=true") {
            let (sender, receiver) = mpsc::channel(16);
            if slices {
                // What changed since the version that is asked for comes first.
                let frame = http_body::Frame::data(Bytes::from(self.changed()));
                sender.try_send(Ok(frame)).expect("there is room for one");
                self.watchers.lock().expect("no panic").push(sender);
            } else {
                std::mem::forget(sender);
            }
            StreamBody::new(ReceiverStream::new(receiver)).boxed()
        } else {
            let items: Vec<Value> = match uri.path().rsplit('/').next() {
                Some("services") => vec![json!({
                    "metadata": {"name": "db", "namespace": "default", "resourceVersion": "1"},
                    "spec": {"clusterIP": "None", "ports": [{"name": "x", "port": 80}]}
                })],
                Some("endpointslices") => vec![self.slice()],
                _ => vec![],
            };
            let list = json!({"kind": "List", "apiVersion": "v1",
                "metadata": {"resourceVersion": "1"}, "items": items});
            Full::new(Bytes::from(list.to_string())).boxed()
        };
        http::Response::new(body)
    }

    /// 10.0.0.1 always, and 10.0.1.N.
    fn slice(&self) -> Value {
        let last = *self.last.lock().expect("no panic");
        json!({
            "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
            "metadata": {"name": "db-1", "namespace": "default", "resourceVersion": "2",
                "labels": {"kubernetes.io/service-name": "db"}},
            "addressType": "IPv4", "ports": [{"name": "x", "port": 80, "protocol": "TCP"}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": true}},
                // Every other time it is not ready, and so is not to be given.
                {"addresses": [format!("10.0.1.{last}")], "conditions": {"ready": last % 2 == 1}},
            ]
        })
    }

    fn changed(&self) -> String {
        format!("{}\n", json!({"type": "MODIFIED", "object": self.slice()}))
    }

    /// The endpoint is another one.
    async fn change(&self, last: u8) {
        *self.last.lock().expect("no panic") = last;
        let line = self.changed();
        let watchers = self.watchers.lock().expect("no panic").clone();
        for watcher in watchers {
            // One that is no longer heard lists anew.
            let frame = http_body::Frame::data(Bytes::from(line.clone()));
            let _ = watcher.send(Ok(frame)).await;
        }
    }

    /// Every watch ends, and every call fails.
    fn leave(&self) {
        self.gone.store(true, Ordering::Relaxed);
        self.watchers.lock().expect("no panic").clear();
    }
}

/// Asks without a pause until it is told to stop; how often it was answered. Fails where an answer
/// does not come, or has not the endpoint that always is there.
struct Client {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<u32>,
}

impl Client {
    fn start(server: SocketAddr, name: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
            socket.connect(server).expect("it connects");
            socket.set_read_timeout(Some(Duration::from_secs(2))).expect("not zero");
            let (packet, mut answer, mut answered) = (query(name, RecordType::A), [0; 512], 0);
            while !stopped.load(Ordering::Relaxed) {
                socket.send(&packet).expect("it is sent");
                let length = socket.recv(&mut answer).expect("no query is lost");
                let there = answer[..length].windows(6).any(|data| data == [0, 4, 10, 0, 0, 1]);
                assert!(there, "the endpoint that never went is given: {:?}", &answer[..length]);
                answered += 1;
            }
            answered
        });
        Self { stop, thread }
    }

    fn end(self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("every query was answered")
    }
}

fn gives(message: &hickory_proto::op::Message, last: u8) -> bool {
    let wanted = format!("10.0.1.{last}");
    message.answers.iter().any(|record| record.data.to_string() == wanted)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_that_flap_a_hundred_times_a_second_cost_no_query() {
    let api = Flapping::default();
    let (config, tasks) = start(api.client(), |_| {}).await;
    let asked = query(DB, RecordType::A);
    until(config.listen, &asked, has_answer).await;
    let client = Client::start(config.listen, DB);
    let mut beat = tokio::time::interval(Duration::from_millis(10));
    for change in 0..300u32 {
        beat.tick().await;
        api.change((change % 250) as u8).await;
    }
    api.change(251).await;
    let changed = Instant::now();
    let message = until(config.listen, &asked, |message| gives(message, 251)).await;
    let took = changed.elapsed();
    assert_eq!(message.answers.len(), 2, "what came and went is not given");
    assert!(client.end() > 300);
    // 100 ms on a machine that does nothing else; here all tests run at once.
    assert!(took < Duration::from_secs(2), "{took:?}");
    stop(tasks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_goes_and_comes_back_costs_no_query() {
    let api = Flapping::default();
    let (config, tasks) = start(api.client(), |_| {}).await;
    let asked = query(DB, RecordType::A);
    api.change(5).await;
    until(config.listen, &asked, |message| gives(message, 5)).await;
    let client = Client::start(config.listen, DB);
    api.leave();
    api.change(7).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(gives(&over_udp(config.listen, &asked).await, 5), "what was known");
    api.gone.store(false, Ordering::Relaxed);
    let back = async {
        while !gives(&over_udp(config.listen, &asked).await, 7) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // Watches that failed are tried again after a while that grows.
    tokio::time::timeout(Duration::from_secs(60), back).await.expect("it is followed again");
    assert!(client.end() > 100);
    stop(tasks).await;
}

/// The process that is killed; nothing unless it is told where to listen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by killed_in_the_middle_it_answers_again_what_it_knew"]
async fn child() {
    let Ok(told) = std::env::var(CHILD) else { return };
    let (port, path) = told.split_once(' ').expect("PORT PATH");
    let port = port.parse().expect("a port");
    let api = Flapping::default();
    let (_config, _tasks) = start(api.client(), |config| {
        config.listen = (Ipv4Addr::LOCALHOST, port).into();
        config.snapshot = Some(path.into());
    })
    .await;
    // Until it is killed; and it ends by itself should the one who kills be gone.
    for change in 0..60_000u32 {
        api.change((change % 250) as u8).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

struct Killed(Child);

impl Killed {
    fn start(port: u16, snapshot: &Path) -> Self {
        let own = std::env::current_exe().expect("a path");
        let words = ["--ignored", "--exact", "chaos::child"];
        let process = Command::new(own)
            .args(words)
            .env(CHILD, format!("{port} {}", snapshot.display()))
            .stdout(Stdio::null())
            .spawn();
        Self(process.expect("it starts"))
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_in_the_middle_it_answers_again_what_it_knew() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("names.json");
    let listen = free_port();
    let asked = query(DB, RecordType::A);
    for round in 0..3u64 {
        let killed = Killed::start(listen.port(), &path);
        let knows = async {
            while !path.exists() || !answers(listen, &asked) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), knows).await.expect("it answers");
        // At some moment, perhaps of writing what it knows.
        tokio::time::sleep(Duration::from_millis(400 * round + 7)).await;
        drop(killed);
        assert!(!answers(listen, &asked), "nobody is there");
        let (config, tasks) = start(Api::absent(), |config| {
            config.listen = listen;
            config.snapshot = Some(path.clone());
        })
        .await;
        let message = over_udp(config.listen, &asked).await;
        let known: Vec<_> = message.answers.iter().map(|one| one.data.to_string()).collect();
        assert!(known.iter().any(|ip| ip == "10.0.0.1"), "{known:?}");
        stop(tasks).await;
    }
}

/// Whether it is answered within a moment.
fn answers(server: SocketAddr, packet: &[u8]) -> bool {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    socket.connect(server).expect("it connects");
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("not zero");
    let mut answer = [0; 512];
    socket.send(packet).is_ok()
        && socket.recv(&mut answer).is_ok_and(|length| length > 12 && answer[7] > 0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zone_that_breaks_is_refused_and_the_others_go_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let write = |name: &str, address: &str| {
        let path = dir.path().join(name);
        let text =
            format!("$ORIGIN {name}.\n$TTL 60\n@ SOA ns a 1 2 3 4 5\n@ NS ns\nns A {address}\n");
        // As editors do: a file beside it that takes its place.
        let beside = path.with_extension("new");
        std::fs::write(&beside, text).expect("written");
        std::fs::rename(&beside, &path).expect("renamed");
        ZoneFile { path, origin: None }
    };
    let mut config = Config::new(free_port(), free_port(), vec![]);
    config.zones = vec![write("one.test", "10.0.0.1"), write("two.test", "10.0.0.1")];
    let tasks = Tasks::new();
    let server = berth_dns::run_for(config.clone(), vec![], &tasks).await.expect("it starts");
    let client = Client::start(config.listen, "ns.one.test.");
    write("one.test", "10.0.0.256");
    write("two.test", "10.0.1.77");
    let two = query("ns.two.test.", RecordType::A);
    until(config.listen, &two, |message| gives(message, 77)).await;
    let one = over_udp(config.listen, &query("ns.one.test.", RecordType::A)).await;
    assert_eq!(one.answers[0].data.to_string(), "10.0.0.1", "the old one stays");
    client.end();
    drop(server);
    stop(tasks).await;

    // Its text is gone with the server; that keeps nobody else from an answer.
    let tasks = Tasks::new();
    let server = berth_dns::run_for(config.clone(), vec![], &tasks).await.expect("it starts");
    until(config.listen, &two, |message| gives(message, 77)).await;
    let page = running::get(config.health, "/metrics").await;
    assert!(page.contains("\ncoredns_reload_failed_total 1\n"), "{page}");
    write("one.test", "10.0.1.78");
    let one = query("ns.one.test.", RecordType::A);
    until(config.listen, &one, |message| gives(message, 78)).await;
    drop(server);
    stop(tasks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_client_with_many_connections_leaves_places_for_others() {
    let (config, tasks) = start(Flapping::default().client(), |_| {}).await;
    let mut held = Vec::new();
    for _ in 0..300 {
        let mut stream = TcpStream::connect(config.listen).await.expect("it connects");
        // Half a length, and never the rest. Those over the share are closed already.
        let _ = stream.write_all(&[0]).await;
        held.push(stream);
    }
    let other = TcpSocket::new_v4().expect("a socket");
    other.bind(SocketAddr::from(([127, 0, 0, 2], 0))).expect("all of 127/8 is here");
    let mut other = other.connect(config.listen).await.expect("it connects");
    let packet = query("example.org.", RecordType::A);
    other.write_u16(packet.len() as u16).await.expect("it is sent");
    other.write_all(&packet).await.expect("it is sent");
    // Well before those that hold places are sent away.
    let answer = tokio::time::timeout(Duration::from_secs(5), other.read_u16()).await;
    assert!(answer.expect("in time").expect("an answer") > 12);
    drop(held);
    stop(tasks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_noise_costs_others_no_answer_and_gets_none_that_is_larger() {
    let api = Flapping::default();
    let (config, tasks) = start(api.client(), |config| config.threads = Some(1)).await;
    let asked = query(DB, RecordType::A);
    until(config.listen, &asked, has_answer).await;
    let client = Client::start(config.listen, DB);
    let listen = config.listen;
    let noise = std::thread::spawn(move || {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
        socket.connect(listen).expect("it connects");
        socket.set_nonblocking(true).expect("it is");
        let good = query(DB, RecordType::ANY);
        let (mut answer, mut random, mut larger) = ([0; 4096], 0x1234_5678_9ABC_DEF1u64, 0);
        for round in 0..20_000 {
            let mut packet = good.clone();
            for _ in 0..1 + round % 6 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let at = random as usize % packet.len();
                packet[at] = (random >> 32) as u8;
            }
            packet.truncate(1 + (random >> 40) as usize % packet.len());
            let _ = socket.send(&packet);
            while let Ok(length) = socket.recv(&mut answer) {
                larger += usize::from(length > 512);
            }
            if round % 64 == 0 {
                // What others ask must find room in the socket's buffer.
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        larger
    });
    assert_eq!(noise.join().expect("no panic"), 0, "without EDNS 512 bytes are the most");
    assert!(client.end() > 0);
    stop(tasks).await;
}
