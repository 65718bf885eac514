//! Addresses that balancers find down: what is said, by whom, and what happens when they are silent
//! or talk rubbish. (With a real balancer: crates/balancer/tests/l7/dns.rs.)

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use berth_daemon::Tasks;
use berth_dns::{Config, Healthy, Order, Server, Wanted, ZoneFile};
use hickory_proto::rr::RecordType;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::{free_port, over_udp, query, stop};

/// What a balancer does with a question.
#[derive(Clone, Debug)]
enum Does {
    /// Says this, and waits with the next answer for other orders.
    Tells(Vec<(&'static str, Option<&'static str>)>),
    /// Takes the connection and keeps it.
    Hangs,
    /// Sends so many bytes of nothing.
    Babbles(usize),
}

/// Something at a balancer's health address.
struct Balancer {
    address: SocketAddr,
    does: watch::Sender<(u64, Does)>,
}

impl Balancer {
    async fn start(tasks: &Tasks, does: Does) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let (does, orders) = watch::channel((1, does));
        let group = tasks.clone();
        tasks.spawn_until_stop("balancer", async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut orders = orders.clone();
                group.spawn_until_stop("asked", async move {
                    let mut request = vec![0; 4096];
                    let read = stream.read(&mut request).await.unwrap_or(0);
                    let request = String::from_utf8_lossy(&request[..read]).into_owned();
                    let mut does = orders.borrow_and_update().clone();
                    if request.contains(&format!("since={}&", does.0)) {
                        let _ =
                            tokio::time::timeout(Duration::from_secs(5), orders.changed()).await;
                        does = orders.borrow_and_update().clone();
                    }
                    let _ = answer(&mut stream, does).await;
                });
            }
        });
        Self { address, does }
    }

    fn order(&self, does: Does) {
        self.does.send_modify(|(number, now)| {
            *number += 1;
            *now = does;
        });
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

async fn answer(stream: &mut tokio::net::TcpStream, does: (u64, Does)) -> std::io::Result<()> {
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
    match does.1 {
        Does::Hangs => std::future::pending().await,
        Does::Babbles(bytes) => {
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(&vec![b' '; bytes]).await?;
        }
        Does::Tells(addresses) => {
            let one = |(ip, finding): &(&str, Option<&str>)| match finding {
                Some(finding) => serde_json::json!({"address": ip, "finding": finding}),
                None => serde_json::json!({"address": ip}),
            };
            let addresses: Vec<_> = addresses.iter().map(one).collect();
            let page = serde_json::json!({"revision": does.0.to_string(), "whole": true,
                "more": false, "addresses": addresses});
            stream.write_all(format!("{head}{page}").as_bytes()).await?;
        }
    }
    stream.shutdown().await
}

/// Serves a name of three addresses, given only where balancers do not find them down.
async fn serve(
    dir: &std::path::Path,
    ips: [&str; 3],
    balancers: Vec<String>,
) -> (Config, Server, Tasks) {
    let path = dir.join("zone");
    let [one, two, three] = ips;
    let text = format!(
        "$ORIGIN x.test.\n$TTL 1\n@ SOA ns admin 1 3600 600 86400 30\n@ NS ns\nns A 192.0.2.53\n\
         www A {one}\nwww A {two}\nwww A {three}\nlb A 127.0.0.1\n"
    );
    std::fs::write(&path, text).expect("it is written");
    let mut config = Config::new(free_port(), free_port(), vec![]);
    config.threads = Some(1);
    config.zones = vec![ZoneFile { path, origin: None }];
    let wanted =
        Wanted { order: Order::Fixed, healthy: Some(Healthy::Balancer), ..Wanted::default() };
    config.policies.insert("www.x.test".into(), wanted);
    config.balancers = balancers;
    let tasks = Tasks::new();
    let server = berth_dns::run_for(config.clone(), vec![], &tasks).await.expect("it starts");
    (config, server, tasks)
}

async fn given(server: SocketAddr) -> Vec<String> {
    let answer = over_udp(server, &query("www.x.test.", RecordType::A)).await;
    answer.answers.iter().map(|record| record.data.to_string()).collect()
}

/// How long it took until these were given.
async fn until(server: SocketAddr, wanted: &[&str], patience: Duration) -> Duration {
    let begun = Instant::now();
    loop {
        let now = given(server).await;
        if now == wanted {
            return begun.elapsed();
        }
        assert!(begun.elapsed() < patience, "{now:?} instead of {wanted:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

const SOON: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_all_balancers_that_know_it_find_down_is_not_given() {
    let (dir, helpers) = (tempfile::tempdir().expect("a directory"), Tasks::new());
    let [a, b, c] = ["192.0.2.11", "192.0.2.12", "192.0.2.13"];
    let tells = |all: &[(&'static str, Option<&'static str>)]| Does::Tells(all.to_vec());
    let one = Balancer::start(&helpers, tells(&[(a, Some("ill")), (b, Some("well"))])).await;
    let other = Balancer::start(&helpers, tells(&[])).await;
    // One of them by its name, which this server answers itself.
    let named = format!("http://lb.x.test:{}", other.address.port());
    let (config, server, tasks) = serve(dir.path(), [a, b, c], vec![one.url(), named]).await;
    let www = config.listen;
    until(www, &[b, c], SOON).await;

    let took = {
        one.order(tells(&[(a, Some("well")), (b, Some("ejected"))]));
        until(www, &[a, c], SOON).await
    };
    assert!(took < Duration::from_secs(2), "it waits for news: {took:?}");
    // The other one sends requests there, and they do not fail.
    other.order(tells(&[(b, Some("unchecked")), (c, Some("ill"))]));
    until(www, &[a, b], SOON).await;
    other.order(tells(&[(b, Some("ill")), (c, Some("ill")), (a, None)]));
    one.order(tells(&[(a, Some("ill")), (b, Some("ill"))]));
    until(www, &[a, b, c], SOON).await; // all are down, so all are given

    // Other balancers while it runs; those of before do not count any more.
    let third = Balancer::start(&helpers, tells(&[(a, Some("ill"))])).await;
    let mut changed = config.clone();
    changed.balancers = vec![third.url()];
    server.reload(changed.clone()).expect("it is right");
    until(www, &[b, c], SOON).await;
    changed.balancers = vec!["https://lb.x.test:1".into()];
    assert!(server.reload(changed).is_err());
    drop(server);
    stop(tasks).await;
    stop(helpers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_balancer_that_is_silent_or_talks_rubbish_keeps_nothing_out_for_long() {
    let (dir, helpers) = (tempfile::tempdir().expect("a directory"), Tasks::new());
    let [a, b, c] = ["192.0.2.21", "192.0.2.22", "192.0.2.23"];
    let down = |ip| Does::Tells(vec![(ip, Some("ill"))]);
    // Nothing of what it says at first can be read.
    let one = Balancer::start(&helpers, Does::Babbles(3 << 20)).await;
    let (config, server, tasks) = serve(dir.path(), [a, b, c], vec![one.url()]).await;
    let www = config.listen;
    for babble in [Does::Babbles(0), Does::Babbles(100)] {
        one.order(babble);
        assert_eq!(given(www).await, [a, b, c]);
    }
    one.order(down(a));
    until(www, &[b, c], SOON).await;
    one.order(Does::Babbles(3 << 20));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(given(www).await, [b, c], "a moment of it changes nothing");
    one.order(down(b));
    until(www, &[a, c], SOON).await;
    one.order(Does::Hangs);
    let took = until(www, &[a, b, c], Duration::from_secs(15)).await;
    assert!(took > Duration::from_secs(2), "not at once: {took:?}");
    one.order(down(c));
    until(www, &[a, b], Duration::from_secs(15)).await;
    let page = super::running::get(config.health, "/metrics").await;
    let counted = page.lines().find_map(|line| line.strip_prefix("berth_dns_addresses_down "));
    assert!(counted.is_some_and(|count| count != "0"), "{page}");
    // Nobody is there any more.
    stop(helpers).await;
    until(www, &[a, b, c], Duration::from_secs(15)).await;
    drop(server);
    stop(tasks).await;
}
