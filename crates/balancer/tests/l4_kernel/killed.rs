//! A process that is killed while it writes the kernel's tables: the next one makes them what they
//! should be, whatever was half done.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::thread::sleep;

use super::*;

const INSTANCE: &str = "bench"; // what the example calls its own
const LONG: Duration = Duration::from_secs(60);

/// Loads a few Services and says what the table is then, line by line in order.
fn loaded() -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let config = Config {
            instance: INSTANCE.into(),
            pod_range: "10.42.0.0/24".parse().unwrap(),
            service_range: "10.43.0.0/16".parse().unwrap(),
            node_address: NODE,
            bridge: "bench0".into(),
        };
        let (sender, snapshots) = watch::channel(None);
        let (tasks, ready) = (Tasks::new(), Ready::default());
        tasks.spawn_until_stop("l4", l4::run(config, snapshots, ready.clone()));
        sender.send_replace(snapshot("ClientIP", &[2, 3]));
        tokio::time::timeout(LONG, ready.wait()).await.unwrap();
        tasks.stop(SOON).await;
    });
    let listed = Command::new("nft").args(["-s", "list", "ruleset"]).output().unwrap();
    assert!(listed.status.success());
    // The elements of a set stand in no order.
    let text = String::from_utf8(listed.stdout).unwrap().replace(", ", ",\n");
    let mut lines: Vec<_> =
        text.lines().map(|line| line.trim().trim_end_matches(',').to_owned()).collect();
    lines.sort();
    lines
}

/// Whether nft is at work in this namespace.
fn nft_runs() -> bool {
    let namespace = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/net")).ok();
    let own = namespace("thread-self");
    std::fs::read_dir("/proc").unwrap().flatten().any(|process| {
        let comm = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        comm == "nft\n" && namespace(&process.file_name().to_string_lossy()) == own
    })
}

/// What is left of one that was killed `after` so long, or so long after its first change.
fn left_by_a_killed_one(changing: bool, after: Duration) -> Vec<String> {
    let own = std::env::current_exe().unwrap();
    let program = own.ancestors().nth(2).unwrap().join("examples/l4_changes");
    let mut process = Command::new(program)
        .arg("1500")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    if changing {
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.trim().parse::<f64>().is_ok(), "{line:?}");
    }
    sleep(after); // wherever it is then
    process.kill().unwrap();
    process.wait().unwrap();
    // What it had told nft to do is done, to the end of what came.
    let started = Instant::now();
    while nft_runs() {
        assert!(started.elapsed() < LONG);
        sleep(Duration::from_millis(5));
    }
    // Before the bridge is there nothing can be loaded.
    let _ = Command::new("ip").args(["link", "add", "bench0", "type", "bridge"]).output();
    run("ip address replace 10.42.0.1/24 dev bench0");
    run("ip link set bench0 up");
    loaded()
}

#[test]
fn a_process_killed_while_it_writes_leaves_what_the_next_one_puts_right() {
    if !may_run() {
        return;
    }
    let whole = in_own_namespace(|sent| {
        run("ip link set lo up");
        run("ip link add bench0 type bridge");
        run("ip address add 10.42.0.1/24 dev bench0");
        run("ip link set bench0 up");
        sent.send(loaded()).unwrap();
    });
    assert!(whole.iter().any(|line| line.contains("10.43.0.5")), "{whole:?}");
    for (changing, ms) in [(false, 60), (false, 250), (false, 700), (true, 0), (true, 7)] {
        let left = in_own_namespace(move |sent| {
            run("ip link set lo up");
            sent.send(left_by_a_killed_one(changing, Duration::from_millis(ms))).unwrap();
        });
        assert_eq!(left, whole, "killed after {ms} ms, changing: {changing}");
    }
}

fn in_own_namespace<T: Send + 'static>(work: impl FnOnce(mpsc::Sender<T>) + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    super::in_own_namespace(move || work(sender)).join().unwrap();
    receiver.recv().unwrap()
}
