//! The access log as its reader gets it: the lines that a process writes to its standard output.

use super::*;

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

/// A balancer process with this access log.
struct Logging {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    http: SocketAddr,
}

/// What is asked for last: it fails, so every log but `off` has it.
const LAST: &str = "/empty/last";

impl Logging {
    async fn start(which: &str, pod: &Pod, dir: &std::path::Path) -> Self {
        let routes = dir.join(format!("{which}.json"));
        let (program, http) = alone(pod, &routes).await;
        let mut process = Command::new(&program)
            .args([&http.to_string(), &routes.display().to_string(), which])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let health = SocketAddr::new(http.ip(), http.port() + 2);
        until("it is healthy", async || {
            let answer = Client::new(health).get("health", "/").await;
            answer.is_ok_and(|answer| answer.status == 200)
        })
        .await;
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, lines, http }
    }

    /// Every line until the last request's.
    async fn all(mut self) -> Vec<Value> {
        let answer = Client::new(self.http).get("web.example", LAST).await.unwrap();
        assert_eq!(answer.status, 503);
        let mut found = Vec::new();
        let reading = async {
            loop {
                let line = self.lines.next_line().await.unwrap().expect("the last line is written");
                let line: Value = serde_json::from_str(&line).unwrap();
                if line["path"] == LAST {
                    return;
                }
                found.push(line);
            }
        };
        tokio::time::timeout(SOON, reading).await.unwrap();
        self.process.kill().await.unwrap();
        found
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_says_what_became_of_a_request() {
    let (dir, pod) = (tempfile::tempdir().unwrap(), Pod::start("one").await);
    let logging = Logging::start("1", &pod, dir.path()).await;
    let mut client = Client::new(logging.http);
    let named = [("X-Request-Id", "id-1"), ("User-Agent", "reader \"1\"")];
    // By the short way, by Pingora's, and to nobody.
    client.request("GET", "web.example", "/a?secret=1", &named, "").await.unwrap();
    client.request("POST", "web.example", "/length", &named, "12345").await.unwrap();
    client.request("GET", "no.example", "/b", &named, "").await.unwrap();
    let url = format!("https://tls.example:{}/c", logging.http.port() + 1);
    let resolve = format!("tls.example:{}:127.0.0.1", logging.http.port() + 1);
    curl(&["--http2", "--insecure", "--resolve", &resolve, &url]).await;
    let lines = logging.all().await;
    assert_eq!(lines.len(), 4, "{lines:#?}");
    let to_pod = |method: &str, path: &str, protocol: &str, received: u64, bytes: u64| {
        json!({"method": method, "path": path, "protocol": protocol, "status": 200,
            "received": received, "bytes": bytes, "tries": 1, "backend": "n/web",
            "endpoint": pod.address.to_string(), "client": "127.0.0.1"})
    };
    let mut expected = [
        to_pod("GET", "/a", "HTTP/1.1", 0, 3),
        to_pod("POST", "/length", "HTTP/1.1", 5, 1),
        json!({"method": "GET", "path": "/b", "status": 404, "host": "no.example", "tries": 0}),
        to_pod("GET", "/c", "HTTP/2", 0, 3),
    ];
    for said in &mut expected[..3] {
        said["id"] = json!("id-1");
        said["user_agent"] = json!("reader \"1\"");
        said["scheme"] = json!("http");
    }
    expected[3]["scheme"] = json!("https");
    expected[3]["host"] = json!("tls.example");
    for (line, said) in lines.iter().zip(&expected) {
        for (key, value) in said.as_object().unwrap() {
            assert_eq!(&line[key], value, "{key} in {line:#}");
        }
        let time = line["time"].as_str().unwrap().parse::<k8s_openapi::jiff::Timestamp>();
        let age = k8s_openapi::jiff::Timestamp::now().duration_since(time.unwrap());
        assert!((0..60).contains(&age.as_secs()), "{line:#}");
        let peer = line["peer"].as_str().unwrap().parse::<SocketAddr>().unwrap();
        assert_eq!(peer.ip(), Ipv4Addr::LOCALHOST);
        assert!(line["ms"].as_f64().is_some_and(|ms| ms > 0.0 && ms < 20_000.0), "{line:#}");
        assert!(!line.to_string().contains("secret"), "queries are not written: {line:#}");
    }
    assert!(lines[0]["route"].as_str().unwrap().contains("n/web"), "{}", lines[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_went_well_one_in_so_many_is_written_and_failures_always() {
    let dir = tempfile::tempdir().unwrap();
    for (which, expected) in [("10", (4, 4)), ("errors", (0, 4)), ("1", (40, 4))] {
        let pod = Pod::start("one").await;
        let logging = Logging::start(which, &pod, dir.path()).await;
        let mut client = Client::new(logging.http);
        for count in 0..40 {
            // By both ways.
            let method = BOTH[count % 2];
            let body = if method == "POST" { "x" } else { "" };
            let answer = client.request(method, "web.example", "/", &[], body).await.unwrap();
            assert_eq!(answer.status, 200);
        }
        for method in [BOTH, BOTH].concat() {
            let answer = client.request(method, "web.example", "/empty", &[], "").await.unwrap();
            assert_eq!(answer.status, 503);
        }
        let lines = logging.all().await;
        let with = |status: u64| lines.iter().filter(|line| line["status"] == status).count();
        assert_eq!((with(200), with(503)), expected, "{which}: {lines:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_when_it_is_off() {
    let (dir, pod) = (tempfile::tempdir().unwrap(), Pod::start("one").await);
    let mut logging = Logging::start("off", &pod, dir.path()).await;
    let mut client = Client::new(logging.http);
    for path in ["/", "/empty"] {
        client.get("web.example", path).await.unwrap();
    }
    logging.process.kill().await.unwrap();
    let rest = tokio::time::timeout(SOON, logging.lines.next_line()).await.unwrap();
    assert_eq!(rest.unwrap(), None);
}
