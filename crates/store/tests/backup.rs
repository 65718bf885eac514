//! A backup comes back as it was, on both stores, or not at all.

#[path = "battery/server.rs"]
mod server;

use std::io;
use std::path::Path;
use std::sync::Arc;

use berth_store::backup::{self, Extra, REVISION_JUMP, Reader, RestoreError};
use berth_store::etcd::Target;
use berth_store::{Embedded, Entry, Etcd, Expect, OpenError, Options, ReadError, Revision, Store};
use bytes::Bytes;

async fn open(dir: &Path) -> Embedded {
    Embedded::open(dir, Options::default()).await.expect("it opens")
}

async fn put(store: &dyn Store, key: &str, value: &[u8]) -> Revision {
    let (key, value) = (Bytes::from(key.to_owned()), Bytes::copy_from_slice(value));
    store.put(key, value, Expect::Anything).await.expect("it is written").modified
}

fn extras() -> Vec<Extra> {
    vec![Extra { path: "pki/sa.key".into(), content: b"secret".to_vec() }]
}

/// A few hundred entries, some of them random so that blocks do not shrink to nothing.
async fn filled(store: &dyn Store) {
    for number in 0..300u32 {
        let value: Vec<u8> = match number % 3 {
            0 => (0..4000).map(|_| rand::random::<u8>()).collect(),
            _ => format!("value {number} ").repeat(60).into_bytes(),
        };
        put(store, &format!("things/{number:04}"), &value).await;
    }
    store.delete(b"things/0007", Expect::Anything).await.expect("it is removed");
}

async fn taken(store: &dyn Store) -> Vec<u8> {
    let (summary, bytes) =
        backup::write(store, &extras(), || Ok(Vec::new())).await.expect("it is taken");
    assert_eq!(summary.bytes, bytes.len() as u64);
    bytes
}

fn entries<R: io::Read>(
    reader: &mut Reader<R>,
) -> impl Iterator<Item = io::Result<Entry>> + use<'_, R> {
    std::iter::from_fn(|| reader.next_entry().map_err(io::Error::other).transpose())
}

fn jumped(reader: &Reader<&[u8]>) -> Revision {
    Revision(reader.header().revision.0 + REVISION_JUMP)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backup_comes_back_with_later_revisions() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let store = open(&dir.path().join("old")).await;
    filled(&store).await;
    let before = store.list(b"", None, 0, None).await.expect("it lists");
    let bytes = taken(&store).await;

    let mut reader = Reader::new(&bytes[..]).expect("it is whole");
    assert_eq!((reader.header().revision, reader.header().entries), (before.revision, 299));
    assert_eq!(reader.files(), extras());
    let (new, revision) = (dir.path().join("new"), jumped(&reader));
    Embedded::fill(&new, revision, entries(&mut reader)).expect("it is restored");
    let restored = open(&new).await;
    let after = restored.list(b"", None, 0, None).await.expect("it lists");
    assert_eq!(after.entries, before.entries);
    assert_eq!(after.revision, revision);
    let old = restored.watch(Bytes::new(), before.revision).await;
    assert!(matches!(old, Err(ReadError::Compacted { .. })), "an old watcher lists anew");
    assert_eq!(put(&restored, "next", b"x").await, revision.next());
    drop(restored);

    let mut reader = Reader::new(&bytes[..]).expect("it is whole");
    let again = Embedded::fill(&new, revision, entries(&mut reader));
    assert!(matches!(again, Err(OpenError::Damaged { .. })), "only into an empty store");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backup_is_one_revision_while_writes_go_on() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let store = Arc::new(open(dir.path()).await);
    // Two halves that are always written one after the other, with many keys in between.
    for number in 0..3000 {
        put(&*store, &format!("m/{number}"), b"between").await;
    }
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut writer = tokio::task::JoinSet::new();
    {
        let (store, stop) = (store.clone(), stop.clone());
        writer.spawn(async move {
            let mut round = 0u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                round += 1;
                put(&*store, "a", round.to_string().as_bytes()).await;
                put(&*store, "z", round.to_string().as_bytes()).await;
            }
            round
        });
    }
    let mut rounds = Vec::new();
    for _ in 0..10 {
        let bytes = taken(&*store).await;
        let mut reader = Reader::new(&bytes[..]).expect("it is whole");
        let all: Vec<Entry> = entries(&mut reader).collect::<io::Result<_>>().expect("it is whole");
        let round = |key: &str| {
            let found = all.iter().find(|entry| entry.key == key);
            let text = found.map(|entry| String::from_utf8_lossy(&entry.value).into_owned());
            text.map_or(0, |text| text.parse::<u64>().expect("a number"))
        };
        assert!(round("a") == round("z") || round("a") == round("z") + 1);
        assert!(all.iter().all(|entry| entry.modified <= reader.header().revision));
        rounds.push(round("a"));
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(writer.join_all().await[0] > rounds[0], "writes went on");
}

