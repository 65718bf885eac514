//! Reads and creates over HTTP/2, as client-go makes them: few connections, many streams on each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls_pki_types::{IpAddr, Ipv4Addr, ServerName};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio_rustls::TlsConnector;

use super::client::Target;
use super::load::{self, Done};

const CONNECTIONS: usize = 4;
const STREAMS: usize = 16;
const MAPS: &str = "https://127.0.0.1/api/v1/namespaces/default/configmaps";

/// What is asked for.
#[derive(Clone, Copy)]
pub enum Ask {
    /// Single ConfigMaps that are there.
    Reads,
    /// New ConfigMaps; their names begin with the turn.
    Creates { turn: usize },
}

impl Ask {
    /// Request number `count` of a stream, and how it is to be answered.
    fn request(
        self,
        target: &Target,
        stream: usize,
        count: u64,
    ) -> Result<(hyper::Request<Full<Bytes>>, u16)> {
        let (request, body, wanted) = match self {
            Self::Reads => {
                let at = (stream as u64 * 31 + count) % 600;
                (hyper::Request::get(format!("{MAPS}/fill-{at}")), String::new(), 200)
            }
            Self::Creates { turn } => {
                let body = load::config_map(&format!("streamed-{turn}-{stream}-{count}"));
                (hyper::Request::post(MAPS).header("content-type", "application/json"), body, 201)
            }
        };
        let mut request = request.header("accept", "application/json");
        if let Some((name, value)) = target.credential.trim().split_once(": ") {
            request = request.header(name, value);
        }
        Ok((request.body(Full::new(Bytes::from(body)))?, wanted))
    }
}

/// Runs hyper's tasks on the one thread that the client has.
#[derive(Clone)]
struct OnThisThread;

impl<F: Future + 'static> hyper::rt::Executor<F> for OnThisThread {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(async move { drop(task.await) });
    }
}

async fn open(target: &Target) -> Result<SendRequest<Full<Bytes>>> {
    let tcp = TcpStream::connect(("127.0.0.1", target.port)).await?;
    tcp.set_nodelay(true)?;
    let mut tls = rustls::ClientConfig::clone(&target.tls);
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([127, 0, 0, 1])));
    let stream = TlsConnector::from(Arc::new(tls)).connect(name, tcp).await?;
    let (sender, connection) = handshake(OnThisThread, TokioIo::new(stream)).await?;
    tokio::task::spawn_local(async move { drop(connection.await) });
    Ok(sender)
}

/// Asks for as long as `lasts`, one request under way on each stream.
pub async fn run(target: &Target, ask: Ask, lasts: Duration) -> Result<Done> {
    let local = LocalSet::new();
    local
        .run_until(async {
            let mut running = Vec::new();
            let begun = Instant::now();
            for lane in 0..CONNECTIONS {
                let sender = open(target).await.context("opening HTTP/2")?;
                for stream in 0..STREAMS {
                    let (mut sender, target) = (sender.clone(), target.clone());
                    let stream = lane * STREAMS + stream;
                    running.push(tokio::task::spawn_local(async move {
                        let mut count = 0_u64;
                        while begun.elapsed() < lasts {
                            let (request, wanted) = ask.request(&target, stream, count)?;
                            sender.ready().await?;
                            let answer = sender.send_request(request).await?;
                            ensure!(answer.status() == wanted, "an answer: {}", answer.status());
                            let mut body = answer.into_body();
                            while let Some(frame) = body.frame().await {
                                frame?;
                            }
                            count += 1;
                        }
                        Ok(count)
                    }));
                }
            }
            let mut count = 0;
            for one in running {
                count += one.await??;
            }
            Ok(Done { count, rate: count as f64 / begun.elapsed().as_secs_f64() })
        })
        .await
}
