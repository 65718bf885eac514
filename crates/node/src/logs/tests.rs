//! Logs read from files as containerd writes them.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::StreamExt;

use super::*;

fn record(second: u32, stream: &str, tag: &str, text: &str) -> String {
    format!("2026-01-01T00:{:02}:{:02}Z {stream} {tag} {text}\n", second / 60, second % 60)
}

async fn read(path: &Path, options: Options) -> String {
    let reader = LogReader::open(path, options).await.expect("opened");
    let chunks: Vec<_> = stream(reader, || false).collect().await;
    let bytes: Vec<u8> = chunks.into_iter().flat_map(|chunk| chunk.expect("read")).collect();
    String::from_utf8(bytes).expect("text")
}

#[tokio::test]
async fn options_choose_what_is_shown() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("0.log");
    let text = [
        record(1, "stdout", "F", "one"),
        record(2, "stderr", "F", "oops"),
        record(3, "stdout", "P", "tw"),
        record(4, "stdout", "F", "o"),
        "torn line without a tag\n".to_owned(),
        record(5, "stdout", "F", "three"),
    ];
    std::fs::write(&path, text.concat()).expect("written");
    let check = async |options: Options, expected: &str| {
        assert_eq!(read(&path, options.clone()).await, expected, "{options:?}");
    };
    let all = Options::default();
    check(all.clone(), "one\noops\ntwo\nthree\n").await;
    check(Options { tail_lines: Some(2), ..all.clone() }, "two\nthree\n").await;
    check(Options { tail_lines: Some(0), ..all.clone() }, "").await;
    check(Options { tail_lines: Some(99), ..all.clone() }, "one\noops\ntwo\nthree\n").await;
    check(Options { stream: Some("stderr"), ..all.clone() }, "oops\n").await;
    check(Options { limit_bytes: Some(6), ..all.clone() }, "one\noo").await;
    let since = "2026-01-01T00:00:05Z".parse().ok();
    check(Options { since, ..all.clone() }, "three\n").await;
    let last = Options { timestamps: true, tail_lines: Some(1), ..all };
    check(last, "2026-01-01T00:00:05Z three\n").await;
}

#[tokio::test]
async fn rotated_files_are_read_first_and_the_tail_spans_them() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("0.log");
    let line = |n: u32| record(n, "stdout", "F", &format!("line {n} {}", "x".repeat(300)));
    let write = |name: &Path, range: std::ops::Range<u32>| {
        std::fs::write(name, range.map(line).collect::<String>()).expect("written");
    };
    write(&files::rotated_name(&path, Timestamp::from_second(1).expect("a time")), 0..1000);
    write(&files::rotated_name(&path, Timestamp::from_second(2).expect("a time")), 1000..1200);
    write(&path, 1200..1210);
    let numbers = |text: &str| -> Vec<u32> {
        let number = |line: &str| line.split(' ').nth(1).and_then(|word| word.parse().ok());
        text.lines().filter_map(number).collect()
    };
    let all = numbers(&read(&path, Options::default()).await);
    assert_eq!(all, (0..1210).collect::<Vec<_>>());
    for wanted in [5, 10, 11, 210, 900] {
        let options = Options { tail_lines: Some(wanted), ..Options::default() };
        let expected = 1210 - u32::try_from(wanted).expect("small");
        assert_eq!(numbers(&read(&path, options).await), (expected..1210).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn following_goes_on_over_a_rotation_until_the_container_ends() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("0.log");
    std::fs::write(&path, record(1, "stdout", "F", "one")).expect("written");
    let running = Arc::new(AtomicBool::new(true));
    let asked = running.clone();
    let options = Options { follow: true, ..Options::default() };
    let reader = LogReader::open(&path, options).await.expect("opened");
    let mut chunks = Box::pin(stream(reader, move || asked.load(Ordering::Relaxed)));
    assert_eq!(chunks.next().await.expect("more").expect("read"), "one\n");

    let mut file = std::fs::File::options().append(true).open(&path).expect("opened");
    write!(file, "{}", record(2, "stdout", "F", "two")).expect("written");
    assert_eq!(chunks.next().await.expect("more").expect("read"), "two\n");

    let aside = files::rotated_name(&path, Timestamp::now());
    std::fs::rename(&path, aside).expect("renamed");
    std::fs::write(&path, record(3, "stdout", "F", "three")).expect("written");
    assert_eq!(chunks.next().await.expect("more").expect("read"), "three\n");

    running.store(false, Ordering::Relaxed);
    assert!(chunks.next().await.is_none());
}
