//! Files as containers write them: appended, cut off, renamed, without end, without mercy.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::collect::{Collector, Directories};
use super::place::{self, About};
use super::walk::Volume;
use crate::logs::{self, LogReader, Options};

struct Ground {
    config: crate::Config,
    pod: Pod,
    collector: Collector,
    _scratch: tempfile::TempDir,
}

impl Ground {
    fn new(quota: &str) -> Self {
        let scratch = tempfile::tempdir().expect("a directory");
        let config = crate::sample::config(scratch.path());
        let said =
            json!({ "app": "shop", "volumes": { "logs-0": "/var/log/shop" }, "quota": quota });
        let pod = json!({ "metadata": {
            "name": "shop-1", "namespace": "default", "uid": "u1",
            "annotations": { "berth.dev/logs": said.to_string() } } });
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        let collector = Collector::own(&config);
        let ground = Self { config, pod, collector, _scratch: scratch };
        fs::create_dir_all(ground.dir()).expect("a directory");
        ground
    }

    fn dir(&self) -> PathBuf {
        let dir = place::volume(&self.config, &self.pod, "logs-0").expect("a place");
        dir.expect("a log volume")
    }

    fn app_dir(&self) -> PathBuf {
        self.config.node_dir().join("app-logs/default_shop")
    }

    fn append(&self, name: &str, text: &[u8]) {
        let path = self.dir().join(name);
        let mut file = File::options().create(true).append(true).open(path).expect("a file");
        file.write_all(text).expect("written");
    }

    fn look(&mut self) {
        // What is large takes several looks.
        let mut looks = 0;
        while self.collector.look() {
            looks += 1;
            assert!(looks < 1000, "it never comes to an end");
        }
    }

    /// So many looks that old and surplus things were looked for.
    fn tidy(&mut self) {
        for _ in 0..21 {
            self.look();
        }
    }

    async fn read(&self, options: Options) -> String {
        let path = place::log_path(&place::root(&self.config), "default", "shop").expect("a path");
        let reader = LogReader::open(&path, options).await.expect("a log");
        let mut stream = Box::pin(logs::stream(reader, || false));
        let mut all = Vec::new();
        while let Some(chunk) = stream.next().await {
            all.extend_from_slice(&chunk.expect("a chunk"));
        }
        String::from_utf8_lossy(&all).into_owned()
    }

    async fn lines(&self) -> Vec<String> {
        self.read(Options::default()).await.lines().map(str::to_owned).collect()
    }

    /// All bytes below the App's directory, as the disk counts them.
    fn taken(&self) -> u64 {
        fn of(dir: &Path) -> u64 {
            fs::read_dir(dir)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| match entry.metadata() {
                    Ok(meta) if meta.is_dir() => of(&entry.path()),
                    Ok(meta) => meta.blocks() * 512,
                    Err(_) => 0,
                })
                .sum()
        }
        of(&self.app_dir())
    }

    fn end_pod(&self) {
        fs::remove_dir_all(self.config.pod_dir("u1")).expect("removed");
    }
}

/// Makes a file look as if nobody had written it for so many hours.
fn age(path: &Path, hours: u64) {
    let then = std::time::SystemTime::now() - std::time::Duration::from_secs(hours * 3600);
    File::options().write(true).open(path).expect("a file").set_modified(then).expect("aged");
}

