//! How long a change takes until it is answered: `dns_changes SERVICES CHANGES`, five endpoints a
//! headless service. Prints a line of milliseconds for each change: from the watch event that shows
//! it, as an API server writes it, to the first UDP answer that has it. What `./dev bench dns`
//! measures.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use berth_daemon::Tasks;
use berth_dns::Config;
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ENDPOINTS: u32 = 5;
const PATIENCE: Duration = Duration::from_secs(120);

type Frames = Result<http_body::Frame<Bytes>, Infallible>;

/// The lists, and whoever watches slices.
#[derive(Clone)]
struct Api {
    services: u32,
    watcher: Arc<Mutex<Option<mpsc::Sender<Frames>>>>,
}

fn service(number: u32) -> Value {
    json!({
        "metadata": {"name": format!("s{number}"), "namespace": "bench", "resourceVersion": "1"},
        "spec": {"clusterIP": "None", "ports": [{"name": "http", "port": 80}]}
    })
}

fn slice(number: u32, changed: u32) -> Value {
    let address = |endpoint: u32| {
        let number = number * ENDPOINTS + endpoint;
        // The last one is what changes.
        let first = if endpoint + 1 == ENDPOINTS { 10 + changed % 100 } else { 10 };
        json!({"addresses": [format!("{first}.{}.{}.{}", number >> 16 & 255, number >> 8 & 255, number & 255)],
            "conditions": {"ready": true}})
    };
    json!({
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"name": format!("s{number}-1"), "namespace": "bench", "resourceVersion": "2",
            "labels": {"kubernetes.io/service-name": format!("s{number}")}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        "endpoints": (0..ENDPOINTS).map(address).collect::<Vec<_>>()
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

    fn reply(&self, uri: &http::Uri) -> http::Response<BoxBody<Bytes, Infallible>> {
        let slices = uri.path().ends_with("/endpointslices");
        let query = uri.query().unwrap_or_default();
        let body = if query.contains("watch=true") {
            let (sender, receiver) = mpsc::channel(16);
            if slices {
                *self.watcher.lock().expect("nobody panics") = Some(sender);
            } else {
                std::mem::forget(sender);
            }
            StreamBody::new(ReceiverStream::new(receiver)).boxed()
        } else {
            let items: Vec<Value> = match uri.path().rsplit('/').next() {
                Some("services") => (0..self.services).map(service).collect(),
                Some("endpointslices") => (0..self.services).map(|n| slice(n, 0)).collect(),
                _ => vec![],
            };
            let list = json!({"kind": "List", "apiVersion": "v1",
                "metadata": {"resourceVersion": "1"}, "items": items});
            Full::new(Bytes::from(list.to_string())).boxed()
        };
        http::Response::new(body)
    }
}

/// The addresses of `s0`, as the server says them.
fn ask(socket: &UdpSocket) -> Result<Vec<u8>> {
    let mut question = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    question.extend_from_slice(b"\x02s0\x05bench\x03svc\x07cluster\x05local\x00\x00\x01\x00\x01");
    socket.send(&question)?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer)?;
    ensure!(length > 12, "no answer");
    Ok(answer[question.len()..length].to_vec())
}

fn main() -> Result<()> {
    let words: Vec<u32> =
        std::env::args().skip(1).map(|word| word.parse()).collect::<Result<_, _>>()?;
    let [services, changes] = words[..] else { anyhow::bail!("dns_changes SERVICES CHANGES") };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let free = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let api = Api { services, watcher: Arc::default() };
    let mut config = Config::new(free, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), vec![]);
    config.threads = Some(1);
    let tasks = Tasks::new();
    let client = runtime.block_on(async { api.client() });
    let server = runtime.block_on(berth_dns::run(config, client, &tasks))?;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(free)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let begun = Instant::now();
    while !has(&ask(&socket)?, 10) || api.watcher.lock().expect("nobody panics").is_none() {
        ensure!(begun.elapsed() < PATIENCE, "the names are not there in time");
        std::thread::sleep(Duration::from_millis(10));
    }
    eprintln!("{services} services: all names after {:.2} s", begun.elapsed().as_secs_f64());
    let watcher = api.watcher.lock().expect("nobody panics").clone().context("it is watched")?;
    for change in 1..=changes {
        let line = format!("{}\n", json!({"type": "MODIFIED", "object": slice(0, change)}));
        let begun = Instant::now();
        watcher.blocking_send(Ok(http_body::Frame::data(Bytes::from(line))))?;
        while !has(&ask(&socket)?, 10 + (change % 100) as u8) {
            ensure!(begun.elapsed() < PATIENCE, "the change is not answered");
        }
        println!("{:.4}", begun.elapsed().as_secs_f64() * 1e3);
        // The next one comes when all is at rest.
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(server);
    runtime.block_on(tasks.stop(Duration::from_secs(5)));
    Ok(())
}

/// Whether the changing endpoint's address begins with `first`.
fn has(answer: &[u8], first: u8) -> bool {
    answer.windows(6).any(|record| record == [0, 4, first, 0, 0, (ENDPOINTS - 1) as u8])
}
