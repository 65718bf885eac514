//! What only a store in an etcd meets: TLS, outages, compaction by others, a full server.

#[path = "battery/server.rs"]
mod server;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use berth_store::etcd::Target;
use berth_store::{
    Entry, Etcd, Expect, OpenError, Options, ReadError, Revision, Store, Watch, WatchEvent,
    WriteError,
};
use bytes::Bytes;
use server::Server;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const PATIENCE: Duration = Duration::from_secs(30);

async fn open(url: &str) -> Etcd {
    let target: Target = url.parse().expect("it is a URL");
    Etcd::open(&target, &Options::default()).await.expect("it opens")
}

async fn put(store: &Etcd, key: &str, value: &str) -> Revision {
    let (key, value) = (Bytes::from(key.to_owned()), Bytes::from(value.to_owned()));
    store.put(key, value, Expect::Anything).await.expect("it is written").modified
}

fn start(arguments: &[&str]) -> Option<Server> {
    tokio::task::block_in_place(|| Server::start(arguments))
}

/// Reads until `last`; the revisions seen. None when the watch ended.
async fn seen_until(watch: &mut Watch, last: Revision) -> Option<Vec<u64>> {
    let mut seen = Vec::new();
    while seen.last().is_none_or(|seen| *seen < last.0) {
        let next = tokio::time::timeout(PATIENCE, watch.next()).await.expect("something comes");
        if let WatchEvent::Changes(changes) = next? {
            seen.extend(changes.iter().map(|change| change.revision().0));
        }
    }
    Some(seen)
}

