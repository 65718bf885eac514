//! What the machine offers, and what a cluster left on it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The checkout's root.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("tests/ stands in the workspace's root").to_owned()
}

/// Whether clusters can run here: root and containerd. Where not, says what is skipped; in CI
/// (`CI` set) that is a failure.
///
/// # Panics
/// In CI, when they cannot.
#[allow(clippy::panic)]
pub fn can_run_clusters(test: &str) -> bool {
    let is_root = output("id", &["-u"]).trim() == "0";
    let has_containerd = !output("containerd", &["--version"]).is_empty();
    if is_root && has_containerd {
        return true;
    }
    let why =
        format!("{test} needs root and containerd (root: {is_root}, containerd: {has_containerd})");
    if std::env::var_os("CI").is_some() {
        panic!("{why}");
    }
    eprintln!("skipped: {why}");
    false
}

/// What is left in the kernel and among the processes of the instance `name` in `dir`.
pub fn leftovers(name: &str, dir: &Path) -> Vec<String> {
    let dir = dir.display().to_string();
    let mut left = Vec::new();
    let mut look = |what: &str, lines: String, mine: &dyn Fn(&str) -> bool| {
        left.extend(lines.lines().filter(|line| mine(line)).map(|line| format!("{what}: {line}")));
    };
    let named = |line: &str| line.split(|c: char| !c.is_alphanumeric()).any(|word| word == name);
    look("link", output("ip", &["-o", "link"]), &named);
    look("nftables", output("nft", &["list", "tables"]), &|line| line.contains(name));
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    look("mount", mounts, &|line| line.contains(&dir));
    look("process", output("ps", &["-eo", "pid,args"]), &|line| line.contains(&dir));
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        let group = hierarchy.path().join(name);
        if group.exists() {
            look("cgroup", group.display().to_string(), &|_| true);
        }
    }
    left
}

fn output(program: &str, words: &[&str]) -> String {
    let ran = Command::new(program).args(words).output();
    ran.map(|ran| String::from_utf8_lossy(&ran.stdout).into_owned()).unwrap_or_default()
}
