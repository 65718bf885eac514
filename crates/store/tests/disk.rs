//! What the store makes of its directory: reopened, locked, newer, torn, full.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use berth_store::{Embedded, Expect, OpenError, Options, ReadError, Revision, Store, WriteError};
use bytes::Bytes;

async fn open(dir: &Path) -> Embedded {
    Embedded::open(dir, Options::default()).await.expect("it opens")
}

async fn put(store: &Embedded, key: &'static str, value: Vec<u8>) -> Revision {
    let put = store.put(key.into(), value.into(), Expect::Anything);
    put.await.expect("it is written").modified
}

#[tokio::test]
async fn reopened_store_goes_on_where_it_was() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let store = open(dir.path()).await;
    assert_eq!(store.revision().await.expect("it reads"), Revision::FIRST);
    put(&store, "a", b"1".to_vec()).await;
    put(&store, "b", b"1".to_vec()).await;
    let (_, last) = store.delete(b"b", Expect::Anything).await.expect("it is removed");
    let before = store.list(b"", None, 0, None).await.expect("it lists");
    drop(store);

    let store = open(dir.path()).await;
    assert_eq!(store.list(b"", None, 0, None).await.expect("it lists"), before);
    assert_eq!(store.revision().await.expect("it reads"), last, "a removal counts too");
    let older = store.watch("a".into(), Revision(last.0 - 1)).await;
    assert!(matches!(older, Err(ReadError::Compacted { floor }) if floor == last));
    store.watch("a".into(), last).await.expect("history starts here");
    assert_eq!(put(&store, "a", b"2".to_vec()).await, last.next());
}

#[tokio::test]
async fn closing_ends_watches() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let store = open(dir.path()).await;
    let mut watch = store.watch("a".into(), Revision::FIRST).await.expect("it watches");
    drop(store);
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn second_opening_is_told_that_it_is_locked() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let store = open(dir.path()).await;
    let second = Embedded::open(dir.path(), Options::default()).await;
    assert!(matches!(second, Err(OpenError::Locked { .. })));
    drop(store);
    open(dir.path()).await;
}

#[tokio::test]
async fn newer_format_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    drop(open(dir.path()).await);
    std::fs::write(dir.path().join("format"), "7\n").expect("it is written");
    let newer = Embedded::open(dir.path(), Options::default()).await;
    assert!(matches!(newer, Err(OpenError::NewerFormat { found: 7, known: 1 })));
}

#[tokio::test]
async fn many_megabytes_survive_reopening() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let store = open(dir.path()).await;
    // Enough for several tables of fjall, each key written more than once.
    for round in 0..6u8 {
        for number in 0..40 {
            let key = Bytes::from(format!("big/{number}"));
            let value = Bytes::from(vec![round; 200_000]);
            store.put(key, value, Expect::Anything).await.expect("it is written");
        }
    }
    let before = store.list(b"", None, 0, None).await.expect("it lists");
    drop(store);
    let after = open(dir.path()).await.list(b"", None, 0, None).await.expect("it lists");
    assert!(before == after);
}

fn journal(dir: &Path) -> PathBuf {
    let mut found = Vec::new();
    let mut folders = vec![dir.join("db")];
    while let Some(folder) = folders.pop() {
        for file in std::fs::read_dir(folder).expect("it lists") {
            let path = file.expect("it lists").path();
            match path.extension() {
                _ if path.is_dir() => folders.push(path),
                Some(extension) if extension == "jnl" => found.push(path),
                _ => {}
            }
        }
    }
    found.pop().expect("there is a journal")
}

/// Where the journal's content ends; what follows is preallocated zeros.
fn end(journal: &Path) -> u64 {
    // Far more than these tests write; the file has 64 MiB.
    let mut content = Vec::new();
    let file = File::open(journal).expect("it opens");
    file.take(1 << 18).read_to_end(&mut content).expect("it reads");
    content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1)
}

enum Tear {
    /// The file ends here.
    Cut(u64),
    /// Zeros from here to there, as pages that never reached the disk read after a power cut.
    Zeros(u64, u64),
}