#[tokio::test]
async fn lines_come_once_through_rotation_truncation_and_restart() {
    let mut ground = Ground::new("1Gi");
    ground.append("a.log", b"one\ntwo\nhal");
    ground.look();
    assert_eq!(
        ground.lines().await,
        ["shop-1 /var/log/shop/a.log one", "shop-1 /var/log/shop/a.log two"]
    );
    ground.append("a.log", b"f\r\n");
    ground.look();
    // Rotated by renaming: the rest of the old one, and the new one from its beginning.
    ground.append("a.log", b"last\n");
    fs::rename(ground.dir().join("a.log"), ground.dir().join("a.log.1")).expect("renamed");
    ground.append("a.log", b"first\n");
    // Whoever collects is another process now.
    ground.collector = Collector::own(&ground.config);
    ground.look();
    // Rotated by cutting off.
    File::create(ground.dir().join("a.log")).expect("cut off");
    ground.append("a.log", b"cut\n");
    ground.look();
    let lines = ground.lines().await;
    let texts: Vec<&str> = lines.iter().filter_map(|line| line.rsplit(' ').next()).collect();
    let mut sorted = texts.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, ["cut", "first", "half", "last", "one", "two"], "each once");
    assert!(lines.contains(&"shop-1 /var/log/shop/a.log.1 last".to_owned()), "{lines:?}");
    let tail = Options { tail_lines: Some(1), timestamps: true, ..Options::default() };
    let tail = ground.read(tail).await;
    assert!(tail.ends_with(" shop-1 /var/log/shop/a.log cut\n"), "{tail}");
    assert!(tail.starts_with("20"), "{tail}");
}

#[tokio::test]
async fn what_is_written_ends_in_the_log_after_the_pod_has_gone() {
    let mut ground = Ground::new("1Gi");
    ground.append("a.log", b"killed in the middle of a li");
    ground.look();
    assert!(ground.lines().await.is_empty());
    ground.end_pod();
    ground.look();
    assert_eq!(ground.lines().await, ["shop-1 /var/log/shop/a.log killed in the middle of a li"]);
    ground.tidy();
    let (uid, file) =
        (ground.app_dir().join("dirs/u1"), ground.app_dir().join("dirs/u1/v/logs-0/a.log"));
    assert!(file.exists(), "a pod's end takes no log away");
    age(&file, 49);
    ground.tidy();
    ground.tidy();
    assert!(!uid.exists(), "two days later it is gone");
    assert_eq!(ground.lines().await.len(), 1, "what was collected has its own age");
    age(&ground.app_dir().join("log"), 49);
    ground.tidy();
    assert!(!ground.app_dir().exists());
}

#[tokio::test]
async fn links_and_other_things_are_not_followed() {
    let mut ground = Ground::new("1Gi");
    let outside = tempfile::tempdir().expect("a directory");
    fs::write(outside.path().join("secret"), "outside\n").expect("written");
    symlink(outside.path().join("secret"), ground.dir().join("file.log")).expect("a link");
    symlink(outside.path(), ground.dir().join("dir")).expect("a link");
    symlink("/proc/self/environ", ground.dir().join("env.log")).expect("a link");
    symlink(".", ground.dir().join("loop")).expect("a link");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        ground.dir().join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o666),
        0,
    )
    .expect("a pipe");
    fs::create_dir(ground.dir().join("sub")).expect("a directory");
    ground.append("sub/own.log", b"inside\n");
    ground.append("old.log.gz", b"packed\n");
    ground.look();
    assert_eq!(ground.lines().await, ["shop-1 /var/log/shop/sub/own.log inside"]);
    // Links are not followed to remove either.
    ground.end_pod();
    age(&ground.dir().join("sub/own.log"), 100);
    fs::remove_dir_all(ground.config.pod_dir("u1")).expect("removed");
    ground.tidy();
    assert!(outside.path().join("secret").exists());
}

/// The race that matters: a file was seen, and is a link when it is opened.
#[test]
fn a_file_that_became_a_link_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::create_dir(dir.path().join("sub")).expect("a directory");
    fs::write(dir.path().join("sub/a"), "x").expect("written");
    let volume = super::walk::Volume::open(dir.path()).expect("opened");
    let walk = volume.walk().expect("walked");
    assert_eq!(walk.files.len(), 1);
    fs::rename(dir.path().join("sub"), dir.path().join("was")).expect("renamed");
    symlink("/etc", dir.path().join("sub")).expect("a link");
    assert!(volume.file(&walk.files[0], false).is_err());
    assert!(volume.remove(&walk.files[0]).is_err());
    fs::remove_file(dir.path().join("sub")).expect("removed");
    fs::create_dir(dir.path().join("sub")).expect("a directory");
    symlink("/etc/hostname", dir.path().join("sub/a")).expect("a link");
    assert!(volume.file(&walk.files[0], false).is_err());
}

