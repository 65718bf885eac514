//! How long a changed endpoint takes to get HTTP, for measurements: `l7_changes SERVICES`.
//!
//! So many Services of five endpoints each, with a host each, are served; one endpoint changes again
//! and again, and for each change the milliseconds are printed until a request reached it. A request
//! that fails meanwhile is an error.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_balancer::l7::{self, AccessLog, Config, Snapshot, World};
use berth_daemon::Tasks;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;
use tokio::sync::watch;

const CHANGES: usize = 30;
const ENDPOINTS: usize = 5;
const START: Duration = Duration::from_secs(60);

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let count: u32 = std::env::args().nth(1).ok_or("l7_changes SERVICES")?.parse()?;
    let ports: Vec<u16> = (0..=ENDPOINTS).map(answer).collect::<Result<_, _>>()?;
    let free = || -> std::io::Result<SocketAddr> {
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
    };
    let mut config = Config::new(free()?, free()?, free()?);
    config.access_log = AccessLog::Off;
    let http = config.http;
    let mut world = start(count, &ports[..ENDPOINTS])?;
    let (sender, worlds) = watch::channel(Some(world.clone()));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let tasks = Tasks::new();
    let serving = tasks.clone();
    let served = std::thread::spawn(move || {
        runtime.block_on(l7::serve(config, worlds, &serving)).map_err(|error| error.to_string())
    });
    let begun = Instant::now();
    while TcpStream::connect(http).is_err() {
        if begun.elapsed() > START {
            return Err("it does not listen".into());
        }
    }
    eprintln!("{count} hosts are served after {:.2} s", begun.elapsed().as_secs_f64());
    let mut client = BufReader::new(TcpStream::connect(http)?);
    for change in 1..=CHANGES {
        // Four that stay, and one of two.
        let new = ENDPOINTS - 1 + change % 2;
        let slice = own_slice(ENDPOINTS - 1, ports[new])?;
        let begun = Instant::now();
        world.put_slice(slice);
        sender.send_replace(Some(world.clone()));
        while ask(&mut client)? != new {
            if begun.elapsed() > START {
                return Err("the change is not in the data path".into());
            }
        }
        println!("{:.3}", begun.elapsed().as_secs_f64() * 1000.0);
    }
    tasks.cancel();
    drop(client);
    served.join().map_err(|_| "the server panicked")??;
    Ok(())
}

/// So many Services, the first with its endpoints at these ports.
fn start(count: u32, ports: &[u16]) -> Result<World, Failure> {
    let mut world = Snapshot::default();
    for number in 0..count {
        let name = format!("s{number}");
        let backend = json!({"service": {"name": name, "port": {"number": 80}}});
        let path = json!({"path": "/", "pathType": "Prefix", "backend": backend});
        let object = json!({"metadata": {"namespace": "n", "name": name},
            "spec": {"ingressClassName": "berth",
                "rules": [{"host": format!("{name}.example"), "http": {"paths": [path]}}]}});
        world.ingresses.push(Arc::new(serde_json::from_value(object)?));
        let object = json!({"metadata": {"namespace": "n", "name": name},
            "spec": {"ports": [{"port": 80}]}});
        world.services.push(Arc::new(serde_json::from_value(object)?));
        if number > 0 {
            let [_, a, b, c] = (number * 8).to_be_bytes();
            let pods = (0..ENDPOINTS as u8).map(|k| format!("10.{}.{b}.{}", 100 + a, c + k));
            world.slices.push(slice(number, 0, 8080, pods.collect())?);
        }
    }
    for (index, port) in ports.iter().enumerate() {
        world.slices.push(own_slice(index, *port)?);
    }
    Ok(World::from(&world))
}

/// One endpoint of the first Service.
fn own_slice(index: usize, port: u16) -> Result<Arc<EndpointSlice>, Failure> {
    slice(0, index, port, vec![Ipv4Addr::LOCALHOST.to_string()])
}

fn slice(
    number: u32,
    index: usize,
    port: u16,
    pods: Vec<String>,
) -> Result<Arc<EndpointSlice>, Failure> {
    let endpoints: Vec<_> = pods.into_iter().map(|pod| json!({"addresses": [pod]})).collect();
    Ok(Arc::new(serde_json::from_value(json!({
        "metadata": {"namespace": "n", "name": format!("s{number}-{index}"),
            "labels": {"kubernetes.io/service-name": format!("s{number}")}},
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"port": port, "protocol": "TCP"}]}))?))
}

/// A pod that answers with its number.
fn answer(number: usize) -> std::io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || -> std::io::Result<()> {
                let mut stream = BufReader::new(stream);
                let mut line = String::new();
                while stream.read_line(&mut line)? > 0 {
                    if line == "\r\n" {
                        let text = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{number}");
                        stream.get_mut().write_all(text.as_bytes())?;
                    }
                    line.clear();
                }
                Ok(())
            });
        }
    });
    Ok(port)
}

/// Who answered.
fn ask(client: &mut BufReader<TcpStream>) -> Result<usize, Failure> {
    client.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: s0.example\r\n\r\n")?;
    let (mut line, mut first) = (String::new(), true);
    while line != "\r\n" {
        line.clear();
        client.read_line(&mut line)?;
        if first && !line.starts_with("HTTP/1.1 200 ") {
            return Err(format!("a request failed: {line}").into());
        }
        first = false;
    }
    let mut digit = [0];
    client.read_exact(&mut digit)?;
    Ok(usize::from(digit[0] - b'0'))
}
