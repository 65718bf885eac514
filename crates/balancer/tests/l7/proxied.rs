//! Clients behind a proxy that says who they are by the PROXY protocol.

use super::*;

use berth_balancer::proxy_protocol::{Ends, Version, write};

/// What a proxy says before a connection from `client`.
fn said(version: Version, client: &str) -> Vec<u8> {
    write(version, Ends { from: client.parse().unwrap(), to: "192.0.2.1:443".parse().unwrap() })
}

/// A proxy that says `first` before each connection to `to`.
async fn proxy(to: SocketAddr, first: Vec<u8>, tasks: &Tasks) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, group) = (listener.local_addr().unwrap(), tasks.clone());
    tasks.spawn_until_stop("proxy", async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let first = first.clone();
            group.spawn_until_stop("proxied", async move {
                let mut server = TcpStream::connect(to).await.unwrap();
                server.set_nodelay(true).unwrap();
                // Not all of it at once.
                for piece in first.chunks(13) {
                    let _ = server.write_all(piece).await;
                    tokio::task::yield_now().await;
                }
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    address
}

/// A configuration that believes proxies on this machine.
fn behind_proxies() -> Config {
    let mut config = config();
    config.proxy_protocol_from = vec!["127.0.0.0/8".parse().unwrap()];
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_learn_of_the_client_that_the_proxy_names() {
    let (pod, tasks) = (Pod::start("one").await, Tasks::new());
    let balancer = start(behind_proxies(), Some(snapshot(&[&pod], json!({})))).await;
    for (version, client, shown) in [
        (Version::One, "203.0.113.7:5000", "203.0.113.7"),
        (Version::Two, "203.0.113.8:5000", "203.0.113.8"),
        (Version::One, "[2001:db8::9]:5000", "2001:db8::9"),
    ] {
        let address = proxy(balancer.config.http, said(version, client), &tasks).await;
        let mut through = Client::new(address);
        // A plain one, one that Pingora carries, and one that lies.
        for (method, headers, body) in [
            ("GET", &[][..], ""),
            ("GET", &[("X-Forwarded-For", "6.6.6.6")][..], ""),
            ("POST", &[][..], "body"),
        ] {
            let answer =
                through.request(method, "web.example", "/echo", headers, body).await.unwrap();
            let expected = format!("x-forwarded-for: {shown}\n");
            assert!(answer.body.contains(&expected), "{method} {shown} in {}", answer.body);
        }
        assert_eq!(through.connections, 1, "the header comes once a connection");
        let url = format!("http://{address}/echo");
        let text = curl(&["--http2-prior-knowledge", "-H", "Host: web.example", &url]).await;
        assert!(text.contains(&format!("x-forwarded-for: {shown}\n")), "{text}");
    }
    // For itself: a check of its own.
    for first in [&b"PROXY UNKNOWN\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"] {
        let address = proxy(balancer.config.http, first.to_vec(), &tasks).await;
        let answer = Client::new(address).get("web.example", "/echo").await.unwrap();
        assert!(answer.body.contains("x-forwarded-for: 127.0.0.1\n"), "{}", answer.body);
    }
    tasks.stop(SOON).await;
    balancer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_header_comes_before_tls() {
    let (pod, tasks) = (Pod::start("one").await, Tasks::new());
    let balancer = start(behind_proxies(), Some(snapshot(&[&pod], json!({})))).await;
    for (version, spoken) in [(Version::One, "--http1.1"), (Version::Two, "--http2")] {
        let first = said(version, "203.0.113.7:5000");
        let port = proxy(balancer.config.https, first, &tasks).await.port();
        let resolve = format!("tls.example:{port}:127.0.0.1");
        let url = format!("https://tls.example:{port}/echo");
        let text = curl(&[spoken, "--insecure", "--resolve", &resolve, &url]).await;
        assert!(text.contains("x-forwarded-for: 203.0.113.7\n"), "{text}");
        assert!(text.contains("x-forwarded-proto: https\n"), "{text}");
    }
    tasks.stop(SOON).await;
    balancer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_behind_one_proxy_are_told_apart() {
    let (one, two, tasks) = (Pod::start("one").await, Pod::start("two").await, Tasks::new());
    let mut config = behind_proxies();
    config.max_connections_each = 1;
    let mut routes = snapshot(&[&one, &two], json!({}));
    let ingress = Arc::make_mut(&mut routes.ingresses[0]);
    let hash = [("berth.dev/pick", "hash"), ("berth.dev/hash-on", "client-address")];
    let hash = hash.map(|(key, value)| (key.to_owned(), value.to_owned()));
    ingress.metadata.annotations = Some(hash.into());
    let balancer = start(config, Some(routes)).await;
    let mut asked = std::collections::BTreeSet::new();
    for last in 1..=24 {
        let first = said(Version::Two, &format!("203.0.113.{last}:5000"));
        let address = proxy(balancer.config.http, first, &tasks).await;
        let mut client = Client::new(address);
        let pod = client.get("web.example", "/").await.unwrap().body;
        for _ in 0..4 {
            assert_eq!(client.get("web.example", "/").await.unwrap().body, pod, "{last}");
        }
        // The same client's second connection is one too many, and no other client's.
        assert!(Client::new(address).get("web.example", "/").await.is_err(), "{last}");
        asked.insert(pod);
    }
    assert_eq!(asked.len(), 2, "a hash of the clients spreads them: {asked:?}");
    tasks.stop(SOON).await;
    balancer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_are_none_or_late_are_refused() {
    let pod = Pod::start("one").await;
    let mut config = behind_proxies();
    config.header_timeout = Duration::from_millis(300);
    let balancer = start(config, Some(snapshot(&[&pod], json!({})))).await;
    let get = b"GET / HTTP/1.1\r\nHost: web.example\r\n\r\n";
    let long = [b"PROXY ".as_slice(), &[b'x'; 200], b"\r\n"].concat();
    for first in [
        &b""[..],
        b"PROXY TCP4 nonsense\r\n",
        b"PROXY TCP4 203.0.113.7 192.0.2.1 5000 443\n",
        &long,
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
        // Never ends.
        b"PROXY TCP4 203.0.113.7",
    ] {
        for door in [balancer.config.http, balancer.config.https] {
            let mut stream = TcpStream::connect(door).await.unwrap();
            let mut bytes = first.to_vec();
            if !first.starts_with(b"PROXY TCP4 203.0.113.7") || first.ends_with(b"\n") {
                bytes.extend_from_slice(get);
            }
            let _ = stream.write_all(&bytes).await;
            let mut answer = Vec::new();
            let reading = stream.read_to_end(&mut answer);
            let ended = tokio::time::timeout(SOON, reading).await;
            assert!(ended.is_ok(), "it is closed: {first:?}");
            assert_eq!(answer, b"", "{first:?}");
        }
    }
    assert_eq!(pod.seen.lock().unwrap().len(), 0);
    balancer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_anybody_else_a_header_is_no_request() {
    let pod = Pod::start("one").await;
    let mut config = behind_proxies();
    config.proxy_protocol_from = vec!["192.0.2.0/24".parse().unwrap()];
    let balancer = start(config, Some(snapshot(&[&pod], json!({})))).await;
    let answer = Client::new(balancer.config.http).get("web.example", "/echo").await.unwrap();
    assert!(answer.body.contains("x-forwarded-for: 127.0.0.1\n"), "{}", answer.body);
    let request = b"GET / HTTP/1.1\r\nHost: web.example\r\n\r\n";
    for version in [Version::One, Version::Two] {
        let mut stream = TcpStream::connect(balancer.config.http).await.unwrap();
        let bytes = [said(version, "203.0.113.7:1"), request.to_vec()].concat();
        stream.write_all(&bytes).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 400", "{version:?}");
    }
    assert_eq!(pod.seen.lock().unwrap().len(), 1);
    balancer.stop().await;
}
