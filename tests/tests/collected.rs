//! Log directories of Apps on a real Kubernetes with two nodes: collected without a sidecar, there
//! after their pod, and read by whom the namespace lets; and what containers do there.

#![allow(clippy::unwrap_used, clippy::panic)] // clippy.toml lets only test functions, not what they call

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use berth_tests::{Image, Place, Ran, Real, until};
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
  replicas: 1
  command: [/bin/busybox, sh, -c]
  args:
  - |
    export PATH=/x; for name in mkdir ln sleep timeout dd; do alias $name="/bin/busybox $name"; done
    mkdir -p /export/Logs /etc; echo secret:x:0 > /etc/outside
    ln -s /etc/outside /export/Logs/link.log; ln -s /etc /var/log/shop/linked
    trap 'echo last words > /var/log/shop/late.log; echo goodbye >> /export/Logs/b.log; exit' TERM
    echo of the volume > /var/log/shop/a.log; echo named > /export/Logs/b.log
    dd if=/dev/zero of=/blob bs=1M count=8 conv=fsync 2> /dev/null
    timeout 60 /bin/busybox sh -c 'while :; do :; done' &
    while :; do sleep 1 & wait $!; done
  logs: {directories: [/var/log/shop]}
"#;

struct Ground {
    real: Real,
    scratch: tempfile::TempDir,
}

impl Ground {
    fn berth_as(&self, kubeconfig: &Path, words: &[&str]) -> Ran {
        self.real.try_berth_as(kubeconfig, words).unwrap()
    }

