//! TCPRoute, UDPRoute and TLSRoute of a Gateway, with real sockets through a running balancer.

use tokio::net::{TcpListener, UdpSocket};

use super::hello::hello;
use super::*;

/// Says `NAME|` and then repeats, over TCP; answers `NAME|` over UDP.
struct Echo {
    address: SocketAddr,
    tasks: Tasks,
}

impl Echo {
    async fn start(name: &'static str) -> Self {
        let address = free_port();
        let udp = UdpSocket::bind(address).await.unwrap();
        let tcp = TcpListener::bind(address).await.unwrap();
        let tasks = Tasks::new();
        let group = tasks.clone();
        tasks.spawn_until_stop("tcp", async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                group.spawn_until_stop("connection", async move {
                    let _ = stream.write_all(format!("{name}|").as_bytes()).await;
                    let mut buffer = vec![0; 4096];
                    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                        if stream.write_all(&buffer[..read]).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        tasks.spawn_until_stop("udp", async move {
            let mut buffer = [0; 64];
            while let Ok((_, peer)) = udp.recv_from(&mut buffer).await {
                let _ = udp.send_to(format!("{name}|").as_bytes(), peer).await;
            }
        });
        Self { address, tasks }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

fn arc<K: serde::de::DeserializeOwned>(value: Value) -> Arc<K> {
    Arc::new(serde_json::from_value(value).unwrap())
}

/// A Gateway with these listeners, and Services called as their servers are.
fn doors(listeners: Value, servers: &[(&str, &str, &Echo)]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for (namespace, name, server) in servers {
        let port = server.address.port();
        let ports = |number: u16| {
            json!([{"name": "tcp", "port": number},
                {"name": "udp", "port": number, "protocol": "UDP"}])
        };
        let metadata = json!({"namespace": namespace, "name": name});
        let service = json!({"metadata": metadata, "spec": {"ports": ports(53)}});
        snapshot.services.push(arc(service));
        snapshot.slices.push(arc(json!({
            "metadata": {"namespace": namespace, "name": format!("{name}-1"),
                "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "ports": ports(port),
            "endpoints": [{"addresses": ["127.0.0.1"]}]})));
    }
    let class =
        json!({"metadata": {"name": "berth"}, "spec": {"controllerName": "berth.dev/gateway"}});
    snapshot.gateway.classes = vec![arc(class)];
    snapshot.gateway.gateways = vec![arc(json!({"metadata": {"namespace": "n", "name": "door"},
        "spec": {"gatewayClassName": "berth", "listeners": listeners}}))];
    snapshot
}

fn route(name: &str, section: &str, backends: Value) -> Value {
    json!({"metadata": {"namespace": "n", "name": name}, "spec": {
        "parentRefs": [{"name": "door", "sectionName": section}],
        "rules": [{"backendRefs": backends}]}})
}

/// Sends and gives what comes back, up to `length` bytes.
async fn ask(port: u16, say: &[u8], length: usize) -> std::io::Result<Vec<u8>> {
    let talk = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(say).await?;
        let mut answer = vec![0; length];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    };
    tokio::time::timeout(SOON, talk).await.unwrap()
}

async fn ask_udp(port: u16) -> Option<String> {
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(("127.0.0.1", port)).await.unwrap();
    client.send(b"?").await.ok()?;
    let mut buffer = [0; 16];
    let answer = tokio::time::timeout(SOON, client.recv(&mut buffer)).await;
    let length = answer.ok()?.ok()?;
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_of_all_three_kinds_are_served_and_a_bad_one_hurts_no_other() {
    let (a, b, far) = (Echo::start("a").await, Echo::start("b").await, Echo::start("f").await);
    let ports = [(); 4].map(|()| free_port().port());
    let [tcp, udp, tls, shut] = ports;
    let listeners = json!([
        {"name": "tcp", "port": tcp, "protocol": "TCP"},
        {"name": "udp", "port": udp, "protocol": "UDP"},
        {"name": "tls", "port": tls, "protocol": "TLS", "tls": {"mode": "Passthrough"}},
        {"name": "shut", "port": shut, "protocol": "TCP"}]);
    let servers = [("n", "a", &a), ("n", "b", &b), ("m", "far", &far)];
    let mut snapshot = doors(listeners, &servers);
    let of = |name: &str, weight: u32| json!({"name": name, "port": 53, "weight": weight});
    let far_away = json!({"name": "far", "namespace": "m", "port": 53});
    snapshot.gateway.tcp = vec![
        arc(route("good", "tcp", json!([of("a", 3), of("b", 1)]))),
        arc(route("bad", "shut", json!([{"name": "a", "port": 53, "weight": -1}]))),
    ];
    // Not even readable: named in the log, the others go on.
    let unread = json!({"metadata": {"namespace": "n", "name": "none"}, "spec": {"rules": 7}});
    snapshot.gateway.tcp.push(arc(unread));
    snapshot.gateway.udp = vec![arc(route("u", "udp", json!([of("b", 1)])))];
    let mut named = |name: &str, host: &str, backends: Value| {
        let mut one = route(name, "tls", backends);
        one["spec"]["hostnames"] = json!([host]);
        snapshot.gateway.tls.push(arc(one));
    };
    named("s", "a.example", json!([of("a", 1)]));
    named("w", "*.b.example", json!([of("b", 1)]));
    named("far", "far.example", json!([far_away]));
    let balancer = start(config(), Some(snapshot.clone())).await;

    let mut seen = [0; 2];
    until("the port is open", async || ask(tcp, b"", 2).await.is_ok()).await;
    for _ in 0..200 {
        match ask(tcp, b"hi", 4).await.unwrap().as_slice() {
            b"a|hi" => seen[0] += 1,
            b"b|hi" => seen[1] += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!((115..=185).contains(&seen[0]), "{seen:?}");
    assert!(TcpStream::connect(("127.0.0.1", shut)).await.is_err(), "its route was refused");
    for _ in 0..20 {
        assert_eq!(ask_udp(udp).await.as_deref(), Some("b|"), "the first datagram of a flow");
    }
    for (name, expected) in [
        ("a.example", Some("a|")),
        ("x.b.example", Some("b|")),
        ("x.y.b.example", Some("b|")),
        ("c.example", None),
        ("far.example", None),
    ] {
        let say = hello(name);
        let answer = ask(tls, &say, say.len() + 2).await;
        let expected = expected.map(|pod| [pod.as_bytes(), &say].concat());
        assert_eq!(answer.ok(), expected, "{name}");
    }
    assert!(ask(tls, b"GET / HTTP/1.1\r\n\r\n", 1).await.is_err(), "that is no TLS");

    // Granted, the other namespace is reached; a route that goes takes its port with it, and the
    // connection that is open stays.
    snapshot.gateway.grants.push(arc(json!({"metadata": {"namespace": "m", "name": "g"},
        "spec": {"from": [{"group": "gateway.networking.k8s.io", "kind": "TLSRoute",
            "namespace": "n"}], "to": [{"group": "", "kind": "Service"}]}})));
    let mut open = TcpStream::connect(("127.0.0.1", tcp)).await.unwrap();
    open.read_exact(&mut [0; 2]).await.unwrap();
    snapshot.gateway.tcp.clear();
    balancer.publish(snapshot);
    let say = hello("far.example");
    until("it is granted", async || ask(tls, &say, 2).await.is_ok_and(|got| got == b"f|")).await;
    until("the port closes", async || TcpStream::connect(("127.0.0.1", tcp)).await.is_err()).await;
    open.write_all(b"x").await.unwrap();
    assert_eq!(open.read_u8().await.unwrap(), b'x');
    drop(open);
    balancer.stop().await;
}