#[tokio::test]
async fn a_line_of_100_megabytes_comes_in_pieces_and_costs_no_memory() {
    let mut ground = Ground::new("1Gi");
    let megabyte = vec![b'x'; 1 << 20];
    for _ in 0..100 {
        ground.append("a.log", &megabyte);
    }
    ground.append("a.log", b"\nafter\n");
    ground.look();
    let lines = ground.lines().await;
    // The end of the line may come as a piece of its own.
    assert!((1601..=1602).contains(&lines.len()), "{} lines of 64 KiB", lines.len());
    assert!(lines.iter().all(|line| line.len() < (64 << 10) + 64));
    assert!(lines.last().is_some_and(|line| line.ends_with(" after")));
}

#[tokio::test]
async fn a_quota_holds_and_a_living_writer_does_not_notice() {
    let mut ground = Ground::new("16Mi");
    let path = ground.dir().join("a.log");
    // Writes by offset, as one does that did not open to append.
    let file = File::create(&path).expect("a file");
    let line = [vec![b'y'; 1023], vec![b'\n']].concat();
    let mut offset = 0;
    for _ in 0..40 {
        for _ in 0..1024 {
            file.write_all_at(&line, offset).expect("written");
            offset += 1024;
        }
        ground.look();
    }
    ground.tidy();
    file.write_all_at(b"still here\n", offset).expect("written");
    ground.look();
    assert_eq!(file.metadata().expect("there").len(), offset + 11, "its length is what it was");
    assert!(ground.lines().await.last().is_some_and(|line| line.ends_with("still here")));
    let taken = ground.taken();
    assert!(taken <= 16 << 20, "{taken} bytes of a quota of 16 MiB, after 40 MiB were written");
    let text = ground.read(Options::default()).await;
    assert!(!text.contains('\0'), "holes are no lines");
}

#[tokio::test]
async fn who_writes_faster_than_is_read_loses_the_oldest_and_is_told() {
    let mut ground = Ground::new("16Mi");
    let line = [vec![b'z'; 1023], vec![b'\n']].concat();
    ground.append("a.log", &line.repeat(64 << 10));
    ground.append("a.log", b"newest\n");
    ground.look();
    ground.tidy();
    let lines = ground.lines().await;
    assert!(lines.last().is_some_and(|line| line.ends_with("newest")));
    let path = ground.dir().join("a.log");
    let taken = fs::metadata(path).expect("there").blocks() * 512;
    assert!(taken <= 8 << 20, "{taken}");
    assert!(
        lines.iter().any(|line| line.contains("bytes were not collected")),
        "{:?}",
        lines.first()
    );
    // A file of a petabyte that is one hole takes no time.
    let hole = File::create(ground.dir().join("hole.log")).expect("a file");
    hole.set_len(1 << 42).expect("a hole");
    ground.look();
    assert!(ground.taken() <= 16 << 20);
}

#[tokio::test]
async fn thousands_of_files_are_collected_and_then_thinned() {
    let mut ground = Ground::new("1Gi");
    let held = File::create(ground.dir().join("00000.log")).expect("a file");
    for number in 0..3_000 {
        ground.append(&format!("{number:05}.log"), format!("line {number}\n").as_bytes());
        age(&ground.dir().join(format!("{number:05}.log")), 1);
    }
    ground.tidy();
    assert_eq!(ground.lines().await.len(), 3_000, "all are read before any goes");
    let left = fs::read_dir(ground.dir()).expect("a directory").count();
    assert!(left <= 2_001, "{left} files are left");
    assert!(ground.dir().join("00000.log").exists(), "what is open stays");
    drop(held);
}

#[test]
fn what_is_no_name_is_no_path() {
    let ground = Ground::new("1Gi");
    for (namespace, app) in [("default", "../x"), ("a/b", "x"), ("default", ""), ("..", "x")] {
        assert_eq!(
            place::log_path(&place::root(&ground.config), namespace, app),
            None,
            "{namespace} {app}"
        );
    }
    let mut pod = ground.pod.clone();
    let said = json!({ "app": "../../evil", "volumes": { "logs-0": "/l" } }).to_string();
    pod.metadata.annotations = Some([("berth.dev/logs".to_owned(), said)].into());
    assert_eq!(place::volume(&ground.config, &pod, "logs-0").expect("an answer"), None);
}