fn read_all(bytes: &[u8]) -> Result<usize, RestoreError> {
    let mut reader = Reader::new(bytes)?;
    let mut count = 0;
    while reader.next_entry()?.is_some() {
        count += 1;
    }
    Ok(count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn torn_altered_and_newer_backups_are_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let store = open(dir.path()).await;
    filled(&store).await;
    let bytes = taken(&store).await;
    assert_eq!(read_all(&bytes).expect("it is whole"), 299);
    let step = bytes.len() / 120;
    for at in (0..bytes.len()).step_by(step).chain(bytes.len() - 40..bytes.len()).chain(0..60) {
        match read_all(&bytes[..at]) {
            Err(RestoreError::Torn { at: said, .. }) => assert_eq!(said, at as u64),
            Err(RestoreError::NotABackup) if at < 13 => {}
            other => unreachable!("cut at {at}: {other:?}"),
        }
        let mut altered = bytes.clone();
        altered[at] ^= 0x40;
        match read_all(&altered) {
            Err(RestoreError::Altered { at: said, .. }) => {
                assert!(said <= at as u64, "{said} {at}")
            }
            // A length that says more than there is.
            Err(RestoreError::Torn { .. }) => {}
            Err(RestoreError::NotABackup) if at < 13 => {}
            Err(RestoreError::NewerVersion { .. }) if (13..17).contains(&at) => {}
            other => unreachable!("altered at {at}: {other:?}"),
        }
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(matches!(read_all(&longer), Err(RestoreError::Altered { .. })));
    assert!(matches!(read_all(b"hello"), Err(RestoreError::NotABackup)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backup_moves_from_one_etcd_to_a_new_one_and_revisions_go_on() {
    let Some(old) = tokio::task::block_in_place(|| server::Server::start(&[])) else { return };
    let target: Target = old.url().parse().expect("it is a URL");
    let store = Etcd::open(&target, &Options::default()).await.expect("it opens");
    filled(&store).await;
    let before = store.list(b"", None, 0, None).await.expect("it lists");
    let bytes = taken(&store).await;
    drop((store, old));

    let Some(new) = tokio::task::block_in_place(|| server::Server::start(&[])) else { return };
    let target: Target = new.url().parse().expect("it is a URL");
    let mut reader = Reader::new(&bytes[..]).expect("it is whole");
    let revision = jumped(&reader);
    Etcd::fill(&target, revision, entries(&mut reader)).await.expect("it is restored");
    let store = Etcd::open(&target, &Options::default()).await.expect("it opens");
    let after = store.list(b"", None, 0, None).await.expect("it lists");
    let plain = |page: &berth_store::Page| -> Vec<(Bytes, Bytes)> {
        page.entries.iter().map(|entry| (entry.key.clone(), entry.value.clone())).collect()
    };
    assert_eq!(plain(&after), plain(&before));
    assert!(after.revision > revision && after.entries[0].modified > revision);
    let old = store.watch(Bytes::new(), before.revision).await;
    assert!(matches!(old, Err(ReadError::Compacted { .. })), "an old watcher lists anew");
    let at = put(&store, "next", b"x").await;
    assert!(at > after.revision);
    let entry = store.get(b"next").await.expect("it reads").0.expect("it is there");
    store.delete(b"next", Expect::Modified(entry.modified)).await.expect("it is as expected");

    let mut reader = Reader::new(&bytes[..]).expect("it is whole");
    let again = Etcd::fill(&target, revision, entries(&mut reader)).await;
    assert!(matches!(again, Err(OpenError::Damaged { .. })), "only into an empty prefix");
}
