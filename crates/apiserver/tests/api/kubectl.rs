//! Real kubectl over TLS.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use crate::server::{Server, eventually};

fn has_kubectl() -> bool {
    if Command::new("kubectl").args(["version", "--client"]).output().is_ok() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "kubectl is not installed");
    eprintln!("skipped: kubectl is not installed");
    false
}

/// Runs kubectl with text on its standard input; its standard output when it succeeds.
async fn kubectl(server: &Server, args: &[&str], input: &str) -> Result<String, String> {
    let kubeconfig = server.path("kubeconfig");
    let cache = server.path("kubectl-cache");
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    let input = input.to_owned();
    let run = move || -> Output {
        let mut child = Command::new("kubectl")
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .arg("--cache-dir")
            .arg(cache)
            .arg("--request-timeout=20s")
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: c, image: nginx, ports: [{containerPort: 80}]}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_does_what_people_do_with_it() {
    if !has_kubectl() {
        return;
    }
    let server = Server::start().await;
    let run = |args: &'static str, input: &'static str| {
        let server = &server;
        async move { kubectl(server, &args.split(' ').collect::<Vec<_>>(), input).await }
    };
    let namespaces = run("get namespaces -o name", "").await.unwrap();
    assert!(namespaces.contains("namespace/kube-system"), "{namespaces}");
    assert_eq!(run("apply -f -", DEPLOYMENT).await.unwrap(), "deployment.apps/web created");
    assert_eq!(run("apply -f -", DEPLOYMENT).await.unwrap(), "deployment.apps/web unchanged");
    let table = run("get deployments", "").await.unwrap();
    assert!(table.contains("READY") && table.contains("0/2"), "{table}");
    run("scale deployment web --replicas=5", "").await.unwrap();
    let replicas = run("get deployment web -o jsonpath={.spec.replicas}", "").await.unwrap();
    assert_eq!(replicas, "5");
    run("set image deployment/web c=other", "").await.unwrap();
    run("label deployment web a=b", "").await.unwrap();
    let image = "get deploy -l a=b -o jsonpath={.items[0].spec.template.spec.containers[0].image}";
    assert_eq!(run(image, "").await.unwrap(), "other");
    // Typed clients: these send protobuf where kubectl is new enough.
    run("create configmap settings --from-literal=key=value", "").await.unwrap();
    let value = run("get configmap settings -o jsonpath={.data.key}", "").await.unwrap();
    assert_eq!(value, "value");
    run("create deployment small --image=x --replicas=0", "").await.unwrap();
    let small = run("get deployment small -o jsonpath={.spec.replicas}", "").await.unwrap();
    assert_eq!(small, "0");
    run("create secret generic s --from-literal=a=b", "").await.unwrap();
    let token = run("create token default", "").await.unwrap();
    assert_eq!(token.split('.').count(), 3);
    assert_eq!(run("auth can-i delete nodes", "").await.unwrap(), "yes");
    let no = run("auth can-i delete nodes --as bob", "").await;
    assert!(no.is_err());
    run(
        "apply --server-side -f -",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ssa}\ndata: {a: b}\n",
    )
    .await
    .unwrap();
    let wrong = DEPLOYMENT.replace("replicas: 2", "replcas: 2");
    let wrong = kubectl(&server, &["apply", "-f", "-"], &wrong).await.unwrap_err();
    assert!(wrong.contains("unknown field \"spec.replcas\""), "{wrong}");
    let explained = run("explain deployment.spec.replicas", "").await.unwrap();
    assert!(explained.contains("integer"), "{explained}");
    run("delete deployment web", "").await.unwrap();
    let gone = run("get deployment web", "").await.unwrap_err();
    assert!(gone.contains("NotFound"), "{gone}");
    server.stop().await;
}

const DEFINITION: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, kind: Widget, shortNames: [wd]}
  versions:
  - name: v1
    served: true
    storage: true
    additionalPrinterColumns: [{name: Size, type: integer, jsonPath: .spec.size}]
    schema:
      openAPIV3Schema:
        type: object
        properties: {spec: {type: object, properties: {size: {type: integer}}}}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_uses_custom_resources_like_any_other() {
    if !has_kubectl() {
        return;
    }
    let server = Server::start().await;
    kubectl(&server, &["apply", "-f", "-"], DEFINITION).await.unwrap();
    let wait = ["wait", "--for=condition=Established", "crd/widgets.example.com", "--timeout=10s"];
    kubectl(&server, &wait, "").await.unwrap();
    let widget = "apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: w}\nspec: {size: 3}\n";
    eventually("applied", async || kubectl(&server, &["apply", "-f", "-"], widget).await.is_ok())
        .await;
    let table = kubectl(&server, &["get", "wd"], "").await.unwrap();
    assert!(table.contains("SIZE") && table.contains('3'), "{table}");
    kubectl(&server, &["delete", "crd", "widgets.example.com"], "").await.unwrap();
    server.stop().await;
}
