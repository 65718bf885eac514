//! What large requests cost in memory, measured on the process itself; so this is a process of its
//! own, and its one test runs alone.

#![allow(clippy::unwrap_used, clippy::panic)] // clippy.toml lets only test functions, not what they call

#[path = "api/raw.rs"]
mod raw;
#[path = "api/server.rs"]
#[expect(dead_code, reason = "shared with tests that use more of it")]
mod server;

use std::fmt::Write;
use std::time::{Duration, Instant};

use serde_json::json;

use server::{CONFIG_MAPS, PODS, Server, config_map};

/// As the binary has it: what is freed is given back at other times with another allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const MIB: u64 = 1 << 20;

/// Resident memory now, or the most of it since [`forget_peak`].
fn resident(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|one| one.strip_prefix(line)).unwrap();
    line.trim_matches([':', ' ', '\t']).trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn forget_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

/// Two megabytes of the smallest fields there are: the most that a body of this length can become.
fn many_fields(name: &str, bytes: usize) -> String {
    let mut body = format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}},"data":{{"k":"""#
    );
    let mut at = 0;
    while body.len() < bytes - 2 {
        let _ = write!(body, r#","{at:x}":"""#);
        at += 1;
    }
    body + "}}"
}

fn apply(name: &str, body: &str) -> Vec<u8> {
    format!(
        "PATCH {CONFIG_MAPS}/{name}?fieldManager=m HTTP/1.1\r\nHost: x\r\n\
         Content-Type: application/apply-patch+yaml\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn create_pod(body: &str) -> Vec<u8> {
    format!(
        "POST {PODS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Bytes of each body: the unoptimised server takes ten times as long for each.
const LENGTH: usize = if cfg!(debug_assertions) { 250_000 } else { 2_000_000 };
const CLIENTS: usize = if cfg!(debug_assertions) { 16 } else { 64 };
/// What all of this may take: 6 MiB of bodies that are worked on, 64 MiB that wait, what is stored
/// (each some two and a half times its length), and what the clients here hold: each body twice.
const BOUND: u64 = 1200 * MIB;
/// For one body, as a multiple of its length.
const ONE: u64 = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_requests_stay_below_a_bound() {
    let server = Server::start().await;
    let measured = async |what: &str, request: Vec<u8>, codes: &[u16]| {
        let before = resident("VmRSS");
        forget_peak();
        let started = Instant::now();
        let (code, status) = raw::raw(&server, &request).await;
        let more = resident("VmHWM").saturating_sub(before);
        let factor = more / request.len() as u64;
        eprintln!("{what}: {code} in {:?}, {} MiB, {factor} ×", started.elapsed(), more / MIB);
        let shown = status.to_string();
        assert!(codes.contains(&code), "{what}: {code} {}", &shown[..shown.len().min(500)]);
        assert!(shown.len() < 16 * LENGTH, "{what}: an answer of {} bytes", shown.len());
        factor
    };
    // Schemas and the like are read when they are first asked for, and stay.
    let small = many_fields("small", 1000);
    measured("a small one", apply("small", &small), &[201]).await;
    let body = many_fields("one", LENGTH);
    assert!(measured("an apply", apply("one", &body), &[201]).await < ONE);
    assert!(measured("another", apply("one", &body), &[200]).await < ONE);
    let empty = "{},".repeat(LENGTH / 3);
    let pod = format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"many"}},"spec":{{"containers":[{}]}}}}"#,
        empty.trim_end_matches(',')
    );
    // Fewer of them are read, and each is told wrong.
    let codes: &[u16] = if LENGTH > 500_000 { &[400] } else { &[422] };
    assert!(measured("empty containers", create_pod(&pod), codes).await < 4 * ONE);

    let before = resident("VmRSS");
    forget_peak();
    let started = Instant::now();
    let server = &server;
    let all = futures::future::join_all((0..CLIENTS).map(|at| async move {
        let name = format!("many-{at}");
        let body = many_fields(&name, LENGTH);
        raw::raw_within(server, &apply(&name, &body), Duration::from_secs(120)).await.0
    }));
    let others = async {
        let mut longest = Duration::ZERO;
        for at in 0..20 {
            let started = Instant::now();
            server
                .create(CONFIG_MAPS, &config_map(&format!("small-{at}"), json!({})))
                .await
                .unwrap();
            longest = longest.max(started.elapsed());
        }
        longest
    };
    let (codes, longest) = tokio::join!(all, others);
    let more = resident("VmHWM").saturating_sub(before);
    let done = codes.iter().filter(|code| **code == 201).count();
    eprintln!(
        "{CLIENTS} at once: {done} done in {:?}, {} MiB more at most; others waited {longest:?}",
        started.elapsed(),
        more / MIB
    );
    assert!(codes.iter().all(|code| matches!(code, 201 | 429)), "{codes:?}");
    assert!(done > 0, "{codes:?}");
    assert!(more < BOUND, "{} MiB", more / MIB);
    assert!(longest < Duration::from_secs(5), "{longest:?}");
}
