//! Log directories of Apps on a real Kubernetes with a node: collected without a sidecar, there
//! after their pod, and read by whom the namespace lets.

#![allow(clippy::unwrap_used, clippy::panic)] // clippy.toml lets only test functions, not what they call

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use berth_tests::{Image, Place, Real, root, until};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(120);
const IMAGE: &str = "berth:collected";
/// Its entrypoint names a directory that no App says.
const NAMED: &str = "test.local/named:1";
/// One directory is the App's, the other the image's.
const APP: &str = r#"
apiVersion: berth.dev/v1
kind: App
metadata: {name: shop, namespace: default}
spec:
  image: test.local/named:1
  command: [/bin/busybox, sh, -c]
  args:
  - |
    export PATH=/x; for name in mkdir ln sleep; do alias $name="/bin/busybox $name"; done
    mkdir -p /export/Logs /etc; echo secret:x:0 > /etc/outside
    ln -s /etc/outside /export/Logs/link.log; ln -s /etc /var/log/shop/linked
    trap 'echo last words > /var/log/shop/late.log; echo goodbye >> /export/Logs/b.log; exit' TERM
    echo of the volume > /var/log/shop/a.log; echo named > /export/Logs/b.log
    while :; do sleep 1 & wait; done
  logs: {directories: [/var/log/shop]}
"#;

struct Ran {
    ok: bool,
    out: String,
    err: String,
}

fn run(command: &mut Command) -> Ran {
    let ran = command.stdin(Stdio::null()).output().unwrap();
    Ran {
        ok: ran.status.success(),
        out: String::from_utf8_lossy(&ran.stdout).into_owned(),
        err: String::from_utf8_lossy(&ran.stderr).into_owned(),
    }
}

struct Ground {
    real: Real,
    scratch: tempfile::TempDir,
}

impl Ground {
    fn berth_as(&self, kubeconfig: &Path, words: &[&str]) -> Ran {
        let binary = std::env::var_os("BERTH_BIN")
            .map_or_else(|| root().join("target/release/berth"), Into::into);
        run(Command::new(binary).arg("--kubeconfig").arg(kubeconfig).args(words))
    }

    fn done(&self, words: &[&str]) -> String {
        let ran = self.berth_as(&self.real.kubeconfig(), words);
        assert!(ran.ok, "berth {words:?}: {}{}", ran.out, ran.err);
        ran.out
    }

