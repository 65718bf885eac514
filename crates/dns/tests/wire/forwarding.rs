//! Names of others: whom is asked for what, how often, and what is said when nobody answers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use berth_daemon::Tasks;
use berth_dns::Config;
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record, RecordType};
use tokio::net::UdpSocket;

use super::{free_port, over_udp, query, stop, until};

/// What an ended answer lives with its client (RFC 8767 §4); the upstream says 300.
const STALE: u32 = 30;

/// Knows every name as one address; goes silent when it is told to.
struct Upstream {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    silent: Arc<AtomicBool>,
}

impl Upstream {
    async fn start(last: u8, tasks: &Tasks) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        let address = socket.local_addr().expect("an address");
        let (asked, silent) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (count, hush) = (Arc::clone(&asked), Arc::clone(&silent));
        tasks.spawn_until_stop("upstream", async move {
            let mut bytes = [0; 4096];
            while let Ok((length, client)) = socket.recv_from(&mut bytes).await {
                count.fetch_add(1, Ordering::SeqCst);
                if hush.load(Ordering::SeqCst) {
                    continue;
                }
                let asked = Message::from_vec(&bytes[..length]).expect("it can be read");
                let id = asked.metadata.id;
                let mut reply = Message::new(id, MessageType::Response, OpCode::Query);
                let name = asked.queries[0].name().clone();
                reply.queries = asked.queries;
                let data = RData::A(A::new(192, 0, 2, last));
                reply.add_answer(Record::from_rdata(name, 300, data));
                let _ = socket.send_to(&reply.to_vec().expect("it encodes"), client).await;
            }
        });
        Self { address, asked, silent }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

async fn forwarding(upstream: &Upstream, longest: u32, tasks: &Tasks) -> Config {
    let mut config = Config::new(free_port(), free_port(), vec![upstream.address]);
    (config.threads, config.longest) = (Some(1), longest);
    berth_dns::run_for(config.clone(), vec![], tasks).await.expect("it starts");
    config
}

fn life(message: &Message) -> Option<u32> {
    message.answers.first().map(|record| record.ttl)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suffix_has_upstreams_of_its_own() {
    let tasks = Tasks::new();
    let (all, corp) = (Upstream::start(1, &tasks).await, Upstream::start(2, &tasks).await);
    let mut config = Config::new(free_port(), free_port(), vec![all.address]);
    config.forwards = vec![("corp.example".to_owned(), vec![corp.address])];
    berth_dns::run_for(config.clone(), vec![], &tasks).await.expect("it starts");
    for (name, address) in [
        ("www.corp.example.", "192.0.2.2"),
        ("corp.example.", "192.0.2.2"),
        ("xcorp.example.", "192.0.2.1"),
        ("example.", "192.0.2.1"),
    ] {
        let message = over_udp(config.listen, &query(name, RecordType::A)).await;
        assert_eq!(message.answers[0].data.to_string(), address, "{name}");
    }
    stop(tasks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_want_the_same_ask_the_upstream_once() {
    let tasks = Tasks::new();
    let upstream = Upstream::start(1, &tasks).await;
    upstream.silent.store(true, Ordering::SeqCst);
    let config = forwarding(&upstream, 30, &tasks).await;
    let packet = query("cold.example.", RecordType::A);
    let mut clients = Vec::new();
    for _ in 0..50 {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        socket.connect(config.listen).await.expect("it connects");
        socket.send(&packet).await.expect("it is sent");
        clients.push(socket);
    }
    let heard = async {
        while upstream.asked() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), heard).await.expect("it is asked");
    upstream.silent.store(false, Ordering::SeqCst);
    for client in clients {
        let mut bytes = [0; 512];
        let length = tokio::time::timeout(Duration::from_secs(10), client.recv(&mut bytes)).await;
        let length = length.expect("in time").expect("an answer");
        let message = Message::from_vec(&bytes[..length]).expect("it can be read");
        assert_eq!(life(&message), Some(300));
    }
    assert_eq!(upstream.asked(), 2, "the one that got no answer was asked again");
    stop(tasks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wanted_is_asked_for_again_before_it_ends() {
    let tasks = Tasks::new();
    let upstream = Upstream::start(1, &tasks).await;
    let config = forwarding(&upstream, 6, &tasks).await;
    let packet = query("wanted.example.", RecordType::A);
    over_udp(config.listen, &packet).await;
    upstream.silent.store(true, Ordering::SeqCst);
    // Were it asked because a client waits, that client would be given what has ended.
    until(config.listen, &packet, |message| {
        assert_ne!(life(message), Some(STALE));
        upstream.asked() > 1
    })
    .await;
    stop(tasks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_ended_is_given_when_no_upstream_answers_or_too_many_questions_wait() {
    let tasks = Tasks::new();
    let upstream = Upstream::start(1, &tasks).await;
    let config = forwarding(&upstream, 1, &tasks).await;
    let packet = query("kept.example.", RecordType::A);
    assert_eq!(life(&over_udp(config.listen, &packet).await), Some(300));
    upstream.silent.store(true, Ordering::SeqCst);
    until(config.listen, &packet, |message| life(message) == Some(STALE)).await;

    // More questions than may wait; the first that is refused says that no place is left.
    let flood = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    flood.connect(config.listen).await.expect("it connects");
    for number in 0..900 {
        let packet = query(&format!("n{number}.example."), RecordType::A);
        flood.send(&packet).await.expect("it is sent");
    }
    let mut bytes = [0; 512];
    let length = tokio::time::timeout(Duration::from_secs(10), flood.recv(&mut bytes)).await;
    let length = length.expect("in time").expect("an answer");
    let refused = Message::from_vec(&bytes[..length]).expect("it can be read");
    assert_eq!(refused.metadata.response_code, ResponseCode::ServFail);
    let kept = over_udp(config.listen, &packet).await;
    assert_eq!(life(&kept), Some(STALE), "{kept}");
    stop(tasks).await;
}