    fn done(&self, words: &[&str]) -> String {
        self.real.berth(words).unwrap().out
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
    let Some(mut real) = Real::start().unwrap() else {
        eprintln!("skipped: a real Kubernetes with a node (KUBEBUILDER_ASSETS)");
        return;
    };
    real.join().unwrap();
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
    what_containers_do_is_counted(&ground);
    the_console_knows_too(&ground);
    both_nodes_are_told_of_as_one(&ground);
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
    for part in ["dns", "balancer", "scheduler"] {
        words.extend(["--without", part]);
    }
    ground.done(&words);
    ground.kubectl(&["cordon", "node1"]);
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

/// The App's containers, as `berth top` tells of them to the user of `kubeconfig`.
fn top(ground: &Ground, kubeconfig: &Path) -> Vec<Value> {
    let ran = ground.berth_as(kubeconfig, &["top", "shop", "-o", "json"]);
    serde_json::from_str(&ran.out).unwrap_or_default()
}

fn what_containers_do_is_counted(ground: &Ground) {
    const BLOB: u64 = 8 << 20;
    until("load and I/O are told", PATIENCE, || {
        let rows = top(ground, &ground.real.kubeconfig());
        rows.iter().any(|row| {
            let has_load = row["load"][0].as_f64().is_some_and(|load| load > 0.0);
            let has_written = row["writtenBytes"].as_u64().is_some_and(|bytes| bytes >= BLOB);
            has_load && has_written && row["workingSetBytes"].is_u64()
        })
    })
    .unwrap();
}

/// Whichever collector is asked: each hands on what the other has.
fn both_nodes_are_told_of_as_one(ground: &Ground) {
    ground.kubectl(&["cordon", "node0"]);
    ground.kubectl(&["uncordon", "node1"]);
    let app = ground.file("app.yaml", &APP.replace("replicas: 1", "replicas: 2"));
    ground.done(&["app", "apply", "-f", &app]);
    let mut rows = Vec::new();
    until("a container of each node is told of", PATIENCE, || {
        rows = top(ground, &ground.real.kubeconfig());
        rows.len() == 2 && rows.iter().all(|row| row["load"].is_array())
    })
    .unwrap();
    assert_ne!(rows[0]["node"], rows[1]["node"]);
    let pods: Vec<&str> = rows.iter().filter_map(|row| row["pod"].as_str()).collect();
    until("lines of each node are read", PATIENCE, || {
        let lines = ground.lines();
        pods.iter().all(|pod| lines.contains(&format!("{pod} /var/log/shop/a.log of the volume\n")))
    })
    .unwrap();
    for _ in 0..6 {
        let rows = top(ground, &ground.real.kubeconfig());
        assert!(rows.len() == 2 && rows.iter().all(|row| row["load"].is_array()), "{rows:?}");
        let lines = ground.lines();
        assert!(pods.iter().all(|pod| lines.contains(pod)), "{lines}");
    }
    ground.kubectl(&["uncordon", "node0"]);
    collectors_are_on(ground, r#"{"kubernetes.io/hostname": "node0"}"#);
    until("a node without a collector is named, and the other's are told", PATIENCE, || {
        let ran = ground.berth_as(&ground.real.kubeconfig(), &["top", "shop", "-o", "json"]);
        let rows: Vec<Value> = serde_json::from_str(&ran.out).unwrap_or_default();
        let told = rows.iter().filter(|row| row["load"].is_array()).count();
        ran.err.contains("node node1 tells no load: it has no collector") && told == 1
    })
    .unwrap();
    collectors_are_on(ground, "null");
}

fn collectors_are_on(ground: &Ground, nodes: &str) {
    let patch = format!(r#"{{"spec": {{"template": {{"spec": {{"nodeSelector": {nodes}}}}}}}}}"#);
    let collectors = ["-n", "berth-system", "daemonset/berth-collector"];
    ground.kubectl(&[&["patch", "--type=merge", "-p", &patch], &collectors[..]].concat());
    ground.kubectl(&[&["rollout", "status", "--timeout=120s"], &collectors[..]].concat());
}

/// The same, as the console's page of the App asks for it.
fn the_console_knows_too(ground: &Ground) {
    let add = ["console", "account", "add", "admin", "--group", "berth:admins", "--generate"];
    let inside = ["exec", "-n", "berth-system", "deploy/berth-console", "--", "/berth"];
    let password = ground.kubectl(&[&inside[..], &add].concat());
    let mut forward = Command::new("kubectl")
        .arg("--kubeconfig")
        .arg(ground.real.kubeconfig())
        .args(["port-forward", "-n", "berth-system", "--address=127.0.0.1", "svc/berth-console"])
        .arg(":443")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    // It says more later, and ends when nobody hears it.
    let mut from = BufReader::new(forward.stdout.take().unwrap());
    from.read_line(&mut said).unwrap();
    let address = said.split_whitespace().find(|word| word.starts_with("127.0.0.1:"));
    let url = format!("https://{}", address.unwrap_or_else(|| panic!("{said}")));
    let jar = ground.scratch.path().join("jar").display().to_string();
    let ask = |path: &str, more: &[&str]| {
        let mut command = Command::new("curl");
        command.args(["-sSk", "--max-time", "20", "-b", &jar, "-c", &jar]).args(more);
        let out = command.arg(format!("{url}{path}")).output().unwrap();
        String::from_utf8([out.stdout, out.stderr].concat()).unwrap()
    };
    let who = serde_json::json!({ "name": "admin", "password": password.trim() }).to_string();
    let said = ask("/session", &["-H", "content-type: application/json", "-d", &who]);
    assert!(said.contains("csrf"), "{said}");
    let known = until("the console draws load and I/O", PATIENCE, || {
        let said = ask("/trends?namespace=default&app=shop", &[]);
        let said: Value = serde_json::from_str(&said).unwrap_or_default();
        let points = said["points"].as_array().cloned().unwrap_or_default();
        let mut pods = points.iter().flat_map(|point| point["pods"].as_object()).flatten();
        // Load over one minute, bytes that were written a second: `trends::Values`.
        pods.any(|(_, values)| values[7].is_number() && values[11].is_number())
    });
    forward.kill().unwrap();
    forward.wait().unwrap();
    known.unwrap();
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
    assert!(ran.code != 0 && ran.out.is_empty() && ran.err.contains("may not"), "{}", ran.err);
    bind("default");
    until("who may look at the namespace reads its logs", PATIENCE, || ask().code == 0).unwrap();
    until("and what its containers do, though no node answers", PATIENCE, || {
        let rows = top(ground, Path::new(&ann));
        rows.iter().any(|row| row["load"].is_array() && row["workingSetBytes"].is_null())
    })
    .unwrap();

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
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    let log = |namespace: &str| format!("{place}/{way}/v1/namespaces/{namespace}/apps/shop/log");
    let shown = format!("berth-logs-token: {token}");
    assert_eq!(code(&log("default"), &[&admin, &shown]), "200");
    assert_eq!(code(&log("other"), &[&admin, &shown]), "403");
    assert_eq!(code(&log("default"), &[&admin]), "401");
    let stats = |namespace: &str| format!("{place}/{way}/v1/namespaces/{namespace}/stats?nodes=n");
    assert_eq!(code(&stats("default"), &[&admin, &shown]), "200");
    assert_eq!(code(&stats("other"), &[&admin, &shown]), "403");
    assert_eq!(code(&stats("default"), &[&admin]), "401");
    let others = admin.replace("Authorization: Bearer", "berth-logs-token:");
    assert_eq!(code(&log("default"), &[&admin, &others]), "401", "an administrator's own");
    assert_eq!(code(&format!("{place}/api"), &[&format!("Authorization: Bearer {token}")]), "401");
}
