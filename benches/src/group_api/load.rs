//! Requests: as many as go, objects to fill a cluster, and a cluster's mix at a pace.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::task::LocalSet;

use super::client::{Connection, Target};
use super::side::Side;
use super::streams::{self, Ask};

const CONNECTIONS: usize = 64;
const NODES: usize = 1_000;
const PODS: usize = 25_000;
const CONFIG_MAPS: usize = 15_000;
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";
const PACED: Duration = Duration::from_secs(6);

/// What is asked as fast as it goes.
#[derive(Clone, Copy, PartialEq)]
pub enum Round {
    Creates,
    /// Over HTTP/2.
    StreamedCreates,
    Reads,
    /// Over HTTP/2.
    StreamedReads,
    Lists,
}

impl Round {
    pub fn name(self) -> &'static str {
        match self {
            Self::Creates => "creates",
            Self::StreamedCreates => "http2-creates",
            Self::Reads => "reads",
            Self::StreamedReads => "http2-reads",
            Self::Lists => "lists-of-500",
        }
    }
}

/// What a round gave.
pub struct Done {
    pub count: u64,
    pub rate: f64,
}

/// A ConfigMap of 1 KiB.
pub fn config_map(name: &str) -> String {
    let filler = "x".repeat(900);
    format!(
        "{{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{{\"name\":\"{name}\"}},\
         \"data\":{{\"filler\":\"{filler}\"}}}}"
    )
}

fn node(name: &str) -> String {
    format!(
        "{{\"apiVersion\":\"v1\",\"kind\":\"Node\",\"metadata\":{{\"name\":\"{name}\",\"labels\":\
         {{\"kubernetes.io/hostname\":\"{name}\"}}}},\"status\":{{\"capacity\":{{\"cpu\":\"64\",\
         \"memory\":\"256Gi\",\"pods\":\"110\"}}}}}}"
    )
}

fn lease(name: &str) -> String {
    format!(
        "{{\"apiVersion\":\"coordination.k8s.io/v1\",\"kind\":\"Lease\",\"metadata\":{{\"name\":\
         \"{name}\",\"namespace\":\"kube-node-lease\"}},\"spec\":{{\"holderIdentity\":\"{name}\",\
         \"leaseDurationSeconds\":40}}}}"
    )
}

/// A pod of some 3 KiB, on one of the nodes.
fn pod(at: usize) -> String {
    let variables: Vec<String> = (0..30)
        .map(|one| format!("{{\"name\":\"SETTING_{one}\",\"value\":\"{}\"}}", "v".repeat(60)))
        .collect();
    format!(
        "{{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{{\"name\":\"pod-{at}\",\"labels\":\
         {{\"app\":\"app-{}\"}}}},\"spec\":{{\"nodeName\":\"node-{}\",\
         \"automountServiceAccountToken\":false,\"containers\":[{{\"name\":\"main\",\"image\":\
         \"example.org/app:1\",\"env\":[{}],\"resources\":{{\"requests\":{{\"cpu\":\"100m\",\
         \"memory\":\"128Mi\"}}}}}}]}}}}",
        at % 500,
        at % NODES,
        variables.join(",")
    )
}

/// What must be there first.
pub async fn prepare(side: &Side) -> Result<()> {
    let mut connection = Connection::open(&side.target).await?;
    let account = "{\"apiVersion\":\"v1\",\"kind\":\"ServiceAccount\",\"metadata\":{\"name\":\
                   \"default\"}}";
    let path = "/api/v1/namespaces/default/serviceaccounts";
    let status = connection.ask(&side.target.request("POST", path, JSON, account)).await?;
    ensure!(matches!(status, 201 | 409), "a service account: {status}");
    let leases = "{\"apiVersion\":\"v1\",\"kind\":\"Namespace\",\"metadata\":{\"name\":\
                  \"kube-node-lease\"}}";
    let status =
        connection.ask(&side.target.request("POST", "/api/v1/namespaces", JSON, leases)).await?;
    ensure!(matches!(status, 201 | 409), "a namespace: {status}");
    Ok(())
}

