//! What a crash at any moment leaves behind, and a disk that does not keep what it was given.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use berth_store::{Embedded, Expect, Options, Revision, Store, WriteError};
use bytes::Bytes;

async fn open(dir: &Path) -> Embedded {
    Embedded::open(dir, Options::default()).await.expect("it opens")
}

fn value(number: u64) -> Bytes {
    Bytes::from(vec![number as u8; 40 + (number as usize * 97) % 1500])
}

fn journal(dir: &Path) -> PathBuf {
    let files = fs::read_dir(dir.join("db")).expect("it lists");
    let mut journals = files.map(|file| file.expect("it lists").path());
    let is_journal = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "jnl");
    journals.find(is_journal).expect("there is a journal")
}

/// Where the journal's content ends; zeros that were allocated ahead follow.
fn end(journal: &Path) -> u64 {
    let mut content = Vec::new();
    let file = File::open(journal).expect("it opens");
    file.take(1 << 18).read_to_end(&mut content).expect("it reads");
    content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("it is made");
    for file in fs::read_dir(from).expect("it lists") {
        let path = file.expect("it lists").path();
        let there = to.join(path.file_name().expect("it has a name"));
        match path.is_dir() {
            true => copy(&path, &there),
            false if path.extension().is_some_and(|ending| ending == "jnl") => {
                // Only what is in it: 64 MiB of zeros follow.
                let mut content = vec![0; end(&path) as usize];
                let file = File::open(&path).expect("it opens");
                file.read_exact_at(&mut content, 0).expect("it reads");
                fs::write(&there, content).expect("it is written");
            }
            false => drop(fs::copy(&path, &there).expect("it is copied")),
        }
    }
}

#[derive(Clone, Copy)]
enum Left {
    /// The file ends here, as when the kernel had written no more.
    Cut,
    /// The file has its length, and zeros from here on.
    Zeros,
}

/// Opens a copy whose journal stops at `at`, and compares it with the first `written` writes.
async fn check(dir: &Path, at: u64, left: Left, written: u64) {
    let crashed = tempfile::tempdir().expect("a temporary directory can be made");
    copy(dir, crashed.path());
    let file = OpenOptions::new().write(true).open(journal(crashed.path())).expect("it opens");
    let whole = file.metadata().expect("it is there").len();
    file.set_len(at).expect("it is cut");
    if let Left::Zeros = left {
        file.set_len(whole).expect("it is made longer");
    }
    drop(file);
    let store = open(crashed.path()).await;
    let revision = store.revision().await.expect("it reads");
    assert_eq!(revision, Revision(1 + written), "stopped at byte {at}");
    let entries = store.list(b"", None, 0, None).await.expect("it lists").entries;
    // Key n is written by write n and removed by the next one when n is a multiple of 5.
    let mut wanted: Vec<(Bytes, Bytes)> = Vec::new();
    for number in 0..written {
        match number % 5 {
            1 => drop(wanted.pop()),
            _ => wanted.push((Bytes::from(format!("k/{number:04}")), value(number))),
        }
    }
    let found: Vec<_> = entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
    assert!(found == wanted, "stopped at byte {at}: not the first {written} writes");
    // And it goes on from there.
    let next = store.put("next".into(), "x".into(), Expect::Anything).await;
    assert_eq!(next.expect("it is written").modified, revision.next());
}

#[tokio::test]
async fn crash_at_any_record_leaves_the_acknowledged_prefix() {
    const WRITES: u64 = 24;
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let store = open(dir.path()).await;
    let journal = journal(dir.path());
    let mut boundaries = vec![end(&journal)];
    for number in 0..WRITES {
        match number % 5 {
            1 => {
                let key = format!("k/{:04}", number - 1);
                store.delete(key.as_bytes(), Expect::Anything).await.expect("it is removed");
            }
            _ => {
                let key = Bytes::from(format!("k/{number:04}"));
                store.put(key, value(number), Expect::Absent).await.expect("it is written");
            }
        }
        boundaries.push(end(&journal));
    }
    drop(store);
    for (written, record) in boundaries.windows(2).enumerate() {
        let (written, [start, end]) = (written as u64, [record[0], record[1]]);
        check(dir.path(), end, Left::Cut, written + 1).await;
        let middle = start + (end - start) / 2;
        for at in [start, start + 1, start + 14, middle, end - 12, end - 1] {
            check(dir.path(), at, Left::Cut, written).await;
            check(dir.path(), at, Left::Zeros, written).await;
        }
    }
}

/// A file system on a block device that has less behind it than it says: what does not fit is
/// accepted by `write` and refused by `fsync`, as a failing disk does.
struct FailingDisk {
    behind: PathBuf,
    mounted: PathBuf,
    device: String,
    _dir: tempfile::TempDir,
}

fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr))),
    }
}

impl FailingDisk {
    fn mount() -> Option<FailingDisk> {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let path = |name: &str| dir.path().join(name);
        let (behind, mounted) = (path("behind"), path("mounted"));
        fs::create_dir(&behind).expect("it is made");
        fs::create_dir(&mounted).expect("it is made");
        let (b, m) = (behind.to_string_lossy(), mounted.to_string_lossy());
        let image = format!("{b}/image");
        let made = || -> Result<String, String> {
            run("mount", &["-t", "tmpfs", "-o", "size=24m", "tmpfs", &b])?;
            run("truncate", &["-s", "512m", &image])?;
            run("mkfs.ext4", &["-q", "-O", "^has_journal", "-m", "0", &image])?;
            let device = run("losetup", &["--find", "--show", &image])?;
            // Without a journal of its own the file system does not turn read-only first.
            let mounting = run("mount", &["-o", "errors=continue", &device, &m]);
            if mounting.is_err() {
                run("losetup", &["--detach", &device])?;
            }
            mounting.map(|_| device)
        };
        match made() {
            Ok(device) => Some(FailingDisk { behind, mounted, device, _dir: dir }),
            Err(error) => {
                run("umount", &[&b]).ok();
                assert!(std::env::var_os("CI").is_none(), "cannot make a failing disk: {error}");
                eprintln!("skipped: a failing disk needs root and loop devices: {error}");
                None
            }
        }
    }
}

impl Drop for FailingDisk {
    fn drop(&mut self) {
        run("umount", &["--lazy", &self.mounted.to_string_lossy()]).ok();
        run("losetup", &["--detach", &self.device]).ok();
        run("umount", &["--lazy", &self.behind.to_string_lossy()]).ok();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_sync_stops_the_store_and_acknowledges_nothing() {
    let Some(disk) = FailingDisk::mount() else { return };
    let store = open(&disk.mounted.join("store")).await;
    let stopped = store.stopped();
    let mut acknowledged = 0;
    let refused = loop {
        let random: Vec<u8> = (0..100_000).map(|_| rand::random()).collect();
        let key = Bytes::from(format!("k/{acknowledged:04}"));
        match store.put(key, random.into(), Expect::Absent).await {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 1000, "100 MB do not fit behind this disk");
    };
    assert!(matches!(refused, WriteError::Closed), "{refused:?}");
    assert!(acknowledged > 10, "it worked while there was room: {acknowledged}");
    stopped.await;
    assert!(store.list(b"", None, 0, None).await.is_err(), "nothing is shown after that");
    let again = store.put("again".into(), "x".into(), Expect::Anything).await;
    assert!(matches!(again, Err(WriteError::Closed)), "a second sync proves nothing");
}
