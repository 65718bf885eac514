//! A real nginx behind what is written for it.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use base64::Engine;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::Instant;

use berth_balancer::l7::Snapshot;
use berth_balancer::nginx::{Options, render};
use berth_balancer::rendered::{Destination, LoadError, Loaded, Rendered, load};

use crate::streams::{SOON, free_port};

/// Whether nginx is there; on CI it has to be.
fn may_run() -> bool {
    if std::process::Command::new("/usr/sbin/nginx").arg("-v").output().is_ok() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "nginx is missing");
    eprintln!("skipped: nginx is missing");
    false
}

fn snapshot(pod: std::net::SocketAddr, secret: Option<Value>) -> Snapshot {
    let path = |text: &str, kind: &str| {
        json!({"path": text, "pathType": kind,
            "backend": {"service": {"name": "a", "port": {"name": "http"}}}})
    };
    let tls = secret.as_ref().map_or(json!([]), |_| json!([{"secretName": "cert"}]));
    let ingress = json!({"metadata": {"name": "web", "namespace": "n"},
        "spec": {"ingressClassName": "berth", "tls": tls, "rules": [
            {"host": "web.example", "http": {"paths": [path("/api", "Prefix"), path("/one", "Exact")]}},
            {"host": "*.wild.example", "http": {"paths": [path("/", "Prefix")]}}]}});
    let service = json!({"metadata": {"name": "a", "namespace": "n"},
        "spec": {"ports": [{"name": "http", "port": 80}]}});
    let slice = json!({"metadata": {"name": "a-1", "namespace": "n",
            "labels": {"kubernetes.io/service-name": "a"}}, "addressType": "IPv4",
        "ports": [{"name": "http", "port": pod.port()}], "endpoints": [{"addresses": [pod.ip()]}]});
    fn object<T: k8s_openapi::serde::de::DeserializeOwned>(value: Value) -> Arc<T> {
        Arc::new(serde_json::from_value(value).unwrap())
    }
    Snapshot {
        ingresses: vec![object(ingress)],
        services: vec![object(service)],
        slices: vec![object(slice)],
        secrets: secret.into_iter().map(object).collect(),
        ..Snapshot::default()
    }
}

/// A server that answers every request with its name.
fn pod(name: &'static str) -> std::net::SocketAddr {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut read = Vec::new();
                let mut byte = [0];
                while stream.read(&mut byte).is_ok_and(|count| count == 1) {
                    read.push(byte[0]);
                    if read.ends_with(b"\r\n\r\n") {
                        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{name}");
                        let _ = stream.write_all(answer.as_bytes());
                        read.clear();
                    }
                }
            });
        }
    });
    address
}

/// Status and body.
async fn get(port: u16, host: &str, path: &str) -> String {
    let url = format!("http://127.0.0.1:{port}{path}");
    let host = format!("Host: {host}");
    let arguments = ["-s", "-m", "5", "-w", " %{http_code}", "-H", &host, &url];
    let done = Command::new("curl").args(arguments).output().await.unwrap();
    String::from_utf8(done.stdout).unwrap()
}

/// The same over TLS, whoever signed what is shown.
async fn secure(port: u16, host: &str) -> String {
    let (url, at) = (format!("https://{host}:{port}/api"), format!("{host}:{port}:127.0.0.1"));
    let arguments = ["-sk", "-m", "5", "-w", " %{http_code}", "--resolve", &at, &url];
    let done = Command::new("curl").args(arguments).output().await.unwrap();
    String::from_utf8(done.stdout).unwrap()
}

async fn until(port: u16, path: &str, expected: &str) {
    let started = Instant::now();
    loop {
        let answer = get(port, "web.example", path).await;
        if answer == expected {
            return;
        }
        assert!(started.elapsed() < SOON, "{path}: {answer:?}, not {expected:?}");
    }
}

fn destination(dir: &Path, pid: &Path) -> Destination {
    Destination {
        file: dir.join("nginx.conf"),
        check: ["nginx", "-t", "-q", "-c", "{}"].map(str::to_owned).to_vec(),
        pid: Some(pid.to_owned()),
        program: "nginx",
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_takes_what_is_written_and_follows_endpoints() {
    if !may_run() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (pod("a"), pod("b"));
    let pid = dir.path().join("pid");
    let options = Options {
        class: "berth".into(),
        http: free_port(),
        https: free_port(),
        whole: true,
        pid: pid.display().to_string(),
        file: dir.path().join("nginx.conf"),
        connections: 64,
    };
    let to = destination(dir.path(), &pid);
    let rendered = render(&snapshot(a, None), &options);
    assert_eq!(load(&rendered, &to).await.unwrap(), Loaded::Written);
    let mut nginx = Command::new("/usr/sbin/nginx")
        .args(["-g", "daemon off;", "-c", &to.file.display().to_string()])
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let port = options.http;
    until(port, "/api", "a 200").await;
    for (host, path, expected) in [
        ("web.example", "/api/x", "a 200"),
        ("web.example", "/one", "a 200"),
        ("web.example", "/apix", "no Ingress rule\n 404"),
        ("web.example", "/one/x", "no Ingress rule\n 404"),
        ("x.wild.example", "/any", "a 200"),
        ("other.example", "/api", "no Ingress rule\n 404"),
    ] {
        assert_eq!(get(port, host, path).await, expected, "{host}{path}");
    }
    // An endpoint changes.
    assert_eq!(load(&render(&snapshot(b, None), &options), &to).await.unwrap(), Loaded::Told);
    until(port, "/api", "b 200").await;
    // A certificate that is none costs its host TLS, and nobody anything else.
    let rubbish = json!({"metadata": {"name": "cert", "namespace": "n"}, "type": "kubernetes.io/tls",
        "data": {"tls.crt": "cnViYmlzaA==", "tls.key": "cnViYmlzaA=="}});
    let rendered = render(&snapshot(a, Some(rubbish)), &options);
    let [why, ..] = &rendered.refused[..] else { panic!("nothing is refused") };
    assert!(why.starts_with("Ingress n/web: the Secret \"cert\": "), "{why}");
    assert_eq!(load(&rendered, &to).await.unwrap(), Loaded::Told);
    until(port, "/api", "a 200").await;
    // One that is: it is shown for its host, and no other host is answered with it.
    let made = rcgen::generate_simple_self_signed(["web.example".to_owned()]).unwrap();
    let base64 = |text: String| base64::prelude::BASE64_STANDARD.encode(text);
    let good = json!({"metadata": {"name": "cert", "namespace": "n"}, "type": "kubernetes.io/tls",
        "data": {"tls.crt": base64(made.cert.pem()),
            "tls.key": base64(made.signing_key.serialize_pem())}});
    let rendered = render(&snapshot(b, Some(good)), &options);
    assert_eq!(rendered.refused, [] as [String; 0]);
    assert_eq!(load(&rendered, &to).await.unwrap(), Loaded::Told);
    let started = Instant::now();
    while secure(options.https, "web.example").await != "b 200" {
        assert!(started.elapsed() < SOON, "{}", secure(options.https, "web.example").await);
    }
    assert_eq!(secure(options.https, "other.example").await, " 000");
    until(port, "/api", "b 200").await;
    // What nginx itself refuses is never in force.
    let broken = Rendered { text: "nonsense".into(), ..rendered };
    let refused = load(&broken, &to).await.unwrap_err();
    assert!(matches!(refused, LoadError::Refused { .. }), "{refused}");
    until(port, "/api", "b 200").await;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(nginx.id().unwrap()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(nginx.wait().await.unwrap().success());
}