/// A round over 64 connections; each has one request under way.
pub async fn run(side: &Side, round: Round, turn: usize, lasts: Duration) -> Result<Done> {
    let ask = match round {
        Round::StreamedReads => Some(Ask::Reads),
        Round::StreamedCreates => Some(Ask::Creates { turn }),
        _ => None,
    };
    if let Some(ask) = ask {
        return streams::run(&side.target, ask, lasts).await;
    }
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(Connection::open(&side.target).await?);
    }
    let begun = Instant::now();
    let local = LocalSet::new();
    let mut running = Vec::new();
    for (lane, mut connection) in connections.into_iter().enumerate() {
        let target = side.target.clone();
        running.push(local.spawn_local(async move {
            let mut count = 0_u64;
            while begun.elapsed() < lasts {
                let request = match round {
                    Round::Creates | Round::StreamedCreates => {
                        let body = config_map(&format!("made-{turn}-{lane}-{count}"));
                        target.request("POST", MAPS, JSON, &body)
                    }
                    Round::Reads | Round::StreamedReads => {
                        let at = (lane as u64 * 31 + count) % 600;
                        target.request("GET", &format!("{MAPS}/fill-{at}"), "", "")
                    }
                    Round::Lists => target.request("GET", &format!("{MAPS}?limit=500"), "", ""),
                };
                let status = connection.ask_status(&request).await?;
                ensure!(matches!(status, 200 | 201), "{}: {status}", round.name());
                count += 1;
            }
            Ok(count)
        }));
    }
    let mut count = 0;
    local
        .run_until(async {
            for one in running {
                count += one.await??;
            }
            anyhow::Ok(())
        })
        .await?;
    Ok(Done { count, rate: count as f64 / begun.elapsed().as_secs_f64() })
}

/// Nodes, their leases, pods and ConfigMaps.
pub async fn populate(side: &Side) -> Result<Duration> {
    let mut work = Vec::new();
    for at in 0..NODES {
        let name = format!("node-{at}");
        work.push(("/api/v1/nodes".to_owned(), node(&name)));
        let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
        work.push((leases.to_owned(), lease(&name)));
    }
    work.extend((0..PODS).map(|at| ("/api/v1/namespaces/default/pods".to_owned(), pod(at))));
    work.extend((0..CONFIG_MAPS).map(|at| (MAPS.to_owned(), config_map(&format!("fill-{at}")))));
    work.reverse();
    let begun = Instant::now();
    let (work, local) = (Rc::new(RefCell::new(work)), LocalSet::new());
    let mut running = Vec::new();
    for _ in 0..CONNECTIONS {
        let (work, target) = (work.clone(), side.target.clone());
        running.push(local.spawn_local(async move {
            let mut connection = Connection::open(&target).await?;
            loop {
                let Some((path, body)) = work.borrow_mut().pop() else { return Ok(()) };
                let status = connection.ask(&target.request("POST", &path, JSON, &body)).await?;
                let said = String::from_utf8_lossy(&connection.body);
                ensure!(status == 201, "filling {path}: {status} {said}");
            }
        }));
    }
    local
        .run_until(async {
            for one in running {
                one.await??;
            }
            anyhow::Ok(())
        })
        .await?;
    Ok(begun.elapsed())
}

/// What a cluster of 1,000 nodes asks, in a thousand requests.
pub struct Mix {
    target: Target,
}

/// What was seen at a pace.
pub struct Seen {
    pub rate: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub failed: u64,
    pub took: Duration,
}

impl Mix {
    pub fn new(target: &Target) -> Self {
        Self { target: target.clone() }
    }

