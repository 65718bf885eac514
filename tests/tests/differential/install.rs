//! An installation on a real API server with its controllers, but without nodes: it comes, is
//! brought up to date, is refused to who may not, and goes without a trace.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use berth_tests::{Kubernetes, root, until};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(120);
const APP: &str = "apiVersion: berth.dev/v1\nkind: App\nmetadata: {name: shop, namespace: default}\n\
                   spec: {image: 'example.com/shop:1', replicas: 2, port: 8080}\n";

struct Ground {
    kubernetes: Kubernetes,
    scratch: tempfile::TempDir,
}

struct Ran {
    ok: bool,
    out: String,
    err: String,
}

fn run(command: &mut Command) -> Ran {
    let ran = command.output().unwrap();
    Ran {
        ok: ran.status.success(),
        out: String::from_utf8_lossy(&ran.stdout).into_owned(),
        err: String::from_utf8_lossy(&ran.stderr).into_owned(),
    }
}

impl Ground {
    fn berth_as(&self, kubeconfig: &Path, words: &[&str]) -> Ran {
        let binary = std::env::var_os("BERTH_BIN")
            .map_or_else(|| root().join("target/release/berth"), Into::into);
        let mut command = Command::new(binary);
        command.arg("--kubeconfig").arg(kubeconfig).args(words);
        run(command.stdin(std::process::Stdio::null()))
    }

    fn berth(&self, words: &[&str]) -> Ran {
        self.berth_as(&self.kubernetes.kubeconfig(), words)
    }

    fn done(&self, words: &[&str]) -> String {
        let ran = self.berth(words);
        assert!(ran.ok, "berth {words:?}: {}{}", ran.out, ran.err);
        ran.out
    }

    fn kubectl(&self, words: &[&str]) -> Ran {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(self.kubernetes.kubeconfig());
        command.arg("--cache-dir").arg(self.scratch.path().join("cache"));
        run(command.args(words).stdin(std::process::Stdio::null()))
    }

    fn apply(&self, text: &str, words: &[&str]) {
        let path = self.scratch.path().join("object.yaml");
        std::fs::write(&path, text).unwrap();
        let path = path.display().to_string();
        let ran = self.kubectl(&[&["apply", "-f", &path], words].concat());
        assert!(ran.ok, "{}", ran.err);
    }

    fn get(&self, words: &[&str]) -> Option<Value> {
        let ran = self.kubectl(&[&["get", "-o", "json"], words].concat());
        ran.ok.then(|| serde_json::from_str(&ran.out).unwrap())
    }

    /// The kinds of everything that carries our label, or is defined by us.
    fn ours(&self) -> Vec<String> {
        let kinds = "deploy,svc,cm,secret,sa,pvc,role,rolebinding,clusterrole,clusterrolebinding,\
                     ingressclass,ns,crd";
        let labelled = ["get", kinds, "-A", "-o", "name", "-l", "berth.dev/installed-by"];
        self.kubectl(&labelled).out.lines().map(str::to_owned).collect()
    }
}

#[test]
fn an_installation_comes_is_brought_up_to_date_and_goes() {
    let Some(mut kubernetes) = Kubernetes::start().unwrap() else {
        // As everything here that needs a Kubernetes which is not ours.
        eprintln!("skipped: an installation needs a real Kubernetes (KUBEBUILDER_ASSETS)");
        return;
    };
    if !kubernetes.with_controllers().unwrap() {
        eprintln!("skipped: an installation needs kube-controller-manager too");
        return;
    }
    let ground = Ground { kubernetes, scratch: tempfile::tempdir().unwrap() };
    it_comes(&ground);
    it_is_brought_up_to_date(&ground);
    who_may_not_is_told_what(&ground);
    it_goes(&ground);
    what_is_rendered_kubectl_applies(&ground);
}

const INSTALL: [&str; 5] = ["install", "--no-wait", "--image", "example.com/berth:1", "-ojson"];

fn it_comes(ground: &Ground) {
    let said: Value = serde_json::from_str(&ground.done(&INSTALL)).unwrap();
    assert_eq!((&said["changed"], &said["unchanged"]), (&json!(0), &json!(0)), "{said}");
    assert_eq!(said["dnsAddress"], "10.43.0.10", "the address that nodes tell pods");
    for (namespace, name) in [
        ("berth-system", "berth-controllers"),
        ("berth-system", "berth-balancer"),
        ("berth-system", "berth-console"),
        ("kube-system", "berth-dns"),
        ("kube-system", "berth-scheduler"),
    ] {
        let found = ground.get(&["deploy", "-n", namespace, name]).expect(name);
        let image = &found["spec"]["template"]["spec"]["containers"][0]["image"];
        assert_eq!(image, "example.com/berth:1");
    }
    // The server takes an App, and the controllers' account may do what they need.
    ground.apply(APP, &[]);
    let account = "--as=system:serviceaccount:berth-system:berth-controllers";
    for (verb, what) in [
        ("create", "deployments.apps"),
        ("patch", "apps.berth.dev/status"),
        ("create", "horizontalpodautoscalers.autoscaling"),
        ("patch", "pods"),
    ] {
        let may = ground.kubectl(&["auth", "can-i", verb, what, account, "-n", "default"]);
        assert_eq!(may.out.trim(), "yes", "{verb} {what}");
    }
    let may = ground.kubectl(&["auth", "can-i", "get", "secrets", account, "-n", "default"]);
    assert_eq!(may.out.trim(), "no");
}

