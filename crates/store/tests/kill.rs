//! What was acknowledged survives SIGKILL, and what survives is whole.
//!
//! The test runs itself as a child (`child_writes`), reads the writes that the child reports as
//! acknowledged, kills it at a random moment and looks at what is on disk, many times over.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use berth_store::{Embedded, Expect, Options, Revision, Store};
use bytes::Bytes;
use rand::Rng;

const DIR: &str = "BERTH_STORE_KILL_DIR";
const ROUNDS: usize = 20;
const WRITERS: usize = 8;
const KEYS: usize = 40;

/// A value that says of itself whether it is whole.
fn value(key: &str, length: usize) -> Bytes {
    let mut value = format!("{key} {length} ").into_bytes();
    let filler: Vec<u8> = (0..length).map(|i| (i * 31 + key.len()) as u8).collect();
    value.extend(filler);
    value.into()
}

fn assert_whole(key: &str, stored: &[u8]) {
    let length = stored.splitn(3, |byte| *byte == b' ').nth(1).expect("the length is there");
    let length = std::str::from_utf8(length).expect("the length is text");
    let length = length.parse().expect("the length is a number");
    assert_eq!(stored, value(key, length), "the value of {key} is not whole");
}

/// Not a test of its own: what the kill test runs as its child.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_writes() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let store = Embedded::open(Path::new(&dir), Options::default()).await.expect("it opens");
    let store = std::sync::Arc::new(store);
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let store = store.clone();
        writers.spawn(async move {
            loop {
                let (number, length, remove) = {
                    let mut random = rand::rng();
                    (random.random_range(0..KEYS), random.random_range(0..9000), random.random())
                };
                let key = format!("{writer}/{number}");
                if remove {
                    if let Ok((_, at)) = store.delete(key.as_bytes(), Expect::Anything).await {
                        println!("\nacknowledged {key} {at} removed");
                    }
                } else {
                    let put =
                        store.put(Bytes::from(key.clone()), value(&key, length), Expect::Anything);
                    let at = put.await.expect("it is written").modified;
                    println!("\nacknowledged {key} {at} written");
                }
            }
        });
    }
    writers.join_all().await;
}

struct Acknowledged {
    at: Revision,
    exists: bool,
}

/// Runs the child for a random while; what it said was acknowledged, by key.
fn run_and_kill(dir: &Path) -> HashMap<String, Acknowledged> {
    let mut child = Command::new(std::env::current_exe().expect("this program has a path"))
        .args(["--exact", "child_writes", "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the child starts");
    let output = BufReader::new(child.stdout.take().expect("it is piped"));
    let (started, has_started) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut acknowledged = HashMap::new();
        for line in output.split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            let words: Vec<&str> = line.split(' ').collect();
            let [_, key, at, what @ ("written" | "removed")] = words[..] else { continue };
            let at = Revision(at.parse().expect("the revision is a number"));
            acknowledged.insert(key.to_owned(), Acknowledged { at, exists: what == "written" });
            started.send(()).ok();
        }
        acknowledged
    });
    has_started.recv_timeout(Duration::from_secs(60)).expect("the child writes");
    std::thread::sleep(Duration::from_millis(rand::rng().random_range(0..150)));
    child.kill().expect("the child is killed");
    child.wait().expect("the child ends");
    reader.join().expect("the output is read")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_kill() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let mut last = Revision::FIRST;
    for round in 0..ROUNDS {
        let acknowledged = run_and_kill(dir.path());
        assert!(!acknowledged.is_empty());
        let store = Embedded::open(dir.path(), Options::default()).await.expect("it opens");
        let revision = store.revision().await.expect("it reads");
        let highest = acknowledged.values().map(|a| a.at).max().expect("there is one");
        assert!(revision >= highest && revision > last, "round {round}: the revision went back");
        last = revision;

        let entries = store.list(b"", None, 0, None).await.expect("it lists").entries;
        let mut on_disk = HashMap::new();
        for entry in entries {
            let key = String::from_utf8(entry.key.to_vec()).expect("keys are text");
            assert_whole(&key, &entry.value);
            assert!(entry.created <= entry.modified && entry.modified <= revision);
            on_disk.insert(key, entry.modified);
        }
        // Each writer has one write under way at most, and that one may or may not be there.
        let mut unknown = HashMap::<String, usize>::new();
        for (key, Acknowledged { at, exists }) in &acknowledged {
            match on_disk.get(key) {
                Some(found) if *exists && found == at => continue,
                None if !exists => continue,
                Some(found) => assert!(found > at, "round {round}: {key} went back to {found}"),
                None => {}
            }
            let writer = key.split('/').next().expect("keys have a writer");
            *unknown.entry(writer.to_owned()).or_default() += 1;
        }
        assert!(unknown.values().all(|lost| *lost <= 1), "round {round}: lost {unknown:?}");
    }
}