/// Where nobody listens.
fn nobodys() -> SocketAddr {
    let [port] = berth_tests::free_ports().expect("a port is free");
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A way to a server that can be cut.
struct Wire {
    address: SocketAddr,
    to: String,
    open: Option<JoinSet<()>>,
}

impl Wire {
    async fn to(server: &Server) -> Wire {
        let address = nobodys();
        let listener = TcpListener::bind(address).await.expect("it is free");
        let mut wire = Wire { address, to: server.endpoint(), open: None };
        wire.serve(listener);
        wire
    }

    fn serve(&mut self, listener: TcpListener) {
        let to = self.to.clone();
        let mut open = JoinSet::new();
        open.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let to = to.clone();
                connections.spawn(async move {
                    if let Ok(mut far) = TcpStream::connect(to).await {
                        tokio::io::copy_bidirectional(&mut near, &mut far).await.ok();
                    }
                });
            }
        });
        self.open = Some(open);
    }

    async fn cut(&mut self) {
        if let Some(mut open) = self.open.take() {
            open.shutdown().await;
        }
    }

    async fn mend(&mut self) {
        let listener = TcpListener::bind(self.address).await.expect("the port is still ours");
        self.serve(listener);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reopened_store_shows_what_was_written_and_nothing_beside_its_prefix() {
    let Some(server) = start(&[]) else { return };
    let other = open(&format!("{}?prefix=/other", server.url())).await;
    put(&other, "pods/x", "theirs").await;
    let store = open(&server.url()).await;
    let value = "v".repeat(700);
    for number in 0..450 {
        put(&store, &format!("pods/{number:03}"), &value).await;
    }
    let before = store.list(b"", None, 0, None).await.expect("it lists");
    drop(store);
    let store = open(&server.url()).await;
    let after = store.list(b"", None, 0, None).await.expect("it lists");
    assert_eq!((after.entries.len(), &after.entries), (450, &before.entries));
    let old = store.watch(Bytes::new(), Revision(2)).await;
    assert!(matches!(old, Err(ReadError::Compacted { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_of_another_process_arrive_and_guard_ours() {
    let Some(server) = start(&[]) else { return };
    let (here, there) = (open(&server.url()).await, open(&server.url()).await);
    let first = put(&here, "a", "1").await;
    let mut watch = here.watch(Bytes::new(), first).await.expect("it watches");
    let second = put(&there, "a", "2").await;
    assert_eq!(seen_until(&mut watch, second).await, Some(vec![second.0]));
    let stale = here.put("a".into(), "3".into(), Expect::Modified(first)).await;
    let Err(WriteError::Conflict { current: Some(current) }) = stale else {
        unreachable!("expected a conflict, got {stale:?}")
    };
    assert_eq!(current.modified, second);
    let (removed, _) = there.delete(b"a", Expect::Modified(second)).await.expect("as expected");
    assert_eq!(&removed.value[..], b"2");
    // Whatever refuses a write is there to be read afterwards.
    let gone = here.put("a".into(), "3".into(), Expect::Modified(second)).await;
    assert!(matches!(gone, Err(WriteError::Conflict { current: None })));
    assert_eq!(here.get(b"a").await.expect("it reads").0, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_goes_on_without_loss_after_an_outage() {
    let Some(server) = start(&[]) else { return };
    let mut wire = Wire::to(&server).await;
    let store = open(&format!("etcd://{}", wire.address)).await;
    let direct = open(&server.url()).await;
    let start = put(&store, "a/0", "x").await;
    let mut watch = store.watch("a/".into(), start).await.expect("it watches");
    wire.cut().await;
    let mut last = start;
    for number in 1..50 {
        last = put(&direct, &format!("a/{number}"), "missed").await;
    }
    // Cut off, it still reads.
    assert_eq!(store.list(b"a/", None, 0, None).await.expect("it lists").entries.len(), 1);
    wire.mend().await;
    let wanted: Vec<u64> = (start.0 + 1..=last.0).collect();
    assert_eq!(seen_until(&mut watch, last).await, Some(wanted));
    assert_eq!(put(&store, "a/0", "again").await, last.next());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_ends_when_what_it_missed_is_compacted() {
    let Some(server) = start(&[]) else { return };
    let mut wire = Wire::to(&server).await;
    let store = open(&format!("etcd://{}", wire.address)).await;
    let direct = open(&server.url()).await;
    let start = put(&store, "a", "1").await;
    let mut watch = store.watch(Bytes::new(), start).await.expect("it watches");
    wire.cut().await;
    put(&direct, "a", "2").await;
    direct.delete(b"a", Expect::Anything).await.expect("it is removed");
    let last = put(&direct, "b", "3").await;
    direct.compact(last).await.expect("it has happened");
    wire.mend().await;
    assert_eq!(seen_until(&mut watch, last).await, None, "the watch ends");
    let page = store.list(b"", None, 0, None).await.expect("it lists");
    let keys: Vec<_> = page.entries.iter().map(|entry| entry.key.clone()).collect();
    assert_eq!(keys, ["b"]);
    let mut watch = store.watch(Bytes::new(), page.revision).await.expect("it watches anew");
    let next = put(&store, "c", "4").await;
    assert_eq!(seen_until(&mut watch, next).await, Some(vec![next.0]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_a_kill_of_etcd() {
    let Some(mut server) = start(&[]) else { return };
    let store = open(&server.url()).await;
    let mut last = Revision::FIRST;
    for number in 0..30 {
        last = put(&store, &format!("a/{number}"), "x").await;
    }
    server.kill();
    tokio::task::block_in_place(|| server.start_again());
    let mut tries = 0;
    let next = loop {
        match store.put("a/after".into(), "x".into(), Expect::Anything).await {
            Ok(entry) => break entry.modified,
            Err(WriteError::Io(_)) if tries < 20 => tries += 1,
            Err(other) => unreachable!("{other:?}"),
        }
    };
    assert!(next > last);
    assert_eq!(store.list(b"a/", None, 0, None).await.expect("it lists").entries.len(), 31);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn value_over_the_limit_is_named_and_a_full_etcd_refuses_writes() {
    let Some(server) = start(&["--quota-backend-bytes", "16777216"]) else { return };
    let store = open(&server.url()).await;
    let value = |bytes: usize| Bytes::from(vec![7; bytes]);
    let big = store.put("big".into(), value(3 << 20), Expect::Anything).await;
    let Err(WriteError::Io(error)) = big else { unreachable!("{big:?}") };
    assert!(error.to_string().contains("3145731 bytes"), "{error}");
    let mut number = 0;
    let refused = loop {
        let key = Bytes::from(format!("fill/{number}"));
        match store.put(key, value(1 << 20), Expect::Anything).await {
            Ok(_) => number += 1,
            Err(error) => break error,
        }
        assert!(number < 64, "16 MiB are full by now");
    };
    assert!(matches!(refused, WriteError::Full), "{refused:?}");
    // The write that fills it up may be done and refused: etcd looks at its size before and after.
    let there = store.list(b"fill/", None, 0, None).await.expect("reads").entries.len();
    assert!((number..=number + 1).contains(&there), "{there} of {number} are there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_there_is_said_at_once() {
    let address = nobodys();
    let target: Target = format!("etcd://{address}").parse().expect("it is a URL");
    let error = Etcd::open(&target, &Options::default()).await.expect_err("nobody listens");
    assert!(matches!(&error, OpenError::Unreachable { endpoints, .. } if
        *endpoints == address.to_string()));
}

/// A certificate for 127.0.0.1 and its key, signed by `ca` in `dir`, made by openssl.
fn certificates(dir: &Path) -> bool {
    let script = "set -e
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
            -keyout ca.key -out ca.crt -subj /CN=test-ca \
            -addext keyUsage=keyCertSign -addext basicConstraints=critical,CA:TRUE
        printf 'subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n' > ext
        for name in server client; do
            openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
                -keyout $name.key -out $name.csr -subj /CN=$name
            openssl x509 -req -in $name.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 \
                -extfile ext -out $name.crt
        done";
    let made = Command::new("sh").args(["-c", script]).current_dir(dir).output();
    let made = made.is_ok_and(|output| output.status.success());
    if !made {
        assert!(std::env::var_os("CI").is_none(), "openssl cannot make certificates");
        eprintln!("skipped: openssl cannot make certificates");
    }
    made
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_goes_both_ways() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    if !certificates(dir.path()) {
        return;
    }
    let file = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let arguments = [
        format!("--cert-file={}", file("server.crt")),
        format!("--key-file={}", file("server.key")),
        format!("--trusted-ca-file={}", file("ca.crt")),
        "--client-cert-auth".to_owned(),
    ];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let Some(server) = start(&arguments) else { return };
    let ca = format!("etcds://{}?ca={}", server.endpoint(), file("ca.crt"));
    let url = format!("{ca}&cert={}&key={}", file("client.crt"), file("client.key"));
    let store = open(&url).await;
    let at = put(&store, "a", "secret").await;
    let (entry, _) = store.get(b"a").await.expect("it reads");
    assert_eq!(entry.map(|entry: Entry| entry.modified), Some(at));

    for refused in [server.url(), ca] {
        let target: Target = refused.parse().expect("it is a URL");
        let error = Etcd::open(&target, &Options::default()).await.expect_err("it is refused");
        assert!(matches!(error, OpenError::Unreachable { .. }), "{error:?}");
    }
}