    fn kubectl(&self, words: &[&str]) -> String {
        self.real.kubectl(words).unwrap().out
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.scratch.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn lines(&self) -> String {
        self.berth_as(&self.real.kubeconfig(), &["logs", "shop", "--files"]).out
    }
}

#[test]
fn what_apps_write_into_their_directories_is_kept_and_read_by_who_may() {
    let Some(real) = Real::start().unwrap() else {
        eprintln!("skipped: a real Kubernetes with a node (KUBEBUILDER_ASSETS)");
        return;
    };
    let image = Image {
        name: NAMED,
        files: &[(Path::new("/bin/busybox"), "bin/busybox")],
        entrypoint: &["/bin/busybox"],
        env: &["KUBERNETES_FILELOGS=/export/Logs"],
    };
    real.bring_image(&image).unwrap();
    let ground = Ground { real, scratch: tempfile::tempdir().unwrap() };
    let kept = ground.scratch.path().join("kept").display().to_string();
    it_is_installed(&ground, &kept);
    lines_are_there_after_their_pod(&ground);
    who_may_not_is_refused(&ground);
    ground.done(&["uninstall", "--yes"]);
    assert!(!ground.kubectl(&["get", "sa", "-A", "-o", "name"]).contains("berth-"));
    let left = std::fs::read_to_string(format!("{kept}/default_shop/log")).unwrap();
    assert!(left.contains("last words"), "what was kept stays");
}

fn it_is_installed(ground: &Ground, kept: &str) {
    let path = ground.scratch.path().join("berth.tar").display().to_string();
    ground.done(&["install", "--save-image", &path, "--image", IMAGE]);
    ground.real.bring(&path).unwrap();
    let mut words = vec!["install", "--image", IMAGE, "--collector-dir", kept];
    for part in ["dns", "balancer", "scheduler", "console"] {
        words.extend(["--without", part]);
    }
    ground.done(&words);
    let app = ground.file("app.yaml", APP);
    ground.done(&["app", "apply", "-f", &app]);
}

fn lines_are_there_after_their_pod(ground: &Ground) {
    until("both directories are read", PATIENCE, || {
        let lines = ground.lines();
        lines.contains("/var/log/shop/a.log of the volume\n")
            && lines.contains("/export/Logs/b.log named\n")
    })
    .unwrap();
    let all = ["delete", "pods", "-l", "app.kubernetes.io/instance=shop"];
    ground.kubectl(&all);
    until("its last lines are there", PATIENCE, || {
        let lines = ground.lines();
        lines.contains("/var/log/shop/late.log last words\n")
            && lines.contains("/export/Logs/b.log goodbye\n")
    })
    .unwrap();
    let lines = ground.lines();
    assert!(!lines.contains("secret"), "links are not followed: {lines}");
    let last = ground.done(&["logs", "shop", "--files", "--tail", "1", "--timestamps"]);
    assert_eq!(last.lines().count(), 1, "{last}");
    let time = last.split(' ').next().unwrap();
    assert!(time.starts_with("20") && time.ends_with('Z'), "{last}");
}

fn who_may_not_is_refused(ground: &Ground) {
    let text = std::fs::read_to_string(ground.real.kubeconfig()).unwrap();
    let ann = ground.file("ann", &text.replace("{token:", "{as: ann, token:"));
    let ask = || ground.berth_as(Path::new(&ann), &["logs", "shop", "--files", "--tail", "1"]);
    ground.kubectl(&["create", "namespace", "other"]);
    let bind = |namespace: &str| {
        let words = ["create", "rolebinding", "ann", "--clusterrole=berth:viewer", "--user=ann"];
        ground.kubectl(&[&words[..], &["-n", namespace]].concat());
    };
    bind("other");
    let ran = ask();
    assert!(!ran.ok && ran.out.is_empty() && ran.err.contains("may not"), "{}", ran.err);
    bind("default");
    until("who may look at the namespace reads its logs", PATIENCE, || ask().ok).unwrap();

    // A token of one namespace is good for no other, and for nothing else.
    let request = r#"{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
                      "spec": {"audiences": ["logs.berth.dev"], "expirationSeconds": 600}}"#;
    let request = ground.file("request", request);
    let path = "/api/v1/namespaces/default/serviceaccounts/berth-logs-reader/token";
    let given = ground.kubectl(&["create", "--raw", path, "-f", &request]);
    let given: Value = serde_json::from_str(&given).unwrap();
    let token = given["status"]["token"].as_str().unwrap();
    let place = ground.kubectl(&["config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"]);
    let raw = ["config", "view", "--raw", "-o", "jsonpath={.users[0].user.token}"];
    let admin = format!("Authorization: Bearer {}", ground.kubectl(&raw));
    let way = "api/v1/namespaces/berth-system/services/https:berth-collector:https/proxy";
    let code = |url: &str, headers: &[&str]| {
        let mut command = Command::new("curl");
        command.args(["-sk", "--max-time", "20", "-o", "/dev/null", "-w", "%{http_code}", url]);
        for header in headers {
            command.args(["-H", header]);
        }
        run(&mut command).out
    };
    let log = |namespace: &str| format!("{place}/{way}/v1/namespaces/{namespace}/apps/shop/log");
    let shown = format!("berth-logs-token: {token}");
    assert_eq!(code(&log("default"), &[&admin, &shown]), "200");
    assert_eq!(code(&log("other"), &[&admin, &shown]), "403");
    assert_eq!(code(&log("default"), &[&admin]), "401");
    let others = admin.replace("Authorization: Bearer", "berth-logs-token:");
    assert_eq!(code(&log("default"), &[&admin, &others]), "401", "an administrator's own");
    assert_eq!(code(&format!("{place}/api"), &[&format!("Authorization: Bearer {token}")]), "401");
}
