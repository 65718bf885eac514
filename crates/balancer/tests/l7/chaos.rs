//! The world falls apart, and what still can be answered is.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_flap_a_hundred_times_a_second_lose_no_request() {
    let pods = [Pod::start("a").await, Pod::start("b").await, Pod::start("c").await];
    let dead = Pod::start("dead").await;
    let dead = {
        // Nobody listens there any more.
        let address = dead.address;
        dead.stop().await;
        address
    };
    let with = |which: &[SocketAddr]| {
        let mut routes = snapshot(&[], json!({}));
        let slices = which.iter().map(|address| {
            json!({"metadata": {"namespace": "n", "name": format!("web-{}", address.port()),
                    "labels": {"kubernetes.io/service-name": "web"}},
                "addressType": "IPv4", "ports": [{"name": "http", "port": address.port()}],
                "endpoints": [{"addresses": [address.ip().to_string()]}]})
        });
        routes.slices = slices.map(|s| Arc::new(serde_json::from_value(s).unwrap())).collect();
        routes
    };
    let [a, b, c] = [0, 1, 2].map(|at: usize| pods[at].address);
    let sets = [vec![a, dead], vec![b, c], vec![dead, c], vec![a], vec![c, b, a]];
    let balancer = start(config(), Some(with(&sets[0]))).await;
    let load = Load::start(balancer.config.http, BOTH, true);
    let begun = Instant::now();
    for round in 0..200 {
        balancer.publish(with(&sets[round % sets.len()]));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    eprintln!("200 changes in {:?}", begun.elapsed());
    load.more(50).await;
    assert_eq!(load.failures().await, [""; 0]);

    // All dead: said so at once, and the first that lives is used.
    balancer.publish(with(&[dead]));
    let http = balancer.config.http;
    let ask = async || Client::new(http).get("web.example", "/").await.unwrap().status;
    until("it is known", async || ask().await == 502).await;
    let begun = Instant::now();
    assert_eq!(ask().await, 502);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    balancer.publish(with(&[]));
    until("none is left", async || ask().await == 503).await;
    balancer.publish(with(&[dead, a]));
    until("one is back", async || ask().await == 200).await;
    for _ in 0..20 {
        assert_eq!(ask().await, 200);
    }
    balancer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_balancer_leaves_its_ports_to_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let pod = Pod::start("one").await;
    let routes = dir.path().join("routes.json");
    let (program, http) = alone(&pod, &routes).await;
    let process = || {
        let words = [http.to_string(), routes.display().to_string()];
        Command::new(&program).args(words).kill_on_drop(true).spawn().unwrap()
    };
    let answers = async || {
        let answer = Client::new(http).get("web.example", "/").await;
        answer.is_ok_and(|answer| answer.status == 200)
    };
    let mut last = process();
    for _ in 0..3 {
        until("it answers", answers).await;
        let mut open = Vec::new();
        for _ in 0..20 {
            let mut client = Client::new(http);
            client.get("web.example", "/").await.unwrap();
            open.push(client);
        }
        last.kill().await.unwrap();
        last = process();
    }
    until("the last one answers", answers).await;
    last.kill().await.unwrap();
}
