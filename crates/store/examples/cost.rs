//! What the embedded store costs: fills a directory with a cluster's worth of objects, then opens it
//! and says how long that took and how much memory it holds beside the bytes themselves.
//!
//! ```text
//! cargo run --release -p berth-store --example cost -- fill DIR
//! cargo run --release -p berth-store --example cost -- open DIR
//! cargo run --release -p berth-store --example cost -- write DIR   (64 writers for 5 s)
//! ```

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_store::{Embedded, Expect, Options, Store};
use bytes::Bytes;
use rand::RngCore;

/// Prefix, how many, bytes of a value.
const OBJECTS: [(&str, usize, usize); 3] = [
    ("/core/nodes/node", 1_000, 4096),
    ("/core/pods/namespace-of-some-length/pod-of-a-deployment", 25_000, 3072),
    ("/core/configmaps/namespace-of-some-length/configuration", 15_000, 1024),
];
const WRITERS: usize = 64;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let verb = words.next().unwrap_or_default();
    let dir = PathBuf::from(words.next().ok_or("fill, open or write, and a directory")?);
    let start = Instant::now();
    let store = Arc::new(Embedded::open(&dir, Options::default()).await?);
    let opened = start.elapsed();
    match verb.as_str() {
        "fill" => fill(store).await?,
        "write" => write(store).await?,
        _ => {
            let page = store.list(b"", None, 0, None).await?;
            let bytes: usize = page.entries.iter().map(|e| e.key.len() + e.value.len()).sum();
            drop(page);
            println!(
                "opened in {} ms; {} MiB of keys and values; resident {} MiB",
                opened.as_millis(),
                bytes >> 20,
                resident("VmRSS:")? >> 10
            );
            println!("most that was resident: {} MiB", resident("VmHWM:")? >> 10);
        }
    }
    Ok(())
}

async fn fill(store: Arc<Embedded>) -> Result<(), Box<dyn std::error::Error>> {
    let mut writes = tokio::task::JoinSet::new();
    for (prefix, count, bytes) in OBJECTS {
        for number in 0..count {
            let mut value = vec![0; bytes];
            rand::rng().fill_bytes(&mut value);
            let key = Bytes::from(format!("{prefix}-{number:06}"));
            let store = store.clone();
            writes.spawn(async move { store.put(key, value.into(), Expect::Anything).await });
            if writes.len() >= 512 {
                writes.join_next().await.ok_or("there is one")???;
            }
        }
    }
    while let Some(written) = writes.join_next().await {
        written??;
    }
    println!("at revision {}", store.revision().await?);
    Ok(())
}

async fn write(store: Arc<Embedded>) -> Result<(), Box<dyn std::error::Error>> {
    let mut writers = tokio::task::JoinSet::new();
    let (start, end) = (Instant::now(), Duration::from_secs(5));
    for writer in 0..WRITERS {
        let store = store.clone();
        writers.spawn(async move {
            let mut count = 0u64;
            while start.elapsed() < end {
                let key = Bytes::from(format!("/written/{writer}/{count}"));
                let put = store.put(key, Bytes::from(vec![7; 1024]), Expect::Absent);
                if put.await.is_err() {
                    break;
                }
                count += 1;
            }
            count
        });
    }
    let count: u64 = writers.join_all().await.iter().sum();
    println!("{:.0} writes/s of 1 KiB", count as f64 / start.elapsed().as_secs_f64());
    Ok(())
}

/// KiB, from /proc.
fn resident(field: &str) -> Result<usize, Box<dyn std::error::Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).ok_or("no such field")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