#[test]
fn an_image_that_names_its_directories_gets_them() {
    let ground = Ground::new("1Gi");
    let mounts = |pod: &Pod, env: &[(String, String)], image: &[&str]| -> Vec<String> {
        let image: Vec<String> = image.iter().map(|line| (*line).to_owned()).collect();
        let mounts = place::image_mounts(&ground.config, pod, "c", env, &image, &[]);
        mounts.expect("mounts").into_iter().map(|mount| mount.container_path).collect()
    };
    let of_image = ["PATH=/bin", "KUBERNETES_FILELOGS=/export/Logs,/data/logs"];
    assert_eq!(mounts(&ground.pod, &[], &of_image), ["/export/Logs", "/data/logs"]);
    let own = [("KUBERNETES_FILELOGS".to_owned(), "/only".to_owned())];
    assert_eq!(mounts(&ground.pod, &own, &of_image), ["/only"]);
    let mut other = ground.pod.clone();
    other.metadata.annotations = None;
    assert!(mounts(&other, &[], &of_image).is_empty(), "a pod of no App is left alone");
    let labels = [("app.kubernetes.io/managed-by", "berth"), ("app.kubernetes.io/instance", "old")];
    let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
    other.metadata.labels = Some(labels.into());
    assert_eq!(mounts(&other, &[], &of_image).len(), 2);
    let dir = ground.config.node_dir().join("app-logs/default_old/dirs/u1/v/named.c.0");
    assert_eq!(fs::metadata(dir).expect("there").mode() & 0o777, 0o777);
}

/// One directory of a kubelet's, held open.
struct Borrowed(Arc<Volume>);

impl Directories for Borrowed {
    fn is_over(&self, _uid: &str) -> bool {
        false
    }

    fn open(&mut self, _dir: &Path, _about: &About) -> Vec<(Arc<Volume>, String)> {
        vec![(self.0.clone(), "/var/log/shop".to_owned())]
    }
}

#[test]
fn a_directory_that_is_held_is_read_to_its_end_after_it_has_gone() {
    let scratch = tempfile::tempdir().expect("a directory");
    let (root, dir) = (scratch.path().join("kept"), scratch.path().join("theirs"));
    let noted = root.join("default_shop/dirs/u1");
    for path in [&noted, &dir] {
        fs::create_dir_all(path).expect("made");
    }
    let said = json!({ "app": "shop" });
    let pod: Pod =
        serde_json::from_value(json!({ "metadata": { "name": "shop-1" } })).expect("one");
    let said = serde_json::from_value(said).expect("a pod's word");
    About::of(&pod, &said).note(&noted).expect("noted");
    let collector = |since| {
        let open = File::open(&dir).expect("opened");
        let volume = Arc::new(Volume::of(open.into(), since));
        Collector::new(root.clone(), Box::new(Borrowed(volume)))
    };
    let log = || fs::read_to_string(root.join("default_shop/log")).unwrap_or_default();
    let path = dir.join("a.log");
    let mut file = File::create(&path).expect("a file");
    file.write_all(b"one\n").expect("written");
    // What was there before a container started came with its image.
    let future = jiff::Timestamp::now().as_second() + 1000;
    collector(Some(future)).look();
    assert_eq!(log(), "");
    let mut collector = collector(Some(future - 2000));
    collector.look();
    file.write_all(b"two\n").expect("written");
    fs::remove_dir_all(&dir).expect("removed");
    collector.look();
    file.write_all(b"three\n").expect("written");
    collector.look();
    collector.look();
    let log = log();
    let texts: Vec<&str> = log.lines().filter_map(|line| line.rsplit(' ').next()).collect();
    assert_eq!(texts, ["one", "two", "three"], "{log}");
}