    /// Request number `at`: of a hundred, 45 pod gets, 20 ConfigMap gets, 12 pod status patches,
    /// 10 lease renewals, 6 event creates, 4 node status patches, 3 lists of a node's pods.
    fn request(&self, at: u64, run: u32) -> Vec<u8> {
        let (node, pod) = (at * 7919 % NODES as u64, at * 7919 % PODS as u64);
        let target = &self.target;
        let pods = "/api/v1/namespaces/default/pods";
        match at * 37 % 100 {
            0..45 => target.request("GET", &format!("{pods}/pod-{pod}"), "", ""),
            45..65 => target.request("GET", &format!("{MAPS}/fill-{}", pod % 15_000), "", ""),
            65..77 => {
                let body = format!("{{\"status\":{{\"phase\":\"Running\",\"message\":\"{at}\"}}}}");
                target.request("PATCH", &format!("{pods}/pod-{pod}/status"), MERGE, &body)
            }
            77..87 => {
                let path = format!(
                    "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/node-{node}"
                );
                let body = format!("{{\"spec\":{{\"leaseTransitions\":{at}}}}}");
                target.request("PATCH", &path, MERGE, &body)
            }
            87..93 => {
                let body = format!(
                    "{{\"apiVersion\":\"v1\",\"kind\":\"Event\",\"metadata\":{{\"name\":\
                     \"e-{run}-{at}\"}},\"involvedObject\":{{\"kind\":\"Pod\",\"namespace\":\
                     \"default\",\"name\":\"pod-{pod}\"}},\"reason\":\"Pulled\",\"type\":\
                     \"Normal\",\"message\":\"the image was there\"}}"
                );
                target.request("POST", "/api/v1/namespaces/default/events", JSON, &body)
            }
            93..97 => {
                let body = format!("{{\"metadata\":{{\"annotations\":{{\"beat\":\"{at}\"}}}}}}");
                target.request("PATCH", &format!("/api/v1/nodes/node-{node}/status"), MERGE, &body)
            }
            _ => {
                let path = format!(
                    "/api/v1/pods?resourceVersion=0&fieldSelector=spec.nodeName%3Dnode-{node}"
                );
                target.request("GET", &path, "", "")
            }
        }
    }
}

/// The mix at a rate. A request is late from when it was due, not from when it could be sent.
pub async fn paced(side: &Side, mix: &Mix, rate: u32) -> Result<Seen> {
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(Connection::open(&side.target).await?);
    }
    let total = u64::from(rate) * PACED.as_secs();
    let next = Rc::new(Cell::new(0_u64));
    let late = Rc::new(RefCell::new(Vec::new()));
    let failed = Rc::new(Cell::new(0_u64));
    let begun = Instant::now();
    let local = LocalSet::new();
    local
        .run_until(async {
            let mut running = Vec::new();
            for mut connection in connections {
                let (next, late, failed) = (next.clone(), late.clone(), failed.clone());
                running.push(async move {
                    loop {
                        let at = next.get();
                        // What was not begun in twice the time is not held anyway.
                        if at == total || begun.elapsed() > PACED * 2 {
                            return anyhow::Ok(());
                        }
                        next.set(at + 1);
                        let due = begun + Duration::from_secs(1) * at as u32 / rate;
                        tokio::time::sleep_until(due.into()).await;
                        let status = connection.ask_status(&mix.request(at, rate)).await?;
                        late.borrow_mut().push(due.elapsed());
                        if !matches!(status, 200 | 201) {
                            failed.set(failed.get() + 1);
                        }
                    }
                });
            }
            futures::future::try_join_all(running).await
        })
        .await?;
    let took = begun.elapsed();
    let mut late = late.take();
    late.sort();
    let at = |part: usize| {
        late.get(late.len() * part / 100).map_or(f64::NAN, |late| late.as_secs_f64() * 1e3)
    };
    let rate = late.len() as f64 / took.as_secs_f64();
    Ok(Seen { rate, p50_ms: at(50), p99_ms: at(99), failed: failed.get(), took })
}
