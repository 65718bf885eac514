//! What people see of a server that runs: counts, the query log, other settings without a pause.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use berth_daemon::Tasks;
use berth_dns::{Config, QueryLog, Request, ZoneFile};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::{free_port, over_tcp, over_udp, query, stop};

fn zone(dir: &std::path::Path, name: &str, address: &str) -> ZoneFile {
    let path = dir.join(format!("{name}.zone"));
    let text = format!(
        "$ORIGIN {name}.\n$TTL 300\n@ SOA ns admin 1 3600 600 86400 30\n@ NS ns\nns A {address}\n"
    );
    std::fs::write(&path, text).expect("it is written");
    ZoneFile { path, origin: None }
}

pub(super) async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("it connects");
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("it is sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("an answer");
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_are_counted_listed_and_written_down() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = Config::new(free_port(), free_port(), vec![]);
    config.threads = Some(1);
    config.zones = vec![zone(dir.path(), "one.test", "192.0.2.1")];
    config.control = Some(dir.path().join("control"));
    let path = dir.path().join("queries.log");
    config.query_log = Some(QueryLog { path: path.clone(), sample: 1, most_bytes: 1 << 20 });
    let tasks = Tasks::new();
    let server = berth_dns::run_for(config.clone(), vec![], &tasks).await.expect("it starts");
    let (ours, none) =
        (query("ns.one.test.", RecordType::A), query("x.one.test.", RecordType::TXT));
    for _ in 0..200 {
        over_udp(config.listen, &ours).await;
    }
    let none = over_tcp(config.listen, &[none]).await;
    assert_eq!(none[0].metadata.response_code, ResponseCode::NXDomain);

    let page = get(config.health, "/metrics").await;
    let has = |line: &str| assert!(page.lines().any(|one| one == line), "{line}\n{page}");
    has("coredns_dns_requests_total{family=\"1\",proto=\"udp\",type=\"A\"} 200");
    has("coredns_dns_requests_total{family=\"1\",proto=\"tcp\",type=\"TXT\"} 1");
    has("coredns_dns_responses_total{rcode=\"NOERROR\"} 200");
    has("coredns_dns_responses_total{rcode=\"NXDOMAIN\"} 1");
    has("coredns_dns_request_duration_seconds_count{proto=\"udp\"} 200");
    has("coredns_dns_request_size_bytes_bucket{proto=\"udp\",le=\"100\"} 200");

    let control = config.control.as_deref().expect("it was set");
    let top = berth_dns::ask(control, Request::Top(5)).await.expect("an answer");
    assert_eq!(top["names"][0]["what"], "ns.one.test.");
    let counted = top["names"][0]["queries"].as_u64().expect("a number");
    assert!((80..400).contains(&counted), "of a sample: {top}");
    assert_eq!(top["clients"][0]["what"], "127.0.0.1");

    let written = async {
        loop {
            let text = std::fs::read_to_string(&path).expect("it is there");
            if text.lines().count() == 201 {
                return text;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let text = tokio::time::timeout(Duration::from_secs(10), written).await.expect("all lines");
    assert!(text.contains("\"A IN ns.one.test. udp "), "{text}");
    assert!(text.contains("\"TXT IN x.one.test. tcp ") && text.contains("NXDOMAIN"), "{text}");
    drop(server);
    stop(tasks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_over_the_rate_is_not_asked_of_an_upstream() {
    let helpers = Tasks::new();
    let (upstream, asked) = super::upstream(&helpers).await;
    let mut config = Config::new(free_port(), free_port(), vec![upstream]);
    (config.threads, config.rate) = (Some(1), 5);
    let tasks = Tasks::new();
    let server = berth_dns::run_for(config.clone(), vec![], &tasks).await.expect("it starts");
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    socket.connect(config.listen).await.expect("it connects");
    for number in 0..60 {
        let packet = query(&format!("n{number}.example.org."), RecordType::A);
        socket.send(&packet).await.expect("it is sent");
    }
    let (mut whole, mut truncated, mut answer) = (0, 0, [0; 1232]);
    // What is over the rate is answered at once, what is within it when the upstream has answered.
    while whole < 5 || whole + truncated < 30 {
        let came = tokio::time::timeout(Duration::from_secs(10), socket.recv(&mut answer)).await;
        came.expect("five and half of the others are answered").expect("an answer");
        match answer[2] & 2 {
            0 => whole += 1,
            _ => truncated += 1,
        }
    }
    // A second may end in between.
    let asked = *asked.lock().expect("no panic");
    assert!((5..=15).contains(&asked) && whole <= 15, "{asked} asked, {whole} whole");
    let page = get(config.health, "/metrics").await;
    let limited = page.lines().find_map(|line| line.strip_prefix("berth_dns_rate_limited_total "));
    let limited: u32 = limited.and_then(|count| count.parse().ok()).expect("it is counted");
    assert!((22..=28).contains(&limited), "{limited}");
    drop(server);
    stop(tasks).await;
    stop(helpers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_settings_are_put_in_force_without_a_query_lost() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = Config::new(free_port(), free_port(), vec![]);
    config.threads = Some(2);
    config.zones = vec![zone(dir.path(), "one.test", "192.0.2.1")];
    let tasks = Tasks::new();
    let server = berth_dns::run_for(config.clone(), vec![], &tasks).await.expect("it starts");
    let (ended, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let (listen, done, count) = (config.listen, Arc::clone(&ended), Arc::clone(&answered));
    #[allow(clippy::disallowed_methods)] // the test joins it
    let asking = tokio::task::spawn(async move {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        socket.connect(listen).await.expect("it connects");
        let (asked, mut answer) = (query("ns.one.test.", RecordType::A), [0; 1232]);
        while !done.load(Ordering::Relaxed) {
            socket.send(&asked).await.expect("it is sent");
            let came = tokio::time::timeout(Duration::from_secs(2), socket.recv(&mut answer)).await;
            let length = came.expect("no query is lost").expect("an answer");
            assert!(length > 12 && answer[3] & 0xF == 0 && answer[7] == 1, "answered as before");
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    for round in 0..20 {
        let mut other = config.clone();
        other.zones.push(zone(dir.path(), "two.test", &format!("192.0.2.{round}")));
        other.nsid = Some(format!("round-{round}"));
        server.reload(other).expect("it is right");
        let wanted = format!("192.0.2.{round}");
        let two = query("ns.two.test.", RecordType::A);
        super::until(listen, &two, |message| {
            message.answers.iter().any(|record| record.data.to_string() == wanted)
        })
        .await;
    }
    let mut wrong = config.clone();
    wrong.domains = vec!["..".into()];
    assert!(server.reload(wrong).is_err());
    server.reload(config).expect("it is right");
    let two = query("ns.two.test.", RecordType::A);
    super::until(listen, &two, |message| message.answers.is_empty()).await;
    ended.store(true, Ordering::Relaxed);
    asking.await.expect("all were answered");
    assert!(answered.load(Ordering::Relaxed) > 100);
    drop(server);
    stop(tasks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zone_that_nobody_confirms_ends_however_often_settings_are_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = zone(dir.path(), "one.test", "192.0.2.1");
    let text = std::fs::read_to_string(&file.path).expect("it is there");
    // Refreshed and tried again after two seconds, given up after four.
    let text = text.replace("3600 600 86400 30", "2 2 4 1");
    std::fs::write(&file.path, text).expect("it is written");
    let mut primary = Config::new(free_port(), free_port(), vec![]);
    primary.zones = vec![file];
    primary.transfers.allow = vec![("127.0.0.0".parse().expect("an address"), 8)];
    let theirs = Tasks::new();
    let first = berth_dns::run_for(primary.clone(), vec![], &theirs).await.expect("it starts");

    let mut config = Config::new(free_port(), free_port(), vec![]);
    let (zone, primaries) = ("one.test".to_owned(), vec![primary.listen]);
    config.secondaries = vec![berth_dns::Secondary { zone, primaries, key: None, file: None }];
    let tasks = Tasks::new();
    let server = berth_dns::run_for(config.clone(), vec![], &tasks).await.expect("it starts");
    let packet = query("ns.one.test.", RecordType::A);
    super::until(config.listen, &packet, super::has_answer).await;
    drop(first);
    stop(theirs).await;
    let ended = async {
        while super::has_answer(&over_udp(config.listen, &packet).await) {
            server.reload(config.clone()).expect("they are right");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), ended).await.expect("it is given up");
    stop(tasks).await;
}