async fn check_torn(tear: impl Fn(u64, u64) -> Tear) {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let store = open(dir.path()).await;
    put(&store, "a", vec![1; 3000]).await;
    let kept = put(&store, "b", vec![2; 3000]).await;
    let journal = journal(dir.path());
    let before = end(&journal);
    put(&store, "c", vec![3; 20_000]).await;
    let after = end(&journal);
    drop(store);

    let mut file = OpenOptions::new().read(true).write(true).open(&journal).expect("it opens");
    match tear(before, after) {
        Tear::Cut(at) => file.set_len(at).expect("it is cut"),
        Tear::Zeros(from, to) => {
            file.seek(SeekFrom::Start(from)).expect("it seeks");
            file.write_all(&vec![0; (to - from) as usize]).expect("it is written");
        }
    }
    drop(file);

    let store = open(dir.path()).await;
    let entries = store.list(b"", None, 0, None).await.expect("it lists").entries;
    let keys: Vec<_> = entries.iter().map(|entry| entry.key.clone()).collect();
    assert_eq!(keys, ["a", "b"], "a torn batch is gone as a whole, and only that");
    assert_eq!(store.revision().await.expect("it reads"), kept);
    // What is written after the tear survives the next opening.
    put(&store, "d", vec![4; 100]).await;
    drop(store);
    let entries = open(dir.path()).await.list(b"", None, 0, None).await.expect("it lists").entries;
    assert_eq!(entries.len(), 3);
}

#[tokio::test]
async fn torn_tail_of_the_journal_is_dropped() {
    for step in [1, 5, 20, 40, 1000, 15_000] {
        check_torn(|before, _| Tear::Cut(before + step)).await;
        check_torn(|before, after| Tear::Zeros(before + step, after)).await;
    }
    check_torn(|_, after| Tear::Cut(after - 1)).await;
    check_torn(|_, after| Tear::Zeros(after - 3, after)).await;
}

#[tokio::test]
async fn hole_in_the_last_batch_is_dropped() {
    // In the value, over its header, and over the end of the batch before its last bytes.
    for (from, to) in [(6000, 10_096), (20, 60), (100, 4196)] {
        check_torn(|before, _| Tear::Zeros(before + from, before + to)).await;
    }
    check_torn(|_, after| Tear::Zeros(after - 60, after - 5)).await;
}

#[tokio::test]
async fn damage_before_synced_batches_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let store = open(dir.path()).await;
    let journal = journal(dir.path());
    let before = end(&journal);
    put(&store, "a", vec![1; 20_000]).await;
    put(&store, "b", vec![2; 3000]).await;
    drop(store);
    let mut file = OpenOptions::new().write(true).open(&journal).expect("it opens");
    file.seek(SeekFrom::Start(before + 6000)).expect("it seeks");
    file.write_all(&[0; 4096]).expect("it is written");
    let opened = Embedded::open(dir.path(), Options::default()).await;
    assert!(matches!(opened, Err(OpenError::Damaged { .. })), "{opened:?}");
}

/// A small file system of our own, gone when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(bytes: u64) -> Option<SmallDisk> {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let options = format!("size={bytes}");
        let flags = nix::mount::MsFlags::empty();
        match nix::mount::mount(
            Some("tmpfs"),
            dir.path(),
            Some("tmpfs"),
            flags,
            Some(options.as_str()),
        ) {
            Ok(()) => Some(SmallDisk(dir)),
            Err(error) => {
                assert!(std::env::var_os("CI").is_none(), "cannot mount a tmpfs: {error}");
                eprintln!("skipped: mounting a tmpfs needs root: {error}");
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        nix::mount::umount(self.0.path()).expect("it is unmounted");
    }
}

#[tokio::test]
async fn full_disk_refuses_writes_until_there_is_room() {
    let Some(disk) = SmallDisk::mount(48 << 20) else { return };
    let dir = disk.0.path().join("store");
    let options = Options { reserve_bytes: 16 << 20, ..Options::default() };
    let store = Embedded::open(&dir, options).await.expect("it opens");
    put(&store, "a", b"1".to_vec()).await;

    let ballast = disk.0.path().join("ballast");
    let mut file = File::create(&ballast).expect("it is made");
    let mut zeros = std::io::repeat(0).take(256 << 20);
    std::io::copy(&mut zeros, &mut file).expect_err("the disk fills up");
    let refused = store.put("b".into(), "1".into(), Expect::Anything).await;
    assert!(matches!(refused, Err(WriteError::Full)));
    assert_eq!(store.list(b"", None, 0, None).await.expect("it lists").entries.len(), 1);

    std::fs::remove_file(&ballast).expect("it is removed");
    drop(file);
    put(&store, "b", b"1".to_vec()).await;
    drop(store);
}