fn it_is_brought_up_to_date(ground: &Ground) {
    // As an older version would have left it: a field, and an object, that this one does not have.
    let old = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": "berth-dns", "namespace": "kube-system",
            "annotations": { "berth.dev/older": "field" } },
    });
    let as_ours = ["--server-side", "--force-conflicts", "--field-manager=berth-install"];
    let text = ground.done(&["install", "--render", "--image", "example.com/berth:1"]);
    let dns = text
        .split("---\n")
        .find(|text| text.contains("kind: Deployment") && text.contains("name: berth-dns"));
    let mut whole: Value = serde_yaml(dns.unwrap());
    whole["metadata"]["annotations"] = old["metadata"]["annotations"].clone();
    ground.apply(&whole.to_string(), &as_ours);
    let gone = json!({ "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "berth-older", "namespace": "berth-system",
            "labels": { "berth.dev/installed-by": "berth-install" } } });
    ground.apply(&gone.to_string(), &as_ours);
    let theirs = ["annotate", "deploy", "-n", "kube-system", "berth-dns", "example.com/of=people"];
    assert!(ground.kubectl(&theirs).ok);

    let said: Value = serde_json::from_str(&ground.done(&INSTALL)).unwrap();
    assert_eq!(said["removed"], json!(["ConfigMap berth-system/berth-older"]));
    assert_eq!((&said["created"], &said["changed"]), (&json!(0), &json!(1)), "{said}");
    let dns = ground.get(&["deploy", "-n", "kube-system", "berth-dns"]).unwrap();
    let notes = &dns["metadata"]["annotations"];
    assert_eq!(notes["berth.dev/older"], Value::Null, "what the version dropped is gone");
    assert_eq!(notes["example.com/of"], "people", "what people added is theirs");
    // A part that is left out goes.
    let less = [&INSTALL[..], &["--without", "scheduler"]].concat();
    let said = ground.done(&less);
    assert!(said.contains("Deployment kube-system/berth-scheduler"), "{said}");
    assert!(ground.get(&["deploy", "-n", "kube-system", "berth-scheduler"]).is_none());
}

fn who_may_not_is_told_what(ground: &Ground) {
    let text = std::fs::read_to_string(ground.kubernetes.kubeconfig()).unwrap();
    let path = ground.scratch.path().join("nobody");
    std::fs::write(&path, text.replace("{token:", "{as: nobody, token:")).unwrap();
    let ran = ground.berth_as(&path, &INSTALL);
    assert!(!ran.ok, "{}", ran.out);
    assert!(ran.err.contains("nobody"), "{}", ran.err);
    let reader = "--clusterrole=view";
    let bind = ["create", "clusterrolebinding", "nobody-views", reader, "--user=nobody"];
    assert!(ground.kubectl(&bind).ok);
    let more = [
        "create",
        "clusterrole",
        "nobody-lists",
        "--verb=get,list",
        "--resource=customresourcedefinitions,storageclasses",
    ];
    assert!(ground.kubectl(&more).ok);
    let bind = [
        "create",
        "clusterrolebinding",
        "nobody-lists",
        "--clusterrole=nobody-lists",
        "--user=nobody",
    ];
    assert!(ground.kubectl(&bind).ok);
    let ran = ground.berth_as(&path, &INSTALL);
    assert!(!ran.ok && ran.err.contains("create deployments.apps in kube-system"), "{}", ran.err);
    assert!(
        ran.err.contains("patch customresourcedefinitions.apiextensions.k8s.io"),
        "{}",
        ran.err
    );
}

fn it_goes(ground: &Ground) {
    let asked = ground.berth(&["uninstall"]);
    assert!(!asked.ok && asked.err.contains("default/shop"), "{}", asked.err);
    ground.done(&["uninstall", "--yes", "--keep-crds"]);
    assert!(ground.get(&["app", "shop"]).is_some(), "people's stay with their definitions");
    let left = ground.ours();
    assert!(left.iter().all(|one| one.starts_with("customresourcedefinition")), "{left:?}");
    ground.done(&INSTALL);
    ground.done(&["uninstall", "--yes"]);
    until("nothing is left", PATIENCE, || ground.ours().is_empty()).unwrap();
    assert!(ground.get(&["ns", "berth-system"]).is_none());
    assert!(ground.get(&["crd", "apps.berth.dev"]).is_none());
    let again = ground.berth(&["uninstall", "--yes"]);
    assert!(again.ok && again.err.contains("nothing of Berth"), "{}", again.err);
}

/// A kustomization is the same installation. Left to do is what it cannot hold: the Secret with the
/// console's keys, and the address of the DNS, which is of the cluster's range.
fn what_is_rendered_kubectl_applies(ground: &Ground) {
    let dir = ground.scratch.path().join("rendered").display().to_string();
    ground.done(&["install", "--render-to", &dir, "--image", "example.com/berth:1"]);
    let words = ["apply", "--server-side", "--field-manager=berth-install", "-k", &dir];
    let ran = ground.kubectl(&words);
    assert!(ran.ok, "{}", ran.err);
    for (kind, name) in [("deployment", "berth-controllers"), ("crd", "apps.berth.dev")] {
        assert!(ran.out.contains(name), "{kind} {name}: {}", ran.out);
    }
    let said: Value = serde_json::from_str(&ground.done(&INSTALL)).unwrap();
    assert_eq!((&said["created"], &said["changed"]), (&json!(1), &json!(1)), "{said}");
    ground.done(&["uninstall", "--yes"]);
    until("nothing is left", PATIENCE, || ground.ours().is_empty()).unwrap();
}

fn serde_yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}
